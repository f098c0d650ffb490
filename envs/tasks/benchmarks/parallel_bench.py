"""ParallelBench's list and puzzle tasks, from its own files: ``copy.jsonl`` and the like, and ``task_config.yaml``.

Source: Kang et al., arXiv 2510.04767, metrics.py.

Departures from it:
1. The worked example stands in the same user message as the problem; there it is a turn of its own.
2. Single and curly quotes around a name are tolerated as missing ones are.
3. A latin square's row must have exactly as many cells as there are symbols; there a repeated symbol goes unnoticed.
4. A list's items may stand on lines of their own; there such a list scores 0.

Its files ``words_to_sentence`` and ``paraphrase_summarize`` are scored by language models and a grammar checker, and
not supported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from envs.tasks.benchmarks.files import FileTask, Row
from envs.tasks.scoring.answers import before_end

Answer = str | Mapping[str, Any]


def unescaped(text: str) -> str:
    r"""Return a text of the benchmark's files with newlines for the two characters ``\n``, as its loader does.

    >>> unescaped(r"12\n34")
    '12\n34'
    """
    return text.replace("\\n", "\n")


def parse_list(text: str) -> list[str]:
    """Return the items between the last ``[`` and the first ``]`` after it; quotes may be missing.

    >>> parse_list('Here: ["Roy Ortiz", Ann Lee]')
    ['Roy Ortiz', 'Ann Lee']
    """
    inside = before_end(text).rpartition("[")[2].partition("]")[0]
    return [item.strip().strip("\"'\u201c\u201d\u2018\u2019 ") for item in inside.split(",") if item.strip()]


def _items(answer: Answer) -> list[str]:
    assert not isinstance(answer, str)
    return [str(item) for item in answer["input"]]


def _is_same_list(text: str, answer: Answer) -> bool:
    assert isinstance(answer, str)
    return parse_list(text) == parse_list(answer)


def _is_shuffled(text: str, answer: Answer) -> bool:
    given, items = parse_list(text), _items(answer)
    return sorted(given) == sorted(items) and given != items


def _is_inserted(text: str, answer: Answer) -> bool:
    assert not isinstance(answer, str)
    given, items = parse_list(text), _items(answer)
    return any(given == [*items[:i], answer["word"], *items[i:]] for i in range(len(items) + 1))


def _is_removed(text: str, answer: Answer) -> bool:
    given, items = parse_list(text), _items(answer)
    return any(given == [*items[:i], *items[i + 1 :]] for i in range(len(items)))


def _is_replaced(text: str, answer: Answer) -> bool:
    assert not isinstance(answer, str)
    given, items = parse_list(text), _items(answer)
    return any(given == [*items[:i], answer["word"], *items[i + 1 :]] for i in range(len(items)))


def _is_latin_square(text: str, answer: Answer) -> bool:
    """Tell whether the first n lines that hold each of the n symbols once make a square whose columns do too."""
    assert not isinstance(answer, str)
    symbols = sorted(str(symbol) for symbol in answer["symbols"])
    rows = [list(map(str.strip, line.split(","))) for line in before_end(text).split("\n")]
    rows = [row for row in rows if sorted(row) == symbols][: len(symbols)]
    return len(rows) == len(symbols) and all(sorted(column) == symbols for column in zip(*rows, strict=True))


def _is_stored_sudoku(text: str, answer: Answer) -> bool:
    """Tell whether the lines of four digits are the stored solution; another solution of the puzzle doesn't count."""
    assert isinstance(answer, str)
    stored = _grid(unescaped(answer))
    return len(stored) == 4 and _grid(text) == stored


def _grid(text: str) -> list[str]:
    lines = ("".join(re.findall(r"\d", line)) for line in before_end(text).split("\n"))
    return [line for line in lines if len(line) == 4]


METRICS: Mapping[str, Callable[[str, Answer], bool]] = MappingProxyType(
    {
        "list_match_score": _is_same_list,
        "list_shuffle_score": _is_shuffled,
        "list_random_insert_score": _is_inserted,
        "list_random_remove_score": _is_removed,
        "list_random_replace_score": _is_replaced,
        "latin_square_score": _is_latin_square,
        "sudoku_score": _is_stored_sudoku,
    }
)
"""The benchmark's metrics that need no model and no grammar checker, by its names."""

_GROUPS = ("waiting_line", "puzzle", "words_to_sentence", "paraphrase_summarize")
"""What the names of the benchmark's folders begin with."""


def score_parallel_bench(text: str, answer: Answer, metric: str) -> float:
    """Return 1.0 if a text answers a problem, else 0.0.

    Args:
        text: what the model wrote.
        answer: the row's ``answer``.
        metric: of `METRICS`.

    >>> score_parallel_bench('["b", "a"]', {"input": ["a", "b"]}, "list_shuffle_score")
    1.0
    """
    return float(METRICS[metric](text, answer))


