"""The main job: learn an unmasking policy with PPO, evaluate it against the rules, export it and log it.

``python train/ppo.py`` with no argument trains on the embedded dLLM as `configs/ppo.yaml` says; `train.job` says what a
run's folder holds.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import stable_baselines3
from stable_baselines3.common.buffers import DictRolloutBuffer

from train import parallel
from train.build import Algorithm
from train.dry_run import dry_run
from train.job import run_job
from train.ppo_config import TrainPPOConfig
from train.records import Record


class PPO(stable_baselines3.PPO):
    """Stable-Baselines3's, whose minibatches the processes of a data-parallel training share.

    Departure: each process normalises the advantages of its own part of a minibatch.
    """

    def _setup_model(self) -> None:
        super()._setup_model()
        parallel.average_gradients_when_made(self.policy.parameters())


class CommitBuffer(DictRolloutBuffer):
    """Keeps actions whose numbers are an order of positions, beyond what the action space's int8 holds."""

    def reset(self) -> None:
        """Empty the buffer."""
        super().reset()
        self.actions = self.actions.astype(np.int32)


def algorithm(config: TrainPPOConfig) -> Algorithm:
    """Return PPO as the configuration says.

    Raises:
        ValueError: if it can't be shared by the processes there are.
    """
    arguments, processes = asdict(config.ppo), parallel.world_size()
    if config.ppo.batch_size % processes:
        raise ValueError(f"ppo.batch_size is {config.ppo.batch_size}: it must be a multiple of {processes} processes")
    if processes > 1 and config.ppo.target_kl is not None:
        raise ValueError(
            f"ppo.target_kl is {config.ppo.target_kl}: processes would stop at different times; leave it out"
        )
    arguments["batch_size"] //= processes
    peak = arguments.pop("learning_rate")
    arguments |= {"learning_rate": lambda remaining: peak * remaining, "rollout_buffer_class": CommitBuffer}
    # As few steps as fill a minibatch.
    fewest = -(-config.ppo.batch_size // max(1, config.env.num_envs))
    return Algorithm(PPO, arguments, trial_arguments={"n_steps": min(config.ppo.n_steps, fewest)})


def train(config: TrainPPOConfig) -> list[Record]:
    """Run the whole job, or try it; see `train.job.run_job` and `train.dry_run`."""
    if config.dry_run:
        dry_run(config, algorithm(config))
        return []
    return run_job(config, algorithm(config))


if __name__ == "__main__":
    from train.cli import run

    run(train, TrainPPOConfig, TrainPPOConfig.DEFAULTS)
