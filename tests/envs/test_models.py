"""Each family's checkpoints, in their own format, against the architecture written out in plain torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import HEAD, HEADS, HIDDEN, KV_HEADS, LAYERS, ROWS, build
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from envs import Action, DecodingBatch, DecodingSettings, MaskedLMDenoiser, load_denoiser
from envs.decoding.blocks import buffer_width
from envs.models import FAMILIES, find_family
from envs.models import native as native_module
from envs.models.attention import attention
from envs.models.weights import read_tensors
from policies import make_rule
from policies.generation import decode

CHECKPOINTS = {"llada": None, "dream": None, "fast_dllm_v2": None, "sdar": None, "a2d_mdlm": "a2d", "a2d_bd3lm": "a2d"}
"""Families of the native route, and which builder writes them where it has another name."""

BLOCKS = {"fast_dllm_v2": 8, "sdar": 4, "a2d_bd3lm": 32}
MASKS = {"llada": 258, "dream": 261, "fast_dllm_v2": 261, "sdar": 261, "a2d_mdlm": 261, "a2d_bd3lm": 261}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: build(other or name, root / name) for name, other in CHECKPOINTS.items()} | {
        "modernbert": build("modernbert", root / "modernbert")
    }


def load(folders: dict[str, Path], name: str, **options: Any) -> MaskedLMDenoiser:
    denoiser = load_denoiser(str(folders[name]), family=name if name in FAMILIES else None, **options)
    assert isinstance(denoiser, MaskedLMDenoiser)
    return denoiser


# The architectures, from their papers: RMSNorm, rotary positions by halves, grouped queries, SwiGLU.


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def rotate(x: Tensor, theta: float, numbers: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angle = numbers[:, None] * theta ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)


def reference(parts: dict[str, Any], tokens: Tensor, sees: Tensor, numbers: Tensor | None = None) -> Tensor:
    """(B, T, V) logits of a decoder without padding whose position i sees j where sees[i, j]."""
    eps, theta = parts["eps"], parts["theta"]
    numbers = torch.arange(tokens.shape[1]) if numbers is None else numbers
    x = parts["embed"][tokens]

    def heads(values: Tensor) -> Tensor:
        return values.unflatten(-1, (-1, HEAD)).transpose(1, 2)

    for layer in parts["layers"]:
        h = rms_norm(x, layer["norm1"], eps)
        q, k, v = (heads(F.linear(h, layer[name], layer.get(f"{name}_bias"))) for name in "qkv")
        if "q_norm" in layer:
            q, k = rms_norm(q, layer["q_norm"], eps), rms_norm(k, layer["k_norm"], eps)
        q, k = rotate(q, theta, numbers), rotate(k, theta, numbers)
        k, v = (values.repeat_interleave(HEADS // KV_HEADS, 1) for values in (k, v))
        scores = (q @ k.transpose(-1, -2) / HEAD**0.5).masked_fill(~sees, -torch.inf)
        x = x + F.linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), layer["o"])
        h = rms_norm(x, layer["norm2"], eps)
        x = x + F.linear(F.silu(F.linear(h, layer["gate"])) * F.linear(h, layer["up"]), layer["down"])
    return F.linear(rms_norm(x, parts["norm"], eps), parts["head"])


def llada_parts(tensors: dict[str, Tensor]) -> dict[str, Any]:
    names = {"norm1": "attn_norm", "norm2": "ff_norm", "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "attn_out"}
    names |= {"gate": "ff_proj", "up": "up_proj", "down": "ff_out"}
    top = {"embed": "wte", "norm": "ln_f", "head": "ff_out"}
    return {
        **{short: tensors[f"model.transformer.{name}.weight"] for short, name in top.items()},
        "layers": [
            {short: tensors[f"model.transformer.blocks.{i}.{name}.weight"] for short, name in names.items()}
            for i in range(LAYERS)
        ],
        "eps": 1e-5,
        "theta": 500000.0,
    }


def qwen_parts(tensors: dict[str, Tensor]) -> dict[str, Any]:
    names = {"norm1": "input_layernorm.weight", "norm2": "post_attention_layernorm.weight"}
    names |= {short: f"mlp.{short}_proj.weight" for short in ("gate", "up", "down")}
    names |= {short: f"self_attn.{short}_proj.weight" for short in "qkvo"}
    names |= {f"{short}_bias": f"self_attn.{short}_proj.bias" for short in "qkv"}
    names |= {f"{short}_norm": f"self_attn.{short}_norm.weight" for short in "qk"}
    embed = tensors["model.embed_tokens.weight"]
    return {
        "embed": embed,
        "norm": tensors["model.norm.weight"],
        "head": tensors.get("lm_head.weight", embed),
        "layers": [
            {
                short: tensors[f"model.layers.{i}.{name}"]
                for short, name in names.items()
                if f"model.layers.{i}.{name}" in tensors
            }
            for i in range(LAYERS)
        ],
        "eps": 1e-6,
        "theta": 1000000.0,
    }


def expected_logits(name: str, folder: Path, tokens: Tensor, prompt: int) -> Tensor:
    """What the family's authors compute, position by position of the whole sequence."""
    tensors = dict(read_tensors(folder))
    parts = llada_parts(tensors) if name == "llada" else qwen_parts(tensors)
    width, block = tokens.shape[1], BLOCKS.get(name)
    origin = prompt if name == "a2d_bd3lm" else 0
    sees = torch.tensor(
        [[block is None or (j - origin) // block <= (i - origin) // block for j in range(width)] for i in range(width)]
    )
    logits = reference(parts, tokens, sees)
    return torch.cat([logits[:, :1], logits[:, :-1]], 1) if name in ("dream", "fast_dllm_v2") else logits


def some_tokens(rows: int, width: int, mask: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 250, (rows, width), generator=generator)
    hidden = torch.rand(rows, width, generator=generator) < 0.5
    hidden[:, 0] = False
    return tokens.masked_fill(hidden, mask)


@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_logits_are_those_of_the_architecture(folders: dict[str, Path], name: str) -> None:
    denoiser = load(folders, name)
    tokens = some_tokens(3, 45, MASKS[name])
    expected = expected_logits(name, folders[name], tokens, prompt=9)
    logits = denoiser.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), 36)
    assert logits.shape == (3, 36, ROWS)
    assert expected.std() > 1  # it has opinions
    assert torch.allclose(logits, expected[:, 9:], atol=2e-4)


