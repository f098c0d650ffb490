from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from benchmark_files import BENCHMARKS, PARALLEL_BENCH, gsm8k, make_files, mbpp, stub_gym, sudoku, write_jsonl

import envs.tasks
from envs.models.load import load_denoiser
from envs.tasks import Problem, Split, describe_data, make_task, make_tasks, need_splits, split_of
from envs.tasks.benchmarks.countdown import evaluate, score_countdown, solve
from envs.tasks.benchmarks.files import FileTask, HubSplit, read_hub, read_rows
from envs.tasks.benchmarks.parallel_bench import parse_list, score_parallel_bench
from envs.tasks.benchmarks.sudoku_text import final_grid, score_cells, score_sudoku
from envs.tasks.scoring.sandbox import protection
from envs.unmasking import UnmaskingVectorEnv
from policies import make_rule
from train.command.config import parse
from train.command.model_config import ModelConfig
from train.evaluate import main
from train.evaluation.measure import measure
from train.evaluation.run import EvaluateConfig
from train.job.ppo_config import TrainPPOConfig

SPLITS: tuple[Split, ...] = get_args(Split)
GARBAGE = [
    "",
    " ",
    "I don't know.",
    "<|eot_id|>",
    "\\boxed{}",
    "<answer>",
    "```",
    "[",
    "(" * 5000,
    "{" * 5000,
    "\\" * 999,
]
every_benchmark = pytest.mark.parametrize("name", BENCHMARKS)


@cache
def task_text(name: str) -> str:
    return make_files(name, Path(mkdtemp()))


@cache
def task_of(name: str) -> FileTask:
    task = make_task(task_text(name))
    assert isinstance(task, FileTask)
    return task


def splits_of(name: str) -> tuple[Split, ...]:
    return SPLITS if "train" in BENCHMARKS[name].splits else ("test",)


def problems_of(name: str, split: Split) -> list[Problem]:
    return [task_of(name).problem(split, index) for index in range(task_of(name).size(split))]


# The same five tests for each benchmark.


@every_benchmark
def test_same_index_gives_the_same_problem(name: str) -> None:
    again = make_task(task_text(name))
    for split in splits_of(name):
        problems = problems_of(name, split)
        assert [again.problem(split, index) for index in range(len(problems))] == problems
        assert [problem.index for problem in problems] == list(range(len(problems)))
        # Training may go round; asking for a problem that isn't there is refused.
        assert again.wrapped_problem(split, 2**31 + 1) == problems[(2**31 + 1) % len(problems)]
        with pytest.raises(ValueError, match=f"{again.name} has {len(problems)} {split} problems"):
            again.problem(split, len(problems))


@every_benchmark
def test_splits_are_disjoint_and_complete(name: str) -> None:
    task, about = task_of(name), BENCHMARKS[name]
    questions = {split: [task.question(row) for row in task.rows(split)] for split in splits_of(name)}
    every = [question for split in questions.values() for question in split]
    assert len(set(every)) == len(every) == about.count * len(about.splits)
    assert len(questions["test"]) == about.count
    for split in splits_of(name)[:2]:
        if "validation" not in about.splits and split != "test":
            assert {split_of(question) == "validation" for question in questions[split]} == {split == "validation"}
    assert len({problem.prompt for split in splits_of(name) for problem in problems_of(name, split)}) == len(every)


@pytest.mark.slow
@every_benchmark
def test_reference_answer_scores_one(name: str) -> None:
    task = task_of(name)
    for split in splits_of(name):
        for problem in problems_of(name, split):
            assert task.score(problem.answer, problem) == 1.0
    problem = problems_of(name, "test")[0]
    for ending in ("\n", "<|eot_id|><|endoftext|>", "<|endoftext|>\n\\boxed{1} <answer>2</answer> ```\n[]"):
        assert task.score(problem.answer + ending, problem) == 1.0


@pytest.mark.slow
@every_benchmark
def test_wrong_and_garbled_answers_score_zero(name: str) -> None:
    task = task_of(name)
    for problem in problems_of(name, "test")[:2]:
        wrong = [*GARBAGE, *BENCHMARKS[name].wrong, f"<|eot_id|>{problem.answer}"]
        assert {text: task.score(text, problem) for text in wrong} == dict.fromkeys(wrong, 0.0)


