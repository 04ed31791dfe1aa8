"""Whatever a client sends to whatever route, the fault is never the daemon's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest

from hyperstack.docker_api.app import route_table
from hyperstack.engine.records import LogRecord
from hyperstack.pod.errors import GuestError
from tests.unit.docker_api_server import Served, serve

QUERIES = ("", "?h=x&w=-1&t=x&limit=x&since=x&until=x&tail=x&filters=x&signal=x&platform=x&condition=x",
           "?fromImage=%ff%fe&repo=%00&names=%00&path=%00&name=%00&stream=0&stdout=1",
           '?filters={"label":5}&fromImage=a&tag=sha256:x&path=/&repo=a&names=x&name=x&stream=0',
           "?filters=[[[[[[[[&h=999999999999999999999&w=99999&detachKeys=,,,&ps_args=%0a")
BODIES = (b"", b"[]", b"null", b'"x"', b"{", b"\xff\xfe", b'{"Cmd": {"a": 1}, "HostConfig": 5}', b"[" * 100_000,
          b'{"Image": "x", "Env": ["\\u0000"], "Name": "\\ud800"}')


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


async def test_no_route_answers_500_to_nonsense(served: Served) -> None:
    paths = {(route.method, re.sub(r"\{[^}]*\}", "x%ff", route.path)) for route in route_table(served.engine)}
    for method, path in sorted(paths):
        for query, body in [(query, b"") for query in QUERIES] + [("", body) for body in BODIES]:
            try:
                async with asyncio.timeout(2), served.client.request(
                        "POST" if method == "*" else method, f"http://d{path}{query}", data=body) as answer:
                    assert answer.status not in (500, 502, 504), (method, path, query, body)
                    if "events" not in path:
                        await answer.read()
            except aiohttp.ClientPayloadError as error:  # A cut stream would hide an error.
                raise AssertionError((method, path, query, body)) from error


async def test_a_malformed_body_is_the_clients_fault(served: Served) -> None:
    reader, writer = await served.raw(b"POST /containers/create HTTP/1.1\r\nHost: d\r\n"
                                      b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert b" 400 " in await reader.readline()
    writer.close()


async def test_a_body_that_claims_to_be_compressed_is_the_clients_fault(served: Served) -> None:
    status, answer = await served.call("POST", "/containers/create", data=b"not gzip",
                                       headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})
    assert (status, answer) == (400, {"message": "the request body is malformed or not whole"})


async def test_a_request_line_without_end_is_refused(served: Served) -> None:
    reader, writer = await served.raw(b"GET /containers/" + b"x" * 1_000_000)
    assert b" 400 " in await reader.readline()
    writer.close()


async def test_long_filters_and_tokens_are_read(served: Served) -> None:
    query = f'filters={{"name":["{"x" * 200}"],"label":["{"y" * 30_000}"]}}'
    assert await served.call("GET", f"/containers/json?{query}", headers={"X-Other": "z" * 30_000}) == (200, [])


async def test_an_error_in_the_middle_of_a_stream_cuts_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second status line within the first answer's body would be read as data."""
    status, made = await served.call("POST", "/containers/create", json={"Image": "busybox"})
    assert status == 201
    assert isinstance(made, dict)

    async def broken(*_: object, **__: object) -> AsyncIterator[list[LogRecord]]:
        yield [LogRecord(time_ns=0, stream=1, data=b"one")]
        raise GuestError("the guest is gone")

    monkeypatch.setattr(served.engine.containers, "logs", broken)
    async with served.client.get(f"http://d/containers/{made['Id']}/logs?stdout=1&follow=1") as answer:
        assert await answer.content.readexactly(11) == b"\x01\0\0\0\0\0\0\x03one"
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()
