"""The Gymnasium environment: one frozen dLLM, a batch of prompts, and the choice of what to commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.beliefs import BEST_K
from envs.decoding import DecodingBatch, DecodingSettings, check_block
from envs.denoiser import Denoiser, load_denoiser
from envs.infilling import encode_all_given
from envs.render import render_ansi, render_rgb
from envs.reward import Preference, get_reward
from envs.tasks import SUITE, Problem, Split, make_tasks
from envs.view import OBSERVED_TENSORS, VIEW_FEATURES, Action, View

Observation = dict[str, npt.NDArray[np.float32]]

NATS = ("entropy", "logit_gap")
"""Features that are not probabilities or flags."""

MAX_NATS = 32.0
"""Their upper bound: above the log of any vocabulary, and beyond what float32 probabilities tell apart."""


def observation_space(settings: DecodingSettings, denoiser: Denoiser, has_dial: bool = False) -> spaces.Dict:
    """Return the space of one row's observation, in the order that `observe` fills it, with a ``speed`` or not."""
    shape = (settings.buffer_length,)
    boxes: dict[str, spaces.Space[Any]] = {
        name: spaces.Box(0.0, 1.0, shape, np.float32) for name in ("confidence", "masked", "eligible")
    }
    boxes["time"] = spaces.Box(0.0, 1.0, (1,), np.float32)
    for name in sorted(settings.features & VIEW_FEATURES):
        boxes[name] = spaces.Box(0.0, _highest(name), shape, np.float32)
    for name in sorted(settings.features & OBSERVED_TENSORS):
        is_hidden = name == "hidden"
        width = denoiser.hidden_size if is_hidden else BEST_K
        boxes[name] = spaces.Box(-np.inf if is_hidden else 0.0, _highest(name), (*shape, width), np.float32)
    if has_dial:
        boxes["speed"] = spaces.Box(0.0, 1.0, (1,), np.float32)
    return spaces.Dict(boxes)


def observe(view: View) -> Observation:
    """Turn a view into the env's observation, in numpy; see `envs.view.View.inputs`."""
    return {name: values.clamp(max=_highest(name)).cpu().numpy().copy() for name, values in view.inputs().items()}


def _highest(name: str) -> float:
    """Return the upper bound of a part of the observation."""
    if name == "hidden":
        return np.inf
    return MAX_NATS if name in NATS else 1.0


