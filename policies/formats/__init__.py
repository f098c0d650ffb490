"""Learned policies in the formats of others, one file each: serving engines, the hub, and released code."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from envs.names import hint
from policies.files import show
from policies.formats.diffusers import Diffusers
from policies.formats.dllm_plugin import DLLMPlugin
from policies.formats.exporter import Exporter
from policies.formats.folder import Folder
from policies.formats.hub import Hub
from policies.formats.lmdeploy import LMDeploy
from policies.formats.ml_rl_dllm import MLRLDLLM
from policies.formats.sglang import SGLang

EXPORTERS: Mapping[str, Exporter] = MappingProxyType(
    {cls.name: cls() for cls in (Diffusers, SGLang, LMDeploy, DLLMPlugin, Hub, MLRLDLLM, Folder)}
)
"""Every exporter by name; a new one is a file and a word here."""


def exporter_of(name: str) -> Exporter:
    """Return an exporter by its name.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in EXPORTERS:
        raise ValueError(f"to is {show(name)}: {hint(name, EXPORTERS)}")
    return EXPORTERS[name]
