"""The model card of a learned policy: what it is for, what it was trained with, and what it was measured to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import Field

from envs.decoding.settings import CONDITIONS, DecodingSettings, conditions_of
from envs.models.hub import is_hub_id
from policies.files import Checked, check

if TYPE_CHECKING:
    from policies.learned import LearnedPolicy

DECODING = ("model", "buffer_length", "block_lengths", *CONDITIONS)
"""Entries of `LearnedPolicy.trained` that say what decoding a policy was trained for."""


class _Dllm(Checked):
    mask_id: Annotated[int, Field(ge=0)] | None = None


class _Trained(Checked):
    block_lengths: list[Annotated[int, Field(ge=1)]] | None = None
    dllm: _Dllm | None = None


def check_trained(trained: Mapping[str, Any]) -> None:
    """Check those entries of `LearnedPolicy.trained` that more comes of than a line in a table.

    Args:
        trained: as a file gave them.

    Raises:
        ValueError: naming the first that is wrong.
    """
    check(_Trained, trained, "trained")


def card_of(
    policy: LearnedPolicy,
    name: str = "this/folder",
    license: str | None = None,
    evaluation: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Write the card as Markdown with the hub's front matter.

    Args:
        policy: what it is about.
        name: what `policies.load` is to be called with.
        license: of the weights, as the hub names it, such as ``"mit"``.
        evaluation: records of ``evaluation.json``; those of all tasks together are shown.
    """
    about: dict[str, Any] = {"library_name": "unmasking-policies"}
    about["tags"] = ["diffusion-language-model", "unmasking-policy", "decoding"]
    if license is not None:
        about["license"] = license
    model = policy.trained.get("model")
    if isinstance(model, str) and is_hub_id(model):
        about["base_model"] = model
    decoding = {name: policy.trained[name] for name in DECODING if name in policy.trained}
    settings = {
        "decision": policy.decision,
        "threshold": policy.threshold,
        "temperature": policy.actions.temperature,
        "dial": "speed 0 (slow) to 1 (fast)" if policy.has_dial else "none",
    }
    data = {name: value for name, value in policy.trained.items() if name not in (*DECODING, "versions", "dllm")}
    return f"""---
{yaml.safe_dump(about, sort_keys=False)}---

# Unmasking policy

Chooses which masked positions of a diffusion language model to commit at each step.

```python
import policies
policy = policies.load("{name}")  # decision="sample" draws instead of rounding
policies.generate({", ".join(["model", "tokenizer", "prompts", "policy", *_arguments(policy.trained)])})
```

{_table("decoding that it is for", {**decoding, **settings})}

{_table("trained with", data)}

{_results(evaluation)}
"""


def _arguments(trained: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `policies.generate`, where they aren't its defaults, that decode as in training."""
    length, blocks = trained.get("buffer_length", DecodingSettings.buffer_length), trained.get("block_lengths")
    # A policy's folder may be a stranger's: what can't be decoded so is no advice.
    try:
        found: dict[str, Any] = {"buffer_length": length, **conditions_of(trained)}
        # Full diffusion, where it was among what it was trained in, is how `generate` decodes untold.
        if isinstance(blocks, list) and blocks and length not in blocks:
            found["block_length"] = blocks[-1]
        DecodingSettings(**found)
    except (ValueError, TypeError):
        return []
    return [f"{name}={value!r}" for name, value in found.items() if value != getattr(DecodingSettings, name)]


def _table(title: str, rows: Mapping[str, Any]) -> str:
    return "\n".join(
        [f"| {title} | |", "| --- | --- |", *(f"| {cell(key)} | {cell(value)} |" for key, value in rows.items())]
    )


def cell(value: Any) -> str:
    """Write a value so that it stays in its cell of a table in Markdown."""
    return " ".join(str(value).replace("|", "\\|").split())


def _results(evaluation: Iterable[Mapping[str, Any]]) -> str:
    # A card has room for a line a setting; the tasks' own records stay in evaluation.json.
    records = [record for record in evaluation if record["task"] == "all"]
    if not records:
        return (
            "It saw training problems only; `evaluation.json` beside the run's folder has its results on held-out ones."
        )
    lines = [
        "Measured on held-out problems (95 % intervals); it saw training problems only.",
        "",
        "| policy | decision | block length | accuracy | forwards an answer | problems |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in records:
        low, high = one["accuracy_ci95"]
        accuracy = f"{100 * one['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        forwards = f"{one['nfe']:.2f} ({one['nfe_ci95'][0]:.2f} to {one['nfe_ci95'][1]:.2f})"
        cells = (cell(one["policy"]), one["decision"], one["block_length"], accuracy, forwards, one["episodes"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
