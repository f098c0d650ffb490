from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reproduce as module
from experiments import EXPERIMENTS, Experiment, Step, Summary
from experiments.base import RESULTS, marker
from experiments.dial import SPEEDS, _hypervolumes
from experiments.worlds import LIST_WORLD
from finished import finish
from records import outcomes, write_run
from reproduce import (
    ReproduceConfig,
    command_of,
    replace_section,
    reproduce,
    run_step,
    run_steps,
    with_results,
)

from train.command.config import ROOT, parse
from train.command.errors import UserError
from train.command.files import write_json
from train.evaluation.frontiers import hypervolume
from train.evaluation.jobs import plan
from train.evaluation.run import EvaluateConfig
from train.job.grpo_config import TrainGRPOConfig
from train.job.ppo_config import TrainPPOConfig
from train.learn2pd import Learn2PDConfig
from train.pretraining.config import PretrainConfig

spec = importlib.util.spec_from_file_location("pipeline", ROOT / "benchmarks" / "pipeline.py")
assert spec is not None
assert spec.loader is not None
pipeline = importlib.util.module_from_spec(spec)
sys.modules["pipeline"] = pipeline  # where its dataclasses look for their annotations
spec.loader.exec_module(pipeline)

SCRIPTS: dict[str, tuple[type, str | None]] = {
    "benchmarks/pipeline.py": (pipeline.PipelineConfig, None),
    "train/ppo.py": (TrainPPOConfig, "ppo.yaml"),
    "train/evaluate.py": (EvaluateConfig, None),
    "train/grpo.py": (TrainGRPOConfig, "grpo.yaml"),
    "train/learn2pd.py": (Learn2PDConfig, None),
    "train/pretrain.py": (PretrainConfig, None),
}

STEPS = {step.folder: step for experiment in EXPERIMENTS.values() for step in experiment.steps()}


@pytest.mark.slow
@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("folder", STEPS)
def test_every_command_is_one_that_its_script_takes(folder: str, quick: bool, tmp_path: Path) -> None:
    script, *words = command_of(STEPS[folder], tmp_path, quick)
    config_class, default_file = SCRIPTS[script]
    positional = {"train/compare.py": "runs", "benchmarks/pipeline.py": "policy"}.get(script)
    config = parse(config_class, default_file, [*words, "--out", str(tmp_path / folder)], positional=positional)
    assert config.out == tmp_path / folder  # type: ignore[attr-defined]
    if isinstance(config, EvaluateConfig):
        rules = [policy for policy in config.policy if str(tmp_path) not in policy]
        assert not rules or plan(rules, config.block_length or [64])


def test_a_step_has_one_command_wherever_it_is_used() -> None:
    for experiment in EXPERIMENTS.values():
        assert all(STEPS[step.folder] == step for step in experiment.steps())


def test_steps_use_only_folders_of_earlier_ones() -> None:
    for experiment in EXPERIMENTS.values():
        earlier: list[str] = []
        for step in experiment.steps():
            for word in step.command:
                if "{out}/" in word:
                    used = word.partition("{out}/")[2]
                    assert any(used.startswith(f"{folder}/") for folder in earlier), (experiment.name, word)
            earlier.append(step.folder)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_pages_hold_the_results_and_nothing_else(name: str) -> None:
    for page, text in with_results(EXPERIMENTS[name]).items():
        assert page.read_text() == text


def test_the_short_pages_show_both_worlds_the_one_with_prose_first() -> None:
    summaries = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in EXPERIMENTS}
    headlines = {name for name, summary in summaries.items() if EXPERIMENTS[name].headline(summary)}
    assert headlines == {"prose_shipped", "main_job"}
    for page in module.SHORT_PAGES:
        assert re.findall(r"<!-- results: (\w+) -->", page.read_text()) == ["prose_shipped", "main_job"]


# Running.

SCRIPT = """
import json, sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)
calls = out / "calls.json"
calls.write_text(json.dumps([*(json.loads(calls.read_text()) if calls.is_file() else []), sys.argv[1:]]))
(out / "versions.json").write_text(json.dumps({"commit": "c0ffee", "machine": "a machine", "starts": [{"at": "then"}]}))
sys.exit(3 if "--fail" in sys.argv else 0)
"""


