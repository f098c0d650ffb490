"""What the hand-made rules share: a name with options, and choosing by rank."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from envs.names import hint
from envs.view import View
from policies.base import CommitPolicy, UnmaskingPolicy


def bound(default: Any) -> Any:
    """Declare a field that `UnmaskingPolicy.bind` fills in; it is no option and not part of the name."""
    # Not compared: tensors and models have no plain equality, and rules of the same options are the same rule.
    return field(default=default, repr=False, compare=False, kw_only=True, metadata={"bound": True})


def _written(value: Any) -> str:
    if isinstance(value, float):
        # A name is read again, so it is short only where nothing is lost.
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Rule(UnmaskingPolicy):
    """A hand-made rule: a frozen dataclass whose first field is its knob and whose other fields are options.

    Attributes:
        rule: its name in `policies.rules.RULES`.
        sweep: the knob's values that ``--policy all`` evaluates.
    """

    rule: ClassVar[str]
    sweep: ClassVar[tuple[float, ...]]

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Return the fields that a user can set, the knob first, with their defaults."""
        return {f.name: f.default for f in fields(cls) if not f.metadata.get("bound")}

    @property
    def name(self) -> str:
        """``rule:knob``, and ``,option=value`` for each option that differs from its default."""
        (knob, _), *others = self.options().items()
        changed = [f",{name}={_written(getattr(self, name))}" for name, d in others if getattr(self, name) != d]
        return f"{self.rule}:{_written(getattr(self, knob))}{''.join(changed)}"

    def check_files(self) -> None:
        """Refuse files of the options that can't be read, before anything is decoded; here there are none.

        Raises:
            ValueError: naming the option.
        """

    def check(self, name: str, is_possible: bool, allowed: str) -> None:
        """Refuse an impossible option by name.

        Raises:
            ValueError: unless it is possible.
        """
        if not is_possible:
            raise ValueError(f"{self.rule}'s {name} is {getattr(self, name)!r}: it must be {allowed}")

    def check_count(self, *names: str) -> None:
        """Refuse options that are not a whole number of 1 or more."""
        for name in names:
            value = getattr(self, name)
            most = ", below 2^31" if isinstance(value, int) and value >= 2**31 else ""
            self.check(name, isinstance(value, int) and 1 <= value < 2**31, f"a whole number of 1 or more{most}")

    def check_share(self, *names: str) -> None:
        """Refuse options that are not in [0, 1]."""
        for name in names:
            self.check(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")

    def check_not_negative(self, *names: str) -> None:
        """Refuse options that are negative or not a number."""
        for name in names:
            self.check(name, getattr(self, name) >= 0, "0 or more")


@dataclass(frozen=True)
class CommitRule(Rule, CommitPolicy):
    """A rule that only chooses positions to commit."""


def rank(score: Tensor, eligible: Tensor) -> Tensor:
    """Rank the eligible positions of each row, 0 for the highest score; of equals, the first is better.

    Args:
        score: (N, L) float.
        eligible: (N, L) bool.

    Returns:
        (N, L) int64; ineligible positions come after all others. A score of -inf counts as ineligible ones do.
    """
    order = score.masked_fill(~eligible, -torch.inf).argsort(dim=1, descending=True, stable=True)
    place = torch.arange(score.shape[1], device=score.device).expand_as(order)
    ranks = torch.zeros_like(order).scatter(1, order, place)
    return torch.where(eligible, ranks, ranks + score.shape[1])


def top_k(score: Tensor, eligible: Tensor, k: int | Tensor) -> Tensor:
    """Choose the k eligible positions of highest score in each row; of equals, the first.

    Args:
        score: (N, L) float, above -inf where eligible.
        eligible: (N, L) bool.
        k: a number, or (N,) int64; a row with fewer eligible positions gives all of them.

    Returns:
        (N, L) bool.
    """
    return (rank(score, eligible) < (k.unsqueeze(1) if isinstance(k, Tensor) else k)) & eligible


def share_committed(view: View) -> Tensor:
    """Return (N,) float32 in [0, 1], the share of each row's positions that is committed."""
    inside = view.positions < view.length.unsqueeze(1)
    return (inside & ~view.masked).sum(1) / view.length


def make(cls: type[Rule], text: str) -> Rule:
    """Build a rule from the part of its text after the name: ``knob,option=value,...``, or nothing.

    Raises:
        ValueError: if an option is unknown or a value not possible.
    """
    values: dict[str, Any] = {}
    options = cls.options()
    for part in text.split(",") if text else []:
        name, has_name, value = (piece.strip() for piece in part.partition("="))
        if not has_name:
            name, value = next(iter(options)), part
        if name not in options:
            raise ValueError(f"{cls.rule}'s option is {name!r}: {hint(name, options)}")
        if name in values:
            raise ValueError(f"{cls.rule}'s {name} is given twice: give it once")
        values[name] = _parse(f"{cls.rule}'s {name}", value, options[name])
    return cls(**values)


def _parse(what: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError(f"{what} is {text!r}: it must be true or false")
        return text == "true"
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{what} is {text!r}: it must be a number") from None
    # A fraction where a count belongs is left to the rule, which says what it allows.
    return int(value) if isinstance(default, int) and value.is_integer() else value
