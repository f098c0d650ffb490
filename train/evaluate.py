"""Evaluate policies on held-out problems: accuracy, forwards and token positions, with intervals.

``python train/evaluate.py --policy threshold:0.9 --policy runs/ppo/policy`` prints a table and writes
``evaluation.json``, ``outcomes.json`` (problem by problem, for `train/compare.py`) and ``pareto.png`` to the run's
folder. ``--policy all`` sweeps the knob of every rule, in full diffusion and in blocks, on as many processes as there
are cores; ``--policy list`` prints a table of the rules, and how to name a policy. ``--resume`` goes on where a killed
evaluation stopped.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field, replace
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, NamedTuple

import torch

from envs.caches import make_cache
from envs.decoding import BlockOrigin, DecodingBatch, DecodingSettings, Window, check_block
from envs.denoiser import Denoiser
from envs.first_forwards import remember_problems
from envs.tasks import SUITE, Problem, Split, Task, make_tasks
from envs.tasks.scoring import Scorer, ScoringError, Unscored
from policies import RULES, Generation, LearnedPolicy, UnmaskingPolicy, decode, load, make_rule
from policies.base import Decision
from policies.generation import check_cache
from policies.learned import locate
from train import parallel
from train.config import to_plain
from train.config_values import PathText
from train.evaluated import Asked, digest, read_asked, update
from train.fitting import with_memory
from train.model_config import ModelConfig
from train.plot import plot_pareto
from train.progress import progress
from train.ranges import check_count, check_seed
from train.records import (
    Key,
    Outcomes,
    Record,
    key_of,
    print_table,
    read_outcomes,
    read_records,
    summarise,
    write_outcomes,
)
from train.rule_list import print_rules
from train.run_folder import has_result, open_run, write_json
from train.tracking import Tracker, WandbConfig, check_start

SWEEP_EPISODES, SWEEP_BLOCKS = 25, (64, 32, 16, 8)
"""What ``--policy all`` evaluates unless told otherwise: a sweep has some 160 settings a block length."""

SETTINGS = ("threshold", "speed", "accuracy_target", "nfe_target", "beta", "temperature")
"""What ``FOLDER@...`` can set."""

SAMPLED_SETTINGS = ("beta", "temperature")
"""Those that are evaluated sampled: on the deterministic decision they act like a threshold, or not at all."""

ADDED = ("policy", "block_length", "batch_size", "per_task", "any_dllm")
"""Settings in which an evaluation may differ from the one that it is added to: the answers are the same."""

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
    cache: str = "none"
    """Keys and values that forwards keep: none, prefix, dual, exact or dkv, with knobs as dual:refresh=8."""
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
        for block in (None, *self.block_length):
            DecodingSettings(
                self.buffer_length, block, self.temperature, block_origin=self.block_origin, cache=self.cache
            )


@dataclass(frozen=True)
class Job:
    """One policy at one block length.

    Attributes:
        policy: a rule's text or a policy's folder.
        name: what the records call it.
        decision: of a learned policy.
        block_length: of the decoding.
    """

    policy: str
    name: str
    decision: Decision
    block_length: int

    def make(self, device: str = "cpu", any_dllm: bool = False) -> UnmaskingPolicy:
        """Build the policy; see `policies.load`."""
        if not is_folder(self.policy):
            return make_rule(self.policy)
        folder, setting = split_setting(self.policy)
        return at_setting(load(folder, self.decision, device, any_dllm=any_dllm), setting, self.block_length)


def is_folder(policy: str) -> bool:
    """Tell whether a policy is given as a folder: it is one, or it names no rule."""
    if os.path.isdir(policy):  # unlike Path's, False for what no name can be
        return True
    # A rule's option may hold an at sign, so the rule's name is looked at first.
    if policy.partition(":")[0] in RULES:
        return False
    return ":" not in policy or os.path.isdir(split_setting(policy)[0])


def split_setting(policy: str) -> tuple[str, dict[str, float]]:
    """Take ``FOLDER@THRESHOLD`` or ``FOLDER@NAME=VALUE`` apart, NAME one of `SETTINGS`.

    >>> split_setting("runs/learn2pd/filters/weighted@0.9")
    ('runs/learn2pd/filters/weighted', {'threshold': 0.9})
    >>> split_setting("runs/dial/policy@speed=0.7")
    ('runs/dial/policy', {'speed': 0.7})

    Raises:
        ValueError: if what follows the at sign is not that.
    """
    folder, has_setting, setting = policy.rpartition("@")
    if not has_setting or os.path.isdir(policy):
        return policy, {}
    name, has_name, value = setting.rpartition("=")
    if has_name and name not in SETTINGS[1:]:
        raise ValueError(f"policy is {policy!r}: {name!r} can't be set; choose from {', '.join(SETTINGS[1:])}")
    try:
        return folder, {name or SETTINGS[0]: float(value)}
    except ValueError:
        raise ValueError(f"policy is {policy!r}: write a number after the @, as in {folder}@0.9") from None


def at_setting(policy: LearnedPolicy, setting: Mapping[str, float], block_length: int) -> LearnedPolicy:
    """Return a learned policy at what `split_setting` found, for a block length."""
    if {"threshold", *SAMPLED_SETTINGS} & set(setting):
        return policy.changed(**setting)
    return policy.tuned(block_length, **setting) if setting else policy


def plan(policies: Sequence[str], block_lengths: Sequence[int]) -> list[Job]:
    """List what to evaluate, as `list_jobs` does, and check that every folder holds a policy that can be set so.

    Raises:
        ValueError: if a rule is unknown, or a policy can't be set as asked.
        FileNotFoundError: if a folder holds no policy.
    """
    jobs = list_jobs(policies, block_lengths)
    for job in jobs:
        if is_folder(job.policy):
            job.make()
    return jobs


def list_jobs(policies: Sequence[str], block_lengths: Sequence[int]) -> list[Job]:
    """List what to evaluate; folders need not be there yet.

    A folder is evaluated under both of its decision rules, ``FOLDER@SETTING`` under the deterministic one (a beta or a
    temperature: sampled). Several folders are told apart by their runs' names.

    Raises:
        ValueError: if a rule is unknown.
    """
    expanded = [text for policy in policies for text in (sweep() if policy == "all" else [policy])]
    folders = list(dict.fromkeys(split_setting(text)[0] for text in expanded if is_folder(text)))
    variants: list[tuple[str, str, Decision]] = []
    for text in dict.fromkeys(expanded):
        if is_folder(text):
            folder, setting = split_setting(text)
            name = "learned" if len(folders) == 1 else f"learned:{run_name(Path(folder))}"
            if setting:
                decision: Decision = "sample" if set(SAMPLED_SETTINGS) & set(setting) else "deterministic"
                variants.append((text, f"{name}@{text.rpartition('@')[2]}", decision))
            else:
                variants += [(text, name, "sample"), (text, name, "deterministic")]
        else:
            rule = make_rule(text)
            variants.append((text, rule.name, rule.decision))
    return [Job(text, name, decision, block) for block in block_lengths for text, name, decision in variants]


def run_name(folder: Path) -> str:
    """Return what tells a policy's folder apart: its run's name, or its own."""
    return folder.parent.name if folder.name == "policy" and folder.parent.name else folder.name


def sweep() -> Iterator[str]:
    """Yield every rule at every knob that its ``sweep`` names."""
    for name, cls in RULES.items():
        yield from (f"{name}:{knob:g}" for knob in cls.sweep)


def evaluate(denoiser: Denoiser, policy: UnmaskingPolicy, **settings: Any) -> list[Record]:
    """Decode problems of a split with one policy and score them.

    Args:
        denoiser: the frozen dLLM.
        policy: a rule, or a learned policy with its decision rule.
        **settings: the keyword arguments of `measure`.

    Returns:
        One record a task, then the one of all tasks.
    """
    return summarise(measure(denoiser, policy, **settings))


def measure(
    denoiser: Denoiser,
    policy: UnmaskingPolicy,
    *,
    name: str | None = None,
    tasks: str | Sequence[str] = SUITE,
    split: Split = "test",
    episodes: int = 100,
    first: int = 0,
    buffer_length: int = 64,
    block_length: int | None = None,
    temperature: float = 0.0,
    end_of_text_prediction: bool = False,
    early_end: bool = True,
    window: Window = "full",
    block_origin: BlockOrigin = "buffer",
    cache: str = "none",
    samples: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    on_finish: Callable[[int], object] | None = None,
) -> Outcomes:
    """Decode problems of a split with one policy and score each.

    Args:
        denoiser: the frozen dLLM.
        policy: a rule, or a learned policy with its decision rule.
        name: what the records call it; None takes its own name.
        tasks: names, or "suite".
        split: which problems.
        episodes: problems a task; all of a task that has fewer.
        first: index of the first problem.
        buffer_length: L.
        block_length: None for full diffusion.
        temperature: of the sampled token.
        end_of_text_prediction: see `envs.decoding.DecodingSettings`; the records' policy ends in ``+eotp``.
        early_end: see `envs.decoding.DecodingSettings`.
        window: see `envs.decoding.DecodingSettings`.
        block_origin: see `envs.decoding.DecodingSettings`.
        cache: see `envs.decoding.DecodingSettings`.
        samples: answers to each problem, with random numbers of their own; a problem's score, NFE and token positions
            are the means over them.
        batch_size: sequences decoded side by side.
        seed: of every random choice.
        on_finish: called with the number of answers just finished.

    Returns:
        What became of each problem, task by task. One with an answer that couldn't be scored is left out, and counted.

    Raises:
        ScoringError: if too many have none, or all; see `envs.tasks.scoring.Scorer`.
        ValueError: if the samples are to be one and the same.
    """
    check_samples(samples, temperature, [(name or policy.name, policy.decision)])
    chosen = make_tasks(tasks)
    problems = choose_problems(chosen, split, first, episodes)
    settings = DecodingSettings(
        buffer_length,
        block_length,
        temperature,
        policy.features,
        end_of_text_prediction,
        early_end,
        window,
        block_origin,
        cache,
    )
    began = time.perf_counter()
    generations = decode_problems(
        denoiser, problems, policy, settings, samples=samples, batch_size=batch_size, seed=seed, on_finish=on_finish
    )
    asked = [problem for problem in problems for _ in range(samples)]
    scores = score_problems(chosen, asked, [done.text for done in generations])
    answers = [
        _mean_answer(scores[i : i + samples], generations[i : i + samples]) for i in range(0, len(scores), samples)
    ]
    known = [(problem, answer) for problem, answer in zip(problems, answers, strict=True) if answer is not None]
    if not known:
        raise ScoringError(f"none of the {len(scores)} answers has a score: see the warnings above")
    outcomes: Outcomes = {
        "policy": (name or policy.name) + ("+eotp" if end_of_text_prediction else ""),
        "decision": policy.decision,
        "block_length": settings.block,
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 3),
        "task": [problem.task for problem, _ in known],
        "index": [problem.index for problem, _ in known],
        "score": [answer.score for _, answer in known],
        "nfe": [answer.nfe for _, answer in known],
        "token_positions": [answer.token_positions for _, answer in known],
        "said": [answer.said for _, answer in known],
        "early_end": early_end,
        "window": window,
        "block_origin": block_origin,
        "cache": make_cache(cache).name,
    }
    if samples > 1:
        outcomes["samples"] = samples
        outcomes["runs_tests"] = [task.name for task in chosen if task.runs_tests]
    if len(known) < len(problems):
        lost = [problem for problem, answer in zip(problems, answers, strict=True) if answer is None]
        outcomes["unscored"] = [[problem.task, problem.index] for problem in lost]
    return outcomes


class _Answer(NamedTuple):
    """What became of a problem, in the mean over its samples."""

    score: float
    nfe: float
    token_positions: float
    said: float


def _mean_answer(scores: Sequence[float | None], generations: Sequence[Generation]) -> _Answer | None:
    """Return what became of a problem; None if one of its samples has no score."""
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return None
    count = len(scores)
    if count == 1:
        [one] = generations
        return _Answer(known[0], one.nfe, one.token_positions, one.said)  # whole numbers
    forwards, positions = sum(one.nfe for one in generations), sum(one.token_positions for one in generations)
    said = sum(one.said for one in generations)
    return _Answer(sum(known) / count, forwards / count, positions / count, said / count)


def check_samples(samples: int, temperature: float, policies: Iterable[tuple[str, Decision]]) -> None:
    """Refuse several samples where nothing is drawn.

    Args:
        samples: answers to each problem.
        temperature: of the sampled token.
        policies: name and decision rule of each.

    Raises:
        ValueError: if all samples of a policy would be the same.
    """
    if samples == 1 or temperature > 0:
        return
    for name, decision in policies:
        if decision != "sample":
            raise ValueError(
                f"samples is {samples}, but those of {name} ({decision}) would be one and the same at temperature 0: "
                "set --temperature, or evaluate sampling policies alone, such as FOLDER@temperature=1"
            )


def choose_problems(tasks: Sequence[Task], split: Split, first: int, episodes: int) -> list[Problem]:
    """Return problems `first` to `first + episodes` of each task; no problem twice, so fewer where a split ends.

    Raises:
        ValueError: if none is asked for, or a task has none from `first` on.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}: it must be 1 or more")
    problems: list[Problem] = []
    for task in tasks:
        size = task.size(split)
        if size is not None and first >= size:
            raise ValueError(f"first is {first}: {task.name} has {size} {split} problems, so it must be below {size}")
        last = first + episodes if size is None else min(first + episodes, size)
        problems += [task.problem(split, index) for index in range(first, last)]
    return problems


