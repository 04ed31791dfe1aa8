"""The rules for IPv6, beside those of `ruleset`: in force while a network has it.

`ip6` does for IPv6 what `ip` does for IPv4, without DNS, which pods ask over IPv4. Out of reach besides link-local
addresses are the two where providers answer with credentials. What the host's own processes send to ::1 goes to pods
from the bridge's address. Their answers come in by the bridge with ::1 restored, which its route to ::1 makes good (see
`Links.ensure_bridge`); but where bridged packets pass through these chains before they are the bridge's, the kernel
takes an answer to ::1 for a packet from outside, and drops it. There ports are not published on ::1.

Within a bridge a pod may speak with the addresses of its binding, the global one and the link-local one that its MAC
makes; and say of those alone that they are its own (neighbour advertisements). It is no router: router advertisements
and redirects are dropped, and with them the router solicitations that nobody answers.
"""

from __future__ import annotations

from ipaddress import IPv6Address

from hyperstack.network.api import Binding, Network, Published
from hyperstack.network.bridge import chains
from hyperstack.network.bridge.elements import Element

LINK_LOCAL = IPv6Address("fe80::")

_RULES = """
table ip6 {table} {{
{sets}
    set subnets {{ type ipv6_addr; flags interval; }}
    map ports_any6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
    map ports_at6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}

    chain guard {{
        type filter hook prerouting priority raw; policy accept;
        iifname "{taps}*" drop
        iifname @bridges ip6 daddr ::1 drop
    }}
    chain published {{
        meta l4proto {{ tcp, udp }} dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports_at6
        meta l4proto {{ tcp, udp }} dnat ip6 to meta l4proto . th dport map @ports_any6
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local jump published
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        {but_loopback} fib daddr type local jump published
    }}
{filtering}
    chain host {{
        ct state established,related accept
        icmpv6 type {{ echo-request, nd-neighbor-solicit, nd-neighbor-advert }} accept
        reject with icmpv6 type admin-prohibited
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname @bridges ip6 saddr @subnets ct status dnat masquerade
        oifname @bridges ip6 saddr ::1 masquerade
        oifname != @bridges oifname != "lo" ip6 saddr @subnets masquerade
    }}
}}
"""

_FILTERING = chains.filtering(family="ip6", icmp="icmpv6", secrets="{ fe80::/10, fd00:ec2::254, fd20:ce::254 }")


def rules(*, table: str, taps: str, loopback: bool) -> str:
    """The table `ip6`, without elements.

    :param taps: what the names of all taps begin with. :param loopback: whether ports are published on ::1 too.
    """
    return _RULES.format(table=table, taps=taps, sets=chains.SETS, filtering=_FILTERING,
                         but_loopback="" if loopback else "ip6 daddr != ::1")


FENCE_SETS = """
    set bindings6 { type ifname . ether_addr . ipv6_addr; }
    set targets6 { typeof iifname . ether saddr . @th,64,128; }
"""
FENCE = """
        ether type ip6 icmpv6 type { nd-router-solicit, nd-router-advert, nd-redirect } drop
        ether type ip6 icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @targets6 drop
        ether type ip6 iifname . ether saddr . ip6 saddr @bindings6 accept
"""
"""Of the table `bridge`. `@th,64,128` is an advertisement's target: this nft has no word for it."""


def link_local(mac: str) -> IPv6Address:
    """What a kernel makes of a MAC; RFC 4291, appendix A."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    return IPv6Address(LINK_LOCAL.packed[:8] + octets[:3] + b"\xff\xfe" + octets[3:])


def network(of: Network, bridge: str) -> list[tuple[str, list[str]]]:
    """(set, elements) of a network that has IPv6."""
    elements = [("bridges", [bridge])]
    if not of.isolated:
        elements.append(("loops", [f"{bridge} . {bridge}"]))
    if of.masquerade:
        elements.append(("subnets", [subnet.cidr for subnet in of.subnets6]))
    if of.internal:
        elements.append(("internal", [bridge]))
    return elements


def binding(of: Binding) -> list[Element]:
    """None where it has no IPv6."""
    if not of.address6:
        return []
    own = (IPv6Address(of.address6.partition("/")[0]), link_local(of.mac))
    return [*(Element("bridge", "bindings6", (of.port, of.mac, str(address))) for address in own),
            *(Element("bridge", "targets6", (of.port, of.mac, f"0x{address.packed.hex()}")) for address in own)]


def port(of: Published) -> list[Element]:
    """None where it is not published over IPv6."""
    key, target = (of.protocol, str(of.host_port)), (of.address6, str(of.container_port))
    if not of.address6 or (of.host_ip and ":" not in of.host_ip):
        return []
    if of.host_ip:
        return [Element("ip6", "ports_at6", (of.host_ip, *key), target)]
    return [Element("ip6", "ports_any6", key, target)]
