"""HumanEval: complete a Python function from its head and docstring."""

from __future__ import annotations

from typing import ClassVar

from envs.tasks.benchmarks.files import HubSplit, Row, text_of
from envs.tasks.scoring.programs import ProgramTask, continuation, find_program
from envs.tasks.scoring.statements import future_first

PROMPT = """Write a solution to the following problem and make sure that it passes the tests:
```python
{prompt}
```"""
"""Source: lm-evaluation-harness, task humaneval_instruct."""


def humaneval_program(text: str, prompt: str, test: str, entry_point: str) -> str | None:
    """Return the program that tells whether a text solves a problem: the function and its tests.

    The text may hold the whole function, in a code block or not, or its body alone. What the prompt has above the
    function, such as imports and helpers, comes first.
    """
    head = prompt[: prompt.rindex(f"def {entry_point}")]
    whole = find_program(text, {entry_point})
    # Python takes a __future__ import at the top only, and the answer's own now stands below the head.
    program = future_first(f"{head}\n{whole}") if whole is not None else continuation(text, prompt)
    return None if program is None else f"{program}\n\n{test}\n\ncheck({entry_point})\n"


class HumanEval(ProgramTask):
    """``humaneval``: 164 test problems, no others.

    Rows have ``task_id``, ``prompt``, ``test``, ``entry_point`` and ``canonical_solution``, as in ``HumanEval.jsonl``
    or ``HumanEval.jsonl.gz``. Source: Chen et al., arXiv 2107.03374.
    """

    name = "humaneval"
    hub: ClassVar = {"test": HubSplit("openai/openai_humaneval", "test")}
    stems = {"test": ("test", "HumanEval")}

    def check(self, row: Row) -> None:
        """Refuse a row that lacks a field or whose prompt doesn't begin the function."""
        for field in ("prompt", "test", "entry_point", "canonical_solution"):
            text_of(row, field)
        if f"def {row['entry_point']}" not in row["prompt"]:
            raise ValueError(f"its prompt doesn't begin a function {row['entry_point']!r}")

    def question(self, row: Row) -> str:
        """Return the function's head and docstring."""
        return text_of(row, "prompt")

    def ask(self, row: Row) -> str:
        """Return `PROMPT` about the function."""
        return PROMPT.format(prompt=self.question(row).strip("\n"))

    def answer(self, row: Row) -> str:
        """Return the reference solution as a code block."""
        return f"```python\n{row['prompt']}{row['canonical_solution'].rstrip()}\n```"

    def program(self, text: str, row: Row) -> str | None:
        """Return `humaneval_program`."""
        return humaneval_program(text, row["prompt"], row["test"], row["entry_point"])
