from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from envs.tasks.humaneval import humaneval_program
from envs.tasks.mbpp import mbpp_program
from envs.tasks.sandbox import passes


@pytest.mark.parametrize(
    "program",
    [
        "assert sum(range(4)) == 6",
        "print('x' * 10**6); import sys; sys.stderr.write('y')",
        "if __name__ == '__main__': input()",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nassert A(1).x == 1",
        "import numpy as np\nassert np.arange(3).sum() == 3",
        "import os\nassert 'SECRET' not in os.environ and os.listdir('.') == []",
    ],
)
def test_good_programs_pass(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    assert passes(program, seconds=20)


@pytest.mark.parametrize(
    "program",
    [
        "assert False",
        "x ==",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise KeyboardInterrupt",
        "def f(): return f()\nf()",
        "x = [0] * 10**9",
        "open('made', 'w')",
        "import pathlib; pathlib.Path('made').write_text('x')",
        "import os; os.open('made', os.O_CREAT | os.O_WRONLY); os.write(3, b'x')",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import multiprocessing; multiprocessing.Process(target=print).start()",
        "import ctypes; ctypes.CDLL(None).getpid()",
        "import os; os.kill(os.getppid(), 0)",
    ],
)
def test_bad_programs_fail(program: str) -> None:
    assert not passes(program, seconds=20)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(60)"])
def test_time_is_limited(program: str) -> None:
    began = time.monotonic()
    assert not passes(program, seconds=1)
    assert time.monotonic() - began < 10


def test_there_is_no_network_and_no_way_to_other_files(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    assert not passes(f"import os; os.remove({str(mine)!r})")
    assert not passes(f"import shutil; shutil.rmtree({str(tmp_path)!r})")
    assert not passes(f"open({str(mine)!r}, 'w').write('')")
    assert mine.read_text() == "precious"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        assert not passes(f"import socket; socket.create_connection(('127.0.0.1', {port}))")
        assert not passes(f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}', timeout=1)")
        with pytest.raises(TimeoutError):
            server.accept()
    assert os.getcwd() == str(Path.cwd())


def test_limits_must_be_possible() -> None:
    with pytest.raises(ValueError, match="megabytes is 0: it must be 1 or more"):
        passes("", megabytes=0)


PROMPT = '''from typing import List


def one():
    return 1


def add(a: int, b: int) -> int:
    """Add two numbers."""
'''
TEST = "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n"


@pytest.mark.parametrize(
    "text",
    [
        "    return a + b\n",
        "return a + b",
        "c = a + b\nreturn c",
        "c = a + b\n    return c",
        "    return a + b\n\ndef other():\n    pass\nif __name__",
        "```python\ndef add(a, b):\n    return a + b\n```",
        "```python\r\ndef add(a, b):\r\n    return a + b\r\n```",
        f"Sure:\n\n```python\n{PROMPT}    return a + b * one()\n```\nThis adds them: `add(1, 2)`.",
        "def add(a: List, b):\n    return a + b\n```\n\nExplanation: it adds.\n```python\nadd(1, 2)\n```",
        "```\nimport math\ndef add(a, b):\n    return a + b * one()",
        "Here is the function:\n\ndef add(a, b):\n    return a + b\n\nHope it helps.",
        "```python\nprint('hi')\n```\n```python\ndef add(a, b):\n    return a + b\n```",
        "```python\ndef add(a, b):\n    return a + b\n```\nor\n```python\ndef add(a, b):\n    return 0\n```",
        "    return a + b\n<|eot_id|>```python\ndef add(a, b):\n    return 0\n```",
    ],
)
def test_humaneval_finds_the_program(text: str) -> None:
    program = humaneval_program(text, PROMPT, TEST, "add")
    assert program is not None
    assert passes(program)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can't.",
        "pass",
        "def add(a, b:\n  return a+b",
        "```python\ndef add(a, b):\n    return a - b\n```",
        "exit(0)",
    ],
)
def test_humaneval_wrong_programs_fail(text: str) -> None:
    program = humaneval_program(text, PROMPT, TEST, "add")
    assert program is None or not passes(program)


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("[BEGIN]\ndef drop(s, c):\n    return s.replace(c, '')\n[DONE]\n[BEGIN]\ndef drop(s, c): return 1", True),
        ("def drop(s, c):\n    return s.replace(c, '')\n```\n\nExplanation:\n- It replaces.", True),
        ("```python\ndef helper(): pass\n```\n```python\ndef drop(s, c):\n    return s.replace(c, '')\n```", True),
        ("```python\ndef other(s, c):\n    return s.replace(c, '')\n```", False),
        ("```python\ndef drop(s, c):\n    return s\n```", False),
    ],
)
def test_mbpp_takes_the_first_program_of_the_tested_name(text: str, is_right: bool) -> None:
    program = mbpp_program(text, ["assert drop('hello', 'l') == 'heo'", "assert set(drop('ab', 'a')) == {'b'}"])
    assert (program is not None and passes(program)) == is_right
