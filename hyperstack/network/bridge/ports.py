"""Host ports: which are free, and who has the others."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from hyperstack.network.api import Published
from hyperstack.network.bridge.sysctls import serves_loopback6
from hyperstack.pod.errors import Conflict, Exhausted, InvalidArgument, UnsupportedOption
from hyperstack.pod.spec import PortBinding

EPHEMERAL = range(32768, 61000)
"""Where ports nobody named come from: Linux' default net.ipv4.ip_local_port_range, and Docker's."""

_ANYWHERE = str(IPv4Address(0))

_KINDS = {"tcp": (socket.SOCK_STREAM, 0), "udp": (socket.SOCK_DGRAM, 0),
          "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP)}


class PortChooser:
    """Gives ports nobody named in turn, so that one just freed is not reused at once."""

    def __init__(self) -> None:
        self._next = EPHEMERAL.start

    def choose(self, wanted: Collection[PortBinding], *, pod_id: str, address: str, address6: str = "",
               taken: Collection[Published]) -> tuple[Published, ...]:
        """`wanted` with their host ports; see `NetworkBackend.choose_ports`."""
        others = [port for port in taken if port.pod_id != pod_id]
        chosen: list[Published] = []
        # The named ones first: a port made up must not take one that is asked for.
        for binding in sorted(wanted, key=lambda b: (b.host_port == 0, b.host_port_end > 0)):
            _check(binding)
            host_ip = _host_ip(binding.host_ip, address6)
            if binding.host_port_end:
                port = _free_of_range(binding, host_ip, [*others, *chosen])
            elif binding.host_port:
                if any((p.container_port, p.protocol, p.host_ip, p.host_port) == (
                        binding.container_port, binding.protocol, host_ip, binding.host_port) for p in chosen):
                    continue  # said twice
                _require_free(binding, host_ip, [*others, *chosen], address)
                port = binding.host_port
            else:
                port = self._free(binding.protocol, host_ip, [*others, *chosen])
            chosen.append(Published(pod_id=pod_id, container_port=binding.container_port, protocol=binding.protocol,
                                    host_ip=host_ip, host_port=port, address=address, address6=address6))
        return tuple(chosen)

    def _free(self, protocol: str, host_ip: str, taken: Collection[Published]) -> int:
        for _ in EPHEMERAL:
            port = self._next
            self._next = port + 1 if port + 1 in EPHEMERAL else EPHEMERAL.start
            if _owner(protocol, host_ip, port, taken) is None and _bind_error(protocol, host_ip, port) == 0:
                return port
        raise Exhausted(f"no free {protocol} port is left between {EPHEMERAL.start} and {EPHEMERAL.stop - 1}",
                        field="host_port", hint="name a port outside this range, or remove pods")


def _check(binding: PortBinding) -> None:
    for name in ("container_port", "host_port", "host_port_end"):
        value = getattr(binding, name)
        if not (1 if name == "container_port" else 0) <= value <= 65535:
            raise InvalidArgument(f"port {value} is out of range", field=name, value=value, hint="1 to 65535")
    if binding.host_port_end and not 0 < binding.host_port <= binding.host_port_end:
        raise InvalidArgument(f"ports {binding.host_port}-{binding.host_port_end} are no range", field="host_port",
                              value=binding.host_port, hint="the lower one comes first")


def _host_ip(text: str, address6: str) -> str:
    """Canonical; empty for every address.

    :raise InvalidArgument: it is none, or of IPv6 where the pod has no such address.
    :raise UnsupportedOption: ::1 where it is not served.
    """
    try:
        address = ip_address(text or _ANYWHERE)
    except ValueError:
        raise InvalidArgument(f"invalid host address to publish on: {text[:64]!r}", field="host_ip", value=text[:64],
                              hint="name an address of this host, or none for all") from None
    if address.version == 6 and not address6:
        raise InvalidArgument(f"a port cannot be published on {address}: the pod's network has no IPv6",
                              field="host_ip", value=str(address), hint="use a network that was created with --ipv6")
    if address.version == 6 and address.is_loopback and not serves_loopback6():
        raise UnsupportedOption("publishing a port on [::1] of this host", "it passes bridged packets through "
                                "ip6tables, which lose what is answered to ::1",
                                hint="sysctl -w net.bridge.bridge-nf-call-ip6tables=0; or another address")
    return "" if address.is_unspecified else str(address)


def _free_of_range(binding: PortBinding, host_ip: str, taken: Collection[Published]) -> int:
    for port in range(binding.host_port, binding.host_port_end + 1):
        if _owner(binding.protocol, host_ip, port, taken) is None and _bind_error(binding.protocol, host_ip, port) == 0:
            return port
    raise Conflict(f"all {binding.protocol} ports of {binding.host_port}-{binding.host_port_end} are taken",
                   field="host_port", value=binding.host_port, hint="give another range, or remove pods")


def _require_free(binding: PortBinding, host_ip: str, taken: Collection[Published], address: str) -> None:
    port, protocol = binding.host_port, binding.protocol
    shown = f"{host_ip or _ANYWHERE}:{port}:{address}:{binding.container_port}/{protocol}"
    owner = _owner(protocol, host_ip, port, taken)
    if owner is not None:
        raise Conflict(f"Bind for {owner.host_ip or _ANYWHERE}:{port} failed: port is already allocated",
                       field="host_port", value=port,
                       hint=f"by pod {owner.pod_id[:12]}; choose another host port, or remove that pod")
    error = _bind_error(protocol, host_ip, port)
    if error == errno.EADDRINUSE:
        raise Conflict(f"failed to bind host port for {shown}: address already in use", field="host_port", value=port,
                       hint=f"by {_listener(protocol, port)}; choose another host port, or stop that listener")
    if error == errno.EADDRNOTAVAIL:
        raise InvalidArgument(f"failed to bind host port for {shown}: cannot assign requested address",
                              field="host_ip", value=host_ip,
                              hint=f"this host has no address {host_ip}; name one of `ip address`, or none for all")


def _owner(protocol: str, host_ip: str, port: int, taken: Collection[Published]) -> Published | None:
    return next((other for other in taken
                 if (other.protocol, other.host_port) == (protocol, port)
                 and (not host_ip or not other.host_ip or host_ip == other.host_ip)), None)


def _bind_error(protocol: str, host_ip: str, port: int) -> int:
    """The errno of an attempt to take the port for a moment; 0 where it is free or cannot be known."""
    kind, number = _KINDS[protocol]
    try:
        probe = socket.socket(socket.AF_INET6 if ":" in host_ip else socket.AF_INET, kind, number)
    except OSError:
        return 0  # no SCTP in this kernel, hence no listener
    with probe:
        if kind == socket.SOCK_STREAM:
            # A listener conflicts all the same; the remains of its former connections (TIME_WAIT) do not.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host_ip, port))
        except OSError as error:
            return error.errno or 0
    return 0


def _listener(protocol: str, port: int) -> str:
    """Who listens there, in words."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(protocol, port)}
    for directory in Path("/proc").iterdir() if inodes else ():
        if directory.name.isdecimal() and not inodes.isdisjoint(_descriptors(directory)):
            return f"{_command(directory)} (pid {directory.name})"
    return "another process of the host"


def _descriptors(process: Path) -> Iterator[str]:
    """What a process has open; nothing where it ended."""
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                yield os.readlink(descriptor)


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"


def _inodes(protocol: str, port: int) -> Iterator[str]:
    for table in (protocol, protocol + "6"):
        try:
            lines = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            # TCP: state 0A is LISTEN. UDP sockets that wait for anybody are in state 07.
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] in ("0A", "07"):
                yield fields[9]
