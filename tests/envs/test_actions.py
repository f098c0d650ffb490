from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from denoisers import EOS, MASK, PAD, A, B, C, D, HandWritten, Mixing, act, bits, commit, fixed, same_row, start
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.noise import uniform
from envs.readings import MASK_READINGS
from envs.view import Action, View

PROMPTS = [[A], [A, B, C], [D, B], [C, C, D, A, B]]
Chosen = AbstractSet[int]


def whole(*values: int) -> Tensor:
    return torch.tensor(values)


def blocks(batch: DecodingBatch, row: int = 0) -> tuple[int, int, int]:
    return int(batch.block_start[row]), int(batch.block_end[row]), int(batch.block_step[row])


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


# block_end


def test_block_end_decides_what_may_be_committed_and_where_the_next_block_starts() -> None:
    batch = start(fixed(*[(A, 0.9)] * 12), [[A], [A]], 12, block_length=4)
    batch.forward()
    batch.apply(Action(torch.ones(2, 12, dtype=torch.bool), block_end=whole(3, 6)))
    assert [batch.tokens(row).count(A) for row in (0, 1)] == [3, 6]
    assert [blocks(batch, row) for row in (0, 1)] == [(3, 7, 0), (6, 10, 0)]
    view = batch.forward()
    assert view.in_block.tolist() == bits("...xxxx.....", "......xxxx..").tolist()
    assert (view.block_start.tolist(), view.block_end.tolist()) == ([3, 6], [7, 10])
    # An end that is set stays until the block is done.
    batch.apply(Action(bits("...x........", "......x....."), block_end=whole(5, 8)))
    assert [blocks(batch, row) for row in (0, 1)] == [(3, 5, 1), (6, 8, 1)]
    commit(batch, "xxxxxxxxxxxx", "............")
    assert [blocks(batch, row) for row in (0, 1)] == [(5, 9, 0), (8, 12, 0)]
    commit(batch, "xxxxxxxxxxxx", "xxxxxxxxxxxx")
    assert blocks(batch)[0] == 9
    assert batch.running.tolist() == [True, False]
    assert batch.eligible()[0].tolist() == bits(".........xxx")[0].tolist()
    assert commit(batch, "xxxxxxxxxxxx", "............") == [True, False]


def test_block_end_keeps_at_least_the_first_masked_position() -> None:
    batch = start(fixed(*[(A, 0.5), (B, 0.9), (C, 0.8), (D, 0.9)] * 2), [[A]] * 3, 8, block_length=4)
    commit(batch, "xx......", ".x......", ".x......")
    batch.forward()
    batch.apply(Action(torch.zeros(3, 8, dtype=torch.bool), block_end=whole(0, -5, 99)))
    assert batch.tokens(0) == [A, B, C, MASK, MASK, MASK, MASK, MASK]
    assert batch.tokens(1) == [A, B] + [MASK] * 6  # not the best of the old block
    assert batch.tokens(2) == [MASK, B, MASK, D] + [MASK] * 4
    assert [blocks(batch, row) for row in range(3)] == [(3, 7, 0), (1, 5, 0), (0, 8, 2)]
    # Ends before positions that are committed are possible too; the block is then done when its masks are.
    batch.forward()
    batch.apply(Action(bits("........", "........", "x......."), block_end=whole(8, 8, 1)))
    assert blocks(batch, 2) == (1, 5, 0)


def test_block_end_keeps_the_first_mask_that_was_seen() -> None:
    batch = start(fixed((A, 0.9), (B, 0.8), (C, 0.7), (D, 0.6)), [[A]], 4)
    commit(batch, "x...")
    # Of what the action itself takes back the forward has no opinion, so it alone would be no progress.
    act(batch, "....", remask=bits("x..."), block_end=whole(1))
    assert batch.tokens(0) == [MASK, B, MASK, MASK]
    assert blocks(batch) == (0, 2, 2)


def test_nothing_is_committed_or_opened_beyond_what_is_shown() -> None:
    everywhere = torch.ones(2, 6, dtype=torch.bool)
    batch = start(fixed(*[(A, 0.9)] * 6), [[A]] * 2, 6, block_length=2, window="truncated")
    act(batch, "xxxxxx", "x.....", scope=everywhere, block_end=whole(4, 4))
    assert [batch.tokens(row) for row in (0, 1)] == [[A, A] + [MASK] * 4, [A] + [MASK] * 5]
    assert [blocks(batch, row) for row in (0, 1)] == [(2, 4, 0), (0, 2, 1)]
    # Nor in a block of the dLLM's own that it does not see yet.
    denoiser = fixed(*[(A, 0.9)] * 8)
    denoiser.block_length = 4
    batch = start(denoiser, [[A]] * 2, 8, block_length=2)
    act(batch, "xxxxxxxx", "x......x", scope=torch.ones(2, 8, dtype=torch.bool), block_end=whole(8, 8))
    assert [batch.tokens(row) for row in (0, 1)] == [[A] * 4 + [MASK] * 4, [A] + [MASK] * 7]


