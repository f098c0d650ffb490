"""Run folders: who holds one, what is given back, what a resume may change, and that every advice works."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from folders import Config, Section, finish

from train import export
from train.command.cli import run
from train.command.config import ROOT
from train.command.errors import UserError
from train.command.files import replaced, write_atomic
from train.command.lock import LOCK, read_holder
from train.command.provenance import command_line, redact
from train.command.run_folder import differences, has_result, open_run
from train.command.wandb_config import WandbConfig
from train.export import ExportConfig
from train.pretrain import pretrain
from train.pretraining.config import PretrainConfig
from train.sweep import SweepConfig, main


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# Giving back.


@pytest.mark.parametrize("error", [ValueError("no data"), KeyboardInterrupt(), UserError("W&B can't start")])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_start_that_fails_gives_the_folder_back(tmp_path: Path, error: BaseException, is_there: bool) -> None:
    folder = tmp_path / "runs" / "a"
    if is_there:
        folder.mkdir(parents=True)

    def fail() -> None:
        with open_run(folder, Config(folder), False):
            (folder / "wandb" / "offline-run-1").mkdir(parents=True)
            (folder / "wandb_id.txt").write_text("abcd1234\n")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert folder.exists() == is_there
    assert list(tmp_path.iterdir()) == ([tmp_path / "runs"] if is_there else [])
    finish(replace(Config(folder), seed=1))


def test_a_run_that_fails_later_keeps_what_it_made(tmp_path: Path) -> None:
    config = Config(tmp_path / "a")

    def fail() -> None:
        with open_run(config.out, config, False):
            (config.out / "progress.csv").write_text("x")
            raise ValueError("late")

    with pytest.raises(ValueError, match="late"):
        fail()
    assert set(contents(config.out)) == {"command.txt", "config.yaml", "progress.csv", "versions.json"}
    finish(replace(config, resume=True))


@pytest.mark.slow
def test_a_killed_start_does_not_block_the_next_one(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from folders import Config\n"
    code += "from train.command.run_folder import open_run\nconfig = Config(Path(sys.argv[1]))\n"
    code += "with open_run(config.out, config, False): os.kill(os.getpid(), 9)"
    folder = tmp_path / "a"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'helpers'}"}
    done = subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (folder / LOCK).is_file()
    assert not has_result(folder)
    finish(Config(folder, seed=5))
    assert "seed: 5" in (folder / "config.yaml").read_text()


@pytest.mark.parametrize("mine", ["config.yaml", "notes.txt", "wandb/offline-run-1/run-1.wandb"])
def test_what_is_the_users_is_left_alone(tmp_path: Path, mine: str) -> None:
    file = tmp_path / "a" / mine
    write_atomic(file, "mine: true\n")
    with pytest.raises(UserError, match=r": choose another folder, as in --out .*/a-2$"):
        finish(Config(tmp_path / "a"))
    assert contents(tmp_path / "a") == {mine: b"mine: true\n"}


# Resuming.


@pytest.mark.parametrize(
    "change",
    [
        {"wandb": WandbConfig(mode="online", tags=["x"])},
        {"checkpoint_every": 1},
        {"model": Section(threads=4)},
    ],
)
def test_what_changes_no_result_does_not_hinder_a_resume(tmp_path: Path, change: dict[str, object]) -> None:
    config = Config(tmp_path / "a")
    finish(config)
    finish(replace(config, resume=True, **change), "more.txt")  # type: ignore[arg-type]
    assert (config.out / "more.txt").is_file()


def test_a_folder_that_was_moved_goes_on(tmp_path: Path) -> None:
    finish(Config(tmp_path / "a"))
    moved = (tmp_path / "a").rename(tmp_path / "b")
    finish(Config(moved, resume=True), "more.txt")
    assert f"out: {moved}" in (moved / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 3}, "seed was 0, now 3"),
        ({"model": Section(name="other")}, "model.name was 'tiny', now 'other'"),
        ({"dit": Section()}, "dit was None, now {'name': 'tiny', 'threads': 1}"),
    ],
)
@pytest.mark.parametrize("resume", [True, False])
def test_what_differs_is_named(tmp_path: Path, change: dict[str, object], words: str, resume: bool) -> None:
    config = Config(tmp_path / "a")
    finish(config)
    before = contents(config.out)
    with pytest.raises(UserError, match=r"config.yaml differs") as caught:
        finish(replace(config, resume=resume, **change))  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert contents(config.out) == before


def test_a_run_of_another_command_is_not_compared_field_by_field(tmp_path: Path) -> None:
    config = Config(tmp_path / "a")
    finish(config)
    names = ("file", "trials", "metric", "method", "last", "best", "least")
    write_atomic(config.out / "config.yaml", "out: a\n" + "".join(f"{name}: x\n" for name in names))
    with pytest.raises(UserError, match=r"which holds a run of another command: choose another folder"):
        finish(replace(config, resume=True))


def test_a_setting_that_the_runs_version_did_not_have_is_no_difference() -> None:
    assert differences({"a": 1, "s": {"b": 2}}, {"a": 1, "new": 5, "s": {"b": 2, "new": 6}}) == {}
    assert list(differences({"a": 1, "gone": 2}, {"a": 1})) == ["gone"]
    # What a run of an older version didn't have, it did as is usual.
    new, usual = {"a": 1, "new": 5, "s": {"b": 2, "new": 6}}, {"a": 0, "new": 5, "s": {"b": 0, "new": 7}}
    assert differences({"a": 1, "s": {"b": 2}}, new, usual=usual) == {"s.new": (7, 6)}
    assert differences({"a": 1, "s": {"b": 2}}, new, ["s.new"], usual) == {}
    assert differences({"m": {"threads": 1, "x": 1}}, {"m": {"threads": 2, "x": 1}}, ["m.threads"]) == {}


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run to resume: leave out --resume"):
        finish(Config(tmp_path / "a", resume=True))
    assert list(tmp_path.iterdir()) == []
    finish(Config(tmp_path / "a"))  # as the message says


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\0", "a: &a [*a]\n" * 3])
def test_a_damaged_configuration_is_one_sentence(tmp_path: Path, text: str) -> None:
    finish(Config(tmp_path / "a"))
    (tmp_path / "a" / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        finish(Config(tmp_path / "a", resume=True))


# The advice, word for word.


def run_here(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> int | str | None:
    """A command line of train/sweep.py, as a shell has taken it apart, without a new process."""
    assert words[:2] == [Path(sys.executable).name, "train/sweep.py"]
    monkeypatch.setattr(sys, "argv", words[1:])
    try:
        run(main, SweepConfig)
    except SystemExit as stop:
        return stop.code
    return 0


def test_every_command_that_a_message_advises_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.sweep.run_trial", lambda *_: 1.0)
    monkeypatch.setattr("train.sweep.evaluate_best", lambda *_: None)
    Path("sweep.yaml").write_text("metric: {name: rollout/nfe}\nparameters: {seed: {values: [1, 2]}}\n")
    start = [Path(sys.executable).name, "train/sweep.py", "--file", "sweep.yaml", "--out", "my runs/s", "--trials"]
    assert run_here(monkeypatch, [*start, "1"]) == 0
    assert run_here(monkeypatch, [*start, "2"]) == 2
    refused = capsys.readouterr().err
    assert refused.count("\n") == 1
    [again] = re.findall(r"go on with the run that it holds by: (.*); or", refused)
    assert run_here(monkeypatch, shlex.split(again)) == 0
    assert len(Path("my runs/s/trials.jsonl").read_text().splitlines()) == 2
    # Other settings: to the run that is there, and to another folder.
    assert run_here(monkeypatch, [*start, "2", "--seed", "7"]) == 2
    refused = capsys.readouterr().err
    assert "seed was 0, now 7" in refused
    there, elsewhere = re.findall(r"by: (.*); or choose another folder, as in (--out .*)$", refused.strip())[0]
    assert run_here(monkeypatch, shlex.split(there)) == 0
    assert run_here(monkeypatch, [*start, "1", "--seed", "7", *shlex.split(elsewhere)]) == 0
    assert Path("my runs/s-2/trials.jsonl").is_file()


# One writer.

HOLDER = """
import sys, time
from pathlib import Path
from folders import Config
from train.command.run_folder import open_run
config = Config(Path(sys.argv[1]))
with open_run(config.out, config, False):
    (config.out / "progress.csv").write_text("x")
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    folder = tmp_path / "a"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'helpers'}"}
    words = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield folder, process
        process.kill()


