"""What a training job is built from: the dLLM, the env, the network and the algorithm, as its configuration says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecMonitor

from envs.decoding.first_forwards import remember_problems
from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.episodes import Episodes
from envs.sb3 import SB3VecEnv
from envs.tasks import make_tasks
from envs.unmasking import UnmaskingVectorEnv
from policies import UnmaskingNetwork, load, make_rule
from policies.actor_critic import UnmaskingActorCritic
from policies.files import one_line
from policies.networks.config import OWN_WIDTH
from policies.networks.dit import DiTConfig
from policies.networks.kinds import NetworkSpec, PolicyNetwork
from policies.networks.transformer_config import NetworkConfig
from train.algorithms.group_episodes import GroupEpisodes
from train.command import checkpoint, parallel
from train.command.errors import UserError
from train.command.lock import FREE
from train.command.run_files import RunFiles
from train.command.run_folder import differences, read_settings, word
from train.job.config import JobConfig
from train.job.price import price_of

PartT = TypeVar("PartT", NetworkConfig, DiTConfig)


@dataclass(frozen=True)
class Algorithm:
    """What tells one algorithm's job from another's.

    Attributes:
        cls: a Stable-Baselines3 algorithm.
        arguments: of its constructor, beyond those that every job gives.
        policy_kwargs: of `UnmaskingActorCritic`, likewise.
        group_size: rollouts of each problem that are compared with each other; None for independent episodes.
        experts: rules that decode further rows of each group.
        expert_block: positions of their blocks.
        trial_arguments: of the constructor, where a dry run needs others.
    """

    cls: type[OnPolicyAlgorithm]
    arguments: Mapping[str, Any]
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    group_size: int | None = None
    experts: tuple[str, ...] = ()
    expert_block: int = 32
    trial_arguments: Mapping[str, Any] = field(default_factory=dict)


def stream_seed(seed: int, stream: int, rank: int = 0) -> int:
    """Return a seed for one purpose of a run, unrelated to those of other purposes, other runs and other processes."""
    # The first process's seeds are those of a training in one process.
    parts = [seed, stream, rank] if rank else [seed, stream]
    return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)


def load_filter(config: JobConfig) -> PolicyNetwork | None:
    """Load the filter to build on, if there is one.

    Raises:
        UserError: if it can't be what it is to be: a start that is tied to one block or has a filter of its own, a
            policy with a speed dial that is to be anything else than the start of another, or one that reads another
            dLLM's hidden states.
        ValueError: if it is tied to another block length.
    """
    folder, role = config.filter.folder, config.filter.role
    if config.filter.is_learned:
        return UnmaskingNetwork(filter_shape(config))  # what will be learned has its shape
    if folder is None:
        return None
    try:
        policy = load(folder)
    except (ValueError, FileNotFoundError) as error:
        raise UserError(f"filter.folder is {folder!r}: {str(error).removeprefix(f'policy is {folder!r}: ')}") from None
    network = policy.network
    if policy.has_dial and (role != "start" or not config.env.alpha_range):
        missing = ["set filter.role to start"] if role != "start" else []
        missing += [] if config.env.alpha_range else ["give env.alpha_range, slowest and fastest"]
        raise UserError(
            f"filter.folder is {folder!r}: that policy has a speed dial and can't be a filter; to go on learning from "
            f"it, {' and '.join(missing)}"
        )
    if role != "feature" and not isinstance(network, UnmaskingNetwork):
        raise UserError(
            f"filter.role is {role!r}: the filter in {folder!r} is no transformer (one tied to a block, or the paper's "
            "network) and can't be a start; choose feature, or a transformer filter"
        )
    try:
        policy.spec.check_hidden(load_model(config))
    except ValueError as error:
        raise UserError(f"filter.folder is {folder!r}: its {error}") from None
    for block in (*config.env.block_lengths, *config.evaluation.block_lengths) or (None,):
        policy.spec.check_block(DecodingSettings(block_length=block, **config.env.decoding))
    if role == "feature" or not isinstance(network, UnmaskingNetwork):
        return network
    if network.filter is not None:
        raise UserError(f"filter.role is {role!r}: the policy in {folder!r} has a filter of its own; choose feature")
    return network


def filter_shape(config: JobConfig) -> NetworkConfig:
    """Return the architecture of the filter that the job learns: the policy's, as far as a filter can learn it."""
    reads = config.filter.reads_hidden_states
    return (_with_width(config, config.policy) if reads else config.policy).as_filter(reads)


def starts_as(config: JobConfig, inner: PolicyNetwork | None) -> UnmaskingNetwork | None:
    """Return the network that the policy is to start as, if that is the filter: at its threshold, and as steep."""
    if not isinstance(inner, UnmaskingNetwork) or config.filter.role == "feature":
        return None
    return inner.steeper(config.filter.steepness, config.filter.threshold)


