"""The tests of a graphics card, where there is none: on a card that is pretended (see `pretended_card`)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import places
import pytest

from train.command.config import ROOT

MODULES = [
    "envs/test_decoding.py",
    "envs/test_unmasking.py",
    "policies/test_network.py",
    "policies/test_rules_decode.py",
]
MODULES += ["train/test_grpo.py"]
"""Some of those that take the fixture `device`; all of them are run by the command in CONTRIBUTING.md."""


RUN = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"


@pytest.fixture
def tests(tmp_path: Path, python: str) -> list[str]:
    """The command that runs pytest."""
    program = tmp_path / "tests.py"
    program.write_text(RUN)
    return [python, str(program)]


@pytest.mark.slow(seconds=25)
@pytest.mark.skipif(places.card() is not None, reason="there is a card")
def test_what_a_card_would_run_mixes_no_tensors_of_two_places(tests: list[str]) -> None:
    words = ["-q", "-m", "gpu and not slow", "-p", "pretended_card", "-p", "no:cacheprovider", "-p", "no:doctest"]
    words += ["-o", "addopts=--strict-markers", *(f"tests/{module}" for module in MODULES)]
    done = subprocess.run([*tests, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 150  # type: ignore[index]


@pytest.mark.slow
def test_without_a_card_its_tests_are_left_out(tests: list[str]) -> None:
    """All at once and without a failure, whatever else is chosen; pytest then says with 5 that nothing was run."""
    words = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-o", "addopts=--strict-markers"]
    done = subprocess.run(
        [*tests, *words, "tests/envs/test_unmasking.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == (5 if places.card() is None else 0), done.stdout
    assert ("deselected" in done.stdout) is (places.card() is None)
