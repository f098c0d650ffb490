from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import read_page
from records import outcomes, ppo_config, write_run
from scipy import stats

from train.command.errors import UserError
from train.comparison.headlines import headlines
from train.comparison.lines import Line, collect_lines
from train.comparison.page import Column, Section, Table, cell, to_html, to_markdown
from train.comparison.report import curves, differences, find
from train.comparison.runs import read_runs, training_seconds
from train.evaluation.frontiers import aup, aups, hypervolume
from train.evaluation.measures import (
    bootstrap_interval,
    difference_of_means,
    find_rival,
    fisher,
    holm,
    mcnemar,
    share_saved,
    welch,
    wilcoxon,
)
from train.evaluation.records import make_record, summarise
from train.evaluation.table import print_table


def test_mcnemar_against_published_values() -> None:
    # Fagerland, Lydersen and Laake 2013, "The McNemar test for binary matched-pairs data": 21 children before and
    # after stem cell transplantation, 1 and 7 of them discordant; exact conditional p = 0.070.
    assert mcnemar(1, 7) == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar(7, 1) == mcnemar(1, 7)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 64)


def test_wilcoxon_against_darwins_maize() -> None:
    # Heights of cross- and self-fertilised plants, in eighths of an inch; p as in SciPy's manual.
    difference = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75], dtype=float)
    assert wilcoxon(difference + 100, np.full(15, 100.0)) == pytest.approx(0.04125976562)
    assert wilcoxon(difference, difference) == 1.0


def test_fisher_against_the_lady_tasting_tea() -> None:
    first, second = (
        make_record("a", "sample", "all", 8, 0, [(float(i < right), 1, 1) for i in range(4)]) for right in (3, 1)
    )
    assert fisher(first, second) == pytest.approx(0.4857, abs=5e-5)


def test_welch_is_that_of_the_raw_values() -> None:
    samples = [[1, 2, 2, 5, 3], [4, 6, 5, 9, 3, 7]]
    records = [make_record("a", "sample", "all", 8, 0, [(1.0, n, n) for n in sample]) for sample in samples]
    assert welch(*records) == pytest.approx(float(stats.ttest_ind(*samples, equal_var=False).pvalue))
    constant = [make_record("a", "sample", "all", 8, 0, [(1.0, n, n)] * 3) for n in (1, 2)]
    assert (welch(constant[0], constant[1]), welch(constant[0], constant[0])) == (0.0, 1.0)


def test_shares_are_not_counted_as_right_or_wrong() -> None:
    samples = [[0.25, 0.5, 0.5, 1.0, 0.8], [0.3, 0.4, 0.45, 0.2, 0.5, 0.6]]
    records = [make_record("a", "sample", "all", 8, 0, [(score, 1, 1) for score in sample]) for sample in samples]
    assert records[0]["accuracy_ci95"][1] < 1
    assert fisher(*records) == pytest.approx(float(stats.ttest_ind(*samples, equal_var=False).pvalue))
    near_one = make_record("a", "sample", "all", 8, 0, [(score, 1, 1) for score in (0.7, 1.0, 1.0)])
    assert near_one["accuracy_ci95"][1] == 1.0  # cut, so the spread is read from the other edge
    other = [0.3, 0.4, 0.45, 0.2, 0.5, 0.6]
    expected = float(stats.ttest_ind([0.7, 1.0, 1.0], other, equal_var=False).pvalue)
    assert fisher(near_one, records[1]) == pytest.approx(expected)


def test_means_of_samples_are_not_counted_even_where_they_add_up() -> None:
    """Of two answers to each of 20 problems; their sums are 10 and 15, but no problems that were solved."""
    samples = [[1.0, 0.0, 0.5, 0.5] * 5, [1.0, 0.5, 1.0, 0.5] * 5]
    records = [make_record("a", "sample", "all", 8, 0, [(score, 1, 1) for score in sample]) for sample in samples]
    expected = float(stats.ttest_ind(*samples, equal_var=False).pvalue)
    assert fisher(*({**record, "samples": 2} for record in records)) == pytest.approx(expected)
    assert fisher(*records) == pytest.approx(float(stats.fisher_exact([[10, 15], [10, 5]])[1]))


@pytest.mark.slow
def test_paired_shares_are_ranked(tmp_path: Path) -> None:
    first, second = [0.5, 0.7, 0.9, 0.6, 0.8, 0.75, 0.55, 0.65], [0.4, 0.5, 0.6, 0.2, 0.3, 0.15, 0.65, 0.35]
    entries = [outcomes("learned", first, [2, 3] * 4), outcomes("threshold:0.9", second, [3, 4] * 4)]
    runs = read_runs([str(write_run(tmp_path / "x_s0", entries, ppo_config()))])
    [row] = find(runs, collect_lines(runs), ["threshold"], 0.5)["tests"]
    assert (row["paired"], row["only_policy"], row["only_rule"]) == (True, None, None)
    assert row["accuracy_p"] == wilcoxon(np.array(first), np.array(second)) < 0.05
    assert row["accuracy_difference"]["mean"] == pytest.approx(np.mean(first) - np.mean(second))


