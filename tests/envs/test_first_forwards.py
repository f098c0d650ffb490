from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from envs.decoding import first_forwards
from envs.decoding.batch import DecodingBatch
from envs.decoding.first_forwards import FirstForwards, remember_problems
from envs.decoding.settings import DecodingSettings
from envs.models.toy import ToyDenoiser
from envs.tasks import make_tasks
from envs.view import Action
from policies import Threshold, decode


class Counting(ToyDenoiser):
    """Counts the rows that it computes."""

    rows = 0

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int, position_ids: Tensor | None = None) -> Tensor:
        self.rows += len(tokens)
        return super().logits(tokens, attention_mask, length, position_ids)


PROMPTS = [
    problem.prompt for task in make_tasks(["copy", "sort"]) for problem in (task.problem("test", i) for i in range(9))
]


def remembering(length: int = 8) -> tuple[Counting, FirstForwards]:
    denoiser = Counting()
    known = FirstForwards(denoiser)
    known.remember([denoiser.encode_prompt(prompt) for prompt in PROMPTS], length, batch_size=4)
    denoiser.rows = 0
    return denoiser, known


def test_texts_and_counts_are_those_of_the_dllm_alone() -> None:
    settings = DecodingSettings(8, 4)
    rule = Threshold(0.4)
    denoiser, known = remembering()
    for size in (1, 5, 64):
        assert decode(known, PROMPTS, rule, settings, batch_size=size) == decode(
            ToyDenoiser(), PROMPTS, rule, settings, batch_size=size
        )
    assert denoiser.rows > 0


def test_an_untouched_buffer_is_not_computed_again() -> None:
    denoiser, known = remembering()
    batch = DecodingBatch(known, len(PROMPTS), DecodingSettings(8))
    batch.load(range(len(PROMPTS)), [known.encode_prompt(prompt) for prompt in PROMPTS])
    view = batch.forward()
    assert denoiser.rows == 0
    assert batch.nfe.tolist() == [1] * len(PROMPTS)  # they count all the same
    batch.apply(Action(view.eligible & (torch.arange(8) == 0)))
    batch.forward()
    assert denoiser.rows == int(batch.running.sum())


def test_hidden_states_are_remembered_once_somebody_asks_for_them() -> None:
    denoiser, known = remembering()
    prompts = [known.encode_prompt(prompt) for prompt in PROMPTS]
    told = []
    for one in (known, ToyDenoiser()):
        batch = DecodingBatch(one, len(PROMPTS), DecodingSettings(8, features={"hidden"}))
        batch.load(range(len(PROMPTS)), prompts)
        for column in range(3):
            view = batch.forward()
            told.append((view.tensors["hidden"], view.confidence))
            if one is known and column == 0:
                # All of them and the one that told their size, now; from now on, none.
                assert denoiser.rows == len(PROMPTS) + 1
                denoiser.rows = 0
            batch.apply(Action(view.eligible & (torch.arange(8) == column)))
    for mine, plain in zip(told[:3], told[3:], strict=True):
        assert all(map(torch.equal, mine, plain))
    assert denoiser.rows == 2 * len(PROMPTS)
    assert torch.equal(known.logits(*(asked := untouched(prompts[0])), 8), ToyDenoiser().logits(*asked, 8))
    assert denoiser.rows == 2 * len(PROMPTS)


def test_hidden_states_that_are_known_to_be_asked_for_take_no_forward_of_their_own() -> None:
    denoiser, [task] = Counting(), make_tasks("copy")
    problems = [task.problem("test", index) for index in range(3)]
    known = remember_problems(denoiser, problems, DecodingSettings(8, features={"hidden"}))
    asked = untouched(denoiser.encode_prompt(problems[1].prompt))
    for mine, plain in zip(known.logits_and_hidden(*asked, 8), ToyDenoiser().logits_and_hidden(*asked, 8), strict=True):
        assert torch.equal(mine, plain)
    assert torch.equal(known.logits(*asked, 8), ToyDenoiser().logits(*asked, 8))
    assert denoiser.rows == 1 + len(problems)


