"""Loading a dLLM by name or folder, and checking it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from envs.beliefs import DenoiserError
from envs.denoiser import Denoiser
from envs.models.adapter import MaskedLMDenoiser
from envs.models.checks import (
    check_rotary,
    check_tensors,
)
from envs.models.device import check_device
from envs.models.families import check_kind, check_supported, check_unquantised, find_family
from envs.models.families.family import Family
from envs.models.hub import fetch, is_hub_id
from envs.models.remote import check_remote
from envs.models.routes import ROUTES
from envs.models.tokenizer import first_line, load_tokenizer
from envs.models.toy import ToyDenoiser
from envs.models.weights import check_dtypes, check_sizes, from_pretrained
from envs.names import nearest

SHIPPED: Mapping[str, Path] = {
    file.parent.name: file.parent for file in sorted((Path(__file__).parents[1] / "checkpoints").glob("*/config.json"))
}
"""Folders of the models that ship with the package, by name."""

TOY, SAPIENS = "toy", "sapiens:"
"""The name of the one that is no checkpoint, and what those of `envs.models.sapiens` begin with."""


def load_denoiser(
    name: str = "tiny",
    device: str = "cpu",
    dtype: str = "float32",
    *,
    family: str | None = None,
    chat_template: bool | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Denoiser:
    """Load a dLLM once; later calls with the same arguments return the same object.

    Args:
        name: a folder that holds a checkpoint of a family of `envs.models`, or the name of one that ships with the
            package (``"tiny"``), or ``"toy"``, the untrained denoiser of the tests, or ``"sapiens:heavy"`` or
            ``"sapiens:light"`` (see `envs.models.sapiens`), or a repository of the Hugging Face hub
            (``"GSAI-ML/LLaDA-8B-Instruct"``).
        device: a torch device.
        dtype: a torch dtype's name; confidences are float32 whatever it is.
        family: a name of `envs.models.FAMILIES`; None reads it from config.json.
        chat_template: False for a base model; None puts prompts into the chat template where there is one.
        revision: commit of the hub repository; None is the newest.
        trust_remote_code: allow a family without a class in transformers to run the code of its repository.

    Raises:
        FileNotFoundError: if there is no such model, naming those that ship.
        ValueError: if the device or dtype is unknown or missing here, or the folder holds no checkpoint of a known
            family that is whole and passes the checks of `envs.models.checks`.
    """
    return _load(name, device, dtype, family, chat_template, revision, trust_remote_code)


def without_effect(name: str) -> tuple[str, ...]:
    """Return the arguments of `load_denoiser` that mean nothing for a model that is no checkpoint in a folder."""
    made_here = ("family", "chat_template", "revision", "trust_remote_code")
    if name == TOY:
        return (*made_here, "dtype")
    return made_here if name.startswith(SAPIENS) else ()


def load_guide(name: str, device: str = "cpu") -> Any:
    """Load a causal language model that shares the dLLM's tokenizer, frozen; later calls return the same object.

    Args:
        name: a folder that holds a Hugging Face causal-LM checkpoint, or the name of one that ships with the package
            (``"tiny_guide"``).
        device: a torch device.

    Raises:
        FileNotFoundError: if there is no such model, naming those that ship.
        ValueError: if the folder holds no causal-LM checkpoint that is whole.
    """
    return _load_guide(name, device)


@lru_cache(maxsize=2)
def _load_guide(name: str, device: str) -> Any:
    from transformers import AutoModelForCausalLM

    check_device(device)
    folder = _folder(name)
    config = _read_config(name, folder)
    try:
        check_unquantised(config)
        check_kind(config, "causal")
        check_dtypes(folder)
        check_sizes(folder, config)
        model = from_pretrained(AutoModelForCausalLM, folder, device, torch.float32)
        check_tensors(model, folder, None)
    except Exception as error:  # as in _load
        raise ValueError(f"model is {name!r}: {first_line(error)}") from error
    return model


@lru_cache(maxsize=2)
def _load(
    name: str,
    device: str,
    dtype: str,
    family_name: str | None,
    chat_template: bool | None,
    revision: str | None,
    trust_remote_code: bool,
) -> Denoiser:
    if name == TOY:
        check_device(device)
        return ToyDenoiser(device)
    if name.startswith(SAPIENS):
        from envs.models.sapiens import load_sapiens

        return load_sapiens(name, device, dtype)
    folder = _folder(name, revision, trust_remote_code)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype is {dtype!r}: choose float32, bfloat16 or float16")
    check_device(device)
    config = _read_config(name, folder)
    family = find_family(config, name, family_name)
    if family.runs_own_code:
        check_remote(name, Path(name).is_dir(), trust_remote_code, revision)
    try:
        check_supported(config, family)
        check_dtypes(folder)
        check_sizes(folder, config)
        tokenizer = load_tokenizer(family, folder, trust_remote_code)
        model = _load_model(family, folder, config, device, getattr(torch, dtype))
    except Exception as error:  # transformers, safetensors and torch each raise their own
        raise ValueError(f"model is {name!r}: {first_line(error)}") from error
    try:
        return MaskedLMDenoiser(model, tokenizer, family, config, chat_template, name)
    except (ValueError, DenoiserError):
        raise
    except Exception as error:  # settings of the tokenizer that transformers believes until they are used
        raise ValueError(f"model is {name!r}: it can't be asked ({first_line(error)})") from error


def _load_model(family: Family, folder: Path, config: Mapping[str, Any], device: str, dtype: torch.dtype) -> Any:
    """Load a model by its family's route, and check that it is the checkpoint's."""
    model, names, frequencies = ROUTES[family.route].load(family, folder, config, device, dtype)
    check_tensors(model, folder, names)
    check_rotary(model, frequencies)
    return model


def check_there(name: str) -> None:
    """Refuse what names no model, without reading one; of a hub repository nothing is asked.

    Raises:
        FileNotFoundError: if there is none, naming those that ship.
    """
    folder = _local(name)
    if not (folder / "config.json").is_file() and (folder.is_dir() or not is_hub_id(name)):
        raise _missing(name)


def _local(name: str) -> Path:
    return SHIPPED.get(name) or Path(os.path.expanduser(name))


def _missing(name: str) -> FileNotFoundError:
    own = [*SHIPPED, TOY]
    close = nearest(name, own)
    meant = f"did you mean {close}? Or " if close else ""
    return FileNotFoundError(
        f"model is {name!r}: no config.json in that folder; {meant}give a checkpoint folder or one of {', '.join(own)}"
    )


def _folder(name: str, revision: str | None = None, with_code: bool = False) -> Path:
    folder = _local(name)
    if not folder.is_dir() and is_hub_id(name):
        folder = fetch(name, revision, with_code)
    if not (folder / "config.json").is_file():
        raise _missing(name)
    return folder


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    # The parser calls itself for each bracket that opens.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"model is {name!r}: {folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"model is {name!r}: {folder / 'config.json'} holds no object of settings")
    return config
