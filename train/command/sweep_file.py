"""The file of a sweep, as `wandb sweep` takes it: methods, metric and parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from policies.files import Checked, check, read_settings, show
from train.command.errors import UserError

METHODS = ("bayes", "random")

LARGEST, STEPS = 10**15, 10**9
"""The largest bound, and the most steps between two of them: numbers that Optuna still draws from exactly."""

DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform", "q_uniform")


@dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
        method: bayes or random.
        metric: a column of ``progress.csv``; its last row counts.
        is_maximized: whether more of it is better.
        parameters: flag of the entry point to its specification, as `wandb sweep` writes it.
    """

    method: str
    metric: str
    is_maximized: bool
    parameters: dict[str, dict[str, Any]]


class _MetricForm(Checked):
    """What a sweep file's ``metric`` must be."""

    name: str
    goal: Literal["maximize", "minimize"] = "minimize"


class _SweepForm(Checked):
    """What a sweep file must hold."""

    method: str = "bayes"
    metric: _MetricForm
    parameters: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]


def read_sweep(file: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        UserError: if it can't be read, or says something that is not supported here.
    """
    try:
        found: _SweepForm = check(_SweepForm, read_settings(file))
    except (OSError, ValueError) as error:
        raise UserError(f"file is {str(file)!r}: not a sweep ({error})") from error
    if found.method not in METHODS:
        raise UserError(f"method is {found.method!r}: choose one of {', '.join(METHODS)}")
    for name, spec in found.parameters.items():
        _check_parameter(name, spec)
    return Sweep(found.method, found.metric.name, found.metric.goal == "maximize", found.parameters)


def _check_parameter(name: str, spec: Mapping[str, Any]) -> None:
    kind = _kind(spec)
    if kind == "value" or (kind == "values" and isinstance(spec["values"], list) and spec["values"]):
        return
    said = f"parameter {name if name.isprintable() else show(name)} is {show(dict(spec))}"
    if kind not in DISTRIBUTIONS or not {"min", "max"} <= set(spec):
        raise UserError(
            f"{said}: give value, values, or min and max with distribution {', '.join(DISTRIBUTIONS[:-1])} or "
            f"{DISTRIBUTIONS[-1]}"
        )
    # Python counts True among whole numbers, and YAML writes infinities; neither is a bound.
    numbers = int if kind == "int_uniform" else int | float
    ends = [spec["min"], spec["max"], *([spec["q"]] if "q" in spec else [])]
    if not all(isinstance(end, numbers) and not isinstance(end, bool) and abs(end) < math.inf for end in ends):
        text = next((end for end in ends if isinstance(end, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", end)), None)
        hint = ""
        if text and numbers is not int:
            digits, exponent = text.split("e")
            hint = f"; YAML takes {text} for text: write {digits}.0e{int(exponent):+d}"
        raise UserError(f"{said}: {'whole' if numbers is int else 'finite'} numbers are needed{hint}")
    if spec["min"] > spec["max"] or (kind == "log_uniform_values" and spec["min"] <= 0) or spec.get("q", 1) <= 0:
        raise UserError(f"{said}: min must be max or less, and above 0 on a logarithmic scale; q must be above 0")
    if max(abs(spec["min"]), abs(spec["max"])) > LARGEST:
        raise UserError(f"{said}: min and max must lie between {-LARGEST:,} and {LARGEST:,}")
    if "q" in spec and spec["max"] - spec["min"] > STEPS * spec["q"]:
        raise UserError(f"{said}: q must divide the range into {STEPS:,} steps at most")


def _kind(spec: Mapping[str, Any]) -> str:
    """Return what a parameter's specification is: value, values, or a distribution between min and max."""
    for kind in ("value", "values"):
        if kind in spec:
            return kind
    return str(spec.get("distribution", "uniform"))


def suggest(trial: Any, name: str, spec: Mapping[str, Any]) -> Any:
    """Ask an Optuna trial for one parameter's value."""
    kind = _kind(spec)
    if kind == "value":
        return spec["value"]
    if kind == "values":
        # Choices are proposed by their place: Optuna takes no lists.
        return spec["values"][trial.suggest_categorical(name, list(range(len(spec["values"]))))]
    if kind == "int_uniform":
        return trial.suggest_int(name, spec["min"], spec["max"])
    step = spec.get("q", 1) if kind == "q_uniform" else None
    return trial.suggest_float(name, spec["min"], spec["max"], step=step, log=kind == "log_uniform_values")
