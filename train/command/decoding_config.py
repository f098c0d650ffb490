"""What the configurations that decode have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Annotated, Any, cast

from envs.caches import CACHES, make_cache
from envs.decoding.settings import DecodingOptions, DecodingSettings
from train.command.config_values import NamedIn

CacheText = Annotated[str, NamedIn(tuple(CACHES))]
"""The type of their field ``cache``."""


def what_differs(about: Mapping[str, Any]) -> str:
    """Word how something decodes where that is not as by default, each part after a comma.

    Args:
        about: by the names of `envs.decoding.settings.DecodingSettings`; what it lacks is as by default, so that runs
            from before there was such a setting compare with new ones.

    >>> what_differs({"early_end": False, "cache": "dual", "window": "full"})
    ', no early end, cache dual'
    """
    ahead = about.get("blocks_ahead", 0)
    parts = {
        "no early end": not about.get("early_end", True),
        "truncated window": about.get("window", "full") != "full",
        "absolute blocks": about.get("block_origin", "buffer") != "buffer",
        f"{ahead} block{'s' * (ahead != 1)} ahead": ahead != 0,
        f"cache {about.get('cache')}": about.get("cache", "none") != "none",
    }
    return "".join(f", {text}" for text, is_so in parts.items() if is_so)


def unused_without_blocks(why: str, prefix: str = "") -> dict[str, str]:
    """Return the fields that play no role in full diffusion, each with the reason.

    Args:
        why: the field that gives block lengths, and that it gives none.
        prefix: of the fields' names.
    """
    why += ", which is full diffusion; give a block length, or leave this out"
    return dict.fromkeys((prefix + name for name in ("window", "block_origin", "blocks_ahead")), why)


def settle_decoding(config: Any, blocks: Iterable[int | None] = ()) -> None:
    """Refuse a way of decoding that can't be, and write the cache as it is written everywhere.

    Args:
        config: a frozen dataclass, as `decoding_of` takes it; ``dual:refresh=0`` becomes ``dual``, so that a run that
            was told one goes on when it is told the other.
        blocks: block lengths to check.

    Raises:
        ValueError: as `DecodingSettings` does.
    """
    for block in (None, *blocks):
        DecodingSettings(block_length=block, **decoding_of(config))
    object.__setattr__(config, "cache", make_cache(config.cache).name)


def decoding_of(config: Any) -> DecodingOptions:
    """Return the fields of a configuration that say how it decodes, all but block lengths, of which some have several.

    Args:
        config: whose fields are named as those of `envs.decoding.settings.DecodingSettings`; what it lacks is as there.
    """
    names = [one.name for one in fields(config) if one.name in DecodingOptions.__annotations__]
    return cast(DecodingOptions, {name: getattr(config, name) for name in names})
