"""Files of `configs/models/`: one a dLLM, for every entry point that takes a dLLM.

``--config configs/models/llada.yaml`` sets the dLLM and how it is decoded, whatever the entry point calls the lengths.
A file has four sections: ``model`` (`train.command.model_config.ModelConfig`), ``decoding`` (lengths and temperature),
``published`` (what the authors give: ids, steps, block length) and ``sources`` (where that stands).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from envs.names import nearest
from train.command.config_values import ConfigError, item_kind

SECTIONS = ("model", "decoding", "published", "sources")

OWN_SECTIONS = frozenset({"decoding", "published", "sources"})
"""Those that no other configuration file has."""

PLACES: Mapping[str, tuple[str, ...]] = {
    "buffer_length": ("buffer_length", "env.buffer_length"),
    "block_length": ("block_length", "block_lengths", "env.block_lengths", "published_block"),
    "temperature": ("temperature", "env.temperature"),
}
"""What a ``decoding`` section may hold, and the fields that it is in the commands' configurations."""


def is_model_file(root: yaml.MappingNode) -> bool:
    """Tell whether a YAML file describes a dLLM."""
    return any(isinstance(key, yaml.ScalarNode) and key.value in OWN_SECTIONS for key, _ in root.value)


def translate(root: yaml.MappingNode, known: Mapping[str, Any], file: str) -> yaml.MappingNode:
    """Return what a model file sets in a configuration, as a file of that configuration.

    A configuration without lengths of its own takes the dLLM alone.

    Args:
        root: of the model file.
        known: the dotted names of the configuration's fields, with their types.
        file: name, for messages.

    Raises:
        ConfigError: if the configuration has no dLLM, or the file an unknown section.
    """
    if "model.name" not in known:
        raise ConfigError(f"{file} describes a dLLM, but this command has no section model for it: leave it out")
    entries: list[tuple[yaml.Node, yaml.Node]] = []
    env: list[tuple[yaml.Node, yaml.Node]] = []
    for key, value in root.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else None
        if name == "model":
            entries.append((key, value))
        elif name == "decoding":
            for path, entry in _decoding(value, known, f"{file}, line {key.start_mark.line + 1}"):
                (env if path.startswith("env.") else entries).append(entry)
        elif name not in OWN_SECTIONS:
            close = nearest(str(name), SECTIONS)
            hint = f"did you mean {close}?" if close else f"a model file has {', '.join(SECTIONS)}"
            raise ConfigError(f"{file}, line {key.start_mark.line + 1}: there is no section {name}: {hint}")
    if env:
        # All in one section: a mapping may have a key but once.
        entries.append((_renamed(env[0][0], "env"), yaml.MappingNode("tag:yaml.org,2002:map", env)))
    return yaml.MappingNode(root.tag, entries, root.start_mark, root.end_mark)


def _decoding(node: yaml.Node, known: Mapping[str, Any], where: str) -> list[tuple[str, tuple[yaml.Node, yaml.Node]]]:
    """Return what a ``decoding`` section sets, with the dotted name of each field."""
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{where}: decoding is no section: give {', '.join(PLACES)}")
    found: list[tuple[str, tuple[yaml.Node, yaml.Node]]] = []
    for key, value in node.value:
        name = str(key.value)
        if name not in PLACES:
            raise ConfigError(f"{where}: there is no field decoding.{name}: choose from {', '.join(PLACES)}")
        for path in PLACES[name]:
            if path in known:
                # Where a command takes several lengths, the file's one is a list of one.
                items = item_kind(known[path]) is not None
                written = yaml.SequenceNode("tag:yaml.org,2002:seq", [value]) if items else value
                found.append((path, (_renamed(key, path.rpartition(".")[2]), written)))
    return found


def _renamed(key: yaml.Node, name: str) -> yaml.ScalarNode:
    # Its place stays the file's, for messages.
    return yaml.ScalarNode("tag:yaml.org,2002:str", name, key.start_mark, key.end_mark)
