"""Subnets, addresses and MACs: arithmetic only, but for `host_routes`."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from hyperstack.network.api import Network
from hyperstack.pod.errors import Conflict, Exhausted, InvalidArgument

SUBNET_PREFIX = 24
"""Length of the subnets that `choose_subnet` gives: 253 pods each."""

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")


def mac_of(address: IPv4Address) -> str:
    """A locally administered MAC that an address alone decides.

    Unique where the address is, and an address that a new pod inherits keeps its MAC, so that no neighbour's ARP cache
    is ever stale.
    """
    return "02:48:" + ":".join(f"{octet:02x}" for octet in address.packed)


def check_mac(mac: str, network: Network) -> str:
    """The MAC in canonical form.

    :raise InvalidArgument: not a MAC, not a unicast one, or the gateway's own.
    """
    canonical = mac.lower().replace("-", ":")
    if not _MAC.match(canonical) or int(canonical[:2], 16) & 1 or canonical == "00:00:00:00:00:00":
        raise InvalidArgument(f"invalid MAC address: {mac[:32]!r}", field="mac_address", value=mac[:32],
                              hint="give six octets of a unicast address, such as 02:11:22:33:44:55")
    if canonical == mac_of(IPv4Address(network.gateway)):
        raise InvalidArgument(f"MAC address {canonical} is the gateway's", field="mac_address", value=canonical,
                              hint="choose another, or none: one is made from the address")
    return canonical


def choose_address(network: Network, taken: Collection[str], wanted: str = "") -> IPv4Address:
    """The address `wanted`, or the lowest free one.

    :raise Exhausted: the subnet is full.
    :raise InvalidArgument: `wanted` is no usable address of the subnet.
    :raise Conflict: `wanted` is in use.
    """
    subnet = IPv4Network(network.subnet)
    used = set(taken) | {network.gateway}
    if wanted:
        return _check_address(network, subnet, used, wanted)
    for address in subnet.hosts():
        if str(address) not in used:
            return address
    raise Exhausted(f"network {network.name} has no free address left in {subnet}", field="subnet", value=str(subnet),
                    hint="remove pods of this network, or use another network")


def _check_address(network: Network, subnet: IPv4Network, used: Collection[str], wanted: str) -> IPv4Address:
    try:
        address = IPv4Address(wanted.partition("/")[0])
    except ValueError:
        raise InvalidArgument(f"invalid IPv4 address: {wanted[:64]!r}", field="ip_address", value=wanted[:64],
                              hint=f"give one of {subnet}") from None
    if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
        raise InvalidArgument(f"address {address} is not usable in network {network.name} ({subnet})",
                              field="ip_address", value=str(address), hint=f"give a host address of {subnet}")
    if str(address) in used:
        raise Conflict(f"address {address} is in use in network {network.name}", field="ip_address",
                       value=str(address), hint="choose another, or none to be given a free one")
    return address


def choose_subnet(pools: Iterable[IPv4Network], avoid: Collection[IPv4Network]) -> IPv4Network:
    """The first subnet of the pools that overlaps nothing of `avoid`. :raise Exhausted: none left."""
    for pool in pools:
        for subnet in pool.subnets(new_prefix=max(SUBNET_PREFIX, pool.prefixlen)):
            if not any(subnet.overlaps(other) for other in avoid):
                return subnet
    raise Exhausted("no subnet is left for a new network: each overlaps another network or a route of the host",
                    field="subnet", hint="remove a network, name a subnet, or give hyperd another address pool")


def host_routes(table: Path = Path("/proc/net/route")) -> list[IPv4Network]:
    """The networks that the host reaches by a route of its main table, the default route left out."""
    routes = []
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        destination, mask = (_from_hex(fields[1]), _from_hex(fields[7]))
        if int(mask):
            routes.append(IPv4Network((int(destination), bin(int(mask)).count("1"))))
    return routes


def _from_hex(word: str) -> IPv4Address:
    """The kernel prints addresses as a native-endian word."""
    return IPv4Address(struct.pack("=I", int(word, 16)))


def check_network(network: Network) -> None:
    """:raise InvalidArgument: the subnet is no IPv4 network, too small, or does not hold the gateway."""
    try:
        subnet = IPv4Network(network.subnet)
        gateway = IPv4Address(network.gateway)
    except ValueError as error:
        raise InvalidArgument(f"network {network.name}: {error}", field="subnet", value=network.subnet,
                              hint="give an IPv4 subnet such as 10.1.2.0/24") from None
    if subnet.prefixlen > 30 or gateway not in subnet or gateway in (subnet[0], subnet[-1]):
        raise InvalidArgument(f"network {network.name}: {gateway} cannot be the gateway of {subnet}", field="gateway",
                              value=network.gateway, hint="give a host address of the subnet, which is /30 or wider")
    if subnet.is_loopback or subnet.is_multicast or subnet.is_unspecified:
        raise InvalidArgument(f"network {network.name}: {subnet} is no range for hosts", field="subnet",
                              value=network.subnet, hint="give a private range such as 10.1.2.0/24")