def test_holm_as_r_does() -> None:
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])  # p.adjust(p, "holm")
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.8, 0.9]) == [1.0, 1.0]  # not the 1.6 that it is scaled to
    assert holm([]) == []


def test_bootstrap_keeps_problems_together() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(1, 9, 200).astype(float)
    # Twice as many forwards on each problem: the share saved is a half in every resample.
    assert bootstrap_interval(share_saved, first, 2 * first) == pytest.approx([0.5, 0.5])
    assert bootstrap_interval(difference_of_means, first + 1, first) == pytest.approx([1.0, 1.0])
    noise = rng.normal(size=200)
    low, high = bootstrap_interval(difference_of_means, first + noise, first)
    half = 1.96 * noise.std() / np.sqrt(200)
    assert [low, high] == pytest.approx([noise.mean() - half, noise.mean() + half], abs=0.02)
    assert bootstrap_interval(share_saved, np.array([1.0]), np.array([4.0])) == [0.75, 0.75]
    assert bootstrap_interval(lambda values, axis: values.sum(axis, keepdims=True), np.array([2.0])) == [2.0, 2.0]
    assert bootstrap_interval(difference_of_means, first + noise, first) == [low, high]  # the same page each time
    two = bootstrap_interval(difference_of_means, np.array([1.0, 3.0]), np.array([0.0, 0.0]))
    assert two == [1.0, 3.0]  # of two problems, each of the two alone


def test_a_rival_is_sought_within_the_tolerance_that_is_given() -> None:
    curve = [{"accuracy": 0.90, "nfe": 2.0}, {"accuracy": 0.94, "nfe": 3.0}, {"accuracy": 0.99, "nfe": 5.0}]
    assert find_rival(curve, 0.95, 0.06).record["nfe"] == 2.0
    assert find_rival(curve, 0.95, 0.02).record["nfe"] == 3.0
    assert not find_rival(curve, 0.95, 0.001).is_comparable


def test_hypervolume_of_a_staircase() -> None:
    # Four steps, as of (4, 1), (3, 2), (2, 3), (1, 4) in a square of 16: they cover 10.
    stairs = [(1.0, 4.0), (0.75, 2.0), (0.5, 4 / 3), (0.25, 1.0)]
    assert hypervolume(stairs, 0.0) == pytest.approx(10 / 16)
    assert hypervolume([*stairs, (0.25, 3.0), (0.75, 2.0)], 0.0) == pytest.approx(10 / 16)  # dominated ones add nothing
    assert hypervolume([(1.0, 1.0)], 0.5) == 1.0
    assert hypervolume([(0.5, 1.0), (0.2, 2.0)], 0.5) == 0.0
    assert hypervolume([], 0.5) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), max_size=6), st.integers(0, 19))
def test_hypervolume_is_the_area_counted_cell_by_cell(points: list[tuple[int, int]], reference: int) -> None:
    # Speeds in twentieths, so that every corner lies on the grid.
    cells = sum(any(a > x and s > y for a, s in points) for x in range(reference, 20) for y in range(20))
    area = cells / (20 * (20 - reference))
    assert hypervolume([(a / 20, 20 / s) for a, s in points], reference / 20) == pytest.approx(area)


def lines_of(*folders: Path) -> list[Line]:
    return collect_lines(read_runs([str(folder) for folder in folders]))


RIGHT, WRONG = [1] * 8, [0] * 8


def test_runs_that_differ_by_seed_only_are_one_line(tmp_path: Path) -> None:
    rule = outcomes("threshold:0.9", RIGHT, [4] * 8)
    folders = [
        write_run(tmp_path / f"wide_s{seed}", [outcomes("learned", RIGHT, [2 + seed] * 8), rule], ppo_config(seed))
        for seed in (0, 1, 2)
    ]
    other = write_run(tmp_path / "fast_s0", [outcomes("learned", RIGHT, [1] * 8)], ppo_config(0, alpha=20.0))
    lines = lines_of(*folders, other)
    about = [(line.policy, line.is_learned, [r.record["nfe"] for r in line.replicates]) for line in lines]
    # A rule without chance is the same in all runs.
    assert about == [("wide", True, [2.0, 3.0, 4.0]), ("threshold:0.9", False, [4.0]), ("fast_s0", True, [1.0])]


