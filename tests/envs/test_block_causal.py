"""Families that fill whole blocks of their own: wherever the buffer ends, the last block is filled all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import build
from denoisers import A, B, Mixing
from torch import Tensor

from envs import UnmaskingVectorEnv
from envs.decoding.batch import DecodingBatch
from envs.decoding.blocks import buffer_width
from envs.decoding.first_forwards import FirstForwards
from envs.decoding.infilling import encode_given
from envs.decoding.settings import DecodingSettings
from envs.models.adapter import MaskedLMDenoiser
from envs.models.load import load_denoiser
from envs.view import Action
from policies import RULES, decode, make_rule
from train.watching.recording import record

LENGTH = 8
OWN = {"sdar": 4, "fast_dllm_v2": 8, "a2d_bd3lm": 32}
PROMPTS = ["a" * size for size in (3, 4, 5, 6, 9)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("block_causal")
    return {name: build("a2d" if name.startswith("a2d") else name, root / name) for name in OWN}


def load(folders: dict[str, Path], name: str) -> MaskedLMDenoiser:
    denoiser = load_denoiser(str(folders[name]), family=name, chat_template=False)
    assert isinstance(denoiser, MaskedLMDenoiser)
    return denoiser


@torch.inference_mode()
def released(
    denoiser: MaskedLMDenoiser, prompt: list[int], block: int, threshold: float, given: list[int] | None = None
) -> tuple[list[int], int]:
    """SDAR's ``block_diffusion_generate`` without its cache, one token a step or all above the threshold; greedy.

    A text with blanks stands where its masks would. Source: generate.py of JetAstra/SDAR.
    """
    text = [denoiser.mask_id] * LENGTH if given is None else given
    blocks = -(-(len(prompt) + len(text)) // block)
    x = torch.tensor([prompt + text + [denoiser.mask_id] * (blocks * block - len(prompt) - len(text))])
    number = torch.arange(blocks * block) // block
    sees = (number.unsqueeze(0) <= number.unsqueeze(1))[None, None]
    forwards = 0
    for place in range(len(prompt) // block, blocks):
        here = slice(place * block, (place + 1) * block)
        while bool((x[:, here] == denoiser.mask_id).any()):
            logits = denoiser.model(input_ids=x, attention_mask=sees).logits[0, here]
            logits[:, denoiser.mask_id] = -torch.inf
            confidence, token = logits.softmax(-1).max(-1)
            confidence[x[0, here] != denoiser.mask_id] = -torch.inf
            chosen = confidence > threshold
            if not chosen.any():
                chosen[confidence.argmax()] = True
            x[0, here] = torch.where(chosen, token, x[0, here])
            forwards += 1
    return x[0, len(prompt) : len(prompt) + len(text)].tolist(), forwards


@pytest.mark.parametrize(("rule", "threshold"), [("low_confidence:1", 2.0), ("threshold:0.1", 0.1)])
def test_texts_and_forwards_are_those_of_the_released_loop(
    folders: dict[str, Path], rule: str, threshold: float
) -> None:
    denoiser, policy = load(folders, "sdar"), make_rule(rule)
    expected = [released(denoiser, denoiser.encode_prompt(prompt), 4, threshold) for prompt in PROMPTS]
    settings = DecodingSettings(LENGTH, 4, early_end=False)
    for size in (1, len(PROMPTS)):
        found = decode(denoiser, PROMPTS, policy, settings, batch_size=size)
        assert [(one.tokens, one.nfe) for one in found] == expected
    if rule == "low_confidence:1":
        # Three more masks than the buffer has, where the prompt goes one position into a block.
        assert [one.nfe for one in found] == [9, 8, 11, 10, 11]
    early = decode(denoiser, PROMPTS, policy, DecodingSettings(LENGTH, 4))
    for one, (tokens, forwards) in zip(early, expected, strict=True):
        assert one.text == denoiser.decode(tokens)
        assert one.nfe <= forwards


@pytest.mark.parametrize(("rule", "threshold"), [("low_confidence:1", 2.0), ("threshold:0.1", 0.1)])
def test_texts_with_blanks_are_filled_in_whole_blocks(folders: dict[str, Path], rule: str, threshold: float) -> None:
    denoiser, policy = load(folders, "sdar"), make_rule(rule)
    texts = ["a[MASK]b[MASK][MASK]", "[MASK]" * 3, "ab[MASK]ab[MASK]", "[MASK]abcd", "abc[MASK]"]
    given = [encode_given(denoiser, text) for text in texts]
    prompts = [denoiser.encode_prompt(prompt) for prompt in PROMPTS]
    # Each of them ends inside a block, or is followed by none of its own.
    assert any((len(prompt) + len(text)) % 4 for prompt, text in zip(prompts, given, strict=True))
    expected = [released(denoiser, prompt, 4, threshold, text) for prompt, text in zip(prompts, given, strict=True)]
    settings = DecodingSettings(LENGTH, 4, early_end=False)
    for size in (1, len(PROMPTS)):
        found = decode(denoiser, PROMPTS, policy, settings, given=texts, batch_size=size)
        padded = [(tokens + [denoiser.eos_id] * (LENGTH - len(tokens)), forwards) for tokens, forwards in expected]
        assert [(one.tokens, one.nfe) for one in found] == padded
        for one, text in zip(found, given, strict=True):
            assert [step > 0 for step in one.commit_step] == [
                place < len(text) and text[place] == denoiser.mask_id for place in range(LENGTH)
            ]
    early = decode(denoiser, PROMPTS, policy, DecodingSettings(LENGTH, 4), given=texts)
    for one, other in zip(early, found, strict=True):
        assert one.text == other.text
        assert one.nfe <= other.nfe


class Watching:
    """Keeps how many positions each forward saw of each row."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser
        self.seen: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int, position_ids: Tensor | None = None) -> Tensor:
        self.seen += attention_mask.sum(1).tolist()
        answer: Tensor = self.denoiser.logits(tokens, attention_mask, length, position_ids)
        return answer


