"""attach over a websocket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.unit.docker_api_server import Served, serve
from tests.unit.test_docker_api_http import run

ALL = "stream=1&stdin=1&stdout=1&stderr=1"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


async def everything(socket: aiohttp.ClientWebSocketResponse) -> bytes:
    """What comes until the server closes it."""
    return b"".join([message.data async for message in socket if message.type is aiohttp.WSMsgType.BINARY])


async def test_bytes_go_in_both_directions_without_frames(served: Served) -> None:
    script = "read a; read b; echo got $a $b; echo bad >&2"
    ident = await run(served, "sh", "-c", script, OpenStdin=True, StdinOnce=True)
    async with served.client.ws_connect(f"http://d/v1.50/containers/{ident}/attach/ws?{ALL}") as socket:
        await socket.send_bytes(b"one\ntw")
        await socket.send_str("o\n")
        async with asyncio.timeout(20):
            assert sorted((await everything(socket)).splitlines()) == [b"bad", b"got one two"]
        assert socket.close_code == 1000


async def test_before_1_28_it_is_text(served: Served) -> None:
    ident = await run(served, "sh", "-c", "read a; printf '%s\\303' $a", OpenStdin=True, StdinOnce=True)
    async with served.client.ws_connect(f"http://d/v1.27/containers/{ident}/attach/ws?{ALL}") as socket:
        await socket.send_str("one\n")
        async with asyncio.timeout(20):
            found = [message async for message in socket]
    assert {message.type for message in found} == {aiohttp.WSMsgType.TEXT}
    assert "".join(message.data for message in found) == "one\N{REPLACEMENT CHARACTER}"


async def test_closing_it_ends_the_input_of_a_container_for_one_client(served: Served) -> None:
    ident = await run(served, "sh", "-c", "cat > got", OpenStdin=True, StdinOnce=True)
    async with served.client.ws_connect(f"http://d/containers/{ident}/attach/ws?{ALL}") as socket:
        await socket.send_bytes(b"all")
    async with asyncio.timeout(20):
        status, answer = await served.call("POST", f"/containers/{ident}/wait")
    assert (status, isinstance(answer, dict) and answer["StatusCode"]) == (200, 0)


async def test_the_detach_keys_leave_a_terminal_running(served: Served) -> None:
    ident = await run(served, "sleep", "100", OpenStdin=True, Tty=True)
    async with served.client.ws_connect(f"http://d/containers/{ident}/attach/ws?{ALL}&detachKeys=ctrl-x") as socket:
        await socket.send_bytes(b"\x18")
        async with asyncio.timeout(20):
            await everything(socket)
    _, answer = await served.call("GET", f"/containers/{ident}/json")
    assert isinstance(answer, dict)
    assert answer["State"]["Running"] is True


async def test_what_is_no_websocket_or_no_container_is_refused(served: Served) -> None:
    ident = await run(served, "true")
    status, answer = await served.call("GET", f"/containers/{ident}/attach/ws")
    assert (status, isinstance(answer, dict) and "does not ask for a websocket" in answer["message"]) == (400, True)
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await served.client.ws_connect("http://d/containers/nobody/attach/ws")
    assert caught.value.status == 404


async def test_too_much_at_once_ends_the_connection(served: Served) -> None:
    ident = await run(served, "sleep", "100", OpenStdin=True)
    async with served.client.ws_connect(f"http://d/containers/{ident}/attach/ws?{ALL}", compress=0) as socket:
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):  # the server need not have taken all of it
                await socket.send_bytes(bytes(2 << 20))
            await everything(socket)
        assert socket.closed
    _, answer = await served.call("GET", f"/containers/{ident}/json")
    assert isinstance(answer, dict)
    assert answer["State"]["Running"] is True
