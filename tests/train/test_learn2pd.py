from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threads import InThreads
from torch import Tensor, nn

from envs.decoding.settings import DecodingSettings
from envs.models.toy import ToyDenoiser
from policies import NetworkConfig, UnmaskingNetwork, load
from policies.networks.block_filter import BlockFilter, BlockFilterConfig
from train.command.errors import UserError
from train.command.model_config import ModelConfig
from train.command.wandb_config import WandbConfig
from train.filters.fit import FitSettings, fit, weighted_loss
from train.filters.report import report
from train.filters.traces import Traces
from train.learn2pd import Learn2PDConfig, main


def written(folder: Path, **columns: Any) -> Traces:
    """Traces of one shard, from its columns."""
    folder.mkdir(parents=True)
    for name, values in columns.items():
        np.save(folder / f"{name}.npy", np.asarray(values, np.float32))
    return Traces([folder])


class Believing(nn.Module):
    """Says the confidence."""

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return torch.logit(inputs["confidence"])


# The loss.


@pytest.mark.parametrize("weight", [1.0, 16.0, 0.5])
def test_loss_by_hand(weight: float) -> None:
    probability = torch.tensor([[0.9, 0.2, 0.6], [0.7, 0.5, 0.99]])
    rows = {
        "eligible": torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
        "oracle": torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]),
    }
    final = -math.log(0.9) - math.log(0.6)
    other = -math.log(0.8) - math.log(0.3)
    expected = (final + weight * other) / (2 + 2 * weight)
    assert weighted_loss(torch.logit(probability), rows, weight).item() == pytest.approx(expected, rel=1e-5)


def test_what_is_not_eligible_moves_nothing() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    rows = {"eligible": torch.tensor([[1.0, 0.0, 1.0]]), "oracle": torch.tensor([[1.0, 0.0, 0.0]])}
    weighted_loss(logits, rows, 3.0).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5 / 4, 0.0, 3 * 0.5 / 4]]))


# The report.


def test_report_by_hand(tmp_path: Path) -> None:
    """Five steps; at 0.75 there are commits of 4 right and 3 wrong positions, in 2 of the steps."""
    one = written(
        tmp_path / "one",
        confidence=[[0.95, 0.96, 0.21, 0.99], [0.85, 0.86, 0.55, 0.30]],
        eligible=[[1, 1, 1, 0], [1, 1, 1, 1]],
        oracle=[[1, 1, 0, 0], [0, 0, 1, 0]],
    )
    two = written(
        tmp_path / "two",
        confidence=[[0.97, 0.45, 0.99, 0.99], [0.87, 0.90, 0.10, 0.99], [0.10, 0.50, 0.99, 0.99]],
        eligible=[[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]],
        oracle=[[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]],
    )
    found = report(Believing(), [one, two], [0.75, 0.52, 0.999])
    assert (found["positions"], found["steps"]) == (14, 5)
    high, low, none = found["thresholds"]
    assert high == {
        "threshold": 0.75,
        "precision": 4 / 7,
        "recall": 4 / 6,
        "false_commit_rate": 3 / 8,
        "wrong_steps": 2 / 5,
    }
    assert (low["precision"], low["recall"], low["false_commit_rate"], low["wrong_steps"]) == (5 / 8, 5 / 6, 3 / 8, 0.4)
    assert (none["precision"], none["recall"], none["false_commit_rate"], none["wrong_steps"]) == (0, 0, 0, 0)
    gaps = [  # of the fifteenths, from the top; 0.90 and 0.87 share one
        abs(0.95 + 0.96 + 0.97 - 3),
        abs(0.90 + 0.87 - 1),
        *(0.85 + 0.86, 1 - 0.55, 1 - 0.50, 0.45, 0.30, 0.21, 0.10 + 0.10),
    ]
    assert found["calibration_error"] == pytest.approx(sum(gaps) / 14, rel=1e-4)
    json.dumps(found)


@pytest.mark.parametrize(("share", "error"), [(0.7, 0.0), (0.4, 0.3), (1.0, 0.3)])
def test_calibration_error_of_one_probability(tmp_path: Path, share: float, error: float) -> None:
    bits = (np.arange(10) < 10 * share).astype(float).reshape(2, 5)
    traces = written(tmp_path / "t", confidence=np.full((2, 5), 0.7), eligible=np.ones((2, 5)), oracle=bits)
    assert report(Believing(), [traces], [])["calibration_error"] == pytest.approx(error, abs=1e-6)


