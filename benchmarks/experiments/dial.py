"""One policy with a speed dial, against the union of all rules and against a policy for each alpha."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from experiments.base import (
    QUICK_DIAL,
    QUICK_TRAINING,
    SEEDS,
    Experiment,
    Step,
    Summary,
    find,
    of_kind,
    over_seeds,
    percent,
    provenance,
    resampled,
    table,
    which,
)
from experiments.plots import plot_frontiers
from experiments.worlds import World
from train.evaluation.frontiers import hypervolume
from train.evaluation.measures import best_rule
from train.evaluation.naming import LEARNED, PolicyName
from train.evaluation.records import Outcomes, Record, read_outcomes, read_records

SPEEDS = tuple(i / 8 for i in range(9))
NEARLY = 0.99
"""Share of one token per step's accuracy that is to be kept."""

AHEAD = "frontier_ahead"
"""Folder, and name in the summary, of the decoding in blocks that may commit ahead of them."""

FAMILIES = {
    "dial": "one policy with a dial",
    "laptop": "one that was learned on two cores",
    "alphas": "a policy for each alpha",
    "filter": "the filter that it starts from",
    "rules": "rules that run the dLLM alone",
    "rules_and_guide": "these and the one with a second model",
    "oracle": "oracle",
}
"""Families of settings and how they are named."""


def train(command: Sequence[str], start: str | None, *arguments: str) -> list[str]:
    """Return the command of a training.

    Args:
        command: its script and what it is always told.
        start: folder of the filter, or policy, that it starts from; None learns a filter first.
        *arguments: what else it is told.
    """
    from_start = [] if start is None else ["--filter.folder", start, "--filter.role", "start"]
    return [*command, *from_start, "--wandb.mode", "disabled", *arguments]


def _trainings(world: World, name: str, command: Sequence[str], makes_filter: bool) -> list[Step]:
    """Return a training a seed; the first learns the filter of them all, where it is to."""
    steps = []
    for seed in SEEDS:
        start = None if makes_filter and seed == SEEDS[0] else world.filter
        words = train(command, start, "--seed", str(seed), "--evaluation.rules", "[]")
        steps.append(Step(f"{world.prefix}dial/{name}_s{seed}", words, QUICK_DIAL))
    return steps


def laptops(world: World) -> list[Step]:
    """Return the trainings of policies with a dial that two cores manage, one a seed, where the others need more."""
    return _trainings(world, "laptop", world.laptop, makes_filter=not world.before) if world.laptop else []


def dials(world: World) -> list[Step]:
    """Return the trainings of the policies with a dial, one a seed."""
    return _trainings(world, "dial", world.dial, makes_filter=False)


