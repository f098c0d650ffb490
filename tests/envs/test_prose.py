"""The prose suite: every task against an independent reader, and its scorer against answers made by hand."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import combinations, pairwise, product
from operator import add, floordiv, mul, sub
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from envs.tasks import BENCHMARKS, PROSE, TASKS, Problem, Split, make_task, make_tasks, split_of, vocabulary
from envs.tasks.prose import Describe, Puzzle, Record, Route, Story, Trace, describe, route, story
from envs.tasks.prose.words import LARGEST
from envs.tasks.suite.sudoku import all_grids

SPLITS: tuple[Split, ...] = get_args(Split)
every_task = pytest.mark.parametrize("name", PROSE)


@cache
def draws(name: str, split: Split) -> list[Problem]:
    task = PROSE[name]()
    return [task.problem(split, index) for index in range(150)]


def all_draws(name: str) -> list[Problem]:
    return [problem for split in SPLITS for problem in draws(name, split)]


def ask(prompt: str, answer: str = "") -> Problem:
    return Problem(prompt.split()[0], "train", 0, prompt, answer)


# The same tests for each task.


@every_task
def test_same_index_gives_the_same_problem(name: str) -> None:
    again = PROSE[name]()
    for split in SPLITS:
        assert [again.problem(split, index) for index in (7, 3)] == [draws(name, split)[7], draws(name, split)[3]]
    assert len({problem.prompt for problem in draws(name, "train")}) > 0.95 * len(draws(name, "train"))


@every_task
def test_splits_are_disjoint(name: str) -> None:
    prompts = {split: {problem.prompt for problem in draws(name, split)} for split in SPLITS}
    assert all(prompts[one].isdisjoint(prompts[two]) for one, two in combinations(SPLITS, 2))
    assert all(split_of(prompt) == split for split in SPLITS for prompt in prompts[split])


@every_task
def test_answer_scores_one(name: str) -> None:
    task = PROSE[name]()
    assert {task.score(problem.answer, problem) for problem in all_draws(name)} == {1.0}
    problem = draws(name, "train")[0]
    assert task.score(f"  {problem.answer.replace(' ', '  ')}\n", problem) == 1.0


@every_task
@pytest.mark.parametrize(
    "text", ["", " ", ".", "####", "1)", "1) 2)", "? ! (", "[MASK] [MASK]", "\\ ( [ {who}", "0 " * 128]
)
def test_any_text_is_scored(name: str, text: str) -> None:
    assert {PROSE[name]().score(text, problem) for problem in draws(name, "test")} == {0.0}


@every_task
def test_another_problems_answer_scores_zero(name: str) -> None:
    task, problems = PROSE[name](), draws(name, "test")
    scores = [task.score(other.answer, one) for one, other in pairwise(problems)]
    # Two stories can have one result, two puzzles one solution.
    assert np.mean(scores) <= (0.15 if name == "story" else 0.03)


@every_task
def test_words_and_lengths(name: str) -> None:
    known = set(vocabulary([PROSE[name]()]))
    for problem in all_draws(name):
        prompt, answer = problem.prompt.split(" "), problem.answer.split(" ")
        assert (prompt[0], prompt[-1]) == (name, "=")
        assert len(prompt) <= 64
        assert 15 <= len(answer) <= 110
        assert known.issuperset(prompt + answer)
        assert all(int(word) <= LARGEST for word in prompt + answer if word.isdigit())


@pytest.mark.parametrize("name", [name for name in PROSE if name != "story"])
def test_one_wrong_word_scores_zero(name: str) -> None:
    task = PROSE[name]()
    for problem in draws(name, "test")[:4]:
        words = problem.answer.split()
        wrong = [words[:-1], words[1:], [*words, words[-1]], [*words, "?"]]
        wrong += [[*words[:i], new, *words[i + 1 :]] for i, old in enumerate(words) for new in task.words if new != old]
        assert {task.score(" ".join(answer), problem) for answer in wrong} == {0.0}


def test_suite_by_name() -> None:
    assert [task.name for task in make_tasks("prose")] == list(PROSE)
    assert [task.name for task in make_tasks(["story", "prose", "copy"])] == [*PROSE, "copy"]
    assert make_task("story:fewest=6").problem("test", 0).prompt.count(" on ") == 6
    assert len({*PROSE, *TASKS, *BENCHMARKS}) == len(PROSE) + len(TASKS) + len(BENCHMARKS)
    assert len(vocabulary(make_tasks("prose"))) < 200


@pytest.mark.parametrize(
    "text",
    [
        *("story:fewest=1", "story:most=7", "story:fewest=5,most=4", "describe:most=9", "trace:fewest=0"),
        *("route:nearest=0", "route:farthest=9", "route:walls=11", "record:most=5", "puzzle:most=17"),
    ],
)
def test_impossible_options_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        make_task(text)


@pytest.mark.parametrize("text", ["route:ways=20,walls=10", "route:farthest=8,ways=70"])
def test_mazes_that_are_hardly_there_are_not_searched_for_ever(text: str) -> None:
    with pytest.raises(ValueError, match=r"so many shortest paths of 4 to .* take fewer walls or fewer ways"):
        make_task(text).problem("train", 0)


# Known truth, a task at a time.


def solve_story(prompt: str) -> list[tuple[str, str]]:
    """Each day and its sums, read from the question alone."""
    bags, each = re.search(r"has (\d+) bags of (\d+)", prompt).groups()  # type: ignore[union-attr]
    total = int(bags) * int(each)
    days = [("sunday", f"{bags} * {each} = {total}")]
    for day, *events in re.findall(r"on (\w+) s?he (.*?) , (.*?) \.", prompt):
        step = str(total)
        for event in events:
            verb, number = event.partition(" ")[::2]
            change = "* 2" if verb == "doubles" else "/ 2"
            if verb in ("buys", "finds"):
                change = f"+ {number}"
            elif verb in ("loses", "sells"):
                change = f"- {number}"
            sign, other = change[0], int(change[2:])
            # Half is shared of an even number only.
            assert sign != "/" or total % other == 0
            total = {"+": add, "-": sub, "*": mul, "/": floordiv}[sign](total, other)
            step += f" {change} = {total}"
        days.append((day, step))
    return days


def test_story_steps_follow_from_the_question() -> None:
    seen: Counter[str] = Counter()
    for problem in all_draws("story"):
        *sentences, last = problem.answer.split(" . ")
        days = solve_story(problem.prompt)
        assert len(days) == len(sentences)
        for (day, step), sentence in zip(days, sentences, strict=True):
            assert step in sentence
            assert day in sentence
            assert len(sentence.split()) == 4 + len(step.split())
            seen[" ".join(word for word in sentence.split() if word in ("on", "after", "now", "there"))] += 1
        assert last == f"#### {days[-1][1].split()[-1]}"
    # The usual wording, half of all, begins with "on", and another ends with it.
    assert len(seen) == 3
    assert max(seen, key=seen.__getitem__) == "on"
    assert min(seen.values()) > 0.1 * sum(seen.values())


def test_only_the_storys_result_counts() -> None:
    question = ask(
        "story tom has 2 bags of 3 pens on sunday . on monday he buys 5 , loses 1 . how many ? =", "x #### 10"
    )
    task = Story()
    for right in ("#### 10", "whatever #### 10 .", "#### 9 #### 10", "2 * 3 = 7 #### 10 pens"):
        assert task.score(right, question) == 1.0
    for wrong in ("10", "#### 1 0", "#### 010", "#### 10 #### 9", "#### 10 ####", "#### #### ", "#### ten"):
        assert task.score(wrong, question) == 0.0


FACTS = ask("describe ann home rome , tom drink tea , ann sport golf . =")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("the home of ann is rome . tom drinks tea all day long . best of all ann plays golf .", 1.0),
        ("ann plays golf day after day . ann lives in the town rome . all day long tom drinks tea .", 1.0),
        # One is missing, one is stated twice, one is false, one is about the other person.
        ("the home of ann is rome . tom drinks tea all day long .", 0.0),
        ("the home of ann is rome . ann lives in the town rome . tom drinks tea all day long .", 0.0),
        (
            "the home of ann is rome . ann lives in the town rome . tom drinks tea all day long . "
            "ann plays golf day after day .",
            0.0,
        ),
        ("the home of ann is oslo . tom drinks tea all day long . ann plays golf day after day .", 0.0),
        ("the home of tom is rome . tom drinks tea all day long . ann plays golf day after day .", 0.0),
        # Wordings mixed, a full stop missing, something after the end.
        ("rome home of ann is rome . tom drinks tea all day long . ann plays golf day after day .", 0.0),
        ("ann drinks golf day after day . the home of ann is rome . tom drinks tea all day long .", 0.0),
        ("the home of ann is rome . all day long drinks tom tea . ann plays golf day after day .", 0.0),
        ("the home of ann is rome . tom drinks tea all day long . ann plays golf day after day", 0.0),
        ("the home of ann is rome . tom drinks tea all day long . ann plays golf day after day . tea", 0.0),
        ("the home of ann is rome . tom drinks tea all day long . . ann plays golf day after day .", 0.0),
    ],
)
def test_facts_are_read_back(text: str, score: float) -> None:
    assert Describe().score(text, FACTS) == score


def test_every_wording_reads_as_its_own_fact() -> None:
    assert describe.WORDINGS.keys() == describe.VALUES.keys()
    for relation, values in describe.VALUES.items():
        for wording in describe.WORDINGS[relation]:
            sentence = wording.format(who="eva", what=values[0])
            assert len(sentence.split()) == 7
            assert describe.read_fact(sentence) == ("eva", relation, values[0])


def test_order_and_wording_of_a_description_are_free() -> None:
    place: Counter[int] = Counter()
    chosen: Counter[tuple[str, int]] = Counter()
    task = make_task("describe:fewest=3,most=3")
    for index in range(400):
        problem = task.problem("train", index)
        first = problem.prompt.removeprefix("describe ").split(" , ")[0].split()[:3]
        sentences = [f"{sentence} ." for sentence in problem.answer.removesuffix(" .").split(" . ")]
        facts = [describe.read_fact(sentence) for sentence in sentences]
        place[facts.index((first[0], first[1], first[2]))] += 1
        for fact, sentence in zip(facts, sentences, strict=True):
            assert fact is not None
            who, relation, what = fact
            said = [wording.format(who=who, what=what) for wording in describe.WORDINGS[relation]]
            chosen[relation, said.index(sentence)] += 1
    assert stats.chisquare(list(place.values())).pvalue > 1e-3
    assert stats.chisquare(list(chosen.values())).pvalue > 1e-3
    assert (len(place), len(chosen)) == (3, 8)


def run_program(prompt: str) -> str:
    """The trace of a program, by Python's own exec."""
    start, program = prompt.removeprefix("trace ").removesuffix(" . =").split(" . ")
    values = {name: int(value) for name, value in re.findall(r"([abc]) (\d+)", start)}
    lines = []
    for mark, name, operator, operand in re.findall(r"(\d\)) ([abc]) ([-+=]) (\w+)", program):
        values[name] = eval(operand if operator == "=" else f"{name} {operator} {operand}", {}, values)
        lines.append(" ".join([mark, *(f"{key} {value}" for key, value in values.items())]))
    return " ".join(lines)