def test_an_evaluation_finds_the_runs_that_its_policies_come_from(tmp_path: Path) -> None:
    for name, alpha, seed in (("a_s0", 4.0, 0), ("a_s1", 4.0, 1), ("b", 8.0, 0)):
        folder = tmp_path / name
        (folder / "policy").mkdir(parents=True)
        (folder / "config.yaml").write_text(json.dumps(ppo_config(seed, alpha)))
        (folder / "progress.csv").write_text("time/total_timesteps,time/time_elapsed\n10,60\n")
    entries = [
        outcomes(f"learned:{name}{suffix}", RIGHT, [nfe] * 8)
        for name, nfe in (("a_s0", 1), ("a_s1", 2), ("b", 3))
        for suffix in ("", "@0.9")
    ]
    policies = [str(tmp_path / name / "policy") for name in ("a_s0", "a_s1", "b")]
    config = {"policy": [*policies, "threshold:0.9"], "episodes": 4, "model": {"name": "toy"}, "buffer_length": 8}
    run = write_run(tmp_path / "evaluated", entries, config)
    lines = lines_of(run)
    assert [(x.policy, x.family, len(x.replicates)) for x in lines] == [
        ("a", "a", 2),
        ("a@0.9", "a", 2),
        ("b", "b", 1),
        ("b@0.9", "b", 1),
    ]
    found = find(read_runs([str(run)]), lines, ["threshold"], 0.5)
    assert found["settings"][0]["training_seconds"] == {"mean": 60.0, "problems": None, "seeds": [60.0, 60.0]}
    # The same policies in their own runs, on the same problems, are no further seeds.
    own = write_run(tmp_path / "x", [outcomes("learned", RIGHT, [3] * 8)])
    (own / "evaluation.json").rename(tmp_path / "b" / "evaluation.json")
    assert [len(line.replicates) for line in lines_of(run, tmp_path / "b") if line.policy == "b"] == [1]


def test_seeds_in_bare_records_go_by_their_names(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [outcomes(f"learned:{n}", RIGHT, [2] * 8) for n in ("x_s0", "x_s1", "y")])
    (run / "evaluation.json").rename(tmp_path / "some.json")
    lines = lines_of(tmp_path / "some.json")
    assert [(line.policy, len(line.replicates)) for line in lines] == [("x", 2), ("y", 1)]
    assert lines[0].problems.buffer_length is None


def test_a_paired_test_by_hand(tmp_path: Path) -> None:
    """Seven problems that only the rule solves, one that only the policy does; half the forwards on each."""
    score = [0] * 7 + [1] * 13
    learned = outcomes("learned", score, [1, 2] * 10)
    rule = outcomes("threshold:0.9", [1] * 7 + [0] + [1] * 12, [2, 4] * 10)
    run = write_run(tmp_path / "run", [learned, rule], ppo_config())
    found = find(read_runs([str(run)]), lines_of(run), ["threshold"], 0.5)
    [row] = found["tests"]
    assert (row["paired"], row["n"], row["only_policy"], row["only_rule"]) == (True, 20, 1, 7)
    assert row["accuracy_p"] == pytest.approx(0.0703, abs=5e-5)
    assert row["accuracy_difference"]["mean"] == pytest.approx(-0.3)
    assert (row["saved"], row["is_comparable"]) == (None, False)  # thirty points apart
    assert row["nfe_difference"]["mean"] == -1.5
    assert row["nfe_p"] == wilcoxon(np.array(learned["nfe"], float), np.array(rule["nfe"], float)) < 0.001
    assert row["verdict"] == "no rule at its accuracy"
    [saved] = found["savings"]
    assert (saved["rule"], saved["saved"], saved["rule_nfe"]["mean"]) == ("threshold:0.9", None, 3.0)
    assert [row["task"] for row in found["tasks"]] == ["copy", "sort", "all"]
    assert [row["accuracy"]["mean"] for row in found["tasks"]] == pytest.approx([0.3, 1.0, 0.65])
    setting = found["settings"][0]
    assert setting["buffer_per_forward"]["mean"] == pytest.approx(8 / 1.5)
    assert setting["tokens_per_forward"] is None  # runs that don't say how many tokens an answer has
    assert setting["evaluation_seconds"]["mean"] == 2.0
    assert setting["token_positions"]["problems"][0] < 30 < setting["token_positions"]["problems"][1]


@pytest.mark.parametrize(("count", "is_claimed"), [(4, False), (8, True)])
def test_nothing_is_claimed_that_the_test_denies(tmp_path: Path, count: int, is_claimed: bool) -> None:
    """Fewer forwards on each problem: of four the signed ranks' p is 2 / 2^4, whatever an interval of them says."""
    learned = outcomes("learned", [1] * count, list(range(1, count + 1)))
    rule = outcomes("threshold:0.9", [1] * count, [2 * n + 1 for n in range(1, count + 1)])
    run = write_run(tmp_path / "run", [learned, rule], ppo_config())
    found = find(read_runs([str(run)]), lines_of(run), ["threshold"], 0.5)
    [test], [row] = found["tests"], found["savings"]
    assert test["nfe_p"] == pytest.approx(2 / 2**count)
    assert row["saved"]["problems"][0] > 0.5
    assert row["claim"] == ("fewer forwards" if is_claimed else "none: could be chance")
    assert ("which could be chance" in headlines(found)[0]) is not is_claimed


