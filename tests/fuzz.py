"""Damaged files and command lines, thousands of them: each is read as it is, or refused in one sentence.

Policy folders, run folders, a training's checkpoints, and the configurations that commands are given, as files and as
flags.

``python tests/fuzz.py --cases 10000`` tries so many of each kind; ``--seed`` draws others.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from records import outcomes, ppo_config, write_run
from views import random_view

from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, load, save
from policies.actions import ActionConfig
from policies.block_filter import BlockFilter, BlockFilterConfig
from policies.dial import Calibration, DialPoint
from policies.dit import DiTConfig, DiTNetwork
from policies.formats.ml_rl_dllm import write_checkpoint
from train import checkpoint
from train.build import load_model, make_env, make_model, resume
from train.compare import CompareConfig
from train.comparison.runs import collect_lines, fingerprint, read_runs, training_seconds
from train.config import ConfigError, parse, to_plain, to_yaml
from train.evaluate import EvaluateConfig
from train.grpo_config import TrainGRPOConfig
from train.learn2pd import Learn2PDConfig
from train.ppo import PPO
from train.ppo import algorithm as ppo_algorithm
from train.ppo_config import TrainPPOConfig
from train.pretrain import PretrainConfig
from train.run_folder import UserError
from train.sweep import SweepConfig
from train.watching.show import WatchConfig

SMALL = {"hidden_size": 8, "num_heads": 2, "feedforward_size": 8}

# What takes the place of a value, or stands beside it.

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    7,
    0.5,
    1e308,
    -1e308,
    20_000,
    2**31,
    2**63,
    10**30,
    "",
    "x",
    "1",
    "yes",
]
ODD += [
    "nan",
    "é\u2028",
    "\ud800",
    "\n",
    "deterministic",
    "dit",
    "transformer",
    [],
    {},
    [[]],
    [1, 2],
    [None],
    {"a": {}},
]
ODD += [float("nan"), float("inf"), "x" * 500, list(range(200)), ["margin", "margin"]]

# Copies: what was drawn may be changed afterwards.
values = st.sampled_from(ODD).map(deepcopy) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths to all values within JSON."""
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    found = [path] * bool(path)
    for key, value in entries:
        found += places(value, (*path, key))
    return found


@st.composite
def changed(draw: st.DrawFn, data: Any) -> Any:
    """Draw JSON with one to three of its values replaced, removed, doubled or added."""
    data = deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        all_places = places(data)
        if not all_places:
            return draw(values)
        *path, last = draw(st.sampled_from(all_places))
        within = data
        for key in path:
            within = within[key]
        how = draw(st.sampled_from(["replace", "replace", "remove", "add", "double"]))
        if how == "replace":
            within[last] = draw(values)
        elif how == "remove":
            del within[last]
        elif isinstance(within, dict):
            within[draw(st.text(max_size=8))] = draw(values) if how == "add" else deepcopy(within[last])
        else:
            within.append(draw(values) if how == "add" else deepcopy(within[last]))
    return data


