"""Keys and values of all positions of a batch, of which a forward computes some: `transformers.Cache` by position.

Letters: N rows that are kept, B of them in a forward, S positions computed, W positions of a text, H heads, D their
width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache


class KeyValues(Cache):  # type: ignore[misc]
    """What each layer knows of each position of each row; a forward overwrites what it computes and sees all of it.

    A causal class of transformers hands every layer's new keys and values to `update` and attends to what comes back.
    Here that is all positions of each row, in the order of the text, so who sees whom is a mask over the whole text.

    Args:
        num_rows: N.
    """

    def __init__(self, num_rows: int) -> None:
        super().__init__(layers=[])
        self.num_rows = num_rows
        self.keys: list[Tensor] = []
        """A (N, 1 + W, H, D) tensor a layer; what is padding in a forward is written to column 0."""
        self.values: list[Tensor] = []
        self.positions = torch.zeros(0, 0).long()
        """(B, S) int64, those of the next forward, as `place` was told."""
        self._rows, self._width = torch.zeros(0).long(), 0

    def place(self, rows: Tensor, positions: Tensor, width: int) -> None:
        """Say what the next forward computes.

        Args:
            rows: (B,) int64, the rows it runs on, rising.
            positions: (B, S) int64, places in the text that it computes; -1 is padding.
            width: W, positions of the longest text.
        """
        self._rows, self.positions, self._width = rows, positions, width

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (B, H, S, D) keys and values of a layer to their places and return those of all W positions."""
        # Only the first forward tells how many layers and heads there are, how wide, and in which dtype.
        if layer_idx == len(self.keys):
            _, heads, _, size = key_states.shape
            for held in (self.keys, self.values):
                held.append(key_states.new_zeros(self.num_rows, 1 + self._width, heads, size))
        missing = 1 + self._width - self.keys[layer_idx].shape[1]
        if missing > 0:
            for held in (self.keys, self.values):
                held[layer_idx] = F.pad(held[layer_idx], (0, 0, 0, 0, 0, missing))
        return (
            self._exchange(self.keys[layer_idx], key_states),
            self._exchange(self.values[layer_idx], value_states),
        )

    def _exchange(self, held: Tensor, states: Tensor) -> Tensor:
        held[self._rows.unsqueeze(1), self.positions + 1] = states.transpose(1, 2)
        # Rows rise, so as many as there are means all in order: nothing need be gathered.
        rows = held if len(self._rows) == len(held) else held[self._rows]
        return rows[:, 1 : 1 + self._width].transpose(1, 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions are always told, so nothing is counted on from what came before."""
        return 0

    def state(self) -> dict[str, Tensor]:
        """Return everything by name, with memory of its own."""
        keys = {f"keys.{layer}": held.clone() for layer, held in enumerate(self.keys)}
        values = {f"values.{layer}": held.clone() for layer, held in enumerate(self.values)}
        return {**keys, **values}

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from what `state` returned."""
        layers = range(len(state) // 2)
        self.keys = [state[f"keys.{layer}"].to(device, copy=True) for layer in layers]
        self.values = [state[f"values.{layer}"].to(device, copy=True) for layer in layers]
