"""Too little memory on an accelerator, which a dLLM here plays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from trainings import tiny, trained

from envs.models.toy import ToyDenoiser
from policies import Threshold
from train.command.errors import UserError
from train.evaluation import fitting
from train.evaluation.measure import measure


class Cramped(ToyDenoiser):
    """Has memory for so many rows."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.tried = rows, list[int]()

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        self.tried.append(len(tokens))
        if len(tokens) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().logits(tokens, attention_mask, length)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_fitting", {})


def test_a_batch_is_halved_until_it_fits_and_that_is_remembered(caplog: pytest.LogCaptureFixture) -> None:
    about = {"tasks": "copy", "episodes": 12, "buffer_length": 8, "batch_size": 12}
    cramped, counted = Cramped(5), list[int]()
    found = measure(cramped, Threshold(0.9), **about, on_finish=counted.append)  # type: ignore[arg-type]
    roomy = measure(ToyDenoiser(), Threshold(0.9), **about)  # type: ignore[arg-type]
    assert {**found, "seconds": 0} == {**roomy, "seconds": 0}
    assert cramped.tried[:3] == [12, 6, 3]
    assert max(cramped.tried[3:]) == 3
    assert sum(counted) == 12
    [said] = caplog.messages
    assert said == "warning: the memory of cpu is too small for a batch of 12: going on with smaller ones"
    measure(cramped, Threshold(0.9), **about)  # type: ignore[arg-type]
    assert max(cramped.tried[3:]) == 3
    assert len(caplog.messages) == 1


def test_what_was_finished_and_is_decoded_again_is_not_counted_twice() -> None:
    class Filling(Cramped):
        """Its memory fills up."""

        def logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
            self.rows = 4 if len(self.tried) < 6 else 2
            return super().logits(tokens, attention_mask, length)

    counted = list[int]()
    about = {"tasks": "copy", "episodes": 12, "buffer_length": 8, "batch_size": 4}
    measure(Filling(4), Threshold(0.9), **about, on_finish=counted.append)  # type: ignore[arg-type]
    assert min(counted) < 0
    assert sum(counted) == 12


def test_too_little_for_one_sequence_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^the memory of cpu is too small for one sequence: give a shorter buffer"):
        measure(Cramped(0), Threshold(0.9), tasks="copy", episodes=4, buffer_length=8)


def test_a_training_says_what_to_change(tmp_path: Path) -> None:
    config = tiny(tmp_path, 0)
    with pytest.raises(UserError, match=r"^the memory of cpu is too small: .*env.num_envs is \d+"):
        trained(config, Cramped(config.env.num_envs - 1))
