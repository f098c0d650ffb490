"""What every entry point shares: configuration from YAML and the command line."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import auto_cli, set_parsing_settings

from train.model_files import translate_model_files

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"

ConfigT = TypeVar("ConfigT")


def parse(config_class: type[ConfigT], default_file: str | None = None, argv: Sequence[str] | None = None) -> ConfigT:
    """Read a configuration: dataclass defaults, then `default_file`, then ``--config``, then the other flags.

    A file may also be one of `train.model_files`. Unknown keys and flags are errors, and the string under each field is
    its ``--help`` text.

    Args:
        config_class: a dataclass, possibly nested.
        default_file: a file of `configs/` to start from.
        argv: the command line, without the program; None takes the process's.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    words = _files_first(list(sys.argv[1:] if argv is None else argv))
    words = translate_model_files(config_class, words)
    flags = _flags(config_class)
    words = _set_switches(words, {flag for flag, kind in flags.items() if kind is bool})
    lists = {flag: get_args(kind)[0] for flag, kind in flags.items() if get_origin(kind) in (list, tuple)}
    words = _gather_lists(_singular_to_plural(words, lists), lists)
    files = [str(CONFIGS / default_file)] if default_file else []
    config: ConfigT = auto_cli(config_class, args=words, default_config_files=files)
    return config


def _files_first(words: list[str]) -> list[str]:
    """Move ``--config FILE`` to the front: jsonargparse lets what comes last win, and a flag should beat a file.

    >>> _files_first(["--seed", "3", "--config", "a.yaml"])
    ['--config', 'a.yaml', '--seed', '3']
    """
    files: list[str] = []
    rest: list[str] = []
    for i, word in enumerate(words):
        is_file = word == "--config" or word.startswith("--config=") or (i > 0 and words[i - 1] == "--config")
        (files if is_file else rest).append(word)
    return files + rest


def _flags(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Return the flags of a configuration's fields, nested ones included, with their types."""
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(config_class).items():
        found |= _flags(kind, f"{prefix}{name}.") if is_dataclass(kind) else {f"--{prefix}{name}": kind}  # type: ignore[arg-type]
    return found


def _set_switches(words: list[str], flags: Collection[str]) -> list[str]:
    """Let a flag that is true need no value, and be written with hyphens; jsonargparse wants ``--dry_run true``.

    >>> _set_switches(["--dry-run", "--out", "a", "--quick", "false", "--resume"], {"--dry_run", "--quick", "--resume"})
    ['--dry_run=true', '--out', 'a', '--quick', 'false', '--resume=true']
    """
    found = []
    for word, following in itertools.zip_longest(words, words[1:], fillvalue="--"):
        flag = word.replace("-", "_").replace("__", "--", 1)
        found.append(f"{flag}=true" if flag in flags and following.startswith("--") else word)
    return found


def _singular_to_plural(words: list[str], flags: Mapping[str, Any]) -> list[str]:
    """Let one task be given as ``--task``, as every list field whose name ends in s is written one item a flag.

    >>> _singular_to_plural(["--task", "copy", "--task=add"], {"--tasks": str})
    ['--tasks', 'copy', '--tasks=add']
    """
    plurals = {flag[:-1]: flag for flag in flags if flag.endswith("s")}
    split = [word.partition("=") for word in words]
    return [plurals.get(flag, flag) + equals + value for flag, equals, value in split]


def _gather_lists(words: list[str], flags: Mapping[str, Any]) -> list[str]:
    """Let a list be written one item a flag; jsonargparse wants ``--policy '[a, b]'``.

    A list in brackets replaces what stands before it.

    >>> _gather_lists(["--policy", "a", "--seed", "3", "--policy=b"], {"--policy": str})
    ['--seed', '3', '--policy=["a", "b"]']
    """
    items: dict[str, list[Any]] = {}
    rest: list[str] = []
    pending = iter(words)
    for word in pending:
        flag, equals, value = word.partition("=")
        if flag not in flags:
            rest.append(word)
            continue
        value = value if equals else next(pending, "")
        if value.startswith("["):
            items[flag] = list(yaml.safe_load(value))
        else:
            items.setdefault(flag, []).append(value if flags[flag] is str else yaml.safe_load(value))
    for flag, values in items.items():
        rest.append(f"{flag}={json.dumps([str(v) for v in values] if flags[flag] is str else values)}")
    return rest


def to_plain(config: Any) -> Any:
    """Turn a configuration into what YAML and JSON can hold."""
    if is_dataclass(config) and not isinstance(config, type):
        return to_plain(asdict(config))
    if isinstance(config, dict):
        return {key: to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple | set | frozenset):
        return [to_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def to_yaml(config: Any) -> str:
    """Write a configuration as the YAML that `parse` reads."""
    text: str = yaml.safe_dump(to_plain(config), sort_keys=False)
    return text
