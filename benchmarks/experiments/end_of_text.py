"""End-of-text prediction on growing buffers."""

from __future__ import annotations

from pathlib import Path

from experiments.base import Experiment, Step, Summary, find, of_kind, percent, provenance, repeat, table
from experiments.learn2pd_filters import WEIGHTED
from experiments.worlds import TRAIN_FILTERS
from train.evaluation.records import read_records

LENGTHS = (64, 128, 256, 512)
POLICIES = ("low_confidence:1", "threshold:0.9", f"{WEIGHTED}@0.9")
NAMES = {"low_confidence": "one per step", "threshold": "threshold 0.9", "learned": "filter at 0.9"}


class EndOfText(Experiment):
    """What EoTP saves, against one token per step without it at the same buffer.

    Source of the effect: Bao et al., arXiv 2509.25188, Table 2 (22.6 times at 1,024 masks, mostly padding).
    """

    name = "end_of_text"

    def steps(self) -> list[Step]:
        """Evaluate with and without EoTP at each length."""
        base = ["train/evaluate.py", *repeat("--policy", POLICIES), "--episodes", "3", "--workers", "1"]
        runs = [
            Step(
                f"end_of_text/{length}_{shortens}",
                [*base, "--buffer_length", str(length), "--end_of_text_prediction", shortens],
                # All tasks in a long buffer are not quick; one is enough to see that the command works.
                ("--episodes", "1") if length < 256 else ("--episodes", "1", "--tasks", "[copy]"),
            )
            for length in LENGTHS
            for shortens in ("false", "true")
        ]
        return [TRAIN_FILTERS, *runs]

    def summarise(self, out: Path) -> Summary:
        """Keep accuracy and token positions of each policy."""
        lengths = {}
        for length in LENGTHS:
            lengths[str(length)] = {
                f"{rule}{suffix}": {name: found[name] for name in ("accuracy", "nfe", "token_positions", "episodes")}
                for suffix, shortens in (("", "false"), ("+eotp", "true"))
                for rule in NAMES
                for found in find(
                    read_records(out / f"end_of_text/{length}_{shortens}"), task="all", policy=of_kind(rule)
                )
            }
        # Without the filters' step, which is another experiment's.
        return {"lengths": lengths, "provenance": provenance(out, self.steps()[1:])}

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        rows = []
        for length, found in summary["lengths"].items():
            base = found["low_confidence"]["token_positions"]
            cells = [length, f"{base:,.0f}", percent(found["low_confidence"]["accuracy"])]
            for rule in NAMES:
                plain, shortened = found[rule], found[f"{rule}+eotp"]
                cells += [
                    f"{base / plain['token_positions']:.1f}",
                    f"{base / shortened['token_positions']:.1f} ({percent(shortened['accuracy'])})",
                ]
            rows.append(cells)
        columns = ["buffer", "one per step: positions", "accuracy %"]
        columns += [column for name in NAMES.values() for column in (f"{name}: times fewer", "with EoTP (accuracy %)")]
        problems = summary["lengths"]["64"]["threshold"]["episodes"]
        return f"""On growing buffers, the same {problems} held-out problems each time; times fewer token
positions than one token per step
without EoTP at the same length:

{table(columns, rows)}

The gain grows with the buffer because padding is what it saves. The dLLM was trained on buffers of 33 to 256;
the accuracy
at 512 is its own limit, and EoTP, which cuts the buffer back, improves it. Intervals are about 10 points."""
