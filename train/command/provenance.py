"""How a result was made: command, versions, commit, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch.distributed as dist

from train.command.config import ROOT
from train.command.escaping import for_shell

PACKAGES = ("torch", "transformers", "gymnasium", "stable-baselines3", "numpy", "wandb", "unmasking-policies")


MACHINE = ("workers", "device", "threads", "model.device", "model.threads")


def command_line(*more: str) -> str:
    """Return how this program was started, as a shell takes it, with further flags unless they were given."""
    return for_shell(*launcher(), *sys.argv, *(flag for flag in more if flag not in sys.argv))


def launcher() -> list[str]:
    """Return the words that this process was started by before its script: Python, or torchrun with its options."""
    if not dist.is_torchelastic_launched():
        return [Path(sys.executable).name]
    size, own = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    machines = ["--nnodes", str(size // own)] if size > own else []
    return ["torchrun", *machines, "--nproc-per-node", str(own)]


def redact(text: str) -> str:
    """Return a text without passwords: what variables named as such hold, and what stands before the @ of an address.

    >>> redact("git clone https://me:secret@host/x")
    'git clone https://***@host/x'
    """
    for name, value in os.environ.items():
        # Shorter values would be found in any text.
        if len(value) >= 8 and re.search("KEY|TOKEN|SECRET|PASSW|CREDENTIAL", name, re.IGNORECASE):
            text = text.replace(value, "***")
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def versions() -> dict[str, str]:
    """Return the versions of Python, the main packages and this repository, and the processor."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["commit"] = commit()
    return found


def commit() -> str:
    """Return the repository's commit, with ``-dirty`` if files differ from it, or ``unknown``."""
    # By its hash alone, whatever tags there are.
    return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") or "unknown"


def git(*words: str) -> str:
    """Return what a git command says of this repository; nothing if it fails, or there is neither."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