def test_custom_blocks_follow_each_other_past_what_is_committed() -> None:
    batch = start(fixed(*[(A, 0.9)] * 12), [[A]], 12, block_length=2)
    act(batch, "xxx.xxx.....", scope=torch.ones(1, 12, dtype=torch.bool), block_end=whole(3))
    assert blocks(batch) == (3, 5, 0)
    commit(batch, "...x........")
    assert blocks(batch) == (7, 9, 0)  # the blocks after 5 are [5, 7) and [7, 9)


def test_block_end_of_finished_rows_stays() -> None:
    batch = start(fixed(*[(A, 0.9)] * 8), [[A], [A]], 8, block_length=4)
    commit(batch, "xxxxxxxx", "x.......")
    commit(batch, "xxxxxxxx", "........")
    assert batch.running.tolist() == [False, True]
    before = blocks(batch, 0)
    act(batch, "xxxxxxxx", "xxxxxxxx", block_end=whole(2, 3))
    assert blocks(batch, 0) == before
    assert blocks(batch, 1) == (3, 7, 0)


# length


def test_length_drops_masks_at_the_end() -> None:
    denoiser = fixed(*[(A, 0.9)] * 6)
    batch = start(denoiser, [[B, C]], 6)
    act(batch, "x.....", length=whole(4))
    assert batch.tokens(0) == [A, MASK, MASK, MASK, EOS, EOS]
    assert batch.length.tolist() == [4]
    assert batch.token_positions.tolist() == [2 + 6]
    view = batch.forward()
    assert denoiser.seen[-1] == ([[B, C, A, MASK, MASK, MASK]], [[True] * 6])
    assert view.length.tolist() == [4]
    assert view.masked.tolist() == view.eligible.tolist() == bits(".xxx..").tolist()
    assert view.confidence[0].tolist() == pytest.approx([1, 0.9, 0.9, 0.9, 1, 1])
    assert view.in_block.tolist() == bits("xxxx..").tolist()
    assert batch.apply(Action(bits("xxxxxx"))).tolist() == [True]
    assert batch.tokens(0) == [A] * 4 + [EOS] * 2
    assert batch.token_positions.tolist() == [2 + 6 + 2 + 4]
    assert batch.commit_step.tolist() == [[1, 2, 2, 2, 0, 0]]


def test_length_never_drops_what_is_committed() -> None:
    batch = start(fixed(*[(A, 0.9)] * 6), [[A]] * 3, 6, block_length=2)
    act(batch, "x...x.", "xx....", "......", scope=bits("....x.", "......", "......"))
    act(batch, ".x....", "..x...", "......", length=whole(1, 1, -3))
    assert batch.length.tolist() == [5, 2, 1]
    assert batch.tokens(0) == [A, A, MASK, MASK, A, EOS]
    assert batch.tokens(1) == [A, A, EOS, EOS, EOS, EOS]
    # Row 2 had committed its first position, and nothing but that is left.
    assert batch.tokens(2) == [A, EOS, EOS, EOS, EOS, EOS]
    assert batch.running.tolist() == [True, False, False]


def test_length_is_at_least_one() -> None:
    batch = start(fixed(*[(A, 0.9)] * 3), [[A]], 3)
    assert act(batch, "...", length=whole(0)) == [True]
    assert batch.length.tolist() == [1]
    assert batch.tokens(0) == [A, EOS, EOS]


def test_length_appends_masks() -> None:
    denoiser = fixed(*[(A, 0.9)] * 6)
    batch = DecodingBatch(denoiser, 2, DecodingSettings(6, 2))
    batch.load([0, 1], [[B], [B]], length=3)
    assert batch.tokens(0) == [MASK] * 3 + [EOS] * 3
    assert batch.length.tolist() == [3, 3]
    act(batch, "xx....", "xx....", length=whole(5, 99))
    assert batch.tokens(0) == [A, A, MASK, MASK, MASK, EOS]
    assert batch.length.tolist() == [5, 6]
    assert batch.token_positions.tolist() == [4, 4]
    assert batch.forward().eligible.tolist() == bits("..xx..", "..xx..").tolist()
    # New masks were in no forward yet, so they can't be written at once.
    batch.load([0, 1], [[B], [B]], length=1)
    assert act(batch, "xxxxxx", "xxxxxx", length=whole(2, 1)) == [False, True]
    assert batch.tokens(0) == [A, MASK] + [EOS] * 4
    assert batch.tokens(1) == [A] + [EOS] * 5


