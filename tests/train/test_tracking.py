from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from stable_baselines3.common.logger import Logger

from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, save
from train.command.config import ROOT, parse
from train.command.errors import UserError
from train.command.files import write_json
from train.command.wandb_config import WandbConfig
from train.evaluation.plot import plot_pareto
from train.evaluation.records import make_record
from train.job.ppo_config import TrainPPOConfig
from train.ppo import train
from train.tracking.artifacts import allowed_name, policy_artifact
from train.tracking.history import STEP, ProgressWriter
from train.tracking.tracker import Tracker
from train.tracking.writers import TrackerWriter

SETTINGS = {"seed": 7, "env": {"alpha": 8.5, "tasks": ["copy", "sort"]}, "out": "runs/x"}
TINY_RUN = [
    "--model.name=toy",
    "--env.tasks=[copy]",
    "--env.buffer_length=8",
    "--env.num_envs=4",
    "--policy.hidden_size=8",
    "--ppo.n_steps=8",
    "--ppo.batch_size=16",
    "--total_timesteps=64",
    "--env.problems=null",
    "--filter.learn=false",
    "--evaluation.episodes=2",
    "--evaluation.rules=[threshold:0.9]",
    "--evaluation.beside_training=false",
]
ROWS = [(1.0, 2, 50), (0.0, 4, 100)]
RECORDS = [
    {**make_record(policy, decision, task, 8, 0, ROWS), "tokens_per_forward": 2.5}
    for policy, decision in (
        *(("learned", "sample"), ("learned", "deterministic")),
        *(("threshold:0.9", "deterministic"), ("threshold:0.8", "deterministic")),
    )
    for task in ("copy", "all")
]


@pytest.fixture(scope="module", autouse=True)
def _wandb_files_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        yield


def track(config: WandbConfig, folder: Path) -> Tracker:
    """What a training run does, with known numbers."""
    write_json(folder / "evaluation.json", RECORDS)
    plot_pareto(RECORDS, folder / "pareto.png")
    save(LearnedPolicy(UnmaskingNetwork(NetworkConfig(hidden_size=8))), folder / "policy")
    tracker = Tracker(config, folder, SETTINGS, "train")
    logger = Logger(folder=None, output_formats=[TrackerWriter(tracker)])
    for update in (1, 2, 3):
        logger.record("rollout/score", 0.25 * update)
        logger.record("train/approx_kl", np.float32(0.5 * update))  # Stable-Baselines3 logs this one so
        logger.record("train/n_updates", 3 * update)
        logger.record("note", "words are not metrics")
        logger.dump(100 * update)
    tracker.finish(RECORDS, folder / "pareto.png", folder / "policy")
    return tracker


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked") / "my_run"
    folder.mkdir()
    track(WandbConfig(project="unmasking", group="seeds", tags=["a", "b"]), folder)
    return folder


def inspect(folder: Path, *flags: str) -> str:
    [file] = folder.glob("wandb/offline-run-*/run-*.wandb")
    return inspect_file(file, *flags)


def inspect_file(file: Path, *flags: str) -> str:
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", *flags, "--json", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def log(offline: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in inspect(offline).splitlines()]


@pytest.fixture(scope="module")
def history(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in log if record["type"] == "history"]


@pytest.mark.slow
def test_an_offline_run_reads_back(offline: Path) -> None:
    run = json.loads(inspect(offline, "--summary"))
    assert run["config"] == SETTINGS
    assert (run["state"], run["exit_code"], run["project"], run["name"]) == ("finished", 0, "unmasking", "my_run")
    assert sorted(run["tags"]) == ["a", "b"]
    assert run["run_id"] == (offline / "wandb_id.txt").read_text().strip()
    summary = run["summary"]
    for decision in ("sample", "deterministic"):
        assert summary[f"eval/{decision}/block8/accuracy"] == 0.5
        assert summary[f"eval/{decision}/block8/nfe"] == 3
        assert summary[f"eval/{decision}/block8/forwards_saved"] == 0  # the rule did the same
        assert summary[f"eval/{decision}/block8/best_rule"] == "threshold:0.9"
    assert summary["eval/deterministic/block8/aup/threshold"] == 125
    assert summary["rollout/score"] == {"last": 0.75, "max": 0.75}
    assert summary["evaluation"]["nrows"] == len(RECORDS)
    assert summary["evaluation"]["ncols"] == len(RECORDS[0])
    assert summary["pareto"]["_type"] == "image-file"


@pytest.mark.slow
def test_the_history_of_a_metric_reads_back(history: list[dict[str, Any]]) -> None:
    assert [(row[STEP], row["rollout/score"]) for row in history if "rollout/score" in row] == [
        (100, 0.25),
        (200, 0.5),
        (300, 0.75),
    ]
    assert [row["train/n_updates"] for row in history if "train/n_updates" in row] == [3, 6, 9]
    assert not [row for row in history if "note" in row]


