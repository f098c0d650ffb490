from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from denoisers import EOS, MASK, A, B, C, D, HandWritten, Mixing, V, act, bits, commit, fixed, start, tiny_model
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.models.adapter import MaskedLMDenoiser
from envs.models.toy import ToyDenoiser
from envs.readings import MASK_READINGS, PARTS, TOP_K, VIEW_FEATURES, VIEW_TENSORS
from envs.view import Action, View

PROMPTS = [[A], [A, B, C], [D, B], [C, C, D, A, B]]
TEXTS = ["copy", "copy . . : a b", "sort . : c d e =", "reverse . . : a b c d . . ="]


@pytest.fixture(scope="module")
def model() -> MaskedLMDenoiser:
    network, tokenizer = tiny_model()
    with torch.no_grad():
        network.lm_head.bias[tokenizer.mask_token_id] += 8  # a mask token that would be predicted if it could
    return MaskedLMDenoiser(network, tokenizer)


def on_model(model: MaskedLMDenoiser, *features: str, length: int = 12, block: int = 4) -> DecodingBatch:
    """Rows with prompts of four lengths, in different blocks, the last but one shorter than the others."""
    settings = DecodingSettings(length, block, features=frozenset(features))
    batch = DecodingBatch(model, len(TEXTS), settings)
    batch.load(range(len(TEXTS)), [model.encode_prompt(text) for text in TEXTS])
    letters = torch.tensor([model.encode_prompt("a b c d e f g h i j k l")[:length]] * len(TEXTS))
    everywhere = torch.ones(len(TEXTS), length, dtype=torch.bool)
    chosen = bits("x.x.......x.", "xxxx.x......", "x...........", "xxxxxxxx.xx.")
    act(batch, *["".join("x" if cell else "." for cell in row) for row in chosen], scope=everywhere, tokens=letters)
    act(batch, *["." * length] * 4, tokens=letters.roll(1, 1), length=torch.tensor([12, 12, 3, 12]))
    return batch


def row_tokens(batch: DecodingBatch, row: int) -> list[int]:
    """What the dLLM sees of a row: its prompt and the positions that are left."""
    prompt = batch.prompt[row, batch.prompt.shape[1] - int(batch.prompt_length[row]) :].tolist()
    return prompt + batch.tokens(row)[: int(batch.length[row])]


def softmax(logits: Tensor, mask_id: int) -> Tensor:
    """Probabilities in float64, the mask token left out."""
    logits = logits.double().clone()
    logits[..., mask_id] = -torch.inf
    return logits.softmax(-1)


# Readings of committed positions.


def test_token_probability_is_what_the_forward_gives_the_standing_token() -> None:
    batch = start(fixed((A, 0.9), (B, 0.8), (C, 0.7)), [[A], [A]], 3, features=frozenset({"token_probability"}))
    assert batch.forward().features["token_probability"].tolist() == [[0, 0, 0]] * 2
    batch.apply(Action(bits("xx.", "..x"), tokens=torch.tensor([[A, D, A], [A, A, B]])))
    view = batch.forward()
    expected = [[0.9, 0.2 / 5, 0], [0, 0, 0.3 / 5]]
    assert view.features["token_probability"].tolist() == [pytest.approx(row, abs=1e-6) for row in expected]
    batch.apply(Action(bits("xxx", "...")))
    assert batch.forward().features["token_probability"][0].tolist() == [0, 0, 0]  # finished


def test_token_probability_changes_with_what_the_dllm_sees() -> None:
    def rule(prompt: list[int], buffer: list[int]) -> list[tuple[int, float]]:
        return [(A, 0.9 if buffer[1] == MASK else 0.3), (B, 0.8), (C, 0.7)]

    batch = start(HandWritten(rule), [[A]], 3, features=frozenset({"token_probability"}))
    commit(batch, "x..")
    assert batch.forward().features["token_probability"][0].tolist() == pytest.approx([0.9, 0, 0])
    batch.apply(Action(bits(".x.")))
    view = batch.forward()
    assert view.features["token_probability"][0].tolist() == pytest.approx([0.3, 0.8, 0])
    assert view.commit_confidence[0].tolist() == pytest.approx([0.9, 0.8, 0])