def test_rows_of_different_lengths_are_padded_on_the_right() -> None:
    denoiser = fixed(*[(A, 0.9)] * 5)
    batch = start(denoiser, [[B], [B, C, D], [C, D]], 5)
    act(batch, "x....", "x....", "x....", length=whole(5, 2, 3))
    batch.forward()
    assert denoiser.seen[-1] == (
        [
            [PAD, PAD, B, A, MASK, MASK, MASK, MASK],
            [B, C, D, A, MASK, PAD, PAD, PAD],
            [PAD, C, D, A, MASK, MASK, PAD, PAD],
        ],
        bits("..xxxxxx", "xxxxx...", ".xxxxx..").tolist(),
    )
    assert batch.token_positions.tolist() == [6 + 6, 8 + 5, 7 + 5]
    batch.apply(Action(bits("xxxxx", ".....", ".....")))
    batch.forward()
    # Without the longest row less is computed.
    assert denoiser.seen[-1] == ([[C, D, A, A, MASK]], bits("xxxxx").tolist())


# end_of_text_prediction


def test_end_of_text_prediction_fills_the_rest_at_once() -> None:
    denoiser = fixed((A, 0.9), (B, 0.8), (EOS, 0.7), (C, 0.6), (D, 0.5), (EOS, 0.4))
    batch = start(denoiser, [[B, C]], 6, end_of_text_prediction=True)
    assert act(batch, "..x...") == [False]
    assert batch.tokens(0) == [MASK, MASK, EOS, EOS, EOS, EOS]
    assert batch.length.tolist() == [3]
    assert batch.commit_step.tolist() == [[0, 0, 1, 0, 0, 0]]
    assert act(batch, "x.....") == [False]
    assert denoiser.seen[-1] == ([[B, C, MASK, MASK, EOS]], [[True] * 5])
    assert batch.view.masked.tolist() == bits("xx....").tolist()
    assert act(batch, "......") == [True]
    assert batch.tokens(0) == [A, B, EOS, EOS, EOS, EOS]
    assert batch.token_positions.tolist() == [(2 + 6) + 2 * (2 + 3)]
    assert batch.nfe.tolist() == [3]


def test_the_first_of_several_ends_of_text_counts() -> None:
    batch = start(fixed((A, 0.9), *[(EOS, 0.8)] * 5), [[A]], 6, end_of_text_prediction=True)
    act(batch, "..x.xx")
    assert batch.length.tolist() == [3]
    act(batch, ".x....")
    assert batch.length.tolist() == [2]
    assert batch.tokens(0) == [MASK] + [EOS] * 5


def test_end_of_text_prediction_works_with_blocks() -> None:
    batch = start(
        fixed(*[(A, 0.9)] * 4, (EOS, 0.8), (B, 0.7)), [[A]] * 2, 6, block_length=2, end_of_text_prediction=True
    )
    act(batch, "x...x.", "x.....", scope=bits("....x.", "......"))
    assert batch.length.tolist() == [5, 6]
    assert batch.tokens(0) == [A, MASK, MASK, MASK, EOS, EOS]
    assert commit(batch, "xxxxxx", "xxxxxx") == [False, False]
    assert [blocks(batch, row) for row in (0, 1)] == [(2, 4, 0)] * 2
    assert commit(batch, "xxxxxx", "xxxxxx") == [True, False]
    assert commit(batch, "......", "x.....") == [False, True]
    assert [batch.tokens(row) for row in (0, 1)] == [[A, A, A, A, EOS, EOS]] * 2


def test_end_of_text_prediction_with_a_remasked_end_of_text() -> None:
    batch = start(fixed((A, 0.9), (B, 0.8), (EOS, 0.7), (C, 0.6)), [[A]], 4, end_of_text_prediction=True)
    commit(batch, "..x.")
    assert act(batch, ".x..", remask=bits("..x.")) == [False]
    assert batch.tokens(0) == [MASK, B, MASK, EOS]  # the positions after it are gone
    assert batch.length.tolist() == [3]
    assert act(batch, "x.x.", tokens=torch.full((1, 4), D)) == [True]
    assert batch.tokens(0) == [D, B, D, EOS]


