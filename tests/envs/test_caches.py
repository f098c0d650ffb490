"""Caches: what they compute, that nothing else changes, and each against a decoder written out in full."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import places
import pytest
import torch
from checkpoints import build
from denoisers import same_row
from networks import perturbed
from torch import Tensor

from envs.caches import CACHES, Moment, make_cache
from envs.caches.d2cache import D2Cache
from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.models.adapter import MaskedLMDenoiser
from envs.models.key_values import KeyValues
from envs.models.load import load_denoiser
from envs.noise import gumbel
from envs.tasks import prompt
from envs.unmasking import UnmaskingVectorEnv
from envs.view import Action, View
from policies import LearnedPolicy, NetworkConfig, UnmaskingPolicy, decode, generate, make_rule, save
from policies import load as load_policy
from train.command.config import ROOT
from train.evaluate import main
from train.evaluation.records import read_records
from train.evaluation.run import EvaluateConfig
from train.job.config import EnvConfig, JobConfig
from train.job.finish import evaluation_of

pytestmark = pytest.mark.usefixtures("device")

PROMPTS = ["a" * size for size in (3, 4, 5, 6, 9)]
FORMATS = {"llada": "llada", "dream": "dream", "sdar": "sdar", "fast_dllm_v2": "fast_dllm_v2", "a2d_bd3lm": "a2d"}
BLOCK_CAUSAL = ("sdar", "fast_dllm_v2", "a2d_bd3lm", "wide_sdar")
EVERYTHING = ("prefix:refresh=1", "dual:refresh=1", "dkv:refresh=1", "window:refresh=1")
"""Caches that are told to compute everything in every forward."""
APPROXIMATE = (
    "prefix",
    "dual:refresh=2",
    "dkv:refresh=3",
    "freecache:piece=2",
    "d2cache:masks=3,sigma=2",
    "window:window=3,active=2,refresh=3",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("caches")
    made = {name: build(written, root / name) for name, written in FORMATS.items()}
    # As LLaDA2: blocks of 32 from the start of the text, logits where they belong.
    return made | {"wide_sdar": build("sdar", root / "wide_sdar", block_size=32)}


def load(folders: dict[str, Path], name: str) -> MaskedLMDenoiser:
    denoiser = load_denoiser(
        str(folders[name]), str(places.here), family=name.removeprefix("wide_"), chat_template=False
    )
    assert isinstance(denoiser, MaskedLMDenoiser)
    return denoiser


# What is computed.


class Asking(UnmaskingPolicy):
    """A rule that asks for a refresh where it is to."""

    name = "asking"

    def __init__(self, rule: str, asks: Callable[[View], Tensor]) -> None:
        self.rule, self.asks = make_rule(rule), asks
        self.features = self.rule.features

    def act(self, view: View) -> Action:
        return replace(self.rule.act(view), refresh=self.asks(view))


def after(*steps: int) -> Callable[[View], Tensor]:
    """Ask after these forwards of a row, from 1."""
    return lambda view: torch.isin(view.step, torch.tensor(steps, device=places.here))


def computed(denoiser: Any, size: int, rule: str | UnmaskingPolicy, steps: int = 99, **settings: Any) -> list[int]:
    """Return how many positions each forward of a row computed; the prompt has `size` tokens."""
    policy = make_rule(rule) if isinstance(rule, str) else rule
    batch = DecodingBatch(denoiser, 1, DecodingSettings(features=policy.features, early_end=False, **settings))
    batch.load([0], [[5] * size])
    found: list[int] = []
    while bool(batch.running.any()) and len(found) < steps:
        before = int(batch.token_positions)
        batch.apply(policy.act(batch.forward()))
        found.append(int(batch.token_positions) - before)
    return found


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ("none", [11, 11, 11, 11, 11, 11, 11, 11]),
        ("prefix", [11, 8, 8, 8, 11, 4, 4, 4]),
        ("prefix:refresh=2", [11, 8, 11, 8, 11, 4, 11, 4]),
        ("dual", [11, 4, 4, 4, 11, 4, 4, 4]),
        ("dual:refresh=3", [11, 4, 4, 11, 11, 4, 4, 11]),
        ("dual:fresh_prompt=1", [11, 7, 7, 7, 11, 7, 7, 7]),
        ("dual:fresh_prompt=2", [11, 4, 7, 4, 11, 4, 7, 4]),
        ("dual:fresh_prompt=3,refresh=2", [11, 4, 11, 7, 11, 4, 11, 7]),
        ("prefix:fresh_prompt=1,refresh=3", [11, 11, 11, 11, 11, 7, 7, 11]),
        # The first piece and all after it; once it is clean, its last token and the second.
        ("freecache:piece=4", [11, 8, 8, 8, 5, 4, 4, 4]),
        # The masks that are left, and the token of the last step.
        ("dkv:refresh=4", [11, 8, 7, 6, 11, 4, 3, 2]),
        ("dkv", [11, 8, 7, 6, 5, 4, 3, 2]),
        # A phase shows the prompt, what is known and five masks; then two masks and what its forwards committed.
        ("window:window=5,active=2,refresh=4", [8, 3, 4, 5, 11, 3, 4, 4]),
        # Masks behind the window are shown before the phase ends where fewer than two are left in it.
        ("window:window=3,active=2,refresh=4", [6, 3, 4, 5, 10, 3, 4, 4]),
    ],
)
def test_positions_computed_are_those_that_the_cache_says(
    folders: dict[str, Path], cache: str, expected: list[int]
) -> None:
    found = computed(load(folders, "llada"), 3, "low_confidence:1", buffer_length=8, block_length=4, cache=cache)
    assert found == expected


def test_the_position_before_a_mask_is_computed_where_logits_are_shifted(folders: dict[str, Path]) -> None:
    every = {position: computed_after(load(folders, "dream"), position) for position in (0, 1)}
    assert every == {0: 4, 1: 5}


def computed_after(denoiser: Any, committed: int) -> int:
    """Return the positions that dual computes in a first block of four after one of its tokens was committed."""
    batch = DecodingBatch(denoiser, 1, DecodingSettings(8, 4, cache="dual", early_end=False))
    batch.load([0], [[5] * 3])
    batch.forward()
    batch.apply(Action(torch.arange(8, device=places.here).unsqueeze(0) == committed))
    before = int(batch.token_positions)
    batch.forward()
    return int(batch.token_positions) - before


def test_exact_computes_a_block_for_the_last_time_with_the_next_one(folders: dict[str, Path]) -> None:
    shown: dict[str, Any] = {"buffer_length": 8, "block_length": 4, "cache": "exact", "window": "truncated"}
    assert computed(load(folders, "sdar"), 4, "low_confidence:1", **shown) == [8, 4, 4, 4, 8, 4, 4, 4]
    assert computed(load(folders, "sdar"), 4, "low_confidence:4", **shown) == [8, 8]
    # All of a full window follows each change.
    shown["window"] = "full"
    assert computed(load(folders, "sdar"), 4, "low_confidence:1", **shown) == [12, 8, 8, 8, 8, 4, 4, 4]


def test_whatever_changed_is_computed(folders: dict[str, Path]) -> None:
    """A commit outside the block, a remask, and masks that are appended or dropped, under a cache that leaves them."""
    batch = DecodingBatch(load(folders, "llada"), 1, DecodingSettings(12, 4, cache="dual", early_end=False))
    place = torch.arange(12, device=places.here).unsqueeze(0)
    batch.load([0], [[5] * 3], length=10)

    def step(commit: int, **action: Any) -> int:
        before = int(batch.token_positions)
        batch.forward()
        batch.apply(Action(place == commit, **action))
        return int(batch.token_positions) - before

    assert step(0) == 13
    assert step(7, scope=place == 7) == 4
    assert step(1, length=torch.tensor([12], device=places.here)) == 5  # the block and position 7
    assert step(2, length=torch.tensor([8], device=places.here)) == 6  # and two new masks
    assert step(0, remask=place == 0, length=torch.tensor([9], device=places.here)) == 4
    assert step(3) == 5  # one mask again, though it was known before it was dropped
    batch.forward()
    assert batch.view.confidence[0, 8] > 0
    # Another prompt in the same row starts anew, even if its tokens are the same.
    batch.load([0], [[5] * 3])
    batch.forward()
    assert batch.token_positions.tolist() == [15]


# Refreshes that a policy asks for.


@pytest.mark.parametrize(
    ("cache", "asked", "expected"),
    [
        ("none", (2, 6), [11, 11, 11, 11, 11, 11, 11, 11]),
        ("prefix", (2, 6), [11, 8, 11, 8, 11, 4, 11, 4]),
        ("dual", (2, 6), [11, 4, 11, 4, 11, 4, 11, 4]),
        ("freecache:piece=4", (2, 6), [11, 8, 11, 8, 5, 4, 11, 4]),
        ("dkv:refresh=0", (), [11, 8, 7, 6, 5, 4, 3, 2]),
        ("dkv:refresh=0", (2, 6), [11, 8, 11, 6, 5, 4, 11, 2]),
        # A cache's own interval begins anew with it.
        ("dkv:refresh=4", (2,), [11, 8, 11, 6, 5, 4, 11, 2]),
        ("dual:refresh=3", (1,), [11, 11, 4, 4, 11, 4, 4, 11]),
        # Window's computes what is shown, and begins a phase: five masks are shown again.
        ("window:window=5,active=2,refresh=0", (), [8, 3, 4, 5, 6, 7, 8, 8]),
        ("window:window=5,active=2,refresh=0", (4,), [8, 3, 4, 5, 11, 3, 4, 4]),
    ],
)
def test_a_refresh_that_is_asked_for_computes_everything(
    folders: dict[str, Path], cache: str, asked: tuple[int, ...], expected: list[int]
) -> None:
    policy = Asking("low_confidence:1", after(*asked))
    assert computed(load(folders, "llada"), 3, policy, buffer_length=8, block_length=4, cache=cache) == expected


@pytest.mark.parametrize("name", ["llada", "dream"])
@pytest.mark.parametrize("cache", ["dual", "dkv", "window:window=3,active=2"])
def test_asking_at_a_fixed_interval_is_the_caches_own(folders: dict[str, Path], name: str, cache: str) -> None:
    denoiser, settings = load(folders, name), DecodingSettings(12, 4, early_end=False)
    knobs = ("," if ":" in cache else ":") + "refresh="
    policy = Asking("low_confidence:1", lambda view: (view.block_step + 1 if cache == "dual" else view.step) % 3 == 0)
    own, asked = (replace(settings, cache=f"{cache}{knobs}{refresh}") for refresh in (3, 0))
    expected = decode(denoiser, PROMPTS, make_rule("low_confidence:1"), own)
    assert decode(denoiser, PROMPTS, policy, asked) == expected
    never = decode(denoiser, PROMPTS, make_rule("low_confidence:1"), asked)
    assert [one.token_positions for one in never] != [one.token_positions for one in expected]


def test_a_refresh_is_of_its_row_and_sequence_alone(folders: dict[str, Path]) -> None:
    batch = DecodingBatch(load(folders, "llada"), 3, DecodingSettings(8, 4, cache="dual", early_end=False))
    place, yes = torch.arange(8, device=places.here).expand(3, -1), torch.tensor([False, True, True])
    batch.load(range(3), [[5] * 3] * 3)

    def step(commit: int, **action: Any) -> list[int]:
        before = batch.token_positions.clone()
        batch.forward()
        batch.apply(Action(place == commit, **action))
        return (batch.token_positions - before).tolist()

    assert step(0, refresh=yes.to(places.here)) == [11, 11, 11]
    batch.load([2], [[5] * 3])  # what was asked for is forgotten with it
    other = DecodingBatch(batch.denoiser, 3, batch.settings)
    other.load_state(batch.state())
    assert step(1) == [4, 11, 11]
    assert step(2) == [4, 4, 4]
    other.forward()
    assert other.token_positions.tolist() == [15, 22, 11]  # the state holds what was asked for


# How old beliefs are.


def ages(denoiser: Any, cache: str, commits: list[int], **settings: Any) -> list[list[int]]:
    """Return the ages that each forward of a row of eight positions shows, one position committed after each."""
    features = frozenset({"age"})
    batch = DecodingBatch(
        denoiser, 2, DecodingSettings(8, 4, cache=cache, early_end=False, features=features, **settings)
    )
    place = torch.arange(8, device=places.here).expand(2, -1)
    batch.load([0, 1], [[5] * 3, [5] * 5])
    found = []
    for step, position in enumerate(commits):
        if step == 1:
            batch.load([1], [[6] * 4])  # which changes nothing in the other row
        found.append(batch.forward().features["age"][0].int().tolist())
        batch.apply(Action((place == position) & (torch.arange(2, device=places.here) == 0).unsqueeze(1)))
    return found


def test_ages_count_the_forwards_since_a_position_was_computed(folders: dict[str, Path]) -> None:
    llada = load(folders, "llada")
    assert ages(llada, "none", [0, 1, 2]) == [[0] * 8] * 3
    assert ages(llada, "dual", [1, 0, 2, 3, 4, 5, 6]) == [
        [0] * 8,
        [0, 0, 0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 2, 2, 2, 2],
        [0, 0, 0, 0, 3, 3, 3, 3],
        [0] * 8,
        [1, 1, 1, 1, 0, 0, 0, 0],
        [2, 2, 2, 2, 0, 0, 0, 0],
    ]
    # A token is computed once after its commit, and everything after three forwards.
    assert ages(llada, "dkv:refresh=3", [1, 0, 2, 3]) == [
        [0] * 8,
        [0] * 8,
        [0, 1, 0, 0, 0, 0, 0, 0],
        [0] * 8,
    ]
    # What is not shown has no age, and is new when it is shown.
    assert ages(llada, "window:window=5,active=2,refresh=9", [0, 1, 2, 3]) == [
        [0] * 8,
        [0, 0, 0, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 2, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
    # Where logits are shifted, a mask's belief is as old as what the position before it was computed from.
    assert ages(load(folders, "dream"), "dual", [3, 0]) == [[0] * 8, [0, 0, 0, 0, 0, 1, 1, 1]]


def test_unseen_counts_the_tokens_since_everything_was_computed(folders: dict[str, Path]) -> None:
    def unseen(cache: str, *asked: int) -> list[float]:
        policy, found = Asking("low_confidence:1", after(*asked)), []
        settings = DecodingSettings(8, 4, cache=cache, early_end=False, features=frozenset({"unseen"}))
        batch = DecodingBatch(load(folders, "llada"), 1, settings)
        batch.load([0], [[5] * 3])
        while bool(batch.running.any()):
            view = batch.forward()
            [number] = view.features["unseen"].unique().tolist()  # the same everywhere
            found.append(number)
            batch.apply(policy.act(view))
        return found

    assert unseen("none") == [0] * 8
    assert unseen("dual") == [0, 1, 2, 3, 0, 1, 2, 3]
    assert unseen("dual", 2, 6) == [0, 1, 0, 1, 0, 1, 0, 1]
    assert unseen("dkv:refresh=0") == [0, 1, 2, 3, 4, 5, 6, 7]
    assert unseen("prefix:refresh=2") == [0, 1] * 4


def test_unseen_goes_on_where_masks_are_shown_late(folders: dict[str, Path]) -> None:
    settings = DecodingSettings(8, cache="window:window=3,active=2", features=frozenset({"unseen"}), early_end=False)
    batch, rule, found = DecodingBatch(load(folders, "llada"), 1, settings), make_rule("low_confidence:1"), []
    batch.load([0], [[5] * 3])
    while bool(batch.running.any()):
        view = batch.forward()
        is_shown = ~view.masked | (view.confidence > 0)
        assert (view.features["unseen"] == batch.nfe - 1).equal(is_shown | (batch.nfe == 1).unsqueeze(1))
        found.append(int(is_shown.sum()))
        batch.apply(rule.act(view))
    assert found == [3, 3, 4, 5, 6, 7, 8, 8]


def test_a_policy_that_reads_ages_comes_back_and_decides_by_them(folders: dict[str, Path], tmp_path: Path) -> None:
    config = NetworkConfig(features=("age",))
    policy = LearnedPolicy(perturbed(config), threshold=0.6)
    saved = save(LearnedPolicy(perturbed(config).cpu(), threshold=0.6), tmp_path / "policy")
    again = load_policy(saved, device=str(places.here))
    assert again.features == {"age"}
    settings = DecodingSettings(8, 4, cache="dual:refresh=3", features=policy.features)
    denoiser = load(folders, "llada")
    expected = decode(denoiser, PROMPTS, policy, settings)
    assert decode(denoiser, PROMPTS, again, settings) == expected
    assert decode(denoiser, PROMPTS[::-1], again, settings, batch_size=2) == expected[::-1]
    batch = DecodingBatch(denoiser, 1, settings)
    batch.load([0], [[5] * 3])
    view = batch.forward()
    old = replace(view, features={"age": view.features["age"] + 20})
    assert not torch.allclose(policy.probabilities(view), policy.probabilities(old))


# Nothing else changes.


@pytest.mark.each_value
@pytest.mark.parametrize("name", [*FORMATS, "tiny"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_cache_that_computes_everything_commits_what_none_does(
    folders: dict[str, Path], name: str, temperature: float
) -> None:
    denoiser = load_denoiser("tiny", str(places.here)) if name == "tiny" else load(folders, name)
    prompts = ["sort . . : c a b . . . . . . . . . . . . . =", *PROMPTS[1:3]] if name == "tiny" else PROMPTS
    for rule in ("threshold:0.3", "klass:0.3"):
        policy = make_rule(rule)
        settings = DecodingSettings(8, 4, temperature, policy.features | {"token_probability"})
        expected = decode(denoiser, prompts, policy, settings)
        for cache in EVERYTHING:
            assert decode(denoiser, prompts, policy, replace(settings, cache=cache)) == expected


@pytest.mark.each_value
@pytest.mark.parametrize("name", BLOCK_CAUSAL)
@pytest.mark.parametrize("window", ["full", "truncated"])
@pytest.mark.parametrize("rule", ["threshold:0.1", "remdm", "rho_eos"])
def test_exact_believes_what_the_whole_forward_does(
    folders: dict[str, Path], name: str, window: Any, rule: str
) -> None:
    denoiser, policy = load(folders, name), make_rule(rule)
    asked = policy.features | {"token_probability", "top_probability", "changed"}
    settings = DecodingSettings(16, 4, features=asked, window=window, early_end=False)
    encoded = [denoiser.encode_prompt(text * 9) for text in PROMPTS]  # more than a block of 32
    plain = DecodingBatch(denoiser, len(PROMPTS), settings)
    cached = DecodingBatch(denoiser, len(PROMPTS), replace(settings, cache="exact"))
    for batch in (plain, cached):
        batch.load(range(len(PROMPTS)), encoded)
    policy = policy.bind(denoiser, settings)
    while bool(plain.running.any()):
        expected, found = plain.forward(), cached.forward()
        assert torch.equal(found.prediction, expected.prediction)
        torch.testing.assert_close(found.confidence, expected.confidence, atol=1e-5, rtol=0)
        for reading, values in expected.features.items():
            torch.testing.assert_close(found.features[reading], values, atol=1e-5, rtol=0)
        plain.apply(policy.act(expected))
        cached.apply(policy.act(found))
    assert torch.equal(plain.buffer, cached.buffer)
    assert not bool(cached.running.any())
    assert bool((cached.token_positions < plain.token_positions).all())


@pytest.mark.each_value
@pytest.mark.parametrize(
    ("name", "cache"),
    [
        *[(name, cache) for name in ("llada", "dream") for cache in APPROXIMATE],
        *[("fast_dllm_v2", cache) for cache in ("dual", "exact")],
    ],
)
@pytest.mark.parametrize("rule", ["threshold:0.2", "remdm", "klass:0.3", "random:2"])
def test_a_row_decodes_the_same_alone_in_any_batch_and_in_any_order(
    folders: dict[str, Path], cache: str, name: str, rule: str
) -> None:
    denoiser, policy = load(folders, name), make_rule(rule)
    settings = DecodingSettings(8, 4, 0.5, policy.features, cache=cache)
    alone = decode(denoiser, PROMPTS, policy, settings, batch_size=1)
    assert decode(denoiser, PROMPTS, policy, settings, batch_size=len(PROMPTS)) == alone
    assert decode(denoiser, PROMPTS[::-1], policy, settings, batch_size=3) == alone[::-1]


@pytest.mark.parametrize("cache", ["dual", "dkv", "exact", "d2cache:masks=2"])
def test_a_batch_goes_on_from_its_state(folders: dict[str, Path], cache: str) -> None:
    denoiser, policy = load(folders, "fast_dllm_v2"), make_rule("klass:0.2")
    settings = DecodingSettings(16, 4, 1.0, policy.features, cache=cache)
    batch, other = DecodingBatch(denoiser, 3, settings), DecodingBatch(denoiser, 3, settings)
    batch.load(range(3), [denoiser.encode_prompt(text) for text in PROMPTS[:3]])
    other.load_state(batch.state())  # before anything is kept
    plain = DecodingBatch(denoiser, 3, replace(settings, cache="none"))
    for taker, giver, told in ((plain, batch, "a cache: this one has no"), (batch, plain, "no cache: this one has a")):
        with pytest.raises(ValueError, match=f"state is of a batch with {told} cache"):
            taker.load_state(giver.state())
    for _ in range(5):
        batch.apply(policy.act(batch.forward()))
    other.load_state(batch.state())
    while bool(batch.running.any()):
        one, two = batch.forward(), other.forward()
        assert all(same_row(one, row, two, row) for row in range(3))
        batch.apply(policy.act(one))
        other.apply(policy.act(two))
    assert batch.counters()["token_positions"].tolist() == other.counters()["token_positions"].tolist()


# Against a decoder that is written out.


class Plain:
    """A Llama or Qwen2 that computes some positions of one text; it keeps each layer's keys and values in a dict."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.kept: list[dict[int, tuple[Tensor, Tensor]]] = [{} for _ in model.model.layers]

    @torch.inference_mode()
    def logits(self, tokens: list[int], positions: list[int], shown: list[int] | None = None) -> dict[int, Tensor]:
        """Compute these positions, each of which sees all that are shown, the whole text or some; all were computed."""
        config, core = self.model.config, self.model.model
        heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        group = heads // config.num_key_value_heads
        hidden = core.embed_tokens(torch.tensor([tokens[position] for position in positions], device=places.here))
        angles = torch.tensor(positions, device=places.here).unsqueeze(1) * core.rotary_emb.inv_freq
        cos, sin = torch.cat([angles, angles], 1).cos(), torch.cat([angles, angles], 1).sin()

        def turned(x: Tensor) -> Tensor:  # (S, heads, width)
            first, second = x.chunk(2, -1)
            return x * cos.unsqueeze(1) + torch.cat([-second, first], -1) * sin.unsqueeze(1)

        for kept, layer in zip(self.kept, core.layers, strict=True):
            normed, attention = layer.input_layernorm(hidden), layer.self_attn
            query = turned(attention.q_proj(normed).view(len(positions), heads, width))
            key = turned(attention.k_proj(normed).view(len(positions), -1, width))
            value = attention.v_proj(normed).view(len(positions), -1, width)
            for i, position in enumerate(positions):
                kept[position] = (key[i], value[i])
            everywhere = range(len(tokens)) if shown is None else shown
            keys = torch.stack([kept[position][0] for position in everywhere]).repeat_interleave(group, 1)
            values = torch.stack([kept[position][1] for position in everywhere]).repeat_interleave(group, 1)
            weights = (torch.einsum("shd,thd->hst", query, keys) / width**0.5).softmax(-1)
            seen = torch.einsum("hst,thd->shd", weights, values).flatten(1)
            hidden = hidden + attention.o_proj(seen)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        answers = self.model.lm_head(core.norm(hidden))
        return dict(zip(positions, answers, strict=True))


