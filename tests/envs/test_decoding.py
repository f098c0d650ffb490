from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import permutations, product
from typing import Any

import places
import pytest
import torch
from denoisers import EOS, MASK, PAD, A, B, C, D, HandWritten, Mixing, V, bits, commit, fixed, start
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from envs.beliefs import DenoiserError
from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import MAX_TEMPERATURE, DecodingSettings
from envs.denoiser import Denoiser
from envs.models.toy import ToyDenoiser
from envs.noise import gumbel, uniform
from envs.readings import MASK_READINGS
from envs.tasks import TASKS
from envs.unmasking import UnmaskingVectorEnv
from envs.view import Action, View, ensure_progress
from train.algorithms.group_episodes import GroupEpisodes

pytestmark = pytest.mark.usefixtures("device")

# Known decodes.


def test_hand_computed_decode() -> None:
    batch = start(fixed((A, 0.9), (B, 0.5), (C, 0.7), (D, 0.6)), [[A, B, C]], 4)
    assert commit(batch, "x.x.") == [False]
    assert batch.tokens(0) == [A, MASK, C, MASK]
    view = batch.forward()
    assert view.confidence[0].tolist() == pytest.approx([1.0, 0.5, 1.0, 0.6])
    assert view.prediction.tolist() == [[A, B, C, D]]
    assert view.masked.tolist() == view.eligible.tolist() == [[False, True, False, True]]
    assert (view.step.item(), view.time.item(), view.block_start.item()) == (2, 0.25, 0)
    assert not batch.apply(Action(bits("...."))).item()  # nothing chosen: the most confident, 3
    assert batch.tokens(0) == [A, MASK, C, D]
    assert commit(batch, "xxxx") == [True]
    assert batch.tokens(0) == [A, B, C, D]
    assert batch.commit_step.tolist() == [[1, 3, 1, 2]]
    assert batch.commit_confidence[0].tolist() == pytest.approx([0.9, 0.5, 0.7, 0.6])
    assert {name: values.tolist() for name, values in batch.counters().items()} == {
        "nfe": [3],
        "token_positions": [3 * (3 + 4)],
    }
    assert not batch.running.any()


def test_committed_tokens_are_what_the_denoiser_sees() -> None:
    # Each prediction is the successor of the token on its left: only left to right gives A B C D.
    def follow(prompt: list[int], buffer: list[int]) -> list[tuple[int, float]]:
        left = [prompt[-1], *buffer[:-1]]
        return [(A if token == MASK else token + 1, 0.5) for token in left]

    batch = start(HandWritten(follow), [[EOS], [EOS]], 4)
    assert commit(batch, "xxxx", "x...") == [True, False]
    assert [commit(batch, "....", row)[1] for row in (".x..", "..x.", "...x")] == [False, False, True]
    assert [batch.tokens(0), batch.tokens(1)] == [[A, A, A, A], [A, B, C, D]]


def test_blocks_are_decoded_in_order_at_each_rows_own_pace() -> None:
    batch = start(fixed(*[(A, 0.9), (B, 0.8)] * 3), [[A], [A]], 6, block_length=2)
    batch.forward()
    assert batch.view.eligible.tolist() == [[True, True, False, False, False, False]] * 2
    commit(batch, "xxxxxx", "....xx")  # row 1 asks for nothing eligible: its most confident eligible, 0
    assert [batch.tokens(row) for row in (0, 1)] == [[A, B] + [MASK] * 4, [A] + [MASK] * 5]
    assert batch.block_start.tolist() == [2, 0]
    assert batch.eligible().tolist() == [[False, False, True, True, False, False], [False, True] + [False] * 4]
    commit(batch, "...x..", "xxxxxx")
    assert [batch.tokens(row) for row in (0, 1)] == [[A, B, MASK, B, MASK, MASK], [A, B] + [MASK] * 4]
    assert batch.block_start.tolist() == [2, 2]
    assert commit(batch, "xxxxxx", "xxxxxx") == [False, False]
    assert commit(batch, "xxxxxx", "xxxxxx") == [True, True]
    assert batch.nfe.tolist() == [5, 5]  # the forward above counts too
    assert batch.commit_step.tolist() == [[2, 2, 4, 3, 5, 5], [2, 3, 4, 4, 5, 5]]


