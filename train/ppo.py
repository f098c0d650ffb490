"""The main job: learn an unmasking policy with PPO, evaluate it against the rules, export it and log it.

``python train/ppo.py`` with no argument trains on the embedded dLLM as `configs/ppo.yaml` says; `train.job.run` says
what a run's folder holds.
"""

from __future__ import annotations

from train.command.starting import end_quietly

from dataclasses import asdict

from train.algorithms.ppo import PPO, CommitBuffer
from train.command import parallel
from train.evaluation.records import Record
from train.job.build import Algorithm
from train.job.dry_run import dry_run
from train.job.ppo_config import TrainPPOConfig
from train.job.run import run_job


def algorithm(config: TrainPPOConfig) -> Algorithm:
    """Return PPO as the configuration says.

    Raises:
        ValueError: if a minibatch is more than there is, or can't be shared by the processes there are.
    """
    arguments, processes = asdict(config.ppo), parallel.world_size()
    transitions = config.env.num_envs * config.ppo.n_steps
    if config.ppo.batch_size > transitions:
        raise ValueError(
            f"ppo.batch_size is {config.ppo.batch_size}: an update has {transitions} transitions, env.num_envs "
            f"{config.env.num_envs} times ppo.n_steps {config.ppo.n_steps}; give at most that"
        )
    if config.ppo.batch_size % processes:
        raise ValueError(f"ppo.batch_size is {config.ppo.batch_size}: it must be a multiple of {processes} processes")
    if processes > 1 and config.ppo.target_kl is not None:
        raise ValueError(
            f"ppo.target_kl is {config.ppo.target_kl}: processes would stop at different times; leave it out"
        )
    # Each process takes its part of a minibatch; their gradients are averaged to that of the whole.
    arguments["batch_size"] //= processes
    # Falls to 0 with the steps that remain, which is what Stable-Baselines3 calls a schedule with.
    peak = arguments.pop("learning_rate")
    arguments |= {"learning_rate": lambda remaining: peak * remaining, "rollout_buffer_class": CommitBuffer}
    # As few steps as fill a minibatch.
    fewest = -(-config.ppo.batch_size // max(1, config.env.num_envs))
    return Algorithm(PPO, arguments, trial_arguments={"n_steps": min(config.ppo.n_steps, fewest)})


def train(config: TrainPPOConfig) -> list[Record]:
    """Run the whole job, or try it; see `train.job.run.run_job` and `train.job.dry_run`."""
    if config.dry_run:
        dry_run(config, algorithm(config))
        return []
    return run_job(config, algorithm(config))


if __name__ == "__main__":
    from train.command.cli import run

    run(train, TrainPPOConfig, TrainPPOConfig.DEFAULTS)
