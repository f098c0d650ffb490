"""Decode text with any policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from envs.decoding import DecodingBatch, DecodingSettings
from envs.denoiser import Denoiser, MaskedLMDenoiser
from envs.infilling import encode_all_given
from policies.base import UnmaskingPolicy
from policies.learned import LearnedPolicy


@dataclass(frozen=True)
class Generation:
    """One decoded sequence.

    Attributes:
        text: up to the first end-of-text.
        tokens: the whole buffer, L token ids.
        nfe: forwards of the dLLM.
        token_positions: positions computed, summed over the forwards (prompt and buffer).
    """

    text: str
    tokens: list[int]
    nfe: int
    token_positions: int


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    policy: UnmaskingPolicy,
    *,
    given: Sequence[str | None] | None = None,
    buffer_length: int = 64,
    block_length: int | None = None,
    temperature: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
    end_of_text_prediction: bool = False,
    speed: float | None = None,
    accuracy_target: float | None = None,
    nfe_target: float | None = None,
) -> list[Generation]:
    """Decode an answer to each prompt.

    A sequence's tokens and NFE do not depend on the other prompts or the batch size (up to the rounding of the
    dLLM's own batched arithmetic). Where nothing is random they are those of the env with the same settings.

    Args:
        model: a transformers masked language model (absorbing diffusion).
        tokenizer: its tokenizer, with mask and end-of-text tokens.
        prompts: texts, chat template already applied where the model has one.
        policy: a rule or a learned policy.
        given: for each prompt None, or the text to fill in, with "[MASK]" for each missing token (infilling).
        buffer_length: L, masks to start from, or the longest given text.
        block_length: of semi-autoregressive blocks; None for full diffusion.
        temperature: of the sampled token; 0 commits the argmax.
        batch_size: sequences decoded side by side.
        seed: of every random choice.
        end_of_text_prediction: see `envs.decoding.DecodingSettings`.
        speed: of a policy with a dial, 0 (slow) to 1 (fast); see `policies.LearnedPolicy.tuned`.
        accuracy_target: of a policy with a dial, instead of a speed.
        nfe_target: of a policy with a dial, instead of a speed.

    Returns:
        One `Generation` a prompt, in order.

    Raises:
        ValueError: for impossible lengths, a prompt that is empty or too long, a given text that is too long or has no
            blank, or a speed or target that the policy does not have.
        DenoiserError: if the model returns NaN.
    """
    if (speed, accuracy_target, nfe_target) != (None, None, None):
        if not isinstance(policy, LearnedPolicy):
            raise ValueError(f"speed or a target is given, but {policy.name} has no dial; change its knob instead")
        policy = policy.tuned(
            block_length or buffer_length, speed=speed, accuracy_target=accuracy_target, nfe_target=nfe_target
        )
    settings = DecodingSettings(buffer_length, block_length, temperature, policy.features, end_of_text_prediction)
    denoiser = MaskedLMDenoiser(model, tokenizer)
    return decode(denoiser, prompts, policy, settings, given=given, batch_size=batch_size, seed=seed)


def decode(
    denoiser: Denoiser,
    prompts: Sequence[str],
    policy: UnmaskingPolicy,
    settings: DecodingSettings,
    *,
    given: Sequence[str | None] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    on_finish: Callable[[int], object] | None = None,
) -> list[Generation]:
    """Decode an answer to each prompt; `generate` for a dLLM that is already wrapped.

    Finished rows take the next prompt before the next forward, so no row ever idles.

    Args:
        denoiser: the frozen dLLM.
        prompts: texts.
        policy: a rule or a learned policy.
        settings: lengths and temperature; the policy's features must be among its features.
        given: for each prompt None, or the text to fill in; see `envs.infilling`.
        batch_size: most rows at a time.
        seed: of every random choice.
        on_finish: called with the number of sequences that just finished.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be 1 or more")
    missing = sorted(policy.features - settings.features)
    if missing:
        raise ValueError(f"settings.features lacks {missing[0]!r}, which the policy {policy.name!r} reads")
    policy = policy.bind(denoiser, settings)
    encoded = [denoiser.encode_prompt(prompt) for prompt in prompts]
    texts = encode_all_given(denoiser, [None] * len(prompts) if given is None else given)
    if len(texts) != len(prompts):
        raise ValueError(f"given has {len(texts)} entries: it must have one a prompt, {len(prompts)}")
    batch = DecodingBatch(denoiser, min(batch_size, max(1, len(prompts))), settings)
    results: list[Generation | None] = [None] * len(prompts)
    owner = [-1] * len(batch.masked)
    length = policy.initial_length(settings.buffer_length)
    waiting = iter(range(len(prompts)))
    free = list(range(len(owner)))
    while True:
        started = list(zip(free, waiting, strict=False))
        for row, prompt in started:
            owner[row] = prompt
        rows, which = [row for row, _ in started], [prompt for _, prompt in started]
        batch.load(rows, [encoded[i] for i in which], seed, length=length, given=[texts[i] for i in which])
        if not bool(batch.running.any()):
            break
        finished = batch.apply(policy.act(batch.forward()))
        free = torch.nonzero(finished).squeeze(1).tolist()
        for row in free:
            tokens = batch.tokens(row)
            text = denoiser.decode(tokens)
            results[owner[row]] = Generation(text, tokens, int(batch.nfe[row]), int(batch.token_positions[row]))
        if on_finish is not None and free:
            on_finish(len(free))
    return [result for result in results if result is not None]
