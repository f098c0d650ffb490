"""The decode loop: a policy plays rows to their end. Whoever decodes goes through here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.view import Action, View
from policies.base import UnmaskingPolicy


@dataclass(frozen=True)
class Step:
    """One step of all rows.

    Attributes:
        view: what the dLLM believed.
        action: what the policy did.
        finished: (N,) bool, rows that it finished.
    """

    view: View
    action: Action
    finished: Tensor


def play(
    batch: DecodingBatch, policy: UnmaskingPolicy, before: Callable[[View], object] | None = None
) -> Iterator[Step]:
    """Let a policy decide until no row is running.

    A row that is loaded between two steps is played too, so finished rows can take the next prompt.

    Args:
        batch: rows that were loaded.
        policy: bound to the batch's dLLM and settings.
        before: called with each view before the policy acts: the batch is then as the forward left it.
    """
    while bool(batch.running.any()):
        view = batch.forward()
        if before is not None:
            before(view)
        action = policy.act(view)
        # Applied before anyone sees it: `finished` says which rows may be loaded anew, and the next forward has them.
        yield Step(view, action, batch.apply(action))


def play_out(batch: DecodingBatch, policy: UnmaskingPolicy) -> None:
    """Let a policy decide until no row is running."""
    for _ in play(batch, policy):
        pass
