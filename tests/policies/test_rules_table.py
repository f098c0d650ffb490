"""The table of rules against the rules."""

from __future__ import annotations

import re

import pytest

from policies import RULES
from train.command.config import ROOT

TABLE = (ROOT / "docs" / "rules.md").read_text()
ROWS = {row.split("`")[1]: row for row in TABLE.splitlines() if row.startswith("| `")}
SPECIAL = {("adablock", "delimiters"), ("tccf", "marker")}  # written in words
SPECIAL |= {("pc_sampler", "frequencies"), ("diffuspec", "corpus")}


def test_one_row_a_rule_in_the_registry_order() -> None:
    assert list(ROWS) == list(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_row_names_every_option_and_its_default(rule: str) -> None:
    cells = [cell.strip() for cell in ROWS[rule].split(" | ")]
    found = dict(re.findall(r"`(\w+)` ([^,|]+)", cells[2]))
    options = RULES[rule].options()
    assert list(found) == list(options)
    for name, default in options.items():
        if (rule, name) not in SPECIAL:
            written = found[name].strip()
            assert (float(written) if isinstance(default, float) else type(default)(written)) == default


@pytest.mark.parametrize("rule", RULES)
def test_a_row_and_the_docstring_cite_the_same_paper(rule: str) -> None:
    [paper] = re.findall(r"\d{4}\.\d{5}", ROWS[rule])
    assert paper in (RULES[rule].__doc__ or "")