def write_sure(
    text: list[int], answers: dict[int, Tensor], places: list[int], denoiser: MaskedLMDenoiser, threshold: float
) -> list[int]:
    """Write the predictions that reach a threshold, or the best one; returns where."""
    believed: dict[int, tuple[float, int]] = {}
    for i in places:
        scores = answers[i - denoiser.logit_shift].clone()
        scores[denoiser.mask_id] = -torch.inf
        best, token = scores.softmax(-1).max(-1)
        believed[i] = (float(best), int(token))
    fresh = [i for i, (best, _) in believed.items() if best >= threshold]
    fresh = fresh or [max(believed, key=lambda i: (believed[i][0], -i))]
    for i in fresh:
        text[i] = believed[i][1]
    return fresh


def written_out(
    denoiser: MaskedLMDenoiser,
    asked: list[int],
    moments: Callable[[int, int, range, list[int], list[int]], list[int]],
    threshold: float,
) -> tuple[list[int], int, int]:
    """Decode 8 positions in blocks of 4 with a threshold; ``moments`` says what each forward computes.

    Returns:
        The tokens, the forwards and the positions computed.
    """
    mask = denoiser.mask_id
    text, plain = [*asked, *[mask] * 8], Plain(denoiser.model)
    forwards = count = 0
    fresh: list[int] = []  # committed by the last step
    for start in (len(asked), len(asked) + 4):
        block, step = range(start, start + 4), 0
        while mask in text[start : start + 4]:
            masks = [i for i, token in enumerate(text) if token == mask]
            positions = moments(step, forwards, block, masks, fresh)
            answers = plain.logits(text, positions)
            forwards, count, step = forwards + 1, count + len(positions), step + 1
            fresh = write_sure(text, answers, [i for i in block if text[i] == mask], denoiser, threshold)
    return text[len(asked) :], forwards, count


