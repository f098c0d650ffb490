"""Gymnasium environments around a frozen masked diffusion language model."""

from __future__ import annotations

from typing import Any

import gymnasium

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.models.adapter import MaskedLMDenoiser
from envs.models.load import load_denoiser
from envs.view import Action, View

__all__ = [
    "Action",
    "DecodingBatch",
    "DecodingSettings",
    "Denoiser",
    "MaskedLMDenoiser",
    "UnmaskingEnv",
    "UnmaskingVectorEnv",
    "View",
    "load_denoiser",
    "register_envs",
]


def register_envs() -> None:
    """Register `Unmasking-v0` with Gymnasium; the installed package's entry point calls it."""
    # Both Gymnasium's plugin and an import come here; a second registration would warn.
    if "Unmasking-v0" not in gymnasium.registry:
        gymnasium.register(
            id="Unmasking-v0",
            entry_point="envs.single:UnmaskingEnv",
            vector_entry_point="envs.unmasking:UnmaskingVectorEnv",
        )


def __getattr__(name: str) -> Any:
    """Import the env classes on first use: decoding alone needs none of their imports."""
    if name == "UnmaskingEnv":
        from envs.single import UnmaskingEnv

        return UnmaskingEnv
    if name == "UnmaskingVectorEnv":
        from envs.unmasking import UnmaskingVectorEnv

        return UnmaskingVectorEnv
    raise AttributeError(f"module 'envs' has no attribute {name!r}")


register_envs()