class Dial(Experiment):
    """Hypervolume, distance to the oracle, and forwards by task."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = f"{world.prefix}dial"

    @property
    def has_guide(self) -> bool:
        """Whether a rule with a second model is among the rules."""
        return any(PolicyName.read(rule).kind == "guided" for rule in self.world.rules)

    @property
    def families(self) -> dict[str, str]:
        """Families of settings that there are, by name, and how they are worded."""
        left_out = set() if self.has_guide else {"rules_and_guide"}
        if not self.world.laptop:
            left_out.add("laptop")
        return {name: wording for name, wording in FAMILIES.items() if name not in left_out}

    def steps(self) -> list[Step]:
        """Train dials and single alphas from the same filter, then evaluate all on problems that nothing has seen."""
        world, with_dial, on_two_cores = self.world, dials(self.world), laptops(self.world)
        single = ["--env.alpha_range", "[]", "--evaluation.rules", "[]", "--total_timesteps", str(world.alpha_steps)]
        fixed = [
            Step(
                f"{self.name}/alpha{alpha}_s{seed}",
                train(world.dial, world.filter, "--seed", str(seed), *single, "--env.alpha", str(alpha)),
                QUICK_TRAINING,
            )
            for alpha in world.alphas
            for seed in SEEDS
        ]
        learned = [*on_two_cores, *with_dial]
        policies = [f"{{out}}/{step.folder}/policy@speed={speed:g}" for step in learned for speed in SPEEDS]
        looking_ahead = policies[len(on_two_cores) * len(SPEEDS) :]
        policies += [f"{{out}}/{step.folder}/policy" for step in fixed]
        policies += [f"{world.filter}@{threshold}" for threshold in world.filter_thresholds]
        command = world.evaluation([*policies, "oracle:1", *world.rules], world.blocks)
        ahead = world.evaluation(
            [*looking_ahead, "oracle:1", *world.rules], world.blocks[1:], "--blocks_ahead", str(world.ahead)
        )
        return [
            *world.before,
            *on_two_cores,
            *with_dial,
            *fixed,
            Step(f"{self.name}/frontier", command, ("--episodes", "1")),
            *([Step(f"{self.name}/{AHEAD}", ahead, ("--episodes", "1"))] if world.ahead else []),
        ]

    def summarise(self, out: Path) -> Summary:
        """Compare families of settings on the same problems."""
        reference, blocks = self.world.reference, {}
        decodings = {str(block): ("frontier", block) for block in self.world.blocks}
        if self.world.ahead:
            decodings[AHEAD] = AHEAD, self.world.blocks[1]
        for name, (folder, block) in decodings.items():
            here = find(read_records(out / self.name / folder), block_length=block)
            outcomes = read_outcomes(out / self.name / folder).values()
            lines = [entry for entry in outcomes if entry["block_length"] == block]
            suite = find(here, task="all")
            blocks[name] = {
                **_nearly(here),
                "speeds": _speeds(suite, "dial"),
                **({"laptop": _speeds(suite, "laptop")} if self.world.laptop and name != AHEAD else {}),
                "points": _points(suite),
                "hypervolume": _hypervolumes(lines, reference),
                "in_positions": _hypervolumes(lines, reference, in_positions=True),
            }
        trained = json.loads((out / dials(self.world)[0].folder / "policy/config.json").read_text())["trained"]
        return {"blocks": blocks, "steps": trained["timesteps"], "provenance": provenance(out, self.steps())}

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        world, shorter = self.world, f"blocks of {self.world.blocks[1]}"
        full, blocks = (summary["blocks"][str(block)] for block in self.world.blocks)
        pairs = list(zip(full["speeds"], blocks["speeds"], strict=True))[::2]
        speeds = [[f"{one['speed']:g}", *_over_seeds(one), *_over_seeds(other)] for one, other in pairs]
        others = list(zip(full.get("laptop", ()), blocks.get("laptop", ()), strict=True))[::2]
        on_two_cores = [[f"{one['speed']:g}", *_over_seeds(one), *_over_seeds(other)] for one, other in others]
        shares = [[f"{one['speed']:g}", *_share(one, full), *_share(other, blocks)] for one, other in pairs]
        rows = [
            ("hypervolume", name, wording) for name, wording in self.families.items() if name in full["hypervolume"]
        ]
        rules = f"The rules are {len(world.rules)} settings, {world.rules_are}"
        about, against = [rules], "the union of the rules"
        if world.alphas:
            against += ", and a policy for each alpha"
            about.append(
                f"""A policy for each of alpha {", ".join(map(str, world.alphas))} was trained from the same filter for
                {world.alpha_steps:,} steps, in all {len(world.alphas) * world.alpha_steps:,} (the dial:
                {summary["steps"]:,}), and counts with both decision rules"""
            )
        if self.has_guide:
            rows += [
                ("in_positions", "dial", "in token positions: the dial"),
                ("in_positions", "rules_and_guide", "in token positions: the rules, the one with a second model too"),
            ]
            about.append(
                """The rule with a second model (`guided`) runs it at each step, which forwards of the dLLM do not show
                and token positions do, so the last two rows cover accuracy and 1 / (token positions), in units of one
                forward's"""
            )
        covered = [
            [wording, *(cell for block in (full, blocks) for cell in _covers(block[cost][name], name))]
            for cost, name, wording in rows
        ]
        nearly = [
            [name, percent(block["wanted"]), *_distance(row, block)]
            for name, block in (("full diffusion", full), (shorter, blocks))
            for row in block["nearly"]
        ]
        tasks = []
        for task in full["tasks"]:
            entries = [block["tasks"][task] for block in (full, blocks)]
            tasks.append(
                [task, *(cell for entry in entries for cell in (*_over_seeds(entry), f"{entry['oracle']:.2f}"))]
            )
        ranks = [over_seeds(block["rank_correlation"], 2) for block in (full, blocks)]
        columns = ["full diffusion: accuracy %", "NFE", f"{shorter}: accuracy %", "NFE"]
        with_oracle = [*columns[:2], "oracle", *columns[2:], "oracle"]
        costs = ["rules' NFE", "dial's share"]
        compared = ["speed", f"full diffusion: {costs[0]}", costs[1], f"{shorter}: {costs[0]}", costs[1]]
        distances = ["decoding", "accuracy % wanted", "speed", "accuracy %", "NFE", "best rule's NFE"]
        distances += ["share of the rule's", "times the oracle's"]
        more = ""
        if on_two_cores:
            config = world.laptop[world.laptop.index("--config") + 1]
            more = f"""

The same from as many seeds of a short training on two cores (`{config}`), on the same problems:

{table(["speed", *columns], on_two_cores)}"""
        return f"""Three seeds from a Learn2PD filter, {world.fresh} held-out problems a task that nothing was tuned
on; mean and 95 % Student interval over seeds:

{table(["speed", *columns], speeds)}

![Accuracy against forwards](../images/{self.name}.png)

**At equal accuracy**: the cheapest rule that is at most half a point less accurate than each seed's place on its dial
(or the most accurate rule), and what the dial needs of its forwards:

{table(compared, shares)}{more}

**Against {against}.** Hypervolume: what a family covers of the plane of accuracy
above {percent(world.reference)} % (which a single forward gives) and speed 1 / NFE; then how much more the dial
covers, 95 % bootstrap interval over problems. {". ".join(" ".join(part.split()) for part in about)}:

{table(["family", "full diffusion", "dial covers more", shorter, "dial covers more"], covered)}

**At {100 * NEARLY:.0f} % of one token per step's accuracy**: the cheapest place on each seed's dial (or its
most accurate
one, and then no share), the cheapest rule, and the oracle:

{table(distances, nearly)}

**Forwards follow the difficulty.** At that place; rank correlation of a task's forwards with the oracle's:
{ranks[0]} in full
diffusion, {ranks[1]} in {shorter}.

{table(["task", *with_oracle], tasks)}{self._ahead(summary) if world.ahead else ""}"""

    def _ahead(self, summary: Summary) -> str:
        """Word what comes of blocks ahead whose masks may be committed too."""
        found, block_alone = summary["blocks"][AHEAD], summary["blocks"][str(self.world.blocks[1])]
        rows = [
            [f"{one['speed']:g}", *_over_seeds(one), *_share(one, found), *_share(one, block_alone)]
            for one in found["speeds"][::2]
        ]
        families = ("dial", "rules", "oracle")
        covered = [[FAMILIES[name], *_covers(found["hypervolume"][name], name)] for name in families]
        nearly = [[percent(found["wanted"]), *_distance(row, found)] for row in found["nearly"]]
        columns = ["accuracy % wanted", "speed", "accuracy %", "NFE", "best rule's NFE"]
        columns += ["share of the rule's", "times the oracle's"]
        one, both = f"blocks of {self.world.blocks[1]}", ["rules' NFE", "dial's share"]
        ahead = "the next block" if self.world.ahead == 1 else f"the next {self.world.ahead} blocks"
        return f"""

**A block ahead.** In {one} where masks of {ahead} may be committed too (`--blocks_ahead {self.world.ahead}`), the same
problems and settings; the cheapest rules that are as accurate, first with the same allowed to them, then in the block
alone:

{table(["speed", "accuracy %", "NFE", *both, *(f"in the block alone: {name}" for name in both)], rows)}

{table(["family", "hypervolume", "dial covers more"], covered)}

{table(columns, nearly)}"""

    def draw(self, summary: Summary, folder: Path) -> None:
        """Draw the frontiers of both decodings."""
        full, shorter = self.world.blocks
        titles = {str(full): "full diffusion", str(shorter): f"blocks of {shorter}"}
        titles[AHEAD] = f"blocks of {shorter}, {self.world.ahead} ahead"
        panels = {
            # The union with the second model first, as it hides what is drawn before it.
            titles[block]: {
                FAMILIES[name]: found["points"][name]
                for name in ("rules_and_guide", "rules", "filter", "alphas", "laptop", "dial", "oracle")
                if name in found["points"] and name in self.families
            }
            for block, found in summary["blocks"].items()
        }
        plot_frontiers(panels, self.world.most_forwards, folder / f"{self.name}.png")


