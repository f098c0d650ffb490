"""Policies that learned under a cache, and when to refresh it, against rules and policies that are given it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.base import (
    QUICK_DIAL,
    SEEDS,
    Experiment,
    Step,
    Summary,
    find,
    over_seeds,
    percent,
    provenance,
    repeat,
    table,
    which,
)
from experiments.dial import Dial, dials, train
from experiments.worlds import PROSE_WORLD
from train.evaluation.measures import ROUNDING, TOLERANCE, best_rule
from train.evaluation.naming import PolicyName
from train.evaluation.records import Record, read_records

BLOCK = PROSE_WORLD.blocks[1]
SPEEDS = (0.0, 0.5, 1.0)

CACHE = "dual"
INTERVALS = tuple(f"{CACHE}:{interval}" for interval in ("refresh=2", "refresh=4", "fresh_prompt=1", "fresh_prompt=2"))
"""The same cache, which computes everything, or the prompt alone, each so many forwards of a block."""

RULES = (
    *(f"threshold:{t:g}" for t in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)),
    *(f"eb_sampler:{b:g}" for b in (0.02, 0.1, 0.3, 1)),
    "low_confidence:1",
)

SHOWN = ("threshold:0.9", "low_confidence:1")
"""Those whose numbers are shown."""

LEARNED = {"plain": (), "refresh": ("--policy.decides_refresh", "true", "--policy.refresh_bias", "-1")}
"""Arguments of the policies that are trained under the cache, by name; the second also decides when to refresh."""

WITHOUT = "dial"
"""Name of those that were trained without it."""


def trainings() -> list[Step]:
    """Return the trainings under the cache, from the filter that those without it start from."""
    about = ["--env.cache", CACHE, "--env.price", "positions", "--env.block_lengths", f"[{BLOCK}]"]
    # A forward of a block computes a fifth of the text, so the same alphas would weigh less.
    about += ["--env.alpha_range", "[1, 48]", "--evaluation.rules", "[]", "--evaluation.calibration_episodes", "2"]
    return [
        Step(f"caching/{name}_s{seed}", train(PROSE_WORLD, "--seed", str(seed), *about, *more), QUICK_DIAL)
        for seed in SEEDS
        for name, more in LEARNED.items()
    ]


class Caching(Experiment):
    """Accuracy and positions under the dual cache."""

    name = "caching"

    def __init__(self) -> None:
        self.without = Dial(PROSE_WORLD)

    def steps(self) -> list[Step]:
        """Train under the cache, then evaluate on the problems of the comparison without one."""
        trained = trainings()
        fixed = [step for step in trained if "plain" in step.folder]
        without = dials(PROSE_WORLD)
        frontiers = [_frontier(CACHE, [*trained, *without])]
        frontiers += [_frontier(one, [*fixed, *without]) for one in INTERVALS]
        return [*self.without.steps(), *trained, *frontiers]

    def summarise(self, out: Path) -> Summary:
        """Keep accuracy and positions of every setting, by cache."""
        records = {cache: read_records(out / _folder(cache)) for cache in (CACHE, *INTERVALS)}
        # Of the same problems and blocks, without a cache.
        records["none"] = [
            record
            for record in find(read_records(out / self.without.name / "frontier"), block_length=BLOCK)
            if record["policy"] in RULES
        ]
        settings = {cache: [_kept(record) for record in find(own, task="all")] for cache, own in records.items()}
        return {"settings": settings, "provenance": provenance(out, self.steps())}

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        settings, under = summary["settings"], (CACHE, *INTERVALS)
        own = {name: [_seed(settings[CACHE], name, seed) for seed in SEEDS] for name in (*LEARNED, WITHOUT)}
        rules = [[one for cache in under for one in find(settings[cache], policy=_is_rule)] for _ in SEEDS]
        columns = ["speed", "accuracy %", "positions", "NFE"]
        rivals = {"of the rules'": rules, "of those without it": own[WITHOUT]}

        def written(name: str, against: Sequence[str]) -> str:
            rows = [_row(speed, own[name], [rivals[one] for one in against]) for speed in SPEEDS]
            return table([*columns, *against], rows)

        shown = [
            [cache, f"`{one['policy']}`", percent(one["accuracy"]), f"{one['positions']:.0f}", f"{one['nfe']:.2f}"]
            for cache in ("none", *under)
            for one in find(settings[cache], policy=SHOWN.__contains__)
        ]

        def at_intervals(name: str) -> str:
            rows = [
                [f"`{cache}`", *_row(speed, [_seed(settings[cache], name, seed) for seed in SEEDS], ())]
                for cache in INTERVALS
                for speed in SPEEDS
            ]
            return table(["cache", *columns], rows)

        intervals = ", ".join(f"`{cache}`" for cache in INTERVALS[:-1]) + f" and `{INTERVALS[-1]}`"
        return f"""
