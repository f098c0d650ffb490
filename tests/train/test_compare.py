from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import read_page
from records import outcomes, ppo_config, write_run

from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, save
from train.command.config import ROOT, parse
from train.command.errors import UserError
from train.command.model_config import ModelConfig
from train.command.wandb_config import WandbConfig
from train.compare import CompareConfig, main
from train.comparison.runs import problems_of, read_run, read_runs
from train.comparison.tables import compare, per_task
from train.evaluate import main as evaluate_main
from train.evaluation.measures import best_rule
from train.evaluation.run import EvaluateConfig


def record(policy: str, accuracy: float, nfe: float, task: str = "all", block: int = 64) -> dict[str, Any]:
    return {
        "policy": policy,
        "decision": "deterministic",
        "task": task,
        "block_length": block,
        "accuracy": accuracy,
        "accuracy_ci95": [accuracy - 0.05, accuracy + 0.05],
        "nfe": nfe,
        "episodes": 100,
    }


CURVE = [record("threshold:0.5", 0.80, 1.5), record("threshold:0.9", 0.95, 3.0), record("threshold:0.99", 0.97, 6.0)]


@pytest.mark.parametrize(
    ("accuracy", "expected"), [(0.7, 1.5), (0.804, 1.5), (0.806, 3.0), (0.955, 3.0), (0.956, 6.0), (0.99, 6.0)]
)
def test_the_rival_is_the_cheapest_setting_that_is_accurate_enough(accuracy: float, expected: float) -> None:
    assert best_rule(CURVE, accuracy)["nfe"] == expected


def test_savings_are_averaged_over_seeds_with_a_student_interval() -> None:
    seeds = [record(f"learned:s{i}", *pair) for i, pair in enumerate([(0.95, 2.4), (0.95, 2.1), (0.97, 3.0)])]
    row = compare([*CURVE, *seeds]).splitlines()[2]
    # Forwards saved: 20 % and 30 % of 3.0, 50 % of 6.0; their standard deviation is 15.275 and t(0.975, 2) is 4.303.
    assert row == "| 64 | deterministic | 95.7 ± 2.9 | 2.50 ± 1.14 | 95.7 ± 2.9 | 4.00 ± 4.30 | 33.3 ± 37.9 |"


def test_no_saving_is_claimed_where_no_rule_was_measured_at_that_accuracy() -> None:
    rows = compare([*CURVE, record("learned", 0.93, 2.4)]).splitlines()
    assert rows[2].startswith(
        "| 64 | deterministic | 93.0 | 2.40 | 95.0 | 3.00 | none claimed: no rule within half a point"
    )
    seeds = [record("learned:s0", 0.95, 2.4), record("learned:s1", 0.93, 2.4)]
    assert "none claimed: no rule within half a point, 1 of 2 seeds" in compare([*CURVE, *seeds])
    # A more accurate rule for as many forwards is a rule to be compared with, whatever else was measured.
    [row] = compare([*CURVE, record("eb_sampler:0.1", 0.99, 2.4), record("learned", 0.95, 2.4)], ["all"]).splitlines()[
        2:
    ]
    assert row == "| 64 | deterministic | 95.0 | 2.40 | 99.0 | 2.40 | 0.0 |"


def test_rules_with_end_of_text_prediction_and_all_rules_count() -> None:
    records = [record("threshold:0.9+eotp", 0.95, 3.0), record("klass:0.9", 0.95, 2.5), record("oracle:1", 0.95, 1.0)]
    learned = record("learned", 0.95, 2.0)
    assert compare([*records, learned]).splitlines()[2].endswith("| 3.00 | 33.3 |")
    assert compare([*records, learned], ["all"]).splitlines()[2].endswith("| 2.50 | 20.0 |")


def test_block_lengths_are_compared_separately() -> None:
    small = [record("threshold:0.9", 0.95, 10.0, block=8), record("learned", 0.95, 9.0, block=8)]
    rows = compare([*CURVE, record("learned", 0.95, 2.4), *small]).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| 64", "| 8"]
    assert rows[1].endswith("| 10.00 | 10.0 |")