def example_of(answer: Answer, metric: str) -> str:
    """Return a right answer as text: the stored one, or if the row has only the conditions, a simple one."""
    if isinstance(answer, str):
        return unescaped(answer)
    if "example" in answer:
        return str(answer["example"])
    if metric == "latin_square_score":
        symbols = [str(symbol) for symbol in answer["symbols"]]
        return "\n".join(",".join([*symbols[i:], *symbols[:i]]) for i in range(len(symbols)))
    items = _items(answer)
    made: dict[str, list[Any]] = {
        "list_shuffle_score": items[::-1],
        "list_random_insert_score": [*items, answer.get("word")],
        "list_random_remove_score": items[:-1],
        "list_random_replace_score": [*items[:-1], answer.get("word")],
    }
    return "[" + ", ".join(f'"{item}"' for item in made[metric]) + "]"


class ParallelBench(FileTask):
    """``parallel_bench:copy,data=FOLDER``: a test file ``copy.jsonl`` beside the ``task_config.yaml`` with its prompt.

    The folders are ``waiting_line``, ``waiting_line_n15`` and ``puzzle`` of the benchmark's
    ``dataset/parallel_bench/data/output/test``; with that for the folder, the task is ``waiting_line/copy``. Tasks of
    the benchmark's folders are called by both names, so that those of several can be asked for together.

    Args:
        task: a file's name without ending, such as ``copy``, ``insert_random``, ``latin_square_n4``, ``sudoku_n4_12``.
        data: the folder.
        train: a training file, beside its own ``task_config.yaml``.
        validation: a validation file, likewise.
        test: the test file, instead of a folder.

    Raises:
        ValueError: if the task is not named.
    """

    def __init__(self, task: str = "", data: str = "", train: str = "", validation: str = "", test: str = "") -> None:
        if not task:
            raise ValueError(
                "parallel_bench's task is '': name one of its files, as in parallel_bench:copy,data=FOLDER"
            )
        self.name = f"parallel_bench:{task}"
        super().__init__(data, train, validation, test)
        self.stems = {"test": (task,)}
        self.task = task.rpartition("/")[2]
        # The prompt lies beside the problems, in a folder or where single files are named.
        file = self.folder / task if self.folder else next(iter(self.files.values()), Path(task))
        self.group = file.parent.name
        if self.group.startswith(_GROUPS):
            self.name = f"parallel_bench:{self.group}/{self.task}"
        self._config_file = file.parent / "task_config.yaml"

    @cached_property
    def config(self) -> tuple[str, str]:
        """Prompt and metric.

        Raises:
            FileNotFoundError: if there is no ``task_config.yaml`` beside the data.
            ValueError: if it doesn't describe the task, or its metric is none of `METRICS`.
        """
        file = self._config_file
        if not file.is_file():
            raise FileNotFoundError(
                f"{self.name} needs {str(file)!r}, which has its prompt: copy it from ParallelBench"
            )
        try:
            known = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            said = " ".join(str(error).split())
            raise ValueError(f"{self.name} needs {str(file)!r}, which can't be read: {said}") from error
        if not isinstance(known, Mapping):
            raise ValueError(f"{self.name} needs {str(file)!r}, which must map tasks to their prompt and metric")
        found = {str(name): about for name, about in known.items() if str(name).rpartition("/")[2] == self.task}
        if not found:
            # A file's own words, which may hold what a terminal acts on.
            names = ", ".join(str(name) if str(name).isprintable() else repr(name) for name in known)
            raise ValueError(f"{self.name} is not in {str(file)!r}: choose from {names}")
        about = found.get(f"{self.group}/{self.task}", next(iter(found.values())))
        if not isinstance(about, Mapping) or not {"prompt", "metric"} <= set(about):
            raise ValueError(f"{self.name} in {str(file)!r} is {about!r}: it must have a prompt and a metric")
        if not isinstance(about["metric"], str) or about["metric"] not in METRICS:
            raise ValueError(
                f"{self.name} isn't supported, its metric in {str(file)!r} is {about['metric']!r}: only "
                f"{', '.join(METRICS)} are"
            )
        return str(about["prompt"]), about["metric"]

    def _checked(self, rows: list[Row], where: str) -> list[Row]:
        # The configuration first: where that is amiss, no row is to blame.
        _ = self.config
        return super()._checked(rows, where)

    def check(self, row: Row) -> None:
        """Refuse a row whose input doesn't fill the prompt or whose answer isn't right by the metric."""
        self.ask(row)
        if not self.grade(self.answer(row), row):
            raise ValueError(f"its answer is {row['answer']!r}, which is wrong by {self.config[1]}")

    def question(self, row: Row) -> str:
        """Return the prompt without the worked example."""
        prompt, _ = self.config
        return unescaped(prompt.format(**row["input"])).strip()

    def ask(self, row: Row) -> str:
        """Return the worked examples, each with its answer, and the problem."""
        shots = row["input"].get("icl_examples") or []
        worked = [f"{self.question(shot)}\n\n{example_of(shot['answer'], self.config[1])}" for shot in shots]
        return "\n\n".join([*worked, self.question(row)])

    def answer(self, row: Row) -> str:
        """Return a right answer."""
        return example_of(row["answer"], self.config[1])

    def grade(self, text: str, row: Row) -> float:
        """Return `score_parallel_bench`."""
        return score_parallel_bench(text, row["answer"], self.config[1])
