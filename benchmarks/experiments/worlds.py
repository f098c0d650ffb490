"""The embedded worlds: a dLLM, its tasks, and what experiments need to know to be made in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.base import FROM_SCRATCH, Step
from train.evaluation.records import Record


@dataclass(frozen=True)
class World:
    """A frozen dLLM, the tasks that it knows, and how their texts are decoded.

    Attributes:
        prefix: of the names of its experiments, nothing for the first world.
        arguments: of `train/evaluate.py` and `train/learn2pd.py`.
        traces: further ones of the latter.
        blocks: block lengths: full diffusion, and one shorter.
        dial: arguments of `train/ppo.py` for a policy with a dial that learns from a filter of another run.
        least: accuracy that a rule's setting must reach; None is a point below one token per step's.
        reference: accuracy that counts as nothing, which a single forward reaches.
    """

    prefix: str
    arguments: Sequence[str]
    traces: Sequence[str]
    blocks: tuple[int, int]
    dial: Sequence[str]
    least: float | None
    reference: float

    @property
    def filters(self) -> Step:
        """Trains the filters that other experiments start from."""
        command = ["train/learn2pd.py", *self.arguments, *self.traces]
        quick = ("--problems", "64", "--epochs", "2", "--episodes", "2")
        return Step(f"{self.prefix}learn2pd/filters_run", command, quick)

    def filter(self, name: str) -> str:
        """Return the folder of one of them."""
        return f"{{out}}/{self.filters.folder}/filters/{name}"

    def enough(self, suite: Sequence[Record]) -> float:
        """Return the accuracy that a rule's setting must reach.

        Args:
            suite: records of all tasks together, of one block length, one token per step among them.
        """
        if self.least is not None:
            return self.least
        one = next(record for record in suite if record["policy"] == "low_confidence:1")
        return float(one["accuracy"]) - 0.01


LIST_WORLD = World(
    prefix="",
    arguments=(),
    traces=(),
    blocks=(64, 16),
    dial=("--config", "configs/ppo_dial.yaml", *FROM_SCRATCH),
    least=0.97,
    reference=0.65,
)
"""`tiny` and the suite of lists: short answers, of which most are finished in two forwards."""

PROSE_WORLD = World(
    prefix="prose_",
    arguments=("--model", "small", "--tasks", "[prose]", "--buffer_length", "128"),
    traces=("--block_lengths", "[128, 32]"),
    blocks=(128, 32),
    dial=("--config", "configs/ppo_prose.yaml"),
    least=None,
    reference=0.0,
)
"""`small` and the suite of prose: long answers in free words, whose numbers need the ones before."""