In blocks of {BLOCK}, on the {PROSE_WORLD.fresh} problems a task of the dial's comparison. What the cache does to two
rules:

{table(["cache", "rule", "accuracy %", "positions", "NFE"], shown)}

Three seeds each, trained under `{CACHE}` with positions priced (`env.price`), from the filter that the dial without a
cache starts from; mean and 95 % Student interval over seeds. Shares of positions are at equal accuracy: of the cheapest
of the others that is at most half a point less accurate than each seed's place, if there is one for each. The rules are
{len(RULES)} settings, each under `{CACHE}`, {intervals}; those without it are the dials that were trained without a
cache, under `{CACHE}` as it is. Under the cache as it is:

{written("plain", list(rivals))}

With one more action bit, which refreshes the whole row:

{written("refresh", list(rivals))}

The policies without that bit, where everything, or the prompt alone, is computed anew at fixed intervals:

{at_intervals("plain")}

The dials that were trained without a cache, under `{CACHE}`:

{written(WITHOUT, list(rivals)[:1])}

And at fixed intervals:

{at_intervals(WITHOUT)}
"""


def _folder(cache: str) -> str:
    return f"caching/{cache.replace(':', '_').replace('=', '_')}"


def _frontier(cache: str, trained: Sequence[Step]) -> Step:
    policies = [f"{{out}}/{step.folder}/policy@speed={speed:g}" for step in trained for speed in SPEEDS]
    command = ["train/evaluate.py", *PROSE_WORLD.arguments, *repeat("--policy", [*policies, *RULES])]
    command += ["--block_length", str(BLOCK), "--cache", cache, "--first", "100", "--episodes", str(PROSE_WORLD.fresh)]
    return Step(_folder(cache), command, ("--episodes", "1"))


def _is_rule(policy: str) -> bool:
    return not PolicyName.read(policy).is_learned


def _kept(record: Record) -> Summary:
    return {
        "policy": record["policy"],
        "accuracy": record["accuracy"],
        "nfe": record["nfe"],
        "positions": record["token_positions"],
    }


def _seed(settings: Sequence[Summary], name: str, seed: int) -> list[Summary]:
    """Return the places on one policy's dial, from slow to fast."""
    return find(settings, policy=which(f"{name}_s{seed}"))


def _row(speed: float, own: Sequence[Sequence[Summary]], rivals: Sequence[Sequence[Sequence[Summary]]]) -> list[str]:
    """Write what each seed's policy needs at a place of its dial, and its share of each family of rivals."""
    places = [one[SPEEDS.index(speed)] for one in own]
    return [
        f"{speed:g}",
        over_seeds([100 * place["accuracy"] for place in places]),
        over_seeds([place["positions"] for place in places], 0),
        over_seeds([place["nfe"] for place in places], 2),
        *(_shares(places, family) for family in rivals),
    ]


def _shares(places: Sequence[Summary], rivals: Sequence[Sequence[Summary]]) -> str:
    """Write the places' positions as shares of those of the cheapest rivals as accurate, where there are any."""
    shares = []
    for place, others in zip(places, rivals, strict=True):
        priced: list[Any] = [{"accuracy": one["accuracy"], "nfe": one["positions"]} for one in others]
        best = best_rule(priced, place["accuracy"])
        if best["accuracy"] < place["accuracy"] - TOLERANCE - ROUNDING:
            return "none as accurate"
        shares.append(place["positions"] / best["nfe"])
    return over_seeds(shares, 2)
