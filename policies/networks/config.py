"""What the configuration of a network of any kind says, and what all transformers' sizes must be."""

from __future__ import annotations

from typing import Any


class PartConfig:
    """What holds of a network unless its own configuration says otherwise."""

    @property
    def has_dial(self) -> bool:
        """Whether it reads a speed."""
        return False

    @property
    def decides_refresh(self) -> bool:
        """Whether one more output, the last, is the log-odds of a refresh."""
        return False

    @property
    def hidden_state_size(self) -> int:
        """Width of the dLLM's hidden states that it reads, 0 if it reads none."""
        return 0

    @property
    def only_block(self) -> int | None:
        """The one block length that it works at, None if at any."""
        return None

    @property
    def num_blocks(self) -> int:
        """Its layers, each with tensors of its own."""
        return 1

    @property
    def readings(self) -> frozenset[str]:
        """Names of `envs.readings.READINGS` that it reads, those of a filter in it left out."""
        return frozenset()


OWN_WIDTH = -1
"""Stands for the width of the hidden states of the dLLM that a network is to be trained for, until it is loaded."""


def check_hidden_state_size(size: int, otherwise: str) -> None:
    """Refuse what is no width of hidden states, nor 0 or `OWN_WIDTH`.

    Args:
        size: the field's value.
        otherwise: what 0 stands for.

    Raises:
        ValueError: naming the field.
    """
    if not isinstance(size, int) or size < OWN_WIDTH:
        raise ValueError(
            f"hidden_state_size is {size!r}: it must be the width of the dLLM's hidden states, {OWN_WIDTH} to "
            f"take that of the dLLM that is trained on, or 0 to {otherwise}"
        )


def check_has_width(size: int) -> None:
    """Refuse to build a network that does not know yet how wide the hidden states are that it reads.

    Raises:
        ValueError: if the size is `OWN_WIDTH`.
    """
    if size == OWN_WIDTH:
        raise ValueError(
            f"hidden_state_size is {OWN_WIDTH}: a training fills in the width of its dLLM; give the width itself"
        )


def check_sizes(config: Any, *names: str) -> None:
    """Refuse a transformer of no whole sizes, or of heads that don't divide its width into even parts.

    Args:
        config: with ``hidden_size`` and ``num_heads``.
        names: its fields that are sizes.

    Raises:
        ValueError: naming the field.
    """
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}: it must be a whole number of 1 or more")
    # Rotary embeddings turn a head's numbers in pairs.
    if config.hidden_size % (2 * config.num_heads):
        raise ValueError(
            f"hidden_size is {config.hidden_size}: it must be a multiple of twice num_heads, {2 * config.num_heads}"
        )
