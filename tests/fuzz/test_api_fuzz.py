"""Requests made from the reference's shapes, and such that break them, to a running daemon: never a 500.

HYPERSTACK_FUZZ_EXAMPLES=1000 runs so many of each kind, drawn anew; without it there are a few, always the same.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core import NOT_SET

from tests.harness import Daemon, Namespace
from tests.images import BUSYBOX, daemon_with_busybox
from tests.reference.client import Answer, Checked, checked
from tests.reference.operations import JSON, OPERATIONS, Operation, document

EXAMPLES = int(os.environ.get("HYPERSTACK_FUZZ_EXAMPLES", "0"))
_SCHEMA = schemathesis.openapi.from_dict(document())
_SETTINGS = settings(max_examples=EXAMPLES or 6, derandomize=not EXAMPLES, deadline=None, database=None,
                     suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink])
_HEAD_S, _STREAM_S = 20.0, 0.2
"""How long an answer may take to begin, and for how long one without an end is read."""
_ENDS_AT_ONCE = ["sh", "-c", "trap 'exit 0' TERM INT HUP USR1; while :; do sleep 0.1; done"]
_PATIENT = re.compile(r"POST /containers/\{id\}/(stop|restart|wait|start)")
"""What may rightly take longer than anybody waits here."""


class World:
    """A daemon with a little of everything, made again when a request has removed it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._api = Checked(daemon.socket)

    def names(self) -> dict[str, str]:
        """By the first part of a path, something that is there."""
        found = {"containers": self._container(), "volumes": "v", "networks": "n", "images": BUSYBOX}
        self._api.ask("POST", "/volumes/create", {"Name": "v"})
        self._api.ask("POST", "/networks/create", {"Name": "n"})
        made = self._api.ask("POST", "/containers/box/exec", {"Cmd": ["true"]})
        return found | ({"exec": made.value["Id"]} if made.status == 201 else {})

    def _container(self) -> str:
        state = self._api.ask("GET", "/containers/box/json")
        if state.status == 200 and state.value["State"]["Status"] == "running":
            return "box"
        self._api.ask("DELETE", "/containers/box", query={"force": 1})
        made = self._api.ask("POST", "/containers/create", {"Image": BUSYBOX, "Cmd": _ENDS_AT_ONCE},
                             query={"name": "box"})
        if made.status == 201:
            self._api.ask("POST", "/containers/box/start")
        return "box"

    def send(self, method: str, target: str, body: bytes | None, kind: str) -> Answer | None:
        """None where the answer has not begun in time."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_HEAD_S)
            sock.connect(str(self.daemon.socket))
            head = f"{method} {target} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n"
            if body is not None:
                head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            try:
                sock.sendall(head.encode() + b"\r\n" + (body or b""))
                return _read(sock)
            except TimeoutError:
                return None


def _read(sock: socket.socket) -> Answer:
    raw = b""
    while b"\r\n\r\n" not in raw:
        data = sock.recv(65536)
        assert data, f"no answer, but {raw!r}"
        raw += data
    head, _, rest = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    sock.settimeout(_HEAD_S if "Content-Length" in headers else _STREAM_S)
    try:
        while len(rest) < 1 << 20 and (data := sock.recv(65536)):
            rest += data
    except TimeoutError:
        pass
    return Answer(int(status.split()[1]), headers, rest)


@pytest.fixture(scope="module")
def world(namespace: Namespace) -> Iterator[World]:
    with daemon_with_busybox(namespace) as daemon:
        yield World(daemon)
        assert "Traceback" not in daemon.log.read_text(errors="replace")


def _target(operation: Operation, case: Any, names: dict[str, str] | None) -> str:
    kind = operation.path.split("/")[1]
    path = operation.path
    for name, value in (case.path_parameters or {}).items():
        known = None if names is None else names.get(kind)
        path = path.replace(f"{{{name}}}", known or quote(str(value), safe=""))
    query = {name: value if isinstance(value, list) else str(value) for name, value in (case.query or {}).items()}
    return f"/v1.55{path}?{urlencode(query, doseq=True, errors='replace')}" if query else f"/v1.55{path}"


def _body(operation: Operation, case: Any, *, real: bool) -> tuple[bytes | None, str]:
    body = case.body
    if body is NOT_SET or isinstance(body, type(NOT_SET)):
        return None, ""
    if isinstance(body, bytes):
        return body, "application/x-tar"
    if isinstance(body, dict) and real:
        known = {"POST /containers/create": {"Image": BUSYBOX}, "POST /networks/{id}/connect": {"Container": "box"},
                 "POST /networks/{id}/disconnect": {"Container": "box"}}
        body = {**body, **known.get(operation.name, {})}
    return json.dumps(body, default=str).encode(errors="replace"), JSON


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fits", "breaks"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_no_request_is_an_internal_error(world: World, operation: Operation, mode: GenerationMode) -> None:
    described = _SCHEMA[operation.path][operation.method]
    if mode is GenerationMode.NEGATIVE and not (operation.query or operation.body):
        pytest.skip("there is nothing to break")
    names = world.names()

    @_SETTINGS
    @given(described.as_strategy(generation_mode=mode), st.booleans())
    def ask(case: Any, real: bool) -> None:
        body, kind = _body(operation, case, real=real)
        target = _target(operation, case, names if real else None)
        answer = world.send(operation.method, target, body, kind)
        if answer is None:
            assert _PATIENT.match(operation.name), f"{operation.method} {target}: no answer"
            return
        assert answer.status != 500, (target, body, answer.raw)
        if answer.status >= 400 and operation.method != "HEAD":
            assert set(json.loads(answer.raw)) == {"message"}, answer.raw
        elif "Content-Length" in answer.headers and answer.status not in (101, 501):
            checked(operation, answer)

    ask()
