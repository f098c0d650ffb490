"""What the exporters share: one policy, one folder, and the options that each says it reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from policies.learned import LearnedPolicy


@dataclass(frozen=True)
class ExportOptions:
    """What can be asked of an exporter besides the policy; each makes use of those that it `reads`.

    Attributes:
        speed: place on the dial, in [0, 1], that an engine starts with; None is the policy's own.
        end_ids: tokens that end a text of the dLLM that an engine serves; empty are those of the dLLM that the policy
            was trained with, if that ships and the policy reads them.
        any_dllm: decode with a dLLM of another mask token than that of the one it was trained for.
        repository: ``owner/repository`` of the hub to upload to; None uploads nothing.
        license: of the weights, for the card.
        evaluation: records of ``evaluation.json``, for the card.
    """

    speed: float | None = None
    end_ids: Sequence[int] = ()
    any_dllm: bool = False
    repository: str | None = None
    license: str | None = None
    evaluation: Sequence[Mapping[str, Any]] = ()


class Exporter(ABC):
    """A format that policies are written in.

    Attributes:
        name: in `policies.formats.EXPORTERS`.
        reads: fields of `ExportOptions` that it makes use of; the command refuses the others.
    """

    name: ClassVar[str]
    reads: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def write(self, policy: LearnedPolicy, out: Path, options: ExportOptions) -> Mapping[str, str]:
        """Write a policy.

        Args:
            policy: what to write.
            out: the folder to write; it is made.
            options: those that it doesn't read are ignored.

        Returns:
            What a user should be told of it, each line under a word.

        Raises:
            ValueError: if the policy can't be written in this format; the message says what would be lost.
        """
