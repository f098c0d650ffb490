"""Trainings in the prose world that differ in one thing: what is read, where it starts, which algorithm."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from types import MappingProxyType

import yaml

from experiments.base import (
    QUICK_UNTRIED,
    SEEDS,
    Experiment,
    Step,
    Summary,
    beside_rules,
    cell_of,
    find,
    is_rule,
    over_seeds,
    provenance,
    setting_of,
    table,
    which,
)
from experiments.dial import Dial, train
from experiments.worlds import PROSE_WORLD, SHORT
from train.command.config import ROOT
from train.evaluation.frontiers import hypervolume
from train.evaluation.naming import LEARNED, PolicyName
from train.evaluation.records import read_records

STEPS = 24_576
"""Environment steps of each."""

SPEEDS = (0.0, 0.5, 1.0)
"""Places on a dial that are looked at."""

EQUALLY = ("--total_timesteps", str(STEPS), "--evaluation.validations", "0", "--evaluation.rules", "[]")
"""Arguments of every training: the last weights count, so that no try has to choose among them."""

FROM_RULE = ("--filter.learn", "false")
FROM_NOTHING = (*FROM_RULE, "--policy.init", "random")

PPO = ("--ppo.learning_rate", "5e-4", "--ppo.n_steps", "16", "--ppo.batch_size", "512", "--ppo.n_epochs", "4")
"""PPO's own settings: rounds of 16 steps a row, in batches of 512."""


def ppo_command(config: Path, has_filter: bool) -> list[str]:
    """Return the command that trains with PPO what a configuration of GRPO says of all but evaluation.

    Args:
        config: the file.
        has_filter: whether it starts from a filter's folder; what is said of one that is learned is left out.
    """
    words = ["train/ppo.py"]
    for section, fields in yaml.safe_load(config.read_text()).items():
        if section in ("grpo", "evaluation") or not isinstance(fields, Mapping):
            continue
        for name, value in fields.items():
            if section != "filter" or (has_filter and name in ("threshold", "steepness")):
                words += [f"--{section}.{name}", value if isinstance(value, str) else json.dumps(value)]
    return words


@dataclass(frozen=True)
class Recipe:
    """One training.

    Attributes:
        group: what is being changed; lines of a group are compared with the first of all.
        wording: how this one has it.
        is_ppo: with PPO, or GRPO.
        has_filter: whether it starts from the filter.
        flags: what else it is told.
        seeds: that it is trained with.
    """

    group: str
    wording: str
    is_ppo: bool = False
    has_filter: bool = True
    flags: Sequence[str] = ()
    seeds: Sequence[int] = SEEDS[:1]


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "states": Recipe("what it reads", "hidden states as inputs"),
        "confidences": Recipe("what it reads", "confidences alone", flags=("--policy.hidden_state_size", "0")),
        "similarity": Recipe(
            "what it reads", "how alike hidden states are", flags=("--policy.hidden_state_use", "similarity")
        ),
        "both": Recipe("what it reads", "both", flags=("--policy.hidden_state_use", "both")),
        "ppo": Recipe("algorithm", "PPO", is_ppo=True, flags=PPO),
        "rounds": Recipe(
            "start",
            "a filter that saw its own states",
            has_filter=False,
            flags=("--filter.rounds", "2"),
            seeds=SEEDS,
        ),
        "margin": Recipe(
            "start", "a filter that learned margins", has_filter=False, flags=("--filter.target", "margin")
        ),
        "rule": Recipe("start", "the 0.9-threshold rule", has_filter=False, flags=FROM_RULE),
        "nothing": Recipe("start", "nothing", has_filter=False, flags=FROM_NOTHING),
        "ppo_nothing": Recipe("start", "nothing, with PPO", is_ppo=True, has_filter=False, flags=(*FROM_NOTHING, *PPO)),
    }
)
"""Every training by the name of its folder; the first is what the others are compared with."""

FILTERS = ("rounds", "margin")
"""Recipes that learn a filter of their own, which is looked at too."""

ALPHAS = (1, 4, 16)
"""Weights of speed that a policy without a dial is learned for, by the first recipe: within its dial's range."""


def _alpha(alpha: float) -> Step:
    words = train(PROSE_WORLD.laptop, PROSE_WORLD.filter, "--seed", "0", *EQUALLY)
    words += ["--env.alpha_range", "[]", "--env.alpha", str(alpha), "--policy.dial_rise", "0"]
    return Step(f"prose_recipes/alpha{alpha}", words, QUICK_UNTRIED)


def _alphas_evaluation() -> Step:
    policies = [f"{{out}}/prose_recipes/alpha{alpha}/policy" for alpha in ALPHAS]
    command = PROSE_WORLD.evaluation(policies, PROSE_WORLD.blocks[:1])
    return Step("prose_recipes/alphas", command, ("--episodes", "1"))


def _filter_evaluation(name: str) -> Step:
    policies = [f"{{out}}/prose_recipes/{name}/filter@{threshold:g}" for threshold in PROSE_WORLD.filter_thresholds]
    command = PROSE_WORLD.evaluation(policies, PROSE_WORLD.blocks[:1])
    return Step(f"prose_recipes/{name}_filter", command, ("--episodes", "1"))


def _folder(name: str, seed: int) -> str:
    return f"prose_recipes/{name}" + (f"_s{seed}" if seed else "")


