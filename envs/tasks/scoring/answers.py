r"""Finding the final answer in what a model wrote, and reading numbers.

A *slot* is a place made for the answer: ``\boxed{...}``, ``<answer>...</answer>`` or ``#### ...``. The last slot
counts; a sentence such as "The answer is 18." comes second.

What goes wrong elsewhere (arXiv 2512.09106's released code, lm-eval, OpenCompass) and is right here: commas in numbers,
``\boxed{\frac{1}{2}}`` read as 1, the first box instead of the last, an unclosed box or tag, text after end-of-text,
headings of the form ``#### Step 2``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from envs.tasks.scoring.numerals import digits, in_ascii, leading_words

ENDS = ("<|endoftext|>", "<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "</s>", "<|mdm_mask|>")
"""Special tokens as text, after which a model has nothing more to say (and a mask, which a finished text lacks)."""

LONGEST = 100_000
"""Characters of an answer that are read; what a model writes after them is never looked at."""

LONGEST_PLACE = 2_000
"""Characters that are read of a place for the answer that isn't closed, and of a sentence that states a number."""

MOST_PLACES = 50
"""Places for the answer that are looked at, from the last one back."""

MOST_DIGITS = 1_000
"""Digits of a number; a longer one is none."""

# Possessive quantifiers (`*+`) where what follows can't begin with what they take: reading stays linear in the text.
_STATED = re.compile(
    r"answer\b[^.\n:=]{0,60}?(?:\bis\b|\bare\b|:|=)[\s*_]*+(?:(?:approximately|about)\b\s*+)?"
    rf"(\S[^\n]{{0,{LONGEST_PLACE}}})",
    re.I,
)
_HASHED = re.compile(r"####[ \t]*(?:(?:the )?(?:final )?answer\s*(?:is)?\s*:?)?[ \t]*([^\n]*)", re.I)
_HEADING = re.compile(r"(?:step\b|\d+\s*[.):]\s+[A-Za-z*])", re.I)
_TAG = re.compile(r"<\s*(/?)\s*answer\s*(/?)\s*>", re.I)
_BOXED = re.compile(r"\\?f?boxed\s*\{|\\boxed\s+(?=[\w$-])")
_BRACE = re.compile(r"[{}]")
_LEFT_OPEN = re.compile(r"\n|</?\w+>|(?<=[^\\{])\$")
_FEW_SHOT = re.compile(r"\n[ \t]*(?:Question|Problem|Q)[ \t]*:")


def before_end(text: str) -> str:
    r"""Cut a text at the first special token that ends it, and after `LONGEST` characters, and drop ``\r``.

    >>> before_end("18<|eot_id|><|endoftext|> 19")
    '18'
    """
    text = text[:LONGEST]
    # Whichever the dLLM's own is: as text, none of them belongs to an answer.
    for end in ENDS:
        text = text.partition(end)[0]
    return text.replace("\r", "")


def boxed(text: str) -> list[tuple[int, str]]:
    r"""Return place and content of the last `MOST_PLACES` ``\boxed{...}``, braces matched.

    An unclosed one ends with its line, or where a tag or formula around it is closed.

    >>> boxed(r"so \boxed{9} and then \boxed{\frac{1}{2}} and \boxed{3")
    [(3, '9'), (22, '\\frac{1}{2}'), (46, '3')]
    """
    closed = _closing_braces(text)
    return [(match.start(), _content(text, match, closed)) for match in [*_BOXED.finditer(text)][-MOST_PLACES:]]


def _closing_braces(text: str) -> dict[int, int]:
    """Return for each opening brace that is closed where that is."""
    closed, opened = {}, []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif opened:
            closed[opened.pop()] = match.start()
    return closed


def _content(text: str, match: re.Match[str], closed: dict[int, int]) -> str:
    start = match.end()
    if not match[0].endswith("{"):
        return text[start : start + LONGEST_PLACE].partition("\n")[0].partition(" ")[0]
    if start - 1 in closed:
        return text[start : closed[start - 1]]
    end = _LEFT_OPEN.search(text, start)
    return text[start : min(end.start() if end else len(text), start + LONGEST_PLACE)]


def _tagged(text: str) -> list[tuple[int, str]]:
    """Return place and content of each ``<answer>``: up to the next tag of that name, or the text's end."""
    tags = list(_TAG.finditer(text))
    ends = [*(tag.start() for tag in tags), len(text)][1:]
    pairs = zip(tags, ends, strict=False)
    return [(tag.start(), text[tag.end() : end]) for tag, end in pairs if not (tag[1] or tag[2])]


