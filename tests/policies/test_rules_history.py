"""Rules that remember: each hand-computed over several steps, and against a transcription."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from views import after, believing, make_view, steps_of, written

from envs.view import Action, View
from policies import make_rule


def two_ways(first: float, *others: float) -> list[list[float]]:
    """Positions that give token 0 these probabilities, and token 1 the rest."""
    return [[p, 1 - p] for p in (first, *others)]


def random_distributions(steps: int, rows: int, length: int, vocabulary: int, drift: float, seed: int) -> torch.Tensor:
    """(steps, rows, L, V): each position's distribution drifts from step to step."""
    generator = torch.Generator().manual_seed(seed)
    moves = torch.randn(steps, rows, length, vocabulary, generator=generator)
    moves[1:] *= drift * torch.rand(1, rows, length, 1, generator=generator)
    moves[0] *= 3
    return moves.cumsum(0).softmax(-1)


def decided(rule: str, believed: torch.Tensor) -> list[tuple[View, Action]]:
    """The views and actions of a rule while the beliefs go on as given; (steps, rows, L, V)."""
    policy, view = make_rule(rule), believing(believed[0].tolist())
    done = []
    for now in believed:
        masks = written(view.masked)
        seen = believing(now.tolist(), masks, step=int(view.step[0]), memory=dict(view.memory))
        done.append((seen, policy.act(seen)))
        view = after(*done[-1])
    return done


def eligible_of(view: View, row: int) -> list[int]:
    return [i for i, cell in enumerate(view.eligible[row].tolist()) if cell]


def best_of(view: View, row: int, score: Sequence[float]) -> list[int]:
    return sorted(eligible_of(view, row), key=lambda i: (-score[i], i))


def chosen_of(action: Action, row: int) -> list[int]:
    return [i for i, cell in enumerate(action.commit[row].tolist()) if cell]


# KLASS.


def klass_trace(rule: str, *steps: list[list[float]]) -> list[str]:
    return ["".join(written(action.commit)) for _, action in decided(rule, torch.tensor(steps).unsqueeze(1))]


def test_klass_waits_until_a_position_stands_still() -> None:
    still = two_ways(0.95, 0.94, 0.93, 0.6)
    # At first there is nothing to compare with, so the best; twice still is at the third step.
    assert klass_trace("klass:0.9", still, still, still) == ["x...", ".x..", "..x."]
    assert klass_trace("klass:0.9,history=1", still, still) == ["x...", ".xx."]
    assert klass_trace("klass:0.9,history=1,divergence=inf", still, still) == ["x...", ".xx."]
    assert klass_trace("klass:0.9,history=3", *[two_ways(0.99, 0.98, 0.97, 0.96, 0.95, 0.94)] * 4) == [
        *("x.....", ".x....", "..x..."),
        "...xxx",
    ]


def test_klass_counts_again_after_a_move() -> None:
    still, moved = two_ways(0.99, 0.98, 0.97, 0.95, 0.96), two_ways(0.99, 0.98, 0.97, 0.95, 0.6)
    # Position 4 moves at the third step and moves back at the fourth; 3 stands still throughout.
    assert klass_trace("klass:0.9", still, still, moved, still) == ["x....", ".x...", "..xx.", "....x"]
    more = two_ways(0.99, 0.98, 0.97, 0.94, 0.95, 0.96, 0.93)
    jump = two_ways(0.99, 0.98, 0.97, 0.94, 0.95, 0.6, 0.93)
    # Where it moved, it must stand still twice more; meanwhile 3, 4 and 6 were ready.
    assert klass_trace("klass:0.9", more, more, jump, more, more, more)[2:5] == ["..xxx.x", ".....x.", "......."]


def test_klass_compares_with_strict_bounds() -> None:
    still = two_ways(0.99, 0.875, 0.875)
    # 0.875 is not above 0.875: after two steps still, the fallback takes one.
    assert klass_trace("klass:0.875,history=1", still, still) == ["x..", ".x."]
    assert klass_trace("klass:0.874,history=1", still, still) == ["x..", ".xx"]
    # No divergence is under 0.
    assert klass_trace("klass:0.8,history=1,divergence=0", still, still) == ["x..", ".x."]


