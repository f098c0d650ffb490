"""Every kind of network by name, and networks on top of filters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from torch import nn

from envs.denoiser import Denoiser
from policies.files import Checked, check, parse
from policies.networks.block_filter import BlockFilter, BlockFilterConfig
from policies.networks.dit import DiTConfig, DiTNetwork
from policies.networks.transformer import NetworkConfig, UnmaskingNetwork

NETWORKS: Mapping[str, tuple[Any, Any]] = MappingProxyType(
    {
        "transformer": (NetworkConfig, UnmaskingNetwork),
        "dit": (DiTConfig, DiTNetwork),
        "block_filter": (BlockFilterConfig, BlockFilter),
    }
)
"""Kinds of network by name: configuration and module."""


MAX_FILTERS = 8
"""Networks in a policy, each but the first the filter of the one before."""


CommitNetwork = UnmaskingNetwork | DiTNetwork
"""Networks that can be trained by reinforcement: they give hidden states for a critic."""


PolicyNetwork = CommitNetwork | BlockFilter
"""All of them."""


def parts(network: nn.Module) -> Iterator[nn.Module]:
    """Yield a network, the filter in it, the filter in that, and so on."""
    part: nn.Module | None = network
    while part is not None:
        yield part
        part = getattr(part, "filter", None)


def check_hidden(network: nn.Module, denoiser: Denoiser) -> None:
    """Refuse a network, or a filter in it, that reads hidden states of another width than the dLLM's.

    Raises:
        ValueError: if there is one.
    """
    for part in parts(network):
        size = part.config.hidden_state_size if isinstance(part, DiTNetwork) else 0
        if size and size != denoiser.hidden_size:
            raise ValueError(
                f"hidden_state_size is {size}: it must be {denoiser.hidden_size}, the width of this dLLM's hidden "
                "states; train with that, or decode with the dLLM that the policy was trained on"
            )


def describe(network: nn.Module) -> dict[str, Any]:
    """Return a network's kind and configuration, its filter's included, as JSON can hold them."""
    kind = next(name for name, (_, module) in NETWORKS.items() if isinstance(network, module))
    inner = getattr(network, "filter", None)
    config: Any = network.config
    return {"kind": kind, "network": asdict(config), "filter": inner and describe(inner)}


def build(description: Mapping[str, Any]) -> PolicyNetwork:
    """Build the network that `describe` described, with new weights.

    Raises:
        ValueError: if the kind or a field is unknown, or a value not possible.
    """
    return _assemble(_chain(description))


class _Described(Checked):
    """The form of a description."""

    kind: str
    network: dict[str, Any]
    filter: dict[str, Any] | None = None


_Chain = list[tuple[str, Any]]
"""The kind and configuration of a network, of its filter, of the filter in that, and so on."""


def _chain(description: Mapping[str, Any]) -> _Chain:
    found: _Chain = []
    inner: Mapping[str, Any] | None = description
    while inner is not None:
        place = "filter." * len(found)
        if len(found) == MAX_FILTERS:
            raise ValueError(f"a policy has more than {MAX_FILTERS} networks, one the filter of another")
        part: _Described = check(_Described, dict(inner), place.rstrip("."))
        if part.kind not in NETWORKS:
            raise ValueError(f"{place}kind is {part.kind!r}: choose one of {', '.join(NETWORKS)}")
        found.append((part.kind, parse(NETWORKS[part.kind][0], part.network, f"{place}network")))
        inner = part.filter
    return found


def _assemble(chain: _Chain) -> PolicyNetwork:
    network: Any = None
    for depth, (kind, config) in reversed([*enumerate(chain)]):
        if network is not None and kind == "block_filter":
            raise ValueError(f"{'filter.' * depth}filter is given, but a block_filter has none")
        module = NETWORKS[kind][1]
        network = module(config) if network is None else module(config, filter=network)
    found: PolicyNetwork = network
    return found
