"""Finding a program in what a model wrote, and what the tasks that run it share."""

from __future__ import annotations

import ast
import builtins
import re
from abc import abstractmethod
from collections.abc import Collection, Iterable

from envs.tasks.answers import before_end
from envs.tasks.files import FileTask, Row
from envs.tasks.sandbox import passes

_FENCE = re.compile(r"^[ \t]*```[ \t]*(?:python3?|py)?[ \t]*$", re.M | re.I)
_CODE = re.compile(r"^(?:def|async def|class|import|from|@)\s*\w", re.M)
_INDENT = " " * 4


def blocks(text: str) -> list[str]:
    r"""Return the parts of a text between code fences, in order; also where the first or last fence is missing.

    >>> blocks("def f(): pass\n```\nThat is all.")
    ['def f(): pass\n', '\nThat is all.']
    """
    text = before_end(text).partition("[DONE]")[0].rpartition("[BEGIN]")[2]
    return [part for part in _FENCE.split(text) if part.strip()]


def longest_program(code: str) -> str:
    r"""Return the longest run of lines, from the first one that looks like code, that compiles; "" if there is none.

    >>> longest_program("Here it is:\ndef f():\n    return 1\nIt returns 1.")
    'def f():\n    return 1'
    """
    start = _CODE.search(code)
    return "\n".join(_compiling("", code[start.start() :].split("\n"))) if start else ""


def _compiles(code: str) -> bool:
    try:
        compile(code, "<solution>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def defined(code: str) -> set[str]:
    """Return the names of the functions and classes that a program defines at its top level."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.parse(code).body if isinstance(node, kinds)}


def find_program(text: str, names: Collection[str]) -> str | None:
    """Return the first program of a text that defines one of these names; None if there is none."""
    for part in [*blocks(text), before_end(text)]:
        program = longest_program(part)
        if program and defined(program) & set(names):
            return program
    return None


def continuation(text: str, prompt: str) -> str | None:
    r"""Return the function whose head is the prompt, if the text is its body, up to where it stops compiling.

    >>> continuation("return x + 1", "def f(x):\n")
    'def f(x):\n    return x + 1'
    """
    for part in blocks(text):
        # Of the first line, or of all, the indentation is easily lost.
        lines = part.strip("\n").rstrip().split("\n")
        first = lines if lines[0].startswith((" ", "\t")) else [_INDENT + lines[0], *lines[1:]]
        bodies = [_compiling(prompt, first), _compiling(prompt, [_INDENT + line for line in lines])]
        body = max(bodies, key=len)
        if any(line.strip() for line in body):
            return prompt + "\n".join(body)
    return None


def _compiling(prompt: str, lines: list[str]) -> list[str]:
    kept = len(lines)
    while kept and not _compiles(prompt + "\n".join(lines[:kept])):
        kept -= 1
    return lines[:kept]


def called(tests: Iterable[str]) -> set[str]:
    """Return the functions that tests call by name and Python doesn't have.

    >>> called(["assert set(similar((3, 4), (4, 5))) == {4}"])
    {'similar'}
    """
    nodes = [node for test in tests for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call)]
    names = {node.func.id for node in nodes if isinstance(node.func, ast.Name)}
    return {name for name in names if not hasattr(builtins, name)}


class ProgramTask(FileTask):
    """A task whose answers are programs, scored by running their tests; see `envs.tasks.sandbox`.

    Args:
        data: a folder; see `envs.tasks.files.FileTask`.
        train: the training problems' file.
        validation: the validation problems' file.
        test: the test problems' file.
        allow_code_execution: that the programs may be run; nothing can be scored without.
        seconds: time limit of a program.
        megabytes: memory limit of a program.

    Raises:
        ValueError: unless running code is allowed.
    """

    def __init__(
        self,
        data: str = "",
        train: str = "",
        validation: str = "",
        test: str = "",
        allow_code_execution: bool = False,
        seconds: int = 10,
        megabytes: int = 1024,
    ) -> None:
        super().__init__(data, train, validation, test)
        if not allow_code_execution:
            raise ValueError(
                f"{self.name} runs programs that the model wrote: allow it with {self.name}:allow_code_execution=true "
                "(they get a process with limits; use a container if the model may mean harm)"
            )
        for name, value in (("seconds", seconds), ("megabytes", megabytes)):
            if value < 1:
                raise ValueError(f"{self.name}'s {name} is {value}: it must be 1 or more")
        self.seconds, self.megabytes = seconds, megabytes

    @abstractmethod
    def program(self, text: str, row: Row) -> str | None:
        """Return the program to run, tests included; None if the text holds none."""

    def grade(self, text: str, row: Row) -> float:
        """Return 1.0 if the program passes all its tests within the limits, else 0.0."""
        program = self.program(text, row)
        return float(program is not None and passes(program, self.seconds, self.megabytes))
