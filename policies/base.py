"""What an unmasking policy is: a choice of positions from what the dLLM believes."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from envs.decoding import View


class UnmaskingPolicy(ABC):
    """Decides, at every step of every row, which masked positions to commit.

    Each row must be decided by that row of the view alone, so that a sequence decodes the same alone or in any
    batch; random choices come from `envs.noise`, keyed by the sequence.

    Attributes:
        features: names of `envs.decoding.VIEW_FEATURES` that `select` reads; only these are computed.
    """

    features: frozenset[str] = frozenset()

    @property
    @abstractmethod
    def name(self) -> str:
        """What tables and plots call the policy; for a rule, the text that `policies.make_rule` takes."""

    @abstractmethod
    def select(self, view: View) -> Tensor:
        """Choose the positions to commit.

        Args:
            view: one step of N rows.

        Returns:
            (N, L) bool, within ``view.eligible``, at least one True in each row that has an eligible position
            (`envs.decoding.ensure_progress` sees to both).
        """
