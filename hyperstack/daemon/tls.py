"""Where the daemon listens over the network: addresses, and the certificates that stand before them."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from hyperstack.daemon.sockets import BACKLOG
from hyperstack.http.tls import server_context
from hyperstack.pod.errors import Conflict, InvalidArgument

PLAIN_PORT = 2375
TLS_PORT = 2376
"""Docker's, where a host names none."""

_TCP = re.compile(r"tcp://(?:\[([0-9A-Fa-f:.]+)\]|([^:/\[\]]*))(?::([0-9]{1,5}))?/?\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address to listen on."""

    host: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.host.version == 6 else str(self.host)
        return f"tcp://{host}:{self.port}{'' if self.tls else ' (without TLS)'}"


def parse_address(text: str, *, tls: bool) -> Address:
    """Of "tcp://192.0.2.1:2376", "tcp://[::]", "tcp://:2376", "tcp://localhost".

    :raise InvalidArgument: it is none, or is plain and others than this host could reach it.
    """
    found = _TCP.match(text)
    if not found:
        raise InvalidArgument(f"hosts: {text!r} is no TCP address", field="hosts", value=text,
                              hint="write tcp://ADDRESS[:PORT], for instance tcp://0.0.0.0:2376")
    name = found[1] or found[2] or "0.0.0.0"  # noqa: S104 - as Docker reads tcp://:2376
    try:
        host = ipaddress.ip_address("127.0.0.1" if name == "localhost" else name)
    except ValueError as error:
        raise InvalidArgument(f"hosts: {name!r} is no IP address", field="hosts", value=text,
                              hint="name the address of this host to listen on, or 0.0.0.0 for all") from error
    port = int(found[3] or (TLS_PORT if tls else PLAIN_PORT))
    if not 1 <= port <= 65535:
        raise InvalidArgument(f"hosts: {text!r}: a port is 1 to 65535", field="hosts", value=text)
    if not tls and not host.is_loopback:
        raise InvalidArgument(
            f"hosts: {text!r} without TLS would let everybody who reaches it act as an administrator of this host's "
            "containers", field="hosts", value=text,
            hint="make certificates (hyperctl tls init) and start hyperd with --tlsverify; plain TCP is served on "
                 "127.0.0.1 only")
    return Address(host, port, tls)


def listen(address: Address) -> socket.socket:
    """A listening socket. :raise Conflict: somebody has the port. :raise OSError: not an address of this host."""
    family = socket.AF_INET6 if address.host.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(address.host), address.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if isinstance(error, PermissionError) or error.errno is None:
            raise
        raise Conflict(f"cannot listen on {address}: {error.strerror}", field="hosts", value=str(address)) from error
    return sock


def context(*, ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Of the files that the configuration names.

    :raise InvalidArgument: one is absent or unusable, or the key can be read by others; names the file.
    """
    for field, path in (("tls.ca", ca), ("tls.certificate", certificate), ("tls.key", key)):
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise InvalidArgument(f"{field}: cannot read {path}: {error.strerror}", field=field, value=str(path),
                                  hint="hyperctl tls init makes certificates") from error
        if field == "tls.key" and stat.S_IMODE(mode) & 0o077:
            raise InvalidArgument(f"tls.key: {path} can be read by others than its owner", field=field, value=str(path),
                                  hint=f"chmod 600 {path}")
    try:
        return server_context(ca=ca, certificate=certificate, key=key)
    except OSError as error:
        raise InvalidArgument(f"tls: {certificate}, {key} and {ca} are not usable: {error}", field="tls",
                              hint="hyperctl tls init makes certificates") from error