@pytest.mark.parametrize(
    ("steps", "done", "tokens"),
    [
        (["x...."], [False], [A, MASK, MASK, MASK, MASK]),
        (["xx..."], [True], [A, EOS, EOS, EOS, EOS]),
        ([".x...", "x...."], [False, True], [A, EOS, EOS, EOS, EOS]),
        (["..x..", "x....", ".x..."], [False, False, True], [A, EOS, C, EOS, EOS]),
        (["..xxx", ".x...", "x...."], [False, False, True], [A, EOS, C, EOS, D]),
        (["...x.", "x....", "..x.."], [False, False, False], [A, MASK, C, EOS, MASK]),
    ],
)
def test_end_of_text_ends_a_row_once_all_before_it_is_known(
    steps: list[str], done: list[bool], tokens: list[int]
) -> None:
    batch = start(fixed((A, 0.9), (EOS, 0.8), (C, 0.7), (EOS, 0.6), (D, 0.5)), [[A]], 5)
    assert [commit(batch, step)[0] for step in steps] == done
    assert batch.tokens(0) == tokens
    assert batch.running.item() is not done[-1]
    filled_in = torch.tensor([[not any(step[i] == "x" for step in steps) for i in range(5)]])
    assert not batch.commit_step[filled_in].any()
    assert not batch.commit_confidence[filled_in].any()
    assert (batch.commit_step[~filled_in] > 0).all()


def test_end_of_text_ends_a_row_in_its_first_block() -> None:
    batch = start(fixed((EOS, 0.9), *[(A, 0.5)] * 5), [[A]], 6, block_length=3)
    assert commit(batch, "x.....") == [True]
    assert batch.tokens(0) == [EOS] * 6


def test_without_the_early_end_every_position_is_decoded() -> None:
    """As released code does: what follows an end-of-text costs forwards, and is written."""
    believed = ((A, 0.9), (EOS, 0.8), (C, 0.7), (EOS, 0.6), (D, 0.5), (B, 0.4))
    early = start(fixed(*believed), [[A]], 6, block_length=2)
    assert [commit(early, step)[0] for step in ("x.....", ".x....")] == [False, True]
    late = start(fixed(*believed), [[A]], 6, block_length=2, early_end=False)
    steps = ("x.....", ".x....", "..xx..", "....xx")
    assert [commit(late, step)[0] for step in steps] == [False, False, False, True]
    assert late.tokens(0) == [A, EOS, C, EOS, D, B]
    assert (late.nfe.item(), late.commit_step[0].tolist()) == (4, [1, 2, 3, 3, 4, 4])
    assert early.tokens(0)[:2] == late.tokens(0)[:2]


def test_without_the_early_end_each_row_ends_by_itself() -> None:
    batch = start(fixed((A, 0.9), (EOS, 0.9), (C, 0.9)), [[A], [A]], 3, early_end=False)
    assert commit(batch, "xxx", "xx.") == [True, False]
    assert commit(batch, "...", "..x") == [False, True]


def test_rows_with_the_same_prompt_and_another_seed_draw_other_numbers() -> None:
    batch = DecodingBatch(Mixing(), 4, DecodingSettings(5, temperature=3.0))
    batch.load(range(4), [[A, B]] * 4, [7, 8, 7, 9])
    rows = [tuple(row) for row in batch.forward().prediction.tolist()]
    assert rows[0] == rows[2]
    assert len(set(rows)) == 3
    alone = DecodingBatch(Mixing(), 1, DecodingSettings(5, temperature=3.0))
    alone.load([0], [[A, B]], [9])
    assert alone.forward().prediction.tolist() == [list(rows[3])]
    alone.load([0], [[A, B]])
    key = alone.forward().key.tolist()
    alone.load([0], [[A, B]], [0])
    assert alone.forward().key.tolist() == key  # 0 if nothing is said
    with pytest.raises(ValueError, match="seed has 2 entries: it must have one a row, 1"):
        alone.load([0], [[A]], [1, 2])


