"""MBPP: write a Python function from a sentence and three assertions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from envs.tasks.base import Split
from envs.tasks.benchmarks.files import HubSplit, Row, find_file, read_rows, text_of
from envs.tasks.scoring.programs import ProgramTask, called, find_program

PROMPT = """You are an expert Python programmer, and here is your task:
{task}
Your code should pass these tests:
{tests}
Write the code in one ```python block."""
"""Source: the MBPP paper's prompt without examples, as in lm-evaluation-harness; the last line asks for the block that
three solved examples show there."""

OFFICIAL: dict[Split, range] = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
"""The paper's splits by ``task_id``; 1 to 10 are for prompts."""


def mbpp_program(text: str, tests: Sequence[str], setup: str = "", code: str = "") -> str | None:
    """Return the program that tells whether a text solves a problem: its function, the setup and the tests.

    The setup comes after the answer, whose classes it may use.

    Args:
        text: what the model wrote.
        tests: assertions.
        setup: what the tests need.
        code: the reference solution, which tells which of the functions that the tests call is asked for; without
            it, they all are but Python's own.
    """
    names = called(tests)
    own = {name for name in names if re.search(rf"^(?:def|class)\s+{name}\b|^{name}\s*=", code, re.M)}
    program = find_program(text, own or names)
    return None if program is None else "\n".join([program, setup, *tests]) + "\n"


class MBPP(ProgramTask):
    """``mbpp``: the official splits of 374, 90 and 500 problems.

    Rows have ``text`` (or ``prompt``), ``code`` and ``test_list``. A folder may hold a file a split, or the original
    ``mbpp.jsonl``, dealt by ``task_id``. All 974 reference solutions pass here; that of task 123 takes seconds.
    Source: Austin et al., arXiv 2108.07732.
    """

    name = "mbpp"
    hub: ClassVar = {
        "train": HubSplit("google-research-datasets/mbpp", "train", "full"),
        "validation": HubSplit("google-research-datasets/mbpp", "validation", "full"),
        "test": HubSplit("google-research-datasets/mbpp", "test", "full"),
    }

    def load(self, split: Split) -> list[Row] | None:
        """Read a split's file, or its part of ``mbpp.jsonl``."""
        everything = self.folder and find_file(self.folder, "mbpp")
        if not everything:
            return super().load(split)
        rows = self._checked(read_rows(everything), str(everything))
        if not all(str(row.get("task_id")).isdecimal() for row in rows):
            raise ValueError(
                f"mbpp's rows of {str(everything)!r} must each have a whole number as task_id: it tells splits"
            )
        return [row for row in rows if int(row["task_id"]) in OFFICIAL[split]]

    def check(self, row: Row) -> None:
        """Refuse a row that lacks a field or whose tests call no function of their own."""
        text_of(row, "text", "prompt")
        text_of(row, "code")
        tests = row["test_list"]
        if isinstance(tests, str) or not all(isinstance(test, str) for test in tests) or not called(tests):
            raise ValueError(f"its test_list is {tests!r}: it must be a list of assertions about a function")

    def question(self, row: Row) -> str:
        """Return the task and its tests: some tasks are worded alike."""
        return "\n".join([text_of(row, "text", "prompt"), *row["test_list"]])

    def ask(self, row: Row) -> str:
        """Return `PROMPT` about the task."""
        return PROMPT.format(task=text_of(row, "text", "prompt").strip(), tests="\n".join(row["test_list"]))

    def answer(self, row: Row) -> str:
        """Return the reference solution as a code block."""
        code = text_of(row, "code").replace("\\r", "").strip()
        return f"```python\n{code}\n```"

    def program(self, text: str, row: Row) -> str | None:
        """Return `mbpp_program`."""
        setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
        return mbpp_program(text, row["test_list"], setup, text_of(row, "code"))
