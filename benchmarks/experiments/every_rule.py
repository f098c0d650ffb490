"""Every published rule at every knob, in full diffusion and in blocks."""

from __future__ import annotations

from pathlib import Path

from experiments.base import Experiment, Step, Summary, find, of_kind, percent, provenance, table
from train.evaluation.naming import PolicyName
from train.evaluation.records import Record, read_records

LEAST = 0.97
"""Accuracy that a setting must reach to be a rule's in the table."""

BLOCKS = (64, 16)


class EveryRule(Experiment):
    """`python train/evaluate.py --policy all`."""

    name = "every_rule"

    def steps(self) -> list[Step]:
        """Sweep all rules in one run."""
        return [Step("every_rule", ["train/evaluate.py", "--policy", "all"], ("--episodes", "1"))]

    def summarise(self, out: Path) -> Summary:
        """Keep each rule's cheapest setting that is accurate enough, or its most accurate one in full diffusion."""
        records = find(read_records(out / "every_rule"), task="all")
        rules = dict.fromkeys(PolicyName.read(record["policy"]).kind for record in records)
        return {
            "settings": len(records),
            "rules": {
                rule: [_cheapest(find(records, policy=of_kind(rule), block_length=b), b) for b in BLOCKS]
                for rule in rules
            },
            "provenance": provenance(out, self.steps()),
        }

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        rules = summary["rules"]
        order = sorted(rules, key=lambda rule: (rules[rule][0]["accuracy"] < LEAST, rules[rule][0]["nfe"]))
        rows = []
        for rule in order:
            full, blocks = rules[rule]
            rows.append(
                [f"`{rule}`", full["knob"], percent(full["accuracy"]), f"{full['nfe']:.2f}"]
                + [f"{full['token_positions']:.0f}"]
                + (
                    [blocks["knob"], percent(blocks["accuracy"]), f"{blocks['nfe']:.2f}"]
                    if blocks
                    else ["-", f"below {100 * LEAST:.0f}", "-"]
                )
            )
        best, second = [rule for rule in order if rule != "oracle"][:2]
        less = 100 * (1 - rules[best][0]["nfe"] / rules["threshold"][0]["nfe"])
        columns = ["rule", "setting", "accuracy %", "NFE", "token positions"]
        columns += [f"in blocks of {BLOCKS[1]}: setting", "accuracy %", "NFE"]
        return f"""{summary["settings"]} settings on 25 held-out problems a task (forwards and token positions,
those of drafts, shadows
and guides included). For each rule, the cheapest setting that is right on {100 * LEAST:.0f} % or more (or, if
there is none in
full diffusion, the most accurate):

{table(columns, rows)}

Intervals are about 2 points and 5 % of the forwards. The best published rule here is `{best}`, {less:.0f} %
below the threshold
rule, then `{second}`. The oracle, which knows the one-token-per-step result, needs
{rules["oracle"][0]["nfe"]:.2f}."""


def _cheapest(settings: list[Record], block: int) -> Summary | None:
    enough = [record for record in settings if record["accuracy"] >= LEAST]
    if enough:
        chosen = min(enough, key=lambda record: float(record["nfe"]))
    elif block == BLOCKS[0]:
        chosen = max(settings, key=lambda record: float(record["accuracy"]))
    else:
        return None
    kept = {name: chosen[name] for name in ("accuracy", "nfe", "token_positions")}
    return {"knob": PolicyName.read(chosen["policy"]).options, **kept}
