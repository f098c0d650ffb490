"""Many policies on the same problems, in several processes, going on where a killed run stopped."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field, replace
from functools import lru_cache
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch

from envs.decoding.first_forwards import remember_problems
from envs.decoding.settings import BlockOrigin, DecodingSettings, Window
from envs.denoiser import Denoiser
from envs.tasks import SUITE, Problem, Split, make_tasks
from train.command import parallel
from train.command.config_values import PathText
from train.command.decoding_config import CacheText, decoding_of, settle_decoding, unused_without_blocks
from train.command.files import write_json
from train.command.model_config import ModelConfig
from train.command.progress import progress
from train.command.ranges import check_count, check_seed
from train.command.run_files import RunFiles
from train.command.wandb_config import WandbConfig
from train.evaluation.jobs import SWEEP_EPISODES, Job
from train.evaluation.measure import choose_problems, measure
from train.evaluation.naming import EOTP
from train.evaluation.records import (
    Key,
    Outcomes,
    Record,
    key_of,
    read_outcomes,
    read_records,
    summarise,
    write_outcomes,
)

MANY = 16
"""Jobs from which on several processes are worth their start."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure policies on held-out problems: accuracy, forwards and token positions, with intervals.

    Examples:
        python train/evaluate.py
        python train/evaluate.py --policy threshold:0.9 --policy klass:0.8,history=3 --policy runs/ppo/policy
        python train/evaluate.py --config configs/models/llada.yaml --task gsm8k --policy threshold:0.9
        python train/evaluate.py --policy list
    """

    policy: list[PathText] = field(default_factory=lambda: ["low_confidence:1", "threshold:0.9"])
    """Rules as name:knob,option=value, or folders of exported policies (evaluated sampled and deterministic, or as
    FOLDER@THRESHOLD, FOLDER@speed=SPEED, or sampled as FOLDER@beta=BETA or FOLDER@temperature=TEMPERATURE); all sweeps
    every rule, list prints a table of them."""
    out: Path = Path("runs/evaluate")
    """The run's folder; to an evaluation with the same settings, other policies and block lengths are added."""
    resume: bool = False
    """Go on where a killed evaluation of this folder stopped; the folder must hold one."""
    tasks: list[str] = field(default_factory=lambda: [SUITE])
    """Tasks as name or name:option=value,... such as gsm8k:data=FOLDER; or suite. --task names one."""
    split: Split = "test"
    """Problems to use: test, validation or train."""
    episodes: int | None = None
    """Problems a task, or all if it has fewer; null is 100, or 25 to sweep all rules."""
    first: int = 0
    """Index of the first problem of the split; problems that nothing was tuned on lie further on."""
    buffer_length: int = 64
    """Masks to start from."""
    block_length: list[int] = field(default_factory=list)
    """Block lengths to evaluate at; an empty list is full diffusion, and also 32, 16 and 8 to sweep all rules."""
    temperature: float = 0.0
    """Of the sampled token; 0 commits the argmax."""
    end_of_text_prediction: bool = False
    """Drop everything after a committed end-of-text from the computation (EoTP); named +eotp in the records."""
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
    samples: int = 1
    """Answers to each problem; its score is their mean, and tasks scored by running code have pass@k in the records."""
    batch_size: int = 64
    """Sequences decoded side by side."""
    any_dllm: bool = False
    """Let learned policies decode with a dLLM of another kind than they were trained for."""
    workers: int | None = None
    """Processes; null is one a GPU, or on a CPU one a core where there is much to do."""
    per_task: bool = False
    """Print a row for each task too."""
    seed: int = 0
    """Of every random choice."""
    model: ModelConfig = field(default_factory=ModelConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        check_count(self, "episodes", "workers", "samples", "buffer_length", "block_length", "batch_size")
        check_count(self, "first", least=0)
        check_seed(self)
        settle_decoding(self, self.block_length)

    def unused(self) -> dict[str, str]:
        """Return the fields that play no role beside the others, each with the reason."""
        has_blocks = self.block_length or "all" in self.policy
        return {} if has_blocks else unused_without_blocks("block_length is empty")


def episodes_of(config: EvaluateConfig) -> int:
    """Return the number of problems a task."""
    return config.episodes or (SWEEP_EPISODES if "all" in config.policy else 100)


def suffix_of(config: EvaluateConfig) -> str:
    """Return what the records' names end in beyond that of the job."""
    return EOTP if config.end_of_text_prediction else ""


def problems_of(config: EvaluateConfig) -> list[Problem]:
    """Return the problems that every policy is evaluated on, at each block length."""
    return choose_problems(make_tasks(config.tasks), config.split, config.first, episodes_of(config))


def warn_of_short_buffer(
    denoiser: Denoiser, problems: Sequence[Problem], buffer_length: int, name: str = "buffer_length"
) -> None:
    """Say on stderr how many reference answers have more tokens than the buffer, which cuts answers like them.

    Args:
        denoiser: whose tokenizer it is.
        problems: that are to be decoded.
        buffer_length: of the decoding.
        name: what the configuration calls it.
    """
    sizes = [(one.task, len(denoiser.encode_text(one.answer))) for one in problems if one.given is None]
    longer = Counter(task for task, size in sizes if size > buffer_length)
    if not longer:
        return
    asked = Counter(task for task, _ in sizes)
    parts = ", ".join(f"{count} of {asked[task]} in {task}" for task, count in longer.items())
    enough = buffer_length
    # Doubled, so that blocks which divide the buffer still do.
    while enough < max(size for _, size in sizes):
        enough *= 2
    print(
        f"warning: {name} is {buffer_length}, and reference answers are longer: {parts}. Answers like them are "
        f"cut and score as they then stand; --{name} {enough} holds them all",
        file=sys.stderr,
    )


@lru_cache(maxsize=1)
def remembering(
    model: ModelConfig,
    tasks: tuple[str, ...],
    split: Split,
    first: int,
    episodes: int,
    settings: DecodingSettings,
    batch_size: int,
    is_shared: bool,
) -> Denoiser:
    """Load the dLLM with the first forwards of some problems computed, which all policies share; kept for a process."""
    problems = choose_problems(make_tasks(list(tasks)), split, first, episodes)
    problems = parallel.deal(problems) if is_shared else problems
    return remember_problems(model.load(), problems, settings, batch_size)


def run_job(
    config: EvaluateConfig, job: Job, on_finish: Callable[[int], object] | None = None, is_shared: bool = False
) -> Outcomes:
    """Evaluate one policy at one block length; the dLLM is loaded once a process.

    Args:
        config: of the evaluation.
        job: the policy and the block length.
        on_finish: called with the number of answers just finished.
        is_shared: see `measure`.
    """
    torch.set_num_threads(config.model.threads)
    about = (config.model, tuple(config.tasks), config.split, config.first, episodes_of(config))
    # Nothing of the policy: all share the first forwards.
    settings = DecodingSettings(config.buffer_length, window=config.window, cache=config.cache)
    return measure(
        remembering(*about, settings, config.batch_size, is_shared),
        job.make(config.model.device, config.any_dllm),
        name=job.name,
        tasks=config.tasks,
        split=config.split,
        episodes=episodes_of(config),
        first=config.first,
        block_length=job.block_length,
        samples=config.samples,
        batch_size=config.batch_size,
        seed=config.seed,
        on_finish=on_finish,
        is_shared=is_shared,
        **decoding_of(config),
    )


def assist() -> None:
    """Decode this process's share of every job of the first process's `run_jobs`."""
    found: tuple[EvaluateConfig, list[Job]] | None = parallel.broadcast(None)
    assert found is not None
    config, jobs = found
    for job in jobs:
        run_job(on_own_device(config), job, is_shared=True)


def on_own_device(config: EvaluateConfig) -> EvaluateConfig:
    """Return the configuration with this process's device.

    Raises:
        ValueError: if it is one that processes can't share.
    """
    return replace(config, model=replace(config.model, device=parallel.own_device(config.model.device)))


def run_jobs(config: EvaluateConfig, jobs: Sequence[Job], file: Path, is_shared: bool = False) -> list[Record]:
    """Evaluate what a file of records lacks, adding to it job by job.

    What became of each problem goes to ``outcomes.json`` beside the file.

    Args:
        config: of the evaluation.
        jobs: what is asked for.
        file: of the records.
        is_shared: whether the other processes of torchrun `assist`.

    Returns:
        All records, in the order of the jobs.
    """
    records = read_records(file) if file.is_file() else []
    suffix = suffix_of(config)
    done = {key_of(record) for record in records if record["task"] == "all"}
    # Outcomes without their records are of a job that was killed between the two writes.
    outcomes = {key: entry for key, entry in read_outcomes(file).items() if key in done}
    planned: dict[Key, Job] = {(job.name + suffix, job.decision, job.block_length): job for job in jobs}
    waiting = [job for key, job in planned.items() if key not in done]
    order = {key: i for i, key in enumerate(planned)}

    def place(key: Key) -> int:
        return order.get(key, len(order))

    def add(new: Outcomes) -> None:
        outcomes[key_of(new)] = new
        records.extend(summarise(new))
        records.sort(key=lambda record: place(key_of(record)))
        # The records last: they say what is done.
        write_outcomes(RunFiles(file.parent).outcomes, sorted(outcomes.values(), key=lambda one: place(key_of(one))))
        write_json(file, records)

    workers = config.workers or default_workers(config.model.device, len(waiting))
    problems = len(problems_of(config)) * config.samples
    total, done_before = len(planned) * problems, (len(planned) - len(waiting)) * problems
    with progress(total=total, initial=done_before, desc="evaluating", unit="problem") as bar:
        if is_shared:
            parallel.broadcast((config, waiting))
            for job in waiting:
                bar.set_postfix_str(job.name, refresh=False)
                begun = bar.n
                # The others are about as far; where they weren't, the next line puts it right.
                add(run_job(on_own_device(config), job, lambda n: bar.update(n * parallel.world_size()), True))
                bar.update(begun + problems - bar.n)
        elif workers == 1:
            for job in waiting:
                bar.set_postfix_str(job.name, refresh=False)
                add(run_job(config, job, bar.update))
        elif waiting:
            numbers = parallel.process_context().SimpleQueue()
            for number in range(workers):
                numbers.put(number)
            with parallel.worker_pool(workers, start_worker, (config.model.device, numbers)) as pool:
                for future in as_completed([pool.submit(run_job, config, job) for job in waiting]):
                    add(future.result())
                    bar.update(problems)
    return records


def default_workers(device: str, jobs: int) -> int:
    """Return how many processes to evaluate in: one a GPU, or one a core where there is enough to do."""
    if device == "cuda":
        return max(1, min(torch.cuda.device_count(), jobs))
    return os.cpu_count() or 1 if jobs >= MANY and device == "cpu" else 1


def start_worker(device: str, numbers: SimpleQueue[int]) -> None:
    """Give a process a GPU of its own as far as there are enough, if the device is cuda.

    Args:
        device: of the configuration.
        numbers: gives each process its number, from 0.
    """
    if device == "cuda":
        torch.cuda.set_device(numbers.get() % torch.cuda.device_count())