def calls(folder: Path) -> list[list[str]]:
    found: list[list[str]] = json.loads((folder / "calls.json").read_text())
    return found


@pytest.fixture
def script(tmp_path: Path) -> str:
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    return str(file)


def test_a_step_is_run_once(script: str, tmp_path: Path) -> None:
    step = Step("a/b", [script, "--x", "{out}/c"], ("--short",))
    for _ in range(2):
        run_step(step, tmp_path, quick=False)
    assert calls(tmp_path / "a/b") == [["--x", f"{tmp_path}/c", "--out", str(tmp_path / "a/b")]]
    found = json.loads(marker(tmp_path, step).read_text())
    assert found["command"] == [script, "--x", f"{tmp_path}/c"]
    assert 0 <= found["seconds"] < 60


def test_processes_share_a_step(tmp_path: Path) -> None:
    script = tmp_path / "shared.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nout = Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "out.mkdir(parents=True, exist_ok=True)\n(out / os.environ['RANK']).write_text(os.environ['WORLD_SIZE'])\n"
    )
    step = Step("a/b", [str(script)], processes=2)
    run_step(step, tmp_path, quick=False)
    assert {file.name: file.read_text() for file in (tmp_path / "a/b").iterdir()} == {"0": "2", "1": "2"}
    # One of a single process is another command: its numbers are others.
    with pytest.raises(UserError, match="made by another command"):
        run_step(Step("a/b", [str(script)]), tmp_path, quick=False)


def test_quick_arguments_are_added(script: str, tmp_path: Path) -> None:
    run_step(Step("a", [script], ("--short",)), tmp_path, quick=True)
    assert calls(tmp_path / "a")[0][0] == "--short"


def test_a_failed_step_is_resumed(script: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="step a failed with exit status 3"):
        run_step(Step("a", [script, "--fail"]), tmp_path, quick=False)
    assert not marker(tmp_path, Step("a", [])).exists()
    run_step(Step("a", [script]), tmp_path, quick=False)
    assert calls(tmp_path / "a")[1] == ["--out", str(tmp_path / "a"), "--resume"]


WAITING = """
import sys, time
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)
if "--waits-for" in sys.argv:  # only a step that runs at the same time can end this
    other = Path(sys.argv[sys.argv.index("--waits-for") + 1])
    until = time.time() + 60
    while not other.exists() and time.time() < until:
        time.sleep(0.02)
    sys.exit(0 if other.exists() else 4)
if "--needs" in sys.argv:
    sys.exit(0 if Path(sys.argv[sys.argv.index("--needs") + 1]).exists() else 5)
print("made")
(out / "made").touch()
"""


