from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from envs.decoding.settings import DecodingSettings
from envs.models.load import load_denoiser
from envs.models.toy import ToyDenoiser
from envs.tasks import TASKS, Problem, Split
from envs.tasks.suite.copy_list import Copy
from policies import NetworkConfig, decode, load, make_rule
from policies.rules import Oracle
from train import grpo, ppo
from train.algorithms.grpo_section import GRPOSection
from train.algorithms.ppo import PPOSection
from train.command.cli import run
from train.command.model_config import ModelConfig
from train.command.wandb_config import WandbConfig
from train.evaluation.measure import measure
from train.filters.traces import TraceConfig, collect
from train.job.build import filter_shape, load_filter, make_env, make_model
from train.job.config import EnvConfig, EvaluationConfig, FilterSection
from train.job.counting import CountingDenoiser
from train.job.dry_run import dry_run
from train.job.grpo_config import TrainGRPOConfig
from train.job.ppo_config import TrainPPOConfig
from train.job.run import check
from train.job.trials import PASSES, Trials, step_gib, time_fit, trial_rows

FLAGS = ["--model.name=toy", "--env.num_envs=16", "--env.buffer_length=8", "--env.tasks=[copy]"]
SMALL: dict[str, Any] = {
    "model": ModelConfig("toy"),
    "env": EnvConfig(num_envs=8, tasks=["copy"], buffer_length=8),
    "policy": NetworkConfig(hidden_size=8, feedforward_size=8),
}


