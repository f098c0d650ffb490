"""What decoding costs in forwards, positions and milliseconds, against values by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from envs.price import FORWARDS, POSITIONS, Bill, Price, get_price
from envs.reward import get_reward
from envs.unmasking import UnmaskingVectorEnv


def test_costs_by_hand() -> None:
    """Two rows of 40 and 50 positions: 3 forwards of 90 positions in all, 4 of 200."""
    row = ([3, 4], [90, 200], [40, 50])
    assert FORWARDS.cost(*row).tolist() == [3.0, 4.0]
    assert POSITIONS.cost(*row).tolist() == [2.25, 4.0]
    # Of 40 ms a forward each of 4 rows pays 10: (3 * 10 + 90 / 2) / (10 + 40 / 2), (4 * 10 + 100) / (10 + 25).
    assert Price(40.0, 0.5, 4).cost(*row).tolist() == [2.5, 4.0]
    # Alone, a row pays it all.
    assert Price(40.0, 0.5, 1).cost(*row).tolist() == [(120 + 45) / 60, (160 + 100) / 65]


def test_without_a_cache_every_price_is_the_number_of_forwards() -> None:
    nfe, whole = np.arange(1, 9), np.full(8, 37)
    for price in (FORWARDS, POSITIONS, Price(3.0, 0.01, 16)):
        assert price.cost(nfe, nfe * whole, whole) == pytest.approx(nfe)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"forward": -1.0, "position": 1.0}, "forward is -1.0: a price must be a finite number of 0 or more"),
        ({"forward": 1.0, "position": float("nan")}, "position is nan"),
        ({"forward": 0.0, "position": 0.0}, "something must cost something"),
        ({"forward": 1.0, "position": 0.0, "rows": 0}, "rows is 0"),
        ({"forward": 1.0, "position": 0.0, "rows": 1.5}, "rows is 1.5: it must be a whole number"),
        ({"forward": "a", "position": 0.0}, "forward is 'a': a price must be a finite number"),
    ],
)
def test_impossible_prices(kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Price(**kwargs)


def test_a_price_by_name() -> None:
    own = Price(1.0, 1.0)
    assert (get_price("positions"), get_price(own)) == (POSITIONS, own)
    for name in ("milliseconds", "tokens"):
        with pytest.raises(ValueError, match=f"price is '{name}': choose forwards or positions, or give a Price"):
            get_price(name)


def play(price: Any, reward: str, cache: str, alpha: float = 0.5) -> tuple[list[float], int, float]:
    """Decode one text of eight positions, one a step; return the rewards, the length of the prompt and the score."""
    env = UnmaskingVectorEnv(
        1,
        tasks="copy",
        buffer_length=8,
        block_length=4,
        early_end=False,
        reward=reward,
        price=price,
        alpha=alpha,
        cache=cache,
    )
    env.reset(seed=0)
    prompt = int(env.batch.prompt_length[0])
    paid: list[float] = []
    infos: dict[str, Any] = {}
    for _ in range(8):
        _, rewards, _, _, infos = env.step(np.zeros((1, 8), dtype=np.int8))
        paid += rewards.tolist()
    return paid, prompt, float(infos["final_info"]["score"][0])


def test_each_step_is_charged_for_what_it_computed() -> None:
    """Under dual a block's first forward computes everything, the three others its four positions."""
    paid, prompt, score = play("positions", "forward_cost", "dual")
    step = 4 / (prompt + 8)
    assert paid == pytest.approx([-0.5, *[-0.5 * step] * 3, -0.5, *[-0.5 * step] * 2, score - 0.5 * step])
    paid, _, _ = play("forwards", "forward_cost", "dual")
    assert paid[:7] == [-0.5] * 7
    # Half of a whole forward's milliseconds don't depend on the positions.
    paid, _, _ = play(Price(prompt + 8, 1.0), "forward_cost", "dual")
    assert paid[:3] == pytest.approx([-0.5, *[-0.25 * (1 + step)] * 2])


@pytest.mark.parametrize("reward", ["multiplicative", "additive"])
def test_the_end_is_paid_for_the_whole_cost(reward: str) -> None:
    paid, prompt, score = play("positions", reward, "dual", alpha=2.0)
    cost = 2 * (1 + 3 * 4 / (prompt + 8))
    final = get_reward(reward).final(np.array([score]), np.array([cost]), 8, np.array([2.0]))
    assert paid == pytest.approx([0.0] * 7 + final.tolist())
    expected = score * ((8 - (cost - 1)) / 8) ** 2 if reward == "multiplicative" else score - 2 * cost / 8
    assert paid[-1] == pytest.approx(expected)
    # By forwards it is as it always was.
    paid, _, score = play("forwards", reward, "dual", alpha=2.0)
    assert paid[-1] == pytest.approx(score * (1 / 8) ** 2 if reward == "multiplicative" else score - 2)


def test_a_row_that_begins_anew_owes_nothing_and_a_state_remembers() -> None:
    env = UnmaskingVectorEnv(2, tasks="copy", buffer_length=8, reward="forward_cost", alpha=1.0, early_end=False)
    other = UnmaskingVectorEnv(2, tasks="copy", buffer_length=8, reward="forward_cost", alpha=1.0, early_end=False)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros((2, 8), dtype=np.int8))
    env.reset(options={"reset_mask": np.array([True, False])})
    other.load_state(env.state())
    for one in (env, other):
        _, rewards, *_ = one.step(np.zeros((2, 8), dtype=np.int8))
        assert rewards.tolist() == [-1.0, -1.0]


def test_what_was_paid_is_not_paid_back() -> None:
    class Rows:
        def __init__(self, nfe: int, positions: int, text: int) -> None:
            import torch

            self.nfe, self.token_positions = torch.tensor([nfe]), torch.tensor([positions])
            self.prompt_length, self.text_length = torch.tensor([10]), torch.tensor([text])

    bill: Any = Bill(POSITIONS, 1)
    assert [part.tolist() for part in bill.charge(Rows(1, 20, 10))] == [[1.0], [1.0]]
    # The text has doubled: all computed so far is less of it.
    assert [part.tolist() for part in bill.charge(Rows(2, 24, 20))] == [[0.8], [0.0]]
