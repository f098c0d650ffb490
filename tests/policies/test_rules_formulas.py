"""Rules that choose sets, against slow and direct transcriptions of their formulae.

Readings are multiples of 1/64, so that sums and products are exact and ties are frequent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from views import make_view, steps_of

from envs.view import Action, View
from policies import make_rule
from policies.rules.base import rank, top_k

SHARES = st.sampled_from([0.0, 1 / 64, 0.5, 0.75, 57 / 64, 1.0]) | st.integers(0, 64).map(lambda n: n / 64)
many = settings(max_examples=30, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Row:
    """A row of a view in plain lists."""

    confidence: list[float]
    entropy: list[float]
    margin: list[float]
    is_eos: list[float]
    left_out: list[float]
    known: list[float]
    masked: list[bool]
    step: int
    start: int
    end: int

    @property
    def block(self) -> range:
        return range(self.start, self.end)

    @property
    def eligible(self) -> list[int]:
        return [i for i in self.block if self.masked[i]]

    @property
    def committed(self) -> list[int]:
        return [i for i in self.block if not self.masked[i]]

    def best(self, score: Sequence[float], among: Iterable[int] | None = None) -> list[int]:
        """Eligible positions, the best first."""
        return sorted(self.eligible if among is None else among, key=lambda i: (-score[i], i))

    def confident(self, among: Iterable[int] | None = None) -> list[int]:
        return self.best(self.confidence, among)

    def or_best(self, wanted: Iterable[int]) -> set[int]:
        return set(wanted) or set(self.confident()[:1])


def at(where: Sequence[bool], values: Sequence[float]) -> list[float]:
    return [float(value) if here else 0.0 for here, value in zip(where, values, strict=True)]


@st.composite
def several_rows(draw: st.DrawFn) -> list[Row]:
    length = draw(st.integers(1, 9))
    start = draw(st.integers(0, length - 1))
    end, step = draw(st.integers(start + 1, length)), draw(st.integers(1, length + 1))
    numbers = st.lists(SHARES, min_size=length, max_size=length)
    bits = st.lists(st.booleans(), min_size=length, max_size=length)

    def row() -> Row:
        masked = draw(bits)
        confidence, entropy, margin = (at(masked, draw(numbers)) for _ in range(3))
        left_out, known = (at([not m for m in masked], [max(v, 1 / 64) for v in draw(numbers)]) for _ in range(2))
        is_eos = at(masked, draw(bits))
        return Row(confidence, entropy, margin, is_eos, left_out, known, masked, step, start, end)

    return [row() for _ in range(draw(st.integers(1, 3)))]


def view_of(rows: Sequence[Row]) -> View:
    return make_view(
        [row.confidence for row in rows],
        ["".join("x" if m else "." for m in row.masked) for row in rows],
        step=rows[0].step,
        block=(rows[0].start, rows[0].end),
        features={
            **{name: [getattr(row, name) for row in rows] for name in ("entropy", "margin", "is_eos")},
            "leave_one_out": [row.left_out for row in rows],
        },
        commit_confidence=[row.known for row in rows],
    )


def positions(chosen: torch.Tensor) -> list[set[int]]:
    return [{i for i, cell in enumerate(row) if cell} for row in chosen.tolist()]


def check(rule: str, rows: Sequence[Row], expected: Callable[[Row], set[int]]) -> Action:
    """Compare a rule's commits with a formula; rows without eligible positions commit nothing."""
    action = make_rule(rule).act(view_of(rows))
    assert positions(action.commit) == [expected(row) if row.eligible else set() for row in rows]
    return action


@pytest.mark.slow
@many
@given(rows=several_rows(), k=st.integers(1, 10))
def test_ranks_and_the_best_k(rows: list[Row], k: int) -> None:
    view = view_of(rows)
    ranks, chosen = rank(view.confidence, view.eligible), top_k(view.confidence, view.eligible, k)
    each = top_k(view.confidence, view.eligible, torch.arange(k, k + len(rows)))
    for number, row in enumerate(rows):
        assert [int(ranks[number, i]) for i in row.confident()] == list(range(len(row.eligible)))
        assert all(r >= len(row.masked) for i, r in enumerate(ranks[number].tolist()) if i not in row.eligible)
        assert positions(chosen)[number] == set(row.confident()[:k])
        assert positions(each)[number] == set(row.confident()[: k + number])


