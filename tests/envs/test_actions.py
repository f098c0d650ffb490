"""Actions that choose what is written, and where: scope, tokens and remask."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from account import PROMPTS
from denoisers import (
    EOS,
    MASK,
    A,
    B,
    C,
    D,
    Mixing,
    act,
    bits,
    blocks,
    commit,
    fixed,
    start,
    whole,
)

from envs.view import Action

# scope


def test_scope_opens_positions_outside_the_block() -> None:
    batch = start(fixed((A, 0.9), (B, 0.8), (C, 0.7), (D, 0.6)), [[A]] * 3, 4, block_length=2)
    wanted = ["x..x"] * 3
    everything, elsewhere = torch.ones(3, 4, dtype=torch.bool), bits("....", "...x", "..x.")
    assert act(batch, *wanted) == [False] * 3
    assert [batch.tokens(row) for row in range(3)] == [[A, MASK, MASK, MASK]] * 3  # without it the last is ignored
    batch.load([0, 1, 2], [[A]] * 3)
    act(batch, *wanted, scope=elsewhere)
    assert [batch.tokens(row) for row in range(3)] == [
        [A, MASK, MASK, MASK],
        [A, MASK, MASK, D],
        [A, MASK, MASK, MASK],
    ]
    assert batch.commit_step.tolist() == [[1, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 0]]
    act(batch, "xxxx", "x..x", "....", scope=everything, tokens=torch.full((3, 4), B))
    # What is committed stays, whatever the scope.
    assert [batch.tokens(row) for row in range(3)] == [[A, B, B, B], [A, B, MASK, D], [A, B, MASK, MASK]]


def test_a_commit_in_scope_is_progress_enough() -> None:
    batch = start(fixed((A, 0.9), (B, 0.8), (C, 0.7), (D, 0.6)), [[A], [A]], 4, block_length=2)
    act(batch, "...x", "....", scope=bits("..xx", "..xx"))
    assert batch.tokens(0) == [MASK, MASK, MASK, D]
    assert batch.tokens(1) == [A, MASK, MASK, MASK]  # nothing at all was chosen: the best of the block
    assert blocks(batch, 0) == blocks(batch, 1) == (0, 2, 1)


@pytest.mark.parametrize(
    ("length", "block", "steps"),
    [
        (6, 2, [("..xx..", (0, 2, 1)), ("x.....", (0, 2, 2)), (".x....", (4, 6, 0)), ("....xx", None)]),
        (6, 2, [("xxx...", (2, 4, 0)), ("...xx.", (4, 6, 0)), ("......", None)]),
        (6, 2, [(".....x", (0, 2, 1)), ("xx....", (2, 4, 0)), ("....x.", (2, 4, 1)), ("..xx..", None)]),
        (9, 3, [("x..xxx.x.", (0, 3, 1)), (".xx......", (6, 9, 0)), ("......x..", (6, 9, 1)), ("........x", None)]),
        (9, 3, [("xxxx...xx", (3, 6, 0)), ("....xx...", (6, 9, 0)), (".........", None)]),
    ],
)
def test_blocks_move_past_what_scope_committed(
    length: int, block: int, steps: list[tuple[str, tuple[int, int, int] | None]]
) -> None:
    batch = start(fixed(*[(A, 0.9)] * length), [[A]], length, block_length=block)
    everywhere = torch.ones(1, length, dtype=torch.bool)
    for chosen, expected in steps:
        assert act(batch, chosen, scope=everywhere) == [expected is None]
        if expected is not None:
            assert blocks(batch) == expected
            view = batch.view
            assert torch.equal(view.eligible, view.masked & view.in_block)
    assert batch.nfe.item() == len(steps)


def test_end_of_text_in_scope_waits_for_what_is_before_it() -> None:
    batch = start(fixed((A, 0.9), (B, 0.8), (C, 0.7), (EOS, 0.6), (D, 0.5), (D, 0.5)), [[A]], 6, block_length=2)
    everywhere = torch.ones(1, 6, dtype=torch.bool)
    assert act(batch, "x..x..", scope=everywhere) == [False]
    assert act(batch, ".x....", scope=everywhere) == [False]
    assert act(batch, "..x...", scope=everywhere) == [True]
    assert batch.tokens(0) == [A, B, C, EOS, EOS, EOS]


# tokens


def test_tokens_are_written_instead_of_predictions() -> None:
    denoiser = fixed((A, 0.9), (B, 0.8), (C, 0.7), (D, 0.6))
    batch = start(denoiser, [[A]], 4)
    assert act(batch, "x.x.", tokens=torch.tensor([[D, MASK, C, MASK]])) == [False]  # masks only where none is written
    assert batch.tokens(0) == [D, MASK, C, MASK]
    assert batch.commit_confidence[0].tolist() == pytest.approx([0.9, 0, 0.7, 0])
    assert batch.forward().prediction.tolist() == [[D, B, C, D]]
    assert denoiser.seen[-1][0] == [[A, D, MASK, C, MASK]]
    batch.apply(Action(bits("...."), tokens=torch.tensor([[A, A, A, A]])))  # nothing chosen: the best, 1
    assert batch.tokens(0) == [D, A, C, MASK]


@pytest.mark.parametrize("chosen", ["x...", "...x", "...."])
def test_the_mask_token_is_refused(chosen: str) -> None:
    batch = start(fixed((A, 0.9), (B, 0.8), (C, 0.7), (D, 0.6)), [[A]], 4)
    with pytest.raises(ValueError, match="tokens holds the mask token, 1"):
        act(batch, chosen, tokens=torch.tensor([[MASK, A, A, MASK]]))
    assert batch.tokens(0) == [MASK] * 4


@pytest.mark.parametrize("predict", [False, True])
def test_end_of_text_by_tokens_ends_the_row(predict: bool) -> None:
    batch = start(fixed(*[(A, 0.9)] * 4), [[A]], 4, block_length=2, end_of_text_prediction=predict)
    assert act(batch, ".x..", tokens=torch.full((1, 4), EOS)) == [False]
    assert batch.tokens(0) == ([MASK, EOS, EOS, EOS] if predict else [MASK, EOS, MASK, MASK])
    assert act(batch, "x...", tokens=torch.full((1, 4), B)) == [True]
    assert batch.tokens(0) == [B, EOS, EOS, EOS]


# remask


def test_remask_turns_committed_positions_into_masks_again() -> None:
    denoiser = fixed((A, 0.9), (B, 0.8), (C, 0.7), (D, 0.6))
    batch = start(denoiser, [[A]], 4)
    commit(batch, "xx..")
    # A remasked position is not committed in the same step.
    assert act(batch, "x.x.", remask=bits("x.x.")) == [False]
    assert batch.tokens(0) == [MASK, B, C, MASK]
    assert batch.commit_step.tolist() == [[0, 1, 2, 0]]
    assert batch.commit_confidence[0].tolist() == pytest.approx([0, 0.8, 0.7, 0])
    view = batch.forward()
    assert view.masked.tolist() == view.eligible.tolist() == [[True, False, False, True]]
    assert view.commit_confidence[0].tolist() == pytest.approx([0, 0.8, 0.7, 0])
    assert denoiser.seen[-1][0] == [[A, MASK, B, C, MASK]]
    assert batch.apply(Action(bits("x..x"))).tolist() == [True]
    assert batch.commit_step.tolist() == [[3, 1, 2, 3]]
    assert batch.tokens(0) == [A, B, C, D]


def test_remask_of_all_goes_with_the_best_commit() -> None:
    batch = start(fixed((A, 0.9), (B, 0.8), (C, 0.7), (D, 0.75)), [[A]], 4)
    commit(batch, "xx..")
    act(batch, "xx..", remask=bits("xxxx"))
    assert batch.tokens(0) == [MASK, MASK, MASK, D]  # masks that the forward had no opinion about don't compete


def test_remask_is_ignored_outside_the_block_and_in_finished_rows() -> None:
    batch = start(fixed(*[(A, 0.9), (B, 0.8)] * 3), [[A]] * 3, 6, block_length=2)
    commit(batch, "xx....", "x.....", "xx....")
    everything = torch.ones(3, 6, dtype=torch.bool)
    act(batch, "..x...", ".x....", "..xxxx", remask=everything, scope=bits("......", "......", "....xx"))
    assert batch.tokens(0) == [A, B, A, MASK, MASK, MASK]  # the first block is behind it
    assert batch.tokens(1) == [MASK, B, MASK, MASK, MASK, MASK]
    assert batch.tokens(2) == [A, B] * 3
    before = batch.commit_step[2].clone()
    act(batch, "......", "......", "......", remask=everything)
    assert batch.tokens(2) == [A, B] * 3
    assert torch.equal(batch.commit_step[2], before)
    assert batch.running.tolist() == [True, True, False]


def test_remask_is_ignored_after_as_many_steps_as_positions() -> None:
    batch = start(fixed(*[(A, 0.9)] * 3), [[A]], 3)
    commit(batch, "x..")
    act(batch, ".x.", remask=bits("x.."))
    assert batch.tokens(0) == [MASK, A, MASK]
    act(batch, "..x", remask=bits(".x."))  # the third forward of three
    assert batch.tokens(0) == [MASK, A, A]
    assert act(batch, "x..", remask=bits(".xx")) == [True]


def test_remask_can_open_a_committed_end_of_text() -> None:
    batch = start(fixed((A, 0.9), (EOS, 0.8), (C, 0.7), (D, 0.6)), [[A]], 4)
    commit(batch, ".x..")
    assert act(batch, "x...", remask=bits(".x..")) == [False]
    assert batch.tokens(0) == [A, MASK, MASK, MASK]


@pytest.mark.parametrize("length", [1, 2, 5, 8])
@pytest.mark.parametrize("blocks_per_buffer", [1, 2])
@pytest.mark.parametrize("how", ["commit one", "move the end", "resize", "draw"])
def test_every_row_ends_whatever_is_remasked(length: int, blocks_per_buffer: int, how: str) -> None:
    block = length // blocks_per_buffer or 1
    block = block if length % block == 0 else length
    batch = start(Mixing(), PROMPTS, length, block_length=block)
    rng, remasked = random.Random(length), 0
    for step in range(2 * length + 1):
        if not batch.running.any():
            break
        view = batch.forward()
        remask = torch.ones_like(view.masked)
        action: dict[str, Any] = {"remask": remask}
        if how == "move the end":
            action["block_end"] = view.block_start + 2
        if how == "resize":
            action["length"] = whole(*[1, length][step % 2 :][:1] * 4)
        if how == "draw":
            draws = torch.tensor([[rng.random() for _ in range(length)] for _ in PROMPTS])
            action = {
                "remask": draws < 0.7,
                "scope": remask,
                "length": whole(*(rng.randint(1, length) for _ in PROMPTS)),
            }
        known = view.in_block & ~view.masked
        batch.apply(Action(torch.zeros_like(view.masked), **action))
        remasked += int((known & batch.masked).sum())
    assert not batch.running.any()
    assert (batch.nfe <= 2 * length).all()
    assert length < 4 or remasked > 4 or how == "resize"