def test_klass_measures_the_divergence_of_now_from_before() -> None:
    before, now = two_ways(0.99, 0.9, 0.9), two_ways(0.99, 0.8, 0.91)
    moved = 0.8 * math.log(0.8 / 0.9) + 0.2 * math.log(0.2 / 0.1)
    backwards = 0.9 * math.log(0.9 / 0.8) + 0.1 * math.log(0.1 / 0.2)
    assert moved == pytest.approx(0.0444, abs=1e-4)
    assert backwards == pytest.approx(0.0367, abs=1e-4)
    assert klass_trace("klass:0.7,history=1,divergence=0.045", before, now) == ["x..", ".xx"]
    assert klass_trace("klass:0.7,history=1,divergence=0.044", before, now) == ["x..", "..x"]


@pytest.mark.parametrize("seed", range(3))
def test_klass_against_its_formula(seed: int) -> None:
    believed = random_distributions(6, rows=8, length=9, vocabulary=4, drift=0.3, seed=seed)
    counts = [[0] * 9 for _ in range(8)]
    parallel = 0
    for step, (view, action) in enumerate(decided("klass:0.5,divergence=0.02", believed)):
        for row in range(8):
            passing = []
            for i in eligible_of(view, row):
                p, before = believed[step, row, i].tolist(), believed[step - 1, row, i].tolist()
                moved = sum(a * math.log(a / b) for a, b in zip(p, before, strict=True))
                counts[row][i] = counts[row][i] + 1 if step > 0 and moved < 0.02 else 0
                if counts[row][i] >= 2 and max(p) > 0.5:
                    passing.append(i)
            parallel += len(passing) > 1
            best = best_of(view, row, view.confidence[row].tolist())
            assert chosen_of(action, row) == (passing or best[:1])
    assert parallel > 3


# CCD.


def test_ccd_prefers_what_was_certain_before_too() -> None:
    # Now 0.9 against 0.8; the means with the step before, 0.7 against 0.8.
    before, now = believing([two_ways(0.5, 0.8, 0.99)]), two_ways(0.9, 0.8, 0.5)
    for rule, expected in (("ccd:1", ".x."), ("ccd:1,history=1", "x..")):
        policy = make_rule(rule)
        first = policy.act(before)
        assert written(first.commit) == ["..x"]
        seen = believing([now], ["xx."], step=2, memory=dict(first.memory))
        assert written(policy.act(seen).commit) == [expected]


def test_ccd_averages_as_many_steps_as_there_were() -> None:
    trace = [two_ways(0.5, 0.8, 0.99, 0.98), two_ways(0.5, 0.7, 0.5, 0.98), two_ways(0.9, 0.6, 0.5, 0.5)]
    believed = torch.tensor(trace).unsqueeze(1)
    # The means of the third step: of 0.5, 0.5, 0.9 and of 0.8, 0.7, 0.6 with three; of 0.5, 0.9 and 0.7, 0.6 with two.
    assert [written(action.commit) for _, action in decided("ccd:1,history=3", believed)] == [
        *(["..x."], ["...x"]),
        [".x.."],
    ]
    assert written(decided("ccd:1,history=2", believed)[-1][1].commit) == ["x..."]


def test_ccd_ds_commits_by_a_threshold_on_the_averaged_entropy() -> None:
    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    policy = make_rule(f"ccd_ds:{entropy(0.9) + 1e-5}")
    first = policy.act(believing([two_ways(0.91, 0.95, 0.6, 0.89)]))
    assert written(first.commit) == ["xx.."]
    # Now 0.97 and 0.93; the means are 0.785 and 0.91.
    second = believing([two_ways(0.5, 0.5, 0.97, 0.93)], ["..xx"], step=2, memory=dict(first.memory))
    assert written(policy.act(second).commit) == ["...x"]
    nothing = make_rule("ccd_ds:0")
    assert written(nothing.act(believing([two_ways(0.6, 0.7, 0.7)])).commit) == [".x."]