@many
@given(rows=several_rows(), k=st.integers(1, 10))
def test_linear_fixed_steps(rows: list[Row], k: int) -> None:
    check(f"low_confidence:{k}", rows, lambda row: set(row.confident()[:k]))
    check(f"margin:{k}", rows, lambda row: set(row.best(row.margin)[:k]))
    check(f"entropy:{k}", rows, lambda row: set(row.best([-h for h in row.entropy])[:k]))
    action = make_rule(f"random:{k}").act(view_of(rows))
    assert [len(some) for some in positions(action.commit)] == [min(k, len(row.eligible)) for row in rows]


def share(schedule: str, u: float) -> float:
    return {"linear": u, "cosine": 1 - math.cos(math.pi / 2 * u), "square": u * u, "root": math.sqrt(u)}[schedule]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "square", "root"])
@pytest.mark.parametrize("rule", ["low_confidence", "rcr"])
def test_schedules_commit_their_share_after_each_step(rule: str, schedule: str) -> None:
    for size in (1, 2, 3, 7, 12, 16, 33):
        for k in (1, 2, 3, 5, 16, 64):
            view = make_view([[0.9 - i / 100 for i in range(size)]])
            steps = steps_of(make_rule(f"{rule}:{k},schedule={schedule}"), view)
            planned, done, total = math.ceil(size / k), 0, 0
            for step, commit in enumerate(steps, start=1):
                # Rounding in double precision here, in single precision there.
                target = math.ceil(size * share(schedule, min(1.0, step / planned)) - 1e-4)
                if schedule == "linear":
                    target = min(size, k * step) if rule == "low_confidence" else target
                total = max(target, done + 1)
                assert commit.count("x") == total - done, (size, k, steps)
                done = total
            assert total == size
            assert len(steps) <= planned


@many
@given(rows=several_rows(), threshold=SHARES)
def test_threshold(rows: list[Row], threshold: float) -> None:
    check(
        f"threshold:{threshold}",
        rows,
        lambda row: row.or_best(i for i in row.eligible if row.confidence[i] >= threshold),
    )


@many
@given(rows=several_rows(), factor=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0, 1.5, 2.0, 5.0, 20.0]))
def test_factor(rows: list[Row], factor: float) -> None:
    def expected(row: Row) -> set[int]:
        order = row.confident()
        passing = [n for n, i in enumerate(order, start=1) if (n + 1) * (1 - row.confidence[i]) < factor]
        return set(order[: max(passing, default=1)])

    check(f"factor:{factor}", rows, expected)


@many
@given(rows=several_rows(), margin=st.sampled_from([0.0, 1 / 64, 0.125, 0.25, 0.5, 1.0]))
def test_frechet(rows: list[Row], margin: float) -> None:
    def expected(row: Row) -> set[int]:
        order = row.confident()
        scores = [
            sum(row.confidence[i] for i in order[:n]) - (n - 1) - (1 - row.confidence[order[n - 1]])
            for n in range(1, len(order) + 1)
        ]
        return set(order[: max((n for n, score in enumerate(scores, start=1) if score > margin), default=1)])

    check(f"frechet:{margin}", rows, expected)


@pytest.mark.parametrize("doubt", [1 / 64, 1 / 16, 1 / 8, 1 / 4])
@pytest.mark.parametrize("margin", [0.0, 0.25, 0.5])
def test_frechet_is_factor_where_all_are_equally_sure(doubt: float, margin: float) -> None:
    view = make_view([[1 - doubt] * 20])
    by_profile, by_factor = (make_rule(f"frechet:{margin}"), make_rule(f"factor:{1 - margin}"))
    assert torch.equal(by_profile.act(view).commit, by_factor.act(view).commit)


