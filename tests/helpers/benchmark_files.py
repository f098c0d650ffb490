"""Tiny files in each benchmark's own format, made up for the tests."""

from __future__ import annotations

import csv
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from envs.tasks.benchmarks.reasoning_gym import worker

Rows = list[dict[str, Any]]

REAL_DATA = Path(__file__).parents[3] / "shared" / "data"
"""Folder beside the repository with the benchmarks' own files, a folder each; tests that need them skip without it."""


def write_jsonl(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def gsm8k(first: int, count: int) -> Rows:
    return [
        {
            "question": f"Ann has {n} eggs and buys 1,000. How many?",
            "answer": f"{n} + 1000 = {n + 1000}\n#### {n + 1000:,}",
        }
        for n in range(first, first + count)
    ]


def math500(first: int, count: int) -> Rows:
    return [
        {"problem": f"What is $1/{n}$?", "solution": rf"It is $\boxed{{\frac{{1}}{{{n}}}}}$."}
        for n in range(first + 2, first + count + 2)
    ]


def humaneval(first: int, count: int) -> Rows:
    return [
        {
            "task_id": f"HumanEval/{n}",
            "prompt": f'def one():\n    return 1\n\n\ndef add_{n}(x: int) -> int:\n    """Add {n} to x."""\n',
            "canonical_solution": f"    return x + {n} * one()\n",
            "test": f"def check(candidate):\n    assert candidate(2) == {n + 2}\n    assert candidate(-1) == {n - 1}\n",
            "entry_point": f"add_{n}",
        }
        for n in range(first + 1, first + count + 1)
    ]


def mbpp(first: int, count: int) -> Rows:
    return [
        {
            "task_id": n,
            "text": f"Write a function to multiply a number by {n}.",
            "code": f"def times_{n}(x):\r\n  return x * {n}",
            "test_list": [f"assert times_{n}(2) == {2 * n}", f"assert set([times_{n}(-1)]) == {{-{n}}}"],
            "test_setup_code": "",
        }
        for n in range(first, first + count)
    ]


def countdown(first: int, count: int) -> Rows:
    return [{"input": f"3,{n},5", "output": str(n * 5 - 3)} for n in range(first + 10, first + count + 10)]


def sudoku(side: int) -> Callable[[int, int], Rows]:
    box = round(side**0.5)
    grid = [(box * (r % box) + r // box + c) % side + 1 for r in range(side) for c in range(side)]

    def rows(first: int, count: int) -> Rows:
        made = []
        for n in range(first, first + count):
            relabelled = "".join(str((digit + n) % side + 1) for digit in grid)
            empty = random.Random(n).sample(range(side**2), 5)
            puzzle = "".join("0" if i in empty else digit for i, digit in enumerate(relabelled))
            made.append({"Puzzle": puzzle, "Solution": relabelled})
        return made

    return rows


NAMES = ["Roy Ortiz", "Ann O'Neil", "Eric Reynolds", "Virginia Hayes"]


def as_list(items: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"


def waiting_line(task: str) -> Callable[[int, int], Rows]:
    def rows(first: int, count: int) -> Rows:
        made = []
        for n in range(first, first + count):
            people = [f"{name} {n}" for name in NAMES[: 3 + n % 2]]
            answer: Any = {
                "copy": as_list(people),
                "shuffle": {"input": people},
                "insert_random": {"input": people, "word": "Jo New"},
                "remove_random": {"input": people, "example": as_list(people[1:])},
                "replace_random": {"input": people, "word": "Jo New"},
            }[task]
            shot = {"input": {"context": '["A B", "C D"]', "word": "E F"}, "answer": '["C D", "A B"]'}
            made.append(
                {"input": {"context": as_list(people), "word": "Jo New", "icl_examples": [shot]}, "answer": answer}
            )
        return made

    return rows


def latin_square(first: int, count: int) -> Rows:
    return [
        {"input": {"size": 3, "symbols": f"[A, 7, {n}]"}, "answer": {"symbols": ["A", "7", str(n)]}}
        for n in range(first + 10, first + count + 10)
    ]


def stored_sudoku(first: int, count: int) -> Rows:
    def lines(grid: str) -> str:
        return "\n".join(grid[i : i + 4] for i in range(0, 16, 4))

    return [
        {"input": {"sudoku": lines(row["Puzzle"])}, "answer": lines(row["Solution"])} for row in sudoku(4)(first, count)
    ]


PARALLEL_BENCH = {
    "copy": ("list_match_score", "Copy {context}"),
    "shuffle": ("list_shuffle_score", "Shuffle {context}"),
    "insert_random": ("list_random_insert_score", "Insert {word} into {context}"),
    "remove_random": ("list_random_remove_score", "Remove one of {context}"),
    "replace_random": ("list_random_replace_score", "Replace one by {word}: {context}"),
    "latin_square_n4": ("latin_square_score", "Latin square of size {size} with the symbols {symbols}"),
    "sudoku_n4_12": ("sudoku_score", "Solve {sudoku}"),
}


@dataclass
class Benchmark:
    """How to make a benchmark's files, and what is wrong with them.

    Attributes:
        rows: makes rows from a first number and a count.
        wrong: answers that are wrong for every problem.
        malformed: for each change of a row, what its refusal says.
        count: rows a file.
        options: of the task besides its files.
        splits: those with a file.
    """

    rows: Callable[[int, int], Rows]
    wrong: list[str]
    malformed: list[tuple[dict[str, Any], str]]
    count: int = 40
    options: str = ""
    splits: tuple[str, ...] = ("train", "test")
    write: Callable[[Path, Rows], Path] = field(default=write_jsonl)


def parallel_bench(task: str) -> Benchmark:
    rows = {"latin_square_n4": latin_square, "sudoku_n4_12": stored_sudoku}.get(task)
    wrong = ["[]", '["Roy Ortiz"]', "1234", "A,B,C\nB,C,A\nC,A,B"]
    malformed = [({"answer": 3}, "malformed"), ({"input": {}}, "it has no ")]
    return Benchmark(rows or waiting_line(task), wrong, malformed)


RUN = "allow_code_execution=true,seconds=5,"
BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark(
        gsm8k,
        [r"\boxed{7}", "#### 1000", "<answer></answer>", "The answer is 1e9.", r"\boxed{\frac{1}{0}}"],
        [
            ({"question": None}, "it has no question"),
            ({"answer": "7"}, "no '####'"),
            ({"answer": "#### x"}, "reference is"),
        ],
    ),
    "math500": Benchmark(
        math500,
        [r"\boxed{7}", r"\boxed{}", r"\boxed{\frac{1}{0}}", r"The answer is $x^2$.", r"\boxed{(", r"\boxed{\text{no}}"],
        [
            ({"problem": 3}, "which must be text"),
            ({"solution": "It is 3."}, r"no \\boxed"),
            ({"answer": " "}, "its answer"),
        ],
    ),
    "humaneval": Benchmark(
        humaneval,
        ["pass", "return x", "raise SystemExit(0)", "```python\ndef other(x):\n    return x\n```", "def add_("],
        [({"test": ""}, "its test is ''"), ({"entry_point": "f"}, "doesn't begin a function 'f'")],
        3,
        RUN,
        ("test",),
    ),
    "mbpp": Benchmark(
        mbpp,
        ["pass", "```python\nexit()\n```", "[BEGIN]\ndef other(x):\n    return x\n[DONE]"],
        [({"code": None}, "it has no code"), ({"test_list": ["assert 1"]}, "assertions about a function")],
        4,
        RUN,
        ("train", "validation", "test"),
    ),
    "countdown": Benchmark(
        countdown,
        [
            "<answer>3 + 5</answer>",
            "<answer>7</answer>",
            "<answer>3 / 0 * 5</answer>",
            "__import__('os')",
            r"\boxed{5-3-}",
        ],
        [
            ({"input": "3,x"}, "invalid literal"),
            ({"input": "3"}, "it has 1 numbers"),
            ({"output": None}, "it has no|None"),
        ],
    ),
    "sudoku_4x4": Benchmark(
        sudoku(4),
        [
            "<answer>1111222233334444</answer>",
            "<answer>1234</answer>",
            "1234 " * 5,
            "<answer>12343412214343211</answer>",
        ],
        [
            ({"Puzzle": "0" * 15}, "must be 16 digits"),
            ({"Solution": "1" * 16}, "doesn't solve"),
            ({"Puzzle": "5" * 16}, "0 to 4"),
        ],
        write=write_csv,
    ),
    "sudoku_9x9": Benchmark(
        sudoku(9),
        ["<answer>" + "123456789" * 9 + "</answer>", "<answer>1</answer>"],
        [({"Puzzle": "0" * 16}, "must be 81 digits"), ({"Solution": "1" * 81}, "doesn't solve")],
        write=write_csv,
    ),
    **{f"parallel_bench:{task}": parallel_bench(task) for task in PARALLEL_BENCH},
}


def make_files(name: str, folder: Path) -> str:
    """Write a benchmark's files to a folder and return the task's text."""
    about = BENCHMARKS[name]
    kind = ".csv" if about.write is write_csv else ".jsonl"
    files = {split: folder / f"{split}{kind}" for split in about.splits}
    for i, file in enumerate(files.values()):
        about.write(file, about.rows(100 * i, about.count))
    if name.startswith("parallel_bench"):
        tasks = {f"x/{task}": {"metric": metric, "prompt": prompt} for task, (metric, prompt) in PARALLEL_BENCH.items()}
        (folder / "task_config.yaml").write_text(yaml.safe_dump(tasks))
    separator = "," if ":" in name else ":"
    return name + separator + about.options + ",".join(f"{split}={file}" for split, file in files.items())


STUB_GYM = """
class Sums:
    def __getitem__(self, index):
        a, b = divmod(index, 100)
        return {"question": f"{a} + {b} = ", "answer": str(a + b), "metadata": {"pair": (a, b)}}

    def score_answer(self, answer, entry):
        return 1.0 if int(eval(answer)) == sum(entry["metadata"]["pair"]) else 0.01

DATASETS = {"sums": Sums}
"""


@contextmanager
def stub_gym(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a stand-in for reasoning-gym in its place, here and in the process that scores.

    Its one data set is the sum of two numbers; its scorer evaluates what it is given, as several real ones do, and
    raises on what is no number.
    """
    package = folder / "reasoning_gym"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from reasoning_gym.factory import DATASETS\n\n\n"
        "def create_dataset(name, size, seed):\n    return DATASETS[name]()\n"
    )
    (package / "factory.py").write_text(STUB_GYM)
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "reasoning_gym"]:
            patch.delitem(sys.modules, name)
        patch.syspath_prepend(str(folder))
        worker.stop()
        yield
        worker.stop()
        for name in ("reasoning_gym", "reasoning_gym.factory"):
            sys.modules.pop(name, None)
