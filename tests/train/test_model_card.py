"""A model's card: its facts come from the checkpoint, its numbers from decoding."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from envs.tasks import BUFFER_LENGTHS, SUITES
from train.command.errors import UserError
from train.model_card import BETWEEN, CardConfig, write_card
from train.pretrain import pretrain
from train.pretraining.config import PretrainConfig


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prose")
    config = PretrainConfig(
        out=out,
        suite="prose",
        architecture="llada",
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        steps=1,
        batch_size=4,
        buffer_lengths=[(0, 1.0)],
    )
    return pretrain(config)


def test_card_takes_its_facts_from_the_checkpoint(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.model_card.BUFFER_LENGTHS", {"prose": 4})
    write_card(CardConfig(checkpoint, episodes=1))
    text = (checkpoint / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert "`LlamaForCausalLM` from a checkpoint of the llada format" in text
    assert "procedural suite `prose`" in text
    assert "buffer of 4 masks" in text
    assert "- steps: 1\n" in text
    assert f"--model {checkpoint} --episodes 1" in text
    ends = re.findall(r"^\| (\w+) \| ([\d.]+) % \(.*?\) \| ([\d.]+) % \(", text, re.M)
    assert [task for task, *_ in ends] == [*SUITES["prose"], "all"]
    between = re.findall(r"^\| (\w+) ((?:\| [\d.]+ % in [\d.]+ )+)\|$", text, re.M)
    assert [task for task, _ in between] == [*SUITES["prose"], "all"]
    assert all(cells.count("%") == len(BETWEEN) for _, cells in between)


def test_a_folder_that_cannot_be_measured_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        write_card(CardConfig(tmp_path))
    training = checkpoint / "training.json"
    before = training.read_text()
    training.write_text(json.dumps({"suite": "poems"}))
    with pytest.raises(UserError, match="suite 'poems': choose from suite, prose"):
        write_card(CardConfig(checkpoint))
    training.write_text(before)


def test_buffers_hold_every_answer() -> None:
    assert set(BUFFER_LENGTHS) == set(SUITES)
    for suite, length in BUFFER_LENGTHS.items():
        for build in SUITES[suite].values():
            answers = [build().problem("test", index).answer for index in range(40)]
            assert max(len(answer.split()) for answer in answers) < length
