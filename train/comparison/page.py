"""A report as Markdown, as one self-contained HTML page, and in the terminal."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal

from rich.table import Table as TerminalTable
from rich.text import Text

from train.command.escaping import for_html, for_markdown, for_terminal

SHORT = 16
LONGEST_PART = 24
"""Characters of a part of a name that is never broken."""

"""Letters of a name that a terminal's table doesn't fold."""

NOTHING = "—"
"""Shown where there is no value."""


@dataclass(frozen=True)
class Column:
    """How one value of a table's rows is shown.

    Attributes:
        key: of the value in a row.
        title: above the column.
        digits: after the point; None for a text.
        scale: what a number is multiplied by, 100 for percent.
        is_p: or a p-value, which is shown as < 0.001 below that.
        limits: where intervals are cut off, such as 0 and 100 %.
    """

    key: str
    title: str
    digits: int | None = None
    scale: float = 1.0
    is_p: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True)
class Table:
    """Rows and the columns to show of them."""

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: of the part.
        text: paragraphs, each explaining or finding something.
        bullets: after them.
        tables: at the end.
        images: names of PNG files in the report's folder, without their ending; before the tables.
        folded: whether the page shows the tables on demand only.
    """

    title: str
    text: Sequence[str] = ()
    bullets: Sequence[str] = ()
    tables: Sequence[Table] = ()
    images: Sequence[str] = ()
    folded: bool = False


def number_of(value: Any, column: Column) -> float | None:
    """Return the number that a cell shows, scaled; None for a text or nothing."""
    if isinstance(value, dict):
        value = value["mean"]
    if column.digits is None or value is None or isinstance(value, str):
        return None
    return float(value) * column.scale


def main_text(value: Any, column: Column) -> str:
    """Return a cell's text without intervals."""
    number = number_of(value, column)
    if number is None:
        return NOTHING if value is None else str(value)
    if column.is_p and number < 0.001:
        return "< 0.001"
    return f"{number:.{column.digits}f}"


def interval_texts(value: Any, column: Column) -> list[str]:
    """Return a cell's intervals: over problems in brackets, over seeds in braces."""
    if not isinstance(value, dict):
        return []
    texts = []
    for key, marks in (("problems", "[]"), ("seeds", "{}")):
        if value[key] is not None:
            low, high = _edges(value[key], column)
            texts.append(f"{marks[0]}{low:.{column.digits}f}, {high:.{column.digits}f}{marks[1]}")
    return texts


def _edges(interval: Sequence[float], column: Column) -> tuple[float, float]:
    """Return an interval as it is shown: scaled, and cut off where values end."""
    # Student's interval may reach beyond what the value itself can be.
    low, high = (min(max(edge * column.scale, column.limits[0]), column.limits[1]) for edge in interval)
    return low, high


