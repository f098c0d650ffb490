"""How rows are decoded, whatever decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypedDict, cast, get_args

from envs.caches import make_cache
from envs.numbers import is_whole
from envs.readings import READINGS

MAX_TEMPERATURE = 1e6
"""Gumbel noise times more than this could overflow float32; long before, sampling is uniform."""


MAX_BLOCKS = 2**20
"""More than any buffer has; times a block's positions, it still is an int64."""


_UNKEPT: Mapping[str, str] = MappingProxyType(
    {
        "leave_one_out": "its shadow block can't be kept",
        "attention": "a forward of some positions says what those attend to alone",
    }
)
"""Readings that no cache can go on from, and why."""


def check_kept(cache: str, features: Iterable[str], who: str) -> None:
    """Refuse readings that a cache can't go on from.

    Args:
        cache: as `envs.caches.make_cache` reads it.
        features: names of readings.
        who: what has them, for the sentence, such as ``"features hold"``.

    Raises:
        ValueError: if the cache is none that there is, or keeps something and there is such a reading.
    """
    unkept = sorted(_UNKEPT.keys() & set(features))
    if make_cache(cache).keeps and unkept:
        raise ValueError(
            f"cache is {cache!r} and {who} {unkept[0]}: {_UNKEPT[unkept[0]]}; use cache none or another policy"
        )


Window = Literal["full", "truncated"]
"""What the dLLM is shown of the buffer: all of it, or nothing after the current block, as serving engines do."""


BlockOrigin = Literal["buffer", "absolute"]
"""Where blocks are counted from: the end of the prompt, or its start, so that the first is partly prompt."""


class DecodingOptions(TypedDict, total=False):
    """The fields of `DecodingSettings` but those that are lists elsewhere, as whatever decodes takes them by name."""

    buffer_length: int
    temperature: float
    end_of_text_prediction: bool
    early_end: bool
    window: Window
    block_origin: BlockOrigin
    blocks_ahead: int
    cache: str


CONDITIONS = ("window", "block_origin", "blocks_ahead", "cache")
"""Fields of `DecodingSettings`, beside its lengths, that beliefs and choices depend on: what the dLLM is shown, what a
forward computes of it, and what may be committed after it."""


class Conditions(TypedDict):
    """The values of `CONDITIONS`."""

    window: Window
    block_origin: BlockOrigin
    blocks_ahead: int
    cache: str


def check_flags(**flags: Any) -> None:
    """Refuse what is neither True nor False.

    Raises:
        ValueError: naming the argument.
    """
    for name, value in flags.items():
        # A text such as "false" would count as True.
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}: it must be True or False")


