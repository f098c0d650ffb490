"""What the plots draw, and what names may do to them."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from records import outcomes, ppo_config, write_run
from rich.console import Console

import train.compare
import train.evaluation.plot
from policies import RULES
from train.compare import CompareConfig, main
from train.comparison.plots import plot_curves
from train.evaluation.plot import arrows_of, frontier_of, plot_pareto
from train.evaluation.records import key_of, summarise
from train.evaluation.styles import PALETTE, rule_style, style_of_run, styles_of
from train.evaluation.table import make_table

HOSTILE = ["_$5_$x^[red]b[/red]<b>a|b`c`", "=1+1\x1b[31my\nb\u202e", "<script>alert(1)</script>模型"]


def records_of(*entries: Any) -> list[dict[str, Any]]:
    return [record for entry in entries for record in summarise(entry)]


LEARNED = outcomes("learned", [1] * 196 + [0] * 4, [2] * 200)
THRESHOLD = outcomes("threshold:0.9", [1] * 196 + [0] * 4, [3, 4] * 100)
SLOPPY = outcomes("threshold:0.3", [1] * 20 + [0] * 180, [1] * 200)
ORACLE = outcomes("oracle:1", [1] * 200, [1] * 200)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written, whole."""
    kept: list[Figure] = []
    write = train.evaluation.plot.write_figure

    def keep(figure: Figure, file: Path) -> None:
        kept.append(figure)
        write(figure, file)

    monkeypatch.setattr(train.evaluation.plot, "write_figure", keep)
    return kept


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


def test_a_gain_is_pointed_out(figures: list[Figure], tmp_path: Path) -> None:
    plot_pareto(records_of(LEARNED, THRESHOLD, SLOPPY, ORACLE), tmp_path / "p.png")
    [axes] = figures[0].axes  # token positions are in proportion to forwards here: no panel of their own
    assert "\N{MINUS SIGN}43 % forwards\nat the same accuracy" in texts(axes)
    assert "1 setting lies outside, at up to 3.5 or down to 10 %" in texts(axes)
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert {"threshold", "frontier of the rules", "oracle (knows the answer)", "learned (deterministic)"} <= {*labels}
    with Image.open(tmp_path / "p.png") as image:
        assert image.width == 960


def test_the_intervals_of_learned_policies_are_whole(figures: list[Figure], tmp_path: Path) -> None:
    entries = [outcomes("learned", [1] * 19 + [0], [2] * 20), outcomes("threshold:0.9", [1] * 20, [3] * 20)]
    records = records_of(*entries)
    plot_pareto(records, tmp_path / "p.png")
    lowest = min(
        record["accuracy_ci95"][0] for record in records if record["policy"] == "learned" and record["task"] == "all"
    )
    assert figures[0].axes[0].get_ylim()[0] < 100 * lowest < 80


@pytest.mark.parametrize(
    "rule",
    [
        outcomes("threshold:0.9", [1] * 200, [3, 4] * 100),  # two points more accurate
        outcomes("threshold:0.9", [1] * 196 + [0] * 4, [2] * 199 + [3]),  # a difference that chance explains
        outcomes("threshold:0.9", [1] * 196 + [0] * 4, [1] * 200),  # the rule needs fewer
    ],
)
def test_no_gain_is_pointed_out_where_none_may_be_claimed(rule: Any, figures: list[Figure], tmp_path: Path) -> None:
    plot_pareto(records_of(LEARNED, rule), tmp_path / "p.png", outcomes={key_of(e): e for e in (LEARNED, rule)})
    assert not [text for axes in figures[0].axes for text in texts(axes) if "same accuracy" in text]
    assert arrows_of(records_of(LEARNED, rule), {key_of(e): e for e in (LEARNED, rule)}) == []


