from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import Any, get_args

import numpy as np
import pytest
from scipy import stats

from envs.tasks import SUITE, TASKS, Problem, Split, Task, make_tasks, prompt, split_of
from envs.tasks.suite.addition import Addition
from envs.tasks.suite.copy_list import Copy
from envs.tasks.suite.form import EMPTY, form
from envs.tasks.suite.insert import Insert
from envs.tasks.suite.replace import Replace
from envs.tasks.suite.shuffle import Shuffle
from envs.tasks.suite.sudoku import Sudoku, all_grids, is_solved

SPLITS: tuple[Split, ...] = get_args(Split)
PINNED = [
    "copy . . : v s u . . . . . . . . . . . . . =",
    "insert d 3 : j y a s v g w . . . . . . . . . =",
    "add . . : 1 5 3 . . . . . . . . . . . . . =",
    "sudoku . . : _ 1 _ _ _ _ _ _ _ _ 2 _ 3 _ 1 4 =",
]
every_task = pytest.mark.parametrize("name", TASKS)


@cache
def draws(name: str, split: Split) -> list[Problem]:
    task = TASKS[name]()
    return [task.problem(split, index) for index in range(60 if name == "sudoku" else 400)]


def all_draws(name: str) -> list[Problem]:
    return [problem for split in SPLITS for problem in draws(name, split)]


def cells(problem: Problem) -> list[str]:
    return [cell for cell in problem.prompt.split()[4:20] if cell != "."]


def ask(prompt: str) -> Problem:
    return Problem(prompt.split()[0], "train", 0, prompt, "")


# The same five tests for each task.


@pytest.mark.slow
@every_task
def test_same_index_gives_the_same_problem(name: str) -> None:
    again = TASKS[name]()
    for split in SPLITS:
        assert [again.problem(split, index) for index in (7, 3)] == [draws(name, split)[7], draws(name, split)[3]]
    # Half of add's problems are among 504 prompts of three addends, so draws repeat.
    share = 0.8 if name == "add" else 0.9
    assert len({problem.prompt for problem in draws(name, "train")}) > share * len(draws(name, "train"))


@every_task
def test_splits_are_disjoint(name: str) -> None:
    prompts = {split: {problem.prompt for problem in draws(name, split)} for split in SPLITS}
    assert all(prompts[one].isdisjoint(prompts[two]) for one, two in combinations(SPLITS, 2))
    assert all(split_of(prompt) == split for split in SPLITS for prompt in prompts[split])
    assert {(problem.task, problem.split) for problem in all_draws(name)} == {(name, split) for split in SPLITS}


@every_task
def test_answer_scores_one(name: str) -> None:
    task = TASKS[name]()
    assert {task.score(problem.answer, problem) for problem in all_draws(name)} == {1.0}
    problem = draws(name, "train")[0]
    assert task.score(f"  {problem.answer.replace(' ', '  ')} ", problem) == 1.0


@every_task
def test_wrong_answers_score_zero(name: str) -> None:
    task = TASKS[name]()
    for problem in draws(name, "test")[:20]:
        words = problem.answer.split()
        wrong = [[], words[:-1], words[1:], [*words, words[-1]], [*words, "?"], problem.prompt.split()]
        # Every answer with one word changed into any other.
        wrong += [[*words[:i], new, *words[i + 1 :]] for i, old in enumerate(words) for new in task.words if new != old]
        assert {task.score(" ".join(answer), problem) for answer in wrong} == {0.0}


@every_task
def test_form_and_vocabulary(name: str) -> None:
    vocabulary = {name, EMPTY, ":", "=", *TASKS[name].words}
    for problem in all_draws(name):
        prompt, answer = problem.prompt.split(" "), problem.answer.split(" ")
        assert len(prompt) == 21
        assert (prompt[0], prompt[3], prompt[20]) == (name, ":", "=")
        assert 1 <= len(answer) <= 63  # leaves room for end-of-text in a buffer of 64
        assert vocabulary.issuperset(prompt)
        assert set(TASKS[name].words).issuperset(answer)


# Known truth, a task at a time.


def inserted(items: list[str], arguments: list[str]) -> list[str]:
    items.insert(int(arguments[1]), arguments[0])
    return items


def removed(items: list[str], arguments: list[str]) -> list[str]:
    del items[int(arguments[0])]
    return items


@pytest.mark.parametrize(
    ("name", "solve"),
    [
        ("copy", lambda items, arguments: items),
        ("reverse", lambda items, arguments: items[::-1]),
        ("sort", lambda items, arguments: sorted(items)),
        ("insert", inserted),
        ("remove", removed),
    ],
)
def test_list_answers(name: str, solve: Callable[[list[str], list[str]], list[str]]) -> None:
    for problem in all_draws(name):
        arguments = [word for word in problem.prompt.split()[1:3] if word != "."]
        assert problem.answer.split() == solve(cells(problem), arguments)
        assert 3 <= len(set(cells(problem))) == len(cells(problem)) <= 8


