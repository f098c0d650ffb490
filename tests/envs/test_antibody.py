"""Restoring masked residues: the chains, the problems made of them, and their scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest
from antibodies import TRASTUZUMAB

from envs.tasks import SUITE, TASKS, Problem, Split, make_tasks, split_of
from envs.tasks.base import BLANK
from envs.tasks.benchmarks.antibody import CHAINS, RESIDUES, Antibody, read_fasta

SPLITS: tuple[Split, ...] = get_args(Split)


def problems(split: Split, task: Antibody | None = None) -> list[Problem]:
    task = task or Antibody()
    return [task.problem(split, index) for index in range(100)]


def blanks(problem: Problem) -> int:
    assert problem.given is not None
    return problem.given.count(BLANK)


# The same five tests as for each task of the suite.


def test_same_index_gives_the_same_problem() -> None:
    task = Antibody()
    for split in SPLITS:
        assert [task.problem(split, index) for index in (7, 3)] == [problems(split)[7], problems(split)[3]]
        assert len({problem.given for problem in problems(split)}) > 95


def test_splits_are_disjoint() -> None:
    chains = {split: {problem.answer for problem in problems(split)} for split in SPLITS}
    assert all(chains[one].isdisjoint(chains[two]) for one, two in combinations(SPLITS, 2))
    assert all(split_of(chain) == split for split in SPLITS for chain in chains[split])
    assert [len(chains[split]) for split in ("validation", "test")] == [2, 6]


def test_answer_scores_one() -> None:
    task = Antibody()
    assert {task.score(problem.answer, problem) for split in SPLITS for problem in problems(split)} == {1.0}


def test_wrong_answers_score_their_share_of_right_residues() -> None:
    task = Antibody()
    problem = Problem("antibody", "test", 0, "<s>", "EVQLVE", "E[MASK]Q[MASK][MASK][MASK]</s>")
    scores = {"EVQLVE": 1.0, "EVQLVA": 0.75, "EAQLAA": 0.25, "AVALVE": 1.0, "EAQAAA": 0.0, "E V Q L V E": 1.0}
    scores |= {"": 0.0, "EVQLV": 0.0, "EVQLVEE": 0.0}
    assert {text: task.score(text, problem) for text in scores} == scores


def test_given_text_is_the_chain_with_blanks() -> None:
    for problem in [problem for split in SPLITS for problem in problems(split)]:
        assert problem.given is not None
        assert problem.given.endswith("</s>")
        written = problem.given.removesuffix("</s>").replace(BLANK, "_")
        assert len(written) == len(problem.answer)
        assert all(new in ("_", old) for new, old in zip(written, problem.answer, strict=True))
        assert round(0.8 * len(written)) <= blanks(problem) <= len(written)


# The chains.


def test_chains_that_ship() -> None:
    chains = read_fasta(CHAINS)
    assert len(chains) == len(set(chains)) == 49
    assert all(110 <= len(chain) <= 127 and set(chain) <= set(RESIDUES) for chain in chains)
    # The cysteine that ends framework 1 and the tryptophan that begins framework 2.
    assert all("C" in chain[20:23] and "W" in chain[33:38] for chain in chains)
    assert all(chain[-3:] in ("VSS", "FSS") for chain in chains)
    assert chains[-1] == TRASTUZUMAB
    assert hashlib.sha256(CHAINS.read_bytes()).hexdigest()[:16] == "38e9710a55bde850"


def test_masked_shares_cover_the_range() -> None:
    shares = [blanks(p) / len(p.answer) for p in problems("train", Antibody(least=0.2, most=0.4))]
    assert 0.19 <= min(shares) < 0.25
    assert 0.35 < max(shares) <= 0.41
    assert {blanks(p) == len(p.answer) for p in problems("train", Antibody(least=1.0))} == {True}


def test_own_chains(tmp_path: Path) -> None:
    file = tmp_path / "own.fasta"
    chains = [f"EVQLV{residue * 3}" for residue in RESIDUES]
    file.write_text(
        "".join(f">{i} some words\r\n{chain[:4]}\n{chain[4:].lower()}\n\n" for i, chain in enumerate(chains))
    )
    assert read_fasta(file) == chains
    [task] = make_tasks(f"antibody:{file}")
    assert (task.name, task.source) == ("antibody", str(file))
    problem = task.problem("train", 0)
    assert (problem.task, problem.answer in chains) == (task.name, True)
    other = tmp_path / "elsewhere.fasta"
    other.write_bytes(file.read_bytes())
    assert make_tasks(f"antibody:file={other}")[0].problem("train", 0).given == problem.given


def test_the_suite_is_without_it() -> None:
    assert "antibody" not in TASKS
    assert len(make_tasks(SUITE)) == 9
    assert [task.name for task in make_tasks(["antibody", "copy"])] == ["antibody", "copy"]


def written(folder: Path, text: str) -> Path:
    file = folder / "chains.fasta"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: Antibody(folder / "missing.fasta"), "can't be read .*give a FASTA file"),
        (lambda folder: Antibody(written(folder, ">one\nEVQ*\n")), r"'one' has \*; a chain is made of ACDEF"),
        (lambda folder: Antibody(written(folder, ">one\nEVQ\n>two\n")), "'two' has no letter"),
        (lambda folder: Antibody(written(folder, "EVQ\n")).problem("test", 0), "split is 'test': none of the chains"),
        (lambda folder: Antibody(least=0.0), "masked shares are 0.0 to 1.0"),
        (lambda folder: Antibody(least=0.9, most=0.8), "masked shares are 0.9 to 0.8"),
        (lambda folder: Antibody().problem("dev", 0), "split is 'dev'"),  # type: ignore[arg-type]
        (lambda folder: Antibody().problem("test", -1), "index is -1"),
    ],
)
def test_errors_name_the_argument(call: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
