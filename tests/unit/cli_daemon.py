"""A small daemon for the tests of hyperctl: Docker's paths over a unix socket, with local processes as containers.

It speaks real HTTP, upgrades real connections, and its containers are real processes on real pipes and terminals, so
that what a test sees of streams, signals and exit codes is what happens. It checks nothing and isolates nothing.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import io
import itertools
import json
import os
import pty
import re
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import tarfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

STDOUT, STDERR = 1, 2
KNOWN_IMAGE = "busybox:latest"


@dataclass
class Request:
    """What a client asked, kept for the tests."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Process:
    """A container's or an exec's process, and who listens to it."""

    config: dict[str, Any]
    argv: list[str]
    root: Path
    popen: subprocess.Popen[bytes] | None = None
    master: int = -1
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    listeners: list[socket.socket] = field(default_factory=list)
    log: list[tuple[int, bytes]] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    exit_code: int = 0

    @property
    def tty(self) -> bool:
        return bool(self.config.get("Tty"))

    def start(self) -> None:
        environment = {"PATH": os.environ["PATH"], **dict(item.split("=", 1) for item in self.config.get("Env") or ())}
        if self.tty:
            self.master, slave = pty.openpty()
            self.popen = subprocess.Popen(
                self.argv, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=self.root,
                start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
            os.close(slave)
            pumps = [threading.Thread(target=self._pump_terminal, daemon=True)]
        else:
            with_stdin = bool(self.config.get("OpenStdin") or self.config.get("AttachStdin"))
            self.popen = subprocess.Popen(
                self.argv, stdin=subprocess.PIPE if with_stdin else subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, env=environment, cwd=self.root, start_new_session=True)
            pumps = [threading.Thread(target=self._pump, args=(number,), daemon=True) for number in (STDOUT, STDERR)]
        for thread in pumps:
            thread.start()
        threading.Thread(target=self._reap, args=(pumps,), daemon=True).start()
        self.started.set()

    def _pump(self, stream: int) -> None:
        assert self.popen is not None
        pipe = self.popen.stdout if stream == STDOUT else self.popen.stderr
        assert pipe is not None
        while data := os.read(pipe.fileno(), 65536):
            self.log.append((stream, data))
            self._send(struct.pack(">BxxxL", stream, len(data)) + data)

    def _pump_terminal(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 65536):
                self.log.append((STDOUT, data))
                self._send(data)

    def _send(self, data: bytes) -> None:
        for listener in list(self.listeners):
            try:
                listener.sendall(data)
            except OSError:
                continue  # it hung up

    def _reap(self, pumps: list[threading.Thread]) -> None:
        assert self.popen is not None
        code = self.popen.wait()
        for thread in pumps:
            thread.join()
        self.exit_code = 128 - code if code < 0 else code
        self.ended.set()
        for listener in self.listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)

    def feed(self, data: bytes) -> None:
        assert self.popen is not None
        with contextlib.suppress(OSError):
            if self.tty:
                os.write(self.master, data)
            elif self.popen.stdin is not None:
                self.popen.stdin.write(data)
                self.popen.stdin.flush()

    def end_input(self) -> None:
        if self.popen is not None and self.popen.stdin is not None:
            with contextlib.suppress(OSError):
                self.popen.stdin.close()

    def resize(self, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))
        if self.master >= 0:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def kill(self, number: int) -> None:
        if self.popen is not None and self.popen.poll() is None:
            os.killpg(self.popen.pid, number)

    @property
    def running(self) -> bool:
        return self.started.is_set() and not self.ended.is_set()


@dataclass
class Container:
    id: str
    name: str
    body: dict[str, Any]
    process: Process
    created: float

    def summary(self) -> dict[str, Any]:
        state = "running" if self.process.running else "exited" if self.process.ended.is_set() else "created"
        status = {"running": "Up 3 minutes", "exited": f"Exited ({self.process.exit_code}) 2 hours ago"}
        return {"Id": self.id, "Names": [f"/{self.name}"], "Image": self.body["Image"], "ImageID": "sha256:" + "1" * 64,
                "Command": " ".join(self.process.argv), "Created": int(self.created), "State": state,
                "Status": status.get(state, "Created"), "Labels": self.body.get("Labels") or {}, "Mounts": [],
                "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
                          {"PrivatePort": 443, "Type": "tcp"}] if self.name == "web" else [],
                "HostConfig": {"NetworkMode": "default"}, "NetworkSettings": {"Networks": {"bridge": {}}}}

    def details(self) -> dict[str, Any]:
        return {"Id": self.id, "Name": f"/{self.name}", "Created": "2024-05-01T12:00:00.123456789Z",
                "State": {"Status": self.summary()["State"], "Running": self.process.running, "Paused": False,
                          "Restarting": False, "ExitCode": self.process.exit_code},
                "Config": {key: self.body.get(key) for key in ("Tty", "OpenStdin", "Env", "Cmd", "Image", "Labels")},
                "HostConfig": self.body["HostConfig"],
                "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"},
                                                         {"HostIp": "::", "HostPort": "8080"}], "443/tcp": None}}}