def test_features_is_eos_and_changed() -> None:
    def rule(prompt: list[int], buffer: list[int]) -> list[tuple[int, float]]:
        return [(A, 0.9), (B if buffer[0] == MASK else EOS, 0.5), (C, 0.5), (EOS, 0.5)]

    batch = start(HandWritten(rule), [[A], [A]], 4, features=frozenset({"is_eos", "changed"}))
    view = batch.forward()
    assert view.features["is_eos"].tolist() == [[0, 0, 0, 1]] * 2
    assert view.features["changed"].tolist() == [[0, 0, 0, 0]] * 2
    batch.apply(Action(bits("x...", "..x.")))
    view = batch.forward()
    assert view.features["is_eos"].tolist() == [[0, 1, 0, 1], [0, 0, 0, 1]]
    assert view.features["changed"].tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    batch.load([0], [[A]])
    assert batch.forward().features["changed"].tolist() == [[0, 0, 0, 0]] * 2


def test_features_read_zero_where_committed() -> None:
    batch = start(fixed((A, 0.9), (EOS, 0.5), (C, 0.7)), [[A]], 3, features=MASK_READINGS)
    commit(batch, "..x")
    features = batch.forward().features
    assert features.keys() == MASK_READINGS
    assert features["margin"][0].tolist() == pytest.approx([0.9 - 0.1 / 5, 0.5 - 0.5 / 5, 0.0], abs=1e-6)
    gaps = [math.log(0.9 / (0.1 / 5)), math.log(0.5 / (0.5 / 5)), 0.0]
    assert features["logit_gap"][0].tolist() == pytest.approx(gaps, abs=1e-5)
    assert features["eos_probability"][0].tolist() == pytest.approx([0.1 / 5, 0.5, 0.0], abs=1e-6)
    entropies = [-p * math.log(p) - (1 - p) * math.log((1 - p) / 5) for p in (0.9, 0.5)]
    assert features["entropy"][0].tolist() == pytest.approx([*entropies, 0.0], abs=1e-6)


# What the denoiser is given, and what its forwards cost.


def test_prompts_are_left_padded_and_finished_rows_are_left_out() -> None:
    denoiser = fixed((A, 0.9), (B, 0.8))
    batch = start(denoiser, [[A], [A, B, C], [B, C]], 2)
    commit(batch, "x.", "xx", "x.")
    commit(batch, "xx", "xx", "..")
    batch.forward()
    assert denoiser.seen == [
        (
            [[PAD, PAD, A, MASK, MASK], [A, B, C, MASK, MASK], [PAD, B, C, MASK, MASK]],
            [[False, False, True, True, True], [True] * 5, [False, True, True, True, True]],
        ),
        ([[PAD, A, A, MASK], [B, C, A, MASK]], [[False, True, True, True], [True] * 4]),
    ]
    assert batch.nfe.tolist() == [2, 1, 2]
    assert batch.token_positions.tolist() == [2 * 3, 5, 2 * 4]  # padding is not counted


def test_finished_rows_are_not_touched() -> None:
    batch = start(fixed((A, 0.9), (B, 0.8), (C, 0.7)), [[A], [B]], 3, features=frozenset({"is_eos"}))
    assert commit(batch, "xxx", "...") == [True, False]
    records = ("buffer", "masked", "nfe", "token_positions", "commit_step", "commit_confidence", "block_start", "key")
    before = {name: getattr(batch, name)[0].clone() for name in records}
    view = batch.forward()
    assert view.confidence[0].tolist() == [1, 1, 1]
    assert view.prediction[0].tolist() == [A, B, C]
    assert not view.masked[0].any()
    assert not view.eligible[0].any()
    assert batch.apply(Action(bits("xxx", "xxx"))).tolist() == [False, True]
    assert all(torch.equal(getattr(batch, name)[0], value) for name, value in before.items())