def _families(policy: str) -> tuple[str, ...]:
    """Return the families that a line of the evaluation belongs to."""
    name = PolicyName.read(policy)
    if name.is_learned:
        kinds = {"dial": "dial", "laptop": "laptop", "alpha": "alphas"}
        return (next((kind for start, kind in kinds.items() if name.options.startswith(start)), "filter"),)
    if name.is_oracle:
        return ("oracle",)
    return ("rules_and_guide",) if name.kind == "guided" else ("rules", "rules_and_guide")


def _seed(policy: str) -> int:
    name = PolicyName.read(policy)
    _, is_one_of_several, seed = name.options.rpartition("_s")
    return int(seed) if name.is_learned and is_one_of_several else 0


def _place(name: str, seed: int, speed: float) -> str:
    return str(PolicyName(LEARNED, f"{name}_s{seed}", f"speed={speed:g}"))


def _speeds(suite: Sequence[Record], name: str) -> list[Summary]:
    found = []
    for speed in SPEEDS:
        records = [find(suite, policy=_place(name, seed, speed))[0] for seed in SEEDS]
        values = {name: [record[name] for record in records] for name in ("accuracy", "nfe")}
        found.append({"speed": speed, **values})
    return found


def _nearly(here: Sequence[Record]) -> Summary:
    """Compare each seed's cheapest place that is accurate enough with the cheapest rule and the oracle."""
    suite = find(here, task="all")
    wanted = NEARLY * find(suite, policy="low_confidence:1")[0]["accuracy"]
    # No tolerance: what is wanted is a share of an accuracy already, and must be reached.
    rule = best_rule([record for record in suite if "rules" in _families(record["policy"])], wanted, 0.0)
    oracle = {record["task"]: record["nfe"] for record in find(here, policy=of_kind("oracle"))}
    chosen = [best_rule(find(suite, policy=which(f"dial_s{seed}")), wanted, 0.0) for seed in SEEDS]
    tasks: Summary = {}
    ranks = []
    for place in chosen:
        own = [record for record in find(here, policy=place["policy"]) if record["task"] != "all"]
        for record in own:
            limit = oracle[record["task"]]
            entry = tasks.setdefault(record["task"], {"accuracy": [], "nfe": [], "oracle": limit})
            entry["accuracy"].append(record["accuracy"])
            entry["nfe"].append(record["nfe"])
        ranks.append(float(stats.spearmanr([r["nfe"] for r in own], [oracle[r["task"]] for r in own]).statistic))
    return {
        "wanted": wanted,
        "nearly": [_kept(place) for place in chosen],
        "rule": _kept(rule),
        "oracle": oracle["all"],
        "tasks": tasks,
        "rank_correlation": ranks,
    }