class UnmaskingVectorEnv(VectorEnv[Any, Any, Any]):
    """N sequences decoded side by side with one dLLM forward a step.

    ## Description
    A masked diffusion language model starts from a prompt followed by L mask tokens. At each step the agent says
    which masked positions to commit; the model's prediction is written there and never changed again.

    ## Action Space
    `MultiBinary(L)`: 1 commits a position. Bits at ineligible positions are ignored. An action with no eligible
    bit commits the most confident eligible position, so every step makes progress.

    ## Observation Space
    `Dict` of float32 boxes:

    * ``confidence`` (L,) in [0, 1]: the model's probability of its prediction, 1 at committed positions.
    * ``masked`` (L,): 1 where no token is committed.
    * ``eligible`` (L,): 1 where masked and in the row's current block.
    * ``time`` (1,): steps taken / L.
    * with an alpha range: ``speed`` (1,), where on the logarithmic dial the episode's alpha lies.
    * with ``features``: any of `envs.view.VIEW_FEATURES`, each (L,), such as ``margin``, ``entropy`` (nats),
      ``eos_probability``, ``is_eos``, ``changed``; and of `envs.view.OBSERVED_TENSORS`: ``best_probabilities`` (L, 50)
      in [0, 1] and ``hidden`` (L, D), unbounded, D the width of the dLLM's hidden states.

    ## Rewards
    At the end ``score * ((L - (NFE - 1)) / L) ** alpha`` by default; see `envs.reward`. Zero before.

    ## Starting State
    A problem drawn uniformly from the tasks and the split, every buffer position masked; where a problem gives part of
    the answer, only its blanks.

    ## Episode End
    Terminates when nothing is masked, or when everything before a committed end-of-text token is known (the rest
    becomes end-of-text). Never truncates: an episode takes at most L steps, 2 L if a policy remasks. Its last ``info``
    holds ``score``, ``nfe``, ``token_positions``, ``task`` and ``text``. The batch resets finished rows within the same
    step (`AutoresetMode.SAME_STEP`): one forward serves the rows that go on and the rows that begin.

    ## Arguments
    Args:
        num_envs: N.
        denoiser: the frozen dLLM, or a name for `envs.denoiser.load_denoiser`.
        tasks: names of tasks, or ``"suite"`` for all.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        buffer_length: L.
        block_length: positions of a block, decoded left to right; None for full diffusion (one block). Of several,
            each episode draws one.
        temperature: of the sampled token; 0 commits the argmax.
        reward: ``"multiplicative"``, ``"additive"`` or ``"forward_cost"``.
        alpha: weight of speed in the reward, or a range (slow, fast) from which each episode draws its own,
            log-uniformly; the observation then holds ``speed``.
        features: further per-position observations; those of `envs.view.VIEW_TENSORS` that are not of
            `envs.view.OBSERVED_TENSORS` are computed for policies that act on `view`, and not observed.
        end_of_text_prediction: see `envs.decoding.DecodingSettings`.
        initial_length: masks an episode starts from, for policies that change the length; None for all L.
        group_size: rows of a group, which share each problem, block length and alpha, for algorithms that compare
            attempts (GRPO). No row is then reset by itself (`AutoresetMode.DISABLED`): a finished one waits, blank, its
            actions ignored and unpaid, until `reset` starts the next problems. None for independent rows.
        expert_blocks: block lengths of the last rows of each group, which a rule rather than the policy is to decode.
        render_mode: None, ``"ansi"`` or ``"rgb_array"``; both show row 0.

    Raises:
        ValueError: if an argument is not possible; the message names it.

    ## Version History
    * v0: first version.
    """

    metadata: dict[str, Any] = {
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 2,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        denoiser: Denoiser | str = "tiny",
        tasks: str | Sequence[str] = SUITE,
        split: Split = "train",
        buffer_length: int = 64,
        block_length: int | Sequence[int] | None = None,
        temperature: float = 0.0,
        reward: str = "multiplicative",
        alpha: float | Sequence[float] = 8.0,
        features: Sequence[str] = (),
        end_of_text_prediction: bool = False,
        initial_length: int | None = None,
        group_size: int | None = None,
        expert_blocks: Sequence[int] = (),
        render_mode: str | None = None,
    ) -> None:
        if group_size is not None and (group_size <= len(expert_blocks) or num_envs % group_size):
            raise ValueError(
                f"group_size is {group_size}: it must divide num_envs, {num_envs}, and exceed a group's experts, "
                f"{len(expert_blocks)}"
            )
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}: it must be 1 or more")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode is {render_mode!r}: choose None, 'ansi' or 'rgb_array'")
        blocks: Sequence[int | None] = block_length if isinstance(block_length, Sequence) else [block_length]
        if not blocks:
            raise ValueError("block_length is an empty list: give None for full diffusion, or the lengths to draw from")
        # The first is the settings'; making them of each checks it.
        settings, *_ = [
            DecodingSettings(buffer_length, block, temperature, frozenset(features), end_of_text_prediction)
            for block in (*blocks, *expert_blocks)
        ]
        self.denoiser = load_denoiser(denoiser) if isinstance(denoiser, str) else denoiser
        for block in (*blocks, *expert_blocks):
            check_block(self.denoiser, block or buffer_length)
        self.tasks = {task.name: task for task in make_tasks(tasks)}
        self.split: Split = split
        self.reward = get_reward(reward)
        self.has_dial = not isinstance(alpha, int | float)
        ends = [float(end) for end in np.atleast_1d(np.asarray(alpha, dtype=np.float64))]
        if len(ends) > 2:
            raise ValueError(f"alpha is {alpha}: it must be a number or a range of two")
        self.preference = Preference(ends[0], ends[-1])
        self.speed = np.zeros(num_envs, dtype=np.float32)
        """(N,) float32 in [0, 1], each row's place on the dial."""
        self.batch = DecodingBatch(self.denoiser, num_envs, settings)
        self.initial_length = initial_length
        self.group_size, self.expert_blocks = group_size, list(expert_blocks)
        if group_size is not None:
            self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.block_lengths = [int(block or buffer_length) for block in blocks]
        self.problems: list[Problem] = [next(iter(self.tasks.values())).wrapped_problem(split, 0)] * num_envs
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = observation_space(settings, self.denoiser, self.has_dial)
        self.single_action_space = spaces.MultiBinary(buffer_length)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]

    @property
    def view(self) -> View:
        """What the policy may look at in this step, as tensors; decoding rules read it."""
        return self.batch.view

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a new episode in every row.

        Args:
            seed: row i draws its problems from ``seed + i``; a list gives one seed a row; None goes on with the
                generators as they are.
            options: not used.
        """
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed
        if seeds is not None:
            if len(seeds) != self.num_envs:
                raise ValueError(f"seed has {len(seeds)} entries: it must have one a row, {self.num_envs}")
            for i, row_seed in enumerate(seeds):
                if row_seed is not None:
                    # The generator that Gymnasium's single env makes from the same seed.
                    self._generators[i] = gym.utils.seeding.np_random(int(row_seed))[0]
        self.begin(range(self.num_envs))
        self.batch.forward()
        return self.observe(self.batch.view), {}

    def observe(self, view: View) -> Observation:
        """Return a view as the env's observation."""
        dial = {"speed": self.speed[:, None].copy()} if self.has_dial else {}
        return {**observe(view), **dial}

    def step(
        self, actions: npt.ArrayLike | Action
    ) -> tuple[Observation, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Commit, restart the finished rows, and run the dLLM once.

        Args:
            actions: (N, L) of 0 and 1, or what an `UnmaskingPolicy` decided on `view`.
        """
        rewards, terminated, finals = self.commit(actions)
        infos: dict[str, Any] = {}
        if finals:
            closing = self.observe(self.batch.blank_view())
            for row, final_info in finals.items():
                final_obs = {name: values[row] for name, values in closing.items()}
                infos = self._add_info(infos, {"final_obs": final_obs, "final_info": final_info}, row)
            if self.group_size is None:
                self.begin(list(finals))
        self.batch.forward()
        return self.observe(self.batch.view), rewards, terminated, np.zeros_like(terminated), infos

    def begin(self, rows: Sequence[int]) -> None:
        """Load the next problem of each of these rows; of a group, all rows, of which the first draws."""
        names = list(self.tasks)
        prompts: list[list[int]] = []
        blocks: list[int] = []
        for row in rows:
            first = row - row % (self.group_size or 1)
            if row != first:
                self.problems[row], self.speed[row] = self.problems[first], self.speed[first]
                prompts.append(prompts[-1])
                blocks.append(blocks[-1])
                continue
            generator = self._generators[row]
            task = self.tasks[names[int(generator.integers(len(names)))]]
            self.problems[row] = task.wrapped_problem(self.split, int(generator.integers(2**31)))
            prompts.append(self.denoiser.encode_prompt(self.problems[row].prompt))
            if self.has_dial:
                self.speed[row] = generator.random()
            # Nothing is drawn where there is no choice, so that problems follow from the seed as they always have.
            choice = int(generator.integers(len(self.block_lengths))) if len(self.block_lengths) > 1 else 0
            blocks.append(self.block_lengths[choice])
        blocks = [self._expert_block(row) or block for row, block in zip(rows, blocks, strict=True)]
        given = encode_all_given(self.denoiser, [self.problems[row].given for row in rows])
        self.batch.load(rows, prompts, length=self.initial_length, block_lengths=blocks, given=given)

    def _expert_block(self, row: int) -> int | None:
        """Return the block length of an expert's row, None for others."""
        if self.group_size is None:
            return None
        place = row % self.group_size - (self.group_size - len(self.expert_blocks))
        return self.expert_blocks[place] if place >= 0 else None

    def commit(
        self, actions: npt.ArrayLike | Action
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], dict[int, dict[str, Any]]]:
        """Apply the actions and score what they finish.

        Returns:
            rewards: (N,) float64.
            terminated: (N,) bool.
            finals: the closing info of each finished row.
        """
        if not isinstance(actions, Action):
            actions = Action(torch.from_numpy(np.asarray(actions) != 0).to(self.batch.masked.device))
        if actions.commit.shape != self.batch.masked.shape:
            shapes = f"{tuple(actions.commit.shape)}: expected {tuple(self.batch.masked.shape)}"
            raise ValueError(f"actions have shape {shapes}")
        running = self.batch.running.cpu().numpy()
        terminated = self.batch.apply(actions).cpu().numpy()
        alpha = self.preference.alpha(self.speed)
        rewards = np.where(running, self.reward.per_step(alpha), 0.0)
        finals = {int(row): self._final_info(int(row)) for row in np.flatnonzero(terminated)}
        if finals:
            rows = list(finals)
            scores = np.array([finals[row]["score"] for row in rows])
            nfe = np.array([finals[row]["nfe"] for row in rows])
            rewards[rows] += self.reward.final(scores, nfe, self.batch.settings.buffer_length, alpha[rows])
        return rewards, terminated, finals

    def _final_info(self, row: int) -> dict[str, Any]:
        problem = self.problems[row]
        text = self.denoiser.decode(self.batch.tokens(row))
        return {
            "score": self.tasks[problem.task].score(text, problem),
            "nfe": int(self.batch.nfe[row]),
            "token_positions": int(self.batch.token_positions[row]),
            "task": problem.task,
            "text": text,
        }

    def render(self) -> Any:
        """Show row 0: a coloured line (``"ansi"``) or an image (``"rgb_array"``)."""
        if self.render_mode is None:
            raise ValueError("render_mode is None: make the env with render_mode='ansi' or 'rgb_array'")
        draw = render_ansi if self.render_mode == "ansi" else render_rgb
        return draw(self.batch, 0, self.problems[0].prompt)


