"""Every scorer takes any text that a model can write: it gives a score in [0, 1], soon, and raises nothing.

A scorer gets 25 texts here; ten thousand with ``TEXTS=10000 pytest tests/envs/test_arbitrary_answers.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from benchmark_files import BENCHMARKS, make_files, stub_gym
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.tasks import PROSE, TASKS, Problem, make_task
from envs.tasks.benchmarks.gsm8k import score_gsm8k
from envs.tasks.benchmarks.humaneval import HumanEval
from envs.tasks.benchmarks.mbpp import MBPP
from envs.tasks.scoring.answers import LONGEST
from envs.tasks.scoring.equivalence import same_answer

TEXTS = int(os.environ.get("TEXTS", "25"))
SECONDS = 3.0
"""Processor time allowed to one text, on machines three times slower than one that takes a second."""

SNIPPETS = [
    *["\\boxed{", "{", "}", "<answer>", "</answer>", "answer is ", "####", "$", "\\(", "\\)", "\\[", "\\]", "$$"],
    *["\\frac", "\\text{", "\\sqrt{", "_{", "^{", "^\\circ", "\\\\", "\\!", "{,}", "\\left(", "1", "1,000", "7e4"],
    *["-", "+", "/", "*", "=", "(", ")", ".", "9" * 40, "0.5", "1/0", "\\frac{1}{0}", "10^99", "1 2 3 4", "1234"],
    *["[", "]", '"', ",", "A", "is ", "for ", "cm", "\n", " ", "\t", "```", "```python\n", "~~~\n", "def f(x):\n"],
    *["    return x\n", "@a\n", "x = (\n", '"""', "'", "if x:\n", "lambda ", "import os\n", "class A:\n", "f = "],
    *["for x in y:\n", "\r", "\0", "\ud800", "\udfff", "\U0001f600", "\u0661", "\u00b2", "\u221a", "\u2028", "\ufeff"],
    *["<|endoftext|>", "<|mdm_mask|>", "\nQuestion:", "[BEGIN]", "[DONE]", "Step 1", "E", "V", "a", "b", "_", "sort"],
]
texts = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=200),
    st.lists(st.sampled_from(SNIPPETS), max_size=60).map("".join),
    st.tuples(st.sampled_from(SNIPPETS), st.integers(1, 3000)).map(lambda pair: pair[0] * pair[1]),
)

FEW = SNIPPETS if TEXTS > 1000 else ["\\boxed{", "1,000", "\n", "@a\n", "\u00b2", "\U0001f600"]
LONG = [
    *["\\boxed{" * 400, "{" * 500, "9" * 10_000, "\\boxed{-" + "9" * 5000 + "}", "7e" + "9" * 400],
    *[snippet * (10**6 // len(snippet)) for snippet in FEW],
    *["```python\n" + snippet * 5000 for snippet in FEW],
    *["<answer>" + "1 + " * 100_000, "\\boxed{" + "1,00," * 10_000, "answer is" + " " * 100_000, "1" + "(+" * 30_000],
    *["(" * 90 + "[" * 90, "(" * 10**5, "-" * 50_000 + "1", "not " * 20_000 + "x", "def f(x):\n" + " x = 1\n" * 40_000],
    *["".join(f"def f{i}():\n  return f{i + 1}()\n" for i in range(3000)), "if x: a=1\n" + "elif x: a=1\n" * 999],
]


@cache
def folder() -> Path:
    return Path(mkdtemp())


def programs(task: HumanEval | MBPP, problem: Problem) -> Callable[[str], float]:
    """Read a program without running it: what any text does there, the sandbox's tests show."""
    row = task.rows(problem.split)[problem.index]
    return lambda text: float(task.program(text, row) is not None)


@cache
def scorer(name: str) -> Callable[[str], float]:
    if name not in BENCHMARKS:
        task = make_task(name)
    else:
        place = folder() / name.replace(":", "_")
        place.mkdir()
        task = make_task(make_files(name, place))
    problem = task.problem("test", 0)
    if isinstance(task, HumanEval | MBPP):
        return programs(task, problem)
    return lambda text: task.score(text, problem)


pytestmark = pytest.mark.slow
every_task = pytest.mark.parametrize("name", [*TASKS, *PROSE, "antibody", *BENCHMARKS, "reasoning_gym:sums"])


@pytest.fixture(autouse=True, scope="module")
def gym(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with stub_gym(tmp_path_factory.mktemp("gym"), pytest.MonkeyPatch()):
        yield


@every_task
def test_any_text_has_a_score(name: str) -> None:
    score = scorer(name)

    @settings(max_examples=TEXTS, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
    @given(texts)
    def check(text: str) -> None:
        assert 0 <= score(text) <= 1

    check()


@every_task
def test_long_texts_are_read_soon(name: str) -> None:
    score = scorer(name)
    slow = {}
    for text in LONG:
        began = time.process_time()
        assert 0 <= score(text) <= 1
        if time.process_time() - began > SECONDS:
            slow[text[:20]] = time.process_time() - began
    assert slow == {}


@settings(max_examples=TEXTS, deadline=None, derandomize=True, database=None)
@given(texts, st.sampled_from(["18", r"\frac{1}{2}", "(1,2)", r"x \in [-2,7]", "p", "4210_{5}", r"\text{Evelyn}"]))
def test_any_text_is_compared(text: str, gold: str) -> None:
    assert same_answer(text, gold) in (True, False)


def test_what_comes_late_is_not_read() -> None:
    assert score_gsm8k("\\boxed{18}" + " " * LONGEST + "\\boxed{1}", "18") == 1
    assert score_gsm8k(" " * LONGEST + "\\boxed{18}", "18") == 0
