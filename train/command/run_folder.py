"""A run's folder: held by one process, never overwritten, written whole or not, and it remembers how it was made."""

from __future__ import annotations

import errno
import itertools
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from policies import files
from policies.files import read_json, show
from train.command.config import to_plain, to_yaml
from train.command.errors import UserError
from train.command.escaping import for_shell, printable
from train.command.files import write_atomic, write_json
from train.command.interrupt import Interrupted, interruption
from train.command.lock import FREE, LOCK, held
from train.command.provenance import command_line, launcher, redact, versions
from train.command.run_files import RunFiles

_NAMES = RunFiles(Path())

START = (
    *(file.name for file in (_NAMES.command, _NAMES.versions, _NAMES.config, _NAMES.policies, _NAMES.wandb_id)),
    *(LOCK, "wandb"),
)
"""What a run's folder holds before there is a result."""


FULL, READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), (errno.EROFS, errno.EACCES, errno.EPERM)
"""Failures to write that the user can put right."""


# Opening.


@contextmanager
def open_run(folder: Path, config: Any, resume: bool | None = False, free: Collection[str] = ()) -> Iterator[None]:
    """Hold a run's folder while it is written, and record configuration, command line and versions in it.

    A start that leaves no result gives the folder back as it was, so that the next start finds it free. Where a run
    ends early, the message says how to go on.

    Args:
        folder: the run's; made if it is missing.
        config: the configuration, a dataclass or what `to_plain` made of one.
        resume: whether to go on with the run that the folder holds; None where the program can't, and what it made
            before a failure is of no use.
        free: settings in which a resumed run may differ, beyond `FREE`.

    Raises:
        UserError: if the folder is taken, doesn't hold the run to resume, or can't be written; also if its disk is full
            later on.
    """
    settings = to_plain(config) | ({} if resume is None else {"resume": False})
    make: Any = type(config)
    usual = to_plain(make()) if is_dataclass(config) else {}
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with writing(folder, resume), held(folder):
            before = _names(folder)
            try:
                _check(folder, settings, resume, free, usual)
                _record_start(folder, settings)
                yield
            except BaseException as error:
                _leave(folder, interruption(error) or error, before, resume)
                raise
    finally:
        for place in missing:
            with suppress(OSError):
                place.rmdir()


def _record_start(folder: Path, settings: Mapping[str, Any]) -> None:
    if not has_result(folder):
        write_atomic(RunFiles(folder).command, redact(command_line()) + "\n")
        RunFiles(folder).versions.unlink(missing_ok=True)
        for file in (RunFiles(folder).wandb_id, RunFiles(folder).policies):
            # Of a start that left no result.
            file.unlink(missing_ok=True)
    _record_versions(RunFiles(folder).versions)
    # Last: a folder with a configuration is a run.
    write_atomic(RunFiles(folder).config, to_yaml(settings))


def _record_versions(file: Path) -> None:
    """Add a start to the history: when, by which command, and what it ran on where that is not as at the first."""
    now = versions()
    try:
        first = read_json(file)
        starts = list(first.pop("starts", []))
    except (OSError, ValueError, AttributeError, TypeError):
        first, starts = now, []
    changed = {name: value for name, value in now.items() if first.get(name) != value}
    at = datetime.now().astimezone().isoformat(timespec="seconds")
    write_json(file, {**first, "starts": [*starts, {"at": at, "command": redact(command_line()), **changed}]})


def _leave(folder: Path, error: BaseException, before: Collection[str], resume: bool | None) -> None:
    """Clear what a failed start has made, and say of an interrupted run what there is and how to go on."""
    was_used = _has_result(before)
    if not was_used and (resume is None or not has_result(folder)):
        for name in _names(folder) - {LOCK} - (set(before) - set(START)):
            place = folder / name
            if place.is_dir():
                # A folder of W&B that was there before is not ours.
                if name not in before:
                    shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
        if isinstance(error, Interrupted):
            error.saved = error.saved or "there was nothing to save yet"
    elif isinstance(error, Interrupted):
        error.saved = error.saved or f"what was finished is in {folder}"
        error.command = error.command or command_line("--resume")


