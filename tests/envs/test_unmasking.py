from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from envs_by_hand import EVERYTHING, NOTHING, L, assert_same, native, single, some
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scipy import stats
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from envs import UnmaskingEnv, UnmaskingVectorEnv
from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.models.toy import ToyDenoiser
from envs.readings import VIEW_FEATURES
from envs.tasks import TASKS, split_of
from envs.tasks.suite.form import cells_of
from envs.view import Action
from policies import make_rule

pytestmark = pytest.mark.usefixtures("device")

SETTINGS: list[dict[str, Any]] = [
    {"buffer_length": 16},
    {"buffer_length": 16, "block_length": 4, "features": sorted(VIEW_FEATURES), "temperature": 1.0},
    {"buffer_length": 8, "block_length": 2, "features": ["entropy"], "reward": "forward_cost", "alpha": 0.1},
    {"buffer_length": 12, "tasks": ["add", "copy"], "split": "test", "reward": "additive", "alpha": 0.5},
]
TENSORS = {"buffer_length": 16, "block_length": 4, "features": ["best_probabilities", "hidden"]}


# Both checkers, and the registration.


@pytest.mark.parametrize("kwargs", SETTINGS)
@pytest.mark.parametrize("render_mode", ["ansi", "rgb_array"])
def test_checkers_warn_of_nothing(kwargs: dict[str, Any], render_mode: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("envs:Unmasking-v0", denoiser="toy", render_mode=render_mode, **kwargs)
        # The drawing has its own tests and is slow.
        check_env(env.unwrapped, skip_render_check=kwargs is not SETTINGS[0])
        sb3_check_env(env.unwrapped)


def test_checkers_know_no_bounds_and_prefer_vectors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for known in (".*value is (-?)infinity", "Your observation (best_probabilities|hidden) has an unconventional"):
            warnings.filterwarnings("ignore", known)
        env = gymnasium.make("envs:Unmasking-v0", denoiser="tiny", **TENSORS)
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped)
    assert env.observation_space["best_probabilities"] == gymnasium.spaces.Box(0.0, 1.0, (16, 50))  # type: ignore[index]
    assert env.observation_space["hidden"] == gymnasium.spaces.Box(-np.inf, np.inf, (16, 128))  # type: ignore[index]


@pytest.mark.parametrize("alpha", [2.0, (1.0, 8.0)])
def test_an_agent_may_read_on_the_device_what_is_observed(toy: ToyDenoiser, alpha: Any) -> None:
    features = ["logit_gap", "best_probabilities", "hidden"]
    about: dict[str, Any] = {"denoiser": toy, "tasks": "sort", "buffer_length": 8, "features": features, "alpha": alpha}
    whole, small = (UnmaskingVectorEnv(3, observes_tensors=how, **about) for how in (True, False))
    (seen, _), (less, _) = whole.reset(seed=4), small.reset(seed=4)
    for _ in range(4):
        assert whole.single_observation_space.contains({name: values[0] for name, values in seen.items()})
        assert small.single_observation_space.contains({name: values[0] for name, values in less.items()})
        inputs = small.inputs()
        assert seen.keys() == inputs.keys() == less.keys() | {"best_probabilities", "hidden"}
        assert ("speed" in less) is isinstance(alpha, tuple)
        for name, values in inputs.items():
            assert values.device == toy.device
            np.testing.assert_array_equal(values.cpu().numpy(), seen[name])
            assert name not in less or np.array_equal(less[name], seen[name])
        commit = np.asarray(seen["confidence"] > 0.5)
        (seen, *_), (less, *_) = whole.step(commit), small.step(commit)


def test_make() -> None:
    env = gymnasium.make("envs:Unmasking-v0", denoiser="toy", tasks="sort", buffer_length=12, block_length=4)
    assert isinstance(env.unwrapped, UnmaskingEnv)
    assert env.action_space == gymnasium.spaces.MultiBinary(12)
    assert list(env.observation_space.spaces) == ["confidence", "eligible", "masked", "time"]  # type: ignore[attr-defined]
    obs, info = env.reset(seed=0)
    assert obs["eligible"].tolist() == [1] * 4 + [0] * 8
    assert info == {"nfe": 1, "commits": 0, "masks_left": 12}
    assert env.unwrapped.rows.problems[0].task == "sort"