def test_growing_past_a_committed_end_of_text_is_undone_at_once() -> None:
    batch = start(fixed((A, 0.9), (B, 0.8), (EOS, 0.7), (C, 0.6)), [[A]], 4, end_of_text_prediction=True)
    commit(batch, "..x.")
    act(batch, "x...", length=whole(4))
    assert batch.tokens(0) == [A, MASK, EOS, EOS]
    assert batch.length.tolist() == [3]


@pytest.mark.parametrize("block", [8, 4, 2])
@pytest.mark.parametrize("threshold", [0, 0.5, 0.8])
@pytest.mark.parametrize("in_order", [True, False])
def test_end_of_text_prediction_changes_no_text_where_the_tail_has_no_say(
    block: int, threshold: float, in_order: bool
) -> None:
    def about_the_left(prompt: list[int], buffer: list[int]) -> list[tuple[int, float]]:
        """Each answer depends on the prompt and on everything to its left."""
        said = []
        for place in range(len(buffer)):
            height = sum((token + 1) * (i + 2) for i, token in enumerate(prompt + buffer[:place])) * 13 % 17
            said.append(([EOS, A, B, C, D][height % 5], 0.25 + height / 24))
        return said

    results = []
    for predict in (False, True):
        batch = start(HandWritten(about_the_left), PROMPTS, 8, block_length=block, end_of_text_prediction=predict)
        while batch.running.any():
            view = batch.forward()
            wanted = view.confidence >= threshold
            if in_order:
                wanted |= view.eligible.cumsum(1) == 1
            batch.apply(Action(wanted))
        texts = [[*batch.tokens(row), EOS] for row in range(4)]
        results.append(([t[: t.index(EOS)] for t in texts], batch.nfe.tolist(), batch.token_positions.tolist()))
    (texts, nfe, positions), (same_texts, fewer_nfe, fewer_positions) = results
    assert texts == same_texts
    # Without it a row with nothing confident may waste a forward on what comes after its end.
    assert all(a == b if in_order else a >= b for a, b in zip(nfe, fewer_nfe, strict=True))
    assert all(a >= b for a, b in zip(positions, fewer_positions, strict=True))
    assert in_order or threshold == 0 or sum(positions) > sum(fewer_positions)


@pytest.mark.parametrize(("block", "saved"), [(8, 3 * 4), (4, 3 * 4), (2, 0)])
def test_end_of_text_prediction_saves_positions_and_no_forward(block: int, saved: int) -> None:
    results = []
    for predict in (False, True):
        denoiser = fixed(*[(A, 0.5)] * 3, (EOS, 0.9), *[(B, 0.5)] * 4)
        batch = start(denoiser, [[A]], 8, block_length=block, end_of_text_prediction=predict)
        while batch.running.any():
            view = batch.forward()
            first = view.eligible.cumsum(1) == 1
            batch.apply(Action((first & (view.step > 1).unsqueeze(1)) | (view.prediction == EOS)))
        results.append((batch.tokens(0), batch.nfe.tolist(), batch.token_positions.item()))
    (tokens, nfe, positions), (same_tokens, same_nfe, fewer) = results
    assert (tokens, nfe) == (same_tokens, same_nfe)
    assert positions - fewer == saved


# drafts


def first(views: Sequence[View]) -> Tensor:
    return torch.zeros_like(views[0].step)


