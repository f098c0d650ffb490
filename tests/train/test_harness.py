"""The model of the LM evaluation harness, on a task of ours in its format."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from envs.tasks import make_tasks
from train.command.errors import UserError
from train.evaluation.measure import choose_problems, evaluate
from train.harness import UnmaskingLM, cut

NUMBER, LENGTH = 12, 24
NAMES = ("sort", "shuffle")


def requests(kind: Any, *arguments: tuple[Any, ...]) -> list[Any]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)]


def task_of(name: str, folder: Path) -> ConfigurableTask:
    """Problems of ours as a task of the harness, scored by our own score."""
    [task] = make_tasks([name])
    problems = choose_problems([task], "test", 0, NUMBER)
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"prompt": one.prompt, "number": i}) + "\n" for i, one in enumerate(problems)))
    return ConfigurableTask(
        config={
            "task": f"ours_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(folder / "cache")},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "",
            "target_delimiter": "",
            "generation_kwargs": {"until": [], "max_gen_toks": LENGTH, "do_sample": False},
            "process_results": lambda doc, results: {"score": task.score(results[0], problems[doc["number"]])},
            "metric_list": [{"metric": "score", "aggregation": "mean", "higher_is_better": True}],
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["threshold:0.6", "tiny"])
def test_scores_are_those_of_evaluate_at_any_batch_size(policy: str, tmp_path: Path) -> None:
    model = UnmaskingLM(policy=policy, block_length=8)
    options: dict[str, Any] = {"tasks": list(NAMES), "episodes": NUMBER, "buffer_length": LENGTH, "block_length": 8}
    expected = evaluate(model.denoiser, model.policy, **options)
    found = []
    for size in (1, 7, 64):
        own = UnmaskingLM(policy=policy, block_length=8, batch_size=size)
        results = simple_evaluate(own, tasks=[task_of(name, tmp_path) for name in NAMES], verbosity="ERROR")
        assert results is not None
        scores = [results["results"][f"ours_{name}"]["score,none"] for name in NAMES]
        assert scores == pytest.approx([record["accuracy"] for record in expected[:-1]])
        spent = results["config"]["unmasking"]
        assert (spent["answers"], spent["policy"]) == (2 * NUMBER, own.policy.name)
        assert spent["nfe_an_answer"] == pytest.approx(expected[-1]["nfe"])
        assert spent["token_positions_an_answer"] == pytest.approx(expected[-1]["token_positions"])
        found.append((scores, spent))
    assert found[0] == found[1] == found[2]


def test_answers_stop_at_stop_strings_and_have_their_own_lengths() -> None:
    model = UnmaskingLM(policy="low_confidence:4", buffer_length=8)
    prompt = "sort . . : d a c b . . . . . . . . . . . . ="
    asked = [
        (prompt, {"until": ["c"], "max_gen_toks": 16}),
        (prompt, {"until": []}),
        (prompt, {"until": "never", "max_gen_toks": 16}),
    ]
    answers = model.generate_until(requests("generate_until", *asked), disable_tqdm=True)
    assert answers == ["a b ", "a b c d", "a b c d"]
    assert model.counted["answers"] == 3
    assert cut("So 4.\n\nQ: next", ["Q:", "\n\n"]) == "So 4."
    assert cut("a b", ["", "c"]) == "a b"


def test_a_likelihood_is_the_mean_over_every_masking() -> None:
    """Of two tokens there are three maskings: the estimate goes to their exact mean."""
    model = UnmaskingLM(mc_samples=4000, batch_size=500)
    denoiser = model.denoiser
    prompt, tokens = denoiser.encode_text("copy . : a b ="), denoiser.encode_text("a b")
    exact = {}
    for masked in itertools.product([False, True], repeat=2):
        if any(masked):
            shown = [denoiser.mask_id if hide else token for hide, token in zip(masked, tokens, strict=True)]
            ids = torch.tensor([prompt + shown])
            logits = denoiser.logits(ids, torch.ones_like(ids, dtype=torch.bool), 2)[0].log_softmax(-1)
            exact[masked] = sum(float(logits[i, tokens[i]]) for i in range(2) if masked[i]) * 2 / sum(masked)
    one = (exact[True, False] + exact[False, True]) / 2  # l = 1: either, as often
    mean = (one + exact[True, True]) / 2
    spread = max(abs(value - mean) for value in exact.values())
    assert model.estimate(prompt, tokens) == pytest.approx(mean, abs=5 * spread / math.sqrt(4000))
    assert model.estimate(prompt, tokens) == model.estimate(prompt, tokens)
    small = UnmaskingLM(mc_samples=4000, batch_size=7)
    assert small.estimate(prompt, tokens) == pytest.approx(model.estimate(prompt, tokens), abs=1e-4)
    assert model.estimate(prompt, []) == 0.0


@pytest.mark.parametrize(("extra", "kept"), [(-2, 2), (-1, 1), (0, 1), (5, 1)])
def test_a_pair_that_is_too_long_loses_its_beginning(extra: int, kept: int) -> None:
    model = UnmaskingLM()
    length = model.denoiser.max_length
    written = " ".join("abcd"[i % 4] for i in range(length + extra))
    prompt, tokens = model._encode_pair("copy a b c =", f" {written}")
    assert (len(prompt), len(prompt) + len(tokens)) == (kept, length)
    assert prompt == model.denoiser.encode_text("copy a b c =")[-kept:]
    assert tokens == model.denoiser.encode_text(written)[-len(tokens) :]


def test_likelihoods_tell_right_answers_from_wrong_ones() -> None:
    model = UnmaskingLM(mc_samples=32, check_greedy=True)
    context = "sort . . : d a c b . . . . . . . . . . . . ="
    (right, is_greedy), (wrong, is_other) = model.loglikelihood(
        requests("loglikelihood", (context, " a b c d"), (context, " d c b a")), disable_tqdm=True
    )
    assert right > wrong + 5
    assert is_greedy
    assert not is_other
    [whole] = model.loglikelihood_rolling(requests("loglikelihood_rolling", ("a b c d",)), disable_tqdm=True)
    assert whole < 0
    assert math.isfinite(whole)
    assert model.counted["likelihood_forwards"] == 3 * 32


def test_the_model_is_known_by_its_name_and_checks_its_arguments() -> None:
    from lm_eval.api.registry import get_model

    assert get_model("unmasking") is UnmaskingLM
    made = UnmaskingLM.create_from_arg_string("pretrained=tiny,policy=threshold:0.9,block_length=32", {"batch_size": 4})
    assert (made.batch_size, made.decoding["block_length"]) == (4, 32)
    with pytest.raises(ValueError, match="batch_size is 'auto': it must be a whole number"):
        UnmaskingLM(batch_size="auto")
    with pytest.raises(ValueError, match="block_length is 5"):
        UnmaskingLM(block_length=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"polcy": "tiny"}, "--model_args holds 'polcy': did you mean policy?"),
        ({"cache": "dual:refresh=8", "fresh_prompt": "1"}, r"--model_args holds 'fresh_prompt': .* written as JSON"),
        ({"policy": "thresold:0.9"}, "--model_args: .*did you mean threshold"),
        ({"block_length": 5}, "--model_args: block_length is 5"),
    ],
)
def test_an_impossible_argument_of_the_command_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        UnmaskingLM.create_from_arg_obj(arguments)


def test_a_value_with_commas_is_given_as_json() -> None:
    made = UnmaskingLM.create_from_arg_obj({"cache": "dual:refresh=8,fresh_prompt=1", "block_length": 32})
    assert made.decoding["cache"] == "dual:refresh=8,fresh_prompt=1"
