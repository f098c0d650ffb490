"""Compare runs: which policy is better, could the difference be chance, and what differs between the runs.

``python train/compare.py runs/a runs/b ... [--rules all] [--out runs/compare]`` reads run folders of `train/ppo.py`,
`train/grpo.py`, `train/learn2pd.py` and `train/evaluate.py`, files of records, or runs of Weights & Biases by path
(``wandb:ENTITY/PROJECT/RUN_ID``, ``wandb:ENTITY/PROJECT?group=NAME``), and writes ``report.html`` (one page, everything
in it), ``report.md``, ``report.json``, ``tables.md`` (seeds against a rule, for a README) and the plots as PNG. Runs
whose configurations differ by seed only are averaged. With ``--wandb.mode online`` or ``offline`` the same goes to
Weights & Biases as a run of job type "compare".
"""

from __future__ import annotations

from train.command.starting import end_quietly

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from rich.console import Console

from envs.names import hint
from policies import RULES
from train.command.config import to_plain
from train.command.config_values import PathText
from train.command.escaping import for_terminal
from train.command.files import write_atomic, write_json
from train.command.run_files import RunFiles
from train.command.run_folder import open_run
from train.command.told import tell
from train.command.wandb_config import Mode, WandbConfig, check_start, chosen_mode
from train.comparison.headlines import letter
from train.comparison.lines import Line, collect_lines
from train.comparison.page import Section, Table, main_text, number_of, to_html, to_markdown, to_terminal
from train.comparison.pairs import is_rival, is_shown
from train.comparison.plots import plot_curves, plot_tasks
from train.comparison.report import find
from train.comparison.runs import Run, read_runs
from train.comparison.sections import AGAINST, sections_of
from train.comparison.tables import seed_tables
from train.comparison.wandb_runs import logged_policies
from train.evaluation.plot import Arrow, plot_pareto
from train.evaluation.records import Record
from train.evaluation.styles import DARK, styles_of
from train.tracking.tracker import Tracker

DEFAULT_MODE: Mode = "disabled"
"""Of W&B: a comparison is a report first."""


@dataclass(frozen=True)
class CompareConfig:
    """Compare runs: which policy is better, could the difference be chance, and what differs between the runs.

    Examples:
        python train/compare.py runs/ppo_s0 runs/ppo_s1 runs/evaluate --rules all
        python train/compare.py "wandb:me/unmasking-policies?group=seeds" --out runs/seeds
    """

    runs: list[PathText] = field(default_factory=list)
    """Run folders, files of records, wandb:ENTITY/PROJECT/RUN_ID or wandb:ENTITY/PROJECT?group=NAME; their flag can be
    left out."""
    rules: list[str] = field(default_factory=lambda: ["threshold"])
    """Rules whose settings count, by name, or all."""
    out: Path = Path("runs/compare")
    """The report's folder; it must be new or empty."""
    reference_accuracy: float = 0.5
    """Accuracy that counts as nothing in the hypervolume."""
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        if not self.rules:
            raise ValueError("rules is empty: name one or more rules, or all")
        # The oracle knows the answer: it is shown beside the others, and is nothing to compare with.
        known = [name for name in RULES if name != "oracle"]
        for rule in self.rules:
            if rule not in ("all", *known):
                raise ValueError(f"rules is {rule!r}: {hint(rule, ['all', *known])}")
        if not 0 <= self.reference_accuracy < 1:
            raise ValueError(f"reference_accuracy is {self.reference_accuracy}: it must be at least 0 and below 1")


