"""What the host can do for the bridge network, found out by doing it in a network namespace that lives a moment."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from hyperstack.network.api import Binding, Network, Subnet
from hyperstack.network.bridge import nft
from hyperstack.network.bridge.firewalls import other_firewalls
from hyperstack.network.bridge.links import Links
from hyperstack.network.bridge.names import Names
from hyperstack.network.bridge.resolvers import Resolvers
from hyperstack.network.bridge.ruleset import Desired, Ruleset
from hyperstack.network.bridge.sysctls import SYSCTL
from hyperstack.pod.errors import HyperStackError
from hyperstack.pod.finding import Finding

SAMPLE = Network(id="sample", name="sample", project="sample",
                 subnets=(Subnet(cidr="192.0.2.0/24", gateway="192.0.2.1"),))
"""RFC 5737 addresses: in no use anywhere."""
SAMPLE6 = replace(SAMPLE, subnets6=(Subnet(cidr="2001:db8::/64", gateway="2001:db8::1"),))
"""RFC 3849."""

_CLONE_NEWNET = 0x40000000


def probe(names: Names, resolvers: Resolvers) -> list[Finding]:
    """Blocks for some tens of milliseconds."""
    # A thread that has entered another namespace cannot serve anything else: a pool of its own, for this one job.
    with ThreadPoolExecutor(1) as throwaway:
        findings = throwaway.submit(_try_out, names, resolvers).result()
    return [*findings, _forwarding(), other_firewalls(names), _name_servers(resolvers)]


def _try_out(names: Names, resolvers: Resolvers) -> list[Finding]:
    """One finding for devices, one for filters."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        return [Finding(name="network namespaces", status="fail", detail=os.strerror(ctypes.get_errno()),
                        remedy="run hyperd as root, on a kernel with CONFIG_NET_NS")]
    return [_try_devices(names), _try_filters(names, resolvers)]


def _try_devices(names: Names) -> Finding:
    binding = Binding(pod_id="sample", network_id=SAMPLE.id, mac="02:48:c0:00:02:02", address="192.0.2.2/24",
                      gateway="192.0.2.1", tap=names.tap("sample"), bridge=names.bridge(SAMPLE.id), dns=(), mtu=1500)
    links = Links()
    try:
        links.ensure_bridge(binding.bridge, SAMPLE)
        fd = links.make_tap(binding.tap, 0)
        try:
            links.join(binding)
        finally:
            os.close(fd)
    except (HyperStackError, OSError) as error:
        return Finding(name="bridge and tap devices", status="fail", detail=str(error),
                       remedy="load the modules: modprobe bridge && modprobe tun")
    finally:
        links.close()
    return Finding(name="bridge and tap devices", status="ok", detail="a tap joined a bridge")


def _try_filters(names: Names, resolvers: Resolvers) -> Finding:
    try:
        nft.apply(Ruleset(names).whole(Desired(networks={SAMPLE.id: SAMPLE}, name_ports={SAMPLE.id: 1},
                                               resolvers=resolvers)))
    except HyperStackError as error:
        return Finding(name="nftables", status="fail", detail=error.message,
                       remedy=error.hint or "install nftables, on a kernel with nf_tables")
    return Finding(name="nftables", status="ok", detail="the kernel takes the rules")


def _forwarding() -> Finding:
    if (SYSCTL / "ipv4/ip_forward").read_text().strip() != "0":
        return Finding(name="IPv4 forwarding", status="ok", detail="net.ipv4.ip_forward is on")
    return Finding(name="IPv4 forwarding", status="warn",
                   detail="net.ipv4.ip_forward is off; hyperd switches it on with the first network",
                   remedy="a host in several networks then routes between them: forbid that in its firewall")


def _name_servers(resolvers: Resolvers) -> Finding:
    if resolvers.reachable:
        return Finding(name="name servers", status="ok", detail=", ".join(resolvers.reachable))
    if resolvers.loopback:
        return Finding(name="name servers", status="ok",
                       detail=f"{resolvers.loopback}, which pods reach at their gateway's address")
    return Finding(name="name servers", status="warn", detail="/etc/resolv.conf names no IPv4 name server",
                   remedy="name one there, or give pods one with --dns")
