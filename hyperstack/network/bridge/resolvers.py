"""Which name servers the host itself uses, as far as a pod can reach them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")
RESOLVED_CONF = Path("/run/systemd/resolve/resolv.conf")
"""Where systemd-resolved tells the servers behind its stub at 127.0.0.53."""

_MAX_BYTES = 65536
_NAMESERVER = re.compile(r"^[ \t]*nameserver[ \t]+(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Resolvers:
    """IPv4 name servers; pods have no IPv6."""

    reachable: tuple[str, ...] = ()
    """Pods ask these themselves."""
    loopback: str = ""
    """Where there are none: one that listens on the host's loopback only, reached through the gateway's address."""

    @property
    def upstream(self) -> str:
        """Whom the gateway's address passes queries to; empty where there is nobody."""
        return self.reachable[0] if self.reachable else self.loopback


def host_resolvers(resolv_conf: Path = RESOLV_CONF, resolved_conf: Path = RESOLVED_CONF) -> Resolvers:
    """What the host's files say now; a missing or unreadable file names nobody."""
    servers = _read(resolv_conf)
    reachable = tuple(str(server) for server in servers if not server.is_loopback)
    if not reachable:
        reachable = tuple(str(server) for server in _read(resolved_conf) if not server.is_loopback)
    loopback = next((str(server) for server in servers if server.is_loopback), "")
    return Resolvers(reachable=reachable[:3], loopback="" if reachable else loopback)


def nameservers(text: str) -> list[IPv4Address]:
    """The IPv4 servers that a resolv.conf names, each once, in its order."""
    servers = []
    for word in _NAMESERVER.findall(text):
        try:
            server = IPv4Address(word)
        except AddressValueError:
            continue
        if not server.is_unspecified and not server.is_multicast and server not in servers:
            servers.append(server)
    return servers


def _read(path: Path) -> list[IPv4Address]:
    try:
        with path.open("rb") as file:
            return nameservers(file.read(_MAX_BYTES).decode("utf-8", "replace"))
    except OSError:
        return []
