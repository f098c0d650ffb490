from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from records import KEYS
from stable_baselines3 import PPO
from trainings import FLAGS, ShortCopy, Trap, run_here, tiny, trained

from envs.beliefs import DenoiserError
from envs.decoding.settings import conditions_of
from envs.models.toy import ToyDenoiser
from envs.tasks import TASKS
from policies import LearnedPolicy, NetworkConfig, Threshold, UnmaskingNetwork, load, make_rule
from train.algorithms.ppo import PPOSection
from train.command import checkpoint
from train.command.cli import run
from train.command.config import ROOT, parse, to_plain
from train.command.errors import UserError
from train.command.model_config import ModelConfig
from train.command.wandb_config import WandbConfig
from train.evaluation.measure import evaluate
from train.evaluation.records import COUNTING
from train.filters.traces import TraceConfig
from train.job import finish
from train.job.build import load_filter, make_env, make_model, stream_seed
from train.job.config import EnvConfig, EvaluationConfig
from train.job.finish import evaluation_of
from train.job.ppo_config import TrainPPOConfig
from train.job.run import build, with_filter
from train.ppo import algorithm, train
from train.tracking.history import STEP

# A known optimum.


@pytest.mark.slow
def test_ppo_finds_the_known_optimum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimum is to commit the even positions, then the odd ones: right, in two forwards."""
    monkeypatch.setitem(TASKS, "copy", ShortCopy)  # lists that fit the buffer of 6 with an end-of-text
    trap, about = Trap(), {"tasks": "copy", "buffer_length": 6, "episodes": 100}
    by_confidence = evaluate(trap, Threshold(0.9), **about)[-1]  # type: ignore[arg-type]
    assert by_confidence["accuracy"] == 0.0
    config = TrainPPOConfig(
        out=tmp_path,
        total_timesteps=24 * 1024,
        model=ModelConfig("toy", threads=1),
        env=EnvConfig(num_envs=256, tasks=["copy"], buffer_length=6, alpha=3.0),
        policy=NetworkConfig(hidden_size=32, feedforward_size=64, init="random", bias=0.0),
        ppo=PPOSection(learning_rate=5e-3, n_steps=4, batch_size=256, n_epochs=4, gae_lambda=1.0, ent_coef=0.02),
        wandb=WandbConfig(mode="disabled"),
    )
    model = trained(config, trap)
    learned = evaluate(trap, LearnedPolicy(model.policy.network), **about)[-1]  # type: ignore[arg-type]
    assert learned["accuracy"] == 1.0
    assert learned["nfe"] == pytest.approx(2.0, abs=0.1)
    with (tmp_path / "progress.csv").open() as lines:
        rewards = [float(row["rollout/ep_rew_mean"]) for row in csv.DictReader(lines)]
    assert rewards[0] < 0.1
    assert 0.8 * (5 / 6) ** 3 < rewards[-1] < 1.0001 * (5 / 6) ** 3  # of the sampled policy, near the optimum's


# Seeds.


@pytest.mark.slow
def test_one_seed_trains_to_bit_equal_weights(tmp_path: Path, toy: ToyDenoiser) -> None:
    weights = [trained(tiny(tmp_path / str(i), seed), toy).policy.state_dict() for i, seed in enumerate((3, 3, 4))]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_streams_of_seeds_do_not_meet() -> None:
    seeds = [stream_seed(seed, stream) for seed, stream in product(range(8), range(8))]
    assert len(set(seeds)) == 64
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert min(abs(a - b) for a, b in zip(sorted(seeds), sorted(seeds)[1:], strict=False)) > 256  # rows' own seeds


# The command line.

UPDATE = 64


def command(python: str, out: Path, *more: str) -> list[str]:
    return [python, str(ROOT / "train" / "ppo.py"), f"--out={out}", *FLAGS, *more]


def timesteps(out: Path) -> list[int]:
    with (out / "progress.csv").open() as lines:
        return [int(row[STEP]) for row in csv.DictReader(lines)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory, python: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("smoke") / "run"
    words = command(python, out, f"--total_timesteps={3 * UPDATE}")
    return out, subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture
def finished(smoke: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    assert smoke[1].returncode == 0, smoke[1].stderr
    return smoke[0]


@pytest.mark.slow
def test_a_run_leaves_every_file(finished: Path) -> None:
    assert contents(finished).keys() >= {
        "config.yaml",
        "command.txt",
        "versions.json",
        "progress.csv",
        "checkpoints/latest.safetensors",
        "policy/model.safetensors",
        "policy/config.json",
        "policy/README.md",
        "evaluation.json",
        "pareto.png",
    }
    assert not [name for name in contents(finished) if "tmp" in name or "partial" in name]
    assert (finished / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert f"--total_timesteps={3 * UPDATE}" in (finished / "command.txt").read_text()
    assert {"python", "torch", "stable-baselines3", "commit"} <= json.loads(
        (finished / "versions.json").read_text()
    ).keys()
    config = parse(TrainPPOConfig, None, ["--config", str(finished / "config.yaml")])
    again = parse(TrainPPOConfig, "ppo.yaml", [f"--out={finished}", *FLAGS, f"--total_timesteps={3 * UPDATE}"])
    assert to_plain(config) == to_plain(again)
    assert timesteps(finished) == [UPDATE, 2 * UPDATE, 3 * UPDATE]


@pytest.mark.slow(seconds=7)
def test_a_run_shows_its_results(smoke: tuple[Path, subprocess.CompletedProcess[str]], finished: Path) -> None:
    shown = smoke[1].stdout
    settings = next(line for line in shown.splitlines() if line.startswith("settings"))
    assert "total_timesteps 192" in settings
    assert "env.tasks [copy]" in settings
    assert "env.alpha" not in settings  # as it is by default
    assert "1 threads on cpu" in shown
    assert "threshold:0.9" in shown
    for name in ("policy", "evaluation.json", "pareto.png"):
        assert str(finished / name) in shown


@pytest.mark.slow(seconds=7)
def test_records_of_a_run(finished: Path, toy: ToyDenoiser) -> None:
    records = json.loads((finished / "evaluation.json").read_text())
    assert all(list(record) == [*KEYS, *COUNTING, "tokens_per_forward"] for record in records)
    about = {(r["policy"], r["decision"], r["task"], r["block_length"]) for r in records}
    policies = [("learned", "sample"), ("learned", "deterministic"), ("threshold:0.9", "deterministic")]
    assert about == {(*policy, task, block) for policy in policies for task in ("copy", "all") for block in (8, 4)}
    assert len(records) == len(about)
    for block in (8, 4):
        [rule] = [r for r in records if (r["policy"], r["task"], r["block_length"]) == ("threshold:0.9", "copy", block)]
        about_rule: dict[str, Any] = {"tasks": ["copy"], "episodes": 5, "buffer_length": 8, "block_length": block}
        assert rule == evaluate(toy, make_rule("threshold:0.9"), **about_rule, seed=rule["seed"])[0]


@pytest.mark.slow(seconds=7)
def test_the_exported_policy_is_one_that_was_tried(finished: Path) -> None:
    policy, state = load(finished / "policy"), checkpoint.read(finished / "checkpoints" / "latest.safetensors")
    assert state["counters"]["num_timesteps"] == policy.trained["timesteps"] == 3 * UPDATE
    best = state["validation"]
    assert best["tried"] == 4
    assert policy.trained["chosen_after"] == best["timesteps"]
    weights = policy.network.state_dict()
    assert weights.keys() == best["weights"].keys()
    assert all(torch.equal(values, weights[name]) for name, values in best["weights"].items())
    with (finished / "progress.csv").open() as lines:
        tried = {int(row[STEP]): float(row["validation/reward"]) for row in csv.DictReader(lines)}
    assert max(tried.values()) == pytest.approx(float(np.nanmean(best["best"])), abs=1e-12)
    assert best["timesteps"] in tried


@pytest.mark.slow
def test_a_used_folder_is_refused(finished: Path, python: str) -> None:
    before = contents(finished)
    done = subprocess.run(command(python, finished), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert str(finished) in done.stderr
    assert "--resume" in done.stderr
    assert contents(finished) == before


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flags", "config first", "config last"])
def test_resuming_a_finished_run_changes_no_result(
    finished: Path, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    config = f"--config={finished / 'config.yaml'}"
    words = {
        "flags": [f"--out={finished}", *FLAGS, f"--total_timesteps={3 * UPDATE}", "--resume"],
        "config first": [config, "--resume"],
        "config last": ["--resume", config],
    }[how]
    assert run_here(monkeypatch, *words) == 0, capsys.readouterr().err
    after = contents(finished)
    results = ("evaluation.json", "progress.csv", "policy/model.safetensors", "config.yaml", "command.txt")
    assert [name for name in results if after[name] != before[name]] == []


@pytest.mark.slow(seconds=7)
def test_a_damaged_checkpoint_is_named(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = finished / "checkpoints" / "latest.safetensors"
    shutil.copy(file, tmp_path)
    file.write_bytes(file.read_bytes()[:500])
    try:
        assert run_here(monkeypatch, f"--config={finished / 'config.yaml'}", "--resume") == 2
    finally:
        shutil.copy(tmp_path / "latest.safetensors", file)
    assert capsys.readouterr().err.startswith(f"error: checkpoint {file} can't be read (it is no checkpoint")


@pytest.mark.slow
def test_a_run_started_over_is_evaluated_again(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the message about a damaged checkpoint advises: delete it and resume."""
    records = (finished / "evaluation.json").read_text()
    (finished / "evaluation.json").write_text(json.dumps([{**r, "nfe": 99.0} for r in json.loads(records)]))
    (finished / "checkpoints" / "latest.safetensors").unlink()
    try:
        assert run_here(monkeypatch, f"--config={finished / 'config.yaml'}", "--resume") == 0, capsys.readouterr().err
        assert timesteps(finished) == [UPDATE, 2 * UPDATE, 3 * UPDATE]
        again = json.loads((finished / "evaluation.json").read_text())
        # Another training, another policy; the rule is the one that was evaluated.
        assert {record["policy"] for record in again if record["nfe"] > 8} == {"threshold:0.9"}
    finally:
        (finished / "evaluation.json").write_text(records)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("out is taken"), 2, "error: out is taken"),
        (ValueError("alpha is -1"), 2, "error: alpha is -1"),
        (FileNotFoundError("model is 'x'"), 2, "error: model is 'x'"),
        (DenoiserError("the dLLM returned NaN"), 1, "error: the dLLM returned NaN"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
def test_exit_status(
    error: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: TrainPPOConfig) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["train/ppo.py", "--seed=1"])
    with pytest.raises(SystemExit) as stop:
        run(fail, TrainPPOConfig)
    assert stop.value.code == status
    assert capsys.readouterr().err == line + "\n"


