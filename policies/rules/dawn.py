"""DAWN: what attends strongly to certain tokens may follow them early, and what attends to each other may not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from envs.view import View, ensure_progress
from policies.rules.base import CommitRule, top_k

SINK_SHARES = 4
"""Times its even share of all attention that a position may receive in a short text before it is a sink."""


@dataclass(frozen=True)
class DAWN(CommitRule):
    """Commit what is certain, what depends on certain tokens, and of the rest what does not depend on each other.

    A position depends on another that it pays at least `edge` of its attention (``attention`` in `envs.readings`: the
    mean of the last four layers and all heads), itself and sinks apart: those that receive more than `sink` on average.
    Committed are (1) positions of confidence `high`; (2) those of confidence `induced` that depend on an anchor, a
    token of the prompt or a committed one that the dLLM still gives `high`; (3) from the most confident down to `low`,
    those that neither depend on one of (1) to (3) nor one of these on them; else the most confident.

    Source: arXiv 2602.06953, Section 4 and Algorithm 1. Departures: every token of the prompt is an anchor, as the
    dLLM's opinion of it is not computed (released code asks for `high` there too); and a position is no sink that
    receives less than four times the even share 1 / T of a text of T tokens, as in texts as short as the embedded
    suites' (T < 400) everything would be one. (3) follows the algorithm, where the released code leaves out only what
    depends on a position that is both in (1) and (2).
    """

    rule = "dawn"
    sweep = (0.6, 0.7, 0.75, 0.8, 0.85)
    features = frozenset({"attention", "top_probability"})

    low: float = 0.75
    """tau_low, confidence that independent positions need."""
    induced: float = 0.7
    """tau_induced, confidence that positions need which depend on an anchor."""
    high: float = 0.9
    """tau_high, confidence of what is certain, and of anchors."""
    edge: float = 0.07
    """tau_edge, attention from which on a position depends on another."""
    sink: float = 0.01
    """tau_sink, mean attention received above which a position is a sink."""

    def __post_init__(self) -> None:
        self.check_share("low", "induced", "high", "edge", "sink")

    def select(self, view: View) -> Tensor:
        """Choose by the graph of who depends on whom."""
        paid, received = view.tensors["attention"], view.tensors["attention_received"]
        length = view.masked.shape[1]
        prompt = paid.shape[2] - length
        shares = SINK_SHARES / (received > 0).sum(1, keepdim=True).clamp(min=1)
        is_sink = received > shares.clamp(min=self.sink)
        depends = (paid >= self.edge) & (paid > 0) & ~is_sink.unsqueeze(1)
        among = depends[:, :, prompt:] & (view.positions != view.positions.unsqueeze(1))
        known = ~view.masked & (view.positions < view.block_end.unsqueeze(1))
        anchors = F.pad(known & (view.features["top_probability"] >= self.high), (prompt, 0), value=True)
        follows = (depends & anchors.unsqueeze(1)).any(2)
        is_certain = view.confidence >= self.high
        commit = view.eligible & (is_certain | follows & (view.confidence >= self.induced))
        conflict = among | among.transpose(1, 2)
        newest, rest = commit, view.eligible & (view.confidence >= self.low) & ~commit
        # At each turn the best of what is left goes in, and what conflicts with it out.
        while bool((rest := rest & ~newest & ~(conflict & newest.unsqueeze(1)).any(2)).any()):
            newest = top_k(view.confidence, rest, 1)
            commit = commit | newest
        return ensure_progress(commit, view.eligible, view.confidence)
