from __future__ import annotations

import math
from itertools import permutations, product
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from policies.distributions import (
    DISTRIBUTIONS,
    ActionConfig,
    Bernoulli,
    ForcedBernoulli,
    PlackettLuce,
    make_distribution,
    order,
)

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


# Bernoulli without a forced pick.


@pytest.mark.parametrize(("logits", "eligible"), CASES)
def test_plain_bernoulli_equals_enumeration(logits: list[float], eligible: str) -> None:
    may = torch.tensor([[cell == "x" for cell in eligible]])
    made = Bernoulli(torch.tensor([logits], dtype=torch.float64), may)
    log_probs = torch.cat([made.log_prob(torch.tensor([action])) for action in subsets(eligible)])
    truth = []
    for action in subsets(eligible):
        chances = [1 / (1 + 2.718281828459045 ** (-x if bit else x)) for x, bit in zip(logits, action, strict=True)]
        truth.append(torch.tensor([c for c, cell in zip(chances, eligible, strict=True) if cell == "x"]).prod().item())
    assert log_probs.exp().tolist() == pytest.approx(truth, rel=1e-5)
    assert log_probs.exp().sum().item() == pytest.approx(1.0)
    assert made.entropy().item() == pytest.approx(-(log_probs.exp() * log_probs).sum().item(), abs=1e-9)
    positions = made.position_log_prob(torch.tensor(subsets(eligible)))
    torch.testing.assert_close(positions.sum(1), log_probs)
    assert not positions[:, ~may[0]].any()


def test_plain_bernoulli_draws_empty_sets_as_often_as_it_says() -> None:
    torch.manual_seed(0)
    rows = 20_000
    made = Bernoulli(torch.tensor([[0.3, -0.5]]).expand(rows, -1), torch.ones(rows, 2, dtype=torch.bool))
    empty = (~made.sample().any(1)).float().mean().item()
    expected = made.log_prob(torch.zeros(rows, 2))[0].exp().item()
    assert empty == pytest.approx(expected, abs=4 * (expected * (1 - expected) / rows) ** 0.5)


# Dynamic Plackett-Luce.

PL_CASES = [
    ([0.3], "x", 0.0),
    ([-1.0, 0.5], "xx", 0.7),
    ([2.0, -3.0, 0.1, 1.0], ".xxx", -0.5),
    ([-2.0] * 4, "xxxx", 0.0),
]


def plackett_luce(logits: list[float], eligible: str, stop: float) -> PlackettLuce:
    may = torch.tensor([[cell == "x" for cell in eligible]])
    return PlackettLuce(torch.tensor([logits], dtype=torch.float64), may, stop)


def sequences(logits: list[float], eligible: str, stop: float) -> dict[tuple[int, ...], float]:
    """Probability of each ordered sequence, drawn by hand."""
    places = [i for i, cell in enumerate(eligible) if cell == "x"]
    weight = {i: math.exp(logits[i]) for i in places}
    truth = {}
    for count in range(1, len(places) + 1):
        for drawn in permutations(places, count):
            left, chance = dict(weight), 1.0
            for number, i in enumerate(drawn):
                chance *= left.pop(i) / (weight[i] + sum(left.values()) + (math.exp(stop) if number else 0.0))
            truth[drawn] = chance * math.exp(stop) / (math.exp(stop) + sum(left.values()))
    return truth


def numbered(drawn: tuple[int, ...], length: int) -> list[int]:
    return [drawn.index(i) + 1 if i in drawn else 0 for i in range(length)]


@pytest.mark.parametrize(("logits", "eligible", "stop"), PL_CASES)
def test_plackett_luce_equals_enumeration_and_sums_to_one(logits: list[float], eligible: str, stop: float) -> None:
    truth = sequences(logits, eligible, stop)
    made = plackett_luce(logits, eligible, stop)
    x = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    actions = torch.tensor([numbered(drawn, len(logits)) for drawn in truth])
    together = PlackettLuce(x.expand(len(actions), -1), made.eligible.expand(len(actions), -1), stop)
    log_probs = together.log_prob(actions)
    assert log_probs.exp().tolist() == pytest.approx(list(truth.values()), rel=1e-9)
    assert log_probs.exp().sum().item() == pytest.approx(1.0)
    assert [made.log_prob(row.unsqueeze(0)).item() for row in actions] == pytest.approx(log_probs.tolist())
    [gradient] = torch.autograd.grad(log_probs.exp().sum(), x)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize(("logits", "eligible", "stop"), PL_CASES[1:])
def test_plackett_luce_samples_have_the_true_frequencies(logits: list[float], eligible: str, stop: float) -> None:
    torch.manual_seed(0)
    rows = 20_000
    may = torch.tensor([[cell == "x" for cell in eligible]]).expand(rows, -1)
    sample = PlackettLuce(torch.tensor([logits]).expand(rows, -1), may, stop).sample()
    truth = sequences(logits, eligible, stop)
    found = dict.fromkeys([tuple(numbered(drawn, len(logits))) for drawn in truth], 0)
    for row in sample.tolist():
        found[tuple(row)] += 1
    assert stats.chisquare(list(found.values()), [rows * p for p in truth.values()]).pvalue > 1e-3