@pytest.mark.each_value
@pytest.mark.parametrize("name", ["llada", "dream"])
@pytest.mark.parametrize("threshold", [0.15, 2.0])
@pytest.mark.parametrize("cache", ["prefix", "dual", "dual:refresh=2", "dkv:refresh=3", "freecache:piece=2"])
def test_a_cache_decodes_as_the_loop_written_out(
    folders: dict[str, Path], name: str, threshold: float, cache: str
) -> None:
    denoiser = load(folders, name)
    for text in PROMPTS:
        tokens = denoiser.encode_prompt(text)
        everything = list(range(len(tokens) + 8))

        def moments(
            step: int, forwards: int, block: range, masks: list[int], fresh: list[int], everything: Any = everything
        ) -> list[int]:
            if cache == "prefix":
                is_full, chosen = step == 0, {*everything[block.start :]}
            elif cache == "dual":
                is_full, chosen = step == 0, {*block}
            elif cache == "dual:refresh=2":
                is_full, chosen = step % 2 == 0, {*block}
            elif cache == "freecache:piece=2":
                first = len(everything) - 8 + (masks[0] - len(everything) + 8) // 2 * 2
                is_full, chosen = forwards == 0, {*everything[first:], *fresh}
            else:
                is_full, chosen = forwards % 3 == 0, {*masks, *fresh}
            if is_full:
                return everything
            asked = {i - denoiser.logit_shift for i in chosen if i in masks}
            return sorted(chosen | asked)

        settings = DecodingSettings(8, 4, early_end=False, cache=cache)
        rule = "low_confidence:1" if threshold > 1 else f"threshold:{threshold}"
        [found] = decode(denoiser, [text], make_rule(rule), settings)
        assert (found.tokens, found.nfe, found.token_positions) == written_out(denoiser, tokens, moments, threshold)


