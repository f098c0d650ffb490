"""Group Relative Policy Optimization as a Stable-Baselines3 algorithm, round by round.

Source: Jazbec et al., arXiv 2512.09106, Sections 3 and 4 (after Shao et al., arXiv 2402.03300; re-drawing groups after
Yu et al., DAPO, arXiv 2503.14476).

A round gives every group of G rows one problem and plays each row to its own end. An update maximises, over all steps
of all rollouts, ``1/N sum_g 1/T_g sum_t min(rho A, clip(rho, 1 - eps, 1 + eps) A)`` with A the reward less the mean of
the group.

Departures from the paper, and from its released code:
1. No step stalls: an empty draw commits the likeliest position, with its true likelihood (or is answered by the env;
   see `policies.distributions`), so the T_g steps are those that evaluation pays for, and no rollout ends with masks.
2. Each row takes its next step and its next block without waiting for others; finished rows are not computed.
3. Which groups are left out is decided for the whole round, with the same denominator either way, so processes
   that train together take the same optimiser steps whatever each has drawn.
4. The likelihood that is optimised is that of the distribution sampled from, temperature included.
5. Gradients are accumulated chunk by chunk, so memory does not grow with the length of the rollouts.
6. AdamW decays every weight; there biases and norms are left out.

Those of the process and of the data, which `configs/paper` shares:
7. A sequence ends once everything before a committed end-of-text is known. ``early_end: false`` (as in `configs/paper`)
   decodes every position, and forwards then agree exactly.
8. A tenth of each training split is held out for validation (GSM8K trains on 6,727 of 7,473 problems; there on all,
   14,973 with MATH).
9. Problems are drawn with replacement, so as many draws as an epoch has see two thirds of them; there each comes once.
10. Training asks as the evaluation does; there training has a short prompt of its own.
11. Prompts are never cut; there to their last 200 tokens in training.
12. A text ends at its first end-of-text before it is scored, and this library's scorers read it (numbers with commas,
    fractions, the last box); there the whole buffer is scored, and some right answers are read as wrong.
13. Confidences are without the mask token's share, unless a network reads ``top_probability``, as the paper's does.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn import functional as F

from envs.unmasking import UnmaskingVectorEnv
from policies.actor_critic import UnmaskingActorCritic
from policies.distributions import CommitDistribution
from train.algorithms.experts import Experts
from train.algorithms.group_episodes import GroupEpisodes
from train.algorithms.group_rollouts import (
    Batch,
    Steps,
    advantages,
    group_spread,
    is_informative,
    join,
    join_batches,
    make_batch,
)
from train.algorithms.grpo_loss import Ratio, grpo_loss, step_log_prob
from train.algorithms.update_log import UnmaskProbabilities
from train.command import parallel
from train.command.finite import check_loss, scored, watch


class GRPO(OnPolicyAlgorithm):
    """See the module.

    Args:
        policy: `UnmaskingActorCritic`, without a critic.
        env: an `UnmaskingVectorEnv` with `GroupEpisodes` of `group_size` rows and one more for each expert.
        learning_rate: of the optimiser, or a schedule.
        group_size: G, the policy's rollouts of a group.
        n_epochs: inner iterations, one optimiser step each, on the rollouts of a round.
        clip_range: eps.
        ent_coef: weight of the entropy bonus.
        max_grad_norm: clip of the gradient's norm.
        divides_by_std: divide advantages by the group's standard deviation.
        ratio: ``"step"``, one for a step's whole set; ``"position"``, one for each position's flip, each clipped alone
            (the first update of a round has the same gradient).
        zero_variance: groups whose rollouts all earned the same teach nothing: ``"skip"`` them, ``"redraw"`` rounds
            until there are enough others, or ``"keep"`` them for the entropy bonus.
        max_redraws: rounds that are drawn for one update on top of the first.
        chunk_size: steps of one backward pass; only memory and speed depend on it.
        experts: rules that decode a further row of each group each.
        policy_kwargs: of the policy.
        stats_window_size: episodes that logged means are over.
        verbose: as SB3's.
        seed: of everything random.
        device: of the policy.
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-5,
        group_size: int = 8,
        n_epochs: int = 2,
        clip_range: float = 0.5,
        ent_coef: float = 0.0,
        max_grad_norm: float = 0.2,
        divides_by_std: bool = False,
        ratio: Ratio = "step",
        zero_variance: Literal["skip", "redraw", "keep"] = "skip",
        max_redraws: int = 2,
        chunk_size: int = 2048,
        experts: tuple[str, ...] = (),
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            n_steps=1,  # of SB3's own buffer, which is not used
            gamma=1.0,
            gae_lambda=1.0,
            ent_coef=ent_coef,
            vf_coef=0.0,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            verbose=verbose,
            seed=seed,
            device=device,
            supported_action_spaces=(spaces.MultiBinary,),
            _init_setup_model=False,
        )
        self.group_size, self.n_epochs, self.clip_range = group_size, n_epochs, clip_range
        self.divides_by_std, self.ratio = divides_by_std, ratio
        self.zero_variance, self.max_redraws, self.chunk_size = zero_variance, max_redraws, chunk_size
        self.experts = experts
        self._bound: Experts | None = None
        self._batch: Batch | None = None
        self._n_updates = 0
        self._probabilities = UnmaskProbabilities()
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        watch(self.policy.optimizer)

    def _excluded_save_params(self) -> list[str]:
        # A saved algorithm needs no env, no rollouts and no counts: all are made anew.
        return [*super()._excluded_save_params(), "_bound", "_batch", "_probabilities"]

    @property
    def _actor(self) -> UnmaskingActorCritic:
        assert isinstance(self.policy, UnmaskingActorCritic)
        return self.policy

    # Rollouts.

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Play rounds until there is enough to learn from.

        Returns:
            Whether to go on training.
        """
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        if self._bound is None:
            self._bind(env)
        size = self.group_size + len(self.experts)
        groups = env.num_envs // size
        found, spreads, informative, played = [], [], 0, 0
        self._probabilities = UnmaskProbabilities()
        for _ in range(1 + (self.max_redraws if self.zero_variance == "redraw" else 0)):
            round_ = self._play(env, callback)
            if round_ is None:
                return False
            steps, rewards = round_
            rewards = rewards.reshape(groups, size)
            differs = is_informative(rewards)
            # Of later rounds no more groups than are still missing: each update learns from as many.
            missing = groups - informative
            kept = np.ones_like(differs) if self.zero_variance == "keep" else differs & (differs.cumsum() <= missing)
            advantage = advantages(rewards, self.divides_by_std).flatten()
            chosen = kept.repeat(size) & ~np.isnan(rewards).flatten()
            spreads.append(group_spread(rewards))
            found.append(make_batch(steps, advantage, chosen, groups * size))
            informative, played = informative + int(differs.sum()), played + groups
            # All processes go on until none lacks a group, so that they play equally many rounds.
            if parallel.total(informative < groups) == 0:
                break
        self._batch = join_batches(found)
        self.logger.record("rollout/zero_variance_rate", 1 - informative / played)
        self.logger.record("rollout/rounds", played // groups)
        self.logger.record("rollout/group_reward_std", float(np.mean(spreads)))
        self._probabilities.record(self.logger)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _bind(self, env: VecEnv) -> None:
        """Get the experts ready.

        Raises:
            ValueError: if the env's groups are of another size.
        """
        [episodes] = env.get_attr("episodes", [0])
        found = episodes.group_size if isinstance(episodes, GroupEpisodes) else None
        size = self.group_size + len(self.experts)
        if found != size:
            raise ValueError(
                f"group_size of the env is {found}: it must be {size}, {len(self.experts)} of them experts"
            )
        [batch] = env.get_attr("unwrapped", [0])
        assert isinstance(batch, UnmaskingVectorEnv)
        self._bound = Experts(self.experts, batch)

    def _play(self, env: VecEnv, callback: BaseCallback) -> tuple[Steps, np.ndarray] | None:
        """Play every row to its end.

        Returns:
            The steps and (N,) the rewards, NaN where an answer has no score; None if the callback says stop.
        """
        assert self._bound is not None
        is_own = (self._bound.rule_of < 0).numpy()
        rewards, parts, empty = np.zeros(env.num_envs), [], 0
        obs: Any = env.reset()
        for _ in range(obs["masked"].shape[1]):
            rows = np.flatnonzero(obs["masked"].any(1))
            if len(rows) == 0:
                break
            steps = self._decide(torch.as_tensor(rows))
            action = np.zeros((env.num_envs, steps.action.shape[1]), dtype=np.int64)
            action[rows] = steps.action.cpu().numpy()
            commits = action[rows, : obs["masked"].shape[1]]
            empty += int((~(commits != 0).any(1)).sum())
            parts.append(steps)
            obs, paid, dones, infos = env.step(action)
            # NaN stays NaN, whatever is paid later.
            rewards += paid
            rewards[[row for row, info in enumerate(infos) if "score_error" in info]] = np.nan
            # Rows that have ended take no step.
            self.num_timesteps += len(rows)
            callback.update_locals(locals())
            if not callback.on_step():
                return None
            # What is logged is the policy's, not the experts'.
            own = np.flatnonzero(is_own)
            self._update_info_buffer(*scored([infos[row] for row in own], dones[own]))
        steps = join(parts)
        self.logger.record("rollout/stall_rate", empty / max(1, int((~steps.is_expert).sum())))
        self.logger.record("rollout/unfinished_rate", float(obs["masked"].any(1).mean()))
        return steps, rewards

    @torch.no_grad()
    def _decide(self, rows: Tensor) -> Steps:
        """Let policy and experts decide one step of the running rows."""
        assert self._bound is not None
        env, view = self._bound.env, self._bound.env.view
        # Not the observation, which was copied to the CPU: hidden states would go there and back in every step.
        here = rows.to(view.masked.device)
        given = {name: values[here].to(self.device) for name, values in env.inputs().items()}
        is_expert = (self._bound.rule_of[rows] >= 0).to(self.device)
        if self.experts:
            # The policy is to learn what the expert does of all that it could do itself, whatever the expert's block.
            given["eligible"] = torch.where(is_expert.unsqueeze(1), given["masked"], given["eligible"])
        distribution = self._actor.commit_distribution(given)
        self._probabilities.add(distribution, ~is_expert)
        action = distribution.sample().long()
        if self.experts:
            theirs = self._bound.choose(view)[here].to(self.device)
            # No rule refreshes.
            theirs = F.pad(theirs, (0, action.shape[1] - theirs.shape[1]))
            action = torch.where(is_expert.unsqueeze(1), theirs, action)
        log_prob = self._log_prob(distribution, action, is_expert)
        return Steps(given, action, log_prob, rows.to(self.device), is_expert)

    def _log_prob(self, distribution: CommitDistribution, action: Tensor, is_expert: Tensor) -> Tensor:
        return step_log_prob(distribution, action, is_expert, self.ratio, self.group_size, len(self.experts))

    # Learning.

    def train(self) -> None:
        """Take `n_epochs` optimiser steps on the last rollouts.

        Raises:
            Diverged: if a loss, a gradient or a weight is not finite.
        """
        assert self._batch is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        sums: dict[str, float] = {}
        norms: list[float] = []
        # Processes with nothing to learn from take part, with gradients of 0.
        for _ in range(self.n_epochs if parallel.total(len(self._batch.steps)) else 0):
            self.policy.optimizer.zero_grad()
            for chunk in self._batch.chunks(self.chunk_size):
                loss = self._loss(chunk, sums)
                loss.backward()
            # Before the clip, so that all processes clip alike.
            parallel.average_gradients(self.policy.parameters())
            norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            norms.append(float(norm))
            self.policy.optimizer.step()
            self._n_updates += 1
        steps = max(1, len(self._batch.steps) * self.n_epochs)
        for name, total in sums.items():
            # The steps' weights have made a mean of the loss already.
            self.logger.record(f"train/{name}", total / (self.n_epochs if name == "loss" else steps))
        if norms:
            self.logger.record("train/grad_norm", sum(norms) / len(norms))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _loss(self, chunk: Batch, sums: dict[str, float]) -> Tensor:
        """Return the scalar loss of some steps; add what is logged to `sums`."""
        steps = chunk.steps
        distribution = self._actor.commit_distribution(dict(steps.obs))
        log_prob = self._log_prob(distribution, steps.action, steps.is_expert)
        loss, logged = grpo_loss(log_prob, chunk, self.clip_range, distribution.entropy(), self.ent_coef)
        check_loss(loss.item())
        for name, value in logged.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        return loss
