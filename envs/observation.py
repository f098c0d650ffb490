"""What the env shows and takes: beliefs as boxes of numbers, and bits as actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from envs.decoding.blocks import buffer_width
from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.readings import OBSERVED_TENSORS, READINGS, VIEW_FEATURES
from envs.view import Action, View

Observation = dict[str, npt.NDArray[np.float32]]


def observation_space(
    settings: DecodingSettings, denoiser: Denoiser, has_dial: bool = False, has_tensors: bool = True
) -> spaces.Dict:
    """Return the space of one row's observation, in the order that `observe` fills it.

    Args:
        settings: how its text is decoded.
        denoiser: the dLLM.
        has_dial: whether there is a ``speed``.
        has_tensors: whether those of `envs.readings.OBSERVED_TENSORS` that are asked for are in it.
    """
    shape = (buffer_width(denoiser, settings.buffer_length),)
    boxes: dict[str, spaces.Space[Any]] = {
        name: spaces.Box(0.0, 1.0, shape, np.float32) for name in ("confidence", "masked", "eligible")
    }
    boxes["time"] = spaces.Box(0.0, 1.0, (1,), np.float32)
    # Sorted: a set of texts has another order in every process.
    for name in sorted(settings.features & VIEW_FEATURES):
        boxes[name] = spaces.Box(READINGS[name].lowest, READINGS[name].highest, shape, np.float32)
    for name in sorted(settings.features & OBSERVED_TENSORS) if has_tensors else ():
        reading = READINGS[name]
        width = reading.width if isinstance(reading.width, int) else denoiser.hidden_size
        boxes[name] = spaces.Box(reading.lowest, reading.highest, (*shape, width), np.float32)
    if has_dial:
        boxes["speed"] = spaces.Box(0.0, 1.0, (1,), np.float32)
    return spaces.Dict(boxes)


def bounded(view: View, has_tensors: bool = True) -> dict[str, Tensor]:
    """Return `envs.view.View.inputs` within the bounds of the observation, where the view's tensors are.

    Args:
        view: of N rows.
        has_tensors: whether those of `envs.readings.OBSERVED_TENSORS` are among them.
    """
    # A box must hold what it shows, and a gap of logits has no bound of its own.
    return {
        name: values.clamp(max=_highest(name))
        for name, values in view.inputs().items()
        if has_tensors or name not in OBSERVED_TENSORS
    }


def observe(view: View, has_tensors: bool = True) -> Observation:
    """Turn a view into the env's observation, in numpy; see `bounded`."""
    return {name: values.cpu().numpy().copy() for name, values in bounded(view, has_tensors).items()}


def _highest(name: str) -> float:
    """Return the upper bound of a part of the observation."""
    return READINGS[name].highest if name in READINGS else 1.0


def read_action(actions: npt.ArrayLike | Action, masked: Tensor, has_refresh: bool = False) -> Action:
    """Return bits as the action that they mean, and an action as it is.

    Args:
        actions: (N, L) of 0 and 1, or an action.
        masked: (N, L), what its shape and device must be.
        has_refresh: True where bits are (N, L + 1), the last the row's refresh.

    Raises:
        ValueError: if they are of another shape, NaN, or no numbers.
    """
    # Rules act on tensors with all that an action can say; agents of Gymnasium and SB3 send arrays of bits.
    if not isinstance(actions, Action):
        bits = torch.from_numpy(_bits(np.asarray(actions))).to(masked.device)
        rows, length = masked.shape
        _check_shape(bits, (rows, length + has_refresh))
        return Action(bits[:, :length], refresh=bits[:, length] if has_refresh else None)
    _check_shape(actions.commit, masked.shape)
    return actions


def masks_of(eligible: npt.NDArray[np.bool_], has_refresh: bool) -> npt.NDArray[np.bool_]:
    """Return (N, 2 L) bool, for each bit of an action whether 0 and whether 1 may be chosen.

    Args:
        eligible: (N, L) bool, where 1 may.
        has_refresh: whether a last bit asks for a refresh, which a row that is running may; then it is (N, 2 L + 2).
    """
    may = np.concatenate([eligible, eligible.any(1, keepdims=True)], 1) if has_refresh else eligible
    return np.stack([np.ones_like(may), may], -1).reshape(len(may), -1)


def _check_shape(actions: Tensor, expected: tuple[int, ...]) -> None:
    if actions.shape != expected:
        raise ValueError(f"actions have shape {tuple(actions.shape)}: expected {tuple(expected)}")


def _bits(actions: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return what commits: every whole number but 0, every float from one half on.

    Raises:
        ValueError: for NaN, or what is no number.
    """
    if actions.dtype.kind == "f":
        if np.isnan(actions).any():
            raise ValueError("actions hold NaN: they must be 0 or 1, or floats that commit from one half on")
        return np.asarray(actions >= 0.5)
    if actions.dtype.kind not in "biu":
        raise ValueError(f"actions are {actions.dtype}: they must be 0 or 1, or floats that commit from one half on")
    return np.asarray(actions != 0)
