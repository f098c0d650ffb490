"""Every shell line and every Python snippet of the README and the pages, as it stands, in order, in a fresh folder."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import runpy
import select
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from experiments.base import QUICK_DIAL, QUICK_TRAINING

from train.command import cli
from train.command.config import ROOT, parse

NEEDS_NETWORK = "downloads packages: .ci/run installs the same way before the tests run"
NEEDS_HUB = "needs weights of several GB from the Hugging Face hub and a GPU"
NEEDS_ACCOUNT = "needs an account of Weights & Biases"
NEEDS_WRITING = "writes to the Hugging Face hub; tests/policies/test_hub.py tries it against a stand-in"
NEEDS_ENGINE = "needs SGLang and a GPU; tests/policies/test_formats.py tries the exported packages against stand-ins"
IS_THE_SUITE = "is this suite or a part of .ci/run"

NOT_RUN = {
    "pip install -c constraints.txt -e .": NEEDS_NETWORK,
    "pip install -c constraints.txt -e '.[dev]'": NEEDS_NETWORK,
    "pip install -c constraints.txt -e '.[dev,docs]'": NEEDS_NETWORK,
    "pip install -c constraints.txt -e '.[tasks,sweep]'": NEEDS_NETWORK,
    "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu": NEEDS_NETWORK,
    "python -m venv .venv": "makes an environment, which .ci/run does too",
    "source .venv/bin/activate": "changes the shell it is typed into",
    "pytest -n 2": IS_THE_SUITE,
    'pytest -n 2 -m "not slow"': IS_THE_SUITE,
    "pytest -m gpu": "needs a GPU; tests/project/test_pretended_card.py tries it without one",
    'pytest -p pretended_card -m "gpu and not slow"': IS_THE_SUITE,
    "python tests/helpers/engines.py": NEEDS_NETWORK,
    "python train/grpo.py --config configs/grpo_prose.yaml --out runs/prose": (
        "learns its filter for minutes before its first update"
    ),
    "python train/grpo.py --config configs/grpo_prose_gpu.yaml --out runs/prose_gpu": "needs a GPU",
    "ruff check .": IS_THE_SUITE,
    "ruff format --check .": IS_THE_SUITE,
    "mypy": IS_THE_SUITE,
    "zensical build --strict": IS_THE_SUITE,
    "python train/evaluate.py --config configs/models/llada.yaml --task gsm8k --policy threshold:0.9 --batch_size 16 "
    "--out runs/llada": NEEDS_HUB,
    "python train/ppo.py --config configs/models/llada.yaml --env.task gsm8k --dry-run": NEEDS_HUB,
    "wandb sync runs/ppo/wandb/offline-run-*": NEEDS_ACCOUNT,
    "python train/ppo.py --wandb.mode online --wandb.project unmasking --wandb.group alphas --out runs/online": (
        NEEDS_ACCOUNT
    ),
    "python train/compare.py wandb:ENTITY/PROJECT/RUN_ID 'wandb:ENTITY/PROJECT?group=alphas' "
    "--out runs/compare_wandb": NEEDS_ACCOUNT,
    "python train/export.py runs/engine/policy --to hub --license mit --out runs/pushed --repository user/my-policy": (
        NEEDS_WRITING
    ),
    "pip install -c constraints.txt -e '.[harness]'": NEEDS_NETWORK,
    "pip install -c constraints.txt -e '.[serving]'": NEEDS_NETWORK,
    "python -m train.harness --model unmasking --model_args "
    "pretrained=GSAI-ML/LLaDA-8B-Instruct,policy=runs/ppo/policy,block_length=32 --tasks gsm8k --apply_chat_template "
    "--batch_size 16": NEEDS_HUB,
    "pip install 'sglang>=0.5.23'": NEEDS_ENGINE,
    "pip install runs/sglang": NEEDS_ENGINE,
    "python -m sglang.launch_server --model-path inclusionAI/LLaDA2.0-mini --trust-remote-code --dllm-algorithm "
    "UnmaskingPolicy --dllm-algorithm-config runs/sglang/unmasking.yaml": NEEDS_ENGINE,
    "curl http://localhost:30000/v1/chat/completions -H 'Content-Type: application/json' -d "
    '\'{"model": "default", "messages": [{"role": "user", "content": "What is 17 times 23?"}]}\'': NEEDS_ENGINE,
    "wandb sweep configs/sweep.yaml": NEEDS_ACCOUNT,
    "wandb agent ENTITY/PROJECT/SWEEP_ID": NEEDS_ACCOUNT,
}
"""Commands that can't run here, and why; most are tried against stand-ins, as in tests/train/test_wandb_runs.py."""

NO_FILTER = ("--filter.learn", "false")
"""The main job, which is left once it has learned a filter and from it, has one; others need not learn theirs again."""

