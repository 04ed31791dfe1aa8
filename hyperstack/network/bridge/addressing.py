"""Subnets, addresses and MACs: arithmetic only, but for `host_routes`."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import TypedDict, TypeVar

from hyperstack.network.api import Network, Subnet
from hyperstack.pod.errors import Exhausted, Forbidden, InvalidArgument

SUBNET_PREFIX = 24
"""Length of an ordinary subnet: 253 pods."""
LARGE_PREFIX = 22
"""Of a large one: 1021 pods. A bridge of Linux has 1024 ports at most."""

Cidr = TypeVar("Cidr", IPv4Network, IPv6Network)

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")


def mac_of(address: IPv4Address) -> str:
    """A locally administered MAC that an address alone decides.

    Unique where the address is, and an address that a new pod inherits keeps its MAC, so that no neighbour's ARP cache
    is ever stale.
    """
    return "02:48:" + ":".join(f"{octet:02x}" for octet in address.packed)


def bridge_mac(network: Network) -> str:
    """Of the host's end: the gateway of every subnet has it."""
    return mac_of(IPv4Address(network.subnets[0].gateway))


def check_mac(mac: str, network: Network) -> str:
    """The MAC in canonical form.

    :raise InvalidArgument: not a MAC, not a unicast one, or the gateway's own.
    """
    canonical = mac.lower().replace("-", ":")
    if not _MAC.match(canonical) or int(canonical[:2], 16) & 1 or canonical == "00:00:00:00:00:00":
        raise InvalidArgument(f"invalid MAC address {mac[:32]}", field="mac_address", value=mac[:32],
                              hint="give six octets of a unicast address, such as 02:11:22:33:44:55")
    if canonical == bridge_mac(network):
        raise InvalidArgument(f"MAC address {canonical} is the gateway's", field="mac_address", value=canonical,
                              hint="choose another, or none: one is made from the address")
    return canonical


def choose_address(network: Network, taken: Collection[str], wanted: str = "") -> tuple[IPv4Address, Subnet]:
    """The address `wanted`, or the lowest free one of the first subnet that has any; and its subnet.

    :raise Exhausted: the subnets are full.
    :raise InvalidArgument: `wanted` is no address of any.
    :raise Forbidden: `wanted` is in use, or is none that a pod can have.
    """
    if wanted:
        chosen, subnet = _wanted(network, network.subnets, IPv4Network, taken, wanted, "ip_address")
    else:
        chosen, subnet = _free(network, network.subnets, IPv4Network, taken)
    return IPv4Address(chosen), subnet


class Place6(TypedDict, total=False):
    """Of a binding; nothing on a network without IPv6."""

    address6: str
    gateway6: str


def place6(network: Network, taken: Collection[str], wanted: str) -> Place6:
    """The same of IPv6, and the gateway. Raises as `choose_address`."""
    if not network.subnets6:
        if wanted:
            raise InvalidArgument(f"network {network.name} has no IPv6", field="ip6_address", value=wanted[:64],
                                  hint="create it with --ipv6")
        return {}
    if wanted:
        chosen, subnet = _wanted(network, network.subnets6, IPv6Network, taken, wanted, "ip6_address")
    else:
        chosen, subnet = _free(network, network.subnets6, IPv6Network, taken)
    return {"address6": f"{chosen}/{IPv6Network(subnet.cidr).prefixlen}",
            "gateway6": "" if network.internal else subnet.gateway}


def _kept(subnet: Subnet) -> set[str]:
    """Addresses that are nobody's pod's."""
    return {subnet.gateway, *subnet.reserved.values()}


def _free(network: Network, subnets: Collection[Subnet], kind: type[Cidr], taken: Collection[str]
          ) -> tuple[str, Subnet]:
    for subnet in subnets:
        used = _kept(subnet) | set(taken)
        whole, pool = kind(subnet.cidr), kind(subnet.ip_range or subnet.cidr)
        # Of the used ones, and the two that are no host's, at most so many are in the way: no subnet is gone through.
        for number in range(min(pool.num_addresses, len(used) + 3)):
            address = pool.network_address + number
            if str(address) not in used and usable(address, whole):
                return str(address), subnet
    shown = ", ".join(subnet.ip_range or subnet.cidr for subnet in subnets)
    raise Exhausted(f"network {network.name} has no free address left in {shown}", field="subnet", value=shown,
                    hint="remove pods of this network, or use another network")


def _wanted(network: Network, subnets: Collection[Subnet], kind: type[Cidr], taken: Collection[str], wanted: str,
            field: str) -> tuple[str, Subnet]:
    cidrs = [(kind(subnet.cidr), subnet) for subnet in subnets]
    shown = ", ".join(str(cidr) for cidr, _ in cidrs)
    try:
        address = type(cidrs[0][0].network_address)(wanted.partition("/")[0])
    except ValueError:
        raise InvalidArgument(f"invalid endpoint settings:\ninvalid IPv{cidrs[0][0].version} address: {wanted[:64]}",
                              field=field, value=wanted[:64], hint=f"give one of {shown}") from None
    cidr, subnet = next(((cidr, subnet) for cidr, subnet in cidrs if address in cidr), (None, None))
    if cidr is None or subnet is None:
        raise InvalidArgument(f"invalid endpoint settings:\nno configured subnet or ip-range contain the IP address "
                              f"{address}", field=field, value=str(address),
                              hint=f"give an address of {shown}, of network {network.name}")
    if str(address) in taken or str(address) in _kept(subnet) or not usable(address, cidr):
        raise Forbidden("Address already in use", field=field, value=str(address),
                        hint=f"{address} in network {network.name}; choose another, or none to be given a free one")
    return str(address), subnet


def choose_subnet6(network_id: str, taken: Collection[str]) -> IPv6Network:
    """A unique local /64 (RFC 4193) that the network's id decides, and that overlaps nothing of `taken`."""
    others = [IPv6Network(cidr) for cidr in taken]
    for number in range(64):
        digest = hashlib.sha256(f"{network_id}/{number}".encode()).digest()
        subnet = IPv6Network((b"\xfd" + digest[:7] + bytes(8), 64))
        if not any(subnet.overlaps(other) for other in others):
            return subnet
    raise Exhausted("no IPv6 subnet is left for a new network", field="subnet", hint="name one with --subnet")


def usable(address: IPv4Address | IPv6Address, subnet: IPv4Network | IPv6Network) -> bool:
    """Whether a host may have this address there. IPv6 has no broadcast."""
    if address not in subnet or address == subnet.network_address:
        return False
    return address.version == 6 or address != subnet.broadcast_address


def choose_subnet(pools: Iterable[IPv4Network], avoid: Collection[IPv4Network], *, large: bool = False) -> IPv4Network:
    """The first subnet of the pools that overlaps nothing of `avoid`; where no large one is left, an ordinary one.

    :raise Exhausted: none left.
    """
    pools = list(pools)
    for prefix in (LARGE_PREFIX, SUBNET_PREFIX) if large else (SUBNET_PREFIX,):
        for pool in pools:
            for subnet in pool.subnets(new_prefix=max(prefix, pool.prefixlen)):
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