@pytest.mark.parametrize("predict", [False, True])
@pytest.mark.parametrize("name", OWN)
def test_the_dllm_always_sees_whole_blocks(folders: dict[str, Path], name: str, predict: bool) -> None:
    denoiser = Watching(load(folders, name))
    for rule in ("threshold:0.05", "rho_eos"):
        policy = make_rule(rule)
        settings = DecodingSettings(LENGTH, 4, features=policy.features, end_of_text_prediction=predict)
        texts = [None, "a[MASK]b", "[MASK]" * 5, "[MASK]abcd[MASK]", None]
        together = decode(denoiser, PROMPTS, policy, settings, given=texts)
        alone = decode(denoiser, PROMPTS, policy, settings, given=texts, batch_size=1)
        assert together == alone
        assert all(len(one.tokens) == LENGTH for one in together)
    # Where blocks count from the prompt's end, what a forward sees of the prompt comes on top.
    prompts = {len(prompt) for prompt in PROMPTS} if name == "a2d_bd3lm" else {0}
    assert denoiser.seen
    assert all(any((seen - known) % OWN[name] == 0 for known in prompts) for seen in denoiser.seen)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RULES if name not in ("guided", "diffuspec", "wino")])
def test_every_rule_decodes_to_the_end_of_a_block(folders: dict[str, Path], name: str) -> None:
    denoiser, policy = load(folders, "sdar"), make_rule(name)
    settings = DecodingSettings(LENGTH, 4, features=policy.features, early_end=False)
    together = decode(denoiser, PROMPTS, policy, settings)
    assert decode(denoiser, PROMPTS, policy, settings, batch_size=1) == together
    assert all(len(one.tokens) == LENGTH and denoiser.mask_id not in one.tokens for one in together)


class InFours(Mixing):
    """Says that it was trained on blocks of four of the whole text."""

    block_length: int | None = 4  # type: ignore[assignment]
    absolute_blocks = True
    max_length = 21


