"""Guided diffusion: a small autoregressive model checks the dLLM's proposals from left to right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from envs.decoding import DecodingSettings
from envs.denoiser import Denoiser, load_guide
from envs.view import Action, View
from policies.rules.base import Rule, bound


@dataclass(frozen=True)
class Guided(Rule):
    """Commit the longest prefix of the block's masks that the guide accepts; where it stops, write the guide's token.

    The dLLM fills all masks at once; the guide reads prompt and filled buffer in one forward and accepts a token that
    is its own first choice or to which it gives at least `acceptance`. Its forward counts as token positions, not as
    a forward of the dLLM.

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

    def bind(self, denoiser: Denoiser, settings: DecodingSettings) -> Self:
        """Load the guide."""
        return replace(self, model=load_guide(self.guide, str(denoiser.device)), mask_id=denoiser.mask_id)

    @torch.inference_mode()
    def act(self, view: View) -> Action:
        """Let the guide check."""
        if self.model is None:
            raise ValueError(f"{self.rule} has no guide yet: call bind(denoiser, settings) first")
        prompt, length = view.tensors["prompt"], view.masked.shape[1]
        rows = view.eligible.any(1).nonzero().squeeze(1)
        present = prompt[rows] >= 0
        text = torch.cat([prompt[rows].clamp(min=0), view.prediction[rows]], 1)
        seen = torch.cat([present, torch.ones_like(view.masked[rows])], 1)
        commit, tokens = torch.zeros_like(view.masked), view.prediction.clone()
        spent = torch.zeros_like(view.length)
        if len(rows):
            numbers = (seen.cumsum(1) - 1).clamp(min=0)
            mask = None if bool(seen.all()) else seen.long()
            logits = self.model(input_ids=text, attention_mask=mask, position_ids=numbers).logits.float()
            if self.mask_id >= 0:
                logits[..., self.mask_id] = -torch.inf
            # Position i is judged by what the guide says after everything to its left.
            probabilities = logits[:, -length - 1 : -1].softmax(-1)
            own = probabilities.argmax(-1)
            given = probabilities.gather(-1, view.prediction[rows].unsqueeze(-1)).squeeze(-1)
            accepted = (own == view.prediction[rows]) | (given >= self.acceptance)
            masks = view.eligible[rows]
            refused = masks & ~accepted
            before = refused.int().cumsum(1) - refused.int() == 0  # up to the first refusal, it included
            commit[rows] = masks & before
            tokens[rows] = torch.where(refused, own, view.prediction[rows])
            spent[rows] = seen.sum(1)
        return Action(commit, tokens=tokens, extra_positions=spent)
