"""Evaluate policies on held-out problems: accuracy, forwards and token positions, with intervals.

``python train/evaluate.py --policy threshold:0.9 --policy runs/ppo/policy`` prints a table and writes
``evaluation.json``, ``outcomes.json`` (problem by problem, for `train/compare.py`) and ``pareto.png`` to the run's
folder. ``--policy all`` sweeps the knob of every rule, in full diffusion and in blocks, on as many processes as there
are cores; ``--policy list`` prints a table of the rules, and how to name a policy. ``--resume`` goes on where a killed
evaluation stopped. ``torchrun --nproc-per-node 8 train/evaluate.py`` shares the problems of each policy out over a
process a GPU, on one machine or several, and leaves the records that one process would.
"""

from __future__ import annotations

from train.command.starting import end_quietly

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from envs.decoding.batch import DecodingBatch
from envs.decoding.blocks import check_block
from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.tasks import make_tasks
from policies import load, make_rule
from policies.formats.folder import locate
from policies.generation import check_cache
from policies.rules.guide import check_guide
from train.command import parallel
from train.command.config import to_plain
from train.command.decoding_config import decoding_of, what_differs
from train.command.run_files import RunFiles
from train.command.run_folder import has_result, open_run
from train.command.told import tell
from train.command.wandb_config import check_start
from train.evaluation.evaluated import Asked, digest, read_asked, update
from train.evaluation.jobs import SWEEP_BLOCKS, Job, list_jobs, plan, run_name
from train.evaluation.measure import check_samples, choose_problems
from train.evaluation.naming import PLACES, is_folder, split_setting
from train.evaluation.plot import plot_pareto
from train.evaluation.records import Record, key_of, read_outcomes, read_records
from train.evaluation.rule_list import print_rules
from train.evaluation.run import (
    EvaluateConfig,
    assist,
    episodes_of,
    on_own_device,
    problems_of,
    run_jobs,
    suffix_of,
    warn_of_short_buffer,
)
from train.evaluation.styles import style_of_run
from train.evaluation.table import print_table
from train.tracking.tracker import Tracker

ADDED = ("policy", "block_length", "batch_size", "per_task", "any_dllm")
"""Settings in which an evaluation may differ from the one that it is added to: the answers are the same."""


def main(config: EvaluateConfig) -> list[Record]:
    """Evaluate every policy at every block length; print the table, write records and plot."""
    if "list" in config.policy:
        print_rules()
        return []
    blocks = config.block_length or (
        [b for b in SWEEP_BLOCKS if b <= config.buffer_length] if "all" in config.policy else [config.buffer_length]
    )
    if parallel.world_size() > 1 and config.workers is not None:
        raise ValueError(
            f"workers is {config.workers}, but torchrun's {parallel.world_size()} processes share the problems out: "
            "leave it out"
        )
    if not config.policy:
        raise ValueError("policy is empty: name at least one, such as threshold:0.9")
    jobs = plan(config.policy, blocks)
    # All that can be refused is, before an hour is spent on the first policy.
    check_samples(config.samples, config.temperature, ((job.name, job.decision) for job in jobs))
    denoiser = on_own_device(config).model.load()
    for block in blocks:
        check_block(denoiser, block)
    jobs = possible(jobs, config, denoiser)
    # Made to be checked: whether this dLLM can have the cache, and texts of this length.
    DecodingBatch(denoiser, 1, DecodingSettings(config.buffer_length, blocks[0], cache=config.cache))
    # Before the run's folder is taken: is there data, and a problem at `first`?
    choose_problems(make_tasks(config.tasks), config.split, config.first, 1)
    # What the processes tell each other are answers, not what lies on their devices.
    with parallel.process_group("cpu"):
        if not parallel.is_main():
            assist()
            return []
        warn_of_short_buffer(denoiser, problems_of(config), config.buffer_length)
        tell_speeds(jobs)
        return evaluate(config, jobs)


def tell_speeds(jobs: Sequence[Job]) -> None:
    """Say where on its dial a policy is evaluated that was given without a place."""
    given = [
        job.policy for job in jobs if is_folder(job.policy) and not set(PLACES) & set(split_setting(job.policy)[1])
    ]
    for text in dict.fromkeys(given):
        folder = split_setting(text)[0]
        policy = load(folder)
        if policy.has_dial:
            place = f"{folder} at speed {policy.speed:g}, as it was saved"
            tell("dial", f"{place}; {folder}@speed=0 is its slow end, 1 its fast one")