@pytest.mark.parametrize("name", ["llada", "dream"])
@pytest.mark.parametrize("cache", ["prefix", "dual", "dkv:refresh=0", "freecache:piece=2"])
def test_refreshes_decode_as_the_loop_written_out(folders: dict[str, Path], name: str, cache: str) -> None:
    """The forwards with the numbers 2 and 5, from 0, are asked for and compute everything."""
    denoiser, policy = load(folders, name), Asking("low_confidence:1", after(2, 5))
    for text in PROMPTS[:3]:
        tokens = denoiser.encode_prompt(text)
        everything = list(range(len(tokens) + 8))

        def moments(
            step: int, forwards: int, block: range, masks: list[int], fresh: list[int], everything: Any = everything
        ) -> list[int]:
            if forwards in (0, 2, 5) or (step == 0 and cache in ("prefix", "dual")):
                return everything
            if cache == "freecache:piece=2":
                first = len(everything) - 8 + (masks[0] - len(everything) + 8) // 2 * 2
                chosen = {*everything[first:], *fresh}
            else:
                chosen = {"prefix": {*everything[block.start :]}, "dual": {*block}}.get(cache, {*masks, *fresh})
            return sorted(chosen | {i - denoiser.logit_shift for i in chosen if i in masks})

        [found] = decode(denoiser, [text], policy, DecodingSettings(8, 4, early_end=False, cache=cache))
        assert (found.tokens, found.nfe, found.token_positions) == written_out(denoiser, tokens, moments, 2.0)