class Misshapen(HandWritten):
    """Changes what it says before it is returned."""

    def __init__(self, change: Callable[[Tensor], Any], change_hidden: Callable[[Tensor], Any] = Tensor.float) -> None:
        super().__init__(lambda prompt, buffer: [(A, 0.9)] * 4)
        self.change, self.change_hidden = change, change_hidden

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Any:
        return self.change(super().logits(tokens, attention_mask, length))

    def logits_and_hidden(self, tokens: Tensor, attention_mask: Tensor, length: int) -> tuple[Any, Any]:
        logits = self.logits(tokens, attention_mask, length)
        return logits, self.change_hidden(torch.ones(len(tokens), length, 2, device=tokens.device))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda logits: logits[:1], r"logits of shape \(1, 4, 7\) for 2 rows of 4 positions: expected .*\(2, 4, 3 or"),
        (lambda logits: logits[:, :1], r"logits of shape \(2, 1, 7\)"),
        (lambda logits: logits[0], r"logits of shape \(4, 7\)"),
        (lambda logits: logits[..., :2], r"logits of shape \(2, 4, 2\)"),
        (lambda logits: logits.long(), "logits of dtype int64"),
        (lambda logits: logits.cpu().numpy(), "logits a ndarray"),
        (lambda logits: None, "logits a NoneType"),
    ],
)
def test_an_answer_for_other_rows_is_not_broadcast(change: Any, found: str) -> None:
    """Every prompt would get the first one's answer."""
    settings = DecodingSettings(buffer_length=4)
    batch = DecodingBatch(Misshapen(change), 2, settings)  # type: ignore[arg-type]
    batch.load([0, 1], [[B], [C, D]])
    with pytest.raises(DenoiserError, match=f"the dLLM returned {found}"):
        batch.forward()


def test_hidden_states_for_other_rows_are_not_broadcast() -> None:
    batch = DecodingBatch(
        Misshapen(Tensor.float, lambda hidden: hidden[:1]),  # type: ignore[arg-type]
        2,
        DecodingSettings(buffer_length=4, features=frozenset({"hidden"})),
    )
    batch.load([0, 1], [[B], [C, D]])
    with pytest.raises(DenoiserError, match=r"hidden states of shape \(1, 4, 2\) for 2 rows"):
        batch.forward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_width_are_taken(dtype: torch.dtype) -> None:
    batch = DecodingBatch(
        Misshapen(lambda logits: logits.to(dtype)),  # type: ignore[arg-type]
        2,
        DecodingSettings(buffer_length=4),
    )
    batch.load([0, 1], [[B], [C, D]])
    assert batch.forward().prediction.tolist() == [[A] * 4] * 2


def test_forward_without_running_rows_is_free() -> None:
    denoiser = fixed((A, 0.9))
    batch = DecodingBatch(denoiser, 2, DecodingSettings(1, 1, features=frozenset({"margin"})))
    view = batch.forward()
    assert denoiser.seen == []
    assert view.confidence.tolist() == [[1], [1]]
    assert view.features["margin"].tolist() == [[0], [0]]
    assert not view.masked.any()
    assert not batch.apply(Action(bits("x", "x"))).any()
    assert batch.nfe.tolist() == [0, 0]


def test_loading_a_row_again_resets_all_of_it() -> None:
    def beliefs(prompt: list[int], buffer: list[int]) -> list[tuple[int, float]]:
        return [(prompt[0], 0.5 + 0.1 * len(prompt))] * 4

    kwargs: dict[str, Any] = {"block_length": 2, "features": MASK_READINGS}
    batch = start(HandWritten(beliefs), [[A, B, C], [B, C]], 4, **kwargs)
    commit(batch, "xxxx", "x...")
    commit(batch, "x.x.", ".x..")
    batch.load([0], [[D]])
    fresh = start(HandWritten(beliefs), [[D]], 4, **kwargs)
    for view, row in ((batch.forward(), 0), (fresh.forward(), 0)):
        assert view.masked[row].all()
    assert same_rows(batch.view, fresh.view)
    records = ("buffer", "masked", "nfe", "token_positions", "commit_step", "commit_confidence", "block_start", "key")
    assert all(torch.equal(getattr(batch, name)[:1], getattr(fresh, name)) for name in records)
    assert batch.nfe.tolist() == [1, 3]  # the other row goes on
    batch.load([], [])
    assert batch.nfe.tolist() == [1, 3]


