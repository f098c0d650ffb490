"""What the configurations that decode have in common."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, cast

from envs.caches import CACHES
from envs.decoding.settings import DecodingOptions
from train.command.config_values import NamedIn

CacheText = Annotated[str, NamedIn(tuple(CACHES))]
"""The type of their field ``cache``."""


def decoding_of(config: Any) -> DecodingOptions:
    """Return the fields of a configuration that say how it decodes, all but block lengths, of which some have several.

    Args:
        config: whose fields are named as those of `envs.decoding.settings.DecodingSettings`; what it lacks is as there.
    """
    names = [one.name for one in fields(config) if one.name in DecodingOptions.__annotations__]
    return cast(DecodingOptions, {name: getattr(config, name) for name in names})
