"""What every training job can be told, whatever its algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from envs.caches import check_refreshes
from envs.decoding.settings import BlockOrigin, DecodingOptions, DecodingSettings, Window
from envs.names import hint
from envs.reward import REWARDS, get_reward
from envs.tasks import SUITE, Split, known_tasks
from policies import NetworkConfig, make_rule
from policies.distributions import ActionConfig
from policies.networks.dit import DiTConfig
from policies.networks.transformer_config import BEYOND_FILTER
from train.command.config_values import NamedIn, PathText
from train.command.decoding_config import CacheText, decoding_of, settle_decoding, unused_without_blocks
from train.command.model_config import ModelConfig
from train.command.ranges import check_count, check_range, check_seed
from train.command.wandb_config import WandbConfig
from train.filters.traces import Target


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
    window: Window = "full"
    """truncated shows the model nothing after the current block, as serving engines do; full shows the whole buffer."""
    block_origin: BlockOrigin = "buffer"
    """absolute counts blocks from the start of the prompt, as serving engines do; buffer from its end."""
    blocks_ahead: int = 0
    """Blocks after the current one whose masks may be committed too, where the last forward computed them."""
    cache: CacheText = "none"
    """Rule about the keys and values that forwards keep, with knobs as dual:refresh=8."""
    reward: Annotated[str, NamedIn(tuple(REWARDS))] = "multiplicative"
    """How score and cost become what is maximised; see envs.reward."""
    price: Literal["forwards", "positions", "milliseconds"] = "forwards"
    """What speed is paid in: forwards, positions that they compute, or milliseconds, by a cost model that is fitted on
    this machine first; each is counted in forwards of the whole text, so that alpha means the same."""
    alpha: float = 8.0
    """Weight of speed in the reward."""
    alpha_range: list[float] = field(default_factory=list)
    """Slowest and fastest alpha of one policy with a speed dial, instead of alpha; each episode draws its own."""

    def __post_init__(self) -> None:
        check_count(self, "num_envs", "problems", "buffer_length", "block_lengths")
        check_range(self, "temperature", "alpha", least=0)
        check_range(self, "alpha_range", above=0)
        if self.alpha_range and (len(self.alpha_range) != 2 or self.alpha_range[0] > self.alpha_range[1]):
            raise ValueError(f"alpha_range is {self.alpha_range}: give the slowest and the fastest alpha, rising")
        get_reward(self.reward)
        settle_decoding(self)
        weighed = [text.rpartition("=")[0] for text in self.task_weights]
        for text, name in zip(self.task_weights, weighed, strict=True):
            weight = text.rpartition("=")[2]
            if weighed.count(name) > 1:
                raise ValueError(f"task_weights holds {text!r}: {name} has two weights, so give one of them")
            if name not in known_tasks():
                meant = hint(name, known_tasks())
                raise ValueError(f"task_weights holds {text!r}: write NAME=WEIGHT with the name of a task; {meant}")
            try:
                is_possible = 0 <= float(weight) < float("inf")
            except ValueError:
                is_possible = False
            if not is_possible:
                raise ValueError(f"task_weights holds {text!r}: the weight must be a number of 0 or more")

    @property
    def decoding(self) -> DecodingOptions:
        """How it decodes, but for the block length, as `DecodingSettings`, the env and `EvaluateConfig` name it.

        Whatever a job decodes, it decodes so: training, tries, calibration and evaluation.
        """
        return decoding_of(self)

    def weights_of(self, names: Sequence[str]) -> list[float]:
        """Return the weights of the tasks of these names."""
        given = {text.rpartition("=")[0]: float(text.rpartition("=")[2]) for text in self.task_weights}
        return [given.get(name, 1.0) for name in names]


def _check_rule(text: str, field: str) -> None:
    """Refuse a rule that can't be, in the words of the field that holds it."""
    try:
        make_rule(text)
    except ValueError as error:
        raise ValueError(f"{field}: {str(error).removeprefix(f'policy is {text!r}: ')}") from None