def same_rows(one: View, two: View) -> bool:
    """Tell whether the first rows of two views are equal in all they hold."""
    names = ("confidence", "prediction", "masked", "eligible", "step", "time", "block_start", "key")
    pairs = [(getattr(one, name)[0], getattr(two, name)[0]) for name in names]
    pairs += [(values[0], two.features[name][0]) for name, values in one.features.items()]
    return all(torch.equal(a, b) for a, b in pairs)


# Rows don't depend on their batch.


def prompts(toy: ToyDenoiser) -> list[list[int]]:
    """Prompts of four lengths."""
    texts = [TASKS[name]().problem("train", index).prompt for name in ("copy", "sort", "add") for index in range(2)]
    return [toy.encode_prompt(text)[skip:] for skip, text in enumerate(texts)]


def decode(toy: ToyDenoiser, prompts: list[list[int]], seed: int = 3, **kwargs: Any) -> list[dict[str, Any]]:
    """Decode with a rule that reads confidences and draws random numbers; return all that is known of each row."""
    batch = DecodingBatch(toy, len(prompts), DecodingSettings(16, **kwargs))
    batch.load(range(len(prompts)), prompts, seed)
    views: list[list[Any]] = [[] for _ in prompts]
    while batch.running.any():
        view = batch.forward()
        for row in batch.running.nonzero().flatten().tolist():
            views[row].append([view.confidence[row].tolist(), view.prediction[row].tolist(), view.time[row].item()])
            views[row].append({name: values[row].tolist() for name, values in view.features.items()})
        draws = uniform(view.key, view.step, (16,))
        batch.apply(Action((view.confidence > 0.9) & (draws > 0.5)))
    counters = {name: values.tolist() for name, values in batch.counters().items()}
    return [
        {
            "tokens": batch.tokens(row),
            "views": views[row],
            "commit_step": batch.commit_step[row].tolist(),
            "commit_confidence": batch.commit_confidence[row].tolist(),
            **{name: values[row] for name, values in counters.items()},
        }
        for row in range(len(prompts))
    ]


different_settings = pytest.mark.parametrize(
    "kwargs",
    [
        {"block_length": 16},
        {"block_length": 4, "features": MASK_READINGS},
        {"block_length": 16, "temperature": 1.5, "features": MASK_READINGS},
        {"block_length": 8, "temperature": 0.7},
    ],
)


@pytest.mark.slow
@different_settings
def test_row_alone_is_row_in_a_batch(toy: ToyDenoiser, kwargs: dict[str, Any]) -> None:
    together = decode(toy, prompts(toy), **kwargs)
    assert [decode(toy, [prompt], **kwargs)[0] for prompt in prompts(toy)] == together
    assert len({row["nfe"] for row in together}) > 1  # they don't go in step
    assert [row["token_positions"] for row in together] == [
        row["nfe"] * (len(prompt) + 16) for row, prompt in zip(together, prompts(toy), strict=True)
    ]


@different_settings
def test_permuting_rows_permutes_results(toy: ToyDenoiser, kwargs: dict[str, Any]) -> None:
    order, straight = [4, 2, 0, 5, 1, 3], decode(toy, prompts(toy), **kwargs)
    assert decode(toy, [prompts(toy)[i] for i in order], **kwargs) == [straight[i] for i in order]


def test_seed_decides_a_sample(toy: ToyDenoiser) -> None:
    kwargs: dict[str, Any] = {"block_length": 16, "temperature": 2.0}
    assert decode(toy, prompts(toy), seed=0, **kwargs) == decode(toy, prompts(toy), seed=0, **kwargs)
    assert decode(toy, prompts(toy), seed=0, **kwargs) != decode(toy, prompts(toy), seed=1, **kwargs)


