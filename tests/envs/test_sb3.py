from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from envs import UnmaskingEnv, UnmaskingVectorEnv
from envs.sb3 import SB3VecEnv

N, L = 3, 8
KWARGS: dict[str, Any] = {
    "denoiser": "toy",
    "tasks": ["copy", "add"],
    "buffer_length": L,
    "block_length": 4,
    "features": ["margin"],
    "reward": "forward_cost",
    "alpha": 0.1,
}


def adapter() -> SB3VecEnv:
    return SB3VecEnv(UnmaskingVectorEnv(N, **KWARGS))


def assert_same_obs(one: Any, two: Any) -> None:
    one, two = (obs if isinstance(obs, dict) else {"": obs} for obs in (one, two))
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == two[name].dtype
        assert np.array_equal(one[name], two[name])


def assert_same_course(one: VecEnv, two: VecEnv, steps: int) -> tuple[int, int]:
    """Step both with the same actions; return how many episodes ended, and how many of them were truncated."""
    ended, cut = 0, 0
    for env in (one, two):
        env.seed(5)
        env.action_space.seed(1)
    assert_same_obs(one.reset(), two.reset())
    assert one.reset_infos == two.reset_infos
    for _ in range(steps):
        actions = np.array([one.action_space.sample() for _ in range(one.num_envs)])
        obs, rewards, dones, infos = one.step(actions)
        other_obs, other_rewards, other_dones, other_infos = two.step(actions)
        assert_same_obs(obs, other_obs)
        assert rewards.dtype == other_rewards.dtype == np.float32
        assert np.array_equal(rewards, other_rewards)
        assert dones.dtype == other_dones.dtype == bool
        assert np.array_equal(dones, other_dones)
        for done, info, other in zip(dones, infos, other_infos, strict=True):
            if done:
                assert_same_obs(info.pop("terminal_observation"), other.pop("terminal_observation"))
                assert info == other
                cut += info["TimeLimit.truncated"]
            else:
                assert info == {name: value for name, value in other.items() if name != "TimeLimit.truncated"}
        ended += int(dones.sum())
    return ended, cut


@pytest.mark.slow
def test_agrees_with_sb3s_own_vec_env() -> None:
    single_envs = DummyVecEnv([lambda: UnmaskingEnv(**KWARGS)] * N)
    env = adapter()
    assert env.num_envs == N
    assert env.observation_space == single_envs.observation_space
    assert env.action_space == single_envs.action_space
    ended, cut = assert_same_course(env, single_envs, 100)
    assert ended > 50
    assert cut == 0


def test_truncation_of_another_env_is_told_apart() -> None:
    kwargs: dict[str, Any] = {"vectorization_mode": "sync", "max_episode_steps": 20}
    same_step = gymnasium.make_vec(
        "CartPole-v1", 2, vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}, **kwargs
    )
    singles = DummyVecEnv([lambda: gymnasium.make("CartPole-v1", max_episode_steps=20)] * 2)
    ended, cut = assert_same_course(SB3VecEnv(same_step), singles, 200)
    assert 0 < cut < ended


def test_info_of_a_finished_row() -> None:
    env = adapter()
    env.seed(0)
    env.reset()
    infos: list[dict[str, Any]] = []
    while not infos:
        obs, _, dones, all_infos = env.step(np.ones((N, L), dtype=np.int8))
        infos = [info for info in all_infos if "score" in info]
    expected = {"score", "nfe", "commits", "masks_left", "token_positions", "task", "text"}
    expected |= {"terminal_observation", "TimeLimit.truncated"}
    assert all(info.keys() == expected for info in infos)
    assert dones.sum() == len(infos)
    assert all(info["TimeLimit.truncated"] is False for info in infos)
    for info in infos:
        assert env.observation_space.contains(info["terminal_observation"])
        assert not info["terminal_observation"]["masked"].any()
    assert isinstance(obs, dict)
    assert obs["masked"][dones].all()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_refuses_other_autoreset_modes(mode: AutoresetMode) -> None:
    env = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    with pytest.raises(ValueError, match=rf"{mode}.*SAME_STEP"):
        SB3VecEnv(env)


def test_vec_monitor(tmp_path: Path) -> None:
    env = VecMonitor(adapter(), str(tmp_path / "monitor.csv"), info_keywords=("score", "nfe"))
    env.seed(2)
    env.reset()
    returns, episodes = np.zeros(N), 0
    for _ in range(20):
        _, rewards, dones, infos = env.step(np.tile(np.eye(L, dtype=np.int8)[0], (N, 1)))
        returns += rewards
        for row in np.flatnonzero(dones):
            episode = infos[row]["episode"]
            assert episode["r"] == pytest.approx(returns[row], abs=1e-5)
            assert episode["l"] == episode["nfe"] == infos[row]["nfe"]
            returns[row], episodes = 0, episodes + 1
    env.close()
    assert episodes > 3
    assert len((tmp_path / "monitor.csv").read_text().splitlines()) == 2 + episodes


def test_seeding() -> None:
    env = adapter()
    env.seed(3)
    first = env.reset()
    second = env.reset()  # the seeds are spent: new problems
    env.seed(3)
    assert_same_obs(env.reset(), first)
    assert_same_obs(env.reset(), second)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert not np.array_equal(first["confidence"], second["confidence"])


def test_attributes_belong_to_the_batch() -> None:
    env = adapter()
    assert env.get_attr("split") == ["train"] * N
    assert env.get_attr("num_envs", [0, 2]) == [N, N]
    assert env.env_is_wrapped(VecMonitor) == [False] * N
    with pytest.raises(NotImplementedError, match="share"):
        env.set_attr("split", "test")
    with pytest.raises(NotImplementedError, match="no sub-envs"):
        env.env_method("render")


def test_ppo_trains_on_it() -> None:
    model = PPO("MultiInputPolicy", adapter(), n_steps=4, batch_size=6, n_epochs=1, seed=0, device="cpu")
    assert model.learn(24).num_timesteps == 24


def test_maskable_ppo_trains_on_it() -> None:
    """sb3-contrib asks each row which bits it may set; nothing ineligible is then ever chosen."""
    env, chosen = adapter(), []
    step_async = env.step_async

    def watch(actions: np.ndarray) -> None:
        chosen.append(actions & ~env.env.unwrapped.batch.view.eligible.numpy())  # type: ignore[attr-defined]
        step_async(actions)

    env.step_async = watch  # type: ignore[method-assign]
    model = MaskablePPO("MultiInputPolicy", env, n_steps=8, batch_size=12, n_epochs=1, seed=0, device="cpu")
    assert model.learn(48).num_timesteps == 48
    assert len(chosen) == 16
    assert not np.any(chosen)
    single_env = UnmaskingEnv(**KWARGS)
    MaskablePPO("MultiInputPolicy", single_env, n_steps=4, batch_size=4, n_epochs=1, device="cpu").learn(4)