def test_nothing_is_claimed_where_no_rule_is_as_accurate(tmp_path: Path) -> None:
    """169 of 180 right beside 177, eight problems that only the rule solves, and fewer forwards."""
    learned = outcomes("learned", [1] * 169 + [0] * 11, [5] * 180)
    rules = [
        outcomes("threshold:0.9", [1] * 177 + [0] * 3, [6] * 180),
        outcomes("threshold:0.5", [1] * 90 + [0] * 90, [2] * 180),
    ]
    run = write_run(tmp_path / "run", [learned, *rules], ppo_config())
    found = find(read_runs([str(run)]), lines_of(run), ["threshold"], 0.5)
    [test], [row] = found["tests"], found["savings"]
    assert (test["only_policy"], test["only_rule"]) == (0, 8)
    assert test["accuracy_p"] == pytest.approx(2 * 0.5**8)
    assert test["verdict"] == "less accurate, no rule at its accuracy"
    assert (row["rule"], row["saved"], row["is_less_accurate"]) == ("threshold:0.9", None, True)
    [text] = headlines(found)
    assert text == (
        "run, deterministic, block length 8: 93.9 % right in 5.00 forwards. No rule was measured within half a "
        "point of that accuracy: the nearest (threshold:0.9; 98.3 %) needs 6.00, and no saving is claimed. Accuracy: "
        "p = 0.008, corrected = 0.008, 0 problems solved by the policy alone and 8 by the rule alone; forwards: "
        "p < 0.001, corrected < 0.001; corrected by Holm's method for 1 test each."
    )


def test_a_significant_loss_is_never_praised_even_within_half_a_point(tmp_path: Path) -> None:
    learned = outcomes("learned", [1] * 1580 + [0] * 20, [3] * 1600)
    run = write_run(
        tmp_path / "run", [learned, outcomes("threshold:0.9", [1] * 1588 + [0] * 12, [4] * 1600)], ppo_config()
    )
    found = find(read_runs([str(run)]), lines_of(run), ["all"], 0.5)
    assert (found["tests"][0]["verdict"], found["savings"][0]["saved"]) == ("less accurate", None)
    assert found["savings"][0]["claim"] == "none: less accurate than the rule"
    assert "significantly more accurate: no saving is claimed" in headlines(found)[0]


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["learned", "rule", "both", "other problems"])
def test_without_outcomes_of_the_same_problems_tests_are_unpaired(tmp_path: Path, missing: str) -> None:
    change = {"index": [*range(4, 8), *range(4, 8)]} if missing == "other problems" else {}
    learned = write_run(
        tmp_path / "a", [outcomes("learned", RIGHT, [1, 2] * 4)], ppo_config(), keep=missing not in ("learned", "both")
    )
    rule = outcomes("threshold:0.9", [1] * 6 + [0, 0], [2, 4] * 4, **change)
    config = ppo_config(1)
    rules = write_run(tmp_path / "b", [rule], config, keep=missing not in ("rule", "both"))
    runs = read_runs([str(learned), str(rules)])
    [row] = find(runs, collect_lines(runs), ["threshold"], 0.5)["tests"]
    assert (row["paired"], row["only_rule"], row["nfe_difference"]["problems"]) == (False, None, None)
    records = [run.records[-1] for run in runs]
    assert (row["accuracy_p"], row["nfe_p"]) == (fisher(*records), welch(*records))


@pytest.mark.slow
def test_seeds_are_tested_one_by_one_with_holm_over_all(tmp_path: Path) -> None:
    rule = outcomes("threshold:0.9", [1] * 20, [3, 4] * 10)
    folders = [
        write_run(tmp_path / f"x_s{s}", [outcomes("learned", [1] * 20, [2, 4 - s] * 10), rule], ppo_config(s))
        for s in (0, 1)
    ]
    runs = read_runs([str(folder) for folder in folders])
    rows = find(runs, collect_lines(runs), ["threshold"], 0.5)["tests"]
    assert [row["seed"] for row in rows] == ["x_s0", "x_s1"]
    assert [row["nfe_holm"] for row in rows] == holm([row["nfe_p"] for row in rows])
    saved = find(runs, collect_lines(runs), ["threshold"], 0.5)["savings"][0]["saved"]
    shares = [1 - 3 / 3.5, 1 - 2.5 / 3.5]
    assert saved["mean"] == pytest.approx(np.mean(shares))
    assert saved["seeds"] == pytest.approx(np.mean(shares) + np.array([-1, 1]) * 12.7062 * (1 / 7) / 2, abs=1e-4)