def decode_problems(
    denoiser: Denoiser,
    problems: Sequence[Problem],
    policy: UnmaskingPolicy,
    settings: DecodingSettings,
    *,
    batch_size: int = 64,
    on_finish: Callable[[int], object] | None = None,
    **options: Any,
) -> list[Generation]:
    """Decode problems, each from its prompt and the text it gives.

    Args:
        denoiser: the frozen dLLM.
        problems: to decode.
        policy: a rule or a learned policy.
        settings: lengths and temperature.
        batch_size: most sequences at a time; fewer where the memory is too small (`train.fitting`).
        on_finish: called with the number of sequences that just finished; below 0, of those to be decoded again.
        **options: further ones of `policies.decode`.
    """
    prompts, given = [problem.prompt for problem in problems], [problem.given for problem in problems]
    finished = 0

    def count(number: int) -> None:
        nonlocal finished
        finished += number
        if on_finish is not None:
            on_finish(number)

    def decoded(size: int) -> list[Generation]:
        if finished:
            count(-finished)
        return decode(denoiser, prompts, policy, settings, given=given, batch_size=size, on_finish=count, **options)

    return with_memory(str(denoiser.device), batch_size, decoded)


def score_problems(tasks: Sequence[Task], problems: Sequence[Problem], texts: Sequence[str]) -> list[float | None]:
    """Return the score of each problem's answer, by the task that made the problem; None where it has none.

    Raises:
        ScoringError: if too many have none; see `envs.tasks.scoring.Scorer`.
    """
    scorer = Scorer(tasks, len(problems))
    found = [scorer.score(text, problem) for problem, text in zip(problems, texts, strict=True)]
    return [None if isinstance(score, Unscored) else score for score in found]


