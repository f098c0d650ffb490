"""Actions that move what is decoded: the end of the block, the length, and what follows an end of text."""

from __future__ import annotations

import pytest
import torch
from account import PROMPTS
from denoisers import (
    EOS,
    MASK,
    PAD,
    A,
    B,
    C,
    D,
    HandWritten,
    act,
    bits,
    blocks,
    commit,
    fixed,
    start,
    whole,
)

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.view import Action

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
