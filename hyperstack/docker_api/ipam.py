"""The subnets of a network that is to be made, and a container's settings on one: what Docker says of mistakes in them.

It says all of them at once. What only this host knows (overlaps, what is taken) is decided by the network door.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from hyperstack.docker_api.bodies import EndpointBody, IpamPoolBody
from hyperstack.engine.api import Subnet
from hyperstack.engine.records import NetworkRecord
from hyperstack.pod.errors import InvalidArgument

MAX_POOLS = 64
_SHOWN = 64

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Cidr = ipaddress.IPv4Network | ipaddress.IPv6Network


def subnets(pools: Sequence[IpamPoolBody], *, ipv6: bool) -> list[Subnet]:
    """The pools of a create.

    :raise InvalidArgument: one is malformed, or does not hold what it names.
    """
    if len(pools) > MAX_POOLS:
        raise InvalidArgument(f"IPAM.Config: more than {MAX_POOLS}", field="IPAM.Config", value=len(pools))
    faults = [fault for pool in pools for fault in _pool_faults(pool, ipv6=ipv6)]
    if faults:
        raise InvalidArgument(f"invalid network config:\n{joined(faults)}", field="IPAM.Config",
                              hint="give --subnet for every --gateway, --ip-range and --aux-address, as 10.1.2.0/24")
    return [Subnet(cidr=pool.subnet, gateway=pool.gateway, ip_range=pool.ip_range, reserved=pool.auxiliary_addresses)
            for pool in pools]


def joined(faults: Sequence[str]) -> str:
    """Several mistakes as one text."""
    return faults[0] if len(faults) == 1 else "* " + "\n* ".join(faults)


def _pool_faults(pool: IpamPoolBody, *, ipv6: bool) -> Iterator[str]:
    subnet = _prefix(pool.subnet)
    if subnet is None:
        yield f"invalid subnet {pool.subnet[:_SHOWN]}: invalid CIDR block notation"
        return
    if subnet.version == 6 and not ipv6:
        return  # refused for that
    if not _is_masked(pool.subnet):
        yield f"invalid subnet {pool.subnet}: it should be {subnet}"
    if pool.ip_range:
        yield from (f"invalid ip-range {pool.ip_range[:_SHOWN]}: {why}" for why in _range_faults(pool.ip_range, subnet))
    if why := _address_fault(pool.gateway, subnet):
        yield f"invalid gateway {pool.gateway[:_SHOWN]}: {why}"
    for name, address in pool.auxiliary_addresses.items():
        if why := _address_fault(address, subnet):
            yield f"invalid auxiliary address {name[:_SHOWN]}: {why}"


def _range_faults(text: str, subnet: Cidr) -> Iterator[str]:
    found = _prefix(text)
    if found is None:
        yield "invalid CIDR block notation"
        return
    if found.version != subnet.version:
        yield f"parent subnet is an IPv{subnet.version} block"
        return
    if found.prefixlen < subnet.prefixlen:
        yield f"CIDR block is bigger than its parent subnet {subnet}"
    if not _is_masked(text):
        yield f"it should be {found}"
    if not subnet.overlaps(found):
        yield f"parent subnet {subnet} doesn't contain ip-range"


def _address_fault(text: str, subnet: Cidr) -> str:
    if not text:
        return ""
    address = _address(text)
    if address is None:
        return "invalid address"
    if address.version != subnet.version:
        return f"parent subnet is an IPv{subnet.version} block"
    return "" if address in subnet else f"parent subnet {subnet} doesn't contain this address"


def _prefix(text: str) -> Cidr | None:
    """The network of "10.1.2.3/24", as it is without the host's bits. None: it is no such thing."""
    _, slash, length = text.partition("/")
    try:
        return ipaddress.ip_network(text, strict=False) if slash and length.isdecimal() else None
    except ValueError:
        return None


def _is_masked(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def check_endpoint(endpoint: EndpointBody, network: str, record: NetworkRecord | None = None) -> None:
    """A container's settings on a network.

    :param record: of the network, where it is known: then its subnets must hold the addresses.
    :raise InvalidArgument: names all that is wrong.
    """
    config = endpoint.ipam_config
    faults: list[str] = []
    if network in ("bridge", "none", "default", ""):
        if config.ipv4_address or config.ipv6_address:
            faults.append("user specified IP address is supported on user defined networks only")
        if endpoint.aliases:
            faults.append("network-scoped alias is supported only for containers in user defined networks")
    for version, text in ((4, config.ipv4_address), (6, config.ipv6_address)):
        address = _address(text)
        if text and (address is None or address.version != version or address.is_unspecified):
            faults.append(f"invalid IPv{version} address: {text[:_SHOWN]}")
    for text in config.link_local_ips:
        if (address := _address(text)) is None or address.is_unspecified:
            faults.append(f"invalid link-local IP address: {text[:_SHOWN]}")
    if record is not None:
        asked = ((config.ipv4_address, record.subnets), (config.ipv6_address, record.subnets6))
        faults += [fault for text, own in asked if text and (fault := _outside(text, own))]
    if faults:
        raise InvalidArgument(f"invalid endpoint settings:\n{joined(faults)}", field="EndpointConfig")


def _outside(text: str, own: Sequence[Subnet]) -> str:
    """What is wrong with an address that a container asks for; empty: nothing."""
    asked = [subnet for subnet in own if not subnet.chosen]
    if not asked:
        return "user specified IP address is supported only when connecting to networks with user configured subnets"
    address = _address(text)
    if address is None or not any(address in ipaddress.ip_network(subnet.cidr) for subnet in asked):
        return f"no configured subnet or ip-range contain the IP address {text[:_SHOWN]}"
    return ""
