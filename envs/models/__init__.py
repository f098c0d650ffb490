"""Which dLLMs the library knows, how each is loaded, and what is checked after loading."""

from __future__ import annotations

from envs.models.families import FAMILIES, find_family
from envs.models.families.family import PLAIN, Family
from envs.models.memory import step_memory

__all__ = ["FAMILIES", "PLAIN", "Family", "find_family", "step_memory"]