@every_benchmark
def test_malformed_rows_are_refused(name: str, tmp_path: Path) -> None:
    about = BENCHMARKS[name]
    text = make_files(name, tmp_path)
    [file] = tmp_path.glob("test.*")
    for change, message in about.malformed:
        rows = about.rows(100, 3)
        about.write(file, [rows[0], {**rows[1], **change}, rows[2]])
        with pytest.raises(ValueError, match=f"(?s)row 1 of .*malformed.*{message}"):
            make_task(text).size("test")


# Where the data comes from.


def test_a_folder_holds_a_file_a_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", gsm8k(0, 30))
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress(json.dumps(gsm8k(50, 1)[0]).encode()))
    task = make_task(f"gsm8k:data={tmp_path}")
    assert (task.size("test"), task.size("train") + task.size("validation")) == (1, 30)  # type: ignore[operator]
    write_jsonl(tmp_path / "validation.jsonl", gsm8k(5, 2))
    task = make_task(f"gsm8k:data={tmp_path}")
    assert (task.size("train"), task.size("validation")) == (28, 2)
    assert describe_data([task]) == f"{tmp_path}: gsm8k (28 train, 2 validation, 1 test)"


def test_training_problems_that_are_test_problems_are_left_out(tmp_path: Path) -> None:
    train, test = write_jsonl(tmp_path / "a.jsonl", gsm8k(0, 40)), write_jsonl(tmp_path / "b.jsonl", gsm8k(30, 20))
    task = make_task(f"gsm8k:train={train},test={test}")
    assert task.size("train") + task.size("validation") == 30  # type: ignore[operator]
    assert task.source == f"train {train}, test {test}"


