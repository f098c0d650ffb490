"""Records: prose into a fixed form, and back.

Long answers of which nearly every word can be written at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np

from envs.tasks.base import Problem, ProceduralTask
from envs.tasks.prose.words import HOMES, MARKS, NAMES, NUMBERS, PETS, between, check_range, draw, words_in

FORM = "name : {name} ; age : {age} ; home : {home} ; pet : {pet} ."
WORDINGS = (
    "{name} , aged {age} , lives in {home} with a {pet} .",
    "in {home} lives {name} , aged {age} , with a {pet} .",
    "with a {pet} in {home} lives {name} , aged {age} .",
)
"""How prose states a record; a reference answer uses the first."""

AGES = NUMBERS[6:]
MOST_TOLD = 3
"""Most records that are told in prose: the form is the longer of the two, and a prompt has at most 64 words."""


def read_records(text: str, layouts: Sequence[str]) -> list[dict[str, str]] | None:
    """Read numbered records; None if their numbers are not in order or one is not laid out as any of `layouts`.

    >>> read_records("1) name : ann ; age : 9 ; home : rome ; pet : cat .", [FORM])
    [{'name': 'ann', 'age': '9', 'home': 'rome', 'pet': 'cat'}]
    """
    lines: list[list[str]] = []
    for word in text.split():
        # Only the next number begins a record, so those out of order are words like any others and match no reference.
        if len(lines) < len(MARKS) and word == MARKS[len(lines)]:
            lines.append([])
        elif lines:
            lines[-1].append(word)
        else:
            return None
    patterns = [_pattern(layout) for layout in layouts]
    records = []
    for line in lines:
        found = next((one for pattern in patterns if (one := pattern.fullmatch(" ".join(line)))), None)
        if found is None:
            return None
        records.append(found.groupdict())
    return records


@cache
def _pattern(layout: str) -> re.Pattern[str]:
    # Escaping has put a backslash before each brace.
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\S+)", re.escape(layout)))


class Record(ProceduralTask):
    """``record file 1) ann , aged 12 , lives in rome with a cat . 2) ... =`` is answered ``1) name : ann ; age ...``.

    ``record tell 1) name : ann ; ... =`` asks the other way round, in any of three wordings.

    Args:
        fewest: fewest records.
        most: most records, at most 4; no more than three are told.
    """

    name = "record"
    words = (
        *NAMES,
        *NUMBERS,
        *HOMES,
        *PETS,
        *MARKS,
        *words_in(FORM, *WORDINGS, "file tell"),
    )

    def __init__(self, fewest: int = 2, most: int = 4) -> None:
        check_range("records", fewest, most, 1, 4)
        self.fewest, self.most = fewest, most

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem, either way with the same chance; names differ within it."""
        is_told = rng.random() < 0.5
        # Where more are asked for than can be told, as many as asked: a range must not be empty.
        most = max(self.fewest, min(self.most, MOST_TOLD)) if is_told else self.most
        names = [NAMES[i] for i in rng.permutation(len(NAMES))[: between(rng, self.fewest, most)]]
        prose, forms = [], []
        for mark, name in zip(MARKS, names, strict=False):
            facts = {"name": name, "age": draw(rng, AGES), "home": draw(rng, HOMES), "pet": draw(rng, PETS)}
            wording = WORDINGS[0] if is_told else draw(rng, WORDINGS)
            prose.append(f"{mark} {wording.format(**facts)}")
            forms.append(f"{mark} {FORM.format(**facts)}")
        if is_told:
            return f"{self.name} tell {' '.join(forms)} =", " ".join(prose)
        return f"{self.name} file {' '.join(prose)} =", " ".join(forms)

    def score(self, text: str, problem: Problem) -> float:
        """Return 1.0 if the records are the prompt's, in their order, laid out as asked."""
        is_told = problem.prompt.split()[1] == "tell"
        layouts = WORDINGS if is_told else (FORM,)
        # The reference can always be read, so what can't be is never the same.
        return float(read_records(text, layouts) == read_records(problem.answer, layouts))
