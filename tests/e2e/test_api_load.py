"""Clients that are many, slow, gone in the middle, or talk nonsense: the daemon stays small and answers the others."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import REGISTRY, Daemon, Namespace, wait_until
from tests.images import BUSYBOX, daemon_with_busybox
from tests.reference.client import Checked

MIB = 1 << 20
LISTENERS = 1000
LOG_LINES = 300_000


class Crowd:
    """A daemon, a container with much to tell, and connections that end with the test."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.api = Checked(daemon.socket)
        self._open: list[socket.socket] = []
        daemon.docker_cli("run", "--name", "chatty", BUSYBOX, "seq", str(LOG_LINES))
        daemon.docker_cli("run", "-d", "--name", "busy", BUSYBOX, "sh", "-c", "cat /bin/busybox > /big; cat /dev/zero")

    def connect(self, request: str, *, body: bytes = b"", small: bool = False) -> socket.socket:
        """:param small: with a buffer that holds next to nothing."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._open.append(sock)
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(30)
        sock.connect(str(self.daemon.socket))
        sock.sendall(f"{request}\r\nHost: docker\r\n\r\n".encode() + body)
        return sock

    def hang_up(self) -> None:
        """All at once, and not politely."""
        for sock in self._open:
            sock.close()
        self._open.clear()

    def answers(self) -> None:
        assert self.api.ask("GET", "/containers/json", query={"all": 1}).status == 200

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.daemon.pid}/fd").iterdir()))

    @contextlib.contextmanager
    def watched(self, *, mib: int) -> Iterator[None]:
        """Within, the daemon grows by no more; afterwards it has let go of all connections."""
        self.answers()
        memory, descriptors = self.daemon.rss_bytes(), self.descriptors()
        yield
        self.answers()
        assert self.daemon.rss_bytes() - memory < mib * MIB
        self.hang_up()
        wait_until(lambda: self.descriptors() <= descriptors + 4, "the daemon let go of the connections")
        self.answers()


@pytest.fixture(scope="module")
def crowd(namespace: Namespace) -> Iterator[Crowd]:
    with daemon_with_busybox(namespace) as daemon:
        yield Crowd(daemon)
        log = daemon.log.read_text(errors="replace")
        assert "Traceback" not in log, log[log.index("Traceback") - 200:][:4000]


def head_of(sock: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, head
        head += byte
    return head


def test_a_thousand_listeners_and_none_of_them_reads(crowd: Crowd) -> None:
    with crowd.watched(mib=120):
        sockets = [crowd.connect("GET /v1.55/events HTTP/1.1") for _ in range(LISTENERS)]
        for sock in sockets:
            assert b" 200 " in head_of(sock)
        for number in range(20):
            crowd.api.ask("POST", "/volumes/create", {"Name": f"v{number}"})
            crowd.api.ask("DELETE", f"/volumes/v{number}")
        for sock in (sockets[0], sockets[-1]):
            heard = b""
            while heard.count(b'"destroy"') < 20:
                heard += sock.recv(65536)
            assert heard.count(b'"create"') == 20


@pytest.mark.parametrize("request_line", [
    "GET /v1.55/containers/chatty/logs?stdout=1", f"GET /v1.55/images/get?names={BUSYBOX}",
    "GET /v1.55/containers/busy/export", "GET /v1.55/containers/busy/archive?path=/big"],
    ids=["logs", "save", "export", "copy"])
def test_slow_readers_cost_little_and_hold_nobody_up(crowd: Crowd, request_line: str) -> None:
    with crowd.watched(mib=48):
        for _ in range(12):
            sock = crowd.connect(f"{request_line} HTTP/1.1", small=True)
            assert b" 200 " in head_of(sock)
            sock.recv(1)


def test_a_slow_reader_of_an_endless_output_costs_little(crowd: Crowd) -> None:
    with crowd.watched(mib=32):
        sock = crowd.connect("POST /v1.55/containers/busy/attach?stream=1&stdout=1 HTTP/1.1\r\n"
                             "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0", small=True)
        assert b" 101 " in head_of(sock)
        sock.recv(1)


def vanish(crowd: Crowd, request: str, body: bytes = b"", *, reset: bool = True) -> None:
    sock = crowd.connect(request, body=body)
    with contextlib.suppress(OSError):
        sock.settimeout(0.3)
        sock.recv(10)
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_clients_that_vanish_in_the_middle_leave_nothing(crowd: Crowd) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0"
    with crowd.watched(mib=32):
        made = crowd.api.ask("POST", "/containers/busy/exec", {"Cmd": ["cat"], "AttachStdin": True}).value["Id"]
        for reset in (True, False):
            for request, body in (
                    (f"POST /v1.55/containers/busy/attach?stream=1&stdout=1&stdin=1 HTTP/1.1\r\n{upgrade}", b""),
                    (f"POST /v1.55/exec/{made}/start HTTP/1.1\r\n{upgrade}", b""),
                    (f"POST /v1.55/images/create?fromImage={REGISTRY}/users&tag=1 HTTP/1.1", b""),
                    ("GET /v1.55/containers/busy/export HTTP/1.1", b""),
                    ("GET /v1.55/containers/chatty/logs?stdout=1&follow=1 HTTP/1.1", b""),
                    ("GET /v1.55/containers/busy/stats HTTP/1.1", b""),
                    ("POST /v1.55/containers/busy/wait HTTP/1.1", b""),
                    ("PUT /v1.55/containers/busy/archive?path=/tmp HTTP/1.1\r\nContent-Length: 99999999", bytes(9999)),
                    ("POST /v1.55/images/load HTTP/1.1\r\nTransfer-Encoding: chunked", b"10000\r\n" + bytes(1000)),
                    ("POST /v1.55/containers/create HTTP/1.1\r\nContent-Length: 1000", b'{"Image": "')):
                vanish(crowd, request, body, reset=reset)
    assert crowd.api.ask("POST", "/images/create", query={"fromImage": f"{REGISTRY}/users", "tag": "1"}).status == 200
    assert crowd.daemon.docker_cli("exec", "busy", "echo", "still here").stdout == b"still here\n"


@pytest.mark.parametrize(("path", "body", "field"), [
    ("/containers/create", {"Image": 5}, "Image"), ("/containers/create", {"Env": "A=b"}, "Env"),
    ("/containers/create", {"HostConfig": {"Memory": "1g"}}, "HostConfig.Memory"),
    ("/containers/create", {"HostConfig": {"PortBindings": {"80/tcp": {}}}}, "HostConfig.PortBindings"),
    ("/containers/busy/exec", {"Cmd": {"a": 1}}, "Cmd"), ("/containers/busy/update", {"CpuShares": 1.5}, "CpuShares"),
    ("/networks/create", {"Name": "x", "IPAM": {"Config": {}}}, "IPAM.Config"),
    ("/networks/bridge/connect", {"Container": ["x"]}, "Container"), ("/volumes/create", {"Labels": []}, "Labels"),
    ("/auth", {"username": {}}, "username")])
def test_a_wrong_type_is_refused_by_its_field_s_name(crowd: Crowd, path: str, body: object, field: str) -> None:
    answer = crowd.api.ask("POST", path, body)
    assert answer.status == 400
    assert field in answer.message


@pytest.mark.parametrize("raw", [b"{", b"[]", b'"x"', b"\xff\xfe", b'{"Image": "x"', b"[" * 100_000, b'{"a": \x00}'])
def test_malformed_json_is_refused(crowd: Crowd, raw: bytes) -> None:
    answer = crowd.api.ask("POST", "/containers/create", raw=raw, headers={"Content-Type": "application/json"})
    assert answer.status == 400
    assert answer.message


def test_unknown_fields_are_ignored(crowd: Crowd) -> None:
    made = crowd.api.ask("POST", "/containers/create", {"Image": BUSYBOX, "Nonsense": {"a": [1]},
                                                        "HostConfig": {"AlsoNonsense": True}})
    assert made.status == 201
    crowd.api.ask("DELETE", f"/containers/{made.value['Id']}")


@pytest.mark.parametrize("ask", [
    lambda api, long: api.ask("POST", "/containers/create", {"Image": long}),
    lambda api, long: api.ask("POST", "/containers/create", {"Image": BUSYBOX, "Hostname": long}),
    lambda api, long: api.ask("POST", "/volumes/create", {"Name": long}),
    lambda api, long: api.ask("POST", "/networks/create", {"Name": long}),
    lambda api, long: api.ask("POST", "/containers/create", {"Image": BUSYBOX}, query={"name": long[:60_000]}),
    lambda api, long: api.ask("GET", "/containers/json", query={"filters": json.dumps({long[:30_000]: ["x"]})})],
    ids=["image", "hostname", "volume", "network", "container", "filter"])
def test_a_name_of_a_megabyte_is_refused_shortly(crowd: Crowd, ask: Callable[..., object]) -> None:
    answer = ask(crowd.api, "x" * MIB)
    assert answer.status in (400, 404)  # type: ignore[attr-defined]
    assert len(answer.message) < 1000  # type: ignore[attr-defined]


@pytest.mark.parametrize("raw", [
    b"GET /_ping HTTP/1.1\r\nHost: d\r\nX-Big: " + b"x" * MIB + b"\r\n\r\n",
    b"GET /_ping HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(50_000)) + b"\r\n",
    b"GET /" + b"x" * MIB + b" HTTP/1.1\r\n\r\n", b"NONSENSE\r\n\r\n", bytes(4096),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600), b"GET /_ping HTTP/9.9\r\n\r\n",
    b"POST /containers/create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /containers/create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n",
    b"POST /containers/create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: -1\r\n\r\n",
    b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    ids=["header", "headers", "line", "words", "zeros", "tls", "version", "chunk", "negative-chunk", "huge-chunk",
         "negative-length", "two-lengths"])
def test_what_is_no_request_is_refused(crowd: Crowd, raw: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        sock.connect(str(crowd.daemon.socket))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(raw)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            answer = sock.recv(65536)
    assert not answer or b" 40" in answer.split(b"\r\n")[0] or b" 431 " in answer, answer[:200]
    assert b"Traceback" not in answer
    crowd.answers()