def test_certainty_is_in_the_last_bin(tmp_path: Path) -> None:
    traces = written(tmp_path / "t", confidence=[[1.0, 0.999, 0.0]], eligible=[[1, 1, 1]], oracle=[[1, 1, 1]])
    found = report(Believing(), [traces], [0.5])
    assert found["calibration_error"] == pytest.approx((0.001 + 1) / 3, rel=1e-4)
    assert found["thresholds"][0]["recall"] == 2 / 3


# Training.

Truth = Callable[[np.ndarray], np.ndarray]


def confident(confidence: np.ndarray) -> np.ndarray:
    return confidence > 0.5


def left_is_confident(confidence: np.ndarray) -> np.ndarray:
    """What a position's own readings do not tell; the first one looks to the last."""
    return np.roll(confidence, 1, 1) > 0.5


def noisily_confident(confidence: np.ndarray) -> np.ndarray:
    """One bit in five is wrong."""
    return confident(confidence) ^ (np.random.default_rng(0).random(confidence.shape) < 0.2)


def synthetic(folder: Path, rows: int, seed: int, truth: Truth | None, length: int = 4) -> Traces:
    """Everything masked; the second half of the rows has only the right half of the positions eligible."""
    rng = np.random.default_rng(seed)
    confidence = rng.random((rows, length))
    eligible = np.ones((rows, length))
    eligible[rows // 2 :, : length // 2] = 0
    return written(
        folder,
        confidence=confidence,
        eligible=eligible,
        masked=np.ones((rows, length)),
        time=rng.random((rows, 1)),
        oracle=rng.random((rows, length)) < 0.5 if truth is None else truth(confidence) * eligible,
    )


def accuracy(network: nn.Module, traces: Traces) -> float:
    [rows] = traces.batches(10**6)
    eligible = rows["eligible"] > 0
    with torch.inference_mode():
        return float(((network(rows) > 0) == (rows["oracle"] > 0))[eligible].float().mean())


def held_out_loss(network: nn.Module, traces: Traces) -> float:
    [rows] = traces.batches(10**6)
    with torch.inference_mode():
        return float(weighted_loss(network(rows), rows))


def made(kind: str) -> UnmaskingNetwork | BlockFilter:
    torch.manual_seed(0)
    if kind == "block_filter":
        return BlockFilter(BlockFilterConfig(4))
    return UnmaskingNetwork(NetworkConfig(hidden_size=16, feedforward_size=32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "truth", "least"),
    [
        ("transformer", left_is_confident, 0.95),
        ("block_filter", left_is_confident, 0.95),
        ("block_filter", confident, 0.95),
    ],
)
def test_a_known_function_is_learned(tmp_path: Path, kind: str, truth: Truth, least: float) -> None:
    train = synthetic(tmp_path / "train", 1500, 1, truth)
    held_out = synthetic(tmp_path / "held_out", 500, 2, truth)
    network = made(kind)
    epochs, learning_rate = (8, 1e-2) if kind == "transformer" else (15, 2e-2)
    config = FitSettings(learning_rate=learning_rate, batch_size=32, epochs=epochs, patience=4)
    result = fit(network, [train], [held_out], config)
    assert accuracy(network, held_out) > least, result
    assert held_out_loss(network, held_out) == pytest.approx(result["held_out_loss"], rel=1e-5)


def test_a_weight_on_false_commits_makes_them_rarer(tmp_path: Path) -> None:
    """On bits that nothing predicts, the best answer is the share of final ones, 1 / (1 + weight)."""
    train, held_out = synthetic(tmp_path / "train", 2000, 1, None), synthetic(tmp_path / "held_out", 2000, 2, None)
    config = FitSettings(learning_rate=1e-2, batch_size=500, epochs=12, patience=3)
    [rows] = held_out.batches(10**6)
    means = []
    for weight in (1.0, 4.0):
        network = made("block_filter")
        fit(network, [train], [held_out], config, weight)
        with torch.inference_mode():
            means.append(float(network(rows).sigmoid()[rows["eligible"] > 0].mean()))
    assert means == pytest.approx([0.5, 0.2], abs=0.04)


def test_training_stops_early_and_leaves_the_best(tmp_path: Path) -> None:
    """Noise can only be learned by heart, which is worse and worse on others."""
    train = synthetic(tmp_path / "train", 96, 1, noisily_confident)
    held_out = synthetic(tmp_path / "held_out", 500, 2, noisily_confident)
    config = FitSettings(learning_rate=3e-2, batch_size=32, epochs=100, patience=6)
    network = made("block_filter")
    result = fit(network, [train], [held_out], config)
    epochs = int(result["epochs"])
    assert 7 < epochs < 60
    assert held_out_loss(network, held_out) == pytest.approx(result["held_out_loss"], rel=1e-6)
    again = made("block_filter")
    assert fit(again, [train], [held_out], replace(config, epochs=epochs - 6))["epochs"] == epochs - 6
    assert all(torch.equal(values, again.state_dict()[name]) for name, values in network.state_dict().items())
    # The best was the last of these epochs, and no later one is better.
    fewer = fit(made("block_filter"), [train], [held_out], replace(config, epochs=epochs - 7))
    more = fit(made("block_filter"), [train], [held_out], replace(config, patience=100, epochs=epochs))
    assert fewer["held_out_loss"] > result["held_out_loss"] == more["held_out_loss"]


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of each of AdamW's steps, as they are made."""
    found: list[float] = []
    step = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, *args: Any) -> Any:
        found.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    return found


