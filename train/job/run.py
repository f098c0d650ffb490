"""A training job whatever its algorithm: learn an unmasking policy, evaluate it against the rules, export and log it.

The algorithm is any of Stable-Baselines3's family whose policy is `UnmaskingActorCritic`. A run's folder holds

* ``config.yaml``, ``command.txt``, ``versions.json``: how it was made;
* ``filter/``: the Learn2PD filter that training started from, where one was learned for it;
* ``progress.csv`` and ``checkpoints/``: training, update by update; ``--resume`` goes on from there;
* ``policy/``: the exported policy, for `policies.load`;
* ``evaluation.json`` and ``pareto.png``: the policy and the rules on held-out problems.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from envs.decoding.blocks import check_block
from envs.decoding.settings import conditions_of
from envs.denoiser import Denoiser
from envs.tasks import Split, make_tasks, need_splits
from policies import make_rule
from policies.actor_critic import UnmaskingActorCritic
from policies.networks.kinds import PolicyNetwork
from policies.rules.guide import check_guide
from train.command import parallel
from train.command.config import parse, to_plain, unused
from train.command.decoding_config import what_differs
from train.command.errors import UserError
from train.command.run_files import RunFiles
from train.command.run_folder import open_run
from train.command.told import tell
from train.command.wandb_config import check_start
from train.evaluation.jobs import plan
from train.evaluation.measure import choose_problems
from train.evaluation.plot import plot_pareto
from train.evaluation.records import Record, read_outcomes
from train.evaluation.run import warn_of_short_buffer
from train.evaluation.styles import style_of_run
from train.evaluation.table import print_table
from train.filters.fit import FitSettings
from train.filters.start import learn_start
from train.filters.traces import TraceConfig
from train.job.aside import Aside
from train.job.build import (
    Algorithm,
    checkpoint_file,
    filter_shape,
    load_filter,
    load_model,
    make_env,
    make_model,
    resume,
    share,
    stream_seed,
)
from train.job.config import JobConfig
from train.job.finish import blocks_of, evaluate_all, evaluated_blocks, export, forget_policies, rules_of
from train.job.learning import learn
from train.job.next import next_commands
from train.job.price import MILLISECONDS, measure_price, without_measurement
from train.job.validation import Validation, best_threshold, thresholds_tried
from train.tracking.tracker import Tracker


def run_job(config: JobConfig, algorithm: Algorithm) -> list[Record]:
    """Run the whole job.

    Returns:
        The records of `evaluation.json`; none in processes beside the first.

    Raises:
        UserError: if the run's folder is taken, or can't be resumed.
        ValueError: if a field of the configuration is not possible.
    """
    torch.set_num_threads(config.model.threads)
    # That it was resumed is nothing in which runs differ.
    settings = {**to_plain(config), "resume": False}
    own = share(config, algorithm.group_size or 1)
    check_start(config.wandb)
    # Left in the opposite order: whatever still writes to the run's folder has ended when the folder is given up.
    with ExitStack() as held:
        tracker = None
        with parallel.process_group(own.model.device):
            inner = check(own, algorithm)
            if parallel.is_main():
                held.enter_context(open_run(config.out, config, config.resume))
                tell("settings", *(told_settings(config, settings) or ["the defaults"]))
                tracker = held.enter_context(Tracker(config.wandb, config.out, settings, "train"))
            if own.filter.is_learned:
                own = with_filter(own)
                inner = load_filter(own)
            if own.env.price == MILLISECONDS:
                price = measure_price(own, load_model(own))
                if parallel.is_main():
                    tell("price", price)
            model = build(own, algorithm, inner)
            more = resume(own, model)
            validation = Validation(own) if parallel.is_main() and own.evaluation.validations else None
            if validation is not None and more:
                validation.load_state(more["validation"])
            if parallel.total(model.num_timesteps) != parallel.world_size() * model.num_timesteps:
                raise UserError(
                    f"not all processes see {checkpoint_file(config)}: put --out where all machines read and write"
                )
            if parallel.is_main() and model.num_timesteps < config.total_timesteps:
                # Records of an earlier end of this run are of another policy.
                forget_policies(RunFiles(config.out).evaluation)
            aside = start_rules(own) if parallel.is_main() else None
            if aside is not None:
                held.callback(aside.stop)
            learn(own, model, tracker, validation, more.get("logged"))
        # Only the first process has one; what follows is its alone.
        if tracker is None:
            return []
        assert isinstance(model.policy, UnmaskingActorCritic)
        threshold = best_threshold(own, model.policy.network, validation)
        export(own, model, model.num_timesteps if validation is None else validation.timesteps, threshold)
        if aside is not None:
            aside.wait()
        records = evaluate_all(own)
        title = f"{config.model.name}, seed {config.seed}"
        style = style_of_run(config.out.resolve().name)
        plot_pareto(records, RunFiles(config.out).plot, title, read_outcomes(config.out), styles=style)
        # Before W&B has the last word, which may be that it failed.
        show(own, records, tracker.place)
        tracker.finish(records, RunFiles(config.out).plot, config.out / "policy")
    return records


def check(config: JobConfig, algorithm: Algorithm) -> PolicyNetwork | None:
    """Find what would else fail late, or be a disappointment, before the run's folder is taken.

    Args:
        config: this process's part of the job.
        algorithm: to train with.

    Returns:
        The filter to build on, as `load_filter` returns it.

    Raises:
        UserError: if the filter can't be what it is to be.
        ValueError: if a field of the configuration is not possible.
    """
    denoiser = load_model(config)
    # One row, and no problems remembered: this env is only to say what it can't be.
    env = replace(config.env, num_envs=algorithm.group_size or 1, problems=None)
    inner = load_filter(config)
    make_env(without_measurement(replace(config, env=env)), denoiser, algorithm, inner).close()
    for block in evaluated_blocks(config):
        check_block(denoiser, block)
    for rule in config.evaluation.rules:
        check_guide(make_rule(rule), denoiser)
    # Tries while learning, calibration of a dial, and a filter's early stop need validation problems.
    needs_validation = bool(config.env.alpha_range) or config.filter.is_learned or bool(thresholds_tried(config))
    splits: tuple[Split, ...] = ("train", config.evaluation.split)
    splits += ("validation",) if needs_validation else ()
    need_splits(make_tasks(config.env.tasks), splits)
    if parallel.is_main():
        warn_of_long_answers(config, denoiser)
    return inner


def warn_of_long_answers(config: JobConfig, denoiser: Denoiser) -> None:
    """Say on stderr how many of the first training problems have answers that the buffer can't hold."""
    problems = choose_problems(make_tasks(config.env.tasks), "train", 0, 100)
    warn_of_short_buffer(denoiser, problems, config.env.buffer_length, "env.buffer_length")


