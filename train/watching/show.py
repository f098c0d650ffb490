"""What is to be watched: policies, problems, and the recordings of one on the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from envs.caches import make_cache
from envs.decoding.settings import BlockOrigin, DecodingSettings, Window
from envs.denoiser import Denoiser
from envs.tasks import Problem, Split, make_tasks
from policies import LearnedPolicy, UnmaskingPolicy, load
from policies.generation import check_cache
from train.command.config_values import PathText
from train.command.decoding_config import CacheText, decoding_of, settle_decoding, unused_without_blocks, what_differs
from train.command.model_config import ModelConfig
from train.command.progress import progress
from train.command.ranges import check_count, check_seed
from train.evaluation.jobs import plan
from train.evaluation.measure import score_problems
from train.watching.recording import Recording, record

MOST_POLICIES = 6
"""Policies that still fit side by side."""


@dataclass(frozen=True)
class WatchConfig:
    """Watch policies decode: the buffer step by step, policies side by side, and the order of their commits.

    Examples:
        python train/watch.py
        python train/watch.py --policy runs/ppo/policy --policy threshold:0.9 --task replace
        python train/watch.py --policy wino:0.7 --task sort --format ansi
        python train/watch.py --block_length 16 --cache dual
        python train/watch.py --policy runs/engine/policy --block_length 16 --window truncated --block_origin absolute
    """

    policy: list[PathText] = field(default_factory=lambda: ["low_confidence:4", "threshold:0.9"])
    """Rules as name:knob,option=value, or folders of exported policies, as python train/evaluate.py takes them; a plain
    folder decides as it was saved to. list prints a table of the rules."""
    task: str = "replace"
    """Task by name, or suite for one problem of each in turn."""
    format: Literal["html", "gif", "ansi"] = "html"
    """html: one page; gif: an animation a problem; ansi: print to the terminal and write nothing."""
    out: Path = Path("runs/watch")
    """Folder for the page or the animations; it must be new or empty."""
    split: Split = "test"
    """Problems to use: test, validation or train."""
    problems: int = 5
    """Problems to choose from in the page."""
    first: int = 0
    """Index of the first problem of the split."""
    heatmap_problems: int = 100
    """Problems that the heat map of the commit order counts; 0 leaves it out."""
    buffer_length: int = 64
    """Masks to start from."""
    block_length: int | None = None
    """Positions of a block; null is full diffusion."""
    end_of_text_prediction: bool = False
    """Drop everything after a committed end-of-text from the computation (EoTP)."""
    window: Window = "full"
    """truncated shows the model nothing after the current block, as serving engines do; full shows the whole buffer."""
    block_origin: BlockOrigin = "buffer"
    """absolute counts blocks from the start of the prompt, as serving engines do; buffer from its end."""
    blocks_ahead: int = 0
    """Blocks after the current one whose masks may be committed too, where the last forward computed them."""
    cache: CacheText = "none"
    """Which positions a forward computes anew, such as dual or dual:refresh=8 (docs/caches.md); those that it computed
    are marked."""
    any_dllm: bool = False
    """Let learned policies decode with a dLLM of another kind than they were trained for."""
    seed: int = 0
    """Of every random choice."""
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        check_count(self, "problems", "buffer_length", "block_length")
        check_count(self, "first", "heatmap_problems", least=0)
        check_seed(self)
        if not 1 <= len(set(self.policy)) <= MOST_POLICIES:
            raise ValueError(f"policy names {len(set(self.policy))} policies: give 1 to {MOST_POLICIES}")
        # Refused here, before a dLLM is loaded.
        settle_decoding(self, [self.block_length])

    def unused(self) -> dict[str, str]:
        """Return the fields that play no role beside the others, each with the reason."""
        found = {} if self.format == "html" else {"heatmap_problems": f"format is {self.format}"}
        if self.block_length is None:
            found |= unused_without_blocks("block_length is null")
        return found | ({"out": "format is ansi, which writes nothing"} if self.format == "ansi" else {})


@dataclass(frozen=True)
class Player:
    """One policy to watch.

    Attributes:
        name: what the page calls it.
        policy: the policy.
    """

    name: str
    policy: UnmaskingPolicy

    def describe(self) -> dict[str, Any]:
        """Return what the page says about the policy."""
        learned = isinstance(self.policy, LearnedPolicy)
        threshold = self.policy.threshold if isinstance(self.policy, LearnedPolicy) else None
        sampled = self.policy.decision == "sample"
        return {
            "name": self.name,
            "kind": f"learned, {self.policy.decision}" if learned else "rule",
            "threshold": None if sampled else threshold,
        }


@dataclass(frozen=True)
class Show:
    """Everything there is to see: several policies on the same problems.

    Attributes:
        config: how it was made.
        denoiser: the frozen dLLM.
        players: the policies.
        problems: those of the page first, then more for the heat map.
        recordings: one list a player, one recording a problem.
        scores: likewise, in [0, 1]; None where an answer couldn't be scored.
    """

    config: WatchConfig
    denoiser: Denoiser
    players: list[Player]
    problems: list[Problem]
    recordings: list[list[Recording]]
    scores: list[list[float | None]]

    @property
    def title(self) -> str:
        """Say what is decoded and by whom, in one line."""
        how = what_differs(decoding_of(self.config)).replace(", ", " · ")
        return f"{self.config.model.name} · {self.config.task} · {self.config.split}{how} — {self.versus}"

    @property
    def is_cached(self) -> bool:
        """Whether a forward may compute less than it is shown."""
        return make_cache(self.config.cache).keeps

    @property
    def versus(self) -> str:
        """The policies' names."""
        return " vs ".join(player.name for player in self.players)