@pytest.mark.slow
def test_a_second_process_says_who_holds_the_folder(holder: tuple[Path, subprocess.Popen[str]]) -> None:
    folder, process = holder
    assert read_holder(folder / LOCK)["pid"] == process.pid
    for resume in (True, False):
        with pytest.raises(UserError, match=rf"which process {process.pid} on \S+ writes to \(python.* -c .*started 2"):
            finish(Config(folder, resume=resume))
    process.kill()
    process.wait()
    # A dead holder's lock is no lock.
    finish(Config(folder, resume=True))
    assert not (folder / LOCK).exists()


@pytest.mark.slow
def test_where_there_are_no_locks_the_process_counts(
    holder: tuple[Path, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, process = holder

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(UserError, match=f"process {process.pid}"):
        finish(Config(folder, resume=True))
    process.kill()
    process.wait()
    finish(Config(folder, resume=True))
    # Of another machine it can't be known.
    about = {"pid": process.pid, "host": "elsewhere", "command": "python", "started": "2026-01-01"}
    (folder / LOCK).write_text(json.dumps(about))
    with pytest.raises(UserError, match="on elsewhere writes to"):
        finish(Config(folder, resume=True))


def test_one_process_can_not_hold_it_twice(tmp_path: Path) -> None:
    config = Config(tmp_path / "a")
    with open_run(config.out, config, False), pytest.raises(UserError, match=f"which process {os.getpid()} "):
        finish(config)
    assert not (config.out / LOCK).exists()


# Disks.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_one_sentence_and_leaves_whole_files(small_disk: Path) -> None:
    config = Config(small_disk / "a")

    def fill() -> None:
        with open_run(config.out, config, False):
            write_atomic(config.out / "progress.csv", "x" * 10_000)
            write_atomic(config.out / "progress.csv", "y" * 100_000)

    with pytest.raises(UserError, match=r"No space left on device .*make room, then go on with: .*--resume"):
        fill()
    assert (config.out / "progress.csv").read_text() == "x" * 10_000
    assert not list(config.out.glob("*.tmp"))
    finish(replace(config, resume=True))


def test_a_start_that_a_full_disk_ends_is_begun_again(small_disk: Path) -> None:
    """It leaves nothing to resume, and what it advises works."""
    (small_disk / "full").write_bytes(b"x" * 60_000)
    config = Config(small_disk / "a")

    def fill() -> None:
        with open_run(config.out, config, False):
            write_atomic(config.out / "progress.csv", "y" * 100_000)

    with pytest.raises(UserError, match=r"make room, then go on with: (?!.*--resume)"):
        fill()
    (small_disk / "full").unlink()
    finish(config)


@pytest.mark.parametrize("name", [LOCK, "versions.json", "versions.json.tmp", "progress.csv"])
def test_no_link_in_a_strangers_folder_is_written_through(tmp_path: Path, name: str) -> None:
    finish(Config(tmp_path / "run"))
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to(victim)
    with pytest.raises(
        UserError, match=r"is no plain file: delete it|is a link to another file, which would be written"
    ):
        finish(Config(tmp_path / "run", resume=True))
    assert victim.read_text() == "mine"


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    for name in ("a.txt", "a.txt.tmp"):
        (tmp_path / name).symlink_to(victim)
    write_atomic(tmp_path / "a.txt", "new")
    assert ((tmp_path / "a.txt").read_text(), (tmp_path / "a.txt").is_symlink()) == ("new", False)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda place: os.symlink("/dev/null", place)])
