"""Descriptions: facts in, sentences out, in any order and any wording.

The answer is read back: each fact once and none that is false. Before anything is written, every sentence could be
about any fact in any wording; two sentences written at once may state the same fact, and two wordings mixed in one
sentence state none.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain

import numpy as np

from envs.tasks.base import Problem, ProceduralTask
from envs.tasks.prose.words import HOMES, NAMES, between, check_range, draw, words_in

VALUES = {
    "home": HOMES,
    "drink": ("tea", "milk", "juice", "water", "cocoa", "beer"),
    "sport": ("chess", "tennis", "golf", "rugby", "judo", "polo"),
    "colour": ("red", "blue", "green", "black", "white", "pink"),
}
"""What can be said of a person."""

WORDINGS = {
    "home": ("the home of {who} is {what} .", "{who} lives in the town {what} ."),
    "drink": ("{who} drinks {what} all day long .", "all day long {who} drinks {what} ."),
    "sport": ("{who} plays {what} day after day .", "best of all {who} plays {what} ."),
    "colour": ("now {who} has the colour {what} .", "{who} likes {what} best of all ."),
}
"""How each relation is worded, with ``{who}`` and ``{what}`` for its ends; all have seven words, so that a sentence's
place is certain."""

Fact = tuple[str, str, str]


_PATTERNS = [
    (relation, re.compile(wording.replace(".", r"\.").format(who=r"(?P<who>\S+)", what=r"(?P<what>\S+)")))
    for relation, wordings in WORDINGS.items()
    for wording in wordings
]


def read_fact(sentence: str) -> Fact | None:
    """Read a sentence back: who, relation, what; None if it says nothing that is understood.

    >>> read_fact("the home of ann is rome .")
    ('ann', 'home', 'rome')
    """
    for relation, pattern in _PATTERNS:
        if found := pattern.fullmatch(sentence):
            return found["who"], relation, found["what"]
    return None


class Describe(ProceduralTask):
    """``describe ann home rome , bob drink tea . =`` is answered ``bob drinks tea all day long . the home of ann ...``.

    Args:
        fewest: fewest facts, each about another person and another relation.
        most: most facts, at most 4.
    """

    name = "describe"
    words = (
        *NAMES,
        *VALUES,
        *chain.from_iterable(VALUES.values()),
        *words_in(*chain.from_iterable(WORDINGS.values()), ","),
    )

    def __init__(self, fewest: int = 3, most: int = 4) -> None:
        check_range("facts", fewest, most, 1, len(VALUES))
        self.fewest, self.most = fewest, most

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem; the order of the answer's sentences and their wordings are uniform."""
        people = [NAMES[i] for i in rng.permutation(len(NAMES))[: between(rng, self.fewest, self.most)]]
        relations = [tuple(VALUES)[i] for i in rng.permutation(len(VALUES))]
        facts = [(who, relation, draw(rng, VALUES[relation])) for who, relation in zip(people, relations, strict=False)]
        sentences = [
            draw(rng, WORDINGS[facts[i][1]]).format(who=facts[i][0], what=facts[i][2])
            for i in rng.permutation(len(facts))
        ]
        return f"{self.name} {' , '.join(map(' '.join, facts))} . =", " ".join(sentences)

    def score(self, text: str, problem: Problem) -> float:
        """Return 1.0 if the sentences state each fact of the prompt exactly once, and nothing else."""
        wanted = problem.prompt.removeprefix(self.name).partition(" . ")[0].split(" , ")
        # What follows the last full stop is a sentence too, and one that can't be read.
        sentences = [f"{part.strip()} ." for part in " ".join(text.split()).removesuffix(" .").split(" . ")]
        stated = Counter(read_fact(sentence) for sentence in sentences)
        # The full stop that was added to the last sentence above must have been there.
        is_whole = text.split()[-1:] == ["."]
        return float(is_whole and stated == Counter(tuple(fact.split()) for fact in wanted))