def test_mbpp_splits_are_the_official_ones(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mbpp.jsonl", mbpp(1, 974))
    task = make_task(f"mbpp:allow_code_execution=true,data={tmp_path}")
    assert [task.size(split) for split in SPLITS] == [374, 90, 500]
    assert "multiply a number by 11." in task.problem("test", 0).prompt


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(repository: str, config: str | None, split: str) -> Any:
        asked.append((repository, config, split))
        if repository == "gone":
            raise ConnectionError("no network")
        return gsm8k(0 if split == "train" else 100, 30)

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    task = make_task("gsm8k")
    need_splits([task], ["test", "train"])
    assert asked[0] == ("openai/gsm8k", "main", "test")
    assert task.source == "openai/gsm8k"
    with pytest.raises(
        ValueError, match=r"'gone' \(test\) is needed .* can't be loaded: ConnectionError\('no network'\)"
    ):
        read_hub(HubSplit("gone", "test"))


def test_without_datasets_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = r"'openai/gsm8k' \(test\) is needed .* datasets is not installed; or download it .* gsm8k:data=FOLDER"
    with pytest.raises(ValueError, match=message):
        make_task("gsm8k").size("test")


# A benchmark at a time.


@pytest.mark.parametrize(
    ("text", "numbers", "target", "score"),
    [
        ("<answer>30 + 93 - 100</answer>", [30, 100, 93], 23, 1),
        (r"<answer>\boxed{93 - (100 - 30)}</answer>", [30, 100, 93], 23, 1),
        (r"\boxed{30 + 93 - 100 = 23}", [30, 100, 93], 23, 1),
        ("23 = 93 - 100 + 30", [30, 100, 93], 23, 1),
        ("<answer>\n(6 \u00f7 2) \u00d7 4", [6, 2, 4], 12, 1),
        (r"\boxed{\frac{6}{2} \times 4}", [6, 2, 4], 12, 1),
        ("<answer>8 / (3 - 8 / 3)</answer>", [8, 8, 3, 3], 24, 1),  # exact: 24, not 23.999...
        ("<answer>30 + 93</answer>", [30, 100, 93], 123, 0),  # not all numbers
        ("<answer>30 + 93 - 100 + 100 - 100</answer>", [30, 100, 93], 23, 0),  # one thrice
        ("<answer>30 + 93 - 100</answer> so <answer>30 - 93 + 100</answer>", [30, 100, 93], 23, 0),  # the last counts
        ("<answer>300 + 93</answer>", [30, 0, 93], 393, 0),
    ],
)
def test_countdown_scores(text: str, numbers: list[int], target: int, score: int) -> None:
    assert score_countdown(text, numbers, target) == score


def test_countdown_arithmetic_is_exact_and_safe() -> None:
    assert evaluate("1/3 + -1/3 + 2*(3-1)") == (Fraction(4), [1, 3, 1, 3, 2, 3, 1])
    for bad in (
        "9**9**9",
        "a+1",
        "f(1)+2",
        "1.5+1",
        "1/0",
        "(" * 150 + "1",
        "1+" * 200 + "1",
        "1 if 1 else 2",
        "True+1",
    ):
        with pytest.raises(ValueError, match="expression"):
            evaluate(bad)
    assert solve((2, 2), 5) is None
    found = solve((3, 7, 25, 50), 13)
    assert found is not None
    assert evaluate(found) == (Fraction(13), [3, 25, 50, 7])


def test_sudoku_scores() -> None:
    # Both grids solve the puzzle: 0 or 1 by the rules, but by d1's share of cells only the stored one is right.
    puzzle, stored, other = "0000341200000000", "1234341221434321", "2143341212344321"
    assert [score_sudoku(f"<answer>{grid}</answer>", puzzle) for grid in (stored, other)] == [1.0, 1.0]
    assert score_cells(stored, puzzle, stored) == 1.0
    assert score_cells(other, puzzle, stored) == pytest.approx(4 / 12)
    assert score_cells(f"<answer>{stored[:8]}</answer>", puzzle, stored) == pytest.approx(4 / 12)
    assert score_sudoku(stored.replace("3412", "4312"), puzzle) == 0.0
    for text in (
        "1234\n3412\n2143\n4321",
        "| 1 | 2 | 3 | 4 |\n| 3 4 1 2 |\n2,1,4,3\n4 3 2 1",
        f"First {puzzle}, then {stored}.",
    ):
        assert final_grid(text, 16) == stored
    row = sudoku(4)(0, 1)[0]
    assert make_task("sudoku_4x4:score=cells,test=x").scored_by == "cells"  # type: ignore[attr-defined]
    assert score_cells(row["Solution"], row["Puzzle"], row["Solution"]) == 1.0


def test_sudoku_of_the_reasoning_is_no_answer() -> None:
    puzzle, solution = "0000341200000000", "1234341221434321"
    for answer in ("1111", solution[:-1], solution + "1"):
        text = f"The puzzle is {puzzle}. I get {solution}. <answer>{answer}</answer>"
        assert final_grid(text, 16) == answer
        assert score_sudoku(text, puzzle) == 0.0
    assert score_sudoku(f"{solution} <answer></answer>", puzzle) == 0.0
    assert score_cells(f"{puzzle} <answer>{solution[:8]}</answer>", puzzle, solution) == pytest.approx(4 / 12)
    assert final_grid("<answer>Row 1: 1234\nRow 2: 3412\nRow 3: 2143\nRow 4: 4321</answer>", 16) == solution


def test_rows_with_half_a_character_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text(json.dumps(gsm8k(0, 1)[0]) + '\n{"question": "bad \\ud83d here", "answer": "#### 1"}\n')
    with pytest.raises(ValueError, match=r"row 1 of .* its question has the character '\\ud83d', which is half of one"):
        make_task(f"gsm8k:test={file}").size("test")


def test_byte_order_marks_are_passed_over(tmp_path: Path) -> None:
    row = json.dumps(gsm8k(0, 1)[0])
    for name, content in {"a.jsonl": row, "a.json": f"[{row}]"}.items():
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert read_rows(tmp_path / name) == gsm8k(0, 1)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(row.encode("utf-8-sig")))
    assert read_rows(tmp_path / "a.jsonl.gz") == gsm8k(0, 1)


def test_parallel_bench_groups_have_names_of_their_own(tmp_path: Path) -> None:
    texts = []
    for group in ("waiting_line", "waiting_line_n15"):
        (tmp_path / group).mkdir()
        make_files("parallel_bench:copy", tmp_path / group)
        (tmp_path / group / "test.jsonl").rename(tmp_path / group / "copy.jsonl")
        texts.append(f"parallel_bench:copy,data={tmp_path / group}")
    names = ["parallel_bench:waiting_line/copy", "parallel_bench:waiting_line_n15/copy"]
    assert [task.name for task in make_tasks(texts)] == names
    again = make_tasks([f"{name},data={tmp_path}" for name in names])
    assert [(task.name, task.size("test")) for task in again] == [(name, 40) for name in names]


