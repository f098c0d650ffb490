"""Checks after loading: each costs a few small forwards and refuses what would be wrong without a word.

Faults that were seen in the wild: tensors drawn anew by the loader, rotary tables of uninitialised memory, padding that
changes answers, a causal mask where the model needs none, logits read one position off.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from envs.models.attention import attention
from envs.models.families.family import Family
from envs.models.weights import read_tensors

if TYPE_CHECKING:
    from envs.models.key_values import KeyValues

PROBABILITY_TOLERANCE = 0.02
"""Largest change of a probability by left padding that counts as rounding (bfloat16 resolves 0.004)."""

LOGIT_TOLERANCE = 0.05
"""Largest change of the logits by left padding, as a share of their spread, that counts as rounding."""

MOVED = 1e-5
"""Smallest change of a position's logits that counts, as a share of the most changed position's."""

SEQUENCES = 8
"""Sequences in which a position may show that it sees a token."""

KNOWN_TEXT = (
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15. Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, "
    "Sunday. January, February, March, April, May, June, July, August, September, October, November, December."
)
"""What any language model can complete."""

SHIFT_MARGIN = 1.0
"""Nats a token by which the other reading of the logits must be better to refuse the declared one."""


KEPT = 8
"""Positions of the text on which it is tried whether a model keeps keys and values."""


class Probed(Protocol):
    """What the checks need of a denoiser; see `envs.models.adapter.MaskedLMDenoiser`."""

    name: str
    model: Any
    family: Family
    block_length: int | None
    tokenizer: Any
    mask_id: int
    pad_id: int
    end_ids: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """Where the model is."""

    def raw_logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        """Return the (B, T, V) logits of all positions, unshifted, of a prompt and a buffer of this length."""

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        """See `envs.denoiser.Denoiser.logits`."""


class Keeping(Probed, Protocol):
    """A denoiser that may keep keys and values."""

    def logits_at(
        self, tokens: Tensor, sees: Tensor, keep: int, kept: KeyValues, with_hidden: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """See `envs.denoiser.CachingDenoiser.logits_at`."""


def check_keeps(denoiser: Keeping) -> None:
    """Check that a model computes some positions, beside the kept keys and values of the others, as it does all.

    Raises:
        ValueError: if it can't, or they come out otherwise.
    """
    from envs.models.key_values import KeyValues

    refusal = (
        f"cache is set: {denoiser.name!r} can't keep keys and values, as its class in transformers does not take them "
        "from outside; use cache none"
    )
    # Layers that see near positions only make masks of their own; others' code is not ours to know.
    if denoiser.family.runs_own_code or not denoiser.family.sees_far:
        raise ValueError(refusal)
    device, kept = denoiser.device, KeyValues(1)
    tokens = torch.full((1, KEPT), denoiser.mask_id, device=device)
    tokens[0, : KEPT // 2] = denoiser.end_ids[0]
    present = torch.ones_like(tokens, dtype=torch.bool)
    sees = attention(present, denoiser.block_length)[:, 0]
    expected = denoiser.raw_logits(tokens, present, KEPT)
    row, everything = torch.zeros(1, dtype=torch.long, device=device), torch.arange(KEPT, device=device)
    # First all positions, then half of them beside what was kept of the others.
    for first in (0, KEPT // 2):
        kept.place(row, everything[first:].unsqueeze(0), KEPT)
        try:
            found, _ = denoiser.logits_at(
                tokens[:, first:], sees[:, first:] if sees.shape[1] > 1 else sees, KEPT - first, kept
            )
        # What a class raises that doesn't expect a cache of ours depends on where its code trips.
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise ValueError(refusal) from error
        off = (found - expected[:, first:]).abs().max()
        if len(kept.keys) == 0 or not off <= LOGIT_TOLERANCE * (expected.max() - expected.min()):
            raise ValueError(refusal)


def check_tensors(model: Any, folder: Path, names: Mapping[str, str] | None) -> None:
    """Compare each tensor of the model with the checkpoint's.

    Args:
        model: the loaded model.
        folder: the checkpoint's.
        names: the checkpoint's tensor names to the model's; None where they are the same.

    Raises:
        ValueError: naming the first that differs.
    """
    loaded = model.state_dict()
    for name, tensor in read_tensors(folder):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"its weights hold NaN or infinite values in {name}: the checkpoint itself is damaged")
        target = name if names is None else names[name]
        # What the model has no place for, the loader has dropped.
        if target not in loaded:
            continue
        own = loaded[target]
        if own.is_floating_point() and not bool(torch.isfinite(own).all()):
            raise ValueError(f"its weights hold values in {name} that {own.dtype} can't: use bfloat16 or float32")
        if own.shape != tensor.shape or not torch.equal(own.cpu(), tensor.to(own.dtype)):
            if _is_tied(model, own):
                raise ValueError(
                    f"config.json says that the output layer is the embedding, but {name} is another tensor than the "
                    "other of the two: set tie_word_embeddings (of LLaDA: weight_tying) to false"
                )
            raise ValueError(f"after loading, {target} is not what the checkpoint holds: the loader changed it")


def _is_tied(model: Any, tensor: Tensor) -> bool:
    """Tell whether a tensor is both the model's embedding and its output layer."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    return head is not None and head.weight is embedding and tensor.data_ptr() == embedding.data_ptr()


