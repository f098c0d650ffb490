"""DiffuSpec against the guide that it speaks for, and its parts by hand."""

from __future__ import annotations

import math

import pytest
import torch

from envs.decoding.settings import DecodingSettings
from envs.models.adapter import MaskedLMDenoiser
from envs.models.load import load_denoiser, load_guide
from envs.tasks import make_tasks
from policies import decode, make_rule
from policies.rules.diffuspec import Bigrams, DiffuSpec, find_path

LENGTH = 32


@torch.inference_mode()
def written_by_the_guide(denoiser: MaskedLMDenoiser, prompt: str) -> list[int]:
    """Its own greedy text, a token at a time."""
    model, text = load_guide("tiny_guide"), denoiser.encode_prompt(prompt)
    answer: list[int] = []
    while len(answer) < LENGTH and (not answer or answer[-1] not in denoiser.end_ids):
        logits = model(input_ids=torch.tensor([text + answer])).logits[0, -1]
        logits[denoiser.mask_id] = -torch.inf
        answer.append(int(logits.argmax()))
    return answer + [denoiser.eos_id] * (LENGTH - len(answer))


@pytest.mark.parametrize(
    ("rule", "block"),
    [pytest.param("diffuspec", None, marks=pytest.mark.slow), ("diffuspec:1,mass=0.3,most=3", 8)],
)
def test_the_text_is_the_guides_own_token_by_token(rule: str, block: int | None) -> None:
    denoiser = load_denoiser("tiny")
    assert isinstance(denoiser, MaskedLMDenoiser)
    prompts = [task.problem("test", index).prompt for task in make_tasks("suite") for index in range(2)]
    policy = make_rule(rule)
    done = decode(denoiser, prompts, policy, DecodingSettings(LENGTH, block, features=policy.features), batch_size=5)
    assert [one.tokens for one in done] == [written_by_the_guide(denoiser, prompt) for prompt in prompts]
    # The dLLM knows these tasks too, so that many tokens are accepted at a time.
    assert sum(one.nfe for one in done) < sum(len([t for t in one.tokens if t != denoiser.eos_id]) for one in done) / 3
    width = [len(denoiser.encode_prompt(prompt)) for prompt in prompts]
    assert all(one.token_positions == 2 * one.nfe * (p + LENGTH) for one, p in zip(done, width, strict=True))


def test_a_path_weighs_the_dllm_against_the_bigrams() -> None:
    bigrams = Bigrams({(1, 5): 3, (5, 7): 3, (6, 8): 1}, {1: 3, 5: 3, 6: 1}, {5: 3, 7: 3, 8: 1})
    total = 7 + 3 + 1
    assert bigrams.log_probability(1, 5) == pytest.approx(math.log((3 + 4 / total) / 4))
    assert bigrams.log_probability(9, 9) == pytest.approx(math.log(1 / total))
    columns = [{5: 0.4, 6: 0.6}, {7: 0.3, 8: 0.7}]
    assert find_path(columns, 1, [2], None, 1.0) == [6, 8]
    assert find_path(columns, 1, [2], bigrams, 0.5) == [5, 7]
    assert find_path(columns, 1, [2], bigrams, 0.0) == [5, 7]


def test_a_path_that_ends_goes_no_further() -> None:
    assert find_path([{2: 0.9, 5: 0.1}, {6: 0.3, 7: 0.3}], 1, [2], None, 1.0) == [2]
    assert find_path([{2: 0.2, 5: 0.8}, {6: 0.9, 2: 0.1}], 1, [2], None, 1.0) == [5, 6]


@pytest.mark.parametrize(
    ("means", "length"),
    [((0, 0, 0), 30), ((12, 5, 1), 20), ((12.7, 12.7, 1), 22), ((25, 25, 1), 30), ((25.9, 25, 1), 25)],
)
def test_the_draft_grows_while_all_is_accepted(means: tuple[float, float, float], length: int) -> None:
    assert DiffuSpec()._draft_length(torch.tensor(means)) == length


@pytest.mark.parametrize(("text", "message"), [("diffuspec:2", "weight is 2"), ("diffuspec:1,most=0", "most is 0")])
def test_impossible_options(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_rule(text)
