"""What every entry point shares: configuration from YAML and the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import auto_cli, set_parsing_settings

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"

ConfigT = TypeVar("ConfigT")


def parse(config_class: type[ConfigT], default_file: str | None = None, argv: Sequence[str] | None = None) -> ConfigT:
    """Read a configuration: dataclass defaults, then `default_file`, then ``--config``, then the other flags.

    Unknown keys and flags are errors, and the string under each field is its ``--help`` text.

    Args:
        config_class: a dataclass, possibly nested.
        default_file: a file of `configs/` to start from.
        argv: the command line, without the program; None takes the process's.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    words = list(sys.argv[1:] if argv is None else argv)
    # A switch needs no value; jsonargparse would ask for `--resume true`.
    words = ["--resume=true" if word == "--resume" else word for word in words]
    files = [str(CONFIGS / default_file)] if default_file else []
    config: ConfigT = auto_cli(config_class, args=words, default_config_files=files)
    return config


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