def test_each_step_samples_anew() -> None:
    batch = start(fixed(*[(A, 0.4)] * 32), [[A]], 32, temperature=1.0)
    first = batch.forward().prediction
    batch.apply(Action(bits("x" + "." * 31)))
    second = batch.forward().prediction
    assert first[0, 0] == second[0, 0]  # committed
    assert 5 < (first != second).sum() < 31  # two draws agree with probability 0.4**2 + 5 * 0.12**2 = 0.23


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_tempered_distribution(temperature: float) -> None:
    batch = start(fixed(*[(A, 0.4)] * 32), [[A]], 32, temperature=temperature)
    counts = torch.zeros(V)
    for seed in range(60):
        batch.load([0], [[A]], seed)
        view = batch.forward()
        counts += view.prediction.flatten().cpu().bincount(minlength=V)
        expected = torch.where(view.prediction == A, 0.4, 0.6 / 5)
        assert torch.allclose(view.confidence, expected, atol=1e-6)  # the probability without noise
    weights = torch.tensor([0.12, 0.0, 0.12, 0.4, 0.12, 0.12, 0.12]) ** (1 / temperature)
    assert counts[MASK] == 0
    sampled = [token for token in range(V) if token != MASK]
    shares = (weights / weights.sum())[sampled].double()
    assert stats.chisquare(counts[sampled].double(), shares / shares.sum() * 60 * 32).pvalue > 1e-3


# ensure_progress and the promises of every step.


def test_ensure_progress_brute_force() -> None:
    bits = list(product([False, True], repeat=3))
    cases = list(product(bits, bits, [*permutations([0.1, 0.5, 0.9]), (0.0, 0.0, 0.0), (0.2, 0.7, 0.7)]))
    commit, eligible, score = (torch.tensor(column) for column in zip(*cases, strict=True))
    before = commit.clone()
    result = ensure_progress(commit, eligible, score).tolist()
    for (wanted, allowed, scores), got in zip(cases, result, strict=True):
        expected = [w and a for w, a in zip(wanted, allowed, strict=True)]
        if any(allowed) and not any(expected):
            best = max((i for i in range(3) if allowed[i]), key=lambda i: (scores[i], -i))
            expected[best] = True
        assert got == expected
    assert torch.equal(commit, before)


def test_ensure_progress_stays_eligible_when_every_score_is_minus_infinity() -> None:
    nothing, eligible = torch.zeros(1, 3, dtype=torch.bool), torch.tensor([[False, True, True]])
    chosen = ensure_progress(nothing, eligible, torch.full((1, 3), -torch.inf))
    assert chosen.any()
    assert not (chosen & ~eligible).any()


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_actions_end_within_the_buffer_length(data: st.DataObject) -> None:
    toy = ToyDenoiser(places.here)
    length = data.draw(st.integers(1, 8), label="L")
    block = data.draw(st.sampled_from([d for d in range(1, length + 1) if length % d == 0]), label="block_length")
    temperature = data.draw(st.sampled_from([0.0, 2.0]), label="temperature")
    batch = start(toy, prompts(toy)[:3], length, block_length=block, temperature=temperature)
    for step in range(length):
        eligible, buffer, running = batch.eligible(), batch.buffer.clone(), batch.running
        assert torch.equal(eligible.any(1), running)
        batch.forward()
        bits = data.draw(st.lists(st.booleans(), min_size=3 * length, max_size=3 * length), label=f"step {step + 1}")
        finished = batch.apply(Action(torch.tensor(bits, device=places.here).view(3, length)))
        committed = batch.commit_step == step + 1
        assert torch.equal(committed.any(1), running)
        assert not (committed & ~eligible).any()
        assert torch.equal(finished, running & ~batch.running)
        known = buffer != MASK
        assert torch.equal(batch.buffer[known], buffer[known])  # never changed again
        assert torch.equal(batch.masked, batch.buffer == MASK)
    assert not batch.running.any()
    assert (batch.nfe <= length).all()


