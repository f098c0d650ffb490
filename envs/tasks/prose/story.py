"""Word problems: buying, losing, sharing and bags of n, solved step by step in any of several wordings.

Each step's wording is free and decides where its numbers stand; each step's first number is the result of the one
before. Only what follows the mark is scored, as GSM8K does.
"""

from __future__ import annotations

import numpy as np

from envs.tasks.base import Problem, ProceduralTask
from envs.tasks.prose.words import HE, LARGEST, NAMES, NUMBERS, between, check_range, draw, words_in

MARK = "####"
DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday")
GAINS = ("buys", "finds")
LOSSES = ("loses", "sells")
THINGS = ("apples", "coins", "books", "pens")
LARGEST_CHANGE = 5
"""Most that is bought or lost in one step."""

WORDINGS = (
    "on {day} {who} {has} {sum} .",
    "{sum} {who} {has} on {day} .",
    "after {day} there are {sum} .",
    "now {sum} {things} on {day} .",
)
"""All of one length, so that a step's place does not depend on the wording of the steps before."""


class Story(ProceduralTask):
    """``story tom has 2 bags of 3 apples on sunday . on monday he buys 4 . how many ? =``.

    Answered ``on sunday he has 2 * 3 = 6 . 6 + 4 = 10 tom keeps on monday . #### 10``, or in other words.

    Args:
        fewest: fewest steps, the bags of the first day included.
        most: most steps, at most 6.
    """

    name = "story"
    words = (
        *NUMBERS,
        *NAMES,
        *DAYS,
        *GAINS,
        *LOSSES,
        *THINGS,
        *"+-*/=",
        MARK,
        *words_in(*WORDINGS, "he she has keeps bags of shares half doubles how many ?"),
    )

    def __init__(self, fewest: int = 3, most: int = 6) -> None:
        check_range("steps", fewest, most, 2, len(DAYS))
        self.fewest, self.most = fewest, most

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem; the wording of each step of the answer is uniform."""
        name, things = draw(rng, NAMES), draw(rng, THINGS)
        they = "he" if name in HE else "she"
        # Sixteen at most, so that the first day's sum is within `LARGEST` too.
        bags, each = between(rng, 2, 4), between(rng, 2, 4)
        total = bags * each
        question = [f"story {name} has {bags} bags of {each} {things} on {DAYS[0]} ."]
        sums = [f"{bags} * {each} = {total}"]
        for day in DAYS[1 : between(rng, self.fewest, self.most)]:
            event, change, after = _event(rng, total)
            question.append(f"on {day} {they} {event} .")
            sums.append(f"{total} {change} = {after}")
            total = after
        steps = [
            draw(rng, WORDINGS).format(
                day=day, who=draw(rng, (name, they)), has=draw(rng, ("has", "keeps")), things=things, sum=step
            )
            for day, step in zip(DAYS, sums, strict=False)
        ]
        return " ".join([*question, "how many ? ="]), " ".join([*steps, MARK, str(total)])

    def score(self, text: str, problem: Problem) -> float:
        """Return 1.0 if the word after the last mark is the right number."""
        _, mark, result = text.rpartition(MARK)
        gold = problem.answer.split()[-1]
        return float(bool(mark) and result.split()[:1] == [gold])


def _event(rng: np.random.Generator, total: int) -> tuple[str, str, int]:
    """Draw what happens to `total` things: the event, its sum's operator and number, and how many there are then."""
    # One of the two is always possible: a lone thing can only become more, the largest number only less.
    can_gain, can_lose = total < LARGEST, total > 1
    # Half of them depend on the number that there is, so that a story is no sum of its numbers.
    kind = rng.random()
    if kind < 0.25 and total % 2 == 0 and total >= 4:
        return "shares half", "/ 2", total // 2
    if 0.25 <= kind < 0.5 and 2 * total <= LARGEST:
        return "doubles", "* 2", 2 * total
    if can_gain and (not can_lose or rng.random() < 0.5):
        number = between(rng, 1, min(LARGEST_CHANGE, LARGEST - total))
        return f"{draw(rng, GAINS)} {number}", f"+ {number}", total + number
    # One is left at least, so that a sum is never 0.
    number = between(rng, 1, min(LARGEST_CHANGE, total - 1))
    return f"{draw(rng, LOSSES)} {number}", f"- {number}", total - number
