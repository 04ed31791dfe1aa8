"""What IPv6 has of its own in the rules of `ruleset`: in force while a network has it.

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

from hyperstack.network.api import Binding
from hyperstack.network.bridge import chains
from hyperstack.network.bridge.elements import Element

LINK_LOCAL = IPv6Address("fe80::")

FAMILY = chains.Family(name="ip6", kind="ipv6_addr", suffix="6", icmp="icmpv6", loopback="::1",
                       secrets="{ fe80::/10, fd00:ec2::254, fd20:ce::254 }")


def rules(*, table: str, taps: str, loopback: bool) -> str:
    """The table `ip6`, without elements.

    :param taps: what the names of all taps begin with. :param loopback: whether ports are published on ::1 too.
    """
    own = chains.Own(from_host="" if loopback else "ip6 daddr != ::1",
                     needed="icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert } accept")
    return chains.rules(FAMILY, own, table=table, taps=taps)


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


def binding(of: Binding) -> list[Element]:
    """None where it has no IPv6."""
    if not of.address6:
        return []
    own = (IPv6Address(of.address6.partition("/")[0]), link_local(of.mac))
    return [*(Element("bridge", "bindings6", (of.port, of.mac, str(address))) for address in own),
            *(Element("bridge", "targets6", (of.port, of.mac, f"0x{address.packed.hex()}")) for address in own)]
