"""The main job: learn an unmasking policy with PPO, evaluate it against the rules, export it and log it.

``python train/ppo.py`` with no argument trains on the embedded dLLM as `configs/ppo.yaml` says. A run's folder holds

* ``config.yaml``, ``command.txt``, ``versions.json``: how it was made;
* ``progress.csv`` and ``checkpoints/``: training, update by update; ``--resume`` goes on from there;
* ``policy/``: the exported policy, for `policies.load`;
* ``evaluation.json`` and ``pareto.png``: the policy and the rules on held-out problems.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecMonitor
from tqdm import tqdm

from envs.decoding import DecodingSettings
from envs.denoiser import Denoiser, load_denoiser
from envs.sb3 import SB3VecEnv
from envs.tasks import SUITE
from envs.unmasking import UnmaskingVectorEnv
from policies import LearnedPolicy, NetworkConfig, make_rule, save
from policies.actor_critic import UnmaskingActorCritic
from train.config import to_plain, to_yaml
from train.evaluate import Record, evaluate, make_policies, print_table
from train.plot import plot_pareto
from train.run_folder import UserError, open_run, versions, write_json
from train.tracking import ProgressWriter, Tracker, TrackerWriter, WandbConfig


@dataclass(frozen=True)
class ModelConfig:
    """The frozen dLLM."""

    name: str = "tiny"
    """A checkpoint folder, or the name of a model that ships."""
    device: str = "cpu"
    """Torch device of the dLLM and the policy."""
    dtype: str = "float32"
    """Torch dtype of the dLLM; confidences are float32 whatever it is."""
    threads: int = 1
    """Torch threads; keep 1 when anything else runs on the machine."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}: it must be 1 or more")


@dataclass(frozen=True)
class EnvConfig:
    """The environment; see `envs.unmasking.UnmaskingVectorEnv`."""

    num_envs: int = 64
    """Sequences decoded side by side."""
    tasks: list[str] = field(default_factory=lambda: [SUITE])
    """Tasks by name, or suite."""
    buffer_length: int = 64
    """Masks a sequence starts from."""
    block_length: int | None = None
    """Positions of a semi-autoregressive block; null for full diffusion."""
    temperature: float = 0.0
    """Of the sampled token; 0 commits the argmax."""
    reward: str = "multiplicative"
    """multiplicative, additive or forward_cost."""
    alpha: float = 8.0
    """Weight of speed in the reward."""


@dataclass(frozen=True)
class PPOSection:
    """Arguments of stable_baselines3.PPO, by its names."""

    learning_rate: float = 1e-3
    """At the start; it falls linearly to 0."""
    n_steps: int = 32
    """Steps a row between two updates."""
    batch_size: int = 512
    """Transitions of a minibatch."""
    n_epochs: int = 3
    """Passes over the transitions in an update."""
    gamma: float = 1.0
    """Discount; 1 because every episode ends within L steps."""
    gae_lambda: float = 0.95
    """Bias-variance trade of the advantage estimate."""
    clip_range: float = 0.2
    """Clip of the probability ratio."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Clip of the gradient's norm."""
    target_kl: float | None = None
    """Stop an update's epochs early beyond 1.5 times this divergence."""

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size", "n_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.batch_size == 1:
            raise ValueError("batch_size is 1: advantages are normalised over a minibatch, so it must be 2 or more")


@dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation at the end, on held-out problems."""

    episodes: int = 100
    """Problems a task."""
    rules: list[str] = field(default_factory=lambda: ["threshold:0.9"])
    """Rules to compare with, as name:knob."""
    block_lengths: list[int] = field(default_factory=list)
    """Block lengths to evaluate at; an empty list is full diffusion only."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes is {self.episodes}: it must be 1 or more")
        for rule in self.rules:
            make_rule(rule)


@dataclass(frozen=True)
class TrainPPOConfig:
    """Everything `python train/ppo.py` can be told."""

    out: Path = Path("runs/ppo")
    """The run's folder; it must be new or empty."""
    seed: int = 0
    """Of everything random."""
    resume: bool = False
    """Go on where a killed run of this folder stopped."""
    total_timesteps: int = 80_000
    """Environment steps, summed over the rows."""
    checkpoint_every: int = 10
    """Updates between two checkpoints."""
    model: ModelConfig = field(default_factory=ModelConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    policy: NetworkConfig = field(default_factory=NetworkConfig)
    ppo: PPOSection = field(default_factory=PPOSection)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        if self.checkpoint_every < 1:
            raise ValueError(f"checkpoint_every is {self.checkpoint_every}: it must be 1 or more")
        for block in self.evaluation.block_lengths:
            DecodingSettings(self.env.buffer_length, block)


def stream_seed(seed: int, stream: int) -> int:
    """Return a seed for one purpose of a run, unrelated to those of other purposes and other runs."""
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0] >> 1)


