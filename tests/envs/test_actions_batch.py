"""Rows don't depend on their batch, whatever is done in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from account import ENGINE, PROMPTS, Shown, records, surest
from denoisers import EOS, A, B, C, D, Mixing, act, bits, commit, fixed, start
from torch import Tensor

from envs.noise import uniform
from envs.readings import MASK_READINGS
from envs.view import Action, View


def restless(view: View) -> Action:
    """An action that uses everything, decided by each row's own random numbers and memory."""
    length = view.masked.shape[1]
    draws = uniform(view.key, view.step, (6, length), stream=9)
    count = view.memory.get("count", torch.zeros_like(view.step)) + 1
    memory = {"count": count, "seen": view.confidence}
    return Action(
        draws[:, 0] < 0.2,
        scope=draws[:, 1] < 0.2,
        tokens=torch.where(draws[:, 2] < 0.1, D, view.prediction),
        remask=(draws[:, 3] < 0.3) & (count.unsqueeze(1) % 2 == 0),
        block_end=(view.block_start + 1 + (draws[:, 4, 0] * 4).long()),
        length=view.length + (draws[:, 5, 0] * 5).long() - 2,
        extra_positions=count,
        memory=memory,
    )


def drafting(view: View) -> Action:
    length = view.masked.shape[1]
    draws = uniform(view.key, view.step, (4, length), stream=9)
    tokens = torch.where(draws[:, 3] < 0.1, D, view.prediction)
    memory = {"seen": view.confidence, "count": view.step * 3}
    return Action(draws[:, 0] < 0.3, drafts=draws[:, 1:3] < 0.3, choose=surest, tokens=tokens, memory=memory)


def history(policy: Callable[[View], Action], prompts: list[list[int]], **kwargs: Any) -> list[dict[str, Any]]:
    """Decode and return all that is known of each row, the views included."""
    batch = start(Mixing(), prompts, 8, features=MASK_READINGS, **kwargs)
    rows: list[dict[str, Any]] = [{"views": []} for _ in prompts]
    while batch.running.any():
        view = batch.forward()
        for i in batch.running.nonzero().flatten().tolist():
            tensors = {name: values for name, values in vars(view).items() if isinstance(values, Tensor)}
            everything = {**tensors, **view.features, **view.memory}
            rows[i]["views"].append({name: values[i].tolist() for name, values in everything.items()})
        batch.apply(policy(view))
    for i, row in enumerate(rows):
        row |= {"records": records(batch, i), "confidence": batch.commit_confidence[i].tolist()}
    return rows


@pytest.mark.each_value
@pytest.mark.parametrize("policy", [restless, drafting])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("block", [8, 2])
@pytest.mark.parametrize("shown", [("full", "buffer"), ("full", "absolute"), ENGINE])
def test_row_alone_is_row_in_a_batch(
    policy: Callable[[View], Action], temperature: float, block: int, shown: Shown
) -> None:
    prompts = [*PROMPTS, [B, B, C], [D, A]]
    about: dict[str, Any] = {"temperature": temperature, "block_length": block}
    about |= {"window": shown[0], "block_origin": shown[1]}
    together = history(policy, prompts, **about)
    assert together == history(policy, prompts, **about)
    assert [history(policy, [prompt], **about)[0] for prompt in prompts] == together
    order = [4, 2, 0, 5, 1, 3]
    assert history(policy, [prompts[i] for i in order], **about) == [together[i] for i in order]
    assert len({row["records"][3] for row in together}) > 1  # they don't go in step


def test_temperature_changes_what_is_drafted() -> None:
    cold, warm = (history(drafting, PROMPTS, temperature=temperature) for temperature in (0.0, 3.0))
    assert cold != warm


def test_block_ends_within_the_buffer() -> None:
    batch = start(fixed(*[(A, 0.9)] * 8), [[A]], 8, block_length=4)
    act(batch, "xxxxxxxx", block_end=torch.tensor([3]))
    commit(batch, "xxxxxxxx")
    assert (batch.block_start.item(), batch.block_end.item()) == (7, 8)


def test_a_row_loaded_while_drafts_wait_starts_afresh() -> None:
    def first(views: Sequence[View]) -> Tensor:
        return torch.zeros_like(views[0].step)

    batch = start(fixed(*[(A, 0.9)] * 4), [[A], [A]], 4)
    act(batch, "xxxx", "x...", drafts=bits("xxxx", "xx..").unsqueeze(1), choose=first)
    assert act(batch, "....", ".x..", drafts=bits("....", ".xx.").unsqueeze(1), choose=first) == [True, False]
    batch.load([0], [[B]])
    view = batch.forward()
    assert (view.step[0].item(), view.block_step[0].item()) == (1, 0)


def test_length_drops_nothing_committed_with_end_of_text_prediction() -> None:
    batch = start(fixed(*[(A, 0.9)] * 6), [[A]], 6, end_of_text_prediction=True)
    commit(batch, "....x.")
    act(batch, "x.....", length=torch.tensor([2]))
    assert batch.length.tolist() == [5]


def test_everything_after_a_committed_end_of_text_is_end_of_text() -> None:
    batch = start(fixed((A, 0.9), (EOS, 0.9), (B, 0.9), (B, 0.9)), [[A]], 4, end_of_text_prediction=True)
    commit(batch, "..x.")
    commit(batch, ".x..")
    assert batch.tokens(0)[1:] == [EOS] * 3


def test_the_chosen_finishing_draft_is_the_state() -> None:
    batch = start(fixed((EOS, 0.9), (A, 0.8), (B, 0.7)), [[A]], 3)
    act(batch, "x..", drafts=bits("xxx").unsqueeze(1), choose=lambda views: torch.tensor([1]))
    batch.forward()
    assert batch.tokens(0) == [EOS, A, B]
    assert batch.commit_step.tolist() == [[1, 1, 1]]


def test_drafts_go_with_remask_length_and_block_end() -> None:
    batch = start(fixed(*[(A, 0.9)] * 6), [[A]], 6)
    commit(batch, "xx....")
    batch.forward()
    batch.apply(
        Action(
            bits("..x..."),
            drafts=bits("..xx..").unsqueeze(1),
            choose=lambda v: torch.tensor([0]),
            remask=bits("x....."),
            length=torch.tensor([4]),
        )
    )
    batch.forward()
    assert batch.length.tolist() == [4]
    assert batch.masked.tolist() == bits("x..x..").tolist()
