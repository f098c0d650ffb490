"""Guided diffusion: a small autoregressive model checks the dLLM's proposals from left to right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.view import Action, View
from policies.rules.base import Rule, bound
from policies.rules.guide import check_guide_is_there, guide_of, judge


@dataclass(frozen=True)
class Guided(Rule):
    """Commit the longest prefix of the block's masks that the guide accepts; where it stops, write the guide's token.

    The dLLM fills all masks at once; the guide reads prompt and filled buffer in one forward and accepts a token that
    is its own first choice or to which it gives at least `acceptance`. Its forward counts as token positions, not as
    a forward of the dLLM. At acceptance 1 the text is what the guide writes greedily, whatever the temperature.

    Source: arXiv 2505.21467 (FlashDLM), guided diffusion; acceptance 1 is its deterministic rule.
    """

    rule = "guided"
    sweep = (1.0, 0.3, 0.1, 0.03)
    features = frozenset({"prompt"})

    acceptance: float = 1.0
    """Probability under the guide that is enough; 1 accepts its first choice only."""
    guide: str = "tiny_guide"
    """A checkpoint folder of a causal model with the dLLM's tokenizer, or the name of one that ships."""
    model: Any = bound(None)
    mask_id: int = bound(-1)

    def __post_init__(self) -> None:
        self.check_share("acceptance")

    def check_files(self) -> None:
        """Look whether the guide is there."""
        check_guide_is_there(self.rule, self.guide)

    def bind(self, denoiser: Denoiser, settings: DecodingSettings) -> Self:
        """Load the guide."""
        return replace(self, model=guide_of(self.rule, self.guide, denoiser), mask_id=denoiser.mask_id)

    @torch.inference_mode()
    def act(self, view: View) -> Action:
        """Let the guide check."""
        if self.model is None:
            raise ValueError(f"{self.rule} has no guide yet: call bind(denoiser, settings) first")
        rows = view.eligible.any(1).nonzero().squeeze(1)
        commit, tokens = torch.zeros_like(view.masked), view.prediction.clone()
        spent = torch.zeros_like(view.length)
        if len(rows):
            proposed, masks = view.prediction[rows], view.eligible[rows]
            probabilities, spent[rows] = judge(self.model, view.tensors["prompt"][rows], proposed, self.mask_id)
            own = probabilities.argmax(-1)
            given = probabilities.gather(-1, proposed.unsqueeze(-1)).squeeze(-1)
            accepted = (own == proposed) | (given >= self.acceptance)
            # Behind a refusal the guide has read tokens that will not stand, so its word there counts for nothing.
            refused = masks & ~accepted
            before = refused.int().cumsum(1) - refused.int() == 0  # up to the first refusal, it included
            commit[rows] = masks & before
            tokens[rows] = torch.where(refused, own, proposed)
        return Action(commit, tokens=tokens, extra_positions=spent)
