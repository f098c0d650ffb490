"""Learned policies for serving engines: a package that the engine finds, without this library.

An engine shows a policy the logits of one block and which of its positions are masked, and nothing else: no other
block, no hidden states, no seed. So only what decides from that can be exported (`check_exportable`), and it decides
there as it does here under ``window="truncated"`` and ``block_origin="absolute"``.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.torch import save

from envs.models.hub import is_hub_id
from policies.card import cell
from policies.files import check_finite, write_together
from policies.learned import LearnedPolicy
from policies.networks.transformer import UnmaskingNetwork

SHIPPED = Path(__file__).parent / "shipped"
"""The modules that are copied."""

NEEDS_ENDS = frozenset({"is_eos", "eos_probability"})
"""Features that depend on which tokens end a text."""


@dataclass(frozen=True)
class Engine:
    """What an engine needs besides the policy.

    Attributes:
        title: what it is called.
        model: that it serves, in its usage.
        version: that the export was tested with.
        install: commands before the export's own installation.
        usage: commands or code after it, in Markdown; ``{folder}`` is the export's.
        plugins: group of entry points by which the engine finds the package, empty if it has none.
        extra: further files by name; ``{speed}`` is the place on the dial.
    """

    title: str
    model: str
    version: str
    install: str
    usage: str
    plugins: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        "diffusers": Engine(
            "diffusers (`LLaDA2Pipeline`)",
            "inclusionAI/LLaDA2.0-mini",
            "diffusers 0.42.1, its own pipeline on a CPU",
            "pip install 'diffusers>=0.42' transformers",
            """```python
import torch
from diffusers import LLaDA2Pipeline
from transformers import AutoModelForCausalLM, AutoTokenizer
from unmasking_diffusers import UnmaskingPolicyScheduler

name = "inclusionAI/LLaDA2.0-mini"
model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True, dtype=torch.bfloat16, device_map="auto")
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
pipeline = LLaDA2Pipeline(model=model, scheduler=UnmaskingPolicyScheduler(), tokenizer=tokenizer)
print(pipeline("What is 17 times 23?", gen_length=256, block_length=32).texts[0])
```

`scheduler.save_pretrained(FOLDER)` and `UnmaskingPolicyScheduler.from_pretrained(FOLDER)` keep the policy with the
scheduler's configuration; `UnmaskingPolicyScheduler(speed=0.7)` sets a dial.
""",
        ),
        "sglang": Engine(
            "SGLang",
            "inclusionAI/LLaDA2.0-mini",
            "sglang 0.5.23: its plug-in loader, configuration and\nboth loops, on a CPU with a table for a model",
            "pip install 'sglang>=0.5.23'",
            """```bash
python -m sglang.launch_server --model-path inclusionAI/LLaDA2.0-mini --trust-remote-code \\
    --dllm-algorithm UnmaskingPolicy --dllm-algorithm-config {folder}/unmasking.yaml
curl http://localhost:30000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "default", "messages": [{{"role": "user", "content": "What is 17 times 23?"}}]}}'
```

`unmasking.yaml` can hold `speed`, where the policy has a dial, and `block_size`. It runs first-done-first-out and with
`--no-dllm-fdfo`.
""",
            plugins="sglang.srt.plugins",
            extra={"unmasking.yaml": "# Options of the algorithm; see README.md.\nspeed: {speed}\n"},
        ),
        "lmdeploy": Engine(
            "LMDeploy",
            "JetLM/SDAR-8B-Chat",
            "lmdeploy 0.18.0: its\nconfiguration and model agent, on a CPU with a table for a model",
            "pip install 'lmdeploy>=0.18'",
            """```python
import unmasking_lmdeploy
from lmdeploy import PytorchEngineConfig, pipeline

unmasking_lmdeploy.install()  # before the engine is built; speed=0.7 sets a dial
engine = PytorchEngineConfig(dllm_block_length=4, dllm_unmasking_strategy="low_confidence_dynamic")
print(pipeline("JetLM/SDAR-8B-Chat", backend_config=engine)("What is 17 times 23?").text)
```

LMDeploy has no plug-ins: each worker process of an engine on several GPUs must call `install` too.
""",
        ),
        "dllm_plugin": Engine(
            "vLLM's dllm-plugin",
            "inclusionAI/LLaDA2.0-mini",
            "a stub that has the\nsignatures of its commit 33cd242",
            "pip install git+https://github.com/vllm-project/dllm-plugin",
            """```bash
VLLM_USE_V2_MODEL_RUNNER=1 vllm serve inclusionAI/LLaDA2.0-mini --trust-remote-code
```