def test_parallel_bench_prompts_have_lines(tmp_path: Path) -> None:
    text = make_files("parallel_bench:sudoku_n4_12", tmp_path)
    config = yaml.safe_load((tmp_path / "task_config.yaml").read_text())
    config["x/sudoku_n4_12"]["prompt"] = r"Solve\n{sudoku}\nnow"
    (tmp_path / "task_config.yaml").write_text(yaml.safe_dump(config))
    lines = make_task(text).problem("test", 0).prompt.split("\n")
    assert (lines[0], lines[-1], len(lines)) == ("Solve", "now", 6)


LINE = {"input": ["A B", "C D", "E F"], "word": "N W"}
GRID = "1234\n3412\n2143\n4321"


@pytest.mark.parametrize(
    ("task", "answer", "right", "wrong"),
    [
        (
            "copy",
            '["A B", "C D"]',
            ['["A B", "C D"]', "[A B, C D]", 'x ["Z"] is ["A B","C D"] done', "['A B', 'C D'"],
            ['["C D", "A B"]', '["A B"]'],
        ),
        ("shuffle", LINE, ["[C D, A B, E F]"], ["[A B, C D, E F]", "[A B, C D, C D]"]),
        (
            "insert_random",
            LINE,
            ["[A B, N W, C D, E F]", "[A B, C D, E F, N W]"],
            ["[N W, C D, A B, E F]", "[A B, C D, E F]"],
        ),
        ("remove_random", LINE, ["[A B, E F]", "[C D, E F]"], ["[E F, A B]", "[A B, C D, E F]", "[A B]"]),
        ("replace_random", LINE, ["[A B, N W, E F]"], ["[N W, N W, E F]", "[C D, N W, E F]", "[A B, C D, E F]"]),
        (
            "latin_square_n4",
            {"symbols": ["A", "7"]},
            ["A,7\n7,A", "Sure:\n7, A\n\nA, 7\nA,7"],
            ["A,7\nA,7", "A,7", "A,7,A\n7,A,7"],
        ),
        ("sudoku_n4_12", GRID, [GRID, "1 2 3 4\n3,4,1,2\n\n2143\n4321"], ["2143\n3412\n1234\n4321", "1234\n3412"]),
        ("sudoku_n4_12", "12\n", [], ["12"]),
    ],
)
def test_parallel_bench_scores(task: str, answer: Any, right: list[str], wrong: list[str]) -> None:
    metric, _ = PARALLEL_BENCH[task]
    assert [score_parallel_bench(text, answer, metric) for text in right] == [1.0] * len(right)
    assert [score_parallel_bench(text, answer, metric) for text in wrong] == [0.0] * len(wrong)


def test_parallel_bench_prompt_has_the_worked_example() -> None:
    task = task_of("parallel_bench:copy")
    assert task.problem("test", 0).prompt == (
        'Copy ["A B", "C D"]\n\n["C D", "A B"]\n\nCopy ["Roy Ortiz 100", "Ann O\'Neil 100", "Eric Reynolds 100"]'
    )
    assert parse_list("Roy Ortiz, Ann") == ["Roy Ortiz", "Ann"]