@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_left_padded_row_is_the_row_alone(folders: dict[str, Path], name: str) -> None:
    denoiser = load(folders, name)
    tokens = some_tokens(1, 45, MASKS[name])
    padded = torch.cat([torch.full((1, 7), denoiser.pad_id), tokens], 1)
    present = torch.arange(52).unsqueeze(0) >= 7
    alone = denoiser.logits(tokens, present[:, 7:], 36)
    assert torch.allclose(denoiser.logits(padded, present, 36), alone, atol=1e-4)
    right = torch.cat([tokens, torch.full((1, 5), denoiser.pad_id)], 1)
    logits = denoiser.logits(right, torch.arange(50).unsqueeze(0) < 45, 41)
    assert torch.allclose(logits[:, :36], alone, atol=1e-4)


@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_hidden_states_are_those_the_logits_come_from(folders: dict[str, Path], name: str) -> None:
    denoiser = load(folders, name)
    tokens = some_tokens(2, 20, MASKS[name])
    logits, hidden = denoiser.logits_and_hidden(tokens, torch.ones_like(tokens, dtype=torch.bool), 11)
    assert hidden.shape == (2, 11, HIDDEN)
    assert denoiser.hidden_size == HIDDEN
    assert torch.allclose(F.linear(hidden, denoiser.model.lm_head.weight), logits, atol=1e-4)


@pytest.mark.parametrize("name", ["fast_dllm_v2", "sdar", "a2d_bd3lm"])
def test_later_blocks_change_nothing(folders: dict[str, Path], name: str) -> None:
    """What makes a block's answer final: it depends on nothing that comes after it."""
    denoiser, block = load(folders, name), BLOCKS[name]
    prompt = 5
    tokens = some_tokens(1, prompt + 3 * block, MASKS[name])
    present = torch.ones_like(tokens, dtype=torch.bool)
    begin = prompt if name == "a2d_bd3lm" else 0
    changed = tokens.clone()
    changed[:, begin + 2 * block :] = 17
    before, after = (denoiser.logits(t, present, 3 * block) for t in (tokens, changed))
    edge = begin + 2 * block - prompt
    assert torch.equal(before[:, :edge], after[:, :edge])
    assert not torch.allclose(before[:, edge + 1 :], after[:, edge + 1 :], atol=1e-2)


