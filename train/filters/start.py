"""The filter that a training starts from: learned for the model in the run's own folder, or the one that is there."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from envs.decoding.settings import conditions_of
from envs.denoiser import identify
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, save
from train.command import parallel
from train.command.config import to_plain
from train.command.escaping import for_markdown
from train.command.files import write_json
from train.command.provenance import versions
from train.filters.fit import FitSettings, fit
from train.filters.traces import TraceConfig, Traces, collect


def learn_start(
    folder: Path,
    about: TraceConfig,
    blocks: Sequence[int],
    shape: NetworkConfig,
    settings: FitSettings,
    weight: float,
    workers: int,
    rounds: int = 1,
) -> str:
    """Learn a filter of the policy's own shape, unless the folder holds one; torchrun's processes call it together.

    They share the collecting; the first one learns, the others wait for its filter. The first round records what the
    oracle decodes, each further one what the filter so far chooses, and it learns from all rounds together.

    Traces that a killed run of the same settings has collected are used; they are deleted once the filter is there.

    Source: as DAgger (arXiv 1011.0686) and OnTrack, see `train.filters.traces.Rejoining`.

    Args:
        folder: of the filter.
        about: what to collect, but for the block length, and at which probability the filter commits in the rounds
            after the first; its folder and behaviour are not used.
        blocks: block lengths to collect at.
        shape: of the network.
        settings: of its training.
        weight: of a position that must not be committed.
        workers: processes that each one starts to decode in.
        rounds: of collecting and learning, 1 or more.

    Returns:
        One line about it; an empty one beside the first process.

    Raises:
        ValueError: if the reference answers no problem right.
    """
    file = folder / "config.json"
    # Beside the filter, not in it: the folder is taken for a policy as soon as it has its config.json.
    place = folder.with_name(folder.name + "_traces")
    # The first process looks for all: it may write one while another still looks.
    if parallel.broadcast(file.is_file()):
        if parallel.is_main():
            shutil.rmtree(place, ignore_errors=True)  # of a run that was killed before it could
        return f"taken from {folder}"
    began = time.monotonic()
    if parallel.is_main():
        # Of the training too, which makes the students.
        used = {"about": about, "blocks": blocks, "shape": shape, "settings": settings, "weight": weight}
        plain = {name: to_plain(value) for name, value in used.items()}
        # Where it runs is not what is collected: a moved folder goes on, and so does one on another device.
        del plain["about"]["folder"], plain["about"]["model"]["device"], plain["about"]["model"]["threads"]
        _begin(place, plain)
    parallel.wait()
    # A tenth of all.
    stopping = replace(about, split="validation", problems=max(1, about.problems // 9))
    train, held_out = (_gather(one, place, blocks, workers) for one in (about, stopping))
    for name, traces in {"training": train, "validation": held_out}.items():
        if not any(map(len, traces)):
            raise ValueError(
                f"filter.reference is {about.reference!r}: it answers none of the {name} problems right, so there is "
                "nothing to learn a filter from; set filter.learn to false"
            )

    def learn() -> tuple[UnmaskingNetwork, dict[str, float]]:
        torch.manual_seed(settings.seed)
        network = UnmaskingNetwork(shape)
        return network, fit(network, train, held_out, settings, weight)

    for number in range(1, rounds):
        student = place / f"student{number}"
        if parallel.is_main() and not (student / "config.json").is_file():
            save(LearnedPolicy(learn()[0], "deterministic", {}, about.threshold), student)
        parallel.await_path(student / "config.json")
        train += _gather(about, place, blocks, workers, student)
        held_out += _gather(stopping, place, blocks, workers, student)
    if not parallel.is_main():
        parallel.await_path(file)
        return ""
    network, result = learn()
    steps = sum(map(len, train))
    trained = {
        "algorithm": "Learn2PD",
        "model": about.model.name,
        "dllm": identify(about.model.load()),
        "tasks": list(about.tasks),
        "split": "train",
        "buffer_length": about.buffer_length,
        "block_lengths": list(blocks),
        **conditions_of(about),
        "reference": about.reference,
        "problems": about.problems,
        "target": about.target,
        "rounds": rounds,
        **({"threshold": about.threshold} if rounds > 1 else {}),
        "false_commit_weight": weight,
        "steps": steps,
        "anneals": settings.anneals,
        "seed": settings.seed,
        "versions": versions(),
        **result,
    }
    reads = f", whose hidden states (of width {shape.hidden_state_size}) it reads" if shape.hidden_state_size else ""
    card = f"""# Learn2PD filter

Commits positions of {for_markdown(about.model.name)}{reads} that it takes to be final. `--policy` with this folder and
a threshold, such as `FOLDER@0.7`, decodes with it; `--filter.folder FOLDER --filter.role start` starts a training from
it. `config.json` says what it learned from: training problems only.
"""
    save(LearnedPolicy(network, "deterministic", trained, 0.9), folder, card)
    # After the filter is written, so that a run killed in between finds one of the two.
    shutil.rmtree(place)
    return f"{steps:,} steps of decoding, {result['epochs']} epochs, {time.monotonic() - began:.0f} s"


def _gather(
    about: TraceConfig, place: Path, blocks: Sequence[int], workers: int, student: Path | None = None
) -> list[Traces]:
    """Collect a split at each block length: what the oracle decodes, or a student on the way to the same answers.

    The reference decodes once, in the longest blocks, where it is right most often; the other oracles know its answers.
    """
    found: dict[int, Traces] = {}
    longest = max(blocks)
    for block in sorted(blocks, reverse=True):
        one = replace(about, block_length=block, folder=place / f"{about.split}_{block}")
        if student is not None:
            own = place / f"{about.split}_{block}_{student.name}"
            one = replace(one, folder=own, behaviour=str(student), rejoins=True)
        if student is not None or block != longest:
            one = replace(one, answers=place / f"{about.split}_{longest}")
        found[block] = collect(one, workers)
    return [found[block] for block in blocks]


def _begin(place: Path, settings: dict[str, Any]) -> None:
    """Make the folder of traces, without those that a killed run of other settings has left in it."""
    file = place / "settings.json"
    if place.is_dir() and _read(file) != settings:
        shutil.rmtree(place)
    write_json(file, settings)


def _read(file: Path) -> Any:
    """Return what a file of settings holds; None where there is none, or it is damaged."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None