@pytest.mark.parametrize("history", [1, 2, 3])
def test_ccd_and_ccd_ds_against_their_formula(history: int) -> None:
    believed = random_distributions(5, rows=6, length=8, vocabulary=4, drift=1.0, seed=history)
    for rule, budget, bar in (("ccd:2", 2, None), ("ccd_ds:0.6", 0, 0.6)):
        for step, (view, action) in enumerate(decided(f"{rule},history={history}", believed)):
            mean = believed[max(0, step + 1 - history) : step + 1].double().mean(0)
            entropy = torch.special.entr(mean).sum(-1).tolist()
            for row in range(6):
                best = best_of(view, row, [-h for h in entropy[row]])
                if bar is not None:
                    budget = max(1, sum(entropy[row][i] <= bar for i in best))
                assert chosen_of(action, row) == sorted(best[:budget])


# CreditDecoding.


def test_credit_commits_earlier_than_the_confidence() -> None:
    credit = 0.6**0.2
    fused = 0.6 * (1 + credit) ** 0.7
    confidence = fused / (fused + 0.4)
    assert confidence == pytest.approx(0.7018, abs=1e-4)
    view = believing([two_ways(0.6, 0.2, 0.55)])
    assert written(make_rule("credit:0.701").act(view).commit) == ["xx."]  # 0.8 for token 1 passes anyway
    assert written(make_rule("credit:0.703").act(view).commit) == [".x."]
    assert written(make_rule("credit:0.7,weight=0").act(view).commit) == [".x."]
    assert written(make_rule("credit:0.99").act(view).commit) == [".x."]  # the best of what is fused


def test_credit_of_a_token_decays() -> None:
    policy = make_rule("credit:0.99")
    action = policy.act(believing([two_ways(0.9, 0.99)]))
    for _ in range(2):
        action = policy.act(believing([two_ways(0.49, 0.99)], ["x."], memory=dict(action.memory)))
    # 0.9^0.2 * 0.8^2, and 0.51^0.2 twice, the first time decayed.
    assert action.memory["credit"][0, 0].tolist() == pytest.approx([0.979 * 0.64, 0.874 * 1.8], abs=1e-3)


def test_credit_of_a_token_outweighs_another_that_overtakes_it() -> None:
    policy = make_rule("credit:0.99")
    memory: dict[str, torch.Tensor] = {}
    for steps, expected in ((1, 1), (3, 0)):
        for _ in range(steps):
            memory = dict(policy.act(believing([two_ways(0.9)], memory=memory)).memory)
        now = believing([two_ways(0.49)], memory=memory)
        action = policy.act(now)
        assert action.tokens is not None
        # Credits 0.78 and after three steps more than 1.9, against 0.87 for the token that is best by itself, 1.
        assert now.prediction.item() == 1
        assert action.tokens.item() == expected
        assert written(action.commit) == ["x"]


@pytest.mark.parametrize(("decay", "power", "weight"), [(0.8, 0.2, 0.7), (1.0, 1.0, 2.0), (0.0, 0.5, 0.3)])
def test_credit_against_its_formula(decay: float, power: float, weight: float) -> None:
    believed = random_distributions(5, rows=5, length=6, vocabulary=5, drift=1.0, seed=1)
    credit = torch.zeros(5, 6, 5, dtype=torch.float64)
    for now, (view, action) in zip(
        believed.double(), decided(f"credit:0.8,decay={decay},power={power},weight={weight}", believed), strict=True
    ):
        assert action.tokens is not None
        for row in range(5):
            confidence = {}
            for i in eligible_of(view, row):
                p = now[row, i]
                credit[row, i] *= decay
                credit[row, i, p.argmax()] += p.max() ** power
                logits = p.log() + weight * (1 + credit[row, i]).log()
                fused = logits.softmax(-1)
                confidence[i] = fused.max().item()
                assert action.tokens[row, i] == fused.argmax()
            passing = [i for i, value in confidence.items() if value >= 0.8]
            assert chosen_of(action, row) == (passing or sorted(confidence, key=lambda i: -confidence[i])[:1])


# SlowFast.


def slowfast_trace(rule: str, *confidences: Sequence[float]) -> tuple[list[str], list[int]]:
    """What is committed step by step, and the end of the cycle after each."""
    policy, view = make_rule(rule), make_view([confidences[0]])
    commits, ends = [], []
    for now in confidences:
        view = replace(view, confidence=torch.where(view.masked, torch.tensor([now]), 1.0))
        action = policy.act(view)
        commits += written(action.commit)
        ends += action.memory["cycle_end"].tolist()
        view = after(view, action)
    return commits, ends


