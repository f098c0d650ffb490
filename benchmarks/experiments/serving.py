"""What serving engines show: what that costs against the whole buffer, and what a policy for it saves there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.base import QUICK_DIAL, Experiment, Step, Summary, find, of_kind, percent, provenance, repeat, table
from train.evaluation.measures import best_rule
from train.evaluation.naming import LEARNED, PolicyName
from train.evaluation.records import Record, read_records

BLOCKS = (4, 8, 16, 32, 64)
SPEEDS = (0.0, 0.25, 0.5, 0.75, 1.0)
OWN = {"diffusers": 0.7, "LMDeploy": 0.85, "SGLang": 0.95}
"""Engines, and the threshold that each commits at unless it is told another."""

SHOWN = ("--window", "truncated", "--block_origin", "absolute")
FRESH = ("--first", "2200", "--episodes", "100", "--workers", "1")
"""Problems for the table; those from 2000 on are the pipeline's."""

RULES = tuple(f"threshold:{threshold:g}" for threshold in OWN.values())
TRAIN = ["train/ppo.py", "--config", "configs/engine.yaml", "--evaluation.rules", "[]", "--evaluation.episodes", "20"]
ENGINE = Step("serving/engine", [*TRAIN, "--wandb.mode", "disabled"], (*QUICK_DIAL, "--filter.problems", "90"))
POLICY = f"{{out}}/{ENGINE.folder}/policy"
PLACES = [f"{POLICY}@speed={speed:g}" for speed in SPEEDS]
PIPELINES = (16, 32)


class Serving(Experiment):
    """The policy of ``configs/engine.yaml`` beside the engines' own rules, and in diffusers' own pipeline."""

    name = "serving"

    def steps(self) -> list[Step]:
        """Train, evaluate in the whole buffer and in what engines show, choose on validation problems, and serve."""

        def evaluate(folder: str, policies: Sequence[str], *more: str) -> Step:
            words = ["train/evaluate.py", *repeat("--policy", policies), *repeat("--block_length", BLOCKS), *more]
            return Step(f"serving/{folder}", words, ("--episodes", "1"))

        validation = ("--split", "validation", "--episodes", "50", "--workers", "1")
        pipelines = [
            Step(
                f"serving/pipeline_{block}",
                ["benchmarks/pipeline.py", POLICY, "--block_length", str(block), "--first", "2000"],
                ("--episodes", "1", "--validation_episodes", "1"),
                # It can't go on with half a run, and starts anew.
                resume=(),
            )
            for block in PIPELINES
        ]
        return [
            ENGINE,
            evaluate("whole", RULES, *FRESH),
            evaluate("rules", RULES, *SHOWN, *FRESH),
            evaluate("policy", PLACES, *SHOWN, *FRESH),
            evaluate("choice", [*RULES, *PLACES], *SHOWN, *validation),
            *pipelines,
        ]

    def summarise(self, out: Path) -> Summary:
        """Keep each block's rules in both windows, and the places that were chosen."""
        blocks = {}
        for block in BLOCKS:
            whole, rules, places, choice = (
                find(read_records(out / "serving" / folder), block_length=block, task="all")
                for folder in ("whole", "rules", "policy", "choice")
            )
            blocks[str(block)] = {
                "whole": {rule: _kept(find(whole, policy=rule)[0]) for rule in RULES},
                "shown": {rule: _kept(find(rules, policy=rule)[0]) for rule in RULES},
                "policy": {rule: _kept(find(places, policy=choose(choice, rule))[0]) for rule in RULES},
            }
        pipelines = {str(b): json.loads((out / f"serving/pipeline_{b}/pipeline.json").read_text()) for b in PIPELINES}
        trained = json.loads((out / ENGINE.folder / "policy/config.json").read_text())["trained"]
        return {
            "blocks": blocks,
            # The last block's, but every block has as many.
            "problems": whole[0]["episodes"],
            "pipelines": pipelines,
            "steps": trained["timesteps"],
            "provenance": provenance(out, self.steps()),
        }

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        cost = [
            [
                block,
                *(_pair(found[window][rule]) for rule in (RULES[0], RULES[-1]) for window in ("whole", "shown")),
            ]
            for block, found in summary["blocks"].items()
        ]
        saved = [
            [block, *(_against(found["policy"][rule], found["shown"][rule]) for rule in RULES)]
            for block, found in summary["blocks"].items()
        ]
        low, high = (f"threshold {PolicyName.read(name).options}, whole buffer" for name in (RULES[0], RULES[-1]))
        engines = [f"{name} ({threshold:g})" for name, threshold in OWN.items()]
        served = [
            [
                block,
                found["chosen"].removeprefix("policy, "),
                _pair(found["results"][found["chosen"]]),
                *(f"{found['shares'][kind]:.2f}" for kind in ("threshold", "stopped")),
            ]
            for block, found in summary["pipelines"].items()
        ]
        serve = ["block", "place on the dial", "policy", "share of the pipeline's own thresholds"]
        count = next(iter(summary["pipelines"].values()))["problems"]
        return f"""**What is shown costs accuracy.** An engine shows the model nothing after the current block, and
counts blocks from the start of the prompt. Accuracy % and forwards of the same rules on the same {summary["problems"]}
held-out problems:

{table(["block", low, "as engines show", high, "as engines show"], cost)}

**What the policy saves.** `configs/engine.yaml`, one seed, {summary["steps"]:,} steps, in what engines show, beside the
rule that each engine commits by unless it is told otherwise, a threshold. For each the place on the dial was chosen on
validation problems: the cheapest that was at most half a point less accurate. Forwards as a share of the rule's, and
the policy's accuracy % less the rule's, in points; a forward that an engine spends on keeping its cache is counted for
neither:

{table(["block", *engines], saved)}

**In diffusers' own pipeline**, {count:,} other held-out problems: the policy beside the cheapest of the pipeline's own
thresholds that is at most half a point less accurate, and beside the cheapest of the same thresholds in the exported
scheduler, which spares the pipeline's last forward of a block; the place was chosen on validation problems:

{table([*serve, "and of those that stop as it does"], served)}"""


def choose(choice: Sequence[Record], rule: str) -> str:
    """Return the name of the cheapest place that is as accurate as a rule, or of the most accurate one."""
    # Of validation problems, so that what is shown of others doesn't favour the place that is chosen.
    wanted = find(choice, policy=rule)[0]["accuracy"]
    return str(best_rule(find(choice, policy=of_kind(LEARNED)), wanted)["policy"])


def _kept(record: Record) -> Summary:
    return {name: record[name] for name in ("policy", "accuracy", "nfe")}


def _pair(found: Mapping[str, float]) -> str:
    return f"{percent(found['accuracy'])} in {found['nfe']:.2f}"


def _against(policy: Mapping[str, float], rule: Mapping[str, float]) -> str:
    gain = 100 * (policy["accuracy"] - rule["accuracy"])
    return f"{policy['nfe'] / rule['nfe']:.2f} ({gain:+.1f})"
