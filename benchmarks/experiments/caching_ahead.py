"""A block ahead under a cache: rules, the dials that know no cache, and what these become by training for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.base import (
    SEEDS,
    Experiment,
    Step,
    Summary,
    find,
    is_rule,
    percent,
    provenance,
    table,
)
from experiments.caching import (
    BLOCK,
    CACHE,
    CONTINUED_CACHE,
    FRESH,
    Caching,
    continued,
    kept,
    row_of,
    seed_of,
)
from experiments.dial import dials
from experiments.worlds import PROSE_WORLD
from train.evaluation.records import read_records

AHEAD = 1
"""Blocks ahead whose masks may be committed too."""

SPEEDS = (0.0, 0.125, 0.25, 0.375, 0.5)
"""Places on the dials."""

CACHES = (CACHE, *FRESH)

RULES = (
    *(f"threshold:{t:g}" for t in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)),
    *(f"eb_sampler:{b:g}" for b in (0.02, 0.1, 0.3, 1)),
    *("ete:0.7", "ete:0.8", "ete:0.85", "low_confidence:1"),
)

SHOWN = ("eb_sampler:0.1", "threshold:0.9", "ete:0.8", "low_confidence:1")
"""Those whose numbers are shown."""

TRAINED, AS_THEY_ARE = "ahead", "dial"
"""Names of the policies that went on under the cache, and of those that they went on from."""


def trainings() -> list[Step]:
    """Return the trainings that go on under the cache with a block ahead, one a seed."""
    return continued(f"caching_ahead/{TRAINED}", "--env.blocks_ahead", str(AHEAD))


class CachingAhead(Experiment):
    """Accuracy and positions under the dual cache where the next block's masks may be committed too."""

    name = "caching_ahead"

    def __init__(self) -> None:
        self.block_alone = Caching()

    def steps(self) -> list[Step]:
        """Train under the cache, then evaluate on the problems of the comparison without one."""
        return [*self.block_alone.steps(), *trainings(), *map(_frontier, CACHES)]

    def summarise(self, out: Path) -> Summary:
        """Keep accuracy and positions of every setting, by cache."""
        records = {cache: read_records(out / _folder(cache)) for cache in CACHES}
        settings = {cache: [kept(record) for record in find(own, task="all")] for cache, own in records.items()}
        block_alone = self.block_alone.summarise(out)["settings"]
        rules = [one for cache, own in block_alone.items() if cache != "none" for one in find(own, policy=is_rule)]
        return {"settings": settings, "rules_in_block": rules, "provenance": provenance(out, self.steps())}

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        settings = summary["settings"]
        # Whoever knows no cache may have the one that suits him best, and look ahead or not.
        ahead = [one for cache in CACHES for one in find(settings[cache], policy=is_rule)]
        rules = [[*summary["rules_in_block"], *ahead] for _ in SEEDS]
        before = [[one for cache in CACHES for one in seed_of(settings[cache], AS_THEY_ARE, seed)] for seed in SEEDS]
        columns = ["cache", "speed", "accuracy %", "positions", "NFE", "of the rules'"]

        def written(name: str, caches: Sequence[str], rivals: Sequence[Sequence[Sequence[Summary]]]) -> str:
            places = {cache: [seed_of(settings[cache], name, seed) for seed in SEEDS] for cache in caches}
            rows = [
                [f"`{cache}`", *row_of(speed, [one[i] for one in places[cache]], rivals)]
                for cache in caches
                for i, speed in enumerate(SPEEDS)
            ]
            return table([*columns, *["of those before"][: len(rivals) - 1]], rows)

        shown = [
            [
                f"`{cache}`",
                f"`{one['policy']}`",
                percent(one["accuracy"]),
                f"{one['positions']:.0f}",
                f"{one['nfe']:.2f}",
            ]
            for cache in CACHES
            for one in find(settings[cache], policy=SHOWN.__contains__)
        ]
        return f"""
In blocks of {BLOCK} with `blocks_ahead={AHEAD}`, on the same problems. Rules:

{table(["cache", "rule", "accuracy %", "positions", "NFE"], shown)}

The dials of the comparison as they are, three seeds; the rules' positions are those of the cheapest of {len(RULES)}
settings under any of these caches, and of those above in the block alone, that is at most half a point less accurate:

{written(AS_THEY_ARE, CACHES, [rules])}

After 40,960 more steps under `{CONTINUED_CACHE}` with a block ahead and positions priced, also as a share of what those
before need under any of these caches:

{written(TRAINED, [CONTINUED_CACHE], [rules, before])}
"""


def _folder(cache: str) -> str:
    return f"caching_ahead/{cache.replace(':', '_').replace('=', '_')}"


def _frontier(cache: str) -> Step:
    steps = [*dials(PROSE_WORLD), *trainings()]
    policies = [f"{{out}}/{step.folder}/policy@speed={speed:g}" for step in steps for speed in SPEEDS]
    command = PROSE_WORLD.evaluation([*policies, *RULES], [BLOCK], "--blocks_ahead", str(AHEAD), "--cache", cache)
    return Step(_folder(cache), command, ("--episodes", "1"))
