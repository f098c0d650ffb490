"""Learned policies as a folder: ``model.safetensors`` + ``config.json`` + a model card. Never a pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.nn import functional as F

from envs.decoding.settings import DecodingSettings, check_flags, conditions_of
from envs.denoiser import Denoiser, identify
from envs.models.hub import is_hub_id
from envs.noise import gumbel, uniform
from envs.numbers import is_number, is_whole
from envs.view import Action, View, ensure_progress
from policies.base import CommitPolicy, Decision
from policies.calibration import Calibration, check_speed
from policies.card import card_of
from policies.distributions import ActionConfig, PlackettLuce
from policies.files import plain_weights, show, write_together
from policies.hub import push_folder
from policies.networks.kinds import NetworkSpec, PolicyNetwork

FORMAT_VERSION = 1


class LearnedPolicy(CommitPolicy):
    """A trained network with a decision rule.

    Args:
        network: the trained network, of a kind in `NETWORKS`.
        decision: ``"deterministic"`` or ``"sample"``; sampling is by the sequence's key, so it is repeatable.
        trained: how it was trained, for the record.
        threshold: least probability that the deterministic decision commits.
        speed: place on the network's dial, for one that has a dial.
        calibration: what places on the dial were measured to do.
        actions: the distribution it was trained with, and its temperature.
        beta: every probability is multiplied by it and cut at 1: a knob from slow to fast on a policy without a dial.
            Source: arXiv 2512.09106.
        any_dllm: decode with dLLMs of other kinds than the one that ``trained`` names as ``dllm`` too.
        target: what `tuned` was asked to reach on the dial, such as ``"accuracy_target 0.98"``, which was measured in
            the decoding that it was trained in; none by default.

    Raises:
        ValueError: if the decision is unknown, the threshold not in (0, 1), the speed not in [0, 1], beta not above 0,
            or beta not 1 for positions that are drawn one after another, or anything is of another kind.
    """

    def __init__(
        self,
        network: PolicyNetwork,
        decision: Decision = "deterministic",
        trained: Mapping[str, Any] | None = None,
        threshold: float = 0.5,
        speed: float = 0.5,
        calibration: Calibration | None = None,
        actions: ActionConfig | None = None,
        beta: float = 1.0,
        any_dllm: bool = False,
        target: str = "",
    ) -> None:
        if decision not in get_args(Decision):
            raise ValueError(f"decision is {decision!r}: choose one of {', '.join(get_args(Decision))}")
        if not is_number(threshold) or not 0 < threshold < 1:
            raise ValueError(f"threshold is {show(threshold)}: it must be between 0 and 1, both excluded")
        if not isinstance(actions, ActionConfig | None):
            raise ValueError(f"actions is {show(actions)}: give an ActionConfig, or None")
        if not isinstance(calibration, Calibration | None):
            raise ValueError(f"calibration is {show(calibration)}: give a Calibration, or None")
        check_flags(any_dllm=any_dllm)
        self.actions = actions or ActionConfig()
        if not is_number(beta) or not 0 < beta < float("inf"):
            raise ValueError(f"beta is {show(beta)}: it must be above 0")
        if beta != 1 and self.actions.has_stop:
            raise ValueError(
                f"beta is {beta}: a {self.actions.distribution} policy has no probabilities of single positions to "
                "multiply; set its temperature instead"
            )
        self.beta = float(beta)
        self.network = network.eval().requires_grad_(False)
        check_speed(speed)
        self.threshold, self.speed, self.calibration = threshold, float(speed), calibration
        self.spec = NetworkSpec.of(network)
        self.has_dial: bool = self.spec.config.has_dial
        self.decision, self.any_dllm = decision, any_dllm
        self.trained, self.target = dict(trained or {}), target
        self.features = self.spec.features

    @property
    def name(self) -> str:
        """``learned``."""
        return "learned"

    def tuned(
        self,
        block_length: int,
        *,
        speed: float | None = None,
        accuracy_target: float | None = None,
        nfe_target: float | None = None,
    ) -> LearnedPolicy:
        """Return the policy at another place on its dial.

        Args:
            block_length: of the decoding that it is for; the whole buffer in full diffusion.
            speed: 0 (slow) to 1 (fast); by the calibration, more is never slower.
            accuracy_target: in [0, 1], to be reached with the fewest forwards.
            nfe_target: forwards to stay within, as accurately as possible.

        What a target takes was measured on validation problems of the training, decoded as in training; `bind` refuses
        another cache, window, origin of blocks or number of blocks ahead.

        Raises:
            ValueError: if the policy has no dial or no calibration for what is asked, more than one thing is asked, or
                it is out of reach.
        """
        if not is_whole(block_length) or block_length < 1:
            raise ValueError(f"block_length is {block_length!r}: it must be a whole number of 1 or more")
        asked = {"speed": speed, "accuracy_target": accuracy_target, "nfe_target": nfe_target}
        given = [name for name, value in asked.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'nothing'} is given: ask for one of {', '.join(asked)}")
        if not is_number(asked[given[0]]):
            raise ValueError(f"{given[0]} is {show(asked[given[0]])}: it must be a number")
        if not self.has_dial:
            raise ValueError(f"{given[0]} is given, but the policy has no dial: it was trained for one alpha")
        if speed is not None:
            place = speed if self.calibration is None else self.calibration.at(speed, block_length)
        elif self.calibration is None:
            raise ValueError(f"{given[0]} is given, but the policy has no calibration: give a speed")
        elif accuracy_target is not None:
            place = self.calibration.for_accuracy(accuracy_target, block_length)
        else:
            assert nfe_target is not None
            place = self.calibration.for_nfe(nfe_target, block_length)
        target = "" if speed is not None else f"{given[0]} {asked[given[0]]:g}"
        return self.changed(speed=place, target=target)

    def changed(self, **changes: Any) -> LearnedPolicy:
        """Return the policy with other arguments; ``temperature`` is that of its `actions`."""
        if "temperature" in changes:
            changes["actions"] = replace(self.actions, temperature=changes.pop("temperature"))
        own = {
            "network": self.network,
            "decision": self.decision,
            "trained": self.trained,
            "threshold": self.threshold,
            "speed": self.speed,
            "calibration": self.calibration,
            "actions": self.actions,
            "beta": self.beta,
            "any_dllm": self.any_dllm,
            "target": self.target,
        }
        return LearnedPolicy(**{**own, **changes})

    def _log_odds(self, view: View) -> tuple[Tensor, Tensor]:
        """Return log-odds at the policy's temperature.

        Returns:
            (N, L) float32 of committing, or against STOP if there is one; and (N, 1) of a refresh, (N, 0) where the
            network doesn't decide that.

        Raises:
            ValueError: if one of a position that may be committed is NaN.
        """
        inputs = view.inputs()
        if self.has_dial:
            # One place for all rows; in training each episode had its own.
            inputs["speed"] = torch.full_like(inputs["time"], self.speed)
        logits: Tensor = self.network(inputs) / self.actions.temperature
        commits, refresh = logits[:, : view.masked.shape[1]], logits[:, view.masked.shape[1] :]
        # Weights that are finite, but too large, add up to what is not.
        if bool(commits[view.eligible].isnan().any()):
            raise ValueError("the policy's log-odds are NaN: its weights are damaged, or too large for float32")
        return commits - self.actions.stop_logit if self.actions.has_stop else commits, refresh

    def bind(self, denoiser: Denoiser, settings: DecodingSettings) -> LearnedPolicy:
        """Return the policy with its network where the dLLM is.

        Raises:
            ValueError: if it is not for this dLLM or these lengths; see `check_dllm` and `NetworkSpec`.
        """
        self.check_dllm(denoiser)
        self.spec.check_hidden(denoiser)
        self.spec.check_block(settings)
        self._check_target(settings)
        if next(self.network.parameters()).device == denoiser.device:
            return self
        # A copy, as others may decode with this one elsewhere.
        return self.changed(network=deepcopy(self.network).to(denoiser.device))

    def _check_target(self, settings: DecodingSettings) -> None:
        """Refuse to promise what was measured in another way of decoding.

        Raises:
            ValueError: naming what differs.
        """
        if not self.target:
            return
        measured, asked = dict(conditions_of(self.trained)), dict(conditions_of(settings))
        for name, value in asked.items():
            if measured[name] != value:
                raise ValueError(
                    f"{self.target} is asked and {name} is {value!r}: what places on this policy's dial reach was "
                    f"measured with {name} {measured[name]!r}, so decode so, or give a speed"
                )

    def check_dllm(self, denoiser: Denoiser) -> None:
        """Refuse a dLLM of another kind than the policy was trained for, as far as it says, unless `any_dllm`.

        Raises:
            ValueError: naming what differs.
        """
        expected = self.trained.get("dllm")
        if self.any_dllm or not isinstance(expected, Mapping):
            return
        found = identify(denoiser)
        differ = [name for name, value in found.items() if name in expected and expected[name] != value]
        if differ:
            name, model = differ[0], self.trained.get("model")
            own = f"decode with its own (--model.name {show(model)}), " if isinstance(model, str) else ""
            raise ValueError(
                f"the policy was trained for a dLLM with {name} {show(expected[name])}, but that of this one is "
                f"{show(found[name])}: what is certain to one is not to another; {own}train one for this dLLM, take a "
                "rule such as threshold:0.9, or set any_dllm"
            )

    def push_to_hub(
        self,
        name: str,
        *,
        license: str | None = None,
        evaluation: Sequence[Mapping[str, Any]] = (),
        private: bool = False,
        token: str | None = None,
        message: str = "Upload an unmasking policy",
    ) -> str:
        """Upload the policy to the Hugging Face hub, from where `load` takes it by its name.

        Args:
            name: ``owner/repository``; it is made where it is missing.
            license: of the weights, as the hub names it, such as ``"mit"``.
            evaluation: records of ``evaluation.json`` for the model card.
            private: of a repository that is made.
            token: None takes the one that ``hf auth login`` left.
            message: of the commit.

        Returns:
            The repository's address.

        Raises:
            ValueError: if the name is no ``owner/repository``, or a weight is not finite.
            ConnectionError: if the hub can't be reached or does not take it.
        """
        if not is_hub_id(name):
            raise ValueError(f"name is {name!r}: give owner/repository, such as 'user/my-policy'")
        # Written as any other policy's folder, so that what is uploaded is what `save` checks and `load` reads.
        with TemporaryDirectory() as folder:
            save(self, folder, card_of(self, name, license, evaluation))
            return push_folder(Path(folder), name, private=private, token=token, message=message)

    @torch.inference_mode()
    def probabilities(self, view: View) -> Tensor:
        """Return (N, L) float32, the probability of committing each eligible position, 0 elsewhere."""
        return (self.beta * self._log_odds(view)[0].sigmoid()).clamp(max=1) * view.eligible

    @torch.inference_mode()
    def act(self, view: View) -> Action:
        """Commit what `select` chooses, and decide about a refresh where the network does."""
        commits, refresh = self._log_odds(view)
        commit = self._choose(view, commits)
        if not self.spec.config.decides_refresh:
            return Action(commit)
        if self.decision == "sample":
            is_due = uniform(view.key, view.step, (1,), stream=5) < refresh.sigmoid()
            return Action(commit, refresh=is_due.squeeze(1))
        # Every few forwards, no one probability may reach a half: it is due once it more likely would have come by now.
        # softplus is -log(1 - probability), so these add up as the chances that it did not come multiply.
        before = view.memory.get("refresh", torch.zeros_like(refresh))
        is_whole = view.features["unseen"].amax(1, keepdim=True) == 0
        waited = before.masked_fill(is_whole, 0.0) + F.softplus(refresh)
        return Action(commit, refresh=(waited >= math.log(2)).squeeze(1), memory={"refresh": waited})

    def select(self, view: View) -> Tensor:
        """Choose by the decision rule.

        A row with nothing chosen commits its most probable position, or, as the env does where the empty set is an
        action, the most confident one.
        """
        return self.act(view).commit

    def _choose(self, view: View, logits: Tensor) -> Tensor:
        """Return (N, L) bool, the positions to commit by their (N, L) log-odds."""
        if self.decision == "deterministic":
            # As log-odds, since float32 probabilities near 1 are all alike. At a small beta nothing reaches the bar.
            least = self.threshold / self.beta
            chosen = logits >= (math.log(least / (1 - least)) if least < 1 else math.inf)
        elif self.actions.has_stop:
            # A stream of its own: with that of the sampled tokens, what is committed would depend on what was drawn.
            noise = gumbel(view.key, view.step, (2, logits.shape[1] + 1), stream=3)
            chosen = PlackettLuce(logits, view.eligible).sample_with(noise) > 0
        else:
            draw = uniform(view.key, view.step, (logits.shape[1],), stream=3)
            chosen = draw < self.beta * logits.sigmoid()
        return ensure_progress(chosen, view.eligible, view.confidence if self.actions.is_product else logits)


def save(policy: LearnedPolicy, folder: str | Path, card: str = "") -> Path:
    """Write a policy folder; each file appears whole or not at all.

    Args:
        policy: what to save.
        folder: where; it is made, and files of the same names are replaced.
        card: the model card's Markdown; empty is `policies.card.card_of`.

    Returns:
        The folder.

    Raises:
        ValueError: if a weight is NaN or infinite: nothing is written.
    """
    folder = Path(folder)
    try:
        weights = plain_weights(policy.network)
    except ValueError as error:
        raise ValueError(f"the policy is not saved to {str(folder)!r}: {error}") from error
    config = {
        **policy.spec.as_dict(),
        "decision": policy.decision,
        "threshold": policy.threshold,
        "speed": policy.speed,
        "calibration": policy.calibration and policy.calibration.to_plain(),
        "actions": asdict(policy.actions),
        "beta": policy.beta,
        "trained": policy.trained,
        "format_version": FORMAT_VERSION,
    }
    contents = {
        "model.safetensors": to_safetensors(weights, {"format": "pt"}),
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
        "README.md": (card or card_of(policy)).encode(),
    }
    write_together(folder, contents)
    return folder
