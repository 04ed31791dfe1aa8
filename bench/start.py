"""How long a cold start takes: from the API's create to the command's first output byte."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.podman import Podman
from bench.samples import Samples
from tests.harness import Daemon, Namespace, Registry
from tests.images import BUSYBOX, fill_registry

COMMAND = ["/bin/echo", "hi"]
_FRAME_HEADER = 8
"""Of Docker's multiplexed streams."""
_OUR_CLOCK = ("API: before POST /containers/create, on an open connection; until the first byte of the output on an "
              "attached stream")
_PEER_CLOCK = "CLI: before the podman process is started; until the first byte of its standard output"
_WARM_UP = 1
"""Runs before the first sample: file caches, and podman's network configuration."""


def measure(samples: int) -> tuple[dict[str, float], dict[str, Any]]:
    """The figures, and the details behind them. Ours and podman's runs take turns, so that both meet the same host."""
    with ExitStack() as stack:
        namespace = Namespace()
        stack.callback(namespace.close)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hs-bench-")))
        registry = Registry(directory / "registry", namespace)
        stack.callback(registry.close)
        fill_registry(namespace)
        daemon = Daemon(namespace, "--log-level", "warning")
        stack.callback(daemon.close)
        daemon.start()
        daemon.ctl("pull", BUSYBOX)
        podman = _podman(directory, namespace, stack)
        ours = Samples(_OUR_CLOCK)
        peers = Samples(_PEER_CLOCK)
        for number in range(_WARM_UP + samples):
            _say(f"run {number + 1} of {_WARM_UP + samples}")
            took, peer = cold_run_ms(daemon.socket), podman.run_ms(BUSYBOX, COMMAND) if podman else 0.0
            if number >= _WARM_UP:
                ours.values.append(took)
                peers.values.append(peer)
        info = json.loads(daemon.ctl("info", "--format", "{{json .}}").stdout)
    figures = {"start.cold_run_ms": round(ours.median, 1)}
    details: dict[str, Any] = {"start.cold_run_ms": ours.summary(), "image": BUSYBOX, "command": COMMAND, "info": info}
    if podman:
        figures |= {"start.podman_ms": round(peers.median, 1), "start.vs_podman": round(ours.median / peers.median, 2)}
        details["start.podman_ms"] = peers.summary()
    return figures, details


def cold_run_ms(path: Path) -> float:
    """One create, attach, start, first byte; the container is removed afterwards, off the clock."""
    with contextlib.closing(_connect(path)) as api, contextlib.closing(_connect(path)) as attached:
        began = time.perf_counter()
        body = {"Image": BUSYBOX, "Cmd": COMMAND, "AttachStdout": True}
        ident = _ask(api, "POST", "/containers/create", body)["Id"]
        attached.putrequest("POST", f"/containers/{ident}/attach?stream=1&stdout=1")
        for name, value in (("Upgrade", "tcp"), ("Connection", "Upgrade"), ("Content-Length", "0")):
            attached.putheader(name, value)
        attached.endheaders()
        stream = attached.sock
        assert stream is not None
        _read_head(stream)
        _ask(api, "POST", f"/containers/{ident}/start")
        _read_exactly(stream, _FRAME_HEADER + 1)
        took = time.perf_counter() - began
        _ask(api, "POST", f"/containers/{ident}/wait")
        _ask(api, "DELETE", f"/containers/{ident}?force=1")
    return took * 1000


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _connect(path: Path) -> _UnixConnection:
    connection = _UnixConnection(path)
    connection.connect()
    return connection


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]!r}")
    return json.loads(text) if text else {}


def _read_head(stream: socket.socket) -> None:
    """The 101's headers, byte by byte, so that nothing of the stream behind them is swallowed."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += _read_exactly(stream, 1)
    if b" 101 " not in head.split(b"\r\n", 1)[0]:
        raise RuntimeError(f"attach was answered {head[:200]!r}")


def _read_exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = stream.recv(size - len(data))
        if not chunk:
            raise RuntimeError("the stream ended before the first byte of output")
        data += chunk
    return data


def _podman(directory: Path, namespace: Namespace, stack: ExitStack) -> Podman | None:
    try:
        podman = Podman(directory / "podman", namespace)
    except FileNotFoundError as error:
        _say(f"no {error}: start.vs_podman is left out (apt-get install --no-install-recommends podman runc)")
        return None
    podman.pull(BUSYBOX)
    stack.callback(podman.close)
    return podman


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
