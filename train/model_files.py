"""Files of `configs/models/`: one a dLLM, for every entry point that takes a dLLM.

``--config configs/models/llada.yaml`` sets the checkpoint and how it is decoded, whatever the entry point calls these.
A file has four sections: ``checkpoint`` (arguments of `envs.denoiser.load_denoiser`), ``decoding`` (lengths and
temperature), ``published`` (what the authors give: ids, steps, block length) and ``sources`` (where that stands).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import yaml

OPTIONS = ("family", "chat_template", "revision", "trust_remote_code")
"""Arguments of `envs.denoiser.load_denoiser` that configurations have by the same names."""

SECTIONS = frozenset({"checkpoint", "decoding", "published", "sources"})


def model_options(config: Any) -> dict[str, Any]:
    """Return a configuration's arguments of `envs.denoiser.load_denoiser` beside name, device and dtype."""
    return {name: getattr(config, name) for name in OPTIONS}


def translate_model_files(config_class: type, words: Sequence[str]) -> list[str]:
    """Replace each model file among ``--config FILE`` by what it sets in a configuration.

    Args:
        config_class: a configuration with a dLLM: a field ``model`` that is its name, or a section.
        words: the command line, each ``--config`` and its file two words or one with an equals sign.

    Raises:
        ValueError: if a model file is given to a configuration without a dLLM, or has an unknown section.
    """
    translated = list(words)
    for i, word in enumerate(words):
        joined = word.startswith("--config=")
        value = word.partition("=")[2] if joined else word
        if not joined and (i == 0 or words[i - 1] != "--config"):
            continue
        described = _read(Path(value))
        if described is not None:
            text = json.dumps(settings_of(config_class, described, value))
            translated[i] = f"--config={text}" if joined else text
    return translated


def _read(file: Path) -> dict[str, Any] | None:
    """Return a model file's content, None if it is another configuration file."""
    if not file.is_file():
        return None
    content = yaml.safe_load(file.read_text())
    return content if isinstance(content, dict) and "checkpoint" in content else None


def settings_of(config_class: type, described: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return what a model file sets in a configuration, as its YAML would write it.

    Raises:
        ValueError: if the configuration has no dLLM, or the file an unknown section.
    """
    unknown = sorted(described.keys() - SECTIONS)
    if unknown:
        raise ValueError(f"{file} has a section {unknown[0]}: a model file has {', '.join(sorted(SECTIONS))}")
    hints = get_type_hints(config_class) if is_dataclass(config_class) else {}
    checkpoint, decoding = dict(described["checkpoint"]), dict(described.get("decoding", {}))
    if is_dataclass(hints.get("model")):
        block = decoding.pop("block_length", None)
        return {"model": checkpoint, "env": {**decoding, **({} if block is None else {"block_lengths": [block]})}}
    if "model" not in hints:
        raise ValueError(f"{file} describes a dLLM, but this command takes none")
    if get_origin(hints.get("block_length")) is list and decoding.get("block_length") is not None:
        decoding["block_length"] = [decoding["block_length"]]
    known = {field.name for field in fields(config_class)}
    # A configuration without lengths of its own takes the checkpoint alone.
    return {
        "model": checkpoint.pop("name"),
        **checkpoint,
        **{name: value for name, value in decoding.items() if name in known},
    }