def make_env(config: TrainPPOConfig, denoiser: Denoiser) -> VecMonitor:
    """Build the training env for Stable-Baselines3."""
    env = config.env
    batch = UnmaskingVectorEnv(
        env.num_envs,
        denoiser=denoiser,
        tasks=env.tasks,
        split="train",
        buffer_length=env.buffer_length,
        block_length=env.block_length,
        temperature=env.temperature,
        reward=env.reward,
        alpha=env.alpha,
        features=config.policy.features,
    )
    return VecMonitor(SB3VecEnv(batch), info_keywords=("score", "nfe", "token_positions"))


def make_model(config: TrainPPOConfig, env: VecMonitor) -> PPO:
    """Build PPO, or load the last checkpoint of a run to be resumed.

    Raises:
        UserError: if the checkpoint is damaged.
    """
    arguments = asdict(config.ppo)
    peak = arguments.pop("learning_rate")
    checkpoint = checkpoint_file(config)
    if config.resume and checkpoint.is_file():
        try:
            model = PPO.load(checkpoint, env=env, device=config.model.device)
        except Exception as error:  # zipfile, pickle and torch each raise their own
            raise UserError(f"checkpoint {checkpoint} can't be read ({error}): delete it to start over") from error
        # New problems, instead of those the killed run has seen.
        model.set_random_seed(stream_seed(config.seed, 1 + model.num_timesteps))
        return model
    return PPO(
        UnmaskingActorCritic,
        env,
        learning_rate=lambda remaining: peak * remaining,
        policy_kwargs={"network": config.policy},
        stats_window_size=1000,
        seed=stream_seed(config.seed, 0),
        device=config.model.device,
        **arguments,
    )


def checkpoint_file(config: TrainPPOConfig) -> Path:
    """Return where the latest checkpoint is."""
    return config.out / "checkpoints" / "latest.zip"


class TrainingCallback(BaseCallback):
    """Checkpoints, extra metrics and a progress bar.

    Args:
        file: the checkpoint, replaced atomically.
        every: updates between two checkpoints.
        total: environment steps of the whole run.
    """

    def __init__(self, file: Path, every: int, total: int) -> None:
        super().__init__()
        self.file, self.every, self.total = file, every, total
        self.updates = 0

    def _on_training_start(self) -> None:
        # On a terminal the bar moves; in a log it is a line every half minute.
        self.bar = tqdm(
            total=self.total,
            initial=self.num_timesteps,
            unit="step",
            desc="training",
            mininterval=0.5 if sys.stderr.isatty() else 30,
        )

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes = list(self.model.ep_info_buffer or [])
        means = {key: float(np.mean([e[key] for e in episodes])) for key in ("score", "nfe") if episodes}
        for key, value in means.items():
            self.logger.record(f"rollout/{key}", value)
        self.bar.set_postfix({key: f"{value:.3f}" for key, value in means.items()}, refresh=False)
        self.bar.update(min(self.num_timesteps, self.total) - self.bar.n)

    def _on_rollout_start(self) -> None:
        # Called before each rollout, that is after each update but the last.
        if self.updates and self.updates % self.every == 0:
            self.save()
        self.updates += 1

    def _on_training_end(self) -> None:
        self.bar.close()

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name("partial.zip")
        self.model.save(partial)
        os.replace(partial, self.file)


def learn(config: TrainPPOConfig, model: PPO, tracker: Tracker) -> None:
    """Train to the end, logging and checkpointing on the way."""
    remaining = config.total_timesteps - model.num_timesteps
    if remaining <= 0:
        return
    # Records of an earlier end of this run are of another policy.
    (config.out / "evaluation.json").unlink(missing_ok=True)
    progress = ProgressWriter(config.out / "progress.csv", upto=model.num_timesteps)
    model.set_logger(Logger(folder=None, output_formats=[progress, TrackerWriter(tracker)]))
    callback = TrainingCallback(checkpoint_file(config), config.checkpoint_every, config.total_timesteps)
    model.learn(remaining, callback=callback, reset_num_timesteps=model.num_timesteps == 0)
    callback.save()


