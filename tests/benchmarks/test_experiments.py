"""The comparison of PPO and GRPO and the ablations, on runs made of known outcomes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from experiments import EXPERIMENTS, Step, Summary
from experiments.ablations import Ablations
from experiments.algorithms import (
    ALGORITHMS,
    ALPHAS,
    BLOCKS,
    GRID,
    RULES,
    STARTS,
    Algorithms,
    _contrast,
    read_run,
)
from experiments.base import SEEDS, is_rule
from experiments.budget import Budget
from experiments.caching import CACHE, CAREFUL, FRESH, INTERVALS, NEIGHBOURS, SPEEDS, Caching
from experiments.caching import RULES as RULES_UNDER_CACHE
from experiments.fresh import SPEEDS as FRESH_SPEEDS
from experiments.fresh import Fresh, _compare, join
from experiments.longest import Longest
from experiments.shipped import Shipped
from finished import finish
from records import outcomes, write_run

from train.command.config import ROOT
from train.tracking.history import STEP, write_rows


def write_training(folder: Path, accuracy: float, nfe: int, rewards: tuple[float, float], **rates: float) -> None:
    """A run that is right on this share of ten problems, whose training reward rises or falls in a straight line."""
    right = [1.0] * round(10 * accuracy) + [0.0] * (10 - round(10 * accuracy))
    decisions = ("sample", "deterministic")
    write_run(folder, [outcomes("learned", right, [nfe] * 10, decision=decision) for decision in decisions])
    rows: list[dict[str, Any]] = [
        {
            STEP: step,
            "rollout/ep_rew_mean": reward,
            "time/time_elapsed": 30 * (i + 1),
            **{f"rollout/{k}": v for k, v in rates.items()},
        }
        for i, (step, reward) in enumerate(zip((GRID[0], GRID[-1]), rewards, strict=True))
    ]
    write_rows(folder / "progress.csv", rows)


def test_what_is_read_of_a_run(tmp_path: Path) -> None:
    write_training(tmp_path / "run", 0.8, 3, (0.2, 0.6), zero_variance_rate=0.25)
    found = read_run(tmp_path / "run", alpha=2.0)
    # (64 - 2) / 64 squared, for eight answers of ten.
    assert found["sample"] == {"accuracy": 0.8, "nfe": 3.0, "reward": pytest.approx(0.8 * (62 / 64) ** 2)}
    assert found["curve"] == pytest.approx([0.2 + 0.4 * i / (len(GRID) - 1) for i in range(len(GRID))], abs=1e-4)
    assert found["learning"] == pytest.approx(0.4)
    assert found["minutes"] == 1.0
    assert found["rates"] == {"zero_variance_rate": 0.25}


def test_contrasts_are_paired_by_seed() -> None:
    def run(reward: float) -> Summary:
        return {"sample": {"reward": reward}, "learning": reward / 2}

    entries = [
        {"ppo": [run(0.1), run(0.2), run(0.9)], "grpo": [run(0.2), run(0.4), run(1.2)]},
        {"ppo": [run(0.5), run(0.5), run(0.5)], "grpo": [run(0.5), run(0.5), run(0.5)]},
    ]
    # Halved by the second entry: 0.05, 0.1 and 0.15; t(2) = 4.303 and s / sqrt(3) = 0.0289.
    reward, learning, *spreads = _contrast(entries)
    assert (reward, learning) == ("+0.100 ± 0.124", "+0.050 ± 0.062")
    assert spreads == [f"{0.43589 / 2:.3f}", f"{0.52915 / 2:.3f}"]


@pytest.mark.slow
def test_the_comparison_of_algorithms(tmp_path: Path) -> None:
    experiment = Algorithms()
    for step in experiment.steps():
        if step == RULES:
            lines = [
                outcomes(f"threshold:{t}", [1.0] * 10, [nfe] * 10, block_length=block)
                for t, nfe in ((0.5, 4), (0.9, 6))
                for block in BLOCKS
            ]
            write_run(tmp_path / step.folder, lines)
        else:
            is_grpo = "grpo" in step.command[0]
            rates = {"zero_variance_rate": 0.5, "stall_rate": 0.0, "unfinished_rate": 0.0} if is_grpo else {}
            write_training(tmp_path / step.folder, 0.9 if is_grpo else 0.8, 2, (0.4, 0.6), **rates)
    finish(experiment, tmp_path)
    summary = experiment.summarise(tmp_path)
    assert len(summary["settings"]) == len(BLOCKS) * len(STARTS) * len(ALPHAS)
    assert all(len(entry[name]) == len(SEEDS) for entry in summary["settings"] for name in ALGORITHMS)
    text = experiment.markdown(summary)
    assert "| full diffusion | random | 1 | 80.0 ± 0.0 | 2.00 ± 0.00 | 4.00 | 90.0 ± 0.0 | 2.00 ± 0.00 | 4.00 |" in text
    assert "1.00 times the wall time" in text
    assert " 50 % earned" in " ".join(text.split())
    experiment.draw(summary, tmp_path)
    assert (tmp_path / "algorithms.png").read_bytes().startswith(b"\x89PNG")


def test_the_ablations(tmp_path: Path) -> None:
    experiment = Ablations()
    for step in experiment.steps():
        accuracy = 0.5 if "additive" in step.folder else 0.9
        write_training(tmp_path / step.folder, accuracy, 1, (0.4, 0.6))
    finish(experiment, tmp_path)
    text = experiment.markdown(experiment.summarise(tmp_path))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    [additive] = [row for row in rows if " additive " in row]
    assert additive.endswith("| 30 | additive | 50.0 ± 0.0 | 1.00 ± 0.00 | 0.500 ± 0.000 | 0.000 | 0.500 ± 0.000 |")
    assert len(rows) == 2 + 2 + 2 + 2 + (2 * len(ALPHAS) + 1) + 5


def rules_in_full_diffusion() -> list[tuple[float, float]]:
    """Return the published accuracy and forwards of each rule on fresh problems."""
    others = json.loads((ROOT / "benchmarks/results/prose_fresh.json").read_text())["blocks"]["full"]["others"]
    return [(accuracy, nfe) for policy, accuracy, nfe in others if is_rule(policy)]


def test_what_forwards_buy(tmp_path: Path) -> None:
    """Filters are right on nine of ten answers in three forwards, at 0.5 on none; dials on all of them in six."""
    experiment = Budget()
    for step in experiment.steps():
        if step.command[0] == "train/evaluate.py":
            lines = [
                outcomes(policy, [1.0] * 10, [6] * 10)
                if "speed=" in policy
                else outcomes(policy, [0.0] * 10, [2] * 10)
                if policy.endswith("@0.5")
                else outcomes(policy, [1.0] * 9 + [0.0], [3] * 10)
                for policy in policies_of(step)
            ]
            write_run(tmp_path / step.folder, lines)
    finish(experiment, tmp_path)
    summary = json.loads(json.dumps(experiment.summarise(tmp_path)))
    assert [row["forwards"] for row in summary["rows"]] == [*(30_528, 128_832) * 2, 91_584, 140_736, *[337_344] * 3]
    rules = rules_in_full_diffusion()
    cheapest = min(nfe for accuracy, nfe in rules if accuracy >= 0.895)
    best = max(rules)[1]
    text = experiment.markdown(summary)
    assert f"| 1,728 problems, seed 0 | 91,584 | 0.0 in 2.00 | 90.0 in 3.00 ({3 / cheapest:.2f}) |" in text
    assert f"| 576 problems, seed 1 | 128,832 | 100.0 in 6.00 ({6 / best:.2f}) |" in text
    assert f"| 1,728 problems, all 3 seeds | 337,344 | 100.0 ± 0.0 in 6.00 ± 0.00 ({6 / best:.2f} ± 0.00) |" in text


def test_policies_under_a_cache(tmp_path: Path) -> None:
    """Ten problems of 8 right answers in 5 forwards of 20 positions each, unless something else is said."""
    experiment = Caching()

    def line(policy: str, nfe: int, right: int = 8, **changes: Any) -> Any:
        return outcomes(policy, [1.0] * right + [0.0] * (10 - right), [nfe] * 10, **changes)

    def places(name: str, nfe: int, right: int = 8) -> list[Any]:
        speeds = CAREFUL if name in ("continued", "dial") else SPEEDS
        return [line(f"learned:{name}_s{seed}@speed={speed:g}", nfe, right) for seed in SEEDS for speed in speeds]

    for step in experiment.steps():
        rules = {rule: 10 if rule == "threshold:0.9" else 20 for rule in RULES_UNDER_CACHE}
        if step.folder == f"caching/{CACHE}":
            lines = [line(rule, nfe) for rule, nfe in rules.items()]
            # Those without a cache are the cheapest by far, but not as accurate.
            lines += places("plain", 5) + places("refresh", 4) + places("laptop", 2, right=7)
            lines += places("continued", 4) + places("dial", 5)
            write_run(tmp_path / step.folder, lines)
        elif step.folder.startswith("caching/dual_"):
            # Where the prompt is fresh, going on helps: two thirds of the forwards at the same accuracy.
            lines = [line(rule, 30) for rule in rules] + places("plain", 6, right=9) + places("laptop", 3, right=7)
            if step.folder.startswith("caching/dual_fresh"):
                lines += places("continued", 4, right=9) + places("dial", 6, right=9)
            write_run(tmp_path / step.folder, lines)
        elif step.folder == "prose_dial/frontier":
            block = {"block_length": experiment.without.world.blocks[1]}
            write_run(tmp_path / step.folder, [line(rule, 40, **block) for rule in rules] + [line("threshold:0.9", 1)])
    finish(experiment, tmp_path)
    text = experiment.markdown(experiment.summarise(tmp_path))
    rows = [row for row in text.splitlines() if row.startswith(("| none", "| dual", "| `dual"))]
    assert rows[0] == "| none | `threshold:0.9` | 80.0 | 800 | 40.00 |"
    assert (CACHE, *FRESH[1:]) == NEIGHBOURS
    on_two_cores, from_gpu = 2 + len(INTERVALS) + 1 + len(INTERVALS), 2 + 2 * len(NEIGHBOURS)
    assert len(rows) == 2 * (2 + len(INTERVALS)) + on_two_cores * len(SPEEDS) + from_gpu * len(CAREFUL)
    none = "none as accurate"
    assert [row for row in rows if "| 0.5 |" in row] == [
        # No rule is right on nine of ten. Of what they were before going on, at each cache.
        f"| `dual:fresh_prompt=1` | 0.5 | 90.0 ± 0.0 | 120 ± 0 | 6.00 ± 0.00 | {none} |",
        f"| `dual:fresh_prompt=1` | 0.5 | 90.0 ± 0.0 | 80 ± 0 | 4.00 ± 0.00 | {none} | 0.67 ± 0.00 |",
        "| `dual` | 0.5 | 80.0 ± 0.0 | 100 ± 0 | 5.00 ± 0.00 |",
        "| `dual:fresh_prompt=2` | 0.5 | 90.0 ± 0.0 | 120 ± 0 | 6.00 ± 0.00 |",
        "| `dual` | 0.5 | 80.0 ± 0.0 | 80 ± 0 | 4.00 ± 0.00 |",
        "| `dual:fresh_prompt=2` | 0.5 | 90.0 ± 0.0 | 80 ± 0 | 4.00 ± 0.00 |",
        # The cheapest rule takes 200 positions; what knows no cache is right on seven only.
        f"| `dual` | 0.5 | 80.0 ± 0.0 | 100 ± 0 | 5.00 ± 0.00 | 0.50 ± 0.00 | {none} |",
        f"| `dual` | 0.5 | 80.0 ± 0.0 | 80 ± 0 | 4.00 ± 0.00 | 0.40 ± 0.00 | {none} |",
        *(f"| `{cache}` | 0.5 | 90.0 ± 0.0 | 120 ± 0 | 6.00 ± 0.00 |" for cache in INTERVALS),
        "| `dual` | 0.5 | 70.0 ± 0.0 | 40 ± 0 | 2.00 ± 0.00 |",
        *(f"| `{cache}` | 0.5 | 70.0 ± 0.0 | 60 ± 0 | 3.00 ± 0.00 |" for cache in INTERVALS),
    ]


@pytest.mark.parametrize(
    ("experiment", "dials"),
    [(Fresh(), ["dial_s0", "dial_s1", "dial_s2"]), (Longest(), ["long_s0", "half_s1", "half_s2"])],
)
def test_fresh_problems_of_several_evaluations_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Fresh, dials: list[str]
) -> None:
    """Two problems a part. A seed's slow end, one rule and one token per step solve them all; all else, in parts after
    the first, the first problem alone."""
    monkeypatch.setattr(type(experiment), "parts", 2)
    for step in experiment.steps():
        parent, _, part = step.folder.partition("/")
        if parent == experiment.name:
            some = [1.0, 1.0 if part.endswith("0") else 0.0]
            known = {"threshold:0.9": [10, 6], "oracle:1": [2, 2], "low_confidence:1": [20, 20]}
            known |= {f"learned:{dial}@speed=0": [4, 4] for dial in dials}
            lines = []
            for policy in policies_of(step):
                fast = [1, 1] if policy.startswith(tuple(f"learned:{dial}" for dial in dials)) else [3, 3]
                lines.append(outcomes(policy, [1.0, 1.0] if policy in known else some, known.get(policy, fast)))
            write_run(tmp_path / step.folder, lines)
    finish(experiment, tmp_path)
    summary = json.loads(json.dumps(experiment.summarise(tmp_path)))
    full = summary["blocks"]["full"]
    assert (full["one"], full["wanted"]) == (1.0, 0.99)
    assert [(row["speed"], row["nfe"], row["rule"], row["rules_nfe"]) for row in full["nearly"]] == [
        (0.0, 4.0, "threshold:0.9", 8.0)
    ] * 3
    # Each resample has as many problems of both tasks, so the rule's forwards stay; but in a quarter of them all are of
    # the first part, where anything is right, and a forward of the dial stands against three.
    assert full["share"] == pytest.approx([0.5, 1 / 3, 0.5])
    assert full["reached"] == 1
    if experiment.has_oracle:
        assert full["times_oracle"][0] == 2.0
    at_half = full["places"][-1]
    solved = 0.5 + 0.5 / experiment.parts
    assert at_half == {
        "speed": 0.5,
        "accuracy": [solved] * 3,
        "nfe": [1] * 3,
        "rules_nfe": [3] * 3,
        "share": [1 / 3] * 3,
    }
    text = experiment.markdown(summary)
    assert "| s2: 0 | 100.0 | 4.00 | 8.00 (`threshold:0.9`) | 0.50 [" in text


def test_what_ships_is_compared_with_the_rules_of_another_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules decode two problems a part, all of them right; each seed's policies four at once, in the order of the
    tasks, of which all but the slow end's have the last wrong."""
    monkeypatch.setattr(Longest, "parts", 2)
    experiment = Shipped()
    for step in experiment.steps():
        parent, _, name = step.folder.partition("/")
        lines = []
        for policy in policies_of(step) if parent in (experiment.name, Longest.name) else []:
            if parent == Longest.name:
                part = int(name[-1])
                known = {"threshold:0.9": [10 + part, 6], "low_confidence:1": [20, 20]}
                lines.append(outcomes(policy, [1.0] * 2, known.get(policy, [19, 19]), index=[part, part]))
            elif policy == "oracle:1":
                lines.append(outcomes(policy, [1.0] * 4, [2] * 4))
            else:
                policy = f"learned@{policy.partition('@')[2]}"
                slow = policy == "learned@speed=0"
                lines.append(outcomes(policy, [1.0, 1.0, 1.0, float(slow)], [4] * 4 if slow else [1, 1, 1, 3]))
        if lines:
            write_run(tmp_path / step.folder, lines)
    finish(experiment, tmp_path)
    summary = json.loads(json.dumps(experiment.summarise(tmp_path)))
    full = summary["blocks"]["full"]
    assert [(row["speed"], row["nfe"], row["rule"], row["rules_nfe"]) for row in full["nearly"]] == [
        (0.0, 4.0, "threshold:0.9", 8.25)
    ] * 3
    assert len(full["others"]) == len(experiment.rules)
    assert full["oracle"] == {"accuracy": 1.0, "nfe": 2.0}
    text = experiment.markdown(summary)
    by_task = [line for line in text.splitlines() if line.endswith(" 20.00 |")]
    assert [line.partition(" | ")[2] for line in by_task[:2]] == [
        "100.0 ± 0.0 | 1.00 ± 0.00 | 100.0 | 10.50 | 100.0 | 20.00 |",
        "50.0 ± 0.0 | 2.00 ± 0.00 | 100.0 | 6.00 | 100.0 | 20.00 |",
    ]
    assert "at 0.5 75.0 ± 0.0 % in 1.50 ± 0.00, at 0.7 75.0 ± 0.0 % in 1.50 ± 0.00, at 0.9" in text
    assert "at `speed=0.125` | 75.0 ± 0.0 | 1.50 ± 0.00 |" in experiment.headline(summary)


