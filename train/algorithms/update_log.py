"""What a training log says of a policy and its updates, beyond the losses."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from policies.distributions import Bernoulli, CommitDistribution


class GradientNorms:
    """The norm of each update's gradient, before it is clipped, for training loops that are not ours.

    Args:
        parameters: that are trained; one ``backward`` makes the gradient of an update.
        optimizer: theirs.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        self.norms: list[float] = []
        self._made: list[Tensor] = []
        for parameter in parameters:
            if parameter.requires_grad:
                # Right after backward: a moment later SB3 clips the gradients in place.
                parameter.register_post_accumulate_grad_hook(self._add)
        optimizer.register_step_post_hook(lambda *_: self._finish())

    def record(self, logger: Logger) -> None:
        """Log the mean norm since the last call, ``train/grad_norm``; nothing where there was no update."""
        if self.norms:
            logger.record("train/grad_norm", sum(self.norms) / len(self.norms))
            self.norms.clear()

    def _add(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._made.append(parameter.grad.norm())

    def _finish(self) -> None:
        # The norm of all is the norm of their norms.
        self.norms.append(float(torch.stack(self._made).norm()))
        self._made.clear()


class UnmaskProbabilities:
    """The probabilities of committing eligible positions, where the distribution has one for each."""

    def __init__(self) -> None:
        self.total, self.highest, self.count = 0.0, 0.0, 0

    def add(self, distribution: CommitDistribution, rows: Tensor | None = None) -> None:
        """Count a step's.

        Args:
            distribution: of B rows.
            rows: (B,) bool, those that count; None for all.
        """
        if not isinstance(distribution, Bernoulli):
            return
        eligible = distribution.eligible if rows is None else distribution.eligible & rows.unsqueeze(1)
        values = distribution.logits.detach().sigmoid()[eligible]
        if len(values):
            self.total += float(values.sum())
            self.highest = max(self.highest, float(values.max()))
            self.count += len(values)

    def record(self, logger: Logger) -> None:
        """Log their mean and maximum, ``rollout/unmask_probability`` and ``..._max``."""
        if self.count:
            logger.record("rollout/unmask_probability", self.total / self.count)
            logger.record("rollout/unmask_probability_max", self.highest)
