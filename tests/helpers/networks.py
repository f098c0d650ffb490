"""Networks with weights that matter, and all that they can read."""

from __future__ import annotations

import places
import torch
from torch import Tensor

from envs.readings import MASK_READINGS
from envs.view import View
from policies import NetworkConfig, UnmaskingNetwork

ALL_FEATURES = tuple(sorted(MASK_READINGS))


def perturbed(config: NetworkConfig, size: float = 0.3) -> UnmaskingNetwork:
    """A network whose every parameter matters."""
    torch.manual_seed(0)
    network = UnmaskingNetwork(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return network.to(places.here)


def outputs(network: UnmaskingNetwork, view: View) -> Tensor:
    with torch.inference_mode():
        return network(view.inputs())