def test_the_order_of_a_plackett_luce_draw_counts() -> None:
    made = plackett_luce([1.0, 0.0, -1.0], "xxx", 0.0)
    first, second = made.log_prob(torch.tensor([[1, 2, 0]])).item(), made.log_prob(torch.tensor([[2, 1, 0]])).item()
    assert first > second
    assert made.mode().tolist() == [[1, 2, 0]]  # the third weighs less than STOP
    assert plackett_luce([-3.0, -1.0], "xx", 0.0).mode().tolist() == [[0, 1]]
    assert made.entropy() is None


def test_a_row_without_a_draw_is_certain_beside_one_with_draws() -> None:
    """As where nothing is eligible, or no step is to be learned from."""
    both = PlackettLuce(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))
    assert both.log_prob(torch.tensor([[0, 0], [1, 0]])).tolist() == pytest.approx([0.0, math.log(1 / 2 * 1 / 2)])


def test_plackett_luce_of_long_rows_stays_finite() -> None:
    torch.manual_seed(0)
    x = (30 * torch.randn(8, 256)).requires_grad_()
    may = torch.rand(8, 256) < 0.7
    may[0] = False  # a finished row
    made = PlackettLuce(x, may)
    action = made.sample()
    log_prob = made.log_prob(action)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert not x.grad[~may].any()
    assert log_prob[0] == 0
    assert not action[~may].any()
    assert [sorted(row[row > 0].tolist()) == list(range(1, int((row > 0).sum()) + 1)) for row in action] == [True] * 8


def test_order_numbers_by_score() -> None:
    commit = torch.tensor([[True, False, True, True]])
    assert order(commit, torch.tensor([[0.2, 9.0, 0.7, 0.2]])).tolist() == [[2, 0, 1, 3]]


@pytest.mark.parametrize("name", list(DISTRIBUTIONS))
def test_temperature_divides_the_log_odds(name: Any) -> None:
    logits, may = torch.tensor([[1.0, -2.0]]), torch.ones(1, 2, dtype=torch.bool)
    action = torch.tensor([[1, 2]])
    hot = make_distribution(ActionConfig(name, temperature=2.0), logits, may).log_prob(action)
    halved = make_distribution(ActionConfig(name), logits / 2, may).log_prob(action)
    assert torch.equal(hot, halved)
    assert not torch.equal(hot, make_distribution(ActionConfig(name), logits, may).log_prob(action))


def test_unknown_distributions_and_temperatures_are_refused() -> None:
    for changes, message in (
        ({"temperature": math.inf}, "^temperature of the policy is inf: it must be above 0$"),
        ({"stop_logit": math.nan}, "^stop_logit is nan: it must be a finite number$"),
    ):
        with pytest.raises(ValueError, match=message):
            ActionConfig(**changes)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"^distribution is 'coin': choose one of forced_bernoulli, bernoulli, plackett"
    ):
        ActionConfig("coin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature of the policy is 0"):
        ActionConfig(temperature=0.0)


@pytest.mark.parametrize("name", ["bernoulli", "forced_bernoulli", "plackett_luce"])
def test_a_row_is_itself_in_any_batch(name: str) -> None:
    """Beside rows that have finished, too: outcomes, likelihoods and entropies."""
    logits = torch.tensor([[3.0, -1.0, 0.5], [-2.0, -1.0, -4.0], [0.1, 9.0, -0.1], [-3.0, 2.0, 1.0]])
    eligible = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1]]).bool()
    actions = torch.tensor([[1, 0, 2], [0, 1, 0], [0, 0, 0], [0, 0, 1]])
    config = ActionConfig(name)  # type: ignore[arg-type]
    together = make_distribution(config, logits, eligible)
    for row in range(4):
        alone = make_distribution(config, logits[row : row + 1], eligible[row : row + 1])
        assert torch.equal(alone.mode()[0], together.mode()[row])
        assert torch.equal(alone.log_prob(actions[row : row + 1])[0], together.log_prob(actions)[row])
        entropy, own = together.entropy(), alone.entropy()
        if entropy is None or own is None:
            assert name == "plackett_luce"
        else:
            torch.testing.assert_close(own[0], entropy[row])
    if name != "bernoulli":
        assert together.log_prob(actions)[2] == 0  # nothing is left to decide
        assert together.mode()[2].sum() == 0


def test_what_is_not_said_is_the_plain_distribution() -> None:
    logits, eligible = torch.tensor([[0.5, -0.5]]), torch.ones(1, 2, dtype=torch.bool)
    assert PlackettLuce(logits, eligible).stop_logit.tolist() == [[0.0]]
    # Of equals the first, over as many as sorting could shuffle.
    many = torch.zeros(1, 500)
    assert order(torch.ones_like(many).bool(), many).tolist() == [list(range(1, 501))]
