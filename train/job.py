"""A training job whatever its algorithm: learn an unmasking policy, evaluate it against the rules, export and log it.

The algorithm is any of Stable-Baselines3's family whose policy is `UnmaskingActorCritic`. A run's folder holds

* ``config.yaml``, ``command.txt``, ``versions.json``: how it was made;
* ``progress.csv`` and ``checkpoints/``: training, update by update; ``--resume`` goes on from there;
* ``policy/``: the exported policy, for `policies.load`;
* ``evaluation.json`` and ``pareto.png``: the policy and the rules on held-out problems.
"""

from __future__ import annotations

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from envs.decoding import check_block
from envs.tasks import make_tasks, need_splits
from policies.actor_critic import UnmaskingActorCritic
from train import parallel
from train.build import Algorithm, checkpoint_file, load_filter, load_model, make_env, make_model, share
from train.config import to_plain, to_yaml
from train.finish import evaluate_all, evaluated_blocks, export
from train.job_config import JobConfig
from train.learning import learn
from train.plot import plot_pareto
from train.records import Record, print_table, read_outcomes
from train.run_folder import UserError, open_run
from train.tracking import Tracker


def run_job(config: JobConfig, algorithm: Algorithm) -> list[Record]:
    """Run the whole job.

    Returns:
        The records of `evaluation.json`; none in processes beside the first.

    Raises:
        UserError: if the run's folder is taken, or can't be resumed.
        ValueError: if a field of the configuration is not possible.
    """
    torch.set_num_threads(config.model.threads)
    settings = {**to_plain(config), "resume": False}
    own = share(config, algorithm.group_size or 1)
    tracker = None
    try:
        with parallel.process_group(own.model.device):
            model = prepare(own, algorithm, to_yaml(settings))
            if parallel.is_main():
                tracker = Tracker(config.wandb, config.out, settings, "train")
            if parallel.total(model.num_timesteps) != parallel.world_size() * model.num_timesteps:
                raise UserError(
                    f"not all processes see {checkpoint_file(config)}: put --out where all machines read and write"
                )
            learn(own, model, tracker)
        if tracker is None:
            return []
        export(own, model)
        records = evaluate_all(own)
        title = f"{config.model.name}, seed {config.seed}"
        plot_pareto(records, config.out / "pareto.png", title, read_outcomes(config.out))
        tracker.finish(records, config.out / "pareto.png", config.out / "policy")
    except BaseException:
        if tracker is not None:
            tracker.abandon()
        raise
    print_table(records, f"{config.evaluation.episodes} held-out problems a task")
    print(f"policy      {config.out / 'policy'}\nevaluation  {config.out / 'evaluation.json'}")
    print(f"plot        {config.out / 'pareto.png'}\nW&B         {tracker.place}")
    return records


def prepare(config: JobConfig, algorithm: Algorithm, settings: str) -> OnPolicyAlgorithm:
    """Check what would else fail at the end, take the run's folder, and build the algorithm.

    Args:
        config: this process's part of the job.
        algorithm: to train with.
        settings: the whole job's configuration, for the run's folder.
    """
    denoiser, inner = load_model(config), load_filter(config)
    env = make_env(config, denoiser, algorithm, inner)
    for block in evaluated_blocks(config):
        check_block(denoiser, block)
    # Calibration of a dial needs validation problems.
    has_dial = bool(config.env.alpha_range)
    need_splits(make_tasks(config.env.tasks), ("train", "test", "validation") if has_dial else ("train", "test"))
    if parallel.is_main():
        open_run(config.out, settings, config.resume)
        print(settings)
    model = make_model(config, env, algorithm, inner)
    assert isinstance(model.policy, UnmaskingActorCritic)
    size = sum(p.numel() for p in model.policy.network.parameters())
    if parallel.is_main():
        device, threads = config.model.device, torch.get_num_threads()
        processes = f"{parallel.world_size()} processes, " if parallel.world_size() > 1 else ""
        print(f"device {device}, {processes}{threads} threads, policy of {size:,} parameters")
    return model
