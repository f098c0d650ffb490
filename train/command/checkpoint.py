"""A training's state in one file: all that its next step depends on, as safetensors with a JSON header.

Restored on the same kind of machine with one thread on the CPU, a training goes on bit for bit as if it had never
stopped. On a GPU the same state is restored, but sums there may be taken in another order, run or resumed, so the last
bits of weights may differ. Where several processes train together, each has a file of its own rows and generators.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Dict
from safetensors import safe_open
from safetensors.torch import save
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor

from envs.sb3 import SB3VecEnv
from policies.files import check_finite
from train.command.files import write_atomic

COUNTERS = ("num_timesteps", "_n_updates", "_episode_num")
"""What Stable-Baselines3 counts in a training."""

MONITORED = ("episode_returns", "episode_lengths", "episode_count")
"""What its monitor knows of the episodes under way."""

State = dict[str, Any]
"""A tree of dictionaries, lists and tuples with numbers, texts, arrays and tensors as leaves."""


# The file.


def write(file: Path, state: State) -> None:
    """Write a state, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    tree = _plain(state, tensors)
    # Through memory: of a full disk, safetensors says something else than that it is full.
    write_atomic(file, save(tensors, {"state": json.dumps(tree)}))


def read(file: Path) -> State:
    """Read what `write` wrote.

    Raises:
        ValueError: if it is no such file, or damaged.
        OSError: if it can't be read.
    """
    if file.exists() and not file.is_file():
        raise ValueError("it is no file")  # a pipe, which would be waited for
    try:
        with safe_open(file, "pt") as content:
            tree = json.loads((content.metadata() or {})["state"])
            found = _whole(tree, {name: content.get_tensor(name) for name in content.keys()})  # noqa: SIM118 - no dict
    except OSError:
        raise
    except Exception as error:  # safetensors, json and the tree's own shape each raise theirs
        raise ValueError(f"it is no checkpoint, or damaged ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__} where a training's state was expected")
    return found


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a tree as JSON takes it, every kind that JSON has no word for tagged; put its tensors into `tensors`."""
    if value is None or isinstance(value, bool | int | str) or type(value) is float:
        return value
    if isinstance(value, list):
        return [_plain(each, tensors) for each in value]
    if isinstance(value, np.generic):
        return {"number": [value.dtype.str, value.item()]}
    if isinstance(value, tuple):
        return {"tuple": [_plain(each, tensors) for each in value]}
    if isinstance(value, Mapping):
        return {"mapping": [[_plain(key, tensors), _plain(each, tensors)] for key, each in value.items()]}
    name = str(len(tensors))
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(np.array(value, order="C"))
        return {"array": name}
    if isinstance(value, Tensor):
        # Its own memory: safetensors takes no views of one another.
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    raise TypeError(f"a {type(value).__name__} can't be in a checkpoint")


def _whole(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `_plain`."""
    if isinstance(tree, list):
        return [_whole(each, tensors) for each in tree]
    if not isinstance(tree, dict):
        return tree
    [(kind, value)] = tree.items()
    if kind == "number":
        kind_of_number, number = value
        return np.dtype(kind_of_number).type(number)
    if kind == "tuple":
        return tuple(_whole(each, tensors) for each in value)
    if kind == "mapping":
        return {_whole(key, tensors): _whole(each, tensors) for key, each in value}
    return tensors[value].numpy() if kind == "array" else tensors[value]


# A training.


def capture_rollout(model: OnPolicyAlgorithm) -> State:
    """Return what a rollout begins from, but for the weights: the rows under way, every generator, every window.

    It shares no memory with the training, so it stays as it is while the rollout is played.
    """
    monitor, env = _envs_of(model)
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 - Stable-Baselines3 draws from it
    generators: State = {"torch": torch.get_rng_state(), "numpy": legacy, "python": random.getstate()}
    if torch.cuda.is_available() and model.device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(model.device)
    return {
        "generators": generators,
        "counters": {name: getattr(model, name) for name in COUNTERS},
        "episodes": [dict(one) for one in model.ep_info_buffer or ()],
        # Nothing was played yet where training begins.
        "last_obs": None if model._last_obs is None else {k: np.array(v) for k, v in dict(model._last_obs).items()},
        "last_starts": None if model._last_episode_starts is None else np.array(model._last_episode_starts),
        "monitor": {name: np.copy(getattr(monitor, name)) for name in MONITORED},
        "env": env.state(),
    }


def capture(model: OnPolicyAlgorithm, rollout: State) -> State:
    """Return a training's whole state.

    Args:
        model: with the weights that the rollout began with.
        rollout: what `capture_rollout` returned.
    """
    return {**rollout, "policy": dict(model.policy.state_dict()), "optimizer": model.policy.optimizer.state_dict()}


def restore(model: OnPolicyAlgorithm, state: State, is_whole: bool = True) -> None:
    """Let an algorithm that was just built go on from a state.

    Args:
        model: the algorithm.
        state: what `capture` returned.
        is_whole: False leaves out the rows under way and the generators.

    Raises:
        ValueError: if the state is not one of this algorithm, network and env.
    """
    try:
        check_finite(state["policy"])
        for number, moments in state["optimizer"]["state"].items():
            check_finite({f"the optimizer's {name} of {number}": torch.as_tensor(v) for name, v in moments.items()})
        model.policy.load_state_dict(state["policy"])
        model.policy.optimizer.load_state_dict(state["optimizer"])
        for name in COUNTERS:
            count = state["counters"][name]
            if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 2**63:
                raise ValueError(f"{name} is {count!r:.50}")
            setattr(model, name, count)
        model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
        model.ep_success_buffer = deque(maxlen=model._stats_window_size)
        if not is_whole:
            return
        _check_observations(model, state["last_obs"])
        model._last_obs, model._last_episode_starts = state["last_obs"], state["last_starts"]
        monitor, env = _envs_of(model)
        for name in MONITORED:
            # The count of episodes is a number, the others are arrays.
            value = state["monitor"][name]
            setattr(monitor, name, value if value.ndim else int(value))
        env.load_state(state["env"])
        generators = state["generators"]
        torch.set_rng_state(generators["torch"])
        np.random.set_state(generators["numpy"])  # noqa: NPY002
        random.setstate(generators["python"])
        if "cuda" in generators:
            torch.cuda.set_rng_state(generators["cuda"], model.device)
    except Exception as error:  # torch, numpy and Gymnasium each have their own for a state that can't be
        raise ValueError(f"it is not of this algorithm, network and env ({error})") from error


def _check_observations(model: OnPolicyAlgorithm, observations: Mapping[str, Any] | None) -> None:
    """Refuse what a policy could not be asked about; nothing was observed yet where training begins."""
    spaces = model.observation_space
    assert isinstance(spaces, Dict)
    if observations is None:
        return
    if set(observations) != set(spaces.spaces):
        raise ValueError(f"its observations are {', '.join(sorted(observations))}")
    for name, space in spaces.spaces.items():
        values = observations[name]
        if values.shape != (model.n_envs, *(space.shape or ())) or values.dtype != space.dtype:
            raise ValueError(f"its observation {name} has shape {values.shape} and dtype {values.dtype}")
        if not np.isfinite(values).all():
            raise ValueError(f"its observation {name} is not finite")


def _envs_of(model: OnPolicyAlgorithm) -> tuple[VecMonitor, SB3VecEnv]:
    monitor = model.get_env()
    assert isinstance(monitor, VecMonitor)
    assert isinstance(monitor.venv, SB3VecEnv)
    return monitor, monitor.venv
