"""Learned policies on the Hugging Face hub: a repository holds what a policy's folder does."""

from __future__ import annotations

from pathlib import Path

from envs.models.tokenizer import first_line

FILES = ("config.json", "model.safetensors", "policy.yaml", "README.md")
"""What is fetched of a repository."""


def fetch_policy(name: str, revision: str | None = None) -> Path:
    """Return the folder of a repository's files, downloading those that the cache lacks.

    Args:
        name: ``owner/repository``.
        revision: commit, branch or tag; None for the newest.

    Raises:
        FileNotFoundError: if the hub can't be reached and the cache does not hold it, or there is no such repository.
    """
    from huggingface_hub import snapshot_download

    try:
        # No more than a policy's files: a repository may hold anything.
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # httpx, requests, the hub's own and the system's, by version
        raise FileNotFoundError(
            f"policy is {name!r}: there is no such folder, and the Hugging Face hub did not give it "
            f"({first_line(error)}); give a local folder, or run where there is network"
        ) from error


def push_folder(folder: Path, name: str, *, private: bool, token: str | None, message: str) -> str:
    """Upload a policy's folder as one commit, making the repository where it is missing.

    Args:
        folder: with the files.
        name: ``owner/repository``.
        private: of a repository that is made.
        token: None takes the one that ``hf auth login`` left.
        message: of the commit.

    Returns:
        The repository's address.

    Raises:
        ConnectionError: if the hub can't be reached or does not take it.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        address = str(api.create_repo(name, private=private, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, allow_patterns=list(FILES))
    except Exception as error:  # as above
        raise ConnectionError(
            f"the Hugging Face hub did not take {name!r} ({first_line(error)}): log in with hf auth login, as someone "
            "who may write there, where there is network"
        ) from error
    return address
