"""The network door: what the engine may ask of a network backend.

Terms
    network   a layer-2 segment of one project with a subnet.
    binding   a pod's place on it: address, MAC, tap name. Decided by `plan` (no side effect), stored by the engine,
              *then* made by `plug`. So a daemon that dies in between finds in its store all that may exist.

Lifecycle
    ensure(network) -> plan -> (store) -> plug -> publish ... unpublish -> unplug -> remove(network)
    Each of them is idempotent. `sweep` removes what no stored binding names.

No path exists between networks of different projects, nor from a pod to the host's services except those the backend
itself offers (the gateway's address answers DNS where the backend says so).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from hyperstack.pod.finding import Finding
from hyperstack.pod.spec import PortBinding


@dataclass(frozen=True, kw_only=True)
class Network:
    id: str
    """Stable and unique on the host; backends derive device names from it."""
    name: str
    project: str
    subnet: str
    """CIDR."""
    gateway: str
    internal: bool = False
    """No way out of the host."""
    mtu: int = 1500


@dataclass(frozen=True, kw_only=True)
class Binding:
    pod_id: str
    network_id: str
    mac: str
    address: str
    """CIDR"""
    gateway: str
    tap: str
    bridge: str
    dns: tuple[str, ...]
    mtu: int


@dataclass(frozen=True, kw_only=True)
class Published:
    pod_id: str
    container_port: int
    protocol: str
    host_ip: str
    host_port: int
    address: str
    """The pod's, without prefix length."""


class NetworkBackend(Protocol):
    name: str

    async def start(self) -> None:
        """Make what all networks need (tables, sysctls). :raise Unavailable: the host cannot; says what is missing."""

    async def probe(self) -> list[Finding]:
        """What this host can do for the backend, each with a remedy; tried out where that disturbs nothing."""

    def choose_subnet(self, taken: Collection[str]) -> tuple[str, str]:
        """A free (subnet, gateway) for a new network, away from the host's own routes. :raise Exhausted: none left."""

    async def ensure(self, network: Network) -> None: ...

    async def remove(self, network_id: str) -> None: ...

    def plan(self, network: Network, *, pod_id: str, taken: Collection[str], mac: str = "",
             address: str = "") -> Binding:
        """A place on the network. `taken` are the addresses (without prefix) in use.

        :raise Exhausted: the subnet is full. :raise InvalidArgument: `address` is outside it. :raise Conflict: in use.
        """

    async def plug(self, binding: Binding, *, uid: int) -> int:
        """Make the tap, join it to the network, fence it (MAC and address spoofing dropped); its descriptor."""

    async def unplug(self, binding: Binding) -> None: ...

    def choose_ports(self, wanted: tuple[PortBinding, ...], *, pod_id: str, address: str,
                     taken: Collection[Published]) -> tuple[Published, ...]:
        """Fill in host ports. :raise Conflict: one is taken (by us or by a listener on the host); names it."""

    async def publish(self, ports: tuple[Published, ...], network: Network) -> None: ...

    async def unpublish(self, pod_id: str) -> None: ...

    async def sweep(self, networks: Collection[Network], bindings: Collection[Binding],
                    ports: Collection[Published]) -> list[str]:
        """Bring the host to exactly this state: remove what is not named (returns what), keep running taps."""

    async def close(self) -> None: ...
