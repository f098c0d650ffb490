"""Where a model's files are: a folder here, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

FILES = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model", "*.jinja")
"""What a model consists of; its own code comes only where it is to run."""


def is_hub_id(name: str) -> bool:
    """Tell whether a name reads as ``owner/repository``.

    >>> is_hub_id("GSAI-ML/LLaDA-8B-Instruct"), is_hub_id("runs/model/"), is_hub_id("./a/b")
    (True, False, False)
    """
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def fetch(name: str, revision: str | None, with_code: bool) -> Path:
    """Return the folder of a hub repository's files, downloading those that the cache lacks.

    Args:
        name: ``owner/repository``.
        revision: commit, branch or tag; None for the newest.
        with_code: fetch its Python files too.

    Raises:
        FileNotFoundError: if the hub can't be reached and the cache does not hold it, or there is no such repository.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*FILES, *["*.py"] * with_code]))
    except Exception as error:  # httpx, requests, the hub's own and the system's, by version
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"model is {name!r}: there is no such folder, and the Hugging Face hub did not give it ({reason}); "
            "give a local folder, or run where there is network"
        ) from error