def test_make_vec() -> None:
    envs = gymnasium.make_vec("envs:Unmasking-v0", num_envs=3, denoiser="toy", buffer_length=12)
    assert isinstance(envs.unwrapped, UnmaskingVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.action_space.shape == (3, 12)
    obs, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(obs)
    assert envs.spec is not None
    assert envs.spec.id == "Unmasking-v0"


# The batch is N single envs.


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [*SETTINGS, TENSORS])
def test_batch_equals_single_envs(kwargs: dict[str, Any]) -> None:
    kwargs = {"tasks": "suite", **kwargs}
    sync = SyncVectorEnv([lambda: single(**kwargs)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    batch, rng, episodes = native(3, **kwargs), np.random.default_rng(0), 0
    assert_same(batch.reset(seed=5), sync.reset(seed=5))
    for _ in range(200):
        actions = some(rng, 3, kwargs["buffer_length"])
        result = batch.step(actions)
        assert_same(result, sync.step(actions))
        assert batch.observation_space.contains(result[0])
        episodes += int(result[2].sum())
    assert episodes > 50


def test_final_observation_has_nothing_left_to_do() -> None:
    batch = native(2, features=sorted(VIEW_FEATURES), block_length=4)
    seed = next(seed for seed in range(99) if batch.reset(seed=seed) and len(cells_of(batch.problems[1].prompt)) > 4)
    batch.reset(seed=seed)  # row 1 needs both blocks
    batch.step(np.array([NOTHING, EVERYTHING]))
    obs, _, terminated, _, infos = batch.step(np.array([NOTHING, EVERYTHING]))
    assert terminated.tolist() == infos["_final_obs"].tolist() == [False, True]
    final = infos["final_obs"][1]
    assert final["confidence"].tolist() == [1] * L
    assert final["time"].tolist() == [2 / L]
    assert not any(final[name].any() for name in ["masked", "eligible", *VIEW_FEATURES])
    assert obs["masked"][1].tolist() == [1] * L  # the row begins again in the same step
    assert obs["time"].tolist() == [[2 / L], [0]]


# One step.


def test_empty_action_commits_the_most_confident_eligible_position() -> None:
    env = single(block_length=4)
    seed = next(seed for seed in range(99) if env.reset(seed=seed) and len(cells_of(env.rows.problems[0].prompt)) > 4)
    obs, _ = env.reset(seed=seed)  # no end-of-text in the first block
    for _ in range(3):
        best = int(np.where(obs["eligible"] == 1, obs["confidence"], -1).argmax())
        before, (obs, *_) = obs, env.step(NOTHING)
        assert np.flatnonzero(before["masked"] != obs["masked"]).tolist() == [best]
        assert obs["confidence"][best] == 1


@pytest.mark.parametrize("bits", [[4, 5, 6, 7], [1, 5], [0, 1, 2, 3]])
def test_ineligible_bits_are_ignored(bits: list[int]) -> None:
    action, eligible = NOTHING.copy(), NOTHING.copy()
    action[bits], eligible[[i for i in bits if i < 4]] = 1, 1
    one, two = single(tasks="add", block_length=4), single(tasks="add", block_length=4)
    one.reset(seed=2), two.reset(seed=2)
    assert_same(one.step(action), two.step(eligible))
    assert_same(one.step(action), two.step(eligible))  # positions that are committed by now
    assert one.rows.batch.tokens(0) == two.rows.batch.tokens(0)


def test_observation_is_what_the_denoiser_believes() -> None:
    env = single(block_length=4, features=["entropy", "margin"])
    assert isinstance(env.rows.denoiser, ToyDenoiser)
    env.reset(seed=0)
    obs, *_ = env.step(np.eye(L, dtype=np.int8)[2])
    view = env.rows.view
    assert obs.keys() == env.observation_space.spaces.keys()
    assert obs["masked"].tolist() == [1, 1, 0, 1, 1, 1, 1, 1]
    assert obs["eligible"].tolist() == [1, 1, 0, 1, 0, 0, 0, 0]
    assert obs["time"].tolist() == [1 / L]
    for name, values in (("confidence", view.confidence), *view.features.items()):
        assert obs[name].tolist() == values[0].tolist()
    # The toy model gives one token a greater logit than the others, of which the mask has no share.
    others = len(env.rows.denoiser.words) - 2
    p, margin, entropy = obs["confidence"][0], obs["margin"][0], obs["entropy"][0]
    assert margin == pytest.approx(p - (1 - p) / others, abs=1e-6)
    assert entropy == pytest.approx(-p * np.log(p) - (1 - p) * np.log((1 - p) / others), abs=1e-5)


def test_observations_are_fresh_arrays() -> None:
    batch, rng = native(2, features=sorted(VIEW_FEATURES)), np.random.default_rng(0)
    seen = [batch.reset(seed=0)[0]]
    copies = [{name: values.copy() for name, values in seen[0].items()}]
    for _ in range(20):
        obs, *_, infos = batch.step(some(rng, 2, L))
        seen += [obs, *(final for final in infos.get("final_obs", []) if final is not None)]
        copies += [{name: values.copy() for name, values in each.items()} for each in seen[len(copies) :]]
    for one, copy in zip(seen, copies, strict=True):
        assert_same(one, copy)
    arrays = [values for obs in seen[:5] for values in obs.values()]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


@pytest.fixture
def warn_always() -> Iterator[None]:
    """Have torch warn each time, not once a process."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.parametrize(
    "actions",
    [
        pytest.param([[1, 0] * 4], id="list"),
        pytest.param(np.array([[True, False] * 4]), id="bool"),
        pytest.param(np.array([[1.0, 0.0] * 4]), id="float"),
        pytest.param(np.broadcast_to(np.array([1, 0] * 4), (1, L)), id="read-only"),
    ],
)
def test_actions_of_any_kind(actions: npt.ArrayLike, warn_always: None) -> None:
    batch = native(1)
    batch.reset(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        obs, *_ = batch.step(actions)
    assert obs["masked"].tolist() == [[0, 1] * 4]


# Episodes and rewards.


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"alpha": 8.0}, lambda score, nfe: score * ((L - nfe + 1) / L) ** 8),
        ({"reward": "additive", "alpha": 0.5}, lambda score, nfe: score - 0.5 * nfe / L),
        ({"reward": "forward_cost", "alpha": 0.1}, lambda score, nfe: score - 0.1 * nfe),
    ],
)
@pytest.mark.parametrize("action", [NOTHING, EVERYTHING])
def test_return(kwargs: dict[str, Any], expected: Callable[[float, int], float], action: npt.NDArray[np.int8]) -> None:
    for task in ("copy", "reverse"):  # the toy model always answers with a copy
        env = single(tasks=task, **kwargs)
        env.reset(seed=0)
        rewards, terminated = [], False
        while not terminated:
            _, reward, terminated, truncated, info = env.step(action)
            assert truncated is False
            rewards.append(reward)
        assert info["score"] == (task == "copy")
        assert info["nfe"] == len(rewards)
        assert sum(rewards) == pytest.approx(expected(info["score"], len(rewards)))
        assert len(set(rewards[:-1])) <= 1


def test_likelihood_pays_each_step_for_what_it_commits() -> None:
    price = 0.25
    env = UnmaskingVectorEnv(1, tasks="shuffle", buffer_length=16, early_end=False, reward="likelihood", alpha=price)
    env.reset(seed=0)
    terminated, paid = [False], []
    while not terminated[0]:
        view = env.view
        worst = view.confidence.argsort(1)[:, :6]  # committed positions, at 1, come last
        commit = view.eligible & torch.zeros_like(view.eligible).scatter(1, worst, True)
        expected = float(view.confidence[commit].double().log().sum()) - price
        _, rewards, terminated, _, _ = env.step(commit.numpy())
        assert rewards[0] == pytest.approx(expected, abs=1e-9)
        paid.append(rewards[0])
    assert len(paid) > 1
    assert min(paid) < -price - 0.1  # something was uncertain


def test_likelihood_pays_for_what_a_forward_has_settled() -> None:
    """Drafts are committed by the forward after them, so the step after that is paid for them."""
    rule = make_rule("info_gain")
    env = UnmaskingVectorEnv(2, tasks="shuffle", reward="likelihood", alpha=0.0, features=sorted(rule.features))
    env.reset(seed=0)
    rule = rule.bind(env.denoiser, env.batch.settings)
    paid, running = np.zeros(2), np.ones(2, dtype=np.bool_)
    while running.all():
        before = env.batch.log_likelihood.clone()
        _, rewards, terminated, _, _ = env.step(rule.act(env.view))
        paid, running = paid + rewards, ~terminated
        assert paid[running] == pytest.approx(before.numpy()[running], abs=1e-9)
    assert (paid < 0).all()


def test_what_is_taken_back_takes_its_likelihood_along() -> None:
    env = UnmaskingVectorEnv(1, tasks="shuffle", buffer_length=16, early_end=False, reward="likelihood", alpha=0.0)
    env.reset(seed=0)
    first = env.view.confidence.argmin(1, keepdim=True)
    commit = torch.zeros_like(env.view.masked).scatter(1, first, True)
    _, paid, *_ = env.step(Action(commit))
    other = torch.zeros_like(commit).scatter(1, (first + 1) % 16, True)
    gained = float(env.view.confidence[other].double().log())
    _, back, *_ = env.step(Action(other, remask=commit))
    assert paid[0] < 0
    assert back[0] == pytest.approx(gained - paid[0], abs=1e-9)


def test_closing_info() -> None:
    env = single()
    env.reset(seed=0)
    problem = env.rows.problems[0]
    assert env.step(NOTHING)[4] == {"nfe": 2, "commits": 1, "masks_left": L - 1}
    *_, terminated, truncated, info = env.step(EVERYTHING)
    assert (terminated, truncated) == (True, False)
    closing = {"score": 1.0, "token_positions": 2 * (21 + L), "task": "copy", "text": problem.answer}
    assert info == {"nfe": 2, "commits": L - 1, "masks_left": 0, **closing}


@pytest.mark.parametrize("block_length", [1, 4, 8])
def test_episode_never_exceeds_the_buffer_length(block_length: int) -> None:
    batch = native(8, tasks="add", block_length=block_length)
    batch.reset(seed=0)
    ends = np.array([batch.step(np.zeros((8, L)))[2] for _ in range(3 * L)])
    gaps = [np.diff(np.flatnonzero(row), prepend=-1) for row in ends.T]
    assert all(len(gap) >= 3 for gap in gaps)
    assert max(gap.max() for gap in gaps) <= L


def test_each_episode_draws_its_block_length() -> None:
    lengths = [2, 4, 8]
    batch, seen = native(16, tasks="add", block_length=lengths), Counter[int]()
    batch.reset(seed=0)
    for _ in range(12):
        blocks = batch.batch.block_length
        view = batch.view
        fresh = (view.step == 1).nonzero().squeeze(1).tolist()
        seen.update(blocks[fresh].tolist())
        first_block = torch.arange(L, device=blocks.device) < blocks[fresh].unsqueeze(1)
        assert torch.equal(view.eligible[fresh], first_block)
        # A row goes through its blocks like one of a batch whose only block length is that.
        for row in fresh:
            settings = DecodingSettings(L, int(blocks[row]))
            alone = DecodingBatch(batch.denoiser, 1, settings)
            alone.load([0], [batch.denoiser.encode_prompt(batch.problems[row].prompt)])
            mixed = DecodingBatch(batch.denoiser, 2, batch.batch.settings)
            mixed.load(
                [0, 1],
                [batch.denoiser.encode_prompt(batch.problems[row].prompt)] * 2,
                block_lengths=[8, int(blocks[row])],
            )
            for _ in range(3):
                one, two = alone.forward(), mixed.forward()
                assert torch.equal(one.eligible[0], two.eligible[1])
                assert torch.equal(one.prediction[0], two.prediction[1])
                alone.apply(Action(one.eligible))
                mixed.apply(Action(two.eligible))
        batch.step(np.zeros((16, L)))
    assert set(seen) == set(lengths)


def test_no_block_length_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="block_length is an empty list"):
        native(1, block_length=[])
    with pytest.raises(ValueError, match="block_length is 3"):
        native(1, block_length=[4, 3])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_problems_are_of_the_split_and_of_all_tasks(split: str) -> None:
    batch = native(100, tasks=[name for name in TASKS if name != "sudoku"], split=split)
    counts: Counter[str] = Counter()
    for seed in (0, 1000):
        batch.reset(seed=seed)
        assert {split_of(problem.prompt) for problem in batch.problems} == {split}
        counts.update(problem.task for problem in batch.problems)
    assert len({problem.prompt for problem in batch.problems}) > 95
    assert len(counts) == 8
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_restarted_rows_draw_new_problems_of_the_split() -> None:
    batch, seen = native(4, split="validation"), set()
    batch.reset(seed=0)
    for _ in range(10):
        *_, infos = batch.step(np.ones((4, L)))
        assert infos["_final_obs"].all()
        seen |= {problem.prompt for problem in batch.problems}
    assert len(seen) == 40
    assert {split_of(prompt) for prompt in seen} == {"validation"}


# Seeds.


def play(batch: UnmaskingVectorEnv, seed: Any) -> list[Any]:
    rng = np.random.default_rng(9)
    return [batch.reset(seed=seed), *(batch.step(some(rng, batch.num_envs, L)) for _ in range(15))]


def test_same_seed_same_episodes() -> None:
    batch = native(3, tasks="suite")
    first = play(batch, 4)
    for again in (play(batch, 4), play(native(3, tasks="suite"), 4), play(native(3, tasks="suite"), [4, 5, 6])):
        for one, two in zip(first, again, strict=True):
            assert_same(one, two)
    batch.reset(seed=4)
    prompts = [problem.prompt for problem in batch.problems]
    batch.reset(seed=np.int64(7))
    assert not set(prompts) & {problem.prompt for problem in batch.problems}


def test_list_of_seeds_is_one_a_row() -> None:
    batch = native(3, tasks="suite")
    batch.reset(seed=[11, 2, 11])
    expected = []
    for seed in (11, 2, 11):
        env = single(tasks="suite")
        env.reset(seed=seed)
        expected.append(env.rows.problems[0])
    assert batch.problems == expected


def test_no_seed_goes_on_with_the_generators() -> None:
    one, two = native(2), native(2)
    one.reset(seed=[1, 2])
    one.reset()
    one.reset(seed=[None, 2])  # only row 1 starts over
    two.reset(seed=[1, 2])
    second = two.problems[1]
    two.reset()
    two.reset()
    assert one.problems[0] == two.problems[0]
    assert one.problems[1] == second
    assert native(1).reset()[0]["masked"].all()


def test_single_env_reset_reproduces() -> None:
    env = single(tasks="suite")
    first = [env.reset(seed=3)[0], env.step(NOTHING)[0], env.reset()[0]]
    again = [env.reset(seed=3)[0], env.step(NOTHING)[0], env.reset()[0]]
    assert_same(dict(enumerate(first)), dict(enumerate(again)))
    assert env.np_random_seed == 3


# Rendering.


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


def test_render_ansi() -> None:
    env = single(render_mode="ansi")
    env.reset(seed=0)
    problem = env.rows.problems[0]
    cells = cells_of(problem.prompt)
    assert plain(env.render()) == [problem.prompt, "NFE   1  " + " ".join("·" * L)]
    confidence = env.rows.view.confidence[0, 1].item()
    env.step(np.eye(L, dtype=np.int8)[1])
    assert plain(env.render()) == [problem.prompt, " ".join(["NFE   2 ", "·", cells[1], *"·" * (L - 2)])]
    step = round(10 * confidence)
    red, green = min(5, 10 - step), min(5, step)
    assert f"\x1b[38;5;{16 + 36 * red + 6 * green}m{cells[1]}\x1b[0m" in env.render()
    env.step(EVERYTHING)
    answer = [*cells, *["[EOS]"] * (L - len(cells))]
    assert plain(env.render()) == [problem.prompt, " ".join(["NFE   2 ", *answer])]


@pytest.mark.parametrize("length", [8, 40])
def test_render_rgb_array(length: int) -> None:
    env = single(render_mode="rgb_array", buffer_length=length)
    env.reset(seed=0)
    before = env.render()
    assert (before.dtype, before.ndim, before.shape[2]) == (np.uint8, 3, 3)
    assert np.array_equal(env.render(), before)
    env.step(np.zeros(length))
    after = env.render()
    assert after.shape == before.shape
    assert (np.ptp(before, axis=2) == 0).all()  # grey while nothing is committed
    assert 0 < (np.ptp(after, axis=2) > 50).mean() < 1.2 / length  # one coloured cell


def test_render_shows_every_row_of_the_batch() -> None:
    batch = native(2, render_mode="ansi", autoreset_mode="Disabled")
    batch.reset(seed=0)
    batch.step(np.array([NOTHING, EVERYTHING]))
    first, second = (plain(picture) for picture in batch.render())
    assert (first[0], second[0]) == (batch.problems[0].prompt, batch.problems[1].prompt)
    assert (first[1].count("·"), second[1].count("·")) == (L - 1, 0)


# Errors.


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0"),
        ({"num_envs": 1.5}, "num_envs is 1.5: it must be a whole number of 1 or more"),
        ({"num_envs": "2"}, "num_envs is '2': it must be a whole number"),
        ({"initial_length": 2.5}, "initial_length is 2.5: it must be a whole number of 1 to buffer_length, 8"),
        ({"initial_length": 0}, "initial_length is 0: it must be"),
        ({"initial_length": 9}, "initial_length is 9: it must be"),
        ({"block_length": "4"}, "block_length is '4': it must be a whole number"),
        ({"features": "age"}, "features is 'age': give a list of names"),
        ({"alpha": "8"}, "alpha is '8': it must be a number or a range of two"),
        ({"alpha": [1.0]}, r"alpha is \[1.0\]: it must be a number or a range of two"),
        ({"render_mode": "human"}, "render_mode is 'human'"),
        ({"buffer_length": 0}, "buffer_length is 0"),
        ({"block_length": 3}, "block_length is 3: .* choose one of 1, 2, 4, 8"),
        ({"block_length": 0}, "block_length is 0"),
        ({"tasks": "sums"}, "task is 'sums'"),
        ({"tasks": []}, r"task is \[\]"),
        ({"split": "dev"}, "split is 'dev'"),
        ({"reward": "speed"}, "reward is 'speed'"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"features": ["margins"]}, "feature is 'margins'"),
        ({"observes_tensors": "no"}, "observes_tensors is 'no': it must be True or False"),
        ({"decides_refresh": 1}, "decides_refresh is 1: it must be True or False"),
        ({"alpha": True}, "alpha is True: it must be a number"),
        ({"reward": None}, "reward is None"),
        ({"tasks": None}, "task is None"),
        ({"tasks": [3]}, r"task is \[3\]"),
        ({"tasks": "suite:x"}, "task is 'suite:x': a suite has no options"),
        ({"features": None}, "features is None: give a list of names"),
        ({"features": [["margin"]]}, r"features is \[\['margin'\]\]: each must be a name"),
        ({"denoiser": None}, "denoiser is None: give a dLLM's name"),
        ({"episodes": 3}, "episodes is 3: give a class"),
        ({"buffer_length": 10**9}, "buffer_length is 1000000000: it must be 4095 or less"),
    ],
)
def test_impossible_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native(**{"num_envs": 1, **kwargs})


def test_wrong_calls() -> None:
    batch = native(2)
    for seeds in ([1], [1, 2, 3]):
        with pytest.raises(ValueError, match=rf"seed has {len(seeds)} entries: it must have one a row, 2"):
            batch.reset(seed=seeds)
    for seed, named in (
        (1.5, "seed is 1.5"),
        ("12", "seed is '12'"),
        ([1.5, 2], "seed holds 1.5"),
        ([1, "x"], "holds 'x'"),
    ):
        with pytest.raises(ValueError, match=named):
            batch.reset(seed=seed)  # type: ignore[arg-type]
    for options in (3, [1], "x"):
        with pytest.raises(ValueError, match=r"options is .*: give a dictionary"):
            batch.reset(options=options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="state is not what an env's state"):
        batch.load_state({})
    with pytest.raises(ValueError, match="state is of an env with the task 'sort': this one has copy"):
        native(2, tasks="copy").load_state(native(2, tasks="sort").state())
    batch.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions have shape \(8,\): expected \(2, 8\)"):
        batch.step(NOTHING)
    with pytest.raises(ValueError, match="render_mode is None"):
        batch.render()
    with pytest.raises(ValueError, match="buffer_length is 4096: it must be 4095 or less"):
        native(1, buffer_length=4096).reset()
