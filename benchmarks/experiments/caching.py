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
    is_rule,
    over_seeds,
    percent,
    provenance,
    table,
    which,
)
from experiments.dial import Dial, dials, laptops, train
from experiments.worlds import PROSE_WORLD
from train.evaluation.measures import ROUNDING, TOLERANCE, best_rule
from train.evaluation.records import Record, read_records

BLOCK = PROSE_WORLD.blocks[1]
SPEEDS, CAREFUL = (0.0, 0.5, 1.0), (0.0, 0.25, 0.5)
"""Places on the dials of two cores; and on those of a GPU, whose dial goes on to where few answers are right."""

CACHE = "dual"
INTERVALS = tuple(f"{CACHE}:{interval}" for interval in ("refresh=2", "refresh=4", "fresh_prompt=1", "fresh_prompt=2"))
"""The same cache, which computes everything, or the prompt alone, each so many forwards of a block."""

FRESH = tuple(cache for cache in INTERVALS if "fresh_prompt" in cache)
"""Those of them that compute the prompt alone."""

RULES = (
    *(f"threshold:{t:g}" for t in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)),
    *(f"eb_sampler:{b:g}" for b in (0.02, 0.1, 0.3, 1)),
    "low_confidence:1",
)

SHOWN = ("threshold:0.9", "low_confidence:1")
"""Those whose numbers are shown."""

LEARNED = {"plain": (), "refresh": ("--policy.decides_refresh", "true", "--policy.refresh_bias", "-1")}
"""Arguments of the policies that are trained under the cache, by name; the second also decides when to refresh."""

CONTINUED, CONTINUED_CACHE = "continued", "dual:fresh_prompt=1"
"""Name of the policies that go on from those that were trained without a cache, and the cache that they do it under."""

NEIGHBOURS = tuple(cache for cache in (CACHE, *FRESH) if cache != CONTINUED_CACHE)
"""Others under which these are looked at."""

WITHOUT = {"plain": "laptop", "refresh": "laptop", CONTINUED: "dial"}
"""For each, the name of those that were trained without the cache: by as much training from the same filter, or those
that it goes on from."""


def _trained_under(cache: str, alphas: str) -> list[str]:
    """Return the arguments of a training under a cache, at a range of alphas."""
    about = ["--env.cache", cache, "--env.price", "positions", "--env.block_lengths", f"[{BLOCK}]"]
    # A forward of a block computes a fifth of the text, so the same alphas would weigh less.
    about += ["--env.alpha_range", alphas, "--evaluation.rules", "[]", "--evaluation.calibration_episodes", "2"]
    return about


def trainings() -> list[Step]:
    """Return the trainings under the cache, from the filter that those without it start from."""
    about = _trained_under(CACHE, "[1, 48]")
    return [
        Step(
            f"caching/{name}_s{seed}",
            train(PROSE_WORLD.laptop, PROSE_WORLD.filter, "--seed", str(seed), *about, *more),
            QUICK_DIAL,
        )
        for seed in SEEDS
        for name, more in LEARNED.items()
    ]


def continued(name: str = f"caching/{CONTINUED}", *more: str) -> list[Step]:
    """Return the trainings that go on under the cache from the policies that were trained without one.

    Args:
        name: of their folders, to which the seed is added.
        *more: what else they are told.
    """
    about = [*_trained_under(CONTINUED_CACHE, "[2, 512]"), *more]
    # As they are, where a filter would begin at another threshold.
    about += ["--filter.threshold", "0.5", "--filter.steepness", "1"]
    about += ["--env.num_envs", "256", "--grpo.learning_rate", "5e-4", "--total_timesteps", "40960"]
    return [
        Step(
            f"{name}_s{seed}",
            train(PROSE_WORLD.laptop, f"{{out}}/{before.folder}/policy", "--seed", str(seed), *about),
            QUICK_DIAL,
        )
        for seed, before in zip(SEEDS, dials(PROSE_WORLD), strict=True)
    ]


