"""The ``model`` section, which every command that takes a dLLM has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from envs.denoiser import Denoiser, load_denoiser
from train.config_values import PathText


@dataclass(frozen=True)
class ModelConfig:
    """The frozen dLLM."""

    SHORT: ClassVar[str] = "name"

    name: PathText = "tiny"
    """A checkpoint folder, the name of a model that ships, or a repository of the Hugging Face hub."""
    family: str | None = None
    """A family of envs.models; null reads it from config.json."""
    chat_template: bool | None = None
    """false for a base model; null puts prompts into the chat template where there is one."""
    revision: str | None = None
    """Commit of the hub repository; null is the newest."""
    trust_remote_code: bool = False
    """Allow a family without a class in transformers to run the code of its repository."""
    device: str = "cpu"
    """Torch device of the dLLM and the policy; with cuda each process takes a GPU of its own."""
    dtype: str = "float32"
    """Torch dtype of the dLLM; confidences are float32 whatever it is."""
    threads: int = 1
    """Torch threads of each process; keep 1 when anything else runs on the machine."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}: it must be 1 or more")

    def load(self) -> Denoiser:
        """Load the dLLM, or return the one already loaded; see `envs.denoiser.load_denoiser`."""
        return load_denoiser(
            self.name,
            self.device,
            self.dtype,
            family=self.family,
            chat_template=self.chat_template,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )
