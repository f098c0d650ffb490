"""A source distribution holds what its own tests need."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from train.command.config import ROOT

KINDS = {".py", ".md", ".yaml", ".json", ".html", ".fasta", ".safetensors", ".typed", ".png", ".gif"}


@pytest.mark.slow
def test_it_holds_every_file_of_the_tree(tmp_path: Path) -> None:
    left_out = shutil.ignore_patterns(
        ".git", ".venv", ".*_cache", ".cache", "runs", "build", "mutants", "wandb", "*.egg-info"
    )
    tree = Path(shutil.copytree(ROOT, tmp_path / "tree", ignore=left_out))
    wanted = {str(file.relative_to(tree)) for file in tree.rglob("*") if file.suffix in KINDS}
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    assert "tests/conftest.py" in held
    assert sorted(wanted - held) == []
    assert {"LICENSE", "CITATION.cff", "constraints.txt", ".ci/run"} <= held
