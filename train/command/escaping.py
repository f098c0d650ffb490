"""Names are data, never markup: how any text is made harmless, one function for each kind of place that shows it.

A folder, a task, a model or a policy may be called anything. What shows such a text takes it through one of these;
what stores it (JSON, YAML, W&B's tables) keeps it as it is.
"""

from __future__ import annotations

import html
import os
import re
import shlex

from rich.text import Text


def printable(text: str) -> str:
    r"""Return a text in one line that can't move a cursor, change colours or turn the reading direction.

    >>> printable("a\x1b[31mb\nc")
    'a?[31mb?c'
    """
    return "".join(c if c.isprintable() else "?" for c in text)


def printable_lines(text: str) -> str:
    r"""Return a text as `printable` does, its lines kept: for prompts and answers, which may be long.

    >>> printable_lines("a\rb\nc\x07")
    'a?b\nc?'
    """
    return "\n".join(printable(line) for line in text.split("\n"))


def for_terminal(text: str) -> Text:
    """Return a text as `rich` prints it as it is: no ``[bold]``, no ``:smile:``.

    >>> for_terminal("[red]x[/red]").plain
    '[red]x[/red]'
    """
    return Text(printable(text))


def for_shell(*words: str) -> str:
    r"""Return words as a shell takes them, in one line that a terminal can show.

    >>> print(for_shell("python", "a b", "it's", "\x1b[31m"))
    python 'a b' 'it'"'"'s' $'\x1b[31m'
    """
    return " ".join(shlex.quote(word) if word.isprintable() else _ansi_c(word) for word in words)


def _ansi_c(word: str) -> str:
    """Quote a word with what no terminal should be sent: as bash and zsh do, byte by byte."""

    def escaped(c: str) -> str:
        if c in "\\'":
            return f"\\{c}"
        return c if c.isprintable() else "".join(f"\\x{byte:02x}" for byte in os.fsencode(c))

    return f"$'{''.join(map(escaped, word))}'"


def for_html(text: str) -> str:
    """Return a text as it stands in a page, or in an attribute's quotes.

    >>> for_html('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(printable(text))


def for_markdown(text: str) -> str:
    r"""Return a text as a paragraph, a list's item or a table's cell of Markdown (GitHub's) shows it as it is.

    Only what would mean something is escaped, so that ``low_confidence:1`` and ``97.4 [96.3, 98.1]`` stay readable in
    the file too.

    >>> for_markdown("a|b `c` *d* <e> [f](g) low_confidence:1 [1, 2]")
    'a\\|b \\`c\\` \\*d\\* \\<e> [f\\](g) low_confidence:1 [1, 2]'
    >>> for_markdown("# x"), for_markdown("1. x"), for_markdown("_x_")
    ('\\# x', '1\\. x', '\\_x\\_')
    """
    text = re.sub(r"([\\`*|$~]|<(?=[A-Za-z/!?])|&(?=#|\w+;))", r"\\\1", printable(text))
    # A link needs a bracket that is followed by one of these; without it brackets are just brackets.
    text = re.sub(r"\](?=[(\[:])", r"\\]", text)
    # Within a word an underscore is a letter like any other.
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    text = re.sub(r"^(\s*)([#>+=-])", r"\1\\\2", text)
    return re.sub(r"^(\s*\d+)([.)])(?=\s|$)", r"\1\\\2", text)


def for_plot(text: str, most: int = 48) -> str:
    r"""Return a text that matplotlib draws as it is: no mathematics between dollars, no label hidden by an underscore.

    Args:
        text: any.
        most: characters; what is longer is cut in its middle, where names that a suffix tells apart are alike.

    >>> for_plot("$5_$x^"), for_plot("_hidden")
    ('\\$5_\\$x^', ' _hidden')
    """
    text = printable(text)
    if len(text) > most:
        half = (most - 1) // 2
        text = f"{text[: most - 1 - half]}…{text[-half:]}"
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
