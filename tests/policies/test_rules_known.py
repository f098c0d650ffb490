"""Hand-computed cases of the rules that only choose positions, and have no memory."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from views import after, make_view, steps_of, written

from envs.decoding.settings import DecodingSettings
from envs.models.toy import ToyDenoiser
from envs.tasks.suite.form import form
from envs.view import View
from policies import make_rule
from policies.rules.oracle import Oracle
from policies.rules.pc_sampler import PCSampler


def chosen(rule: str, view: View) -> str:
    """What a rule commits of the only row."""
    [row] = written(make_rule(rule).act(view).commit)
    return row


# Fixed steps.


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
        ("threshold:1", ["..x.", "x..."]),
    ],
)
def test_confidence_alone(rule: str, expected: list[str]) -> None:
    view = make_view([[0.9, 0.5, 0.95, 0.2], [0.4, 0.4, 0.1, 0.2]])
    assert written(make_rule(rule).act(view).commit) == expected


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
    assert written(make_rule(rule).act(view).commit) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("margin:1", ".x.."),  # the first of equals
        ("margin:2", ".x.x"),
        ("margin:3", ".xxx"),
        ("entropy:1", "...x"),  # the lowest, although its confidence is the lowest too
        ("entropy:2", "x..x"),
        ("entropy:4", "xxxx"),
    ],
)
def test_margin_and_entropy(rule: str, expected: str) -> None:
    features = {"margin": [[0.1, 0.5, 0.3, 0.5]], "entropy": [[0.1, 0.5, 0.3, 0.05]]}
    assert chosen(rule, make_view([[0.9, 0.6, 0.7, 0.5]], features=features)) == expected


@pytest.mark.parametrize(
    ("schedule", "counts"),
    [
        ("linear", [2, 2, 2, 2]),
        ("cosine", [1, 2, 2, 3]),  # 8 (1 - cos(pi j / 8)) = 0.61, 2.34, 4.94, 8, rounded up
        ("square", [1, 1, 3, 3]),  # 8 (j / 4)^2 = 0.5, 2, 4.5, 8
        ("root", [4, 2, 1, 1]),  # 8 sqrt(j / 4) = 4, 5.66, 6.93, 8
    ],
)
def test_schedules_of_a_block_of_eight(schedule: str, counts: list[int]) -> None:
    view = make_view([[0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
    steps = steps_of(make_rule(f"low_confidence:2,schedule={schedule}"), view)
    assert [step.count("x") for step in steps] == counts
    assert "".join(step.replace(".", "") for step in steps) == "x" * 8
    assert steps[0].startswith("x" * counts[0])


def test_a_schedule_that_is_behind_catches_up_and_one_ahead_goes_on() -> None:
    confidence = [[0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]]
    assert chosen("low_confidence:2,schedule=root", make_view(confidence, step=3)) == "xxxxxxx."
    assert chosen("low_confidence:2,schedule=root", make_view(confidence, [".....xxx"])) == ".....x.."


# Thresholds.


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("factor:1", "x.x."),  # 2 * 0.05 and 3 * 0.1 are less than 1, 4 * 0.5 is not
        ("factor:2.5", "xxx."),
        ("factor:2", "x.x."),  # 4 * 0.5 = 2 is not less than 2
        ("factor:0.2", "..x."),
        ("factor:0.05", "..x."),  # nothing passes
        ("factor:0", "..x."),
        ("factor:5", "xxxx"),
    ],
)
def test_factor(rule: str, expected: str) -> None:
    assert chosen(rule, make_view([[0.9, 0.5, 0.95, 0.2]])) == expected


def test_factor_commits_everything_that_is_certain() -> None:
    assert chosen("factor:0.1", make_view([[1.0, 1.0, 1.0]], ["x.x"])) == "x.x"


@pytest.mark.parametrize(
    ("confidence", "masked", "rule", "expected"),
    [
        ([0.8, 0.95, 0.6, 0.8, 0.1], "xxxxx", "localleap:0.9,radius=1", "xx..."),
        ([0.8, 0.95, 0.6, 0.8, 0.1], "xxxxx", "localleap:0.9,radius=2", "xx.x."),
        ([0.8, 0.95, 0.6, 0.8, 0.1], "xxxxx", "localleap:0.9,radius=2,relaxed=0.6", "xxxx."),
        ([0.8, 0.95, 0.6, 0.8, 0.1], "xxxxx", "localleap:0.9,radius=9,relaxed=0", "xxxxx"),
        ([0.8, 0.85, 0.6, 0.8, 0.1], "xxxxx", "localleap:0.9", ".x..."),  # no anchor
        ([0.9, 0.8, 0.85, 0.8, 0.1], ".xxxx", "localleap:0.9", "..x.."),  # what is committed is no anchor
        ([0.9, 0.7, 0.7, 0.7, 0.75], "xxxxx", "localleap:0.9", "x...x"),  # 0.75 itself, 4 positions away
    ],
)
def test_localleap(confidence: list[float], masked: str, rule: str, expected: str) -> None:
    assert chosen(rule, make_view([confidence], [masked])) == expected


def test_localleap_takes_no_anchor_from_a_later_block() -> None:
    assert chosen("localleap:0.9", make_view([[0.8, 0.85, 0.95, 0.99]], block=(0, 2))) == ".x.."


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Sorted by entropy 0.02, 0.05, 0.08, 0.3: sum less maximum is 0, 0.02, 0.07, 0.15.
        ("eb_sampler:0", "..x."),
        ("eb_sampler:0.01", "..x."),
        ("eb_sampler:0.03", "x.x."),
        ("eb_sampler:0.1", "x.xx"),
        ("eb_sampler:0.2", "xxxx"),
        # By confidence 0.05, 0.3, 0.02, 0.08: 0, 0.05, 0.07, 0.15.
        ("eb_sampler:0.03,order=confidence", "x..."),
        ("eb_sampler:0.06,order=confidence", "xx.."),
        ("eb_sampler:0.1,order=confidence", "xxx."),
        # By margin 0.02, 0.08, 0.3, 0.05: 0, 0.02, 0.1, 0.15.
        ("eb_sampler:0.06,order=margin", "..xx"),
        ("eb_sampler:0.12,order=margin", ".xxx"),
    ],
)
def test_eb_sampler(rule: str, expected: str) -> None:
    features = {"entropy": [[0.05, 0.3, 0.02, 0.08]], "margin": [[0.1, 0.2, 0.9, 0.3]]}
    assert chosen(rule, make_view([[0.9, 0.8, 0.7, 0.6]], features=features)) == expected


def test_eb_sampler_with_no_budget_still_takes_what_is_certain() -> None:
    features = {"entropy": [[0.0, 0.2, 0.0]], "margin": [[0.0] * 3]}
    assert chosen("eb_sampler:0", make_view([[0.5] * 3], features=features)) == "xxx"  # 0, 0, 0.2: none before it


def test_eb_sampler_counts_no_position_outside_the_block() -> None:
    features = {"entropy": [[0.5, 0.4, 0.0, 0.0]], "margin": [[0.0] * 4]}
    assert chosen("eb_sampler:0.3", make_view([[0.5] * 4], features=features, block=(0, 2))) == ".x.."


@pytest.mark.parametrize(
    ("rule", "eos", "masked", "expected"),
    [
        ("cad", [0, 0, 0, 0], "xxxx", "xx.."),
        ("cad:0.999", [0, 0, 0, 0], "xxxx", "x..."),
        ("cad:0.95,smallest=3", [0, 0, 0, 0], "xxxx", "xxx."),
        ("cad:0,largest=2", [0, 0, 0, 0], "xxxx", "xx.."),
        ("cad:0,largest=1", [0, 0, 0, 0], "xxxx", "x..."),
        ("cad", [1, 0, 0, 0], "xxxx", ".x.."),  # the end of the text waits
        ("cad:0.95,eos_ratio=0", [1, 0, 0, 0], "xxxx", "xx.."),
        ("cad:0.95,smallest=2", [1, 0, 0, 0], "xxxx", ".xx."),
        ("cad", [1, 1, 1, 1], "xxxx", "x..."),  # nothing else is left
        ("cad", [0, 1, 0, 0], ".xxx", "..x."),  # a quarter of the row is not 0.3 of it
        ("cad", [0, 0, 1, 0], "..xx", "..x."),
        ("cad:0.95,eos_ratio=0.5", [0, 0, 1, 0], "..xx", "..x."),
        ("cad:0.95,eos_ratio=0.6", [0, 0, 1, 0], "..xx", "...x"),
    ],
)
def test_cad(rule: str, eos: list[int], masked: str, expected: str) -> None:
    features = {"is_eos": [[float(value) for value in eos]]}
    assert chosen(rule, make_view([[0.99, 0.97, 0.9, 0.5]], [masked], features=features)) == expected


@pytest.mark.parametrize(("step", "expected"), [(4, ".x...."), (5, ".x.x..")])
def test_cad_ends_a_block_that_took_as_many_steps_as_positions(step: int, expected: str) -> None:
    features = {"is_eos": [[0.0, 0.0, 0.0, 1.0, 0.0, 0.0]]}
    view = make_view([[0.4] * 6], [".x.xxx"], step=step, block=(0, 4), features=features)
    assert chosen("cad:0.95,eos_ratio=1", view) == expected


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [
        ([0.70, 0.65, 0.5, 0.1], "x..."),  # at first the best in sight is the bar
        ([0.97, 0.95, 0.5, 0.1], "xx.."),  # at most 0.9
        ([0.50, 0.40, 0.5, 0.1], "x..."),  # at least 0.6, which nothing passes
    ],
)
def test_bacd_begins_with_the_best_in_sight(confidence: list[float], expected: str) -> None:
    assert chosen("bacd", make_view([confidence])) == expected


@pytest.mark.parametrize(
    ("rule", "committed", "expected"),
    [
        ("bacd", [0.8, 0.7], "..xx.."),  # mean 0.75
        ("bacd", [0.9, 0.7], "..x..."),
        ("bacd", [0.9, 0.98], "..x..."),
        ("bacd:0.6,high=0.7", [0.9, 0.98], "..xxx."),
        ("bacd", [0.5, 0.3], "..xxx."),  # not under 0.6
        ("bacd:0.3", [0.5, 0.3], "..xxxx"),
        ("bacd:0.9", [0.5, 0.3], "..x..."),
    ],
)
def test_bacd_goes_on_with_the_mean_of_what_was_committed(rule: str, committed: list[float], expected: str) -> None:
    view = make_view([[0, 0, 0.85, 0.76, 0.7, 0.5]], ["..xxxx"], step=3, commit_confidence=[[*committed, 0, 0, 0, 0]])
    assert chosen(rule, view) == expected


@pytest.mark.parametrize(
    ("confidence", "masked", "known", "given", "expected"),
    [
        (
            [0, 0, 0.85, 0.76, 0.7, 0.5],
            "..xxxx",
            [1, 0.7, 0, 0, 0, 0],
            [5, -1, -1, -1, -1, -1],
            "..xxx.",
        ),  # the mean of 0.7
        ([0, 0.8, 0.8, 0.7], ".xxx", [1, 0, 0, 0], [5, -1, -1, -1], ".xx."),  # none yet: the best in sight, twice
        ([0.8, 0, 0.7, 0.65], "x.xx", [0, 1, 0, 0], [-1, 5, -1, -1], "x..."),
    ],
)
def test_bacd_counts_no_token_that_was_given(
    confidence: list[float], masked: str, known: list[float], given: list[int], expected: str
) -> None:
    tensors = {"given": torch.tensor([given])}
    view = make_view([confidence], [masked], step=2, commit_confidence=[known], tensors=tensors)
    assert chosen("bacd", view) == chosen("tccf", view) == expected


def test_bacd_forgets_the_block_before() -> None:
    known = [[0.99, 0.99, 0.7, 0.0, 0.0]]
    view = make_view([[0, 0, 0, 0.75, 0.65]], ["...xx"], step=4, block=(2, 5), commit_confidence=known)
    assert chosen("bacd", view) == "...x."


# Orders that don't ask for confidence alone.


@pytest.mark.parametrize(
    ("masked", "rule", "expected"),
    [
        ("xxxx", "window:1,active=2", ".x.."),
        ("xxxx", "window:2,active=3", ".xx."),
        ("xxxx", "window:3,active=2", "xx.."),
        (".xxx", "window:1,active=2", "..x."),
        (".x.x", "window:1,active=1", ".x.."),
        ("xxxx", "window:1", "..x."),
    ],
)
def test_window(masked: str, rule: str, expected: str) -> None:
    assert chosen(rule, make_view([[0.1, 0.9, 0.95, 0.92]], [masked])) == expected


@pytest.mark.parametrize(
    ("base", "size", "expected"),
    [
        (2, 8, ["x...x...", "..x...x.", ".x.x.x.x"]),
        (3, 9, ["x..x..x..", ".xx.xx.xx"]),
        (4, 8, ["x.x.x.x.", ".x.x.x.x"]),
        (8, 8, ["xxxxxxxx"]),
        (2, 1, ["x"]),
    ],
)
def test_dus_ignores_what_the_model_believes(base: int, size: int, expected: list[str]) -> None:
    for confidence in ([0.9, *[0.1] * (size - 1)], [0.1] * size):
        assert steps_of(make_rule(f"dus:{base}"), make_view([confidence])) == expected


def test_dus_counts_from_the_blocks_start_and_never_stops() -> None:
    assert chosen("dus:2", make_view([[0.5] * 7], block=(3, 7))) == "...x.x."
    assert chosen("dus:2", make_view([[0.5] * 4], [".x.x"])) == ".x.."


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # c * surprise: 0.9, 2.5, 16, 1.8; times exp(-i / 2): 1, 0.61, 0.37, 0.22.
        ("pc_sampler:1,decay=0.5,cap=99", "..x."),  # 0.9, 1.52, 5.9, 0.4
        ("pc_sampler:2,decay=0.5,cap=99", ".xx."),
        ("pc_sampler:1,decay=0.5,cap=3", ".x.."),  # 0.9, 1.52, 1.1, 0.4
        ("pc_sampler:1,decay=2", "x..."),  # 0.9, 0.34, 0.18, 0.004
        ("pc_sampler:1,decay=0,cap=99", "..x."),
        ("pc_sampler:1,decay=0,cap=1", ".x.."),  # all but the first reach the cap: the first of equals
    ],
)
def test_pc_sampler(rule: str, expected: str) -> None:
    made = make_rule(rule)
    assert isinstance(made, PCSampler)
    made = replace(made, surprise=torch.tensor([1.0, 2.0, 5.0, 20.0]))
    view = make_view([[0.9, 0.5, 0.8, 0.9]], prediction=[[0, 2, 77, 1]])  # 77 was never seen: the last entry
    assert written(made.act(view).commit) == [expected]


def test_pc_sampler_counts_a_file_with_one_added(toy: ToyDenoiser, tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"5": 3, "7": 0}))
    rule = make_rule(f"pc_sampler:1,frequencies={path}").bind(toy, DecodingSettings(8, 8))
    assert isinstance(rule, PCSampler)
    assert rule.surprise is not None
    # Tokens 0 to 7 and one for all others: 9 + 3 counts.
    assert rule.surprise.tolist() == pytest.approx([-math.log(4 / 12 if i == 5 else 1 / 12) for i in range(9)])
    assert rule.name == f"pc_sampler:1,frequencies={path}"


@pytest.mark.slow
def test_pc_sampler_finds_end_of_text_common_in_the_suite(toy: ToyDenoiser) -> None:
    rule = PCSampler().bind(toy, DecodingSettings(8, 8))
    assert rule.surprise is not None
    assert rule.surprise.exp().reciprocal().sum().item() == pytest.approx(1)
    words = [toy.encode_prompt(word)[0] for word in ("a", "7", "99", "=")]
    assert all(rule.surprise[toy.eos_id] < rule.surprise[word] for word in words)


@pytest.mark.parametrize("content", [None, "{", '{"a": 1}', '{"1": "x"}', "[1, 2]"])
def test_pc_sampler_names_an_unreadable_file(toy: ToyDenoiser, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "counts.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"pc_sampler's frequencies is .*counts\.json.*not readable"):
        make_rule(f"pc_sampler:1,frequencies={path}").bind(toy, DecodingSettings(8, 8))


@pytest.mark.parametrize("rule", ["pc_sampler", "oracle", "guided"])
def test_a_rule_that_was_not_bound_says_so(rule: str) -> None:
    with pytest.raises(ValueError, match=rf"{rule} has no .* call bind\(denoiser, settings\) first"):
        make_rule(rule).act(make_view([[0.5, 0.5]], tensors={"prompt": [[5, 6]]}))


# The oracle.


def oracle_view(toy: ToyDenoiser, words: str, **others: Any) -> View:
    """Predictions that are right where `words` says what the prompt's cells are."""
    tensors = {"prompt": [toy.encode_prompt(form("copy", list("abcd")))], "given": [[-1] * 4]}
    return make_view([[0.3, 0.9, 0.5, 0.6]], prediction=[toy.encode_prompt(words)], tensors=tensors, **others)


@pytest.mark.parametrize(
    ("words", "masked", "expected"),
    [
        ("a b c d", "xxxx", "xxxx"),
        ("a z c z", "xxxx", "x.x."),  # however confident the others are
        ("a b c d", ".xx.", ".xx."),
        ("z z z z", "xxxx", ".x.."),  # none agrees: the most confident
        ("b c d a", "x.xx", "...x"),
    ],
)
def test_oracle(toy: ToyDenoiser, words: str, masked: str, expected: str) -> None:
    rule = Oracle().bind(toy, DecodingSettings(4, 4))
    assert written(rule.act(oracle_view(toy, words, eligible=[masked])).commit) == [expected]


def test_oracle_decodes_each_reference_once(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = ToyDenoiser()
    rule = Oracle().bind(toy, DecodingSettings(4, 4))
    view = oracle_view(toy, "a z z d")
    action = rule.act(view)
    monkeypatch.setattr(toy, "logits", None)
    assert written(rule.act(after(view, action)).commit) == [".x.."]
