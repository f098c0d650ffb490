"""Damaged files and command lines, thousands of them: each is read as it is, or refused in one sentence.

Policy folders, run folders, a training's checkpoints, the configurations that commands are given, as files and as
flags, sweeps, tasks' data files, and dLLMs.

``python tests/helpers/fuzz.py --cases 10000`` tries so many of each kind, and ``--kind`` only of one; ``--seed`` draws
others.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import torch
import yaml
from checkpoints import build
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from records import outcomes, ppo_config, write_run
from tqdm import tqdm
from views import random_view

from envs.beliefs import DenoiserError
from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.models import load as models
from envs.tasks import make_tasks
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, load, save
from policies.calibration import Calibration, DialPoint
from policies.distributions import ActionConfig
from policies.formats.ml_rl_dllm import write_checkpoint
from policies.networks.block_filter import BlockFilter, BlockFilterConfig
from policies.networks.dit import DiTConfig, DiTNetwork
from train.algorithms.ppo import PPO
from train.command import checkpoint
from train.command.config import ConfigError, parse, to_plain, to_yaml
from train.command.errors import UserError
from train.command.interrupt import Interrupted, raised
from train.command.sweep_file import read_sweep, suggest
from train.compare import CompareConfig
from train.comparison.lines import collect_lines
from train.comparison.runs import fingerprint, read_runs, training_seconds
from train.evaluation.run import EvaluateConfig
from train.job.build import load_model, make_env, make_model, resume
from train.job.grpo_config import TrainGRPOConfig
from train.job.ppo_config import TrainPPOConfig
from train.learn2pd import Learn2PDConfig
from train.ppo import algorithm as ppo_algorithm
from train.pretraining.config import PretrainConfig
from train.pretraining.loop import STATE, Pretraining
from train.sweep import SweepConfig, print_trials, read_trials
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
    if name.endswith(".yaml"):
        text = yaml.safe_dump(data, allow_unicode=True)
    elif name.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in (data if isinstance(data, list) else [data]))
    else:
        text = json.dumps(data)
    return text.encode(errors="surrogatepass")


def undump(name: str, content: bytes) -> Any:
    """Return the data of a whole file."""
    if name.endswith(".yaml"):
        return yaml.safe_load(content)
    return [json.loads(line) for line in content.splitlines()] if name.endswith(".jsonl") else json.loads(content)


def damaged(content: Mapping[str, bytes]) -> st.SearchStrategy[tuple[str, bytes]]:
    """Draw the name and the new content of one file of a folder."""

    def of(name: str) -> st.SearchStrategy[bytes]:
        if name.endswith(".safetensors"):
            return spoilt_weights(content[name])
        raw = spoilt(content[name])
        if not name.endswith((".json", ".yaml", ".jsonl")):
            return raw
        data = undump(name, content[name])
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
    try:
        chosen = policy.select(view)
    except ValueError as error:  # weights that are finite, and too large
        if "log-odds are NaN" not in str(error):
            raise
        return str(error)
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
    rollout = {**checkpoint.capture_rollout(model), "validation": {}, "logged": {}, "processes": 1, "run": {}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "latest.safetensors"
        checkpoint.write(file, checkpoint.capture(model, rollout))
        return {"training": {"checkpoints/latest.safetensors": file.read_bytes()}}


def try_checkpoint(kind: str, name: str, data: bytes, folder: Path) -> str:
    """Resume from a damaged checkpoint."""
    config, model = begun()
    (write({"config.yaml": b"{}"}, folder) / name).parent.mkdir()
    (folder / name).write_bytes(data)
    try:
        resume(replace(config, out=folder), model)
    except UserError as error:
        return check_sentence(error, folder)
    return "read"


@cache
def sweeps() -> dict[str, dict[str, bytes]]:
    """Return a sweep file, and what a killed sweep has tried."""
    rate = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}
    ranges = {"a": {"distribution": "int_uniform", "min": 1, "max": 9}, "b": {"min": 0.0, "max": 1.0}}
    parameters = {"rate": rate, "size": {"values": [8, 16]}, "fixed": {"value": [1]}, **ranges}
    parameters["q"] = {"distribution": "q_uniform", "min": 0, "max": 8, "q": 2}
    about = {"method": "random", "metric": {"name": "x", "goal": "maximize"}, "parameters": parameters}
    values = {"rate": 1e-3, "size": 8, "fixed": [1], "a": 3, "b": 0.5, "q": 2.0}
    trials = [{"number": i, "values": values, "result": 0.5} for i in range(2)]
    return {"sweep": {"sweep.yaml": dump("sweep.yaml", about), "trials.jsonl": dump("trials.jsonl", trials)}}


def try_sweep(kind: str, name: str, data: bytes, folder: Path) -> str:
    """Read a damaged sweep, go on with what it has tried, and propose what comes next."""
    write({**sweeps()[kind], name: data}, folder)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        about = read_sweep(folder / "sweep.yaml")
        done = read_trials(folder / "trials.jsonl", about)
    except UserError as error:
        return check_sentence(error, folder) if str(folder) in str(error) else check_line(error)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for trial in done:
        study.tell(study.ask(), trial["result"])
    proposed = study.ask()
    for parameter, spec in about.parameters.items():
        suggest(proposed, parameter, spec)
    with redirect_stdout(io.StringIO()):
        print_trials(about, done)
    return "read"


@cache
def pretrainings() -> dict[str, dict[str, bytes]]:
    """Return the state of a pretraining."""
    with tempfile.TemporaryDirectory() as folder:
        run = Pretraining(tiny_dllm(Path(folder)))
        run.advance()
        run.save()
        return {"roberta": {STATE: (Path(folder) / STATE).read_bytes()}}


def tiny_dllm(out: Path) -> PretrainConfig:
    """Configure the pretraining of a very small dLLM."""
    sizes = {"batch_size": 2, "group_size": 2, "hidden_size": 8, "num_layers": 1, "num_heads": 2}
    return PretrainConfig(out=out, steps=2, buffer_lengths=[(0, 1.0)], **sizes)  # type: ignore[arg-type]


def try_pretraining(kind: str, name: str, data: bytes, folder: Path) -> str:
    """Go on with a damaged pretraining."""
    write({**pretrainings()[kind], name: data}, folder)
    try:
        Pretraining(tiny_dllm(folder))
    except UserError as error:
        return check_line(error).replace(str(folder), "FOLDER")
    return "read"


ROWS: Mapping[str, dict[str, Any]] = {
    "gsm8k": {"question": "How many are 2 and 3?", "answer": "2 + 3 = 5\n#### 5"},
    "math500": {
        "problem": "What is $1/2 + 1/3$?",
        "answer": r"\frac{5}{6}",
        "solution": r"It is $\boxed{\frac{5}{6}}$.",
    },
    "countdown": {"input": "30,100,93", "output": "23"},
    "countdown_hub": {"nums": [1, 2, 3], "target": 6},
    "mbpp": {
        "text": "Add two numbers.",
        "code": "def add(a, b):\n    return a + b",
        "test_list": ["assert add(1, 2) == 3"],
    },
    "parallel_bench": {"input": {"items": "a, b"}, "answer": ["a", "b"]},
}
"""A problem of each data set."""


def data_files() -> dict[str, dict[str, bytes]]:
    """Return each data set's file of problems, also as a table."""
    found = {name: {"test.jsonl": dump("test.jsonl", [row, row])} for name, row in ROWS.items()}
    found["gsm8k_table"] = {"test.csv": b'question,answer\n"How many, if any?","#### 5"\n'}
    about = {"waiting_line/test": {"prompt": "Copy: {items}", "metric": "list_match_score"}}
    found["parallel_bench"]["task_config.yaml"] = dump("task_config.yaml", about)
    return found