def test_only_the_same_problems_and_blocks_are_compared(tmp_path: Path) -> None:
    learned = [outcomes("learned", RIGHT, [2] * 8), outcomes("learned", RIGHT, [2] * 8, block_length=4)]
    here = write_run(tmp_path / "here", learned, ppo_config())
    there = write_run(
        tmp_path / "there",
        [outcomes("threshold:0.9", RIGHT, [3] * 8), outcomes("klass:0.9", RIGHT, [1] * 8)],
        {"policy": ["threshold:0.9"], "episodes": 4, "model": {"name": "toy"}, "buffer_length": 8, "first": 100},
    )
    same = write_run(tmp_path / "same", [outcomes("threshold:0.5", RIGHT, [4] * 8)], ppo_config(3))
    runs = read_runs([str(here), str(there), str(same)])
    found = find(runs, collect_lines(runs), ["threshold"], 0.5)
    assert len(found["problems"]) == 2
    assert [(row["rule"], row["block"]) for row in found["tests"]] == [("threshold:0.5", 8)]
    assert "klass:0.9" not in {row["policy"] for row in found["settings"]}
    assert "klass:0.9" in {row["policy"] for row in find(runs, collect_lines(runs), ["all"], 0.5)["settings"]}


def test_the_oracle_is_a_limit_and_no_rival(tmp_path: Path) -> None:
    entries = [
        outcomes("learned", [1] * 200, [3] * 200),
        outcomes("learned", [1] * 150 + [0] * 50, [2] * 200, decision="sample"),
        outcomes("oracle", [1] * 199 + [0], [2] * 200),
        outcomes("threshold:0.5", [1] * 100 + [0] * 100, [2] * 200),
        outcomes("threshold:0.9", [1] * 200, [5] * 200),
    ]
    run = write_run(tmp_path / "run", entries, ppo_config())
    found = find(read_runs([str(run)]), lines_of(run), ["all"], 0.5)
    assert {row["rule"] for row in found["tests"]} == {"threshold:0.9"}
    ratios = {(r["policy"], r["decision"]): r["ratio"] and r["ratio"]["mean"] for r in found["oracle"]}
    assert ratios == {
        ("run", "deterministic"): 1.5,
        ("run", "sample"): None,  # too inaccurate to be compared
        ("threshold:0.9", "deterministic"): 2.5,
    }
    volumes = {row["family"]: row["hypervolume"] for row in found["hypervolume"]}
    assert volumes["threshold"]["mean"] == pytest.approx(1 / 5)
    assert volumes["run"]["mean"] == pytest.approx(0.5 / 2 + 0.5 / 3)
    low, high = volumes["run"]["problems"]
    assert low < volumes["run"]["mean"] < high


def test_accuracy_under_parallelism_by_hand() -> None:
    """Three settings, of which the third is more than five points below the slowest."""
    weight = [math.exp(-3 * (1 - y / 0.95)) for y in (0.9, 0.88)]
    expected = 100 * (0.9 * 1.5 + (4 - 1.5) * (0.9 * weight[0] + 0.88 * weight[1]) / 2)
    assert aup([(0.8, 9.0), (0.9, 1.5), (0.88, 4.0)], 0.95) == pytest.approx(expected)
    assert aup([(0.9, 1.5)], 0.95) == pytest.approx(135)
    assert aup([(0.0, 1.5), (0.0, 3.0)], 0.0) == 0.0
    assert aup([(0.9, 1.0), (0.9, 2.0)], 0.8) == pytest.approx(180)  # above the best, nothing is gained beyond it
    weight = [math.exp(-3 * (1 - y / 0.9)) for y in (0.9, 0.85)]
    at_the_limit = 100 * (0.9 + (0.9 * weight[0] + 0.85 * weight[1]) / 2)
    assert aup([(0.9, 1.0), (0.85, 2.0)], 0.9) == pytest.approx(at_the_limit)


def test_a_policy_that_samples_and_the_same_that_rounds_are_two_curves(tmp_path: Path) -> None:
    entries = [
        outcomes("learned", [1] * 8, [4] * 8, said=[4] * 8, decision="sample"),
        outcomes("learned", [1] * 8, [2] * 8, said=[4] * 8),
    ]
    records = [record for entry in entries for record in summarise(entry)]
    assert aups(records) == {}  # one setting of each
    run = write_run(tmp_path / "run", entries, ppo_config())
    [row] = find(read_runs([str(run)]), lines_of(run), [], 0.5)["hypervolume"]
    # Joined they would be the same here; 100 x 1 x 2 is the rectangle below the faster one.
    assert row["aup"]["mean"] == pytest.approx(200)
    # A slow curve that is worse takes nothing from the fast one: joined they would be below 100 x (0.5 + 0.75).
    entries[0] = outcomes("learned", [1] * 4 + [0] * 4, [4] * 8, said=[4] * 8, decision="sample")
    run = write_run(tmp_path / "other", entries, ppo_config())
    [row] = find(read_runs([str(run)]), lines_of(run), [], 0.5)["hypervolume"]
    assert row["aup"]["mean"] == pytest.approx(200)