def test_rows_end_with_their_own_last_block() -> None:
    batch = DecodingBatch(InFours(), 4, DecodingSettings(6, 2))
    assert buffer_width(batch.denoiser, 6) == 9
    batch.load(range(4), [[A], [A, B], [A] * 3, [A] * 4])
    assert batch.length.tolist() == [7, 6, 9, 8]
    assert batch.masked.sum(1).tolist() == [7, 6, 9, 8]
    assert batch.block_end.tolist() == [1, 2, 1, 2]
    batch.forward()
    assert batch.token_positions.tolist() == [8, 8, 12, 12]
    batch.load([0], [[A]], length=1)
    assert batch.length[0] == 3
    # Of 21 positions 20 are whole blocks.
    batch.load([0], [[A] * 14])
    with pytest.raises(ValueError, match="prompt has 15 tokens: it must have 1 to 14"):
        batch.load([0], [[A] * 15])
    with pytest.raises(ValueError, match="buffer_length is 30: it must be 19 or less"):
        DecodingBatch(InFours(), 1, DecodingSettings(30, 2))


def test_a_text_is_whole_when_the_buffer_is() -> None:
    """What a row fills beyond the buffer is no part of its text: the early end does not wait for it."""
    batches = [DecodingBatch(InFours(), 1, DecodingSettings(6, 2, early_end=early)) for early in (True, False)]
    for batch in batches:
        batch.load([0], [[A] * 3])
        while not (batch.buffer[0, :6] != batch.denoiser.mask_id).all():
            view = batch.forward()
            batch.apply(Action(view.eligible))
    early, late = batches
    assert not early.running.any()
    assert late.running.all()
    assert late.tokens(0) == early.tokens(0)
    assert len(late.tokens(0)) == 6


def test_the_env_decodes_what_decode_does(folders: dict[str, Path]) -> None:
    denoiser, rule = load(folders, "sdar"), make_rule("threshold:0.1")
    env = UnmaskingVectorEnv(3, denoiser=denoiser, tasks="copy", buffer_length=LENGTH, block_length=4, early_end=False)
    width = LENGTH + 3
    assert env.single_action_space.n == width  # type: ignore[attr-defined]
    observation, _ = env.reset(seed=0)
    asked = list(env.problems)
    finished: dict[int, dict[str, Any]] = {}
    while len(finished) < 3:
        assert env.observation_space.contains(observation)
        assert observation["masked"].shape == (3, width)
        observation, rewards, terminated, _, infos = env.step(rule.act(env.view))
        assert np.isfinite(rewards).all()
        for row in np.flatnonzero(terminated):
            finished.setdefault(int(row), {name: values[row] for name, values in infos["final_info"].items()})
    settings = DecodingSettings(LENGTH, 4, early_end=False)
    expected = decode(denoiser, [problem.prompt for problem in asked], rule, settings)
    assert [(finished[row]["text"], finished[row]["nfe"]) for row in range(3)] == [
        (one.text, one.nfe) for one in expected
    ]


def test_first_forwards_are_remembered_in_whole_blocks(folders: dict[str, Path]) -> None:
    watching = Watching(load(folders, "sdar"))
    known = FirstForwards(watching)  # type: ignore[arg-type]
    known.remember([known.encode_prompt(prompt) for prompt in PROMPTS], LENGTH, batch_size=2)
    watching.seen.clear()
    batch = DecodingBatch(known, len(PROMPTS), DecodingSettings(LENGTH, 4))
    batch.load(range(len(PROMPTS)), [known.encode_prompt(prompt) for prompt in PROMPTS])
    view = batch.forward()
    assert watching.seen == []
    alone = DecodingBatch(watching.denoiser, len(PROMPTS), DecodingSettings(LENGTH, 4))
    alone.load(range(len(PROMPTS)), [known.encode_prompt(prompt) for prompt in PROMPTS])
    assert torch.allclose(view.confidence, alone.forward().confidence, atol=1e-5)
    rule, settings = make_rule("threshold:0.1"), DecodingSettings(LENGTH, 4)
    assert decode(known, PROMPTS, rule, settings) == decode(watching.denoiser, PROMPTS, rule, settings)


def test_a_recording_shows_the_text_alone(folders: dict[str, Path]) -> None:
    denoiser, rule = load(folders, "sdar"), make_rule("threshold:0.1")
    settings = DecodingSettings(LENGTH, 4)
    recordings = record(denoiser, PROMPTS, rule, settings)
    found = decode(denoiser, PROMPTS, rule, settings)
    assert [one.tokens for one in recordings] == [one.tokens for one in found]
    for recording in recordings:
        for frame in recording.frames:
            sizes = {len(values) for values in vars(frame).values() if isinstance(values, list)}
            assert sizes == {LENGTH}
