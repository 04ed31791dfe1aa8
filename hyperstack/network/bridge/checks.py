"""Whether a network that a user describes can exist on this host.

The host has one routing table for all projects: a subnet of a tenant's is a route of the host's. So it must lie where
no other network and no route of the host does, and within the ranges that are private by definition (RFC 1918): else
a tenant could draw to itself what the host, or others on it, send to the world.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TypeVar

from hyperstack.network.api import Network, Subnet
from hyperstack.network.bridge.addressing import usable
from hyperstack.pod.errors import Conflict, Forbidden, InvalidArgument

PRIVATE = tuple(IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
"""RFC 1918."""

PRIVATE6 = tuple(IPv6Network(text) for text in ("fc00::/7", "2001:db8::/32"))
"""Unique local addresses (RFC 4193), and those of examples, which people type (RFC 3849): neither goes anywhere."""

MAX_SUBNETS = 16
MAX_RESERVED = 256
MIN_MTU, MAX_MTU = 576, 9216
"""What every IPv4 host must take in one piece (RFC 791); what jumbo frames have."""

_OVERLAPS = "invalid pool request: Pool overlaps with other one on this address space"
_OTHER = "choose another, or none to be given one"
Parsed = TypeVar("Parsed")
Cidr = TypeVar("Cidr", IPv4Network, IPv6Network)


@dataclass(frozen=True)
class _Manner:
    """What holds for subnets of one family."""

    version: int
    shortest: int
    longest: int
    example: str
    fault: str
    """Of a subnet that is out of these bounds, or whose addresses are no hosts'."""


_MANNERS = {
    IPv4Network: _Manner(4, 1, 30, "give a private subnet such as 10.1.2.0/24, /30 or wider",
                         "is too small, or no range for hosts"),
    IPv6Network: _Manner(6, 48, 120, "give a unique local subnet such as fd12:3456:789a::/64",
                         "is no private range of 2^8 to 2^80 addresses"),
}


def check_network(network: Network) -> None:
    """What can be told from the network alone.

    :raise InvalidArgument: a subnet is none, too small, or does not hold its gateway, range or reserved addresses.
    """
    if not network.subnets or max(len(network.subnets), len(network.subnets6)) > MAX_SUBNETS:
        count = len(network.subnets) + len(network.subnets6)
        raise InvalidArgument(f"network {network.name}: {count} subnets", field="subnet", value=count,
                              hint=f"give 1 to {MAX_SUBNETS} of IPv4, and at most as many of IPv6")
    if not MIN_MTU <= network.mtu <= MAX_MTU:
        raise InvalidArgument(f"network {network.name}: the MTU {network.mtu} is out of range", field="mtu",
                              value=network.mtu, hint=f"{MIN_MTU} to {MAX_MTU} bytes")
    _check_subnets(network.name, network.subnets, IPv4Network)
    _check_subnets(network.name, network.subnets6, IPv6Network)


def _check_subnets(name: str, subnets: Collection[Subnet], kind: type[Cidr]) -> None:
    cidrs: list[Cidr] = []
    for subnet in subnets:
        cidr = _check_subnet(name, subnet, kind)
        if any(cidr.overlaps(other) for other in cidrs):
            raise Forbidden(_OVERLAPS, field="subnet", value=subnet.cidr,
                            hint=f"{cidr} and another of network {name}: give subnets that are apart")
        cidrs.append(cidr)