def test_traces_are_what_the_program_does() -> None:
    kinds: Counter[str] = Counter()
    for problem in all_draws("trace"):
        assert problem.answer == run_program(problem.prompt)
        assert set(re.findall(r"\d+", problem.answer)) <= set(map(str, range(LARGEST + 1)))
        kinds.update(re.findall(r" ([-+=]) ", problem.prompt))
    assert all(kinds[kind] > 0.15 * kinds.total() for kind in "+-=")
    assert Trace().score("1) a 3 b 1 c 0", ask("trace a 2 b 1 c 0 . 1) a + 1 . =", "1) a 3 b 1 c 0")) == 1.0


def walk(prompt: str, moves: tuple[str, ...]) -> str | None:
    """The answer that moves stand for, by coordinates; None if they hit a wall or miss the goal."""
    words = prompt.split()
    maze, (start, goal) = words[1:26], (words[27], words[29])
    shift = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
    x, y, text = "abcde".index(start[0]), int(start[1]) - 1, []
    for move in moves:
        x, y = x + shift[move][0], y + shift[move][1]
        if not (0 <= x < 5 and 0 <= y < 5) or maze[5 * y + x] == "#":
            return None
        text.append(f"{move} to {'abcde'[x]}{y + 1}")
    return f"{' , '.join(text)} ." if text[-1].endswith(goal) else None


def test_every_shortest_route_is_right_and_no_other() -> None:
    task = Route(nearest=4, farthest=4)
    for index in range(6):
        problem = task.problem("test", index)
        right = [text for moves in product(route.MOVES, repeat=4) if (text := walk(problem.prompt, moves))]
        assert problem.answer in right
        assert {task.score(text, problem) for text in right} == {1.0}
        # Longer ways are wrong though they arrive.
        longer = [text for moves in product(route.MOVES, repeat=6) if (text := walk(problem.prompt, moves))]
        assert {task.score(text, problem) for text in longer} <= {0.0}


@pytest.mark.parametrize("ways", [1, 6])
def test_a_maze_has_as_many_shortest_routes_as_are_asked_for(ways: int) -> None:
    task = Route(nearest=4, farthest=4, ways=ways)
    found = []
    for index in range(12):
        prompt = task.problem("train", index).prompt
        found.append(sum(walk(prompt, moves) is not None for moves in product(route.MOVES, repeat=4)))
    # Of four moves, six ways are the most that there can be.
    assert min(found) == ways
    assert max(found) == 6 or ways == 1
    for impossible in (0, 7):
        with pytest.raises(ValueError, match=f"ways is {impossible}: it must be 1 to 6"):
            Route(nearest=4, farthest=4, ways=impossible)


