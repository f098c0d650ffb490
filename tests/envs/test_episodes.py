"""What each row decodes next, with which random numbers, and how rows begin again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from envs_by_hand import EVERYTHING, NOTHING, L, assert_same, native, single, some
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import FlattenObservation, RecordEpisodeStatistics

from envs import UnmaskingVectorEnv
from envs.episodes import Episodes
from envs.noise import uniform
from envs.tasks import TASKS, make_tasks
from train.algorithms.group_episodes import GroupEpisodes

GROUPS = partial(GroupEpisodes, group_size=8)


def answers(env: UnmaskingVectorEnv, **reset: Any) -> list[tuple[int, ...]]:
    """What each row samples when all is committed at once."""
    env.reset(**reset)
    before = [env.batch.view.prediction[row].tolist() for row in range(env.num_envs)]
    return [tuple(row) for row in before]


def sampling(num_envs: int, **kwargs: Any) -> UnmaskingVectorEnv:
    return native(num_envs, temperature=4.0, **kwargs)


# Random numbers.


def test_rows_of_a_group_sample_answers_of_their_own() -> None:
    env = sampling(32, tasks=["copy", "add"], autoreset_mode="Disabled", episodes=GROUPS)
    found = answers(env, seed=0)
    for group in range(0, 32, 8):
        assert len({problem.prompt for problem in env.problems[group : group + 8]}) == 1
        assert len(set(found[group : group + 8])) == 8


def test_samples_follow_from_the_seed_and_differ_by_seed_row_and_visit() -> None:
    problem = TASKS["copy"]().problem("train", 3)
    env = sampling(4)
    first = answers(env, seed=0, options={"problem": problem})
    second = answers(env, options={"problem": problem})
    assert answers(env, seed=0, options={"problem": problem}) == first
    assert answers(env, options={"problem": problem}) == second
    assert answers(sampling(4), seed=0, options={"problem": problem}) == first
    other = answers(env, seed=4, options={"problem": problem})
    assert len({*first, *second, *other}) == 12


def test_sampling_shifts_no_problem() -> None:
    cold, hot = native(3, tasks="suite"), sampling(3, tasks="suite")
    for env in (cold, hot):
        env.reset(seed=7)
    for _ in range(30):
        assert cold.problems == hot.problems
        for env in (cold, hot):
            assert env.step(np.array([EVERYTHING] * 3))[2].all()


def test_a_group_differs_from_its_neighbour_in_every_draw_of_rules_too() -> None:
    env = native(16, autoreset_mode="Disabled", episodes=GROUPS)
    env.reset(seed=1)
    draws = uniform(env.view.key, env.view.step, (4,))
    assert len({tuple(row) for row in draws.tolist()}) == 16


# Rows that begin again.


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_every_autoreset_mode_is_that_of_gymnasium(mode: AutoresetMode) -> None:
    kwargs: dict[str, Any] = {"tasks": "suite", "buffer_length": 12, "block_length": 4, "temperature": 1.0}
    sync = SyncVectorEnv([lambda: single(**kwargs)] * 3, autoreset_mode=mode)
    batch, rng, episodes = native(3, autoreset_mode=mode.value, **kwargs), np.random.default_rng(0), 0
    assert batch.metadata["autoreset_mode"] is mode
    assert_same(batch.reset(seed=5), sync.reset(seed=5))
    for _ in range(60):
        actions = some(rng, 3, 12)
        result = batch.step(actions)
        assert_same(result, sync.step(actions))
        finished = result[2]
        episodes += int(finished.sum())
        if mode is AutoresetMode.DISABLED and finished.any():
            other = sync.reset(options={"reset_mask": finished.copy()})
            obs, _ = batch.reset(options={"reset_mask": finished.copy()})
            assert_same(obs, other[0])
    assert episodes > 20


def test_reset_mask_leaves_the_others_as_they_are() -> None:
    batch = native(3, autoreset_mode="Disabled", features=["changed", "prompt"], tasks="suite")
    before, _ = batch.reset(seed=0)
    batch.step(np.array([EVERYTHING, NOTHING, NOTHING]))
    problems, buffer, nfe = list(batch.problems), batch.batch.buffer.clone(), batch.batch.nfe.tolist()
    seen = batch.observe(batch.view)
    obs, infos = batch.reset(options={"reset_mask": np.array([True, False, False])})
    assert batch.problems[0] != problems[0]
    assert batch.problems[1:] == problems[1:]
    assert batch.batch.nfe.tolist() == [1, *nfe[1:]] == infos["nfe"].tolist()
    assert torch.equal(batch.batch.buffer[1:], buffer[1:])
    for name in obs:
        assert np.array_equal(obs[name][1:], seen[name][1:])
    assert obs["masked"][0].all()
    assert before["masked"].all()


def test_a_row_of_a_group_begins_its_groups_problem_again() -> None:
    env = sampling(16, autoreset_mode="Disabled", episodes=GROUPS)
    env.reset(seed=0)
    before, sampled = list(env.problems), env.view.prediction.tolist()
    env.reset(options={"reset_mask": np.arange(16) == 3})
    assert env.problems == before
    assert env.view.prediction[3].tolist() != sampled[3]
    env.reset(options={"reset_mask": np.arange(16) < 8})
    assert env.problems[0] != before[0]
    assert env.problems[8:] == before[8:]


def test_vector_wrappers_that_refuse_same_step_take_the_other_modes() -> None:
    with pytest.raises(ValueError, match="Expected autoreset_mode to be NEXT_STEP"):
        FlattenObservation(native(2))
    env = FlattenObservation(RecordEpisodeStatistics(native(2, autoreset_mode="NextStep")))
    obs, _ = env.reset(seed=0)
    assert obs.shape == (2, 3 * L + 1)
    obs, _, done, _, infos = env.step(np.array([EVERYTHING, NOTHING]))
    assert done.tolist() == [True, False]
    assert infos["episode"]["l"].tolist() == [1, 0]
    env.step(np.array([NOTHING, NOTHING]))  # row 0 rests
    assert env.unwrapped.batch.nfe.tolist() == [1, 3]  # type: ignore[attr-defined]


def test_a_masked_reset_ends_the_rest_of_a_finished_row() -> None:
    env = native(2, autoreset_mode="NextStep")
    env.reset(seed=0)
    env.step(np.array([EVERYTHING, NOTHING]))
    env.reset(options={"reset_mask": np.array([True, False])})
    began = env.problems[0]
    _, _, _, _, infos = env.step(np.array([NOTHING, NOTHING]))
    assert env.problems[0] == began
    assert infos["commits"].tolist() == [1, 1]


# Problems that are asked for.


@pytest.mark.parametrize(
    ("asked", "indices"),
    [
        (5, [5, 5]),
        ([4, 5], [4, 5]),
        (("copy", 3), [3, 3]),
        ([TASKS["copy"]().problem("train", 9), ("copy", 1)], [9, 1]),
    ],
)
def test_reset_begins_with_the_problem_that_is_asked_for(asked: Any, indices: list[int]) -> None:
    env = native(2)
    env.reset(options={"problem": asked})
    task = TASKS["copy"]()
    assert env.problems == [task.problem("train", index) for index in indices]
    assert env.batch.denoiser.decode(env.view.prediction[1].tolist()) == env.problems[1].answer


def test_a_list_may_leave_rows_to_chance_and_the_single_env_takes_one() -> None:
    drawn, mixed = native(2, tasks="suite"), native(2, tasks="suite", split="test")
    mixed.reset(seed=3, options={"problem": [None, ("sort", 2)]})
    assert mixed.problems[1] == TASKS["sort"]().problem("test", 2)
    drawn.reset(seed=3)
    env = single(tasks="suite")
    env.reset(seed=3, options={"problem": ("sort", 2)})
    assert env.rows.problems[0] == TASKS["sort"]().problem("train", 2)
    env.reset(seed=3)
    assert env.rows.problems[0] == drawn.problems[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problems": 3}, "options has 'problems': it can have problem and reset_mask"),
        ({"problem": 3}, "problem is 3: it must be a Problem, a pair"),
        ({"problem": ("sums", 3)}, "problem is of task 'sums': this env has copy, sort"),
        ({"problem": ("copy", -1)}, "index is -1"),
        ({"problem": [("copy", 1)]}, "problem has 1 entries: a list must have one a row, 2"),
        ({"reset_mask": np.array([1, 0])}, "reset_mask is int64"),
        ({"reset_mask": np.array([True])}, r"of shape \(1,\)"),
        ({"reset_mask": np.zeros(2, dtype=bool)}, "one or more true"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native(2, tasks=["copy", "sort"]).reset(options=options)


def test_rows_of_a_group_cant_begin_different_problems() -> None:
    env = native(8, autoreset_mode="Disabled", episodes=GROUPS)
    with pytest.raises(ValueError, match="problem of row 1 is not that of its group: rows 0 to 7"):
        env.reset(options={"problem": list(range(8))})
    env.reset(options={"problem": 4})
    assert [problem.index for problem in env.problems] == [4] * 8


# What a step tells.


def test_every_step_counts_forwards_commits_and_masks() -> None:
    env = native(2, autoreset_mode="Disabled", block_length=4)
    _, infos = env.reset(options={"problem": 0})
    assert (infos["nfe"].tolist(), infos["commits"].tolist()) == ([1, 1], [0, 0])
    left = infos["masks_left"]
    action = np.array([[1, 1, 0, 0, 1, 0, 0, 0], NOTHING])
    _, _, _, _, infos = env.step(action)
    assert infos["commits"].tolist() == [2, 1]
    assert infos["masks_left"].tolist() == (left - [2, 1]).tolist()
    assert infos["nfe"].tolist() == [2, 2]


def test_closing_time_is_the_share_of_steps_used_in_every_env() -> None:
    for steps in (1, 3):
        env, batch = single(), native(2)
        env.reset(seed=0)
        batch.reset(seed=0)
        for _ in range(steps - 1):
            env.step(NOTHING)
            batch.step(np.array([NOTHING, NOTHING]))
        obs, *_ = env.step(EVERYTHING)
        infos = batch.step(np.array([EVERYTHING, NOTHING]))[4]
        assert obs["time"].tolist() == infos["final_obs"][0]["time"].tolist() == [steps / L]


# Actions.


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.3, 0.5, 0.49, 0.0, -1.0, 1.0, 7.0, 0.2], [0, 1, 0, 0, 0, 1, 1, 0]),
        ([0, 1, 2, 0, 0, 0, 0, -1], [0, 1, 1, 0, 0, 0, 0, 1]),
    ],
)
def test_floats_commit_from_one_half_on(row: list[float], expected: list[int]) -> None:
    env = native(1)
    env.reset(seed=0)
    obs, *_ = env.step(np.array([row]))
    assert (1 - obs["masked"][0]).tolist() == expected


@pytest.mark.parametrize("actions", [np.full((1, L), np.nan), np.full((1, L), "x"), np.full((1, L), 1j)])
def test_actions_that_are_no_choice_are_refused(actions: Any) -> None:
    env = native(1)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions"):
        env.step(actions)


@pytest.mark.parametrize("make", [lambda: native(2, block_length=4), lambda: single(block_length=4)])
def test_action_masks_allow_commits_where_eligible(make: Callable[[], Any]) -> None:
    env = make()
    obs, _ = env.reset(seed=0)
    masks = env.action_masks().reshape(*obs["eligible"].shape, 2)
    assert masks[..., 0].all()
    assert np.array_equal(masks[..., 1], obs["eligible"] > 0)


def test_render_gives_a_frame_a_row() -> None:
    env = native(3, render_mode="rgb_array")
    env.reset(seed=0)
    frames = env.render()
    assert isinstance(frames, tuple)
    assert [frame.ndim for frame in frames] == [3] * 3
    assert len({frame.tobytes() for frame in frames}) == 3  # their prompts differ


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match=r"autoreset_mode is 'same'.*'NextStep', 'SameStep', 'Disabled'"):
        native(1, autoreset_mode="same")


def test_few_problems_come_again_and_each_as_often_as_its_task_weighs() -> None:
    tasks = make_tasks(["copy", "sort", "add"])
    episodes = Episodes(1, tasks=tasks, split="train", block_lengths=[8], num_problems=5, task_weights=[0.0, 1.0, 3.0])
    episodes.seed(0, np.random.default_rng(0))
    drawn = [episodes.begin([0])[0].problem for _ in range(4000)]
    counts = {task.name: sum(problem.task == task.name for problem in drawn) for task in tasks}
    assert counts["copy"] == 0
    # 5 standard deviations of a binomial of 4000 draws at 1/4.
    assert abs(counts["sort"] - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    firsts = {task.name: {task.wrapped_problem("train", i).prompt for i in range(5)} for task in tasks}
    for name in ("sort", "add"):
        assert {problem.prompt for problem in drawn if problem.task == name} == firsts[name]


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
def test_weights_that_cannot_be_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"task_weights is .* one of 0 or more for each of 2 tasks \(copy, sort\)"):
        Episodes(1, tasks=make_tasks(["copy", "sort"]), split="train", block_lengths=[8], task_weights=weights)
