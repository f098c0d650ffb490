"""One policy on held-out problems: decoded, scored, and summed up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Unpack, cast

from envs.decoding.settings import DecodingOptions, DecodingSettings, conditions_of
from envs.denoiser import Denoiser
from envs.tasks import SUITE, Problem, Split, Task, make_tasks
from envs.tasks.scoring.scorer import Scorer, ScoringError, Unscored
from policies import Generation, UnmaskingPolicy, decode
from policies.base import Decision
from train.command import parallel
from train.evaluation.fitting import with_memory
from train.evaluation.naming import EOTP
from train.evaluation.records import (
    Outcomes,
    Record,
    summarise,
)


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
    block_length: int | None = None,
    samples: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    on_finish: Callable[[int], object] | None = None,
    is_shared: bool = False,
    **decoding: Unpack[DecodingOptions],
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
        block_length: None for full diffusion.
        samples: answers to each problem, with random numbers of their own; a problem's score, NFE and token positions
            are the means over them.
        batch_size: sequences decoded side by side.
        seed: of every random choice.
        on_finish: called with the number of answers just finished.
        is_shared: whether all processes of torchrun call this to share the problems out; each then returns all.
        **decoding: fields of `envs.decoding.settings.DecodingSettings`; with ``end_of_text_prediction`` the records'
            policy ends in ``+eotp``.

    Returns:
        What became of each problem, task by task. One with an answer that couldn't be scored is left out, and counted.

    Raises:
        ScoringError: if too many have none, or all; see `envs.tasks.scoring.scorer.Scorer`.
        ValueError: if the samples are to be one and the same.
    """
    settings = DecodingSettings(block_length=block_length, features=policy.features, **decoding)
    check_samples(samples, settings.temperature, [(name or policy.name, policy.decision)])
    chosen = make_tasks(tasks)
    problems = choose_problems(chosen, split, first, episodes)
    began = time.perf_counter()
    mine = parallel.deal(problems) if is_shared else problems
    generations = decode_problems(
        denoiser, mine, policy, settings, samples=samples, batch_size=batch_size, seed=seed, on_finish=on_finish
    )
    asked = [mine[number // samples] for number in range(len(generations))]
    scores = score_problems(chosen, asked, [done.text for done in generations])
    answers = [
        _mean_answer(scores[i : i + samples], generations[i : i + samples]) for i in range(0, len(scores), samples)
    ]
    if is_shared:
        answers = parallel.collect(answers)
    known = [(problem, answer) for problem, answer in zip(problems, answers, strict=True) if answer is not None]
    if not known:
        raise ScoringError(f"none of the {len(answers) * samples} answers has a score: see the warnings above")
    outcomes: Outcomes = {
        "policy": (name or policy.name) + (EOTP if settings.end_of_text_prediction else ""),
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
        "log_likelihood": [answer.log_likelihood for _, answer in known],
        "early_end": settings.early_end,
    }
    outcomes.update(cast(Outcomes, conditions_of(settings)))
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
    log_likelihood: float


def _mean_answer(scores: Sequence[float | None], generations: Sequence[Generation]) -> _Answer | None:
    """Return what became of a problem; None if one of its samples has no score."""
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return None
    samples = [
        _Answer(score, done.nfe, done.token_positions, done.said, done.log_likelihood)
        for score, done in zip(known, generations, strict=True)
    ]
    if len(samples) == 1:
        return samples[0]  # counts stay whole numbers
    return _Answer(*(sum(column) / len(samples) for column in zip(*samples, strict=True)))


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
        batch_size: most sequences at a time; fewer where the memory is too small (`train.evaluation.fitting`).
        on_finish: called with the number of sequences that just finished; below 0, of those to be decoded again.
        **options: further ones of `policies.decode`.
    """
    prompts, given = [problem.prompt for problem in problems], [problem.given for problem in problems]
    finished = 0

    def count(number: int) -> None:
        nonlocal finished
        # Counted here too: who decodes again in a smaller batch has to know what to take back.
        finished += number
        if on_finish is not None:
            on_finish(number)

    def decoded(size: int) -> list[Generation]:
        if finished:
            # A smaller batch starts over: what was counted is taken back.
            count(-finished)
        return decode(denoiser, prompts, policy, settings, given=given, batch_size=size, on_finish=count, **options)

    return with_memory(str(denoiser.device), batch_size, decoded)


def score_problems(tasks: Sequence[Task], problems: Sequence[Problem], texts: Sequence[str]) -> list[float | None]:
    """Return the score of each problem's answer, by the task that made the problem; None where it has none.

    Raises:
        ScoringError: if too many have none; see `envs.tasks.scoring.scorer.Scorer`.
    """
    # One for all of them, as it is the share of unknown scores that ends an evaluation.
    scorer = Scorer(tasks, len(problems))
    found = [scorer.score(text, problem) for problem, text in zip(problems, texts, strict=True)]
    return [None if isinstance(score, Unscored) else score for score in found]
