"""The policy in vLLM's dllm-plugin, which vLLM's plug-in loader finds by the entry point of this package."""

from __future__ import annotations

import os
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .block_policy import BlockPolicy

SPEED = "UNMASKING_SPEED"
"""Environment variable with a place on the policy's dial, where it has one."""


class PolicyRemask:
    """Takes the place of ``batched_remask``.

    Args:
        speed: place on the policy's dial, where it has one.
    """

    def __init__(self, speed: float | None = None) -> None:
        self.policy = BlockPolicy.load(Path(__file__).parent, speed)

    def __call__(
        self, logits: Tensor, input_draft: Tensor, mask_token_id: int, threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Advance each block by one step.

        Args:
            logits: (B, N, V).
            input_draft: (B, N) token ids, masks among them.
            mask_token_id: the mask token.
            threshold: not used: the policy has none.

        Returns:
            The blocks with more tokens, (B,) bool where no mask is left, and (B,) how many were filled in.
        """
        masked = input_draft == mask_token_id
        commit, tokens, _ = self.policy.decide(logits, masked, mask_token_id)
        draft = torch.where(commit, tokens.to(input_draft.dtype), input_draft)
        return draft, (draft != mask_token_id).all(-1), commit.sum(-1)


def register() -> None:
    """Give every sampler that is built from now on the policy."""
    from dllm_plugin.sampling.diffusion_sampler import DiffusionSampler

    build = DiffusionSampler.__init__
    speed = os.environ.get(SPEED)

    @wraps(build)
    def with_policy(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        # After its own constructor, which has set another.
        self._remask_fn = PolicyRemask(None if speed is None else float(speed))

    DiffusionSampler.__init__ = with_policy
