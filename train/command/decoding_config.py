"""What the configurations that decode have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, cast

from envs.caches import CACHES
from envs.decoding.settings import DecodingOptions
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


def decoding_of(config: Any) -> DecodingOptions:
    """Return the fields of a configuration that say how it decodes, all but block lengths, of which some have several.

    Args:
        config: whose fields are named as those of `envs.decoding.settings.DecodingSettings`; what it lacks is as there.
    """
    names = [one.name for one in fields(config) if one.name in DecodingOptions.__annotations__]
    return cast(DecodingOptions, {name: getattr(config, name) for name in names})
