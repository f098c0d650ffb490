"""Ctrl-C, SIGTERM and SIGHUP: what is saved, what is said, and that nothing is left running."""

from __future__ import annotations

from train.command.starting import SCRIPTS

import csv
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
import torch
from kills import differences, results
from together import Together, started_together

from train.command import checkpoint
from train.command.config import ROOT
from train.command.interrupt import Interrupted, deferred, held, interruption, raised, sheltered
from train.command.lock import LOCK
from train.command.parallel import starting
from train.command.run_folder import open_run
from train.tracking.history import STEP

UPDATE = 64
FLAGS = [
    "--model.name=toy",
    "--env.num_envs=8",
    "--env.buffer_length=8",
    "--env.tasks=[copy]",
    "--policy.hidden_size=8",
    "--policy.feedforward_size=8",
    "--ppo.n_steps=8",
    "--ppo.batch_size=32",
    "--evaluation.episodes=2",
    "--evaluation.rules=[]",
    "--wandb.mode=disabled",
    "--checkpoint_every=1000",
    "--filter.learn=false",
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def wait_for(found: Callable[[], object], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < until
        time.sleep(0.02)


def _hear() -> None:
    """A shell's background job, as tests may be, ignores Ctrl-C and hands that on."""
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)


@contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        list(words),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hear,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def steps_of(folder: Path) -> list[int]:
    file = folder / "progress.csv"
    return [int(row[STEP]) for row in csv.DictReader(file.read_text().splitlines())] if file.is_file() else []


SHELTERED = """
import multiprocessing, signal
from train.command.interrupt import sheltered

def tell(end):
    end.send(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        here, there = context.Pipe()  # a queue's lock would start the tracker before
        process = context.Process(target=tell, args=(there,))
        with sheltered():
            process.start()
        print(here.recv(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
        process.join()
"""


@pytest.mark.slow
def test_a_process_is_sheltered_from_its_first_moment(tmp_path: Path) -> None:
    """The first one too: with it multiprocessing starts its tracker, and that unblocks Ctrl-C."""
    script = tmp_path / "script.py"
    script.write_text(SHELTERED)
    with started(sys.executable, str(script)) as process:
        assert process.communicate(timeout=120)[0].split() == ["True", "False"] * 2


@pytest.mark.slow
def test_a_training_saves_what_it_learned_and_goes_on(tmp_path: Path, python: str) -> None:
    out = tmp_path / "my run"
    program = str(ROOT / "train" / "ppo.py")
    with started(python, program, f"--out={out}", *FLAGS, f"--total_timesteps={2000 * UPDATE}") as process:
        wait_for(lambda: len(steps_of(out)) >= 3)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, shown = process.communicate()
    assert time.monotonic() - began < 10  # some tenths of a second on an idle machine
    assert process.returncode == 143
    said = re.search(
        r"error: interrupted by SIGTERM; saved after ([\d,]+) of 128,000 steps in (.*); the \d+ steps played since, "
        r"too few for an update, are not; go on with: (.*)\n",
        shown,
    )
    assert said, shown
    saved = int(said[1].replace(",", ""))
    assert checkpoint.read(Path(said[2]))["counters"]["num_timesteps"] == saved
    assert saved in (steps_of(out)[-1], steps_of(out)[-1] - UPDATE)
    with started(*shlex.split(said[3])) as process:
        wait_for(lambda: steps_of(out)[-1] > saved + UPDATE)
        process.send_signal(signal.SIGHUP)
        _, shown = process.communicate()
    assert process.returncode == 129
    assert "error: interrupted by SIGHUP; saved after" in shown
    steps = steps_of(out)
    assert steps == [UPDATE * (i + 1) for i in range(len(steps))]


@pytest.mark.slow
def test_before_the_first_update_there_is_nothing_and_the_folder_is_given_back(tmp_path: Path, python: str) -> None:
    out = tmp_path / "run"
    words = (python, str(ROOT / "train" / "ppo.py"), f"--out={out}", *FLAGS, "--ppo.n_steps=100000")
    with started(*words, "--total_timesteps=10000000") as process:
        wait_for((out / "versions.json").is_file)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate()
    assert shown.splitlines()[-1] == "error: interrupted by Ctrl-C; there was nothing to save yet"
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_processes_that_train_together_end_together(tmp_path: Path, signum: signal.Signals) -> None:
    """Also where torchrun can't tell them any more."""
    out = tmp_path / "run"
    flags = ["--nproc-per-node=2", str(ROOT / "train" / "ppo.py"), f"--out={out}", *FLAGS]
    with started("torchrun", *flags, f"--total_timesteps={2000 * UPDATE}") as process:
        wait_for(lambda: len(steps_of(out)) >= 2)
        process.send_signal(signum)
        _, shown = process.communicate(timeout=120)
    assert shown.count("error: interrupted by SIGTERM; saved after") == 1, shown
    assert not (out / LOCK).exists()
    assert "go on with: torchrun --nproc-per-node 2" in shown
    state = checkpoint.read(out / "checkpoints" / "latest.safetensors")
    saved = state["counters"]["num_timesteps"]
    assert saved >= 2 * UPDATE
    # Of its own rows and generators, which the first process does not know.
    other = checkpoint.read(out / "checkpoints" / f"latest_1_of_2_after_{saved}.safetensors")
    assert other["counters"] == state["counters"]
    assert not torch.equal(other["generators"]["torch"], state["generators"]["torch"])


@pytest.mark.slow
def test_processes_that_were_killed_together_end_as_those_that_were_not(tmp_path: Path) -> None:
    """Each has rows and generators of its own, in its own part of the checkpoint."""

    def launch(out: Path, *more: str) -> AbstractContextManager[Together]:
        flags = [f"--out={out}", *FLAGS, "--env.temperature=0.7", "--checkpoint_every=3", "--total_timesteps=768"]
        flags += ["--evaluation.validation_episodes=3"]
        return started_together(tmp_path / f"{out.name}.txt", ROOT / "train" / "ppo.py", *flags, *more)

    whole, out = tmp_path / "whole", tmp_path / "killed"
    with launch(whole) as processes:
        assert processes.wait()[0] == [0, 0]
    with launch(out) as processes:
        wait_for(lambda: len(steps_of(out)) >= 4)
        processes.kill()
    with launch(out, "--resume") as processes:
        assert processes.wait()[0] == [0, 0]
    assert len(results(whole)) == 4
    assert differences(results(whole), results(out)) == []
    assert [file.name for file in (out / "checkpoints").iterdir()] == ["latest.safetensors"]


def children(pid: int) -> list[int]:
    # One that has ended since it was listed, as a command that asks git for the commit does, has none.
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def descendants(pid: int) -> list[int]:
    found = children(pid)
    for child in found:
        found += children(child)
    return found


def is_running(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_an_evaluation(tmp_path: Path, signum: signal.Signals) -> None:
    """However it ends; a terminal's Ctrl-C reaches the workers too."""
    words = [str(ROOT / "train" / "evaluate.py"), "--model=toy", "--task=copy", "--buffer_length=8"]
    words += ["--episodes=5000", "--workers=2", f"--out={tmp_path / 'run'}", "--policy=low_confidence:1"]
    with started("python", *words, "--policy=random:1") as process:
        # Two workers, the process that they are copies of, and the tracker of their semaphores.
        wait_for(lambda: len(descendants(process.pid)) >= 4)
        time.sleep(0.5)
        workers = descendants(process.pid)
        if signum == signal.SIGINT:
            os.killpg(process.pid, signum)
        else:
            process.kill()
        _, shown = process.communicate(timeout=60)
        wait_for(lambda: not any(is_running(pid) for pid in workers), 20)
    assert process.returncode == (130 if signum == signal.SIGINT else -signal.SIGKILL)
    if signum == signal.SIGINT:
        assert "Traceback" not in shown
        assert shown.splitlines()[-1].startswith("error: interrupted by Ctrl-C; ")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 1.0])
