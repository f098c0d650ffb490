"""Every rule from the first mask to the last."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from denoisers import NUMBERS, Context
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.infilling import encode_all_given
from envs.decoding.settings import DecodingSettings
from envs.models.toy import ToyDenoiser
from envs.tasks.suite.form import EMPTY, cells_of, form
from policies import RULES, Generation, LowConfidence, decode, make_rule
from policies.rules.oracle import Oracle

LENGTH = 12
PROMPTS = [form("copy", list("abcdefghijklmno"[:size])) for size in (1, 12, 3, 7, 11)]
TEXTS = [" ".join(cells_of(prompt)) for prompt in PROMPTS]


class CopyGuide:
    """A causal model that is sure of what the toy predicts, but wants one word everywhere else."""

    def __init__(self, toy: ToyDenoiser, elsewhere: str = "") -> None:
        self.toy, self.elsewhere = toy, elsewhere

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor) -> Any:
        logits = torch.zeros(*input_ids.shape, len(self.toy.words), device=input_ids.device)
        [empty] = self.toy.encode_prompt(EMPTY)
        for row, ids in enumerate(input_ids.tolist()):
            cells = [token for token in ids[4 : len(ids) - LENGTH - 1] if token != empty]
            for place in range(LENGTH):
                word = cells[place] if place < len(cells) else self.toy.eos_id
                if self.elsewhere and place % 2:
                    [word] = self.toy.encode_prompt(self.elsewhere)
                logits[row, len(ids) - LENGTH + place - 1, word] = 20.0
        return SimpleNamespace(logits=logits)


@pytest.fixture
def guide(toy: ToyDenoiser, monkeypatch: pytest.MonkeyPatch) -> CopyGuide:
    model = CopyGuide(toy)
    monkeypatch.setattr("policies.rules.guide.load_guide", lambda name, device: model)
    return model


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token frequencies for pc_sampler, so that they aren't counted anew for each decode."""
    path = tmp_path_factory.mktemp("frequencies") / "counts.json"
    path.write_text(json.dumps({str(token): token % 17 for token in range(2, 140)}))
    return path


def run(denoiser: Any, rule: str, prompts: list[str], block: int = LENGTH, **kwargs: Any) -> list[Generation]:
    policy = make_rule(rule)
    return decode(denoiser, prompts, policy, DecodingSettings(LENGTH, block, features=policy.features), **kwargs)


VARIANTS = sorted(
    {make_rule(name).name for name in RULES}
    | {make_rule(f"{name}:{cls.sweep[0]}").name for name, cls in RULES.items()}
    | {"low_confidence:3,schedule=cosine", "eb_sampler:0.5,order=margin", "rho_eos:0.9,start=1", "tccf:3,fine=2"}
    | {"remdm:1,share=0.5", "info_gain:2,threshold=1,candidates=3", "freedave:16"}
)


@pytest.mark.slow
@pytest.mark.parametrize("block", [LENGTH, 4])
@pytest.mark.parametrize("rule", VARIANTS)
def test_every_rule_finishes_with_the_right_text(
    toy: ToyDenoiser, guide: CopyGuide, counts: Path, rule: str, block: int
) -> None:
    if rule.startswith("pc_sampler"):
        rule += f",frequencies={counts}"
    together = run(toy, rule, PROMPTS, block)
    assert [done.text for done in together] == TEXTS
    # A remasked row may take back once for each of its steps up to L; each of PUNT's has up to log2 L trials.
    times = {"remdm": 2, "punt": 1 + math.ceil(math.log2(block))}
    most = times.get(rule.partition(":")[0], 1) * LENGTH
    for done, prompt in zip(together, PROMPTS, strict=True):
        assert 1 <= done.nfe <= most
        assert len(done.tokens) == LENGTH
        assert not {toy.mask_id, toy.pad_id} & set(done.tokens)
        width = len(toy.encode_prompt(prompt))
        assert done.token_positions >= done.nfe * width
        if rule.partition(":")[0] not in ("freedave", "info_gain", "guided", "diffuspec", "wino"):
            assert done.token_positions <= done.nfe * (width + LENGTH)
    assert run(toy, rule, PROMPTS, block, batch_size=2) == together
    for number in (0, 3):
        assert run(toy, rule, [PROMPTS[number]], block) == [together[number]]