def test_drafts_share_one_forward_and_one_of_them_counts() -> None:
    denoiser = Mixing()
    shown: list[View] = []

    def choose(views: Sequence[View]) -> Tensor:
        shown.extend(views)
        return whole(2, 0, 3)

    batch = start(denoiser, [[A], [B, C], [D]], 4)
    drafts = torch.stack([bits("xx..", ".x..", "x..x"), bits("..x.", "..xx", "x..."), bits(".x..", "x...", ".xxx")], 1)
    expected = []  # each draft by itself
    for row, prompt in enumerate(([A], [B, C], [D])):
        for chosen in (bits("x...", "x...", "x...")[row], *drafts[row]):
            alone = start(denoiser, [prompt], 4)
            alone.forward()
            alone.apply(Action(chosen.unsqueeze(0)))
            alone.forward()
            expected.append(alone)
    denoiser.seen.clear()
    batch.forward()
    finished = batch.apply(Action(bits("x...", "x...", "x..."), drafts=drafts, choose=choose))
    assert finished.tolist() == [False] * 3
    assert batch.masked.all()  # the writing waits
    view = batch.forward()
    assert len(denoiser.seen) == 2
    # Row 1's third draft and row 2's second repeat the commit.
    assert len(denoiser.seen[1][0]) == 12 - 2
    assert batch.nfe.tolist() == [2] * 3
    assert batch.token_positions.tolist() == [(1 + 4) * (1 + 4), (2 + 4) * (1 + 3), (1 + 4) * (1 + 3)]
    assert len(shown) == 4
    for row in range(3):
        for k in range(4):
            assert same_row(shown[k], row, expected[4 * row + k].view, 0)
    for row, k in enumerate((2, 0, 3)):
        mine = expected[4 * row + k]
        assert batch.tokens(row) == mine.tokens(0)
        assert same_row(view, row, mine.view, 0)
        assert batch.commit_step[row].tolist() == mine.commit_step[0].tolist()
        assert batch.commit_confidence[row].tolist() == mine.commit_confidence[0].tolist()
    assert batch.view is view
    # It goes on from there.
    batch.apply(Action(torch.zeros(3, 4, dtype=torch.bool)))
    assert [row.count(MASK) for row in batch.buffer.tolist()] == [2, 2, 0]


def test_choices_out_of_range_are_the_nearest() -> None:
    batch = start(fixed(*[(A, 0.9)] * 4), [[A], [A]], 4)
    act(batch, "x...", "x...", drafts=bits("xx..", "xx..").unsqueeze(1), choose=lambda views: whole(-1, 7))
    batch.forward()
    assert [batch.tokens(row).count(A) for row in (0, 1)] == [1, 2]


def test_a_row_that_a_draft_finishes_is_reported_by_the_next_apply() -> None:
    shown: list[View] = []

    def choose(views: Sequence[View]) -> Tensor:
        shown.extend(views)
        return whole(1, 1)

    denoiser = fixed((A, 0.9), (B, 0.8), (C, 0.7))
    batch = start(denoiser, [[A], [A]], 3)
    drafts = bits("xxx", "xx.").unsqueeze(1)
    assert act(batch, "x..", "x..", drafts=drafts, choose=choose) == [False, False]
    assert batch.running.tolist() == [True, True]
    view = batch.forward()
    assert batch.running.tolist() == [False, True]
    assert shown[0].masked.tolist() == bits(".xx", ".xx").tolist()
    assert shown[1].masked.tolist() == view.masked.tolist() == bits("...", "..x").tolist()
    assert shown[1].confidence[0].tolist() == view.confidence[0].tolist() == [1, 1, 1]
    assert batch.tokens(0) == [A, B, C]
    # Only the drafts that needed a forward had one.
    assert len(denoiser.seen[-1][0]) == 3
    assert batch.nfe.tolist() == [2, 2]
    assert batch.token_positions.tolist() == [4 + 4, 4 + 8]
    assert batch.apply(Action(bits("xxx", "..."))).tolist() == [True, True]
    assert batch.apply(Action(bits("xxx", "..."))).tolist() == [False, False]


def test_drafts_that_all_finish_need_no_forward() -> None:
    denoiser = fixed((EOS, 0.9), (B, 0.8), (C, 0.7))
    batch = start(denoiser, [[A], [A]], 3)
    drafts = bits("xx.", "xxx").unsqueeze(1)
    act(batch, "x..", "x..", drafts=drafts, choose=first)
    view = batch.forward()
    assert len(denoiser.seen) == 1
    assert not view.masked.any()
    assert (batch.nfe.tolist(), batch.token_positions.tolist()) == ([1, 1], [4, 4])
    assert [batch.tokens(row) for row in (0, 1)] == [[EOS] * 3] * 2
    assert batch.apply(Action(bits("...", "..."))).tolist() == [True, True]
    assert not batch.apply(Action(bits("...", "..."))).any()


def test_drafts_with_scope_and_tokens() -> None:
    batch = start(fixed(*[(A, 0.9)] * 6), [[A]], 6, block_length=2)
    tokens = torch.tensor([[B, C, D, B, C, D]])
    drafts = bits("xx..x.").unsqueeze(1)
    act(batch, "x..x..", scope=bits("..xxx."), tokens=tokens, drafts=drafts, choose=lambda views: whole(1))
    batch.forward()
    assert batch.tokens(0) == [B, C, MASK, MASK, C, MASK]
    assert blocks(batch) == (2, 4, 0)