def test_first_token_of_a_block_comes_from_the_block_before(folders: dict[str, Path]) -> None:
    """Fast-dLLM v2 reads it from the previous block's last logit, which sees no mask of its own block."""
    denoiser = load(folders, "fast_dllm_v2")
    tokens = some_tokens(1, 24, MASKS["fast_dllm_v2"])
    present = torch.ones_like(tokens, dtype=torch.bool)
    changed = tokens.clone()
    changed[:, 17:] = 3  # all of the third block but its first position
    before, after = (denoiser.logits(t, present, 16) for t in (tokens, changed))
    assert torch.equal(before[:, 8], after[:, 8])
    assert not torch.equal(before[:, 9], after[:, 9])


# Ids, texts and templates.


def test_special_tokens(folders: dict[str, Path]) -> None:
    llada = load(folders, "llada")
    assert llada.tokenizer.mask_token_id is None  # as in the original
    assert (llada.mask_id, llada.eos_id, llada.end_ids, llada.pad_id) == (258, 257, (257, 261), 257)
    for name in ("dream", "fast_dllm_v2", "sdar", "a2d_mdlm"):
        qwen = load(folders, name)
        assert (qwen.mask_id, qwen.eos_id, qwen.end_ids, qwen.pad_id) == (261, 258, (258, 260), 258)
    bert = load(folders, "modernbert")
    assert (bert.mask_id, bert.eos_id, bert.end_ids, bert.pad_id) == (257, 259, (259,), 256)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "llada",
            "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n1 + 2?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("dream", "<|im_start|>user\n1 + 2?<|im_end|>\n<|im_start|>assistant\n"),
        ("a2d_mdlm", "<|im_start|>user\n1 + 2?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ("modernbert", "[CLS][Question]1 + 2?[/Question]"),
    ],
)
def test_a_prompt_becomes_a_user_message(folders: dict[str, Path], name: str, text: str) -> None:
    denoiser = load(folders, name)
    assert denoiser.tokenizer.decode(denoiser.encode_prompt("1 + 2?"), skip_special_tokens=False) == text
    base = load(folders, name, chat_template=False)
    assert base.tokenizer.decode(base.encode_prompt("1 + 2?"), skip_special_tokens=False) == "1 + 2?"


def test_a_missing_chat_template_is_refused() -> None:
    with pytest.raises(ValueError, match="chat_template is true, but the tokenizer of 'tiny' has none"):
        load_denoiser("tiny", chat_template=True)


def test_text_ends_at_any_end_token(folders: dict[str, Path]) -> None:
    llada = load(folders, "llada", chat_template=False)
    hello, more = llada.encode_prompt("18 apples"), llada.encode_prompt(" more")
    for end in llada.end_ids:
        assert llada.decode([*hello, end, *more, end]) == "18 apples"
    assert llada.token_strings([*hello[:2], ROWS - 1]) == ["1", "8", f"[{ROWS - 1}]"]
    assert llada.decode([*hello, llada.mask_id, *more]) == "18 apples more"
    bert = load(folders, "modernbert", chat_template=False)
    assert bert.decode([*bert.encode_prompt("yes[/Answer] and so on"), bert.eos_id]) == "yes"


@pytest.mark.parametrize("end", [0, 1])
def test_any_end_token_ends_a_row(folders: dict[str, Path], end: int) -> None:
    denoiser = load(folders, "llada")
    token = denoiser.end_ids[end]
    batch = DecodingBatch(denoiser, 1, DecodingSettings(8, features=frozenset({"is_eos", "eos_probability"})))
    batch.load([0], [denoiser.encode_prompt("x")])
    view = batch.forward()
    batch.view = replace(view, prediction=torch.full_like(view.prediction, token))
    assert batch.apply(Action(torch.arange(8).unsqueeze(0) == 0)).tolist() == [True]
    assert batch.tokens(0) == [token] + [denoiser.eos_id] * 7


