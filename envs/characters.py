"""Half characters, which JSON allows and Python makes of bytes that are no UTF-8: no tokenizer or file takes one."""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def half_character(text: str) -> str:
    """Return the first half of a character that a text holds, empty if there is none.

    >>> half_character("half " + chr(0xD83D)) == chr(0xD83D), half_character("whole")
    (True, '')
    """
    found = _SURROGATE.search(text)
    return found[0] if found else ""
