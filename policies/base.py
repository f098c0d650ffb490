"""What an unmasking policy is: a choice of positions from what the dLLM believes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self

from torch import Tensor

from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.view import Action, View

Decision = Literal["sample", "deterministic"]
"""Draw each commit from its probability, or commit what has a probability of at least one half."""


class UnmaskingPolicy(ABC):
    """Decides, at every step of every row, what to do with the masked positions.

    Each row must be decided by that row of the view alone, so that a sequence decodes the same alone or in any
    batch. A policy is not changed by acting: what it must remember of a sequence goes into ``Action.memory`` and
    comes back in ``View.memory``, and random choices come from `envs.noise`, keyed by the sequence.

    Attributes:
        features: names of `envs.readings.READINGS` that `act` reads; only these are computed.
        drafts: whether its actions may hold drafts or trials, which no cache can keep (`envs.caches`).
        decision: ``"deterministic"`` unless the policy draws its commits from probabilities of its own.
    """

    features: frozenset[str] = frozenset()
    drafts: ClassVar[bool] = False
    decision: Decision = "deterministic"

    @property
    @abstractmethod
    def name(self) -> str:
        """What tables and plots call the policy; for a rule, the text that `policies.make_rule` takes."""

    @abstractmethod
    def act(self, view: View) -> Action:
        """Decide one step of N rows.

        Every row with an eligible position must commit at least one (`envs.view.ensure_progress` sees to it), or
        offer drafts, or a trial whose decision does.
        """

    def bind(self, denoiser: Denoiser, settings: DecodingSettings) -> Self:
        """Return the policy ready for a dLLM and a buffer: with token ids looked up, tables built.

        Raises:
            ValueError: if the policy can't run there.
        """
        return self

    def initial_length(self, buffer_length: int) -> int:
        """Return the number of masks that a sequence starts from."""
        return buffer_length


class CommitPolicy(UnmaskingPolicy):
    """A policy that only chooses positions to commit, as the env's `MultiBinary` action does."""

    @abstractmethod
    def select(self, view: View) -> Tensor:
        """Choose the positions to commit.

        Returns:
            (N, L) bool, within ``view.eligible``, at least one True in each row that has an eligible position.
        """

    def act(self, view: View) -> Action:
        """Commit what `select` chooses."""
        return Action(self.select(view))
