"""Scores that can't be believed: by themselves, in the env, in evaluation, traces and the page to watch."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from faulty import FAULTS, faulty

from envs.models.toy import ToyDenoiser
from envs.single import UnmaskingEnv
from envs.tasks import TASKS, make_tasks
from envs.tasks.base import Task
from envs.tasks.scoring.scorer import Scorer, ScoringError, Unscored, _CutOff, limited
from envs.tasks.suite.copy_list import Copy
from envs.unmasking import UnmaskingVectorEnv
from policies import make_rule
from train.command.cli import run
from train.evaluation.measure import evaluate, measure
from train.evaluation.records import summarise
from train.evaluation.table import make_table
from train.filters.traces import TraceConfig, problems_of, right_rows
from train.watching.page import page_data
from train.watching.show import WatchConfig, rehearse


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_score(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    task = faulty(fault)()
    scorer, problem = Scorer([task]), task.problem("test", 3)
    handler = signal.getsignal(signal.SIGALRM)
    assert scorer.score("a", problem) == Unscored(FAULTS[fault][1])
    assert scorer.score("a", problem) == Unscored(FAULTS[fault][1])
    assert (scorer.answers, scorer.unscored) == (2, 2)
    [warning] = caplog.messages  # of two
    assert f"copy's test problem 3: {FAULTS[fault][1]}" in warning
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


class Scored(Copy):
    value: Any = 0.5

    def score(self, text: str, problem: Any) -> Any:
        return self.value


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (1, 1.0),
        (True, 1.0),
        (np.bool_(True), 1.0),
        (np.float32(0.25), 0.25),
        (0.1 * 3 + 0.7, 1.0),
        (-1e-12, 0.0),
    ],
)
def test_what_is_a_score(value: Any, score: float) -> None:
    task = Scored()
    task.value = value
    found = Scorer([task]).score("", task.problem("test", 0))
    assert found == score
    assert type(found) is float


def unscored_of(task: Task, answers: int, **options: Any) -> int:
    scorer = Scorer([task], **options)
    for index in range(answers):
        scorer.score("", task.problem("test", index))
    return scorer.unscored


def test_more_than_a_twentieth_ends_the_run() -> None:
    assert unscored_of(faulty("raises", every=20, first=19)(), 1000) == 50  # exactly a twentieth
    with pytest.raises(ScoringError, match=r"of \d+ answers have no score, the last to copy's test problem"):
        unscored_of(faulty("raises", every=19)(), 1000)
    with pytest.raises(ScoringError, match="20 of 20 answers"):  # not before there are 20
        unscored_of(faulty("raises")(), 1000)
    # Two of the first 20 are not yet two of few.
    assert unscored_of(faulty("raises", every=15)(), 20) == 2
    with pytest.raises(ScoringError, match="2 of 20 answers"):
        unscored_of(faulty("raises", every=15)(), 30, expected=30)
    assert unscored_of(faulty("raises")(), 19, expected=19) == 19


def test_a_scorer_that_breaks_late_ends_the_run_soon() -> None:
    task = Scored()
    scorer, problem = Scorer([task]), task.problem("test", 0)
    for _ in range(2000):
        scorer.score("", problem)
    task.value = None
    for _ in range(50):
        scorer.score("", problem)
    with pytest.raises(ScoringError, match="51 of 1000"):
        scorer.score("", problem)


def test_a_timer_of_somebody_else_goes_on() -> None:
    fired: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        fired.append(number)

    before = signal.signal(signal.SIGALRM, note)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        limited(lambda: time.sleep(0.05), 5.0)
        assert 0.0 < signal.getitimer(signal.ITIMER_REAL)[0] < 0.12
        time.sleep(0.15)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert fired == [signal.SIGALRM]


@pytest.mark.parametrize("seconds", [1e-6, 1e-5, 5e-5, 1e-4, 2e-4])
def test_whenever_the_time_is_over_the_timer_ends(seconds: float) -> None:
    """The signal comes before, in, and after the call."""
    for _ in range(300):
        with contextlib.suppress(_CutOff):
            limited(lambda: sum(range(1000)), seconds)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_in_another_thread_there_is_no_limit_and_no_harm() -> None:
    found: list[object] = []
    task = Scored()
    problem = task.problem("test", 0)
    thread = threading.Thread(target=lambda: found.append(Scorer([task]).score("", problem)))
    thread.start()
    thread.join()
    assert found == [0.5]


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_programs_keep_their_own_limits(name: str) -> None:
    from envs.tasks import BENCHMARKS

    build: Any = BENCHMARKS[name]
    task: Task = build(allow_code_execution=True, seconds=7)
    assert task.runs_tests
    assert task.time_limit == 3 * 7 + Task.time_limit


# The env.


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("reward", ["multiplicative", "additive", "forward_cost"])
def test_env_says_that_an_episode_has_no_score(
    fault: str, reward: str, toy: ToyDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "copy", faulty(fault))
    env = UnmaskingEnv(denoiser=toy, tasks="copy", buffer_length=8, reward=reward, alpha=0.5)
    env.reset(seed=0)
    _, paid, terminated, truncated, info = env.step(np.ones(8, dtype=np.int8))
    assert (terminated, truncated) == (True, False)
    assert math.isnan(info["score"])
    assert info["score_error"] == FAULTS[fault][1]
    assert paid == (-0.5 if reward == "forward_cost" else 0.0)  # what the forward costs
    assert env.rows.scorer.unscored == 1


def test_env_keeps_rows_apart(toy: ToyDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "copy", faulty("nan", every=2))
    env = UnmaskingVectorEnv(4, denoiser=toy, tasks="copy", buffer_length=16, alpha=0.0)
    env.reset(seed=0, options={"problem": [0, 1, 2, 3]})
    _, rewards, terminated, _, infos = env.step(np.ones((4, 16), dtype=np.int8))
    assert terminated.all()
    assert rewards.tolist() == [0.0, 1.0, 0.0, 1.0]
    final = infos["final_info"]
    assert np.isnan(final["score"]).tolist() == [True, False, True, False]
    assert final["_score_error"].tolist() == [True, False, True, False]


def test_env_ends_with_a_sentence(toy: ToyDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "copy", faulty("two"))
    env = UnmaskingVectorEnv(19, denoiser=toy, tasks="copy", buffer_length=8)
    env.reset(seed=0)
    env.step(np.ones((19, 8), dtype=np.int8))
    with pytest.raises(ScoringError, match="20 of 20 answers have no score"):
        env.step(np.ones((19, 8), dtype=np.int8))


# Evaluation, traces and the page.

RULE = make_rule("threshold:0")


@pytest.mark.parametrize("fault", FAULTS)
def test_evaluation_leaves_the_problem_out(fault: str, toy: ToyDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 right answers two have no score: the mean is over 38, and the record says so."""
    monkeypatch.setitem(TASKS, "copy", faulty(fault, every=20, first=5))
    outcomes = measure(toy, RULE, tasks=["copy", "reverse"], episodes=40, buffer_length=16)
    assert outcomes["unscored"] == [["copy", 5], ["copy", 25]]
    copied, reversed_, both = summarise(outcomes)
    assert (copied["accuracy"], copied["episodes"], copied["unscored"]) == (1.0, 38, 2)
    assert (reversed_["episodes"], "unscored" in reversed_) == (40, False)
    assert (both["episodes"], both["unscored"]) == (78, 2)
    table = make_table([copied, reversed_, both], per_task=True)
    assert table.columns[-1].header == "left out"
    assert [str(cell) for cell in table.columns[-1].cells] == ["2", "", "2"]