def window_written_out(
    denoiser: MaskedLMDenoiser, asked: list[int], length: int, knobs: tuple[int, int, int], threshold: float
) -> tuple[list[int], int, int]:
    """Decode without blocks under Window-Diffusion's cache; returns the tokens, the forwards and the positions."""
    window, active, refresh = knobs
    mask, shift = denoiser.mask_id, denoiser.logit_shift
    text, plain = [*asked, *[mask] * length], Plain(denoiser.model)
    forwards = count = 0
    in_window: list[int] = []
    lately: list[int] = []  # committed since the phase began
    ever_shown: set[int] = set()
    while mask in text:
        masks = [i for i, token in enumerate(text) if token == mask]
        known = [i for i, token in enumerate(text) if token != mask]
        near = masks[:active]
        if forwards % refresh == 0:
            in_window, lately = masks[:window], []
        shown = sorted({*known, *near, *[i for i in in_window if i in masks]})
        if forwards % refresh == 0:
            positions = shown
        else:
            needed = {*near, *lately, *[i for i in shown if i not in ever_shown]}
            positions = sorted(needed | {i - shift for i in needed if i in masks})
        ever_shown |= {*shown}
        answers = plain.logits(text, positions, shown)
        forwards, count = forwards + 1, count + len(positions)
        lately += write_sure(text, answers, near, denoiser, threshold)
    return text[len(asked) :], forwards, count


