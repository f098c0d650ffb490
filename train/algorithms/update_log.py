"""What a training log says of a policy and its updates, beyond the losses."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from policies.distributions import Bernoulli, CommitDistribution, WithRefresh


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
    """The probabilities of committing eligible positions, where the distribution has one for each, and of refreshes."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float, int]] = {}  # total, highest and count

    def add(self, distribution: CommitDistribution, rows: Tensor | None = None) -> None:
        """Count a step's.

        Args:
            distribution: of B rows.
            rows: (B,) bool, those that count; None for all.
        """
        parts = {"unmask": distribution}
        if isinstance(distribution, WithRefresh):
            parts = {"unmask": distribution.commits, "refresh": distribution.refresh}
        for name, part in parts.items():
            if not isinstance(part, Bernoulli):
                continue
            eligible = part.eligible if rows is None else part.eligible & rows.unsqueeze(1)
            values = part.logits.detach().sigmoid()[eligible]
            if len(values):
                total, highest, count = self._sums.get(name, (0.0, 0.0, 0))
                highest = max(highest, float(values.max()))
                self._sums[name] = (total + float(values.sum()), highest, count + len(values))

    def record(self, logger: Logger) -> None:
        """Log their means and maxima, ``rollout/unmask_probability``, ``..._max``, and so of ``refresh``."""
        for name, (total, highest, count) in self._sums.items():
            logger.record(f"rollout/{name}_probability", total / count)
            logger.record(f"rollout/{name}_probability_max", highest)