def test_what_is_no_file_is_no_lock(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / LOCK)
    with pytest.raises(UserError, match=r"\.lock' is no plain file: delete it, or choose another --out"):
        finish(Config(tmp_path))


def test_an_interrupted_write_leaves_no_part(tmp_path: Path) -> None:
    def write() -> None:
        with replaced(tmp_path / "a.png") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_be_written_is_one_sentence(small_disk: Path) -> None:
    finish(Config(small_disk / "a"))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for config in (Config(small_disk / "a", resume=True), Config(small_disk / "b")):
        with pytest.raises(UserError, match=r"Read-only file system .*make it writable, or choose another --out"):
            finish(config)


def export_tiny(out: Path) -> object:
    return export.main(ExportConfig("tiny", out, "folder"))


def pretrain_roberta(out: Path) -> object:
    return pretrain(PretrainConfig(out, steps=1, batch_size=4, group_size=4, hidden_size=16, num_layers=1))


def pretrain_llada(out: Path) -> object:
    config = PretrainConfig(out, steps=1, batch_size=4, group_size=4, hidden_size=32, num_layers=1)
    return pretrain(replace(config, architecture="llada"))


WRITERS = pytest.mark.parametrize("write", [export_tiny, pretrain_roberta, pretrain_llada])


@WRITERS
def test_weights_that_do_not_fit_are_one_sentence(small_disk: Path, write: Callable[[Path], object]) -> None:
    """Of a full disk safetensors says that it can't serialise."""
    with pytest.raises(UserError, match=r"No space left on device .*make room, then go on with: "):
        write(small_disk / "a")
    assert not list(small_disk.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    write(small_disk / "a")


@WRITERS
def test_weights_where_nothing_can_be_written_are_one_sentence(
    small_disk: Path, write: Callable[[Path], object]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(UserError, match=r"Read-only file system .*make it writable, or choose another --out"):
        write(small_disk / "a")


@pytest.mark.parametrize("write", [export_tiny, pretrain_roberta, lambda out: finish(Config(out))])
def test_out_in_a_file_is_one_sentence(tmp_path: Path, write: Callable[[Path], object]) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match="lies in a file: choose another --out"):
        write(tmp_path / "notes" / "a")
    with pytest.raises(UserError, match="which is a file: choose another --out"):
        write(tmp_path / "notes")


def test_whoever_may_read_the_folder_may_read_its_weights(tmp_path: Path) -> None:
    export_tiny(tmp_path / "a")
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "a").iterdir()}
    assert set(modes) == {"config.json", "model.safetensors", "README.md"}
    assert len(set(modes.values())) == 1, modes


# What is written about the start.


def test_no_secret_is_in_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789secret")
    monkeypatch.setattr(sys, "argv", ["train/ppo.py", "--model.name", "https://me:pass@host/x", "hf_0123456789secret"])
    assert redact(command_line()).endswith("train/ppo.py --model.name https://***@host/x ***")
    finish(Config(tmp_path / "a"))
    assert "secret" not in (tmp_path / "a" / "command.txt").read_text()


def test_torchruns_command_names_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(sys, "argv", ["train/ppo.py"])
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert command_line("--resume") == "torchrun --nproc-per-node 8 train/ppo.py --resume"