def test_memory_survives_drafts() -> None:
    batch = start(fixed(*[(A, 0.9)] * 4), [[A], [B]], 4)
    shown: list[View] = []

    def choose(views: Sequence[View]) -> Tensor:
        shown.extend(views)
        return whole(1, 0)

    memory = {"ends": torch.tensor([[1.5, 2.5], [3.5, 4.5]]), "count": whole(7, 8)}
    act(batch, "x...", "x...", drafts=bits("xx..", "xx..").unsqueeze(1), choose=choose, memory=memory)
    for view in (batch.forward(), *shown):
        assert view.memory.keys() == memory.keys()
        assert all(torch.equal(view.memory[name], values) for name, values in memory.items())


# extra_positions and memory


def test_extra_positions_count_for_running_rows() -> None:
    batch = start(fixed(*[(A, 0.9)] * 4), [[A], [A]], 4)
    assert act(batch, "xxxx", "x...", extra_positions=whole(5, 7)) == [True, False]
    assert batch.token_positions.tolist() == [5 + 5, 5 + 7]
    act(batch, "....", ".x..", extra_positions=whole(100, 1))
    assert batch.token_positions.tolist() == [10, 12 + 5 + 1]
    assert batch.nfe.tolist() == [1, 2]


def test_memory_is_handed_back() -> None:
    batch = start(fixed(*[(A, 0.9)] * 4), [[A], [B], [C]], 4)
    assert batch.forward().memory == {}
    kept = {"credit": torch.rand(3, 4, 2), "count": whole(1, 2, 3)}
    batch.apply(Action(torch.zeros(3, 4, dtype=torch.bool), memory=kept))
    batch.load([1], [[D, D]])
    view = batch.forward()
    assert view.memory["count"].tolist() == [1, 0, 3]
    assert view.memory["count"].dtype == torch.int64
    assert torch.equal(view.memory["credit"], kept["credit"] * torch.tensor([1, 0, 1]).view(3, 1, 1))
    assert kept["count"].tolist() == [1, 2, 3]  # the policy's own tensors stay as they are


# Everything at once, against a plain account of one row.

Shown = tuple[Literal["full", "truncated"], Literal["buffer", "absolute"]]
"""The settings `window` and `block_origin`."""

ENGINE: Shown = ("truncated", "absolute")
"""What serving engines do."""


@dataclass
class Plain:
    """One row, decoded as `envs.view.Action` says, in lists."""

    prompt: list[int]
    settings: DecodingSettings
    buffer: list[int] = field(default_factory=list)
    commit_step: list[int] = field(default_factory=list)
    length: int = 0
    start: int = 0
    end: int = 0
    block_step: int = 0
    nfe: int = 0
    positions: int = 0
    is_done: bool = False

    def __post_init__(self) -> None:
        self.length = self.settings.buffer_length
        self.buffer, self.commit_step = [MASK] * self.length, [0] * self.length
        self.end = self.settings.block - (len(self.prompt) % self.settings.block if self.is_absolute else 0)

    @property
    def is_absolute(self) -> bool:
        return self.settings.block_origin == "absolute"

    def shown(self) -> list[int]:
        """Tokens of the buffer that the dLLM is shown, with the masks that fill up a last block."""
        if self.settings.window == "full":
            return self.buffer[: self.length]
        tokens = self.buffer[: min(self.end, self.length)]
        if self.is_absolute and len(tokens) == self.settings.buffer_length:
            while (len(self.prompt) + len(tokens)) % self.settings.block:
                tokens = [*tokens, MASK]
        return tokens

    def masks(self) -> list[int]:
        return [i for i, token in enumerate(self.buffer) if token == MASK]

    def forward(self, denoiser: Any) -> None:
        shown = self.shown()
        tokens = torch.tensor([self.prompt + shown])
        logits = denoiser.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), len(shown))[0]
        logits[:, MASK] = -torch.inf
        probabilities = logits.softmax(-1)
        self.confidence, self.prediction = (values.tolist() for values in probabilities.max(-1))
        self.seen = [i for i in self.masks() if i < len(shown)]
        self.nfe += 1
        self.positions += tokens.shape[1]

    def apply(
        self,
        commit: Chosen,
        scope: Chosen = frozenset(),
        tokens: list[int] | None = None,
        remask: Chosen = frozenset(),
        block_end: int | None = None,
        length: int | None = None,
    ) -> None:
        most, block = self.settings.buffer_length, self.settings.block
        if self.nfe < most:
            for i in remask & set(range(self.start, min(self.end, self.length))) - set(self.seen):
                self.buffer[i], self.commit_step[i] = MASK, 0
        if length is not None:
            known = [i + 1 for i in range(most) if self.commit_step[i]]
            new = min(most, max(1, length, *known))
            self.buffer[self.length : new] = [MASK] * (new - self.length)
            self.fill(new)
            self.length = new
        if block_end is not None and self.masks():
            most = self.end if self.settings.window == "truncated" else most
            self.end = min(most, max(block_end, min(set(self.masks()) & set(self.seen), default=0) + 1))
        open_here = [i for i in self.masks() if i in self.seen]
        in_block = [i for i in open_here if self.start <= i < self.end]
        chosen = [i for i in open_here if i in commit and (i in in_block or i in scope)]
        for i in chosen or (in_block and [max(in_block, key=lambda i: self.confidence[i])]):
            self.buffer[i] = self.prediction[i] if tokens is None else tokens[i]
            self.commit_step[i] = self.nfe
        ends = [i for i, token in enumerate(self.buffer) if token == EOS]
        if ends and self.settings.end_of_text_prediction:
            self.length = min(self.length, ends[0] + 1)
            self.fill(self.length)
        if not self.masks() or (self.settings.early_end and ends and ends[0] < self.masks()[0]):
            self.is_done = True
            self.fill(0)
        else:
            self.block_step += 1
            if not any(self.start <= i < self.end for i in self.masks()):
                known = len(self.prompt) if self.is_absolute else -self.end
                borders = [i for i in range(self.end + 1, 2 * len(self.buffer) + block) if (i + known) % block == 0]
                self.start = self.end
                while borders[0] <= self.masks()[0]:
                    self.start = borders.pop(0)
                self.end, self.block_step = borders[0], 0

    def fill(self, since: int) -> None:
        for i in self.masks():
            if i >= since:
                self.buffer[i] = EOS

    def records(self) -> list[Any]:
        block = [] if self.is_done else [self.start, min(self.end, len(self.buffer)), self.block_step]
        here = [self.buffer[: self.length], self.commit_step[: self.length]]
        return [*here, self.length, self.nfe, self.positions, *block]