# Errors.


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"buffer_length": 0, "block_length": 1}, "buffer_length is 0"),
        ({"buffer_length": 12, "block_length": 5}, "block_length is 5: .* choose one of 1, 2, 3, 4, 6, 12"),
        ({"buffer_length": 12, "block_length": 24}, "block_length is 24"),
        ({"buffer_length": 12, "block_length": 0}, "block_length is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"temperature": "warm"}, "temperature is 'warm': it must be a number"),
        ({"temperature": True}, "temperature is True: it must be a number"),
        ({"early_end": "false"}, "early_end is 'false': it must be True or False"),
        ({"end_of_text_prediction": 1}, "end_of_text_prediction is 1: it must be True or False"),
        ({"features": "age"}, "features is 'age': give a set of names, such as {'age'}"),
        ({"buffer_length": 8.0}, "buffer_length is 8.0: it must be a whole number"),
        ({"block_length": True}, "block_length is True: it must be a whole number"),
        (
            {"buffer_length": 8, "block_length": 9, "block_origin": "absolute"},
            "block_length is 9: it must be 1 to .* 8$",
        ),
        ({"buffer_length": 3, "block_length": 2}, "choose one of 1, 3$"),
        ({"window": "half"}, "window is 'half': choose full or truncated$"),
        ({"block_origin": "text"}, "block_origin is 'text': choose buffer or absolute$"),
        ({"features": frozenset({"hidden", "attention"})}, "features hold both hidden and attention: "),
        ({"features": frozenset({"attention"}), "cache": "dual"}, "cache is .dual. and features hold attention: "),
        ({"features": frozenset({"margins"})}, "feature is 'margins': choose from age, attention, best_probabilities"),
    ],
)
def test_impossible_settings(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecodingSettings(**kwargs)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"buffer_length": 8, "block_length": 8, "block_origin": "absolute"},
        {"buffer_length": 8, "block_length": 3, "block_origin": "absolute"},
        {"temperature": MAX_TEMPERATURE},
    ],
)
def test_settings_at_their_ends(kwargs: dict[str, Any]) -> None:
    assert DecodingSettings(**kwargs)


def test_a_state_is_copied_and_fits_one_number_of_positions() -> None:
    batch = start(fixed(*[(A, 0.9)] * 4), [[A], [B]], 4)
    commit(batch, "x...", "x...")
    saved = batch.save()
    buffer = saved["buffer"].clone()
    batch.restore(saved)
    batch.buffer[:] = 0
    assert torch.equal(saved["buffer"], buffer)
    other = start(fixed(*[(A, 0.9)] * 4), [[A], [B], [A]], 4)
    for wrong in (saved, {name: value for name, value in other.save().items() if name != "nfe"}):
        with pytest.raises(ValueError, match=r"^the state is not of 3 by 4 positions$"):
            other.restore(wrong)


def test_only_the_rows_that_are_asked_for_are_computed() -> None:
    batch = start(fixed(*[(A, 0.9)] * 4), [[A], [B], [A]], 4)
    commit(batch, "xxxx", "x...", "x...")
    before = batch.nfe.clone()
    batch.forward(torch.tensor([True, True, False], device=places.here))
    # The first is finished, the third waits.
    assert (batch.nfe - before).tolist() == [0, 1, 0]


def test_without_a_seed_it_is_nought() -> None:
    sampled = []
    for seed in ({}, {"seed": 0}, {"seed": 1}):
        batch = DecodingBatch(ToyDenoiser(device=places.here), 1, DecodingSettings(8, temperature=5.0))
        batch.load([0], [batch.denoiser.encode_prompt("copy . . : a b c . . . =")], **seed)
        sampled.append(batch.forward().prediction.tolist())
    assert sampled[0] == sampled[1] != sampled[2]


def test_values_of_a_text_end_where_it_ends() -> None:
    batch = start(fixed(*[(A, 0.9)] * 4), [[A]], 4)
    batch.text_length[0] = 2
    assert batch.of_text(torch.tensor([[5, 6, 7, 8]], device=places.here), 0, after=-1) == [5, 6, -1, -1]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], r"prompt has 0 tokens: it must have 1 to 60 \(the model takes 64, the buffer 4 of them\)"),
        ([A] * 61, "prompt has 61 tokens"),
    ],
)
def test_prompt_of_impossible_length(prompt: list[int], message: str) -> None:
    batch = start(fixed(*[(A, 0.9)] * 4), [[A], [B] * 60], 4)
    commit(batch, "x...", "x...")
    with pytest.raises(ValueError, match=message):
        batch.load([0, 1], [[B], prompt])
    assert batch.nfe.tolist() == [1, 1]  # nothing was loaded