@pytest.mark.parametrize("name", ["llada", "dream"])
@pytest.mark.parametrize("threshold", [0.15, 2.0])
@pytest.mark.parametrize("knobs", [(6, 3, 3), (4, 4, 2), (3, 1, 4), (16, 2, 5)])
def test_window_decodes_as_the_loop_written_out(
    folders: dict[str, Path], name: str, threshold: float, knobs: tuple[int, int, int]
) -> None:
    denoiser = load(folders, name)
    window, active, refresh = knobs
    cache = f"window:window={window},active={active},refresh={refresh}"
    settings = DecodingSettings(12, early_end=False, cache=cache)
    rule = "low_confidence:1" if threshold > 1 else f"threshold:{threshold}"
    for text in PROMPTS[::2]:
        [found] = decode(denoiser, [text], make_rule(rule), settings)
        expected = window_written_out(denoiser, denoiser.encode_prompt(text), 12, knobs, threshold)
        assert (found.tokens, found.nfe, found.token_positions) == expected


def test_masks_behind_the_window_are_not_there(folders: dict[str, Path]) -> None:
    """What stands behind the window can't change a belief, and is neither believed nor committed."""
    settings = DecodingSettings(8, cache="window:window=4,active=2", early_end=False)
    batch = DecodingBatch(load(folders, "llada"), 1, settings)
    batch.load([0], [[5] * 3])
    view = batch.forward()
    assert view.masked.tolist() == [[True] * 8]
    assert view.eligible.tolist() == [[True] * 2 + [False] * 6]
    assert (view.confidence > 0).tolist() == [[True] * 4 + [False] * 4]
    assert view.prediction[0, 4:].tolist() == [batch.denoiser.mask_id] * 4
    # A text of as many masks as the window holds believes the same.
    short = DecodingBatch(batch.denoiser, 1, replace(settings, buffer_length=4))
    short.load([0], [[5] * 3])
    torch.testing.assert_close(short.forward().confidence[0], view.confidence[0, :4])
    # Whatever a policy wants, and however it says so.
    everywhere = torch.ones_like(view.masked)
    batch.apply(Action(everywhere, scope=everywhere))
    assert batch.masked.tolist() == [[False] * 2 + [True] * 6]
    batch.forward()
    batch.apply(Action(~everywhere))
    assert int(batch.masked.sum()) == 5


def test_a_given_text_behind_the_window_is_seen(folders: dict[str, Path]) -> None:
    """Far masks are left out, not what is known after them."""
    denoiser, mask = load(folders, "llada"), load(folders, "llada").mask_id
    settings = DecodingSettings(8, cache="window:window=2,active=1", early_end=False)
    found = []
    for last in (6, 7):
        batch = DecodingBatch(denoiser, 1, settings)
        batch.load([0], [[5] * 3], given=[[mask] * 7 + [last]])
        found.append(batch.forward())
        assert batch.token_positions.tolist() == [3 + 2 + 1]
    assert (found[0].confidence[0, :2] != found[1].confidence[0, :2]).all()
    assert found[0].confidence[0].tolist()[2:] == [0, 0, 0, 0, 0, 1]


# d2Cache's choice.


def moment(text: str, confidence: list[float], start: int, end: int, step: int = 1) -> Moment:
    """Return a row: `p` prompt, `.` a mask, `x` known, `n` just committed; confidences of its masks, in order."""
    row = list(text)
    masked = torch.tensor([[sign == "." for sign in row]])
    values = torch.zeros(1, len(row))
    values[masked] = torch.tensor(confidence)
    about = {"prompt": row.count("p"), "start": start, "end": end, "block_step": step, "step": step, "since": step}
    return Moment(
        stale=torch.tensor([[sign == "n" or step == 0 for sign in row]]),
        present=torch.ones_like(masked),
        masked=masked,
        commit_step=torch.zeros_like(masked).long(),
        own_block=torch.zeros_like(masked).long(),
        logit_shift=0,
        confidence=values,
        **{name: torch.tensor([value]) for name, value in about.items()},
    )


def chosen(cache: str, at: Moment) -> str:
    return signs(make_cache(cache).compute(at))


def forwarded(cache: str, at: Moment) -> str:
    """What `CachedForward.run` computes: whatever is stale, and what the cache says."""
    return signs(at.asking(at.stale) | make_cache(cache).compute(at))


