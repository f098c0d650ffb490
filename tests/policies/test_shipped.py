"""The policies that ship with the embedded dLLMs."""

from __future__ import annotations

from typing import Any

import pytest

from envs.decoding.settings import DecodingSettings
from envs.denoiser import identify
from envs.models.load import load_denoiser
from envs.tasks import SUITE, make_tasks
from policies import decode, load, make_rule
from policies.formats.folder import SHIPPED
from train.evaluation.measure import evaluate


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_it_is_small_and_says_how_it_was_made(name: str) -> None:
    folder = SHIPPED[name]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2**20
    assert {file.name for file in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert load(name).trained["split"] == "train"


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_it_is_for_the_embedded_dllm(name: str) -> None:
    assert load(name).trained["dllm"] == identify(load_denoiser(name))


@pytest.mark.slow
def test_it_beats_the_threshold_rule_on_validation_problems() -> None:
    denoiser = load_denoiser("tiny")
    about = {"split": "validation", "episodes": 20}
    learned = evaluate(denoiser, load("tiny").tuned(64, accuracy_target=0.98), **about)[-1]  # type: ignore[arg-type]
    rule = evaluate(denoiser, make_rule("threshold:0.8"), **about)[-1]  # type: ignore[arg-type]
    assert learned["accuracy"] >= rule["accuracy"] - 0.02
    assert learned["nfe"] < 0.85 * rule["nfe"]


@pytest.mark.slow
def test_in_prose_it_needs_fewer_forwards_than_a_threshold_that_is_no_better() -> None:
    """On validation problems, in blocks, three quarters of them at most."""
    denoiser, about = load_denoiser("small"), {"split": "validation", "episodes": 3, "tasks": ["prose"]}
    decoding: dict[str, Any] = {"buffer_length": 128, "block_length": 32, **about}
    learned = evaluate(denoiser, load("small"), **decoding)[-1]
    rule = evaluate(denoiser, make_rule("threshold:0.9"), **decoding)[-1]
    assert learned["accuracy"] >= rule["accuracy"]
    assert learned["nfe"] < 0.75 * rule["nfe"]


@pytest.mark.slow
def test_the_calibrated_dial_is_monotone() -> None:
    policy = load("tiny")
    assert policy.calibration is not None
    nfe = [point.nfe for point in policy.calibration.monotone(64)]
    assert nfe == sorted(nfe, reverse=True)
    fastest, slowest = policy.tuned(64, speed=1.0), policy.tuned(64, speed=0.0)
    denoiser = load_denoiser("tiny")
    prompts = [task.problem("validation", index).prompt for task in make_tasks(SUITE) for index in range(10)]
    settings = DecodingSettings(features=policy.features)
    spent = [sum(done.nfe for done in decode(denoiser, prompts, p, settings)) for p in (fastest, slowest)]
    assert spent[0] <= spent[1]


@pytest.mark.parametrize("name", [None, 5, b"tiny"])
def test_a_policy_is_named_by_a_text_or_path(name: Any) -> None:
    with pytest.raises(ValueError, match=r"^policy is .*: give a folder, or the name of one that ships"):
        load(name)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000])
def test_a_name_that_is_too_long_is_no_folder(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such folder; give a folder made by training"):
        load(name)


@pytest.mark.parametrize("name", ["", ".", "..", "../networks", "tiny/../tiny", "/"])
def test_no_other_folder_of_the_package_is_taken_for_one_that_ships(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="give a folder made by training, or one of small, tiny"):
        load(name)
    with pytest.raises(FileNotFoundError, match=r"give a checkpoint folder or one of small, tiny"):
        load_denoiser(name)