def episodes_of(config: EvaluateConfig) -> int:
    """Return the number of problems a task."""
    return config.episodes or (SWEEP_EPISODES if "all" in config.policy else 100)


def suffix_of(config: EvaluateConfig) -> str:
    """Return what the records' names end in beyond that of the job."""
    return "+eotp" if config.end_of_text_prediction else ""


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
) -> Denoiser:
    """Load the dLLM with the first forwards of some problems computed, which all policies share; kept for a process."""
    problems = choose_problems(make_tasks(list(tasks)), split, first, episodes)
    return remember_problems(model.load(), problems, settings, batch_size)


def run_job(config: EvaluateConfig, job: Job, on_finish: Callable[[int], object] | None = None) -> Outcomes:
    """Evaluate one policy at one block length; the dLLM is loaded once a process."""
    torch.set_num_threads(config.model.threads)
    about = (config.model, tuple(config.tasks), config.split, config.first, episodes_of(config))
    # Nothing of the policy: all share the first forwards.
    settings = DecodingSettings(config.buffer_length, window=config.window, cache=config.cache)
    return measure(
        remembering(*about, settings, config.batch_size),
        job.make(config.model.device, config.any_dllm),
        name=job.name,
        tasks=config.tasks,
        split=config.split,
        episodes=episodes_of(config),
        first=config.first,
        buffer_length=config.buffer_length,
        block_length=job.block_length,
        temperature=config.temperature,
        end_of_text_prediction=config.end_of_text_prediction,
        early_end=config.early_end,
        window=config.window,
        block_origin=config.block_origin,
        cache=config.cache,
        samples=config.samples,
        batch_size=config.batch_size,
        seed=config.seed,
        on_finish=on_finish,
    )