def test_end_of_text_readings_count_all_end_tokens(folders: dict[str, Path]) -> None:
    denoiser = load(folders, "llada")
    batch = DecodingBatch(denoiser, 1, DecodingSettings(8, features=frozenset({"eos_probability"})))
    prompt = denoiser.encode_prompt("x")
    batch.load([0], [prompt])
    tokens = torch.tensor([prompt + [denoiser.mask_id] * 8])
    logits = denoiser.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), 8)[0].clone()
    logits[:, denoiser.mask_id] = -torch.inf
    both = logits.softmax(-1)[:, list(denoiser.end_ids)].sum(-1)
    assert torch.allclose(batch.forward().features["eos_probability"][0], both, atol=1e-6)


# Decoding.


@pytest.mark.parametrize("name", [*CHECKPOINTS, "modernbert"])
def test_a_row_decodes_alone_as_in_a_batch(folders: dict[str, Path], name: str) -> None:
    denoiser = load(folders, name)
    prompts = ["How many?", "1", "There are 3 boxes with 4 pens in each; how many pens?"]
    settings = DecodingSettings(32, BLOCKS.get(name))
    together = decode(denoiser, prompts, make_rule("low_confidence:3"), settings)
    alone = [decode(denoiser, [prompt], make_rule("low_confidence:3"), settings)[0] for prompt in prompts]
    assert together == alone
    assert all(denoiser.mask_id not in done.tokens for done in together)


@pytest.mark.parametrize("prompt", [1, 7, 8, 11])
def test_absolute_blocks_shorten_the_first(folders: dict[str, Path], prompt: int) -> None:
    denoiser = load(folders, "fast_dllm_v2")
    batch = DecodingBatch(denoiser, 2, DecodingSettings(16, 8))
    batch.load([0, 1], [[5] * prompt, [5] * 8])
    ends: list[tuple[int, int]] = []
    while bool(batch.running.any()):
        batch.forward()
        if batch.running[0]:
            ends.append((int(batch.block_start[0]), int(batch.block_end[0])))
        batch.view = replace(batch.view, prediction=torch.full_like(batch.view.prediction, 9))
        batch.apply(Action(batch.eligible()))
    # Blocks end where the model's do: at multiples of 8 of the whole text. The last is whole, too.
    edges = [e for e in range(1, 16 + 8) if (prompt + e) % 8 == 0]
    assert ends == list(zip([0, *edges[:-1]], edges, strict=True))


@pytest.mark.parametrize(("name", "prompt", "end"), [("fast_dllm_v2", 3, 5), ("fast_dllm_v2", 8, 8), ("llada", 3, 16)])
def test_a_policy_reaches_no_further_than_the_model_sees(
    folders: dict[str, Path], name: str, prompt: int, end: int
) -> None:
    """A longer block, or a commit outside it, stops at the model's own block; the next begins there."""
    denoiser = load(folders, name)
    everything = torch.ones(1, buffer_width(denoiser, 16), dtype=torch.bool)
    longer, scope = (DecodingBatch(denoiser, 1, DecodingSettings(16, 8)) for _ in range(2))
    for batch, action in (
        (longer, Action(everything, block_end=torch.tensor([16]))),
        (scope, Action(everything, scope=everything)),
    ):
        batch.load([0], [[5] * prompt])
        view = batch.forward()
        batch.view = replace(view, prediction=torch.full_like(view.prediction, 9))
        batch.apply(action)
        assert batch.masked[0, :16].tolist() == [False] * end + [True] * (16 - end)
        if end < 16:
            assert (int(batch.block_start), int(batch.block_end)) == (end, end + 8)


def test_blocks_from_the_prompts_end_are_whole(folders: dict[str, Path]) -> None:
    batch = DecodingBatch(load(folders, "a2d_bd3lm"), 1, DecodingSettings(32, 16))
    batch.load([0], [[5] * 7])
    assert (batch.block_start.item(), batch.block_end.item()) == (0, 16)


