r"""MATH: competition problems whose answer is a LaTeX expression; the 500 test problems are MATH-500."""

from __future__ import annotations

import re
from typing import ClassVar

from envs.tasks.answers import before_end, before_next_question, boxed, numbers, slots, stated
from envs.tasks.equivalence import same_answer
from envs.tasks.files import FileTask, HubSplit, Row, text_of
from envs.tasks.gsm8k import MATH_PROMPT

_MATH = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_SENTENCE_END = re.compile(r"\.(?:\s|$)")


def final_expression(text: str) -> str:
    r"""Return the expression that a solution arrives at; "" if it doesn't.

    That is the content of the last slot that isn't empty (`envs.tasks.answers.slots`), else what follows the last
    "answer is", else the last formula or number. A solution that leaves its slot empty and states no answer has none.

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
        found = _formula(_SENTENCE_END.split(fragment)[0] if not _MATH.search(fragment) else fragment)
        if found:
            return found
    return "" if places else _last_formula(text)


def _formula(fragment: str) -> str:
    """Return the formula in a short fragment, or the fragment if it marks none."""
    marked = [next(filter(None, match.groups())) for match in _MATH.finditer(fragment)]
    outside = _MATH.sub("", fragment).strip(" .*\n")
    # "$-\sqrt{15}$ and $\sqrt{15}$" is one answer, "equal to $x = 3$" a formula among words.
    if len(marked) > 1 and re.fullmatch(r"(?:and|or|[,;\s])*", outside):
        return ", ".join(marked).strip()
    return (marked[-1] if marked else fragment).strip(" *\n").rstrip(". ")


def _last_formula(text: str) -> str:
    marked = [next(filter(None, match.groups())) for match in _MATH.finditer(text)]
    if marked:
        return re.split(r"(?<![<>!\\])=", marked[-1])[-1].strip(" .")
    found = numbers(text)
    return str(found[-1]) if found else ""


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
        """Return `envs.tasks.gsm8k.MATH_PROMPT` about the problem."""
        return MATH_PROMPT.format(question=self.question(row))

    def answer(self, row: Row) -> str:
        """Return the expression, boxed as the prompt wants it."""
        return rf"\boxed{{{reference(text_of(row, 'answer', 'solution'))}}}"

    def grade(self, text: str, row: Row) -> float:
        """Return `score_math`."""
        return score_math(text, text_of(row, "answer", "solution"))