def slots(text: str) -> list[str]:
    r"""Return what stands in each place made for the answer, the last place first, `MOST_PLACES` at most.

    >>> slots(r"#### Step 1 ... <answer>\boxed{70,000}</answer>")
    ['70,000', '\\boxed{70,000}']
    """
    found = [*boxed(text), *_tagged(text)]
    found += [(match.start(), match[1]) for match in _HASHED.finditer(text) if not _HEADING.match(match[1])]
    # By place alone: whichever kind of slot comes last is the answer.
    found.sort(key=lambda slot: slot[0], reverse=True)
    return [content.strip() for _, content in found[:MOST_PLACES]]


def stated(text: str) -> list[str]:
    """Return what follows "answer is" or "answer:" on its line, the last one first, `MOST_PLACES` at most.

    >>> stated("The answer is 3. No: the final answer is 18 dollars.")
    ['18 dollars.', '3. No: the final answer is 18 dollars.']
    """
    places = [match.start() for match in re.finditer(r"answer\b", text, re.I)]
    matches = [_STATED.match(text, place) for place in reversed(places[-MOST_PLACES:])]
    return [match[1].strip() for match in matches if match]


def before_next_question(text: str) -> str:
    r"""Cut off the further examples that a base model goes on to write after its answer.

    >>> before_next_question("#### 18\n\nQuestion: A robe takes 2 bolts. #### 3")
    '#### 18'
    """
    head = _FEW_SHOT.split(text, maxsplit=1)[0].rstrip()
    # With no answer before it, "Question:" is the model that repeats what it was asked.
    return head if slots(head) or stated(head) else text


_NUMBER = r"(?:(?:\d{1,3}(?:,\d{3}){1,9}|\d{1,2}(?:,\d{2}){1,9},\d{3})(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_POWER = r"\s*\*\s*10\s*\^\s*\{?(?P<power>[-+]?\d{1,2})\}?|[eE](?P<power2>[-+]?\d{1,2})(?!\w)"
_QUANTITY = re.compile(
    # A minus after a number, a parenthesis or a letter takes away; right before a digit and after a word it is a sign.
    rf"(?P<sign>(?<![\w)]\s)(?<![\w)])-\s?|(?<=[^\W\d_]{{2}}\s)-(?=[\d.]))?"
    rf"(?:(?:(?P<whole>\d+)\s*)?\\frac\s*\{{\s*(?P<top>-?(?:{_NUMBER}))\s*\}}\s*\{{\s*(?P<bottom>-?(?:{_NUMBER}))\s*\}}"
    rf"|(?:(?P<whole2>\d+)\s+)?(?P<top2>{_NUMBER})\s*/\s*(?P<bottom2>{_NUMBER})"
    rf"|(?P<number>{_NUMBER})(?:{_POWER})?)"
)
_CLEAN: tuple[tuple[re.Pattern[str], Any], ...] = (
    # Ten with a raised number is a power of ten; any other raised number stays.
    (re.compile("(?<=10)[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+"), lambda power: f"^{{{digits(power[0])}}}"),
    (re.compile(r"\b(?:negative|minus)\s+(?=[\d.$\\])", re.I), "-"),
    # Thousands apart: by thin and unbreakable spaces, by apostrophes, by underscores.
    (re.compile("(?<=\\d)(?:[\u00a0\u2009\u202f~'\u2019_]|\\\\[_ ])(?=\\d{3}(?!\\d))"), ""),
    (re.compile(r"\\[!,;:]|\{,\}(?=\d)"), lambda match: "," if match[0] == "{,}" else ""),
    (re.compile(r"\\(?:left|right|displaystyle)\b"), ""),
    (re.compile(r"\\(?:[dtcs]|nice)frac"), r"\\frac"),
    # LaTeX lets one leave out the braces around a single digit.
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*(?=\{)"), r"\\frac{\1}"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:times|cdot)|\u00d7"), "*"),
    # A power of ten alone gets the factor that numbers with powers have.
    (re.compile(r"(?<![\d.,*]\s)(?<![\d.,*])10\s*\^(?=\s*\{?\s*-?\d)"), "1*10^"),
    # What a quantity is said to be about is what the answer gives for it.
    (re.compile(r"\\approx|≈|\\equiv"), "="),
    # Of "-$5" the sign belongs to the number, of "- 5" likewise below; "3 - 5" keeps it apart.
    (re.compile(r"-\s?\\?[$€£¥]\s*(?=[\d.])"), "-"),
    (re.compile(r"\\[()\[\]%$ ]|[$€£¥`~]|\*\*|__"), " "),
    (re.compile(r"(?<![\w)]\s)(?<![\w)])-\s+(?=[\d.])"), "-"),
)


def cleaned(fragment: str) -> str:
    r"""Write LaTeX and Markdown as plainly as reading its numbers needs.

    >>> cleaned(r"\$1{,}000 \text{ dollars}").split()
    ['1,000', 'dollars']
    """
    fragment = in_ascii(fragment)
    for pattern, plain in _CLEAN:
        fragment = pattern.sub(plain, fragment)
    return fragment


