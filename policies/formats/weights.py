"""Networks with the weights of a file, as every format of ours and of others keeps them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from policies.files import Header, check_finite, check_header, read_header
from policies.networks.kinds import NetworkSpec, PolicyNetwork


def load_weights(file: Path, spec: NetworkSpec, prefix: str = "") -> PolicyNetwork:
    """Build a network with the weights of a file; before memory is taken its header is held against the sizes.

    Args:
        file: in the safetensors format.
        spec: the network.
        prefix: what tensors' names begin with there.

    Raises:
        ValueError: if the file is damaged, its tensors are others than the network's, or a weight is not finite.
    """
    _check_sizes({name.removeprefix(prefix): about for name, about in read_header(file).items()}, spec)
    weights = {name.removeprefix(prefix): values.float() for name, values in load_file(file).items()}
    check_finite(weights)
    network = spec.build()
    network.load_state_dict(weights)
    return network


def _check_sizes(header: Header, spec: NetworkSpec) -> None:
    for part in spec.parts():
        # Each block has tensors of its own, and even without memory each takes time to make.
        if part.config.num_blocks > len(header):
            raise ValueError(f"it has {len(header)} tensors, but num_blocks is {part.config.num_blocks}")
    with torch.device("meta"):
        check_header(header, spec.build())
