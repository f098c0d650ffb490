"""Every published rule at every knob, in full diffusion and in blocks."""

from __future__ import annotations

from pathlib import Path

from experiments.base import Experiment, Step, Summary, find, of_kind, percent, provenance, repeat, table
from experiments.worlds import World
from train.evaluation.naming import PolicyName
from train.evaluation.records import Record, read_records


class EveryRule(Experiment):
    """`python train/evaluate.py --policy all` in a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = f"{world.prefix}every_rule"

    def steps(self) -> list[Step]:
        """Sweep all rules in one run."""
        world = self.world
        command = ["train/evaluate.py", *world.arguments, "--policy", "all"]
        if world.prefix:
            # In the first world blocks and problems are those that `--policy all` has by itself.
            command += [*repeat("--block_length", world.sweep_blocks), "--episodes", str(world.sweep_episodes)]
        return [Step(self.name, command, ("--episodes", "1"))]

    def summarise(self, out: Path) -> Summary:
        """Keep each rule's cheapest setting that is accurate enough, or its most accurate one in full diffusion."""
        records = find(read_records(out / self.name), task="all")
        rules = dict.fromkeys(PolicyName.read(record["policy"]).kind for record in records)
        blocks = self.world.sweep_blocks
        # In blocks one token per step may itself be less accurate than in full diffusion.
        least = {block: self.world.enough(find(records, block_length=block)) for block in blocks}

        def chosen(rule: str, block: int) -> Summary | None:
            settings = find(records, policy=of_kind(rule), block_length=block)
            return _cheapest(settings, least[block]) or (_most_accurate(settings) if block == blocks[0] else None)

        return {
            "settings": len(records),
            "least": list(least.values()),
            "rules": {rule: [chosen(rule, block) for block in blocks] for rule in rules},
            "provenance": provenance(out, self.steps()),
        }

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        rules, (least, *in_blocks) = summary["rules"], summary["least"]
        order = sorted(rules, key=lambda rule: (rules[rule][0]["accuracy"] < least, rules[rule][0]["nfe"]))
        rows = []
        for rule in order:
            full, *shorter = rules[rule]
            row = [f"`{rule}`", full["knob"], percent(full["accuracy"]), f"{full['nfe']:.2f}"]
            row.append(f"{full['token_positions']:.0f}")
            for one, enough in zip(shorter, in_blocks, strict=True):
                row += (
                    [one["knob"], percent(one["accuracy"]), f"{one['nfe']:.2f}"]
                    if one
                    else ["-", f"below {100 * enough:.0f}", "-"]
                )
            rows.append(row)
        best, second = [rule for rule in order if rule != "oracle"][:2]
        less = 100 * (1 - rules[best][0]["nfe"] / rules["threshold"][0]["nfe"])
        columns = ["rule", "setting", "accuracy %", "NFE", "token positions"]
        for block in self.world.sweep_blocks[1:]:
            columns += [f"in blocks of {block}: setting", "accuracy %", "NFE"]
        others = [
            f"{100 * enough:.0f} % in blocks of {block}"
            for block, enough in zip(self.world.sweep_blocks[1:], in_blocks, strict=True)
            if enough != least
        ]
        enough = ", ".join([f"{100 * least:.0f} % or more", *others])
        return f"""{summary["settings"]} settings on {self.world.sweep_episodes} held-out problems a task
(forwards and token positions,
those of drafts, shadows
and guides included). For each rule, the cheapest setting that is right on {enough} (or, if there is
none in full diffusion, the most accurate):

{table(columns, rows)}

Intervals are about {self.world.sweep_intervals}. The best published rule here is `{best}`, {less:.0f} %
below the threshold
rule, then `{second}`. The oracle, which knows the one-token-per-step result, needs
{rules["oracle"][0]["nfe"]:.2f}."""


def _cheapest(settings: list[Record], least: float) -> Summary | None:
    enough = [record for record in settings if record["accuracy"] >= least]
    return _kept(min(enough, key=lambda record: float(record["nfe"]))) if enough else None


def _most_accurate(settings: list[Record]) -> Summary:
    return _kept(max(settings, key=lambda record: float(record["accuracy"])))


def _kept(record: Record) -> Summary:
    kept = {name: record[name] for name in ("accuracy", "nfe", "token_positions")}
    return {"knob": PolicyName.read(record["policy"]).options, **kept}
