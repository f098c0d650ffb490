"""Decode text with any policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from envs.caches import make_cache
from envs.decoding.batch import DecodingBatch
from envs.decoding.infilling import encode_all_given
from envs.decoding.settings import DecodingOptions, DecodingSettings, check_kept
from envs.denoiser import Denoiser
from envs.models.adapter import MaskedLMDenoiser
from envs.noise import sample_seed
from envs.numbers import is_whole
from policies.base import UnmaskingPolicy
from policies.files import check_characters, one_line, show
from policies.learned import LearnedPolicy
from policies.playing import play
from policies.prompts import Message, as_list, as_text, encode_one

MOST_SAMPLES = 1_000_000
"""Answers to one prompt: far more than anybody waits for."""


@dataclass(frozen=True)
class Generation:
    """One decoded sequence.

    Attributes:
        text: up to the first end-of-text.
        tokens: the whole buffer, L token ids.
        nfe: forwards of the dLLM.
        token_positions: positions computed, summed over the forwards (prompt and buffer).
        commit_step: for each token the forward that committed it, from 1; 0 where it was given, or filled in at the
            end.
        said: tokens before the first end-of-text, which are the text; the rest of the buffer is padding.
        log_likelihood: nats, `envs.decoding.rows.Rows.log_likelihood`; not compared.
    """

    text: str
    tokens: list[int]
    nfe: int
    token_positions: int
    commit_step: list[int]
    said: int
    # Its last digits depend on the batch, and two decodings of one text are the same.
    log_likelihood: float = field(compare=False)


@dataclass(frozen=True)
class GenerationStep:
    """A sequence after one of its forwards.

    Attributes:
        answer: which of the answers it is, in the order that they are returned.
        tokens: the whole buffer, L token ids, the mask token where nothing is committed.
        nfe: forwards so far.
        commit_step: as `Generation.commit_step`; 0 at masks too.
        committed: positions that this step committed, rising. Drafts (`envs.view.Action`) are committed a step later,
            or with the last one.
        is_finished: whether this was its last.
    """

    answer: int
    tokens: list[int]
    nfe: int
    commit_step: list[int]
    committed: list[int]
    is_finished: bool


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str | Sequence[Message]],
    policy: UnmaskingPolicy,
    *,
    samples: int = 1,
    given: Sequence[str | None] | None = None,
    block_length: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    speed: float | None = None,
    accuracy_target: float | None = None,
    nfe_target: float | None = None,
    on_step: Callable[[GenerationStep], object] | None = None,
    **decoding: Unpack[DecodingOptions],
) -> list[Generation]:
    """Decode answers to each prompt.

    A sequence's tokens and NFE do not depend on the other prompts or the batch size (up to the rounding of the
    dLLM's own batched arithmetic), and are those of the env with the same settings. So equal prompts have equal
    answers; several different ones are `samples`. The model is left as it was: trainable, in training mode or not.

    Args:
        model: a transformers masked language model (absorbing diffusion).
        tokenizer: its tokenizer, with mask and end-of-text tokens.
        prompts: texts, chat template already applied where the model has one; or conversations, each a list of
            messages, that the tokenizer's chat template is applied to.
        policy: a rule or a learned policy.
        samples: answers to each prompt, each with random numbers of its own; the first is what one alone would be.
        given: for each prompt None, or the text to fill in, with "[MASK]" for each missing token (infilling).
        block_length: of semi-autoregressive blocks; None for full diffusion.
        batch_size: sequences decoded side by side.
        seed: of every random choice.
        speed: of a policy with a dial, 0 (slow) to 1 (fast); see `policies.LearnedPolicy.tuned`.
        accuracy_target: of a policy with a dial, instead of a speed.
        nfe_target: of a policy with a dial, instead of a speed.
        on_step: called with every sequence after each of its forwards, as text fills in.
        **decoding: ``buffer_length`` (L, masks to start from, or the longest given text), ``temperature`` (of the
            sampled token; 0 commits the argmax), ``end_of_text_prediction``, ``early_end``, ``window``,
            ``block_origin``, ``blocks_ahead`` and ``cache`` (such as ``"dual:refresh=8"``), as
            `envs.decoding.settings.DecodingSettings` explains them.

    Returns:
        `samples` `Generation` objects a prompt, in order, those of a prompt one after the other.

    Raises:
        ValueError: for an argument of another kind, impossible lengths, a prompt that is empty or too long, a given
            text that is too long or has no blank, or a speed or target that the policy does not have.
        DenoiserError: if the model returns NaN.
    """
    if not hasattr(tokenizer, "mask_token_id"):
        raise ValueError(f"tokenizer is {one_line(show(tokenizer))}: give the dLLM's, as AutoTokenizer loads it")
    texts = [as_text(prompt, tokenizer, i) for i, prompt in enumerate(as_list("prompts", prompts))]
    _check_policy(policy)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {model!r}: give a transformers model; policies.decode takes a loaded dLLM by name")
    settings = DecodingSettings(block_length=block_length, features=policy.features, **decoding)
    if (speed, accuracy_target, nfe_target) != (None, None, None):
        if not isinstance(policy, LearnedPolicy):
            raise ValueError(f"speed or a target is given, but {policy.name} has no dial; change its knob instead")
        policy = policy.tuned(settings.block, speed=speed, accuracy_target=accuracy_target, nfe_target=nfe_target)
    # The adapter freezes the model and puts it in evaluation mode.
    with _left_as_it_was(model):
        denoiser = MaskedLMDenoiser(model, tokenizer)
        return decode(
            denoiser,
            texts,
            policy,
            settings,
            samples=samples,
            given=given,
            batch_size=batch_size,
            seed=seed,
            on_step=on_step,
        )


def decode(
    denoiser: Denoiser,
    prompts: Sequence[str | Sequence[Message]],
    policy: UnmaskingPolicy,
    settings: DecodingSettings,
    *,
    samples: int = 1,
    given: Sequence[str | None] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    on_finish: Callable[[int], object] | None = None,
    on_step: Callable[[GenerationStep], object] | None = None,
) -> list[Generation]:
    """Decode answers to each prompt; `generate` for a dLLM that is already wrapped.

    Finished rows take the next prompt before the next forward, so no row ever idles.

    Args:
        denoiser: the frozen dLLM.
        prompts: texts, or conversations where the dLLM has a chat template.
        policy: a rule or a learned policy.
        settings: lengths and temperature; the policy's features must be among its features.
        samples: answers to each prompt.
        given: for each prompt None, or the text to fill in; see `envs.decoding.infilling`.
        batch_size: most rows at a time.
        seed: of every random choice.
        on_finish: called with the number of sequences that just finished.
        on_step: called with every sequence after each of its forwards.

    Raises:
        ValueError: as `generate` does.
    """
    prompts = as_list("prompts", prompts)
    _check_policy(policy)
    _check_whole("batch_size", batch_size, 1)
    _check_whole("samples", samples, 1)
    if samples > MOST_SAMPLES:
        raise ValueError(f"samples is {show(samples)}: {MOST_SAMPLES:,} are the most")
    _check_whole("seed", seed, -(2**63), 2**63 - 1)
    for name, callback in (("on_finish", on_finish), ("on_step", on_step)):
        if callback is not None and not callable(callback):
            raise ValueError(f"{name} is {show(callback)}: give a function, or None")
    missing = sorted(policy.features - settings.features)
    if missing:
        raise ValueError(f"settings.features lacks {missing[0]!r}, which the policy {policy.name!r} reads")
    check_cache(policy, settings.cache)
    policy = policy.bind(denoiser, settings)
    encoded = [encode_one(denoiser, prompt, i) for i, prompt in enumerate(prompts)]
    texts = encode_all_given(denoiser, _check_given(given, len(prompts)))
    # No more rows than answers, and one where there are none: a batch can't be empty.
    batch = DecodingBatch(denoiser, min(batch_size, max(1, samples * len(prompts))), settings)
    results: list[Generation | None] = [None] * (samples * len(prompts))
    owner = [-1] * len(batch.masked)
    length = policy.initial_length(settings.buffer_length)
    waiting = iter(range(len(results)))

    def start(free: Iterable[int]) -> None:
        """Let free rows take the answers that wait."""
        # In this order: zip asks the second only where the first gave a row, so no waiting answer is lost.
        started = list(zip(free, waiting, strict=False))
        for row, answer in started:
            owner[row] = answer
        rows, which = [row for row, _ in started], [answer // samples for _, answer in started]
        seeds = [sample_seed(seed, answer % samples) for _, answer in started]
        batch.load(rows, [encoded[i] for i in which], seeds, length=length, given=[texts[i] for i in which])

    start(range(len(owner)))
    before = batch.commit_step
    for step in play(batch, policy):
        if on_step is not None:
            _tell(on_step, batch, owner, before, step.finished)
        free = torch.nonzero(step.finished).squeeze(1).tolist()
        for row in free:
            tokens = batch.tokens(row)
            text = denoiser.decode(tokens)
            counts = int(batch.nfe[row]), int(batch.token_positions[row])
            steps = batch.of_text(batch.commit_step, row)
            # The first of any end, as a chat model may end its turn by one token and its text by another.
            said = next((i for i, token in enumerate(tokens) if token in denoiser.end_ids), len(tokens))
            results[owner[row]] = Generation(text, tokens, *counts, steps, said, float(batch.log_likelihood[row]))
        if on_finish is not None and free:
            on_finish(len(free))
        start(free)
        # After `start`, which writes into it; a step makes a new tensor, so this one stays.
        before = batch.commit_step
    # None is left by now; the type checker can't know.
    return [result for result in results if result is not None]


def _tell(
    on_step: Callable[[GenerationStep], object],
    batch: DecodingBatch,
    owner: Sequence[int],
    before: Tensor,
    finished: Tensor,
) -> None:
    """Call back with each row that was running.

    Args:
        on_step: to call.
        batch: after the step.
        owner: N, the answer that each row decodes.
        before: (N, L) int64, the batch's ``commit_step`` before the step.
        finished: (N,) bool.
    """
    # A remasked position has changed too, to 0; it is not committed.
    changed = (batch.commit_step != before) & (batch.commit_step > 0)
    for row in (batch.running | finished).nonzero().squeeze(1).tolist():
        tokens = batch.tokens(row)
        steps = batch.of_text(batch.commit_step, row)
        committed = [place for place, is_new in enumerate(batch.of_text(changed, row)) if is_new]
        on_step(GenerationStep(owner[row], tokens, int(batch.nfe[row]), steps, committed, bool(finished[row])))


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Give a model back as it came, whatever happens: what is trainable, and what is in training mode."""
    # Of each parameter and module by itself: a model may be frozen in part, and in mixed modes.
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    training = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for parameter, requires_grad in trainable:
            parameter.requires_grad_(requires_grad)
        for module, mode in training:
            module.training = mode