def draw_all(lines: Sequence[Line], found: Mapping[str, Any], rules: Sequence[str], folder: Path) -> list[str]:
    """Draw all plots into a folder.

    Returns:
        Their names, without ``.png``.
    """
    names = []
    styles = styles_of(line.family for line in lines if line.is_learned)
    several = len(found["problems"]) > 1
    for i, text in enumerate(found["problems"]):
        here = [line for line in lines if line.problems.text == text]
        shown = [line for line in here if line.is_learned or line.family == "oracle" or is_rival(line, rules)]
        records: list[Record] = []
        for line in shown:
            records += [_renamed(line, replicate.record) for replicate in line.replicates]
        # Where a run did not keep a cost there is nothing to draw.
        if records and all("token_positions" in record for record in records):
            names.append(f"pareto_{letter(i)}" if several else "pareto")
            own = [row for row in found["savings"] if row["problems"] == text]
            arrows = [_arrow(row) for row in own if row["saved"] is not None and is_shown(row)]
            about = f"problems {letter(i)}" if several else ""
            plot_pareto(records, folder / f"{names[-1]}.png", about, arrows=arrows, styles=styles)
    if found["tasks"]:
        names.append("tasks")
        letters = {text: f", problems {letter(i)}" if several else "" for i, text in enumerate(found["problems"])}
        rows = [{**row, "label": f"{row['policy']}{letters[row['problems']]}"} for row in found["tasks"]]
        plot_tasks(rows, folder / "tasks.png", styles)
    if all(found["curves"].values()):
        names.append("curves")
        # Runs whose policies are not among the lines, such as those of another kind, are told apart too.
        labels = {group["label"] for group in chain.from_iterable(found["curves"].values())}
        plot_curves(found["curves"], folder / "curves.png", styles | styles_of(labels - styles.keys()))
    return names


def _arrow(row: Mapping[str, Any]) -> Arrow:
    rule = row["rule_nfe"]["mean"], row["rule_accuracy"]["mean"]
    policy = row["nfe"]["mean"], row["accuracy"]["mean"]
    return Arrow(row["block"], row["decision"], rule, policy, row["saved"]["mean"])


def _renamed(line: Line, record: Record) -> Record:
    """Return a record under its line's name, so that seeds are drawn alike."""
    if not line.is_learned:
        return {**record, "policy": line.policy}
    return {**record, "policy": str(replace(line.name, options="")), "series": line.family}


def log_comparison(
    config: CompareConfig, runs: Sequence[Run], sections: Sequence[Section], found: Mapping[str, Any]
) -> str:
    """Send the report to Weights & Biases: tables, a scatter chart, the plots, and all files as an artifact.

    The policies of the runs are linked as what it used; offline W&B can't do that, but the run's configuration names
    them under "compared".

    Returns:
        Where it is, for people.
    """
    import wandb

    settings = {**to_plain(config), "compared": found["runs"]}
    tracker = Tracker(config.wandb, config.out, settings, "compare", DEFAULT_MODE)
    try:
        if not tracker.run.offline:
            for run in runs:
                for artifact in run.artifacts or _own_policies(run, tracker):
                    tracker.run.use_artifact(artifact)
        for section in sections:
            for i, table in enumerate(section.tables):
                name = section.title.lower().replace(" ", "_") + (f"_{i + 1}" if i else "")
                tracker.run.log({f"tables/{name}": wandb.Table(*_for_wandb(table), allow_mixed_types=True)})
        points = [
            [f"{row['policy']} ({row['decision']}, block {row['block']})", row["nfe"]["mean"], row["accuracy"]["mean"]]
            for row in found["settings"]
        ]
        scatter = wandb.Table(["policy", "nfe", "accuracy"], points)
        tracker.run.log({"accuracy_by_nfe": wandb.plot.scatter(scatter, "nfe", "accuracy", "accuracy by forwards")})
        for file in sorted(config.out.glob("*.png")):
            tracker.run.log({f"plots/{file.stem}": wandb.Image(str(file))})
        for row in found["savings"]:
            place = f"{row['policy']}/{row['decision']}/block{row['block']}"
            if row["saved"] is not None:
                tracker.run.summary[f"saved/{place}"] = row["saved"]["mean"]
            tracker.run.summary[f"claim/{place}"] = row["claim"]
        artifact = wandb.Artifact("comparison", type="report", metadata={"runs": list(config.runs)})
        for file in sorted(config.out.glob("report.*")) + sorted(config.out.glob("*.png")):
            artifact.add_file(str(file))
        tracker.run.log_artifact(artifact)
        tracker.run.finish()
    # Interrupted, too: a run on W&B that nobody closes counts as running for ever.
    except BaseException:
        tracker.abandon()
        raise
    return tracker.place