def _training(name: str, seed: int) -> Step:
    recipe, given = RECIPES[name], PROSE_WORLD.laptop
    command = [*ppo_command(ROOT / SHORT, recipe.has_filter), "--evaluation.episodes", "1"] if recipe.is_ppo else given
    start, flags = PROSE_WORLD.filter if recipe.has_filter else None, recipe.flags
    if seed and name in FILTERS:
        # One filter for all seeds, as for all other recipes.
        start, flags = f"{{out}}/{_folder(name, 0)}/filter", ()
    words = train(command, start, "--seed", str(seed), *EQUALLY, "--evaluation.calibration_episodes", "2", *flags)
    # Not as other dials: nothing is validated here.
    return Step(_folder(name, seed), words, QUICK_UNTRIED)


def _evaluation(name: str, seed: int) -> Step:
    policy = f"{{out}}/{_folder(name, seed)}/policy"
    places = [f"{policy}@speed={speed:g}" for speed in SPEEDS]
    command = PROSE_WORLD.evaluation(places, PROSE_WORLD.blocks[:1])
    return Step(f"{_folder(name, seed)}_places", command, ("--episodes", "1"))


class Recipes(Experiment):
    """The short training of the prose world with one thing changed at a time."""

    name = "prose_recipes"

    def __init__(self) -> None:
        self.comparison = Dial(PROSE_WORLD)

    def steps(self) -> list[Step]:
        """Train every recipe from the filter of the dial's comparison, and look at its places."""
        # Trainings first: side by side, an evaluation that waits for its own keeps others from beginning.
        tries = [(name, seed) for name, recipe in RECIPES.items() for seed in recipe.seeds]
        trainings = [*starmap(_training, tries), *map(_alpha, ALPHAS)]
        return [
            *self.comparison.steps(),
            *trainings,
            *starmap(_evaluation, tries),
            _alphas_evaluation(),
            *map(_filter_evaluation, FILTERS),
        ]

    def summarise(self, out: Path) -> Summary:
        """Keep each place, and the cheapest rule as accurate, on the problems of the dial's comparison."""
        about = {"task": "all", "block_length": PROSE_WORLD.blocks[0], "policy": is_rule}
        rules = find(read_records(out / "prose_dial/frontier"), **about)
        rows = []
        for name, recipe in RECIPES.items():
            suites = [find(read_records(out / f"{_folder(name, seed)}_places"), task="all") for seed in recipe.seeds]
            places = [
                [
                    beside_rules(record, rules)
                    for suite in suites
                    for record in suite
                    if setting_of(record) == f"speed={speed:g}"
                ]
                for speed in SPEEDS
            ]
            rows.append({"name": name, "group": recipe.group, "wording": recipe.wording, "places": places})
        suite = find(read_records(out / "prose_recipes/alphas"), task="all", decision="deterministic")
        alphas = [
            {"alpha": alpha, **beside_rules(find(suite, policy=which(f"alpha{alpha}"))[0], rules)} for alpha in ALPHAS
        ]
        filters = []
        for threshold in PROSE_WORLD.filter_thresholds:
            folders = ("prose_dial/frontier", *(f"prose_recipes/{name}_filter" for name in FILTERS))
            suites = [read_records(out / folder) for folder in folders]
            # Among several folders a filter's records say which it is; alone, that it was learned.
            names = [str(PolicyName(LEARNED, own, f"{threshold:g}")) for own in ("filter", "")]
            found = [find(suite, **{**about, "policy": names.__contains__})[0] for suite in suites]
            filters.append({"threshold": threshold, "filters": [beside_rules(record, rules) for record in found]})
        return {
            "rows": rows,
            "alphas": alphas,
            "filters": filters,
            "steps": STEPS,
            "provenance": provenance(out, self.steps()),
        }

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        lines = []
        for row in summary["rows"]:
            areas = [
                hypervolume([(place["accuracy"], place["nfe"]) for place in seed], PROSE_WORLD.reference)
                for seed in zip(*row["places"], strict=True)
            ]
            lines.append([row["group"], row["wording"], *map(cell_of, row["places"]), over_seeds(areas, 3)])
        filters = [
            [f"{row['threshold']:g}", *(cell_of([place]) for place in row["filters"])] for row in summary["filters"]
        ]
        columns = ["what is changed", "how", *(f"speed {speed:g}" for speed in SPEEDS), "hypervolume"]
        return f"""One seed each, three and their 95 % Student interval where there is a ±; {summary["steps"]:,}
environment steps on two cores, from the filter that the dial of two cores starts from where nothing else is said;
{PROSE_WORLD.fresh} held-out problems a task, full diffusion. Accuracy in % and forwards, and in brackets the share of
the forwards of the cheapest rule that is at most half a point less accurate, or of the most accurate one (among the
settings that the [dial](prose.md#the-first-dials) is compared with):

{table(columns, lines)}

**A policy for one alpha.** The same training with one weight of speed and no dial, which then is what it learns for:

{table(["alpha", "accuracy % in forwards"], [[row["alpha"], cell_of([row])] for row in summary["alphas"]])}

**Filters alone.** What they learned by imitation, before any reinforcement: from the states that the oracle passes
through on its way to a careful rule's right answers; from those as well to which that filter comes, at 0.95, on the way
to the same answers (`filter.rounds` 2); and, instead of whether a prediction is right, by how much the right token is
likelier than the best other one (`filter.target` margin):

{table(["threshold", "accuracy % in forwards", "in two rounds", "margins"], filters)}"""
