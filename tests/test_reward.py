from __future__ import annotations

import numpy as np
import pytest

from envs.reward import REWARDS, make_reward


@pytest.mark.parametrize(
    ("name", "alpha", "score", "nfe", "length", "expected"),
    [
        ("multiplicative", 8.0, 1.0, 1, 64, 1.0),
        ("multiplicative", 2.0, 1.0, 33, 64, 0.25),
        ("multiplicative", 1.0, 0.5, 4, 4, 0.125),
        ("multiplicative", 0.0, 1.0, 64, 64, 1.0),
        ("multiplicative", 3.0, 0.0, 1, 64, 0.0),
        ("additive", 0.5, 1.0, 16, 64, 0.875),
        ("additive", 2.0, 0.0, 64, 64, -2.0),
        ("additive", 0.0, 1.0, 64, 64, 1.0),
        ("forward_cost", 0.1, 0.75, 7, 64, 0.75),
    ],
)
def test_final(name: str, alpha: float, score: float, nfe: int, length: int, expected: float) -> None:
    final = make_reward(name, alpha).final(np.array([score, 0.0]), np.array([nfe, nfe]), length)
    assert final.shape == (2,)
    assert final[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "expected"), [("multiplicative", 0.0), ("additive", 0.0), ("forward_cost", -0.25)])
def test_per_step(name: str, expected: float) -> None:
    assert make_reward(name, 0.25).per_step == expected


def test_forward_cost_and_additive_pay_the_same_in_sum() -> None:
    score, nfe = np.array([1.0, 0.0]), np.array([5, 9])
    cost = make_reward("forward_cost", 0.5 / 64)
    summed = cost.per_step * nfe + cost.final(score, nfe, 64)
    assert summed == pytest.approx(make_reward("additive", 0.5).final(score, nfe, 64))


@pytest.mark.parametrize("name", REWARDS)
def test_faster_is_never_worse(name: str) -> None:
    nfe = np.arange(1, 65)
    assert (np.diff(make_reward(name, 2.0).final(np.ones(64), nfe, 64)) <= 0).all()


@pytest.mark.parametrize(
    ("name", "alpha", "message"),
    [
        ("speed", 1.0, "reward is 'speed': choose one of multiplicative, additive, forward_cost"),
        ("additive", -0.5, "alpha is -0.5"),
        ("additive", float("nan"), "alpha is nan"),
        ("multiplicative", float("inf"), "alpha is inf"),
    ],
)
def test_errors(name: str, alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_reward(name, alpha)