def test_a_rate_that_anneals_takes_all_passes_and_leaves_the_best(tmp_path: Path, rates: list[float]) -> None:
    train = synthetic(tmp_path / "train", 96, 1, noisily_confident)
    held_out = synthetic(tmp_path / "held_out", 500, 2, noisily_confident)
    config = FitSettings(learning_rate=3e-2, batch_size=40, epochs=20, patience=1, anneals=True)
    network = made("block_filter")
    result = fit(network, [train, train], [held_out], config)
    assert result["epochs"] == 20
    assert held_out_loss(network, held_out) == pytest.approx(result["held_out_loss"], rel=1e-6)
    # Of 96 steps three batches of 40, twice; highest after a tenth, and all but 0 in the end.
    assert len(rates) == 20 * 6
    assert max(rates) == pytest.approx(3e-2)
    assert rates.index(max(rates)) == 11
    assert rates[0] < 3e-3
    assert rates[-1] < 3e-6


@pytest.mark.parametrize("batches", range(1, 14))
def test_a_rate_anneals_over_however_few_steps(tmp_path: Path, rates: list[float], batches: int) -> None:
    """Of ten steps torch's own schedule divides by zero with a rise of a tenth, and of fewer it never rises."""
    train = synthetic(tmp_path / "train", 8 * batches, 1, noisily_confident)
    config = FitSettings(learning_rate=3e-2, batch_size=8, epochs=1, anneals=True)
    fit(made("block_filter"), [train], [train], config)
    assert len(rates) == len(list(train.batches(8)))
    assert max(rates) == pytest.approx(3e-2)


@pytest.mark.slow
def test_several_traces_are_all_learned_from(tmp_path: Path) -> None:
    """One has only what is final, the other only what is not: from either alone there is nothing to tell apart."""
    parts = []
    for name, low, high in (("low", 0.0, 0.5), ("high", 0.5, 1.0)):
        rng = np.random.default_rng(0)
        confidence = rng.uniform(low, high, (1000, 4))
        ones = np.ones((1000, 4))
        bits = confidence > 0.5
        about = {"confidence": confidence, "eligible": ones, "masked": ones, "time": ones[:, :1], "oracle": bits}
        parts.append(written(tmp_path / name, **about))
    network = made("block_filter")
    config = FitSettings(learning_rate=1e-2, batch_size=64, epochs=15, patience=15)
    fit(network, parts, parts, config)
    assert min(accuracy(network, part) for part in parts) > 0.9


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"problems": 0}, "problems is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"episodes": 0}, "episodes is 0"),
        ({"block_lengths": [64, 32, 3]}, "block_length is 3"),
        ({"published_block": 48}, "published_block is 48"),
        ({"block_lengths": []}, "published_block is 32"),
        ({"workers": 0}, "workers is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"false_commit_weight": 0.0}, "false_commit_weight is 0.0"),
        ({"thresholds": [0.5, 1.0]}, "thresholds holds 1.0"),
        ({"features": ["token_probability"]}, "features hold 'token_probability'"),
        ({"tasks": ["chess"]}, "chess"),
        ({"rules": ["greedy:1"]}, "greedy"),
    ],
)
def test_impossible_configurations_are_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Learn2PDConfig(**fields)