def test_a_label_covers_no_mark_where_there_is_room(figures: list[Figure], tmp_path: Path) -> None:
    """A rule a point worse than the policy, and as cheap as the middle of the arrow, stands where the label would."""
    between = outcomes("eb_sampler:1", [1] * 192 + [0] * 8, [3] * 100 + [2] * 100)
    plot_pareto(records_of(LEARNED, THRESHOLD, between), tmp_path / "p.png")
    [axes] = figures[0].axes
    [label] = [text for text in axes.texts if "same accuracy" in text.get_text()]
    box = label.get_window_extent()
    for line in axes.lines:
        if line.get_marker() not in ("None", "_", "|", ""):
            assert not any(box.contains(*place) for place in axes.transData.transform(line.get_xydata()))
    assert axes.bbox.contains(box.x0, box.y0)
    assert axes.bbox.contains(box.x1, box.y1)


def test_a_label_covers_no_interval_where_there_is_room(figures: list[Figure], tmp_path: Path) -> None:
    """The label would be below the arrow, where the policy's sampled decisions end."""

    def near(policy: str, wrong: int, nfe: float) -> Any:
        dear = round(900 * (nfe % 1))
        return outcomes(policy, [1] * (900 - wrong) + [0] * wrong, [int(nfe)] * (900 - dear) + [int(nfe) + 1] * dear)

    learned, sampled = near("learned", 18, 1.67), near("learned", 24, 1.68) | {"decision": "sample"}
    rules = [near("eb_sampler:0.5", 21, 2.01), near("threshold:0.9", 7, 2.53), near("threshold:0.7", 60, 2.1)]
    plot_pareto(records_of(learned, sampled, *rules, near("oracle:1", 3, 1.56)), tmp_path / "p.png")
    [axes] = figures[0].axes
    [label] = [text for text in axes.texts if "same accuracy" in text.get_text()]
    box = label.get_window_extent()
    bars = [bar for bar in axes.collections if isinstance(bar, LineCollection)]
    assert len(bars) == 2
    for bar in bars:
        [segment] = bar.get_segments()
        assert not any(box.contains(*place) for place in axes.transData.transform(np.linspace(*segment, num=50)))


def test_a_long_legend_leaves_the_panels_their_room(figures: list[Figure], tmp_path: Path) -> None:
    """As high with two policies as with thirty, whose figure is the higher one."""
    for count in (2, 30):
        runs = [
            outcomes(f"learned:run{i:02}_of_some_setting_with_a_long_name", [1] * 9 + [0], [2] * 10)
            for i in range(count)
        ]
        plot_pareto(records_of(*runs, THRESHOLD), tmp_path / "pareto.png", "many", {})
    few, many = figures
    heights = [figure.axes[0].get_position().height * figure.get_figheight() for figure in figures]
    assert many.get_figheight() > few.get_figheight() + 4
    assert heights[1] > 0.9 * heights[0]


def test_one_rule_makes_no_frontier(figures: list[Figure], tmp_path: Path) -> None:
    plot_pareto(records_of(LEARNED, THRESHOLD), tmp_path / "p.png")
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert "threshold" in labels
    assert "frontier of the rules" not in labels


def test_the_frontier_by_hand() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.8), (2.5, 0.7), (2.0, 0.6), (4.0, 0.9)]
    records = [{"nfe": nfe, "accuracy": accuracy} for nfe, accuracy in points]
    assert [(r["nfe"], r["accuracy"]) for r in frontier_of(records, "nfe")] == [(1.0, 0.5), (2.0, 0.8), (3.0, 0.9)]


def test_a_policy_looks_the_same_in_every_plot_and_hue_is_never_the_only_difference() -> None:
    names = ["ppo", "grpo", "filter", "ppo_dial", "news", "x"]
    styles = styles_of(names)
    assert styles_of(reversed(names)) == styles
    assert styles_of(["ppo"])["ppo"] == styles_of(["ppo", "ppo"])["ppo"]
    assert {style.color for style in styles.values()} == {*PALETTE}
    assert len({style.marker for style in styles.values()}) == len(names)
    many = styles_of(f"run_{i}" for i in range(24))
    assert len({(s.color, s.marker, s.line) for s in many.values()}) == 24
    assert len({(rule_style(name).color, rule_style(name).marker) for name in RULES}) == len(RULES)
    assert rule_style("klass+eotp") == rule_style("klass")