def choose_players(
    policies: Sequence[str], block_length: int, device: str = "cpu", any_dllm: bool = False
) -> list[Player]:
    """Build the policies to watch, for a block length.

    Raises:
        ValueError: if a rule is unknown, or it is the sweep of all rules.
        FileNotFoundError: if a folder holds no policy.
    """
    if "all" in policies:
        raise ValueError(f"policy is 'all': name 1 to {MOST_POLICIES} policies to watch")
    players: list[Player] = []
    # The variants of a policy stand next to each other in a plan.
    for text, jobs in groupby(plan(policies, [block_length]), key=lambda job: job.policy):
        variants = list(jobs)
        # A plain folder stands for both decision rules; one panel shows the saved one.
        decision = load(text).decision if len(variants) > 1 else variants[0].decision
        players += [Player(job.name, job.make(device, any_dllm)) for job in variants if job.decision == decision]
    return players


def choose_problems(task: str, split: Split, first: int, count: int) -> list[Problem]:
    """Return problems of a task, or of all tasks in turn.

    Raises:
        ValueError: if the task is unknown.
    """
    tasks = make_tasks(task)
    return [tasks[i % len(tasks)].problem(split, first + i // len(tasks)) for i in range(count)]


def rehearse(config: WatchConfig) -> Show:
    """Decode all problems with all policies and record every step."""
    block = config.block_length or config.buffer_length
    players = choose_players(config.policy, block, config.model.device, config.any_dllm)
    for player in players:
        check_cache(player.policy, config.cache)
    # Only the page has a heat map.
    wanted = max(config.problems, config.heatmap_problems if config.format == "html" else 0)
    problems = choose_problems(config.task, config.split, config.first, wanted)
    denoiser = config.model.load()
    settings = DecodingSettings(block_length=config.block_length, **decoding_of(config))
    prompts, given = [problem.prompt for problem in problems], [problem.given for problem in problems]
    recordings = [
        record(denoiser, prompts, player.policy, settings, given=given, seed=config.seed)
        for player in progress(players, desc="recording", unit="policy")
    ]
    tasks = make_tasks(config.task)
    scores = []
    for runs in recordings:
        texts = [run.text for run in runs]
        scores.append(score_problems(tasks, problems, texts))
    return Show(config, denoiser, players, problems, recordings, scores)