def signs(computed: Tensor) -> str:
    [row] = computed.tolist()
    return "".join("#" if is_computed else "-" for is_computed in row)


def test_d2cache_computes_the_masks_that_are_next_by_hand() -> None:
    # Of equally confident masks those next to what is known; the newest token; nothing of later blocks.
    at = moment("ppxn.....xx....", [0.5] * 9, 2, 11)
    assert chosen("d2cache:masks=2,sigma=1,gap=0", at) == "---##---#------"
    # Seen from farther, all that lies before counts for more than the two known ones after.
    assert chosen("d2cache:masks=2,gap=0", at) == "---###---------"
    # A mask far from everything is computed if it is sure enough.
    sure = moment("ppxn.....xx....", [0.1, 0.1, 0.9, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9], 2, 11)
    assert chosen("d2cache:masks=1,gap=0", sure) == "---#--#--------"
    # Gaps between computed positions, at most two apart, are filled.
    assert chosen("d2cache:masks=1,gap=3", sure) == "---####--------"
    assert chosen("d2cache:masks=1,gap=2", sure) == "---#--#--------"
    # Before the first and behind the last there is no gap, however far it may reach.
    assert chosen("d2cache:masks=1,gap=1000", sure) == "---####--------"
    # The block's masks first, then those of later blocks, up to the end of the block with the fourth mask.
    later = moment("ppx...xx........", [0.1, 0.1, 0.1, *[0.9] * 8], 2, 6)
    assert chosen("d2cache:masks=4,gap=0", later) == "---###--#-------"
    assert chosen("d2cache:masks=3,gap=0", later) == "---###----------"
    # A row's first forward computes everything.
    assert forwarded("d2cache:masks=1", moment("pp....", [0.0] * 4, 2, 6, step=0)) == "######"


def test_certainty_density_is_the_gaussian_share_of_what_is_known() -> None:
    at = moment("px.x..", [0.0] * 3, 1, 6)
    cache = make_cache("d2cache:sigma=1")
    assert isinstance(cache, D2Cache)
    weight = {d: math.exp(-(d**2) / 2) for d in range(-5, 6)}
    known = {0, 1, 3}
    for place, found in enumerate(cache.density(at)[0].tolist()):
        # All before the text is known; what follows it is as its last position, a mask.
        total = sum(w for d, w in weight.items() if place + d < 0 or place + d in known)
        assert found == pytest.approx(total / sum(weight.values()))


def test_freecache_computes_from_the_first_piece_with_a_mask_on() -> None:
    assert chosen("freecache:piece=1", moment("ppxxn...", [0.5] * 3, 2, 8)) == "-----###"
    assert chosen("freecache:piece=2", moment("ppxxn...", [0.5] * 3, 2, 8)) == "----####"
    assert chosen("freecache:piece=2", moment("ppx.x.xx", [0.5] * 2, 2, 8)) == "--######"
    assert chosen("freecache:piece=4", moment("ppxxxxx.", [0.5], 2, 8)) == "------##"
    assert forwarded("freecache", moment("pp....", [0.0] * 4, 2, 6, step=0)) == "######"


# The parts.


def test_keys_and_values_are_kept_by_position() -> None:
    kept = KeyValues(3)
    kept.place(torch.tensor([0, 2]), torch.tensor([[0, 1], [-1, 1]]), 2)
    keys = torch.tensor([[[[1.0], [2.0]]], [[[9.0], [3.0]]]])  # (rows, heads, positions, width)
    seen, values = kept.update(keys, -keys, 0)
    assert seen.flatten(1).tolist() == [[1, 2], [0, 3]]
    assert values.flatten(1).tolist() == [[-1, -2], [0, -3]]
    kept.place(torch.arange(3), torch.tensor([[2], [0], [0]]), 3)
    seen, _ = kept.update(torch.tensor([4.0, 5.0, 6.0]).view(3, 1, 1, 1), torch.zeros(3, 1, 1, 1), 0)
    assert seen.flatten(1).tolist() == [[1, 2, 4], [5, 0, 0], [6, 3, 0]]
    assert kept.get_seq_length() == 0


def test_noise_of_chosen_positions_is_that_of_the_whole_draw() -> None:
    keys, steps = torch.tensor([3, 4]), torch.tensor([1, 2])
    place = torch.tensor([[2, 0], [1, 4]])
    whole = gumbel(keys, steps, (5, 7))
    expected = whole.gather(1, place.unsqueeze(-1).expand(-1, -1, 7))
    assert torch.equal(gumbel(keys, steps, (2, 7), skip=place * 7), expected)


@pytest.mark.parametrize(
    "text",
    [
        "none",
        "prefix",
        "prefix:refresh=4",
        "dual",
        "dual:refresh=8",
        "exact",
        "dkv",
        "freecache:piece=1",
        "d2cache:gap=0",
        "window:window=32,active=8",
    ],
)
def test_a_name_is_read_back(text: str) -> None:
    assert make_cache(text).name == text