def test_an_evaluation_ends_soon_while_its_workers_start(tmp_path: Path, seconds: float) -> None:
    """They are copies of a process that imports for seconds, which nobody waits for then."""
    words = [str(ROOT / "train" / "evaluate.py"), "--model=toy", "--task=copy", "--buffer_length=8", "--workers=2"]
    with started(
        sys.executable, *words, f"--out={tmp_path / 'run'}", "--policy=random:1", "--policy=entropy:1"
    ) as process:
        wait_for((tmp_path / "run" / "config.yaml").exists)
        time.sleep(seconds)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, shown = process.communicate(timeout=60)
        # Two where nothing else is at work, as it is where tests run side by side.
        assert time.monotonic() - asked < 5
    assert process.returncode == 143
    assert shown.splitlines()[-1] == "error: interrupted by SIGTERM; there was nothing to save yet"
    assert "Traceback" not in shown


def signal_self(*signals: signal.Signals) -> None:
    for signum in signals:
        os.kill(os.getpid(), signum)


def test_deferred_signals_wait_and_are_not_forgotten(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    reached = False

    def work() -> None:
        nonlocal reached
        with deferred("saving") as stop:
            assert not stop
            signal_self(signal.SIGTERM, signal.SIGTERM)
            assert stop.signum == signal.SIGTERM
            reached = True

    with pytest.raises(Interrupted) as caught:
        work()
    assert (reached, caught.value.status, str(caught.value)) == (True, 143, "interrupted by SIGTERM")
    assert capfd.readouterr().err == "\nsaving; Ctrl-C once more ends it at once\n"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("when", ["before", "meanwhile", "never"])
def test_what_can_be_done_anew_is_broken_off(when: str) -> None:
    seen: list[str] = []

    def attempted() -> str:
        seen.append("begun")
        if when == "meanwhile":
            signal_self(signal.SIGTERM)
        seen.append("done")
        return "result"

    def work() -> None:
        with deferred() as stop:
            if when == "before":
                signal_self(signal.SIGTERM)
            found = stop.attempt(attempted)
            assert found == ("result" if when == "never" else None)
            seen.append("saved")

    if when == "never":
        work()
    else:
        with pytest.raises(Interrupted, match="interrupted by SIGTERM"):
            work()
    steps = {"before": [], "meanwhile": ["begun"], "never": ["begun", "done"]}[when]
    assert seen == [*steps, "saved"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("context", [held, sheltered, starting])
def test_they_wait_whichever_thread_gets_them(
    context: Callable[[], AbstractContextManager[None]], signum: signal.Signals
) -> None:
    """As where a second worker starts, beside the thread that hands the first one its work."""
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    assert other.ident is not None
    # Tests that run in the background ignore Ctrl-C, and so would this.
    before, reached = signal.signal(signum, signal.default_int_handler), False

    def work(thread: int) -> None:
        nonlocal reached
        with raised(), context():
            signal.pthread_kill(thread, signum)
            time.sleep(0.05)
            reached = True

    try:
        with pytest.raises(Interrupted, match="interrupted by"):
            work(other.ident)
        assert signal.getsignal(signum) == signal.default_int_handler
    finally:
        signal.signal(signum, before)
        done.set()
        other.join()
    assert reached


def test_what_held_signals_hid_is_heard_again() -> None:
    """What is ignored stays so; a handler that raises leaves those of other signals as they were."""
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(signum) for signum in names]
    heard: list[int] = []

    def hear(signum: int, frame: object) -> None:
        heard.append(signum)
        if signum == signal.SIGINT:
            raise KeyboardInterrupt

    def work() -> None:
        with held():
            signal_self(*names)
            assert heard == []

    own = [hear, hear, signal.SIG_IGN]
    try:
        for signum, handler in zip(names, own, strict=True):
            signal.signal(signum, handler)
        with pytest.raises(KeyboardInterrupt):
            work()
        assert [signal.getsignal(signum) for signum in names] == own
    finally:
        for signum, handler in zip(names, before, strict=True):
            signal.signal(signum, handler)
    assert heard == [signal.SIGINT]


def test_elsewhere_they_are_raised() -> None:
    def work() -> None:
        with raised():
            signal_self(signal.SIGTERM)

    with pytest.raises(Interrupted, match="interrupted by SIGTERM"):
        work()


def import_an_extension() -> None:
    """Be asked to end as pybind11 imports an extension, which turns whatever is raised into an error of its own."""
    try:
        signal_self(signal.SIGTERM)
    except BaseException as error:
        raise ImportError("initialization failed") from error


def test_one_that_a_library_made_an_error_of_counts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with raised(), open_run(tmp_path / "run", {}):
            import_an_extension()

    with pytest.raises(Interrupted) as caught:
        work()
    assert str(caught.value) == "interrupted by SIGTERM; there was nothing to save yet"
    assert not (tmp_path / "run").exists()

    def attempted() -> None:
        with deferred("saving") as stop:
            assert stop.attempt(import_an_extension) is None

    with pytest.raises(Interrupted, match="interrupted by SIGTERM"):
        attempted()
    assert capfd.readouterr().err == "\nsaving; Ctrl-C once more ends it at once\n"


def test_what_fails_while_a_run_is_ending_is_no_interruption() -> None:
    def work() -> None:
        with raised():
            try:
                signal_self(signal.SIGTERM)
            finally:
                raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full") as caught:
        work()
    assert interruption(caught.value) is None


class Dropping:
    """Its destructor is asked to end, and what it raises is dropped by Python."""

    def __init__(self, signum: signal.Signals) -> None:
        self.signum = signum

    def __del__(self) -> None:
        signal_self(self.signum)
        time.sleep(0)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_one_that_python_drops_is_raised_once_more(signum: signal.Signals) -> None:
    def work() -> None:
        with raised():
            Dropping(signum)
            time.sleep(10)
            pytest.fail("not interrupted")

    before = sys.unraisablehook
    # A shell's background job ignores Ctrl-C, and so may these tests.
    heard = signal.signal(signum, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted) as caught:
            work()
    finally:
        signal.signal(signum, heard)
    assert caught.value.signum == signum
    assert sys.unraisablehook is before


@pytest.mark.slow
def test_one_that_is_dropped_beside_a_fork_is_raised_once_more() -> None:
    """As logging and random run code of their own at every fork."""
    code = "import os, signal, time\nfrom train.command.interrupt import Interrupted, raised\n"
    code += "os.register_at_fork(after_in_parent=lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(0)))\n"
    code += "try:\n with raised():\n  os.fork() or os._exit(0)\n  time.sleep(10)\n"
    code += "except Interrupted as stop:\n print(stop)"
    with started(sys.executable, "-c", code) as process:
        assert process.communicate(timeout=10)[0].endswith("interrupted by SIGTERM\n")


def test_work_that_drops_one_is_broken_off(capfd: pytest.CaptureFixture[str]) -> None:
    def attempted() -> str:
        Dropping(signal.SIGTERM)
        time.sleep(10)
        return "result"

    def work() -> None:
        with deferred("saving") as stop:
            assert stop.attempt(attempted) is None

    with pytest.raises(Interrupted, match="interrupted by SIGTERM"):
        work()
    assert capfd.readouterr().err == "\nsaving; Ctrl-C once more ends it at once\n"


def test_what_else_is_dropped_is_reported() -> None:
    class Failing:
        def __del__(self) -> None:
            raise RuntimeError("lost")

    found: list[object] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda dropped: found.append(dropped.exc_value)
    try:
        with raised():
            Failing()
    finally:
        sys.unraisablehook = before
    assert [str(each) for each in found] == ["lost"]


def test_what_is_ignored_stays_ignored() -> None:
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with deferred() as stop:
            signal_self(signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once() -> None:
    code = "import time\nfrom train.command.interrupt import deferred\nwith deferred():\n print('ready', flush=True)\n"
    code += " while True: time.sleep(0.01)"
    with started(sys.executable, "-c", code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT


def test_ctrl_c_while_python_imports_ends_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "train/ppo.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (-signal.SIGINT, "")


def test_every_script_begins_with_that() -> None:
    files = [file for folder in SCRIPTS for file in (ROOT / folder).glob("*.py")]
    scripts = [file.read_text() for file in files if re.search("__main__", file.read_text()) or file.stem == "__main__"]
    assert len(scripts) > 15
    imports = [re.findall("^(?:import|from) .*", text, re.MULTILINE) for text in scripts]
    assert {first for _, first, *_ in imports} == {"from train.command.starting import end_quietly"}


def test_who_imports_our_scripts_keeps_ctrl_c(tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text("import signal\nimport train.command.starting\nprint(signal.getsignal(signal.SIGINT).__name__)\n")
    command, env = [sys.executable, script], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, preexec_fn=_hear)
    assert done.stdout == "default_int_handler\n"