@st.composite
def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw bytes cut short, with some overwritten, inserted or repeated, or others altogether."""
    how = draw(st.sampled_from(["cut", "overwrite", "insert", "repeat", "other", "deep"]))
    at = draw(st.integers(0, len(content)))
    piece = draw(st.binary(max_size=12))
    if how == "cut":
        return content[:at]
    if how == "overwrite":
        return content[:at] + piece + content[at + len(piece) :]
    if how == "insert":
        return content[:at] + piece + content[at:]
    if how == "repeat":
        return content[:at] + content[max(0, at - 40) : at] * draw(st.integers(1, 50)) + content[at:]
    if how == "deep":
        return draw(st.sampled_from([b"[", b'{"a":', b"- ", b"&a [*a, ", b"? "])) * draw(st.sampled_from([3, 50, 3000]))
    return piece


@st.composite
def spoilt_weights(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a safetensors file with another header, other values, or other bytes."""
    how = draw(st.sampled_from(["header", "values", "bytes"]))
    end = 8 + int.from_bytes(content[:8], "little")
    if how == "bytes":
        return draw(spoilt(content))
    if how == "header":
        header = json.dumps(draw(changed(json.loads(content[8:end])))).encode()
        return len(header).to_bytes(8, "little") + header + content[end:]
    value = draw(st.sampled_from([float("nan"), float("inf"), 1e38, -1e38, 0.0]))
    number = torch.tensor([value]).numpy().tobytes()
    at = end + 4 * draw(st.integers(0, (len(content) - end) // 4 - 1))
    return content[:at] + number + content[at + 4 :]


def dump(name: str, data: Any) -> bytes:
    """Write data as the file of this name holds it."""
    text = yaml.safe_dump(data, allow_unicode=True) if name.endswith(".yaml") else json.dumps(data)
    return text.encode(errors="surrogatepass")


def damaged(content: Mapping[str, bytes]) -> st.SearchStrategy[tuple[str, bytes]]:
    """Draw the name and the new content of one file of a folder."""

    def of(name: str) -> st.SearchStrategy[bytes]:
        if name.endswith(".safetensors"):
            return spoilt_weights(content[name])
        raw = spoilt(content[name])
        if not name.endswith((".json", ".yaml")):
            return raw
        data = json.loads(content[name]) if name.endswith(".json") else yaml.safe_load(content[name])
        # Three of four are well-formed, so that they come to the checks of fields.
        form = st.integers(0, 3)
        return form.flatmap(lambda i: raw if i == 0 else changed(data).map(lambda found: dump(name, found)))

    return st.sampled_from(sorted(content)).flatmap(lambda name: st.tuples(st.just(name), of(name)))


# The folders that are damaged.


@cache
def policy_folders() -> dict[str, dict[str, bytes]]:
    """Make one whole folder of each kind of policy; returns the content of their files."""
    torch.manual_seed(0)
    dial = UnmaskingNetwork(NetworkConfig(**SMALL, features=("margin",), has_dial=True))  # type: ignore[arg-type]
    inner = BlockFilter(BlockFilterConfig(block_length=8, hidden_size=4))
    filtered = UnmaskingNetwork(NetworkConfig(**SMALL), filter=inner)  # type: ignore[arg-type]
    points = [DialPoint(8, speed, 0.9, (0.8, 1.0), 2.0 + speed, (1.5, 2.5)) for speed in (0.0, 1.0)]
    dit = LearnedPolicy(DiTNetwork(DiTConfig(**SMALL, time_size=8)), "sample", actions=ActionConfig("plackett_luce"))
    made = {
        "dial": LearnedPolicy(dial, trained={"seed": 0, "tasks": ["copy"]}, calibration=Calibration(points)),
        "filtered": LearnedPolicy(filtered),
        "dit": dit,
    }
    with tempfile.TemporaryDirectory() as folder:
        folders = {name: save(policy, Path(folder) / name) for name, policy in made.items()}
        folders["ml_rl_dllm"] = write_checkpoint(dit, Path(folder) / "ml_rl_dllm")
        names = ("config.json", "model.safetensors", "policy.yaml")
        return {
            kind: {name: (path / name).read_bytes() for name in names if (path / name).is_file()}
            for kind, path in folders.items()
        }


@cache
def run_folders() -> dict[str, dict[str, bytes]]:
    """Make one whole folder of each kind of run; returns the content of their files."""
    configs = {
        "training": ppo_config(),
        "evaluation": {"model": {"name": "toy"}, "episodes": 8, "policy": ["threshold:0.9", "runs/x/policy@0.5"]},
        "filter": {"false_commit_weight": 2.0, "model": "toy"},
    }
    entries = [outcomes(policy, [1.0, 0.0, 0.5, 1.0], [2, 3, 4, 5]) for policy in ("learned", "threshold:0.9")]
    progress = "rollout/score,time/time_elapsed,time/total_timesteps\n0.5,1.5,100\n,2.5,200\nnan,1.0,300\n"
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for kind, config in configs.items():
            path = write_run(Path(folder) / kind, entries, config)
            (path / "versions.json").write_text('{"commit": "c", "python": "3.11"}')
            (path / "report.json").write_text('{"minutes_to_collect_and_train": 1.5}')
            (path / "progress.csv").write_text(progress)
            (path / "wandb_id.txt").write_text("abc\n")
            found[kind] = {file.name: file.read_bytes() for file in path.iterdir()}
        return found


def cases(folders: Mapping[str, Mapping[str, bytes]]) -> st.SearchStrategy[tuple[str, str, bytes]]:
    """Draw a kind of folder, the name of one of its files, and what that file holds instead."""
    return st.sampled_from(sorted(folders)).flatmap(
        lambda kind: damaged(folders[kind]).map(lambda change: (kind, *change))
    )


# What must hold of each.


def write(content: Mapping[str, bytes], folder: Path) -> Path:
    """Write a folder's files and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def check_line(error: Exception) -> str:
    """Fail unless an error is one line that can be read; returns it."""
    message = str(error)
    assert len(message.splitlines()) == 1, f"more than one line: {message!r}"
    assert len(message) < 1000, f"{len(message)} characters"
    return message


def check_sentence(error: Exception, folder: Path) -> str:
    """Fail unless an error is one line that names the folder; returns it without the folder."""
    message = check_line(error)
    assert str(folder) in message, f"names no file: {message!r}"
    return message.replace(str(folder), "FOLDER")


def try_policy(kind: str, name: str, data: bytes, folder: Path) -> str:
    """Load a damaged policy folder, and decide with what was loaded; returns what came of it."""
    write({**policy_folders()[kind], name: data}, folder)
    try:
        policy = load(folder)
    except ValueError as error:
        return check_sentence(error, folder)
    weights = policy.network.state_dict().values()
    assert all(bool(torch.isfinite(values).all()) for values in weights)
    view = random_view(2, 8)
    chosen = policy.select(view)
    assert not bool((chosen & ~view.eligible).any())
    assert bool((chosen.any(1) | ~view.eligible.any(1)).all())
    return "loaded"


def try_run(kind: str, name: str, data: bytes, folder: Path) -> str:
    """Read a damaged run folder as a comparison does; returns what came of it."""
    write({**run_folders()[kind], name: data}, folder)
    try:
        [run] = read_runs([str(folder)])
        lines = collect_lines([run])
        fingerprint(run)
        training_seconds(run)
    except UserError as error:
        return check_sentence(error, folder)
    for line in lines:
        for replicate in line.replicates:
            assert 0 <= replicate.record["accuracy"] <= 1
            assert 0 < replicate.record["nfe"] < float("inf")
    return "read"


CONFIGS = {
    "ppo": (TrainPPOConfig, "ppo.yaml"),
    "grpo": (TrainGRPOConfig, "grpo.yaml"),
    "evaluate": (EvaluateConfig, None),
    "learn2pd": (Learn2PDConfig, None),
    "sweep": (SweepConfig, None),
    "pretrain": (PretrainConfig, None),
    "compare": (CompareConfig, None),
    "watch": (WatchConfig, None),
}
"""What commands are told, and the file of their defaults."""


@cache
def configurations() -> dict[str, dict[str, bytes]]:
    """Return a whole configuration of each command, as it is written into a run's folder."""
    found = {}
    needed = {"compare": ["--runs=[runs/a]"], "watch": ["--policy=threshold:0.9"], "sweep": ["--file=sweep.yaml"]}
    for name, (config_class, defaults) in CONFIGS.items():
        config = parse(config_class, defaults, needed.get(name, []))
        found[name] = {"config.yaml": to_yaml(to_plain(config)).encode()}
    return found


def flags_of(data: Any, name: str = "") -> list[str]:
    """Write what a YAML file holds as the command line says it."""
    if isinstance(data, dict):
        return [flag for key, value in data.items() for flag in flags_of(value, f"{name}.{key}" if name else str(key))]
    return [f"--{name}={data if isinstance(data, str) else json.dumps(data)}"]


def try_configuration(kind: str, name: str, data: bytes, folder: Path) -> str:
    """Parse a damaged configuration as a file and, where it is one, as flags; returns what came of the file."""
    config_class, defaults = CONFIGS[kind]
    file = write({name: data}, folder) / name
    came = "read"
    try:
        parse(config_class, defaults, ["--config", str(file)])
    except ConfigError as error:
        # Where fields don't go together no single place is at fault: then it names the fields, and no file.
        came = check_line(error).replace(str(folder), "FOLDER")
    try:
        flags = flags_of(yaml.safe_load(data))
    except Exception:  # no YAML: it has no flags
        return came
    try:
        parse(config_class, defaults, [flag for flag in flags if "\0" not in flag])
    except ConfigError as error:
        check_line(error)
    return came


@cache
def begun() -> tuple[TrainPPOConfig, PPO]:
    """Make a tiny training that is ready to go on."""
    words = ["--model.name=toy", "--env.num_envs=2", "--env.tasks=[copy]", "--env.buffer_length=8", "--resume"]
    words += ["--policy.hidden_size=8", "--policy.feedforward_size=8", "--ppo.n_steps=2", "--ppo.batch_size=4"]
    config = parse(TrainPPOConfig, None, words)
    algorithm = ppo_algorithm(config)
    model = make_model(config, make_env(config, load_model(config), algorithm, None), algorithm, None)
    assert isinstance(model, PPO)
    model.learn(4)
    return config, model


@cache
def checkpoints() -> dict[str, dict[str, bytes]]:
    """Return a training's checkpoint."""
    _, model = begun()
    rollout = {**checkpoint.capture_rollout(model), "validation": {}, "logged": {}, "processes": 1}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "latest.safetensors"
        checkpoint.write(file, checkpoint.capture(model, rollout))
        return {"training": {"checkpoints/latest.safetensors": file.read_bytes()}}


def try_checkpoint(kind: str, name: str, data: bytes, folder: Path) -> str:
    """Resume from a damaged checkpoint."""
    config, model = begun()
    (write({}, folder) / name).parent.mkdir()
    (folder / name).write_bytes(data)
    try:
        resume(replace(config, out=folder), model)
    except UserError as error:
        return check_sentence(error, folder)
    return "read"


KINDS: Mapping[str, tuple[Callable[[], Any], Callable[..., str]]] = {
    "policies": (policy_folders, try_policy),
    "runs": (run_folders, try_run),
    "checkpoints": (checkpoints, try_checkpoint),
    "configurations": (configurations, try_configuration),
}
"""What is damaged: the whole folders, and what is tried with a damaged one."""


def fuzz(what: str, number: int, first: int, folder: Path) -> Counter[str]:
    """Try damaged folders.

    Args:
        what: one of `KINDS`.
        number: of cases.
        first: seed of the cases.
        folder: for the files; what is there is removed.

    Returns:
        How often each thing came of it.
    """
    folders, attempt = KINDS[what]
    found: Counter[str] = Counter()

    @seed(first)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(folders()))
    def run(case: tuple[str, str, bytes]) -> None:
        found[attempt(*case, folder)] += 1

    run()
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--cases", type=int, default=10_000, help="damaged folders of each kind")
    parser.add_argument("--seed", type=int, default=0, help="other numbers draw other cases")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for what in KINDS:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(what, options.cases, options.seed, Path(folder) / "damaged")
        whole = found["loaded"] + found["read"]
        kinds = {re.sub(r"['\d].*", "", message) for message in found}
        sys.stdout.write(
            f"{what}: {found.total()} cases in {time.monotonic() - start:.0f} s, {whole} read, {found.total() - whole} "
            f"refused in one sentence each ({len(kinds)} kinds of sentences), 0 other exceptions\n"
        )


if __name__ == "__main__":
    main()