def _own_policies(run: Run, tracker: Tracker) -> list[Any]:
    """Return the policies that a run folder's own run logged to the project of the comparison; none if it did not."""
    id_file = RunFiles(run.path).wandb_id
    if not id_file.is_file():
        return []
    return logged_policies(f"{tracker.run.entity}/{tracker.run.project}/{id_file.read_text().strip()}")


def _for_wandb(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Return a table's columns and rows: numbers where there are any, an interval as two columns."""
    columns, rows = [], [list[Any]() for _ in table.rows]
    for column in table.columns:
        title = column.title
        columns.append(title)
        for row, given in zip(rows, table.rows, strict=True):
            value = given.get(column.key)
            number = number_of(value, column)
            text = None if value is None else main_text(value, column)
            row.append(text if number is None else number)
        # W&B's tables hold one number a cell, so an interval takes two columns, and only where a row has one.
        for kind in ("problems", "seeds"):
            values = [given.get(column.key) for given in table.rows]
            edges = [value[kind] if isinstance(value, dict) else None for value in values]
            if any(edges):
                columns += [f"{title}, {kind} low", f"{title}, {kind} high"]
                for row, pair in zip(rows, edges, strict=True):
                    row += [edge * column.scale for edge in pair] if pair else [None, None]
    return columns, rows


def main(config: CompareConfig) -> dict[str, Any]:
    """Read, compare, write and print.

    Returns:
        What ``report.json`` holds.
    """
    check_start(config.wandb, DEFAULT_MODE)
    runs = read_runs(config.runs)
    with open_run(config.out, config, resume=None):
        return write_comparison(config, runs)


def write_comparison(config: CompareConfig, runs: Sequence[Run]) -> dict[str, Any]:
    """Compare runs, and write and print what is found.

    Returns:
        What ``report.json`` holds.
    """
    lines = collect_lines(runs)
    found = find(runs, lines, config.rules, config.reference_accuracy)
    title = (
        f"Comparison of {', '.join(run.name for run in runs)}" if len(runs) < 6 else f"Comparison of {len(runs)} runs"
    )
    names = draw_all(lines, found, config.rules, config.out)
    sections = sections_of(found, config.rules, names)
    # The page has each plot twice, for a light and for a dark screen; the files in the folder are the light ones.
    with tempfile.TemporaryDirectory() as dark, rc_context(DARK):
        draw_all(lines, found, config.rules, Path(dark))
        images = {name: (config.out / f"{name}.png", Path(dark) / f"{name}.png") for name in names}
        write_atomic(config.out / "report.html", to_html(title, sections, images))
    write_atomic(config.out / "report.md", to_markdown(title, sections))
    write_json(RunFiles(config.out).report, found)
    write_atomic(config.out / "tables.md", seed_tables(lines, config.rules))
    show(sections)
    parts = {"page": "report.html", "Markdown": "report.md", "numbers": "report.json", "tables": "tables.md"}
    for name, file in parts.items():
        tell(name, config.out / file)
    if chosen_mode(config.wandb, DEFAULT_MODE) != "disabled":
        tell("W&B", log_comparison(config, runs, sections, found))
    return found


def show(sections: Sequence[Section]) -> None:
    """Print the findings and the table of savings, or the summary where nothing is compared."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    by_title = {section.title: section for section in sections}
    for text in (*by_title["Findings"].text, *by_title["Findings"].bullets):
        console.print(for_terminal(text))
    chosen = by_title.get(AGAINST, by_title["Summary"])
    console.print(to_terminal(chosen.tables[0], chosen.title))


if __name__ == "__main__":
    from train.command.cli import run

    run(main, CompareConfig, positional="runs")