def test_settings_stand_beside_others_on_the_same_problems_alone() -> None:
    """Two evaluations hold the later problem first: they are put in the order of tasks and numbers."""
    parts = [
        [outcomes("a", [1.0, 0.0], [5, 6], index=[1, 1]), outcomes("b", [0.0, 0.0], [7, 8], index=[1, 1])],
        [outcomes("b", [1.0, 1.0], [3, 4], index=[0, 0]), outcomes("a", [0.0, 1.0], [1, 2], index=[0, 0])],
    ]
    joined = join(parts)
    assert joined.nfe.tolist() == [[1, 5, 2, 6], [3, 7, 4, 8]]
    assert joined.mean("a", "sort") == (0.5, 4.0)
    other = join([[outcomes("c", [1.0] * 4, [9] * 4)]])
    assert joined.only(lambda policy: policy == "b").beside(other).nfe.tolist() == [[3, 7, 4, 8], [9] * 4]
    with pytest.raises(ValueError, match=r"\['d'\] decoded other problems"):
        joined.beside(join([[outcomes("d", [1.0] * 4, [9] * 4, index=[0, 1, 1, 2])]]))


def test_a_dial_that_is_not_as_accurate_has_no_share() -> None:
    """Three right of four, where four are wanted; on some resamples the three are all that is drawn."""
    score = [1.0, 1.0, 1.0, 0.0]
    lines = [outcomes(f"learned:dial_s{seed}@speed={s:g}", score, [1] * 4) for seed in SEEDS for s in FRESH_SPEEDS]
    lines += [outcomes(policy, [1.0] * 4, [8] * 4) for policy in ("low_confidence:1", "oracle:1")]
    found = _compare(join([lines]).lines(), [f"dial_s{seed}" for seed in SEEDS])
    assert (found["share"], found["times_oracle"]) == (None, None)
    assert [row["share"] for row in found["nearly"]] == [None] * 3
    assert [row["nfe"] for row in found["nearly"]] == [1] * 3
    # The fourth is one of two of its task: a quarter of the resamples lack it.
    assert found["reached"] == pytest.approx(0.25, abs=0.03)


