"""Blocks after the current one whose masks may be committed too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import places
import pytest
import torch
from checkpoints import build
from networks import perturbed
from views import make_view

from envs import UnmaskingEnv, UnmaskingVectorEnv
from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.models.load import load_denoiser
from envs.models.toy import ToyDenoiser
from envs.view import Action
from policies import LearnedPolicy, NetworkConfig, make_rule
from policies.generation import decode
from policies.networks.block_filter import BlockFilter, BlockFilterConfig

PROMPTS = ["a" * size for size in (3, 4, 5, 6, 9)]


@pytest.fixture
def llada(tmp_path: Path) -> Denoiser:
    return load_denoiser(str(build("llada", tmp_path)), str(places.here), family="llada", chat_template=False)


def eligible(batch: DecodingBatch) -> list[str]:
    return ["".join("x" if may else "." for may in row) for row in batch.view.eligible.tolist()]


def commit(batch: DecodingBatch, *rows: str) -> None:
    bits = [[cell == "x" for cell in row] for row in rows]
    batch.apply(Action(torch.tensor(bits, device=batch.masked.device)))
    batch.forward()


def loaded(denoiser: Denoiser, **about: Any) -> DecodingBatch:
    batch = DecodingBatch(denoiser, 1, DecodingSettings(8, 2, early_end=False, **about))
    batch.load([0], [denoiser.encode_prompt("aaaa")])
    batch.forward()
    return batch


def test_masks_of_blocks_ahead_are_eligible(toy: ToyDenoiser) -> None:
    batch = loaded(toy, blocks_ahead=1)
    assert eligible(batch) == ["xxxx...."]
    commit(batch, "x.x..x..")  # the last lies beyond what may be
    assert eligible(batch) == [".x.x...."]
    assert batch.masked.tolist() == [[False, True, False, True, True, True, True, True]]
    # The block moves on once it is done, and so does what is ahead of it.
    commit(batch, ".x......")
    assert eligible(batch) == ["...xxx.."]
    # A block that was done ahead of time is passed over.
    commit(batch, "...xxx..")
    assert eligible(batch) == ["......xx"]


def test_none_ahead_is_the_block_alone(toy: ToyDenoiser) -> None:
    batch = loaded(toy)
    assert eligible(batch) == ["xx......"]
    commit(batch, "..xx....")  # nothing that may be: one of the block is forced
    assert batch.masked.sum() == 7


def test_what_a_block_causal_dllm_has_no_opinion_about_is_not_eligible(tmp_path: Path) -> None:
    sdar = load_denoiser(str(build("sdar", tmp_path)), str(places.here), family="sdar", chat_template=False)
    assert sdar.block_length == 4
    batch = DecodingBatch(sdar, 1, DecodingSettings(16, 2, early_end=False, blocks_ahead=3))
    batch.load([0], [sdar.encode_prompt("a" * 8)])
    batch.forward()
    # Of its own block of four all that is left, however many blocks of two are ahead.
    width = batch.masked.shape[1]  # whole blocks of its own
    assert eligible(batch) == ["xxxx" + (width - 4) * "."]
    batch.apply(Action(batch.view.eligible))
    assert batch.masked.nonzero()[:, 1].tolist() == list(range(4, 16))


def test_a_short_first_block_has_whole_ones_ahead(toy: ToyDenoiser) -> None:
    batch = DecodingBatch(toy, 2, DecodingSettings(12, 4, block_origin="absolute", blocks_ahead=1))
    prompts = [toy.encode_prompt("aaaa")[-1:] * size for size in (3, 5)]
    batch.load([0, 1], prompts)
    batch.forward()
    assert eligible(batch) == ["xxxxx.......", "xxxxxxx....."]


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        # Rules that keep accounts of a block decide about it alone; the others about all that is eligible.
        ("threshold:0.95", "......x."),
        ("low_confidence:1", "......x."),
        ("low_confidence:1,schedule=cosine", "...x...."),
        ("low_confidence:1,schedule=dream", "...x...."),
        ("rcr:1", "...x...."),
        ("wino:0.95", "...x...."),
        ("adablock:0.95", "...x...."),
        # What is sure ahead, or the least sure of the block.
        ("ete:0.8", "......x."),
        ("ete:0.99", "x......."),
    ],
)
def test_where_a_rule_commits(rule: str, where: str) -> None:
    view = make_view([[0.4, 0.5, 0.5, 0.6, 0.1, 0.2, 0.9, 0.3]], block=(0, 4))
    nothing = torch.zeros(1, 8, device=places.here)
    view = replace(view, eligible=view.masked, features={"leave_one_out": nothing})
    action = make_rule(rule).act(view)
    assert "".join("x" if chosen else "." for chosen in action.commit[0].tolist()) == where


def test_what_is_overdue_in_a_block_frees_that_block_alone() -> None:
    view = make_view([[0.4, 0.5, 0.5, 0.6, 0.1, 0.2, 0.9, 0.3]], block=(0, 4), block_step=[4])
    nothing = torch.zeros(1, 8, device=places.here)
    view = replace(view, eligible=view.masked, features={"is_eos": nothing})
    assert make_rule("cad:0.999").act(view).commit.int().tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]


def test_under_a_cache_only_what_the_last_forward_computed_is_eligible(llada: Denoiser) -> None:
    # At a block's start everything is computed, then the block alone.
    batch = loaded(llada, blocks_ahead=2, cache="dual")
    assert eligible(batch) == ["xxxxxx.."]
    commit(batch, "x.......")
    assert eligible(batch) == [".x......"]
    commit(batch, ".x......")
    assert eligible(batch) == ["..xxxxxx"]
    # This one computes block and suffix each time.
    batch = loaded(llada, blocks_ahead=2, cache="prefix")
    commit(batch, "x.......")
    assert eligible(batch) == [".xxxxx.."]


def test_a_rule_that_moves_the_block_is_judged_by_where_it_ends(toy: ToyDenoiser) -> None:
    batch = DecodingBatch(toy, 1, DecodingSettings(8, 4, early_end=False, blocks_ahead=1))
    batch.load([0], [toy.encode_prompt("aaaa")])
    batch.forward()
    everything = torch.ones(1, 8, dtype=torch.bool, device=places.here)
    # What the block has lost by its new end was no block ahead when the action was decided.
    batch.apply(Action(everything, block_end=torch.tensor([2], device=places.here)))
    assert batch.masked.tolist() == [[False, False, True, True, False, False, False, False]]


@pytest.mark.parametrize("decision", ["deterministic", "sample"])
def test_with_all_blocks_ahead_a_policy_decodes_as_in_full_diffusion(toy: ToyDenoiser, decision: Any) -> None:
    policy = LearnedPolicy(perturbed(NetworkConfig(hidden_size=16, init="random"), 0.2), decision)
    prompts = ["copy : d a c b", "reverse : a b", "sort : c a b"]
    full = decode(toy, prompts, policy, DecodingSettings(16))
    assert decode(toy, prompts, policy, DecodingSettings(16, 4, blocks_ahead=3)) == full
    assert decode(toy, prompts, policy, DecodingSettings(16, 4, blocks_ahead=2**20 - 1)) == full
    assert decode(toy, prompts, policy, DecodingSettings(16, 4)) != full


def test_a_threshold_ahead_is_the_rule_that_looks_ahead(llada: Denoiser) -> None:
    """`ete` commits by threshold in the next block too; where nothing passes it takes the least certain position."""
    settings = DecodingSettings(12, 4, early_end=False)
    rule, threshold = make_rule("ete:0.01"), make_rule("threshold:0.01")  # which everything passes
    expected = decode(llada, PROMPTS, rule, settings)
    assert decode(llada, PROMPTS, threshold, DecodingSettings(12, 4, early_end=False, blocks_ahead=1)) == expected
    assert decode(llada, PROMPTS, threshold, settings) != expected


@pytest.mark.parametrize(
    "cache", ["none", "prefix", "dual", "dual:fresh_prompt=1", "dkv:refresh=2", "window:window=6,active=3"]
)
def test_a_row_decodes_the_same_alone_in_any_batch_and_in_any_order(llada: Denoiser, cache: str) -> None:
    policy = LearnedPolicy(perturbed(NetworkConfig(hidden_size=16, threshold=0.5), 0.5))
    settings = DecodingSettings(12, 4, 0.5, cache=cache, early_end=False, blocks_ahead=1)
    alone = decode(llada, PROMPTS, policy, settings, batch_size=1)
    assert decode(llada, PROMPTS, policy, settings, batch_size=5) == alone
    assert decode(llada, PROMPTS[::-1], policy, settings, batch_size=2) == alone[::-1]


def test_the_env_shows_and_takes_them(toy: ToyDenoiser) -> None:
    env = UnmaskingVectorEnv(
        1, denoiser=toy, tasks="copy", buffer_length=8, block_length=4, blocks_ahead=1, early_end=False
    )
    seen, _ = env.reset(seed=0)
    assert seen["eligible"].tolist() == [[1.0] * 8]
    assert env.action_masks()[0, 1::2].tolist() == [True] * 8
    _, _, terminated, _, infos = env.step(np.ones((1, 8), dtype=np.int8))
    assert terminated.all()
    assert infos["final_info"]["nfe"].tolist() == [1]
    single = UnmaskingEnv(denoiser=toy, tasks="copy", buffer_length=8, block_length=2, blocks_ahead=2)
    assert single.reset(seed=0)[0]["eligible"].tolist() == [1.0] * 6 + [0.0] * 2


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"blocks_ahead": -1}, "blocks_ahead is -1: it must be 0 to 1,048,575"),
        ({"blocks_ahead": 2**20}, "blocks_ahead is 1048576: it must be 0 to"),
        ({"blocks_ahead": 1.0}, "blocks_ahead is 1.0: it must be a whole number"),
        ({"blocks_ahead": True}, "blocks_ahead is True: it must be a whole number"),
        ({"blocks_ahead": None}, "blocks_ahead is None: it must be"),
        ({"blocks_ahead": 1, "window": "truncated"}, "blocks_ahead is 1 and window truncated, which shows nothing"),
    ],
)
def test_what_is_not_possible_is_named(about: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecodingSettings(8, 4, **about)


def test_a_filter_of_one_block_is_refused(toy: ToyDenoiser) -> None:
    policy = LearnedPolicy(BlockFilter(BlockFilterConfig(4, 4)))
    with pytest.raises(ValueError, match=r"blocks_ahead is 1: this policy's filter sees one block alone; set it to 0"):
        decode(toy, ["copy : a b"], policy, DecodingSettings(8, 4, blocks_ahead=1))