@pytest.mark.parametrize("k", [1, 3, 5, 20])
@pytest.mark.parametrize("block", [12, 4])
@pytest.mark.parametrize("rule", ["low_confidence", "random", "margin", "entropy", "window", "rcr", "ccd"])
def test_forwards_are_exact_when_no_text_ends_early(toy: ToyDenoiser, rule: str, block: int, k: int) -> None:
    prompts = [form("copy", list(letters)) for letters in ("abcdefghijkl", "zyxwvutsrqpo")]  # 12 cells, no end-of-text
    done = run(toy, f"{rule}:{k}", prompts, block)
    assert [generation.nfe for generation in done] == [12 // block * math.ceil(block / k)] * 2
    assert [generation.text for generation in done] == ["a b c d e f g h i j k l", "z y x w v u t s r q p o"]


@pytest.mark.parametrize(
    ("rule", "nfe"),
    [
        ("threshold:0", {12: 1, 4: 3, 1: 12}),
        ("threshold:1", {12: 12, 4: 12}),
        ("oracle", {12: 1, 4: 3}),
        ("guided", {12: 1, 4: 3}),
        ("diffuspec", {12: 1, 4: 1}),
        ("parallel_forced:4", {12: 3, 4: 3}),
        ("parallel_forced:3,tokens_per_step=2,summary=0.5", {12: 4}),
        ("prophet:0", {12: 1, 4: 1}),
        ("ete:0,ahead=1", {12: 1, 4: 2}),
        ("ete:0,ahead=0", {4: 3}),
        ("dus:2", {4: 6}),
        ("tccf:2,low=0,high=0", {12: 6, 4: 6}),
        ("freedave:1", {12: 12, 4: 12}),
    ],
)
def test_forwards_of_a_full_buffer(toy: ToyDenoiser, guide: CopyGuide, rule: str, nfe: dict[int, int]) -> None:
    for block, expected in nfe.items():
        [done] = run(toy, rule, [form("copy", list("abcdefghijkl"))], block)
        assert done.nfe == expected
        assert done.text == "a b c d e f g h i j k l"


@pytest.mark.parametrize("k", [1, 3, 4])
def test_low_confidence_never_takes_more_than_its_steps(toy: ToyDenoiser, k: int) -> None:
    prompts = [form("copy", list("abcdefghij"[:size])) for size in range(2, 10)]
    for done in decode(toy, prompts, LowConfidence(k), DecodingSettings(16, 16)):
        assert done.nfe <= math.ceil(16 / k)


def test_rho_eos_computes_less_of_a_short_text_and_grows_for_a_long_one(toy: ToyDenoiser) -> None:
    width = len(toy.encode_prompt(PROMPTS[0]))
    fixed, adaptive = (run(toy, rule, PROMPTS, 4) for rule in ("threshold:0.9", "rho_eos:0.9"))
    assert [done.text for done in adaptive] == [done.text for done in fixed] == TEXTS
    short = TEXTS.index("a")
    assert adaptive[short].token_positions / adaptive[short].nfe < width + LENGTH / 2
    assert fixed[short].token_positions == fixed[short].nfe * (width + LENGTH)


def test_the_guides_tokens_are_written_and_its_forwards_count_as_positions(
    toy: ToyDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CopyGuide(toy, elsewhere="z")
    monkeypatch.setattr("policies.rules.guide.load_guide", lambda name, device: model)
    prompt = form("copy", list("abcdefghijkl"))
    [done] = run(toy, "guided", [prompt], 4)
    assert done.text == "a z c z e z g z i z k z"
    assert done.nfe == 6  # each forward goes on to the next refusal
    assert done.token_positions == 2 * done.nfe * (len(toy.encode_prompt(prompt)) + LENGTH)


# What the order of commits changes.


def test_the_context_denoiser_depends_on_the_order() -> None:
    one, all_at_once = (run(Context(), rule, NUMBERS) for rule in ("low_confidence:1", "low_confidence:12"))
    assert sum(a.tokens != b.tokens for a, b in zip(one, all_at_once, strict=True)) > 15
    assert len({done.text for done in one}) >= 10
    assert sum(Context.eos_id in done.tokens for done in one) > 3


@pytest.mark.slow
@pytest.mark.parametrize("with_end", [True, False])
@pytest.mark.parametrize("block", [12, 4, 3])
def test_freedave_loses_nothing(block: int, with_end: bool) -> None:
    denoiser = Context(with_end)
    reference = run(denoiser, "low_confidence:1", NUMBERS, block)
    saved = {}
    for drafts in (1, 2, 4):
        done = run(denoiser, f"freedave:{drafts}", NUMBERS, block, batch_size=7)
        assert [(g.tokens, g.text) for g in done] == [(g.tokens, g.text) for g in reference]
        assert all(a.nfe <= b.nfe for a, b in zip(done, reference, strict=True))
        assert all(a.token_positions >= b.token_positions for a, b in zip(done, reference, strict=True))
        saved[drafts] = sum(b.nfe - a.nfe for a, b in zip(done, reference, strict=True))
    assert saved[1] == 0
    assert saved[4] >= saved[2] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", [name for name in RULES if name not in ("guided", "diffuspec", "pc_sampler", "adablock", "tccf")]
)
def test_every_rule_is_the_same_in_any_company_where_order_counts(rule: str) -> None:
    together = run(Context(), rule, NUMBERS[:6], 4, batch_size=4)
    assert [run(Context(), rule, [prompt], 4)[0] for prompt in NUMBERS[:3]] == together[:3]
    most = 3 if rule == "punt" else 2  # in blocks of 4 it has up to two trials a step
    assert all(Context.mask_id not in done.tokens and 1 <= done.nfe <= most * LENGTH for done in together)


@pytest.mark.parametrize("block", [12, 4])
def test_the_oracle_never_needs_more_forwards_where_predictions_stand_still(toy: ToyDenoiser, block: int) -> None:
    oracle, reference = (run(toy, rule, PROMPTS, block) for rule in ("oracle", "low_confidence:1"))
    assert [done.tokens for done in oracle] == [done.tokens for done in reference]
    for rule in ("threshold:0.3", "threshold:0.9", "factor:1", "localleap", "low_confidence:2"):
        other = run(toy, rule, PROMPTS, block)
        assert all(a.nfe <= b.nfe for a, b in zip(oracle, other, strict=True))


@pytest.mark.parametrize("texts", [[None] * 5, [None, "1 [MASK] 2 [MASK] 3", None, "[MASK] 4", "7 [MASK]"]])
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_the_oracles_reference_is_low_confidence_with_the_same_random_numbers(
    temperature: float, texts: list[str | None]
) -> None:
    settings = DecodingSettings(LENGTH, 4, temperature, Oracle.features)
    reference = decode(Context(), NUMBERS[:5], LowConfidence(1), settings, given=texts, seed=3)
    references = Oracle().bind(Context(), settings).references
    assert references is not None
    batch = DecodingBatch(Context(), 5, settings)
    prompts, given = [Context().encode_prompt(prompt) for prompt in NUMBERS[:5]], encode_all_given(Context(), texts)
    batch.load(range(5), prompts, 3, given=given)
    view = batch.forward()
    prompt, given_ids = view.tensors["prompt"], view.tensors["given"]
    for rows in ([0], [2, 0, 1], [0, 1, 2, 3, 4]):
        found = references.of(view.key[rows], prompt[rows], given_ids[rows], view.length[rows])
        assert found.tolist() == [reference[row].tokens for row in rows]
