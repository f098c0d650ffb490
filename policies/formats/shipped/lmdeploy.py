"""The policy in place of LMDeploy's own unmasking: `install` before the engine is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lmdeploy.pytorch.consts import DLLM_CACHED, DLLM_MASKED, DLLM_UNMASKED
from lmdeploy.pytorch.strategies.dllm import model_agent
from torch import Tensor

from .block_policy import BlockPolicy


class PolicyUnmaskingProcessor:
    """Takes the place of `UnmaskingProcessor`.

    Args:
        config: LMDeploy's ``DLLMConfig``; its strategy and threshold play no role.
        mask_id: the mask token.
        speed: place on the policy's dial, where it has one.
    """

    def __init__(self, config: Any, mask_id: int, speed: float | None = None) -> None:
        self.block_length, self.mask_id = config.block_length, mask_id
        self.policy = BlockPolicy.load(Path(__file__).parent, speed)

    def __call__(
        self, logits: Tensor, input_ids: Tensor, token_ids: Tensor, dllm_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advance each block by one step.

        Args:
            logits: (B * N, V).
            input_ids: (B * N,), the blocks as the model saw them.
            token_ids: (B * N,), sampled tokens; the policy takes the likeliest.
            dllm_mask: (B * N,) uint8, the state of each position.

        Returns:
            The new states, and the tokens: those of known positions, and predictions elsewhere.
        """
        states = dllm_mask.view(-1, self.block_length)
        was_filled = (states == DLLM_UNMASKED).all(1, keepdim=True)
        states = states.masked_fill(was_filled, DLLM_CACHED)
        masked = states == DLLM_MASKED
        commit, tokens, _ = self.policy.decide(logits.view(*masked.shape, -1), masked, self.mask_id)
        answer = torch.where(masked, tokens.to(token_ids.dtype), input_ids.view_as(masked).to(token_ids.dtype))
        return states.masked_fill(commit, DLLM_UNMASKED).flatten(), answer.flatten()


def install(speed: float | None = None) -> None:
    """Let every engine that is built in this process from now on decode with the policy.

    Args:
        speed: place on the policy's dial, where it has one.
    """

    class PolicyStrategy(model_agent.DLLMModelAgentStrategy):
        def __init__(self, dllm_config: Any, dllm_mask_token: int) -> None:
            super().__init__(dllm_config, dllm_mask_token)
            self.unmasking_processor = PolicyUnmaskingProcessor(dllm_config, dllm_mask_token, speed)

    model_agent.DLLMModelAgentStrategy = PolicyStrategy
