"""A client that believes nothing: each answer is held against the reference."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jsonschema_rs

from tests.harness import PATIENCE_S
from tests.reference import answers
from tests.reference.operations import FRAMES, JSON, PLAIN, RAW, Operation, operation_of
from tests.reference.schema import Schema

VERSION = "1.55"
_ALWAYS = {"Api-Version": VERSION, "Ostype": "linux", "Docker-Experimental": "false"}
_FRAME = struct.Struct(">BxxxI")


class Deviation(AssertionError):
    """An answer that is not the reference's."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    raw: bytes
    value: Any = None
    """Of JSON; a list of objects where it is a stream of them."""

    @property
    def message(self) -> str:
        return str(self.value["message"])


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Checked:
    """Requests to the daemon at a unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.answered: set[str] = set()
        """Operations that had a good answer."""

    def ask(self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None,
            raw: bytes | None = None, headers: Mapping[str, str] | None = None, lines: int = 0) -> Answer:
        """One request to its end.

        :param body: JSON. :param raw: something else. :param lines: of a stream without end, how many to read.
        :raise Deviation: the answer is not what the reference says.
        """
        connection = UnixConnection(self._path)
        try:
            sent = dict(headers or {})
            if body is not None:
                raw, sent["Content-Type"] = json.dumps(body).encode(), JSON
            target = f"/v{VERSION}{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
            connection.request(method, target, raw, sent)
            response = connection.getresponse()
            data = b"".join(response.readline() for _ in range(lines)) if lines else response.read()
            return self._checked(operation_of(method, path), Answer(response.status, dict(response.headers), data))
        finally:
            connection.close()

    def upgrade(self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None,
                headers: Mapping[str, str] | None = None) -> tuple[Answer, socket.socket]:
        """An answer whose connection is taken over, and the connection."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(PATIENCE_S)
        sock.connect(str(self._path))
        raw = b"" if body is None else json.dumps(body).encode()
        sent = {"Host": "docker", "Connection": "Upgrade", "Upgrade": "tcp", "Content-Type": JSON,
                "Content-Length": str(len(raw)), **(headers or {})}
        target = f"/v{VERSION}{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
        sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = sock.recv(1)
            if not byte:
                raise Deviation(f"{method} {path}: the connection ended within the head: {head!r}")
            head += byte
        status, *rest = head.decode().split("\r\n")
        found = dict(line.split(": ", 1) for line in rest if line)
        return self._checked(operation_of(method, path), Answer(int(status.split()[1]), found, b"")), sock

    def _checked(self, operation: Operation, answer: Answer) -> Answer:
        if answer.status in operation.answers:
            self.answered.add(operation.name)
        return checked(operation, answer)


def checked(operation: Operation, answer: Answer) -> Answer:
    """The answer with its value. :raise Deviation: it is not the operation's."""
    where = f"{operation.name}: {answer.status}"
    headers = {name.lower(): value for name, value in answer.headers.items()}
    for name, value in _ALWAYS.items():
        if headers.get(name.lower()) != value:
            raise Deviation(f"{where}: the header {name} is {headers.get(name.lower())!r}")
    kind = headers.get("content-type", "").partition(";")[0]
    if answer.status >= 400:
        if answer.status not in (*operation.answers, 400, 401, 403, 404, 409):
            raise Deviation(f"{where}: a status that the reference has not: {answer.raw[:300]!r}")
        return _with_value(where, answer, kind, answers.ERROR, operation) if operation.method != "HEAD" else answer
    if answer.status not in operation.answers:
        raise Deviation(f"{where}: a status that the reference has not: {answer.raw[:300]!r}")
    for name in operation.headers:
        if name.lower() not in headers:
            raise Deviation(f"{where}: the header {name} is missing")
    shape = operation.answers[answer.status]
    if answer.status in (204, 304) and answer.raw:
        raise Deviation(f"{where}: it has a body: {answer.raw[:300]!r}")
    if isinstance(shape, str):
        wanted = (FRAMES, RAW) if shape == FRAMES else (shape,)
        if kind not in wanted:
            raise Deviation(f"{where}: its type is {kind!r}, not {wanted}")
        if shape == PLAIN and operation.method != "HEAD" and answer.raw != b"OK":
            raise Deviation(f"{where}: it is {answer.raw[:300]!r}")
        if kind == FRAMES:
            list(frames(answer.raw))
        return answer
    return answer if shape is None else _with_value(where, answer, kind, shape, operation)


def _with_value(where: str, answer: Answer, kind: str, shape: Schema, operation: Operation) -> Answer:
    if kind != JSON:
        raise Deviation(f"{where}: its type is {kind!r}, not {JSON}")
    streamed = operation.lines and answer.status < 400
    try:
        value = [json.loads(line) for line in answer.raw.splitlines()] if streamed else json.loads(answer.raw)
    except ValueError as error:
        raise Deviation(f"{where}: it is no JSON: {error}: {answer.raw[:300]!r}") from error
    validator = jsonschema_rs.validator_for(shape)
    for one in value if streamed else [value]:
        for found in validator.iter_errors(one):
            at = "/".join(map(str, found.instance_path))
            raise Deviation(f"{where}: at {at or 'the top'}: {found.message[:600]}")
    return Answer(answer.status, answer.headers, answer.raw, value)


def frames(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """(stream, bytes) of a multiplexed output. :raise Deviation: it is none."""
    while raw:
        if len(raw) < _FRAME.size:
            raise Deviation(f"half a frame: {raw!r}")
        stream, size = _FRAME.unpack_from(raw)
        if stream not in (1, 2) or raw[1:4] != b"\0\0\0" or len(raw) < _FRAME.size + size:
            raise Deviation(f"no frame: {raw[:64]!r}")
        yield stream, raw[_FRAME.size:_FRAME.size + size]
        raw = raw[_FRAME.size + size:]
