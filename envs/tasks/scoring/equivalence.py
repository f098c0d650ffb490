r"""Whether two mathematical answers are the same: by their text, as numbers, or as Math-Verify sees it."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from envs.tasks.scoring.answers import numbers
from envs.tasks.scoring.numerals import digits, in_ascii, leading_words, scaled
from envs.tasks.scoring.worker import START_SECONDS, Worker

SECONDS, MEGABYTES = 5.0, 2048
"""Processor time of one comparison, and the worker's memory."""

_WAIT = 6
"""Seconds by the clock for each of processor time: other processes want the processor too."""

LONGEST_SECONDS = START_SECONDS + _WAIT * SECONDS
"""What an answer may take by the clock, if the worker must be started."""

LONGEST_ANSWER = 2_000
"""Characters of an answer; a longer one is no reference's."""

_UNICODE: tuple[tuple[re.Pattern[str], Any], ...] = (
    (re.compile("[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+"), lambda raised: f"^{{{digits(raised[0])}}}"),
    (re.compile("[\u2080-\u2089]+"), lambda lowered: f"_{{{digits(lowered[0])}}}"),
    (re.compile("\u221a\\s*(\\d+|[a-zA-Z])"), r"\\sqrt{\1}"),
    *((re.compile(sign), rf" \{latex} ") for sign, latex in (
        *(("\u221a", r"\sqrt"), ("\u03c0", r"\pi"), ("\u221e", r"\infty"), ("\u2264", r"\leq"), ("\u2265", r"\geq")),
        *(("\u00d7", r"\times"), ("\u00b7", r"\cdot"), ("\u222a", r"\cup"), ("\u2229", r"\cap"), ("\u00b1", r"\pm")),
        ("\u2208", r"\in"),
    )),
    (re.compile("[\u00a0\u2009\u202f]"), " "),
)  # fmt: skip
_BASES: dict[str, str] = {
    word: str(base)
    for base, word in enumerate(("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=2)
} | {"twelve": "12", "sixteen": "16"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_SAME: tuple[tuple[re.Pattern[str], Any], ...] = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\(?:left|right|displaystyle|big|Big|bigl|bigr|Bigl|Bigr)(?![a-zA-Z])", ""),
        (r",\\!\s*", ""),
        (r"\\[,!;: ]|~|\\quad|\\qquad", ""),
        (r"\\(?:[dtcs]|nice)frac", r"\\frac"),
        (
            r"(?<=[^\W_]|[})])\s*\\(?:text|mbox|mathrm|textrm)\s*\{\s*+(?!(?:and|or|[mbtr]+illion|thousand)\b)[^{}\d]*\}(?:\^\{?\d\}?)?\s*$",
            "",
        ),
        (r"\\(?:text|mbox|mathrm|textrm|textbf|mathbf|operatorname)\s*\{([^{}]*)\}", r"\1"),
        (r"\^\s*\{?\s*\\circ\s*\}?|°|\\degree|\\circ(?![a-zA-Z])", ""),
        # Percent and dollars: the question says of what the number is.
        (r"\\?[%$]", ""),
        (r"(?<=\d)\{,\}(?=\d{3}(?!\d))", ""),
        # Within brackets a comma stands between two things.
        (_THOUSANDS.pattern, lambda comma: "," if _is_in_brackets(comma.string, comma.start()) else ""),
        (r"\\le(?![a-zA-Z])", r"\\leq"),
        (r"\\ge(?![a-zA-Z])", r"\\geq"),
        (r"\s+", ""),
        (r"(\d{0,20})\.(\d{0,20})\\(?:overline|bar)\{?(\d{1,20})\}?", lambda found: _repeating(*found.groups())),
        (r"\\frac(\d)(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac(\d)\{", r"\\frac{\1}{"),
        (r"(\\frac\{[^{}]*\})(\d)", r"\1{\2}"),
        (r"\\sqrt(\d)", r"\\sqrt{\1}"),
        # A base in words, or in parentheses, is the same base.
        (r"_\{?\(?(?:base)?(\d+|[a-z]{3,})\)?\}?", lambda base: f"_{_BASES.get(base[1], base[1])}"),
        # One letter or digit needs no braces, raised or lowered; several raised digits do.
        (r"([_^])\{(\w)\}", r"\1\2"),
        (r"\^(\d{2,})", r"^{\1}"),
        # Of "x = 3" or "f(x) = ..." the answer is what follows.
        (r"^(?:[a-zA-Z]|[a-z]\([a-z]\))(?:=|\\in)", ""),
        (r"^\\\((.*)\\\)$|^\\\[(.*)\\\]$", r"\1\2"),
        (r"^(-?)\{([^{}]*)\}$", r"\1\2"),
        (r"\.$", ""),
        (r"(?<![\d.])\.(?=\d)", "0."),
    )
)
_NUMBER = re.compile(
    r"-?(?:\d+(?:\.\d+)?(?:[eE][-+]?\d{1,2}|\\(?:times|cdot)10\^\{?-?\d{1,2}\}?)?|\d*\\frac\{-?\d+\}\{\d+\}|\d+/\d+)"
)
_BASE = re.compile(r"(\d)_\d+$")
_CHOICE = re.compile(r"\(([A-Za-z])\)")
_WITH_UNIT = re.compile(r"(-?\\?\$?\s*[\d.,]+(?:/\d+)?)(\s*)([A-Za-z][A-Za-z\s./]*)(?:\^\s*\{?[23]\}?)?\s*\.?")
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textrm|textbf|mathbf)\s*\{([^{}]*)\}")
_SIGN_WORD = re.compile(r"(?:minus|negative)\s+(?=[\d.$\\])", re.I)
_UNIT_LETTERS = frozenset("msghlLNJWVAKCF")
_NO_UNITS = re.compile(
    "and|or|to|by|per|pi|mod|log|ln|sin|cos|tan|sqrt|frac|plus|minus|times|over|half|dozen|hundred|thousand|"
    "million|billion|trillion",
    re.I,
)


