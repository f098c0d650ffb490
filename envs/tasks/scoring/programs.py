r"""Finding a program in what a model wrote, and what the tasks that run it share.

A text is read as a notebook: its *drafts* are the runs of lines that compile, in fences or not. The last one that
defines the function counts, so that a correction replaces what it corrects, unless it is announced as an alternative
("Or:"). From the other drafts come the imports, constants and helpers that it needs.
"""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from envs.tasks.benchmarks.files import FileTask, Row
from envs.tasks.scoring.answers import before_end
from envs.tasks.scoring.sandbox import WAIT, need_protection, passes
from envs.tasks.scoring.statements import defined, future_first, is_stub, statements_of, used_names

_FENCE = re.compile(r"[ \t]*(?:`{3,}|~{3,})[^`\n]*$")
_OPENED_IN_LINE = re.compile(
    r"^([ \t]*`{3,}(?:python3?|py)?)[ \t]+(?=(?:async|def|class|import|from|@)\b)", re.M | re.I
)
_CLOSED_IN_LINE = re.compile(r"(?<=[^\s`])`{3,}[ \t]*$", re.M)
_START = re.compile(
    r"[ \t]*(?:(?:async|def|class|import|from|if|for|while|try|with|type)\b|@\w|[A-Za-z_][\w.,:|\[\] \t]*=(?!=))"
)
_UNFINISHED = re.compile(r"\s*(?:#|@|$)|.*[:\\]\s*$")
_ALTERNATIVE = re.compile(
    r"^[ \t*#>-]*or\b|\balternativ|\b(?:an)?other (?:way|approach|solution|version|method|option)|\bcan also\b",
    re.I | re.M,
)

_INDENT = " " * 4

_LONGEST = 20_000
"""Characters of one program; what comes after them is not read."""

_MOST_COMPILED = 200_000
"""Characters of a text that are compiled, again at each try: so reading any text takes less than a second."""


class Draft(NamedTuple):
    """A run of lines that compiles."""

    code: str
    """Its lines."""
    before: str
    """What stands between the draft before it, or the text's beginning, and this one."""


class _Reader:
    """Finds the longest beginning of some lines that compiles, as long as its allowance of characters lasts."""

    def __init__(self) -> None:
        self.left = _MOST_COMPILED

    def keep(self, lines: Sequence[str], head: str = "") -> int:
        """Return how many of the lines, after the head, compile together; 0 if none do."""
        kept = len(lines)
        while kept and self.left > 0:
            code = head + "\n".join(lines[:kept])
            self.left -= len(code) + 1
            wrong = _wrong_line(code)
            if wrong is None:
                return kept
            # No beginning that holds the line where parsing failed can compile, nor one that ends in what only begins.
            kept = min(kept - 1, max(0, wrong - head.count("\n") - 1))
            while kept and _UNFINISHED.match(lines[kept - 1]):
                kept -= 1
        return 0


