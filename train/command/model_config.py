"""The ``model`` section, which every command that takes a dLLM has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch

from envs.denoiser import Denoiser
from envs.models import FAMILIES
from envs.models.hub import is_hub_id
from envs.models.load import load_denoiser, without_effect
from envs.names import hint
from train.command.config_values import NamedIn, PathText
from train.command.ranges import check_count

DTYPES = ("float32", "bfloat16", "float16")


def check_dtype(dtype: str) -> None:
    """Refuse what is none of `DTYPES`.

    Raises:
        ValueError: if it is not.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: choose float32, bfloat16 or float16")


@dataclass(frozen=True)
class ModelConfig:
    """The frozen dLLM."""

    SHORT: ClassVar[str] = "name"

    name: PathText = "tiny"
    """A checkpoint folder, the name of a model that ships, or a repository of the Hugging Face hub."""
    family: Annotated[str, NamedIn(tuple(FAMILIES))] | None = None
    """Of the model; null reads it from config.json."""
    chat_template: bool | None = None
    """false for a base model; null puts prompts into the chat template where there is one."""
    revision: str | None = None
    """Commit of the hub repository; null is the newest."""
    trust_remote_code: bool = False
    """Allow a family without a class in transformers to run the code of its repository."""
    device: str = "cpu"
    """Torch device of the dLLM and the policy; with cuda each process takes a GPU of its own."""
    dtype: Annotated[str, NamedIn(DTYPES)] = "float32"
    """Torch dtype of the dLLM; confidences are float32 whatever it is."""
    threads: int = 1
    """Torch threads of each process; keep 1 when anything else runs on the machine."""

    def __post_init__(self) -> None:
        check_count(self, "threads", most=4096)
        if not self.name:
            raise ValueError("name is empty: give a checkpoint folder, or a name")
        if self.family is not None and self.family not in FAMILIES:
            raise ValueError(f"family is {self.family!r}: {hint(self.family, FAMILIES)}")
        check_dtype(self.dtype)
        try:
            # Whether there is such a kind, not whether it is here: a configuration may be for another machine.
            device = torch.device(self.device)
        except RuntimeError:
            raise ValueError(
                f"device is {self.device!r}: torch knows no such device; give cpu, cuda, cuda:1 or mps"
            ) from None
        if device.type == "cpu" and device.index:
            raise ValueError(f"device is {self.device!r}: all of a machine's CPUs are one device; give cpu")

    def unused(self) -> dict[str, str]:
        """Return the fields that play no role for this model, each with the reason."""
        if names := without_effect(self.name):
            return dict.fromkeys(names, f"model.name is {self.name}, which has none")
        # A folder of that name comes before the hub.
        if not is_hub_id(self.name) or Path(self.name).is_dir():
            return {"revision": f"model.name is {self.name}, which is no repository of the hub"}
        return {}

    def load(self) -> Denoiser:
        """Load the dLLM, or return the one already loaded; see `envs.models.load.load_denoiser`."""
        return load_denoiser(
            self.name,
            self.device,
            self.dtype,
            family=self.family,
            chat_template=self.chat_template,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )
