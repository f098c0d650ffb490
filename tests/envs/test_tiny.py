"""The checkpoint that ships: an ordinary Hugging Face folder, small, and as good as its card says."""

from __future__ import annotations

import pytest
from cards import accuracies
from transformers import AutoModelForMaskedLM, AutoTokenizer

import policies
from envs.models.load import SHIPPED, load_denoiser
from envs.tasks import TASKS, make_tasks
from policies import LowConfidence, Threshold
from train.evaluation.measure import evaluate

FOLDER = SHIPPED["tiny"]
ONE_PER_STEP = {"shuffle": 85.0, "add": 85.0, "sudoku": 80.0}
"""The accuracy in % that each task must have in the card; 95 for the others."""


def test_folder_is_an_ordinary_small_checkpoint() -> None:
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {f.name for f in FOLDER.iterdir()}
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) <= 10 * 2**20


@pytest.mark.parametrize("task", sorted(TASKS))
def test_card_meets_the_bar_one_token_per_step(task: str) -> None:
    assert accuracies(FOLDER)[task][0] >= ONE_PER_STEP.get(task, 95.0)


def test_card_shows_a_real_trade_off() -> None:
    rows = accuracies(FOLDER)
    assert all(rows[task][1] <= 20 for task in ("shuffle", "replace", "add"))
    assert rows["sudoku"][0] - rows["sudoku"][1] >= 15


@pytest.mark.slow
@pytest.mark.parametrize("task", ["copy", "insert", "shuffle"])
def test_measured_accuracy_agrees_with_the_card(task: str) -> None:
    denoiser = load_denoiser("tiny")
    slow = evaluate(denoiser, LowConfidence(1), tasks=task, episodes=16)[-1]["accuracy"]
    fast = evaluate(denoiser, Threshold(0.0), tasks=task, episodes=64)[-1]["accuracy"]
    told_slow, told_fast = accuracies(FOLDER)[task]
    assert abs(100 * slow - told_slow) <= 20
    assert abs(100 * fast - told_fast) <= 20


@pytest.mark.slow
def test_generate_answers_with_the_transformers_objects() -> None:
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
    task = make_tasks("copy")[0]
    problems = [task.problem("test", index) for index in range(8)]
    prompts = [problem.prompt for problem in problems]
    together = policies.generate(model, tokenizer, prompts, Threshold(0.9))
    alone = [policies.generate(model, tokenizer, [prompt], Threshold(0.9))[0] for prompt in prompts]
    assert together == alone
    scores = [task.score(done.text, problem) for done, problem in zip(together, problems, strict=True)]
    assert sum(scores) >= 7


@pytest.mark.slow
def test_every_word_of_the_suite_is_one_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    for task in make_tasks("suite"):
        for index in range(50):
            text = f"{task.problem('test', index).prompt} {task.problem('test', index).answer}"
            ids = tokenizer(text)["input_ids"]
            assert len(ids) == len(text.split())
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text