def records(batch: DecodingBatch, row: int) -> list[Any]:
    """What `Plain.records` gives, of a row of a batch."""
    length, nfe, positions = (int(values[row]) for values in (batch.length, batch.nfe, batch.token_positions))
    first, end, step = blocks(batch, row)
    block = [first, min(end, batch.settings.buffer_length), step] if bool(batch.running[row]) else []
    return [batch.tokens(row)[:length], batch.commit_step[row, :length].tolist(), length, nfe, positions, *block]


def empty(denoiser: Any, settings: DecodingSettings) -> DecodingBatch:
    return DecodingBatch(denoiser, 4, settings)


def some(rng: random.Random, length: int, share: float) -> Chosen:
    return {i for i in range(length) if rng.random() < share}


def as_bits(rows: Sequence[Chosen], length: int) -> Tensor:
    return torch.tensor([[i in row for i in range(length)] for row in rows])


@pytest.mark.each_value
@pytest.mark.parametrize(
    "uses",
    [
        *("", "scope", "tokens", "remask", "block_end", "length", "predict", "late", "predict late"),
        "scope tokens remask block_end length",
        "scope tokens remask block_end length late",
        "scope tokens remask block_end predict",
    ],
)
@pytest.mark.parametrize(("length", "block"), [(8, 8), (8, 2), (9, 3), (6, 1)])
@pytest.mark.parametrize("shown", [("full", "buffer"), ("truncated", "buffer"), ("full", "absolute"), ENGINE])
def test_any_actions_do_what_a_plain_account_says(uses: str, length: int, block: int, shown: Shown) -> None:
    denoiser, rng = Mixing(), random.Random(uses + str(block))
    is_used = {name: name in uses.split() for name in ("scope", "tokens", "remask", "block_end", "length")}
    for _ in range(4):
        settings = DecodingSettings(length, block, 0.0, MASK_READINGS, "predict" in uses, "late" not in uses, *shown)
        batch = empty(denoiser, settings)
        order = rng.sample(PROMPTS, 4)  # a row does the same anywhere in the batch
        plain = [Plain(prompt, settings) for prompt in order]
        batch.load(range(4), order)
        for _ in range(2 * length):
            if not batch.running.any():
                break
            view = batch.forward()
            chosen: list[dict[str, Any]] = []
            for row in plain:
                wanted: dict[str, Any] = {"commit": some(rng, length, rng.choice([0.1, 0.5]))}
                wanted |= {name: some(rng, length, 0.3) for name in ("scope", "remask") if is_used[name]}
                if is_used["tokens"]:
                    wanted["tokens"] = [rng.choice([EOS, A, B, C, D, D]) for _ in range(length)]
                if is_used["block_end"]:
                    wanted["block_end"] = rng.choice([row.end, rng.randint(0, length + 1)])
                if is_used["length"]:
                    wanted["length"] = rng.choice([row.length, rng.randint(0, length + 1)])
                chosen.append(wanted)
            action: dict[str, Any] = {}
            for name in chosen[0]:
                values = [wanted[name] for wanted in chosen]
                action[name] = (
                    as_bits(values, length) if name in ("commit", "scope", "remask") else torch.tensor(values)
                )
            finished = batch.apply(Action(**action)).tolist()
            for i, (row, wanted) in enumerate(zip(plain, chosen, strict=True)):
                was_done = row.is_done
                if not was_done:
                    row.forward(denoiser)
                    assert view.masked[i].nonzero().flatten().tolist() == row.masks()
                    assert [view.prediction[i, j].item() for j in row.seen] == [row.prediction[j] for j in row.seen]
                    believed = [row.confidence[j] for j in row.seen]
                    assert [view.confidence[i, j].item() for j in row.seen] == pytest.approx(believed)
                    row.apply(**wanted)
                assert finished[i] == (row.is_done and not was_done)
                assert records(batch, i) == row.records(), wanted
        assert not batch.running.any()