def possible(jobs: Sequence[Job], config: EvaluateConfig, denoiser: Denoiser) -> list[Job]:
    """Return the jobs that this dLLM and cache allow; of a sweep over all rules, the others are left out and named.

    Raises:
        ValueError: if one that was named itself can't be.
    """
    found, left_out = [], dict[str, str]()
    # Each folder once, which may be given at many settings and block lengths.
    folders = {split_setting(job.policy)[0] for job in jobs if is_folder(job.policy)}
    specs = {folder: load(folder).spec for folder in folders}
    for job in jobs:
        try:
            if is_folder(job.policy):
                settings = DecodingSettings(block_length=job.block_length, **decoding_of(config))
                specs[split_setting(job.policy)[0]].check_block(settings)
            else:
                rule = make_rule(job.policy)
                check_cache(rule, config.cache)
                check_guide(rule, denoiser)
            found.append(job)
        except ValueError as error:
            if "all" not in config.policy or job.policy in config.policy:
                raise
            left_out[job.policy.partition(":")[0]] = str(error)
    for reason in left_out.values() if parallel.is_main() else ():
        tell("left out", reason)
    return found


def evaluate(config: EvaluateConfig, jobs: Sequence[Job]) -> list[Record]:
    """Evaluate what is asked for and not there yet.

    Returns:
        The records of ``evaluation.json``.
    """
    check_start(config.wandb, "disabled")
    before = read_asked(config.out) if has_result(config.out) else []
    asked = add_jobs(before, jobs)
    whole = replace(
        config,
        policy=list(dict.fromkeys(one.policy for one in asked)),
        block_length=list(dict.fromkeys(one.block_length for one in asked)),
        # Spelt out: what null means depends on the policies.
        episodes=episodes_of(config),
        # What is stored is compared with what a later call asks for, resumption or not.
        resume=False,
    )
    file = RunFiles(config.out).evaluation
    with open_run(config.out, whole, config.resume or bool(before), free=ADDED):
        update(config.out, before, asked, suffix_of(config))
        # By what was written, not by name: a second folder gives the first one another name.
        requested = {(job.policy, job.decision, job.block_length) for job in jobs}
        known = {key_of(record) for record in read_records(file)} if file.is_file() else set()
        # Of what was asked before, only what is there: whoever adds a rule hasn't asked for the rest of a killed sweep.
        chosen = [one for one in asked if one.what in requested or one.named(suffix_of(config)) in known]
        return evaluate_jobs(whole, [Job(one.policy, one.name, one.decision, one.block_length) for one in chosen])


def add_jobs(before: Sequence[Asked], jobs: Sequence[Job]) -> list[Asked]:
    """Return what an evaluation was and is asked for, each once, under the names that tell all of it apart."""
    every: list[Asked | Job] = [*before, *jobs]
    # Old and new together, as names tell several folders apart; one block length is enough for that.
    named = list_jobs([one.policy for one in every], [1])
    names = {(job.policy, job.decision): job.name for job in named}
    # A policy whose folder is gone keeps its records.
    digests = {one.policy: one.digest for one in before}
    for policy in {one.policy for one in every if is_folder(one.policy)}:
        try:
            folder = locate(split_setting(policy)[0])
        except FileNotFoundError:
            continue
        if folder.is_dir():
            digests[policy] = digest(folder)
    places = dict.fromkeys((one.policy, one.decision, one.block_length) for one in every)
    return [Asked(text, names[text, how], how, block, digests.get(text, "")) for text, how, block in places]


def evaluate_jobs(config: EvaluateConfig, jobs: Sequence[Job]) -> list[Record]:
    """Evaluate, plot, print and log.

    Returns:
        The records of ``evaluation.json``.
    """
    with Tracker(config.wandb, config.out, to_plain(config), "evaluate", "disabled") as tracker:
        records = run_jobs(config, jobs, RunFiles(config.out).evaluation, is_shared=parallel.world_size() > 1)
        counts = sorted({record["episodes"] for record in records if record["task"] != "all"})
        title = (
            f"{config.model.name}, {' to '.join(map(str, counts[:1] + counts[1:][-1:]))} {config.split} problems a task"
        )
        title += what_differs(decoding_of(config))
        folders = {split_setting(policy)[0] for policy in config.policy if is_folder(policy)}
        style = style_of_run(run_name(Path(folders.pop()))) if len(folders) == 1 else None
        plot_pareto(records, RunFiles(config.out).plot, title, read_outcomes(config.out), styles=style)
        print_table(records, title, config.per_task)
        files = RunFiles(config.out)
        tell("evaluation", files.evaluation, files.plot)
        tracker.finish(records, files.plot)
        tell("W&B", tracker.place)
    return records


if __name__ == "__main__":
    from train.command.cli import run

    run(main, EvaluateConfig)
