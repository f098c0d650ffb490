"""What `UnmaskingVectorEnv` is made with, read and checked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from envs.denoiser import Denoiser
from envs.models.load import load_denoiser
from envs.numbers import is_whole
from envs.render import RENDERERS


def check_arguments(num_envs: Any, features: Any, episodes: Any, render_mode: Any) -> None:
    """Refuse what can't be.

    Raises:
        ValueError: naming the argument.
    """
    if not is_whole(num_envs) or num_envs < 1:
        raise ValueError(f"num_envs is {num_envs!r}: it must be a whole number of 1 or more")
    if isinstance(features, str) or not isinstance(features, Collection):
        example = features if isinstance(features, str) else "margin"
        raise ValueError(f"features is {features!r}: give a list of names, such as [{example!r}]")
    if not all(isinstance(name, str) for name in features):
        raise ValueError(f"features is {features!r}: each must be a name, such as 'margin'")
    if not callable(episodes):
        raise ValueError(f"episodes is {episodes!r}: give a class that is called as envs.episodes.Episodes is")
    if render_mode not in (None, *RENDERERS):
        raise ValueError(f"render_mode is {render_mode!r}: choose None, 'ansi' or 'rgb_array'")


def check_initial_length(initial_length: Any, buffer_length: int) -> None:
    """Refuse to start from more masks than there are, or from none.

    Raises:
        ValueError: if that is asked.
    """
    if initial_length is not None and not (is_whole(initial_length) and 1 <= initial_length <= buffer_length):
        raise ValueError(
            f"initial_length is {initial_length!r}: it must be a whole number of 1 to buffer_length, {buffer_length}"
        )


def read_blocks(block_length: int | Sequence[int] | None) -> Sequence[int | None]:
    """Return the block lengths that episodes draw from, None for full diffusion.

    Raises:
        ValueError: if there is none.
    """
    if not isinstance(block_length, Sequence) or isinstance(block_length, str):
        return [block_length]
    if not block_length:
        raise ValueError("block_length is an empty list: give None for full diffusion, or the lengths to draw from")
    return block_length


def read_denoiser(denoiser: Denoiser | str) -> Denoiser:
    """Return the dLLM, loaded if it is a name.

    Raises:
        ValueError: if it is something else.
    """
    found = load_denoiser(denoiser) if isinstance(denoiser, str) else denoiser
    if not hasattr(found, "mask_id"):
        raise ValueError(f"denoiser is {denoiser!r}: give a dLLM's name, or what envs.models.load_denoiser returns")
    return found