@pytest.mark.parametrize(("module", "config"), [(ppo, TrainPPOConfig), (grpo, TrainGRPOConfig)])
@pytest.mark.parametrize("width", ["0", "-1"])
def test_a_dry_run_shows_an_estimate_and_leaves_nothing(
    module: Any,
    config: Any,
    width: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "--dry-run", f"--out={tmp_path / 'run'}", *FLAGS])
    sys.argv.append(f"--policy.hidden_state_size={width}")
    run(module.train, config)
    shown = capsys.readouterr().out
    assert "the whole job, estimated" in shown
    assert "peak memory" in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (ppo, TrainPPOConfig(**SMALL, ppo=PPOSection(n_steps=8, batch_size=16))),
        (grpo, TrainGRPOConfig(**SMALL, grpo=GRPOSection(group_size=4))),
    ],
)
def test_answers_longer_than_the_buffer_are_named_before_training(
    module: Any, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    check(settings, module.algorithm(settings))
    assert capsys.readouterr().err == ""
    long = replace(settings, env=replace(settings.env, tasks=["copy", "reverse:shortest=9,longest=9"]))
    said = (
        "warning: env.buffer_length is 8, and reference answers are longer: 100 of 100 in reverse. Answers like them "
        "are cut and score as they then stand; --env.buffer_length 16 holds them all\n"
    )
    check(long, module.algorithm(long))
    assert capsys.readouterr().err == said
    dry_run(long, module.algorithm(long))
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(
    "made",
    [
        lambda: (TrainPPOConfig(**SMALL, ppo=PPOSection(n_steps=8, batch_size=16)), ppo.algorithm),
        lambda: (TrainGRPOConfig(**SMALL, grpo=GRPOSection(group_size=4)), grpo.algorithm),
    ],
)
def test_the_estimate_follows_from_what_is_measured(made: Any) -> None:
    config, algorithm = made()
    estimate = dry_run(config, algorithm(config))
    assert estimate.rows == 8
    assert 1 <= estimate.nfe <= 8
    assert estimate.score == 1.0  # the toy is always right
    per_step = estimate.step_seconds / 8 + estimate.update_seconds
    assert estimate.job_hours == pytest.approx(config.total_timesteps * per_step / 3600)
    assert estimate.memory_gib > 0.01


@pytest.mark.parametrize(("epochs", "passes"), [(3, 3), (None, PASSES)])
def test_it_counts_the_states_that_a_filter_learns_from(epochs: int | None, passes: int) -> None:
    """In two rounds: first what the oracle passes through, then all of that and of a student, half way to the
    reference."""
    section = FilterSection(learn=True, role="start", problems=40, rounds=2, epochs=epochs)
    config = TrainPPOConfig(**SMALL, ppo=PPOSection(n_steps=8, batch_size=16), filter=section)
    denoiser: Any = CountingDenoiser(load_denoiser("toy"))
    algorithm, inner = ppo.algorithm(config), load_filter(config)
    trials = Trials(
        config, denoiser, make_model(config, make_env(config, denoiser, algorithm, inner), algorithm, inner)
    )
    prompt = [trials.problems[0].prompt]
    careful = make_rule(section.reference)
    oracle, reference = (
        decode(denoiser, prompt, policy, DecodingSettings(8, features=policy.features))[0].nfe
        for policy in (Oracle(careful=careful), careful)
    )
    assert oracle < reference
    of_student = (oracle + reference) / 2
    assert trials.fitting() == (40 * (oracle + of_student), 40 * passes * (2 * oracle + of_student))
    estimate = dry_run(config, algorithm)
    assert estimate.filter_states == 40 * (oracle + of_student)
    assert estimate.fit_hours > 0


@pytest.mark.parametrize("width", [0, -1])
def test_a_recorded_state_is_as_large_as_it_says(tmp_path: Path, width: int) -> None:
    section = FilterSection(learn=True, role="start", reads_hidden_states=bool(width))
    policy = NetworkConfig(hidden_size=8, feedforward_size=8, features=("margin", "entropy"), hidden_state_size=width)
    config = TrainPPOConfig(**(SMALL | {"policy": policy}), filter=section)
    about = TraceConfig(
        tmp_path / "traces",
        5,
        buffer_length=8,
        block_length=8,
        features=tuple(sorted(filter_shape(config).readings)),
        model=config.model,
        tasks=("copy",),
    )
    traces = collect(about)
    seconds, size = time_fit(config, load_denoiser("toy").hidden_size)
    assert seconds > 0
    assert traces.bytes == size * len(traces)


@pytest.mark.slow
@pytest.mark.parametrize(("alpha_range", "blocks"), [([], [4, 2]), ([1.0, 4.0], [])], ids=["one_alpha", "dial"])
def test_it_counts_the_answers_that_the_job_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alpha_range: list[float], blocks: list[int]
) -> None:
    config = TrainPPOConfig(
        out=tmp_path / "run",
        total_timesteps=32,
        model=ModelConfig("toy"),
        env=EnvConfig(
            num_envs=8, tasks=["copy", "sort"], buffer_length=8, block_lengths=[8, 4], alpha_range=alpha_range
        ),
        policy=NetworkConfig(hidden_size=8, feedforward_size=8),
        ppo=PPOSection(n_steps=2, batch_size=16, n_epochs=1),
        evaluation=EvaluationConfig(
            3,
            validations=2,
            validation_episodes=2,
            calibration_episodes=1,
            decision_thresholds=[0.5, 0.7, 0.9],
            rules=["threshold:0.9"],
            block_lengths=blocks,
        ),
        wandb=WandbConfig(mode="disabled"),
    )
    estimate = dry_run(config, ppo.algorithm(config))
    tried = 0

    def measured(*args: Any, **about: Any) -> Any:
        nonlocal tried
        found = measure(*args, **about)
        tried += len(found["score"])
        return found

    monkeypatch.setattr("train.job.validation.measure", measured)
    records = ppo.train(config)
    evaluated = sum(record["episodes"] for record in records if record["task"] == "all")
    calibration = load(config.out / "policy").calibration
    # Two tries and three thresholds, on two problems of two tasks in two block lengths; a dial at three places.
    assert tried == 5 * 2 * 2 * 2 * (3 if alpha_range else 1)
    # A point of the calibration is one problem of each of two tasks.
    assert estimate.answers == tried + evaluated + (2 * len(calibration.points) if calibration is not None else 0)


class Wrong(Copy):
    """Gives a part of the answer, which is wrong."""

    def make(self, split: Split, index: int) -> Problem:
        return replace(super().make(split, index), given="z z [MASK]")


@pytest.mark.slow
def test_its_rollouts_keep_what_the_problems_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "copy", Wrong)
    config = TrainPPOConfig(**SMALL, ppo=PPOSection(n_steps=8, batch_size=16))
    estimate = dry_run(config, ppo.algorithm(config))
    assert (estimate.nfe, estimate.score) == (1.0, 0.0)