def _wrong_line(code: str) -> int | None:
    """Return the number of a line before which the code must end to compile, from 1; None if it compiles."""
    try:
        # Python warns of such as "\d" in a string, and a run that turns warnings into errors would fail on it.
        with warnings.catch_warnings(action="ignore"):
            # dont_inherit: this module's own __future__ import is not the program's.
            compile(code, "<solution>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError, OverflowError):
        return 1
    return None


def _readable(text: str) -> str:
    """Cut a text at its end and at MBPP's own marks, and give fences lines of their own."""
    text = before_end(text).partition("[DONE]")[0].rpartition("[BEGIN]")[2]
    return _CLOSED_IN_LINE.sub("\n```", _OPENED_IN_LINE.sub(r"\1\n", text))


def blocks(text: str) -> list[str]:
    r"""Return the parts of a text between code fences, in order; also where the first or last fence is missing.

    >>> blocks("def f(): pass\n```\nThat is all.")
    ['def f(): pass', 'That is all.']
    """
    parts: list[list[str]] = [[]]
    for line in _readable(text).split("\n"):
        if _FENCE.match(line):
            parts.append([])
        else:
            parts[-1].append(line)
    return [part for part in map("\n".join, parts) if part.strip()]


def drafts(text: str) -> list[Draft]:
    r"""Return the programs of a text, in order.

    >>> [draft.code for draft in drafts("Here it is:\nN = 1\ndef f():\n    return N\nIt returns 1.")]
    ['N = 1\ndef f():\n    return N']
    """
    lines = _readable(text).split("\n")
    reader = _Reader()
    found: list[Draft] = []
    place = seen = 0
    while place < len(lines) and reader.left > 0:
        kept = 0
        if _START.match(lines[place]):
            run = _run(lines, place)
            fence = next((i for i, line in enumerate(run) if _FENCE.match(line)), len(run))
            kept = reader.keep(run[:fence])
            # A fence may stand in a docstring.
            if kept < fence < len(run):
                kept = max(kept, reader.keep(run))
        if kept:
            found.append(Draft("\n".join(run[:kept]), "\n".join(lines[seen:place])))
            seen = place + kept
        place += max(kept, 1)
    return found


def _run(lines: Sequence[str], start: int) -> list[str]:
    """Return the lines from one on that are indented as it is, that much removed, up to `_LONGEST` characters."""
    margin = re.match(r"[ \t]*", lines[start])[0]  # type: ignore[index]
    run: list[str] = []
    length = 0
    for line in lines[start:]:
        length += len(line) + 1
        if length > _LONGEST or not (line.startswith(margin) or not line.strip()):
            break
        run.append(line.removeprefix(margin))
    return run


def find_program(text: str, names: Collection[str]) -> str | None:
    r"""Return the program of a text that defines one of these names; None if there is none.

    >>> print(find_program("```\ndef half(x): return x / 2\n```\n```\ndef f(x): return half(x)\n```", {"f"}))
    def half(x): return x / 2
    def f(x): return half(x)
    """
    found = drafts(text)
    chosen: int | None = None
    kept = []
    for place, draft in enumerate(found):
        is_another = bool(defined(draft.code) & set(names))
        if chosen is not None and is_another and (_ALTERNATIVE.search(draft.before) or is_stub(draft.code, names)):
            continue
        kept.append(place)
        if is_another:
            chosen = place
    if chosen is None:
        return None
    return _join([found[place].code for place in kept], kept.index(chosen), names)


def _join(programs: Sequence[str], chosen: int, names: Collection[str]) -> str:
    """Join a program with the statements of others that it needs, in the order of the text, so that the last holds."""
    statements = [[] if place == chosen else statements_of(code) for place, code in enumerate(programs)]
    giving: dict[str, list[tuple[int, int]]] = {}
    for place, several in enumerate(statements):
        for number, statement in enumerate(several):
            for name in statement.names:
                giving.setdefault(name, []).append((place, number))
    taken: set[tuple[int, int]] = set()
    # A star import may give any name.
    needed = ["*", *names, *used_names(programs[chosen])]
    while needed:
        for place, number in giving.pop(needed.pop(), []):
            if (place, number) not in taken:
                taken.add((place, number))
                needed += used_names(statements[place][number].code)
    parts = []
    for place, several in enumerate(statements):
        parts += [statement.code for number, statement in enumerate(several) if (place, number) in taken]
        if place == chosen:
            parts.append(programs[place])
    return future_first("\n".join(parts))


def continuation(text: str, prompt: str) -> str | None:
    r"""Return the function whose head is the prompt, if the text is its body, up to where it stops compiling.

    >>> continuation("return x + 1", "def f(x):\n")
    'def f(x):\n    return x + 1'
    """
    reader = _Reader()
    for part in blocks(text):
        # Of the first line, or of all, the indentation is easily lost.
        lines = part.strip("\n").rstrip()[:_LONGEST].split("\n")
        first = lines if lines[0].startswith((" ", "\t")) else [_INDENT + lines[0], *lines[1:]]
        indented = [_INDENT + line for line in lines]
        bodies = [body[: reader.keep(body, prompt)] for body in (first, indented)]
        body = max(bodies, key=len)
        if any(line.strip() for line in body):
            return prompt + "\n".join(body)
    return None


def called(tests: Iterable[str]) -> set[str]:
    """Return the functions that tests call by name; those that Python has too only if they call no other.

    >>> called(["assert set(similar((3, 4), (4, 5))) == {4}"]), called(["assert sum(10, 15) == 6"])
    ({'similar'}, {'sum'})
    """
    nodes = chain.from_iterable(ast.walk(ast.parse(test)) for test in tests)
    functions = [node.func for node in nodes if isinstance(node, ast.Call)]
    names = {function.id for function in functions if isinstance(function, ast.Name)}
    return {name for name in names if not hasattr(builtins, name)} or names


class ProgramTask(FileTask):
    """A task whose answers are programs, scored by running their tests; see `envs.tasks.scoring.sandbox`.

    Args:
        data: a folder; see `envs.tasks.benchmarks.files.FileTask`.
        train: the training problems' file.
        validation: the validation problems' file.
        test: the test problems' file.
        allow_code_execution: that the programs may be run; nothing can be scored without.
        seconds: processor time of a program; it may take three times as long by the clock.
        megabytes: memory limit of a program.

    Raises:
        ValueError: unless running code is allowed, and the system can keep programs from changing files.
    """

    runs_tests = True

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
        need_protection()
        self.seconds, self.megabytes = seconds, megabytes
        self.time_limit = WAIT * seconds + self.time_limit  # beyond the program's own, for what is around it

    @abstractmethod
    def program(self, text: str, row: Row) -> str | None:
        """Return the program to run, tests included; None if the text holds none."""

    def grade(self, text: str, row: Row) -> float:
        """Return 1.0 if the program passes all its tests within the limits, else 0.0."""
        program = self.program(text, row)
        return float(program is not None and passes(program, self.seconds, self.megabytes))