def test_logit_gap_by_hand() -> None:
    batch = start(fixed((A, 0.9), (EOS, 0.5), (C, 0.7)), [[A]], 3, features=frozenset({"logit_gap", "margin"}))
    commit(batch, "..x")
    view = batch.forward()
    expected = [math.log(0.9 / (0.1 / 5)), math.log(0.5 / (0.5 / 5)), 0]
    assert view.features["logit_gap"][0].tolist() == pytest.approx(expected, abs=1e-5)


def test_repeated_against_brute_force() -> None:
    batch = start(Mixing(), PROMPTS, 12, block_length=4, features=frozenset({"repeated"}))
    count = 0
    while batch.running.any():
        view = batch.forward()
        for row in range(4):
            masked = view.masked[row].nonzero().flatten().tolist()
            rank = {i: (-view.confidence[row, i].item(), i) for i in masked}
            for i in range(12):
                same = [j for j in masked if view.prediction[row, j] == view.prediction[row, i]]
                repeated = i in masked and any(rank[j] < rank[i] for j in same)
                assert view.features["repeated"][row, i].item() == repeated
                count += repeated
        batch.apply(Action(torch.zeros_like(view.masked)))
    assert count > 30


# leave_one_out: a shadow of the block in the same forward.


def without(model: MaskedLMDenoiser, tokens: list[int], place: int) -> Tensor:
    """Probabilities at `place` from one extra mask token that sees all but what stands there, one forward for it."""
    size = len(tokens) + 1
    seen = torch.full((size, size), torch.finfo(torch.float32).min)
    for query in range(size):
        for key in range(size):
            extra = size - 1
            may = key != extra if query != extra else key != place
            if may:
                seen[query, key] = 0.0
    first = 1 + model.pad_id
    places = torch.tensor([[*range(first, first + len(tokens)), first + place]])
    with torch.no_grad():
        output = model.model(
            input_ids=torch.tensor([[*tokens, model.mask_id]]), attention_mask=seen[None, None], position_ids=places
        )
    return softmax(output.logits[0, -1], model.mask_id)


def test_leave_one_out_against_one_forward_a_position(model: MaskedLMDenoiser) -> None:
    batch = on_model(model, "leave_one_out", "token_probability")
    assert len(set(batch.block_start.tolist())) == 3
    assert batch.length.tolist() == [12, 12, 3, 12]
    view = batch.forward()
    known = view.in_block & ~view.masked
    assert known.sum(1).min() >= 1
    values = []
    for row in range(4):
        prompt_length = int(batch.prompt_length[row])
        for place in range(12):
            got = view.features["leave_one_out"][row, place].item()
            expected = 0.0
            if known[row, place]:
                probabilities = without(model, row_tokens(batch, row), prompt_length + place)
                expected = probabilities[batch.buffer[row, place]].item()
                values.append(expected)
            assert got == pytest.approx(expected, abs=1e-5, rel=1e-3)
    assert len(values) > 4
    assert max(values) > 3 * min(values)  # the model has opinions
    # What the token says of itself is something else.
    difference = (view.features["leave_one_out"] - view.features["token_probability"]).abs()[known]
    assert difference.max() > 1e-3


def test_the_shadow_changes_nothing_else(model: MaskedLMDenoiser) -> None:
    others = ("token_probability", "probabilities", "top", "entropy", "logit_gap")
    plain, shadowed = on_model(model, *others), on_model(model, *others, "leave_one_out")
    one, two = plain.forward(), shadowed.forward()
    assert torch.allclose(one.confidence, two.confidence, atol=1e-5)
    assert torch.equal(one.prediction, two.prediction)
    for name, values in one.features.items():
        assert torch.allclose(values, two.features[name], atol=1e-4), name
    assert torch.allclose(one.tensors["probabilities"], two.tensors["probabilities"], atol=1e-5)


def test_logits_with_a_shadow_are_those_without(model: MaskedLMDenoiser) -> None:
    """The logits themselves, of left-padded rows, right-padded ones and rows in different blocks."""

    class Recorded:
        def __init__(self) -> None:
            self.logits_of: list[Tensor] = []

        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def logits(self, *inputs: Any, **more: Any) -> Tensor:
            self.logits_of.append(model.logits(*inputs, **more))
            return self.logits_of[-1]

    plain, shadowed = Recorded(), Recorded()
    on_model(plain, "entropy").forward()  # type: ignore[arg-type]
    batch = on_model(shadowed, "leave_one_out")  # type: ignore[arg-type]
    batch.forward()
    one, two = plain.logits_of[-1], shadowed.logits_of[-1]
    size = int((torch.minimum(batch.block_end, batch.length) - batch.block_start).max())
    assert two.shape[1] == one.shape[1] + size
    for row in range(4):
        here = int(batch.length[row])
        assert (one[row, :here] - two[row, :here]).abs().max() < 1e-4


