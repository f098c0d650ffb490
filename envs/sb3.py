"""A natively batched Gymnasium env, as the VecEnv that Stable-Baselines3 trains on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import DictInfoToList
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn


class SB3VecEnv(VecEnv):
    """Hand a batch to Stable-Baselines3 without a Python loop over sub-envs.

    Args:
        env: a vector env.
        mode: what its ``metadata["autoreset_mode"]`` must be. ``DISABLED`` is for algorithms that reset all rows
            themselves, round by round.

    Raises:
        ValueError: under any other autoreset mode: SB3's own algorithms take the observation that follows ``done`` as
            the first of the next episode.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], mode: AutoresetMode = AutoresetMode.SAME_STEP) -> None:
        found = env.metadata.get("autoreset_mode")
        if found is not mode:
            raise ValueError(f"autoreset_mode of {env} is {found}: Stable-Baselines3 needs {mode} here")
        # SB3 reads infos row by row, where Gymnasium's are by name.
        self.env = DictInfoToList(env)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Reset every row, with the seeds set by `VecEnv.seed` if any."""
        seeds = [seed for seed in self._seeds if seed is not None]
        obs: VecEnvObs
        obs, self.reset_infos = self.env.reset(seed=seeds or None)  # type: ignore[arg-type]
        # As SB3's own vector envs: a seed is for one reset.
        self._reset_seeds()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all rows; finished ones bring ``terminal_observation`` in their info."""
        obs, rewards, terminated, truncated, infos = self.env.step(self._actions)
        # SB3 wants what Gymnasium says of the end in the row's own info, under names of its own.
        for i in np.flatnonzero(terminated | truncated):
            infos[i] |= infos[i].pop("final_info", {})
            # Where no row is reset by itself, the closing observation is the one returned.
            closing = {name: values[i] for name, values in obs.items()} if isinstance(obs, dict) else obs[i]
            infos[i]["terminal_observation"] = infos[i].pop("final_obs", closing)
            # Where it is True, SB3 adds the critic's value of the terminal observation to the reward.
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        return obs, rewards.astype(np.float32), terminated | truncated, infos

    def close(self) -> None:
        """Close the batch."""
        self.env.close()

    def state(self) -> dict[str, Any]:
        """Return all that the next steps depend on, seeds that wait for a reset included; see `load_state`."""
        return {"rows": self.env.unwrapped.state(), "seeds": list(self._seeds)}  # type: ignore[attr-defined]

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: if it is of another number of rows or positions.
        """
        self.env.unwrapped.load_state(state["rows"])  # type: ignore[attr-defined]
        self._seeds = list(state["seeds"])

    def get_images(self) -> list[np.ndarray | None]:
        """Return one image a row."""
        frames: Any = self.env.render()
        return list(frames or ())

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the batch, once a row asked for."""
        return [getattr(self.env.unwrapped, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: the rows of a native batch share their attributes."""
        raise NotImplementedError("rows of a natively batched env share their attributes")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Return each row's `action_masks`, for algorithms that mask; refuse all else.

        Raises:
            NotImplementedError: for another method: a native batch has no sub-envs to call.
        """
        if method_name != "action_masks":
            raise NotImplementedError(f"method is {method_name!r}: a natively batched env has no sub-envs to call")
        masks = self.env.unwrapped.action_masks()  # type: ignore[attr-defined]
        return [masks[i] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Return False for each row."""
        return [False for _ in self._get_indices(indices)]