def test_slowfast_finds_the_stretch_and_stays_in_it() -> None:
    slow, fast = [0.5, 0.95, 0.4, 0.2, 0.1, 0.1], [0.5, 0.95, 0.4, 0.2, 0.99, 0.1]
    # Twice the last position of at least 0.3 is 2, so [0, 3) is taken; 2 is left, and 4 must wait for a new cycle.
    assert slowfast_trace("slowfast:0.9", slow, slow, fast, fast) == (
        [".x....", "x.....", "..x...", "....x."],
        [0, 3, 3, 0],
    )


def test_slowfast_takes_what_passes_the_threshold_at_once() -> None:
    view = make_view([[0.95, 0.94, 0.93, 0.92, 0.4, 0.2]])
    assert steps_of(make_rule("slowfast:0.9"), view) == ["x.....", ".x....", "..xx..", "....x.", ".....x"]
    assert steps_of(make_rule("slowfast:0.9,floor=0.5"), view) == ["x.....", ".x....", "..xx..", "....x.", ".....x"]
    assert steps_of(make_rule("slowfast:0.4"), view) == ["x.....", ".x....", "..xxx.", ".....x"]
    assert steps_of(make_rule("slowfast:0.9,window=3"), view) == [
        *("x.....", ".x....", "..x...", "...x..", "....x.", ".....x")
    ]


@pytest.mark.parametrize(
    ("options", "ends"),
    [
        ("deviation=0", [0, 0, 0]),  # nothing is under 0
        ("deviation=0,limit=1", [4, 4, 4]),  # the only end, not a mean with what came before the cycle
        ("deviation=0,limit=2", [0, 5, 5]),  # of 4 and 6
        ("deviation=1", [0, 0, 0]),  # 4, 6 and 4 deviate by just 1
        ("deviation=1.1", [0, 5, 5]),
        ("window=1", [4, 4, 4]),
        ("floor=0.36,deviation=5", [0, 4, 4]),  # of 2 and 6
        ("floor=0.7", [0, 2, 2]),  # nothing is that certain: after the first mask, 1 and 2 with mean 1.5
    ],
)
def test_slowfast_ends_a_cycle(options: str, ends: list[int]) -> None:
    first, then = [0.5, 0.4, 0.35, 0.3, 0.1, 0.1], [0.5, 0.4, 0.35, 0.3, 0.1, 0.6]
    assert slowfast_trace(f"slowfast:0.9,{options}", first, then, then)[1] == ends


@pytest.mark.parametrize(("window", "deviation", "limit"), list(product((1, 2, 3), (0.4, 1.0, 3.0), (2, 6))))
def test_slowfast_against_its_algorithm(window: int, deviation: float, limit: int) -> None:
    policy = make_rule(f"slowfast:0.75,floor=0.5,window={window},deviation={deviation},limit={limit}")
    generator = torch.Generator().manual_seed(0)
    view = make_view([[0.5] * 16] * 12)
    ends: list[list[int]] = [[] for _ in range(12)]
    cycle_end, cycles = [0] * 12, 0
    for _ in range(16):
        # Certain on the left, uncertain on the right.
        confidence = torch.randint(1, 64, (12, 16), generator=generator) / 64 * torch.linspace(1, 0.4, 16)
        view = replace(view, confidence=torch.where(view.masked, confidence, 1.0))
        action = policy.act(view)
        for row, now in enumerate(view.confidence.tolist()):
            best_first = best_of(view, row, now)
            stretch = [i for i in best_first if i < cycle_end[row]]
            if stretch:
                expected = [i for i in stretch if now[i] >= 0.75] or stretch[:1]
            else:
                if cycle_end[row]:
                    ends[row], cycle_end[row] = [], 0
                    cycles += bool(best_first)
                expected = best_first[:1]
                reached = [i + 1 for i in best_first if now[i] >= 0.5]
                ends[row].append(max(reached, default=min(best_first, default=0) + 1))
                last = ends[row][-window:]
                if len(ends[row]) >= limit or (len(last) == window and statistics.pstdev(last) < deviation):
                    cycle_end[row] = round(statistics.fmean(last))
            assert chosen_of(action, row) == sorted(expected)
        view = after(view, action)
    assert cycles >= 3
