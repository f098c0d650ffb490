from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import train
import train.cli
from train.config import ConfigT

FOLDER = Path(train.__file__).parent
COMMANDS = sorted(file.stem for file in FOLDER.glob("*.py") if "__main__" in file.read_text())
"""What ``python train/NAME.py`` can be."""


def start(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command as a shell would, up to the call of its main function, and return what that is given."""
    given: list[Any] = []
    run = train.cli.run

    def stop_at_main(main: Any, config_class: type[ConfigT], *rest: Any, **options: Any) -> None:
        run(given.append, config_class, *rest, **options)

    monkeypatch.setattr("train.cli.run", stop_at_main)
    monkeypatch.setattr(sys, "argv", [f"train/{name}.py", *words])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    [config] = given
    return config


def test_the_commands_are_found() -> None:
    assert {"ppo", "grpo", "learn2pd", "evaluate", "compare", "watch", "sweep", "export", "pretrain"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_starts_without_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start(name, [], monkeypatch)