def test_tokens_per_forward_are_those_that_were_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [
        outcomes("threshold:0.9", [1] * 8, [4] * 8, said=[6] * 4 + [2] * 4),
        outcomes("threshold:0.5", [1] * 8, [2] * 8, said=[6] * 4 + [2] * 4),
        outcomes("low_confidence:1", [1] * 8, [8] * 8, said=[4] * 8),
    ]
    run = write_run(tmp_path / "run", entries, ppo_config())
    found = find(read_runs([str(run)]), lines_of(run), ["all"], 0.5)
    per_forward = {row["policy"]: row["tokens_per_forward"]["mean"] for row in found["settings"]}
    assert per_forward == {"threshold:0.9": 1.0, "threshold:0.5": 2.0, "low_confidence:1": 0.5}
    by_task = {record["task"]: record["tokens_per_forward"] for record in summarise(entries[0])}
    assert by_task == {"copy": 1.5, "sort": 0.5, "all": 1.0}
    areas = {row["family"]: row["aup"]["mean"] for row in found["hypervolume"]}
    assert areas == pytest.approx({"threshold": 200, "low_confidence": 50})
    # An evaluation says the same of what has several settings.
    records = [record for entry in entries for record in summarise(entry)]
    block = records[0]["block_length"]
    assert aups(records) == pytest.approx({(block, "threshold", "deterministic"): 200})
    print_table(records)
    assert (
        f"AUP 200 (accuracy under parallelism): threshold (deterministic), blocks of {block}\n"
        in capsys.readouterr().out
    )
    other = outcomes("threshold:0.5", [1] * 8, [2] * 8)
    assert "tokens_per_forward" not in summarise(other)[-1]


def test_differences_are_those_fields_only(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / str(alpha), [outcomes("learned", RIGHT, [2] * 8)], ppo_config(alpha=alpha, **extra))
        for alpha, extra in ((4.0, {}), (8.0, {"filter": {"folder": None}}))
    ]
    sweep = {"policy": ["oracle"], "episodes": 4}
    folders.append(write_run(tmp_path / "sweep", [outcomes("oracle", RIGHT, [1] * 8)], sweep))
    assert differences(read_runs([str(folder) for folder in folders])) == {
        "PPO": [
            {"run": "4.0", "env.alpha": 4.0, "filter.folder": "—"},
            {"run": "8.0", "env.alpha": 8.0, "filter.folder": None},
        ]
    }


def test_curves_are_averaged_over_seeds_and_resumptions_add_up(tmp_path: Path) -> None:
    folders = []
    for seed, scores, elapsed in ((0, (0.2, 0.4), (5, 9)), (1, (0.4, 0.8), (6, 2))):
        folder = write_run(tmp_path / f"x_s{seed}", [outcomes("learned", RIGHT, [2] * 8)], ppo_config(seed))
        rows = [f"{100 * (i + 1)},{e},{s}," for i, (s, e) in enumerate(zip(scores, elapsed, strict=True))]
        text = "time/total_timesteps,time/time_elapsed,rollout/score,train/loss\n" + "\n".join(rows) + "\n"
        (folder / "progress.csv").write_text(text)
        folders.append(folder)
    runs = read_runs([str(folder) for folder in folders])
    assert [training_seconds(run) for run in runs] == [9.0, 8.0]
    [curve] = curves(runs, "rollout/score")
    assert (curve["label"], curve["seeds"], curve["steps"]) == ("x", 2, [100.0, 200.0])
    assert curve["mean"] == pytest.approx([0.3, 0.6])
    assert curve["high"] == pytest.approx([0.3 + 12.7062 * 0.1, 0.6 + 12.7062 * 0.2], rel=1e-4)
    assert curves(runs, "rollout/nfe") == []


def good(folder: Path) -> Path:
    return write_run(folder, [outcomes("learned", RIGHT, [2] * 8)], ppo_config())


def damage(folder: Path, name: str, text: str) -> None:
    good(folder)
    (folder / name).write_text(text)


def without_all(folder: Path) -> None:
    good(folder)
    records = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps([r for r in records if r["task"] != "all"]))


def record(**changes: Any) -> Callable[[Path], None]:
    """Change fields of a run's first record."""

    def spoil(folder: Path) -> None:
        good(folder)
        records = json.loads((folder / "evaluation.json").read_text())
        (folder / "evaluation.json").write_text(json.dumps([records[0] | changes, *records[1:]]))

    return spoil


