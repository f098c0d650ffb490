"""What an evaluation's folder has been asked to evaluate so far, so that more can be added to it.

A learned policy's name in the records says which folder it is from only where there are several; so when a policy is
added, the records of others may change their names. And a folder may hold another policy than it did: its records are
then of no policy that there is, and go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from policies.base import Decision
from policies.files import check, parse, read_json
from train.command.errors import UserError
from train.command.files import write_json
from train.command.run_files import RunFiles
from train.evaluation.records import Key, Outcomes, Record, key_of, read_outcomes, read_records, write_outcomes

EntryT = TypeVar("EntryT", Record, Outcomes)


@dataclass(frozen=True)
class Asked:
    """A policy at one block length.

    Attributes:
        policy: a rule's text or a policy's folder, as the command line has it.
        name: what the records call it.
        decision: of a learned policy.
        block_length: of the decoding.
        digest: of the policy's files; empty for a rule.
    """

    policy: str
    name: str
    decision: Decision
    block_length: int
    digest: str = ""

    def named(self, suffix: str) -> Key:
        """Return what tells its records apart.

        Args:
            suffix: of the records' names, beyond `name`.
        """
        return self.name + suffix, self.decision, self.block_length

    @property
    def what(self) -> Key:
        """What stays the same whatever it is called."""
        return self.policy, self.decision, self.block_length


def digest(folder: Path) -> str:
    """Return a hash of a policy's configuration and weights."""
    # Sorted, as a folder lists its files in no certain order.
    files = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def read_asked(folder: Path) -> list[Asked]:
    """Read what a folder was asked for; nothing if it is new.

    Raises:
        UserError: if it can't be read.
    """
    file = RunFiles(folder).policies
    if not file.is_file():
        return []
    try:
        return [parse(Asked, entry, f"policy {i}") for i, entry in enumerate(check(list[Any], read_json(file)))]
    except (OSError, ValueError) as error:
        raise UserError(f"{str(file)!r} can't be read ({error}): choose another --out") from error


def update(folder: Path, before: Sequence[Asked], now: Sequence[Asked], suffix: str) -> None:
    """Give records the names of today, drop those of policies that have changed, and note what is asked.

    Args:
        folder: of the evaluation.
        before: of `read_asked`.
        now: everything that the folder is asked for, also what it was asked before.
        suffix: of the records' names, beyond `Asked.name`.
    """
    today = {one.what: one for one in now}
    names: dict[Key, str | None] = {}
    for one in before:
        new = today.get(one.what)
        if new is not None and new != one:
            # Another digest is another policy, whatever its folder is called.
            names[one.named(suffix)] = new.name + suffix if new.digest == one.digest else None
    file = RunFiles(folder).evaluation
    if names and file.is_file():
        outcomes = read_outcomes(file).values()
        write_outcomes(RunFiles(folder).outcomes, _renamed(outcomes, names))
        write_json(file, _renamed(read_records(file), names))
    # Last: killed before it, the next start does the same renaming again.
    write_json(RunFiles(folder).policies, [asdict(one) for one in now])


def _renamed(entries: Iterable[EntryT], names: Mapping[Key, str | None]) -> list[EntryT]:
    """Return entries under their new names, without those whose new name is None."""
    found = []
    for entry in entries:
        name = names.get(key_of(entry), entry["policy"])
        if name is not None:
            entry["policy"] = name
            found.append(entry)
    return found
