r"""MATH: competition problems whose answer is a LaTeX expression; the 500 test problems are MATH-500."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import ClassVar

from envs.tasks.benchmarks.files import FileTask, HubSplit, Row, text_of
from envs.tasks.benchmarks.gsm8k import MATH_PROMPT
from envs.tasks.scoring.answers import before_end, before_next_question, boxed, last_number, slots, stated
from envs.tasks.scoring.equivalence import LONGEST_SECONDS, same_answer

_DELIMITER = re.compile(r"(?<!\\)\$\$?|\\[()\[\]]")
_CLOSING = {"$$": "$$", "$": "$", r"\(": r"\)", r"\[": r"\]"}
_PROSE = re.compile(r"\d[\d.,]*\s+(?!and\b|or\b)[^\W\d_]{2,}")
_SENTENCE_END = re.compile(r"\.(?:\s|$)")


def final_expression(text: str) -> str:
    r"""Return the expression that a solution arrives at; "" if it doesn't.

    That is the content of the last slot that isn't empty (`envs.tasks.scoring.answers.slots`), else what follows the
    last "answer is", else the last formula or number. A solution that leaves its slot empty and states no answer has
    none.

    >>> final_expression(r"so \boxed{x=\frac{1}{2}}.")
    'x=\\frac{1}{2}'
    >>> final_expression(r"The final answer is $\sqrt{2}$. I hope it is correct.")
    '\\sqrt{2}'
    """
    text = before_next_question(before_end(text))
    places = slots(text)
    for fragment in places:
        # A tag around a box is a slot too, its content the box.
        inside = [content for _, content in boxed(fragment)]
        found = _formula(inside[-1] if inside else fragment)
        if found:
            return found
    for fragment in stated(text):
        found = _formula(_SENTENCE_END.split(fragment)[0] if not _formulas(fragment) else fragment)
        if found:
            return found
    return "" if places else _last_formula(text)


def _formulas(text: str) -> list[tuple[int, int, str]]:
    r"""Return where each marked formula of a text begins and ends, and what stands between its marks.

    >>> _formulas(r"$x$, \(y\), \[z\] and \$5")
    [(0, 3, 'x'), (5, 10, 'y'), (12, 17, 'z')]
    """
    marks = list(_DELIMITER.finditer(text))
    last = {mark[0]: mark.start() for mark in marks}
    found = []
    place = 0
    while place < len(marks):
        opening = marks[place]
        closing = _CLOSING.get(opening[0], "")
        place += 1
        if last.get(closing, -1) < opening.end():
            continue
        # A dollar before a number and words is money.
        if opening[0] == "$" and _PROSE.match(text, opening.end()):
            continue
        # There is one, so the search goes over no mark twice.
        while marks[place][0] != closing:
            place += 1
        content = text[opening.end() : marks[place].start()]
        if content:
            found.append((opening.start(), marks[place].end(), content))
        place += 1
    return found


def _formula(fragment: str) -> str:
    """Return the formula in a short fragment, or the fragment if it marks none."""
    marked = _formulas(fragment)
    between = [fragment[end:start] for (_, end, _), (start, _, _) in pairwise(marked)]
    outside = "".join([fragment[: marked[0][0]], *between, fragment[marked[-1][1] :]]).strip(" .*\n") if marked else ""
    # "$-\sqrt{15}$ and $\sqrt{15}$" is one answer, "equal to $x = 3$" a formula among words.
    if len(marked) > 1 and re.fullmatch(r"(?:and|or|[,;\s])*", outside):
        return ", ".join(content for _, _, content in marked).strip()
    return (marked[-1][2] if marked else fragment).strip(" *\n").rstrip(". ")


def _last_formula(text: str) -> str:
    marked = _formulas(text)
    if marked:
        return re.split(r"(?<![<>!\\])=", marked[-1][2])[-1].strip(" .")
    found = last_number(text)
    return "" if found is None else str(found)


def score_math(text: str, gold: str) -> float:
    r"""Return 1.0 if a solution's final expression equals the reference, else 0.0.

    Args:
        text: what the model wrote.
        gold: the reference expression, or a solution that boxes it.

    Raises:
        ValueError: if the reference is empty, or it takes Math-Verify to tell and that is not installed.

    >>> score_math(r"Thus \boxed{\dfrac{3}{6}}", r"\frac{1}{2}")
    1.0
    """
    right = reference(gold)
    found = final_expression(text)
    return float(bool(found) and same_answer(found, right))


def reference(gold: str) -> str:
    """Return the expression of a reference.

    Raises:
        ValueError: if it is empty.
    """
    inside = [content for _, content in boxed(gold)]
    right = (inside[-1] if inside else gold).strip()
    if not right:
        raise ValueError(f"reference is {gold!r}: it must be an expression, or a solution that boxes one")
    return right


class Math500(FileTask):
    r"""``math500``: test is MATH-500, validation a tenth of MATH's 7,500 training problems.

    Rows have ``problem`` and ``answer``, or ``problem`` and a ``solution`` that boxes the answer.
    Source: Hendrycks et al., arXiv 2103.03874; the 500 of Lightman et al., arXiv 2305.20050.
    """

    name = "math500"
    time_limit = LONGEST_SECONDS + FileTask.time_limit
    hub: ClassVar = {
        "train": HubSplit("ankner/math-500", "train"),
        "test": HubSplit("HuggingFaceH4/MATH-500", "test"),
    }

    def check(self, row: Row) -> None:
        """Refuse a row without a problem, or whose solution boxes nothing."""
        self.question(row)
        if row.get("answer") is None and not boxed(text_of(row, "answer", "solution")):
            raise ValueError(r"it has no answer, and its solution no \boxed{}")
        reference(text_of(row, "answer", "solution"))

    def question(self, row: Row) -> str:
        """Return the problem."""
        return text_of(row, "problem")

    def ask(self, row: Row) -> str:
        """Return `envs.tasks.benchmarks.gsm8k.MATH_PROMPT` about the problem."""
        return MATH_PROMPT.format(question=self.question(row))

    def answer(self, row: Row) -> str:
        """Return the expression, boxed as the prompt wants it."""
        return rf"\boxed{{{reference(text_of(row, 'answer', 'solution'))}}}"

    def grade(self, text: str, row: Row) -> float:
        """Return `score_math`."""
        return score_math(text, text_of(row, "answer", "solution"))