@pytest.mark.parametrize("block", [None, 16, 64])
def test_blocks_that_the_model_can_not_fill_are_refused(folders: dict[str, Path], block: int | None) -> None:
    with pytest.raises(ValueError, match=r"sees only blocks of 8 .* choose one of 8, 4, 2, 1"):
        DecodingBatch(load(folders, "fast_dllm_v2"), 1, DecodingSettings(64, block))


@pytest.mark.parametrize("name", ["fast_dllm_v2", "sdar", "modernbert"])
def test_leave_one_out_is_refused_where_it_would_be_wrong(folders: dict[str, Path], name: str) -> None:
    settings = DecodingSettings(8, BLOCKS.get(name, 8), features=frozenset({"leave_one_out"}))
    batch = DecodingBatch(load(folders, name), 1, settings)
    batch.load([0], [[5, 6, 7]])
    with pytest.raises(ValueError, match=rf"leave_one_out: a model of the {name} family can't give it"):
        batch.forward()


@pytest.mark.parametrize("name", [*CHECKPOINTS, "modernbert"])
def test_attention_is_what_the_eager_function_computes(folders: dict[str, Path], name: str) -> None:
    """Of texts of two lengths together against each alone; the logits are those of any other forward."""
    denoiser = load(folders, name)
    tokens = torch.tensor([[denoiser.pad_id] * 3 + [5, 6, 7, 8, 9, 6], [5, 6, 7, 8, 9, 9, 8, 7, 5]])
    tokens[:, -2:] = denoiser.mask_id
    present = torch.ones_like(tokens, dtype=torch.bool)
    present[0, :3] = False
    logits, found = denoiser.logits_and_attention(tokens, present, 4)
    assert torch.equal(logits, denoiser.logits(tokens, present, 4))
    assert (found.shape, found.dtype) == ((2, 9, 9), torch.float32)
    denoiser.model.set_attn_implementation("eager")
    for row, first in ((0, 3), (1, 0)):
        text = tokens[row : row + 1, first:]
        here = torch.ones_like(text, dtype=torch.bool)
        origin = 0 if denoiser.absolute_blocks else torch.tensor([text.shape[1] - 4])
        options: dict[str, Any] = {}
        if not denoiser.family.is_masked_lm:
            sees = attention(here, denoiser.block_length, origin)
            options = {"attention_mask": torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)}
        with torch.no_grad():
            layers = denoiser.model(input_ids=text, output_attentions=True, **options).attentions[-4:]
        expected = torch.stack(layers).mean((0, 2))[0]
        assert torch.allclose(found[row, first:, first:], expected, atol=1e-5)
        assert not found[row, first:, :first].any()


def test_leave_one_out_of_llada_is_a_mask_beside_the_token(folders: dict[str, Path]) -> None:
    denoiser = load(folders, "llada")
    batch = DecodingBatch(denoiser, 1, DecodingSettings(4, features=frozenset({"leave_one_out"})))
    batch.load([0], [[5, 6, 7]])
    batch.forward()
    batch.apply(Action(torch.tensor([[False, True, False, False]])))
    reading = batch.forward().features["leave_one_out"][0, 1]
    # One more mask with the token's number; it sees all but the token, and nothing sees it.
    tokens = torch.tensor([[5, 6, 7, *batch.tokens(0), denoiser.mask_id]])
    sees = torch.ones(8, 8, dtype=torch.bool)
    sees[:7, 7] = sees[7, 4] = False
    parts = llada_parts(dict(read_tensors(folders["llada"])))
    logits = reference(parts, tokens, sees, torch.tensor([*range(7), 4]))[0, 7]
    logits[denoiser.mask_id] = -torch.inf
    assert reading == pytest.approx(float(logits.softmax(-1)[tokens[0, 4]]), rel=1e-3)


