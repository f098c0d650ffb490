from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from views import make_view, random_view, take, written

from envs.decoding import DecodingSettings
from envs.tasks.base import form
from envs.toy import ToyDenoiser
from policies import RULES, LowConfidence, Random, decode, make_rule
from policies.rules.base import top_k

EVERY_RULE = [f"{name}:{knob}" for name in RULES for knob in (1, 2)] + ["threshold:0.5", "threshold:0"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("low_confidence:1", ["..x.", "x..."]),
        ("low_confidence:2", ["x.x.", "xx.."]),
        ("low_confidence:9", ["xxxx", "xxxx"]),
        ("threshold:0.9", ["x.x.", "x..."]),  # 0.9 itself passes; the second row falls back to its first best
        ("threshold:0.96", ["..x.", "x..."]),
        ("threshold:0.3", ["xxx.", "xx.."]),
        ("threshold:0", ["xxxx", "xxxx"]),
        ("threshold:1.5", ["..x.", "x..."]),
    ],
)
def test_hand_computed_choices(rule: str, expected: list[str]) -> None:
    view = make_view([[0.9, 0.5, 0.95, 0.2], [0.4, 0.4, 0.1, 0.2]])
    assert written(make_rule(rule).select(view)) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("low_confidence:1", [".x..", "...x"]),
        ("low_confidence:3", [".x.x", "...x"]),
        ("threshold:0.9", [".x..", "...x"]),  # committed positions have confidence 1 and must not count
        ("threshold:0.1", [".x.x", "...x"]),
        ("random:2", [".x.x", "...x"]),
    ],
)
def test_only_eligible_positions_compete(rule: str, expected: list[str]) -> None:
    view = make_view([[0.99, 0.5, 0.95, 0.2], [0.4, 0.4, 0.1, 0.02]], [".x.x", "...x"])
    assert written(make_rule(rule).select(view)) == expected


def test_random_is_uniform_over_subsets_and_blind_to_confidence() -> None:
    rows = 6000
    view = make_view([[0.9, 0.1, 0.5, 0.3, 0.2]] * rows, ["xx.xx"] * rows, step=2)
    chosen = Random(2).select(view)
    counts = {pair: 0 for pair in combinations((0, 1, 3, 4), 2)}
    for row in chosen.tolist():
        counts[tuple(i for i, cell in enumerate(row) if cell)] += 1  # type: ignore[index]
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    blind = Random(2).select(make_view([[0.1, 0.9, 0.5, 0.3, 0.2]] * rows, ["xx.xx"] * rows, step=2))
    later = Random(2).select(make_view([[0.9, 0.1, 0.5, 0.3, 0.2]] * rows, ["xx.xx"] * rows, step=3))
    assert torch.equal(chosen, blind)
    assert (chosen == later).all(1).float().mean().item() == pytest.approx(1 / 6, abs=0.02)


@given(
    rows=st.lists(
        st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=6, max_size=6),
        min_size=1,
        max_size=4,
    ),
    k=st.integers(1, 7),
)
def test_top_k_against_brute_force(rows: list[list[tuple[float, bool]]], k: int) -> None:
    score = torch.tensor([[value for value, _ in row] for row in rows])
    eligible = torch.tensor([[may for _, may in row] for row in rows])
    for row, chosen in zip(rows, top_k(score, eligible, k).tolist(), strict=True):
        best = sorted((i for i, (_, may) in enumerate(row) if may), key=lambda i: (-row[i][0], i))[:k]
        assert [i for i, cell in enumerate(chosen) if cell] == sorted(best)


@pytest.mark.parametrize("rule", EVERY_RULE)
def test_invariants_of_every_rule(rule: str) -> None:
    policy, view = make_rule(rule), random_view(48, 8)
    chosen = policy.act(view).commit
    assert chosen.dtype == torch.bool
    assert not (chosen & ~view.eligible).any()
    assert torch.equal(chosen.any(1), view.eligible.any(1))
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    assert torch.equal(policy.act(take(view, order)).commit, chosen[order])
    for row in range(48):
        assert torch.equal(policy.act(take(view, [row])).commit[0], chosen[row])


@pytest.mark.parametrize("k", [1, 2, 3, 5, 12, 20])
@pytest.mark.parametrize("block", [12, 4])
@pytest.mark.parametrize("rule", ["low_confidence", "random"])
def test_forwards_are_exact_when_no_text_ends_early(toy: ToyDenoiser, rule: str, block: int, k: int) -> None:
    prompts = [form("copy", list(letters)) for letters in ("abcdefghijkl", "zyxwvutsrqpo")]  # 12 cells, no end-of-text
    done = decode(toy, prompts, make_rule(f"{rule}:{k}"), DecodingSettings(12, block))
    assert [generation.nfe for generation in done] == [12 // block * math.ceil(block / k)] * 2
    assert [generation.text for generation in done] == ["a b c d e f g h i j k l", "z y x w v u t s r q p o"]


@pytest.mark.parametrize(("rule", "nfe"), [("threshold:0", {12: 1, 4: 3, 1: 12}), ("threshold:2", {12: 12, 4: 12})])
def test_forwards_of_the_threshold_rule_at_its_ends(toy: ToyDenoiser, rule: str, nfe: dict[int, int]) -> None:
    for block, expected in nfe.items():
        [done] = decode(toy, [form("copy", list("abcdefghijkl"))], make_rule(rule), DecodingSettings(12, block))
        assert done.nfe == expected


@pytest.mark.parametrize("k", [1, 3, 4])
def test_low_confidence_never_takes_more_than_its_steps(toy: ToyDenoiser, k: int) -> None:
    prompts = [form("copy", list("abcdefghij"[:size])) for size in range(2, 10)]
    for done in decode(toy, prompts, LowConfidence(k), DecodingSettings(16, 16)):
        assert done.nfe <= math.ceil(16 / k)


@pytest.mark.parametrize(
    "text", ["low_confidence:3", "random:1", "threshold:0.9", "threshold:0", "threshold:0.99999999"]
)
def test_a_rules_name_makes_it_again(text: str) -> None:
    rule = make_rule(text)
    again = make_rule(rule.name)
    assert (type(again), vars(again), again.name) == (type(rule), vars(rule), rule.name)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("greedy:1", "greedy:1"),
        ("", "''"),
        ("threshold:", "threshold:"),
        ("threshold:high", "threshold:high"),
        ("threshold:-0.1", "-0.1"),
        ("threshold:nan", "nan"),
        ("low_confidence:0", "0"),
        ("low_confidence:1.5", "1.5"),
        ("random:-2", "-2"),
        ("random:nan", "random.*nan"),
        ("low_confidence:inf", "low_confidence.*inf"),
    ],
)
def test_impossible_rules_are_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make_rule(text)