@pytest.fixture
def gym(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with stub_gym(tmp_path, monkeypatch):
        yield


@pytest.mark.usefixtures("gym")
def test_reasoning_gym_adapter() -> None:
    check_reasoning_gym("sums")
    task = make_task("reasoning_gym:sums")
    problem = task.problem("test", 3)
    # A fresh task has to make the problem again to score it; a scorer that raises scores 0.
    assert make_task("reasoning_gym:sums").score(problem.answer, problem) == 1.0
    assert task.score("<answer>1</answer>", problem) == 0.01
    assert task.score("what?", problem) == 0.0
    with pytest.raises(ValueError, match="reasoning_gym's dataset is 'chess': choose from sums"):
        make_task("reasoning_gym:chess")


@pytest.mark.parametrize("dataset", ["chain_sum", "spell_backward", "mini_sudoku"])
def test_reasoning_gym(dataset: str) -> None:
    pytest.importorskip("reasoning_gym")
    check_reasoning_gym(dataset)


def check_reasoning_gym(dataset: str) -> None:
    task, again = make_task(f"reasoning_gym:{dataset}"), make_task(f"reasoning_gym:{dataset}")
    assert task.name == f"reasoning_gym:{dataset}"
    problems = {split: [task.problem(split, index) for index in range(5)] for split in SPLITS}
    assert all(split_of(problem.prompt) == split for split in SPLITS for problem in problems[split])
    assert [again.problem("test", index) for index in range(5)] == problems["test"]
    assert {task.score(problem.answer, problem) for split in SPLITS for problem in problems[split]} == {1.0}
    assert all(task.score(text, problem) < 0.2 for text in ("", "?") for problem in problems["test"])


HARMFUL = ["9**9**9", "exit()", "print(1.0)", "__import__('os')._exit(0)", "[0] * 10**11", "1/0", "\ud800", "(" * 9999]


@pytest.mark.usefixtures("gym")
@pytest.mark.parametrize("text", HARMFUL)
def test_what_reasoning_gym_evaluates_ends_and_harms_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.tasks.benchmarks.reasoning_gym.SECONDS", 0.5)
    task = make_task("reasoning_gym:sums")
    problem = task.problem("test", 0)
    assert task.score(f"<answer>{text}</answer>", problem) == 0.0
    assert task.score(problem.answer, problem) == 1.0


@pytest.mark.usefixtures("gym")
def test_what_reasoning_gym_evaluates_changes_no_file(tmp_path: Path) -> None:
    if not protection():
        pytest.skip("the system keeps no process from changing files")
    task, file = make_task("reasoning_gym:sums"), tmp_path / "written"
    problem = task.problem("test", 0)
    file.write_text("kept")
    for text in (f"open({str(file)!r}, 'w')", f"__import__('os').open({str(file) + '2'!r}, 65)"):
        assert task.score(text, problem) == 0.0
    assert file.read_text() == "kept"
    assert not (tmp_path / "written2").exists()


def test_reasoning_gym_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ValueError, match="reasoning-gym is not installed: pip install"):
        make_task("reasoning_gym:chain_sum")


# Evaluating and training on a finite split.


def test_an_evaluation_ends_with_the_split(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "test.jsonl", gsm8k(0, 5))
    tasks = ["copy", f"gsm8k:test={file}"]
    outcomes = measure(
        load_denoiser("toy"), make_rule("threshold:0.5"), tasks=tasks, first=2, episodes=10, buffer_length=4
    )
    assert outcomes["task"] == ["copy"] * 10 + ["gsm8k"] * 3
    assert outcomes["index"] == [*range(2, 12), 2, 3, 4]
    config = EvaluateConfig(
        ["threshold:0.5"], tmp_path / "run", model=ModelConfig("toy"), tasks=tasks, first=5, buffer_length=4
    )
    with pytest.raises(ValueError, match="first is 5: gsm8k has 5 test problems, so it must be below 5"):
        main(config)
    assert not (tmp_path / "run").exists()


def test_training_goes_round_a_finite_split(tmp_path: Path) -> None:
    text = f"gsm8k:train={write_jsonl(tmp_path / 'train.jsonl', gsm8k(0, 12))}"
    env = UnmaskingVectorEnv(4, denoiser="toy", tasks=text, buffer_length=4)
    env.reset(seed=0)
    seen = {problem.index for problem in env.problems}
    for _ in range(60):
        env.step(np.ones((4, 4), dtype=np.int8))
        seen |= {problem.index for problem in env.problems}
    assert seen == set(range(make_task(text).size("train") or 0))


def test_a_task_may_be_given_by_its_singular_flag() -> None:
    words = ["--task", "copy", "--task=gsm8k:data=x,test=", "--tasks", "sort"]
    assert parse(EvaluateConfig, argv=words).tasks == ["copy", "gsm8k:data=x,test=", "sort"]
    assert parse(TrainPPOConfig, argv=["--env.task", "add"]).env.tasks == ["add"]


# Naming tasks.