def test_tasks_are_set_against_the_one_setting_chosen_for_the_suite() -> None:
    tasks = [record("threshold:0.5", 1.0, 1.0, "copy"), record("threshold:0.9", 0.9, 2.0, "copy")]
    records = [*CURVE[:2], *tasks, record("learned", 0.95, 2.4), record("learned", 0.98, 1.5, "copy")]
    assert per_task(records).splitlines()[2:] == [
        "| all | 95.0 | 2.40 | 95.0 | 3.00 |",
        "| copy | 98.0 | 1.50 | 90.0 | 2.00 |",
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two seeds, a sweep of rules with an oracle on the same problems, an older run, and a file of records."""
    place = tmp_path_factory.mktemp("runs")
    right, nfe = [1] * 18 + [0] * 2, [1, 2, 3, 2] * 5
    made = []
    for seed in (0, 1):
        entries = [outcomes("learned", right, [n + seed * (i % 3 == 0) for i, n in enumerate(nfe)])]
        made.append(write_run(place / f"net_s{seed}", entries, ppo_config(seed)))
        rows = [f"{i},{i},{0.5 + 0.1 * i + 0.01 * seed},{4 - i}" for i in range(1, 4)]
        columns = "time/total_timesteps,time/time_elapsed,rollout/score,rollout/nfe\n"
        (made[-1] / "progress.csv").write_text(columns + "\n".join(rows) + "\n")
    rules = [outcomes(f"threshold:{0.5 + k / 10:g}", [1] * (16 + k) + [0] * (4 - k), [k + 2] * 20) for k in range(4)]
    rules += [outcomes("oracle", [1] * 20, [1, 2] * 10), outcomes("klass:0.9", [1] * 20, [3] * 20)]
    config = {"policy": ["all"], "episodes": 10, "model": {"name": "toy"}, "buffer_length": 8}
    made.append(write_run(place / "rules", rules, config))
    older = [outcomes("learned", right, nfe, block_length=4), outcomes("threshold:0.9", right, nfe, block_length=4)]
    made.append(write_run(place / "older", older, ppo_config(5, 3.0), keep=False))
    bare = write_run(place / "bare", [outcomes("threshold:0.9", right, nfe)], keep=False)
    return [str(folder) for folder in made] + [str((bare / "evaluation.json").rename(place / "bare.json"))]


def test_a_copy_that_was_evaluated_again_is_a_run_of_its_own(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs with one id on W&B: the copy of a copy is the same run, and said to be; without an id folders count."""
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        runs.append(Path(shutil.copytree(folders[seed], tmp_path / name)))
        (runs[-1] / "wandb_id.txt").write_text("abc123")
    assert [run.name for run in read_runs([str(run) for run in runs])] == ["a", "c"]
    assert f"{runs[1]}, which is the run {runs[0]} again" in capsys.readouterr().out
    for run in runs:
        (run / "wandb_id.txt").write_text(" \n")
    assert [run.name for run in read_runs([str(run) for run in [*runs, runs[0]]])] == ["a", "b", "c"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("commit", [{"mean": 1}, 5, ["x"]])
def test_a_commit_that_is_no_text_is_one_sentence(folders: list[str], tmp_path: Path, commit: Any) -> None:
    run = Path(shutil.copytree(folders[0], tmp_path / "a"))
    (run / "versions.json").write_text(json.dumps({"commit": commit}))
    with pytest.raises(UserError, match=r"versions.json' can't be read: its commit is .*, which must be a text"):
        read_runs([str(run)])


@pytest.mark.slow
def test_a_report_of_mixed_runs(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    found = main(CompareConfig(folders, out=out))
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(found))
    assert [row["kind"] for row in found["runs"]] == ["PPO", "PPO", "evaluation", "PPO", "records"]
    tests = {(row["policy"], row["seed"]): row for row in found["tests"]}
    # 18 of 20 right: threshold:0.7 has as many, and 4 forwards a problem.
    assert tests["net", "net_s0"]["rule"] == "threshold:0.7"
    assert [row["paired"] for row in tests.values()] == [True, True, False]
    assert tests["net", "net_s0"]["saved"]["mean"] == pytest.approx(0.5)
    shown = capsys.readouterr().out
    assert "older, bare.json kept no outcomes.json" in " ".join(shown.split())
    assert str(out / "report.html") in shown
    markdown = (out / "report.md").read_text()
    for title in ("Findings", "Summary", "Tests", "By task", "Hypervolume", "Distance to the oracle", "What differs"):
        assert f"## {title}" in markdown
    assert "klass:0.9" not in markdown
    assert "| 8 | deterministic | 90.0 ± 0.0 |" in (out / "tables.md").read_text()
    plots = sorted(file.stem for file in out.glob("*.png"))
    assert plots == ["curves", "pareto_A", "pareto_B", "tasks"]
    page = read_page((out / "report.html").read_text())
    assert len(page.loaded) == 2 * len(plots)  # for a light and for a dark screen
    assert len(set(page.loaded)) == len(page.loaded)
    with pytest.raises(UserError, match="not empty"):
        main(CompareConfig(folders, out=out))


@pytest.mark.slow
def test_all_rules_and_no_learned_policy(folders: list[str], tmp_path: Path) -> None:
    main(CompareConfig(folders[:3], rules=["all"], out=tmp_path / "all"))
    assert "klass:0.9" in (tmp_path / "all" / "report.md").read_text()
    found = main(CompareConfig(folders[2:3], out=tmp_path / "rules"))
    assert (found["tests"], found["savings"], found["tasks"]) == ([], [], [])
    assert "No learned policy" in (tmp_path / "rules" / "report.md").read_text()
    found = main(CompareConfig(folders[:2], out=tmp_path / "learned"))
    assert "nothing to compare with" in (tmp_path / "learned" / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rules", [["all"], ["threshold", "all"], ["threshold"], ["klass", "threshold"], ["klass"]])
def test_every_part_of_a_report_compares_with_the_rules_that_were_asked_for(
    rules: list[str], folders: list[str], tmp_path: Path
) -> None:
    found = main(CompareConfig(folders[:3], rules=rules, out=tmp_path / "out"))
    families = {"threshold", "klass"} if "all" in rules else set(rules)
    assert {row["rule"].partition(":")[0] for row in found["tests"]} <= families
    assert {row["family"] for row in found["hypervolume"] if not row["is_learned"]} == families
    named = ["best rule"] if "all" in rules else [f"best {rule}" for rule in rules]
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert [line for line in tables.splitlines() if line.startswith("net against ")] == [
        f"net against {name}, 10 test problems a task, from number 0, of copy, sort; dLLM toy, L = 8, temperature 0. "
        "Mean ± half the interval over seeds."
        for name in named
    ]
    assert tables.count("| block | decision |") == len(named)


def test_a_bad_folder_leaves_no_report(folders: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        main(CompareConfig([*folders, "nowhere"], out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="runs is empty"):
        main(CompareConfig(out=tmp_path / "out"))


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="rules is 'treshold'"):
        CompareConfig(rules=["treshold"])
    with pytest.raises(ValueError, match="rules is 'oracle'"):
        CompareConfig(rules=["threshold", "oracle"])
    with pytest.raises(ValueError, match="rules is empty"):
        CompareConfig(rules=[])
    with pytest.raises(ValueError, match="reference_accuracy is 1"):
        CompareConfig(reference_accuracy=1.0)
    words = ["a", "--out", "o", "b", "--wandb.mode=offline", "--rules", "all"]
    config = parse(CompareConfig, None, words, positional="runs")
    assert (config.runs, config.rules, config.out, config.wandb.mode) == (["a", "b"], ["all"], Path("o"), "offline")
    paths = ["a", "wandb:me/project?group=seeds"]
    assert parse(CompareConfig, None, paths, positional="runs").runs == paths


@pytest.mark.slow
def test_the_command_line_on_runs_of_the_evaluation(tmp_path: Path, python: str) -> None:
    """From policies to the page: two untrained networks and two rules on the toy dLLM."""
    for seed in (0, 1):
        network = UnmaskingNetwork(NetworkConfig(hidden_size=8, init="random", bias=-1.0 + seed))
        save(LearnedPolicy(network), tmp_path / f"net_s{seed}" / "policy")
        (tmp_path / f"net_s{seed}" / "config.yaml").write_text(json.dumps(ppo_config(seed)))
    about: dict[str, Any] = {"model": ModelConfig("toy"), "tasks": ["copy"], "episodes": 12, "buffer_length": 8}
    policies = [str(tmp_path / f"net_s{seed}" / "policy") for seed in (0, 1)]
    evaluate_main(EvaluateConfig(policy=policies, out=tmp_path / "a", **about))
    evaluate_main(EvaluateConfig(policy=["threshold:0", "threshold:1"], out=tmp_path / "b", **about))
    command = [python, str(ROOT / "train" / "compare.py")]
    done = subprocess.run([*command, "a", "b", "--out", "report"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "net (2 seeds)" in " ".join(done.stdout.split())
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {row["seed"] for row in found["tests"]} == {"net_s0", "net_s1"}
    assert all(row["paired"] for row in found["tests"])
    failed = subprocess.run([*command, "a", "nowhere"], cwd=tmp_path, capture_output=True, text=True)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == "error: run is 'nowhere': there is no such folder or file\n"


@pytest.mark.slow
def test_weights_and_biases_gets_the_same(folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    out = tmp_path / "report"
    main(CompareConfig(folders[:3], out=out, wandb=WandbConfig(mode="offline")))
    [run] = out.glob("wandb/offline-run-*")
    tables = {file.name.partition("_")[0]: json.loads(file.read_text()) for file in run.rglob("*.table.json")}
    all_columns = [table["columns"] for table in tables.values()]
    assert ["policy", "nfe", "accuracy"] in all_columns
    logged = [json.loads(file.read_text()) for file in run.rglob("*.table.json")]
    [tests] = [table for table in logged if "NFE: Holm's p" in table["columns"]]
    row = dict(zip(tests["columns"], tests["data"][0], strict=True))
    assert (row["policy"], row["set against"], row["policy is"]) == ("net", "threshold:0.7", "faster")
    assert {file.name.partition("_")[0] for file in run.rglob("*.png")} == {"curves", "pareto", "tasks"}
    [file] = run.glob("run-*.wandb")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--summary", "--json", str(file)]
    summary = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (summary["state"], summary["exit_code"], summary["name"]) == ("finished", 0, "report")


@pytest.mark.parametrize(("early_end", "said"), [(True, ""), (False, ", no early end")])
def test_records_without_a_configuration_say_how_they_were_counted(tmp_path: Path, early_end: bool, said: str) -> None:
    entry = outcomes("threshold:0.9", [1, 0, 1, 1], [3, 4, 5, 6], early_end=early_end)
    run = read_run(write_run(tmp_path / "a", [entry]), "a", "a")
    assert run.kind == "records"
    assert problems_of(run).text == f"2 problems a task of copy, sort in a{said}"
