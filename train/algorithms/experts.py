"""Expert steering: some rollouts of each group are decoded by a rule, for the policy to learn from.

Source: arXiv 2512.09106, expert steering. Any rule that only commits can be the expert, in blocks of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from envs.unmasking import UnmaskingVectorEnv
from envs.view import View
from policies import make_rule
from policies.base import CommitPolicy
from policies.distributions import order
from train.algorithms.group_episodes import GroupEpisodes
from train.command.ranges import check_count


class Experts:
    """The rules that decode the last rows of each group.

    Args:
        rules: as `policies.make_rule` takes them, one a row of a group.
        env: the env, whose episodes are `GroupEpisodes` with an ``expert_blocks`` for each rule.
    """

    def __init__(self, rules: Sequence[str], env: UnmaskingVectorEnv) -> None:
        self.env = env
        """Whose rows they and the policy decode."""
        made = [make_rule(rule) for rule in rules]
        settings, episodes = env.batch.settings, env.episodes
        assert isinstance(episodes, GroupEpisodes)
        self.rules = [
            rule.bind(env.denoiser, replace(settings, block_length=block))
            for rule, block in zip(made, episodes.expert_blocks, strict=True)
        ]
        size = episodes.group_size
        place = np.arange(env.num_envs) % size - (size - len(rules))
        self.rule_of = torch.as_tensor(place)
        """(N,) int64, the number of each row's rule, below 0 in the policy's rows."""

    def choose(self, view: View) -> Tensor:
        """Return (N, L) int64, what each expert's row commits, numbered from the most confident; 0 elsewhere."""
        commit = torch.zeros_like(view.masked)
        for number, rule in enumerate(self.rules):
            own = (self.rule_of == number).to(commit.device)
            # Asked about all rows and heard about its own: rows don't depend on each other.
            commit[own] = rule.act(view).commit[own]
        return order(commit, view.confidence)


def log_mixture(log_prob: Tensor, group_size: int, experts: int) -> Tensor:
    """Return the log-likelihood of an expert's action under the mixture of policy and experts.

    ``log(G / (G + E) pi + 1 / (G + E))``: bounded from below, so an action that the policy would never take gives a
    ratio near 1, not an unbounded one.

    Args:
        log_prob: (...) float, nats, of the policy.
        group_size: G, the policy's rollouts of a group.
        experts: E, 1 or more.
    """
    total = torch.tensor(float(group_size + experts), device=log_prob.device)
    return torch.logaddexp(log_prob + torch.log(group_size / total), -torch.log(total))


@dataclass(frozen=True)
class ExpertSection:
    """Expert steering: rollouts of each group that rules decode, on top of the policy's."""

    rules: list[str] = field(default_factory=list)
    """As name:knob, one rollout each, such as threshold:0.9; rules that only commit."""
    block_length: int = 32
    """Positions of the experts' blocks; the policy is in full diffusion."""

    def __post_init__(self) -> None:
        check_count(self, "block_length")
        for rule in self.rules:
            if not isinstance(make_rule(rule), CommitPolicy):
                raise ValueError(f"experts.rules has {rule!r}: it does more than commit, which no policy can imitate")
