"""Whether a network that a user describes can exist on this host.

The host has one routing table for all projects: a subnet of a tenant's is a route of the host's. So it must lie where
no other network and no route of the host does, and within the ranges that are private by definition (RFC 1918): else
a tenant could draw to itself what the host, or others on it, send to the world.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import TypeVar

from hyperstack.network.api import Network, Subnet
from hyperstack.network.bridge.addressing import usable
from hyperstack.pod.errors import Conflict, InvalidArgument

PRIVATE = tuple(IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
"""RFC 1918."""

PRIVATE6 = tuple(IPv6Network(text) for text in ("fc00::/7", "2001:db8::/32"))
"""Unique local addresses (RFC 4193), and those of examples, which people type (RFC 3849): neither goes anywhere."""

MAX_SUBNETS = 16
MAX_RESERVED = 256
MIN_MTU, MAX_MTU = 576, 9216
"""What every IPv4 host must take in one piece (RFC 791); what jumbo frames have."""

Parsed = TypeVar("Parsed")

_EXAMPLE6 = "give a unique local subnet such as fd12:3456:789a::/64"
_EXAMPLE = "give a private subnet such as 10.1.2.0/24"


def check_network(network: Network) -> None:
    """What can be told from the network alone.

    :raise InvalidArgument: a subnet is none, too small, or does not hold its gateway, range or reserved addresses.
    """
    if not 1 <= len(network.subnets) <= MAX_SUBNETS:
        raise InvalidArgument(f"network {network.name}: {len(network.subnets)} subnets", field="subnet",
                              value=len(network.subnets), hint=f"give 1 to {MAX_SUBNETS}")
    if not MIN_MTU <= network.mtu <= MAX_MTU:
        raise InvalidArgument(f"network {network.name}: the MTU {network.mtu} is out of range", field="mtu",
                              value=network.mtu, hint=f"{MIN_MTU} to {MAX_MTU} bytes")
    cidrs: list[IPv4Network] = []
    for subnet in network.subnets:
        cidr = _check_subnet(network.name, subnet)
        if any(cidr.overlaps(other) for other in cidrs):
            raise InvalidArgument(f"network {network.name}: {cidr} overlaps another of its subnets", field="subnet",
                                  value=subnet.cidr, hint="give subnets that are apart")
        cidrs.append(cidr)
    if len(network.subnets6) > 1:
        raise InvalidArgument(f"network {network.name}: {len(network.subnets6)} subnets of IPv6", field="subnet",
                              value=len(network.subnets6), hint="give one")
    for subnet in network.subnets6:
        _check_subnet6(network.name, subnet)


def _check_subnet6(name: str, subnet: Subnet) -> None:
    cidr = _cidr6(name, subnet.cidr, "subnet")
    if not 48 <= cidr.prefixlen <= 120 or not any(cidr.subnet_of(ours) for ours in PRIVATE6):
        raise InvalidArgument(f"network {name}: {cidr} is no private range of 2^8 to 2^80 addresses", field="subnet",
                              value=subnet.cidr, hint=_EXAMPLE6)
    gateway = _address6(name, subnet.gateway, "gateway")
    if gateway not in cidr or gateway == cidr.network_address:
        raise InvalidArgument(f"network {name}: {gateway} cannot be the gateway of {cidr}", field="gateway",
                              value=subnet.gateway, hint="give a host address of the subnet")
    if subnet.ip_range and not _cidr6(name, subnet.ip_range, "ip_range").subnet_of(cidr):
        raise InvalidArgument(f"network {name}: the range {subnet.ip_range} is not within {cidr}", field="ip_range",
                              value=subnet.ip_range, hint="give a part of the subnet")
    if len(subnet.reserved) > MAX_RESERVED:
        raise InvalidArgument(f"network {name}: more than {MAX_RESERVED} auxiliary addresses", field="aux_address",
                              value=len(subnet.reserved), hint="leave them out of the range of addresses: ip_range")
    for label, text in subnet.reserved.items():
        if _address6(name, text, "aux_address") not in cidr:
            raise InvalidArgument(f"network {name}: {text[:64]} ({label[:64]}) is not in {cidr}", field="aux_address",
                                  value=text[:64], hint="give a host address of the subnet")


def check_beside_host6(network: Network, table: Path = Path("/proc/net/ipv6_route")) -> None:
    """:raise Conflict: the host goes there by a route of its own."""
    for subnet in network.subnets6:
        met = next((route for route in _routes6(table) if route.overlaps(IPv6Network(subnet.cidr))), None)
        if met is not None:
            raise Conflict(f"subnet {subnet.cidr} overlaps {met}, which this host has a route to", field="subnet",
                           value=subnet.cidr, hint="choose another, or none to be given one")


def _routes6(table: Path) -> list[IPv6Network]:
    """The default route and multicast left out."""
    if not table.exists():
        return []
    found = []
    for line in table.read_text().splitlines():
        destination, length = line.split()[:2]
        network = IPv6Network((bytes.fromhex(destination), int(length, 16)))
        if network.prefixlen and not network.is_multicast:
            found.append(network)
    return found


def _check_subnet(name: str, subnet: Subnet) -> IPv4Network:
    cidr = _cidr(name, subnet.cidr, "subnet")
    if cidr.prefixlen > 30 or cidr.is_loopback or cidr.is_multicast or cidr.is_unspecified:
        raise InvalidArgument(f"network {name}: {cidr} is too small, or no range for hosts", field="subnet",
                              value=subnet.cidr, hint=f"{_EXAMPLE}, /30 or wider")
    gateway = _address(name, subnet.gateway, "gateway")
    if not usable(gateway, cidr):
        raise InvalidArgument(f"network {name}: {gateway} cannot be the gateway of {cidr}", field="gateway",
                              value=subnet.gateway, hint="give a host address of the subnet")
    if subnet.ip_range and not _cidr(name, subnet.ip_range, "ip_range").subnet_of(cidr):
        raise InvalidArgument(f"network {name}: the range {subnet.ip_range} is not within {cidr}", field="ip_range",
                              value=subnet.ip_range, hint="give a part of the subnet")
    if len(subnet.reserved) > MAX_RESERVED:
        raise InvalidArgument(f"network {name}: more than {MAX_RESERVED} auxiliary addresses", field="aux_address",
                              value=len(subnet.reserved), hint="leave them out of the range of addresses: ip_range")
    for label, text in subnet.reserved.items():
        address = _address(name, text, "aux_address")
        if not usable(address, cidr) or address == gateway:
            raise InvalidArgument(f"network {name}: {address} ({label[:64]}) cannot be kept free in {cidr}",
                                  field="aux_address", value=text, hint="give a host address of the subnet")
    return cidr


def check_apart(network: Network, others: Collection[Network]) -> None:
    """:raise Conflict: a subnet overlaps another network's. Those of other projects are not named."""
    for other in others:
        for mine, theirs in ((mine, theirs) for mine in network.subnets for theirs in other.subnets):
            if other.id != network.id and IPv4Network(mine.cidr).overlaps(IPv4Network(theirs.cidr)):
                whose = f"that of network {other.name} ({theirs.cidr})" if other.project == network.project else \
                    "a network of another project"
                raise Conflict(f"subnet {mine.cidr} overlaps {whose}", field="subnet", value=mine.cidr,
                               hint="choose another, or none to be given one")
        for mine, theirs in ((mine, theirs) for mine in network.subnets6 for theirs in other.subnets6):
            if other.id != network.id and IPv6Network(mine.cidr).overlaps(IPv6Network(theirs.cidr)):
                raise Conflict(f"subnet {mine.cidr} overlaps another network's", field="subnet", value=mine.cidr,
                               hint="choose another, or none to be given one")


