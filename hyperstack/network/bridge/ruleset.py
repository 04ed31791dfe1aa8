"""What nftables is told: rules as text for `nft -f`, and the elements of sets and maps.

Two tables of our own, named after the instance. The rules are constant; sets and maps hold what changes, so that a
pod's start adds one element and no rule. `ip` routes and translates:

    guard        pods do not reach the host's 127/8, although its `route_localnet` would let them; and nothing comes
                 from a tap but over its bridge (see below)
    prerouting   published ports, and DNS at a gateway's address, to their targets; `output` for the host's own clients
    forward      within one bridge all, unless its pods are isolated; between bridges nothing; out, but for internal
                 networks and link-local addresses (169.254.169.254 hands out a provider's credentials); in, only
                 answers and published ports
    input        from pods: the network's own resolver as often as is reasonable, answers, pings, and the host's
                 resolver; nothing else of the host
    postrouting  pods leave with the host's address; so do connections of a pod, or of the host's own 127.0.0.1, to a
                 port that a pod of the same bridge publishes, since the answer must come back through the host

`bridge` is the fence: what comes from a tap passes only with the MAC and IPv4 address of its binding, in IP as in ARP.
A tap without an element, and IPv6 (but for `ruleset6`), VLAN tags and everything else, is dropped: the fence stands
before the tap does.
Frames to 01:80:c2:00:00:0x skip a bridge's hooks and reach the host's stack on the tap itself: `guard` drops their IP,
and the tap does neither ARP nor IPv6.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import groupby

from hyperstack.network.api import Binding, Network, Published
from hyperstack.network.bridge import chains, ruleset6
from hyperstack.network.bridge.elements import Element, Verb
from hyperstack.network.bridge.names import Names
from hyperstack.network.bridge.resolvers import Resolvers
from hyperstack.network.bridge.sysctls import serves_loopback6

_SETS = """
    set gateways {{ type ipv4_addr; }}
    set resolvers {{ type ipv4_addr; }}
    set names_at {{ type ifname . ipv4_addr . inet_service; }}
    map names_to {{ type ifname . ipv4_addr : ipv4_addr . inet_service; }}
    set askers {{ type ipv4_addr; size {askers}; flags dynamic; timeout 1m; }}
"""
_CHAINS = """
    chain names {{
        update @askers {{ ip saddr limit rate over {questions}/second burst {burst} packets }} drop
        accept
    }}
    chain to_loopback {{
        type nat hook input priority 100; policy accept;
        iifname @bridges ip daddr 127.0.0.0/8 snat to 127.0.0.1
    }}
"""
_RESOLVED = """
        meta l4proto { tcp, udp } th dport 53 dnat ip to iifname . ip daddr map @names_to
"""
_ASKED = """
        meta l4proto { tcp, udp } iifname . ip daddr . th dport @names_at jump names
"""
_NEEDED = """
        icmp type echo-request accept
        iifname != @internal ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 accept
"""
_FENCE = """
add table bridge {table}
delete table bridge {table}
table bridge {table} {{
    set bindings {{ type ifname . ether_addr . ipv4_addr; }}
{fence6_sets}
    chain fence {{
        type filter hook prerouting priority -300; policy accept;
        iifname != "{taps}*" accept
        ether type 8021q drop
        ether type ip iifname . ether saddr . ip saddr @bindings accept
        ether type arp arp htype 1 arp ptype ip iifname . ether saddr . arp saddr ip @bindings \\
            iifname . arp saddr ether . arp saddr ip @bindings accept
{fence6}
        drop
    }}
}}
"""

_FAMILY = chains.Family(name="ip", kind="ipv4_addr", suffix="", icmp="icmp", loopback="127.0.0.0/8",
                        secrets="169.254.0.0/16")

QUESTIONS_PER_S = 500
"""Packets that one pod may send to its network's resolver. Answering one takes the daemon some 0.1 ms."""
_BURST = 1000
_ASKERS = 65536

_UPSTREAM = "        iifname @bridges ip daddr @gateways meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {upstream}"


@dataclass
class Desired:
    """What shall be in force, by id: the memory from which everything can be said again."""

    networks: dict[str, Network] = field(default_factory=dict)
    bindings: dict[str, tuple[Binding, ...]] = field(default_factory=dict)
    ports: dict[str, tuple[Published, ...]] = field(default_factory=dict)
    name_ports: dict[str, int] = field(default_factory=dict)
    """Where the resolvers of networks with names listen, on their gateways' addresses."""
    resolvers: Resolvers = field(default_factory=Resolvers)

    @property
    def has_ipv6(self) -> bool:
        """Whether a network has it."""
        return any(network.subnets6 for network in self.networks.values())