@contextmanager
def writing(folder: Path, resume: bool | None = None) -> Iterator[None]:
    """Turn a full disk, and a folder that can't be written, into one sentence.

    Args:
        folder: what the command calls ``out``.
        resume: None where the same command goes on, or begins again; else ``--resume`` does.

    Raises:
        UserError: that says what to do.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out is {str(folder)!r}, which is a file: choose another --out")
    try:
        yield
    except OSError as error:
        place = repr(str(error.filename2 or error.filename or folder))
        # A start that left nothing has given the folder back.
        again = command_line("--resume") if resume is not None and has_result(folder) else command_line()
        if error.errno in FULL:
            raise UserError(f"{error.strerror} ({place}): make room, then go on with: {again}") from error
        if error.errno in READ_ONLY:
            raise UserError(f"{error.strerror} ({place}): make it writable, or choose another --out") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"out is {str(folder)!r}, which lies in a file: choose another --out") from error
        raise


def _check(
    folder: Path, settings: Mapping[str, Any], resume: bool | None, free: Collection[str], usual: Mapping[str, Any]
) -> None:
    """Refuse a folder that is taken, or that doesn't hold the run to resume."""
    has_run = RunFiles(folder).config.is_file()
    other = elsewhere(folder)
    links = sorted(name for name in _names(folder) if (folder / name).is_symlink() and not (folder / name).is_dir())
    if links:
        raise UserError(
            f"out is {str(folder)!r}, whose {printable(links[0])} is a link to another file, which would be written: "
            f"delete it, or {other}"
        )
    if not has_result(folder):
        if resume and not has_run:
            raise UserError(f"out is {str(folder)!r}, which holds no run to resume: leave out --resume")
        return
    if not has_run or resume is None:
        raise UserError(f"out is {str(folder)!r}, which is not empty: {other}")
    kept = read_settings(folder)
    if len(kept.keys() ^ settings.keys()) > len(kept.keys() & settings.keys()):
        raise UserError(f"out is {str(folder)!r}, which holds a run of another command: {other}")
    changed = differences(kept, settings, (*FREE, *free), usual)
    if not changed:
        if not resume:
            again = command_line("--resume")
            raise UserError(
                f"out is {str(folder)!r}, which is not empty: go on with the run that it holds by: {again}; or {other}"
            )
        return
    message = f"out is {str(folder)!r}, whose config.yaml differs from this configuration ({word(changed)})"
    # A setting that this program doesn't have: it can't go on with that run whatever is said.
    if any(now is MISSING for _, now in changed.values()):
        raise UserError(f"{message}: {other}")
    own = [*launcher(), sys.argv[0], "--config", str(RunFiles(folder).config), "--out", str(folder), "--resume"]
    raise UserError(f"{message}: go on with that run by: {for_shell(*own)}; or {other}")


def refuse_used(out: Path) -> None:
    """Refuse a folder for results that holds something already.

    Raises:
        UserError: if it does.
    """
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"out is {str(out)!r}, which is not empty: {elsewhere(out)}")


def has_result(folder: Path) -> bool:
    """Tell whether a folder holds anything beyond what a start leaves."""
    return _has_result(_names(folder))


def _names(folder: Path) -> set[str]:
    return {place.name for place in folder.iterdir()} if folder.is_dir() else set()


def _has_result(names: Collection[str]) -> bool:
    found = {name.removesuffix(".tmp") for name in names} - {LOCK}
    # Without its command line, what is there is not of a start: a configuration of the user's own, for example.
    return bool(found - set(START)) or bool(found and _NAMES.command.name not in found)


def elsewhere(folder: Path) -> str:
    """Say to take the folder beside another with the first number that is free."""
    free = next(place for n in itertools.count(2) if not (place := folder.with_name(f"{folder.name}-{n}")).exists())
    return f"choose another folder, as in --out {for_shell(str(free))}"


# Comparing configurations.


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()
"""In place of a setting that a configuration doesn't have."""


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], free: Collection[str] = (), usual: Mapping[str, Any] | None = None
) -> dict[str, tuple[Any, Any]]:
    """Return the settings of a configuration that another one has otherwise, as pairs by dotted name.

    A run of a version that didn't have a setting did what is usual.

    >>> differences({"seed": 1, "env": {"alpha": 2.0, "tasks": []}}, {"seed": 1, "env": {"alpha": 3.0, "tasks": []}})
    {'env.alpha': (2.0, 3.0)}

    Args:
        old: nested, as `to_plain` makes it.
        new: likewise.
        free: settings, or sections, to leave out.
        usual: what settings are by default, nested likewise; those that neither this nor the old one has are left out.
    """
    found: dict[str, tuple[Any, Any]] = {}
    default = usual or {}
    for name, was in {**{name: default[name] for name in new if name in default}, **old}.items():
        if name in free:
            continue
        now = new.get(name, MISSING)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            prefix = f"{name}."
            inner = [other.removeprefix(prefix) for other in free if other.startswith(prefix)]
            own = default.get(name) or {}
            found |= {prefix + key: pair for key, pair in differences(was, now, inner, own).items()}
        elif was != now:
            found[name] = was, now
    return found


def word(changed: Mapping[str, tuple[Any, Any]], most: int = 3) -> str:
    """Write `differences` as a clause.

    >>> word({"seed": (1, 2), "env.alpha": (8.0, 4.0)}, most=1)
    'seed was 1, now 2, and 1 more'
    """
    shown = [f"{name} was {show(was)}, now {show(now)}" for name, (was, now) in list(changed.items())[:most]]
    return ", ".join(shown) + (f", and {len(changed) - most} more" if len(changed) > most else "")


def read_settings(folder: Path) -> dict[str, Any]:
    """Read a run's configuration.

    Raises:
        UserError: if it can't be read.
    """
    file = RunFiles(folder).config
    try:
        return files.read_settings(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{str(file)!r} can't be read ({error}): choose another --out") from error