@pytest.mark.slow
def test_a_run_has_one_colour_in_all_plots_of_a_report(
    figures: list[Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    for name in ("plot_pareto", "plot_tasks", "plot_curves"):
        draw = getattr(train.compare, name)

        def spy(*args: Any, draw: Any = draw, **options: Any) -> None:
            seen.append(options.get("styles") or args[2])
            draw(*args, **options)

        monkeypatch.setattr(f"train.compare.{name}", spy)
    folders = [run_of(tmp_path / f"ppo_s{seed}", seed, alpha) for seed, alpha in enumerate((10.0, 10.0, 3.0, 3.0))]
    found = main(CompareConfig([str(folder) for folder in folders], out=tmp_path / "out"))
    names = {row["family"] for row in found["settings"] if row["is_learned"]}
    assert names == {"ppo [alpha 3]", "ppo [alpha 10]"}
    assert {group["label"] for group in found["curves"]["rollout/score"]} == names
    assert len(seen) == 6  # light and dark
    for name in names:
        assert len({styles[name] for styles in seen}) == 1


def test_a_run_has_the_colour_alone_that_it_has_beside_others() -> None:
    alone = style_of_run("ppo_s1")["learned"]
    beside = styles_of(["learned:ppo_s1", "learned:zebra"])
    assert beside["learned:ppo_s1"] == styles_of(["ppo_s1"])["ppo_s1"] == alone


def run_of(folder: Path, seed: int = 0, alpha: float = 10.0) -> Path:
    run = write_run(folder, [LEARNED, THRESHOLD, ORACLE], ppo_config(seed, alpha))
    rows = "\n".join(f"{i},{i},{0.5 + 0.1 * i},{4 - i}" for i in range(1, 4))
    (run / "progress.csv").write_text(f"time/total_timesteps,time/time_elapsed,rollout/score,rollout/nfe\n{rows}\n")
    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_data_in_every_output(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_of(tmp_path / name.replace("/", ":"))
    out = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = main(CompareConfig([str(folder)], out=out))
    shown = "".join(c if c.isprintable() else "?" for c in folder.name)
    assert {row["family"] for row in found["settings"] if row["is_learned"]} == {folder.name}
    assert json.loads((out / "report.json").read_text())["runs"][0]["run"] == folder.name
    printed = capsys.readouterr().out
    assert shown in printed.replace("\n", "")
    assert all(c.isprintable() or c == "\n" for c in printed)
    page = (out / "report.html").read_text()
    assert page.count("<script") == 1
    assert not re.findall(r"(?<!\\)<(script|b)>(?!\n)", page + (out / "report.md").read_text())
    for line in (out / "report.md").read_text().splitlines():
        assert not line.startswith("|") or line.replace("\\|", "").count("|") >= 4
    assert not [c for c in page if not c.isprintable() and c not in "\n\t"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_data_in_an_evaluations_table_and_plots(name: str, tmp_path: Path) -> None:
    learned = outcomes(f"learned:{name}", [1, 0] * 4, [1, 2] * 4)
    records = [{**record, "task": name if record["task"] != "all" else "all"} for record in summarise(learned)]
    console = Console(width=200, color_system="truecolor", force_terminal=True)
    with console.capture() as captured:
        console.print(make_table(records, title=name, per_task=True))
    shown = "".join(c if c.isprintable() else "?" for c in name)
    assert captured.get().count(shown) >= len(records) + 1
    assert "\x1b[31m" not in captured.get()
    plot_pareto(records, tmp_path / "p.png", name)
    curve = {
        "label": name,
        "seeds": 1,
        "steps": [1, 2],
        "mean": [0, 1],
        "each": [[0, 1]],
        "low": [0, 1],
        "high": [0, 1],
    }
    plot_curves({name: [curve]}, tmp_path / "c.png")
    assert {file.name for file in tmp_path.iterdir()} == {"p.png", "c.png"}
