"""The policy as a scheduler of diffusers' `LLaDA2Pipeline`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import BlockRefinementScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_block_refinement import BlockRefinementSchedulerOutput
from torch import Tensor

from .block_policy import BlockPolicy

HERE = Path(__file__).parent
FILES = ("policy.json", "policy.safetensors")


class UnmaskingPolicyScheduler(BlockRefinementScheduler):
    """Commits what the policy chooses, until no mask of the block is left.

    The pipeline's ``threshold``, ``editing_threshold``, ``minimal_topk`` and ``num_inference_steps`` play no role: the
    policy has no threshold, edits nothing, and needs at most a step a mask.

    Args:
        block_length: positions of a block, where the pipeline is not told.
        speed: place on the policy's dial, where it has one.
        num_inference_steps: not used; the pipeline's interface has it.
        threshold: not used.
        editing_threshold: not used.
        minimal_topk: not used.
    """

    @register_to_config
    def __init__(
        self,
        block_length: int = 32,
        speed: float | None = None,
        num_inference_steps: int = 32,
        threshold: float = 0.95,
        editing_threshold: float | None = None,
        minimal_topk: int = 1,
    ) -> None:
        super().__init__(block_length, num_inference_steps, threshold, editing_threshold, minimal_topk)
        self._take(HERE)

    def _take(self, folder: Path) -> None:
        self.folder = folder
        self.policy = BlockPolicy.load(folder, self.config.speed)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path | None = None, subfolder: str | None = None, **kwargs: Any
    ) -> UnmaskingPolicyScheduler:
        """Read a folder that `save_pretrained` wrote, or a repository of the hub that holds one."""
        found = super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
        # With return_unused_kwargs it is a pair.
        scheduler = found[0] if isinstance(found, tuple) else found
        folder = Path(str(pretrained_model_name_or_path))
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(str(folder), revision=kwargs.get("revision")))
        scheduler._take(folder / (subfolder or ""))
        return found

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the configuration, and the policy beside it."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        for name in FILES:
            # A file can't be copied onto itself.
            if not (Path(save_directory) / name).exists() or not self.folder.samefile(save_directory):
                shutil.copy(self.folder / name, Path(save_directory) / name)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        temperature: float = 0.0,
        return_dict: bool = True,
        **unused: Any,
    ) -> Any:
        """Commit one step of a block; see `BlockRefinementScheduler.step`.

        Raises:
            ValueError: for a temperature above 0 or a model without a mask token.
        """
        if temperature != 0:
            raise ValueError(
                f"temperature is {temperature}: the policy decides about the likeliest tokens; leave it at 0"
            )
        if mask_token_id is None:
            raise ValueError("mask_token_id is None: the policy fills in masks, and needs a model that has them")
        masked = sample == mask_token_id
        commit, tokens, confidence = self.policy.decide(model_output, masked, mask_token_id)
        after = torch.where(commit, tokens, sample)
        self._has_masks = (after == mask_token_id).any(1)
        nothing = torch.zeros_like(commit)
        parts = (after, commit, nothing, tokens, confidence, model_output)
        return BlockRefinementSchedulerOutput(*parts) if return_dict else parts

    @staticmethod
    def check_eos_finished(
        cur_x: Tensor,
        sampled_tokens: Tensor,
        final_transfer: Tensor,
        finished: Tensor,
        eos_token_id: int,
        mask_token_id: int,
        prompt_length: int,
    ) -> Tensor:
        """Tell which rows have an end of text with no mask before it, whenever it came; masks after it become ends."""
        answer = cur_x[:, prompt_length:]
        is_end, is_mask = answer == eos_token_id, answer == mask_token_id
        finished = finished | (is_end & (is_mask.cumsum(1) == 0)).any(1)
        # In place, since it is the pipeline's own tensor that is decoded.
        answer.masked_fill_(is_mask & finished.unsqueeze(1), eos_token_id)
        return finished

    def check_block_should_continue(self, *, finished: Tensor, **unused: Any) -> bool:
        """Go on while a row that has not ended has masks; the step after the last commit is saved."""
        return bool((self._has_masks & ~finished).any())
