"""Actions that a forward settles: drafts, several ways to go on run by one, and trials, that only inform.

Letters: N rows, K drafts besides the action itself, L buffer positions.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from envs.decoding.blocks import Layout
from envs.decoding.forward import believe
from envs.decoding.rows import Rows
from envs.decoding.transition import note, write
from envs.decoding.views import rows_of, time_used
from envs.view import Action, View


def settle(rows: Rows, layout: Layout, view: View, action: Action) -> View:
    """Run the dLLM on an action's trials until it is decided, and then on what was decided.

    Args:
        rows: become what was decided; rows that it finishes are marked as settled.
        layout: the dLLM and how its buffers are decoded.
        view: what the policy acted on.
        action: its action, with drafts or a trial.

    Returns:
        What the dLLM believes after it.
    """
    while action.trial is not None:
        action = _try(rows, layout, view, action)
        note(rows, action)
    if action.drafts is not None:
        return _settle_drafts(rows, layout, view, action)
    rows.settled = rows.settled | write(rows, layout, view, action)
    return believe(rows, layout, rows.running, view, None)


def _try(rows: Rows, layout: Layout, view: View, action: Action) -> Action:
    """Run the dLLM on the rows with an action's trial written into them, and let the policy decide.

    Args:
        rows: keep their texts; the forward is counted.
        layout: the dLLM and how its buffers are decoded.
        view: what the policy acted on.
        action: its action, with a trial.
    """
    assert action.trial is not None
    assert action.decide is not None
    asking = rows.running & action.trial.any(1)
    tried = rows.at(torch.arange(len(rows.masked), device=rows.masked.device))
    write(tried, layout, view, Action(action.trial, scope=action.scope, tokens=action.tokens))
    seen = believe(tried, layout, tried.running & asking, view, None)
    rows.nfe, rows.token_positions = tried.nfe, tried.token_positions
    return action.decide(seen)


def _settle_drafts(rows: Rows, layout: Layout, view: View, action: Action) -> View:
    """Run the dLLM on every draft of every row at once, let the policy choose, and go on from its choice.

    A draft that equals an earlier one of its row is not computed again.

    Args:
        rows: become what was chosen; rows that it finishes are marked as settled.
        layout: the dLLM and how its buffers are decoded.
        view: what the policy drafted on.
        action: its action, with drafts.

    Returns:
        What the dLLM believes after the chosen draft.
    """
    assert action.drafts is not None
    assert action.choose is not None
    num_rows, device = len(rows.masked), rows.masked.device
    sets = torch.cat([action.commit.unsqueeze(1), action.drafts], 1)  # (N, K + 1, L)
    count = sets.shape[1]
    repeated = torch.arange(num_rows, device=device).repeat_interleave(count)
    branches, seen = rows.at(repeated), rows_of(view, repeated)
    parts = {name: getattr(action, name) for name in ("scope", "tokens", "remask", "block_end", "length")}
    shared = {name: part.repeat_interleave(count, 0) for name, part in parts.items() if part is not None}
    write(branches, layout, seen, Action(sets.flatten(0, 1), **shared))
    buffers = branches.buffer.view(num_rows, count, -1)
    same = (buffers.unsqueeze(2) == buffers.unsqueeze(1)).all(-1)  # (N, K + 1, K + 1)
    original = same.int().argmax(2)  # the first draft that leaves the same tokens
    is_new = (original == torch.arange(count, device=device)).flatten()
    branched = believe(branches, layout, branches.running & is_new, seen, None)
    base = torch.arange(num_rows, device=device) * count
    views = [rows_of(branched, base + original[:, k]) for k in range(count)]
    choice = action.choose(views).clamp(0, count - 1)
    picked = base + original.gather(1, choice.unsqueeze(1)).squeeze(1)
    # A row pays for all of its drafts, and for one forward, whichever it goes on from.
    spent = (branches.token_positions.view(num_rows, count) - rows.token_positions.unsqueeze(1)).sum(1)
    nfe, positions = branches.nfe.view(num_rows, count).amax(1), rows.token_positions + spent
    was_running, settled = rows.running, rows.settled
    rows.adopt(branches.at(picked))
    rows.nfe, rows.token_positions = nfe, positions
    rows.settled = settled | (was_running & ~rows.running)
    return replace(rows_of(branched, picked), step=rows.nfe.clone(), time=time_used(rows, layout))