def _repeating(whole: str, once: str, again: str) -> str:
    """Write a repeating decimal as a fraction: its digits less those before the repetition, over 99...900...0."""
    before = int(whole + once or "0")
    above = int(whole + once + again) - before
    return rf"\frac{{{above}}}{{{'9' * len(again) + '0' * len(once)}}}"


def _is_in_brackets(text: str, place: int) -> bool:
    before = text[:place]
    opened = sum(before.count(bracket) for bracket in ("(", "[", r"\{"))
    return opened > sum(before.count(bracket) for bracket in (")", "]", r"\}"))


def in_latex(answer: str) -> str:
    """Write the mathematical signs of Unicode as LaTeX does.

    >>> print(in_latex("2\u221a3 x\u00b2"), in_latex("10\u2081\u2080"))
    2\N{REVERSE SOLIDUS}sqrt{3} x^{2} 10_{10}
    """
    answer = in_ascii(answer)
    for pattern, latex in _UNICODE:
        answer = pattern.sub(latex, answer)
    return answer


def plain(answer: str) -> str:
    r"""Write an answer so that the same answer is the same text: no spaces, units, currency or decoration.

    >>> plain(r"x = \dfrac12 \text{ cm}"), plain(r"11,\! 111"), plain(r"\text{Evelyn}")
    ('\\frac{1}{2}', '11111', 'Evelyn')
    >>> plain("4210_{5}"), plain("(1,200)"), plain("1,200")
    ('4210_5', '(1,200)', '1200')
    """
    answer = answer.strip()
    for pattern, replacement in _SAME:
        answer = pattern.sub(replacement, answer)
    choice = _CHOICE.fullmatch(answer)
    return choice[1].upper() if choice else answer


def without_unit(answer: str) -> str:
    """Return the number of which an answer has so many of something, or the answer if it is anything else.

    >>> without_unit("12 cm^2"), without_unit("12 square feet"), without_unit("12 or 13"), without_unit("12x")
    ('12', '12', '12 or 13', '12x')
    """
    match = _WITH_UNIT.fullmatch(answer.strip())
    if match is None:
        return answer
    # A letter right after a number is a variable, one after a space may be metres.
    words = match[3].replace(".", " ").replace("/", " ").split()
    are_units = all(word in _UNIT_LETTERS if len(word) == 1 else not _NO_UNITS.fullmatch(word) for word in words)
    is_apart = bool(match[2]) or len(words[0]) > 1
    return match[1] if are_units and is_apart else answer


