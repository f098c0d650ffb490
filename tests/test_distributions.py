from __future__ import annotations

from itertools import product

import pytest
import torch
from scipy import stats
from torch import Tensor

from policies.distributions import ForcedBernoulli

CASES = [
    ([0.3], "x"),
    ([-1.0, 0.5], "xx"),
    ([2.0, -3.0, 0.1], "xxx"),
    ([2.0, -3.0, 0.1], ".xx"),
    ([-2.0, -2.0, -2.0, -2.0], "xxxx"),  # ties: the first is forced
    ([1.5, -0.7, 0.0, 0.4, -2.0], "xxxxx"),
    ([9.0, -0.7, 0.0, 9.0, -2.0], ".xx.x"),
    ([6.0, -6.0, 30.0, -30.0, 1.0], "xx.xx"),
]


def distribution(logits: list[float], eligible: str) -> ForcedBernoulli:
    may = torch.tensor([[cell == "x" for cell in eligible]])
    return ForcedBernoulli(torch.tensor([logits], dtype=torch.float64), may)


def subsets(eligible: str) -> list[tuple[int, ...]]:
    return list(product(*[(0, 1) if cell == "x" else (0,) for cell in eligible]))


def enumerate_truth(logits: list[float], eligible: str) -> dict[tuple[int, ...], float]:
    """Probability of each committed set: every outcome of the coins, the empty one moved to the likeliest."""
    probabilities = [1 / (1 + 2.718281828459045**-x) for x in logits]
    best = max((i for i, cell in enumerate(eligible) if cell == "x"), key=lambda i: (logits[i], -i))
    forced = tuple(int(i == best) for i in range(len(logits)))
    truth: dict[tuple[int, ...], float] = {}
    for coins in subsets(eligible):
        chance = 1.0
        for coin, p, cell in zip(coins, probabilities, eligible, strict=True):
            chance *= (p if coin else 1 - p) if cell == "x" else 1.0
        outcome = coins if any(coins) else forced
        truth[outcome] = truth.get(outcome, 0.0) + chance
    return truth


@pytest.mark.parametrize(("logits", "eligible"), CASES)
def test_log_prob_and_entropy_equal_enumeration(logits: list[float], eligible: str) -> None:
    truth = enumerate_truth(logits, eligible)
    made = distribution(logits, eligible)
    log_probs = [made.log_prob(torch.tensor([action])).item() for action in truth]
    assert log_probs == pytest.approx([torch.tensor(p, dtype=torch.float64).log().item() for p in truth.values()])
    assert torch.tensor(log_probs, dtype=torch.float64).exp().sum().item() == pytest.approx(1.0)
    entropy = -sum(p * x for p, x in zip(truth.values(), log_probs, strict=True))
    assert made.entropy().item() == pytest.approx(entropy, abs=1e-12)


@pytest.mark.parametrize(("logits", "eligible"), CASES[:6])
def test_gradients_equal_those_of_the_enumeration(logits: list[float], eligible: str) -> None:
    x = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    actions = torch.tensor(list(enumerate_truth(logits, eligible)))
    made = ForcedBernoulli(x.expand(len(actions), -1), torch.tensor([[cell == "x" for cell in eligible]]))
    log_probs = made.log_prob(actions)
    [of_total] = torch.autograd.grad(log_probs.exp().sum(), x, retain_graph=True)
    assert of_total.abs().max() < 1e-12  # the probabilities sum to 1 whatever the logits
    [expected] = torch.autograd.grad(-(log_probs.exp() * log_probs).sum(), x, retain_graph=True)
    [actual] = torch.autograd.grad(made.entropy()[0], x)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(("logits", "eligible"), [CASES[3], CASES[5], CASES[6]])
