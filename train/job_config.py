"""What every training job can be told, whatever its algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from envs.decoding import DecodingSettings
from envs.tasks import BENCHMARKS, SUITE, TASKS
from policies import NetworkConfig, make_rule
from policies.actions import ActionConfig
from policies.dit import DiTConfig
from train.config_values import nearest
from train.model_config import ModelConfig
from train.tracking import WandbConfig


@dataclass(frozen=True)
class EnvConfig:
    """The environment; see `envs.unmasking.UnmaskingVectorEnv`."""

    num_envs: int = 64
    """Sequences decoded side by side; several processes (torchrun) share them out."""
    tasks: list[str] = field(default_factory=lambda: [SUITE])
    """Tasks by name, or suite."""
    task_weights: list[str] = field(default_factory=list)
    """How often tasks are drawn in training, as NAME=WEIGHT; a task that is not named has weight 1."""
    problems: int | None = None
    """Training problems of a task that could make them without end, gone through again and again, their first forwards
    computed once; null draws new ones all the time."""
    buffer_length: int = 64
    """Masks a sequence starts from."""
    block_lengths: list[int] = field(default_factory=list)
    """Positions of a semi-autoregressive block; of several, each episode draws one. An empty list is full diffusion."""
    temperature: float = 0.0
    """Of the sampled token; 0 commits the argmax."""
    early_end: bool = True
    """End a sequence once all before a committed end-of-text is known; false decodes every position, which is how arXiv
    2512.09106 counts forwards."""
    reward: str = "multiplicative"
    """multiplicative, additive or forward_cost."""
    alpha: float = 8.0
    """Weight of speed in the reward."""
    alpha_range: list[float] = field(default_factory=list)
    """Slowest and fastest alpha of one policy with a speed dial, instead of alpha; each episode draws its own."""

    def __post_init__(self) -> None:
        if self.num_envs < 1:
            raise ValueError(f"num_envs is {self.num_envs}: it must be 1 or more")
        if self.problems is not None and self.problems < 1:
            raise ValueError(f"problems is {self.problems}: it must be 1 or more, or null for new ones all the time")
        for text in self.task_weights:
            name, _, weight = text.rpartition("=")
            if name not in (*TASKS, *BENCHMARKS):
                close = nearest(name, (*TASKS, *BENCHMARKS))
                meant = f", perhaps {close}" if close else ""
                raise ValueError(f"task_weights holds {text!r}: write NAME=WEIGHT with the name of a task{meant}")
            try:
                is_possible = 0 <= float(weight) < float("inf")
            except ValueError:
                is_possible = False
            if not is_possible:
                raise ValueError(f"task_weights holds {text!r}: the weight must be a number of 0 or more")

    def weights_of(self, names: Sequence[str]) -> list[float]:
        """Return the weights of the tasks of these names."""
        given = {text.rpartition("=")[0]: float(text.rpartition("=")[2]) for text in self.task_weights}
        return [given.get(name, 1.0) for name in names]


@dataclass(frozen=True)
class FilterSection:
    """A Learn2PD filter to build on."""

    learn: bool = False
    """Without a folder, learn one for the model first, in the run's own, from its careful decoding of problems."""
    folder: str | None = None
    """Folder of a filter that train/learn2pd.py exported."""
    role: Literal["start", "feature", "both"] = "both"
    """start: training begins as the filter, whose architecture and inputs replace the policy section's; feature: its
    log-odds are one more input; both."""
    problems: int = 1152
    """Training problems to learn it from."""
    reference: str = "threshold:0.98"
    """Rule that decodes them; what it gets right is to be found in as few forwards as an oracle would."""
    false_commit_weight: float = 16.0
    """Weight of a position that must not be committed, in its loss."""

    def __post_init__(self) -> None:
        if self.problems < 1:
            raise ValueError(f"filter.problems is {self.problems}: it must be 1 or more")
        if not self.false_commit_weight > 0:
            raise ValueError(f"filter.false_commit_weight is {self.false_commit_weight}: it must be above 0")
        make_rule(self.reference)

    @property
    def is_learned(self) -> bool:
        """Whether the job learns its filter."""
        return self.learn and self.folder is None


@dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation at the end, on held-out problems."""

    episodes: int = 100
    """Problems a task."""
    calibration_episodes: int = 50
    """Validation problems a task that each place on a speed dial is measured on."""
    rules: list[str] = field(default_factory=lambda: ["threshold:0.9"])
    """Rules to compare with, as name:knob."""
    beside_training: bool = False
    """Evaluate the rules in a process of its own during the training; for a dLLM on a CPU with a core to spare."""
    block_lengths: list[int] = field(default_factory=list)
    """Block lengths to evaluate at; an empty list is those trained with."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes is {self.episodes}: it must be 1 or more")
        for rule in self.rules:
            make_rule(rule)


@dataclass(frozen=True)
class JobConfig:
    """What every training job can be told; each algorithm adds a section of its own."""

    DEFAULTS: ClassVar[str | None] = None
    """File of `configs/` that a command without arguments takes."""

    out: Path = Path("runs/job")
    """The run's folder; it must be new or empty."""
    seed: int = 0
    """Of everything random."""
    resume: bool = False
    """Go on where a killed run of this folder stopped."""
    dry_run: bool = False
    """Try the set-up instead: a few rollouts, one update, and an estimate of time and memory. Nothing is written."""
    total_timesteps: int = 80_000
    """Environment steps, summed over the rows."""
    checkpoint_every: int = 10
    """Updates between two checkpoints."""
    model: ModelConfig = field(default_factory=ModelConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    policy: NetworkConfig = field(default_factory=NetworkConfig)
    dit: DiTConfig | None = None
    """The paper's own network instead of the policy section's; give {} for its sizes."""
    actions: ActionConfig = field(default_factory=ActionConfig)
    filter: FilterSection = field(default_factory=FilterSection)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        if len(self.env.alpha_range) not in (0, 2):
            raise ValueError(f"env.alpha_range is {self.env.alpha_range}: give the slowest and the fastest alpha")
        if self.dit is not None and (self.filter.learn or self.filter.folder is not None or self.env.alpha_range):
            raise ValueError(
                "dit is given: the paper's network takes neither a filter (set filter.learn to false and filter.folder "
                "to null) nor a speed dial (env.alpha_range)"
            )
        if self.checkpoint_every < 1:
            raise ValueError(f"checkpoint_every is {self.checkpoint_every}: it must be 1 or more")
        for block in (*self.env.block_lengths, *self.evaluation.block_lengths):
            DecodingSettings(self.env.buffer_length, block)
