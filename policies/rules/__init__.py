"""Hand-made decoding rules, one file each; ``docs/rules.md`` is the table of them all."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from envs.names import hint
from policies.files import show
from policies.rules.adablock import AdaBlock
from policies.rules.bacd import BACD, TCCF
from policies.rules.base import CommitRule, Rule, make, top_k
from policies.rules.cad import CAD
from policies.rules.ccd import CCD, CCDDynamic
from policies.rules.credit import CreditDecoding
from policies.rules.dawn import DAWN
from policies.rules.diffuspec import DiffuSpec
from policies.rules.dus import DUS
from policies.rules.eb_sampler import EBSampler
from policies.rules.ete import ETE
from policies.rules.fixed import Entropy, LowConfidence, Margin, Random
from policies.rules.freedave import FreeDave
from policies.rules.guided import Guided
from policies.rules.info_gain import InfoGain
from policies.rules.klass import Klass
from policies.rules.localleap import LocalLeap
from policies.rules.oracle import Oracle
from policies.rules.parallel_forced import ParallelForced
from policies.rules.pc_sampler import PCSampler
from policies.rules.prophet import Prophet
from policies.rules.punt import PUNT
from policies.rules.rcr import RCR
from policies.rules.remdm import ReMDM
from policies.rules.rho_eos import RhoEOS
from policies.rules.slowfast import SlowFast
from policies.rules.threshold import Factor, Frechet, Threshold
from policies.rules.window import Window
from policies.rules.wino import Wino

__all__ = ["RULES", "CommitRule", "LowConfidence", "Oracle", "Random", "Rule", "Threshold", "make_rule", "top_k"]

RULES: Mapping[str, type[Rule]] = MappingProxyType(
    {
        cls.rule: cls
        for cls in (
            *(LowConfidence, Random, Margin, Entropy, Threshold, Factor, Frechet, LocalLeap, EBSampler, Klass, CCD),
            *(CCDDynamic, BACD, TCCF, CAD, AdaBlock, RhoEOS, ETE, Prophet, SlowFast, PCSampler, DUS, CreditDecoding),
            *(DAWN, FreeDave, InfoGain, PUNT, Wino, ReMDM, RCR, Guided, DiffuSpec, Window, ParallelForced, Oracle),
        )
    }
)
"""Every rule by name; a new one is a file and a word here."""


def make_rule(text: str) -> Rule:
    """Build a rule from ``name``, ``name:knob`` or ``name:knob,option=value``.

    Raises:
        ValueError: if there is no such rule or option, or a value is not possible.

    >>> make_rule("threshold:0.9").name
    'threshold:0.9'
    >>> make_rule("klass:0.8,history=3").name
    'klass:0.8,history=3'
    """
    if not isinstance(text, str):
        raise ValueError(f"policy is {show(text)}: give a rule as a text, such as 'threshold:0.9'")
    name, has_knob, rest = text.partition(":")
    if name not in RULES:
        raise ValueError(f"policy is {show(text)}: no rule of that name; {hint(name, RULES)}")
    if has_knob and not rest:
        raise ValueError(f"policy is {text!r}: write a number after the colon, as in threshold:0.9")
    try:
        return make(RULES[name], rest)
    except ValueError as error:
        raise ValueError(f"policy is {text!r}: {error}") from None