@pytest.mark.parametrize(("name", "extra"), [("insert", 1), ("remove", 0)])
def test_places_are_uniform(name: str, extra: int) -> None:
    problems = [problem for problem in all_draws(name) if len(cells(problem)) == 4]
    places = Counter(int(re.findall(r"\d", problem.prompt)[0]) for problem in problems)
    assert set(places) == set(range(4 + extra))
    assert stats.chisquare(list(places.values())).pvalue > 1e-3


@pytest.mark.parametrize(
    ("task", "prompt", "right", "wrong"),
    [
        (
            Shuffle(),
            form("shuffle", ["a", "b", "c"]),
            ["a c b", "b a c", "b c a", "c a b", "c b a"],
            ["a b c", "", "a", "b a", "b a c c", "b b c", "b a d"],
        ),
        (
            Replace(),
            form("replace", ["a", "b", "c"], ["x"]),
            ["x b c", "a x c", "a b x"],
            ["a b c", "", "x b", "x b c x", "x x c", "x x x", "a b y", "x c b", "b x c"],
        ),
        (
            Addition(),
            form("add", ["3", "9", "7"]),
            ["3 + 9 = 12 + 7 = 19", "9 + 7 = 16 + 3 = 19", "7 + 3 = 10 + 9 = 19"],
            [
                *["", "3", "3 + 9 = 12", "3 9 7 19"],
                *["3 + 9 = 11 + 7 = 18", "3 + 9 = 12 + 7 = 20", "3 + 3 = 6 + 7 = 13", "03 + 9 = 12 + 7 = 19"],
                *["3 + 9 = 12 + 7 = 19 +", "9 + 3 = 12 + 7 = 19 + 3 = 22"],
            ],
        ),
    ],
)
def test_hand_scored_answers(task: Task, prompt: str, right: list[str], wrong: list[str]) -> None:
    assert [task.score(text, ask(prompt)) for text in right] == [1.0] * len(right)
    assert [task.score(text, ask(prompt)) for text in wrong] == [0.0] * len(wrong)


def test_replace_and_shuffle_answers_are_not_always_the_same_place() -> None:
    replaced = Counter(
        next(i for i, (new, old) in enumerate(zip(problem.answer.split(), cells(problem), strict=True)) if new != old)
        for problem in all_draws("replace")
        if len(cells(problem)) == 4
    )
    assert set(replaced) == set(range(4))
    orders = {
        "".join(str(cells(problem).index(word)) for word in problem.answer.split())
        for problem in all_draws("shuffle")
        if len(cells(problem)) == 3
    }
    assert orders == {"021", "102", "120", "201", "210"}


def test_addition_totals() -> None:
    task = Addition()
    for problem in all_draws("add"):
        first, steps = problem.answer.split(" ", 1)[0], re.findall(r" \+ (\d) = (\d\d?)", problem.answer)
        assert first + "".join(f" + {addend} = {total}" for addend, total in steps) == problem.answer
        addends = [int(first), *(int(addend) for addend, _ in steps)]
        assert [int(total) for _, total in steps] == [sum(addends[: n + 2]) for n in range(len(steps))]
        assert sorted(map(str, addends)) == sorted(set(cells(problem)))
        assert task.shortest <= len(addends) <= task.longest


def test_addition_at_its_longest_fits_the_form() -> None:
    problem = Addition(9, 9).problem("train", 0)
    assert sorted(cells(problem)) == list("123456789")
    assert len(problem.answer.split()) == 1 + 8 * 4
    assert problem.answer.endswith("= 45")


