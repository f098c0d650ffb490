"""The speed dial: preferences in the env, the conditioned network, calibration, and asking for a speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from networks import perturbed
from views import random_view

from envs import UnmaskingEnv, UnmaskingVectorEnv
from envs.decoding.settings import DecodingSettings
from envs.models.toy import ToyDenoiser
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, decode, load, make_rule, save
from policies.calibration import Calibration, DialPoint
from train.evaluation.jobs import plan
from train.evaluation.naming import at_setting, split_setting


def point(speed: float, accuracy: float, nfe: float, block_length: int = 64) -> DialPoint:
    return DialPoint(block_length, speed, accuracy, (accuracy, accuracy), nfe, (nfe, nfe))


# 0.5 was measured slower than 0.25, and 1.0 as fast as 0.75 but worse.
FULL = [
    point(1.0, 0.85, 1.2),
    point(0, 0.99, 3.0),
    point(0.25, 0.97, 2.0),
    point(0.5, 0.98, 2.1),
    point(0.75, 0.9, 1.2),
]
MEASURED = Calibration([*FULL, point(0, 0.96, 4.0, 16), point(1.0, 0.8, 2.5, 16)])


@pytest.mark.parametrize(
    ("speed", "place"), [(0, 0), (0.1, 0), (0.2, 0.25), (0.25, 0.25), (0.5, 0.25), (0.6, 0.25), (0.7, 0.75), (1, 1)]
)
def test_more_speed_is_never_slower(speed: float, place: float) -> None:
    assert MEASURED.at(speed, 64) == place
    nfe = [p.nfe for p in MEASURED.monotone(64)]
    assert nfe == sorted(nfe, reverse=True)


@pytest.mark.parametrize(("target", "place"), [(5.0, 0), (3.0, 0), (2.5, 0.5), (2.05, 0.25), (1.2, 0.75)])
def test_a_target_of_forwards_takes_the_most_accurate_within(target: float, place: float) -> None:
    assert MEASURED.for_nfe(target, 64) == place


@pytest.mark.parametrize(("target", "place"), [(0.99, 0), (0.975, 0.5), (0.97, 0.25), (0.9, 0.75), (0.1, 0.75)])
def test_a_target_of_accuracy_takes_the_fewest_forwards(target: float, place: float) -> None:
    assert MEASURED.for_accuracy(target, 64) == place


@pytest.mark.parametrize(("block", "nearest"), [(64, 64), (33, 64), (32, 64), (31, 16), (16, 16), (4, 16), (256, 64)])
def test_blocks_go_by_the_nearest_that_were_measured(block: int, nearest: int) -> None:
    assert {p.block_length for p in MEASURED.measured(block)} == {nearest}
    assert [p.speed for p in MEASURED.measured(block)] == sorted(p.speed for p in MEASURED.measured(block))


def test_each_block_length_has_its_own_places() -> None:
    assert [MEASURED.at(0.75, block) for block in (64, 16)] == [0.75, 1.0]
    assert [MEASURED.for_nfe(3.0, block) for block in (64, 16)] == [0, 1.0]
    assert [MEASURED.for_accuracy(0.95, block) for block in (64, 16)] == [0.25, 0]


def test_what_is_out_of_reach_is_refused_with_the_limit() -> None:
    with pytest.raises(ValueError, match=r"nfe_target is 1.1: this policy needs 1.20"):
        MEASURED.for_nfe(1.1, 64)
    with pytest.raises(ValueError, match=r"accuracy_target is 0.995: this policy reaches 0.990"):
        MEASURED.for_accuracy(0.995, 64)
    with pytest.raises(ValueError, match=r"speed is 1\.5"):
        MEASURED.at(1.5, 64)


def dial(calibration: Calibration | None = MEASURED, scale: float = 0.2) -> LearnedPolicy:
    network = perturbed(NetworkConfig(hidden_size=16, has_dial=True), scale)
    return LearnedPolicy(network, calibration=calibration)


def test_an_untrained_dial_is_the_threshold_rule_everywhere() -> None:
    network = UnmaskingNetwork(NetworkConfig(hidden_size=16, has_dial=True, threshold=0.8))
    view = random_view(24, 10)
    for speed in (0.0, 0.5, 1.0):
        assert torch.equal(
            LearnedPolicy(network, speed=speed).select(view), make_rule("threshold:0.8").act(view).commit
        )


def test_the_dial_changes_the_choice_of_a_trained_network() -> None:
    policy, view = dial(), random_view(24, 10)
    slow, fast = policy.tuned(64, speed=0.0).probabilities(view), policy.tuned(64, speed=1.0).probabilities(view)
    assert (slow - fast).abs().max() > 1e-3


def test_round_trip(tmp_path: Path) -> None:
    policy = dial().tuned(64, nfe_target=2.05)
    again = load(save(policy, tmp_path / "policy"))
    view = random_view(24, 10)
    assert (again.speed, again.has_dial) == (0.25, True)
    assert again.calibration is not None
    assert again.calibration.points == MEASURED.points
    assert torch.equal(again.probabilities(view), policy.probabilities(view))


def test_asking_for_a_speed() -> None:
    policy = dial()
    assert [policy.tuned(64, **{name: value}).speed for name, value in (("speed", 0.6), ("accuracy_target", 0.9))] == [
        0.25,
        0.75,
    ]
    assert dial(None).tuned(64, speed=0.6).speed == 0.6
    plain = LearnedPolicy(perturbed(NetworkConfig(hidden_size=16), 0.2))
    errors: list[tuple[LearnedPolicy, dict[str, Any], str]] = [
        (policy, {}, "nothing is given"),
        (policy, {"speed": 0.5, "nfe_target": 2.0}, "speed and nfe_target is given"),
        (plain, {"speed": 0.5}, "has no dial"),
        (dial(None), {"nfe_target": 2.0}, "has no calibration"),
        (dial(None), {"speed": -0.1}, "speed is -0.1"),
        (policy, {"speed": "fast"}, "speed is 'fast': it must be a number"),
        (policy, {"accuracy_target": 98}, "accuracy_target is 98: it is a share of the answers, 0 to 1"),
        (policy, {"accuracy_target": -0.1}, "accuracy_target is -0.1: it is a share"),
        (policy, {"nfe_target": "x"}, "nfe_target is 'x': it must be a number"),
    ]
    for asked, kwargs, message in errors:
        with pytest.raises(ValueError, match=message):
            asked.tuned(64, **kwargs)


@pytest.mark.parametrize(
    ("trained", "decoding", "message"),
    [
        ({}, {}, None),
        ({}, {"cache": "dual:refresh=1"}, "cache is 'dual:refresh=1': .* measured with cache 'none', so decode so, or"),
        ({}, {"window": "truncated"}, "window is 'truncated': .* measured with window 'full'"),
        ({}, {"blocks_ahead": 1}, "blocks_ahead is 1: .* measured with blocks_ahead 0"),
        ({"cache": "dual:refresh=0"}, {"cache": "dual"}, None),
        ({"cache": "dual"}, {}, "cache is 'none': .* measured with cache 'dual'"),
    ],
)
def test_what_a_target_takes_is_known_of_the_decoding_it_was_measured_in(
    trained: dict[str, Any], decoding: dict[str, Any], message: str | None, toy: ToyDenoiser
) -> None:
    policy = dial().changed(trained=trained)
    settings = DecodingSettings(8, 4, features=policy.features, **decoding)
    policy.tuned(4, speed=0.5).bind(toy, settings)
    for target, shown in ({"accuracy_target": 0.9}, "accuracy_target 0.9"), ({"nfe_target": 4}, "nfe_target 4"):
        asked = policy.tuned(4, **target)
        if message is None:
            asked.bind(toy, settings)
            continue
        with pytest.raises(ValueError, match=f"^{shown} is asked and {message}"):
            asked.bind(toy, settings)
    # A speed that is chosen afterwards promises nothing.
    policy.tuned(4, nfe_target=4).tuned(4, speed=0.5).bind(toy, settings)


def test_settings_of_folders(tmp_path: Path) -> None:
    folder = str(save(dial(), tmp_path / "policy"))
    assert split_setting(folder) == (folder, {})
    assert split_setting(f"{folder}@0.9") == (folder, {"threshold": 0.9})
    jobs = plan([f"{folder}@speed=0.6", f"{folder}@nfe_target=1.2"], [64])
    assert [(job.name, job.decision) for job in jobs] == [
        ("learned@speed=0.6", "deterministic"),
        ("learned@nfe_target=1.2", "deterministic"),
    ]
    made = [job.make() for job in jobs]
    assert [policy.speed for policy in made if isinstance(policy, LearnedPolicy)] == [0.25, 0.75]
    assert at_setting(dial(), {"threshold": 0.9}, 64).threshold == 0.9
    for text, message in ((f"{folder}@fast", "number after the @"), (f"{folder}@alpha=3", "'alpha' can't be set")):
        with pytest.raises(ValueError, match=message):
            plan([text], [8])


def env(**kwargs: Any) -> UnmaskingVectorEnv:
    about: dict[str, Any] = {"tasks": "copy", "buffer_length": 8, "alpha": (1.0, 64.0)}
    return UnmaskingVectorEnv(6, denoiser=ToyDenoiser(), **{**about, **kwargs})


def test_each_episode_draws_its_own_preference() -> None:
    batch = env()
    obs, _ = batch.reset(seed=3)
    assert obs["speed"].shape == (6, 1)
    assert len(set(obs["speed"].flatten().tolist())) == 6
    before = batch.speed.copy()
    _, rewards, terminated, _, infos = batch.step(np.ones((6, 8)))
    assert terminated.all()
    assert (batch.speed != before).all()
    assert rewards.tolist() == infos["final_info"]["score"].tolist()  # one forward costs nothing


def test_the_reward_by_hand() -> None:
    batch = env(tasks="copy", buffer_length=4)
    batch.reset(seed=0)
    batch.speed[:] = [0, 0.5, 1, 0, 0.5, 1]
    first = np.zeros((6, 4))
    first[:, 3] = 1  # never all: the first positions stay masked
    assert not batch.step(first)[1].any()
    rewards, _, finals = batch.commit(np.ones((6, 4)))
    scores = np.array([finals[row]["score"] for row in range(6)])
    assert rewards == pytest.approx(scores * 0.75 ** np.array([1, 8, 64, 1, 8, 64]))


@pytest.mark.filterwarnings("error")
def test_the_env_with_a_dial_passes_gymnasiums_check() -> None:
    check_env(
        UnmaskingEnv(denoiser=ToyDenoiser(), tasks="copy", buffer_length=8, alpha=(1.0, 64.0)), skip_render_check=True
    )


def test_without_a_range_there_is_no_dial() -> None:
    assert "speed" not in env(alpha=3.0).reset(seed=0)[0]


def test_a_row_decodes_the_same_alone_and_in_a_batch(toy: ToyDenoiser) -> None:
    policy = dial().tuned(64, speed=1.0)
    prompts = ["copy . . : a b c =", "sort . . : d a =", "reverse q w e ="]
    together = decode(toy, prompts, policy, DecodingSettings(8, features=policy.features))
    assert [decode(toy, [p], policy, DecodingSettings(8, features=policy.features))[0] for p in prompts] == together


def test_of_equally_accurate_places_the_faster_one() -> None:
    points = [DialPoint(8, speed, 0.9, (0.8, 1.0), nfe, (1.0, 5.0)) for speed, nfe in ((0.0, 4.0), (1.0, 2.0))]
    assert Calibration(points).for_nfe(5.0, 8) == 1.0
    assert Calibration(points).for_accuracy(0.9, 8) == 1.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "^calibration"),
        ({}, "^calibration is {}"),
        ([{**Calibration([MEASURED.points[0]]).to_plain()[0], "nfe": "x"}], r"^calibration\.0\.nfe is 'x'"),
    ],
)
def test_a_calibration_that_is_none_says_where(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibration.from_plain(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": "x"}, "^threshold is 'x': it must be between 0 and 1"),
        ({"threshold": None}, "^threshold is None: it must be between 0 and 1"),
        ({"beta": "x"}, "^beta is 'x': it must be above 0"),
        ({"temperature": "x"}, "^temperature of the policy is 'x': it must be above 0"),
        ({"calibration": 5}, "^calibration is 5: give a Calibration, or None"),
        ({"actions": 5}, "^actions is 5: give an ActionConfig, or None"),
        ({"any_dllm": "x"}, "^any_dllm is 'x': it must be True or False"),
    ],
)
def test_what_a_policy_can_not_be_changed_to(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("tiny").changed(**change)


@pytest.mark.parametrize("asked", [{"speed": 0.5}, {"accuracy_target": 0.9}, {"nfe_target": 2.0}])
@pytest.mark.parametrize("block_length", [0, -1, None, "x", float("nan"), True])
def test_a_dial_is_turned_for_a_whole_number_of_positions(block_length: Any, asked: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"^block_length is .*: it must be a whole number of 1 or more$"):
        load("tiny").tuned(block_length, **asked)


@pytest.mark.parametrize("name", ["speed", "accuracy_target", "nfe_target"])
@pytest.mark.parametrize("value", [10**400, "x", True])
def test_a_place_on_a_dial_is_a_number(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*: it must be a number$"):
        load("tiny").tuned(64, **{name: value})


def test_one_place_is_a_calibration() -> None:
    one = Calibration([MEASURED.points[0]])
    assert Calibration.from_plain(one.to_plain()).points == one.points
