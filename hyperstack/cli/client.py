"""HTTP to hyperd over its unix socket: requests, streamed answers, and hijacked (upgraded) connections.

One connection per request: connecting to a unix socket costs microseconds, and no request waits behind another.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any
from urllib.parse import quote, urlencode

from hyperstack.cli.errors import ApiError, CliError, DaemonUnreachable

DEFAULT_HOST = "unix:///run/hyperstack/docker.sock"
API = "/v1.44"
"""Prefix of Docker's paths: the oldest version that current Engines still serve."""

NATIVE = "/hyperstack/v1"
PROJECT_HEADER = "X-HyperStack-Project"

MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
"""Content type of streams in which each chunk names stdout or stderr; a terminal's are raw."""

CHUNK = 64 * 1024
MAX_ERROR_BODY = 64 * 1024
CONNECT_TIMEOUT_S = 10.0

Query = Mapping[str, str | int | bool | Iterable[str] | None]
Body = bytes | IO[bytes] | Iterable[bytes]


class Upgraded:
    """A hijacked connection: bytes both ways, each direction closed by itself."""

    def __init__(self, sock: socket.socket, raw: http.client.HTTPResponse) -> None:
        self._sock = sock
        self._raw = raw  # it owns the buffer that has what came right behind the headers, and closes it with itself
        self.multiplexed = raw.headers.get("Content-Type", "").startswith(MULTIPLEXED)

    def read(self, limit: int = CHUNK) -> bytes:
        """What has arrived, at least one byte; empty at the end of the stream."""
        try:
            return self._raw.fp.read1(limit)
        except ConnectionResetError:
            return b""

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def close_write(self) -> None:
        """Tell the other end that no more input comes; output goes on."""
        with suppress(OSError):  # the other end was quicker
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with suppress(OSError):  # the other end was quicker
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class Response:
    """An answer whose body is still on its way."""

    def __init__(self, raw: http.client.HTTPResponse, connection: http.client.HTTPConnection) -> None:
        self._raw = raw
        self._connection = connection
        self.status = raw.status

    def header(self, name: str) -> str:
        return self._raw.headers.get(name, "")

    def read(self) -> bytes:
        try:
            return self._raw.read()
        except (http.client.HTTPException, OSError) as error:
            raise _hung_up(error) from error
        finally:
            self.close()

    def json(self) -> Any:
        """The parsed body; None where it is empty.

        :raise CliError: it is not JSON.
        """
        data = self.read()
        return _parse_json(data) if data.strip() else None

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives."""
        try:
            while data := self._raw.read1(CHUNK):
                yield data
        except (http.client.HTTPException, OSError) as error:
            raise _hung_up(error) from error
        finally:
            self.close()

    def json_lines(self) -> Iterator[Any]:
        """One object per line, as events, stats and pulls send them."""
        rest = b""
        for data in self.chunks():
            *lines, rest = (rest + data).split(b"\n")
            yield from (_parse_json(line) for line in lines if line.strip())
        if rest.strip():
            yield _parse_json(rest)

    def close(self) -> None:
        self._raw.close()
        self._connection.close()


class Client:
    """Requests to one daemon on behalf of one project."""

    def __init__(self, host: str = DEFAULT_HOST, project: str = "") -> None:
        """:raise CliError: the host is not a unix socket."""
        if "://" in host and not host.startswith("unix://"):
            raise CliError(f'invalid host "{host}": hyperd is reached through a unix socket, such as {DEFAULT_HOST}')
        self.host = host if host.startswith("unix://") else "unix://" + host
        self._path = self.host.removeprefix("unix://")
        self._project = project

    def request(self, method: str, path: str, *, query: Query | None = None, body: Body | None = None,
                payload: Any = None, headers: Mapping[str, str] | None = None) -> Response:
        """Send, and wait for the answer's headers.

        :param path: below the API's prefix, quoted where it holds names; native paths begin with /hyperstack.
        :param payload: JSON body.
        :param body: raw body; an iterable or file is streamed in chunks.
        :raise ApiError: a status of 400 or more.
        :raise DaemonUnreachable: no daemon.
        """
        connection = _UnixConnection(self._path, self.host)
        sent = self._headers(headers)
        if payload is not None:
            body = json.dumps(payload).encode()
            sent["Content-Type"] = "application/json"
        streamed = body is not None and not isinstance(body, bytes)
        if streamed:
            sent["Transfer-Encoding"] = "chunked"
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before it was read: the answer says why
            connection.request(method, _target(path, query), body=body, headers=sent, encode_chunked=streamed)
        return _checked(_answer(connection), connection)

    def get(self, path: str, query: Query | None = None) -> Any:
        """The JSON answer of a GET."""
        return self.request("GET", path, query=query).json()

    def post(self, path: str, query: Query | None = None, payload: Any = None) -> Any:
        """The JSON answer of a POST, None where it has none."""
        return self.request("POST", path, query=query, payload=payload).json()

    def delete(self, path: str, query: Query | None = None) -> Any:
        return self.request("DELETE", path, query=query).json()

    def upgrade(self, path: str, *, query: Query | None = None, payload: Any = None) -> Upgraded:
        """POST and take over the connection.

        :raise ApiError: as `request`. :raise CliError: the answer is no upgrade.
        """
        connection = _UnixConnection(self._path, self.host)
        sent = self._headers({"Connection": "Upgrade", "Upgrade": "tcp", "Content-Type": "application/json"})
        connection.connect()
        sock = connection.sock
        with suppress(BrokenPipeError, ConnectionResetError):  # as in request()
            connection.request("POST", _target(path, query), headers=sent,
                               body=b"" if payload is None else json.dumps(payload).encode())
        raw = _answer(connection)
        if raw.status != http.client.SWITCHING_PROTOCOLS:
            _checked(raw, connection).close()
            raise CliError(f"hyperd answered {raw.status} where a stream was expected")
        return Upgraded(sock, raw)

    def _headers(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        headers = {"Host": "hyperd", "User-Agent": "hyperctl"}
        if self._project:
            headers[PROJECT_HEADER] = self._project
        return headers | dict(extra or {})


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, shown: str) -> None:
        super().__init__("hyperd")
        self._path = path
        self._shown = shown

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_TIMEOUT_S)
            sock.connect(self._path)
        except OSError as error:
            sock.close()
            raise _unreachable(self._path, self._shown, error) from error
        sock.settimeout(None)
        self.sock = sock


def quoted(name: str) -> str:
    """A container's, volume's or pod's name as one segment of a path."""
    return quote(name, safe="")


