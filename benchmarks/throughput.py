"""Forwards and tokens a second of a dLLM of LLaDA-8B's shape, with each cache: ``python benchmarks/throughput.py``.

The weights are random, so what is written means nothing; what it costs does. For each number of rows, all in one run:

* *bare forward*: transformers' own class called on the same tokens, and nothing around it;
* *rollout*: `envs.unmasking.UnmaskingVectorEnv` stepped by the untrained policy network, as a training does;
* each cache: whole texts decoded by a rule that commits a fixed number of tokens a forward.

Beside each stands its share of the bare forward's rate, the positions computed, and, on a GPU, the peak of memory
beside what `envs.models.memory.step_memory` computes. ``throughput.json`` in the run's folder holds the numbers,
``throughput.md`` the table.
"""

from __future__ import annotations

from train.command.starting import end_quietly

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from experiments.base import table
from random_dllm import random_dllm
from rich.console import Console
from rich.table import Table

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.models.adapter import MaskedLMDenoiser
from envs.models.device import check_device
from envs.models.memory import step_memory
from envs.tasks import Problem
from envs.unmasking import UnmaskingVectorEnv
from policies import NetworkConfig, UnmaskingNetwork, make_rule
from policies.distributions import ActionConfig, make_distribution
from policies.playing import play_out
from train.command.config_values import NamedIn
from train.command.decoding_config import CacheText
from train.command.files import write_atomic, write_json
from train.command.model_config import DTYPES, check_dtype
from train.command.progress import progress
from train.command.ranges import check_count, check_seed
from train.command.run_folder import open_run, refuse_used
from train.command.told import tell
from train.job.counting import timed

if TYPE_CHECKING:
    from transformers import LlamaConfig

COLUMNS = ("rows", "what", "forwards / s", "of bare", "tokens / s", "positions", "peak GB", "computed GB")
"""``positions`` are those computed for a text; ``of bare`` is the share of the bare forward's rate."""

MAX_LENGTH = 4096
"""Positions that the dLLM takes, as LLaDA-8B does."""