@dataclass(frozen=True)
class DecodingSettings:
    """How a buffer is decoded.

    Attributes:
        buffer_length: positions of a text, and of the masks that a sequence starts from; see `buffer_width`.
        block_length: positions of a block; blocks are decoded left to right (semi-autoregressive). None is full
            diffusion, whatever the origin, and so is the buffer length, counted from the end of the prompt.
        temperature: of the sampled token; 0 commits the argmax.
        features: names of `envs.readings.READINGS` to compute.
        end_of_text_prediction: once an end-of-text is committed, everything after it is end-of-text at once and
            leaves the computation (EoTP of Learn2PD, arXiv 2509.25188).
        early_end: a sequence ends once everything before a committed end-of-text is known, and the rest becomes
            end-of-text. False decodes every position, as arXiv 2512.09106 and most released code do; the text, which
            ends at the first end-of-text, can differ in what later forwards see only.
        window: see `Window`. What is not shown is not computed, has no belief, and can't be committed.
        block_origin: see `BlockOrigin`. Only blocks counted from the end of the prompt must divide the buffer. A
            block-causal dLLM that counts its own from the start of the text is decoded so whatever is said here. A
            last block that the buffer cuts is shown whole to a truncated window, its rest masks, as far as the dLLM's
            length allows.
        blocks_ahead: blocks after the current one whose masks may be committed too, where the last forward computed
            them; where enough of them may, whatever is decided from what is eligible is decided as in full diffusion.
        cache: which positions a forward computes anew, as `envs.caches.make_cache` reads it. A position that isn't
            computed is seen by the others as it was when it last was, and the policy sees the belief of then.

    Raises:
        ValueError: for a length, temperature, feature, window, origin, number of blocks or cache that is not possible.
    """

    buffer_length: int = 64
    block_length: int | None = None
    temperature: float = 0.0
    features: frozenset[str] = frozenset()
    end_of_text_prediction: bool = False
    early_end: bool = True
    window: Window = "full"
    block_origin: BlockOrigin = "buffer"
    blocks_ahead: int = 0
    cache: str = "none"

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.buffer_length is None or self.buffer_length < 1:
            raise ValueError(f"buffer_length is {self.buffer_length}: it must be 1 or more")
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise ValueError(f"temperature is {self.temperature}: it must be 0 (argmax) to {MAX_TEMPERATURE:g}")
        for name, allowed in (("window", get_args(Window)), ("block_origin", get_args(BlockOrigin))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose {' or '.join(allowed)}")
        self._check_blocks()
        self._check_features()

    def _check_kinds(self) -> None:
        for name in ("buffer_length", "block_length", "blocks_ahead"):
            value = getattr(self, name)
            if value is not None and not is_whole(value):
                raise ValueError(f"{name} is {value!r}: it must be a whole number")
        if not isinstance(self.temperature, int | float) or isinstance(self.temperature, bool):
            raise ValueError(f"temperature is {self.temperature!r}: it must be a number")
        check_flags(end_of_text_prediction=self.end_of_text_prediction, early_end=self.early_end)
        if isinstance(self.features, str):
            raise ValueError(f"features is {self.features!r}: give a set of names, such as {{{self.features!r}}}")

    def _check_blocks(self) -> None:
        if self.blocks_ahead is None or not 0 <= self.blocks_ahead < MAX_BLOCKS:
            raise ValueError(f"blocks_ahead is {self.blocks_ahead}: it must be 0 to {MAX_BLOCKS - 1:,}")
        if self.blocks_ahead and self.window == "truncated":
            raise ValueError(
                f"blocks_ahead is {self.blocks_ahead} and window truncated, which shows nothing after the current "
                "block: set blocks_ahead to 0, or window to full"
            )
        if self.block_origin == "absolute" and not 1 <= self.block <= self.buffer_length:
            raise ValueError(
                f"block_length is {self.block_length}: it must be 1 to buffer_length, {self.buffer_length}"
            )
        if self.block < 1 or (self.buffer_length % self.block and self.block_origin != "absolute"):
            divisors = [d for d in range(1, self.buffer_length + 1) if self.buffer_length % d == 0]
            raise ValueError(
                f"block_length is {self.block_length}: it must divide buffer_length {self.buffer_length}; "
                f"choose one of {', '.join(map(str, divisors))}"
            )

    def _check_features(self) -> None:
        unknown = sorted(self.features - READINGS.keys())
        if unknown:
            raise ValueError(f"feature is {unknown[0]!r}: choose from {', '.join(sorted(READINGS))}")
        further = [name for name in ("hidden", "leave_one_out", "attention") if name in self.features]
        if len(further) > 1:
            raise ValueError(
                f"features hold both {further[0]} and {further[1]}: one forward gives one of them, leave one out"
            )
        check_kept(self.cache, self.features, "features hold")

    @property
    def block(self) -> int:
        """Positions of a block, the whole buffer in full diffusion."""
        return self.buffer_length if self.block_length is None else self.block_length


def conditions_of(about: Any) -> Conditions:
    """Return the conditions of a decoding, the cache as it writes itself.

    Args:
        about: a mapping, or an object with such attributes, by the names of `CONDITIONS`; what it lacks is as by
            default, as whatever is older than a condition was made without it.

    Raises:
        ValueError: if the cache is none that there is.

    >>> conditions_of({"cache": "dual:refresh=0", "block_length": 32})
    {'window': 'full', 'block_origin': 'buffer', 'blocks_ahead': 0, 'cache': 'dual'}
    """
    has = about.get if isinstance(about, Mapping) else partial(getattr, about)
    found = {name: has(name, getattr(DecodingSettings, name)) for name in CONDITIONS}
    return cast(Conditions, {**found, "cache": make_cache(found["cache"]).name})
