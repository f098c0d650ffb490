"""A training that was killed and resumed leaves what the one that wasn't leaves, bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz import begun, checkpoints
from gymnasium.vector import AutoresetMode
from kills import TRAININGS, differences, finish, kill, results, start

from envs.unmasking import UnmaskingVectorEnv
from train.command import checkpoint
from train.command.errors import UserError
from train.job.build import resume

LAST = {"ppo": 60, "grpo": 20, "learn2pd": 20, "sweep": 25, "pretrain": 6}
"""A rename late in each training, before its end."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "grpo", "pretrain"])
def test_a_killed_run_ends_as_the_run_that_was_not(tmp_path: Path, name: str) -> None:
    """Killed by itself before two of its renames, and by a signal in between; `kills.py` has the rest."""
    train = TRAININGS[name]
    seconds = finish(train, tmp_path / "whole")
    out = tmp_path / "killed"
    for rename in (LAST[name] // 3, 2):
        process = start(train, out, rename)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    kill(train, out, seconds / 3, signal.SIGTERM)
    finish(train, out)
    expected = results(tmp_path / "whole")
    assert len(expected) >= 1
    assert differences(expected, results(out)) == []


def test_all_five_trainings_are_killed() -> None:
    assert TRAININGS.keys() == LAST.keys()


# The env's state.


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_an_env_goes_on_from_its_state(mode: AutoresetMode, tmp_path: Path) -> None:
    """Through the file, into another env; with sampled tokens, blocks to draw and a dial."""

    def make() -> UnmaskingVectorEnv:
        return UnmaskingVectorEnv(
            4,
            denoiser="toy",
            tasks=["copy", "sort"],
            buffer_length=8,
            block_length=[4, 8],
            temperature=1.0,
            alpha=(1.0, 8.0),
            features=["changed", "margin"],
            autoreset_mode=mode,
        )

    def play(env: UnmaskingVectorEnv, steps: int, seed: int) -> list[object]:
        draw, seen = np.random.default_rng(seed), []
        for _ in range(steps):
            obs, rewards, terminated, _, infos = env.step(draw.random((4, 8)) < 0.4)
            done = terminated if mode is AutoresetMode.DISABLED else np.zeros(4, dtype=np.bool_)
            if done.any():
                obs, _ = env.reset(options={"reset_mask": done})
            seen += [{name: values.copy() for name, values in obs.items()}, rewards, terminated, infos["nfe"]]
        return seen

    env = make()
    env.reset(seed=5)
    play(env, 7, seed=1)
    checkpoint.write(tmp_path / "state.safetensors", env.state())
    expected = play(env, 20, seed=2)
    other = make()
    other.reset(seed=99)
    other.load_state(checkpoint.read(tmp_path / "state.safetensors"))
    found = play(other, 20, seed=2)
    for one, another in zip(expected, found, strict=True):
        np.testing.assert_equal(one, another)


def test_a_state_of_another_env_is_refused() -> None:
    one, other = (UnmaskingVectorEnv(rows, denoiser="toy", tasks="copy", buffer_length=8) for rows in (2, 3))
    one.reset(seed=0)
    with pytest.raises(ValueError, match="the state is not of 3 by 8 positions"):
        other.load_state(one.state())


# The file.


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "numbers": [1, 2**127, -0.1, 1e-320, float("inf"), True, None, "é\n"],
        "tuple": (1, (2.5, [3])),
        "scalar": np.float32(0.1),
        "array": np.arange(6, dtype=np.uint32).reshape(2, 3).T,
        "empty": np.zeros((0, 3)),
        "tensors": {0: torch.arange(4).view(2, 2).t(), 1: torch.tensor(1.5, dtype=torch.bfloat16)},
    }
    checkpoint.write(tmp_path / "x.safetensors", state)
    found = checkpoint.read(tmp_path / "x.safetensors")
    assert found["numbers"] == state["numbers"]
    assert found["tuple"] == state["tuple"]
    assert type(found["scalar"]) is np.float32
    assert found["scalar"] == state["scalar"]
    for name in ("array", "empty"):
        np.testing.assert_array_equal(found[name], state[name])
        assert found[name].dtype == state[name].dtype  # type: ignore[attr-defined]
    assert found["tensors"].keys() == {0, 1}
    assert torch.equal(found["tensors"][0], torch.tensor([[0, 2], [1, 3]]))
    assert found["tensors"][1].dtype is torch.bfloat16


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\x10" + b"\0" * 7 + b'{"a": {}}       '])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="it is no checkpoint, or damaged"):
        checkpoint.read(tmp_path / "x.safetensors")


def _put(value: Any, *names: str) -> Callable[[dict[str, Any]], None]:
    def put(state: dict[str, Any]) -> None:
        for name in names[:-1]:
            state = state[name]
        state[names[-1]] = value

    return put


def _spoil_weights(state: dict[str, Any]) -> None:
    next(weight for weight in state["policy"].values() if weight.is_floating_point()).fill_(torch.nan)


def _spoil_moments(state: dict[str, Any]) -> None:
    next(iter(state["optimizer"]["state"].values()))["exp_avg"].fill_(torch.nan)


def _spoil_observation(state: dict[str, Any]) -> None:
    state["last_obs"]["confidence"].fill(np.nan)


def _drop_row(state: dict[str, Any]) -> None:
    state["last_obs"]["confidence"] = state["last_obs"]["confidence"][:1]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_put("5", "counters", "num_timesteps"), "can't be read"),
        (_put(10**400, "counters", "num_timesteps"), "it counts 1000000"),
        (_put(10**9, "counters", "num_timesteps"), "it counts 1000000000 steps of 80000"),
        (_put(-5, "counters", "num_timesteps"), "it counts -5 steps"),
        (_put(True, "counters", "_n_updates"), "_n_updates is True"),
        (_put({"seed": 1}, "run"), "it is of another run: seed was 1"),
        (_spoil_weights, "holds NaN or infinite values"),
        (_spoil_moments, "holds NaN or infinite values"),
        (_spoil_observation, "its observation confidence is not finite"),
        (_drop_row, r"its observation confidence has shape \(1, 8\)"),
    ],
)
def test_what_no_training_writes_is_not_believed(
    damage: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    config, model = begun()
    [files] = checkpoints().values()
    [(name, data)] = files.items()
    file = tmp_path / name
    file.parent.mkdir()
    file.write_bytes(data)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    state = checkpoint.read(file)
    damage(state)
    checkpoint.write(file, state)
    with pytest.raises(UserError, match=rf"^checkpoint .*{said}.*: delete it to start over"):
        resume(replace(config, out=tmp_path), model)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_no_checkpoint(make: Callable[[Path], object], tmp_path: Path) -> None:
    config, model = begun()
    (tmp_path / "checkpoints").mkdir()
    make(tmp_path / "checkpoints" / "latest.safetensors")
    with pytest.raises(UserError, match=r"^checkpoint .* can't be read \(it is no file\): delete it"):
        resume(replace(config, out=tmp_path), model)
