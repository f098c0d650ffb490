"""AdaBlock: end the block where the dLLM sees a delimiter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch

from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.view import Action, View, ensure_progress
from policies.rules.base import Rule, bound


@dataclass(frozen=True)
class AdaBlock(Rule):
    """The threshold rule in blocks that end at the most confident delimiter in a window ahead, if it is sure enough.

    When a block begins: of the predicted delimiters in the next ``min(window * L, remaining)`` positions, the most
    confident, if its confidence is at least `delimiter_threshold`, becomes the block's last position; else the block
    has its default length.

    Source: arXiv 2509.26432 and its released code. Delimiters are tokens of the tokenizer at hand: newlines in a
    language model; in the embedded suite the equals sign before a running total.
    """

    rule = "adablock"
    sweep = (0.7, 0.8, 0.9, 0.95)

    threshold: float = 0.9
    """Confidence to commit at."""
    delimiter_threshold: float = 0.3
    """tau_D; 0.3 for LLaDA, 0.5 for Dream."""
    window: float = 0.25
    """Share of the buffer in which a delimiter is looked for."""
    delimiters: str = "\n|="
    """Texts of one token, separated by a bar; those that the tokenizer lacks are left out."""
    delimiter_ids: tuple[int, ...] = bound(())

    def __post_init__(self) -> None:
        self.check_share("threshold", "delimiter_threshold", "window")

    def bind(self, denoiser: Denoiser, settings: DecodingSettings) -> Self:
        """Look up the delimiters."""
        ids = [denoiser.encode_text(text) for text in self.delimiters.split("|")]
        return replace(self, delimiter_ids=tuple(one[0] for one in ids if len(one) == 1))

    def act(self, view: View) -> Action:
        """Set the block's end when it begins; commit by threshold."""
        start, place = view.block_start.unsqueeze(1), view.positions
        ahead = view.masked & (place >= start) & (place < start + int(self.window * view.masked.shape[1]))
        ids = torch.tensor(self.delimiter_ids, dtype=torch.long, device=start.device)
        is_delimiter = ahead & torch.isin(view.prediction, ids)
        # Where there is no delimiter, -1 passes no bar.
        best, where = view.confidence.masked_fill(~is_delimiter, -1.0).max(1)
        begins = (view.block_step == 0) & (best >= self.delimiter_threshold)
        # The delimiter is the last token of the block that it closes, not the first of the next.
        end = torch.where(begins, where + 1, view.block_end)
        # `view.eligible` goes by the end that the block had.
        eligible = view.masked & (place >= start) & (place < end.unsqueeze(1))
        return Action(ensure_progress(view.confidence >= self.threshold, eligible, view.confidence), block_end=end)