def outcome(**changes: Any) -> Callable[[Path], None]:
    """Change fields of a run's outcomes."""

    def spoil(folder: Path) -> None:
        good(folder)
        entries = json.loads((folder / "outcomes.json").read_text())
        (folder / "outcomes.json").write_text(json.dumps([entries[0] | changes]))

    return spoil


def doubled(folder: Path, name: str) -> None:
    """Put the first entry of a file there once more."""
    good(folder)
    entries = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps([*entries, entries[0]]))


def another_evaluation(folder: Path) -> None:
    good(folder)
    text = (folder / "outcomes.json").read_text().replace('"score":[1.0', '"score":[0.0')
    (folder / "outcomes.json").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: None, "there is no such folder"),
        (lambda folder: folder.mkdir(), "it has no evaluation.json; give the folder of a training or an evaluation"),
        (lambda folder: damage(folder, "evaluation.json", "[{"), "its evaluation can't be read"),
        (lambda folder: damage(folder, "evaluation.json", "{}"), "record is {}: it must be a valid list"),
        (lambda folder: damage(folder, "evaluation.json", "[]"), r"record is \[\]: list should have at least 1 item"),
        (lambda folder: damage(folder, "evaluation.json", "[1, 2]"), r"record\.0 is 1: it must be a valid dictionary"),
        (lambda folder: damage(folder, "evaluation.json", '[{"policy": "x"}]'), r"record\.0 has no 'decision'"),
        (lambda folder: damage(folder, "evaluation.json", "[" * 100_000), "nested too deeply"),
        (record(accuracy="0.5"), r"record\.0\.accuracy is '0.5': it must be a valid number"),
        (record(accuracy=math.nan), "it holds NaN: every number in it must be finite"),
        (record(accuracy=7), r"record\.0\.accuracy is 7: it must be less than or equal to 1"),
        (record(nfe=0), r"record\.0\.nfe is 0: it must be greater than 0"),
        (record(nfe=-1), r"record\.0\.nfe is -1: it must be greater than 0"),
        (record(nfe_ci95=[1]), r"record\.0\.nfe_ci95 is \[1\]: list should have at least 2 items"),
        (record(block_length=0), r"record\.0\.block_length is 0: it must be greater than or equal to 1"),
        (record(policy=None), r"record\.0\.policy is None: it must be a valid string"),
        (record(decision="guess"), r"record\.0\.decision is 'guess': it must be 'sample' or 'deterministic'"),
        (without_all, "no record of all tasks"),
        (lambda folder: damage(folder, "config.yaml", "a: [1"), "config.yaml' can't be read: it is no YAML"),
        (lambda folder: damage(folder, "config.yaml", "words"), "config.yaml' can't be read: it holds a str"),
        (lambda folder: damage(folder, "config.yaml", "env: 5"), "config.yaml' can't be read: env is 5"),
        (lambda folder: damage(folder, "config.yaml", "env: {buffer_length: x}"), r"env\.buffer_length is 'x'"),
        (lambda folder: damage(folder, "config.yaml", "model: [1]"), "config.yaml' can't be read: model is"),
        (lambda folder: damage(folder, "config.yaml", "episodes: 3\npolicy: [1]"), r"policy\.0 is 1"),
        (lambda folder: damage(folder, "config.yaml", "a: &a [*a]"), "nested more than 32 levels deep"),
        (lambda folder: damage(folder, "config.yaml", "x" * 2_000_000), "larger than 1048576 bytes"),
        (lambda folder: damage(folder, "versions.json", "[1]"), "versions.json' can't be read: it holds a list"),
        (lambda folder: damage(folder, "wandb_id.txt", "x" * 2_000_000), "wandb_id.txt' can't be read: it is larger"),
        (lambda folder: damage(folder, "outcomes.json", "[{}]"), r"outcomes.json' can't be read \(outcomes\.0 has no"),
        (outcome(nfe=[2] * 7), "its nfe has 7 entries and its task 8: both must have one a problem"),
        (outcome(task=[]), r"outcomes\.0\.task is \[\]"),
        (outcome(score=[True] * 8), r"outcomes\.0\.score\.0 is True: it must be a valid number"),
        (outcome(score=[0.5] * 7 + [1.5]), r"outcomes\.0\.score\.7 is 1.5: it must be less than or equal to 1"),
        (outcome(nfe=[0] * 8), r"outcomes\.0\.nfe\.0 is 0: it must be greater than or equal to 1"),
        (outcome(nfe=[2.5] * 8), r"outcomes\.0: it counts 2.5 forwards or positions for one answer: that must be wh"),
        (outcome(index=[5] * 8), r"outcomes\.0: it has problem 5 of 'copy' twice: each must be there once"),
        (outcome(unscored=[["copy", 0]]), r"outcomes\.0: it has problem 0 of 'copy' twice: each must be there once"),
        (lambda folder: doubled(folder, "outcomes.json"), "'learned', deterministic, blocks of 8 is there twice"),
        (
            lambda folder: doubled(folder, "evaluation.json"),
            "blocks of 8, task copy is there twice: it must be there once",
        ),
        (
            lambda folder: damage(folder, "progress.csv", "time/total_timesteps\nmany\n"),
            "progress.csv' can't be read: line 2 has time/total_timesteps 'many': it must be a number",
        ),
        (lambda folder: damage(folder, "progress.csv", "time/total_timesteps\nnan\n"), "line 2 has .* 'nan': it must"),
        (lambda folder: damage(folder, "progress.csv", "time/total_timesteps\n1,2\n"), "line 2 has more cells"),
        (lambda folder: damage(folder, "progress.csv", "a\n" + "x" * 200_000), "progress.csv' can't be read: field la"),
        (lambda folder: good(folder).joinpath("progress.csv").write_bytes(b"\xff"), "no text in UTF-8: byte 0 is 0xff"),
        (another_evaluation, "disagree on learned"),
    ],
)
def test_a_bad_run_is_one_clear_error(tmp_path: Path, spoil: Any, message: str) -> None:
    fine = good(tmp_path / "fine")
    spoil(tmp_path / "bad")
    with pytest.raises(UserError, match=message) as caught:
        read_runs([str(fine), str(tmp_path / "bad")])
    assert "\n" not in str(caught.value)
    assert "bad" in str(caught.value)