SHORT = {
    "train/ppo.py": (
        "runs/ppo",
        [*QUICK_TRAINING, *NO_FILTER, "--evaluation.rules", "[threshold:0.9]", "--env.problems", "32"],
    ),
    "train/evaluate.py": ("runs/evaluate", ["--episodes", "1"]),
    "train/ppo.py --config configs/engine.yaml": (
        "runs/engine",
        [*QUICK_DIAL, *NO_FILTER, "--env.block_lengths", "[16]", "--evaluation.rules", "[]"],
    ),
}
"""By script, or script and configuration: its folder, and arguments that end it soon, for the lines after it that need
its results."""

AT_WORK = re.compile(r"\b[1-9][\d.,]*[kM]?/\d[\d.,]*[kM]? \[|collecting \S+: +0%")
"""A progress bar that has left zero: a problem was decoded. Where a filter is learned first, its bar is enough: it
leaves zero after 64 problems, many seconds of two cores; the main job goes through all of that."""

HAS_LEARNED = re.compile(r"\b[1-9][\d.,]*[kM]?/\d[\d.,]*[kM]? \[[^]]*step/s")
"""The bar of a training that has left zero: an update is finished, not only the filter that it starts from."""

MAIN_JOB = ("README.md", "python train/ppo.py")
"""What is left only once it has learned something. Other trainings are left before: an update comes after the filter
that they start from, a minute of work each; tests/train/ has each trainer's whole job."""

PATIENCE = 240.0
"""Seconds that a command may take to get to work."""

SESSION = """
import json, sys
names = {"__name__": "__main__"}
for line in sys.stdin:
    exec(compile(json.loads(line), "snippet", "exec"), names)
    print("\\0", flush=True)
"""
"""Runs snippets one after another; a zero byte ends what each prints."""

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Command:
    """One command of a shell line; ``a && b`` is two."""

    text: str


@dataclass(frozen=True)
class Snippet:
    """A block of Python, and what the page says that it prints, if it says so."""

    text: str
    printed: str | None


def parts_of(page: str) -> list[Command | Snippet]:
    """Take a page's blocks of bash and Python apart, in order."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    found: list[Command | Snippet] = []
    for (language, text), (following, printed) in pairwise([*blocks, ("", "")]):
        if language == "python":
            found.append(Snippet(text, printed if following == "text" else None))
        if language == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                words = re.sub(r"\s+#.*", "", line).split(" && ")
                found += [Command(" ".join(part.split())) for part in words if part.strip()]
    return found


def is_run(page: str) -> bool:
    parts = parts_of((ROOT / page).read_text())
    return any(isinstance(part, Snippet) or part.text not in NOT_RUN for part in parts)


class Folder:
    """A fresh copy of the repository, the shell in it, and one Python session for the page's snippets.

    Args:
        root: where to put it.
        commands: folder whose commands the shell finds before all others.
    """

    def __init__(self, root: Path, commands: Path) -> None:
        left_out = shutil.ignore_patterns(".*", "runs", "build", "wandb", "*.egg-info")
        self.root = Path(shutil.copytree(ROOT, root, ignore=left_out))
        path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.session = root.with_name("session.py")
        self.session.write_text(SESSION)
        # As after the installation of the copy; the tests' own arguments and settings stay outside.
        self.env = {**os.environ, "PATH": path, "PYTHONPATH": str(self.root), "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
        self.plain = self.env | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        self.python: subprocess.Popen[str] | None = None

    def run(self, command: str, needed: bool, is_main_job: bool) -> None:
        """Run a command to its end, or interrupt it once it is at work.

        Args:
            command: as it stands on the page.
            needed: whether a later line reads what it makes; then it is run again, cut short.
            is_main_job: whether Python as it is runs it, and it is at work only once it has learned something.
        """
        status, output = self._start(command, is_main_job)
        if status == 0:
            return
        assert status == "interrupted", f"{command}\nended with {status}:\n{output[-4000:]}"
        if needed:
            words = shlex.split(command)
            out, arguments = SHORT.get(" ".join(words[1:4]), SHORT[words[1]])
            if "--out" in words:
                out = words[words.index("--out") + 1]
            shutil.rmtree(self.root / out, ignore_errors=True)
            done = subprocess.run([*words, *arguments], cwd=self.root, env=self.env, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    def _start(self, command: str, is_main_job: bool) -> tuple[int | str, str]:
        is_at_work = HAS_LEARNED if is_main_job else AT_WORK
        terminal, inside = pty.openpty()  # where progress bars move
        termios.tcsetwinsize(inside, (50, 120))
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.root,
            env=self.plain if is_main_job else self.env,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            # Tests that run in the background ignore it, and so would this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        os.close(inside)
        output, deadline, is_interrupted = "", time.monotonic() + PATIENCE, False
        try:
            while time.monotonic() < deadline:
                if select.select([terminal], [], [], 0.1)[0]:
                    # Linux ends a terminal that nobody holds with an error.
                    with contextlib.suppress(OSError):
                        output += os.read(terminal, 65536).decode(errors="replace")
                if process.poll() is not None:
                    break
                if not is_interrupted and is_at_work.search(output):
                    os.killpg(process.pid, signal.SIGINT)
                    is_interrupted = True
            else:
                pytest.fail(f"{command}\nis not at work after {PATIENCE:.0f} seconds:\n{output[-4000:]}")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(terminal)
        if is_interrupted and process.returncode == 130 and "Traceback" not in output:
            return "interrupted", output
        return process.returncode, output

    def execute(self, snippet: Snippet) -> None:
        """Run a snippet after those before it, and compare what it prints."""
        if self.python is None:
            self.errors = (self.root / "errors.txt").open("w+")
            self.python = subprocess.Popen(
                ["python", str(self.session)],
                cwd=self.root,
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
            )
        assert self.python.stdin is not None
        assert self.python.stdout is not None
        self.python.stdin.write(json.dumps(snippet.text) + "\n")
        self.python.stdin.flush()
        printed = ""
        for line in self.python.stdout:
            if line == "\0\n":
                break
            printed += line
        else:
            self.errors.seek(0)
            pytest.fail(f"{snippet.text}\nfails:\n{printed}{self.errors.read()[-4000:]}")
        if snippet.printed is not None:
            assert printed == snippet.printed

    def close(self) -> None:
        if self.python is not None:
            assert self.python.stdin is not None
            self.python.stdin.close()
            self.python.wait(60)
            self.errors.close()


LONG = {"README.md": 110.0, "docs/training.md": 55.0, "docs/serving.md": 35.0, "docs/caches.md": 25.0}
"""Seconds of an idle core of the longest pages, which start first."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow(seconds=LONG.get(page, 15.0))) for page in PAGES if is_run(page)],
)
def test_a_page_runs_as_it_stands(page: str, tmp_path: Path, python: str) -> None:
    """The main job with Python as it is; the others with one that starts sooner."""
    parts = parts_of((ROOT / page).read_text())
    folder = Folder(tmp_path / "clone", Path(python).parent)
    try:
        for i, part in enumerate(parts):
            if isinstance(part, Snippet):
                folder.execute(part)
            elif part.text not in NOT_RUN:
                later = " ".join(other.text for other in parts[i + 1 :] if other.text not in NOT_RUN)
                folder.run(part.text, _is_needed(part.text, later), (page, part.text) == MAIN_JOB)
    finally:
        folder.close()