@pytest.mark.slow
def test_numpy_metrics_are_logged_too(history: list[dict[str, Any]]) -> None:
    assert [row["train/approx_kl"] for row in history if "train/approx_kl" in row] == [0.5, 1.0, 1.5]


def test_the_policy_is_logged_as_an_artifact(log: list[dict[str, Any]]) -> None:
    artifacts = [record["artifact"] for record in log if record["type"] == "artifact"]
    [policy] = [artifact for artifact in artifacts if artifact["type"] == "policy"]
    assert {entry["path"] for entry in policy["manifest"]["contents"]} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }


def test_the_artifact_says_what_the_policy_does(log: list[dict[str, Any]]) -> None:
    [policy] = [r["artifact"] for r in log if r["type"] == "artifact" and r["artifact"]["type"] == "policy"]
    assert (policy["name"], sorted(policy["aliases"])) == ("policy", ["latest", "my_run"])  # it was not trained
    assert json.loads(policy["metadata"])["evaluation"]["sample/block8/nfe"] == 3


def test_the_evaluation_goes_along_whole(offline: Path) -> None:
    [file] = offline.glob("wandb/offline-run-*/files/evaluation.json")
    assert not file.is_symlink()  # the run may be moved before it is synced
    assert file.read_text() == (offline / "evaluation.json").read_text()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """wandb reads the environment once a process, unless it is torn down."""
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


VARIABLES = {
    "WANDB_PROJECT": "their-project",
    "WANDB_ENTITY": "their-team",
    "WANDB_RUN_GROUP": "their-group",
    "WANDB_JOB_TYPE": "their-job",
    "WANDB_NAME": "their-name",
    "WANDB_TAGS": "one,two",
    "WANDB_RUN_ID": "theirid1",
    "WANDB_MODE": "offline",
}
FLAGS = WandbConfig("offline", "my-project", "me", "my-group", "my-job", "my-name", ["three"])


