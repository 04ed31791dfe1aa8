"""What the rules for IPv4 and IPv6 have in common: who may forward, and who may come in.

Texts for `str.format`, which are put into the tables `ip` and `ip6` of `ruleset` and `ruleset6`.
"""

from __future__ import annotations

SETS = """
    set bridges { type ifname; }
    set loops { type ifname . ifname; }
    set internal { type ifname; }
"""

_FILTER = """
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
        {family} daddr {secrets} reject with {icmp} type admin-prohibited
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
"""


def filtering(*, family: str, icmp: str, secrets: str, allowed: str = "") -> str:
    """:param secrets: where providers hand out credentials. :param allowed: a rule for what is let out even so."""
    return _FILTER.format(family=family, icmp=icmp, secrets=secrets, allowed=allowed)
