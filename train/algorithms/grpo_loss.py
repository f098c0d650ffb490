"""GRPO's objective: likelihood ratios, clipped, times advantages.

Letters: S steps, L buffer positions, K ratios of a step.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from policies.distributions import Bernoulli, CommitDistribution, WithRefresh
from train.algorithms.experts import log_mixture
from train.algorithms.group_rollouts import Batch

Ratio = Literal["step", "position"]
"""One ratio for a step's whole set, or one for each position's flip, each clipped alone."""


def step_log_prob(
    distribution: CommitDistribution,
    action: Tensor,
    is_expert: Tensor,
    ratio: Ratio = "step",
    group_size: int = 1,
    experts: int = 0,
) -> Tensor:
    """Return the log-likelihoods whose ratios are clipped.

    Args:
        distribution: the policy's, of S steps.
        action: (S, L), as it was taken; with a refresh (S, L + 1).
        is_expert: (S,) bool, steps that an expert decided.
        ratio: see `Ratio`; ``"position"`` needs a `Bernoulli`, with a refresh or not.
        group_size: G, the policy's rollouts of a group.
        experts: those of a group.

    Returns:
        (S, K) float, nats; K is 1, or as many as an action has.
    """
    joint = distribution.log_prob(action).unsqueeze(1)
    mixed = log_mixture(joint, group_size, experts) if experts else joint
    if ratio == "step":
        return torch.where(is_expert.unsqueeze(1), mixed, joint)
    assert isinstance(distribution, Bernoulli | WithRefresh)
    single = distribution.position_log_prob(action)
    # An expert's step has one ratio, in the first column; the others don't change.
    alone = torch.cat([mixed, torch.zeros_like(single[:, 1:])], 1)
    return torch.where(is_expert.unsqueeze(1), alone, single)


def grpo_loss(
    log_prob: Tensor, batch: Batch, clip_range: float, entropy: Tensor | None = None, ent_coef: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what an update lowers, and what is worth logging.

    The loss is ``-sum_s w_s (sum_k min(rho A, clip(rho, 1 - eps, 1 + eps) A) + c H)`` with ``rho`` the ratio of the
    likelihoods now and then.

    Args:
        log_prob: (S, K) float, nats, as the policy is now; see `step_log_prob`.
        batch: the steps, with their advantages, weights and likelihoods of then.
        clip_range: eps.
        entropy: (S,) float, nats, of the policy's distributions, where it has one.
        ent_coef: c.

    Returns:
        loss: scalar.
        logged: sums over the steps: ``loss``, ``clip_fraction``, ``approx_kl``, and ``entropy`` where there is one.

    Source: arXiv 2512.09106, Section 3.
    """
    change = log_prob - batch.steps.log_prob
    advantage = batch.advantage.unsqueeze(1)
    ratio = change.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    objective = torch.minimum(ratio * advantage, clipped * advantage).sum(1)
    if entropy is not None and ent_coef:
        objective = objective + ent_coef * entropy
    loss = -(batch.weight * objective).sum()
    with torch.no_grad():
        total = change.sum(1)
        logged = {
            "loss": loss.detach(),
            # At least one clipped ratio of a step counts as clipped.
            "clip_fraction": ((ratio - 1).abs() > clip_range).any(1).float().sum(),
            # As in SB3's PPO: unbiased, and never negative.
            "approx_kl": (total.exp() - 1 - total).sum(),
        }
        if entropy is not None:
            logged["entropy"] = entropy.sum()
    return loss, logged