def check_rotary(model: Any, expected: Tensor | None = None) -> None:
    """Check the rotary tables, which no checkpoint holds: frequencies fall from at most 1 and stay above 0.

    Args:
        model: the loaded model.
        expected: (D / 2,) float32, what they must be; None if only the loader's class knows.

    Raises:
        ValueError: naming the first table that can't be right.
    """
    for name, table in model.named_buffers():
        if not name.endswith("inv_freq"):
            continue
        values = table.float().cpu()
        falls = bool((values[1:] <= values[:-1]).all() and (values > 0).all() and (values <= 1).all())
        if not falls or (expected is not None and not torch.allclose(values, expected, rtol=1e-5, atol=0)):
            raise ValueError(f"after loading, the rotary frequencies {name} are wrong: the loader left them unset")


def rotary_frequencies(config: Any) -> Tensor:
    """Compute a default rotary table from a native configuration: (D / 2,) float32, theta ** (-2 i / D).

    Source: arXiv 2104.09864, section 3.3.
    """
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = getattr(config, "rope_parameters", None) or {"rope_theta": config.rope_theta}
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    frequencies: Tensor = float(rope["rope_theta"]) ** -exponents
    return frequencies.float()


@torch.inference_mode()
def check_attention(denoiser: Probed) -> None:
    """Change one token, see whose logits move, and compare with who should see it.

    A position that should see the token may happen to ignore it, so it has several sequences to move in; one that
    should not must never move.

    Raises:
        ValueError: saying which position's view is not as declared.
    """
    block = denoiser.block_length
    # Two blocks must be touched for it to show which sees which.
    width = 6 if block is None else block + 2
    special = {denoiser.mask_id, denoiser.pad_id, *denoiser.end_ids}
    ordinary = [i for i in range(min(width + 8, len(denoiser.tokenizer))) if i not in special] or [denoiser.pad_id]
    present = torch.ones(1, width, dtype=torch.bool, device=denoiser.device)
    # `_change` takes the first position for the prompt.
    origin = 1 if denoiser.family.block_origin == "prompt_end" else 0
    sees = attention(present, block, origin).expand(1, 1, width, width)[0, 0].cpu()
    for changed in (0, width - 1):
        expected, ever = sees[:, changed], torch.zeros(width, dtype=torch.bool)
        for first in range(SEQUENCES):
            ids = [ordinary[(first + i) % len(ordinary)] for i in range(width)]
            change = _change(denoiser, torch.tensor([ids], device=denoiser.device), present, changed)
            if not bool(torch.isfinite(change).all()):
                return  # left to decoding, which says where it arose
            moved = change > MOVED * change.max()
            ever |= moved
            if bool((moved & ~expected).any()) or bool(ever[expected].all()):
                break
        wrong = ((moved & ~expected) | (~ever & expected)).nonzero().flatten().tolist()
        if wrong:
            kind = "all positions see all" if block is None else f"blocks of {block} see themselves and those before"
            verb = "does not see" if bool(expected[wrong[0]]) else "sees"
            raise ValueError(
                f"model is {denoiser.name!r}: it should be that {kind}, but position {wrong[0]} {verb} position "
                f"{changed} of {width}: its attention mask is not the one it was trained with"
            )


