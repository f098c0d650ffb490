"""Actions that look ahead: drafts, and what travels from step to step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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
    fixed,
    same_row,
    start,
    whole,
)
from torch import Tensor

from envs.view import Action, View

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


def test_a_row_that_chose_what_needs_no_forward_has_paid_for_the_others() -> None:
    batch = start(fixed(*[(A, 0.9)] * 6), [[D], [D]], 6)
    batch.forward()
    drafts = bits("xxxxxx", "xxxxx.").unsqueeze(1)
    batch.apply(Action(bits("xxxx..", "xxxx.."), drafts=drafts, choose=lambda views: whole(1, 1)))
    view = batch.forward()
    assert batch.running.tolist() == [False, True]
    assert view.step.tolist() == batch.nfe.tolist() == [2, 2]
    # Of the finished row what it has used, of the other one what it had used before.
    torch.testing.assert_close(view.time, torch.tensor([2 / 6, 1 / 6]))


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


# trials


def test_a_trial_informs_and_leaves_nothing_behind() -> None:
    denoiser = Mixing()
    batch = start(denoiser, [[A], [B, C], [D]], 4)
    expected = start(denoiser, [[A], [B, C], [D]], 4)
    for each in (batch, expected):
        each.forward()
    act(expected, "xx..", "....", "....")
    wanted = expected.forward()
    seen: list[View] = []

    def decide(view: View) -> Action:
        seen.append(view)
        return Action(bits("..x.", "x...", "...x"), memory={"kept": whole(5, 6, 7)}, extra_positions=whole(100, 0, 0))

    batch.forward()
    trial = bits("xx..", "....", "....")
    finished = batch.apply(Action(bits("x...", "x...", "x..."), trial=trial, decide=decide))
    assert finished.tolist() == [False] * 3
    assert batch.masked.all()
    nfe, positions = batch.nfe.tolist(), batch.token_positions.tolist()
    view = batch.forward()
    # The trial is what the dLLM believes of the row with it; rows that ask for none pay nothing.
    [told] = seen
    assert torch.equal(told.confidence[0], wanted.confidence[0])
    assert torch.equal(told.masked[0], wanted.masked[0])
    assert batch.masked.tolist() == [[True, True, False, True], [False, True, True, True], [True, True, True, False]]
    assert [now - before for now, before in zip(batch.nfe.tolist(), nfe, strict=True)] == [2, 1, 1]
    spent = [now - before for now, before in zip(batch.token_positions.tolist(), positions, strict=True)]
    assert spent == [5 + 5 + 100, 6, 5]
    assert view.memory["kept"].tolist() == [5, 6, 7]
    alone = start(denoiser, [[A], [B, C], [D]], 4)
    alone.forward()
    act(alone, "..x.", "x...", "...x")
    plain = alone.forward()
    assert torch.equal(view.confidence, plain.confidence)
    assert torch.equal(view.prediction, plain.prediction)


def test_a_trial_is_written_as_its_action_says() -> None:
    """With the action's own tokens, and in later blocks where its scope reaches there."""
    prompts = [[A], [B, C]]
    batch, expected = (start(Mixing(), prompts, 4, block_length=2) for _ in range(2))
    for each in (batch, expected):
        each.forward()
    how = {"scope": bits("xxxx", "xx.."), "tokens": torch.tensor([[D, C, B, D], [C, C, C, C]])}
    act(expected, "x..x", ".x.x", **how)
    wanted = expected.forward()
    assert wanted.masked.tolist() == [[False, True, True, False], [True, False, True, True]]
    seen: list[View] = []

    def decide(view: View) -> Action:
        seen.append(view)
        return Action(bits("x...", "x..."))

    act(batch, "x...", "x...", trial=bits("x..x", ".x.x"), decide=decide, **how)
    batch.forward()
    assert torch.equal(seen[0].masked, wanted.masked)
    assert torch.equal(seen[0].confidence, wanted.confidence)
    # What was tried is not what was decided, which has no tokens of its own.
    assert batch.masked.tolist() == [[False, True, True, True]] * 2


def test_trials_follow_each_other_and_drafts_may_end_them() -> None:
    batch = start(fixed((A, 0.9), (B, 0.8), (C, 0.7)), [[D], [D]], 3)
    told: list[list[list[bool]]] = []

    def again(view: View) -> Action:
        told.append(view.masked.tolist())
        return Action(bits("x..", "x.."), trial=bits(".x.", "xx."), decide=last)

    def last(view: View) -> Action:
        told.append(view.masked.tolist())
        return Action(bits("x..", "x.."), drafts=bits("xx.", "xxx").unsqueeze(1), choose=lambda views: whole(1, 1))

    act(batch, "x..", "x..", trial=bits("x..", "x.."), decide=again)
    batch.forward()
    assert told == [[[False, True, True]] * 2, [[True, False, True], [False, False, True]]]
    assert batch.masked.tolist() == [[False, False, True], [False, False, False]]
    # The second row's draft that isn't finished needed a forward.
    assert batch.nfe.tolist() == [4, 4]
    batch.forward()
    assert batch.apply(Action(bits("...", "..."))).tolist() == [True, True]  # one by its drafts, one by this


def test_a_row_that_a_trial_would_finish_is_blank_and_goes_on() -> None:
    batch = start(fixed((EOS, 0.9), (B, 0.8)), [[D]], 2)

    def decide(view: View) -> Action:
        assert not view.masked.any()
        return Action(bits(".x"))

    act(batch, "x.", trial=bits("x."), decide=decide)
    view = batch.forward()
    assert view.masked.tolist() == [[True, False]]
    assert batch.nfe.tolist() == [2]  # an end-of-text would have ended it: there was nothing to compute
    assert batch.apply(Action(bits("x."))).tolist() == [True]