def test_leave_one_out_of_dream_is_a_copy_of_the_token_before(folders: dict[str, Path]) -> None:
    """Its logits about a position are computed at the one before: that one again, which sees a mask for the token."""
    denoiser = load(folders, "dream")
    batch = DecodingBatch(denoiser, 2, DecodingSettings(4, features=frozenset({"leave_one_out"})))
    batch.load([0, 1], [[5, 6, 7], [9]])  # the second is left-padded
    batch.forward()
    batch.apply(Action(torch.tensor([[True, True, False, False]] * 2)))
    before = batch.token_positions.clone()
    readings = batch.forward().features["leave_one_out"][:, :2]
    assert (batch.token_positions - before).tolist() == [3 + 4 + 2 * 4, 1 + 4 + 2 * 4]
    parts = qwen_parts(dict(read_tensors(folders["dream"])))
    for row, prompt in enumerate([[5, 6, 7], [9]]):
        known, size = [*prompt, *batch.tokens(row)], len(prompt) + 4
        for place in (0, 1):
            at = len(prompt) + place
            tokens = torch.tensor([[*known, known[at - 1], denoiser.mask_id]])
            sees = torch.ones(size + 2, size + 2, dtype=torch.bool)
            sees[:size, size:] = sees[size:, at] = sees[size, at - 1] = sees[size + 1, size] = False
            logits = reference(parts, tokens, sees, torch.tensor([*range(size), at - 1, at]))[0, size]
            logits[denoiser.mask_id] = -torch.inf
            assert readings[row, place] == pytest.approx(float(logits.softmax(-1)[known[at]]), rel=1e-3)


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_leave_one_out_of_rows_with_blocks_of_several_lengths_is_each_rows_own(
    folders: dict[str, Path], name: str
) -> None:
    """The shadow of a shorter block is filled up, with what counts for nothing."""
    denoiser, prompts, lengths = load(folders, name), [[5, 6, 7], [9], [8, 8]], [8, 4, 2]
    # Tokens that are given behind the shorter blocks are not asked about, and are never to be doubted.
    mask = denoiser.mask_id
    texts = [None, [mask] * 4 + [6, 7] + [mask] * 2, [mask] * 2 + [5] + [mask] * 5]

    def readings(rows: list[int]) -> list[Tensor]:
        batch = DecodingBatch(denoiser, len(rows), DecodingSettings(8, features=frozenset({"leave_one_out"})))
        batch.load(
            range(len(rows)),
            [prompts[row] for row in rows],
            block_lengths=[lengths[row] for row in rows],
            given=[texts[row] for row in rows],
        )
        found = []
        for step in range(7):
            found.append(batch.forward().features["leave_one_out"])
            batch.apply(Action((torch.arange(8) == step).expand(len(rows), 8)))
        return found

    together = readings([0, 1, 2])
    for row in range(3):
        for seen, alone in zip(together, readings([row]), strict=True):
            assert bool(torch.isfinite(seen).all())
            torch.testing.assert_close(seen[row], alone[0], atol=1e-6, rtol=1e-4)
    assert together[0].nonzero().tolist() == [[1, 4], [1, 5], [2, 2]]
    # What was committed in a block that is left is not asked about any more.
    # The second row has ended, and shows nothing.
    asked = [[position in row for position in range(8)] for row in ((0, 1, 2, 3, 4, 5), (), (2, 7))]
    assert (together[6] > 0).tolist() == asked


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_in_one_layer_leave_one_out_is_a_forward_with_a_mask_there(folders: dict[str, Path], name: str) -> None:
    """No other position has seen the token yet, so nothing of it is left."""
    loaded = load(folders, name)
    layers = loaded.model.model.layers
    loaded.model.model.layers = layers[:1]
    try:
        batch = DecodingBatch(loaded, 1, DecodingSettings(6, features=frozenset({"leave_one_out"})))
        batch.load([0], [[5, 6, 7]])
        batch.forward()
        batch.apply(Action(torch.tensor([[True, False, True, True, False, False]])))
        readings, known = batch.forward().features["leave_one_out"][0], [5, 6, 7, *batch.tokens(0)]
        for place in (0, 2, 3):
            tokens = torch.tensor([known])
            tokens[0, 3 + place] = loaded.mask_id
            logits = loaded.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), 6)[0, place].clone()
            logits[loaded.mask_id] = -torch.inf
            assert readings[place] == pytest.approx(float(logits.softmax(-1)[known[3 + place]]), rel=1e-3)
    finally:
        loaded.model.model.layers = layers


# What is refused.