def check_cache(policy: UnmaskingPolicy, cache: str) -> None:
    """Refuse a policy that needs more than a cache keeps.

    Args:
        policy: the policy.
        cache: as `envs.caches.make_cache` reads it.

    Raises:
        ValueError: if it drafts or reads what no cache can go on from, and there is a cache.
    """
    if policy.drafts and make_cache(cache).keeps:
        raise ValueError(
            f"cache is {cache!r}, but {policy.name} drafts, which would need keys and values of its own; use cache "
            "none or another policy"
        )
    check_kept(cache, policy.features, f"{policy.name} reads")


def _check_policy(policy: Any) -> None:
    if not isinstance(policy, UnmaskingPolicy):
        raise ValueError(
            f"policy is {one_line(show(policy))}: give a policy, such as policies.make_rule('threshold:0.9') or "
            "policies.load(FOLDER)"
        )


def _check_given(given: Sequence[str | None] | None, count: int) -> list[str | None]:
    if given is None:
        return [None] * count
    texts = as_list("given", given)
    if len(texts) != count:
        raise ValueError(f"given has {len(texts)} entries: it must have one a prompt, {count}")
    for i, text in enumerate(texts):
        if text is not None and not isinstance(text, str):
            raise ValueError(f"given[{i}] is {text!r}: it must be a text with blanks, or None")
        if text is not None:
            check_characters(f"given[{i}]", text)
    return texts


def _check_whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    if not is_whole(value) or value < least or (most is not None and value > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} is {value!r}: it must be a whole number of {allowed}")
