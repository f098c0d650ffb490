"""The Gymnasium environment: one frozen dLLM, a batch of prompts, and the choice of what to commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from envs.arguments import check_arguments, check_initial_length, read_blocks, read_denoiser
from envs.caches import check_refreshes
from envs.decoding.batch import DecodingBatch
from envs.decoding.blocks import check_block
from envs.decoding.infilling import encode_all_given
from envs.decoding.settings import DecodingOptions, DecodingSettings, check_flags
from envs.denoiser import Denoiser
from envs.episodes import Episodes
from envs.infos import commits_of, count, final_info
from envs.observation import Observation, bounded, masks_of, observation_space, observe, read_action
from envs.price import Bill, Price, get_price
from envs.render import RENDERERS
from envs.reset_options import problem_of, read_mode, read_options, read_seeds
from envs.reward import Preference, get_reward, pay
from envs.tasks import SUITE, Problem, Split, Task, make_tasks
from envs.tasks.scoring.scorer import Scorer
from envs.view import Action, View


class UnmaskingVectorEnv(VectorEnv[Any, Any, Any]):
    """N sequences decoded side by side with one dLLM forward a step.

    ## Description
    A masked diffusion language model starts from a prompt followed by L mask tokens. At each step the agent says
    which masked positions to commit; the model's prediction is written there and never changed again.

    ## Action Space
    `MultiBinary(L)`: 1 commits a position. Bits at ineligible positions are ignored. An action with no eligible
    bit commits the most confident eligible position, so every step makes progress. A float commits from one half on.
    `action_masks` says which bits matter, as sb3-contrib's MaskablePPO asks for it. With ``decides_refresh`` it is
    `MultiBinary(L + 1)`: a last bit of 1 lets the row's next forward compute everything that the cache keeps.

    ## Observation Space
    `Dict` of float32 boxes:

    * ``confidence`` (L,) in [0, 1]: the model's probability of its prediction, 1 at committed positions.
    * ``masked`` (L,): 1 where no token is committed.
    * ``eligible`` (L,): 1 where masked and in the row's current block, or in one of the ``blocks_ahead``.
    * ``time`` (1,): steps taken / L.
    * with an alpha range: ``speed`` (1,), where on the logarithmic dial the episode's alpha lies.
    * with ``features``: any of `envs.readings.VIEW_FEATURES`, each (L,), such as ``margin``, ``entropy`` (nats),
      ``eos_probability``, ``is_eos``, ``changed``; and of `envs.readings.OBSERVED_TENSORS`: ``best_probabilities``
      (L, 50) in [0, 1] and ``hidden`` (L, D), unbounded, D the width of the dLLM's hidden states.

    ## Rewards
    At the end ``score * ((L - (NFE - 1)) / L) ** alpha`` by default; see `envs.reward`. Zero before.

    ## Starting State
    A problem drawn uniformly from the tasks and the split, every buffer position masked; where a problem gives part of
    the answer, only its blanks. ``reset(options={"problem": ...})`` asks for a problem. Every random number, those of
    sampled tokens included, follows from the seed and differs by row and episode.

    ## Episode End
    Terminates when nothing is masked, or (``early_end``) when everything before a committed end-of-text token is known
    (the rest becomes end-of-text). Never truncates: an episode takes at most L steps, 2 L if a policy remasks.

    ## Block-causal dLLMs
    Such a dLLM (SDAR, LLaDA2, Fast-dLLM v2) fills whole blocks of its own. Where ``buffer_length`` ends inside one,
    the row goes on to the block's end and the text is cut. Spaces, steps and commits are then of
    L = `decoding.blocks.buffer_width` positions, up to a block more than ``buffer_length``, by which the reward and
    ``time`` go on counting.

    ## Info
    After every reset and step: ``nfe`` (forwards of the episode so far), ``commits`` (positions that the step
    committed) and ``masks_left``. At the end also ``score``, ``token_positions``, ``task`` and ``text``.

    An answer whose score is not known (its task raised, took too long, or returned no number from 0 to 1; see
    `envs.tasks.scoring.scorer`) has the score NaN and the reason as ``score_error``, which no other info has. Its
    episode terminates as any other; its last reward has no part for the score and means nothing: leave the episode out,
    as `train/ppo.py` and `train/grpo.py` do.

    ## Autoreset
    `AutoresetMode.SAME_STEP` by default: one forward serves the rows that go on and the rows that begin. Observation
    wrappers of `gymnasium.wrappers.vector` (such as FlattenObservation) need ``"NextStep"``, in which a finished row
    rests blank for the step that restarts it, or ``"Disabled"``, in which it rests until it is reset:
    ``reset(options={"reset_mask": finished})`` resets some rows and leaves the others as they are. The actions of a
    row that rests are ignored and unpaid.

    ## Arguments
    Args:
        num_envs: N.
        denoiser: the frozen dLLM, or a name for `envs.models.load.load_denoiser`.
        tasks: names of tasks, or ``"suite"`` for all.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        block_length: positions of a block, decoded left to right; None for full diffusion (one block). Of several,
            each episode draws one.
        reward: ``"multiplicative"``, ``"additive"``, ``"forward_cost"`` or ``"likelihood"``.
        price: what speed is paid in: ``"forwards"``, ``"positions"``, or a `Price`, such as measured milliseconds.
        alpha: weight of speed in the reward, or a range (slow, fast) from which each episode draws its own,
            log-uniformly; the observation then holds ``speed``.
        features: further per-position observations; those of `envs.readings.VIEW_TENSORS` that are not of
            `envs.readings.OBSERVED_TENSORS` are computed for policies that act on `view`, and not observed.
        observes_tensors: whether those of `envs.readings.OBSERVED_TENSORS` are in the observation. They are by far the
            largest part of it: an agent that reads `inputs` instead needs no copy of them in numpy.
        decides_refresh: whether a last bit of the action says when a row's cache is refreshed.
        initial_length: masks an episode starts from, for policies that change the length; None for all L.
        autoreset_mode: ``"SameStep"``, ``"NextStep"`` or ``"Disabled"``, or a member of `AutoresetMode`.
        episodes: makes what decides which problem, block length and alpha each row takes next, called as
            `envs.episodes.Episodes` is.
        render_mode: None, ``"ansi"`` or ``"rgb_array"``.
        **decoding: ``buffer_length`` (L, positions of a text), ``temperature`` (of the sampled token; 0 commits the
            argmax), ``end_of_text_prediction``, ``early_end``, ``window`` (masks that are not shown have the confidence
            0), ``block_origin``, ``blocks_ahead`` and ``cache``, as `envs.decoding.settings.DecodingSettings` explains
            them.

    Raises:
        ValueError: if an argument is not possible; the message names it.

    ## Version History
    * v0: first version.
    """

    metadata: dict[str, Any] = {
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": list(RENDERERS),
        "render_fps": 2,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        denoiser: Denoiser | str = "tiny",
        tasks: str | Sequence[str] = SUITE,
        split: Split = "train",
        block_length: int | Sequence[int] | None = None,
        reward: str = "multiplicative",
        price: str | Price = "forwards",
        alpha: float | Sequence[float] = 8.0,
        features: Sequence[str] = (),
        observes_tensors: bool = True,
        decides_refresh: bool = False,
        initial_length: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        episodes: Callable[..., Episodes] = Episodes,
        render_mode: str | None = None,
        **decoding: Unpack[DecodingOptions],
    ) -> None:
        check_arguments(num_envs, features, episodes, render_mode)
        check_flags(observes_tensors=observes_tensors, decides_refresh=decides_refresh)
        blocks = read_blocks(block_length)
        settings = DecodingSettings(block_length=blocks[0], features=frozenset(features), **decoding)
        check_initial_length(initial_length, settings.buffer_length)
        if decides_refresh:
            check_refreshes("decides_refresh", settings.cache)
        self.autoreset_mode = read_mode(autoreset_mode)
        # A copy: the class's dictionary is that of all envs.
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.denoiser = read_denoiser(denoiser)
        self.tasks: dict[str, Task] = {task.name: task for task in make_tasks(tasks)}
        self.scorer = Scorer(list(self.tasks.values()))
        """Takes every score, and counts the answers that have none."""
        self.split: Split = split
        self.reward, self._bill = get_reward(reward), Bill(get_price(price), num_envs)
        self.has_dial = not isinstance(alpha, int | float)
        self.preference = Preference.of(alpha)
        self.speed = np.zeros(num_envs, dtype=np.float32)
        """(N,) float32 in [0, 1], each row's place on the dial."""
        self.episodes = episodes(
            num_envs,
            tasks=list(self.tasks.values()),
            split=split,
            block_lengths=[int(block or settings.buffer_length) for block in blocks],
            has_dial=self.has_dial,
        )
        for block in sorted(self.episodes.possible_blocks):
            replace(settings, block_length=block)  # which checks it
            check_block(self.denoiser, block)
        self.batch = DecodingBatch(self.denoiser, num_envs, settings)
        self.initial_length, self.decides_refresh = initial_length, decides_refresh
        self.observes_tensors = observes_tensors
        # Rows can be drawn and saved before the first reset.
        self.problems: list[Problem] = [next(iter(self.tasks.values())).wrapped_problem(split, 0)] * num_envs
        """N, what each row was last asked."""
        self._resting: list[int] = []  # rows that the next step restarts
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space = observation_space(settings, self.denoiser, self.has_dial, observes_tensors)
        self.single_action_space = spaces.MultiBinary(self.batch.masked.shape[1] + decides_refresh)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def view(self) -> View:
        """What the policy may look at in this step, as tensors; decoding rules read it."""
        return self.batch.view

    def inputs(self) -> dict[str, Tensor]:
        """Return what this step's observation holds, as tensors on the dLLM's device.

        Returns:
            (N, ...) float32 by name: all of `view` that a policy network may read, whatever `observes_tensors` is, and
            with an alpha range ``speed``, (N, 1).
        """
        dial = {"speed": torch.from_numpy(self.speed[:, None].copy()).to(self.batch.masked.device)}
        return {**bounded(self.batch.view), **(dial if self.has_dial else {})}

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a new episode in every row, or in some.

        Args:
            seed: row i draws its problems, and its random numbers when tokens are sampled, from ``seed + i``; a list
                gives one seed a row; None goes on with the generators as they are.
            options: ``"problem"``: what to begin with instead of a problem that is drawn, one for all rows or a list
                with one a row, None where it is drawn. A `Problem` of one of the tasks, the index of one, or a pair
                (task's name, index); indices are of the env's split. ``"reset_mask"``: (N,) bool, the rows to reset;
                the others go on as they are.

        Raises:
            ValueError: if the seeds or an option are not possible.
        """
        asked = read_options(options or {}, self.num_envs)
        rows = asked.rows
        problems = {row: problem_of(one, self.tasks, self.split) for row, one in asked.problems.items()}
        seeds = read_seeds(seed, self.num_envs)
        for row in rows:
            if seeds[row] is not None:
                # The generator that Gymnasium's single env makes from the same seed.
                self.episodes.seed(row, gym.utils.seeding.np_random(seeds[row])[0])
        self._begin(rows, problems)
        self._resting = [row for row in self._resting if row not in rows]
        fresh = np.zeros(self.num_envs, dtype=np.bool_)
        fresh[rows] = True
        # The dLLM is not asked again about rows that wait for their action: that would count as their forward.
        self.batch.forward(None if fresh.all() else torch.as_tensor(fresh, device=self.batch.masked.device))
        return self.observe(self.batch.view), count(self.batch, np.zeros(self.num_envs, dtype=np.int64))

    def observe(self, view: View) -> Observation:
        """Return a view as the env's observation."""
        dial = {"speed": self.speed[:, None].copy()} if self.has_dial else {}
        return {**observe(view, self.observes_tensors), **dial}

    def step(
        self, actions: npt.ArrayLike | Action
    ) -> tuple[Observation, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Commit, restart the finished rows, and run the dLLM once.

        Args:
            actions: (N, L) of 0 and 1, (N, L + 1) with ``decides_refresh``, or what an `UnmaskingPolicy` decided on
                `view`.

        Raises:
            ScoringError: if too many answers can't be scored; see `envs.tasks.scoring.scorer.Scorer`.
        """
        # Kept now: rows that restart below count from 0 again.
        step = self.batch.nfe.clone()
        rewards, terminated, finals = self.commit(actions)
        infos: dict[str, Any] = {}
        beginning = self._resting
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            beginning = list(finals)
            # Nothing is masked in a finished row, so its last observation takes no forward.
            closing = self.observe(self.batch.blank_view()) if finals else {}
            for row, final_info in finals.items():
                final_obs = {name: values[row] for name, values in closing.items()}
                infos = self._add_info(infos, {"final_obs": final_obs, "final_info": final_info}, row)
        else:
            for row, final_info in finals.items():
                infos = self._add_info(infos, final_info, row)
            if self.autoreset_mode is AutoresetMode.NEXT_STEP:
                self._resting = list(finals)
        self._begin(beginning)
        self.batch.forward()
        commits = commits_of(self.batch, step)
        commits[beginning] = 0
        infos |= count(self.batch, commits)
        return self.observe(self.batch.view), rewards, terminated, np.zeros_like(terminated), infos

    def state(self) -> dict[str, Any]:
        """Return all that the env's next steps depend on, with memory of its own: arrays, tensors, numbers and texts.

        Put into an env that was made alike by `load_state`, it goes on as this one.
        """
        return {
            "batch": self.batch.state(),
            "episodes": self.episodes.state(),
            "scorer": self.scorer.state(),
            "problems": [asdict(problem) for problem in self.problems],
            "speed": self.speed.copy(),
            "bill": self._bill.state(),
            "resting": list(self._resting),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, of an env that was made alike.

        Raises:
            ValueError: if it is none, or of another number of rows or positions, other tasks or another cache.
        """
        if not isinstance(state, Mapping) or set(state) != set(self.state()):
            raise ValueError("state is not what an env's state() returned")
        others = {problem["task"] for problem in state["problems"]} - set(self.tasks)
        if others:
            raise ValueError(f"state is of an env with the task {min(others)!r}: this one has {', '.join(self.tasks)}")
        self.batch.load_state(state["batch"])
        self.episodes.load_state(state["episodes"])
        self.scorer.load_state(state["scorer"])
        self._bill.load_state(state["bill"])
        self.problems = [Problem(**problem) for problem in state["problems"]]
        self.speed, self._resting = state["speed"].copy(), list(state["resting"])

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return (N, 2 L) or (N, 2 L + 2) bool, what each bit may be; see `envs.observation.masks_of`."""
        return masks_of(self.batch.view.eligible.cpu().numpy(), self.decides_refresh)

    def _begin(self, rows: Sequence[int], problems: Mapping[int, Problem] | None = None) -> None:
        """Load the next episode of each of these rows."""
        episodes = self.episodes.begin(rows, problems)
        for row, episode in zip(rows, episodes, strict=True):
            self.problems[row], self.speed[row] = episode.problem, episode.speed
        self.batch.load(
            rows,
            [self.denoiser.encode_prompt(episode.problem.prompt) for episode in episodes],
            [episode.seed for episode in episodes],
            length=self.initial_length,
            block_lengths=[episode.block_length for episode in episodes],
            given=encode_all_given(self.denoiser, [episode.problem.given for episode in episodes]),
        )
        self._bill.forget(rows)

    def commit(
        self, actions: npt.ArrayLike | Action
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], dict[int, dict[str, Any]]]:
        """Apply the actions and score what they finish.

        Returns:
            rewards: (N,) float64.
            terminated: (N,) bool.
            finals: the closing info of each finished row.
        """
        action = read_action(actions, self.batch.masked, self.decides_refresh)
        running, step = self.batch.running.cpu().numpy(), self.batch.nfe.clone()
        terminated = self.batch.apply(action).cpu().numpy()
        alpha = self.preference.alpha(self.speed)
        # Only a closing info tells them.
        commits = commits_of(self.batch, step) if terminated.any() else step.cpu().numpy()
        finals = {
            row: final_info(self.batch, row, self.problems[row], self.scorer, int(commits[row]))
            for row in np.flatnonzero(terminated).tolist()
        }
        costs, gained = self._bill.charge(self.batch), self._bill.credit(self.batch)
        rewards = pay(self.reward, running, finals, costs, gained, self.batch.settings.buffer_length, alpha)
        return rewards, terminated, finals

    def render(self) -> tuple[Any, ...]:
        """Return one picture a row: coloured text (``"ansi"``) or (H, W, 3) uint8 (``"rgb_array"``)."""
        if self.render_mode is None:
            raise ValueError("render_mode is None: make the env with render_mode='ansi' or 'rgb_array'")
        draw = RENDERERS[self.render_mode]
        return tuple(draw(self.batch, row, problem.prompt) for row, problem in enumerate(self.problems))
