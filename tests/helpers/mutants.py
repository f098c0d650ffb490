"""Try every change that mutmut makes to the core: `python tests/helpers/mutants.py`, or only those of some names.

mutmut makes the changes, finds out which tests reach which function, and shows changes afterwards (`mutmut results`,
`mutmut show NAME`). Its own runner collects the tests anew for every change, which takes longer than to run them; here
they are collected once, and every change is tried in a fork of that process: the tests that last noticed one of the
same function first, then the quickest, until one fails.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import pytest
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import mangled_name_from_mutant_name
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "mutants"
"""Of mutmut: a copy of the repository with every change in it, each asleep until it is named."""

NO_TESTS, TIMEOUT = 33, 36
"""Exit codes as mutmut writes them."""


@dataclass
class Trial:
    """A change that is being tried in a process of its own."""

    name: str
    data: SourceFileMutationData
    tests: list[str]
    pipe: int
    began: float = field(default_factory=time.monotonic)


class Tries:
    """Pytest plugin that runs changes in place of tests."""

    def __init__(self, patterns: list[str], jobs: int, seconds: float) -> None:
        self.patterns = patterns
        self.jobs = jobs
        self.limit = seconds
        self.has_failed = False
        self.noticed_by: dict[str, list[str]] = defaultdict(list)
        stats = json.loads((FOLDER / "mutmut-stats.json").read_text())
        self.tests: dict[str, list[str]] = stats["tests_by_mangled_function_name"]
        self.seconds: dict[str, float] = stats["duration_by_test"]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.has_failed |= report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        os.chdir(ROOT)  # where mutmut finds its own files
        todo = list(self._todo())
        running: dict[int, Trial] = {}
        with tqdm(total=len(todo), unit="change", mininterval=10.0) as bar:
            while todo or running:
                while todo and len(running) < self.jobs:
                    name, data = todo.pop(0)
                    tests = [test for test in self._order(name) if test in items]
                    if tests:
                        pid, trial = self._begin(name, data, tests, items)
                        running[pid] = trial
                    else:
                        self._note(data, name, NO_TESTS, 0.0)
                        bar.update()
                bar.update(self._reap(running))
        return True

    def _todo(self) -> Iterator[tuple[str, SourceFileMutationData]]:
        for path in walk_mutatable_files():
            data = SourceFileMutationData(path=path)
            data.load()
            for name, code in data.exit_code_by_key.items():
                is_meant = not self.patterns or any(fnmatch.fnmatch(name, pattern) for pattern in self.patterns)
                # What was noticed once is not tried again; what survived is, as tests may have been written since.
                if is_meant and status_by_exit_code[code] in ("not checked", "survived", "no tests", "timeout"):
                    yield name, data

    def _order(self, name: str) -> list[str]:
        function = mangled_name_from_mutant_name(name)
        tests = sorted(self.tests.get(function, []), key=lambda test: self.seconds.get(test, 0.0))
        first = self.noticed_by[function]
        ordered = [*first, *(test for test in tests if test not in first)]
        # One test in any case.
        ends = list(accumulate(self.seconds.get(test, 0.0) for test in ordered))
        return [test for test, end in zip(ordered, ends, strict=True) if end <= max(self.limit, ends[0])]

    def _begin(
        self, name: str, data: SourceFileMutationData, tests: list[str], items: dict[str, pytest.Item]
    ) -> tuple[int, Trial]:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writer)
            return pid, Trial(name, data, tests, reader)
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.chdir(FOLDER)
        set_mutant_under_test(name)
        # Not to return into pytest, whatever happens.
        try:
            for test, following in zip(tests, [*tests[1:], None], strict=True):
                item = items[test]
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=items[following] if following else None)
                if self.has_failed:
                    os.write(writer, test.encode())
                    os._exit(1)
        except BaseException:
            os._exit(1)
        os._exit(0)

    def _reap(self, running: dict[int, Trial]) -> int:
        """Note what has ended, and end what takes far too long."""
        found = 0
        for pid, trial in list(running.items()):
            took = time.monotonic() - trial.began
            limit = 30 + 10 * sum(self.seconds.get(test, 0.0) for test in trial.tests)
            if took > limit:
                os.killpg(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, 0 if took > limit else os.WNOHANG)
            if not ended:
                continue
            test = os.read(trial.pipe, 4096).decode()
            os.close(trial.pipe)
            if test:
                recent = self.noticed_by[mangled_name_from_mutant_name(trial.name)]
                recent[:] = [test, *(other for other in recent if other != test)][:5]
            code = TIMEOUT if took > limit else 1 if os.waitstatus_to_exitcode(status) else 0
            self._note(trial.data, trial.name, code, took)
            del running[pid]
            found += 1
        if not found:
            time.sleep(0.005)
        return found

    @staticmethod
    def _note(data: SourceFileMutationData, name: str, code: int, seconds: float) -> None:
        data.exit_code_by_key[name] = code
        data.durations_by_key[name] = seconds
        data.save()


def report() -> None:
    """Print how many changes of each file were noticed, and the names of those that were not."""
    lines, left = [], []
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        counts = Counter(status_by_exit_code[code] for code in data.exit_code_by_key.values())
        if counts:
            lines.append(f"{path}: {counts.total()} changes, " + ", ".join(f"{n} {what}" for what, n in counts.items()))
        named = {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}
        left += [f"{status}: {name}" for name, status in named.items() if status not in ("killed", "not checked")]
    sys.stdout.write("\n".join([*lines, "", *left]) + "\n")


def main() -> None:
    """Make the changes, try them, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="patterns of changes, such as 'envs.reward.*'; all without one")
    parser.add_argument("--jobs", type=int, default=1, help="changes tried side by side")
    parser.add_argument("--seconds", type=float, default=60.0, help="of tests at most for one change")
    given = parser.parse_args()
    os.chdir(ROOT)
    # It makes all changes and learns which tests reach them, whichever it is to try.
    subprocess.run(["mutmut", "run", "--max-children", "1", "envs.reward.*"], check=True)
    chosen = [f"{FOLDER}/{name}" for name in config().pytest_add_cli_args_test_selection]
    tries = Tries(given.names, given.jobs, given.seconds)
    os.chdir(FOLDER)
    sys.path.insert(0, str(FOLDER))
    arguments = ["--rootdir=.", "-c", "pyproject.toml", "-s", "-p", "no:cacheprovider", *config().pytest_add_cli_args]
    pytest.main([*arguments, *chosen], plugins=[tries])
    os.chdir(ROOT)
    report()


if __name__ == "__main__":
    main()