def test_nan_raises() -> None:
    class Broken(HandWritten):
        def logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
            return super().logits(tokens, attention_mask, length) + torch.nan

    with pytest.raises(DenoiserError, match="NaN"):
        start(Broken(lambda prompt, buffer: [(A, 0.9)]), [[A]], 1).forward()


class BlockCausal(Mixing):
    """Says it sees only blocks of 4."""

    block_length = 4


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([4, 8], r"block_length is 8: this dLLM sees only blocks of 4 .* choose one of 4, 2, 1"),
        ([3, 4], "block_length is 3: it must divide buffer_length 8"),
        ([0, 4], "block_length is 0: it must divide buffer_length 8"),
        ([4], "block_lengths has 1 entries: it must have one a row, 2"),
    ],
)
def test_impossible_block_lengths_of_rows_are_refused(blocks: list[int], message: str) -> None:
    batch = DecodingBatch(BlockCausal(), 2, DecodingSettings(8, 4))
    before = batch.masked.clone()
    with pytest.raises(ValueError, match=message):
        batch.load([0, 1], [[A], [B]], block_lengths=blocks)
    assert torch.equal(batch.masked, before)
    batch.load([0, 1], [[A], [B]], block_lengths=[4, 2])
    assert batch.block_end.tolist() == [4, 2]


EXPERTS = partial(GroupEpisodes, group_size=2, expert_blocks=[8])


@pytest.mark.parametrize("lengths", [{"block_length": [4, 8]}, {"episodes": EXPERTS}])
def test_an_env_refuses_each_impossible_block_length(lengths: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="block_length is 8: this dLLM sees only blocks of 4"):
        UnmaskingVectorEnv(2, denoiser=BlockCausal(), buffer_length=8, **{"block_length": 4, **lengths})


# The toy denoiser that other tests build on.


def test_toy_denoiser(toy: ToyDenoiser) -> None:
    assert isinstance(toy, Denoiser)
    assert (
        toy.decode([*toy.encode_prompt("a b c"), toy.mask_id, toy.pad_id, toy.eos_id, *toy.encode_prompt("d")])
        == "a b c"
    )
    assert toy.token_strings([toy.mask_id, *toy.encode_prompt("a")]) == ["[MASK]", "a"]
    confidences = set()
    for problem in (TASKS["copy"]().problem("train", index) for index in range(40)):
        view = start(toy, [toy.encode_prompt(problem.prompt)], 16).forward()
        assert toy.decode(view.prediction[0].tolist()) == problem.answer
        confidences |= {round(value, 5) for value in view.confidence[0].tolist()}
    # One logit of 1 to 11 against zeros for the other tokens, without the mask.
    expected = [math.exp(height) / (math.exp(height) + len(toy.words) - 2) for height in range(1, 12)]
    assert sorted(confidences) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 2 * V, 9 * V, 2**20])
def test_a_warm_prediction_is_the_best_of_logits_and_noise(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many logits are looked at together: none, two positions, two rows, or all of 3 rows of 4."""
    monkeypatch.setattr("envs.beliefs.CHUNK", chunk)
    denoiser, prompts = Mixing(), [[A, B], [B, C], [D, D]]
    batch = start(denoiser, prompts, 4, temperature=0.7)
    assert batch.forward().step.tolist() == [1, 1, 1]
    batch.apply(Action(bits("x...", ".x..", "...x")))
    view = batch.forward()
    tokens = torch.cat([torch.tensor(prompts, device=places.here), batch.buffer], 1)
    logits = denoiser.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), 4)
    logits[..., MASK] = -torch.inf
    best = (logits + 0.7 * gumbel(view.key, view.step, (4, V))).argmax(-1)
    assert view.step.tolist() == [2, 2, 2]
    assert torch.equal(view.prediction, torch.where(view.masked, best, batch.buffer))
    shares = logits.softmax(-1).gather(-1, best.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(view.confidence[view.masked], shares[view.masked])
    assert not torch.equal(best, logits.argmax(-1))
