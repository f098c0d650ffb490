"""Where blocks lie: lengths, widths and rooms by hand, for dLLMs whose blocks are counted from either place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from denoisers import MASK, A, B, C, act, fixed

from envs.decoding.batch import DecodingBatch
from envs.decoding.blocks import Layout, buffer_width, check_block, filled_length, prompt_room
from envs.decoding.settings import DecodingSettings


@dataclass
class Shape:
    """What of a dLLM says where its blocks lie."""

    block_length: int | None = None
    absolute_blocks: bool = False
    max_length: int = 23


SEES_ALL, FROM_BUFFER, FROM_PROMPT = Shape(), Shape(4), Shape(4, absolute_blocks=True)


@pytest.mark.parametrize(
    ("shape", "ends"),
    [
        # (prompt, length): where the block ends that holds the last position
        (SEES_ALL, {(3, 5): 5, (3, 1): 1}),
        (FROM_BUFFER, {(3, 5): 8, (3, 8): 8, (4, 1): 4, (1, 9): 12}),
        (FROM_PROMPT, {(3, 5): 5, (3, 6): 9, (4, 5): 8, (1, 1): 3, (6, 2): 2, (7, 2): 5}),
    ],
)
def test_rows_end_with_a_block_of_the_dllm(shape: Any, ends: dict[tuple[int, int], int]) -> None:
    assert {pair: filled_length(shape, *pair) for pair in ends} == ends
    prompts, lengths = (torch.tensor(part) for part in zip(*ends, strict=True))
    assert filled_length(shape, prompts, lengths).tolist() == list(ends.values())


@pytest.mark.parametrize(("shape", "width", "room"), [(SEES_ALL, 6, 17), (FROM_BUFFER, 8, 15), (FROM_PROMPT, 9, 14)])
def test_widths_and_rooms(shape: Any, width: int, room: int) -> None:
    """Of 23 positions and texts of 6; where blocks begin with the prompt, 20 positions are whole blocks."""
    assert buffer_width(shape, 6) == width
    assert prompt_room(shape, 6) == room


@pytest.mark.parametrize(("shape", "longest"), [(SEES_ALL, 22), (FROM_BUFFER, 20), (FROM_PROMPT, 19)])
def test_the_longest_buffer_leaves_room_for_one_token(shape: Any, longest: int) -> None:
    assert Layout(shape, DecodingSettings(longest, 1)).room >= 1
    message = f"buffer_length is {longest + 1}: it must be {longest} or less, as this dLLM takes 23 tokens of"
    with pytest.raises(ValueError, match=message):
        Layout(shape, DecodingSettings(longest + 1, 1))


@pytest.mark.parametrize("most", [1, 2])
def test_a_dllm_that_takes_next_to_nothing(most: int) -> None:
    with pytest.raises(ValueError, match=f"buffer_length is 4: it must be {most - 1} or less"):
        Layout(Shape(max_length=most), DecodingSettings(4))  # type: ignore[arg-type]


def test_a_block_divides_the_dllms() -> None:
    for block in (1, 2, 4):
        check_block(FROM_BUFFER, block)  # type: ignore[arg-type]
    check_block(SEES_ALL, 3)  # type: ignore[arg-type]
    message = "block_length is 3: this dLLM sees only blocks of 4 .* must divide 4; choose one of 4, 2, 1$"
    with pytest.raises(ValueError, match=message):
        check_block(FROM_BUFFER, 3)  # type: ignore[arg-type]


def rows_of(own: int | None, is_absolute: bool, length: int, block: int | None, **settings: Any) -> DecodingBatch:
    """Rows with prompts of 1 to 4 tokens."""
    denoiser = fixed(*[(A, 0.9)] * 16)
    denoiser.block_length, denoiser.absolute_blocks, denoiser.max_length = own, is_absolute, 22
    batch = DecodingBatch(denoiser, 4, DecodingSettings(length, block, **settings))
    batch.load(range(4), [[B] * size for size in (1, 2, 3, 4)])
    return batch


@pytest.mark.parametrize(
    ("own", "is_absolute", "settings", "first", "shown", "visible"),
    [
        # first: ends of the first blocks; shown: with a truncated window; visible: of a stretch that begins at 3
        (None, False, {}, [2, 2, 2, 2], [2, 2, 2, 2], [6, 6, 6, 6]),
        (None, False, {"block_origin": "absolute"}, [1, 2, 1, 2], [1, 2, 1, 2], [6, 6, 6, 6]),
        (4, False, {}, [2, 2, 2, 2], [2, 2, 2, 2], [4, 4, 4, 4]),
        (4, True, {}, [1, 2, 1, 2], [1, 2, 1, 2], [7, 6, 5, 4]),
    ],
)
def test_blocks_of_a_row(
    own: int | None, is_absolute: bool, settings: Any, first: list[int], shown: list[int], visible: list[int]
) -> None:
    batch = rows_of(own, is_absolute, 6, 2, **settings)
    assert batch.layout.first_end(batch).tolist() == first
    assert batch.block_end.tolist() == first
    assert batch.layout.visible_end(batch, torch.full((4,), 3)).tolist() == visible
    assert batch.layout.shown(batch).tolist() == batch.length.tolist()  # all of it
    batch = rows_of(own, is_absolute, 6, 2, window="truncated", **settings)
    assert batch.layout.shown(batch).tolist() == shown


def test_full_diffusion_is_one_block_wherever_it_is_counted_from() -> None:
    batch = rows_of(None, False, 6, None, block_origin="absolute", blocks_ahead=1)
    assert batch.layout.first_end(batch).tolist() == [6] * 4
    assert batch.block_end.tolist() == [6] * 4
    # Of six positions, but counted from the start of the prompt, are two blocks.
    assert rows_of(None, False, 6, 6, block_origin="absolute").block_end.tolist() == [5, 4, 3, 2]


def test_lengths_that_are_named_divide_the_buffer_too() -> None:
    message = "block_length is 12: this dLLM sees only blocks of 8 .* must divide 8; choose one of 4, 2, 1$"
    with pytest.raises(ValueError, match=message):
        rows_of(8, False, 12, None)


@pytest.mark.parametrize(
    ("length", "ends"),
    [
        # Of the 22 positions 21, 20, 19 and 18 are left for what follows the prompts.
        (12, [[7, 6, 5, 4], [15, 14, 13, 12]]),
        (16, [[7, 6, 5, 4], [15, 14, 13, 12], [21, 20, 19, 18]]),
        # The last prompt leaves no place at all behind the buffer.
        (18, [[7, 6, 5, 4], [15, 14, 13, 12], [21, 20, 19, 18]]),
    ],
)
def test_a_last_block_that_the_buffer_cuts_is_shown_whole(length: int, ends: list[list[int]]) -> None:
    """As far as the dLLM's length allows, in blocks of 8 that are counted from the start of the prompt."""
    batch = rows_of(None, False, length, 8, window="truncated", block_origin="absolute")
    for end in ends:
        assert batch.layout.shown(batch).tolist() == end
        act(batch, *["x" * length] * 4)
    assert not batch.running.any()


def test_a_block_that_is_known_is_passed_over_wherever_blocks_are_counted_from() -> None:
    """Of a text with blanks at 0 and 10, after a prompt of 3."""
    text = [MASK, *[C] * 9, MASK, C]
    for origin, blocks in ("absolute", [(0, 1), (9, 12)]), ("buffer", [(0, 4), (8, 12)]):
        batch = DecodingBatch(fixed(*[(A, 0.9)] * 12), 1, DecodingSettings(12, 4, block_origin=origin))
        batch.load([0], [[B] * 3], given=[text])
        view = batch.forward()
        assert (int(view.block_start), int(view.block_end)) == blocks[0]
        act(batch, "x" + "." * 11)
        view = batch.forward()
        assert (int(view.block_start), int(view.block_end)) == blocks[1]
        assert view.eligible.nonzero()[:, 1].tolist() == [10]