def test_recipes_of_one_alpha_and_of_two_rounds(tmp_path: Path) -> None:
    experiment = EXPERIMENTS["prose_recipes"]
    for step in experiment.steps():
        policies = policies_of(step)
        if policies:
            fast = step.folder == "prose_recipes/rounds_filter"
            lines = [
                outcomes(
                    name, [1.0] * 9 + [0.0], [2 if name.startswith("learned:") and fast else 4] * 10, block_length=128
                )
                for name in policies
            ]
            if step.folder == "prose_recipes/alphas":
                # A folder is evaluated with both decisions, the sampled one first.
                lines[:0] = [
                    outcomes(name, [1.0] * 10, [1] * 10, block_length=128, decision="sample") for name in policies
                ]
            write_run(tmp_path / step.folder, lines)
    finish(experiment, tmp_path)
    text = experiment.markdown(json.loads(json.dumps(experiment.summarise(tmp_path))))
    assert "| 16 | 90.0 in 4.00 (1.00) |" in text
    assert "| 0.97 | 90.0 in 4.00 (1.00) | 90.0 in 2.00 (0.50) | 90.0 in 4.00 (1.00) |" in text
    assert "| start | a filter that saw its own states | 90.0 ± 0.0 in 4.00 ± 0.00 (1.00 ± 0.00) |" in text
    assert "| start | the 0.9-threshold rule | 90.0 in 4.00 (1.00) |" in text


def policies_of(step: Step) -> list[str]:
    """What an evaluation calls those that it is given."""
    return [evaluated(word) for flag, word in pairwise(step.command) if flag == "--policy"]


def evaluated(policy: str) -> str:
    """What an evaluation calls a policy that is given by its folder, or a rule."""
    folder, _, setting = policy.partition("@")
    if "/" not in folder:
        return policy
    parts = Path(folder).parts
    name = parts[-2] if parts[-1] == "policy" else parts[-1]
    return f"learned:{name}@{setting}" if setting else f"learned:{name}"


def test_steps_that_experiments_share_are_the_same() -> None:
    cells = {step.folder: step for step in EXPERIMENTS["algorithms"].steps()}
    shared = [step for step in EXPERIMENTS["ablations"].steps() if step.folder in cells]
    assert shared
    assert all(cells[step.folder] == step for step in shared)
