r"""Countdown: reach a target with each of some numbers used once, by + - * / and parentheses."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar

from envs.tasks.benchmarks.files import FileTask, HubSplit, Row
from envs.tasks.scoring.answers import before_end, boxed, cleaned, slots

PROMPT = """Using only the numbers {numbers}, create an arithmetic expression that evaluates to exactly {target}. \
You must use all numbers from the list, and each number must be used exactly once. You may use the operations \
+, -, *, and / as needed. After reasoning, provide only your final expression inside <answer></answer> tags without \
including an equals sign or the target number. For example, if the numbers are [2, 3, 4] and the target is 5, a valid \
answer is:
<answer>
2*4-3
</answer>
Respond in the following format:
<reasoning>
Your reasoning here
</reasoning>
<answer>
Your answer here
</answer>"""
"""Source: d1 (arXiv 2504.12216), whose rule it is that all numbers are used."""

_RUN = re.compile(r"[\d\s()+*/.-]+")
_BEGIN, _END = re.compile(r"[\d(]"), re.compile(r"[\d)]")
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_LONGEST = 200
"""Characters of an expression; longer ones answer nothing and could exhaust the parser."""


def expressions(text: str) -> Iterator[str]:
    r"""Yield the arithmetic expressions that a solution gives as its answer.

    They are those of its last slot; without any slot, those of its last line that has some. An equation is taken apart.

    >>> list(expressions(r"30 + 93 = 123 <answer>\boxed{(30 + 93) \div 1 = 123}</answer>"))
    ['(30 + 93) / 1']
    """
    text = before_end(text)
    places = [fragment for fragment in slots(text) if fragment]
    lines = places[:1] or [line for line in reversed(text.split("\n")) if any(_expressions(_readable(line)))][:1]
    for fragment in lines:
        inside = [content for _, content in boxed(fragment)]
        for side in _readable(inside[-1] if inside else fragment).split("="):
            yield from _expressions(side)


def _expressions(plain: str) -> Iterator[str]:
    """Yield what lies between the ends of each run of digits and signs, if there is a sign within."""
    for run in _RUN.finditer(plain):
        # Each end is sought by itself: both in one pattern would try every pair of places.
        begin, end = _BEGIN.search(run[0]), _END.search(run[0][::-1])
        expression = run[0][begin.start() : len(run[0]) - end.start()] if begin and end else ""
        if re.search(r"[-+*/]", expression[1:-1]):
            yield expression


def _readable(fragment: str) -> str:
    fragment = fragment.replace("\\div", "/").replace("÷", "/")
    return cleaned(_FRACTION.sub(r"((\1)/(\2))", fragment.replace("dfrac", "frac")))


def evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """Work out an expression of whole numbers exactly.

    Returns:
        value: the result.
        numbers: those that it uses, in order.

    Raises:
        ValueError: if it is anything else, too long, or divides by zero.

    >>> evaluate("(30 + 93) - 100")
    (Fraction(23, 1), [30, 93, 100])
    """
    if len(expression) > _LONGEST:
        raise ValueError(f"expression has {len(expression)} characters: at most {_LONGEST} are read")
    numbers: list[int] = []
    try:
        # What a model writes can make the parser warn, which is not for the terminal.
        with warnings.catch_warnings(action="ignore"):
            parsed = ast.parse(expression.strip(), mode="eval")
        return _value(parsed.body, numbers), numbers
    except (SyntaxError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise ValueError(f"expression is {expression!r}: it can't be worked out ({error})") from error


def _value(node: ast.expr, numbers: list[int]) -> Fraction:
    # By type, since True is an int too.
    if isinstance(node, ast.Constant) and type(node.value) is int:
        numbers.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, numbers)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, numbers), _value(node.right, numbers)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
    raise ValueError("expression has something else than whole numbers, + - * / and parentheses")


def score_countdown(text: str, numbers: Sequence[int], target: int) -> float:
    """Return 1.0 if a solution's expression uses each number once and evaluates to the target, else 0.0.

    >>> score_countdown("<answer>(30 + 93) - 100</answer>", [30, 100, 93], 23)
    1.0
    """
    for expression in expressions(text):
        try:
            value, used = evaluate(expression)
        except ValueError:
            continue
        # Exact fractions: 1/3*3 reaches its target.
        if value == target and sorted(used) == sorted(numbers):
            return 1.0
    return 0.0


@lru_cache(maxsize=4096)
def solve(numbers: tuple[int, ...], target: int) -> str | None:
    """Return an expression that reaches the target, by trying all; None if there is none.

    >>> solve((30, 100, 93), 23)
    '((30-100)+93)'
    """
    return _search([(Fraction(number), str(number)) for number in numbers], Fraction(target))


def _search(items: list[tuple[Fraction, str]], target: Fraction) -> str | None:
    if len(items) == 1:
        return items[0][1] if items[0][0] == target else None
    for i, (a, left) in enumerate(items):
        for j, (b, right) in enumerate(items):
            if i == j:
                continue
            rest = [item for k, item in enumerate(items) if k not in (i, j)]
            # Sums and products don't care about the order, so each pair tries them once.
            results = [(a - b, f"({left}-{right})")] + ([(a / b, f"({left}/{right})")] if b else [])
            if i < j:
                results += [(a + b, f"({left}+{right})"), (a * b, f"({left}*{right})")]
            for result in results:
                found = _search([result, *rest], target)
                if found is not None:
                    return found
    return None


class Countdown(FileTask):
    """``countdown``: no official splits; d1's 256 test problems are a file, the training ones on the hub.

    Rows have ``input`` (``"30,100,93"``) and ``output`` (``"23"``), as d1's file, or ``nums`` and ``target``. The hub's
    data set has one split, ``train``, so that name a ``test=FILE`` together with ``train=FILE``.
    """

    name = "countdown"
    hub: ClassVar = {"train": HubSplit("Jiayi-Pan/Countdown-Tasks-3to4", "train")}

    def check(self, row: Row) -> None:
        """Refuse a row without two or more whole numbers and a target."""
        numbers, _ = self.puzzle(row)
        if not 2 <= len(numbers) <= 6:
            raise ValueError(f"it has {len(numbers)} numbers: there must be 2 to 6")

    def puzzle(self, row: Row) -> tuple[tuple[int, ...], int]:
        """Return the numbers and the target."""
        if "nums" in row:
            return tuple(int(number) for number in row["nums"]), int(row["target"])
        return tuple(int(number) for number in str(row["input"]).split(",")), int(row["output"])

    def question(self, row: Row) -> str:
        """Return the puzzle, whatever the order of its numbers."""
        numbers, target = self.puzzle(row)
        return f"{sorted(numbers)} {target}"

    def ask(self, row: Row) -> str:
        """Return `PROMPT` about the puzzle."""
        numbers, target = self.puzzle(row)
        return PROMPT.format(numbers=list(numbers), target=target)

    def answer(self, row: Row) -> str:
        """Return a solution; a puzzle without one has an empty answer, which scores 0."""
        return f"<answer>{solve(*self.puzzle(row)) or ''}</answer>"

    def grade(self, text: str, row: Row) -> float:
        """Return `score_countdown`."""
        return score_countdown(text, *self.puzzle(row))
