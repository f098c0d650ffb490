from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import train
import train.command.cli
from envs.caches import CACHES
from envs.models import FAMILIES
from train.command.config import ConfigT
from train.command.files import write_atomic
from train.export import ExportConfig

FOLDER = Path(train.__file__).parent
COMMANDS = sorted(file.stem for file in FOLDER.glob("*.py") if 'if __name__ == "__main__"' in file.read_text())
"""What ``python train/NAME.py`` can be."""

RUN = train.command.cli.run


def start(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command as a shell would, up to the call of its main function, and return what that is given."""
    given: list[Any] = []

    def stop_at_main(main: Any, config_class: type[ConfigT], *rest: Any, **options: Any) -> None:
        RUN(given.append, config_class, *rest, **options)

    monkeypatch.setattr("train.command.cli.run", stop_at_main)
    monkeypatch.setattr(sys, "argv", [f"train/{name}.py", *words])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    [config] = given
    return config


def test_the_commands_are_found() -> None:
    expected = {"ppo", "grpo", "learn2pd", "evaluate", "compare", "watch", "sweep", "export", "generate", "pretrain"}
    assert expected <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_starts_without_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start(name, [], monkeypatch)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_gives_examples_that_the_command_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        start(name, ["--help"], monkeypatch)
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert re.match(rf"usage: python \S*train/{name}\.py \[--config FILE\]", shown)
    examples = [line.strip() for line in shown.partition("examples:")[2].partition("\n\n")[0].splitlines() if line]
    assert examples
    for example in examples:
        words = shlex.split(example)
        place = words.index(f"train/{name}.py")
        start(name, words[place + 1 :], monkeypatch)


def test_help_shows_a_positional_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        start("compare", ["--help"], monkeypatch)
    assert "[RUNS ...]" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistyped_flag_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        start(name, ["--episods", "3"], monkeypatch)
    assert stop.value.code == 2
    assert re.fullmatch(r"error: there is no flag --episods: .*\?\n|.*lists them all\n", capsys.readouterr().err)


def test_a_flag_that_a_section_lacks_names_those_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag, hint in (
        ("--model.checkpoint", "choose from --model.name, --model.family, --model.chat_template, --model.revision, "),
        ("--model.nmae", "did you mean --model.name?"),
        ("--model.alpha", "did you mean --env.alpha?"),
    ):
        with pytest.raises(SystemExit):
            start("ppo", [flag, "x"], monkeypatch)
        assert capsys.readouterr().err.startswith(f"error: there is no flag {flag}: {hint}")


def test_the_help_lists_what_the_tables_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("evaluate", "generate", "ppo"):
        with pytest.raises(SystemExit):
            start(name, ["--help"], monkeypatch)
        text = " ".join(capsys.readouterr().out.split())
        assert f"One of {', '.join(CACHES)}. (default: none)" in text
        assert f"One of {', '.join(FAMILIES)}." in text


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--help", "--print_config", "run"])
def test_a_reader_that_has_seen_enough_ends_it_quietly(words: str) -> None:
    code = "from train.command.cli import run; from train.export import ExportConfig; "
    code += "run(lambda config: [print('x' * 99) for _ in range(9999)], ExportConfig, positional='policy')"
    told = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" "$2" | true; exit ${PIPESTATUS[0]}', sys.executable, code, words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (told.stderr, told.returncode) == ("", 141)


def test_a_broken_pipe_of_another_kind_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_off(config: ExportConfig) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sys.argv", ["export.py"])
    with pytest.raises(SystemExit) as stop:
        RUN(break_off, ExportConfig)
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: [Errno 32] Broken pipe\n"


@pytest.mark.slow
def test_a_pipe_that_knows_ascii_only_ends_nothing() -> None:
    code = "from train.command.cli import run; from train.export import ExportConfig; "
    code += "run(lambda _: print('1 ± 2'), ExportConfig)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"1 ? 2\n"


@pytest.mark.parametrize("error", [ValueError("seed is -1"), OSError(28, "No space left on device", "a/b")])
def test_what_a_user_can_put_right_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: Any) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["export.py"])
    with pytest.raises(SystemExit) as stop:
        train.command.cli.run(fail, ExportConfig)
    assert stop.value.code == (2 if isinstance(error, ValueError) else 1)
    said = str(error) if isinstance(error, ValueError) else "No space left on device: 'a/b'"
    assert capsys.readouterr().err == f"error: {said}\n"


def test_a_folder_where_a_file_is_to_be_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not the file that was to take its place."""
    (tmp_path / "pareto.png").mkdir()

    def fail(config: Any) -> None:
        write_atomic(tmp_path / "pareto.png", "picture")

    monkeypatch.setattr(sys, "argv", ["export.py"])
    with pytest.raises(SystemExit):
        train.command.cli.run(fail, ExportConfig)
    assert capsys.readouterr().err == f"error: Is a directory: '{tmp_path / 'pareto.png'}'\n"


def test_without_standard_output_it_ends_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["export.py"])
    monkeypatch.setattr(sys, "stdout", None)
    train.command.cli.run(lambda config: None, ExportConfig)


def test_what_a_stranger_wrote_moves_no_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: Any) -> None:
        raise ValueError("\x1b[31mred\nsecond line")

    monkeypatch.setattr(sys, "argv", ["export.py"])
    with pytest.raises(SystemExit):
        train.command.cli.run(fail, ExportConfig)
    assert capsys.readouterr().err == "error: ?[31mred\nsecond line\n"
