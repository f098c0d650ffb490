r"""Numbers as people write them, in ASCII digits: the numerals and signs of Unicode, and English number words."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

_RAISED = "\u2070\u00b9\u00b2\u00b3\u2074-\u2079"
_LOWERED = "\u2080-\u2089"
_RAISED_OVER_LOWERED = re.compile(f"(?<![{_RAISED}])([{_RAISED}]++)[/\u2044\u2215\u2571]([{_LOWERED}]+)")
_NOT_ASCII = re.compile("[^\x00-\x7f]")
_SIGNS = {
    **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\u2796", "-"),
    **dict.fromkeys("\u2044\u2215", "/"),
    **{"\u066b": ".", "\u066c": ",", "\u066a": "%", "\u2795": "+"},
}


def in_ascii(fragment: str) -> str:
    r"""Write digits of any script, fractions that are one sign, and the signs around numbers in ASCII and LaTeX.

    Raised and lowered digits stay, but over one another (\u00b9/\u2082): they are powers, indices or units.

    >>> in_ascii("\u22121\u00bd"), in_ascii("\uff11\uff0c\uff10\uff10\uff10"), in_ascii("\u00b9\u2044\u2082")
    ('-1 \\frac{1}{2} ', '1,000', ' \\frac{1}{2} ')
    """
    if fragment.isascii():
        return fragment
    fragment = _RAISED_OVER_LOWERED.sub(lambda pair: _fraction(digits(pair[1]), digits(pair[2])), fragment)
    return _NOT_ASCII.sub(lambda sign: _one_in_ascii(sign[0]), fragment)


@lru_cache(maxsize=4096)
def _one_in_ascii(sign: str) -> str:
    if sign in _SIGNS:
        return _SIGNS[sign]
    if "\uff01" <= sign <= "\uff5e":  # ASCII again, as wide as Chinese characters
        return chr(ord(sign) - 0xFEE0)
    if sign.isdecimal():
        return str(unicodedata.decimal(sign))
    plain = unicodedata.normalize("NFKC", sign)
    if "\u2044" in plain:
        top, _, bottom = plain.partition("\u2044")
        return _fraction(top, bottom) if bottom else sign
    # Circled digits and their like.
    is_raised_or_lowered = re.match(f"[{_RAISED}{_LOWERED}]", sign) is not None
    return str(unicodedata.digit(sign)) if sign.isdigit() and not is_raised_or_lowered else sign


def _fraction(top: str, bottom: str) -> str:
    return rf" \frac{{{top}}}{{{bottom}}} "


def digits(raised_or_lowered: str) -> str:
    """Return digits of any kind in ASCII."""
    return "".join(str(unicodedata.digit(digit)) for digit in raised_or_lowered)


_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = {word: value for value, word in enumerate(_ONES.split())} | {
    word: 10 * value for value, word in enumerate(_TENS.split(), start=2)
}
_VALUES["a"] = 1  # "a hundred", "a third"; alone it is no number
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8}
_PARTS["tenth"] = 10
_WORD = re.compile(r"[\s-]*([a-z]+)", re.I)
_SCALED = re.compile(rf"(?<=\d)[\s~-]*(?:\\text\{{\s*)?({'|'.join(_SCALES)})\b", re.I)
_MOST_WORDS = 30
"""Words of a number; what follows is not read."""


def leading_words(fragment: str) -> tuple[Fraction, int] | None:
    """Return the number that a fragment begins with in English words, and where it ends; None if there is none.

    >>> leading_words("negative forty-two degrees"), leading_words("two and a half"), leading_words("none")
    ((Fraction(-42, 1), 18), (Fraction(5, 2), 14), None)
    """
    words: list[str] = []
    ends = [len(fragment) - len(fragment.lstrip(" \n\t-"))]
    while len(words) < _MOST_WORDS and (match := _WORD.match(fragment, ends[-1])):
        words.append(match[1].lower())
        ends.append(match.end())
    has_sign = words[:1] in (["minus"], ["negative"])
    is_negative = has_sign or "-" in fragment[: ends[0]]
    value, count = _number(words[1:] if has_sign else words)
    if not count:
        return None
    return -value if is_negative else value, ends[count + has_sign]


def scaled(fragment: str) -> str:
    """Write millions and the like after digits as powers of ten.

    >>> scaled("$1.5 million in 3 years")
    '$1.5e6 in 3 years'
    """
    return _SCALED.sub(lambda match: f"e{len(str(_SCALES[match[1].lower()])) - 1}", fragment)


def _number(words: list[str]) -> tuple[Fraction, int]:
    """Return the number that words begin with, and how many of them say it; 0 of them if none does."""
    value, count = _whole_number(words)
    bottom = _part(words[count : count + 1])
    if bottom and value:
        return value / bottom, count + 1
    if words[:1] == ["half"]:
        return Fraction(1, 2), 1
    if words[:count] == ["a"]:
        return Fraction(0), 0
    if count and words[count : count + 3] == ["and", "a", "half"]:
        return value + Fraction(1, 2), count + 3
    return value, count


def _part(words: list[str]) -> int | None:
    """Return what "half", "third" or "quarters" divides by."""
    return _PARTS.get(words[0]) or _PARTS.get(words[0].removesuffix("s")) if words else None


def _whole_number(words: list[str]) -> tuple[Fraction, int]:
    """Return the whole number that words begin with, and how many of them say it; 0 of them if none does."""
    total, group, count = 0, 0, 0
    room, scale = 1000, 10**15  # what may be added to the group, and what the next scale must be below
    for place, word in enumerate(words, start=1):
        value = _VALUES.get(word)
        if value is not None and room >= (10 if 0 < value < 10 else 100):
            group, room = group + value, 10 if value >= 20 else 1
        elif word == "hundred" and 0 < group < 100:
            group, room = group * 100, 100
        elif word in _SCALES and group and _SCALES[word] < scale:
            total, group, room, scale = total + group * _SCALES[word], 0, 1000, _SCALES[word]
        elif word == "and" and place == count + 1 and words[count - 1] in ("hundred", *_SCALES):
            continue  # part of the number if more of it follows
        else:
            break
        count = place
    return Fraction(total + group), count
