"""A client of the daemon that adds next to nothing to what it measures: one open connection, http.client."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperstack.pod.spec import KERNEL_ANNOTATION

PATIENCE_S = 600.0
"""Deadline of one call; a hundred cold starts at once, on two processors, wait for each other."""
_FRAME = struct.Struct(">BxxxI")
"""Of Docker's multiplexed streams: which stream, how many bytes."""
_STDOUT = 1


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Stream:
    """An attached output: a connection of its own, opened before the clock starts, and taken over by `begin`."""

    def __init__(self, path: Path) -> None:
        self._connection = _UnixConnection(path)
        self._connection.connect()

    def begin(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        """:raise RuntimeError: the daemon does not hand the connection over."""
        text = json.dumps(body).encode() if body is not None else b""
        self._connection.putrequest("POST", path)
        for name, value in (("Upgrade", "tcp"), ("Connection", "Upgrade"), ("Content-Type", "application/json"),
                            ("Content-Length", str(len(text)))):
            self._connection.putheader(name, value)
        self._connection.endheaders(text)
        head = b""
        # Byte by byte, so that nothing of the stream behind it is swallowed.
        while not head.endswith(b"\r\n\r\n"):
            head += self._exactly(1)
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError(f"{path} was answered {head[:200]!r}")

    def first_byte(self) -> None:
        """Returns when the first byte of the process's output is here."""
        self._exactly(_FRAME.size + 1)

    def output(self) -> tuple[bytes, bytes]:
        """All of it, to its end: standard output and standard error."""
        outputs = {True: bytearray(), False: bytearray()}
        while (head := self._up_to(_FRAME.size)):
            stream, size = _FRAME.unpack(head)
            outputs[stream == _STDOUT] += self._exactly(size)
        return bytes(outputs[True]), bytes(outputs[False])

    def _exactly(self, size: int) -> bytes:
        data = self._up_to(size)
        if len(data) < size:
            raise RuntimeError("the stream ended early")
        return data

    def _up_to(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (chunk := self._connection.sock.recv(size - len(data))):
            data += chunk
        return data

    def close(self) -> None:
        self._connection.close()


class Api:
    """One connection; for one thread at a time.

    :raise RuntimeError: (each call) the daemon refuses; the message is its.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = _UnixConnection(path)
        self._connection.connect()

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        self._connection.request(method, path, json.dumps(body) if body else None,
                                 {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:500].decode(errors='replace')}")
        return json.loads(text) if text else {}

    def stream(self) -> contextlib.closing[Stream]:
        return contextlib.closing(Stream(self._path))

    def create(self, image: str, command: Sequence[str], *, binds: Sequence[str] = (), attach: bool = False,
               kernel: str = "") -> str:
        """The new container's id. :param binds: VOLUME:PATH. :param kernel: in the daemon's store; else its default."""
        host: dict[str, Any] = {"Binds": list(binds)}
        if kernel:
            host["Annotations"] = {KERNEL_ANNOTATION: kernel}
        body = {"Image": image, "Cmd": list(command), "AttachStdout": attach, "HostConfig": host}
        return str(self.ask("POST", "/containers/create", body)["Id"])

    def start(self, ident: str) -> None:
        self.ask("POST", f"/containers/{ident}/start")

    def run(self, image: str, command: Sequence[str], *, binds: Sequence[str] = (), kernel: str = "") -> str:
        """A running container's id."""
        ident = self.create(image, command, binds=binds, kernel=kernel)
        self.start(ident)
        return ident

    def remove(self, ident: str) -> None:
        self.ask("DELETE", f"/containers/{ident}?force=1&v=1")

    def wait(self, ident: str) -> int:
        """The exit code."""
        return int(self.ask("POST", f"/containers/{ident}/wait")["StatusCode"])

    def exec(self, ident: str, argv: Sequence[str]) -> str:
        """The standard output of a command in a running container. :raise RuntimeError: it fails."""
        made = self.ask("POST", f"/containers/{ident}/exec",
                        {"Cmd": list(argv), "AttachStdout": True, "AttachStderr": True})["Id"]
        with self.stream() as stream:
            stream.begin(f"/exec/{made}/start", {"Detach": False, "Tty": False})
            output, words = stream.output()
        code = self.ask("GET", f"/exec/{made}/json")["ExitCode"]
        if code != 0:
            raise RuntimeError(f"{' '.join(argv)} ended with {code}: {words[-300:].decode(errors='replace').strip()}")
        return output.decode(errors="replace")

    def address(self, ident: str) -> str:
        networks = self.ask("GET", f"/containers/{ident}/json")["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    def pod_of(self, ident: str) -> dict[str, Any]:
        """The native API's word on the container's pod."""
        pod = self.ask("GET", f"/containers/{ident}/json")["HyperStack"]["Pod"]
        found = self.ask("GET", f"/hyperstack/v1/pods/{pod}")
        assert isinstance(found, dict)
        return found

    def states(self) -> dict[str, str]:
        """Of each container: "running", "exited"..., by its id."""
        return {one["Id"]: one["State"] for one in self.ask("GET", "/containers/json?all=1")}