def _change(denoiser: Probed, tokens: Tensor, present: Tensor, changed: int) -> Tensor:
    """Return (T,) float32, the largest change of each position's logits when one token becomes a mask."""
    other = tokens.clone()
    other[0, changed] = denoiser.mask_id
    before, after = (denoiser.raw_logits(t, present, present.shape[1] - 1)[0].float() for t in (tokens, other))
    return (after - before).abs().amax(-1).cpu()


@torch.inference_mode()
def check_left_padding(denoiser: Probed) -> None:
    """Refuse a model whose answer depends on the padding of its batch.

    Raises:
        ValueError: if it does.
    """
    # One position for the prompt, the others masks; block-causal models get a whole block and a bit of the next.
    width = 4 if denoiser.block_length is None else denoiser.block_length + 2
    tokens = torch.full((1, width), denoiser.mask_id, device=denoiser.device)
    padded = torch.cat([torch.full_like(tokens[:, :3], denoiser.pad_id), tokens], 1)
    present = torch.tensor([[False] * 3 + [True] * width], device=denoiser.device)
    alone = denoiser.logits(tokens, present[:, 3:], width - 1).float()
    in_batch = denoiser.logits(padded, present, width - 1).float()
    change = float((alone.softmax(-1) - in_batch.softmax(-1)).abs().max())
    share = float((alone - in_batch).square().mean().sqrt() / alone.std(-1).mean())
    # NaN is left to decoding, which says where it arose.
    if change > PROBABILITY_TOLERANCE or share > LOGIT_TOLERANCE:
        raise ValueError(
            f"model is {denoiser.name!r} ({denoiser.model.config.model_type}): its predictions change with left "
            "padding, so batches would change answers; use a model with rotary or padding-aware positions"
        )


@torch.inference_mode()
def check_shift(denoiser: Probed) -> None:
    """Hide every fifth token of a known text, and see which reading of the logits finds them.

    Decides only where one reading finds them well: random weights, or another language, show nothing.

    Raises:
        ValueError: if the reading that the family does not declare is clearly better.
    """
    ids = denoiser.tokenizer(KNOWN_TEXT, add_special_tokens=False)["input_ids"]
    # A tokenizer of few words has no such text to complete.
    if len(set(ids)) < 16 or denoiser.tokenizer.unk_token_id in ids:
        return
    hidden = torch.arange(2, len(ids), 5)
    answer = torch.tensor(ids)
    tokens = answer.index_fill(0, hidden, denoiser.mask_id).unsqueeze(0).to(denoiser.device)
    logits = denoiser.raw_logits(tokens, torch.ones_like(tokens, dtype=torch.bool), len(ids) - 1)[0]
    log_probabilities = torch.stack([logits[hidden], logits[hidden - 1]]).float().log_softmax(-1).cpu()
    loss = -log_probabilities.gather(-1, answer[hidden].expand(2, -1).unsqueeze(-1)).mean((1, 2))
    declared = denoiser.family.logit_shift
    best = int(loss.argmin())
    is_clear = bool(loss[best] < 0.5 * torch.tensor(float(logits.shape[-1])).log())
    if best != declared and is_clear and bool(loss[declared] - loss[best] > SHIFT_MARGIN):
        raise ValueError(
            f"model is {denoiser.name!r} ({denoiser.family.name}): it is read with a logit shift of {declared}, but "
            f"finds the hidden tokens of a known text far better with {best} ({loss[best]:.1f} nats a token against "
            f"{loss[declared]:.1f}); it is of another family: set family"
        )