def try_data(kind: str, name: str, data: bytes, folder: Path) -> str:
    """Ask a task for the problems of a damaged file."""
    write({**data_files()[kind], name: data}, folder)
    task_name = {"countdown_hub": "countdown", "gsm8k_table": "gsm8k", "parallel_bench": "parallel_bench:test"}
    more = ",allow_code_execution=true" if kind == "mbpp" else ""
    text = task_name.get(kind, kind)
    try:
        [task] = make_tasks([f"{text}{',' if ':' in text else ':'}data={folder}{more}"])
        for index in range(task.size("test") or 0):
            task.problem("test", index)
    except (ValueError, FileNotFoundError) as error:
        return check_sentence(error, folder)
    return "read"


@cache
def dllms() -> dict[str, dict[str, bytes]]:
    """Make a very small dLLM of each of two routes that models are loaded by; returns the content of their files."""
    with tempfile.TemporaryDirectory() as folder:
        run = Pretraining(tiny_dllm(Path(folder)))
        run.save()
        llada = build("llada", Path(folder) / "llada")
        return {
            kind: {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
            for kind, path in {"roberta": Path(folder) / "model", "llada": llada}.items()
        }


def try_dllm(kind: str, name: str, data: bytes, folder: Path) -> str:
    """Load a damaged dLLM, and ask it."""
    write({**dllms()[kind], name: data}, folder)
    try:
        # Not through the cache of what is loaded: every folder has the same name.
        denoiser = models._load.__wrapped__(str(folder), "cpu", "float32", None, None, None, False)
        prompt = denoiser.encode_prompt("copy: a b")
        settings = DecodingSettings(4)
        batch = DecodingBatch(denoiser, 1, settings)
        batch.load([0], [prompt])
        batch.forward()
    except (ValueError, FileNotFoundError, DenoiserError) as error:
        return check_line(error).replace(str(folder), "FOLDER")
    return "loaded"


KINDS: Mapping[str, tuple[Callable[[], Any], Callable[..., str]]] = {
    "policies": (policy_folders, try_policy),
    "runs": (run_folders, try_run),
    "checkpoints": (checkpoints, try_checkpoint),
    "configurations": (configurations, try_configuration),
    "sweeps": (sweeps, try_sweep),
    "pretrainings": (pretrainings, try_pretraining),
    "data": (data_files, try_data),
    "dllms": (dllms, try_dllm),
}
"""What is damaged: the whole folders, and what is tried with a damaged one."""


def fuzz(what: str, number: int, first: int, folder: Path, shows_progress: bool = False) -> Counter[str]:
    """Try damaged folders.

    Args:
        what: one of `KINDS`.
        number: of cases.
        first: seed of the cases.
        folder: for the files; what is there is removed.
        shows_progress: whether to show a bar on stderr.

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
        bar.update()

    with tqdm(total=number, desc=what, unit="case", leave=False, disable=not shows_progress) as bar:
        run()
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--cases", type=int, default=10_000, help="damaged folders of each kind")
    parser.add_argument("--kind", choices=list(KINDS), help="only this kind")
    parser.add_argument("--seed", type=int, default=0, help="other numbers draw other cases")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for what in KINDS if options.kind is None else [options.kind]:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(what, options.cases, options.seed, Path(folder) / "damaged", shows_progress=True)
        whole = found["loaded"] + found["read"]
        kinds = {re.sub(r"['\d].*", "", message) for message in found}
        sys.stdout.write(
            f"{what}: {found.total()} cases in {time.monotonic() - start:.0f} s, {whole} read, {found.total() - whole} "
            f"refused in one sentence each ({len(kinds)} kinds of sentences), 0 other exceptions\n"
        )


if __name__ == "__main__":
    try:
        with raised():
            main()
    except Interrupted as stop:
        sys.exit(stop.status)
