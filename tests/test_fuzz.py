from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import KINDS, fuzz, policy_folders, run_folders, try_policy, try_run


@pytest.mark.parametrize("what", KINDS)
def test_what_is_damaged_is_read_or_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    """`python tests/fuzz.py` tries thousands; that no other exception comes is what is tested."""
    number = 40 if what == "configurations" else 150  # a whole command line takes a tenth of a second
    found = fuzz(what, number, 0, tmp_path / "damaged")
    assert found.total() >= number
    assert len(found) > number // 5


def test_whole_folders_are_read(tmp_path: Path) -> None:
    for kind, files in policy_folders().items():
        assert try_policy(kind, "config.json", files["config.json"], tmp_path / "x") == "loaded"
    for kind, files in run_folders().items():
        assert try_run(kind, "evaluation.json", files["evaluation.json"], tmp_path / "x") == "read"
