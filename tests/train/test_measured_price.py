"""The cost model that a training fits, keeps and pays by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trainings import tiny

from envs.models.load import load_denoiser
from envs.price import POSITIONS, Price
from train.job.config import EnvConfig, EvaluationConfig
from train.job.price import fit, price_of, read_price, sample_forwards, without_measurement
from train.ppo import train


def test_a_fit_by_hand() -> None:
    assert fit([[100, 12.0], [200, 14.0], [400, 18.0]], 4) == (Price(10.0, 0.02, 4), 0.0)
    # Fewer milliseconds for more positions: the forward is all there is, at the value of least relative error,
    # (1/10 + 1/9) / (1/100 + 1/81).
    price, error = fit([[100, 10.0], [200, 9.0]], 1)
    assert (price.position, price.forward) == (0.0, pytest.approx((1 / 10 + 1 / 9) / (1 / 100 + 1 / 81), rel=1e-5))
    assert error == pytest.approx(np.mean([1 - price.forward / 10, price.forward / 9 - 1]), rel=1e-4)
    # More than in proportion: nothing is paid for a forward as such.
    price, _ = fit([[100, 1.0], [200, 2.4]], 1)
    assert (price.forward, price.position) == (0.0, pytest.approx(0.0108197, rel=1e-5))


def test_fits_find_noisy_times_again() -> None:
    draw = np.random.default_rng(0)
    positions = draw.integers(10, 5000, 200)
    spent = (3.0 + 0.01 * positions) * draw.normal(1.0, 0.05, 200)
    price, error = fit(np.stack([positions, spent], 1), 8)
    assert (price.forward, price.position, price.rows) == (pytest.approx(3, rel=0.05), pytest.approx(0.01, rel=0.05), 8)
    assert error == pytest.approx(0.04, abs=0.01)


def test_the_sampled_forwards_are_those_of_the_training(tmp_path: Path) -> None:
    """With one, half and all rows; under dual a block's first forward computes everything and the others the block."""
    env = EnvConfig(num_envs=8, tasks=["sort"], buffer_length=16, block_lengths=[4], cache="dual", early_end=False)
    samples = sample_forwards(load_denoiser("tiny"), replace(tiny(tmp_path, 0), env=env))
    assert (samples[:, 1] > 0).all()
    whole = 21 + 16  # every prompt of the suite has 21 tokens
    assert {4, whole, 4 * whole, 8 * whole} <= set(samples[:, 0].tolist())
    assert all(positions % 4 == 0 or positions % whole == 0 for positions in samples[:, 0])


@pytest.mark.slow
def test_a_training_keeps_and_pays_by_what_it_measured(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run", 0)
    env = replace(config.env, cache="none", price="milliseconds", reward="forward_cost", alpha=0.05)
    config = replace(config, env=env, evaluation=EvaluationConfig(episodes=2, validations=1, validation_episodes=2))
    train(config)
    about = json.loads((tmp_path / "run" / "price.json").read_text())
    assert (about["unit"], about["rows"]) == ("milliseconds", 8)
    assert price_of(config) == Price(about["forward"], about["position"], 8)
    assert fit(about["samples"], 8)[0].forward == pytest.approx(about["forward"], rel=0.01, abs=1e-3)
    trained = json.loads((tmp_path / "run" / "policy" / "config.json").read_text())["trained"]
    assert trained["price"] == "milliseconds"
    # Gone on with, it pays what it paid.
    before = (tmp_path / "run" / "price.json").read_bytes()
    train(replace(config, resume=True))
    assert (tmp_path / "run" / "price.json").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing, which says what a forward costs here: start the training anew"),
        ("{", "can't be read"),
        ('{"forward": 1, "position": -2, "rows": 1}', "position is -2.0"),
        ('{"forward": 1, "rows": 1}', "can't be read"),
        ("[]", "can't be read"),
    ],
)
def test_damaged_measurements_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "price.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_price(tmp_path / "price.json")


def test_trials_need_no_measurement(tmp_path: Path) -> None:
    config = tiny(tmp_path, 0)
    assert without_measurement(config) is config
    timed = replace(config, env=replace(config.env, price="milliseconds"))
    assert price_of(without_measurement(timed)) == POSITIONS
