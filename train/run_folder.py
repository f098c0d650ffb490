"""A run's folder: refuse to overwrite, write whole files or none, remember how the run was made."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from train.config import ROOT

PACKAGES = ("torch", "transformers", "gymnasium", "stable-baselines3", "numpy", "wandb", "unmasking-policies")


class UserError(Exception):
    """Something the user can put right: entry points print it as one line and exit with status 2."""


def write_atomic(file: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old one or the new one whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".tmp")
    partial.write_text(text)
    os.replace(partial, file)


def write_json(file: Path, data: Any) -> None:
    """Write JSON atomically."""
    write_atomic(file, json.dumps(data, indent=1) + "\n")


def open_run(folder: Path, config_yaml: str, resume: bool) -> None:
    """Make a run's folder and record its configuration, command line and versions.

    Raises:
        UserError: if the folder is not empty and the run is not to be resumed, or it is to be and is empty, or
            its configuration is another one.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out is {str(folder)!r}, which is a file: choose another --out")
    used = folder.is_dir() and any(folder.iterdir())
    if used and not resume:
        raise UserError(f"out is {str(folder)!r}, which is not empty: pass --resume to go on, or another --out")
    if resume:
        if not (folder / "config.yaml").is_file():
            raise UserError(f"out is {str(folder)!r}, which holds no run to resume: leave out --resume")
        if (folder / "config.yaml").read_text() != config_yaml:
            raise UserError(
                f"out is {str(folder)!r}, whose config.yaml differs from this configuration: resume with "
                f"--config {folder / 'config.yaml'}, or choose another --out"
            )
        return
    write_atomic(folder / "config.yaml", config_yaml)
    write_atomic(folder / "command.txt", shlex.join([Path(sys.executable).name, *sys.argv]) + "\n")
    write_json(folder / "versions.json", versions())


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
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
