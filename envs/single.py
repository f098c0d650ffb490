"""The vector environment's one-row form, for whoever steps a single env."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from envs.observation import Observation
from envs.unmasking import UnmaskingVectorEnv


class UnmaskingEnv(gym.Env[Observation, npt.NDArray[np.int8]]):
    """One sequence: the batch-of-one view of `UnmaskingVectorEnv`, which documents spaces, rewards and arguments.

    >>> env = UnmaskingEnv(denoiser="toy", tasks="copy", buffer_length=8)
    >>> observation, info = env.reset(seed=0)
    >>> observation["masked"]
    array([1., 1., 1., 1., 1., 1., 1., 1.], dtype=float32)
    >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample() | 1)
    >>> env.close()

    Args:
        render_mode: None, ``"ansi"`` or ``"rgb_array"``.
        **kwargs: the arguments of `UnmaskingVectorEnv`, without ``num_envs`` and ``autoreset_mode``.
    """

    metadata: dict[str, Any] = {
        "render_modes": UnmaskingVectorEnv.metadata["render_modes"],
        "render_fps": UnmaskingVectorEnv.metadata["render_fps"],
    }

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        # A single env of Gymnasium never resets itself.
        self.rows = UnmaskingVectorEnv(1, autoreset_mode=AutoresetMode.DISABLED, render_mode=render_mode, **kwargs)
        self.render_mode = render_mode
        self.observation_space = self.rows.single_observation_space
        self.action_space = self.rows.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a new episode; see `gymnasium.Env.reset`."""
        super().reset(seed=seed)
        # The row draws from Gymnasium's own generator, so one seed means the same problems here and in a batch.
        self.rows.episodes.seed(0, self.np_random)
        obs, infos = self.rows.reset(options=options)
        return _first_row(obs), _first_info(infos)

    def step(self, action: npt.NDArray[np.int8]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Commit and, unless that ends the episode, run the dLLM; see `gymnasium.Env.step`."""
        obs, rewards, terminated, _, infos = self.rows.step(np.asarray(action)[None])
        return _first_row(obs), float(rewards[0]), bool(terminated[0]), False, _first_info(infos)

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return (2 L,) or (2 L + 2,) bool; see `UnmaskingVectorEnv.action_masks`."""
        [masks] = self.rows.action_masks()
        return np.asarray(masks)

    def render(self) -> Any:
        """Return a picture; see `UnmaskingVectorEnv.render`."""
        [picture] = self.rows.render()
        return picture


def _first_row(obs: Observation) -> Observation:
    return {name: values[0] for name, values in obs.items()}


def _first_info(infos: Mapping[str, Any]) -> dict[str, Any]:
    """Return row 0's info in Python's own types."""
    own = {name: values[0] for name, values in infos.items() if not name.startswith("_")}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in own.items()}