def facts(run: Any) -> tuple[Any, ...]:
    return (run.project, run.entity, run.group, run.job_type, run.name, sorted(run.tags))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "variables", "expected"),
    [
        (WandbConfig(), {}, ("unmasking-policies", "", "", "train", "a_run", [])),
        (
            WandbConfig(),
            VARIABLES,
            ("their-project", "their-team", "their-group", "their-job", "their-name", ["one", "two"]),
        ),
        (FLAGS, VARIABLES, ("my-project", "me", "my-group", "my-job", "my-name", ["three"])),
        (FLAGS, {"WANDB_MODE": "disabled"}, ("my-project", "me", "my-group", "my-job", "my-name", ["three"])),
    ],
)
def test_a_flag_beats_the_variable_beats_the_default(
    tmp_path: Path,
    environment: pytest.MonkeyPatch,
    config: WandbConfig,
    variables: dict[str, str],
    expected: tuple[Any, ...],
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    folder = tmp_path / "a_run"
    tracker = Tracker(config, folder, SETTINGS, "train", "disabled" if variables else "offline")
    tracker.abandon()
    assert facts(tracker.run) == expected
    assert tracker.run.id == variables.get("WANDB_RUN_ID", tracker.run.id)
    assert (folder / "wandb_id.txt").read_text().strip() == tracker.run.id
    assert tracker.place == f"offline; send it with: wandb sync {next(folder.glob('wandb/offline-run-*'))}"


@pytest.mark.slow
def test_an_empty_variable_is_none(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WANDB_MODE", "")
    tracker = track(WandbConfig(mode="offline"), tmp_path / "a")
    assert tracker.place.startswith("offline")


@pytest.mark.slow
def test_a_variable_can_turn_it_off_or_move_it(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WANDB_MODE", "disabled")
    tracker = track(WandbConfig(), tmp_path / "a")
    assert (tracker.place, (tmp_path / "a" / "wandb").exists()) == ("disabled", False)
    environment.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(UserError, match="WANDB_MODE is 'sometimes': choose one of offline, online, disabled"):
        track(WandbConfig(), tmp_path / "b")
    environment.setenv("WANDB_MODE", "offline")
    environment.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    wandb.teardown()
    (tmp_path / "elsewhere").mkdir()
    tracker = track(WandbConfig(), tmp_path / "c")
    [run] = (tmp_path / "elsewhere").glob("wandb/offline-run-*")
    assert tracker.place == f"offline; send it with: wandb sync {run}"


SECRETS = {
    "WANDB_API_KEY": "5ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4",
    "HF_TOKEN": "hf_0123456789secretsecretsecret",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIsecretEXAMPLEKEY",
}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A training run that was killed before its evaluation and resumed, with secrets in the environment."""
    folder = tmp_path_factory.mktemp("resumed") / "run"
    config = parse(TrainPPOConfig, "ppo.yaml", [*TINY_RUN, f"--out={folder}"])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    wandb.teardown()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        with patch.context() as inner:
            inner.setattr("train.job.run.evaluate_all", killed)
            with pytest.raises(KeyboardInterrupt):
                train(config)
        train(replace(config, resume=True))
        yield folder
    wandb.teardown()


@pytest.mark.slow
def test_a_killed_training_goes_on_under_its_id(resumed: Path) -> None:
    places = ("wandb/before_resuming/offline-run-*", "wandb/offline-run-*")
    files = [file for place in places for file in resumed.glob(f"{place}/run-*.wandb")]
    runs = [json.loads(inspect_file(file, "--summary")) for file in files]
    run_id = (resumed / "wandb_id.txt").read_text().strip()
    assert [(run["run_id"], run["state"]) for run in runs] == [(run_id, "failed"), (run_id, "finished")]
    assert "eval/deterministic/block8/nfe" in runs[1]["summary"]


@pytest.mark.slow
def test_no_secret_of_the_environment_is_written(resumed: Path) -> None:
    places = (resumed, Path(os.environ["WANDB_DATA_DIR"]), Path(os.environ["WANDB_CACHE_DIR"]))
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    names = {file.name for file in files}
    assert {"command.txt", "config.yaml", "debug.log", "debug-internal.log", "outcomes.json"} <= names
    assert any(name.endswith(".wandb") for name in names)
    for file in files:
        assert not [name for name, value in SECRETS.items() if value.encode() in file.read_bytes()], file


@pytest.mark.slow
def test_a_failed_run_says_so_and_a_resumed_one_keeps_its_id(tmp_path: Path) -> None:
    (tmp_path / "wandb_id.txt").write_text("abcd1234\n")
    tracker = Tracker(WandbConfig(), tmp_path, SETTINGS, "train")
    tracker.log({STEP: 5, "x": 1.0})
    tracker.abandon()
    run = json.loads(inspect(tmp_path, "--summary"))
    assert (run["run_id"], run["exit_code"], run["state"]) == ("abcd1234", 1, "failed")
    assert (tmp_path / "wandb_id.txt").read_text() == "abcd1234\n"


@pytest.mark.slow
def test_each_of_several_policies_has_its_own_numbers(tmp_path: Path) -> None:
    """As train/learn2pd.py logs its filters."""
    network = LearnedPolicy(UnmaskingNetwork(NetworkConfig(hidden_size=8)), trained={"model": "some/tiny"})
    folders = [save(network, tmp_path / "filters" / name) for name in ("narrow", "wide")]
    records = [
        make_record(policy, "deterministic", "all", 8, 0, [(1.0, nfe, 50)])
        for policy, nfe in (("learned:narrow@0.5", 4), ("learned:narrow@0.9", 6), ("learned:wide", 3), ("oracle:1", 2))
    ]
    write_json(tmp_path / "evaluation.json", records)
    plot_pareto(records, tmp_path / "pareto.png")
    Tracker(WandbConfig(), tmp_path, SETTINGS, "train").finish(records, tmp_path / "pareto.png", *folders)
    logged = [json.loads(line) for line in inspect(tmp_path).splitlines()]
    artifacts = [record["artifact"] for record in logged if record["type"] == "artifact"]
    found = {a["name"]: json.loads(a["metadata"])["evaluation"] for a in artifacts if a["type"] == "policy"}
    assert list(found) == ["policy-tiny-narrow", "policy-tiny-wide"]
    assert [own["deterministic/block8/oracle_ratio"] for own in found.values()] == [2, 1.5]
    assert found["policy-tiny-narrow"]["deterministic/block8/policy"] == "learned:narrow@0.5"
    assert json.loads(inspect(tmp_path, "--summary"))["summary"]["eval/deterministic/block8/nfe"] == 4


@pytest.mark.parametrize(
    "names", [("模型 v1", "模型_v1"), ("a" * 200, "a" * 201), ("a b", "a_b"), ("a/b", "a:b"), ("é", "è")]
)
def test_names_that_wandb_does_not_allow_become_others_that_differ(names: tuple[str, str]) -> None:
    allowed = [allowed_name(f"policy-{name}") for name in names]
    assert len(set(allowed)) == 2
    for name in allowed:
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", name, re.ASCII)
        wandb.Artifact(name, type="policy")


def test_a_model_of_any_name_is_logged(tmp_path: Path) -> None:
    policy = LearnedPolicy(UnmaskingNetwork(NetworkConfig(hidden_size=8)), trained={"model": "/x/模型 v1"})
    artifact = policy_artifact(save(policy, tmp_path / "policy"), RECORDS, {})
    assert artifact.name.startswith("policy-___v1-")


def test_a_folder_named_like_a_pattern_is_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run [x]"
    folder.mkdir()
    track(WandbConfig(), folder)
    assert "No files found" not in capfd.readouterr().err


def test_what_fails_after_the_start_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Tracker(WandbConfig(), tmp_path, SETTINGS, "train") as tracker:
        tracker.run.log = fail  # type: ignore[method-assign]
        tracker.log({STEP: 1})
        tracker.log({STEP: 2})
        tracker.finish(RECORDS, tmp_path / "there is none.png", tmp_path / "nor a policy")
    shown = capsys.readouterr().err
    assert shown == "warning: W&B failed while logging (no connection); the run goes on without it\n"
    assert "(incomplete: no connection)" in tracker.place


def fail(*_: object, **__: object) -> None:
    raise AssertionError("no connection")


def test_what_nobody_asked_for_can_not_end_a_start(
    tmp_path: Path, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = wandb.init

    def init(**options: Any) -> Any:
        if options["mode"] != "disabled":
            raise wandb.Error("the service did not start")
        return start(**options)

    environment.setattr(wandb, "init", init)
    with Tracker(WandbConfig(), tmp_path, SETTINGS, "train") as tracker:
        tracker.log({STEP: 1})
    assert tracker.place == "failed: the service did not start"
    assert "warning: W&B failed while starting (the service did not start)" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"wandb.mode is 'offline', but W&B can't start \(the service did not start\)"):
        Tracker(WandbConfig("offline"), tmp_path, SETTINGS, "train")


@pytest.mark.parametrize(
    ("config", "message"),
    [(WandbConfig("offline", project="a/b"), "Invalid project name 'a/b'"), (WandbConfig("online"), "wandb login")],
)
def test_what_wandb_would_refuse_is_refused_before_the_folder_is_taken(
    tmp_path: Path, environment: pytest.MonkeyPatch, config: WandbConfig, message: str
) -> None:
    environment.setenv("HOME", str(tmp_path / "home"))
    environment.delenv("WANDB_API_KEY", raising=False)
    started = replace(parse(TrainPPOConfig, "ppo.yaml", [*TINY_RUN, f"--out={tmp_path / 'run'}"]), wandb=config)
    with pytest.raises(UserError, match=message):
        train(started)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_without_a_home_all_stays_in_the_runs_folder(tmp_path: Path) -> None:
    variables = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    variables |= {"HOME": "/proc/none", "PYTHONPATH": str(ROOT)}
    program = str(ROOT / "train" / "ppo.py")
    words = [sys.executable, program, *TINY_RUN, "--out=run"]
    done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning: W&B" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    [log] = tmp_path.glob("run/wandb/offline-run-*/files/output.log")
    assert "threshold:0.9" in log.read_text()  # the console goes along
    assert done.stdout.index("threshold:0.9") < done.stdout.index("wandb sync")


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    track(WandbConfig(mode="disabled"), tmp_path)
    assert not (tmp_path / "wandb").exists()


# progress.csv


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_progress_grows_columns_and_keeps_rows(tmp_path: Path) -> None:
    file = tmp_path / "progress.csv"
    logger = Logger(folder=None, output_formats=[ProgressWriter(file)])
    logger.record("rollout/score", 0.5)
    logger.dump(64)
    assert rows_of(file) == [{"rollout/score": "0.5", STEP: "64"}]
    logger.record("rollout/score", 0.75)
    logger.record("train/loss", np.float32(0.25))
    logger.dump(128)
    assert rows_of(file) == [
        {"rollout/score": "0.5", STEP: "64", "train/loss": ""},
        {"rollout/score": "0.75", STEP: "128", "train/loss": "0.25"},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["progress.csv"]


@pytest.mark.parametrize(("upto", "kept"), [(0, []), (64, [64]), (150, [64, 128]), (999, [64, 128, 192])])
def test_progress_resumes_from_the_checkpoint(tmp_path: Path, upto: int, kept: list[int]) -> None:
    file = tmp_path / "progress.csv"
    first = ProgressWriter(file)
    for step in (64, 128, 192):
        first.write({"a": step / 64}, {}, step)
    ProgressWriter(file, upto=upto).write({"b": 1}, {}, 1000)
    rows = rows_of(file)
    assert [int(row[STEP]) for row in rows] == [*kept, 1000]
    assert [row.get("a") for row in rows] == [*(str(step / 64) for step in kept), "" if kept else None]