@dataclass(frozen=True)
class ThroughputConfig:
    """Measure forwards and tokens a second of a random dLLM, with and without caches.

    Examples:
        python benchmarks/throughput.py --device cuda --dtype bfloat16
        python benchmarks/throughput.py --layers 2 --width 128 --vocabulary 1024 --rows 4
    """

    cache: list[CacheText] = field(
        default_factory=lambda: [
            "none",
            "prefix",
            "dual",
            "dual:fresh_prompt=3",
            "dkv",
            "d2cache",
            "freecache",
            "window",
        ]
    )
    """Caches to decode with."""
    rows: list[int] = field(default_factory=lambda: [1, 16])
    """Sequences decoded side by side, one table part each."""
    prompt: int = 200
    """Tokens of every prompt."""
    buffer_length: int = 256
    """Masks to start from."""
    block_length: int = 32
    """Positions of a block."""
    tokens: int = 8
    """Committed in each forward."""
    layers: int = 32
    """Of the dLLM."""
    width: int = 4096
    """Of its hidden states, a multiple of that of its heads (128, or 32 below 1024); its feed-forward layers are three
    times as wide."""
    vocabulary: int = 126464
    """Tokens that it knows."""
    repeats: int = 2
    """Of each measurement, of which the fastest counts."""
    device: str = "cpu"
    """Torch device."""
    dtype: Annotated[str, NamedIn(DTYPES)] = "float32"
    """Torch dtype of the weights."""
    threads: int = 1
    """Torch threads."""
    out: Path = Path("runs/throughput")
    """Folder for throughput.json and throughput.md; it must be new or empty."""
    seed: int = 0
    """Of weights and prompts."""

    def __post_init__(self) -> None:
        names = ("rows", "prompt", "buffer_length", "block_length", "tokens", "layers", "width", "repeats", "threads")
        check_count(self, *names)
        check_count(self, "vocabulary", least=256)
        if self.width % self.head:
            raise ValueError(f"width is {self.width}: it must be a multiple of {self.head}, the width of its heads")
        if self.tokens > self.block_length:
            raise ValueError(
                f"tokens is {self.tokens}: a forward commits in one block, so it must be {self.block_length} "
                "(block_length) or less"
            )
        if self.prompt + self.buffer_length > MAX_LENGTH:
            raise ValueError(
                f"prompt is {self.prompt}: it must be {MAX_LENGTH - self.buffer_length} or less, as the dLLM takes "
                f"{MAX_LENGTH} tokens of prompt and buffer together"
            )
        check_seed(self)
        check_dtype(self.dtype)
        for name in ("cache", "rows"):
            if not getattr(self, name):
                raise ValueError(f"{name} is an empty list: give one or more")
        for cache in self.cache:
            self.settings(cache)

    @property
    def head(self) -> int:
        """Width of an attention head."""
        return 128 if self.width >= 1024 else 32

    @property
    def llama(self) -> LlamaConfig:
        """Sizes of the dLLM."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=3 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.width // self.head,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=False,
        )

    def settings(self, cache: str) -> DecodingSettings:
        """Return how texts are decoded: every position of them."""
        return DecodingSettings(self.buffer_length, self.block_length, early_end=False, cache=cache)


@dataclass(frozen=True)
class Rate:
    """What was measured of one way to run the dLLM.

    Attributes:
        rows: sequences side by side.
        what: ``"bare forward"``, ``"rollout"``, or a cache.
        forwards_per_second: of the whole batch.
        tokens_per_second: committed, of all rows; None where nothing is.
        token_positions: computed for a text; None where no text is finished.
        peak_bytes: that the device's tensors took at most; None on a CPU.
        computed_bytes: what `envs.models.memory.step_memory` says.
    """

    rows: int
    what: str
    forwards_per_second: float
    tokens_per_second: float | None
    token_positions: float | None
    peak_bytes: int | None
    computed_bytes: int


def fastest(work: Callable[[], int], config: ThroughputConfig) -> tuple[float, int | None]:
    """Time some work.

    Args:
        work: does it, and returns how many forwards it took.
        config: says how often and where.

    Returns:
        Forwards a second, and the peak of the device's memory in bytes where it can be told.
    """
    on_gpu = torch.device(config.device).type == "cuda"
    rates = []
    for _ in range(config.repeats):
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        forwards, seconds = timed(work, config.device)
        rates.append(forwards / seconds)
    # Whatever else the machine does only ever slows it.
    return max(rates), torch.cuda.max_memory_allocated() if on_gpu else None


def prompts_of(config: ThroughputConfig, rows: int) -> list[list[int]]:
    """Return random prompts of one length."""
    generator = torch.Generator().manual_seed(config.seed)
    found: list[list[int]] = torch.randint(5, 100, (rows, config.prompt), generator=generator).tolist()
    return found


@torch.inference_mode()
def bare(denoiser: MaskedLMDenoiser, config: ThroughputConfig, rows: int) -> Rate:
    """Time transformers' class alone on whole texts, its head on the buffer."""
    length = config.prompt + config.buffer_length
    tokens = torch.full((rows, length), denoiser.mask_id, device=denoiser.device)
    tokens[:, : config.prompt] = torch.tensor(prompts_of(config, rows), device=denoiser.device)
    # Every position sees all; without a mask this class would be causal.
    sees = torch.ones(1, 1, length, length, dtype=torch.bool, device=denoiser.device).expand(rows, -1, -1, -1)
    forwards = -(-config.buffer_length // config.tokens)

    def work() -> int:
        for _ in range(forwards):
            denoiser.model(input_ids=tokens, attention_mask=sees, logits_to_keep=config.buffer_length, use_cache=False)
        return forwards

    work()
    rate, peak = fastest(work, config)
    return Rate(rows, "bare forward", rate, None, None, peak, memory(denoiser, config, rows, "none"))


def decode(denoiser: MaskedLMDenoiser, config: ThroughputConfig, rows: int, cache: str) -> Rate:
    """Time whole texts with a cache."""
    settings = config.settings(cache)
    rule = make_rule(f"low_confidence:{config.tokens}").bind(denoiser, settings)
    batch = DecodingBatch(denoiser, rows, settings)
    prompts = prompts_of(config, rows)

    def work() -> int:
        batch.load(range(rows), prompts)
        play_out(batch, rule)
        return int(batch.nfe[0])

    # The first forwards of a kind are slower.
    batch.load(range(rows), prompts)
    batch.forward()
    rate, peak = fastest(work, config)
    positions = float(batch.token_positions.float().mean())
    # All rows are alike: as many forwards, and all of the buffer.
    tokens = rate / int(batch.nfe[0]) * rows * config.buffer_length
    return Rate(rows, f"cache {cache}", rate, tokens, positions, peak, memory(denoiser, config, rows, cache))


@torch.inference_mode()
def rollout(denoiser: MaskedLMDenoiser, config: ThroughputConfig, rows: int) -> Rate:
    """Time the env, stepped by the untrained network as GRPO steps it."""
    features = ("is_eos", "entropy", "margin", "repeated")
    env = UnmaskingVectorEnv(
        rows,
        denoiser=denoiser,
        buffer_length=config.buffer_length,
        block_length=config.block_length,
        early_end=False,
        features=features,
        observes_tensors=False,
    )
    words = denoiser.token_strings(prompts_of(config, 1)[0])
    problem = Problem(next(iter(env.tasks)), "train", 0, " ".join(words), "")
    network = UnmaskingNetwork(NetworkConfig(features=features)).to(denoiser.device)
    forwards = -(-config.buffer_length // config.tokens)

    def work() -> int:
        env.reset(seed=config.seed, options={"problem": problem})
        for _ in range(forwards - 1):  # the reset takes one
            inputs = env.inputs()
            chances = make_distribution(ActionConfig(), network(inputs), inputs["eligible"] > 0.5)
            env.step((chances.sample() != 0).cpu().numpy())
        return forwards

    rate, peak = fastest(work, config)
    computed = memory(denoiser, config, rows, "none", frozenset(features))
    return Rate(rows, "rollout", rate, None, None, peak, computed)


def memory(
    denoiser: MaskedLMDenoiser, config: ThroughputConfig, rows: int, cache: str, features: frozenset[str] = frozenset()
) -> int:
    """Return the bytes that `step_memory` computes."""
    return step_memory(
        denoiser.model.config,
        rows,
        config.prompt,
        config.buffer_length,
        getattr(torch, config.dtype),
        features,
        device=config.device,
        cache=cache,
    )["peak"]


def cells_of(rate: Rate, bare_rate: Rate) -> list[str]:
    """Write one row of the table; see `COLUMNS`."""

    def gigabytes(size: int | None) -> str:
        return "" if size is None else f"{size / 1e9:.1f}"

    share = "" if rate is bare_rate else f"{rate.forwards_per_second / bare_rate.forwards_per_second:.2f}"
    return [
        str(rate.rows),
        rate.what,
        f"{rate.forwards_per_second:.2f}",
        share,
        "" if rate.tokens_per_second is None else f"{rate.tokens_per_second:.0f}",
        "" if rate.token_positions is None else f"{rate.token_positions:.0f}",
        gigabytes(rate.peak_bytes),
        gigabytes(rate.computed_bytes),
    ]


def table_rows(rates: Sequence[Rate]) -> list[list[str]]:
    """Write all rows of the table, each beside the bare forward of as many sequences."""
    alone = {rate.rows: rate for rate in rates if rate.what == "bare forward"}
    return [cells_of(rate, alone[rate.rows]) for rate in rates]


def show(rates: Sequence[Rate], title: str) -> None:
    """Print the table."""
    shown = Table(title=title, title_justify="left")
    for column in COLUMNS:
        shown.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)
    for row in table_rows(rates):
        shown.add_row(*row)
    Console(width=max(120, Console().width)).print(shown)


def name_of(device: str) -> str:
    """Return what a device calls itself."""
    return torch.cuda.get_device_name() if torch.device(device).type == "cuda" else device


def main(config: ThroughputConfig) -> list[Rate]:
    """Measure, print the table and write it.

    Raises:
        UserError: if the folder is taken.
        ValueError: if the dLLM can't be made or decoded so.
    """
    refuse_used(config.out)
    check_device(config.device)
    torch.set_num_threads(config.threads)
    with open_run(config.out, config, resume=None):
        denoiser = random_dllm(config.llama, config.device, config.dtype, config.seed)
        weights = sum(weight.numel() for weight in denoiser.model.parameters())
        # After an hour's work the last cache must not be found impossible.
        for cache in config.cache:
            DecodingBatch(denoiser, 1, config.settings(cache))
        ways: list[tuple[Callable[..., Rate], tuple[Any, ...]]] = []
        for rows in config.rows:
            ways += [(bare, (rows,)), (rollout, (rows,)), *((decode, (rows, cache)) for cache in config.cache)]
        rates = [way(denoiser, config, *about) for way, about in progress(ways, desc="measuring", unit="part")]
        about = (
            f"{weights / 1e6:,.0f} million weights in {config.dtype} on {name_of(config.device)}, "
            f"{config.prompt} + {config.buffer_length} positions, blocks of {config.block_length}, "
            f"{config.tokens} tokens a forward"
        )
        write_json(config.out / "throughput.json", {"about": about, "rates": [asdict(rate) for rate in rates]})
        write_atomic(config.out / "throughput.md", f"{table(COLUMNS, table_rows(rates))}\n")
        show(rates, about)
    tell("throughput", config.out / "throughput.json")
    return rates


if __name__ == "__main__":
    from train.command.cli import run

    run(main, ThroughputConfig)
