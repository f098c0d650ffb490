"""What ``--policy list`` prints: every rule with its knob, and how else a policy can be named.

All of it comes from the rules themselves: their fields, their docstrings, and what their checks say when they refuse.
"""

from __future__ import annotations

import inspect
import re
import sys

from rich.console import Console
from rich.table import Table

from policies import RULES
from policies.formats.folder import SHIPPED
from policies.rules import Rule
from train.command.escaping import for_terminal

COLUMNS = ("rule", "knob", "default", "range", "what it does", "arXiv")

IMPOSSIBLE = (-1, float("nan"), float("inf"), "")
"""Values that a rule's check refuses, one or the other, and says what it allows."""


def print_rules() -> None:
    """Print the table of rules, and how to name any policy."""
    table = Table(title="Decoding rules", title_justify="left", show_lines=False)
    for column in COLUMNS:
        is_long = column == "what it does"
        table.add_column(column, overflow="fold", no_wrap=column in ("rule", "arXiv"), ratio=1 if is_long else None)
    for rule in RULES.values():
        table.add_row(*map(for_terminal, describe_rule(rule)))
    # A file has no width, for which rich would take 80.
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print(for_terminal(" "), *(for_terminal(line) for line in how_to_name()), sep="\n")


def describe_rule(rule: type[Rule]) -> tuple[str, ...]:
    """Return a rule's row, by `COLUMNS`."""
    knob, default = next(iter(rule.options().items()))
    text = inspect.getdoc(rule) or ""
    meaning = text.partition("\n\n")[0].replace("\n", " ").replace("`", "")
    source = re.search(r"\d{4}\.\d{5}", text)
    shown = f"{default:g}" if isinstance(default, int | float) else str(default)
    return rule.rule, knob, shown, allowed(rule, knob), meaning, source[0] if source else ""


def allowed(rule: type[Rule], option: str) -> str:
    """Say which values an option can have, in the words in which the rule refuses others; nothing if it takes any."""
    for value in IMPOSSIBLE:
        try:
            rule(**{option: value})
        except ValueError as error:
            return str(error).partition("it must be ")[2]
        except TypeError:
            continue  # the value is of another kind than the option's
    return ""


def how_to_name() -> list[str]:
    """Return the lines that say how a policy is named."""
    return [
        "A rule:            NAME, NAME:KNOB or NAME:KNOB,OPTION=VALUE, such as threshold:0.9 or klass:0.8,history=3",
        f"A learned policy:  a folder, such as runs/ppo/policy, or the name of one that ships: {', '.join(SHIPPED)}",
        "  at a setting:    FOLDER@THRESHOLD, FOLDER@speed=SPEED, FOLDER@beta=BETA, FOLDER@temperature=TEMPERATURE",
        "All rules:         all, every rule at each value that its sweep names",
    ]