@dataclass(frozen=True)
class FilterSection:
    """A Learn2PD filter to build on."""

    folder: PathText | None = None
    """Folder of a filter that train/learn2pd.py exported; or of a learned policy to go on from, under another cache or
    price, say (role: start)."""
    role: Literal["start", "feature", "both"] = "both"
    """start: training begins as the filter, whose architecture and inputs replace the policy section's; feature: its
    log-odds are one more input; both."""
    threshold: float = 0.5
    """What the filter's probability must be for even odds of committing in what starts as it (role), and for a commit
    where it goes on learning from its own states (rounds)."""
    steepness: float = 1.0
    """What the log-odds above that are multiplied by there; sampled decisions are then less often the unlikely one."""
    learn: bool = False
    """Without a folder, learn one for the model first, in the run's own, from its careful decoding of problems."""
    problems: int = 1152
    """Training problems to learn it from."""
    reference: str = "threshold:0.98"
    """Rule that decodes them; what it gets right is to be found in as few forwards as an oracle would."""
    target: Target = "agreement"
    """What it learns of a position: whether the prediction is the reference's token, or by how much that token is
    likelier than the best other one (margin)."""
    rounds: int = 1
    """Times that it is learned: first from the states that the oracle passes through, then from those that it comes to
    itself as well, at the threshold, where it commits only what the reference has too."""
    false_commit_weight: float = 16.0
    """Weight of a position that must not be committed, in its loss."""
    epochs: int | None = None
    """Passes over what it learns from, with a learning rate that rises and falls to 0; null is a constant rate until
    the loss on validation problems has not fallen for 12 passes."""
    reads_hidden_states: bool = False
    """Let it read hidden states as the policy does (policy.hidden_state_size). While it is learned, the disk holds two
    bytes for each of their numbers: 50 kB a state of 128 positions and a width of 192, 2 MB of 256 and 4,096."""

    def __post_init__(self) -> None:
        check_count(self, "problems", "rounds", "epochs")
        check_range(self, "steepness", "false_commit_weight", above=0)
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}: it must be between 0 and 1, both excluded")
        _check_rule(self.reference, f"reference is {self.reference!r}")

    @property
    def is_learned(self) -> bool:
        """Whether the job learns its filter."""
        return self.learn and self.folder is None


@dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation at the end."""

    episodes: int = 100
    """Problems a task."""
    validations: int = 4
    """Times that the policy is tried on validation problems while it is learned, evenly spread and the last at the end.
    The last is exported that is not worse than the best by more than a standard error; with 0 it is the last."""
    validation_episodes: int = 100
    """Validation problems a task that each of these takes."""
    calibration_episodes: int = 50
    """Validation problems a task that each place on a speed dial is measured on."""
    decision_thresholds: list[float] = field(default_factory=lambda: [0.5])
    """Least probability at which the deterministic decision commits. Of several, the policy is tried at the first while
    it is learned, and exported with the one that earns most reward on the validation problems in the end."""
    rules: list[str] = field(default_factory=lambda: ["threshold:0.9"])
    """Rules to compare with, as name:knob."""
    beside_training: bool = False
    """Evaluate the rules in a process of its own during the training; for a dLLM on a CPU with a core to spare."""
    block_lengths: list[int] = field(default_factory=list)
    """Block lengths to evaluate at; an empty list is those trained with."""
    split: Split = "test"
    """Problems to use: test is held out for this; validation is for what is still to choose, as a sweep does."""

    def __post_init__(self) -> None:
        check_count(self, "episodes", "validation_episodes", "calibration_episodes", "block_lengths")
        check_range(self, "validations", least=0)
        if not self.decision_thresholds:
            raise ValueError("decision_thresholds is []: give at least one, such as 0.5")
        for threshold in self.decision_thresholds:
            if not 0 < threshold < 1:
                raise ValueError(f"decision_thresholds holds {threshold}: each must be between 0 and 1, both excluded")
        for threshold in self.decision_thresholds:
            if self.decision_thresholds.count(threshold) > 1:
                raise ValueError(f"decision_thresholds holds {threshold} twice: give each once")
        for rule in self.rules:
            _check_rule(rule, f"rules hold {rule!r}")


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
        if self.dit is not None and (self.filter.learn or self.filter.folder is not None or self.env.alpha_range):
            raise ValueError(
                "dit is given: the paper's network takes neither a filter (set filter.learn to false and filter.folder "
                "to null) nor a speed dial (env.alpha_range)"
            )
        check_seed(self)
        check_count(self, "total_timesteps", "checkpoint_every")
        for name in ("env", "evaluation"):
            for block in getattr(self, name).block_lengths:
                try:
                    DecodingSettings(block_length=block, **self.env.decoding)
                except ValueError as error:
                    raise ValueError(f"{name}.block_lengths: {error}") from None
        if self.policy.decides_refresh and self.dit is None:
            check_refreshes("policy.decides_refresh", self.env.cache)

    def unused(self) -> dict[str, str]:
        """Return the fields and sections that play no role beside the others, each with the reason."""
        found = {"policy.has_dial": "env.alpha_range says whether there is a dial; set that instead"}
        is_threshold = self.policy.init == "threshold"
        for name in ("bias",) if is_threshold else ("threshold", "slope"):
            found[f"policy.{name}"] = f"policy.init is {self.policy.init}"
        if not self.policy.hidden_state_size:
            found["policy.hidden_state_use"] = "policy.hidden_state_size is 0"
        if not self.env.alpha_range:
            found["policy.dial_rise"] = "env.alpha_range is empty, so there is no dial"
        if not self.policy.decides_refresh:
            found["policy.refresh_bias"] = "policy.decides_refresh is false"
        if self.dit is not None:
            found["policy"] = "dit is given, the paper's network in its place"
            if not self.dit.reads_time:
                found |= dict.fromkeys(("dit.time_size", "dit.time_period"), "dit.reads_time is false")
        if not self.env.block_lengths and not self.evaluation.block_lengths:
            found |= unused_without_blocks("env.block_lengths is empty", "env.")
        found |= self._unused_of_filter()
        if self.env.alpha_range:
            found["env.alpha"] = "env.alpha_range is given"
        else:
            found["evaluation.calibration_episodes"] = "env.alpha_range is empty, so there is no dial to calibrate"
        if not self.evaluation.validations and len(self.evaluation.decision_thresholds) == 1:
            found["evaluation.validation_episodes"] = "evaluation.validations is 0"
        if not self.actions.has_stop:
            found["actions.stop_logit"] = f"actions.distribution is {self.actions.distribution}"
        return found

    def _unused_of_filter(self) -> dict[str, str]:
        """Return the fields that play no role for how the filter is made and used, each with the reason."""
        found: dict[str, str] = {}
        at = ("filter.threshold", "filter.steepness")
        if self.filter.folder is not None:
            found["filter.learn"] = "filter.folder is given"
        if not self.filter.is_learned:
            names = (
                "filter.problems",
                "filter.reference",
                "filter.target",
                "filter.rounds",
                "filter.false_commit_weight",
                "filter.epochs",
                "filter.reads_hidden_states",
            )
            found |= dict.fromkeys(names, "no filter is learned (filter.learn and filter.folder)")
        elif not self.policy.hidden_state_size:
            found["filter.reads_hidden_states"] = "policy.hidden_state_size is 0"
        if self.filter.folder is None and not self.filter.learn:
            found |= dict.fromkeys(("filter.role", *at), "filter.folder is null and filter.learn false")
        elif self.filter.role == "feature":
            learns_on = self.filter.is_learned and self.filter.rounds > 1
            found |= dict.fromkeys(at[1:] if learns_on else at, "filter.role is feature")
        elif self.filter.folder is not None:
            why = "the policy starts as the filter, whose architecture and inputs it takes (filter.role)"
            own = {one.name for one in fields(NetworkConfig)} - BEYOND_FILTER
            found |= {f"policy.{name}": why for name in own}
        return found