def spec_of(config: JobConfig, inner: PolicyNetwork | None) -> NetworkSpec:
    """Describe the policy's network; its architecture is the filter's where that is the start."""
    if config.dit is not None:
        return NetworkSpec("dit", _with_width(config, config.dit))
    start = starts_as(config, inner)
    own = _with_width(config, config.policy)
    shape = own if start is None else start.config
    if not shape.has_dial:
        shape = replace(shape, has_dial=bool(config.env.alpha_range), dial_rise=own.dial_rise)
    # A filter learns from traces, which hold nothing of a cache and often no hidden states: what starts as one may read
    # these and refresh that all the same.
    if own.hidden_state_size and not shape.hidden_state_size:
        shape = replace(shape, hidden_state_size=own.hidden_state_size, hidden_state_use=own.hidden_state_use)
    if own.decides_refresh and not shape.decides_refresh:
        shape = replace(shape, decides_refresh=True, refresh_bias=own.refresh_bias)
    is_input = inner is not None and config.filter.role != "start"
    return NetworkSpec("transformer", shape, NetworkSpec.of(inner) if inner is not None and is_input else None)


def _with_width(config: JobConfig, part: PartT) -> PartT:
    """Fill in the width of the dLLM's hidden states, where a network reads them whatever it is."""
    if part.hidden_state_size != OWN_WIDTH:
        return part
    return replace(part, hidden_state_size=load_model(config).hidden_size)


def load_model(config: JobConfig) -> Denoiser:
    """Load the dLLM, or return the one already loaded."""
    return config.model.load()


def share(config: JobConfig, group_size: int = 1) -> JobConfig:
    """Return this process's part of a data-parallel training: its device and its rows.

    Args:
        config: of the whole job.
        group_size: rows that must stay in one process.

    Raises:
        ValueError: if the rows can't be shared out, or the device is one that processes can't share.
    """
    size = parallel.world_size()
    if size == 1:
        return config
    if config.env.num_envs % (size * group_size):
        groups = f" and groups of {group_size}" if group_size > 1 else ""
        raise ValueError(
            f"env.num_envs is {config.env.num_envs}: it must be a multiple of {size * group_size}, for {size} "
            f"processes{groups}"
        )
    own = parallel.own_device(config.model.device)
    rows = config.env.num_envs // size
    return replace(config, model=replace(config.model, device=own), env=replace(config.env, num_envs=rows))


def make_env(config: JobConfig, denoiser: Denoiser, algorithm: Algorithm, inner: PolicyNetwork | None) -> VecMonitor:
    """Build the training env for Stable-Baselines3; experts' rows come on top of ``env.num_envs``.

    Args:
        config: of the job.
        denoiser: the frozen dLLM.
        algorithm: to train with.
        inner: the filter to build on, as `load_filter` returned it.
    """
    env, spec = config.env, spec_of(config, inner)
    spec.check_hidden(denoiser)
    features = set(spec.features)
    for rule in algorithm.experts:
        features |= make_rule(rule).features
    group, experts = algorithm.group_size, len(algorithm.experts)
    # Attempts that are compared begin together: GRPO resets all rows itself.
    mode = AutoresetMode.SAME_STEP if group is None else AutoresetMode.DISABLED
    tasks = make_tasks(env.tasks)
    weights = env.weights_of([task.name for task in tasks]) if env.task_weights else []
    rows: Callable[..., Episodes] = Episodes
    if group is not None:
        blocks = [algorithm.expert_block] * experts
        rows = partial(GroupEpisodes, group_size=group + experts, expert_blocks=blocks)
    if env.problems is not None:
        endless = [task for task in tasks if task.size("train") is None]
        places = product(endless, range(env.problems))
        again = [task.wrapped_problem("train", index) for task, index in places]
        settings = DecodingSettings(features=frozenset(features), **env.decoding)
        denoiser = remember_problems(denoiser, again, settings, env.num_envs)
    batch = UnmaskingVectorEnv(
        env.num_envs if group is None else env.num_envs // group * (group + experts),
        denoiser=denoiser,
        tasks=env.tasks,
        split="train",
        block_length=env.block_lengths or None,
        **env.decoding,
        reward=env.reward,
        price=price_of(config),
        alpha=env.alpha_range or env.alpha,
        features=sorted(features),
        # GRPO keeps its own steps; SB3's buffer is made of observations.
        observes_tensors=group is None,
        decides_refresh=spec.config.decides_refresh,
        autoreset_mode=mode,
        episodes=partial(rows, num_problems=env.problems, task_weights=weights),
    )
    return VecMonitor(SB3VecEnv(batch, mode), info_keywords=("score", "nfe", "token_positions"))


