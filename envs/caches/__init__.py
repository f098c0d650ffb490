"""Caches of keys and values, one rule a class; ``docs/caches.md`` is the table of them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType

from envs.caches.base import CacheRule, Moment
from envs.caches.d2cache import D2Cache
from envs.caches.dkv import DelayedKV
from envs.caches.exact import Exact
from envs.caches.fast_dllm import Dual, Prefix
from envs.caches.freecache import FreeCache
from envs.caches.none import NoCache
from envs.caches.window import Window
from envs.names import hint

__all__ = ["CACHES", "CacheRule", "Moment", "check_refreshes", "make_cache"]

CACHES: Mapping[str, type[CacheRule]] = MappingProxyType(
    {cls.cache: cls for cls in (NoCache, Prefix, Dual, Exact, DelayedKV, D2Cache, FreeCache, Window)}
)
"""Every cache by name; a new one is a class and a word here."""


def make_cache(text: str) -> CacheRule:
    """Build a cache from ``name`` or ``name:knob=value,...``.

    Raises:
        ValueError: if there is no such cache or knob, or a value is not possible.

    >>> make_cache("dual:refresh=8").name
    'dual:refresh=8'
    """
    if not isinstance(text, str):
        raise ValueError(f"cache is {text!r}: write its name, one of {', '.join(CACHES)}")
    name, has_knobs, rest = text.partition(":")
    if name not in CACHES:
        raise ValueError(f"cache is {text!r}: {hint(name, CACHES)}")
    knobs = [knob.name for knob in fields(CACHES[name])]
    values: dict[str, int] = {}
    for part in rest.split(",") if has_knobs else []:
        knob, is_given, value = (piece.strip() for piece in part.partition("="))
        if not knobs:
            raise ValueError(f"cache is {text!r}: {name} has no knobs, leave out all but the name")
        if not part.strip():
            raise ValueError(
                f"cache is {text!r}: nothing stands behind a colon or comma; leave that out, or write KNOB=VALUE"
            )
        if knob.isdecimal():
            raise ValueError(
                f"cache is {text!r}: write KNOB=VALUE, such as {knobs[0]}={knob}; choose from {', '.join(knobs)}"
            )
        if knob not in knobs:
            raise ValueError(f"cache is {text!r}: {hint(knob, knobs)}")
        if knob in values:
            raise ValueError(f"cache is {text!r}: {knob} is given twice, give it once")
        if not is_given:
            raise ValueError(f"cache is {text!r}: {knob} has no value; write {knob}=VALUE, a whole number")
        # int() would also take signs, spaces, underscores and the digits of other scripts.
        if not (value.isascii() and value.isdecimal()):
            raise ValueError(f"cache is {text!r}: {knob} is {value!r}, and must be a whole number, written in digits")
        values[knob] = int(value)
    try:
        return CACHES[name](**values)
    except ValueError as error:
        raise ValueError(f"cache is {text!r}: {error}") from None


def check_refreshes(name: str, cache: str) -> None:
    """Refuse to decide about refreshes where nothing is kept.

    Args:
        name: the field that asks for it.
        cache: as `make_cache` reads it.

    Raises:
        ValueError: if it keeps nothing.
    """
    if not make_cache(cache).keeps:
        raise ValueError(
            f"{name} is true and cache {cache!r}: it keeps nothing that could be refreshed; choose a cache such as "
            f"dual, or leave {name} out"
        )
