from __future__ import annotations

import json
import math
import subprocess
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from records import KEYS
from rich.console import Console

from envs.decoding.settings import DecodingSettings
from envs.models.load import load_denoiser
from envs.models.toy import ToyDenoiser
from envs.tasks import TASKS, make_tasks
from policies import RULES, LearnedPolicy, NetworkConfig, UnmaskingNetwork, decode, make_rule, save
from train.command.config import ROOT, parse
from train.command.errors import UserError
from train.command.files import write_json
from train.command.model_config import ModelConfig
from train.command.wandb_config import WandbConfig
from train.comparison.runs import policy_folders, read_runs
from train.evaluate import main, possible, tell_speeds
from train.evaluation.jobs import list_jobs, plan, run_names
from train.evaluation.measure import evaluate, measure
from train.evaluation.records import (
    COUNTING,
    accuracy_interval,
    key_of,
    make_record,
    mean_interval,
    read_outcomes,
    read_records,
    summarise,
    write_outcomes,
)
from train.evaluation.run import EvaluateConfig, default_workers, run_job, start_worker, warn_of_short_buffer
from train.evaluation.table import make_table, print_table


@pytest.mark.parametrize(
    ("right", "total", "interval"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", Table I, method 3.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_accuracy_interval_against_published_values(right: int, total: int, interval: tuple[float, float]) -> None:
    assert accuracy_interval([1.0] * right + [0.0] * (total - right)) == pytest.approx(interval, abs=5e-5)


def test_accuracy_interval_of_shares_by_hand() -> None:
    scores = [0.2, 0.4, 0.4, 0.6]
    half = 3.18245 * math.sqrt(0.08 / 3 / 4)  # t of 3 degrees of freedom
    assert accuracy_interval(scores) == pytest.approx([0.4 - half, 0.4 + half], rel=1e-5)
    assert accuracy_interval([0.5]) == [0.5, 0.5]
    assert accuracy_interval([0.9, 1.0, 1.0]) == pytest.approx([0.9667 - 4.30265 / 30, 1.0], abs=1e-4)  # cut at 1
    # Shares are more alike than answers that are right or wrong, whose interval this is not.
    assert accuracy_interval(scores) != accuracy_interval([0.0, 0.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("values", "half"),
    [
        ([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0], 2.36462 * math.sqrt(32 / 7 / 8)),  # t of 7 degrees of freedom
        ([1.0, 2.0], 12.7062 * 0.5),
        ([3.0, 3.0, 3.0], 0.0),
        ([3.0], 0.0),
    ],
)
def test_mean_interval_by_hand(values: list[float], half: float) -> None:
    mean = sum(values) / len(values)
    assert mean_interval(values) == pytest.approx([mean - half, mean + half], rel=1e-5)


def test_record_by_hand() -> None:
    record = make_record("threshold:0.5", "deterministic", "copy", 4, 7, [(1.0, 2, 50), (0.0, 3, 75), (1.0, 4, 100)])
    assert list(record) == KEYS
    assert {key: record[key] for key in KEYS[:5]} == {
        "policy": "threshold:0.5",
        "decision": "deterministic",
        "task": "copy",
        "block_length": 4,
        "accuracy": pytest.approx(2 / 3),
    }
    assert (record["nfe"], record["token_positions"], record["episodes"], record["seed"]) == (3.0, 75.0, 3, 7)
    assert record["nfe_ci95"] == pytest.approx([3 - 4.30265 / math.sqrt(3), 3 + 4.30265 / math.sqrt(3)], rel=1e-5)
    assert record["accuracy_ci95"] == accuracy_interval([1, 0, 1])
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize("buffer_length", [5, 8])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_evaluation_of_the_toy_by_hand(toy: ToyDenoiser, buffer_length: int, split: str) -> None:
    """The toy copies as much as fits: lists longer than the buffer are wrong, and so is every reversed one."""
    records = evaluate(
        toy,
        make_rule("threshold:0"),
        tasks=["copy", "reverse"],
        split=split,  # type: ignore[arg-type]
        episodes=20,
        buffer_length=buffer_length,
        seed=3,
    )
    fits = [len(TASKS["copy"]().problem(split, i).answer.split()) <= buffer_length for i in range(20)]  # type: ignore[arg-type]
    assert [record["task"] for record in records] == ["copy", "reverse", "all"]
    assert [record["accuracy"] for record in records] == [sum(fits) / 20, 0.0, sum(fits) / 40]
    assert [record["episodes"] for record in records] == [20, 20, 40]
    said = [min(buffer_length, len(TASKS["copy"]().problem(split, i).answer.split())) for i in range(20)]  # type: ignore[arg-type]
    assert records[0]["tokens_per_forward"] == pytest.approx(sum(said) / 20)  # what ends or pads the buffer is not said
    for record in records:
        assert list(record) == [*KEYS, *COUNTING, "tokens_per_forward"]
        assert (record["nfe"], record["nfe_ci95"]) == (1.0, [1.0, 1.0])
        assert record["token_positions"] == 21 + buffer_length
        assert (record["policy"], record["decision"]) == ("threshold:0", "deterministic")
        assert (record["block_length"], record["seed"]) == (buffer_length, 3)


@pytest.mark.parametrize(("rule", "nfe"), [("threshold:1", 3.0), ("low_confidence:2", 2.0), ("threshold:0", 1.0)])
def test_forwards_of_three_letters(toy: ToyDenoiser, rule: str, nfe: float) -> None:
    [record, _] = evaluate(toy, make_rule(rule), tasks="copy", episodes=12, buffer_length=3)
    assert (record["nfe"], record["token_positions"]) == (nfe, nfe * 24)


def test_batch_size_changes_no_record(toy: ToyDenoiser) -> None:
    runs = [
        evaluate(toy, make_rule("random:2"), tasks=["copy", "sort"], episodes=7, buffer_length=8, batch_size=size)
        for size in (1, 5, 64)
    ]
    assert runs[0] == runs[1] == runs[2]


def saved_policy(folder: Path) -> str:
    network = UnmaskingNetwork(NetworkConfig(hidden_size=8, init="random", bias=-1.0, features=("margin",)))
    return str(save(LearnedPolicy(network), folder))


def test_a_folder_is_evaluated_under_both_decisions(tmp_path: Path) -> None:
    folder = saved_policy(tmp_path / "policy")
    jobs = plan([folder, "threshold:0.5"], [8])
    assert [(job.name, job.decision) for job in jobs] == [
        ("learned", "sample"),
        ("learned", "deterministic"),
        ("threshold:0.5", "deterministic"),
    ]
    config = EvaluateConfig(model=ModelConfig("toy"), tasks=["copy"], episodes=10, buffer_length=8)
    found = {job.decision: summarise(run_job(config, job))[-1]["nfe"] for job in jobs[:2]}
    assert found["sample"] < found["deterministic"]  # a coin of 0.27 a position, against one position a step
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plan(["nowhere"], [8])


def test_folders_are_told_apart_by_their_runs(tmp_path: Path) -> None:
    folders = [saved_policy(tmp_path / run / "policy") for run in ("fast", "slow")]
    names = [job.name for job in plan(folders, [8])]
    assert names == ["learned:fast"] * 2 + ["learned:slow"] * 2


def test_all_is_every_rule_at_every_knob_of_its_sweep() -> None:
    names = [job.name for job in plan(["all"], [64, 8])]
    assert len(names) == 2 * sum(len(cls.sweep) for cls in RULES.values())
    assert {name.partition(":")[0] for name in names} == set(RULES)
    assert len(set(names)) == len(names) // 2


def test_list_tells_of_every_rule_and_of_learned_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(EvaluateConfig(policy=["list"], out=tmp_path / "run")) == []
    assert not (tmp_path / "run").exists()
    shown = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    rows = {row[0]: row for row in cells}
    assert [name for name in rows if name] == list(RULES)
    assert rows["factor"][:4] == ["factor", "factor", "1", "0 or more"]
    assert rows["low_confidence"][1:4] == ["tokens_per_step", "1", "a whole number of 1 or more"]
    assert rows["threshold"][4].startswith("Commit every position whose confidence")
    for name in RULES:
        assert rows[name][5] in (RULES[name].__doc__ or "")
        assert all(rows[name])
    assert "the name of one that ships: small, tiny" in shown


def test_zero_episodes_are_refused_by_name(toy: ToyDenoiser) -> None:
    with pytest.raises(ValueError, match="episodes"):
        evaluate(toy, make_rule("threshold:0"), tasks="copy", episodes=0)


def test_main_takes_every_policy_at_every_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = EvaluateConfig(
        policy=["low_confidence:1", "threshold:0"],
        model=ModelConfig("toy"),
        tasks=["copy", "sort"],
        episodes=3,
        buffer_length=8,
        block_length=[8, 4],
        per_task=True,
        out=tmp_path / "new",
    )
    records = main(config)
    assert json.loads((tmp_path / "new" / "evaluation.json").read_text()) == records
    assert (tmp_path / "new" / "pareto.png").read_bytes()[:4] == b"\x89PNG"
    about = [(record["block_length"], record["policy"], record["task"]) for record in records]
    assert about == [(b, p, t) for b in (8, 4) for p in config.policy for t in ("copy", "sort", "all")]
    assert {r["nfe"] for r in records if r["policy"] == "threshold:0" and r["block_length"] == 8} == {1.0}
    shown = capsys.readouterr().out
    assert shown.count("threshold:0") == 6
    assert [task.name for task in make_tasks(config.tasks)] == ["copy", "sort"]


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(tmp_path: Path) -> None:
    config = EvaluateConfig(
        policy=["threshold:0", "random:1", "low_confidence:4"],
        model=ModelConfig("toy"),
        tasks=["copy"],
        episodes=3,
        buffer_length=8,
        block_length=[8, 4],
        out=tmp_path,
    )
    whole = main(config)
    file = tmp_path / "evaluation.json"
    lost = [r for r in whole if r["policy"] != "random:1" or r["block_length"] != 8]
    marked = [{**r, "accuracy": 0.123} for r in lost]  # what is there already is not computed again
    file.write_text(json.dumps(marked))
    again = main(replace(config, resume=True))
    assert [(r["policy"], r["block_length"]) for r in again] == [(r["policy"], r["block_length"]) for r in whole]
    assert [r for r in again if r["accuracy"] != 0.123] == [r for r in whole if r not in lost]


@pytest.mark.slow
def test_policies_are_added_to_an_evaluation(tmp_path: Path) -> None:
    """The second command of a first session: other policies, the same folder."""
    one, other = (saved_policy(tmp_path / run / "policy") for run in ("fast", "slow"))
    about: dict[str, Any] = {"model": ModelConfig("toy"), "tasks": ["copy"], "episodes": 3, "buffer_length": 8}
    about |= {"out": tmp_path / "evaluation"}
    main(EvaluateConfig(policy=["threshold:0", one], **about))
    file = tmp_path / "evaluation" / "evaluation.json"
    marked = [{**r, "accuracy": 0.123} for r in json.loads(file.read_text())]
    file.write_text(json.dumps(marked))
    main(EvaluateConfig(policy=["random:1", other], block_length=[8, 4], **about))
    added = main(EvaluateConfig(policy=["threshold:0"], **about))
    suite = [
        (r["policy"], r["decision"], r["block_length"], r["accuracy"] == 0.123) for r in added if r["task"] == "all"
    ]
    decisions = ("sample", "deterministic")
    # What was there is not decoded again, and has the name that tells it from what came later.
    assert sorted(suite) == sorted(
        [
            ("threshold:0", "deterministic", 8, True),
            *(("learned:fast", decision, 8, True) for decision in decisions),
            *(("random:1", "deterministic", block, False) for block in (8, 4)),
            *(("learned:slow", decision, block, False) for decision in decisions for block in (8, 4)),
        ]
    )
    assert {key[0] for key in read_outcomes(tmp_path / "evaluation")} == {policy for policy, *_ in suite}
    # Another policy in the same folder: its records are made anew.
    save(LearnedPolicy(UnmaskingNetwork(NetworkConfig(hidden_size=16))), Path(one))
    again = main(EvaluateConfig(policy=["threshold:0", one], **about))
    assert not [r for r in again if r["policy"] == "learned:fast" and r["accuracy"] == 0.123]
    assert [r for r in again if r["policy"] == "threshold:0" and r["accuracy"] == 0.123]
    with pytest.raises(UserError, match=r"config.yaml differs from this configuration \(episodes was 3, now 4\)"):
        main(EvaluateConfig(policy=["random:2"], **{**about, "episodes": 4}))


@pytest.mark.slow
def test_processes_change_no_record(tmp_path: Path) -> None:
    config = EvaluateConfig(
        policy=["threshold:0.5", "random:1"],
        model=ModelConfig("toy"),
        tasks=["copy"],
        episodes=3,
        buffer_length=8,
        out=tmp_path / "1",
    )
    assert main(config) == main(replace(config, workers=2, out=tmp_path / "2"))


def test_end_of_text_prediction_is_named_and_saves_positions(toy: ToyDenoiser) -> None:
    kwargs: dict[str, Any] = {"tasks": "copy", "episodes": 10, "buffer_length": 16}
    without = evaluate(toy, make_rule("low_confidence:1"), **kwargs)[-1]
    with_it = evaluate(toy, make_rule("low_confidence:1"), end_of_text_prediction=True, **kwargs)[-1]
    assert (without["policy"], with_it["policy"]) == ("low_confidence:1", "low_confidence:1+eotp")
    assert with_it["token_positions"] < without["token_positions"]


@pytest.mark.parametrize(
    "words",
    [
        ["--policy", '["threshold:0", "random:1"]'],
        ["--policy", "threshold:0", "--policy", "random:1"],  # as the module's docstring writes it
    ],
)
def test_policies_on_the_command_line(words: list[str]) -> None:
    assert parse(EvaluateConfig, None, words).policy == ["threshold:0", "random:1"]


@pytest.mark.slow
def test_command_line(tmp_path: Path, python: str) -> None:
    flags = ["--model=toy", '--policy=["threshold:0"]', '--tasks=["copy"]', "--episodes=5", "--buffer_length=8"]
    command = [python, str(ROOT / "train" / "evaluate.py"), *flags, "--block_length=[8]", "--out=run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [(r["task"], r["accuracy"], r["nfe"]) for r in records] == [("copy", 1.0, 1.0), ("all", 1.0, 1.0)]
    line = next(line for line in done.stdout.splitlines() if "threshold:0" in line)
    assert "100.0" in line
    assert "1.00 ± 0.00" in line


def test_outcomes_are_kept_problem_by_problem(tmp_path: Path) -> None:
    config = EvaluateConfig(
        policy=["threshold:0", "random:1"],
        model=ModelConfig("toy"),
        tasks=["copy", "sort"],
        episodes=3,
        first=5,
        buffer_length=8,
        out=tmp_path,
    )
    records = main(config)
    kept = read_outcomes(tmp_path)
    assert [record for entry in kept.values() for record in summarise(entry)] == records
    [first, _] = kept.values()
    assert (first["task"], first["index"]) == (["copy"] * 3 + ["sort"] * 3, [5, 6, 7, 5, 6, 7])
    assert first["seconds"] > 0
    # One line a policy, and the order of the jobs.
    lines = (tmp_path / "outcomes.json").read_text().splitlines()
    assert [json.loads(line.rstrip(","))["policy"] for line in lines[1:-1]] == config.policy


def test_outcomes_are_resumed_with_the_records(tmp_path: Path) -> None:
    config = EvaluateConfig(
        policy=["threshold:0", "random:1", "low_confidence:4"],
        model=ModelConfig("toy"),
        tasks=["copy"],
        episodes=3,
        buffer_length=8,
        out=tmp_path,
    )
    whole = main(config)
    kept = read_outcomes(tmp_path)
    # Killed between the two files: random:1 has outcomes, but no records. Its outcomes are made anew.
    (tmp_path / "evaluation.json").write_text(json.dumps([r for r in whole if r["policy"] != "random:1"]))
    text = (tmp_path / "outcomes.json").read_text()
    (tmp_path / "outcomes.json").write_text(
        text.replace('"threshold:0","decision":"deterministic"', '"threshold:0","decision":"sample"')
    )
    assert main(replace(config, resume=True)) == whole
    again = read_outcomes(tmp_path)
    # What no record stands for is dropped.
    assert list(again) == [key for key in kept if key[0] != "threshold:0"]
    random = next(key for key in kept if key[0] == "random:1")
    assert {**again[random], "seconds": 0} == {**kept[random], "seconds": 0}
    # An older evaluation, without outcomes, goes on too.
    (tmp_path / "outcomes.json").unlink()
    (tmp_path / "evaluation.json").write_text(json.dumps([r for r in whole if r["policy"] != "random:1"]))
    assert main(replace(config, resume=True)) == whole
    assert [key_of(entry) for entry in read_outcomes(tmp_path).values()] == [random]


def test_damaged_outcomes_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "outcomes.json").write_text("[{]")
    with pytest.raises(UserError, match=r"outcomes.json' can't be read"):
        read_outcomes(tmp_path)


def test_measuring_is_evaluating_before_it_is_summed_up(toy: ToyDenoiser) -> None:
    kwargs: dict[str, Any] = {"tasks": ["copy", "sort"], "episodes": 4, "buffer_length": 8, "seed": 2}
    outcomes = measure(toy, make_rule("random:2"), **kwargs)
    assert summarise(outcomes) == evaluate(toy, make_rule("random:2"), **kwargs)


@pytest.mark.parametrize("early_end", [True, False])
def test_a_record_says_how_forwards_were_counted(toy: ToyDenoiser, tmp_path: Path, early_end: bool) -> None:
    kwargs: dict[str, Any] = {"tasks": ["copy", "sort"], "episodes": 2, "buffer_length": 8, "early_end": early_end}
    outcomes = measure(toy, make_rule("random:2"), **kwargs, block_length=4, window="truncated")
    records = summarise(outcomes)
    assert [record["early_end"] for record in records] == [early_end] * 3
    assert [(record["window"], record["block_origin"]) for record in records] == [("truncated", "buffer")] * 3
    write_json(tmp_path / "evaluation.json", records)
    write_outcomes(tmp_path / "outcomes.json", [outcomes])
    assert read_records(tmp_path) == records
    assert list(read_outcomes(tmp_path).values()) == [outcomes]
    write_json(tmp_path / "evaluation.json", [{**records[0], "early_end": "perhaps"}])
    with pytest.raises(UserError, match="early_end"):
        read_records(tmp_path)


def test_a_short_buffer_is_named(toy: ToyDenoiser, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = make_tasks(["copy:shortest=5,longest=5", "reverse:shortest=3,longest=3", "sudoku"])
    problems = [task.problem("test", index) for task in tasks for index in range(4)]
    warn_of_short_buffer(toy, problems, 16)
    assert capsys.readouterr().err == ""
    warn_of_short_buffer(toy, problems, 4)
    said = capsys.readouterr().err
    assert said.startswith("warning: buffer_length is 4, and reference answers are longer: 4 of 4 in copy, 4 of 4 in")
    assert "--buffer_length 16 holds them all" in said


def test_a_rules_option_may_hold_an_at_sign(tmp_path: Path) -> None:
    file = tmp_path / "me@home.json"
    file.write_text('{"5": 3}')
    [job] = plan([f"pc_sampler:1,frequencies={file}"], [8])
    assert job.name == f"pc_sampler:1,frequencies={file}"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("pc_sampler:1,frequencies=nowhere.json", "pc_sampler's frequencies is 'nowhere.json': not readable"),
        ("pc_sampler:1,frequencies=nowhere.txt", "pc_sampler's frequencies is 'nowhere.txt': not readable"),
        ("guided:1,guide=nowhere", "guided's guide is 'nowhere': no config.json in that folder"),
        ("diffuspec:0.5,guide=tiny_gide", "diffuspec's guide is 'tiny_gide': .*did you mean tiny_guide"),
        ("diffuspec:0.5,corpus=nowhere.txt", "diffuspec's corpus is 'nowhere.txt': not readable"),
    ],
)
def test_a_rules_files_are_looked_for_before_anything_is_decoded(policy: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(["random:1", policy], [8])


def test_a_setting_in_two_spellings_is_one(tmp_path: Path) -> None:
    folder = saved_policy(tmp_path / "policy")
    settings = ["0.5", ".50", "beta=1", "beta=1.0"]
    config = EvaluateConfig(
        out=tmp_path / "run",
        model=ModelConfig("toy"),
        policy=[f"{folder}@{setting}" for setting in settings],
        tasks=["copy"],
        episodes=2,
        buffer_length=8,
    )
    main(config)
    main(replace(config, policy=[f"{folder}@5e-1"]))
    found = [record["policy"] for record in read_records(config.out) if record["task"] == "all"]
    assert found == ["learned@0.5", "learned@beta=1"]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """By as much of their paths as it takes; a folder in two spellings is one."""
    folders = [f"{tmp_path}/{name}" for name in ("old/x/policy", "new/x/policy", "y/policy", "old/./x/policy")]
    names = run_names(folders)
    assert list(names.values()) == ["old/x", "new/x", "y", "old/x"]
    assert set(run_names([folders[0], folders[3]]).values()) == {""}
    nested = [f"{tmp_path}/x", f"{tmp_path}/x/policy"]
    assert list(run_names(nested).values()) == nested
    for folder in folders[:2]:
        saved_policy(Path(folder))
    config = EvaluateConfig(
        out=tmp_path / "run",
        model=ModelConfig("toy"),
        policy=[f"{folder}@0.5" for folder in folders[:2]],
        tasks=["copy"],
        episodes=2,
        buffer_length=8,
    )
    main(config)
    found = [record["policy"] for record in read_records(config.out) if record["task"] == "all"]
    assert found == ["learned:old/x@0.5", "learned:new/x@0.5"]
    [run] = read_runs([str(config.out)])
    assert policy_folders(run) == {f"learned:{name}/x": tmp_path / name / "x/policy" for name in ("old", "new")}


@pytest.mark.slow
def test_an_evaluation_is_logged_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    about: dict[str, Any] = {
        "policy": ["threshold:0.9"],
        "model": ModelConfig("toy"),
        "tasks": ["copy"],
        "buffer_length": 8,
    }
    main(EvaluateConfig(out=tmp_path / "a", episodes=2, **about))
    assert "W&B         disabled\n" in capsys.readouterr().out
    assert not list((tmp_path / "a").glob("wandb*"))
    main(EvaluateConfig(out=tmp_path / "b", episodes=2, **about, wandb=WandbConfig(mode="offline")))
    [run] = (tmp_path / "b").glob("wandb/offline-run-*")
    assert f"wandb sync {run}\n" in capsys.readouterr().out
    assert (run / "files" / "outcomes.json").read_text() == (tmp_path / "b" / "outcomes.json").read_text()


def test_processes_share_out_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    numbers = get_context("spawn").SimpleQueue()
    for number in range(3):
        numbers.put(number)
    for device in ("cuda", "cpu", "cuda:1", "cuda", "cuda"):
        start_worker(device, numbers)
    assert chosen == [0, 1, 0]
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    cases = {("cuda", 5): 2, ("cuda", 1): 1, ("cuda", 0): 1, ("cuda:1", 40): 1, ("cpu", 15): 1, ("cpu", 16): 8}
    assert {case: default_workers(*case) for case in cases} == cases


# Several answers to each problem.


def several(right: list[int], samples: int, **changes: Any) -> Any:
    """Outcomes of problems of which so many of the samples are right."""
    count = len(right)
    about = {
        "policy": "threshold:0.9",
        "decision": "deterministic",
        "block_length": 8,
        "seed": 0,
        "seconds": 1.0,
        "task": ["humaneval"] * count,
        "index": list(range(count)),
        "score": [n / samples for n in right],
        "nfe": [2.5] * count,
        "token_positions": [100.5] * count,
        "samples": samples,
        "runs_tests": ["humaneval"],
    }
    return about | changes


def test_pass_at_k_by_hand() -> None:
    """1 - C(n - c, k) / C(n, k), of problems with 0, 1, 4 and 8 right of 8."""
    record = summarise(several([0, 1, 4, 8], 8))[0]
    assert record["samples"] == 8
    assert record["pass@1"] == pytest.approx((0 + 1 / 8 + 4 / 8 + 1) / 4) == pytest.approx(record["accuracy"])
    assert record["pass@2"] == pytest.approx((0 + 2 / 8 + (1 - 6 / 28) + 1) / 4)
    assert record["pass@4"] == pytest.approx((0 + 4 / 8 + (1 - 1 / 70) + 1) / 4)
    assert record["pass@8"] == pytest.approx((0 + 1 + 1 + 1) / 4)
    assert [name for name in record if name.startswith("pass@")] == ["pass@1", "pass@2", "pass@4", "pass@8"]
    three = summarise(several([2], 3))[0]
    assert (three["pass@1"], three["pass@2"], "pass@3" in three) == (pytest.approx(2 / 3), 1.0, False)


def test_pass_at_k_is_of_tasks_that_run_code() -> None:
    mixed = several([1, 2], 2, task=["humaneval", "gsm8k"])
    code, text, both = summarise(mixed)
    assert ("pass@2" in code, "pass@2" in text, "pass@2" in both) == (True, False, False)
    table = make_table([code, text, both])
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert columns["task"] == ["humaneval", "all"]
    assert (columns["pass@1 %"], columns["pass@2 %"]) == (["50.0", ""], ["100.0", ""])
    assert "samples" not in summarise(several([1], 1) | {"samples": 1})[0]


def test_a_dial_without_a_place_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    tell_speeds(list_jobs(["tiny", "tiny@speed=0.25", "threshold:0.9"], [64, 16]))
    [line] = capsys.readouterr().out.splitlines()
    assert line == "dial        tiny at speed 0.5, as it was saved; tiny@speed=0 is its slow end, 1 its fast one"


def test_names_are_whole_on_any_width(capsys: pytest.CaptureFixture[str]) -> None:
    records = summarise(several([1], 1))
    names = [f"learned:{'long' * 20}@speed={speed}" for speed in (0.25, 0.5)]
    print_table([{**record, "policy": name} for name in names for record in records])
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    narrow = Console(width=60, record=True)
    narrow.print(make_table([{**record, "policy": names[0]} for record in records]))
    assert "…" not in narrow.export_text().partition("┡")[2]


def test_samples_are_answers_with_keys_of_their_own(toy: ToyDenoiser) -> None:
    settings: dict[str, Any] = {"tasks": "copy", "episodes": 6, "buffer_length": 4, "temperature": 3.0}
    rule = make_rule("random:2")
    seen: list[int] = []
    once = measure(toy, rule, samples=1, **settings)
    both = ({"batch_size": size, "on_finish": seen.append, "samples": 4, **settings} for size in (3, 64))
    several_times = [measure(toy, rule, **one) for one in both]
    assert several_times[0]["score"] == several_times[1]["score"]
    assert sum(seen) == 2 * 4 * 6
    problems = [TASKS["copy"]().problem("test", i) for i in range(6)]
    decoding = DecodingSettings(4, None, 3.0, rule.features)
    done = decode(toy, [problem.prompt for problem in problems], rule, decoding, samples=4)
    scores = [float(one.text.split() == problems[i // 4].answer.split()) for i, one in enumerate(done)]
    assert several_times[0]["score"] == [sum(scores[i : i + 4]) / 4 for i in range(0, 24, 4)]
    assert several_times[0]["nfe"] == [sum(one.nfe for one in done[i : i + 4]) / 4 for i in range(0, 24, 4)]
    assert once["score"] == scores[::4]
    assert "samples" not in once


def test_samples_that_would_be_one_are_refused(toy: ToyDenoiser, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"samples is 8, but those of threshold:0.9 \(deterministic\) would be one and"
    ):
        main(EvaluateConfig(samples=8, policy=["threshold:0.9"], out=tmp_path / "run", model=ModelConfig("toy")))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="samples is 0: it must be 1 or more"):
        EvaluateConfig(samples=0)
    with pytest.raises(ValueError, match="at temperature 0"):
        measure(toy, make_rule("threshold:0.9"), samples=2, episodes=1)


def test_a_sweep_leaves_out_what_this_dllm_can_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    small = load_denoiser("small")
    config = EvaluateConfig(policy=["all"], model=ModelConfig("small"))
    jobs = plan(["all"], [128])
    found = possible(jobs, config, small)
    assert {job.policy.partition(":")[0] for job in jobs} - {job.policy.partition(":")[0] for job in found} == {
        "guided",
        "diffuspec",
    }
    lines = capsys.readouterr().out.splitlines()
    assert [line[:18] for line in lines] == ["left out    guided", "left out    diffus"]
    with pytest.raises(ValueError, match=r"guided's guide is 'tiny_guide': it knows 144 tokens"):
        possible(jobs, replace(config, policy=["all", "guided:0.3"]), small)