def test_out_that_is_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run_here(monkeypatch, f"--out={tmp_path / 'notes.txt'}", *FLAGS) == 2
    assert "notes.txt" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.slow(seconds=7)
def test_resuming_another_configuration_or_nothing_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(monkeypatch, f"--config={finished / 'config.yaml'}", "--resume", "--ppo.n_epochs=2") == 2
    assert "config.yaml differs" in capsys.readouterr().err
    assert run_here(monkeypatch, f"--out={tmp_path / 'new'}", *FLAGS, "--resume") == 2
    assert "holds no run to resume" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, updates = tmp_path / "run", 30
    total = f"--total_timesteps={updates * UPDATE}"
    process = subprocess.Popen(
        command(sys.executable, out, total), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    file = out / "checkpoints" / "latest.safetensors"
    while process.poll() is None and not file.is_file():
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert file.is_file()
    assert not (out / "policy").exists()
    saved = checkpoint.read(file)["counters"]["num_timesteps"]
    assert UPDATE <= saved < updates * UPDATE
    assert run_here(monkeypatch, f"--out={out}", *FLAGS, total, "--resume") == 0, capsys.readouterr().err
    assert timesteps(out) == list(range(UPDATE, (updates + 1) * UPDATE, UPDATE))
    steps = checkpoint.read(file)["counters"]["num_timesteps"]
    assert steps == load(out / "policy").trained["timesteps"] == updates * UPDATE
    assert {r["policy"] for r in json.loads((out / "evaluation.json").read_text())} == {"learned", "threshold:0.9"}
    starts = json.loads((out / "versions.json").read_text())["starts"]
    assert ["--resume" in start["command"] for start in starts] == [False, True]
    assert starts[0]["at"] <= starts[1]["at"]
    with (out / "progress.csv").open() as lines:
        rates = [float(row["train/learning_rate"] or "nan") for row in csv.DictReader(lines)][1:]
    assert rates == sorted(rates, reverse=True)  # the schedule goes on, it does not start again
    assert rates[-1] == pytest.approx(1e-3 / updates, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--env.block_lengths=[3]", "block_length is 3"),
        ("--env.block_lengths=[0]", "block_lengths holds 0"),
        ("--env.tasks=[juggle]", "'juggle'"),
        ("--env.reward=bonus", "reward is 'bonus'"),
        ("--env.alpha=-1", "alpha is -1"),
        ("--env.num_envs=0", "num_envs is 0"),
        ("--model.name=nowhere", "'nowhere'"),
        ("--model.threads=0", "threads"),
        ("--policy.threshold=2", "threshold is 2.0"),
        ("--policy.hidden_size=7", "hidden_size is 7"),
        ("--policy.features=[loudness]", "'loudness'"),
        ("--ppo.batch_size=0", "batch_size"),
        ("--checkpoint_every=0", "checkpoint_every"),
        ("--evaluation.rules=['greedy:1']", "greedy:1"),
        ("--evaluation.block_lengths=[3]", "block_length"),
        ("--evaluation.episodes=0", "episodes"),
    ],
)
def test_impossible_values_are_refused_before_training(
    flag: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    status = run_here(monkeypatch, f"--out={out}", *FLAGS, f"--total_timesteps={UPDATE}", flag)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2
    assert named in last
    assert "error: " in last
    assert not (out / "progress.csv").exists()


@pytest.mark.parametrize("flag", ["--ppo.nsteps=4", "--sede=1", "--policy.init=zero", "--seed=one"])
def test_unknown_keys_and_wrong_types_are_refused(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(monkeypatch, f"--out={tmp_path / 'run'}", *FLAGS, flag) == 2
    assert flag.partition("=")[0].strip("-") in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class BlockToy(ToyDenoiser):
    """Says it sees only blocks of 4."""

    block_length = 4


@pytest.mark.parametrize(("trained_with", "evaluated_at"), [([4, 8], [4]), ([4], [2, 8])])
def test_blocks_that_the_dllm_can_not_fill_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained_with: list[int], evaluated_at: list[int]
) -> None:
    monkeypatch.setattr("train.job.run.load_model", lambda config: BlockToy())
    config = tiny(tmp_path / "run", 0)
    env = replace(config.env, block_lengths=trained_with)
    with pytest.raises(ValueError, match="block_length is 8: this dLLM sees only blocks of 4"):
        train(replace(config, env=env, evaluation=EvaluationConfig(1, rules=[], block_lengths=evaluated_at)))
    assert not (tmp_path / "run").exists()


def test_seeds_of_two_runs_differ_in_their_first_problems(tmp_path: Path, toy: ToyDenoiser) -> None:
    prompts = []
    for seed in (0, 1):
        config = replace(tiny(tmp_path, seed), env=EnvConfig(num_envs=16, tasks=["sort"], buffer_length=8))
        env = make_env(config, toy, algorithm(config), None)
        make_model(config, env, algorithm(config), None)
        env.reset()
        [problems] = env.get_attr("problems", [0])
        prompts.append({problem.prompt for problem in problems})
    assert len(prompts[0]) == len(prompts[1]) == 16
    assert not prompts[0] & prompts[1]


# The filter that training starts from, remembered problems, and rules evaluated on another core.

WHOLE = [
    *(flag for flag in FLAGS if not flag.startswith(("--env.problems", "--filter.learn", "--evaluation.beside"))),
    "--env.problems=20",
    "--filter.learn=true",
    "--filter.problems=18",
    "--evaluation.beside_training=true",
    "--evaluation.rules=[oracle,'threshold:0.9']",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, python: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("whole") / "run"
    words = [python, str(ROOT / "train" / "ppo.py"), f"--out={out}", *WHOLE, f"--total_timesteps={UPDATE}"]
    return out, subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_run_learns_the_filter_that_it_starts_from(whole: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = whole
    assert done.returncode == 0, done.stderr
    inner = load(out / "filter")
    assert inner.trained["algorithm"] == "Learn2PD"
    assert inner.trained["reference"] == "threshold:0.98"
    assert not (out / "filter_traces").exists()
    assert load(out / "policy").trained["filter"] == f"{out / 'filter'} as start"
    # Training begins as the filter: the same network before any update, to which hidden states say nothing yet.
    config = parse(TrainPPOConfig, "ppo.yaml", [f"--out={out}", *WHOLE])
    own = with_filter(config)
    assert own.filter.folder == str(out / "filter")
    start = build(own, algorithm(own), load_filter(own)).policy.network
    assert isinstance(start, torch.nn.Module)
    weights = start.state_dict()
    assert not weights.pop("dllm_state.weight").any()
    assert weights.keys() == inner.network.state_dict().keys()
    assert all(torch.equal(values, weights[name]) for name, values in inner.network.state_dict().items())


@pytest.mark.parametrize("reads", [True, False])
def test_a_filter_reads_hidden_states_if_asked(reads: bool, tmp_path: Path, toy: ToyDenoiser) -> None:
    words = ["--model.name=toy", "--env.tasks=[copy]", "--env.buffer_length=8", "--filter.problems=18"]
    words += [f"--out={tmp_path}", f"--filter.reads_hidden_states={str(reads).lower()}"]
    config = parse(TrainPPOConfig, "ppo.yaml", words)
    own = with_filter(config)
    network = load(tmp_path / "filter").network
    assert isinstance(network, UnmaskingNetwork)
    assert network.config.hidden_state_size == (toy.hidden_size if reads else 0)
    start = build(own, algorithm(own), load_filter(own)).policy.network
    assert isinstance(start, UnmaskingNetwork)
    assert start.config.hidden_state_size == toy.hidden_size
    # It goes on reading them as the filter did, or begins by making nothing of them.
    states = start.state_dict()["dllm_state.weight"]
    expected = network.state_dict()["dllm_state.weight"] if reads else torch.zeros_like(states)
    assert torch.equal(states, expected)
    assert bool(states.any()) == reads


def test_the_filter_is_learned_for_the_decoding_that_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[TraceConfig] = []
    monkeypatch.setattr("train.job.run.learn_start", lambda folder, about, *more: learned.append(about) or "")
    words = ["--env.block_lengths", "16", "--env.blocks_ahead", "1", "--env.cache", "dual:refresh=4"]
    config = parse(TrainPPOConfig, "ppo.yaml", [f"--out={tmp_path}", *words])
    with_filter(config)
    [about] = learned
    assert conditions_of(about) == {
        "window": "full",
        "block_origin": "buffer",
        "blocks_ahead": 1,
        "cache": "dual:refresh=4",
    }


@pytest.mark.slow
def test_rules_evaluated_beside_the_training_are_the_same(
    whole: tuple[Path, subprocess.CompletedProcess[str]], toy: ToyDenoiser
) -> None:
    records = json.loads((whole[0] / "evaluation.json").read_text())
    about: dict[str, Any] = {"tasks": ["copy"], "episodes": 5, "buffer_length": 8}
    for name, block in product(("oracle:1", "threshold:0.9"), (8, 4)):
        [found] = [r for r in records if (r["policy"], r["task"], r["block_length"]) == (name, "copy", block)]
        assert found == evaluate(toy, make_rule(name), block_length=block, **about, seed=found["seed"])[0]
    assert {record["policy"] for record in records} == {"learned", "oracle:1", "threshold:0.9"}


@pytest.mark.slow
def test_one_seed_makes_one_run(
    tmp_path: Path, whole: tuple[Path, subprocess.CompletedProcess[str]], python: str
) -> None:
    """Filter, training and evaluation: bit for bit on one thread."""
    out = tmp_path / "again"
    words = [python, str(ROOT / "train" / "ppo.py"), f"--out={out}", *WHOLE, f"--total_timesteps={UPDATE}"]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    for name in ("filter/model.safetensors", "policy/model.safetensors", "evaluation.json"):
        assert (out / name).read_bytes() == (whole[0] / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--filter.folder=x", "--filter.role=feature", "--filter.problems=1152"], "'x'"),
        (["--dit.hidden_size=16"], "set filter.learn to false"),
        (["--filter.reference=thresold:0.9"], "thresold"),
        (["--filter.problems=0"], "filter.problems"),
        (["--env.problems=0"], "problems is 0"),
    ],
)
def test_a_filter_that_cannot_be_is_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(monkeypatch, f"--out={tmp_path / 'run'}", *WHOLE, *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# What the job hands on.


def test_ppo_is_given_its_section(tmp_path: Path, toy: ToyDenoiser) -> None:
    section = PPOSection(3e-4, 8, 32, 5, 0.9, 0.7, 0.1, 0.01, 0.3, 0.2, 0.05)
    usual = PPOSection(n_steps=8, batch_size=32)
    for config in (replace(tiny(tmp_path, 0), ppo=section), replace(tiny(tmp_path, 0), ppo=usual)):
        env = make_env(config, toy, algorithm(config), None)
        model = make_model(config, env, algorithm(config), None)
        assert isinstance(model, PPO)
        for name in asdict(section).keys() - {"learning_rate", "clip_range"}:
            assert getattr(model, name) == getattr(config.ppo, name), name
        assert model.clip_range(1.0) == config.ppo.clip_range  # type: ignore[operator]
        assert model.lr_schedule(0.5) == config.ppo.learning_rate / 2
        # What the returns are made with.
        assert (model.rollout_buffer.gamma, model.rollout_buffer.gae_lambda) == (
            config.ppo.gamma,
            config.ppo.gae_lambda,
        )
    # Every episode ends: nothing is discounted unless that is asked for.
    assert usual.gamma == 1.0


def test_an_evaluation_takes_no_more_rows_than_the_training(tmp_path: Path) -> None:
    """What fits in memory while training is to fit then too."""
    config = tiny(tmp_path, 0)
    for rows, expected in ((8, 8), (64, 64), (100, 64)):
        assert evaluation_of(replace(config, env=replace(config.env, num_envs=rows)), "x").batch_size == expected


def test_a_dial_is_calibrated_on_validation_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(tmp_path, 0)
    config = replace(config, env=replace(config.env, alpha_range=[1.0, 8.0]))
    network = UnmaskingNetwork(replace(config.policy, has_dial=True))
    asked: list[tuple[str, int]] = []
    real = finish.evaluate

    def watched(denoiser: Any, policy: Any, **settings: Any) -> Any:
        asked.append((settings["split"], settings["episodes"]))
        return real(denoiser, policy, **{**settings, "episodes": 2})

    monkeypatch.setattr(finish, "evaluate", watched)
    found = finish.calibrate(config, LearnedPolicy(network))
    assert len(found.points) == len(asked) == 9
    assert {*asked} == {("validation", config.evaluation.calibration_episodes)}