def export(config: TrainPPOConfig, model: PPO) -> LearnedPolicy:
    """Write the trained network as a policy folder."""
    assert isinstance(model.policy, UnmaskingActorCritic)
    trained = {
        "algorithm": "PPO",
        "model": config.model.name,
        "tasks": config.env.tasks,
        "split": "train",
        "buffer_length": config.env.buffer_length,
        "block_length": config.env.block_length or config.env.buffer_length,
        "reward": config.env.reward,
        "alpha": config.env.alpha,
        "timesteps": model.num_timesteps,
        "seed": config.seed,
        "versions": versions(),
    }
    policy = LearnedPolicy(model.policy.network.cpu(), "deterministic", trained)
    save(policy, config.out / "policy", policy_card(trained))
    model.policy.network.to(config.model.device).train().requires_grad_(True)
    return policy


def policy_card(trained: dict[str, Any]) -> str:
    """Write the model card of an exported policy."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in trained.items() if key != "versions")
    return f"""# Unmasking policy

Chooses which masked positions of a diffusion language model to commit at each step.

```python
import policies
policy = policies.load("this/folder")  # decision="sample" draws instead of rounding
policies.generate(model, tokenizer, ["copy . . : a b c . . . . . . . . . . . . . ="], policy)
```

| trained with | |
| --- | --- |
{rows}

It saw training problems only; `evaluation.json` beside the folder has its results on held-out ones.
"""


def evaluate_all(config: TrainPPOConfig, denoiser: Denoiser) -> list[Record]:
    """Evaluate the exported policy and the rules on held-out problems, going on where a killed run stopped."""
    file = config.out / "evaluation.json"
    records: list[Record] = json.loads(file.read_text()) if file.is_file() else []
    done = {(r["policy"], r["decision"], r["block_length"]) for r in records if r["task"] == "all"}
    policies = make_policies([str(config.out / "policy"), *config.evaluation.rules], config.model.device)
    blocks = config.evaluation.block_lengths or [config.env.buffer_length]
    jobs = [(policy, block) for block in blocks for policy in policies]
    for policy, block in tqdm(jobs, desc="evaluating", unit="policy", mininterval=0.5 if sys.stderr.isatty() else 30):
        if (policy.name, policy.decision, block) in done:
            continue
        records += evaluate(
            denoiser,
            policy,
            tasks=config.env.tasks,
            episodes=config.evaluation.episodes,
            buffer_length=config.env.buffer_length,
            block_length=block,
            temperature=config.env.temperature,
            seed=config.seed,
        )
        write_json(file, records)
    return records


def train(config: TrainPPOConfig) -> list[Record]:
    """Run the whole job.

    Returns:
        The records of `evaluation.json`.

    Raises:
        UserError: if the run's folder is taken, or can't be resumed.
        ValueError: if a field of the configuration is not possible.
    """
    torch.set_num_threads(config.model.threads)
    denoiser = load_denoiser(config.model.name, config.model.device, config.model.dtype)
    env = make_env(config, denoiser)
    settings = {**to_plain(config), "resume": False}
    open_run(config.out, to_yaml(settings), config.resume)
    print(to_yaml(settings))
    model = make_model(config, env)
    assert isinstance(model.policy, UnmaskingActorCritic)
    size = sum(p.numel() for p in model.policy.network.parameters())
    print(f"device {config.model.device}, {torch.get_num_threads()} threads, policy of {size:,} parameters")
    tracker = Tracker(config.wandb, config.out, settings, "train")
    try:
        learn(config, model, tracker)
        export(config, model)
        records = evaluate_all(config, denoiser)
        plot_pareto(records, config.out / "pareto.png", f"{config.model.name}, seed {config.seed}")
        tracker.finish(records, config.out / "pareto.png", config.out / "policy")
    except BaseException:
        tracker.abandon()
        raise
    print_table(records, f"{config.evaluation.episodes} held-out problems a task")
    print(f"policy      {config.out / 'policy'}\nevaluation  {config.out / 'evaluation.json'}")
    print(f"plot        {config.out / 'pareto.png'}\nW&B         {config.wandb.mode}, {config.out / 'wandb'}")
    return records


if __name__ == "__main__":
    from train.cli import run

    run(train, TrainPPOConfig, "ppo.yaml")