def with_filter(config: JobConfig) -> JobConfig:
    """Learn the filter to start from, and return the job that builds on its folder."""
    folder, section, shape = config.out / "filter", config.filter, filter_shape(config)
    about = TraceConfig(
        folder,
        section.problems,
        buffer_length=config.env.buffer_length,
        features=tuple(sorted(shape.readings)),
        threshold=section.threshold,
        reference=section.reference,
        only_right=True,
        target=section.target,
        model=config.model,
        tasks=tuple(config.env.tasks),
        **conditions_of(config.env),
    )
    workers = parallel.decoding_workers(config.model.device)
    settings = FitSettings(stream_seed(config.seed, 2))
    if section.epochs is not None:
        settings = replace(settings, epochs=section.epochs, anneals=True)
    weight = section.false_commit_weight
    found = learn_start(folder, about, blocks_of(config), shape, settings, weight, workers, section.rounds)
    if parallel.is_main():
        tell("filter", found)
    return replace(config, filter=replace(section, learn=False, folder=str(folder)))


def build(config: JobConfig, algorithm: Algorithm, inner: PolicyNetwork | None) -> OnPolicyAlgorithm:
    """Build the algorithm and all that it needs.

    Args:
        config: this process's part of the job.
        algorithm: to train with.
        inner: the filter to build on, as `load_filter` returned it.
    """
    model = make_model(config, make_env(config, load_model(config), algorithm, inner), algorithm, inner)
    assert isinstance(model.policy, UnmaskingActorCritic)
    size = sum(p.numel() for p in model.policy.network.parameters())
    if parallel.is_main():
        device, threads = config.model.device, torch.get_num_threads()
        processes = f"{parallel.world_size()} processes, " if parallel.world_size() > 1 else ""
        tell("policy", f"{size:,} parameters", f"{processes}{threads} threads on {device}")
    return model


def start_rules(config: JobConfig) -> Aside | None:
    """Start evaluating the rules beside the training, where that is wanted and there is a core for it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not config.evaluation.beside_training or cores <= config.model.threads or not config.evaluation.rules:
        return None
    about = rules_of(config)
    return Aside(about, plan(about.policy, about.block_length), RunFiles(config.out).evaluation)


def told_settings(config: JobConfig, settings: Mapping[str, Any]) -> list[str]:
    """List what a job has other than its command's defaults, but for what plays no role in it.

    Args:
        config: of the job.
        settings: the same, plain.
    """
    defaults = to_plain(parse(type(config), config.DEFAULTS, []))
    idle = unused(config)
    lines = changed(settings, defaults)
    return [line for line in lines if not any(f"{line.split()[0]}.".startswith(f"{name}.") for name in idle)]


def changed(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """List what a configuration has other than the defaults, as its flags are written.

    >>> changed({"seed": 3, "env": {"alpha": 4.0, "tasks": ["add"]}}, {"seed": 0, "env": {"alpha": 4.0}})
    ['seed 3', 'env.tasks [add]']
    """
    found = []
    for name, value in settings.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            found += [f"{name}.{line}" for line in changed(value, default)]
        elif value != default and name != "resume":
            shown = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else value
            found.append(f"{name} {shown}")
    return found


def show(config: JobConfig, records: Sequence[Record], place: str) -> None:
    """Print what came of a job, where it is, and what to do next.

    Args:
        config: of the job.
        records: of the evaluation.
        place: of the W&B run.
    """
    out, split = config.out, config.evaluation.split
    kind = "held-out" if split == "test" else split
    print_table(records, f"{config.evaluation.episodes} {kind} problems a task{what_differs(config.env.decoding)}")
    tell("policy", out / "policy")
    files = RunFiles(out)
    tell("evaluation", files.evaluation, files.plot)
    tell("settings", files.config)
    tell("W&B", place)
    for name, command in zip(("next", ""), next_commands(config), strict=True):
        tell(name, command)
