"""Texts as a shell takes them."""

from __future__ import annotations

import os
import subprocess

import pytest

from train.command.escaping import for_shell


@pytest.mark.parametrize(
    "word",
    ["plain", "", "a b", "it's", "$HOME `x` \\", "\x1b[31mred\x1b[0m", "it's\n\\n\ttwo", "é\u202eü\x07", "\udcff"],
)
def test_a_shell_reads_a_word_as_it_was(word: str) -> None:
    shown = for_shell("printf", "%s", word)
    assert shown.isprintable()
    done = subprocess.run(["bash", "-c", shown], capture_output=True, check=True)
    assert done.stdout == os.fsencode(word)
