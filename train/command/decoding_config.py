"""What the configurations that decode have in common."""

from __future__ import annotations

from typing import Annotated

from envs.caches import CACHES
from train.command.config_values import NamedIn

CacheText = Annotated[str, NamedIn(tuple(CACHES))]
"""The type of their field ``cache``."""
