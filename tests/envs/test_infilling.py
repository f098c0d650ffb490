"""Texts with blanks: given tokens in the batch, the env, generation, evaluation, recordings and pictures."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from denoisers import (
    EOS,
    MASK,
    NUMBERS,
    PAD,
    A,
    B,
    C,
    Context,
    D,
    Mixing,
    SeedZero,
    act,
    bits,
    commit,
    fixed,
    same_row,
    tiny_model,
)

from envs import UnmaskingVectorEnv
from envs.decoding.batch import DecodingBatch
from envs.decoding.infilling import encode_all_given, encode_given
from envs.decoding.settings import DecodingSettings
from envs.models.toy import ToyDenoiser
from envs.tasks import TASKS, Problem, ProceduralTask, Split
from envs.view import Action
from policies import RULES, LowConfidence, decode, generate, make_rule
from train.evaluation.measure import measure
from train.filters.traces import TraceConfig, problems_of
from train.watching.recording import record

LENGTH = 12
TEXTS = ["1 [MASK] 2 [MASK] [MASK] 3", None, "[MASK] [MASK] 4", "7 5 5 5 5 5 [MASK] 2 [MASK]", "[MASK] [MASK] [MASK]"]
PROMPTS = NUMBERS[: len(TEXTS)]


def fill(denoiser: Any, text: list[int], length: int = 6, **kwargs: Any) -> DecodingBatch:
    """A batch of one row that was given a text."""
    batch = DecodingBatch(denoiser, 1, DecodingSettings(length, **kwargs))
    batch.load([0], [[A, B]], given=[text])
    return batch


# Known decodes.


def test_hand_computed_infilling() -> None:
    denoiser = fixed((A, 0.9), (B, 0.8), (C, 0.7), (A, 0.6), (A, 0.9), (A, 0.9))
    batch = fill(denoiser, [D, MASK, D, MASK])
    assert batch.tokens(0) == [D, MASK, D, MASK, EOS, EOS]
    assert batch.given.tolist() == [[True, False, True, False, False, False]]
    view = batch.forward()
    assert view.masked.tolist() == view.eligible.tolist() == [[False, True, False, True, False, False]]
    assert view.confidence[0].tolist() == pytest.approx([1.0, 0.8, 1.0, 0.6, 1.0, 1.0])
    assert view.prediction.tolist() == [[D, B, D, A, EOS, EOS]]
    assert view.commit_confidence[0].tolist() == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert (view.length.item(), view.time.item()) == (4, 0.0)
    assert not batch.apply(Action(bits("xxx.xx"))).item()  # what is given can't be chosen
    assert batch.tokens(0) == [D, B, D, MASK, EOS, EOS]
    assert commit(batch, "......") == [True]  # nothing chosen: the only blank left
    assert batch.tokens(0) == [D, B, D, A, EOS, EOS]
    assert batch.commit_step.tolist() == [[0, 1, 0, 2, 0, 0]]
    assert {name: values.tolist() for name, values in batch.counters().items()} == {
        "nfe": [2],
        "token_positions": [2 * (2 + 4)],
    }
    assert batch.given.tolist() == [[True, False, True, False, False, False]]


def test_the_denoiser_sees_given_tokens_and_nothing_after_them() -> None:
    denoiser = fixed(*[(A, 0.9)] * 6)
    batch = DecodingBatch(denoiser, 2, DecodingSettings(6))
    batch.load([0, 1], [[A, B], [C]], given=[[MASK, D], [D, D, D, MASK]])
    batch.forward()
    assert denoiser.seen == [
        (
            [[A, B, MASK, D, PAD, PAD], [PAD, C, D, D, D, MASK]],
            [[True] * 4 + [False] * 2, [False] + [True] * 5],
        )
    ]
    assert batch.token_positions.tolist() == [4, 5]


def test_blocks_without_a_blank_are_passed_over() -> None:
    batch = fill(fixed(*[(A, 0.9)] * 8), [D, D, D, D, MASK, D, D, MASK], 8, block_length=2)
    assert (batch.block_start.item(), batch.block_end.item()) == (4, 6)
    assert commit(batch, "xxxxxxxx") == [False]
    assert batch.tokens(0) == [D, D, D, D, A, D, D, MASK]
    assert (batch.block_start.item(), batch.block_end.item()) == (6, 8)
    assert commit(batch, "xxxxxxxx") == [True]


@pytest.mark.parametrize(
    ("text", "steps", "done", "tokens"),
    [
        # A given end-of-text before a blank ends nothing.
        ([EOS, MASK, D, MASK], [".x..", "...x"], [False, True], [EOS, C, D, C]),
        # Nor does a predicted one before a given token.
        ([MASK, MASK, D, MASK], ["x...", ".x..", "...x"], [False, False, True], [EOS, C, D, C]),
        # After the last given token it does; the rest becomes end-of-text.
        ([D, MASK, MASK, MASK], [".x..", "..x."], [False, True], [D, C, EOS, EOS]),
        # A given end does not hide that something is masked.
        ([D, MASK, D, EOS], [".x.."], [True], [D, C, D, EOS]),
    ],
)
def test_end_of_text(text: list[int], steps: list[str], done: list[bool], tokens: list[int]) -> None:
    first = (EOS, 0.9) if text[0] == MASK else (C, 0.9)
    third = (EOS, 0.9) if text[2] == MASK else (C, 0.9)
    batch = fill(fixed(first, (C, 0.9), third, (C, 0.9)), text, 4)
    assert [commit(batch, step)[0] for step in steps] == done
    assert batch.tokens(0) == tokens
    assert not batch.running.any()


def test_end_of_text_prediction_keeps_what_is_given() -> None:
    denoiser = fixed((EOS, 0.9), (C, 0.9), (C, 0.9), (EOS, 0.9), (C, 0.9))
    batch = fill(denoiser, [MASK, MASK, D, MASK, MASK], 6, end_of_text_prediction=True)
    assert commit(batch, "x.....") == [False]
    assert (batch.length.item(), batch.tokens(0)) == (5, [EOS, MASK, D, MASK, MASK, EOS])
    assert commit(batch, "...x..") == [False]
    assert (batch.length.item(), batch.tokens(0)) == (4, [EOS, MASK, D, EOS, EOS, EOS])
    assert commit(batch, ".x....") == [True]
    assert batch.token_positions.item() == (2 + 5) + (2 + 5) + (2 + 4)


def test_nothing_takes_given_tokens_back_or_changes_the_length() -> None:
    batch = fill(fixed(*[(A, 0.9)] * 6), [D, MASK, D, MASK, MASK])
    everywhere, short = torch.ones(1, 6, dtype=torch.bool), torch.tensor([2])
    assert act(batch, ".x....", remask=everywhere, length=short) == [False]
    assert (batch.tokens(0), batch.length.item()) == ([D, A, D, MASK, MASK, EOS], 5)
    assert act(batch, "...x..", remask=everywhere, length=torch.tensor([6])) == [False]
    assert (batch.tokens(0), batch.length.item()) == ([D, MASK, D, A, MASK, EOS], 5)  # what was committed is taken back
    assert batch.given.tolist() == [[True, False, True, False, False, False]]


def test_a_text_of_which_the_first_token_is_given_keeps_its_length() -> None:
    batch = fill(fixed(*[(A, 0.9)] * 6), [D, MASK, MASK])
    assert act(batch, ".x....", length=torch.tensor([6])) == [False]
    assert (batch.length.item(), batch.text_length.item()) == (3, 3)
    assert batch.tokens(0) == [D, A, MASK, EOS, EOS, EOS]


def test_readings_of_given_tokens_are_certain() -> None:
    batch = fill(Mixing(), [D, MASK, D, MASK], features=frozenset({"token_probability"}))
    commit(batch, ".x....")
    reading = batch.forward().features["token_probability"][0]
    assert reading[[0, 2, 3, 4, 5]].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert 0 < reading[1] < 1


def test_equal_prompts_with_other_texts_draw_other_numbers() -> None:
    batch = DecodingBatch(Mixing(), 4, DecodingSettings(4))
    batch.load(range(4), [[A]] * 4, given=[[MASK, D], [D, MASK], [MASK, D], None])
    keys = batch.key.tolist()
    assert (len(set(keys)), keys[0]) == (3, keys[2])


def test_a_row_is_used_again() -> None:
    batch = fill(fixed(*[(A, 0.9)] * 6), [D, MASK, D])
    commit(batch, "xxxxxx")
    batch.load([0], [[B]])
    assert (batch.tokens(0), batch.length.item(), batch.given.any().item()) == ([MASK] * 6, 6, False)
    assert not batch.commit_confidence.any()


def test_a_row_used_again_ends_at_its_own_end_of_text() -> None:
    batch = fill(fixed((EOS, 0.9), *[(A, 0.9)] * 5), [D, MASK, D])
    commit(batch, "xxxxxx")
    batch.load([0], [[B]])
    assert commit(batch, "x.....") == [True]
    assert batch.tokens(0) == [EOS] * 6


def test_drafts_know_what_is_given() -> None:
    batch = fill(fixed(*[(A, 0.9)] * 4), [EOS, MASK, D, MASK], 4)
    both = {"drafts": bits("...x").unsqueeze(1), "choose": lambda views: torch.tensor([1])}
    assert act(batch, ".x..", **both) == [False]
    assert batch.forward().masked.tolist() == [[False, True, False, False]]  # a given end-of-text has ended no draft
    assert batch.tokens(0) == [EOS, MASK, D, A]
    assert batch.token_positions.item() == (2 + 4) * (1 + 2)  # the first forward, and one a draft
    assert batch.apply(Action(bits(".x.."))).tolist() == [True]
    assert batch.given.tolist() == [[True, False, True, False]]


def test_no_given_text_changes_nothing() -> None:
    one, two = (DecodingBatch(Mixing(), 2, DecodingSettings(6)) for _ in range(2))
    one.load([0, 1], [[A], [B, C]])
    two.load([0, 1], [[A], [B, C]], given=[None, None])
    for step in ("x.....", "...x..", "......"):
        views = [batch.forward() for batch in (one, two)]
        assert all(same_row(views[0], row, views[1], row) for row in range(2))
        for batch in (one, two):
            batch.apply(Action(bits(step, step)))
    assert torch.equal(one.buffer, two.buffer)


# In any company.


@pytest.mark.parametrize(
    "rule", [name for name in RULES if name not in ("guided", "diffuspec", "pc_sampler", "adablock", "tccf")]
)
def test_every_rule_infills_the_same_in_any_company(rule: str) -> None:
    policy, denoiser = make_rule(rule), Context()
    settings = DecodingSettings(LENGTH, 4, features=policy.features)
    together = decode(denoiser, PROMPTS, policy, settings, given=TEXTS, batch_size=3)
    for prompt, text, done in zip(PROMPTS, TEXTS, together, strict=True):
        assert decode(denoiser, [prompt], policy, settings, given=[text]) == [done]
        assert MASK not in done.tokens
        if text is None:
            assert decode(denoiser, [prompt], policy, settings) == [done]
            continue
        given = encode_given(denoiser, text)
        kept = [done.tokens[i] == token for i, token in enumerate(given) if token != denoiser.mask_id]
        assert all(kept)
        if any(kept):
            assert done.tokens[len(given) :] == [denoiser.eos_id] * (LENGTH - len(given))
            blanks = given.count(denoiser.mask_id)
            most = {"remdm": LENGTH, "rcr": LENGTH, "wino": LENGTH, "punt": 3 * blanks}  # of two trials a step
            assert 1 <= done.nfe <= most.get(rule, blanks)


def test_random_order_is_uniform_over_the_blanks() -> None:
    batch = DecodingBatch(Mixing(), 300, DecodingSettings(6))
    for seed in range(300):
        batch.load([seed], [[A]], seed, given=[[D, MASK, D, MASK, D, MASK]])
    batch.apply(make_rule("random:1").act(batch.forward()))
    seen = (batch.commit_step > 0).sum(0).numpy()
    assert seen[[0, 2, 4]].tolist() == [0, 0, 0]
    assert (np.abs(seen[[1, 3, 5]] - 100) < 30).all()


# The env and everything that decodes.


class Gaps(ProceduralTask):
    """Sequences of numbers of which some are missing, and some problems without a text."""

    name = "gaps"
    words = ()

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        return NUMBERS[int(rng.integers(6))], "1 2 3"

    def make(self, split: Split, index: int) -> Problem:
        return Problem(self.name, split, index, NUMBERS[index % 6], "1 2 3", TEXTS[index % len(TEXTS)])


@pytest.fixture
def gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "gaps", Gaps)


@pytest.mark.usefixtures("gaps")
@pytest.mark.parametrize("rule", ["low_confidence:1", "random:2", "threshold:0.3"])
def test_decode_and_evaluation_equal_the_env(rule: str) -> None:
    policy = make_rule(rule)
    env = UnmaskingVectorEnv(3, denoiser=Context(), tasks="gaps", buffer_length=LENGTH, episodes=SeedZero)
    env.reset(seed=0)
    problems: list[Problem] = []
    finals: list[tuple[Any, ...]] = []
    while len(problems) < 12:
        running = list(env.problems)
        _, _, terminated, _, infos = env.step(policy.select(env.view).cpu().numpy())
        for row in terminated.nonzero()[0]:
            final = {key: values[row] for key, values in infos["final_info"].items()}
            problems.append(running[row])
            finals.append((final["text"], final["nfe"], final["token_positions"]))
    assert {problem.given is None for problem in problems} == {True, False}
    prompts, given = [p.prompt for p in problems], [p.given for p in problems]
    done = decode(Context(), prompts, policy, DecodingSettings(LENGTH), given=given)
    assert [(g.text, g.nfe, g.token_positions) for g in done] == finals
    outcomes = measure(Context(), policy, tasks="gaps", episodes=5, buffer_length=LENGTH)
    five = [Gaps().problem("test", i) for i in range(5)]
    alone = decode(Context(), [p.prompt for p in five], policy, DecodingSettings(LENGTH), given=[p.given for p in five])
    assert outcomes["nfe"] == [g.nfe for g in alone]


@pytest.mark.parametrize("rule", ["low_confidence:2", "wino", "info_gain"])
def test_a_recording_equals_decode(rule: str) -> None:
    policy = make_rule(rule)
    settings = DecodingSettings(LENGTH, features=policy.features)
    recordings = record(Context(), PROMPTS, policy, settings, given=TEXTS, batch_size=2)
    done = decode(Context(), PROMPTS, policy, settings, given=TEXTS)
    assert [(r.tokens, r.nfe, r.token_positions) for r in recordings] == [
        (g.tokens, g.nfe, g.token_positions) for g in done
    ]
    start = recordings[0].frames[0]
    assert start.masked == [False, True, False, True, True] + [False] * (LENGTH - 5)
    assert start.commit_confidence[:6] == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]


def test_generate_fills_in() -> None:
    model, tokenizer = tiny_model()
    given = ["a [MASK] b [MASK] [MASK] c", None]
    first, second = generate(model, tokenizer, ["copy . .", "sort"], LowConfidence(1), given=given, buffer_length=8)
    assert tokenizer.convert_ids_to_tokens(first.tokens)[:6:2] == [
        "a",
        "b",
        tokenizer.convert_ids_to_tokens(first.tokens)[4],
    ]
    assert tokenizer.convert_ids_to_tokens(first.tokens[5:]) == ["c", "[EOS]", "[EOS]"]
    assert (first.nfe, first.token_positions) == (3, 3 * (3 + 6))
    assert [second] == generate(model, tokenizer, ["sort"], LowConfidence(1), buffer_length=8)


@pytest.mark.usefixtures("gaps")
def test_traces_hold_problems_with_their_texts(tmp_path: Any) -> None:
    problems = problems_of(TraceConfig(tmp_path, 5, tasks=("gaps",), split="test"), 0)
    assert [problem.given for problem in problems] == TEXTS


def test_pictures_show_given_tokens(toy: ToyDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a [MASK] b"
    monkeypatch.setattr(Gaps, "make", lambda self, split, index: Problem("gaps", split, index, "copy", "a c b", text))
    monkeypatch.setitem(TASKS, "gaps", Gaps)
    env = UnmaskingVectorEnv(1, denoiser=toy, tasks="gaps", buffer_length=4, render_mode="ansi")
    env.reset(seed=0)
    dim = r"\x1b\[2m%s\x1b\[0m"
    assert re.search(" ".join(dim % word for word in ("a", "·", "b")), env.render()[0])
    env.render_mode = "rgb_array"
    [picture] = env.render()
    assert (np.ptp(picture[..., :3], axis=2)[:, : picture.shape[1] // 4] == 0).all()  # no colour of a confidence


def test_a_text_of_blanks_alone_ends_where_it_says() -> None:
    """Of one blank too: no token is given that an end could come before."""
    for text, row in ([MASK, MASK, MASK], "x.."), ([MASK], "x....."):
        batch = fill(fixed(*[(EOS, 0.9)] * 6), text)
        assert commit(batch, row.ljust(6, ".")) == [True]
        assert batch.tokens(0)[0] == EOS


def test_a_policy_may_read_what_was_given() -> None:
    batch = fill(Mixing(), [MASK, C, MASK], 4, features=frozenset({"given"}))
    assert batch.forward().tensors["given"].tolist() == [[-1, C, -1, -1]]
    commit(batch, "x...")
    assert batch.forward().tensors["given"].tolist() == [[-1, C, -1, -1]]  # not what was committed since


def test_random_numbers_are_of_prompt_text_and_seed() -> None:
    texts, prompts = [[MASK, A, MASK], [MASK, A, MASK], [MASK, B, MASK], [MASK, A, MASK]], [[A, B], [C], [C], [C]]
    batch = DecodingBatch(Mixing(), 4, DecodingSettings(3))
    batch.load(range(4), prompts, [5, 5, 5, 6], given=texts)
    keys = batch.forward().key.tolist()
    assert len(set(keys)) == 4
    alone = DecodingBatch(Mixing(), 1, DecodingSettings(3))
    for row, key in enumerate(keys):
        alone.load([0], [prompts[row]], [5, 5, 5, 6][row], given=[texts[row]])
        assert alone.forward().key.tolist() == [key]


# Errors.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fill(Mixing(), [D, D]), "given has no blank, token 1"),
        (lambda: fill(Mixing(), []), "given has 0 tokens: it must have 1 to buffer_length, 6"),
        (lambda: fill(Mixing(), [MASK] * 7), "given has 7 tokens"),
        (
            lambda: DecodingBatch(Mixing(), 2, DecodingSettings(4)).load([0, 1], [[A]]),
            "^prompts has 1 entries: it must have one a row, 2$",
        ),
        (
            lambda: DecodingBatch(Mixing(), 1, DecodingSettings(4)).load([0], [[A]], length=5),
            "^length is 5: it must be 1 to buffer_length, 4$",
        ),
        (
            lambda: DecodingBatch(Mixing(), 2, DecodingSettings(4)).load([0, 1], [[A], [B]], given=[None]),
            "given has 1 entries: it must have one a row, 2",
        ),
        (
            lambda: decode(Context(), ["1", "2"], LowConfidence(1), DecodingSettings(4), given=["[MASK]"]),
            "given has 1 entries: it must have one a prompt, 2",
        ),
    ],
)
def test_impossible_texts_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_texts_become_tokens() -> None:
    toy = ToyDenoiser()
    ids = encode_given(toy, "a [MASK][MASK] b [MASK]")
    assert [toy.words[i] for i in ids] == ["a", "[MASK]", "[MASK]", "b", "[MASK]"]
    assert encode_all_given(toy, [None, "[MASK]"]) == [None, [toy.mask_id]]
