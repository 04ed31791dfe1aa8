"""A host, the world around it, and pods: each a network namespace of its own.

The namespaces have no names: a descriptor each keeps them alive, so that they vanish with the test process however it
ends. A pod is played by a second tap in a namespace; a thread copies frames between it and the descriptor that a
machine would have got.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hyperstack.network.api import Binding

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
VNET_HEADER = bytes(10)
"""struct virtio_net_hdr that asks for nothing."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def entered(namespace: int) -> Iterator[None]:
    """This thread, and the threads and processes that it starts, are in the namespace."""
    back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(namespace, CLONE_NEWNET))
        try:
            yield
        finally:
            _check(_libc.setns(back, CLONE_NEWNET))
    finally:
        os.close(back)


def within(namespace: int, work: Callable[[], T]) -> T:
    with entered(namespace):
        return work()


def new_namespace() -> int:
    made: list[int] = []

    def make() -> None:
        _check(_libc.unshare(CLONE_NEWNET))
        made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


class Lab:
    """Host 192.0.2.1 -- 192.0.2.9 outside. Also 198.51.100.1 on the host, as a second address."""

    HOST, SECOND, OUTSIDE = "192.0.2.1", "198.51.100.1", "192.0.2.9"

    def __init__(self, cleanup: contextlib.ExitStack) -> None:
        self._cleanup = cleanup
        self.host = self._namespace()
        self.outside = self._namespace()
        self.ip(self.host, f"link add uplink type veth peer name uplink netns /proc/self/fd/{self.outside}")
        for namespace, address in ((self.host, self.HOST), (self.outside, self.OUTSIDE)):
            self.ip(namespace, "link set lo up")
            self.ip(namespace, "link set uplink up")
            self.ip(namespace, f"address add {address}/24 dev uplink")
        self.ip(self.host, f"address add {self.SECOND}/32 dev lo")
        self.ip(self.host, f"route add default via {self.OUTSIDE}")
        self.ip(self.outside, f"route add {self.SECOND} via {self.HOST}")

    def _namespace(self) -> int:
        namespace = new_namespace()
        self._cleanup.callback(os.close, namespace)
        return namespace

    def run(self, namespace: int, *command: str) -> str:
        with entered(namespace):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False,
                                  pass_fds=[self.outside] if hasattr(self, "outside") else [])
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def ip(self, namespace: int, arguments: str) -> str:
        return self.run(namespace, "ip", *arguments.split())

    def pod(self, fd: int, binding: Binding) -> PodPeer:
        """Takes the descriptor over."""
        peer = PodPeer(self, self._namespace(), fd, binding)
        self._cleanup.callback(peer.close)
        return peer

    def serve(self, namespace: int, port: int, *, udp: bool = False, address: str = "") -> socket.socket:
        """A server that answers each with the address it saw."""
        kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        server = within(namespace, lambda: socket.socket(family, kind))
        self._cleanup.callback(server.close)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        if not udp:
            server.listen()
        threading.Thread(target=_answer, args=(server, udp), daemon=True).start()
        # Closing alone would leave the thread in its call.
        self._cleanup.callback(_wake, server)
        return server

    def ask(self, namespace: int, address: str, port: int, *, udp: bool = False, timeout: float = 5.0) -> str:
        """Whom the server saw. :raise OSError: TimeoutError where nobody answers."""
        kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with within(namespace, lambda: socket.socket(family, kind)) as client:
            client.settimeout(timeout)
            client.connect((address, port))
            client.send(b"?")
            return client.recv(100).decode()

    def pings(self, namespace: int, address: str, wait_s: int = 5) -> bool:
        """Whether an echo comes back."""
        with within(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as probe:
            probe.settimeout(wait_s)
            probe.connect((address, 0))
            body = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
            probe.send(body[:2] + struct.pack("!H", checksum(body)) + body[4:])
            try:
                while True:
                    packet = probe.recv(2000)
                    if packet[20] == 0:
                        return True
            except OSError:
                return False


def _answer(server: socket.socket, udp: bool) -> None:
    with contextlib.suppress(OSError):
        while True:
            if udp:
                _, peer = server.recvfrom(100)
                if peer is None:  # shut down
                    return
                server.sendto(peer[0].encode(), peer)
            else:
                client, peer = server.accept()
                with client:
                    client.send(peer[0].encode())


def _wake(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)


class PodPeer:
    """The far end of a tap: a namespace with the binding's MAC, address and route, and raw access to the wire."""

    def __init__(self, lab: Lab, namespace: int, fd: int, binding: Binding) -> None:
        self.lab, self.namespace, self.fd, self.binding = lab, namespace, fd, binding
        self.address = binding.address.partition("/")[0]
        self._guest = within(namespace, lambda: _open_tap("eth0"))
        self._stop, self._stopped = os.pipe2(os.O_CLOEXEC)
        lab.ip(namespace, "link set lo up")
        lab.ip(namespace, f"link set eth0 address {binding.mac} up")
        lab.ip(namespace, f"address add {binding.address} dev eth0")
        if binding.gateway:
            lab.ip(namespace, f"route add default via {binding.gateway}")
        if binding.address6:
            lab.ip(namespace, f"address add {binding.address6} dev eth0 nodad")
        if binding.gateway6:
            lab.ip(namespace, f"-6 route add default via {binding.gateway6}")
        for end in (fd, self._guest):
            os.set_blocking(end, False)
        self._pump = threading.Thread(target=self._copy, daemon=True)
        self._pump.start()

    def _copy(self) -> None:
        other = {self.fd: self._guest, self._guest: self.fd}
        while True:
            ready, _, _ = select.select([self.fd, self._guest, self._stop], [], [])
            if self._stop in ready:
                return
            for end in ready:
                try:
                    os.write(other[end], os.read(end, 70000))
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno != errno.EIO:
                        return  # the device was deleted
                    # One that is down takes nothing.

    def inject(self, frame: bytes) -> None:
        """What a hostile guest might send."""
        os.write(self.fd, VNET_HEADER + frame)

    def bind(self, port: int) -> socket.socket:
        """A UDP socket in the pod."""
        receiver = within(self.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        receiver.bind(("", port))
        receiver.settimeout(5)
        return receiver

    def close(self) -> None:
        """The machine dies."""
        if self.fd < 0:
            return
        os.close(self._stopped)
        self._pump.join()
        for end in (self._stop, self._guest, self.fd):
            os.close(end)
        self.fd = -1


def _open_tap(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000 | 0x4000))
    return fd


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_frame(*, source_mac: str, target_mac: str, source: str, target: str, port: int, payload: bytes,
              vlan: int | None = None) -> bytes:
    """Ethernet, IPv4, UDP without a checksum."""
    udp = struct.pack("!HHHH", 4444, port, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source),
                       socket.inet_aton(target))
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    tag = b"" if vlan is None else struct.pack("!HH", 0x8100, vlan)
    return mac(target_mac) + mac(source_mac) + tag + b"\x08\x00" + head + udp


def arp_frame(*, source_mac: str, sender_mac: str, sender: str, target: str,
              target_mac: str = "ff:ff:ff:ff:ff:ff") -> bytes:
    """A request."""
    return (mac(target_mac) + mac(source_mac) + b"\x08\x06"
            + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac(sender_mac) + socket.inet_aton(sender)
            + bytes(6) + socket.inet_aton(target))


def nothing_there(receiver: Any) -> bool:
    """Whether a socket has received nothing so far."""
    ready, _, _ = select.select([receiver], [], [], 0)
    return not ready