def run_jobs(config: EvaluateConfig, jobs: Sequence[Job], file: Path) -> list[Record]:
    """Evaluate what a file of records lacks, adding to it job by job.

    What became of each problem goes to ``outcomes.json`` beside the file.

    Returns:
        All records, in the order of the jobs.
    """
    records = read_records(file) if file.is_file() else []
    suffix = suffix_of(config)
    done = {key_of(record) for record in records if record["task"] == "all"}
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
        write_outcomes(file.with_name("outcomes.json"), sorted(outcomes.values(), key=lambda one: place(key_of(one))))
        write_json(file, records)

    workers = config.workers or default_workers(config.model.device, len(waiting))
    problems = len(problems_of(config)) * config.samples
    total, done_before = len(planned) * problems, (len(planned) - len(waiting)) * problems
    with progress(total=total, initial=done_before, desc="evaluating", unit="problem") as bar:
        if workers == 1:
            for job in waiting:
                bar.set_postfix_str(job.name, refresh=False)
                add(run_job(config, job, bar.update))
        elif waiting:
            numbers = get_context("spawn").SimpleQueue()
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


def main(config: EvaluateConfig) -> list[Record]:
    """Evaluate every policy at every block length; print the table, write records and plot."""
    if "list" in config.policy:
        print_rules()
        return []
    blocks = config.block_length or (
        [b for b in SWEEP_BLOCKS if b <= config.buffer_length] if "all" in config.policy else [config.buffer_length]
    )
    if not config.policy:
        raise ValueError("policy is empty: name at least one, such as threshold:0.9")
    jobs = plan(config.policy, blocks)
    check_samples(config.samples, config.temperature, ((job.name, job.decision) for job in jobs))
    denoiser = config.model.load()
    for block in blocks:
        check_block(denoiser, block)
    for job in jobs:
        if not is_folder(job.policy):
            check_cache(make_rule(job.policy), config.cache)
    DecodingBatch(denoiser, 1, DecodingSettings(config.buffer_length, blocks[0], cache=config.cache))
    # Before the run's folder is taken: is there data, and a problem at `first`?
    choose_problems(make_tasks(config.tasks), config.split, config.first, 1)
    warn_of_short_buffer(denoiser, problems_of(config), config.buffer_length)
    check_start(config.wandb, "disabled")
    before = read_asked(config.out) if has_result(config.out) else []
    asked = add_jobs(before, jobs)
    whole = replace(
        config,
        policy=list(dict.fromkeys(one.policy for one in asked)),
        block_length=list(dict.fromkeys(one.block_length for one in asked)),
        # Spelt out: what null means depends on the policies.
        episodes=episodes_of(config),
        resume=False,
    )
    file = config.out / "evaluation.json"
    with open_run(config.out, whole, config.resume or bool(before), free=ADDED):
        update(config.out, before, asked, suffix_of(config))
        requested = {(job.policy, job.decision, job.block_length) for job in jobs}
        known = {key_of(record) for record in read_records(file)} if file.is_file() else set()
        # Of what was asked before, only what is there: whoever adds a rule hasn't asked for the rest of a killed sweep.
        chosen = [one for one in asked if one.what in requested or one.named(suffix_of(config)) in known]
        return evaluate_jobs(whole, [Job(one.policy, one.name, one.decision, one.block_length) for one in chosen])