def solutions(grid: list[int]) -> list[list[int]]:
    """All ways to fill the zeros, by backtracking."""
    if 0 not in grid:
        return [grid]
    i = grid.index(0)
    row, column = divmod(i, 4)
    seen = {
        grid[4 * r + c]
        for r in range(4)
        for c in range(4)
        if r == row or c == column or (r // 2, c // 2) == (row // 2, column // 2)
    }
    return [done for digit in {1, 2, 3, 4} - seen for done in solutions([*grid[:i], digit, *grid[i + 1 :]])]


def test_sudoku_has_288_grids() -> None:
    brute = {tuple(grid) for grid in solutions([0] * 16)}
    assert len(brute) == 288
    assert {tuple(grid) for grid in all_grids().tolist()} == brute
    assert all_grids().shape == (288, 16)


def test_sudoku_puzzles_have_one_solution() -> None:
    task = Sudoku()
    for problem in all_draws("sudoku"):
        puzzle = [0 if cell == "_" else int(cell) for cell in problem.prompt.split()[4:20]]
        assert task.fewest <= puzzle.count(0) <= task.most
        assert solutions(puzzle) == [[int(digit) for digit in problem.answer.split()]]


def test_sudoku_accepts_every_solution_that_keeps_the_digits() -> None:
    task, blank = Sudoku(), ask(form("sudoku", ["_"] * 16))
    assert sum(task.score(" ".join(map(str, grid)), blank) for grid in all_grids()) == 288
    clue = ask(form("sudoku", ["3", *["_"] * 15]))
    assert sum(task.score(" ".join(map(str, grid)), clue) for grid in all_grids()) == 288 / 4
    assert task.score(" ".join(["1"] * 16), blank) == 0.0
    assert task.score(" ".join(["01", *map(str, all_grids()[0][1:])]), blank) == 0.0


def test_solved_grids_of_both_sizes() -> None:
    for box in (2, 3):
        side = box * box
        place = np.arange(side)
        # Row r is shifted by a box for each row of its band, and by one for each band.
        solved = (place[:, None] % box * box + place[:, None] // box + place) % side + 1
        shifted = (place[:, None] + place) % side + 1  # right in rows and columns only
        row, column = solved.copy(), solved.copy()
        row[[0, -1]] = row[[-1, 0]]  # rows of two bands: columns stay right
        column[0, [0, -1]] = column[0, [-1, 0]]  # rows and, but for two, columns stay right
        repeated = np.tile(place + 1, (side, 1))
        grids = np.stack([solved, solved.T, shifted, row, column, repeated, repeated.T])
        assert is_solved(grids.reshape(-1, side * side)).tolist() == [True, True] + [False] * 5
        assert is_solved(solved.ravel()).tolist() is True


def test_split_shares() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(split_of(Copy().sample(rng)[0]) for _ in range(5000))
    observed = [counts[split] for split in ("train", "validation", "test")]
    assert stats.chisquare(observed, [4000, 500, 500]).pvalue > 1e-3


def test_problems_never_change() -> None:
    # The shipped checkpoint was trained on these splits: after a change its training set may hold test problems.
    assert [TASKS[name]().problem("test", 0).prompt for name in ("copy", "insert", "add", "sudoku")] == PINNED


def test_make_tasks() -> None:
    assert [task.name for task in make_tasks(SUITE)] == list(TASKS)
    assert [task.name for task in make_tasks("sort")] == ["sort"]
    assert [task.name for task in make_tasks(["sort", "add"])] == ["sort", "add"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_tasks("sums"), "task is 'sums': choose from suite, prose, copy, "),
        (lambda: make_tasks(["copy", "sums"]), "task is 'sums'"),
        (lambda: make_tasks([]), r"task is \[\]"),
        (lambda: Copy().problem("dev", 0), "split is 'dev': choose one of train, validation, test"),  # type: ignore[arg-type]
        (lambda: Copy().problem("test", -1), "index is -1"),
        (lambda: Copy(1, 4), "copy has shortest 1 and longest 4: they must satisfy 2 <= shortest"),
        (lambda: Copy(5, 4), "copy has shortest 5 and longest 4"),
        (lambda: Insert(2, 16), "insert has shortest 2 and longest 16"),
        (lambda: Addition(2, 10), "add has shortest 2 and longest 10"),
        (lambda: Sudoku(0, 4), "blanks are 0 to 4"),
        (lambda: Sudoku(4, 13), "blanks are 4 to 13"),
    ],
)
def test_errors_name_the_argument(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# Prompts of one's own.


@every_task
def test_prompts_that_a_task_makes_can_be_asked_for(name: str) -> None:
    for problem in all_draws(name)[:60]:
        words, arguments = " ".join(cells(problem)), " ".join(w for w in problem.prompt.split()[1:3] if w != EMPTY)
        assert prompt(name, words, arguments) == problem.prompt


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("srot", "c a b"), "task is 'srot': the embedded ones are copy, reverse, sort,"),
        (("sort", "c a b", "x"), "sort's arguments are 'x': it takes none"),
        (("insert", "a b", "x"), "insert's arguments are 'x': give the new letter and its place"),
        (("replace", "a b"), "replace's arguments are '': give the new letter"),
        (("insert", "a b", "1 x"), "insert is given '1' as the new letter: choose from a b c"),
        (("insert", "a b", "x 3"), "insert is given the place 3: places count from 0, so the last is 2"),
        (("remove", "a b", "2"), "remove is given the place 2: places count from 0, so the last is 1"),
        (("remove", "a b", "x"), "remove is given 'x' as the place: choose from 0 1 2"),
        (("copy", "cab"), "copy is asked about 1 words: give 2 to 15, separated by spaces"),
        (("copy", "c a 7"), "copy is given '7' as a word: choose from a b c"),
        (("copy", "c a c"), "copy is asked about 'c a c': no word may stand there twice"),
        (("add", "3 12"), "add is given '12' as a word: choose from 1 2 3"),
        (("sudoku", "1 2 3 4"), "sudoku is asked about 4 words: give 16, separated by spaces"),
        (("sudoku", " ".join("x234" * 4)), "sudoku is given 'x' as a word: choose from 1 2 3 4 _"),
    ],
)
def test_what_is_no_problem_of_a_task_is_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompt(*arguments)
