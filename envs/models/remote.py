"""Load a checkpoint by its own code: only where asked for, from a pinned revision, on versions known to work.

Under transformers 5 such code loads without an error and answers wrongly: 5.0 and 5.1 draw most tensors anew, and all
5.x leave the rotary tables uninitialised. `envs.models.checks` would find both, but no loading under 5 gets it right.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from envs.models.tokenizer import first_line

FIRST, LAST = (4, 54), (4, 57)
"""Versions of transformers, first and last, under which the checkpoints' own code was seen to load right."""


def check_remote(name: str, is_local: bool, trust_remote_code: bool, revision: str | None) -> None:
    """Refuse a checkpoint's own code unless everything it takes is there.

    Args:
        name: the model's.
        is_local: whether it is a folder, whose code can't change unseen.
        trust_remote_code: whether the user allows it.
        revision: the commit to take it from.

    Raises:
        ValueError: naming what is missing.
    """
    import transformers

    if not trust_remote_code:
        raise ValueError(
            f"model is {name!r}: it needs the code in its repository; read it, then set trust_remote_code to true and "
            "revision to the commit that you read"
        )
    if not is_local and not re.fullmatch("[0-9a-f]{40}", revision or ""):
        raise ValueError(
            f"revision is {revision!r}: code from the hub runs only from a full commit hash of 40 hex digits"
        )
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if not FIRST <= version <= LAST:
        raise ValueError(
            f"model is {name!r}: its own code loads wrong weights or none under transformers "
            f"{transformers.__version__}; install transformers 4.54 to 4.57 for it"
        )


def load_remote(folder: Path, device: str, dtype: torch.dtype) -> Any:
    """Load a causal language model by the code in its folder.

    Raises:
        ValueError: if that fails.
    """
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=True, local_files_only=True, attn_implementation="sdpa"
        )
    except Exception as error:  # it is anyone's code
        raise ValueError(f"its own code can't load it: {first_line(error)}") from error
    return model.to(device)
