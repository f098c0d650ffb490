"""The policy as an algorithm of SGLang, which its plug-in loader finds by the entry point of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sglang.srt.dllm.algorithm.base import DllmAlgorithm

from .block_policy import BlockPolicy


class UnmaskingPolicy(DllmAlgorithm):
    """Commits what the policy chooses. A block is done at the forward after its last commit, which keeps its cache.

    Args:
        config: SGLang's; of ``--dllm-algorithm-config`` it reads ``speed``, a place on the policy's dial, and
            ``policy``, a folder to take instead of the policy that is installed.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        options = config.algorithm_config
        self.policy = BlockPolicy.load(options.get("policy") or Path(__file__).parent, options.get("speed"))

    def step(self, forward_batch: Any, full_logits: Any, states: list[Any]) -> list[bool]:
        """Advance each block by one step, in place.

        Args:
            forward_batch: with the blocks' ``input_ids``.
            full_logits: (B * N, V), or an output that holds them, as newer releases pass it.
            states: not used: the policy keeps none.

        Returns:
            For each block whether it had no mask before this step.
        """
        logits = getattr(full_logits, "full_logits", full_logits)
        count = forward_batch.batch_size
        ids = forward_batch.input_ids.view(count, self.block_size)
        masked = ids == self.mask_id
        prompt = getattr(forward_batch, "dllm_prompt_mask", None)
        if prompt is not None:  # a prompt may say the mask token
            masked = masked & ~prompt.view_as(masked)
        done = ~masked.any(1)
        commit, tokens, _ = self.policy.decide(logits.view(count, self.block_size, -1), masked, self.mask_id)
        # In place: the tensor may be part of a CUDA graph.
        forward_batch.input_ids.copy_(torch.where(commit, tokens.to(ids.dtype), ids).view(-1))
        return done.tolist()


def register() -> None:
    """Make the algorithm known by its name."""
    from sglang.srt.dllm.algorithm import algo_name_to_cls

    algo_name_to_cls[UnmaskingPolicy.__name__] = UnmaskingPolicy
