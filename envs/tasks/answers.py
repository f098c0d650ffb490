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

ENDS = ("<|endoftext|>", "<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "</s>", "<|mdm_mask|>")
"""Special tokens as text, after which a model has nothing more to say (and a mask, which a finished text lacks)."""

_STATED = re.compile(
    r"answer\b[^.\n:=]{0,60}?(?:\bis\b|\bare\b|:|=)[\s*_]*(?:approximately\b|about\b)?\s*(\S[^\n]*)", re.I
)
_HASHED = re.compile(r"####[ \t]*(?:(?:the )?(?:final )?answer\s*(?:is)?\s*:?)?[ \t]*([^\n]*)", re.I)
_HEADING = re.compile(r"(?:step\b|\d+\s*[.):]\s+[A-Za-z*])", re.I)
_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|<answer>|\Z)", re.S | re.I)
_BOXED = re.compile(r"\\?f?boxed\s*\{|\\boxed\s+(?=[\w$-])")
_FEW_SHOT = re.compile(r"\n\s*(?:Question|Problem|Q)\s*:")


def before_end(text: str) -> str:
    r"""Cut a text at the first special token that ends it, and drop ``\r``.

    >>> before_end("18<|eot_id|><|endoftext|> 19")
    '18'
    """
    for end in ENDS:
        text = text.partition(end)[0]
    return text.replace("\r", "")


def boxed(text: str) -> list[tuple[int, str]]:
    r"""Return place and content of each ``\boxed{...}``, braces matched; an unclosed one ends with its line.

    >>> boxed(r"so \boxed{9} and then \boxed{\frac{1}{2}} and \boxed{3")
    [(3, '9'), (22, '\\frac{1}{2}'), (46, '3')]
    """
    return [(match.start(), _content(text, match.end(), match[0].endswith("{"))) for match in _BOXED.finditer(text)]


def _content(text: str, start: int, in_braces: bool) -> str:
    line_end = text.find("\n", start) % (len(text) + 1)
    if not in_braces:
        return text[start:line_end].split(" ")[0]
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return text[start:line_end]


def slots(text: str) -> list[str]:
    r"""Return what stands in each place made for the answer, the last place first.

    >>> slots(r"#### Step 1 ... <answer>\boxed{70,000}</answer>")
    ['70,000', '\\boxed{70,000}']
    """
    found = boxed(text)
    found += [(match.start(), match[1]) for match in _TAGGED.finditer(text)]
    found += [(match.start(), match[1]) for match in _HASHED.finditer(text) if not _HEADING.match(match[1])]
    return [content.strip() for _, content in sorted(found, key=lambda slot: slot[0], reverse=True)]


def stated(text: str) -> list[str]:
    """Return what follows "answer is" or "answer:" on its line, the last one first.

    >>> stated("The answer is 3. No: the final answer is 18 dollars.")
    ['18 dollars.', '3. No: the final answer is 18 dollars.']
    """
    places = [match.start() for match in re.finditer(r"answer\b", text, re.I)]
    matches = [_STATED.match(text, place) for place in reversed(places)]
    return [match[1].strip() for match in matches if match]


def before_next_question(text: str) -> str:
    r"""Cut off the further examples that a base model goes on to write after its answer.

    >>> before_next_question("#### 18\n\nQuestion: A robe takes 2 bolts. #### 3")
    '#### 18'
    """
    head = _FEW_SHOT.split(text)[0]
    return head if slots(head) or stated(head) else text


_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_QUANTITY = re.compile(
    rf"(?P<sign>(?<![\w)]\s)(?<![\w)])-\s?)?"
    rf"(?:(?:(?P<whole>\d+)\s*)?\\frac\s*\{{\s*(?P<top>-?(?:{_NUMBER}))\s*\}}\s*\{{\s*(?P<bottom>{_NUMBER})\s*\}}"
    rf"|(?:(?P<whole2>\d+)\s+)?(?P<top2>{_NUMBER})\s*/\s*(?P<bottom2>{_NUMBER})"
    rf"|(?P<number>{_NUMBER})(?:\s*\*\s*10\s*\^\s*\{{?(?P<power>-?\d{{1,2}})\}}?)?)"
)
_CLEAN = (
    (re.compile("[\u2212\u2010-\u2013]"), "-"),
    (re.compile(r"\\[!,;:]|\{,\}(?=\d)"), lambda match: "," if match[0] == "{,}" else ""),
    (re.compile(r"\\(?:left|right|displaystyle)\b"), ""),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:times|cdot)|\u00d7"), "*"),
    (re.compile(r"\\approx|≈|\\equiv"), "="),
    (re.compile(r"\\[()\[\]%$ ]|[$€£¥`~]|\*\*|__"), " "),
    (re.compile(r"(?<=[-])\s+(?=[\d.])"), ""),
)


def cleaned(fragment: str) -> str:
    r"""Write LaTeX and Markdown as plainly as reading its numbers needs.

    >>> cleaned(r"\$1{,}000 \text{ dollars}").split()
    ['1,000', 'dollars']
    """
    for pattern, plain in _CLEAN:
        fragment = pattern.sub(plain, fragment)
    return fragment


def numbers(fragment: str) -> list[Fraction]:
    r"""Return every number of a text: commas, decimals, signs, fractions, mixed numbers, powers of ten.

    >>> numbers(r"-1,000.50 and \frac{1}{2} and 2 1/2")
    [Fraction(-2001, 2), Fraction(1, 2), Fraction(5, 2)]
    """
    return [value for match in _QUANTITY.finditer(cleaned(fragment)) if (value := _value(match)) is not None]


def _value(match: re.Match[str]) -> Fraction | None:
    top, bottom = match["top"] or match["top2"], match["bottom"] or match["bottom2"]
    if top is None:
        value = _plain(match["number"]) * Fraction(10) ** int(match["power"] or 0)
    elif _plain(bottom) == 0:
        return None
    else:
        value = _plain(top) / _plain(bottom) + int(match["whole"] or match["whole2"] or 0)
    return -value if match["sign"] else value


def _plain(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


def quantity(fragment: str, take_last: bool = False) -> Fraction | None:
    """Return the one number that a short answer states; None if it holds none.

    Of an equation that is the right-hand side's, else the first number (units may hold others), or the last.

    >>> quantity("16 - 3 - 4 = 9 eggs for 1 day")
    Fraction(9, 1)
    """
    parts = [found for part in cleaned(fragment).split("=") if (found := numbers(part))]
    if not parts:
        return None
    return parts[-1][-1 if take_last else 0]