def test_samples_have_the_true_frequencies(logits: list[float], eligible: str) -> None:
    torch.manual_seed(0)
    rows = 20_000
    may = torch.tensor([[cell == "x" for cell in eligible]]).expand(rows, -1)
    sample = ForcedBernoulli(torch.tensor([logits]).expand(rows, -1), may).sample()
    assert sample.any(1).all()
    assert not (sample & ~may).any()
    truth = enumerate_truth(logits, eligible)
    found: dict[tuple[int, ...], int] = {action: 0 for action in truth}
    for row in sample.int().tolist():
        found[tuple(row)] += 1
    assert stats.chisquare(list(found.values()), [rows * p for p in truth.values()]).pvalue > 1e-3


def test_ineligible_positions_change_nothing() -> None:
    may = torch.tensor([[True, False, True, False]])
    actions = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    results = []
    for junk, bits in ((0.0, 0.0), (50.0, 1.0), (-1e9, 1.0), (torch.inf, 0.0)):
        torch.manual_seed(3)
        x = torch.tensor([[0.4, junk, -0.2, junk]], requires_grad=True)
        made = ForcedBernoulli(x, may)
        given = actions + torch.tensor([[0.0, bits, 0.0, bits]])
        made.entropy().sum().backward()
        assert x.grad is not None
        results.append(torch.cat([made.log_prob(given), made.entropy(), made.mode()[0], made.sample()[0], x.grad[0]]))
    for result in results[1:]:
        assert torch.equal(result, results[0])


def test_an_empty_action_counts_as_the_forced_one() -> None:
    made = distribution([-1.0, 0.5], "xx")
    assert made.log_prob(torch.tensor([[0, 0]])).equal(made.log_prob(torch.tensor([[0, 1]])))


@pytest.mark.parametrize("size", [30.0, 200.0, 1e4, 1e9])
@pytest.mark.parametrize("signs", list(product((-1.0, 1.0), repeat=3)))
def test_extreme_logits_stay_finite(size: float, signs: tuple[float, ...]) -> None:
    x = (size * torch.tensor([signs])).requires_grad_()
    made = ForcedBernoulli(x, torch.ones(1, 3, dtype=torch.bool))
    for action in subsets("xxx"):
        assert torch.isfinite(made.log_prob(torch.tensor([action]))).all()
    assert 0 <= made.entropy().item() < 1e-6
    (made.log_prob(torch.tensor([[1, 0, 1]])) + made.entropy()).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert torch.equal(made.sample(), made.mode())


@pytest.mark.parametrize(
    ("logits", "eligible", "expected"),
    [
        ([0.1, -0.1, 0.0], "xxx", [1, 0, 1]),
        ([-3.0, -1.0, -1.0], "xxx", [0, 1, 0]),
        ([5.0, -2.0, -1.0], ".xx", [0, 0, 1]),
        ([5.0, 2.0, -1.0], ".xx", [0, 1, 0]),
    ],
)
def test_mode_by_hand(logits: list[float], eligible: str, expected: list[int]) -> None:
    assert distribution(logits, eligible).mode().int().tolist() == [expected]


def test_rows_do_not_mix() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, may = torch.randn(16, 5, generator=generator), torch.rand(16, 5, generator=generator) < 0.6
    may[:, 0] = True
    action = torch.rand(16, 5, generator=generator) < 0.5
    together = ForcedBernoulli(logits, may)

    def alone(row: int) -> tuple[Tensor, Tensor]:
        made = ForcedBernoulli(logits[row : row + 1], may[row : row + 1])
        return made.log_prob(action[row : row + 1])[0], made.entropy()[0]

    expected = [alone(row) for row in range(16)]
    torch.testing.assert_close(together.log_prob(action), torch.stack([x for x, _ in expected]))
    torch.testing.assert_close(together.entropy(), torch.stack([x for _, x in expected]))


def test_a_row_with_nothing_eligible_has_one_outcome() -> None:
    made = distribution([0.3, -0.4], "..")
    assert not made.sample().any()
    assert not made.mode().any()
    assert made.log_prob(torch.tensor([[0, 0]])).item() == pytest.approx(0.0)
    assert made.entropy().item() == pytest.approx(0.0)
