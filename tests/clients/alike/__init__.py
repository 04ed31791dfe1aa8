"""Requests that Docker's own engine and ours must answer alike.

A row is a request as it goes over the socket. What is compared: the status; of an answer that refuses, the message,
which ours may go on with what to do, in brackets; of another, the type of the content and the body's fields with their
types, or each line of a stream. Ids, times and sizes are each engine's own.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness import PATIENCE_S

VERSION = "1.45"
"""Of the API, where a row's path says none: both engines know it."""
NOBODY = "127.0.0.1:5999"
"""Where no registry listens, and plain HTTP would be spoken."""
_OWN = ((re.compile(r"(sha256:)?\b[0-9a-f]{64}\b"), "<id>"), (re.compile(r"\b[0-9a-f]{12}\b"), "<short id>"),
        (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)"), "<time>"), (re.compile(r"/v1\.\d\d\b"), ""))
_NO_DEFECT = frozenset({400, 409, 503})
"""What ours says where Docker has a 500 and the fault is the caller's, or a registry's; docs/docker.md has it."""


@dataclass(frozen=True)
class Row:
    """One request, and how far its answers agree."""

    request: str
    """Method and path, `POST /containers/create?name=hs-x`."""
    body: Any = None
    """JSON, or bytes as they are."""
    headers: Mapping[str, str] = field(default_factory=dict)
    since: int = 0
    """The release of Docker's engine from which on it answers so; 0: any."""
    lacked: frozenset[str] = frozenset()
    """Fields of Docker's answer (`Config.Image`, `[].Ports`) that ours has not; docs/docker.md says why."""
    same: bool = False
    """Whether the bodies must be equal, values included."""
    status_only: bool = False

    def __str__(self) -> str:
        body = re.sub(rb"\0+", b" ", self.body)[:700] if isinstance(self.body, bytes) else self.body
        return f"{self.request} {'' if body is None else body!r}"[:800]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0]

    @property
    def text(self) -> str:
        """The body with one word for each id and time."""
        text = self.body.decode(errors="replace").strip()
        for pattern, word in _OWN:
            text = pattern.sub(word, text)
        return text

    @property
    def message(self) -> str:
        """What an answer that refuses says, or all of its text."""
        try:
            return str(json.loads(self.text)["message"])
        except (ValueError, TypeError, KeyError):
            return self.text

    @property
    def lines(self) -> list[Any]:
        """The body as the JSON objects that it is made of."""
        found: list[Any] = []
        decoder, rest = json.JSONDecoder(), self.text
        while rest:
            try:
                value, end = decoder.raw_decode(rest)
            except ValueError:
                return [*found, rest]
            found.append(value)
            rest = rest[end:].lstrip()
        return found


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(self._path))


def ask(path: Path, row: Row) -> Answer:
    """:param path: of an engine's socket."""
    method, _, target = row.request.partition(" ")
    if not re.match(r"/v\d", target):
        target = f"/v{VERSION}{target}"
    body = row.body if isinstance(row.body, bytes | None) else json.dumps(row.body).encode()
    connection = _Connection(path)
    try:
        connection.request(method, target, body, {"Content-Type": "application/json", **row.headers})
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def differences(row: Row, theirs: Answer, here: Answer) -> Iterator[str]:
    """:return: what of `here` is not as Docker has it; nothing where the two are alike."""
    if theirs.status != here.status and not (theirs.status == 500 and here.status in _NO_DEFECT):
        yield f"status {here.status}, not {theirs.status}: {here.text[:200]!r}, not {theirs.text[:200]!r}"
    elif row.status_only:
        return
    elif theirs.status >= 400:
        if here.message != theirs.message and not here.message.startswith(f"{theirs.message} ("):
            yield f"says {here.message!r}, not {theirs.message!r}"
    elif theirs.kind != here.kind:
        yield f"has the type {here.kind!r}, not {theirs.kind!r}"
    elif row.same and not (len(theirs.lines) == len(here.lines) and all(map(_equal, theirs.lines, here.lines))):
        yield f"is {here.text[:500]!r}, not {theirs.text[:500]!r}"
    elif theirs.kind == "application/json":
        if len(theirs.lines) != len(here.lines):
            yield f"has {len(here.lines)} lines, not {len(theirs.lines)}: {here.text[:500]!r}"
        for one, other in zip(theirs.lines, here.lines, strict=False):
            yield from (name for name in unlike(one, other) if name not in row.lacked)


def _equal(theirs: Any, here: Any) -> bool:
    """Also where ours says after an error what to do."""
    if not isinstance(theirs, dict) or not isinstance(here, dict) or "error" not in theirs or "error" not in here:
        return bool(theirs == here)
    said, code = theirs["error"], theirs.get("errorDetail", {}).get("code")
    return bool(code == here.get("errorDetail", {}).get("code") and (
        here["error"] == said or here["error"].startswith(f"{said} (")))


def unlike(theirs: Any, here: Any, path: str = "") -> Iterator[str]:
    """Fields that `here` lacks, or has with another type."""
    if path.startswith("GraphDriver."):
        return  # What is behind the name is of each engine's own disks.
    if isinstance(theirs, dict) and isinstance(here, dict):
        for name, value in theirs.items():
            place = f"{path}.{name}".lstrip(".")
            if name in here:
                yield from unlike(value, here[name], place)
            elif not re.fullmatch(r"<id>|<short id>", name):
                yield place
    elif isinstance(theirs, list) and isinstance(here, list):
        if theirs and here:
            yield from unlike(theirs[0], here[0], f"{path}[]")
    elif type(theirs) is not type(here):
        yield f"{path} ({json.dumps(here)[:60]}, not {json.dumps(theirs)[:60]})"
