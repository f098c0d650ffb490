"""Make the published results again: ``python benchmarks/reproduce.py``, or ``--quick`` to see in minutes that it works.

Runs the commands of every experiment in `experiments` that its folder lacks, so a killed reproduction goes on
where it stopped, and writes ``results/NAME.json`` and the figures. With ``--publish`` these replace those of the
repository, and the sections of ``docs/results`` and ``README.md`` are written anew from them: nothing in those is
typed.
"""

from __future__ import annotations

from train.command.starting import end_quietly

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from experiments import EXPERIMENTS, Experiment, Step, Summary
from experiments.base import RESULTS, fill, marker

from envs.names import hint
from train.command.config import ROOT
from train.command.errors import UserError
from train.command.files import write_atomic, write_json
from train.command.ranges import check_count
from train.command.told import tell

PAGES = ROOT / "docs" / "results"
"""All results in words and tables, each on one of these pages."""

SHORT_PAGES = (ROOT / "README.md", PAGES / "index.md")
"""Those with the few that a newcomer meets."""

FIGURES = ROOT / "docs" / "images"


@dataclass(frozen=True)
class ReproduceConfig:
    """Make the results again that the documentation shows.

    Examples:
        python benchmarks/reproduce.py --quick
        python benchmarks/reproduce.py --only main_job --workers 2
    """

    out: Path = Path("runs/reproduce")
    """Folder of all runs; what it holds is not run again."""
    only: list[str] = field(default_factory=list)
    """Experiments by name; an empty list is all."""
    quick: bool = False
    """Cut every run short: the commands are tried, the numbers mean nothing."""
    publish: bool = False
    """Replace the repository's results, and the sections of docs/results and README.md made from them."""
    workers: int = 1
    """Commands that run side by side; with more than one, what they print goes to ``logs/``."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.only) - set(EXPERIMENTS))
        if unknown:
            raise ValueError(f"only holds {unknown[0]!r}: {hint(unknown[0], EXPERIMENTS)}")
        if self.quick and self.publish:
            raise ValueError("quick and publish are both given: numbers of a quick run mean nothing, leave out one")
        check_count(self, "workers")


def command_of(step: Step, out: Path, quick: bool) -> list[str]:
    """Return a step's script and arguments, without those that say where."""
    words = [*step.command, *(step.quick if quick else ())]
    return [word.replace("{out}", str(out)) for word in words]


def launcher(step: Step) -> list[str]:
    """Return what Python is told before a step's script: where several processes share its work, torchrun's module."""
    if step.processes == 1:
        return []
    return ["-m", "torch.distributed.run", "--nproc-per-node", str(step.processes)]


def run_step(step: Step, out: Path, quick: bool, log: Path | None = None) -> None:
    """Run a step unless it was finished before.

    Args:
        step: the command.
        out: folder of the whole reproduction.
        quick: cut it short.
        log: file that what it prints is added to, instead of showing it.

    Raises:
        UserError: if the command fails, or the folder holds a step that was run with another command.
    """
    command, done = [*launcher(step), *command_of(step, out, quick)], marker(out, step)
    if done.is_file():
        # A quick run's folders are called the same: its numbers must not pass for those of a full one.
        before = json.loads(done.read_text())["command"]
        if before != command:
            raise UserError(
                f"out is {str(out)!r}, whose {step.folder} was made by another command ({' '.join(before)}): delete "
                f"that folder and {done}, or choose another --out"
            )
        return
    folder = out / step.folder
    where = ["--out", str(folder), *(step.resume if folder.is_dir() and any(folder.iterdir()) else [])]
    began = time.perf_counter()
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if log is None else log.open("a") as file:
        print(f"\n$ python {' '.join([*command, *where])}", file=file, flush=True)
        status = subprocess.run([sys.executable, *command, *where], cwd=ROOT, stdout=file, stderr=file).returncode
    if status:
        where_to_look = "above" if log is None else f"in {log}"
        raise UserError(
            f"the step {step.folder} failed with exit status {status}: its own message stands {where_to_look}"
        )
    write_json(done, {"command": command, "seconds": round(time.perf_counter() - began, 1)})


