"""Word problems: buying, losing, sharing and bags of n, solved step by step in any of several wordings.

Each step's wording is free and decides where its numbers stand; each sum starts from the result of the one before.
Only what follows the mark is scored, as GSM8K does.
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

USUAL = 0.5
"""Share of the first wording, the others share the rest: people have habits, and a number that can only be guessed must
not be surer than a wording, or one token per step by confidence guesses the end first."""


class Story(ProceduralTask):
    """``story tom has 2 bags of 3 apples on sunday . on monday he buys 4 , doubles . how many ? =``.

    Answered ``on sunday he has 2 * 3 = 6 . 6 + 4 = 10 * 2 = 20 tom keeps on monday . #### 20``, or in other words.

    Args:
        fewest: fewest days, each with its step of the answer; the first is the day of the bags, on each of the others
            two things happen.
        most: most days, at most 6.
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
        *words_in(*WORDINGS, "he she has keeps bags of shares half doubles how many ? ,"),
    )

    def __init__(self, fewest: int = 6, most: int = 6) -> None:
        check_range("days", fewest, most, 2, len(DAYS))
        self.fewest, self.most = fewest, most

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem; the wordings of the answer's steps are independent."""
        name, things = draw(rng, NAMES), draw(rng, THINGS)
        they = "he" if name in HE else "she"
        # From 9 to 36: far from 1 and from `LARGEST`, what happens tells less of how many there are.
        bags, each = between(rng, 3, 6), between(rng, 3, 6)
        total = bags * each
        question = [f"story {name} has {bags} bags of {each} {things} on {DAYS[0]} ."]
        sums = [f"{bags} * {each} = {total}"]
        for day in DAYS[1 : between(rng, self.fewest, self.most)]:
            events, chain = [], [str(total)]
            for _ in range(2):
                event, change, total = _event(rng, total)
                events.append(event)
                chain += [change, "=", str(total)]
            question.append(f"on {day} {they} {' , '.join(events)} .")
            sums.append(" ".join(chain))
        steps = [
            _wording(rng).format(
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


def _wording(rng: np.random.Generator) -> str:
    return WORDINGS[0] if rng.random() < USUAL else draw(rng, WORDINGS[1:])


def _event(rng: np.random.Generator, total: int) -> tuple[str, str, int]:
    """Draw what happens to `total` things: the event, its sum's operator and number, and how many there are then."""
    # Half of them depend on the number that there is, so that a story is no sum of its numbers.
    kind = rng.random()
    if kind < 0.25 and total % 2 == 0 and total >= 4:
        return "shares half", "/ 2", total // 2
    if 0.25 <= kind < 0.5 and 2 * total <= LARGEST:
        return "doubles", "* 2", 2 * total
    # One is left at least, so that a sum is never 0. Each change is as likely, or those that are rare far from an end
    # would tell that it is near.
    most_lost, most_gained = min(LARGEST_CHANGE, total - 1), min(LARGEST_CHANGE, LARGEST - total)
    which = between(rng, 1, most_lost + most_gained)
    if which <= most_lost:
        return f"{draw(rng, LOSSES)} {which}", f"- {which}", total - which
    which -= most_lost
    return f"{draw(rng, GAINS)} {which}", f"+ {which}", total + which
