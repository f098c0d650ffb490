from __future__ import annotations

import numpy as np
import pytest

from envs.reward import REWARDS, Preference, get_reward, pay


@pytest.mark.parametrize(
    ("name", "alpha", "score", "nfe", "length", "expected"),
    [
        ("multiplicative", 8.0, 1.0, 1, 64, 1.0),
        ("multiplicative", 2.0, 1.0, 33, 64, 0.25),
        ("multiplicative", 1.0, 0.5, 4, 4, 0.125),
        ("multiplicative", 0.0, 1.0, 64, 64, 1.0),
        ("multiplicative", 3.0, 0.0, 1, 64, 0.0),
        ("multiplicative", 2.0, 1.0, 12, 8, 0.0),  # taking back, or a block beyond the buffer
        ("multiplicative", 0.5, 1.0, 12, 8, 0.0),
        ("additive", 0.5, 1.0, 16, 64, 0.875),
        ("additive", 2.0, 0.0, 64, 64, -2.0),
        ("additive", 0.0, 1.0, 64, 64, 1.0),
        ("forward_cost", 0.1, 0.75, 7, 64, 0.75),
        ("likelihood", 0.1, 0.75, 7, 64, 0.0),  # no verifier
    ],
)
def test_final(name: str, alpha: float, score: float, nfe: int, length: int, expected: float) -> None:
    final = get_reward(name).final(np.array([score, 0.0]), np.array([nfe, nfe]), length, np.full(2, alpha))
    assert final.shape == (2,)
    assert final[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("multiplicative", [0.0, 0.0]),
        ("additive", [0.0, 0.0]),
        ("forward_cost", [-0.5, 0.0]),
        ("likelihood", [-2.0, -4.0]),
    ],
)
def test_per_step(name: str, expected: list[float]) -> None:
    cost, alpha, log_likelihood = np.array([2.0, 3.0]), np.array([0.25, 0.0]), np.array([-1.5, -4.0])
    assert get_reward(name).per_step(cost, alpha, log_likelihood).tolist() == expected


def test_forward_cost_and_additive_pay_the_same_in_sum() -> None:
    score, nfe = np.array([1.0, 0.0]), np.array([5, 9])
    cost, price = get_reward("forward_cost"), np.full(2, 0.5 / 64)
    summed = cost.per_step(nfe, price, np.zeros(2)) + cost.final(score, nfe, 64, price)
    assert summed == pytest.approx(get_reward("additive").final(score, nfe, 64, np.full(2, 0.5)))


@pytest.mark.parametrize("name", REWARDS)
def test_faster_is_never_worse(name: str) -> None:
    nfe = np.arange(1, 65)
    assert (np.diff(get_reward(name).final(np.ones(64), nfe, 64, np.full(64, 2.0))) <= 0).all()


def test_each_row_has_its_own_alpha() -> None:
    final = get_reward("multiplicative").final(np.ones(3), np.full(3, 33), 64, np.array([0.0, 1.0, 2.0]))
    assert final.tolist() == [1.0, 0.5, 0.25]


def test_an_unknown_reward_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="reward is 'speed': choose from multiplicative, additive, forward_cost"):
        get_reward("speed")


@pytest.mark.parametrize(
    ("slow", "fast", "message"),
    [
        (-0.5, -0.5, "alpha is -0.5"),
        (float("nan"), 1.0, "alpha is nan"),
        (1.0, float("inf"), "alpha is inf"),
        (2.0, 1.0, "range is 2.0 to 1.0"),
        (0.0, 1.0, "range is 0.0 to 1.0"),
    ],
)
def test_impossible_preferences(slow: float, fast: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preference(slow, fast)


def test_a_dial_is_logarithmic_between_its_ends() -> None:
    assert Preference(2.0, 8.0).alpha(np.array([0.0, 0.5, 1.0], dtype=np.float32)).tolist() == [2.0, 4.0, 8.0]
    assert Preference(2.0, 8.0).alpha(np.zeros(1, dtype=np.float32)).dtype == np.float64
    # One alpha, 0 among them, is the same everywhere.
    for alpha in (0.0, 3.0):
        assert Preference(alpha, alpha).alpha(np.array([0.0, 0.3, 1.0])).tolist() == [alpha] * 3


@pytest.mark.parametrize("alpha", [[], [1.0, 2.0, 3.0]])
def test_an_alpha_is_one_number_or_a_range(alpha: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^alpha is \[.*\]: it must be a number or a range of two$"):
        Preference.of(alpha)


def test_a_fixed_alpha_of_nothing_has_no_dial() -> None:
    assert Preference.of(0.0).alpha(np.array([0.0, 1.0])).tolist() == [0.0, 0.0]


def test_a_step_pays_who_took_it_and_nothing_for_an_answer_without_a_score() -> None:
    """Row 0 took no step, row 1 goes on, row 2 ends with a score, row 3 without."""
    finals = {2: {"score": 1.0}, 3: {"score": np.nan}}
    running, costs = np.array([False, True, True, True]), (np.array([9.0, 4.0, 33.0, 33.0]), np.full(4, 2.0))
    assert pay(get_reward("multiplicative"), running, finals, costs, np.zeros(4), 64, np.full(4, 2.0)).tolist() == [
        0.0,
        0.0,
        0.25,
        0.0,
    ]
    paid = pay(get_reward("forward_cost"), running, finals, costs, np.zeros(4), 64, np.full(4, 0.25))
    assert paid.tolist() == [0.0, -0.5, 0.5, -0.5]