class Daemon:
    """Serves until closed; `socket` is its address for HYPERSTACK_HOST."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "d.sock"
        self.socket = f"unix://{self.path}"
        self.requests: list[Request] = []
        self.containers: dict[str, Container] = {}
        self.execs: dict[str, Process] = {}
        self.images = [KNOWN_IMAGE]
        self.pull_steps: list[dict[str, Any]] = [
            {"status": "Pulling from library/alpine", "id": "latest"},
            {"status": "Pulling fs layer", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
            {"status": "Downloading", "progressDetail": {"current": 5, "total": 10}, "id": "aaaaaaaaaaaa"},
            {"status": "Pull complete", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
            {"status": "Digest: sha256:" + "2" * 64}]
        self.answers: dict[tuple[str, str], Any] = {}
        """(method, path) -> the JSON to answer with, before anything else is looked at."""
        self.connections: set[socket.socket] = set()
        self.numbers = itertools.count(1)
        self._server = _Server(str(self.path), self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        for process in [*(container.process for container in self.containers.values()), *self.execs.values()]:
            process.kill(signal.SIGKILL)
            if process.started.is_set():
                process.ended.wait(10)
            if process.master >= 0:
                os.close(process.master)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, name: str, argv: list[str], *, start: bool = False, **body: Any) -> Container:
        """A container without asking for it over HTTP."""
        number = next(self.numbers)
        ident = f"{number:02x}" * 32
        body = {"Image": KNOWN_IMAGE, "HostConfig": {}, **body}
        root = self.directory / ident[:12]
        root.mkdir()
        container = Container(ident, name or f"made_up_{number}", body, Process(body, argv, root), time.time() - 7200)
        self.containers[ident] = container
        if start:
            container.process.start()
        return container

    def find(self, ref: str) -> Container:
        for container in self.containers.values():
            if ref == container.name or container.id.startswith(ref):
                return container
        raise Refused(404, f"No such container: {ref}")

    def cut(self) -> None:
        """Close every connection, as the end of a daemon does."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def asked(self, method: str, path: str) -> Request:
        """The last request of that kind."""
        return next(request for request in reversed(self.requests)
                    if request.method == method and re.fullmatch(path, request.path))


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, daemon: Daemon) -> None:
        self.owner = daemon
        super().__init__(path, _Handler)


Route = Callable[["_Handler", Request, str], None]
_ROUTES: list[tuple[str, re.Pattern[str], Route]] = []