def _is_needed(command: str, later: str) -> bool:
    words = shlex.split(command)
    out = SHORT.get(words[1], (None,))[0] if len(words) > 1 else None
    if "--out" in words:
        out = words[words.index("--out") + 1]
    return out is not None and re.search(rf"{re.escape(out)}(?![\w])", later) is not None


def test_what_is_not_run_stands_on_a_page() -> None:
    parts = [part.text for page in PAGES for part in parts_of((ROOT / page).read_text()) if isinstance(part, Command)]
    assert sorted(NOT_RUN.keys() - set(parts)) == []
    page, command = MAIN_JOB
    assert Command(command) in parts_of((ROOT / page).read_text())


def mentioned(page: str) -> list[str]:
    """Return the commands in a page's sentences, with their arguments, that start a script of ours."""
    sentences = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    spans = (" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`", sentences))
    return [span for span in spans if re.match(r"(python|torchrun --nproc-per-node \d+) \S+\.py\b", span)]


MENTIONED = {command: page for page in PAGES for command in mentioned((ROOT / page).read_text())}


@pytest.mark.parametrize("command", MENTIONED)
def test_a_command_in_a_sentence_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its script is there, and takes these words; to run all of them would take hours."""
    parsed: list[object] = []

    def only_parse(main: object, kind: Any, file: str | None = None, *, positional: str | None = None) -> None:
        parsed.append(parse(kind, file, positional=positional))

    script, *words = shlex.split(re.sub(r"^(python|torchrun --nproc-per-node \d+) ", "", command))
    monkeypatch.chdir(ROOT)
    if script.startswith("tests/"):
        assert Path(script).is_file()
        return
    monkeypatch.setattr(cli, "run", only_parse)
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(script, run_name="__main__")
    assert len(parsed) == 1


def test_a_page_is_taken_apart() -> None:
    shell, python = "```bash\na 'b' && c   # d\n\ne \\\n  f\n```", "```python\nx = 1\nprint(x)\n```"
    assert mentioned("Use `python a/b.py\n--c 'd'` or `x`.\n\n```bash\npython e.py  # `python f.py`\n```\n") == [
        "python a/b.py --c 'd'"
    ]
    page = f"{shell}\n\n{python}\n\nIt prints\n\n```text\n1\n```\n"
    snippet = Snippet("x = 1\nprint(x)\n", "1\n")
    assert parts_of(page) == [Command("a 'b'"), Command("c"), Command("e f"), snippet]


def test_ci_runs_the_command_of_the_readme() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    [line] = [line.partition("  #")[0].strip() for line in lines if "&& pytest" in line]
    assert line in (ROOT / ".ci" / "run").read_text().splitlines()
