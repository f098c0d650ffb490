"""Progress in a log: whole lines, not too many."""

from __future__ import annotations

import sys
import time

import pytest
from tqdm import tqdm

from train.command import progress as module
from train.command.progress import progress


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    text = capsys.readouterr().err
    assert "\r" not in text
    assert text == "" or text.endswith("\n")
    return text.splitlines()


def test_a_log_has_the_first_and_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(total=1000, desc="training", unit="step") as bar:
        for i in range(1000):
            bar.set_postfix(score=i, refresh=False)
            bar.update()
            if i == 500:
                tqdm.write("something else", file=sys.stderr)
    first, other, last = lines(capsys)
    assert first.startswith("training: 0% 0/1000 steps [")
    assert other == "something else"
    assert last.startswith("training: 100% 1000/1000 steps [")
    assert last.endswith("score=999]")


def test_a_line_every_so_often(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.1)
    began = time.monotonic()
    with progress(total=50, desc="training") as bar:
        for _ in range(50):
            time.sleep(0.01)
            bar.update()
    shown = lines(capsys)
    # The first, the last, and between them no more than there was time for.
    assert 4 <= len(shown) <= 2 + (time.monotonic() - began) / 0.1


def test_what_is_hidden_or_soon_over_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for options in ({"disable": True}, {"delay": 60}):
        assert list(progress(range(3), **options)) == [0, 1, 2]
    assert lines(capsys) == []


@pytest.mark.parametrize(("unit", "several"), [("policy", "policies"), ("step", "steps")])
def test_units_stand_in_the_plural(capsys: pytest.CaptureFixture[str], unit: str, several: str) -> None:
    list(progress(range(2), desc="recording", unit=unit))
    assert lines(capsys)[-1].startswith(f"recording: 100% 2/2 {several} [")