def numbers(fragment: str) -> list[Fraction]:
    r"""Return every number of a text: commas, decimals, signs, fractions, mixed numbers, powers of ten.

    >>> numbers(r"-1,000.50 and \frac{1}{2} and 2 1/2 and 7e4")
    [Fraction(-2001, 2), Fraction(1, 2), Fraction(5, 2), Fraction(70000, 1)]
    """
    return [value for _, value in _read(cleaned(fragment))]


def last_number(text: str) -> Fraction | None:
    r"""Return the last number of a text; None if it holds none.

    >>> last_number("3 eggs and 4\nmake 7. So it is.")
    Fraction(7, 1)
    """
    for line in reversed(text.split("\n")):
        if re.search("[\\d\u00bc-\u00be\u2150-\u215e]", line):
            # Its end alone first: in a line of numbers without end, all others would be read for nothing.
            found = numbers(line[-LONGEST_PLACE:]) or numbers(line)
            if found:
                return found[-1]
    return None


def _read(plain: str) -> list[tuple[int, Fraction]]:
    """Return each number of a text in plain writing, and where it begins."""
    found = ((match.start(), _value(match)) for match in _QUANTITY.finditer(plain))
    return [(place, value) for place, value in found if value is not None]


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > MOST_DIGITS:
        return None
    top, bottom = match["top"] or match["top2"], match["bottom"] or match["bottom2"]
    if top is None:
        # Exact: as floats, 0.1 + 0.2 would not be 0.3.
        value = _plain(match["number"]) * Fraction(10) ** int(match["power"] or match["power2"] or 0)
    elif _plain(bottom) == 0:
        return None
    else:
        value = _plain(top) / _plain(bottom) + int(match["whole"] or match["whole2"] or 0)
    return -value if match["sign"] else value


def _plain(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


_SPACED = re.compile(r"(?<![\d.,/])\d{1,3}(?: \d{3}){1,9}(?![\d/]| ?/)")
_MONEY = re.compile(r"(?<![\w\\-])\\?[$€£](?=\s?-?[\d.])")
_VERB = re.compile(r"\b(?:is|are|was|were|equals?|totals?|becomes?|be)\b")
_ASIDE = re.compile(r"\b(?:for|in|per|every|after|within|during|with|from|than|the|these|all|each|both)\s+$", re.I)


def quantity(fragment: str, take_last: bool = False) -> Fraction | None:
    """Return the one number that a short answer states; None if it holds none.

    Of an equation it is one of the right-hand side's, of a sentence one after its last "is", if there are any. Among
    those a sum of money comes before others, and what follows "for", "in" and the like, or "the", after others. Of
    what is left it is the first, as units may hold others, or, where a sentence leads up to it, the last. Of a fragment
    longer than `LONGEST_PLACE` the end is read, for its last number. A number in words counts where there is none in
    digits, and nothing but a verb or an equals sign stands before it.

    >>> quantity("16 - 3 - 4 = 9 eggs for 1 day"), quantity("For 16 glasses he pays $64"), quantity("70 000")
    (Fraction(9, 1), Fraction(64, 1), Fraction(70000, 1))
    >>> quantity("minus twelve degrees"), quantity("It takes them 3 of the seven days")
    (Fraction(-12, 1), Fraction(3, 1))
    """
    take_last = take_last or len(fragment) > LONGEST_PLACE
    fragment = _SPACED.sub(lambda match: match[0].replace(" ", ""), fragment[-LONGEST_PLACE:])
    # The mark of money would be lost in cleaning, and marks formulas too.
    dollars = fragment.count("$") - fragment.count("\\$")
    if dollars % 2 or "\\$" in fragment or "€" in fragment or "£" in fragment:
        fragment = _MONEY.sub(" \x00", fragment)
    parts = [part for part in cleaned(fragment).split("=") if _read(part)]
    if not parts:
        return _in_words(fragment)
    part = next((part for part in reversed(_VERB.split(parts[-1])) if _read(part)), parts[-1])
    found = _read(part)
    paid = [(place, value) for place, value in found if part[:place].rstrip().endswith("\x00")]
    main = [(place, value) for place, value in found if not _ASIDE.search(part[max(0, place - 20) : place])]
    chosen = paid or main or found
    leads_up = re.match(r"\W*[^\W\d_]{2,}\s+\w", part) is not None
    return chosen[-1 if take_last or leads_up else 0][1]


def _in_words(fragment: str) -> Fraction | None:
    part = _VERB.split(cleaned(fragment).rpartition("=")[2])[-1]
    found = leading_words(part.strip(" \n\t\"'*\x00"))
    return None if found is None else found[0]
