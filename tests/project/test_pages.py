"""The pages hold together: every link leads somewhere, and every page is in the menu."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from envs.tasks import TASKS, prompt
from envs.tasks.base import Problem
from train.command.config import ROOT

DOCS = ROOT / "docs"
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*TOP, *sorted(DOCS.rglob("*.md"))]


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 10_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        target, _, anchor = link.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.is_file(), f"{page.name} links to {target}"
        if page in TOP:
            assert file.is_relative_to(ROOT)
        else:
            assert file.is_relative_to(DOCS), f"{link} leads out of the site"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings]
            assert anchor in slugs


def test_every_page_is_in_the_menu_and_nothing_else() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = re.findall(r"[\w/]+\.md", str(menu))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_the_table_of_prompts_is_true() -> None:
    rows = re.findall(
        r"^\| (\w+) \|.*?\| `prompt\((.*?)\)` \| `(.*?)` \|", (DOCS / "tasks.md").read_text(), re.MULTILINE
    )
    assert [name for name, _, _ in rows] == list(TASKS)
    for name, arguments, answer in rows:
        asked = prompt(*re.findall(r'"(.*?)"', arguments))
        assert TASKS[name]().score(answer, Problem(name, "test", 0, asked, answer if name in EXACT else "")) == 1


EXACT = ("copy", "reverse", "sort", "insert", "remove")
"""Tasks that compare with the one right answer of the problem; the others check the answer itself."""