def route(method: str, pattern: str) -> Callable[[Route], Route]:
    def register(function: Route) -> Route:
        _ROUTES.append((method, re.compile(pattern), function))
        return function
    return register


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        self.client_address = ("local", 0)
        super().setup()
        self.owner.connections.add(self.connection)

    def finish(self) -> None:
        self.owner.connections.discard(self.connection)
        with contextlib.suppress(ConnectionError):
            super().finish()

    def log_message(self, *_args: object) -> None:
        """Quiet."""

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path = re.sub(r"\A/v1\.\d+", "", unquote(url.path))
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        request = Request(self.command, path, query, dict(self.headers), self._body())
        self.server.owner.requests.append(request)
        try:
            if (self.command, path) in self.server.owner.answers:
                answer = self.server.owner.answers[self.command, path]
                if isinstance(answer, Refused):
                    raise answer
                return self.answer(answer)
            for method, pattern, function in _ROUTES:
                if method == self.command and (match := pattern.fullmatch(path)):
                    return function(self, request, match[1] if match.groups() else "")
            raise Refused(404, "page not found")
        except Refused as error:
            self.answer({"message": error.message}, error.status)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve  # noqa: N815  # the names that http.server looks for

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    @property
    def owner(self) -> Daemon:
        return self.server.owner

    def answer(self, payload: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = b"" if payload is None else payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send_response(status if payload is not None or headers else 204)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def stream(self, chunks: Iterator[bytes], content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for data in chunks:
            if data:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def hijack(self, process: Process) -> None:
        """Carry bytes both ways until the process has ended, or the client hangs up."""
        kind = "raw" if process.tty else "multiplexed"
        self.wfile.write(b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.%s-stream\r\n"
                         b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n" % kind.encode())
        process.listeners.append(self.connection)
        self.close_connection = True

    def follow_input(self, process: Process) -> None:
        process.started.wait()
        with contextlib.suppress(OSError):
            while data := self.rfile.read1(65536):
                process.feed(data)
        if not process.tty:
            process.end_input()
        process.ended.wait()


def _frames(process: Process) -> bytes:
    if process.tty:
        return b"".join(data for _, data in process.log)
    return b"".join(struct.pack(">BxxxL", stream, len(data)) + data for stream, data in process.log)


@route("GET", "/version")
def _version(handler: _Handler, _request: Request, _name: str) -> None:
    handler.answer({"Version": "0.1.0", "ApiVersion": "1.44", "MinAPIVersion": "1.24", "Os": "linux", "Arch": "amd64"})


@route("HEAD", "/_ping")
@route("GET", "/_ping")
def _ping(handler: _Handler, _request: Request, _name: str) -> None:
    handler.answer(b"OK", headers={"Api-Version": "1.44"})


@route("POST", "/images/create")
def _pull(handler: _Handler, request: Request, _name: str) -> None:
    if "fromSrc" in request.query:
        return handler.answer({"status": f"sha256:{len(request.body):064x}"})
    handler.owner.images.append(f"{request.query['fromImage']}:{request.query['tag']}")
    steps = (json.dumps(step).encode() + b"\r\n" for step in handler.owner.pull_steps)
    return handler.stream(steps, "application/json")


@route("GET", "/images/json")
def _images(handler: _Handler, _request: Request, _name: str) -> None:
    handler.answer([{"Id": "sha256:" + str(number) * 64, "RepoTags": [name], "RepoDigests": [], "Created": 1700000000,
                     "Size": 4260000, "Containers": -1} for number, name in enumerate(handler.owner.images, 1)])


@route("POST", "/containers/create")
def _create(handler: _Handler, request: Request, _name: str) -> None:
    body, owner = request.json(), handler.owner
    image = body["Image"] if ":" in body["Image"] else body["Image"] + ":latest"
    if image not in owner.images:
        raise Refused(404, f"No such image: {image}")
    name = request.query.get("name", "")
    if any(container.name == name for container in owner.containers.values()):
        raise Refused(409, f'Conflict. The container name "/{name}" is already in use')
    made = owner.add(name, [*(body.get("Entrypoint") or ()), *(body.get("Cmd") or ["true"])], **body)
    handler.answer({"Id": made.id, "Warnings": ["a warning"] if name == "warned" else []}, 201)


@route("GET", "/containers/json")
def _list(handler: _Handler, request: Request, _name: str) -> None:
    found = [container.summary() for container in reversed(handler.owner.containers.values())]
    handler.answer([item for item in found if request.query.get("all") or item["State"] == "running"])


@route("GET", "/containers/([^/]+)/json")
def _inspect(handler: _Handler, _request: Request, name: str) -> None:
    handler.answer(handler.owner.find(name).details())


@route("POST", "/containers/([^/]+)/start")
def _start(handler: _Handler, _request: Request, name: str) -> None:
    container = handler.owner.find(name)
    try:
        container.process.start()
    except (FileNotFoundError, PermissionError) as error:
        if container.body["HostConfig"].get("AutoRemove"):
            handler.owner.containers.pop(container.id)
            container.process.ended.set()
        why = "executable file not found in $PATH" if isinstance(error, FileNotFoundError) else "permission denied"
        raise Refused(400, f'exec: "{container.process.argv[0]}": {why}') from None
    if container.body["HostConfig"].get("AutoRemove"):
        def remove() -> None:
            container.process.ended.wait()
            handler.owner.containers.pop(container.id, None)
        threading.Thread(target=remove, daemon=True).start()
    handler.answer()


@route("POST", "/containers/([^/]+)/attach")
def _attach(handler: _Handler, request: Request, name: str) -> None:
    process = handler.owner.find(name).process
    handler.hijack(process)
    if request.query.get("stdin"):
        handler.follow_input(process)
    else:
        process.ended.wait()


@route("POST", "/containers/([^/]+)/wait")
def _wait(handler: _Handler, request: Request, name: str) -> None:
    container = handler.owner.find(name)
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
    container.process.ended.wait()
    if request.query.get("condition") == "removed":
        handler.owner.containers.pop(container.id, None)
    handler.wfile.write(json.dumps({"StatusCode": container.process.exit_code}).encode())


@route("POST", "/containers/([^/]+)/kill")
def _kill(handler: _Handler, request: Request, name: str) -> None:
    handler.owner.find(name).process.kill(getattr(signal, request.query.get("signal", "SIGKILL")))
    handler.answer()


@route("POST", "/containers/([^/]+)/stop")
def _stop(handler: _Handler, _request: Request, name: str) -> None:
    process = handler.owner.find(name).process
    process.kill(signal.SIGTERM)
    process.ended.wait(10)
    handler.answer()


@route("POST", "/containers/([^/]+)/resize")
def _resize(handler: _Handler, request: Request, name: str) -> None:
    handler.owner.find(name).process.resize(int(request.query["h"]), int(request.query["w"]))
    handler.answer()


@route("DELETE", "/containers/([^/]+)")
def _remove(handler: _Handler, _request: Request, name: str) -> None:
    container = handler.owner.find(name)
    container.process.kill(signal.SIGKILL)
    shutil.rmtree(container.process.root)
    handler.owner.containers.pop(container.id, None)
    handler.answer()


@route("GET", "/containers/([^/]+)/logs")
def _logs(handler: _Handler, request: Request, name: str) -> None:
    process = handler.owner.find(name).process
    if request.query.get("follow"):
        process.ended.wait()
    kind = "raw" if process.tty else "multiplexed"
    handler.stream(iter([_frames(process)]), f"application/vnd.docker.{kind}-stream")


@route("POST", "/containers/([^/]+)/exec")
def _exec(handler: _Handler, request: Request, name: str) -> None:
    body = request.json()
    ident = f"e{next(handler.owner.numbers)}"
    handler.owner.execs[ident] = Process(body, body["Cmd"], handler.owner.find(name).process.root)
    handler.answer({"Id": ident}, 201)


@route("POST", "/exec/([^/]+)/start")
def _exec_start(handler: _Handler, request: Request, name: str) -> None:
    process = handler.owner.execs[name]
    if request.json()["Detach"]:
        process.start()
        return handler.answer()
    try:
        handler.hijack(process)
        process.start()
    except FileNotFoundError:
        process.exit_code = 127
        process.started.set()
        process.ended.set()
        return None
    return handler.follow_input(process)


@route("POST", "/exec/([^/]+)/resize")
def _exec_resize(handler: _Handler, request: Request, name: str) -> None:
    handler.owner.execs[name].resize(int(request.query["h"]), int(request.query["w"]))
    handler.answer()


@route("GET", "/exec/([^/]+)/json")
def _exec_json(handler: _Handler, _request: Request, name: str) -> None:
    handler.answer({"ExitCode": handler.owner.execs[name].exit_code, "Running": False})


def _inside(handler: _Handler, request: Request, name: str) -> Path:
    path: Path = handler.owner.find(name).process.root / request.query["path"].lstrip("/")
    if not os.path.lexists(path):
        raise Refused(404, f"Could not find the file {request.query['path']} in container {name}")
    return path


def _stat_header(path: Path) -> dict[str, str]:
    mode = (1 << 31 if path.is_dir() and not path.is_symlink() else 0) | (1 << 27 if path.is_symlink() else 0)
    link = os.readlink(path) if path.is_symlink() else ""
    facts = {"name": path.name, "size": 0, "mode": mode | 0o755, "mtime": "2024-05-01T12:00:00Z", "linkTarget": link}
    return {"X-Docker-Container-Path-Stat": base64.b64encode(json.dumps(facts).encode()).decode()}


@route("HEAD", "/containers/([^/]+)/archive")
def _archive_stat(handler: _Handler, request: Request, name: str) -> None:
    handler.answer(headers=_stat_header(_inside(handler, request, name)))


@route("GET", "/containers/([^/]+)/archive")
def _archive_get(handler: _Handler, request: Request, name: str) -> None:
    path = _inside(handler, request, name)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(path, arcname="." if request.query["path"].endswith("/.") else path.name)
    handler.answer(buffer.getvalue(), headers=_stat_header(path))


@route("PUT", "/containers/([^/]+)/archive")
def _archive_put(handler: _Handler, request: Request, name: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(request.body)) as tar:
        tar.extractall(_inside(handler, request, name))
    handler.answer(b"", headers={"X-Done": "1"})
