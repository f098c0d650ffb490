"""What an action does to rows: tokens written and taken back, lengths, ends of text, blocks that move on."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.decoding.blocks import Layout
from envs.decoding.rows import Rows, is_end
from envs.view import Action, View, ensure_progress


def note(rows: Rows, action: Action) -> None:
    """Count what another model computed for an action, and keep what the policy remembers."""
    if action.extra_positions is not None:
        rows.token_positions += action.extra_positions * rows.running
    for name, values in action.memory.items():
        # A copy: the policy may go on writing into its own.
        rows.memory[name] = values.clone()


def write(rows: Rows, layout: Layout, view: View, action: Action) -> Tensor:
    """Carry out an action without drafts or a trial.

    Args:
        rows: what is changed.
        layout: the dLLM and how its buffers are decoded.
        view: what the last forward saw.
        action: the policy's.

    Returns:
        (N,) bool, rows that are finished by it.

    Raises:
        ValueError: if ``tokens`` would write the mask token.
    """
    settings, mask_id = layout.settings, layout.denoiser.mask_id
    was_running = rows.running & view.masked.any(1)  # a row loaded since has no view yet
    if action.refresh is not None:
        rows.refresh_step = torch.where(was_running & action.refresh, rows.nfe, rows.refresh_step)
    opened = layout.cache.opens(rows.masked)  # before masks come back
    if action.remask is not None:
        # A row that may not take another step must keep what it has, or it would never end.
        may = (rows.nfe < settings.buffer_length).unsqueeze(1) & view.in_block & was_running.unsqueeze(1)
        rows.mask(action.remask & ~view.masked & ~rows.given & may, mask_id)
    visible = layout.visible_end(rows, rows.block_start)
    if settings.window == "truncated":
        visible = torch.minimum(visible, rows.block_end)
    if action.length is not None:
        _resize(rows, layout, torch.where(was_running, action.length, rows.length))
    if action.block_end is not None:
        first_seen = (rows.masked & view.masked).int().argmax(1)
        end = torch.minimum(torch.maximum(action.block_end, first_seen + 1), visible)
        rows.block_end = torch.where(was_running, end, rows.block_end)
    _commit(rows, view, action, opened & (rows.positions < visible.unsqueeze(1)), mask_id)
    first_eos, complete = _end_of_text(rows, layout)
    if settings.end_of_text_prediction:
        end = torch.minimum(rows.length, first_eos + 1)
        gone = rows.positions >= end.unsqueeze(1)
        rows.length = torch.minimum(rows.length, layout.whole(rows, end))
        rows.mask(gone, mask_id)
        rows.fill(gone, layout.denoiser.eos_id)
    # What end-of-text prediction took away may have been the last masks.
    finished = was_running & (complete if settings.early_end else ~rows.masked.any(1))
    rows.fill(finished.unsqueeze(1) & rows.masked, layout.denoiser.eos_id)
    layout.move(rows, was_running)
    return finished


def _commit(rows: Rows, view: View, action: Action, opened: Tensor, mask_id: int) -> None:
    """Write the chosen tokens, at least one of every row that has an eligible position.

    Args:
        rows: what is changed.
        view: what the last forward saw.
        action: the policy's.
        opened: (N, L) bool, the positions that a policy may write to, in the block or not.
        mask_id: the mask token.
    """
    seen = rows.masked & view.masked & opened  # masks that the forward has an opinion about
    # What is ahead of the block was eligible, or not, when the action was decided.
    eligible = (rows.eligible() | (view.eligible & ~view.in_block)) & seen
    may = eligible
    if action.scope is not None:
        may = eligible | (action.scope & seen)
    wanted = action.commit & may
    chosen = wanted | ensure_progress(wanted, eligible, view.confidence) & ~wanted.any(1, keepdim=True)
    tokens = view.prediction if action.tokens is None else action.tokens
    if bool((chosen & (tokens == mask_id)).any()):
        raise ValueError(f"tokens holds the mask token, {mask_id}, at a committed position")
    rows.buffer = torch.where(chosen, tokens, rows.buffer)
    rows.commit_step = torch.where(chosen, rows.nfe.unsqueeze(1), rows.commit_step)
    rows.commit_confidence = torch.where(chosen, view.confidence, rows.commit_confidence)
    rows.masked = rows.masked & ~chosen


def _resize(rows: Rows, layout: Layout, length: Tensor) -> None:
    """Give each row this many positions: masks beyond it become end-of-text, new ones are masks."""
    old, place = rows.length.unsqueeze(1), rows.positions
    committed = (rows.commit_step > 0).int()
    # Tokens that a policy committed stay part of what the dLLM sees.
    keep = (place + 1) * committed
    length = torch.maximum(length, keep.amax(1)).clamp(min=1)
    length = torch.minimum(layout.whole(rows, length), layout.most(rows))
    rows.length = torch.where(rows.given_end > 0, rows.length, length)
    # Blanks alone are where a text began, not where it has to end.
    longer = torch.maximum(rows.text_length, length.clamp(max=layout.settings.buffer_length))
    rows.text_length = torch.where(rows.length > old.squeeze(1), longer, rows.text_length)
    new = rows.length.unsqueeze(1)
    rows.mask((place >= old) & (place < new), layout.denoiser.mask_id)
    rows.fill(rows.masked & (place >= new), layout.denoiser.eos_id)


def _end_of_text(rows: Rows, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return the (N,) first committed end-of-text (or L) and whether all of the text before it is known.

    Text goes on to the last given token, whatever stands before it, and no further than the row's text may.
    """
    length, place = rows.masked.shape[1], rows.positions
    may_end = ~rows.masked & (place >= rows.given_end.unsqueeze(1))
    committed_eos = is_end(layout.denoiser.end_ids, rows.buffer) & may_end
    first_eos = torch.where(committed_eos, place, length).amin(1)
    first_masked = torch.where(rows.masked, place, length).amin(1)
    return first_eos, (first_masked >= rows.text_length) | (first_eos < first_masked)