class Caching(Experiment):
    """Accuracy and positions under the dual cache."""

    name = "caching"

    def __init__(self) -> None:
        self.without = Dial(PROSE_WORLD)

    def steps(self) -> list[Step]:
        """Train under the cache, then evaluate on the problems of the comparison without one."""
        trained, further = trainings(), continued()
        fixed = [step for step in trained if "plain" in step.folder]
        from_gpu = [*further, *dials(PROSE_WORLD)]
        frontiers = [_frontier(CACHE, [*trained, *laptops(PROSE_WORLD)], from_gpu)]
        for cache in INTERVALS:
            others = from_gpu if cache in FRESH else []
            frontiers.append(_frontier(cache, [*fixed, *laptops(PROSE_WORLD)], others))
        return [*self.without.steps(), *trained, *further, *frontiers]

    def summarise(self, out: Path) -> Summary:
        """Keep accuracy and positions of every setting, by cache."""
        records = {cache: read_records(out / _folder(cache)) for cache in (CACHE, *INTERVALS)}
        # Of the same problems and blocks, without a cache.
        records["none"] = [
            record
            for record in find(read_records(out / self.without.name / "frontier"), block_length=BLOCK)
            if record["policy"] in RULES
        ]
        settings = {cache: [kept(record) for record in find(own, task="all")] for cache, own in records.items()}
        return {"settings": settings, "provenance": provenance(out, self.steps())}

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        settings, under = summary["settings"], (CACHE, *INTERVALS)

        def of(cache: str, name: str) -> list[list[Summary]]:
            return [seed_of(settings[cache], name, seed) for seed in SEEDS]

        # Whoever knows no cache may have the one that suits him best.
        rules = [[one for cache in under for one in find(settings[cache], policy=is_rule)] for _ in SEEDS]
        without = {
            name: [[one for cache in under for one in seed_of(settings[cache], name, seed)] for seed in SEEDS]
            for name in set(WITHOUT.values())
        }
        columns = ["cache", "speed", "accuracy %", "positions", "NFE"]

        def written(name: str, caches: Sequence[str], rivals: Sequence[Sequence[Sequence[Summary]]] = ()) -> str:
            speeds = CAREFUL if name in (CONTINUED, WITHOUT[CONTINUED]) else SPEEDS
            rows = [
                [f"`{cache}`", *row_of(speed, [one[i] for one in of(cache, name)], rivals)]
                for cache in caches
                for i, speed in enumerate(speeds)
            ]
            return table([*columns, *("of the rules'", "of those without it")[: len(rivals)]], rows)

        shown = [
            [cache, f"`{one['policy']}`", percent(one["accuracy"]), f"{one['positions']:.0f}", f"{one['nfe']:.2f}"]
            for cache in ("none", *under)
            for one in find(settings[cache], policy=SHOWN.__contains__)
        ]
        intervals = ", ".join(f"`{cache}`" for cache in INTERVALS[:-1]) + f" and `{INTERVALS[-1]}`"
        return f"""
In blocks of {BLOCK}, on the {PROSE_WORLD.fresh} problems a task of the dial's comparison. What the cache does to two
rules:

{table(["cache", "rule", "accuracy %", "positions", "NFE"], shown)}

Three seeds each; mean and 95 % Student interval over seeds. Shares of positions are at equal accuracy: of the cheapest
of the others that is at most half a point less accurate than each seed's place, if there is one for each. They are
{len(RULES)} settings of rules, and the policies with a dial that were trained without a cache, each under `{CACHE}`,
{intervals}.

**Going on under the cache.** The dials of the comparison under `{CONTINUED_CACHE}`, as they are:

{written(WITHOUT[CONTINUED], [CONTINUED_CACHE], [rules])}

And what they become in 40,960 more steps under that cache with positions priced (`env.price`):

{written(CONTINUED, [CONTINUED_CACHE], [rules, without[WITHOUT[CONTINUED]]])}

Under the two neighbours of that cache, as they are:

{written(WITHOUT[CONTINUED], NEIGHBOURS)}

And as they went on:

{written(CONTINUED, NEIGHBOURS)}

**From the filter, on two cores.** Trained under `{CACHE}` with positions priced, from the filter that the dial of two
cores starts from, and held against that dial; under the cache as it is:

{written("plain", [CACHE], [rules, without[WITHOUT["plain"]]])}

With one more action bit, which refreshes the whole row:

{written("refresh", [CACHE], [rules, without[WITHOUT["refresh"]]])}

The policies without that bit, where everything, or the prompt alone, is computed anew at fixed intervals:

{written("plain", INTERVALS)}

And the dial of two cores, which knows no cache:

{written("laptop", under)}
"""


def _folder(cache: str) -> str:
    return f"caching/{cache.replace(':', '_').replace('=', '_')}"


def _frontier(cache: str, on_two_cores: Sequence[Step], from_gpu: Sequence[Step]) -> Step:
    policies = [
        f"{{out}}/{step.folder}/policy@speed={speed:g}"
        for steps, speeds in ((on_two_cores, SPEEDS), (from_gpu, CAREFUL))
        for step in steps
        for speed in speeds
    ]
    command = PROSE_WORLD.evaluation([*policies, *RULES], [BLOCK], "--cache", cache)
    return Step(_folder(cache), command, ("--episodes", "1"))


def kept(record: Record) -> Summary:
    """Return what is kept of a record."""
    return {
        "policy": record["policy"],
        "accuracy": record["accuracy"],
        "nfe": record["nfe"],
        "positions": record["token_positions"],
    }


def seed_of(settings: Sequence[Summary], name: str, seed: int) -> list[Summary]:
    """Return the places on one policy's dial, from slow to fast."""
    return find(settings, policy=which(f"{name}_s{seed}"))


def row_of(speed: float, places: Sequence[Summary], rivals: Sequence[Sequence[Sequence[Summary]]]) -> list[str]:
    """Write what each seed's policy needs at a place of its dial, and its share of each family of rivals."""
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
