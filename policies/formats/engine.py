"""What the exporters for serving engines share: a package that the engine finds, without this library.

An engine shows a policy the logits of one block and which of its positions are masked, and nothing else: no other
block, no hidden states, no seed. So only what decides from that can be exported (`check_exportable`), and it decides
there as it does here under ``window="truncated"`` and ``block_origin="absolute"``.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from safetensors.torch import save

from envs.models.hub import is_hub_id
from envs.models.load import SHIPPED as DLLMS
from envs.models.load import load_denoiser
from policies.card import cell
from policies.files import plain_weights, write_together
from policies.formats.exporter import Exporter, ExportOptions
from policies.learned import LearnedPolicy
from policies.networks.transformer import UnmaskingNetwork

SHIPPED = Path(__file__).parent / "shipped"
"""The modules that are copied."""

NEEDS_ENDS = frozenset({"is_eos", "eos_probability"})
"""Features that depend on which tokens end a text."""


class Engine(Exporter):
    """An engine, by what it needs besides the policy.

    Attributes:
        title: what it is called.
        model: that it serves, in its usage.
        version: that the export was tested with.
        install: commands before the export's own installation.
        usage: commands or code after it, in Markdown; ``{folder}`` is the export's, as a shell takes it.
        plugins: group of entry points by which the engine finds the package, empty if it has none.
        extra: further files by name; ``{speed}`` is the place on the dial.
    """

    reads = frozenset({"speed", "end_ids", "any_dllm"})

    title: ClassVar[str]
    model: ClassVar[str]
    version: ClassVar[str]
    install: ClassVar[str]
    usage: ClassVar[str]
    plugins: ClassVar[str] = ""
    extra: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def write(self, policy: LearnedPolicy, out: Path, options: ExportOptions) -> Mapping[str, str]:
        """Write a package with a policy, which ``pip install`` takes.

        Raises:
            ValueError: see `check_exportable` and `settings_of`.
        """
        # Before a dLLM is loaded for its ends of text.
        network = check_exportable(policy)
        policy = policy.changed(any_dllm=options.any_dllm or policy.any_dllm)
        settings = settings_of(policy, options.end_ids or own_ends(policy), options.speed)
        weights = {name: values.float() for name, values in plain_weights(network).items()}
        package = out / self._package
        package.mkdir(parents=True, exist_ok=True)
        # Copied, not imported: a server has no need of this library, nor of its dependencies.
        shutil.copy(SHIPPED / "block_policy.py", package / "block_policy.py")
        shutil.copy(SHIPPED / f"{self.name}.py", package / "__init__.py")
        facts = (json.dumps(settings, indent=2) + "\n").encode()
        write_together(package, {"policy.safetensors": save(weights, {"format": "pt"}), "policy.json": facts})
        (out / "pyproject.toml").write_text(self._pyproject())
        (out / "README.md").write_text(self._readme(out, settings))
        for name, text in self.extra.items():
            (out / name).write_text(text.format(speed="null" if options.speed is None else options.speed))
        return {}

    @property
    def _package(self) -> str:
        """Name of the package, of which there can be one an engine in an environment."""
        return f"unmasking_{self.name}"

    def _pyproject(self) -> str:
        # An engine that has plug-ins finds them by the entry points of what is installed.
        entry = f'[project.entry-points."{self.plugins}"]\nunmasking = "{self._package}:register"\n'
        return f"""[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "unmasking-{self.name.replace("_", "-")}"
version = "0.1.0"
description = "An unmasking policy for {self.title}"
requires-python = ">=3.10"
dependencies = ["safetensors", "torch"]

{entry if self.plugins else ""}
[tool.setuptools]
packages = ["{self._package}"]

[tool.setuptools.package-data]
{self._package} = ["policy.json", "policy.safetensors"]
"""

    def _readme(self, folder: Path, settings: Mapping[str, Any]) -> str:
        trained = {name: value for name, value in settings["trained"].items() if name not in ("versions", "dllm")}
        rows = "\n".join(f"| {cell(name)} | {cell(value)} |" for name, value in trained.items())
        model, own = trained.get("model"), ""
        place = shlex.quote(str(folder))
        usage = self.usage.format(folder=place)
        if isinstance(model, str) and is_hub_id(model):
            # A policy of a model on the hub is shown with that; one of a model that ships is nothing an engine can
            # serve.
            usage = usage.replace(self.model, model)
        elif settings["mask_id"] is not None:
            own = f"""
It was trained for the dLLM `{cell(model)}` and refuses others, such as the one below: export one that was trained for
it with `configs/engine.yaml` and `--model.name`, or this one with `--any_dllm true`.
"""
        return f"""# An unmasking policy for {self.title}

It chooses which masked positions of a block the diffusion language model fills in at each step: at least one, by the
model's own probabilities, without sampling. Use it at temperature 0.
{own}
```bash
{self.install}
pip install {place}
```

{usage}
`{self._package}/` holds the weights (`policy.safetensors`), all settings (`policy.json`) and the policy in pure
torch (`block_policy.py`). Tested with {self.version}.

| trained with | |
| --- | --- |
{rows}
"""


def check_exportable(policy: LearnedPolicy) -> UnmaskingNetwork:
    """Return the network of a policy that decides from one block's logits and masks.

    Raises:
        ValueError: saying what else the policy reads.
    """
    network = policy.network
    reason = ""
    if "hidden" in policy.features:
        reason = "it reads the dLLM's hidden states"
    elif not isinstance(network, UnmaskingNetwork):
        reason = f"its network is a {type(network).__name__}, which is made for the whole buffer or one place in it"
    elif network.config.context != "block":
        reason = "its network sees the whole buffer (policy.context is buffer)"
    elif network.filter is not None:
        reason = "it has a filter inside"
    elif "changed" in network.config.features:
        reason = "it reads changed, which compares with the step before"
    elif network.config.decides_refresh:
        reason = "it decides when a cache is refreshed (policy.decides_refresh), which no engine asks a policy"
    elif policy.trained.get("blocks_ahead"):
        reason = "it was trained to commit in blocks ahead of the current one too (env.blocks_ahead)"
    elif "age" in network.config.features:
        reason = "it reads age, which counts the steps since a belief was computed"
    elif "unseen" in network.config.features:
        reason = "it reads unseen, which counts the tokens committed since all was computed"
    if reason:
        raise ValueError(
            f"the policy can't run in a serving engine, which shows one block's logits and masks alone: {reason}; "
            "train one with --config configs/engine.yaml"
        )
    assert isinstance(network, UnmaskingNetwork)
    return network


def settings_of(policy: LearnedPolicy, end_ids: Sequence[int] = (), speed: float | None = None) -> dict[str, Any]:
    """Return all that a policy's decisions depend on besides its weights, as JSON can hold it.

    Args:
        policy: what to export; its deterministic decision is, with its threshold, beta, temperature and speed. It
            refuses a dLLM with another mask token than that of its own, unless `LearnedPolicy.any_dllm`.
        end_ids: tokens that end a text of the dLLM that it is to decode.
        speed: on its dial, looked up at the length of the block that is served; None keeps its own place.

    Raises:
        ValueError: if the policy can't be exported, an end of a text is no token, it reads them and none is given, or
            it has no dial for the speed.
    """
    config = check_exportable(policy).config
    needy = sorted(NEEDS_ENDS & set(config.features))
    if needy and not end_ids:
        raise ValueError(
            f"end_ids is empty, but the policy reads {needy[0]}: give the tokens that end a text of the dLLM that it "
            "is to decode, such as --end_id 156892"
        )
    if end_ids and min(end_ids) < 0:
        raise ValueError(f"end_ids holds {min(end_ids)}: tokens are numbered from 0")
    if speed is not None and not policy.has_dial:
        raise ValueError(f"speed is {speed}, but the policy has no dial: it was trained for one alpha")
    # A probability times beta reaches the threshold where the probability reaches this.
    least = policy.threshold / policy.beta
    points = policy.calibration.points if policy.has_dial and policy.calibration is not None else []
    return {
        "hidden_size": config.hidden_size,
        "num_heads": config.num_heads,
        "feedforward_size": config.feedforward_size,
        "features": list(config.features),
        "threshold": config.threshold if config.init == "threshold" else None,
        "slope": config.slope,
        "has_dial": config.has_dial,
        "place": policy.speed,
        "speed": speed,
        "dial": [
            # Looked up here: an exported policy has the table, not the rule that reads measurements.
            [one.block_length, one.speed, policy.calibration.at(one.speed, one.block_length)]
            for one in points
            if policy.calibration is not None
        ],
        "temperature": policy.actions.temperature,
        "stop_logit": policy.actions.stop_logit if policy.actions.has_stop else 0.0,
        # None: with a small beta no probability reaches the threshold.
        "least_log_odds": math.log(least / (1 - least)) if least < 1 else None,
        "falls_back_on_confidence": policy.actions.is_product,
        "end_ids": list(dict.fromkeys(end_ids)),
        "mask_id": _own_mask(policy),
        "trained": policy.trained,
    }


def own_ends(policy: LearnedPolicy) -> Sequence[int]:
    """Return the tokens that end a text of the dLLM that a policy was trained with, if it reads them and that ships."""
    model = policy.trained.get("model")
    # One of the hub would have to be fetched for this alone: there, --end_id says it.
    if NEEDS_ENDS & policy.features and isinstance(model, str) and model in DLLMS:
        return load_denoiser(model).end_ids
    return ()


def _own_mask(policy: LearnedPolicy) -> int | None:
    """Return the mask token of the dLLM that a policy is for; None if it is for any."""
    about = policy.trained.get("dllm")
    return None if policy.any_dllm or not isinstance(about, Mapping) else about.get("mask_id")