class UnmaskingEnv(gym.Env[Observation, npt.NDArray[np.int8]]):
    """One sequence: the batch-of-one view of `UnmaskingVectorEnv`, which documents spaces, rewards and arguments.

    >>> env = UnmaskingEnv(denoiser="toy", tasks="copy", buffer_length=8)
    >>> observation, info = env.reset(seed=0)
    >>> observation["masked"]
    array([1., 1., 1., 1., 1., 1., 1., 1.], dtype=float32)
    >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample() | 1)
    >>> env.close()

    Args:
        render_mode: None, ``"ansi"`` or ``"rgb_array"``.
        **kwargs: the arguments of `UnmaskingVectorEnv`, without ``num_envs``.
    """

    metadata: dict[str, Any] = {
        "render_modes": UnmaskingVectorEnv.metadata["render_modes"],
        "render_fps": UnmaskingVectorEnv.metadata["render_fps"],
    }

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        self.rows = UnmaskingVectorEnv(1, render_mode=render_mode, **kwargs)
        self.render_mode = render_mode
        self.observation_space = self.rows.single_observation_space
        self.action_space = self.rows.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a new episode; see `gymnasium.Env.reset`."""
        super().reset(seed=seed)
        self.rows._generators = [self.np_random]
        obs, info = self.rows.reset()
        return _first_row(obs), info

    def step(self, action: npt.NDArray[np.int8]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Commit and, unless that ends the episode, run the dLLM; see `gymnasium.Env.step`."""
        rewards, terminated, finals = self.rows.commit(np.asarray(action)[None])
        self.rows.batch.forward()
        obs = _first_row(self.rows.observe(self.rows.view))
        return obs, float(rewards[0]), bool(terminated[0]), False, finals.get(0, {})

    def render(self) -> Any:
        """Show the buffer; see `UnmaskingVectorEnv.render`."""
        return self.rows.render()


def _first_row(obs: Observation) -> Observation:
    return {name: values[0] for name, values in obs.items()}
