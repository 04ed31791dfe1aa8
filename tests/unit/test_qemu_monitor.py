"""The monitor's client against peers that only pretend to be QEMU."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperstack.hypervisor.qemu import qmp
from hyperstack.hypervisor.qemu.qmp import CommandFailed, Monitor, connect_unix, listen_unix
from hyperstack.pod.errors import Unavailable

_GREETING = json.dumps({"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""},
                                "capabilities": []}}).encode() + b"\n"
_DEADLINE_S = 5

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def served(directory: Path, peer: Peer, heard: list[str] | None = None) -> AsyncIterator[Monitor]:
    """A monitor that is not connected yet, and a peer that waits for it."""
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await peer(reader, writer)
        writer.close()

    def hear(name: str, data: Mapping[str, Any]) -> None:
        if heard is not None:
            heard.append(name)

    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    server = await asyncio.start_unix_server(serve, sock=listen_unix(fd, "qmp.sock"))
    monitor = Monitor(hear)
    try:
        yield monitor
    finally:
        await monitor.close()
        server.close()
        os.close(fd)


async def connect(monitor: Monitor, directory: Path) -> None:
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        await asyncio.wait_for(monitor.connect(fd, "qmp.sock"), _DEADLINE_S)
    finally:
        os.close(fd)


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_GREETING)
    await answer(reader, writer, {})


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, result: object) -> None:
    request = await receive(reader)
    writer.write(json.dumps({"return": result, "id": request.get("id")}).encode() + b"\n")


async def receive(reader: asyncio.StreamReader) -> dict[str, Any]:
    """One request; nothing but its own brackets tells where it ends."""
    data = b""
    while True:
        chunk = await reader.read(65536)
        if not chunk:
            raise ConnectionError("the monitor hung up")
        data += chunk
        with contextlib.suppress(ValueError):
            request: dict[str, Any] = json.loads(data)
            return request


async def test_a_command_is_answered(tmp_path: Path) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await answer(reader, writer, {"status": "running"})

    async with served(tmp_path, peer) as monitor:
        await connect(monitor, tmp_path)
        assert await monitor.execute("query-status") == {"status": "running"}


async def test_a_refusal_is_told_in_bounded_words(tmp_path: Path) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        request = await receive(reader)
        error = {"class": "GenericError", "desc": "no" * 10_000}
        writer.write(json.dumps({"error": error, "id": request["id"]}).encode() + b"\n")

    async with served(tmp_path, peer) as monitor:
        await connect(monitor, tmp_path)
        with pytest.raises(CommandFailed) as caught:
            await monitor.execute("device_add")
        assert len(str(caught.value)) < 1000


async def test_events_are_handed_on_and_not_kept(tmp_path: Path) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        for _ in range(5000):
            writer.write(b'{"event": "RTC_CHANGE", "data": {}, "timestamp": {"seconds": 1, "microseconds": 1}}\n')
        await answer(reader, writer, {})

    heard: list[str] = []
    async with served(tmp_path, peer, heard) as monitor:
        await connect(monitor, tmp_path)
        await monitor.execute("stop")
        assert heard == ["RTC_CHANGE"] * 5000
        assert monitor._client.events.history == ()


@pytest.mark.parametrize("reply", [
    b"x" * (2 << 20) + b"\n",
    b"[" * 200_000 + b"\n",
    b'{"return": ' + b"[" * 200_000 + b"\n",
    b"\xff\xfe\n",
    b"[]\n",
    b"3\n",
    b'{"error": 7, "id": "__qmp#00000"}\n',
    b'{"id": "__qmp#00000"}\n',
    b'{"error": {"class": "GenericError", "desc": "parse error"}}\n',
    b"",
], ids=["too long", "too deep", "too deep inside", "no text", "an array", "a number", "no error", "no result",
        "an error of nothing", "the end"])
async def test_a_peer_that_talks_nonsense_is_given_up(tmp_path: Path, reply: bytes) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await receive(reader)
        writer.write(reply)
        await writer.drain()

    async with served(tmp_path, peer) as monitor:
        await connect(monitor, tmp_path)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(monitor.execute("stop"), _DEADLINE_S)
        await asyncio.wait_for(monitor.lost(), _DEADLINE_S)
        with pytest.raises(Unavailable):
            await monitor.execute("stop")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["QMP", "version", "qemu", "capabilities", "return", "id", "event", "x"]), inner, max_size=4),
).map(lambda value: json.dumps(value).encode())))
def test_no_greeting_breaks_it(tmp_path: Path, greeting: bytes) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting + b"\n")
        await writer.drain()

    async def attempt() -> None:
        async with served(tmp_path, peer) as monitor:
            with pytest.raises(Unavailable):
                await connect(monitor, tmp_path)

    asyncio.run(attempt())


async def test_a_silent_peer_is_given_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await reader.read()

    monkeypatch.setattr(qmp, "_COMMAND_TIMEOUT_S", 0.1)
    async with served(tmp_path, peer) as monitor:
        await connect(monitor, tmp_path)
        with pytest.raises(Unavailable, match="did not answer stop"):
            await asyncio.wait_for(monitor.execute("stop"), _DEADLINE_S)
        assert not monitor.connected


async def test_a_descriptor_goes_with_its_command(tmp_path: Path) -> None:
    received: list[int] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        raw = writer.get_extra_info("socket").dup()
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # the stream's read transport
        ready.set()
        data = b""
        while b"}" not in data[-1:]:
            await asyncio.sleep(0.01)
            with contextlib.suppress(BlockingIOError):
                chunk, fds, _, _ = socket.recv_fds(raw, 65536, 4)
                data += chunk
                received.extend(fds)
        request = json.loads(data)
        assert data.startswith(b" ")
        writer.write(json.dumps({"return": {}, "id": request["id"]}).encode() + b"\n")
        raw.close()

    ready = asyncio.Event()
    file = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT)
    async with served(tmp_path, peer) as monitor:
        await connect(monitor, tmp_path)
        await ready.wait()
        await asyncio.wait_for(monitor.execute("add-fd", {}, fd=file), _DEADLINE_S)
    assert [os.fstat(fd).st_ino for fd in received] == [os.fstat(file).st_ino]
    for fd in (file, *received):
        os.close(fd)


async def test_sockets_are_reached_in_directories_with_long_paths(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 200)
    directory.mkdir()
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        with listen_unix(fd, "agent.sock"), await connect_unix(fd, "agent.sock") as connection:
            assert connection.getpeername().endswith("agent.sock")
        with pytest.raises(Unavailable, match=r"agent\.sock"):
            await connect_unix(fd, "agent.sock")
        with listen_unix(fd, "agent.sock"):
            assert (directory / "agent.sock").is_socket()
    finally:
        os.close(fd)