def test_a_bad_report_is_one_clear_error(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x", [outcomes("learned", RIGHT, [2] * 8)], {"false_commit_weight": 1.0})
    [run] = read_runs([str(folder)])
    assert training_seconds(run) is None
    for text, message in (
        ('{"minutes_to_collect_and_train": "x"}', "is 'x': it must be a valid number"),
        ("[]", "list"),
    ):
        (folder / "report.json").write_text(text)
        with pytest.raises(UserError, match=rf"report\.json' can't be read: .*{message}"):
            training_seconds(run)


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    runs = read_runs([str(good(tmp_path / parent / "run")) for parent in "ab"])
    assert [run.name for run in runs] == [str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run")]


SECTION = Section(
    "A < B",
    ["50 % & more"],
    ["first"],
    [
        Table(
            [Column("name", "name"), Column("x", "x %", 1, 100, limits=(0, 100)), Column("p", "p", 3, is_p=True)],
            [
                {"name": "<script>|", "x": {"mean": 0.5, "problems": [0.25, 0.75], "seeds": [0.1, 1.2]}, "p": 1e-9},
                {"name": None, "x": None, "p": 0.25},
            ],
        )
    ],
    ["plot"],
)


def test_a_page_loads_nothing_and_escapes_everything(tmp_path: Path) -> None:
    (tmp_path / "plot.png").write_bytes(b"\x89PNG")
    page = read_page(to_html("T & T", [SECTION], {"plot": (tmp_path / "plot.png",) * 2}))
    assert len(page.loaded) == 2
    words = "\n".join(page.words)
    for text in ("T & T", "A < B", "50 % & more", "<script>|", "[25.0, 75.0]", "{10.0, 100.0}", "< 0.001"):
        assert text in words


def test_markdown_of_a_section() -> None:
    lines = to_markdown("T", [SECTION]).splitlines()
    assert lines[-4:] == [
        "| name | x % | p |",
        "| --- | ---: | ---: |",
        "| \\<script>\\| | 50.0 [25.0, 75.0] {10.0, 100.0} | < 0.001 |",
        "| — | — | 0.250 |",
    ]
    assert "![plot](plot.png)" in lines
    assert cell("a word", Column("name", "name")) == "a word"


def test_runs_of_both_algorithms_and_of_rules_are_compared_on_their_problems(tmp_path: Path) -> None:
    without = {key: value for key, value in ppo_config().items() if key not in ("ppo", "seed")}
    entries = [outcomes("learned", RIGHT, [2] * 8)]
    folders = [write_run(tmp_path / f"ppo_s{seed}", entries, ppo_config(seed)) for seed in (0, 1)]
    folders += [
        write_run(tmp_path / f"grpo_s{seed}", entries, {**without, "seed": seed, "grpo": {"group_size": 8}})
        for seed in (0, 1)
    ]
    runs = read_runs([str(folder) for folder in folders])
    assert [run.kind for run in runs] == ["PPO", "PPO", "GRPO", "GRPO"]
    lines = collect_lines(runs)
    assert [(line.policy, len(line.replicates)) for line in lines] == [("ppo", 2), ("grpo", 2)]
    assert len({line.problems for line in lines}) == 1