def check_beside_host(network: Network, avoid: Collection[IPv4Network], pools: Collection[IPv4Network]) -> None:
    """:param avoid: where the host itself goes. :param pools: ranges that the operator has set aside for networks.

    :raise InvalidArgument: a subnet is neither private nor of a pool. :raise Conflict: it is where the host goes.
    """
    for subnet in network.subnets:
        if not any(IPv4Network(subnet.cidr).subnet_of(ours) for ours in (*PRIVATE, *pools)):
            raise InvalidArgument(f"subnet {subnet.cidr} is not a private range", field="subnet", value=subnet.cidr,
                                  hint=f"give one of {', '.join(map(str, PRIVATE))}")
        met = next((other for other in avoid if other.overlaps(IPv4Network(subnet.cidr))), None)
        if met is not None:
            raise Conflict(f"subnet {subnet.cidr} overlaps {met}, which this host has a route to", field="subnet",
                           value=subnet.cidr, hint="choose another, or none to be given one")


def _cidr(name: str, text: str, field: str) -> IPv4Network:
    return _parsed(IPv4Network, name, text, field, _EXAMPLE)


def _cidr6(name: str, text: str, field: str) -> IPv6Network:
    return _parsed(IPv6Network, name, text, field, _EXAMPLE6)


def _address(name: str, text: str, field: str) -> IPv4Address:
    return _parsed(IPv4Address, name, text, field, "give an IPv4 address of the subnet")


def _address6(name: str, text: str, field: str) -> IPv6Address:
    return _parsed(IPv6Address, name, text, field, "give an IPv6 address of the subnet")


def _parsed(kind: Callable[[str], Parsed], name: str, text: str, field: str, hint: str) -> Parsed:
    try:
        return kind(text)
    except ValueError as error:
        raise InvalidArgument(f"network {name}: {str(error)[:128]}", field=field, value=text[:64], hint=hint) from None