def test_evaluation_without_any_score_is_none(toy: ToyDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "copy", faulty("none"))
    with pytest.raises(ScoringError, match="none of the 3 answers has a score"):
        evaluate(toy, RULE, tasks="copy", episodes=3, buffer_length=8)
    with pytest.raises(ScoringError, match="20 of 20 answers"):
        evaluate(toy, RULE, tasks="copy", episodes=30, buffer_length=8)


def test_traces_take_no_answer_without_a_score(
    toy: ToyDenoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "copy", faulty("nan", every=2))
    config = TraceConfig(tmp_path, 4, split="test", buffer_length=16, tasks=("copy",))
    problems = problems_of(config, 0)
    rows = [[*toy.encode_text(problem.answer), *[toy.eos_id] * 16][:16] for problem in problems]
    assert right_rows(config, problems, toy, torch.tensor(rows)).tolist() == [False, True, False, True]


def test_page_shows_an_answer_without_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "copy", faulty("nan", every=2))
    from train.command.model_config import ModelConfig

    show = rehearse(
        WatchConfig(
            ["threshold:0"], task="copy", problems=2, heatmap_problems=2, buffer_length=16, model=ModelConfig("toy")
        )
    )
    assert show.scores == [[None, 1.0]]
    data = page_data(show)
    assert [problem["runs"][0]["score"] for problem in data["problems"]] == [None, 1.0]
    assert data["orders"][0]["score"] == 1.0


def test_command_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def main(config: WatchConfig) -> None:
        raise ScoringError("2 of 20 answers have no score")

    monkeypatch.setattr("sys.argv", ["watch.py"])
    with pytest.raises(SystemExit) as caught:
        run(main, WatchConfig)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: 2 of 20 answers have no score\n"


def test_the_warning_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What a command line shows of it, where nobody has set logging up."""
    record = logging.LogRecord("envs.tasks.scoring.scorer", logging.WARNING, "", 0, "warning: no score", None, None)
    assert logging.lastResort is not None
    logging.lastResort.handle(record)
    assert capsys.readouterr().err == "warning: no score\n"


def test_all_tasks_have_a_limit() -> None:
    assert all(0 < task.time_limit <= 100 for task in make_tasks("suite"))
