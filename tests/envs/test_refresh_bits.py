"""Refreshes as the env's last action bit: the space, its masks, what they cost, and that a state holds them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.single import UnmaskingEnv
from envs.unmasking import UnmaskingVectorEnv
from train.command import checkpoint

pytestmark = pytest.mark.usefixtures("device")


def make(rows: int = 2, **others: Any) -> UnmaskingVectorEnv:
    about: dict[str, Any] = {"denoiser": "tiny", "tasks": "sort", "buffer_length": 8, "block_length": 4}
    about |= {"early_end": False, "cache": "dual", "decides_refresh": True, "autoreset_mode": "Disabled"}
    return UnmaskingVectorEnv(rows, **{**about, **others})


def asking(*rows: int) -> np.ndarray:
    """No commits, which commits the best position, and a refresh of these of two rows."""
    actions = np.zeros((2, 9), dtype=np.int8)
    actions[list(rows), -1] = 1
    return actions


def test_the_last_bit_is_a_refresh_and_is_charged_as_positions_are() -> None:
    env = make(reward="forward_cost", price="positions", alpha=0.125)
    assert env.single_action_space.n == 9  # type: ignore[attr-defined]
    _, infos = env.reset(seed=0, options={"problem": ("sort", 3)})
    whole = int(env.batch.prompt_length[0]) + 8
    earned, final = np.zeros(2), infos
    for step in range(1, 9):
        # Row 1 asks after its second and its sixth forward; the last bit of a floor is not one.
        _, rewards, terminated, _, final = env.step(asking(1) if step in (2, 6) else asking())
        earned += rewards
        assert terminated.all() == (step == 8)
    plain = 2 * (whole + 3 * 4)
    assert final["token_positions"].tolist() == [plain, plain + 2 * (whole - 4)]
    expected = final["score"] - 0.125 * final["token_positions"] / whole
    np.testing.assert_allclose(earned, expected)


def test_masks_let_running_rows_be_refreshed() -> None:
    env = make()
    env.reset(seed=0)
    masks = env.action_masks().reshape(2, 9, 2)
    assert masks[:, :, 0].all()
    assert masks[:, :, 1].tolist() == [[True] * 4 + [False] * 4 + [True]] * 2
    for _ in range(8):
        env.step(asking())
    assert not env.action_masks().reshape(2, 9, 2)[:, :, 1].any()
    # Without it, bits and masks are as ever.
    plain = make(decides_refresh=False)
    plain.reset(seed=0)
    assert plain.single_action_space.n == 8  # type: ignore[attr-defined]
    assert plain.action_masks().shape == (2, 16)


def test_a_state_holds_what_was_asked_for(tmp_path: Path) -> None:
    def play(env: UnmaskingVectorEnv, steps: int, seed: int) -> list[Any]:
        draw, seen = np.random.default_rng(seed), []
        for _ in range(steps):
            obs, rewards, *_ = env.step(draw.random((2, 9)) < 0.3)
            seen += [obs, rewards, env.batch.token_positions.tolist()]
        return seen

    about: dict[str, Any] = {"temperature": 1.0, "features": ["age", "unseen"], "autoreset_mode": "SameStep"}
    about |= {"price": "positions", "reward": "forward_cost"}
    env, other = make(**about), make(**about)
    env.reset(seed=5)
    play(env, 3, seed=1)
    env.step(asking(0, 1))
    env.commit(asking(1))  # a forward that is still to come
    checkpoint.write(tmp_path / "state.safetensors", env.state())
    other.reset(seed=99)
    other.load_state(checkpoint.read(tmp_path / "state.safetensors"))
    for one in (env, other):
        one.batch.forward()
    for expected, found in zip(play(env, 12, seed=2), play(other, 12, seed=2), strict=True):
        np.testing.assert_equal(expected, found)


def test_what_is_not_possible_is_refused() -> None:
    message = (
        "decides_refresh is true and cache 'none': it keeps nothing that could be refreshed; choose a cache such as "
        "dual, or leave decides_refresh out"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        make(cache="none")
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=re.escape("actions have shape (2, 8): expected (2, 9)")):
        env.step(np.zeros((2, 8)))


def test_the_single_env_has_it_too() -> None:
    env = UnmaskingEnv(denoiser="tiny", tasks="sort", buffer_length=8, cache="dual", decides_refresh=True)
    env.reset(seed=0)
    assert env.action_space.shape == (9,)
    assert env.action_masks().shape == (18,)
    env.step(env.action_space.sample())