def test_it_counts_what_the_oracle_computes_for_its_references(toy: ToyDenoiser) -> None:
    counting: Any = CountingDenoiser(toy)
    prompt, settings = TASKS["copy"]().problem("train", 0).prompt, DecodingSettings(8)
    [reference] = decode(counting, [prompt], make_rule("low_confidence:1"), settings)
    assert counting.positions == reference.token_positions
    oracle = make_rule("oracle")
    [answer] = decode(counting, [prompt], oracle, DecodingSettings(8, features=oracle.features))
    assert counting.positions == 2 * reference.token_positions + answer.token_positions


def test_every_round_of_a_filter_decodes_its_problems_again() -> None:
    def answers(**section: Any) -> int:
        section_of_ppo = PPOSection(n_steps=8, batch_size=16)
        config = TrainPPOConfig(**SMALL, ppo=section_of_ppo, filter=FilterSection(role="start", **section))
        return dry_run(config, ppo.algorithm(config)).answers

    without = answers()
    # And a ninth as many that stop it.
    assert answers(learn=True, problems=18) - without == 20
    assert answers(learn=True, problems=18, rounds=3) - without == 60


def test_tries_are_decoded_at_their_thresholds() -> None:
    """At a threshold that nothing reaches a position a forward, at one that all reach all of them in one."""

    def positions(*thresholds: float) -> float:
        about = EvaluationConfig(validations=0, validation_episodes=1, decision_thresholds=list(thresholds))
        config = TrainPPOConfig(**SMALL, ppo=PPOSection(n_steps=8, batch_size=16), evaluation=about)
        denoiser: Any = CountingDenoiser(config.model.load())
        kind = ppo.algorithm(config)
        model = make_model(config, make_env(config, denoiser, kind, None), kind, None)
        return Trials(config, denoiser, model).tries()[1]

    # A form of 21 words and 8 masks, of which the last is not needed after an end-of-text.
    prompt, slowest = TASKS["copy"]().problem("train", 0).prompt, make_rule("low_confidence:1")
    [slow] = decode(ToyDenoiser(), [prompt], slowest, DecodingSettings(8))
    assert slow.nfe == 7
    assert positions(1e-9, 1e-8) == 2 * 29
    assert positions(1e-9, 1 - 1e-9) == 29 + slow.token_positions == 8 * 29
    assert positions(0.5) == 0


def test_groups_of_a_trial_fill_one_backward_pass() -> None:
    config = TrainGRPOConfig(grpo=GRPOSection(group_size=8, chunk_size=256), env=EnvConfig(num_envs=64))
    # 8 rollouts of 10 forwards are 80 steps, so 4 groups are the fewest with 256.
    rows = [trial_rows(config, grpo.algorithm(config), nfe) for nfe in (100.0, 32.0, 10.0, 1.0)]
    assert rows == [8, 8, 32, 64]
    assert trial_rows(TrainPPOConfig(), ppo.algorithm(TrainPPOConfig()), 2.0) == 64


@pytest.mark.slow
def test_the_memory_of_the_largest_forward() -> None:
    config = TrainPPOConfig(**SMALL, ppo=PPOSection(n_steps=8, batch_size=16))
    estimate = dry_run(config, ppo.algorithm(config))
    # The evaluation decodes no more at a time than the training; a form has 21 words.
    assert (estimate.rows, estimate.longest_prompt, estimate.step_gib) == (8, 21, None)
    tiny: Any = load_denoiser("tiny")
    one, two = (step_gib(tiny, rows, 21, 64, frozenset(), False) or 0.0 for rows in (1000, 2000))
    weights = 4 * sum(parameter.numel() for parameter in tiny.model.parameters()) / 2**30
    per_row = (one - weights) / 1000 * 2**30
    # Twice the rows, twice all but the weights; at least the logits and the hidden states, float32.
    assert two - one == pytest.approx(one - weights, rel=0.05)
    assert per_row > 4 * (64 * tiny.model.config.vocab_size + 85 * tiny.model.config.hidden_size)
    cached = step_gib(tiny, 1000, 21, 64, frozenset(), False, "dual") or 0.0
    about = tiny.model.config
    kept = about.num_hidden_layers * 2 * 4 * 1000 * 86 * about.hidden_size / 2**30
    assert cached >= one + kept


def test_a_dry_run_refuses_what_the_job_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train/ppo.py", "--dry-run", *FLAGS, "--env.tasks=[juggle]"])
    with pytest.raises(SystemExit) as stop:
        run(ppo.train, TrainPPOConfig)
    assert stop.value.code == 2
    assert "'juggle'" in capsys.readouterr().err