def quoted_image(name: str) -> str:
    """An image's name in a path, where Docker leaves slashes, colons and at signs as they are."""
    return quote(name, safe="/:@")


def filters(values: Iterable[str]) -> str | None:
    """`--filter KEY=VALUE` options as the API's JSON; None where there are none.

    :raise CliError: a filter without `=`.
    """
    grouped: dict[str, list[str]] = {}
    for value in values:
        key, equals, wanted = value.partition("=")
        if not equals or not key.strip():
            raise CliError(f'invalid filter "{value}": filters have the form KEY=VALUE')
        grouped.setdefault(key.strip().lower(), []).append(wanted.strip())
    return json.dumps(grouped) if grouped else None


def _target(path: str, query: Query | None) -> str:
    prefix = "" if path.startswith(NATIVE) else API
    pairs: list[tuple[str, str]] = []
    for key, value in (query or {}).items():
        if isinstance(value, bool):
            pairs += [(key, "1")] if value else []
        elif isinstance(value, str | int):
            pairs.append((key, str(value)))
        elif value is not None:
            pairs += [(key, item) for item in value]
    return f"{prefix}{path}?{urlencode(pairs)}" if pairs else prefix + path


def _answer(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    try:
        return connection.getresponse()
    except (http.client.HTTPException, OSError) as error:
        connection.close()
        raise _hung_up(error) from error


def _checked(raw: http.client.HTTPResponse, connection: http.client.HTTPConnection) -> Response:
    if raw.status < 400:
        return Response(raw, connection)
    try:
        text = raw.read(MAX_ERROR_BODY).decode("utf-8", "replace").strip()
    finally:
        raw.close()
        connection.close()
    try:
        message = json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        message = text or raw.reason
    raise ApiError(raw.status, str(message))


def _parse_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise CliError(f"hyperd sent something that is not JSON: {data[:80]!r}") from error


def _hung_up(error: Exception) -> DaemonUnreachable:
    return DaemonUnreachable(
        f"Lost the connection to hyperd in the middle of a request ({error or type(error).__name__})",
        hint="Containers keep running without it. Its log tells more: journalctl -u hyperd")


def _unreachable(path: str, shown: str, error: OSError) -> DaemonUnreachable:
    if isinstance(error, PermissionError):
        return DaemonUnreachable(
            f"Permission denied while connecting to hyperd at {shown}",
            hint=f"Use sudo, or join the group that owns the socket ({_group_of(path)}) and log in again.")
    return DaemonUnreachable(
        f"Cannot connect to hyperd at {shown}. Is it running?",
        hint="Start it with 'systemctl start hyperd' (or 'sudo hyperd' in a terminal); "
             "another socket is named by -H or HYPERSTACK_HOST.")


def _group_of(path: str) -> str:
    import grp

    try:
        return grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        return "hyperstack"
