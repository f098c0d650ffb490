"""Stable-Baselines3's PPO for commits: shared by processes, without answers that have no score."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import stable_baselines3
import torch
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples

from policies.actor_critic import UnmaskingActorCritic
from train.algorithms.update_log import GradientNorms, UnmaskProbabilities
from train.command import parallel
from train.command.finite import check_loss, scored, watch
from train.command.ranges import check_count, check_range

SHOWN = 256
"""Steps of a rollout at most that logged probabilities are over: all would cost a second rollout of forwards."""


class PPO(stable_baselines3.PPO):
    """Stable-Baselines3's, whose minibatches the processes of a data-parallel training share.

    An episode whose score is not known is in no statistics, and no update learns from its steps of the same rollout.
    Where it began in an earlier rollout, that one's update has learned from its first steps, whose returns end in the
    critic's value: they hold nothing of the score.

    Departure: each process normalises the advantages of its own part of a minibatch.
    """

    rollout_buffer: CommitBuffer

    def _setup_model(self) -> None:
        super()._setup_model()
        # Hooks run in the order they are made in: first the mean, of which the norm is then taken.
        parallel.average_gradients_when_made(self.policy.parameters())
        watch(self.policy.optimizer)
        self._norms = GradientNorms(self.policy.parameters(), self.policy.optimizer)

    def _excluded_save_params(self) -> list[str]:
        # It holds hooks of the policy's own tensors.
        return [*super()._excluded_save_params(), "_norms"]

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: npt.NDArray[np.bool_] | None = None) -> None:
        # Called at each step, before it is added to the buffer.
        for row, info in enumerate(infos):
            if "score_error" in info:
                self.rollout_buffer.leave_out(row)
        super()._update_info_buffer(*scored(infos, dones))

    def train(self) -> None:
        """Update the policy; not at all where some process has too little to fill each minibatch.

        Raises:
            Diverged: if a loss, a gradient or a weight is not finite.
        """
        self._log_probabilities()
        if parallel.total(not self.rollout_buffer.fills(self.batch_size)):
            return
        super().train()
        self._norms.record(self.logger)
        check_loss(self.logger.name_to_value["train/loss"])

    @torch.no_grad()
    def _log_probabilities(self) -> None:
        """Log the probabilities of committing in some of the rollout's steps, evenly spread over it."""
        buffer, found = self.rollout_buffer, UnmaskProbabilities()
        stride = -(-buffer.buffer_size * buffer.n_envs // SHOWN)
        obs = {
            name: torch.as_tensor(values.reshape(-1, *values.shape[2:])[::stride]).to(self.device)
            for name, values in buffer.observations.items()
        }
        assert isinstance(self.policy, UnmaskingActorCritic)
        found.add(self.policy.commit_distribution(obs))
        found.record(self.logger)


class CommitBuffer(DictRolloutBuffer):
    """A rollout buffer for commits, from which episodes can be left out.

    It keeps actions whose numbers are an order of positions, beyond what the action space's int8 holds.
    """

    def reset(self) -> None:
        """Empty the buffer."""
        super().reset()
        self.actions = self.actions.astype(np.int32)
        self._left_out: list[tuple[int, int]] = []  # last step and row of episodes

    def leave_out(self, row: int) -> None:
        """Leave out the episode that ends in a row with the step to be added next."""
        self._left_out.append((self.pos, row))

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """(T, N) bool, the steps to learn from, of a buffer that is full."""
        kept = np.ones((self.buffer_size, self.n_envs), dtype=np.bool_)
        for last, row in self._left_out:
            starts = np.flatnonzero(self.episode_starts[: last + 1, row])
            # An episode without a start here began in an earlier rollout.
            kept[starts[-1] if len(starts) else 0 : last + 1, row] = False
        return kept

    def fills(self, batch_size: int) -> bool:
        """Tell whether each of the minibatches of the whole buffer has something to learn from."""
        kept = self.kept
        return int(kept.sum()) >= -(-kept.size // batch_size)

    def get(self, batch_size: int | None = None) -> Generator[DictRolloutBufferSamples, None, None]:  # type: ignore[override]
        """Yield as many minibatches as of the whole buffer, in random order.

        As many, so that processes that train together take the same steps whatever each leaves out.
        """
        if not self._left_out:
            yield from super().get(batch_size)
            return
        next(super().get(1))  # which lays the arrays out flat, row by row
        kept = self.kept
        order = np.random.permutation(np.flatnonzero(kept.T))  # noqa: NPY002 - of what Stable-Baselines3 seeds
        for part in np.array_split(order, -(-kept.size // (batch_size or kept.size))):
            yield self._get_samples(part)


@dataclass(frozen=True)
class PPOSection:
    """Arguments of stable_baselines3.PPO, by its names."""

    learning_rate: float = 1e-3
    """At the start; it falls linearly to 0."""
    n_steps: int = 32
    """Steps a row between two updates."""
    batch_size: int = 512
    """Transitions of a minibatch, over all processes."""
    n_epochs: int = 3
    """Passes over the transitions in an update."""
    gamma: float = 1.0
    """Discount; 1 because every episode ends within L steps."""
    gae_lambda: float = 0.95
    """Bias-variance trade of the advantage estimate."""
    clip_range: float = 0.2
    """Clip of the probability ratio."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Clip of the gradient's norm."""
    target_kl: float | None = None
    """Stop an update's epochs early beyond 1.5 times this divergence."""

    def __post_init__(self) -> None:
        check_count(self, "n_steps", "batch_size", "n_epochs")
        check_range(self, "learning_rate", "clip_range", "max_grad_norm", "target_kl", above=0)
        check_range(self, "gamma", "gae_lambda", least=0, most=1)
        check_range(self, "ent_coef", "vf_coef", least=0)
        if self.batch_size == 1:
            raise ValueError("batch_size is 1: advantages are normalised over a minibatch, so it must be 2 or more")
