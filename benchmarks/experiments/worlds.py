"""The embedded worlds: a dLLM, its tasks, and what experiments need to know to be made in each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from experiments.base import FROM_SCRATCH, Step, repeat
from policies import RULES
from train.evaluation.records import Record

TRAIN_FILTERS = Step(
    "learn2pd/filters_run", ["train/learn2pd.py"], ("--problems", "64", "--epochs", "2", "--episodes", "2")
)
"""Trains the filters that the first world's experiments start from."""

SHORT = "benchmarks/experiments/grpo_prose_short.yaml"
"""Configuration of the prose world's trainings that two cores do in minutes."""

ROUNDS = "benchmarks/experiments/grpo_prose_rounds.yaml"
"""Configuration of those whose filters learn in two rounds, without hidden states."""


def prose_training(config: str) -> tuple[str, ...]:
    """Return the command that learns a dial of the prose world; its own evaluation takes minutes and is left out."""
    return ("train/grpo.py", "--config", config, "--evaluation.episodes", "1")


def filter_of(name: str) -> str:
    """Return the folder of one of them."""
    return f"{{out}}/{TRAIN_FILTERS.folder}/filters/{name}"


@dataclass(frozen=True)
class World:
    """A frozen dLLM, the tasks that it knows, and how its policies are learned and compared.

    Attributes:
        prefix: of the names of its experiments, nothing for the first world.
        arguments: of `train/evaluate.py`.
        blocks: block lengths: full diffusion, and one shorter.
        ahead: blocks ahead in which positions may be committed too, of a third decoding in the shorter blocks; 0 has
            none.
        sweep_episodes: problems a task of the sweep over all rules.
        sweep_blocks: block lengths of that sweep, the first of them full diffusion.
        sweep_intervals: how wide its intervals are, in words.
        before: what its trainings need.
        dial: command that trains a policy with a dial.
        laptop: command that trains one on two cores, where `dial` needs a GPU; nothing where it doesn't.
        filter: folder of the filter that its policies start from; of the first `laptop` where `before` makes none.
        filter_thresholds: at which it is a policy of its own, to see what was learned since.
        alphas: weights of speed that a policy each is learned for.
        alpha_steps: environment steps of each; all of them together have more than the dial.
        rules: settings to compare with.
        rules_are: what these are, in words.
        fresh: problems a task of the comparison, from number 100 on.
        least: accuracy that a rule's setting must reach; None is a point below one token per step's.
        reference: accuracy that counts as nothing, which a single forward reaches.
        most_forwards: that the figure shows.
    """

    prefix: str
    arguments: Sequence[str]
    blocks: tuple[int, int]
    ahead: int
    sweep_episodes: int
    sweep_blocks: tuple[int, ...]
    sweep_intervals: str
    before: Sequence[Step]
    dial: Sequence[str]
    laptop: Sequence[str]
    filter: str
    filter_thresholds: Sequence[float]
    alphas: Sequence[float]
    alpha_steps: int
    rules: Sequence[str]
    rules_are: str
    fresh: int
    least: float | None
    reference: float
    most_forwards: float

    def evaluation(
        self,
        policies: Iterable[str],
        block_lengths: Iterable[int],
        *more: str,
        first: int = 100,
        episodes: int | None = None,
    ) -> list[str]:
        """Return the command that evaluates on problems that nothing was tuned on.

        Args:
            policies: as `train/evaluate.py` takes them.
            block_lengths: of the decoding.
            *more: what else it is told.
            first: number of the first problem of a task; unless told, that of the comparison.
            episodes: problems a task; None is those of the comparison.
        """
        chosen = [*repeat("--policy", policies), *repeat("--block_length", block_lengths), *more]
        numbers = ["--first", str(first), "--episodes", str(episodes or self.fresh)]
        return ["train/evaluate.py", *self.arguments, *chosen, *numbers]

    def enough(self, suite: Sequence[Record]) -> float:
        """Return the accuracy that a rule's setting must reach.

        Args:
            suite: records of all tasks together, of one block length, one token per step among them.
        """
        if self.least is not None:
            return self.least
        one = next(record for record in suite if record["policy"] == "low_confidence:1")
        return float(one["accuracy"]) - 0.01


def swept(*names: str) -> list[str]:
    """Return rules at every setting of their sweeps."""
    return [f"{name}:{knob:g}" for name in names for knob in RULES[name].sweep]


LIST_WORLD = World(
    prefix="",
    arguments=(),
    blocks=(64, 16),
    ahead=0,
    sweep_episodes=25,
    sweep_blocks=(64, 16),
    sweep_intervals="2 points and 5 % of the forwards",
    before=(TRAIN_FILTERS,),
    dial=("train/ppo.py", "--config", "configs/ppo_dial.yaml", *FROM_SCRATCH),
    laptop=(),
    filter=filter_of("weighted"),
    filter_thresholds=(),
    alphas=(3, 10, 30, 100),
    alpha_steps=40_000,
    rules=(
        *(f"threshold:{t:g}" for t in (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.88, 0.9, 0.92, 0.95, 0.98)),
        *(f"eb_sampler:{b:g}" for b in (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3)),
        *swept("adablock", "credit", "bacd", "factor", "ccd_ds", "localleap", "ete", "info_gain", "guided"),
        *("low_confidence:64", "low_confidence:1"),
    ),
    rules_are="all that came near the frontier of the sweep",
    fresh=100,
    least=0.97,
    reference=0.65,
    most_forwards=3.2,
)
"""`tiny` and the suite of lists: short answers, of which most are finished in two forwards."""

PROSE_WORLD = World(
    prefix="prose_",
    arguments=("--model", "small", "--tasks", "prose", "--buffer_length", "128"),
    blocks=(128, 32),
    ahead=1,
    sweep_episodes=8,
    sweep_blocks=(128, 32),
    sweep_intervals="10 points and a fifth of the forwards",
    before=(),
    dial=prose_training("configs/grpo_prose_gpu.yaml"),
    laptop=prose_training(SHORT),
    filter="{out}/prose_dial/laptop_s0/filter",
    filter_thresholds=(0.5, 0.7, 0.9, 0.97),
    alphas=(),
    alpha_steps=0,
    rules=(
        *(f"threshold:{t:g}" for t in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99)),
        *(f"eb_sampler:{b:g}" for b in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2)),
        # Those that came before thresholds and entropy budgets somewhere in the sweep over all rules.
        *(f"dawn:{t:g}" for t in (0.6, 0.8, 0.85, 0.9)),
        *(f"ete:{t:g}" for t in (0.7, 0.8, 0.85)),
        *(f"credit:{t:g}" for t in (0.8, 0.9, 0.95)),
        *(f"localleap:{t:g}" for t in (0.8, 0.9, 0.95)),
        *("wino:0.8", "factor:0.5", "frechet:0.5"),
        *("low_confidence:128", "low_confidence:1"),
    ),
    rules_are="all that came near the frontier of the sweep",
    fresh=24,
    least=None,
    reference=0.24,
    most_forwards=140,
)
"""`small` and the suite of prose: long answers in free words, whose numbers need the ones before."""