def test_steps_run_side_by_side_and_after_those_they_use(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(WAITING)
    steps = [
        Step("waits", [str(file), "--waits-for", str(tmp_path / "makes" / "made")]),
        Step("makes", [str(file)]),
        Step("needs", [str(file), "--needs", "{out}/makes/made"]),
    ]
    run_steps(steps, ReproduceConfig(out=tmp_path, workers=2))
    assert all(marker(tmp_path, step).is_file() for step in steps)
    assert (tmp_path / "logs/makes.txt").read_text().endswith("made\n")


def test_a_failure_beside_others_is_said_and_begins_nothing_more(script: str, tmp_path: Path) -> None:
    steps = [Step("fails", [script, "--fail"]), Step("uses", [script, "{out}/fails/x"]), Step("c", [script])]
    steps += [Step(f"more{i}", [script]) for i in range(20)]
    with pytest.raises(UserError, match=r"step fails failed with exit status 3: .* in .*logs/fails\.txt"):
        run_steps(steps, ReproduceConfig(out=tmp_path, workers=2))
    assert not (tmp_path / "uses").exists()
    assert not (tmp_path / "more19").exists()


def test_a_folder_of_another_command_is_refused(script: str, tmp_path: Path) -> None:
    run_step(Step("a", [script], ("--short",)), tmp_path, quick=True)
    with pytest.raises(UserError, match="whose a was made by another command"):
        run_step(Step("a", [script], ("--short",)), tmp_path, quick=False)


@dataclass
class Counting(Experiment):
    """An experiment whose result is how often its script was called."""

    script: str
    name = "counting"

    def steps(self) -> list[Step]:
        return [Step("counting", [self.script])]

    def summarise(self, out: Path) -> Summary:
        source = {"commits": ["c0ffee"], "machines": ["a machine"], "minutes": 2.0}
        return {"calls": len(calls(out / "counting")), "provenance": source}

    def markdown(self, summary: Summary) -> str:
        return f"called\n{summary['calls']} times"

    def headline(self, summary: Summary) -> str:
        return f"{summary['calls']}"

    def draw(self, summary: Summary, folder: Path) -> None:
        (folder / "counting.png").write_bytes(b"picture")


@pytest.fixture
def counting(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the page of its results, beside one of others; the README has a section too."""
    page = tmp_path / "pages/counts.md"
    page.parent.mkdir()
    page.with_name("others.md").write_text("<!-- results: others -->")
    for file in (page, tmp_path / "README.md"):
        file.write_text("Before.\n<!-- results: counting -->\nold\n<!-- end of counting -->\nAfter.\n")
    monkeypatch.setattr(module, "EXPERIMENTS", {"counting": Counting(script)})
    monkeypatch.setattr(module, "PAGES", page.parent)
    monkeypatch.setattr(module, "SHORT_PAGES", (tmp_path / "README.md",))
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "FIGURES", tmp_path / "images")
    return page


def test_nothing_is_published_unless_asked(counting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = counting.read_text()
    assert reproduce(ReproduceConfig(tmp_path / "out"))["counting"]["calls"] == 1
    assert "called 1 times" in capsys.readouterr().out
    assert counting.read_text() == before
    assert json.loads((tmp_path / "out/results/counting.json").read_text())["calls"] == 1


def test_published_results_go_to_the_pages(counting: Path, tmp_path: Path) -> None:
    reproduce(ReproduceConfig(tmp_path / "out", publish=True))
    source = "*`python benchmarks/reproduce.py --only counting` (a machine, 2 minutes; commit c0ffee)*"
    assert counting.read_text() == (
        f"Before.\n<!-- results: counting -->\ncalled 1 times\n\n{source}\n<!-- end of counting -->\nAfter.\n"
    )
    readme = (tmp_path / "README.md").read_text()
    assert readme == "Before.\n<!-- results: counting -->\n1\n<!-- end of counting -->\nAfter.\n"
    assert (tmp_path / "images/counting.png").read_bytes() == b"picture"
    assert json.loads((tmp_path / "results/counting.json").read_text())["calls"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"only": ["nothing"]}, "only holds 'nothing': choose from first_run"),
        ({"quick": True, "publish": True}, "quick and publish are both given"),
    ],
)
def test_impossible_requests_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReproduceConfig(**arguments)


@pytest.mark.parametrize(
    ("others", "message"),
    [({"counts.md": ""}, "and none did"), ({"others.md": "<!-- results: counting -->"}, "counts.md, others.md did")],
)
def test_a_section_has_its_place_on_one_page(
    others: dict[str, str], message: str, counting: Path, tmp_path: Path
) -> None:
    for name, text in others.items():
        counting.with_name(name).write_text(text)
    with pytest.raises(UserError, match=f"must hold '<!-- results: counting -->'.*{message}"):
        reproduce(ReproduceConfig(tmp_path / "out", publish=True))


def test_missing_marks_are_refused() -> None:
    with pytest.raises(UserError, match=r"README\.md must hold '<!-- results: x -->'"):
        replace_section("nothing here", "x", "new", "README.md")


# What is computed.


def line(policy: str, generator: np.random.Generator, problems: int = 40, **changes: Any) -> Any:
    score = (generator.random(problems) < 0.9).astype(float)
    return outcomes(policy, score.tolist(), generator.integers(1, 5, problems).tolist(), **changes)


def test_hypervolumes_of_families() -> None:
    generator = np.random.default_rng(0)
    dials = [line(f"learned:dial_s{seed}@speed={speed:g}", generator) for seed in range(3) for speed in (0, 0.5)]
    rules = [line("threshold:0.9", generator), line("eb_sampler:1", generator)]
    found = _hypervolumes(
        [*dials, *rules, line("guided:1", generator), line("oracle:1", generator)], LIST_WORLD.reference
    )

    def covered(entries: list[Any]) -> float:
        return hypervolume([(np.mean(e["score"]), np.mean(e["nfe"])) for e in entries], LIST_WORLD.reference)

    assert found["dial"]["seeds"] == pytest.approx([covered(dials[2 * s : 2 * s + 2]) for s in range(3)])
    assert found["rules"]["seeds"] == pytest.approx([covered(rules)])
    assert found["dial"]["dial_covers_more"] == [0, 0]
    assert found["rules_and_guide"]["seeds"][0] >= found["rules"]["seeds"][0]
    low, high = found["rules"]["dial_covers_more"]
    assert low < np.mean(found["dial"]["seeds"]) - found["rules"]["seeds"][0] < high


@pytest.mark.slow
def test_hypervolumes_in_token_positions() -> None:
    plain = outcomes("low_confidence:1", [1.0] * 4, [4] * 4, token_positions=[40] * 4)
    dial = outcomes("learned:dial_s0@speed=0", [1.0] * 4, [2] * 4, token_positions=[20] * 4)
    guided = outcomes("guided:1", [1.0] * 4, [1] * 4, token_positions=[30] * 4)
    found = _hypervolumes([plain, dial, guided], LIST_WORLD.reference, in_positions=True)
    # A forward computes 10 positions; the second model makes guided's one forward cost three.
    assert found["dial"]["seeds"] == pytest.approx([1 / 2])
    assert found["rules_and_guide"]["seeds"] == pytest.approx([1 / 3])
    assert _hypervolumes([plain, dial, guided], LIST_WORLD.reference)["rules_and_guide"]["seeds"] == pytest.approx([1])


def test_a_dial_that_is_better_on_every_problem_covers_more_for_sure() -> None:
    slow = outcomes("threshold:0.9", [1.0] * 40, [4] * 40)
    found = _hypervolumes([outcomes("learned:dial_s0@speed=0", [1.0] * 40, [2] * 40), slow], LIST_WORLD.reference)
    # 1 / 2 less 1 / 4, whatever problems are drawn.
    assert found["rules"]["dial_covers_more"] == pytest.approx([0.25, 0.25])


def test_summary_of_the_main_job(tmp_path: Path) -> None:
    entries = []
    for block in (64, 16):
        for seed in range(3):
            for decision in ("sample", "deterministic"):
                name = f"learned:s{seed}"
                entries.append(outcomes(name, [1.0] * 8, [2] * 8, block_length=block, decision=decision))
        entries.append(outcomes("threshold:0.9", [1.0] * 8, [4] * 8, block_length=block))
        entries.append(outcomes("threshold:0.99", [1.0] * 8, [5] * 8, block_length=block))
        entries.append(outcomes("threshold:0.5", [1.0] * 7 + [0.0], [1] * 8, block_length=block))
        entries.append(outcomes("eb_sampler:0.4", [1.0] * 4 + [0.0] * 4, [3] * 8, block_length=block))
    write_run(tmp_path / "main_job/frontier", entries)
    experiment = EXPERIMENTS["main_job"]
    finish(experiment, tmp_path)
    summary = json.loads(json.dumps(experiment.summarise(tmp_path)))
    assert [(entry["block_length"], len(entry["seeds"])) for entry in summary["comparisons"]] == [
        (block, 3) for block in (64, 64, 16, 16)
    ]
    first = summary["comparisons"][0]["seeds"][0]
    # The cheapest threshold that is right as often; no entropy budget is, so the most accurate one.
    assert first["threshold"] == {"setting": "threshold:0.9", "accuracy": 1, "nfe": 4, "saved": 0.5}
    assert (first["eb_sampler"]["nfe"], first["eb_sampler"]["saved"]) == (3, pytest.approx(1 / 3))
    assert summary["tasks"]["sort"]["rule"] == "threshold:0.9"
    assert summary["provenance"] == {"commits": ["c", "d"], "machines": ["m"], "minutes": 4.0}
    assert "needs 50 % fewer forwards than the best threshold" in " ".join(experiment.markdown(summary).split())


def test_summary_of_every_rule(tmp_path: Path) -> None:
    entries = [
        outcomes("threshold:0.9", [1.0] * 8, [4] * 8, block_length=64),
        outcomes("threshold:0.5", [1.0] * 4 + [0.0] * 4, [1] * 8, block_length=64),
        outcomes("threshold:0.5", [1.0] * 4 + [0.0] * 4, [1] * 8, block_length=16),
        outcomes("eb_sampler:1", [1.0] * 8, [3] * 8, block_length=64),
        outcomes("eb_sampler:1", [1.0] * 8, [4] * 8, block_length=16),
        outcomes("oracle:1", [1.0] * 8, [1] * 8, block_length=64),
        outcomes("oracle:1", [1.0] * 8, [2] * 8, block_length=16),
        outcomes("random:1", [1.0] + [0.0] * 7, [1] * 8, block_length=64),
        outcomes("random:1", [1.0] + [0.0] * 7, [1] * 8, block_length=16),
    ]
    write_run(tmp_path / "every_rule", entries)
    experiment = EXPERIMENTS["every_rule"]
    finish(experiment, tmp_path)
    summary = json.loads(json.dumps(experiment.summarise(tmp_path)))
    full, blocks = summary["rules"]["threshold"]
    assert (full["knob"], full["nfe"], blocks) == ("0.9", 4, None)
    assert summary["rules"]["random"][0]["accuracy"] == 0.125
    text = experiment.markdown(summary)
    assert "| `threshold` | 0.9 | 100.0 | 4.00 | 80 | - | below 97 | - |" in text
    assert "best published rule here is `eb_sampler`, 25 % below" in " ".join(text.split())
    assert text.index("`oracle`") < text.index("`eb_sampler`") < text.index("`threshold`") < text.index("`random`")


def test_what_is_enough_in_blocks_is_what_one_token_per_step_gives_there(tmp_path: Path) -> None:
    entries = []
    # Right on six of eight in full diffusion, on four in blocks.
    for block, right in ((128, 6), (32, 4)):
        score = [1.0] * right + [0.0] * (8 - right)
        entries += [
            outcomes("low_confidence:1", score, [16] * 8, block_length=block),
            outcomes("threshold:0.9", score, [8] * 8, block_length=block),
            outcomes("eb_sampler:1", [1.0] * 8, [6] * 8, block_length=block),
            outcomes("eb_sampler:2", [1.0] * 5 + [0.0] * 3, [2] * 8, block_length=block),
            outcomes("random:1", [1.0] * 3 + [0.0] * 5, [1] * 8, block_length=block),
            outcomes("oracle:1", [1.0] * 8, [2] * 8, block_length=block),
        ]
    experiment = EXPERIMENTS["prose_every_rule"]
    write_run(tmp_path / experiment.name, entries)
    finish(experiment, tmp_path)
    summary = json.loads(json.dumps(experiment.summarise(tmp_path)))
    assert summary["least"] == [0.74, 0.49]
    text = experiment.markdown(summary)
    assert "| `eb_sampler` | 1 | 100.0 | 6.00 | 120 | 2 | 62.5 | 2.00 |" in text
    assert "| `random` | 1 | 37.5 | 1.00 | 20 | - | below 49 | - |" in text
    assert "right on 74 % or more, 49 % in blocks of 32 (or" in " ".join(text.split())


@pytest.mark.slow
def test_summary_of_the_transfer(tmp_path: Path) -> None:
    experiment = EXPERIMENTS["transfer"]
    for step in experiment.steps():
        if "/on_" in step.folder:
            seeds = [""] if "other_tasks" in step.folder else [f":dial_s{seed}" for seed in range(3)]
            entries = [
                outcomes(f"learned{seed}@speed={speed}", [1.0] * 8, [2] * 8) for seed in seeds for speed in ("0", "0.5")
            ]
            entries.append(outcomes("threshold:0.9", [1.0] * 8, [4] * 8))
            entries.append(outcomes("eb_sampler:1", [1.0] * 7 + [0.0], [1] * 8))
            entries.append(outcomes("low_confidence:1", [1.0] * 8, [8] * 8))
            entries.append(outcomes("oracle:1", [1.0] * 8, [1] * 8))
            write_run(tmp_path / step.folder, entries)
    finish(experiment, tmp_path)
    summary = json.loads(json.dumps(experiment.summarise(tmp_path)))
    found = summary["places"]["buffer_128"]
    assert [seed["rule"] for seed in found["speeds"]["0"]] == ["threshold:0.9"] * 3
    assert (found["one_per_step"], found["oracle"]) == (1, 1)
    assert len(summary["places"]["other_tasks"]["speeds"]["0.5"]) == 1
    text = experiment.markdown(summary)
    assert "| buffers of 256 | 100.0 / 1.00 | 0.5 | 100.0 ± 0.0 | 2.00 ± 0.00 | 4.00 | 100.0 | 50 ± 0 |" in text
    assert "| 5 tasks, trained on 4 others | 100.0 / 1.00 | 0 | 100.0 | 2.00 | 4.00 | 100.0 | 50 |" in text


def dial_folder(tmp_path: Path) -> Path:
    """A whole evaluation: the dial needs 2 forwards for what takes the threshold 4, the oracle 1 or 2."""
    entries = []
    for block in (64, 16):
        for seed in range(3):
            for speed in SPEEDS:
                policy = f"learned:dial_s{seed}@speed={speed:g}"
                entries.append(outcomes(policy, [1.0] * 8, [1] * 4 + [3] * 4, block_length=block))
            for alpha in (3, 10, 30, 100):
                entries.append(outcomes(f"learned:alpha{alpha}_s{seed}", [1.0] * 8, [3] * 8, block_length=block))
        entries.append(outcomes("oracle:1", [1.0] * 8, [1] * 4 + [2] * 4, block_length=block))
        entries.append(outcomes("threshold:0.9", [1.0] * 8, [4] * 8, block_length=block))
        entries.append(outcomes("guided:1", [1.0] * 4 + [0.0] * 4, [1] * 8, block_length=block))
        entries.append(outcomes("low_confidence:1", [1.0] * 8, [8] * 8, block_length=block))
    return write_run(tmp_path / "dial/frontier", entries)


@pytest.mark.slow
def test_summary_of_the_dial(tmp_path: Path) -> None:
    folder, experiment = dial_folder(tmp_path), EXPERIMENTS["dial"]
    finish(experiment, tmp_path)
    write_json(tmp_path / "dial/dial_s0/policy/config.json", {"trained": {"timesteps": 160_000}})
    assert folder.is_dir()
    summary = json.loads(json.dumps(experiment.summarise(tmp_path)))  # as it is kept
    full = summary["blocks"]["64"]
    assert full["wanted"] == 0.99
    assert [row["nfe"] for row in full["nearly"]] == [2, 2, 2]
    assert (full["rule"]["policy"], full["rule"]["nfe"], full["oracle"]) == ("threshold:0.9", 4, 1.5)
    assert full["rank_correlation"] == pytest.approx([1, 1, 1])
    assert full["tasks"]["sort"] == {"accuracy": [1, 1, 1], "nfe": [3, 3, 3], "oracle": 2}
    assert full["hypervolume"]["dial"]["seeds"] == pytest.approx([0.5] * 3)
    assert full["hypervolume"]["alphas"]["seeds"] == pytest.approx([1 / 3] * 3)
    assert full["hypervolume"]["rules"]["seeds"] == pytest.approx([0.25])
    text = experiment.markdown(summary)
    assert "| full diffusion | 99.0 | s1: 0 | 100.0 | 2.00 | 4.00 (`threshold:0.9`) | 0.50 | 1.33 |" in text
    assert "| rules that run the dLLM alone | 0.250 | +0." in text
    experiment.draw(summary, tmp_path)
    assert (tmp_path / "dial.png").read_bytes().startswith(b"\x89PNG")