def in_digits(answer: str) -> str:
    r"""Write the number that an answer begins with in digits, if it is in words.

    >>> in_digits("minus 7"), in_digits(r"\text{negative seven} degrees"), in_digits("three halves"), in_digits("x")
    ('-7', '-7 degrees', '\\frac{3}{2}', 'x')
    """
    answer = scaled(_TEXT.sub(r" \1 ", answer).strip())
    found = leading_words(answer)
    if found is None:
        return _SIGN_WORD.sub("-", answer)
    value, end = found
    fraction = rf"\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    number = str(value) if value.denominator == 1 else "-" * (value < 0) + fraction
    return f"{number} {answer[end:].strip()}".strip()


def same_answer(answer: str, gold: str) -> bool:
    r"""Tell whether an answer equals the reference.

    Args:
        answer: what stands in the solution's slot, LaTeX or text; at most `LONGEST_ANSWER` characters.
        gold: the reference.

    Raises:
        ValueError: if it takes Math-Verify to tell, and that is not installed.

    >>> same_answer("0.5", r"\frac{1}{2}"), same_answer("(C)", r"\text{C}"), same_answer("3", "4")
    (True, True, False)
    """
    # Patterns and algebra take their time with length, and no reference is that long.
    if len(answer) > LONGEST_ANSWER:
        return False
    answer, gold = in_latex(answer), in_latex(gold)
    one, other = plain(answer), plain(gold)
    if _NUMBER.fullmatch(other) and not _NUMBER.fullmatch(one):
        one = plain(without_unit(in_digits(answer)))
    elif _NUMBER.fullmatch(one) and not _NUMBER.fullmatch(other):
        other = plain(without_unit(in_digits(gold)))
    # Of words, case doesn't matter; of letters it does.
    if one == other or (one.lower() == other.lower() and one.isalpha() and len(one) > 1):
        return bool(one)
    if _are_other_kinds(one, other):
        return False
    if _NUMBER.fullmatch(one) and _NUMBER.fullmatch(other):
        return numbers(one) == numbers(other) != []
    # A number's base is part of the question: 2516 and 2516_8 are the same answer to "in base 8".
    if _BASE.search(one) or _BASE.search(other):
        has_both = bool(_BASE.search(one) and _BASE.search(other))
        return not has_both and _BASE.sub(r"\1", one) == _BASE.sub(r"\1", other)
    # What is far longer than the reference, or has nothing to calculate with, isn't worth seconds of algebra.
    if not one or len(one) > 60 + 4 * len(other) or not re.search(r"[\d\\a-z]", one):
        return False
    # A list is in any order, but what stands in brackets elsewhere is not.
    if _in_order(one) and _is_list(other):
        return _verified(((one[0] + other + one[-1], one),))
    if _in_order(other) and _is_list(one):
        return _verified(((other, other[0] + one + other[-1]),))
    return _verified(((gold, answer), (other, one)))


def _in_order(plain_answer: str) -> bool:
    """Tell whether an answer is a point, vector or interval."""
    return re.fullmatch(r"[(\[][^()\[\]]*,[^()\[\]]*[)\]]", plain_answer) is not None


def _is_list(plain_answer: str) -> bool:
    """Tell whether an answer lists several things without brackets around any of them."""
    return "," in plain_answer and re.search(r"[()\[\]]|\\\{", plain_answer) is None


def _are_other_kinds(one: str, other: str) -> bool:
    """Tell what algebra would mistake: two letters, or a number and a pair, set, interval or multiple of a letter."""
    if len(one) == len(other) == 1 and one.isalpha() and other.isalpha():
        return True
    pairs = ((one, other), (other, one))
    return any(_NUMBER.fullmatch(a) and re.fullmatch(r"(?:[(\[]|\\\{).*,.*|-?[\d.]+[a-zA-Z]", b) for a, b in pairs)


# The same answers come again and again in training and in many samples.
@lru_cache(maxsize=65536)
def _verified(pairs: tuple[tuple[str, str], ...]) -> bool:
    if find_spec("math_verify") is None:
        raise ValueError("math-verify is not installed: pip install 'unmasking-policies[tasks]' to score MATH")
    return _worker.ask((SECONDS, pairs), _WAIT * SECONDS) is True


_worker = Worker(
    Path(__file__).with_name("math_worker.py"),
    [str(MEGABYTES)],
    "math-verify can't be imported: pip install 'unmasking-policies[tasks]' to score MATH",
)
