"""The table that IPv4 and IPv6 have each: who may forward, who may come in, and what is translated.

Texts for `str.format`; what is one family's alone comes from `ruleset` and `ruleset6`.
"""

from __future__ import annotations

from dataclasses import dataclass

_TABLE = """
table {name} {table} {{
    set bridges {{ type ifname; }}
    set loops {{ type ifname . ifname; }}
    set internal {{ type ifname; }}
    set subnets {{ type {kind}; flags interval; }}
    map ports_any{suffix} {{ type inet_proto . inet_service : {kind} . inet_service; }}
    map ports_at{suffix} {{ type {kind} . inet_proto . inet_service : {kind} . inet_service; }}
{sets}
    chain guard {{
        type filter hook prerouting priority raw; policy accept;
        iifname "{taps}*" drop
        iifname @bridges {name} daddr {loopback} drop
    }}
    chain published {{
        meta l4proto {{ tcp, udp, sctp }} dnat {name} to {name} daddr . meta l4proto . th dport map @ports_at{suffix}
        meta l4proto {{ tcp, udp, sctp }} dnat {name} to meta l4proto . th dport map @ports_any{suffix}
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        {resolved}
        fib daddr type local jump published
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        {from_host} fib daddr type local jump published
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname . oifname @loops accept
        iifname @bridges goto leaving
        oifname @bridges goto entering
    }}
    chain leaving {{
        oifname @bridges drop
        iifname @internal reject with {icmp} type admin-prohibited
        {allowed}
        {name} daddr {secrets} reject with {icmp} type admin-prohibited
        tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    }}
    chain entering {{
        oifname @internal drop
        tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
        ct state established,related accept
        ct status dnat accept
        drop
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname @bridges goto host
    }}
    chain host {{
        {asked}
        ct state established,related accept
        {needed}
        reject with {icmp} type admin-prohibited
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname @bridges {name} saddr @subnets ct status dnat masquerade
        oifname @bridges {name} saddr {loopback} masquerade
        oifname != @bridges oifname != "lo" {name} saddr @subnets masquerade
    }}
{chains}
}}
"""


@dataclass(frozen=True, kw_only=True)
class Family:
    """In nft's words."""

    name: str
    kind: str
    """Of an address."""
    suffix: str
    """Of its maps of ports."""
    icmp: str
    loopback: str
    secrets: str
    """Where providers hand out credentials."""


@dataclass(frozen=True, kw_only=True)
class Own:
    """Rules that one family has beside what both have."""

    sets: str = ""
    chains: str = ""
    resolved: str = ""
    """What is translated before published ports are."""
    from_host: str = ""
    """Which of the host's own connections may be led to published ports."""
    allowed: str = ""
    """What is let out although it goes where providers hand out credentials."""
    asked: str = ""
    """What else pods may ask of the host, before answers are let in, and `needed`, after."""
    needed: str


def rules(family: Family, own: Own, *, table: str, taps: str) -> str:
    """The family's table, without elements. :param taps: what the names of all taps begin with."""
    return _TABLE.format(table=table, taps=taps, **vars(family), **vars(own))