def test_shadow_positions_count(model: MaskedLMDenoiser) -> None:
    batch = on_model(model, "leave_one_out")
    before = batch.token_positions.clone()
    sizes = [min(int(batch.block_end[row]), int(batch.length[row])) - int(batch.block_start[row]) for row in range(4)]
    assert sizes == [4, 4, 3, 4]
    batch.forward()
    spent = (batch.token_positions - before).tolist()
    assert spent == [len(row_tokens(batch, row)) + sizes[row] for row in range(4)]
    assert batch.nfe.tolist() == [3] * 4
    toy = start(ToyDenoiser(), [[7, 8], [9]], 6, block_length=3, features=frozenset({"leave_one_out"}))
    toy.forward()
    assert toy.token_positions.tolist() == [2 + 6 + 3, 1 + 6 + 3]


def test_leave_one_out_of_a_row_alone(model: MaskedLMDenoiser) -> None:
    together = on_model(model, "leave_one_out")
    view = together.forward()
    for row, text in enumerate(TEXTS):
        batch = DecodingBatch(model, 1, together.settings)
        batch.load([0], [model.encode_prompt(text)])
        for name in ("buffer", "masked", "length", "block_start", "block_end", "nfe"):
            setattr(batch, name, getattr(together, name)[row : row + 1].clone())
        batch.nfe -= 1
        alone = batch.forward()
        assert torch.allclose(alone.features["leave_one_out"][0], view.features["leave_one_out"][row], atol=1e-5)
        assert torch.allclose(alone.confidence[0], view.confidence[row], atol=1e-5)


def test_leave_one_out_in_drafts(model: MaskedLMDenoiser) -> None:
    settings = DecodingSettings(8, 4, features=frozenset({"leave_one_out"}))
    batch, alone = DecodingBatch(model, 1, settings), DecodingBatch(model, 1, settings)
    prompt = model.encode_prompt(TEXTS[1])
    for each in (batch, alone):
        each.load([0], [prompt])
        each.forward()
    one = torch.ones(1, dtype=torch.long)
    batch.apply(Action(bits("x......."), drafts=bits("xx......").unsqueeze(1), choose=lambda views: one))
    alone.apply(Action(bits("xx......")))
    assert torch.allclose(
        batch.forward().features["leave_one_out"], alone.forward().features["leave_one_out"], atol=1e-5
    )
    assert batch.token_positions.item() == 3 * (len(prompt) + 8 + 4)


# Tensors.


def test_probabilities_and_top(model: MaskedLMDenoiser) -> None:
    batch = on_model(model, "probabilities", "top")
    view = batch.forward()
    probabilities = view.tensors["probabilities"]
    assert probabilities.shape == (4, 12, len(model.tokenizer))
    assert probabilities.dtype == view.tensors["top_probabilities"].dtype == torch.float32
    assert view.tensors["top_ids"].dtype == torch.int64
    assert view.tensors["top_probabilities"].shape == view.tensors["top_ids"].shape == (4, 12, TOP_K)
    assert torch.allclose(probabilities.sum(-1), view.masked.float(), atol=1e-5)
    assert not probabilities[..., model.mask_id].any()
    for values in view.tensors.values():
        assert not values[~view.masked].any()
    top, ids = view.tensors["top_probabilities"], view.tensors["top_ids"]
    assert (top[..., :-1] >= top[..., 1:]).all()
    assert torch.equal(top[view.masked], probabilities.gather(-1, ids)[view.masked])
    assert torch.equal(top[view.masked], probabilities.topk(TOP_K, -1).values[view.masked])
    assert torch.equal(ids[..., 0][view.masked], view.prediction[view.masked])
    assert torch.allclose(top[..., 0][view.masked], view.confidence[view.masked], atol=1e-6)
    for row in range(4):
        tokens = torch.tensor([row_tokens(batch, row)])
        with torch.no_grad():
            logits = model.model(input_ids=tokens).logits[0, int(batch.prompt_length[row]) :]
        expected = softmax(logits, model.mask_id)[view.masked[row, : len(logits)]]
        assert torch.allclose(probabilities[row][view.masked[row]].double(), expected, atol=1e-5)


