"""Every kind of network by name, and networks on top of filters, described before any is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from torch import nn

from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from policies.files import Checked, check, parse
from policies.networks.block_filter import BlockFilter, BlockFilterConfig
from policies.networks.config import PartConfig
from policies.networks.dit import DiTConfig, DiTNetwork
from policies.networks.transformer import UnmaskingNetwork
from policies.networks.transformer_config import NetworkConfig

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


@dataclass(frozen=True)
class NetworkSpec:
    """A network that may not have been built: its kind and sizes, and the filter in it.

    Attributes:
        kind: of `NETWORKS`.
        config: of that kind.
        filter: the network whose log-odds are one more input.
    """

    kind: str
    config: PartConfig
    filter: NetworkSpec | None = None

    @classmethod
    def of(cls, network: nn.Module) -> NetworkSpec:
        """Return what a network was built from."""
        kind = next(name for name, (_, module) in NETWORKS.items() if isinstance(network, module))
        inner: nn.Module | None = getattr(network, "filter", None)
        config: Any = network.config
        return cls(kind, config, None if inner is None else cls.of(inner))

    @classmethod
    def read(cls, description: Mapping[str, Any]) -> NetworkSpec:
        """Read what `as_dict` returned.

        Raises:
            ValueError: if the kind or a field is unknown, or a value not possible.
        """
        found: list[tuple[str, Any]] = []
        inner: Mapping[str, Any] | None = description
        # A loop, not a recursion: how deep a stranger's file goes is its own choice.
        while inner is not None:
            place = "filter." * len(found)
            if len(found) == MAX_FILTERS:
                raise ValueError(f"a policy has more than {MAX_FILTERS} networks, one the filter of another")
            part: Described = check(Described, dict(inner), place.rstrip("."))
            if part.kind not in NETWORKS:
                raise ValueError(f"{place}kind is {part.kind!r}: choose one of {', '.join(NETWORKS)}")
            found.append((part.kind, parse(NETWORKS[part.kind][0], part.network, f"{place}network")))
            inner = part.filter
        spec: NetworkSpec | None = None
        # From the innermost on, as a network is made around its filter.
        for depth, (kind, config) in reversed([*enumerate(found)]):
            if spec is not None and kind == "block_filter":
                raise ValueError(f"{'filter.' * depth}filter is given, but a block_filter has none")
            spec = cls(kind, config, spec)
        assert spec is not None
        return spec

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        config: Any = self.config
        inner = None if self.filter is None else self.filter.as_dict()
        return {"kind": self.kind, "network": asdict(config), "filter": inner}

    def build(self) -> PolicyNetwork:
        """Build the network with new weights."""
        module = NETWORKS[self.kind][1]
        network: PolicyNetwork = module(self.config, *(() if self.filter is None else (self.filter.build(),)))
        return network

    def parts(self) -> Iterator[NetworkSpec]:
        """Yield it, the filter in it, the filter in that, and so on."""
        part: NetworkSpec | None = self
        while part is not None:
            yield part
            part = part.filter

    @property
    def features(self) -> frozenset[str]:
        """Names of `envs.readings.READINGS` that it or a filter reads."""
        return frozenset[str]().union(*(part.config.readings for part in self.parts()))

    def check_hidden(self, denoiser: Denoiser) -> None:
        """Refuse a dLLM whose hidden states have another width than those that a part reads.

        Raises:
            ValueError: if they have.
        """
        for part in self.parts():
            size = part.config.hidden_state_size
            if size and size != denoiser.hidden_size:
                raise ValueError(
                    f"hidden_state_size is {size}: it must be {denoiser.hidden_size}, the width of this dLLM's hidden "
                    "states; take the dLLM that it was trained on, or train one for this dLLM"
                )

    def check_block(self, settings: DecodingSettings) -> None:
        """Refuse a block length that a part is not made for.

        Raises:
            ValueError: if it is tied to another one, or to blocks of their own where those ahead count too.
        """
        for part in self.parts():
            only = part.config.only_block
            if only not in (None, settings.block):
                raise ValueError(
                    f"block_length is {settings.block}: this policy's filter works at {only} only; decode with that"
                )
            if only is not None and settings.blocks_ahead:
                raise ValueError(
                    f"blocks_ahead is {settings.blocks_ahead}: this policy's filter sees one block alone; set it to 0"
                )


class Described(Checked):
    """The form of a description."""

    kind: str
    network: dict[str, Any]
    filter: dict[str, Any] | None = None