def test_a_default_is_not_written() -> None:
    assert make_cache("dual:refresh=0").name == "dual"
    assert make_cache("dkv: refresh = 8").name == "dkv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("duel", "cache is 'duel': did you mean dual?"),
        ("lru", "cache is 'lru': choose from none, prefix, dual, exact, dkv, d2cache, freecache, window"),
        ("dual:every=8", "cache is 'dual:every=8': choose from refresh, fresh_prompt"),
        ("exact:refresh=8", "cache is 'exact:refresh=8': exact has no knobs, leave out all but the name"),
        ("dual:refresh=x", "cache is 'dual:refresh=x': refresh is 'x', and must be a whole number, written"),
        ("dual:fresh_prompt=-1", "fresh_prompt is '-1', and must be a whole number, written in digits"),
        ("dual:refresh=٣", "refresh is '٣', and must be a whole number, written in digits"),
        ("dual:refresh", "cache is 'dual:refresh': refresh has no value; write refresh=VALUE"),
        ("dual:8", "cache is 'dual:8': write KNOB=VALUE, such as refresh=8; choose from refresh, fresh_prompt"),
        ("dual:refresh=8,", "nothing stands behind a colon or comma; leave that out, or write KNOB=VALUE"),
        ("dual:refresh=99999999999", "dual's refresh is 99999999999: it must be 0 to 2,147,483,647"),
        # A Gaussian that is written out is as much memory.
        ("d2cache:sigma=100000000", "d2cache's sigma is 100000000: it must be 1 to 1,000"),
        (
            "window:window=8",
            "window's active is 16 and window 8: what is active lies in the window, so give an active of 1",
        ),
        ("dual:", "nothing stands behind a colon or comma"),
        ("dual:refresh=1,refresh=2", "refresh is given twice"),
        ("freecache:piece=0", "freecache's piece is 0: it must be a whole number of 1 or more"),
        ("d2cache:sigma=0", "d2cache's sigma is 0: it must be 1 to 1,000"),
        (None, "cache is None: write its name, one of none, prefix, dual, exact, dkv, d2cache, freecache, window"),
        ("window:active=65", "window's active is 65 and window 64: what is active lies in the window"),
    ],
)
def test_impossible_caches_are_refused(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DecodingSettings(8, cache=text)


def test_what_a_cache_cannot_give_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    denoiser = load(folders, "llada")
    with pytest.raises(ValueError, match="cache is 'dual' and features hold leave_one_out: its shadow block"):
        DecodingSettings(8, cache="dual", features=make_rule("wino").features)
    with pytest.raises(ValueError, match="cache is 'dual' and features hold attention: a forward of some positions"):
        DecodingSettings(8, cache="dual", features=make_rule("dawn").features)
    for rule in ("freedave", "info_gain", "punt"):
        policy = make_rule(rule)
        settings = DecodingSettings(8, 4, features=policy.features, cache="dual")
        with pytest.raises(ValueError, match=r"cache is 'dual', but .* drafts, which would need keys and values"):
            decode(denoiser, PROMPTS, policy, settings)
        # A policy that doesn't say that it drafts is found out.
        batch = DecodingBatch(denoiser, 1, settings)
        batch.load([0], [[5] * 3])
        with pytest.raises(ValueError, match="cache is 'dual' and the policy drafts"):
            batch.apply(policy.bind(denoiser, settings).act(batch.forward()))
    with pytest.raises(ValueError, match="cache is 'exact': it is for block-causal dLLMs"):
        DecodingBatch(denoiser, 1, DecodingSettings(8, cache="exact"))
    with pytest.raises(ValueError, match="cache is 'dkv': this dLLM keeps no keys and values"):
        DecodingBatch(load_denoiser("toy", str(places.here)), 1, DecodingSettings(8, cache="dkv"))
    near = load_denoiser(str(build("modernbert", tmp_path / "modernbert")), chat_template=False)
    with pytest.raises(ValueError, match="can't keep keys and values, as its class in transformers"):
        DecodingBatch(near, 1, DecodingSettings(8, cache="dual"))


def test_the_table_names_every_cache_with_its_knobs_and_source() -> None:
    # The page's first table; those of later sections are of other things.
    table = (ROOT / "docs" / "caches.md").read_text().partition("## What becomes stale")[0]
    rows = {row.split("`")[1]: row.split("|")[1:-1] for row in table.splitlines() if row.startswith("| `")}
    assert list(rows) == list(CACHES)
    for name, cls in CACHES.items():
        knobs = {knob.name: str(knob.default) for knob in fields(cls)}
        assert dict(re.findall(r"`(\w+)` (\d+)", rows[name][2])) == knobs
        for paper in re.findall(r"\d{4}\.\d{5}", rows[name][3]):
            assert paper in (cls.__doc__ or "")
        assert name == "none" or "arXiv" in rows[name][3]


# Everywhere.


def test_generation_the_env_evaluation_and_training_take_a_cache(tmp_path: Path) -> None:
    denoiser, rule = load_denoiser("tiny", str(places.here)), make_rule("low_confidence:1")
    assert isinstance(denoiser, MaskedLMDenoiser)
    asked = prompt("sort", "d b c a")
    shape: dict[str, Any] = {"buffer_length": 8, "block_length": 4, "early_end": False}
    [cached] = decode(denoiser, [asked], rule, DecodingSettings(**shape, cache="dual"))
    assert generate(denoiser.model, denoiser.tokenizer, [asked], rule, **shape, cache="dual") == [cached]
    whole = len(denoiser.encode_prompt(asked)) + 8
    assert cached.token_positions == 2 * (whole + 3 * 4)

    env = UnmaskingVectorEnv(1, denoiser="tiny", tasks="sort", **shape, cache="dual")
    env.reset(seed=0)
    infos: dict[str, Any] = {}
    for _ in range(8):
        *_, infos = env.step(np.zeros((1, 8), dtype=np.int8))
    assert infos["final_info"]["token_positions"].tolist() == [2 * (whole + 3 * 4)]

    config = EvaluateConfig(
        ["low_confidence:1"], tmp_path, tasks=["sort"], episodes=1, buffer_length=8, early_end=False, cache="dual"
    )
    records = main(replace(config, block_length=[4]))
    assert [(one["cache"], one["token_positions"]) for one in records] == [("dual", 2 * (whole + 3 * 4))] * 2
    assert read_records(tmp_path) == records
    with pytest.raises(ValueError, match="cache is 'dual', but freedave:4 drafts, which would need keys and values"):
        main(replace(config, policy=["freedave"]))
    job = JobConfig(env=EnvConfig(cache="dual"))
    assert evaluation_of(job, "policy").cache == "dual"
    with pytest.raises(ValueError, match="cache is 'duel': did you mean dual"):
        JobConfig(env=EnvConfig(cache="duel"))