def surest(views: Sequence[View]) -> Tensor:
    """Choose by what the next forward says, finished rows last."""
    scores = [(view.confidence * view.masked).sum(1) / view.masked.sum(1).clamp(min=1) for view in views]
    return torch.stack(scores, 1).argmax(1)


@pytest.mark.each_value
@pytest.mark.parametrize("predict", [False, True])
@pytest.mark.parametrize("block", [8, 4])
@pytest.mark.parametrize("shown", [("full", "buffer"), ENGINE])
def test_any_drafts_do_what_a_plain_account_says(block: int, predict: bool, shown: Shown) -> None:
    denoiser, rng = Mixing(), random.Random(block)
    settings = DecodingSettings(8, block, 0.0, frozenset(), predict, True, *shown)
    for _ in range(6):
        batch = empty(denoiser, settings)
        plain = [Plain(prompt, settings) for prompt in PROMPTS]
        batch.load(range(4), PROMPTS)
        batch.forward()
        for row in plain:
            row.forward(denoiser)
        just_done = [False] * 4
        while True:
            sets = [[some(rng, 8, 0.2) for _ in range(rng.choice([2, 3]))] for _ in plain]
            sets = [[*row, row[0], *row][:4] for row in sets]  # with repetitions
            drafts = torch.stack([as_bits(row, 8) for row in sets])
            action = Action(drafts[:, 0], drafts=drafts[:, 1:], choose=surest)
            assert batch.apply(action).tolist() == just_done
            if not batch.running.any():
                break
            was_done = [row.is_done for row in plain]
            plain = [row if row.is_done else settle(row, sets[i], denoiser) for i, row in enumerate(plain)]
            just_done = [row.is_done and not before for row, before in zip(plain, was_done, strict=True)]
            batch.forward()
            for i, row in enumerate(plain):
                if row.is_done:
                    # Which of several finishing drafts it was leaves no trace in the text.
                    end = [*row.buffer, EOS].index(EOS)
                    assert batch.tokens(i)[:end] == row.buffer[:end]
                    assert [int(batch.nfe[i]), int(batch.token_positions[i])] == [row.nfe, row.positions]
                else:
                    assert records(batch, i) == row.records()
        assert all(row.is_done for row in plain)


def settle(row: Plain, sets: list[Chosen], denoiser: Any) -> Plain:
    """Try every draft by itself and go on from the one that `surest` would take."""
    tried: list[Plain] = []
    for chosen in sets:
        branch = deepcopy(row)
        branch.apply(chosen)
        same = [other for other in tried if other.masks() == branch.masks()]
        if same:
            branch = same[0]
        elif not branch.is_done:
            branch.forward(denoiser)
        tried.append(branch)

    def score(branch: Plain) -> float:
        return 0.0 if branch.is_done else sum(branch.confidence[i] for i in branch.seen) / len(branch.masks())

    best = deepcopy(max(tried, key=score))
    distinct = {id(branch): branch for branch in tried}.values()
    best.nfe = max(branch.nfe for branch in tried)
    best.positions = row.positions + sum(branch.positions - row.positions for branch in distinct)
    return best


# Rows don't depend on their batch, at any temperature.


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