def untouched(prompt: list[int]) -> tuple[Tensor, Tensor]:
    tokens = torch.tensor([[*prompt, *[ToyDenoiser().mask_id] * 8]])
    return tokens, torch.ones_like(tokens, dtype=torch.bool)


def test_another_length_or_prompt_is_computed() -> None:
    denoiser, known = remembering(length=8)
    other = "copy . . : z z z . . . . . . . . . . . . . ="
    assert other not in PROMPTS
    for prompt, length in ((PROMPTS[0], 4), (other, 8)):
        before = denoiser.rows
        batch = DecodingBatch(known, 1, DecodingSettings(length))
        batch.load([0], [known.encode_prompt(prompt)])
        batch.forward()
        assert denoiser.rows == before + 1


def test_what_only_remembered_rows_need_is_not_computed() -> None:
    """The longest prompt is remembered; what stands before the other one is no column of the forward."""

    class Measuring(Counting):
        width = 0

        def logits(self, tokens: Tensor, attention_mask: Tensor, length: int, position_ids: Any = None) -> Tensor:
            self.width = tokens.shape[1]
            return super().logits(tokens, attention_mask, length, position_ids)

    denoiser = Measuring()
    known = FirstForwards(denoiser)
    known.remember([[5] * 9], 4)
    tokens = torch.full((2, 13), denoiser.mask_id)
    tokens[0, :9] = 5
    tokens[1, 6:9] = 6
    present = torch.arange(13) >= torch.tensor([[0], [6]])
    plain = ToyDenoiser().logits(tokens, present, 4)
    assert torch.equal(known.logits(tokens, present, 4), plain)
    assert denoiser.width == 7
    # A part of an answer that starts like it is none.
    tokens[0, 9] = 7
    assert not torch.equal(known.logits(tokens, present, 4)[0], plain[0])


def test_rows_of_an_attention_of_their_own_are_handed_on() -> None:
    class Handed(ToyDenoiser):
        def logits(self, *asked: Any) -> Any:
            return asked

        def logits_and_hidden(self, *asked: Any) -> Any:
            return asked

    tokens, present = untouched([5, 6])
    known = FirstForwards(Handed())
    rows = present[:, None, None].expand(-1, 1, 10, -1)
    places = torch.arange(10)[None]
    assert known.logits(tokens, rows, 8) == (tokens, rows, 8, None)
    assert known.logits(tokens, present, 8, places) == (tokens, present, 8, places)
    assert known.logits_and_hidden(tokens, rows, 8) == (tokens, rows, 8)


def test_there_may_be_nothing_to_remember() -> None:
    """As where every problem gives a part of its answer."""
    denoiser = Counting()
    FirstForwards(denoiser).remember([], 8)
    assert denoiser.rows == 0


def test_what_does_not_fit_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_forwards, "MOST_BYTES", 100)
    denoiser = Counting()
    known = FirstForwards(denoiser)
    known.remember([denoiser.encode_prompt(prompt) for prompt in PROMPTS], 8)
    assert denoiser.rows == 1  # enough to tell
    assert known.logits_and_hidden(*untouched(denoiser.encode_prompt(PROMPTS[0])), 8)[1].shape[:2] == (1, 8)
    denoiser.rows = 1
    batch = DecodingBatch(known, 1, DecodingSettings(8))
    batch.load([0], [known.encode_prompt(PROMPTS[0])])
    batch.forward()
    assert denoiser.rows == 2


@pytest.mark.parametrize("changes", [{"window": "truncated"}, {"cache": "dual"}])
def test_where_the_first_forward_is_another_none_is_remembered(changes: dict[str, Any]) -> None:
    """A window that shows one block, and a cache that must compute what it keeps."""
    denoiser, [task] = Counting(), make_tasks("copy")
    problems = [task.problem("test", index) for index in range(3)]
    assert remember_problems(denoiser, problems, DecodingSettings(8, 4, **changes)) is denoiser
    assert denoiser.rows == 0
    known = remember_problems(denoiser, problems, DecodingSettings(8, 4))
    assert isinstance(known, FirstForwards)
    assert denoiser.rows > 0