# The whole job.

FILTERS = ("published", "transformer", "weighted", "own_states")


def without_times(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if not name.startswith("minutes")}


@pytest.mark.slow
def test_the_whole_job_on_the_toy_and_its_resumption(
    tmp_path: Path, toy: ToyDenoiser, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train.command.parallel.worker_pool", InThreads)
    out = tmp_path / "run"
    config = Learn2PDConfig(
        out=out,
        model=ModelConfig("toy"),
        tasks=["copy", "sort"],
        buffer_length=8,
        problems=36,
        block_lengths=[8, 4],
        published_block=4,
        batch_size=16,
        epochs=2,
        thresholds=[0.5, 0.9],
        episodes=3,
        rules=["threshold:0.9"],
        workers=1,
        wandb=WandbConfig(mode="disabled"),
    )
    found = main(config)
    shown = capsys.readouterr().out
    assert json.loads((out / "report.json").read_text()) == found
    assert tuple(found["filters"]) == FILTERS
    for name, measured in found["filters"].items():
        assert name in shown
        assert [row["threshold"] for row in measured["thresholds"]] == [0.5, 0.9]
        assert {row["precision"] for row in measured["thresholds"]} <= {0, 1}  # everything the toy says is final
        assert measured["epochs"] == 2
    for name in ("config.yaml", "command.txt", "versions.json", "evaluation.json", "pareto.png"):
        assert (out / name).is_file(), name
    kinds = ("train", "validation", "own")
    assert {folder.name for folder in (out / "traces").iterdir()} == {
        f"{kind}_block{b}" for kind in kinds for b in (8, 4)
    }

    # The filters.
    settings = {b: DecodingSettings(8, b, features=frozenset(config.features)) for b in (8, 4)}
    for name in FILTERS:
        policy = load(out / "filters" / name)
        assert {file.name for file in (out / "filters" / name).iterdir()} == {
            "README.md",
            "config.json",
            "model.safetensors",
        }
        assert (policy.decision, policy.threshold) == ("deterministic", 0.9)
        assert policy.trained["filter"] == name
        assert policy.trained["held_out_loss"] == found["filters"][name]["held_out_loss"]
        assert policy.features == (frozenset() if name == "published" else frozenset(config.features))
        policy.bind(toy, settings[4])
        if name != "published":
            policy.bind(toy, settings[8])
    published = load(out / "filters" / "published")
    assert published.trained["block_lengths"] == [4]
    assert isinstance(published.network, BlockFilter)
    with pytest.raises(ValueError, match="block_length is 8: this policy's filter works at 4 only"):
        published.bind(toy, settings[8])

    # The evaluation.
    records = json.loads((out / "evaluation.json").read_text())
    about = {(r["block_length"], r["policy"]) for r in records}
    learned = {(b, f"learned:{name}@{t:g}") for b in (8, 4) for name in FILTERS[1:] for t in (0.5, 0.9)}
    learned |= {(4, f"learned:published@{t:g}") for t in (0.5, 0.9)}
    assert about == learned | {(8, "threshold:0.9"), (4, "threshold:0.9")}
    assert {r["decision"] for r in records} == {"deterministic"}
    assert {r["episodes"] for r in records} == {3, 6}

    # A killed run.
    with pytest.raises(UserError, match="not empty"):
        main(config)
    kept = {str(f): f.stat().st_mtime_ns for f in (out / "traces").rglob("*.npy")}
    weights = {name: (out / "filters" / name / "model.safetensors").read_bytes() for name in FILTERS}
    (out / "evaluation.json").unlink()
    (out / "report.json").unlink()
    again = main(replace(config, resume=True))
    assert without_times(again) == without_times(found)
    assert json.loads((out / "evaluation.json").read_text()) == records
    assert {str(f): f.stat().st_mtime_ns for f in (out / "traces").rglob("*.npy")} == kept
    assert all((out / "filters" / n / "model.safetensors").read_bytes() == data for n, data in weights.items())