def add_jobs(before: Sequence[Asked], jobs: Sequence[Job]) -> list[Asked]:
    """Return what an evaluation was and is asked for, each once, under the names that tell all of it apart."""
    every: list[Asked | Job] = [*before, *jobs]
    names = {(job.policy, job.decision): job.name for job in list_jobs([one.policy for one in every], [1])}
    # A policy whose folder is gone keeps its records.
    digests = {one.policy: one.digest for one in before}
    for policy in {one.policy for one in every if is_folder(one.policy)}:
        try:
            folder = locate(split_setting(policy)[0])
        except FileNotFoundError:
            continue
        if folder.is_dir():
            digests[policy] = digest(folder)
    places = dict.fromkeys((one.policy, one.decision, one.block_length) for one in every)
    return [Asked(text, names[text, how], how, block, digests.get(text, "")) for text, how, block in places]


def evaluate_jobs(config: EvaluateConfig, jobs: Sequence[Job]) -> list[Record]:
    """Evaluate, plot, print and log.

    Returns:
        The records of ``evaluation.json``.
    """
    with Tracker(config.wandb, config.out, to_plain(config), "evaluate", "disabled") as tracker:
        records = run_jobs(config, jobs, config.out / "evaluation.json")
        counts = sorted({record["episodes"] for record in records if record["task"] != "all"})
        title = (
            f"{config.model.name}, {' to '.join(map(str, counts[:1] + counts[1:][-1:]))} {config.split} problems a task"
        )
        title += "" if config.early_end else ", no early end"
        title += "" if config.cache == "none" else f", cache {config.cache}"
        plot_pareto(records, config.out / "pareto.png", title, read_outcomes(config.out))
        print_table(records, title, config.per_task)
        print(f"evaluation  {config.out / 'evaluation.json'}\nplot        {config.out / 'pareto.png'}")
        tracker.finish(records, config.out / "pareto.png")
        print(f"W&B         {tracker.place}")
    return records


if __name__ == "__main__":
    from train.cli import run

    run(main, EvaluateConfig)
