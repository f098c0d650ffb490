from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from benchmark_files import REAL_DATA

from envs.tasks import Split, make_task
from envs.tasks.benchmarks.humaneval import humaneval_program
from envs.tasks.benchmarks.mbpp import mbpp_program
from envs.tasks.scoring.programs import ProgramTask
from envs.tasks.scoring.sandbox import passes


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


def test_strings_hash_alike_in_every_run() -> None:
    # The order of a set, and so what a program does, would differ from run to run.
    hashed = [sys.executable, "-c", "print(hash('a'))"]
    told = subprocess.run(hashed, env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True)
    assert passes(f"assert hash('a') == {int(told.stdout)}", seconds=20)


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


BODY = "\n    return s.replace(c, '')"
DROP = f"def drop(s, c):{BODY}"
WRONG = "def drop(s, c):\n    return s"
DROP_TESTS = ["assert drop('hello', 'l') == 'heo'"]


def fenced(*programs: str, words: str = "") -> str:
    return f"\n{words}\n".join(f"```python\n{program}\n```" for program in programs)


@pytest.mark.parametrize(
    "text",
    [
        # What stands above the first function or import.
        fenced("EPS = 0\nNOTHING: str = ''\n\ndef drop(s, c):\n    return s.replace(c, NOTHING)"),
        fenced("put = lambda s, c, d: s.replace(c, d)\ndef drop(s, c):\n    return put(s, c, '')"),
        "Sure.\nNOTHING = ''\ndef drop(s, c):\n    return s.replace(c, NOTHING)\nThat is it.",
        fenced(f"try:\n    import foo\nexcept ImportError:\n    foo = None\n{DROP}"),
        fenced(f"'Solves it.'\nimport re\nfrom __future__ import annotations\n{DROP}"),
        # Other ways of defining it.
        fenced("drop = lambda s, c: s.replace(c, '')"),
        "drop = lambda s, c: s.replace(c, '')",
        # What it needs stands in other fences.
        fenced("def put(s, c): return s.replace(c, '')", "def drop(s, c): return put(s, c)", words="Then:"),
        fenced("def drop(s, c): return put(s, c)", "def put(s, c): return s.replace(c, '')", words="with"),
        fenced("from re import *", "def drop(s, c): return sub(c, '', s)"),
        fenced("import re\nNOTHING = ''", "def drop(s, c): return re.sub(c, NOTHING, s)"),
        fenced(
            "from dataclasses import *",
            "@dataclass\nclass P:\n    x: str",
            "def drop(s, c): return s.replace(c, P('').x)",
        ),
        # Drafts: a correction replaces; an alternative, a stub and what is cut off don't.
        fenced(WRONG, DROP, words="Wait, that is wrong. Corrected:"),
        fenced(WRONG, DROP),
        fenced(DROP, WRONG, words="Alternatively:"),
        fenced(DROP, "def drop(s, c):\n    ...", words="Its head:"),
        fenced(DROP, "def drop(s, c):\n    if (", words="Faster:"),
        fenced(
            "def put(s): return 1\ndef drop(s, c): return put(s.split(c))", "def put(s): return ''.join(s)", words="No:"
        ),
        f"{WRONG}\n\nThat misses a case.\n\n{DROP}",
        # Fences.
        "1. So:\n   ```python\n   def drop(s, c):\n       return s.replace(c, '')\n   ```\n2. Done.",
        f"~~~\n{DROP}\n~~~",
        f'```py title="a.py"\n{DROP}\n```',
        f"````markdown\n```python\n{DROP}\n```\n````",
        "```python def drop(s, c): return s.replace(c, '')```",
        fenced(f'def drop(s, c):\n    """Drop.\n\n```\ndrop("a", "a")\n```\n    """{BODY}'),
        f"```bash\npip install x\n```\n{fenced(DROP)}\n```text\nheo\n```",
    ],
)
def test_right_programs_are_found(text: str) -> None:
    program = mbpp_program(text, DROP_TESTS)
    assert program is not None
    assert passes(program, seconds=20), program


@pytest.mark.parametrize(
    ("name", "tests"),
    [
        # Task 126's function is called sum; list and set may stand around what is asked for.
        ("sum", ["assert sum(10, 15) == 25"]),
        ("max", ["assert list([max(1, 2)]) == [3]", "assert len([max(0, 0)]) == 1"]),
        ("filter", ["assert set([filter(1, 1)]) == {2}"]),
    ],
)
def test_mbpp_functions_may_have_a_builtin_name(name: str, tests: list[str]) -> None:
    code = f"def {name}(a, b):\n    return a + b"
    program = mbpp_program(fenced(code), tests, code=code)
    assert program is not None
    assert passes(program, seconds=20)
    assert mbpp_program(fenced("def other(a, b):\n    return a + b"), tests, code=code) is None


def test_mbpp_setup_may_use_the_answer() -> None:
    code = "class Node:\n    def __init__(self, x):\n        self.x = x\ndef value(node):\n    return node.x"
    program = mbpp_program(code, ["assert value(root) == 3"], "root = Node(3) \r\n", code)
    assert program is not None
    assert passes(program, seconds=20)


def program_task(name: str) -> ProgramTask:
    task = make_task(f"{name}:allow_code_execution=true,seconds=60,data={REAL_DATA / name}")
    assert isinstance(task, ProgramTask)
    return task


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "mbpp").is_dir(), reason="needs MBPP's file")
def test_all_of_mbpp_loads_and_its_hard_solutions_pass() -> None:
    task = program_task("mbpp")
    splits: tuple[Split, ...] = get_args(Split)
    assert [task.size(split) for split in splits] == [374, 90, 500]
    for split in splits:
        for row in task.rows(split):
            answer = task.answer(row)
            assert task.program(answer, row) is not None
            # All 974 pass, in a minute or two; here those that did not once, and a few others.
            if row["task_id"] in (18, 122, 126, 367, 628, 799, 927) or row["task_id"] % 100 == 0:
                assert (row["task_id"], task.grade(answer, row)) == (row["task_id"], 1.0)


def layouts(row: Mapping[str, Any]) -> list[str]:
    prompt, body = row["prompt"], row["canonical_solution"]
    whole = prompt + body
    head = prompt[prompt.rindex(f"def {row['entry_point']}") :]
    indented = "".join(f"   {line}\n" for line in whole.split("\n"))
    return [
        *[whole, body, body.strip(), fenced(whole), f"```\n{head}{body}\n```"],
        *[f"Here you are:\n\n{fenced(whole)}\nIt works.", f"1. So:\n   ```python\n{indented}   ```\n"],
    ]


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "humaneval").is_dir(), reason="needs HumanEval's file")
def test_humaneval_solutions_are_found_in_every_layout() -> None:
    task = program_task("humaneval")
    rows = task.rows("test")
    assert len(rows) == 164
    for number, row in enumerate(rows):
        found = [task.program(text, row) for text in layouts(row)]
        assert None not in found
        if number % 12 == 0:
            assert (row["task_id"], passes(found[number // 12 % 7] or "", seconds=60)) == (row["task_id"], True)
