"""GSM8K: grade-school word problems whose answer is a number."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

from envs.tasks.benchmarks.files import FileTask, HubSplit, Row, text_of
from envs.tasks.scoring.answers import before_end, before_next_question, last_number, numbers, quantity, slots, stated
from envs.tasks.scoring.numerals import scaled

MATH_PROMPT = """You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final \
answer in a \\boxed{{}}.
Respond in the following format:
<reasoning>
Your reasoning here
</reasoning>
<answer>
\\boxed{{...}}
</answer>

{question}"""
"""Source: the evaluation of d1 (arXiv 2504.12216) and of Jazbec et al. (arXiv 2512.09106)."""

TOLERANCE = Fraction(1, 10**6)


def final_number(text: str) -> Fraction | None:
    r"""Return the number that a solution arrives at; None if it doesn't.

    That is the number in the last slot that holds one (`envs.tasks.scoring.answers.slots`), else the one after the last
    "answer is", else the last number of the text. A solution that leaves its slot empty and states no answer has none.

    >>> final_number(r"She makes 9 * 2 = $18. <answer>\boxed{\$18.00 \text{ per day}}</answer>")
    Fraction(18, 1)
    >>> final_number("The total is 5. That is 1,000 more than 3 hours") == 3
    True
    """
    text = before_next_question(before_end(text))
    places = slots(text)
    for fragment in places:
        # In a tag there may be a whole calculation: its last number is the result.
        found = quantity(fragment, take_last=len(fragment.split()) > 12)
        if found is not None:
            return found
    for fragment in stated(text):
        # Up to the sentence's end; a point within a number has no space after it.
        found = quantity(fragment.split(". ")[0])
        if found is not None:
            return found
    return None if places else last_number(text)


def score_gsm8k(text: str, gold: str) -> float:
    """Return 1.0 if a solution's final number equals the reference, else 0.0.

    A reference may be in millions, as its question asks: "5 million" is both 5 and 5,000,000.

    Args:
        text: what the model wrote.
        gold: the reference: a number, or a GSM8K answer that ends in ``#### number``.

    Raises:
        ValueError: if the reference holds no number.

    >>> score_gsm8k("The answer is $1,000.", "#### 1000")
    1.0
    """
    right = numbers(gold.rpartition("####")[2])
    if len(right) != 1:
        raise ValueError(f"reference is {gold!r}: it must end in '#### number' or be a number")
    found = (final_number(text), final_number(scaled(text)))
    return float(any(value is not None and abs(value - right[0]) <= TOLERANCE for value in found))


class GSM8K(FileTask):
    """``gsm8k``: test is the official test split (1,319 problems), validation a tenth of the 7,473 training ones.

    Rows have ``question`` and ``answer``. Source: Cobbe et al., arXiv 2110.14168.
    """

    name = "gsm8k"
    hub: ClassVar = {
        "train": HubSplit("openai/gsm8k", "train", "main"),
        "test": HubSplit("openai/gsm8k", "test", "main"),
    }

    def check(self, row: Row) -> None:
        """Refuse a row without a question, or whose answer holds no number after ``####``."""
        text_of(row, "question")
        if "####" not in text_of(row, "answer"):
            raise ValueError("its answer has no '####'")
        # It raises where the reference can't be read.
        score_gsm8k("", row["answer"])

    def question(self, row: Row) -> str:
        """Return the question."""
        return text_of(row, "question")

    def ask(self, row: Row) -> str:
        """Return `MATH_PROMPT` about the question."""
        return MATH_PROMPT.format(question=self.question(row))

    def answer(self, row: Row) -> str:
        """Return the number, boxed as the prompt wants it."""
        return rf"\boxed{{{text_of(row, 'answer').rpartition('####')[2].strip()}}}"

    def grade(self, text: str, row: Row) -> float:
        """Return `score_gsm8k`."""
        return score_gsm8k(text, text_of(row, "answer"))
