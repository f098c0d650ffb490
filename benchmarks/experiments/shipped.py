"""The policy that ships for the prose world, as it ships, on the problems of `experiments.fresh`."""

from __future__ import annotations

from pathlib import Path

from experiments.base import (
    Experiment,
    Step,
    Summary,
    beside_rules,
    find,
    percent,
    provenance,
    setting_of,
    shares_of,
    table,
)
from experiments.fresh import DECODINGS, FIRST, PART, published_rules
from experiments.worlds import PROSE_WORLD
from train.evaluation.records import read_records

SPEEDS = (0.0, 0.125, 0.25, 0.375, 0.5)
"""Places on its dial that are looked at."""

FOLDER = "policies/checkpoints/small"


def _evaluation(name: str) -> Step:
    decoding = DECODINGS[name]
    places = [f"{FOLDER}@speed={speed:g}" for speed in SPEEDS]
    command = PROSE_WORLD.evaluation(places, (decoding.block,), *decoding.flags, first=FIRST, episodes=PART)
    return Step(f"prose_shipped/{name}", command, ("--episodes", "1"))


class Shipped(Experiment):
    """`policies.load("small")` at the careful half of its dial, in both decodings."""

    name = "prose_shipped"

    def steps(self) -> list[Step]:
        """Look at what ships."""
        return [_evaluation(name) for name in DECODINGS]

    def summarise(self, out: Path) -> Summary:
        """Keep each place beside the cheapest rule that is as accurate."""
        places = {}
        for name in DECODINGS:
            rules = published_rules(name)
            suite = find(read_records(out / f"prose_shipped/{name}"), task="all")
            places[name] = [{"speed": setting_of(record), **beside_rules(record, rules)} for record in suite]
        return {"places": places, "provenance": provenance(out, self.steps())}

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        rows = [
            [
                DECODINGS[name].wording,
                place["speed"].replace("=", " "),
                percent(place["accuracy"]),
                f"{place['nfe']:.2f}",
                "" if place["rules_nfe"] is None else f"{place['rules_nfe']:.2f}",
                *([f"{share:.2f}" for share in shares_of([place])] or [""]),
            ]
            for name, places in summary["places"].items()
            for place in places
        ]
        columns = ["decoding", "place", "accuracy %", "NFE", "rules' NFE", "share"]
        return f"""`policies.load("small")`, one seed, on {PART} problems a task from number {FIRST} on; the rules'
forwards are those of the cheapest rule above that is at most half a point less accurate, or of the most accurate one;
nothing where an answer is less often right than by the fastest of these rules.

{table(columns, rows)}"""