def spoiled(folder: Path, copy: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A copy whose tensors are changed, in one file."""
    shutil.copytree(folder, copy)
    tensors = {name: tensor.clone() for name, tensor in read_tensors(folder)}
    for file in copy.glob("*safetensors*"):
        file.unlink()
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("model.transformer.blocks.1.ff_proj.weight"),
            "lack 1 tensors, such as model.layers.1.mlp.gate",
        ),
        (lambda t: t.update(extra=torch.zeros(1)), "hold extra, which LlamaForCausalLM has no place for"),
        (
            lambda t: t.update({"model.transformer.ln_f.weight": torch.ones(3)}),
            r"of shape \(3,\), but config.json says \(64,\)",
        ),
    ],
)
def test_tensors_must_be_those_of_the_architecture(
    folders: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    folder = spoiled(folders["llada"], tmp_path / "copy", change)
    with pytest.raises(ValueError, match=rf"^model is '{folder}'.*{message}"):
        load_denoiser(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": None}, "."),
        ({"layer_norm_type": "default"}, "sets layer_norm_type to 'default': only 'rms' is supported"),
        ({"alibi": True}, "sets alibi to True"),
        ({"mask_token_id": 257}, "mask token .* is 257, which is also its end-of-text or padding token"),
        ({"mask_token_id": 4000}, "mask token .* is 4000: its embedding has only 320 rows"),
        ({"n_layers": 3}, "lack 9 tensors"),
    ],
)
def test_impossible_configurations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = build("llada", tmp_path / "llada", **changes)
    if changes == {"d_model": None}:
        config = json.loads((folder / "config.json").read_text())
        del config["d_model"]
        (folder / "config.json").write_text(json.dumps(config))
        message = "config.json lacks d_model"
    with pytest.raises(ValueError, match=message):
        load_denoiser(str(folder))


def test_a_sliding_window_and_scaled_positions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sets use_sliding_window"):
        load_denoiser(str(build("dream", tmp_path / "window", use_sliding_window=True)))
    with pytest.raises(ValueError, match=r"scales rotary positions \(yarn\)"):
        load_denoiser(str(build("dream", tmp_path / "yarn", rope_scaling={"rope_type": "yarn", "factor": 4.0})))


def test_rotary_positions_of_either_version_of_config(folders: dict[str, Path], tmp_path: Path) -> None:
    """transformers 5 writes rope_parameters; theta must not fall back to a default."""
    rope = {"rope_theta": 1000000.0, "rope_type": "default"}
    folder = build("dream", tmp_path / "dream", rope_parameters=rope, rope_theta=None)
    tokens = some_tokens(1, 30, 261)
    present = torch.ones_like(tokens, dtype=torch.bool)
    one, two = load_denoiser(str(folder)), load(folders, "dream")
    assert torch.equal(one.logits(tokens, present, 20), two.logits(tokens, present, 20))


def test_a_model_without_a_family(tmp_path: Path) -> None:
    folder = build("a2d", tmp_path / "model")
    with pytest.raises(ValueError, match="does not say which model it is; set family to a2d_mdlm or a2d_bd3lm"):
        load_denoiser(str(folder))
    with pytest.raises(ValueError, match="family is 'gpt': choose from masked_lm, llada, dream"):
        load_denoiser(str(folder), family="gpt")
    config = {"model_type": "a2d-qwen3"}
    assert find_family(config, "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1").name == "a2d_bd3lm"
    assert find_family(config, "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1").name == "a2d_mdlm"
    assert find_family({"architectures": ["DreamModel"]}, "x").name == "dream"
    assert find_family({"model_type": "roberta"}, "x").name == "masked_lm"


def test_the_loaded_tensors_are_compared(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that draws a tensor anew, as transformers 5.0 does with remote code."""
    load_native = native_module.load_native

    def careless(*args: Any) -> Any:
        model, names = load_native(*args)
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight[3, 5] += 0.01
        return model, names

    monkeypatch.setattr("envs.models.routes.load_native", careless)
    with pytest.raises(ValueError, match=r"model.layers.1.mlp.up_proj.weight is not what the checkpoint holds"):
        load(folders, "llada", revision="another")


@pytest.mark.parametrize("garbage", [1.28e10, 4.58e-41, 0.5])
def test_rotary_tables_are_recomputed(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, garbage: float
) -> None:
    """A loader that leaves them unset, as every transformers 5 does with remote code."""
    load_native = native_module.load_native

    def careless(*args: Any) -> Any:
        model, names = load_native(*args)
        model.model.rotary_emb.inv_freq[0] = garbage
        return model, names

    monkeypatch.setattr("envs.models.routes.load_native", careless)
    with pytest.raises(ValueError, match=r"rotary frequencies .* are wrong"):
        load(folders, "dream", revision=str(garbage))


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("llada", "causal", "all positions see all, but position 0 does not see position 5"),
        ("sdar", "full", "blocks of 4 see themselves and those before, but position 0 sees position 5"),
        ("sdar", "causal", "but position 4 does not see position 5"),
    ],
)
def test_who_sees_whom_is_tried_out(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, wrong: str, message: str
) -> None:
    def mask(present: Tensor, block: int | None, origin: Any = 0) -> Tensor:
        width = present.shape[1]
        ones = torch.ones(width, width, dtype=torch.bool)
        return present[:, None, None, :] & (ones.tril() if wrong == "causal" else ones)

    monkeypatch.setattr("envs.models.routes.attention", mask)
    with pytest.raises(ValueError, match=message):
        load(folders, name, revision=wrong)


