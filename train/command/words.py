"""Words of a command line as values of fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from train.command.config_values import (
    ConfigError,
    Given,
    item_kind,
    nearest_field,
    section_of,
    shorten,
    word_node,
)
from train.command.nodes import add_item, flags_of, gather_section, sections_of


def read_words(config_class: Any, words: Sequence[str], positional: str | None) -> tuple[list[str], dict[str, Given]]:
    """Take a command line apart.

    Returns:
        The files of ``--config``, and what the other flags give, by the fields' dotted names.
    """
    kinds, sections = flags_of(config_class), sections_of(config_class)
    plurals = {path[:-1]: path for path in kinds if path.endswith("s") and item_kind(kinds[path]) is not None}
    files: list[str] = []
    found: dict[str, Given] = {}
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if not word.startswith("--") or word == "--":
            if positional is None:
                raise ConfigError(_stray(word, words[: i - 1]))
            if item_kind(kinds[positional]) is not None:
                add_item(found, positional, kinds[positional], word, is_flagged=False)
            elif positional in found:
                raise ConfigError(_stray(word, words[: i - 1]))
            else:
                found[positional] = Given(word_node(kinds[positional], word, positional))
            continue
        flag, has_value, value = word.partition("=")
        path = flag[2:].replace("-", "_")
        path = path if path in kinds else plurals.get(path, path)
        if path not in kinds and path not in sections and path != "config":
            known = {**kinds, **sections, **plurals, "config": str, "help": str}
            elsewhere = getattr(config_class, "ELSEWHERE", {}).get(path.partition(".")[0])
            hint = _hint(path, known, sections) if elsewhere is None else f"it is one of {elsewhere}"
            raise ConfigError(f"there is no flag {shorten(flag)}: {hint}")
        if not has_value:
            is_switch = kinds.get(path) is bool
            stands_alone = i == len(words) or words[i].startswith("--")
            # Where words stand for themselves, one after a switch is its value only if it can be.
            stands_alone |= is_switch and positional is not None and words[i : i + 1] not in (["true"], ["false"])
            if stands_alone and not is_switch:
                raise ConfigError(f"{flag} has no value: write {flag} VALUE")
            value = "true" if stands_alone else words[i]
            i += not stands_alone
        if path == "config":
            files.append(value)
        elif path in sections:
            gather_section(sections[path], value, path, found)
        elif item_kind(kinds[path]) is not None:
            add_item(found, path, kinds[path], value)
        else:
            found[path] = Given(word_node(kinds[path], value, f"--{path}"))
    return files, found


def _stray(word: str, before: Sequence[str]) -> str:
    last = next((flag for flag in reversed(before) if flag.startswith("--")), None)
    hint = f"; for a list, repeat {last.partition('=')[0]} before each" if last is not None else ""
    return f"{shorten(word)!r} stands alone: every value follows a flag, as in --seed 3{hint}"


def _hint(path: str, known: Mapping[str, Any], sections: Mapping[str, Any]) -> str:
    """Say which flag was probably meant, or which there are in its section."""
    if path == "help":
        return "write --help alone, without a value"
    close = nearest_field(path, known)
    section, _, end = path.rpartition(".")
    # Another section's flag is meant where it has the same last word; a similar one there is chance.
    if section in sections and not close.startswith(f"{section}.") and close.rpartition(".")[2] != end:
        return f"choose from {', '.join(f'--{name}' for name in known if name.startswith(f'{section}.'))}"
    return f"did you mean --{_as_flag(close, sections)}?" if close else "--help lists them all"


def _as_flag(path: str, sections: Mapping[str, Any]) -> str:
    """Return how a field, or some field of a section, is written on the command line."""
    if path not in sections or hasattr(section_of(sections[path]), "SHORT"):
        return path
    return f"{path}.{next(iter(flags_of(section_of(sections[path]))))}"
