"""Unmasking policies: hand-made rules and learned ones behind one interface, and decoding with any of them."""

from __future__ import annotations

from policies.base import UnmaskingPolicy
from policies.formats.folder import load
from policies.generation import Generation, GenerationStep, decode, generate
from policies.learned import LearnedPolicy, save
from policies.networks.transformer import UnmaskingNetwork
from policies.networks.transformer_config import NetworkConfig
from policies.rules import RULES, LowConfidence, Random, Threshold, make_rule

__all__ = [
    "RULES",
    "Generation",
    "GenerationStep",
    "LearnedPolicy",
    "LowConfidence",
    "NetworkConfig",
    "Random",
    "Threshold",
    "UnmaskingNetwork",
    "UnmaskingPolicy",
    "decode",
    "generate",
    "load",
    "make_rule",
    "save",
]