def test_routes_are_uniform_among_the_shortest() -> None:
    left = route.distances("c3", set(route.SQUARES) - {"b1"})
    rng = np.random.default_rng(0)
    counts = Counter(route.shortest_path(rng, "a1", left) for _ in range(500))
    # Of the six ways from a1 to c3 three start through b1.
    assert len(counts) == 3
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize(
    "text",
    [
        "right to b1 , right to c1 , down to c2",
        "right to b1 , right to c1 , down to c2 ,",
        "right to b1 right to c1 , down to c2 .",
        "right to b1 , right to c1 , down to c3 .",
        "right to b1 , down to c1 , down to c2 .",
        "down to a2 , right to b2 , right to c2 .",  # through a wall
        "right to b1 , right to c1 .",
        "right b1 , right c1 , down c2 .",
    ],
)
def test_wrong_routes(text: str) -> None:
    squares = ["#" if square == "b2" else square for square in route.SQUARES]
    problem = ask(f"route {' '.join(squares)} . a1 to c2 =")
    assert Route().score("right to b1 , right to c1 , down to c2 .", problem) == 1.0
    assert Route().score(text, problem) == 0.0


def test_records_either_way() -> None:
    prose = "1) ann , aged 9 , lives in rome with a cat . 2) in oslo lives tom , aged 12 , with a dog ."
    again = "1) with a cat in rome lives ann , aged 9 . 2) tom , aged 12 , lives in oslo with a dog ."
    forms = "1) name : ann ; age : 9 ; home : rome ; pet : cat . 2) name : tom ; age : 12 ; home : oslo ; pet : dog ."
    swapped = "1) name : tom ; age : 12 ; home : oslo ; pet : dog . 2) name : ann ; age : 9 ; home : rome ; pet : cat ."
    file, tell = ask(f"record file {prose} =", forms), ask(f"record tell {forms} =", prose)
    assert Record().score(forms, file) == Record().score(prose, tell) == Record().score(again, tell) == 1.0
    for wrong in (prose, swapped, forms.replace("2) ", ""), forms.replace("2)", "3)"), forms.replace(" ; age : 9", "")):
        assert Record().score(wrong, file) == 0.0
    for wrong in (forms, prose.replace("aged 9", "aged 12"), prose.partition(" 2)")[0], f"x {prose}"):
        assert Record().score(wrong, tell) == 0.0


def test_both_ways_are_asked() -> None:
    ways = Counter(problem.prompt.split()[1] for problem in all_draws("record"))
    assert min(ways["file"], ways["tell"]) > 0.4 * ways.total()


def written(grid: np.ndarray) -> str:
    return " ".join(f"{row + 1}) {' '.join(map(str, grid[4 * row : 4 * row + 4]))}" for row in range(4))


def test_every_grid_that_keeps_the_digits_solves_a_puzzle() -> None:
    task, many = Puzzle(), 0
    for problem in draws("puzzle", "test")[:10]:
        cells = [word for i, word in enumerate(problem.prompt.split()[1:-1]) if i % 5]
        known = [(i, int(cell)) for i, cell in enumerate(cells) if cell != "_"]
        assert 2 <= len(known) <= 5
        fits = [all(grid[i] == digit for i, digit in known) for grid in all_grids()]
        assert [task.score(written(grid), problem) for grid in all_grids()] == list(map(float, fits))
        many += sum(fits) > 1
    assert many >= 5


def test_story_wordings_have_one_length() -> None:
    filled = [w.format(day="x", who="x", has="x", things="x", sum="1 + 1 = 2").split() for w in story.WORDINGS]
    assert {len(words) for words in filled} == {10}