def cell(value: Any, column: Column) -> str:
    """Return a cell's whole text.

    >>> value = {"mean": 0.974, "problems": [0.963, 0.981], "seeds": None}
    >>> cell(value, Column("accuracy", "accuracy %", 1, 100))
    '97.4 [96.3, 98.1]'
    """
    return " ".join([main_text(value, column), *interval_texts(value, column)])


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Write a report as Markdown; images are named relative to it."""
    parts = [f"# {for_markdown(title)}"]
    for section in sections:
        parts += [f"## {for_markdown(section.title)}", *map(for_markdown, section.text)]
        if section.bullets:
            parts.append("\n".join(f"- {for_markdown(bullet)}" for bullet in section.bullets))
        parts += [f"![{name}]({name}.png)" for name in section.images]
        parts += [table_to_markdown(table) for table in section.tables]
    return "\n\n".join(parts) + "\n"


def table_to_markdown(table: Table) -> str:
    """Write a table as Markdown."""
    lines = [[for_markdown(column.title) for column in table.columns]]
    lines.append(["---" if column.digits is None else "---:" for column in table.columns])
    for row in table.rows:
        lines.append([for_markdown(cell(row.get(column.key), column)) for column in table.columns])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_html(title: str, sections: Sequence[Section], images: Mapping[str, tuple[Path, Path]]) -> str:
    """Write a report as one HTML page that loads nothing from elsewhere.

    Args:
        title: of the page.
        sections: its parts.
        images: PNG files by name, for a light and for a dark screen.
    """
    links = "\n".join(f'<a href="#part{i}">{for_html(section.title)}</a>' for i, section in enumerate(sections))
    body = "\n".join(_section_to_html(section, i, images) for i, section in enumerate(sections))
    template = Template(Path(__file__).with_name("report.html").read_text())
    # In one pass, so that a $ in a name is no placeholder.
    return template.substitute(title=for_html(title), links=links, body=body)


def _section_to_html(section: Section, number: int, images: Mapping[str, tuple[Path, Path]]) -> str:
    parts = [f'<section id="part{number}">', f"<h2>{for_html(section.title)}</h2>"]
    parts += [f"<p>{for_html(text)}</p>" for text in section.text]
    if section.bullets:
        parts.append("<ul>" + "".join(f"<li>{for_html(text)}</li>" for text in section.bullets) + "</ul>")
    parts += [_image_to_html(name, *images[name]) for name in section.images]
    tables = "\n".join(_table_to_html(table) for table in section.tables)
    rows = sum(len(table.rows) for table in section.tables)
    parts.append(f"<details><summary>{rows} rows</summary>\n{tables}\n</details>" if section.folded else tables)
    return "\n".join([*parts, "</section>"])


def _table_to_html(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{_align(column)}><button type="button">{for_html(column.title)}</button></th>'
        for column in table.columns
    )
    # Where all rows are learned policies, to mark them says nothing.
    is_mixed = not all(row.get("is_learned") for row in table.rows)
    rows = "\n".join(
        f"<tr{_highlight(row) if is_mixed else ''}>"
        + "".join(_cell_to_html(row.get(c.key), c) for c in table.columns)
        + "</tr>"
        for row in table.rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def _align(column: Column) -> str:
    return ' class="word"' if column.digits is None else ' class="number"'


def _highlight(row: Mapping[str, Any]) -> str:
    return ' class="learned"' if row.get("is_learned") else ""


def _cell_to_html(value: Any, column: Column) -> str:
    number = number_of(value, column)
    # What the page sorts by: the number in full, whatever is shown of it.
    key = for_html(str(value) if number is None else repr(number))
    intervals = [for_html(text) for text in interval_texts(value, column)]
    detail = "".join(f'<span class="interval">{text}</span>' for text in intervals)
    label = for_html(column.title)
    text = for_html(main_text(value, column))
    if column.digits is None:
        text = _whole_parts(text)
    return f'<td{_align(column)} data-key="{key}" data-title="{label}"><div class="value">{text}{detail}</div></td>'


def _whole_parts(text: str) -> str:
    """Let a name's line end after ``:``, ``@`` or ``/`` rather than within a number.

    >>> _whole_parts("eb_sampler:0.4")
    '<span>eb_sampler:</span><wbr><span>0.4</span>'
    """
    parts = re.split(r"(?<=[:@/ ])", text)
    return "<wbr>".join(f"<span>{part}</span>" if len(part) <= LONGEST_PART else part for part in parts)


def _image_to_html(name: str, light: Path, dark: Path) -> str:
    # In the page itself, which needs no other file and follows the reader's screen.
    for_light, for_dark = (
        "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode("ascii") for file in (light, dark)
    )
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{for_dark}">'
        f'<img alt="{for_html(name)}" src="{for_light}"></picture>'
    )


def to_terminal(table: Table, title: str) -> TerminalTable:
    """Lay a table out for a terminal, with seeds' intervals where there are any, else those over problems."""
    shown = TerminalTable(title=for_terminal(title), title_justify="left")
    for column in table.columns:
        justify: Literal["left", "right"] = "left" if column.digits is None else "right"
        # Names stay whole as long as they are short; numbers' intervals go to a second line first.
        widest = max((len(str(row.get(column.key))) for row in table.rows), default=0)
        is_name = column.digits is None and widest <= SHORT
        shown.add_column(for_terminal(column.title), justify=justify, overflow="fold", no_wrap=is_name)
    for row in table.rows:
        shown.add_row(*(_terminal_cell(row.get(column.key), column) for column in table.columns))
    return shown


def _terminal_cell(value: Any, column: Column) -> Text:
    edges = (value["seeds"] or value["problems"]) if isinstance(value, dict) else None
    text = for_terminal(main_text(value, column))
    if edges:
        low, high = _edges(edges, column)
        text.append(f"\n[{low:.{column.digits}f}, {high:.{column.digits}f}]", style="dim")
    return text