class Ruleset:
    """Texts for one instance, each one atomic transaction; and what is in its sets of one pod."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.ipv6 = False
        """The host has it, and nftables for it."""

    def tables(self, desired: Desired) -> frozenset[tuple[str, str]]:
        """Family and name of those that are needed."""
        families = ("ip", "bridge", *(["ip6"] if desired.has_ipv6 else []))
        return frozenset((family, self._names.table) for family in families)

    def whole(self, desired: Desired) -> str:
        """The tables from nothing, whatever is there; the packets never see a moment without."""
        if not desired.networks:
            return self.nothing()
        upstream = desired.resolvers.upstream
        table, taps = self._names.table, self._names.tap_prefix
        own = chains.Own(
            sets=_SETS.format(askers=_ASKERS), chains=_CHAINS.format(questions=QUESTIONS_PER_S, burst=_BURST),
            resolved=_RESOLVED + (_UPSTREAM.format(upstream=upstream) if upstream else ""),
            allowed="ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 accept", asked=_ASKED, needed=_NEEDED)
        rules = self._gone("ip") + chains.rules(_FAMILY, own, table=table, taps=taps)
        rules += _FENCE.format(table=table, taps=taps, fence6_sets=ruleset6.FENCE_SETS if desired.has_ipv6 else "",
                               fence6=ruleset6.FENCE if desired.has_ipv6 else "")
        if self.ipv6:
            rules += self._gone("ip6")
        if desired.has_ipv6:
            rules += ruleset6.rules(table=table, taps=taps, loopback=serves_loopback6())
        servers = set(desired.resolvers.reachable) | ({upstream} if upstream else set())
        parts = [rules, self._element("add", "ip", "resolvers", sorted(servers))]
        parts += [self.network("add", network, desired.name_ports.get(network.id))
                  for network in desired.networks.values()]
        elements = self.bindings(binding for bindings in desired.bindings.values() for binding in bindings)
        elements += self.ports([port for ports in desired.ports.values() for port in ports])
        for (family, name), group in groupby(sorted(elements), key=lambda element: element[:2]):
            parts.append(self._element("add", family, name, [str(element) for element in group]))
        return "".join(parts)

    def nothing(self) -> str:
        """All tables gone, whether or not they are there."""
        return "".join(map(self._gone, ("ip", "bridge", *(["ip6"] if self.ipv6 else []))))

    def _gone(self, family: str) -> str:
        return f"add table {family} {self._names.table}\ndelete table {family} {self._names.table}\n"

    def network(self, verb: Verb, network: Network, names_port: int | None) -> str:
        """:param names_port: of the resolver that listens on the gateways' addresses; None: there is none."""
        bridge = self._names.bridge(network.id)
        text = ""
        for family, subnets in ((_FAMILY, network.subnets), (ruleset6.FAMILY, network.subnets6)):
            elements = {"bridges": [bridge], "loops": [] if network.isolated else [f"{bridge} . {bridge}"],
                        "subnets": [subnet.cidr for subnet in subnets] if network.masquerade else [],
                        "internal": [bridge] if network.internal else []}
            if subnets:
                text += "".join(self._element(verb, family.name, *words) for words in elements.items())
        gateways = [subnet.gateway for subnet in network.subnets]
        if names_port is not None:
            text += self._element(verb, "ip", "names_at", [f"{bridge} . {at} . {names_port}" for at in gateways])
            text += self._element(verb, "ip", "names_to", [f"{bridge} . {at} : {at} . {names_port}" for at in gateways])
        return text if network.internal else text + self._element(verb, "ip", "gateways", gateways)

    @staticmethod
    def bindings(bindings: Iterable[Binding]) -> list[Element]:
        return [element for b in bindings for element in (
            Element("bridge", "bindings", (b.port, b.mac, b.address.partition("/")[0])), *ruleset6.binding(b))]

    @staticmethod
    def ports(ports: Collection[Published]) -> list[Element]:
        elements = []
        for port in ports:
            six = ":" in port.host_ip
            for family, address, asked in ((_FAMILY, port.address, not six),
                                           (ruleset6.FAMILY, port.address6, six or not port.host_ip)):
                if address and asked:
                    at = (port.host_ip,) if port.host_ip else ()
                    elements.append(Element(family.name, f"ports_{'at' if at else 'any'}{family.suffix}",
                                            (*at, port.protocol, str(port.host_port)),
                                            (address, str(port.container_port))))
        return elements

    def _element(self, verb: Verb, family: str, name: str, elements: list[str]) -> str:
        if not elements:
            return ""
        return f"{verb} element {family} {self._names.table} {name} {{ {', '.join(elements)} }}\n"