def test_ignored_padding_is_found(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that sees its padding, as LLaDA's first published code."""
    monkeypatch.setattr(
        "envs.models.routes.attention", lambda present, block, origin=0: torch.ones_like(present)[:, None, None, :]
    )
    with pytest.raises(ValueError, match="its predictions change with left padding"):
        load(folders, "llada", revision="padding")


@pytest.mark.parametrize(("family", "shift"), [("llada", 1), ("dream", 0)])
def test_a_wrong_logit_shift_is_found(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, family: str, shift: int
) -> None:
    """A model that knows the text by heart, with its logits where the family does not look."""

    def knows(self: MaskedLMDenoiser, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        ids = torch.tensor(self.tokenizer(checks.KNOWN_TEXT, add_special_tokens=False)["input_ids"])
        assert (tokens[0] == self.mask_id).sum() > 10
        assert torch.equal(torch.where(tokens[0] == self.mask_id, ids, tokens[0]), ids)
        return 20 * F.one_hot(ids.roll(-shift), ROWS).float().unsqueeze(0)

    from envs.models import checks

    denoiser = load(folders, family)
    checks.check_shift(denoiser)  # random weights show nothing
    monkeypatch.setattr(MaskedLMDenoiser, "raw_logits", knows)
    with pytest.raises(ValueError, match=rf"logit shift of {1 - shift}, but finds .* far better with {shift}"):
        checks.check_shift(denoiser)
    monkeypatch.setattr(denoiser, "family", replace(denoiser.family, logit_shift=shift))
    checks.check_shift(denoiser)


def test_bfloat16_keeps_rotary_tables_and_beliefs_in_float32(folders: dict[str, Path]) -> None:
    denoiser = load(folders, "llada", dtype="bfloat16")
    assert denoiser.model.dtype == torch.bfloat16
    assert denoiser.model.model.rotary_emb.inv_freq.dtype == torch.float32
    batch = DecodingBatch(denoiser, 1, DecodingSettings(8))
    batch.load([0], [denoiser.encode_prompt("x")])
    assert batch.forward().confidence.dtype == torch.float32


def test_one_file_loads_as_shards_do(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = spoiled(folders["llada"], tmp_path / "one", lambda tensors: None)
    assert set(load_file(folder / "model.safetensors")) == set(dict(read_tensors(folders["llada"])))
    tokens = some_tokens(1, 20, 258)
    present = torch.ones_like(tokens, dtype=torch.bool)
    one, two = load_denoiser(str(folder)), load(folders, "llada")
    assert torch.equal(one.logits(tokens, present, 9), two.logits(tokens, present, 9))
    (folders["llada"] / "model-00001-of-00002.safetensors").rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"lacks model-00001-of-00002.safetensors, which model.safetensors.index.json"):
        load(folders, "llada", revision="half")
    (tmp_path / "away").rename(folders["llada"] / "model-00001-of-00002.safetensors")
