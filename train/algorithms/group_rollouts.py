"""What GRPO learns from: the steps of whole rollouts, and what their groups say of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SPREAD = 1e-6
"""Rewards of a group nearer to each other than this are equal."""

STD_OFFSET = 1e-4
"""Added to a group's standard deviation before dividing by it."""


def advantages(rewards: npt.NDArray[np.float64], divides_by_std: bool) -> npt.NDArray[np.float64]:
    """Compare each rollout with its group.

    Args:
        rewards: (groups, rollouts) float, NaN where unknown: such a rollout is not of the group.
        divides_by_std: whether to divide by the group's standard deviation too.

    Returns:
        (groups, rollouts) float, reward less the group's mean, itself included; 0 where unknown.
    """
    known = ~np.isnan(rewards)
    count = known.sum(1, keepdims=True).clip(min=1)
    mean = np.where(known, rewards, 0.0).sum(1, keepdims=True) / count
    centred: npt.NDArray[np.float64] = np.where(known, rewards - mean, 0.0)
    if divides_by_std:
        centred /= np.sqrt((centred**2).sum(1, keepdims=True) / count) + STD_OFFSET
    return centred


def group_spread(rewards: npt.NDArray[np.float64]) -> float:
    """Return the mean over groups of the standard deviation of their rewards.

    Args:
        rewards: (groups, rollouts) float, NaN where unknown, which is left out.
    """
    count = (~np.isnan(rewards)).sum(1).clip(min=1)
    return float(np.sqrt((advantages(rewards, False) ** 2).sum(1) / count).mean())


def is_informative(rewards: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return (groups,) bool, True where the known ones of the (groups, rollouts) rewards differ; NaN is unknown."""
    known = ~np.isnan(rewards)
    highest, lowest = (np.where(known, rewards, sign * np.inf) for sign in (-1, 1))
    spread: npt.NDArray[np.bool_] = highest.max(1) - lowest.min(1) > SPREAD
    return spread


@dataclass(frozen=True)
class Steps:
    """S steps of rollouts.

    Attributes:
        obs: (S, ...) float32 tensors by name, as the policy takes them.
        action: (S, L), non-zero where committed, as the distribution numbers it; with a refresh (S, L + 1).
        log_prob: (S, K) float32, nats, when it was taken: K is 1, or as many as an action has for one ratio a position.
        rollout: (S,) int64, the row it belongs to.
        is_expert: (S,) bool.
    """

    obs: Mapping[str, Tensor]
    action: Tensor
    log_prob: Tensor
    rollout: Tensor
    is_expert: Tensor

    def __len__(self) -> int:
        return len(self.action)

    def take(self, index: Tensor | slice) -> Steps:
        """Return some steps; `index` is (I,) int64, or (S,) bool. Those of a slice share these steps' memory."""
        others = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "obs"}
        return Steps({name: values[index] for name, values in self.obs.items()}, **others)


def join(parts: Sequence[Steps]) -> Steps:
    """Put steps behind each other; at least one part."""
    obs: dict[str, Tensor] = {}
    for name in parts[0].obs:
        obs[name] = torch.cat([part.obs[name] for part in parts])
    others: dict[str, Tensor] = {}
    for name in (field.name for field in fields(Steps) if field.name != "obs"):
        others[name] = torch.cat([getattr(part, name) for part in parts])
    return Steps(obs, **others)


@dataclass(frozen=True)
class Batch:
    """What one update learns from.

    Attributes:
        steps: the steps.
        advantage: (S,) float32, of each step's rollout.
        weight: (S,) float32, 1 / (rollouts of a round * steps of its rollout): the sum over all steps is a mean over
            rollouts of means over steps. Rollouts that are left out count in the denominator, so that leaving them
            out changes no gradient, here or on any other worker.
    """

    steps: Steps
    advantage: Tensor
    weight: Tensor

    def chunks(self, size: int) -> Iterator[Batch]:
        """Yield the steps, at most `size` at a time."""
        # Of no steps one empty chunk, so that a process without any still makes gradients, of 0.
        for start in range(0, max(1, len(self.steps)), size):
            # Slices, as hidden states take much longer to copy than to read.
            index = slice(start, start + size)
            yield Batch(self.steps.take(index), self.advantage[index], self.weight[index])


def make_batch(steps: Steps, advantage: npt.NDArray[np.float64], kept: npt.NDArray[np.bool_], rollouts: int) -> Batch:
    """Select the steps of some rollouts and weigh them.

    Args:
        steps: of a round.
        advantage: (R,) float, of each rollout of the round.
        kept: (R,) bool, those to learn from.
        rollouts: in the denominator of the mean.
    """
    device = steps.rollout.device
    lengths = torch.bincount(steps.rollout, minlength=len(advantage)).clamp(min=1)
    chosen = steps.take(torch.as_tensor(kept, device=device)[steps.rollout])
    of_rollout = torch.as_tensor(advantage, dtype=torch.float32, device=device)
    return Batch(chosen, of_rollout[chosen.rollout], 1.0 / (rollouts * lengths[chosen.rollout].float()))


def join_batches(parts: Sequence[Batch]) -> Batch:
    """Put batches behind each other; at least one part."""
    return Batch(
        join([part.steps for part in parts]),
        torch.cat([part.advantage for part in parts]),
        torch.cat([part.weight for part in parts]),
    )
