"""Policies that commit in blocks to come too."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import places
import pytest
import torch
from checkpoints import build
from folder_edits import edit
from networks import perturbed
from views import make_view

from envs.decoding.settings import DecodingSettings
from envs.models.load import load_denoiser
from envs.models.toy import ToyDenoiser
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, load, save
from policies.formats.ml_rl_dllm import write_checkpoint
from policies.generation import decode
from policies.networks.dit import DiTConfig, DiTNetwork
from train.evaluation.jobs import plan
from train.evaluation.naming import split_setting

RULE = UnmaskingNetwork(NetworkConfig(init="threshold", threshold=0.7))
"""Untrained, it is the 0.7-threshold rule."""

PROMPTS = ["a" * size for size in (3, 4, 5, 6, 9)]


@pytest.mark.parametrize(
    ("ahead", "commit"),
    [
        (0, ".x......"),
        # Position 3 was computed before, and 4 was never shown.
        (1, ".xx....."),
        (2, ".xx..x.."),
        (3, ".xx..x.x"),
        (9, ".xx..x.x"),
    ],
)
def test_it_commits_what_the_last_forward_knows_of_blocks_to_come(ahead: int, commit: str) -> None:
    view = make_view([[0.2, 0.9, 0.8, 0.9, 0.0, 0.9, 0.6, 0.9]], block=(0, 2))
    age = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]], device=places.here)
    policy = LearnedPolicy(RULE, ahead=ahead)
    action = policy.act(replace(view, features={"age": age}))
    assert "".join("x" if chosen else "." for chosen in action.commit[0].tolist()) == commit
    assert (policy.features == {"age"}) is (ahead > 0)
    # The env's action is of the block alone, whatever is ahead.
    assert policy.select(replace(view, features={"age": age})).tolist() == [[False, True] + 6 * [False]]


def test_where_nothing_is_sure_the_surest_of_all_that_may_be_is_committed() -> None:
    view = make_view([[0.2, 0.3, 0.1, 0.4], [0.2, 0.3, 0.1, 0.4]], ["xxxx", "..xx"], block=(0, 2))
    view = replace(view, features={"age": torch.zeros(2, 4, device=places.here)})
    assert LearnedPolicy(RULE, ahead=1).act(view).commit.int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]


@pytest.mark.parametrize("decision", ["deterministic", "sample"])
def test_with_all_blocks_ahead_it_decodes_as_in_full_diffusion(toy: ToyDenoiser, decision: Any) -> None:
    policy = LearnedPolicy(perturbed(NetworkConfig(hidden_size=16, init="random"), 0.2), decision)
    wide = policy.changed(ahead=3)
    prompts = ["copy : d a c b", "reverse : a b", "sort : c a b"]
    full = decode(toy, prompts, policy, DecodingSettings(16, features=policy.features))
    blocks = DecodingSettings(16, 4, features=wide.features)
    assert decode(toy, prompts, wide, blocks) == full
    assert decode(toy, prompts, policy, blocks) != full


@pytest.mark.parametrize("cache", ["none", "prefix", "dual", "dual:fresh_prompt=1", "dkv:refresh=2"])
def test_a_row_decodes_the_same_alone_in_any_batch_and_in_any_order(tmp_path: Path, cache: str) -> None:
    denoiser = load_denoiser(str(build("llada", tmp_path)), str(places.here), family="llada", chat_template=False)
    policy = LearnedPolicy(perturbed(NetworkConfig(hidden_size=16, threshold=0.5), 0.5), ahead=1)
    settings = DecodingSettings(12, 4, 0.5, policy.features, cache=cache, early_end=False)
    alone = decode(denoiser, PROMPTS, policy, settings, batch_size=1)
    assert decode(denoiser, PROMPTS, policy, settings, batch_size=5) == alone
    assert decode(denoiser, PROMPTS[::-1], policy, settings, batch_size=2) == alone[::-1]


def test_it_is_saved_set_and_named(tmp_path: Path) -> None:
    saved = save(LearnedPolicy(RULE, ahead=2), tmp_path / "policy")
    assert load(saved).ahead == 2
    assert load(saved, ahead=0).ahead == 0
    edit(ahead=...)(saved)
    assert load(saved).ahead == 0  # as it was saved before there was such a thing
    assert split_setting(f"{saved}@0.8,ahead=1") == (str(saved), {"threshold": 0.8, "ahead": 1.0})
    [job] = plan([f"{saved}@0.8,ahead=1"], [8])
    made = job.make()
    assert isinstance(made, LearnedPolicy)
    assert (job.name, job.decision, made.ahead, made.threshold) == (
        "learned@0.8,ahead=1",
        "deterministic",
        1,
        0.8,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@ahead=0.5", "ahead is 0.5: it must be a whole number of blocks, 0 to 1,048,576"),
        ("@ahead=-1", "ahead is -1.0: it must be a whole number"),
        ("@ahead=inf", "ahead is inf: it must be a whole number"),
        ("@ahead=1,ahead=2", "ahead is set twice, say it once"),
        ("@ahead=1,0.8,0.9", "threshold is set twice, say it once"),
        ("@ahead=1,", "write a number after the @"),
        (
            "@ahead=1,far=2",
            "'far' can't be set; choose from speed, accuracy_target, nfe_target, beta, temperature, ahead",
        ),
    ],
)
def test_what_can_not_be_set_is_named(tmp_path: Path, text: str, message: str) -> None:
    saved = save(LearnedPolicy(RULE), tmp_path / "policy")
    with pytest.raises(ValueError, match=re.escape(message)):
        plan([f"{saved}{text}"], [8])


def test_what_has_no_blocks_to_come_is_refused(tmp_path: Path) -> None:
    local = UnmaskingNetwork(NetworkConfig(context="block"))
    with pytest.raises(ValueError, match=r"ahead is 1, but the policy sees the current block alone"):
        LearnedPolicy(local, ahead=1)
    theirs = LearnedPolicy(DiTNetwork(DiTConfig(hidden_size=16, feedforward_size=8)), "sample", ahead=1)
    with pytest.raises(ValueError, match=r"ahead 1: ml-rl-dllm commits in the current block alone"):
        write_checkpoint(theirs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
