"""Optimisers, schedule and steps of a pretraining, which can be killed anywhere."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from envs.tasks import make_tasks
from policies.files import one_line, show
from train.command import checkpoint, parallel
from train.command.errors import UserError
from train.command.files import write_json
from train.command.finite import check_loss, watch
from train.pretraining.architectures import answer_logits, build_model, build_tokenizer, save_checkpoint, start_from
from train.pretraining.config import PretrainConfig
from train.pretraining.losses import causal_loss, diffusion_loss
from train.pretraining.problems import FREE, Group, ProblemStream

STATE = "state.safetensors"
"""The training state, in the run's folder."""


def build_optimizers(model: PreTrainedModel, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Give the transformer's matrices to Muon and everything else to AdamW."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layer" in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def learning_rate_factor(step: int, config: PretrainConfig) -> float:
    """Return the learning rate of a step as a share of its peak: rise, plateau, fall."""
    # Counted from 1, or the first step would learn nothing.
    rise = (step + 1) / max(1.0, config.warmup * config.steps)
    fall = (config.steps - step) / max(1.0, config.decay * config.steps)
    return min(1.0, rise, fall)


class Pretraining:
    """A training run in memory: model, optimisers, and how far it is.

    Args:
        config: of the pretraining; what its folder holds is continued.
    """

    def __init__(self, config: PretrainConfig) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.tokenizer = build_tokenizer(make_tasks(config.suite), config.architecture)
        self.model = build_model(config, self.tokenizer)
        if config.init is not None and not self._file.exists():
            start_from(self.model, self.tokenizer, config.init)
        self.optimizers = build_optimizers(self.model, config)
        for optimizer in self.optimizers:
            watch(optimizer)
        self.stream = ProblemStream(self.tokenizer, config)
        self.step, self.seconds, self.average = 0, 0.0, math.nan
        if self._file.exists():
            self._load()
        # The seconds of earlier starts count too.
        self._began = time.monotonic() - self.seconds

    @property
    def _file(self) -> Path:
        return self.config.out / STATE

    def _load(self) -> None:
        again = "delete it to start over"
        try:
            state = checkpoint.read(self._file)
            settings = dict(state["settings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"training state {self._file} can't be read ({one_line(error)}): {again}") from error
        for name, value in self._settings().items():
            if settings.get(name) != value:
                raise UserError(
                    f"{name} is {value!r}: {self.config.out} was trained with {show(settings.get(name))}; "
                    "set it to that, or choose another out"
                )
        try:
            self.step, self.seconds, self.average = int(state["step"]), float(state["seconds"]), float(state["average"])
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            if not 0 <= self.step < 2**63 or not 0 <= self.seconds < math.inf:
                raise ValueError(f"it is at step {self.step} after {self.seconds} seconds")
        except Exception as error:  # torch and its optimisers each have their own for a state that can't be
            raise UserError(f"training state {self._file} is of no such model ({one_line(error)}): {again}") from error
        if self.step > self.config.steps:
            raise UserError(
                f"steps is {self.config.steps}: {self.config.out} is at step {self.step} already; give that or more"
            )

    def _settings(self) -> dict[str, Any]:
        """Return the settings that make this run this run, as plain values."""
        values = {name: value for name, value in dataclasses.asdict(self.config).items() if name not in FREE}
        # As JSON gives them back: lists, not tuples.
        return values | {name: [list(pair) for pair in values[name]] for name in ("buffer_lengths", "lessons")}

    def advance(self) -> None:
        """Take one optimiser step.

        Raises:
            Diverged: if a loss, a gradient or a weight is not finite.
        """
        for optimizer in self.optimizers:
            for parameters in optimizer.param_groups:
                parameters["lr"] = self.config.learning_rate * learning_rate_factor(self.step, self.config)
        batch = self.stream.batch(self.step)
        rows, loss = sum(len(group.inputs) for group in batch), 0.0
        for group in batch:
            # Groups differ in rows; each row of the batch counts the same.
            part = self._loss(group) / rows
            part.backward()
            loss += part.item()
        check_loss(loss)
        parallel.average_gradients(self.model.parameters())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.average = loss if math.isnan(self.average) else 0.98 * self.average + 0.02 * loss

    def _loss(self, group: Group) -> Tensor:
        """Return a group's loss, summed over its rows."""
        is_causal = self.config.objective == "causal"
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            if is_causal:
                logits = self.model(input_ids=group.targets, attention_mask=group.present.long()).logits
            else:
                logits = answer_logits(self.model, group.inputs, group.present, group.masked)
        if is_causal:
            loss = causal_loss(logits.float(), group.targets, group.length, self.tokenizer.eos_token_id)
            return loss * len(group.targets)
        return diffusion_loss(logits.float(), group.targets, group.masked)

    def save(self) -> None:
        """Write the checkpoint folder, then the training state, the latter atomically."""
        self.seconds = time.monotonic() - self._began
        folder = self.config.out / "model"
        is_llada = self.config.architecture == "llada" and self.config.objective == "diffusion"
        save_checkpoint(self.model, self.tokenizer, folder, is_llada)
        facts = {
            "suite": self.config.suite,
            "steps": self.step,
            "sequences": self.step * self.config.batch_size,
            "minutes": round(self.seconds / 60),
            "seed": self.config.seed,
        }
        write_json(folder / "training.json", facts)
        state = {
            "settings": self._settings(),
            "step": self.step,
            "seconds": self.seconds,
            "average": self.average,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        checkpoint.write(self._file, state)