def run_steps(steps: Sequence[Step], config: ReproduceConfig) -> None:
    """Run steps, one after another or side by side; a step waits for those whose folders its command names.

    Args:
        steps: in an order in which they can run, each once.
        config: what to do.

    Raises:
        UserError: if one fails; those that run by then end, and no other begins.
    """
    out = config.out.resolve()
    if config.workers == 1:
        for step in steps:
            run_step(step, out, config.quick)
        return

    def run_after(step: Step, needed: Sequence[Future[None]]) -> None:
        for future in needed:
            # No deadlock: the pool begins its tasks in order, so these have begun.
            future.result()
        run_step(step, out, config.quick, out / "logs" / f"{marker(out, step).stem}.txt")

    futures: dict[str, Future[None]] = {}
    with ThreadPoolExecutor(config.workers) as pool:
        for step in steps:
            needed = [future for folder, future in futures.items() if _uses(step, folder)]
            futures[step.folder] = pool.submit(run_after, step, needed)
        names = {future: folder for folder, future in futures.items()}
        try:
            for done in as_completed(names):
                done.result()
                tell("done", names[done])
        except BaseException:
            # Otherwise leaving the pool, by Ctrl-C too, would first run all that still waits.
            pool.shutdown(cancel_futures=True)
            raise


def _uses(step: Step, folder: str) -> bool:
    # With the slash, so that main_job/s1 is not seen in main_job/s10.
    return any(f"{{out}}/{folder}/" in word for word in step.command)


def reproduce(config: ReproduceConfig) -> dict[str, Summary]:
    """Run what is missing and summarise it.

    Returns:
        The summaries by experiment.
    """
    out = config.out.resolve()
    chosen = [experiment for name, experiment in EXPERIMENTS.items() if not config.only or name in config.only]
    results = out / "results"
    summaries = {}
    for experiment in chosen:
        run_steps(experiment.steps(), config)
        summaries[experiment.name] = experiment.summarise(out)
        write_json(results / f"{experiment.name}.json", summaries[experiment.name])
        experiment.draw(summaries[experiment.name], results)
        print(f"\n## {experiment.name}\n\n{section(experiment, summaries[experiment.name])}\n")
    tell("results", results)
    if config.publish:
        publish(chosen, results)
    return summaries


def section(experiment: Experiment, summary: Summary) -> str:
    """Word all of an experiment's results, and where they come from."""
    source = summary["provenance"]
    machines, commits = ", ".join(source["machines"]), ", ".join(source["commits"])
    took = "" if source["minutes"] is None else f", {source['minutes']:.0f} minutes"
    made = f"`python benchmarks/reproduce.py --only {experiment.name}` ({machines}{took}; commit {commits})"
    return fill(f"{experiment.markdown(summary)}\n\n*{made}*")


def publish(experiments: Sequence[Experiment], results: Path) -> None:
    """Copy results into the repository and write the pages' sections from them."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    FIGURES.mkdir(parents=True, exist_ok=True)
    names = {experiment.name for experiment in experiments}
    for file in sorted(results.iterdir()):
        # The folder may also hold those of experiments that are not asked for now.
        if file.name.partition(".")[0] in names:
            shutil.copyfile(file, (RESULTS if file.suffix == ".json" else FIGURES) / file.name)
    for experiment in experiments:
        for page, text in with_results(experiment).items():
            write_atomic(page, text)


def with_results(experiment: Experiment) -> dict[Path, str]:
    """Return the pages that show an experiment, with its sections written from its published results.

    Raises:
        UserError: if none of the pages has a place for it, or several have, or a short one lacks that of its headline.
    """
    summary = json.loads((RESULTS / f"{experiment.name}.json").read_text())
    begin, _ = marks(experiment.name)
    long_pages = [page for page in sorted(PAGES.glob("*.md")) if page not in SHORT_PAGES]
    pages = [page for page in long_pages if begin in page.read_text()]
    if len(pages) != 1:
        found = ", ".join(page.name for page in pages) or "none"
        raise UserError(f"one page in {PAGES} must hold '{begin}', and {found} did: put it where the results belong")
    contents = {pages[0]: section(experiment, summary)}
    if headline := fill(experiment.headline(summary)):
        contents |= dict.fromkeys(SHORT_PAGES, headline)
    return {
        page: replace_section(page.read_text(), experiment.name, content, page.name)
        for page, content in contents.items()
    }


def marks(name: str) -> tuple[str, str]:
    """Return what stands before and after an experiment's section on a page.

    >>> marks("dial")
    ('<!-- results: dial -->', '<!-- end of dial -->')
    """
    return f"<!-- results: {name} -->", f"<!-- end of {name} -->"


def replace_section(text: str, name: str, content: str, page: str = "the page") -> str:
    """Return a Markdown text with the part between an experiment's marks replaced.

    >>> print(replace_section("a <!-- results: x -->old<!-- end of x --> b", "x", "new"))
    a <!-- results: x -->
    new
    <!-- end of x --> b

    Raises:
        UserError: unless the marks are there once.
    """
    begin, end = marks(name)
    pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise UserError(f"{page} must hold '{begin}' and '{end}' once: put them where the results belong")
    # By a function: in a text, a backslash would stand for a part of the match.
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)


if __name__ == "__main__":
    from train.command.cli import run

    run(reproduce, ReproduceConfig)