def _check_subnet(name: str, subnet: Subnet, kind: type[Cidr]) -> Cidr:
    manner = _MANNERS[kind]
    cidr = _parsed(kind, name, subnet.cidr, "subnet", manner.example)
    if not manner.shortest <= cidr.prefixlen <= manner.longest or not _is_for_hosts(cidr):
        raise InvalidArgument(f"network {name}: {cidr} {manner.fault}", field="subnet", value=subnet.cidr,
                              hint=manner.example)
    address = type(cidr.network_address)
    hint = f"give an IPv{manner.version} address of the subnet"
    gateway = _parsed(address, name, subnet.gateway, "gateway", hint)
    if not usable(gateway, cidr):
        raise InvalidArgument(f"failed to allocate gateway ({gateway}): Address already in use", field="gateway",
                              value=subnet.gateway, hint=f"give a host address of {cidr}")
    if subnet.ip_range and not _parsed(kind, name, subnet.ip_range, "ip_range", manner.example).subnet_of(cidr):
        raise InvalidArgument(f"network {name}: the range {subnet.ip_range} is not within {cidr}", field="ip_range",
                              value=subnet.ip_range, hint="give a part of the subnet")
    if len(subnet.reserved) > MAX_RESERVED:
        raise InvalidArgument(f"network {name}: more than {MAX_RESERVED} auxiliary addresses", field="aux_address",
                              value=len(subnet.reserved), hint="leave them out of the range of addresses: ip_range")
    kept = {gateway}
    for label, text in subnet.reserved.items():
        reserved = _parsed(address, name, text, "aux_address", hint)
        if not usable(reserved, cidr) or reserved in kept:
            raise InvalidArgument(f"failed to allocate secondary ip address ({label[:64]}:{reserved}): Address already "
                                  "in use", field="aux_address", value=text[:64], hint=f"give a host address of {cidr}")
        kept.add(reserved)
    return cidr


def _is_for_hosts(cidr: IPv4Network | IPv6Network) -> bool:
    """Whether its addresses may be pods'; of IPv4 the operator's pools decide as well, see `check_beside_host`."""
    if isinstance(cidr, IPv6Network):
        return any(cidr.subnet_of(ours) for ours in PRIVATE6)
    return not (cidr.is_loopback or cidr.is_multicast or cidr.is_unspecified)


def check_apart(network: Network, others: Collection[Network]) -> None:
    """:raise Forbidden: a subnet overlaps another network's. Those of other projects are not named."""
    for other in others:
        if other.id == network.id:
            continue
        whose = f"of network {other.name}" if other.project == network.project else ""
        _check_apart(network.subnets, other.subnets, whose, IPv4Network)
        _check_apart(network.subnets6, other.subnets6, whose, IPv6Network)


def _check_apart(mine: Collection[Subnet], theirs: Collection[Subnet], whose: str, kind: type[Cidr]) -> None:
    for own in mine:
        for other in theirs:
            if kind(own.cidr).overlaps(kind(other.cidr)):
                shown = f"that {whose} ({other.cidr})" if whose else "a network of another project"
                raise Forbidden(_OVERLAPS, field="subnet", value=own.cidr, hint=f"{own.cidr} and {shown}: {_OTHER}")


def check_beside_host(network: Network, avoid: Collection[IPv4Network], pools: Collection[IPv4Network],
                      table6: Path = Path("/proc/net/ipv6_route")) -> None:
    """:param avoid: where the host itself goes. :param pools: ranges that the operator has set aside for networks.

    :raise InvalidArgument: a subnet is neither private nor of a pool. :raise Conflict: it is where the host goes.
    """
    for subnet in network.subnets:
        if not any(IPv4Network(subnet.cidr).subnet_of(ours) for ours in (*PRIVATE, *pools)):
            raise InvalidArgument(f"subnet {subnet.cidr} is not a private range", field="subnet", value=subnet.cidr,
                                  hint=f"give one of {', '.join(map(str, PRIVATE))}")
    _check_routes(network.subnets, avoid, IPv4Network)
    if network.subnets6:
        _check_routes(network.subnets6, _routes6(table6), IPv6Network)


def _check_routes(subnets: Collection[Subnet], avoid: Collection[Cidr], kind: type[Cidr]) -> None:
    for subnet in subnets:
        met = next((other for other in avoid if other.overlaps(kind(subnet.cidr))), None)
        if met is not None:
            raise Conflict(f"subnet {subnet.cidr} overlaps {met}, which this host has a route to", field="subnet",
                           value=subnet.cidr, hint=_OTHER)


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


def _parsed(kind: Callable[[str], Parsed], name: str, text: str, field: str, hint: str) -> Parsed:
    try:
        return kind(text)
    except ValueError as error:
        raise InvalidArgument(f"network {name}: {str(error)[:128]}", field=field, value=text[:64], hint=hint) from None