The package is found as a general plug-in of vLLM; `UNMASKING_SPEED=0.7` in the environment sets a dial. The plug-in
commits what is left after its own limit of iterations: let that be at least the length of a block.
""",
            plugins="vllm.general_plugins",
        ),
    }
)
"""Engines by name; each has a module of the same name in `SHIPPED`."""


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
    elif "age" in network.config.features:
        reason = "it reads age, which counts the steps since a belief was computed"
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
        "least_log_odds": math.log(least / (1 - least)) if least < 1 else None,
        "falls_back_on_confidence": policy.actions.is_product,
        "end_ids": list(dict.fromkeys(end_ids)),
        "mask_id": _own_mask(policy),
        "trained": policy.trained,
    }


def _own_mask(policy: LearnedPolicy) -> int | None:
    """Return the mask token of the dLLM that a policy is for; None if it is for any."""
    about = policy.trained.get("dllm")
    return None if policy.any_dllm or not isinstance(about, Mapping) else about.get("mask_id")


def write_engine(
    policy: LearnedPolicy, engine: str, folder: Path, end_ids: Sequence[int] = (), speed: float | None = None
) -> Path:
    """Write a package with a policy for an engine.

    Args:
        policy: what to export.
        engine: a name of `ENGINES`.
        folder: where; it is made.
        end_ids: see `settings_of`.
        speed: see `settings_of`.

    Returns:
        The folder, which ``pip install`` takes.

    Raises:
        ValueError: if the policy can't run there.
    """
    about, network = ENGINES[engine], check_exportable(policy)
    settings = settings_of(policy, end_ids, speed)
    # safetensors refuses tensors that are not in one piece.
    weights = {name: values.float().contiguous() for name, values in network.state_dict().items()}
    check_finite(weights)
    package = folder / f"unmasking_{engine}"
    package.mkdir(parents=True, exist_ok=True)
    shutil.copy(SHIPPED / "block_policy.py", package / "block_policy.py")
    shutil.copy(SHIPPED / f"{engine}.py", package / "__init__.py")
    facts = (json.dumps(settings, indent=2) + "\n").encode()
    write_together(package, {"policy.safetensors": save(weights, {"format": "pt"}), "policy.json": facts})
    (folder / "pyproject.toml").write_text(_pyproject(engine, about))
    (folder / "README.md").write_text(_readme(engine, about, folder, settings))
    for name, text in about.extra.items():
        (folder / name).write_text(text.format(speed="null" if speed is None else speed))
    return folder


def _pyproject(engine: str, about: Engine) -> str:
    entry = f'[project.entry-points."{about.plugins}"]\nunmasking = "unmasking_{engine}:register"\n'
    return f"""[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "unmasking-{engine.replace("_", "-")}"
version = "0.1.0"
description = "An unmasking policy for {about.title}"
requires-python = ">=3.10"
dependencies = ["safetensors", "torch"]

{entry if about.plugins else ""}
[tool.setuptools]
packages = ["unmasking_{engine}"]

[tool.setuptools.package-data]
unmasking_{engine} = ["policy.json", "policy.safetensors"]
"""


def _readme(engine: str, about: Engine, folder: Path, settings: Mapping[str, Any]) -> str:
    trained = {name: value for name, value in settings["trained"].items() if name not in ("versions", "dllm")}
    rows = "\n".join(f"| {cell(name)} | {cell(value)} |" for name, value in trained.items())
    model, own = trained.get("model"), ""
    usage = about.usage.format(folder=folder)
    if isinstance(model, str) and is_hub_id(model):
        usage = usage.replace(about.model, model)
    elif settings["mask_id"] is not None:
        own = f"""
It was trained for the dLLM `{cell(model)}` and refuses others, such as the one below: export one that was trained for
it with `configs/engine.yaml` and `--model.name`, or this one with `--any_dllm true`.
"""
    return f"""# An unmasking policy for {about.title}

It chooses which masked positions of a block the diffusion language model fills in at each step: at least one, by the
model's own probabilities, without sampling. Use it at temperature 0.
{own}
```bash
{about.install}
pip install {folder}
```

{usage}
`unmasking_{engine}/` holds the weights (`policy.safetensors`), all settings (`policy.json`) and the policy in pure
torch (`block_policy.py`). Tested with {about.version}.

| trained with | |
| --- | --- |
{rows}
"""
