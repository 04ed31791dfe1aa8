"""The resolvers of one instance's networks, kept in step with what is desired."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from hyperstack.network.api import Binding, Network
from hyperstack.network.bridge.ruleset import Desired

if TYPE_CHECKING:
    from hyperstack.network.dns import Directory, Resolver


class Naming:
    """A resolver for each network with names."""

    def __init__(self) -> None:
        self._desired = Desired()
        self._resolvers: dict[str, Resolver] = {}

    async def follow(self, desired: Desired) -> None:
        """Have exactly the resolvers of these networks, which know exactly these bindings."""
        self._desired = desired
        for ident in list(self._resolvers):
            self.remove(ident)
        for network in desired.networks.values():
            await self.ensure(network)
        for bindings in desired.bindings.values():
            for binding in bindings:
                self.put(binding)

    async def ensure(self, network: Network) -> None:
        """Idempotent. :raise Unavailable: no port is free for it."""
        if network.names and network.id not in self._resolvers:
            # Here: dnspython takes most of 0.1 s to load, which a daemon without such networks does not spend.
            from hyperstack.network.dns import Resolver

            resolver = Resolver(network, self._servers, further=self._further)
            await resolver.open()
            self._resolvers[network.id] = resolver
            self._desired.name_ports[network.id] = resolver.port

    def remove(self, network_id: str) -> None:
        resolver = self._resolvers.pop(network_id, None)
        if resolver is not None:
            resolver.close()

    def put(self, binding: Binding) -> None:
        """The pod of this binding goes by its names from now on."""
        resolver = self._resolvers.get(binding.network_id)
        if resolver is not None:
            resolver.directory.put(binding)

    def take(self, binding: Binding) -> None:
        """Nobody is there any more."""
        resolver = self._resolvers.get(binding.network_id)
        if resolver is not None:
            resolver.directory.remove(binding.pod_id)

    def close(self) -> None:
        for ident in list(self._resolvers):
            self.remove(ident)

    def _further(self, binding: Binding) -> list[tuple[Directory, Binding]]:
        others = (other for other in self._desired.bindings.get(binding.pod_id, ())
                  if other.network_id != binding.network_id)
        return [(self._resolvers[other.network_id].directory, other) for other in others
                if other.network_id in self._resolvers]

    def _servers(self, binding: Binding) -> Sequence[str]:
        network = self._desired.networks[binding.network_id]
        others = (other.network_id for other in self._desired.bindings.get(binding.pod_id, ()))
        # What one of its networks lets a pod do, it may do.
        network = next((one for ident in others if not (one := self._desired.networks[ident]).internal), network)
        if binding.servers:
            return [server for server in binding.servers if self._may_ask(network, server)]
        host = self._desired.resolvers
        return () if network.internal else host.reachable or tuple(filter(None, (host.loopback,)))

    def _may_ask(self, network: Network, server: str) -> bool:
        """Whether the pods themselves would reach this server: it is asked from the host, which reaches more."""
        address = IPv4Address(server)
        if _within(address, network):
            return not is_local(server)
        others = (other for other in self._desired.networks.values() if other.id != network.id)
        return not (network.internal or address.is_loopback or address.is_link_local or address.is_multicast
                    or address.is_unspecified or is_local(server) or any(_within(address, other) for other in others))


def _within(address: IPv4Address, network: Network) -> bool:
    return any(address in IPv4Network(subnet.cidr) for subnet in network.subnets)


def is_local(server: str) -> bool:
    """Whether the address is one of this host's, so that it can be bound. Sends nothing.

    A host with net.ipv4.ip_nonlocal_bind says so of every address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((server, 0))
        except OSError:
            return False
    return True
