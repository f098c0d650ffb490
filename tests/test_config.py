from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies import NetworkConfig
from train.config import CONFIGS, parse, to_plain, to_yaml
from train.config_values import ConfigError
from train.evaluate import EvaluateConfig
from train.grpo_config import TrainGRPOConfig
from train.learn2pd import Learn2PDConfig
from train.ppo_config import PPOSection, TrainPPOConfig
from train.pretrain import PretrainConfig
from train.reproduce import ReproduceConfig
from train.watching.show import WatchConfig

ENTRY_POINTS: dict[str, type[Any]] = {
    "ppo": TrainPPOConfig,
    "grpo": TrainGRPOConfig,
    "paper": TrainGRPOConfig,
    "evaluate": EvaluateConfig,
    "learn2pd": Learn2PDConfig,
    "pretrain": PretrainConfig,
    "watch": WatchConfig,
}


def entry_point(file: Path) -> str:
    """The first word of the file's name, or of its folder's: ppo.yaml, ppo_blocks.yaml, ppo/blocks.yaml."""
    return file.relative_to(CONFIGS).parts[0].removesuffix(".yaml").split("_")[0]


FILES = [file for file in sorted(CONFIGS.rglob("*.yaml")) if entry_point(file) in ENTRY_POINTS]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_file_parses_and_says_what_it_says(file: Path) -> None:
    config = to_plain(parse(ENTRY_POINTS[entry_point(file)], None, ["--config", str(file)]))

    def check(written: dict[str, Any], read: dict[str, Any]) -> None:
        for key, value in written.items():
            if isinstance(value, dict):
                check(value, read[key])
            else:
                assert read[key] == value, key

    check(yaml.safe_load(file.read_text()) or {}, config)


def test_the_main_jobs_file_is_among_them() -> None:
    assert CONFIGS / "ppo.yaml" in FILES


def write(folder: Path, text: str) -> str:
    (folder / "given.yaml").write_text(text)
    return str(folder / "given.yaml")


@pytest.mark.parametrize("flags_first", [False, True])
def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags_first: bool) -> None:
    monkeypatch.setattr("train.config.CONFIGS", tmp_path)
    (tmp_path / "base.yaml").write_text("seed: 1\ntotal_timesteps: 11\nenv: {alpha: 1.5, num_envs: 3}\n")
    given = ["--config", write(tmp_path, "total_timesteps: 22\nseed: 2\nenv: {num_envs: 4}\nppo: {n_steps: 9}\n")]
    flags = ["--seed", "3", "--ppo.n_steps", "10"]
    config = parse(TrainPPOConfig, "base.yaml", flags + given if flags_first else given + flags)
    assert config.seed == 3
    assert config.ppo.n_steps == 10
    assert config.total_timesteps == 22
    assert config.env.num_envs == 4
    assert config.env.alpha == 1.5
    assert config.ppo.n_epochs == PPOSection().n_epochs


def test_numbers_with_exponents_are_numbers(tmp_path: Path) -> None:
    config = parse(TrainPPOConfig, None, ["--config", write(tmp_path, "ppo: {learning_rate: 1e-3}\n")])
    assert config.ppo.learning_rate == 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sed: 1\n", "sed"),
        ("ppo: {nsteps: 4}\n", "nsteps"),
        ("policy: {width: 3}\n", "width"),
        ("seed: one\n", "seed"),
        ("env: {alpha: fast}\n", "alpha"),
        ("wandb: {mode: sometimes}\n", "mode"),
    ],
)
def test_unknown_keys_and_wrong_types_in_a_file_are_errors(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"given.yaml, line 1: .*{named}"):
        parse(TrainPPOConfig, None, ["--config", write(tmp_path, text)])


@pytest.mark.slow
@pytest.mark.parametrize("config_class", list(ENTRY_POINTS.values()))
def test_unknown_flags_are_errors(config_class: type[Any]) -> None:
    with pytest.raises(ConfigError, match=r"there is no flag --sede: did you mean --seed\?"):
        parse(config_class, None, ["--sede", "1"])


def test_a_configuration_survives_its_own_yaml(tmp_path: Path) -> None:
    config = TrainPPOConfig(
        out=tmp_path / "run",
        seed=7,
        policy=NetworkConfig(features=("margin", "changed"), threshold=0.75),
        ppo=PPOSection(learning_rate=3e-5, target_kl=0.02),
    )
    assert parse(TrainPPOConfig, "ppo.yaml", ["--config", write(tmp_path, to_yaml(config))]) == config
    resumed = parse(TrainPPOConfig, None, ["--config", write(tmp_path, to_yaml(config)), "--resume"])
    assert resumed == replace(config, resume=True)


def test_help_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(TrainPPOConfig, "ppo.yaml", ["--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for sentence in ("Weight of speed in the reward", "Environment steps, summed over the rows", "Width D"):
        assert sentence in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--policy", "threshold:0", "--policy=random:1"], ["threshold:0", "random:1"]),
        (["--policy", '["threshold:0", "random:1"]'], ["threshold:0", "random:1"]),
        (["--policy=[threshold:0, random:1]"], ["threshold:0", "random:1"]),
        (["--policy=random:1", "--policy=[threshold:0]"], ["threshold:0"]),
        (["--policy=[threshold:0]", "--policy=random:1"], ["threshold:0", "random:1"]),
        (["--policy", "runs/2024"], ["runs/2024"]),
        (["--policy", "2024"], ["2024"]),  # a folder's name
    ],
)
def test_lists_are_written_whole_or_item_by_item(words: list[str], expected: list[str]) -> None:
    assert parse(EvaluateConfig, None, words).policy == expected


def test_lists_of_nested_and_number_fields() -> None:
    words = ["--evaluation.block_lengths", "32", "--seed=2", "--evaluation.block_lengths=16", "--env.tasks", "copy"]
    config = parse(TrainPPOConfig, None, [*words, "--policy.features", "[margin, entropy]", "--wandb.tags=1e5"])
    assert config.evaluation.block_lengths == [32, 16]
    assert (config.seed, config.env.tasks) == (2, ["copy"])
    assert config.policy.features == ("margin", "entropy")
    assert config.wandb.tags == ["1e5"]


@pytest.mark.parametrize(
    "words", [["--publish"], ["--publish", "--out", "x"], ["--publish", "true"], ["--publish=true"]]
)
def test_a_flag_that_is_true_needs_no_value(words: list[str]) -> None:
    config = parse(ReproduceConfig, None, words)
    assert (config.publish, config.quick) == (True, False)


def test_flags_with_hyphens_and_nested_ones_are_switches_too() -> None:
    config = parse(TrainPPOConfig, None, ["--dry-run", "--model.trust_remote_code", "--policy.has_dial", "false"])
    assert (config.dry_run, config.model.trust_remote_code, config.policy.has_dial) == (True, True, False)
