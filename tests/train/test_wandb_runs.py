"""Runs that went to W&B and came back; the server is `wandb_server.WandbServer`, on the loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from records import outcomes, ppo_config, write_run
from wandb_server import WandbServer, serving

from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, save
from train.command.errors import UserError
from train.command.wandb_config import WandbConfig
from train.compare import CompareConfig, main
from train.comparison.lines import collect_lines
from train.comparison.report import find
from train.comparison.runs import read_run, read_runs
from train.comparison.wandb_runs import fetch
from train.evaluation.plot import plot_pareto
from train.evaluation.records import read_outcomes, read_records
from train.tracking.history import STEP, ProgressWriter, read_progress
from train.tracking.tracker import Tracker

PROJECT = "wandb:me/unmasking-policies"
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    with pytest.MonkeyPatch.context() as patch, serving() as server:
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        patch.setenv("WANDB_BASE_URL", server.url)
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("WANDB_INIT_TIMEOUT", "10")
        wandb.teardown()  # it would remember another server
        yield server
        wandb.teardown()


def train(folder: Path, seed: int, config: WandbConfig, steps: tuple[int, ...] = (100, 200, 300)) -> Tracker:
    """What a training run does, with known numbers: it is right on 19 of 20 problems, in 2 + seed forwards.

    Its rules are right on as many, so that forwards can be compared at the same accuracy.
    """
    settings = ppo_config(seed)
    if not folder.exists():
        rules = [outcomes(f"threshold:{t}", [1] * 19 + [0], [nfe] * 20) for t, nfe in ((0.7, 4), (0.9, 5))]
        rules.append(outcomes("oracle", [1] * 20, [1] * 20))
        write_run(folder, [outcomes("learned", [1] * 19 + [0], [2 + seed] * 20), *rules], settings)
    network = UnmaskingNetwork(NetworkConfig(hidden_size=8))
    save(LearnedPolicy(network, trained={"model": "toy", "seed": seed}), folder / "policy")
    plot_pareto(read_records(folder), folder / "pareto.png")
    tracker = Tracker(config, folder, settings, "train")
    progress = ProgressWriter(folder / "progress.csv", upto=steps[0] - 1)
    for step in steps:
        numbers = {"rollout/score": step / 400, "rollout/nfe": 5 - step / 100 + seed}
        tracker.log({**numbers, STEP: step})
        progress.write(numbers, {}, step)
    return tracker


@pytest.fixture(scope="module")
def local(server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds in their folders, and online in a group."""
    folders = [tmp_path_factory.mktemp("runs") / f"net_s{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        config = WandbConfig(mode="online", group="both seeds", tags=["x"])
        train(folder, seed, config).finish(read_records(folder), folder / "pareto.png", folder / "policy")
    return folders


def path_of(folder: Path) -> str:
    return f"{PROJECT}/{(folder / 'wandb_id.txt').read_text().strip()}"


@pytest.mark.slow
def test_a_run_comes_back_as_it_was(local: list[Path], tmp_path: Path) -> None:
    [found] = fetch(path_of(local[0]), tmp_path)
    assert (found.source, found.name) == (path_of(local[0]), "net_s0")
    assert read_records(found.folder) == read_records(local[0])
    assert read_outcomes(found.folder) == read_outcomes(local[0])
    assert read_progress(found.folder) == read_progress(local[0])
    first, second = (read_run(folder, "x", "x") for folder in (local[0], found.folder))
    assert first.config == second.config == ppo_config(0)
    [policy] = found.artifacts
    assert policy.source_qualified_name.startswith("me/unmasking-policies/policy-toy:v")


@pytest.mark.slow
def test_the_workspace_shows_how_good_the_policy_is(server: WandbServer, local: list[Path]) -> None:
    run = server.runs[path_of(local[0]).rpartition("/")[2]]
    assert (run["displayName"], run["groupName"], run["jobType"], run["tags"]) == (
        "net_s0",
        "both seeds",
        "train",
        ["x"],
    )
    summary = json.loads(run["summary"])
    evaluation = {
        "accuracy": 0.95,
        "nfe": 2,
        "token_positions": 40,
        "forwards_saved": 0.5,
        "best_rule": "threshold:0.7",
        "rule_accuracy": 0.95,
        "rule_nfe": 4,
        "is_less_accurate": False,
        "oracle_ratio": 2,
    }
    shown = {key.removeprefix("eval/deterministic/block8/"): value for key, value in summary.items() if "eval/" in key}
    assert shown == evaluation
    assert (summary["rollout/score"], summary["rollout/nfe"]) == ({"last": 0.75, "max": 0.75}, {"last": 2, "min": 2})
    policies = [artifact for artifact in server.artifacts if artifact["artifactTypeName"] == "policy"][:2]
    assert [artifact["artifactCollectionName"] for artifact in policies] == ["policy-toy"] * 2  # versions line up
    aliases = [{alias["alias"] for alias in artifact["aliases"]} for artifact in policies]
    assert aliases == [{"latest", "net_s0"}, {"latest", "net_s1"}]
    metadata = json.loads(policies[0]["metadata"])
    assert metadata["evaluation"] == {f"deterministic/block8/{key}": value for key, value in evaluation.items()}
    assert metadata["trained"] == {"model": "toy", "seed": 0}


def found_in(downloads: Path, *sources: str) -> dict[str, Any]:
    """What a report holds, without the places that the runs came from."""
    runs = read_runs(sources, downloads)
    found = find(runs, collect_lines(runs), ["threshold"], 0.5)
    return {**found, "runs": [{**row, "path": ""} for row in found["runs"]]}


@pytest.mark.slow
def test_a_comparison_is_the_same_from_either_side(local: list[Path], tmp_path: Path) -> None:
    here = found_in(tmp_path, *map(str, local))
    assert [row["paired"] for row in here["tests"]] == [True, True]
    assert here["savings"][0]["saved"]["mean"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert here["curves"]["rollout/score"][0]["mean"] == [0.25, 0.5, 0.75]
    there = [path_of(folder) for folder in local]
    assert found_in(tmp_path, *there) == here
    assert found_in(tmp_path, f"{PROJECT}?group=both seeds") == here
    # The same run from both sides is one seed, not two.
    assert found_in(tmp_path, str(local[0]), *there) == here


@pytest.mark.slow
def test_a_comparison_is_a_run_with_links_to_what_it_used(
    server: WandbServer, local: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = [str(local[0]), path_of(local[1])]
    found = main(CompareConfig(sources, out=tmp_path / "report", wandb=WandbConfig(mode="online", tags=["y"])))
    assert [row["path"] for row in found["runs"]] == sources
    run_id = (tmp_path / "report" / "wandb_id.txt").read_text().strip()
    run = server.runs[run_id]
    assert (run["jobType"], run["tags"], run["state"]) == ("compare", ["y"], "finished")
    logged = {key: value for row in run["history"] for key, value in json.loads(row).items()}
    assert logged["tables/summary"]["_type"] == "table-file"
    assert logged["plots/pareto"]["_type"] == "image-file"
    assert logged["accuracy_by_nfe_table"]["nrows"] == 4
    assert "accuracy_by_nfe" in json.loads(run["config"])["_wandb"]["value"]["visualize"]
    assert json.loads(run["summary"])["saved/net/deterministic/block8"] == pytest.approx(0.375)
    used = [server.artifacts[int(artifact) - 1] for user, artifact in server.used if user == run_id]
    assert [artifact["artifactCollectionName"] for artifact in used] == ["policy-toy", "policy-toy"]
    assert [artifact["runName"] for artifact in used] == [path_of(folder).rpartition("/")[2] for folder in local]
    assert [a["artifactTypeName"] for a in server.artifacts if a["artifactCollectionName"] == "comparison"] == [
        "report"
    ]


@pytest.mark.slow
def test_a_resumed_run_goes_on_under_its_id(server: WandbServer, tmp_path: Path) -> None:
    """Killed at step 200, resumed from a checkpoint at step 100."""
    folder, config = tmp_path / "run", WandbConfig(mode="online")
    train(folder, 0, config, (100, 200)).abandon()
    run_id = path_of(folder).rpartition("/")[2]
    assert server.runs[run_id]["state"] == "failed"
    before = len(server.runs)
    tracker = train(folder, 0, config, (200, 300))
    tracker.finish(read_records(folder), folder / "pareto.png", folder / "policy")
    assert (len(server.runs), server.runs[run_id]["state"]) == (before, "finished")
    steps = [json.loads(row).get(STEP) for row in server.runs[run_id]["history"]]
    assert steps[:4] == [100, 200, 200, 300]
    [found] = fetch(path_of(folder), tmp_path / "downloads")
    assert read_progress(found.folder) == read_progress(folder)


@pytest.mark.slow
def test_offline_runs_are_synced_later(server: WandbServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, 0, WandbConfig(mode="offline"), (100, 200)).abandon()
    tracker = train(folder, 0, WandbConfig(mode="offline"), (200, 300))
    tracker.finish(read_records(folder), folder / "pareto.png", folder / "policy")
    moved = folder.rename(tmp_path / "moved")
    command = [str(Path(sys.executable).parent / "wandb"), "sync", *map(str, moved.glob("wandb/offline-run-*"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "error" not in (done.stdout + done.stderr).lower()
    assert server.runs[path_of(moved).rpartition("/")[2]]["state"] == "finished"
    [found] = fetch(path_of(moved), tmp_path / "downloads")
    assert read_outcomes(found.folder) == read_outcomes(moved)
    assert read_progress(found.folder) == read_progress(moved)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 2])
def test_the_printed_line_sends_the_whole_history(server: WandbServer, tmp_path: Path, kills: int) -> None:
    """Killed after step 200, each time, and resumed from a checkpoint at step 100."""
    folder = tmp_path / "my run's folder"
    for _ in range(kills):
        train(folder, 0, WandbConfig(mode="offline"), (100, 200)).abandon()
    tracker = Tracker(WandbConfig(mode="offline"), folder, ppo_config(0), "train")
    progress = ProgressWriter(folder / "progress.csv", upto=100)
    tracker.log_again(progress.rows)
    for step in (200, 300):
        tracker.log({"rollout/score": step / 400, STEP: step})
        progress.write({"rollout/score": step / 400}, {}, step)
    tracker.finish(read_records(folder), folder / "pareto.png", folder / "policy")
    words = tracker.place.removeprefix("offline; send it with: ")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", words], env=environment, capture_output=True, text=True, check=True)
    assert "error" not in (done.stdout + done.stderr).lower()
    sent = server.runs[path_of(folder).rpartition("/")[2]]
    rows = [json.loads(row) for row in sent["history"]]
    scores = [(row[STEP], row["rollout/score"]) for row in rows if "rollout/score" in row]
    assert scores == [(100, 0.25), (200, 0.5), (300, 0.75)]
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    assert sent["state"] == "finished"
    # Whoever sends all that there is sends nothing else.
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1
    assert len(list(folder.glob("wandb/before_resuming/*"))) == kills


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("wandb:unmasking-policies/abc", "write wandb:ENTITY/PROJECT/RUN_ID or wandb:ENTITY/PROJECT"),
        ("wandb:me/unmasking-policies?tag=x", "write wandb:ENTITY/PROJECT/RUN_ID"),
        ("wandb:me/unmasking-policies/nothing", "W&B says: Could not find run"),
        ("wandb:me/unmasking-policies?group=nobody", "no run of that group holds an evaluation.json"),
    ],
)
def test_what_is_no_run_is_one_clear_error(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_runs([source])
    assert source in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_without_an_evaluation_says_so(server: WandbServer, tmp_path: Path) -> None:
    train(tmp_path / "run", 0, WandbConfig(mode="online")).abandon()
    with pytest.raises(UserError, match=r"it holds no evaluation.json"):
        fetch(path_of(tmp_path / "run"), tmp_path)


def test_without_a_login_it_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    wandb.teardown()
    with pytest.raises(UserError, match="wandb login"):
        fetch(f"{PROJECT}/abc", tmp_path)
    with pytest.raises(UserError, match=r"wandb.mode is 'online', but W&B can't start .*wandb login"):
        train(tmp_path / "run", 0, WandbConfig(mode="online"))
