"""Every rule on checkpoints of LLaDA's and Dream's format with a chat template, as real ones come."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoints import build
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.models.adapter import MaskedLMDenoiser
from envs.models.load import load_denoiser
from envs.tasks import make_tasks
from policies import RULES, Generation, decode, make_rule
from policies.rules.adablock import AdaBlock
from policies.rules.bacd import TCCF
from policies.rules.diffuspec import DiffuSpec, count_pairs
from policies.rules.guide import judge
from policies.rules.pc_sampler import PCSampler, count_tokens

LENGTH, BLOCK = 8, 4
PROMPTS = ["copy a", "a longer prompt, of some words", "b"]


@pytest.fixture(scope="module", params=["llada", "dream"])
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MaskedLMDenoiser:
    denoiser = load_denoiser(str(build(request.param, tmp_path_factory.mktemp("chat") / request.param)))
    assert isinstance(denoiser, MaskedLMDenoiser)
    assert denoiser.uses_chat_template
    return denoiser


class ByteGuide:
    """A causal model of the checkpoints' vocabulary that wants each token to be the one before it plus one."""

    def get_input_embeddings(self) -> torch.nn.Embedding:
        """Their number is that of the tokens that it knows."""
        return torch.nn.Embedding(320, 1)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor) -> Any:
        wanted = (input_ids + 1) % 250
        return SimpleNamespace(logits=4.0 * torch.nn.functional.one_hot(wanted, 320).float())


