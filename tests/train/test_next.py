"""What a finished job prints to go on with: what is printed is typed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from train.command.config import parse
from train.evaluation.run import EvaluateConfig
from train.job.config import JobConfig
from train.job.finish import evaluation_of
from train.job.grpo_config import TrainGRPOConfig
from train.job.next import next_commands
from train.job.ppo_config import TrainPPOConfig
from train.watching.show import WatchConfig


def job(config_class: type[Any], *words: str) -> JobConfig:
    file = "grpo.yaml" if config_class is TrainGRPOConfig else "ppo.yaml"
    config = parse(config_class, file, list(words))
    assert isinstance(config, JobConfig)
    return config


def test_a_default_job_is_gone_on_with_in_few_words() -> None:
    assert next_commands(job(TrainPPOConfig)) == [
        "python train/watch.py --policy runs/ppo/policy --policy threshold:0.9 --out runs/ppo_watch",
        "python train/evaluate.py --policy runs/ppo/policy --policy eb_sampler:0.5 --per_task --out runs/ppo_evaluate",
    ]


@pytest.mark.parametrize(
    "config",
    [
        job(TrainPPOConfig, "--out=my runs/$a", "--model.name=toy", "--env.tasks=[copy, sort]"),
        job(TrainPPOConfig, "--config=configs/ppo_dial.yaml"),
        job(TrainPPOConfig, "--config=configs/engine.yaml"),
        job(TrainPPOConfig, "--env.blocks_ahead=1", "--env.block_lengths=[64, 16]"),
        job(TrainPPOConfig, "--env.blocks_ahead=2", "--env.block_lengths=[16]"),
        job(TrainPPOConfig, "--env.cache=dual", "--env.block_lengths=[16]", "--env.early_end=false"),
        job(TrainPPOConfig, "--config=configs/models/llada.yaml", "--env.task=gsm8k", "--model.chat_template=false"),
        job(TrainGRPOConfig, "--config=configs/grpo_prose.yaml"),
    ],
)
def test_the_printed_commands_decode_as_the_job_does(config: JobConfig) -> None:
    watch, evaluate = (shlex.split(command) for command in next_commands(config))
    assert watch[:2] == ["python", "train/watch.py"]
    assert evaluate[:2] == ["python", "train/evaluate.py"]
    shown, measured = parse(WatchConfig, None, watch[2:]), parse(EvaluateConfig, None, evaluate[2:])
    wanted = evaluation_of(config, "")
    for one in (shown, measured):
        assert one.policy[0] == str(config.out / "policy")
        assert Path(one.out).parent == config.out.parent
        for name in ("model", "buffer_length", "window", "block_origin", "cache", "end_of_text_prediction"):
            assert getattr(one, name) == getattr(wanted, name)
        assert one.blocks_ahead == (wanted.blocks_ahead if one.block_length else 0)
    for name in ("tasks", "temperature", "early_end"):
        assert getattr(measured, name) == getattr(wanted, name)
    length = config.env.buffer_length
    assert (measured.block_length or [length]) == wanted.block_length
    assert (shown.block_length or length) == wanted.block_length[0]
    if config.env.tasks != ["suite"]:
        assert shown.task == config.env.tasks[0]