@pytest.mark.parametrize(("size", "k"), [(12, 1), (12, 2), (32, 4), (33, 4), (64, 8), (256, 16), (7, 16)])
def test_dreams_schedule(size: int, k: int) -> None:
    """Its released loop by hand, in float32; at least one a step, where it would commit none."""
    view = make_view([[0.9 - i / 1000 for i in range(size)]])
    found = [commit.count("x") for commit in steps_of(make_rule(f"low_confidence:{k},schedule=dream"), view)]
    steps, left, expected = -(-size // k), size, []
    times = np.linspace(1, 1e-3, steps + 1).astype(np.float32)
    for i in range(steps):
        share = np.float32(1) - times[i + 1] / times[i]
        expected.append(max(1, int(np.float32(left) * share)) if i < steps - 1 else left)
        left -= expected[-1]
    assert found == expected
    assert sum(found) == size
    assert len(found) == steps
    if k > 1 and size % k == 0:
        assert found == [k - 1, *[k] * (steps - 2), k + 1]


@many
@given(
    rows=several_rows(),
    gamma=st.sampled_from([0.0, 1 / 64, 0.25, 0.5, 1.0, 3.0]),
    order=st.sampled_from(["entropy", "confidence", "margin"]),
)
def test_eb_sampler(rows: list[Row], gamma: float, order: str) -> None:
    def expected(row: Row) -> set[int]:
        proxy = {"entropy": [-h for h in row.entropy], "confidence": row.confidence, "margin": row.margin}[order]
        best = row.best(proxy)

        def cost(n: int) -> float:
            taken = [row.entropy[i] for i in best[:n]]
            return sum(taken) - max(taken)

        return set(best[: max(n for n in range(1, len(best) + 1) if cost(n) <= gamma)])

    check(f"eb_sampler:{gamma},order={order}", rows, expected)


@many
@given(rows=several_rows(), tau=SHARES, gap=st.sampled_from([0.0, 0.125, 0.5]), radius=st.integers(1, 10))
def test_localleap(rows: list[Row], tau: float, gap: float, radius: int) -> None:
    relaxed = max(0.0, tau - gap)

    def expected(row: Row) -> set[int]:
        anchors = [i for i in row.eligible if row.confidence[i] >= tau]

        def bar(i: int) -> float:
            return relaxed if any(abs(i - j) <= radius for j in anchors) else tau

        return row.or_best(i for i in row.eligible if row.confidence[i] >= bar(i))

    check(f"localleap:{tau},relaxed={relaxed},radius={radius}", rows, expected)


@many
@given(rows=several_rows(), tau=SHARES, least=st.integers(1, 4), more=st.integers(0, 4), ratio=SHARES)
def test_cad(rows: list[Row], tau: float, least: int, more: int, ratio: float) -> None:
    def expected(row: Row) -> set[int]:
        if row.step - 1 >= len(row.block):
            return set(row.eligible)
        early = row.masked.count(False) < ratio * len(row.masked)
        allowed = [i for i in row.eligible if not (early and row.is_eos[i])]
        passing = sum(row.confidence[i] >= tau for i in allowed)
        return row.or_best(row.confident(allowed)[: min(max(passing, least), least + more)])

    check(f"cad:{tau},smallest={least},largest={least + more},eos_ratio={ratio}", rows, expected)


@many
@given(rows=several_rows(), k=st.integers(1, 4), active=st.integers(1, 8))
def test_window(rows: list[Row], k: int, active: int) -> None:
    check(f"window:{k},active={active}", rows, lambda row: set(row.confident(row.eligible[:active])[:k]))


@many
@given(rows=several_rows(), base=st.integers(2, 5))
def test_dus(rows: list[Row], base: int) -> None:
    def expected(row: Row) -> set[int]:
        dilation = max(1, len(row.block) // base**row.step)
        return {i for i in row.eligible if (i - row.start) % dilation == 0} or {min(row.eligible)}

    check(f"dus:{base}", rows, expected)


@pytest.mark.parametrize(("base", "sizes"), [(2, (1, 2, 4, 8, 16, 32)), (3, (1, 3, 9, 27)), (4, (1, 4, 16))])
def test_dus_takes_a_logarithm_of_steps(base: int, sizes: tuple[int, ...]) -> None:
    for power, size in enumerate(sizes):
        assert len(steps_of(make_rule(f"dus:{base}"), make_view([[0.5] * size]))) == max(1, power)


@many
@given(rows=several_rows(), low=SHARES, gap=st.sampled_from([0.0, 0.125, 0.5]))
def test_bacd(rows: list[Row], low: float, gap: float) -> None:
    high = min(1.0, low + gap)

    def expected(row: Row) -> set[int]:
        known = [row.known[i] for i in row.committed]
        middle = sum(known) / len(known) if known else max(row.confidence[i] for i in row.eligible)
        bar = min(max(middle, low), high)
        return row.or_best(i for i in row.eligible if row.confidence[i] >= bar - 1e-9)

    # Thirds aren't exact; a bar that a confidence meets all but exactly is left out.
    exact = [row for row in rows if len(row.committed) in (0, 1, 2, 4, 8)]
    if exact:
        check(f"bacd:{low},high={high}", exact, expected)


@many
@given(rows=several_rows(), tau=SHARES, ahead=st.integers(0, 3), least=st.integers(1, 3), explore=st.integers(1, 3))
def test_ete(rows: list[Row], tau: float, ahead: int, least: int, explore: int) -> None:
    def expected(row: Row) -> set[int]:
        reach = row.end + ahead * (row.end - row.start)
        sure = {i for i, m in enumerate(row.masked) if m and i < reach and row.confidence[i] >= tau}
        doubtful = [i for i in row.best([-c for c in row.confidence]) if i not in sure]
        return sure | set(doubtful[:explore] if len(sure) < least else [])

    later = [row for row in rows if row.eligible]
    if later:
        check(f"ete:{tau},ahead={ahead},least={least},explore={explore}", later, expected)


# Rules that take back.


@many
@given(
    rows=several_rows(),
    tau=SHARES,
    keep=SHARES,
    least=st.integers(1, 4),
    cap_share=st.sampled_from([0.0, 0.5, 0.75, 1.0]),
)
def test_wino(rows: list[Row], tau: float, keep: float, least: int, cap_share: float) -> None:
    def expected(row: Row) -> set[int]:
        cap = max(least, math.floor(cap_share * len(row.eligible)))
        return row.or_best(i for i in row.confident()[:cap] if row.confidence[i] > tau)

    action = check(f"wino:{tau},keep={keep},least={least},share={cap_share}", rows, expected)
    assert action.remask is not None
    for row, remasked in zip(rows, positions(action.remask), strict=True):
        doubted = [i for i in row.best([-q for q in row.left_out], row.committed) if row.left_out[i] < keep]
        assert remasked == set(doubted[: max(0, len(expected(row)) - 1)])


@many
@given(rows=several_rows(), k=st.integers(1, 4), schedule=st.sampled_from(["linear", "cosine", "square", "root"]))
def test_rcr(rows: list[Row], k: int, schedule: str) -> None:
    def kept(row: Row) -> set[int]:
        planned = math.ceil(len(row.block) / k)
        target = math.ceil(len(row.block) * share(schedule, min(1.0, row.step / planned)) - 1e-4)
        score = [row.confidence[i] if m else row.known[i] for i, m in enumerate(row.masked)]
        return set(row.best(score, row.block)[: max(target, len(row.committed) + 1)])

    action = check(f"rcr:{k},schedule={schedule}", rows, lambda row: kept(row) & set(row.eligible))
    assert action.remask is not None
    assert positions(action.remask) == [set(row.committed) - kept(row) for row in rows]


@many
@given(rows=several_rows(), k=st.integers(1, 3), late=st.sampled_from([0.0, 0.5, 0.75, 1.0]), loops=st.integers(0, 3))
def test_remdm(rows: list[Row], k: int, late: float, loops: int) -> None:
    action = check(f"remdm:{k},share={late},loops={loops}", rows, lambda row: set(row.confident()[:k]))
    assert action.remask is not None
    for row, remasked in zip(rows, positions(action.remask), strict=True):
        count = min(k, len(row.eligible))
        in_loop = loops > 0 and row.step > 1 and len(row.committed) >= late * len(row.block)
        lowest = row.best([-c for c in row.known], row.committed)
        assert remasked == set(lowest[:count] if in_loop else [])