def run(denoiser: MaskedLMDenoiser, name: str, prompts: list[str], **kwargs: Any) -> list[Generation]:
    rule = make_rule(name)
    settings = DecodingSettings(LENGTH, BLOCK, features=rule.features)
    return decode(denoiser, prompts, rule, settings, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_a_rule_decodes_a_chat_alone_as_in_any_batch(
    chat: MaskedLMDenoiser, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policies.rules.guide.load_guide", lambda *_: ByteGuide())
    together = run(chat, name, PROMPTS)
    alone = run(chat, name, PROMPTS, batch_size=1)
    assert [(one.tokens, one.nfe, one.token_positions) for one in alone] == [
        (one.tokens, one.nfe, one.token_positions) for one in together
    ]
    for one in together:
        assert chat.mask_id not in one.tokens
        # A step of PUNT's has, in a block, up to as many trials as its numbers have digits.
        assert 1 <= one.nfe <= (1 + BLOCK.bit_length() if name == "punt" else 2) * LENGTH


NOT_SAMPLED = ("guided", "diffuspec")
"""These write what their guide writes greedily, whatever the temperature."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RULES if name not in NOT_SAMPLED])
def test_at_a_temperature_each_sample_of_a_rule_is_its_own(chat: MaskedLMDenoiser, name: str) -> None:
    rule = make_rule(name)
    settings = DecodingSettings(LENGTH, BLOCK, 3.0, rule.features)
    together = decode(chat, PROMPTS, rule, settings, samples=4)
    assert len({tuple(one.tokens) for one in together[:4]}) > 2
    assert decode(chat, PROMPTS, rule, settings, samples=4, batch_size=5) == together
    # What a prompt's samples are depends on no other prompt, and the first is what one alone would be.
    assert decode(chat, PROMPTS[1:2], rule, settings, samples=4) == together[4:8]
    assert decode(chat, PROMPTS[:1], rule, settings) == together[:1]


def test_credit_samples_what_a_threshold_does_where_it_gives_none(chat: MaskedLMDenoiser) -> None:
    found = []
    for name in ("credit:0.3,weight=0", "threshold:0.3"):
        rule = make_rule(name)
        settings = DecodingSettings(LENGTH, BLOCK, 1.5, rule.features)
        found.append([(one.tokens, one.nfe) for one in decode(chat, PROMPTS, rule, settings, samples=4)])
    assert found[0] == found[1]


def test_a_shadow_stays_within_the_buffer(chat: MaskedLMDenoiser) -> None:
    """Also where rows are in blocks of different lengths, and the last one is shown beyond the buffer."""
    rule = make_rule("wino")
    about: dict[str, Any] = {"features": rule.features, "window": "truncated", "block_origin": "absolute"}
    settings = DecodingSettings(LENGTH, BLOCK, early_end=False, **about)
    prompts = ["a" * size for size in range(1, 8)]
    together = decode(chat, prompts, rule, settings)
    assert together == [decode(chat, [prompt], rule, settings)[0] for prompt in prompts]
    assert all(chat.mask_id not in one.tokens for one in together)


@pytest.mark.slow
def test_delimiters_markers_and_counts_are_those_of_the_text(chat: MaskedLMDenoiser) -> None:
    """Bytes are the tokens here; a template's own newline or header is none of them."""
    settings = DecodingSettings(LENGTH, BLOCK)
    newline, comma, equals = (chat.tokenizer.convert_tokens_to_ids(c) for c in ("Ċ", ",", "="))
    assert AdaBlock().bind(chat, settings).delimiter_ids == (newline, equals)
    assert AdaBlock(delimiters="\n|,|no token").bind(chat, settings).delimiter_ids == (newline, comma)
    assert TCCF().bind(chat, settings).marker_id == equals
    counts = count_tokens(chat)
    answers = [task.problem("train", index).answer for task in make_tasks("prose") for index in range(500)]
    assert counts[chat.eos_id] == len(answers)
    letters = sum(answer.count("a") for answer in answers)
    assert counts[chat.tokenizer.convert_tokens_to_ids("a")] == letters
    special = {id_ for id_ in chat.tokenizer.all_special_ids if id_ not in chat.end_ids}
    assert not special & counts.keys()
    assert PCSampler().bind(chat, settings).surprise is not None


def test_a_corpus_of_ones_own_is_counted(
    chat: MaskedLMDenoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "corpus.txt"
    file.write_text("ab\n\n\nb\n\n")
    a, b = chat.encode_text("ab")
    assert count_tokens(chat, str(file)) == {a: 1, b: 2, chat.eos_id: 2}
    settings = DecodingSettings(LENGTH, BLOCK)
    rule = make_rule(f"pc_sampler:1,frequencies={file}").bind(chat, settings)
    assert isinstance(rule, PCSampler)
    assert rule.surprise is not None
    assert rule.surprise[b] < rule.surprise[a] < rule.surprise[b + 1]
    pairs = count_pairs(chat, str(file))
    assert pairs.pairs == {(a, b): 1, (b, chat.eos_id): 2}
    monkeypatch.setattr("policies.rules.guide.load_guide", lambda *_: ByteGuide())
    drafts = make_rule(f"diffuspec:0.5,corpus={file}").bind(chat, settings)
    assert isinstance(drafts, DiffuSpec)
    assert drafts.bigrams == pairs
    for content, said in ((None, "not readable"), ("\n\n", "there is no text in it")):
        other = tmp_path / f"{said}.txt"
        if content is not None:
            other.write_text(content)
        with pytest.raises(ValueError, match=rf"corpus is .*{said}"):
            make_rule(f"pc_sampler:1,frequencies={other}").bind(chat, settings)


def test_adablock_ends_its_block_at_a_delimiter_on_a_chat_model(chat: MaskedLMDenoiser) -> None:
    """Whatever the model's weights: the token that it is surest of in the window is declared a delimiter."""
    settings = DecodingSettings(LENGTH, BLOCK)
    batch = DecodingBatch(chat, 1, settings)
    batch.load([0], [chat.encode_prompt(PROMPTS[0])])
    view = batch.forward()
    window = LENGTH // 4
    place = int(view.confidence[0, :window].argmax())
    text = chat.tokenizer.decode([int(view.prediction[0, place])])
    rule = AdaBlock(delimiters=text, delimiter_threshold=0.0).bind(chat, settings)
    assert rule.delimiter_ids == (int(view.prediction[0, place]),)
    action = rule.act(view)
    assert action.block_end is not None
    assert action.block_end.item() == place + 1


def test_a_guide_never_chooses_the_mask() -> None:
    """Its own vocabulary has the mask token, which it may well find likely."""

    def guide(input_ids: Tensor, **_: Any) -> Any:
        logits = torch.tensor([0.0, 1.0, 9.0, 1.0]).expand(*input_ids.shape, 4).clone()
        return SimpleNamespace(logits=logits)

    probabilities, _ = judge(guide, torch.tensor([[0, 1]]), torch.tensor([[3, 3, 1]]), mask_id=2)
    others = 1 / (1 + 2 * math.e)
    expected = torch.tensor([others, math.e * others, 0.0, math.e * others]).expand(1, 3, 4)
    torch.testing.assert_close(probabilities, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["guided", "diffuspec"])
def test_a_guide_is_told_the_models_mask(name: str) -> None:
    tiny = load_denoiser("tiny")
    rule = make_rule(name).bind(tiny, DecodingSettings(64, features=make_rule(name).features))
    assert rule.mask_id == tiny.mask_id  # type: ignore[attr-defined]