def test_tensors_by_hand() -> None:
    batch = start(fixed((A, 0.9), (B, 0.75), (C, 0.5)), [[A]], 3, features=frozenset({"probabilities", "top"}))
    commit(batch, "x..")
    tensors = batch.forward().tensors
    expected = [[0.0] * V, [0.05, 0, 0.05, 0.05, 0.75, 0.05, 0.05], [0.1, 0, 0.1, 0.1, 0.1, 0.5, 0.1]]
    assert torch.allclose(tensors["probabilities"][0], torch.tensor(expected), atol=1e-6)
    assert tensors["top_ids"][0, 1:, 0].tolist() == [B, C]
    assert tensors["top_probabilities"][0, 1, :2].tolist() == pytest.approx([0.75, 0.05])


def test_probabilities_are_noise_free(model: MaskedLMDenoiser) -> None:
    prompt = [model.encode_prompt(TEXTS[3])]
    views = []
    for temperature in (0.0, 3.0):
        settings = DecodingSettings(8, 8, temperature, frozenset({"probabilities"}))
        batch = DecodingBatch(model, 1, settings)
        batch.load([0], prompt)
        views.append(batch.forward())
    cold, warm = views
    assert torch.equal(cold.tensors["probabilities"], warm.tensors["probabilities"])
    assert (cold.prediction != warm.prediction).any()
    picked = warm.tensors["probabilities"].gather(-1, warm.prediction.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(picked, warm.confidence, atol=1e-6)


def test_hidden_is_the_models_last_hidden_state(model: MaskedLMDenoiser) -> None:
    batch = on_model(model, "hidden", "entropy")
    view = batch.forward()
    hidden = view.tensors["hidden"]
    assert hidden.shape == (4, 12, 32)
    assert hidden.dtype == torch.float32
    for row in range(4):
        with torch.no_grad():
            output = model.model(input_ids=torch.tensor([row_tokens(batch, row)]), output_hidden_states=True)
        expected = output.hidden_states[-1][0, int(batch.prompt_length[row]) :]
        masked = view.masked[row, : len(expected)]
        assert torch.allclose(hidden[row, : len(expected)][masked], expected[masked], atol=1e-4)
    plain = on_model(model, "entropy").forward()
    assert torch.allclose(view.confidence, plain.confidence, atol=1e-5)
    assert torch.allclose(view.features["entropy"], plain.features["entropy"], atol=1e-4)


def test_attention_is_that_of_a_row_alone(model: MaskedLMDenoiser) -> None:
    batch = on_model(model, "attention", "entropy")
    batch.load([0], [model.encode_prompt("sort . : e d c b a f g h =")])  # longer than all: columns move
    view = batch.forward()
    paid, received = view.tensors["attention"], view.tensors["attention_received"]
    width = batch.prompt.shape[1]
    assert paid.shape == (4, 12, width + 12)
    assert received.shape == (4, width + 12)
    for row in range(4):
        prompt, length = int(batch.prompt_length[row]), int(batch.length[row])
        tokens = torch.tensor([row_tokens(batch, row)])
        with torch.no_grad():
            model.model.set_attn_implementation("eager")
            layers = model.model(input_ids=tokens, output_attentions=True).attentions
            model.model.set_attn_implementation("sdpa")
        assert len(layers) == 2
        alone = torch.stack(layers).mean((0, 2))[0]
        here = slice(width - prompt, width + length)
        assert torch.allclose(paid[row, :length, here], alone[prompt:], atol=1e-5)
        assert torch.allclose(received[row, here], alone.mean(0), atol=1e-5)
        assert paid[row].sum(-1).tolist() == pytest.approx([1.0] * length + [0.0] * (12 - length), abs=1e-4)
        assert received[row].sum().item() == pytest.approx(1.0, abs=1e-4)
        assert not received[row, : width - prompt].any()


def test_reading_attention_changes_nothing_else(model: MaskedLMDenoiser) -> None:
    plain, watched = on_model(model, "entropy"), on_model(model, "entropy", "attention")
    one, two = plain.forward(), watched.forward()
    assert torch.equal(one.confidence, two.confidence)
    assert torch.equal(one.features["entropy"], two.features["entropy"])
    assert torch.equal(plain.token_positions, watched.token_positions)


def test_attention_of_rows_that_wait_moves_with_a_longer_prompt(model: MaskedLMDenoiser) -> None:
    batch = DecodingBatch(model, 2, DecodingSettings(4, features=frozenset({"attention"})))
    batch.load([0], [model.encode_prompt("copy a")])
    before = batch.forward()
    batch.load([1], [model.encode_prompt("copy . . : a b c")])
    after = batch.forward(torch.tensor([False, True]))
    added = batch.prompt.shape[1] - 2
    assert added > 0
    for name in ("attention", "attention_received"):
        assert torch.equal(after.tensors[name][0, ..., added:], before.tensors[name][0])
        assert not after.tensors[name][0, ..., :added].any()
        assert after.tensors[name][1, ..., added:].any()


def test_attention_that_another_function_computes_is_refused() -> None:
    network, tokenizer = tiny_model()
    network.set_attn_implementation("eager")
    batch = DecodingBatch(
        MaskedLMDenoiser(network, tokenizer), 1, DecodingSettings(4, features=frozenset({"attention"}))
    )
    batch.load([0], [[3, 4]])
    with pytest.raises(ValueError, match="features hold attention: RobertaPreLayerNormForMaskedLM can't give it"):
        batch.forward()
    with pytest.raises(ValueError, match="features hold attention: this dLLM does not tell its attention; leave it"):
        start(Mixing(), [[A]], 4, features=frozenset({"attention"}))


def test_hidden_of_finished_rows_is_zero() -> None:
    batch = start(ToyDenoiser(), [list(range(7, 15))] * 2, 3, features=frozenset({"hidden"}))
    assert commit(batch, "xxx", "x..") == [True, False]
    hidden = batch.forward().tensors["hidden"]
    assert not hidden[0].any()
    assert hidden[1, 1:].squeeze(-1).tolist() == [ToyDenoiser.mask_id] * 2


def test_prompt_is_padded_with_minus_one() -> None:
    batch = start(fixed(*[(A, 0.9)] * 2), [[A], [B, C, D]], 2, features=frozenset({"prompt"}))
    assert batch.forward().tensors["prompt"].tolist() == [[-1, -1, A], [B, C, D]]
    batch.apply(Action(bits("xx", "x.")))
    batch.load([0], [[D, C, B, A]])
    assert batch.forward().tensors["prompt"].tolist() == [[D, C, B, A], [-1, B, C, D]]
    assert batch.view.tensors["prompt"].dtype == torch.int64
    batch.load([0], [[C]])
    assert batch.forward().tensors["prompt"].tolist() == [[-1, -1, -1, C], [-1, B, C, D]]


@pytest.mark.parametrize("name", sorted(VIEW_FEATURES | VIEW_TENSORS))
def test_only_what_is_asked_for(name: str) -> None:
    batch = start(ToyDenoiser(), [[7, 8, 9]], 4, features=frozenset({name}))
    for view in (batch.forward(), batch.blank_view()):
        assert set(view.features) == {name} - VIEW_TENSORS
        assert set(view.tensors) <= {name, *PARTS.get(name, ())}
        assert all(values.shape == (1, 4) for values in view.features.values())
    assert len(batch.view.tensors) == (len(PARTS.get(name, (name,))) if name in VIEW_TENSORS else 0)


def readings(view: View, row: int) -> dict[str, Any]:
    """Everything optional that is known of a row's masked positions, and of its block."""
    masked, block = view.masked[row], view.in_block[row]
    tensors = {name: values[row][masked].tolist() for name, values in view.tensors.items() if name != "prompt"}
    return tensors | {name: values[row][block].tolist() for name, values in view.features.items()}


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_row_reads_the_same_in_any_batch(temperature: float) -> None:
    features = MASK_READINGS | {
        "top_probability",
        "token_probability",
        "probabilities",
        "top",
        "prompt",
        "best_probabilities",
    }

    def decode(prompts: list[list[int]]) -> list[list[dict[str, Any]]]:
        batch = start(Mixing(), prompts, 8, block_length=4, temperature=temperature, features=features)
        views: list[list[dict[str, Any]]] = [[] for _ in prompts]
        while batch.running.any():
            view = batch.forward()
            for row in batch.running.nonzero().flatten().tolist():
                views[row].append(readings(view, row))
            length = 3 + (view.key + view.step) % 6
            batch.apply(Action(view.confidence > 0.4, length=length))
        return views

    together = decode(PROMPTS)
    assert [decode([prompt])[0] for prompt in PROMPTS] == together
    assert decode(PROMPTS[::-1])[::-1] == together


# The model behind it.


def test_position_ids_and_masks_by_hand_equal_the_plain_call(model: MaskedLMDenoiser) -> None:
    width, length = 14, 5
    rows = [model.encode_prompt(text)[:9] for text in TEXTS]
    tokens = torch.full((4, width), model.pad_id)
    present = torch.zeros(4, width, dtype=torch.bool)
    shorter = [0, 0, 2, 1]
    for row, prompt in enumerate(rows):
        end = width - shorter[row]
        here = [*prompt, *[model.mask_id] * (length - shorter[row])]
        tokens[row, end - len(here) : end] = torch.tensor(here)
        present[row, end - len(here) : end] = True
    plain = model.logits(tokens, present, length)
    places = (present.cumsum(1) - 1).clamp(min=0)
    square = present.unsqueeze(1).expand(4, width, width)
    for mask, position_ids in ((present, places), (square, places), (square, None)):
        logits = model.logits(tokens, mask, length, position_ids)
        real = present[:, -length:]
        assert logits.shape == plain.shape
        assert torch.allclose(logits[real], plain[real], atol=1e-4)
    everything = torch.ones(1, 6, dtype=torch.bool)
    short = torch.tensor([model.encode_prompt("copy a b") + [model.mask_id] * 3])
    one = model.logits(short, everything, 3)
    assert torch.allclose(one, model.logits(short, everything.unsqueeze(1).expand(1, 6, 6), 3), atol=1e-4)
    moved = model.logits(short, everything, 3, torch.arange(6).flip(0).unsqueeze(0))
    assert (moved - one).abs().max() > 1e-2  # places matter to this model


def test_a_position_sees_only_what_its_mask_shows(model: MaskedLMDenoiser) -> None:
    tokens = torch.tensor([model.encode_prompt("copy a b c") + [model.mask_id] * 2])
    places, sees = torch.arange(6).unsqueeze(0), torch.ones(1, 6, 6, dtype=torch.bool)
    sees[:, :, 2] = False  # nothing sees the third token
    sees[:, 2, 2] = True
    other = tokens.clone()
    other[0, 2] = model.encode_prompt("z")[0]
    one, two = (model.logits(each, sees, 2, places) for each in (tokens, other))
    assert torch.equal(one, two)
    everything = torch.ones_like(sees)
    assert (model.logits(tokens, everything, 2, places) - model.logits(other, everything, 2, places)).abs().max() > 1e-2


def test_readings_beyond_the_length_are_zero() -> None:
    prompt = [5, 6, 7, 8, 9, 10]
    batch = start(ToyDenoiser(), [prompt] * 2, 8, features=frozenset({"token_probability", "hidden"}))
    batch.load([0], [prompt], length=4)
    view = batch.forward()
    assert not view.features["token_probability"][0, 4:].any()
    batch.load([0, 1], [prompt] * 2)
    act(batch, "x.......", "x.......", length=torch.tensor([4, 8]))
    assert not batch.forward().tensors["hidden"][0, 4:].any()


def test_tensors_of_a_blank_view() -> None:
    batch = start(fixed(*[(A, 0.9)] * 2), [[A]], 2, features=frozenset({"probabilities"}))

    def choose(views: Sequence[View]) -> Tensor:
        assert "probabilities" in views[0].tensors
        return torch.tensor([0])

    act(batch, "xx", drafts=bits("xx").unsqueeze(1), choose=choose)
    assert "probabilities" in batch.forward().tensors


def test_the_toys_shadow_is_the_same_in_any_batch() -> None:
    about: dict[str, Any] = {"features": frozenset({"leave_one_out"}), "block_length": 4}
    prompt = [5, 6, 7, 8, 9, 10]
    batch, alone = start(ToyDenoiser(), [prompt] * 2, 8, **about), start(ToyDenoiser(), [prompt], 8, **about)
    act(batch, "x.......", "x.......", length=torch.tensor([5, 8]))
    act(alone, "x.......", length=torch.tensor([5]))
    one, two = (each.forward().features["leave_one_out"][0] for each in (batch, alone))
    assert torch.equal(one, two)


def test_hidden_and_leave_one_out_are_refused_together() -> None:
    with pytest.raises(ValueError, match="both hidden and leave_one_out"):
        DecodingSettings(4, features=frozenset({"hidden", "leave_one_out"}))
