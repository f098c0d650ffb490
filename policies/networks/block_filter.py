"""The published Learn2PD filter: a two-layer perceptron over one block's confidences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from policies.networks.config import PartConfig


@dataclass(frozen=True)
class BlockFilterConfig(PartConfig):
    """Size of `BlockFilter`."""

    block_length: int = 32
    """Positions of a block; the filter works at this one only."""
    hidden_size: int = 32
    """Width of the hidden layer."""

    @property
    def only_block(self) -> int:
        """The block length that it works at."""
        return self.block_length

    def __post_init__(self) -> None:
        for name in ("block_length", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 1 or more")


class BlockFilter(nn.Module):
    """From the confidences of a block, committed ones included, to the log-odds that each is final.

    Source: Bao et al., "Learning to Parallel", arXiv 2509.25188, Section 3.2 and its released notebook (two linear
    layers, about 2,000 parameters at block length 32).

    Args:
        config: sizes.
    """

    def __init__(self, config: BlockFilterConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(
            nn.Linear(config.block_length, config.hidden_size),
            nn.ReLU(),
            nn.Linear(config.hidden_size, config.block_length),
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return (N, L) float32 log-odds of committing each position; only eligible ones mean anything.

        Args:
            inputs: ``confidence`` and ``eligible`` (N, L), as `envs.view.View.inputs` makes them; L is a multiple of
                the block length.
        """
        confidence, size = inputs["confidence"].float(), self.config.block_length
        rows, length = confidence.shape
        block = (inputs["eligible"] > 0).int().argmax(1) // size  # of the first eligible position
        chosen = torch.arange(rows, device=confidence.device)
        inside: Tensor = self.layers(confidence.view(rows, length // size, size)[chosen, block])
        # Elsewhere 0, a probability of a half: nothing there is eligible, so nobody reads it.
        logits = torch.zeros(rows, length // size, size, device=confidence.device)
        return logits.index_put((chosen, block), inside).view(rows, length)