def _kept(record: Record) -> Summary:
    return {name: record[name] for name in ("policy", "accuracy", "nfe")}


def _points(suite: Sequence[Record]) -> dict[str, list[list[tuple[float, float]]]]:
    """Return each family's (NFE, accuracy) points, one list a seed."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for record in suite:
        for name in _families(record["policy"]):
            seeds = found.setdefault(name, {})
            seeds.setdefault(_seed(record["policy"]), []).append((record["nfe"], record["accuracy"]))
    return {name: list(seeds.values()) for name, seeds in found.items()}


def _hypervolumes(outcomes: Sequence[Outcomes], reference: float, in_positions: bool = False) -> Summary:
    """Return what each family covers, by seed, and how much more the dial covers, as an interval over problems.

    Args:
        outcomes: of every line, on the same problems.
        reference: accuracy that counts as nothing.
        in_positions: count token positions instead of forwards, in units of what one forward of the dLLM computes.
    """
    score = np.array([entry["score"] for entry in outcomes])
    nfe = np.array([entry["nfe"] for entry in outcomes], dtype=np.float64)
    if in_positions:
        plain = next(entry for entry in outcomes if entry["policy"] == "low_confidence:1")
        nfe = np.array([entry["token_positions"] for entry in outcomes]) * (
            sum(plain["nfe"]) / sum(plain["token_positions"])
        )
    weights = resampled(np.zeros(score.shape[1]))
    accuracies, forwards = weights @ score.T, weights @ nfe.T
    lines: dict[str, dict[int, list[int]]] = {}
    for i, entry in enumerate(outcomes):
        for name in _families(entry["policy"]):
            lines.setdefault(name, {}).setdefault(_seed(entry["policy"]), []).append(i)
    covered = {
        name: np.array([_covered(accuracies[:, own], forwards[:, own], reference) for own in seeds.values()])
        for name, seeds in lines.items()
    }
    dial = covered["dial"].mean(0)
    return {
        name: {
            "seeds": values[:, 0].tolist(),
            "dial_covers_more": np.percentile((dial - values.mean(0))[1:], [2.5, 97.5]).tolist(),
        }
        for name, values in covered.items()
    }


def _covered(accuracies: npt.NDArray[np.float64], forwards: npt.NDArray[np.float64], reference: float) -> list[float]:
    """Return the hypervolume of each row of settings."""
    return [
        hypervolume(list(zip(row, cost, strict=True)), reference)
        for row, cost in zip(accuracies.tolist(), forwards.tolist(), strict=True)
    ]


def _over_seeds(entry: Summary) -> list[str]:
    return [over_seeds([100 * accuracy for accuracy in entry["accuracy"]]), over_seeds(entry["nfe"], 2)]


def _share(entry: Summary, block: Summary) -> list[str]:
    """Return the forwards of the cheapest rules as accurate as each seed's place, and the dial's share of them."""
    [points] = block["points"]["rules"]
    rules: list[Any] = [{"nfe": nfe, "accuracy": accuracy} for nfe, accuracy in points]
    cheapest = [best_rule(rules, accuracy)["nfe"] for accuracy in entry["accuracy"]]
    shares = [own / other for own, other in zip(entry["nfe"], cheapest, strict=True)]
    return [over_seeds(cheapest, 2), over_seeds(shares, 2)]


def _covers(entry: Summary, name: str) -> list[str]:
    low, high = entry["dial_covers_more"]
    return [over_seeds(entry["seeds"], 3), "" if name == "dial" else f"{low:+.3f} to {high:+.3f}"]


def _distance(place: Summary, block: Summary) -> list[str]:
    rule, name = block["rule"], PolicyName.read(place["policy"])
    return [
        f"{name.options.removeprefix('dial_')}: {name.setting.removeprefix('speed=')}",
        percent(place["accuracy"]),
        f"{place['nfe']:.2f}",
        f"{rule['nfe']:.2f} (`{rule['policy']}`)",
        f"{place['nfe'] / rule['nfe']:.2f}" if place["accuracy"] >= block["wanted"] else "",
        f"{place['nfe'] / block['oracle']:.2f}",
    ]