def make_model(
    config: JobConfig, env: VecMonitor, algorithm: Algorithm, inner: PolicyNetwork | None
) -> OnPolicyAlgorithm:
    """Build the algorithm, as it begins.

    Args:
        config: of the job.
        env: of `make_env`.
        algorithm: to train with.
        inner: the filter to build on, as `load_filter` returned it.
    """
    model = algorithm.cls(
        UnmaskingActorCritic,
        env,
        policy_kwargs={
            "network": spec_of(config, inner),
            "actions": config.actions,
            **algorithm.policy_kwargs,
        },
        stats_window_size=1000,
        seed=stream_seed(config.seed, 0),
        device=config.model.device,
        **algorithm.arguments,
    )
    # The network was built from its description: the filter's weights follow.
    network, start = model.policy.network, starts_as(config, inner)
    if inner is not None and isinstance(network, UnmaskingNetwork):
        if network.filter is not None:
            network.filter.load_state_dict(inner.state_dict())
        if start is not None:
            network.start_as(start)
    if not parallel.is_main():
        # The same weights everywhere, but episodes of its own.
        model.set_random_seed(stream_seed(config.seed, 0, parallel.rank()))
    return model


def resume(config: JobConfig, model: OnPolicyAlgorithm) -> Mapping[str, Any]:
    """Let an algorithm go on from the run's last checkpoint, if it is to and there is one.

    Args:
        config: of the job.
        model: as `make_model` returned it.

    Returns:
        ``validation``, the state of its tries on validation problems, and ``logged``, what its last update recorded;
        nothing where it begins.

    Raises:
        UserError: if the checkpoint is damaged, or of another training.
    """
    file = checkpoint_file(config)
    if not config.resume or not file.exists():
        return {}
    try:
        state = checkpoint.read(file)
        if "run" not in state:
            raise ValueError("it is of an earlier version, which didn't write of which run it is")
        # A finished training may be given more steps in its config.yaml.
        changed = differences(state["run"], run_settings(file), (*FREE, "total_timesteps"))
        if changed:
            raise ValueError(f"it is of another run: {word(changed)}")
        # A last rollout may be one of whole episodes.
        rollout = max(model.n_steps, 4 * config.env.buffer_length)
        most = config.total_timesteps + parallel.world_size() * model.n_envs * rollout
        if not 0 <= state["counters"]["num_timesteps"] < most:
            counted = str(state["counters"]["num_timesteps"])[:20]
            raise ValueError(f"it counts {counted} steps of {config.total_timesteps}")
        # Rows that are under way can only go on where as many processes find their own parts.
        is_whole = state["processes"] == parallel.world_size()
        if is_whole and not parallel.is_main():
            part = rank_file(file, state["counters"]["num_timesteps"])
            is_whole = part.is_file()
            if is_whole:
                state |= checkpoint.read(part)
        more = {"validation": dict(state["validation"]), "logged": numbers_of(state["logged"])}
        checkpoint.restore(model, state, is_whole)
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else one_line(error)
        raise UserError(f"checkpoint {file} can't be read ({said}): delete it to start over") from error
    if not is_whole:
        # The rows that were under way were shared out otherwise, or not saved: new problems instead.
        model.set_random_seed(stream_seed(config.seed, 1 + model.num_timesteps, parallel.rank()))
    return more


def run_settings(file: Path) -> dict[str, Any]:
    """Return the configuration of the run that a checkpoint's file is of; nothing where no command has written one."""
    folder = file.parents[1]
    return read_settings(folder) if RunFiles(folder).config.is_file() else {}


def numbers_of(logged: Mapping[str, Any]) -> dict[str, float]:
    """Return what a checkpoint says was logged.

    Raises:
        TypeError: if it is no mapping of names to numbers.
    """
    odd = [name for name, value in logged.items() if not isinstance(name, str) or not isinstance(value, Real)]
    if odd:
        raise TypeError(f"{odd[0]!r} was logged, which is no number")
    return dict(logged)


def checkpoint_file(config: JobConfig) -> Path:
    """Return where the latest checkpoint is."""
    return config.out / "checkpoints" / "latest.safetensors"


def rank_file(file: Path, steps: int | str) -> Path:
    """Return where this process, one of several beside the first, has its part of a checkpoint.

    Args:
        file: the first process's part.
        steps: environment steps of all processes until then.
    """
    return file.with_name(f"{file.stem}_{parallel.rank()}_of_{parallel.world_size()}_after_{steps}{file.suffix}")