def test_make_task_reads_options() -> None:
    task = make_task("copy:3,longest=3")
    assert {len(task.problem("train", index).answer.split()) for index in range(20)} == {3}
    assert [task.name for task in make_tasks(["suite", "copy", "sudoku_4x4:test=x"])] == [
        *envs.tasks.TASKS,
        "sudoku_4x4",
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_task("gsm9k"), "task is 'gsm9k': did you mean gsm8k"),
        (lambda: make_task("gsm8k:path=x"), "gsm8k's option is 'path': .* data, train, validation, test"),
        (lambda: make_task("gsm8k:data=x,data=y"), "gsm8k's option is 'data'"),
        (lambda: make_task("gsm8k:data=/nowhere"), "gsm8k's data is '/nowhere': there is no such folder"),
        (lambda: make_task("gsm8k:data=.,test=x"), "give a folder or files, not both"),
        (lambda: make_task("gsm8k:data=.").size("test"), r"gsm8k has no test problems in '\.': put test.jsonl there"),
        (
            lambda: make_task("gsm8k:test=x").size("train"),
            "gsm8k has no train problems: name a file .* gsm8k:train=FILE",
        ),
        (lambda: make_task("gsm8k:test=x").size("dev"), "split is 'dev'"),  # type: ignore[arg-type]
        (lambda: make_task("gsm8k:test=x.jsonl").size("test"), "data file is 'x.jsonl': there is no such file"),
        (lambda: make_task("copy:shortest=a"), "copy's shortest is 'a': it must be a whole number"),
        (lambda: make_task("humaneval"), "humaneval runs programs .* humaneval:allow_code_execution=true"),
        (lambda: make_task("mbpp:allow_code_execution=yes"), "is 'yes': it must be true or false"),
        (lambda: make_task("mbpp:allow_code_execution=true,seconds=0"), "mbpp's seconds is 0"),
        (lambda: make_task("sudoku_4x4:score=half"), "sudoku_4x4's score is 'half': choose one of solved, cells"),
        (lambda: make_task("parallel_bench"), "parallel_bench's task is ''"),
        (
            lambda: make_task("parallel_bench:copy,data=.").size("test"),
            r"parallel_bench:copy has no test problems in '\.'",
        ),
        (lambda: make_tasks(["gsm8k", "gsm8k:test=x.jsonl"]), "another task has its name 'gsm8k' too"),
    ],
)
def test_errors_name_the_option(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "must end in one of .jsonl"),
        ("a.jsonl", "{", "can't be read"),
        ("a.jsonl", "", "one problem a row"),
        ("a.json", "[1]", "one problem a row"),
        ("a.jsonl.gz", "x", "can't be read"),
    ],
)
def test_files_that_cannot_be_read(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / name)


def test_parallel_bench_needs_its_config(tmp_path: Path) -> None:
    text = make_files("parallel_bench:copy", tmp_path)
    (tmp_path / "task_config.yaml").write_text("x/copy: {metric: paraphrase_score, prompt: ''}")
    with pytest.raises(ValueError, match=r"metric in .* is 'paraphrase_score': only list_match_score"):
        make_task(text).size("test")
    (tmp_path / "task_config.yaml").write_text("x/sort: {}")
    with pytest.raises(ValueError, match=r"parallel_bench:copy is not in .* choose from x/sort"):
        make_task(text).size("test")
    (tmp_path / "task_config.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs .*task_config\.yaml"):
        make_task(text).size("test")


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "test-00000-of-00001.parquet"
    file.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pyarrow is not installed"):
        read_rows(file)
    parquet = SimpleNamespace(read_table=lambda path: SimpleNamespace(to_pylist=lambda: gsm8k(0, 2)))
    module = ModuleType("pyarrow")
    module.parquet = parquet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", module)
    assert make_task(f"gsm8k:data={tmp_path}").size("test") == 2


def test_a_users_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a task's name no shell writes it out."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_jsonl(tmp_path / "data" / "test.jsonl", gsm8k(0, 3))
    write_jsonl(tmp_path / "data" / "train.jsonl", gsm8k(5, 30))
    by_folder = make_task("gsm8k:data=~/data")
    by_file = make_task("gsm8k:train=~/data/train.jsonl,test=~/data/test.jsonl")
    assert by_folder.problem("test", 2) == by_file.problem("test", 2)
    with pytest.raises(FileNotFoundError, match="gsm8k's data is '~/other': there is no such folder"):
        make_task("gsm8k:data=~/other")
