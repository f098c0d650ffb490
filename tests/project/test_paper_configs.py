"""Each file of configs/paper says what its name says, and nothing else differs."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from policies.networks.dit import DiTNetwork
from train.command.config import CONFIGS, parse, to_plain
from train.grpo import algorithm
from train.job.dry_run import dry_run
from train.job.grpo_config import TrainGRPOConfig

FOLDER = CONFIGS / "paper"
MODELS = {"llada": "GSAI-ML/LLaDA-8B-Instruct", "dream": "Dream-org/Dream-v0-Instruct-7B"}
SETTINGS = {"block32": [32], "block256": [], "block256_es": []}
STEPS = {"block32": 12_000_000, "block256": 6_000_000, "block256_es": 9_000_000}
NAMES = [f"{m}_{s}" for m, s in product(MODELS, SETTINGS)]


VARIED = (
    *(("model", "name"), ("env", "block_lengths"), ("env", "num_envs")),
    *(("grpo", "clip_range"), ("grpo", "warmup")),
)


def read(name: str, *words: str) -> TrainGRPOConfig:
    return parse(TrainGRPOConfig, None, ["--config", str(FOLDER / f"{name}.yaml"), *words])


def common(config: TrainGRPOConfig) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(config)
    for section, field in VARIED:
        del plain[section][field]
    del plain["out"], plain["total_timesteps"], plain["experts"]
    return plain


def test_there_is_a_file_for_every_setting() -> None:
    assert sorted(file.stem for file in FOLDER.glob("*.yaml")) == sorted(NAMES)


@pytest.mark.slow
def test_each_file_is_what_its_name_says() -> None:
    first = common(read(NAMES[0]))
    for name in NAMES:
        config = read(name)
        found = re.fullmatch(r"(llada|dream)_(block\d+(?:_es)?)", name)
        assert found is not None
        model, setting = found.groups()
        assert config.model.name == MODELS[model]
        assert config.env.block_lengths == SETTINGS[setting]
        assert config.env.alpha == 1.0
        assert read(name, "--env.alpha=0.3").env.alpha == 0.3
        assert not config.env.early_end
        assert config.out == Path(f"runs/paper/{name}")
        assert config.experts.rules == (["threshold:0.9"] if setting.endswith("es") else [])
        assert config.experts.block_length == 32
        assert config.grpo.clip_range == (0.2 if setting.endswith("es") else 0.5)
        problems = config.env.num_envs // config.grpo.group_size
        assert problems == (8 if setting.endswith("es") else 16)
        assert config.grpo.warmup * 2 * (14_973 // problems + 1) == pytest.approx(100, abs=2)
        assert config.total_timesteps == STEPS[setting]
        assert common(config) == first


def test_what_all_files_share_is_the_papers() -> None:
    """The values of arXiv 2512.09106 and its released YAMLs."""
    config = read(NAMES[0])
    env, grpo = config.env, config.grpo
    assert config.seed == 123
    assert (config.model.device, config.model.dtype) == ("cuda", "bfloat16")
    assert (env.tasks, env.buffer_length, env.temperature, env.reward) == (
        ["gsm8k", "math500"],
        256,
        0,
        "multiplicative",
    )
    assert (grpo.group_size, env.num_envs // grpo.group_size, grpo.n_epochs) == (8, 16, 2)
    assert (grpo.learning_rate, grpo.schedule, grpo.weight_decay, grpo.betas) == (3e-5, "cosine", 0.1, (0.9, 0.99))
    assert (grpo.max_grad_norm, grpo.ratio, grpo.zero_variance) == (0.2, "step", "skip")
    assert (grpo.divides_by_std, grpo.ent_coef, config.actions.temperature) == (False, 0, 1)
    assert config.dit is not None
    assert config.dit.bias == -2
    assert sum(weights.numel() for weights in DiTNetwork(config.dit).parameters()) == 331_265


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llada_block32", "dream_block256_es"])
def test_a_dry_run_passes_on_the_embedded_model(name: str) -> None:
    small = ["--model.name=toy", "--model.device=cpu", "--model.dtype=float32", "--env.tasks=[copy]"]
    config = read(name, *small, "--env.num_envs=8", "--env.buffer_length=32", "--grpo.group_size=2")
    estimate = dry_run(config, algorithm(config))
    assert estimate.rows == (12 if "es" in name else 8)
    assert estimate.nfe > 1
