"""Attach and exec over taken connections: half-closed, binary, slow, detached and vanished clients."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import struct
from collections.abc import AsyncIterator

import aiohttp.web_protocol
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.docker_api.streams import DetachKeys, parse_detach_keys
from hyperstack.pod.errors import InvalidArgument
from tests.unit.docker_api_server import Served, serve

# The hook that replaces this fixture came after the oldest pytest-asyncio that we take.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")

UPGRADE = "Host: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """The daemon runs on uvloop; the standard loop differs in how it pauses and closes."""
    return uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


class Client:
    """A taken connection, past its head."""

    def __init__(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = head
        self.reader = reader
        self.writer = writer

    async def frame(self) -> tuple[int, bytes]:
        stream, length = struct.unpack(">BxxxL", await self.reader.readexactly(8))
        return stream, await self.reader.readexactly(length)

    async def frames(self) -> dict[int, bytes]:
        """All of the rest, by stream."""
        found = {1: b"", 2: b""}
        while True:
            try:
                stream, data = await self.frame()
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise
                return found
            found[stream] += data


async def take(served: Served, request: str, body: bytes = b"") -> Client:
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    reader, writer = await served.raw(f"POST {request} HTTP/1.1\r\n{UPGRADE}{length}\r\n".encode() + body)
    head = await reader.readuntil(b"\r\n\r\n")
    return Client(head.decode(), reader, writer)


async def create(served: Served, *argv: str, **body: object) -> str:
    status, answer = await served.call("POST", "/containers/create",
                                       json={"Image": "busybox", "Cmd": list(argv), **body})
    assert status == 201
    assert isinstance(answer, dict)
    return str(answer["Id"])


async def start(served: Served, ident: str) -> None:
    assert (await served.call("POST", f"/containers/{ident}/start"))[0] == 204


async def exec_start(served: Served, ident: str, *argv: str, **body: object) -> tuple[str, Client]:
    status, answer = await served.call("POST", f"/containers/{ident}/exec",
                                       json={"Cmd": list(argv), "AttachStdout": True, "AttachStderr": True, **body})
    assert status == 201, answer
    assert isinstance(answer, dict)
    start_body = json.dumps({"Detach": False, "Tty": bool(body.get("Tty"))}).encode()
    return str(answer["Id"]), await take(served, f"/exec/{answer['Id']}/start", start_body)


async def attached_nobody(served: Served, ident: str) -> None:
    while served.engine.containers.processes[ident].attached:
        await asyncio.sleep(0.01)


def test_the_pinned_aiohttp_keeps_early_bytes_where_hijack_looks_for_them() -> None:
    assert "_message_tail" in aiohttp.web_protocol.RequestHandler.__slots__


async def test_both_streams_arrive_whole_and_the_stream_ends_with_the_process(served: Served) -> None:
    ident = await create(served, "sh", "-c", "printf 'a\\000b'; printf '\\377' >&2")
    client = await take(served, f"/containers/{ident}/attach?stream=1&stdout=1&stderr=1")
    assert client.head.startswith("HTTP/1.1 101 UPGRADED\r\n")
    assert "Content-Type: application/vnd.docker.multiplexed-stream\r\n" in client.head
    assert "Upgrade: tcp\r\n" in client.head
    await start(served, ident)
    assert await client.frames() == {1: b"a\0b", 2: b"\xff"}
    client.writer.close()


async def test_older_versions_call_frames_raw(served: Served) -> None:
    ident = await create(served, "true")
    client = await take(served, f"/v1.41/containers/{ident}/attach?stream=1&stdout=1")
    assert "application/vnd.docker.raw-stream" in client.head
    client.writer.close()


async def test_without_an_upgrade_the_answer_is_200(served: Served) -> None:
    ident = await create(served, "echo", "hi")
    reader, writer = await served.raw(f"POST /containers/{ident}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n"
                                      .encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    await start(served, ident)
    assert await reader.read() == b"\x01\0\0\0\0\0\0\x03hi\n"
    writer.close()


async def test_a_half_closed_client_gets_the_rest(served: Served) -> None:
    ident = await create(served, "sha256sum", OpenStdin=True, StdinOnce=True)
    client = await take(served, f"/containers/{ident}/attach?stream=1&stdin=1&stdout=1")
    await start(served, ident)
    data = bytes(range(256)) * 8192
    client.writer.write(data)
    client.writer.write_eof()
    assert (await client.frames())[1].split()[0].decode() == hashlib.sha256(data).hexdigest()
    client.writer.close()


async def test_a_client_that_closes_its_half_at_once_still_reads(served: Served) -> None:
    """`docker run` without -i does so."""
    ident = await create(served, "sh", "-c", "sleep 0.2; echo late")
    client = await take(served, f"/containers/{ident}/attach?stream=1&stdout=1")
    client.writer.write_eof()
    await start(served, ident)
    assert await client.frames() == {1: b"late\n", 2: b""}
    client.writer.close()


async def test_a_slow_reader_stalls_the_process_and_loses_nothing(served: Served) -> None:
    ident = await create(served, "sh", "-c", "head -c 8000000 /dev/zero; echo done >&2")
    client = await take(served, f"/containers/{ident}/attach?stream=1&stdout=1&stderr=1")
    await start(served, ident)
    process = served.engine.containers.processes[ident]
    before = -1
    while before != len(process.log):  # Until nothing moves any more.
        before = len(process.log)
        await asyncio.sleep(0.3)
    assert sum(len(record.data) for record in process.log) < 4_000_000
    assert not process.code.done()
    assert await client.frames() == {1: bytes(8_000_000), 2: b"done\n"}
    client.writer.close()


async def test_a_client_that_vanishes_is_detached(served: Served) -> None:
    ident = await create(served, "sleep", "100")
    client = await take(served, f"/containers/{ident}/attach?stream=1&stdout=1")
    await start(served, ident)
    client.writer.close()
    await attached_nobody(served, ident)


async def test_a_client_that_vanishes_after_closing_its_half_is_detached_too(served: Served) -> None:
    ident = await create(served, "sleep", "100")
    client = await take(served, f"/containers/{ident}/attach?stream=1&stdout=1")
    await start(served, ident)
    client.writer.write_eof()
    await asyncio.sleep(0.1)  # So that the daemon has seen the half, and looks no longer.
    assert len(served.engine.containers.processes[ident].attached) == 1
    client.writer.close()
    await attached_nobody(served, ident)


async def test_a_client_that_vanishes_while_it_does_not_read_is_detached(served: Served) -> None:
    ident = await create(served, "cat", "/dev/zero")
    client = await take(served, f"/containers/{ident}/attach?stream=1&stdout=1")
    await start(served, ident)
    await client.frame()
    client.writer.transport.abort()
    await attached_nobody(served, ident)
    await served.call("DELETE", f"/containers/{ident}?force=1")


async def test_typed_keys_detach_and_the_process_goes_on(served: Served) -> None:
    ident = await create(served, "cat", Tty=True, OpenStdin=True)
    client = await take(served, f"/containers/{ident}/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,d")
    assert "application/vnd.docker.raw-stream" in client.head
    await start(served, ident)
    client.writer.write(b"hello\n")
    assert await client.reader.readexactly(14) == b"hello\r\nhello\r\n"
    client.writer.write(b"\x01")
    await asyncio.sleep(0.05)
    client.writer.write(b"d")
    assert await client.reader.read() == b""
    client.writer.close()
    assert not served.engine.containers.processes[ident].code.done()


async def test_bad_detach_keys_are_an_error_before_anything_is_taken(served: Served) -> None:
    ident = await create(served, "cat")
    status, answer = await served.call("POST", f"/containers/{ident}/attach?stream=1&detachKeys=ctrl-9")
    assert (status, isinstance(answer, dict) and "Invalid detach keys" in answer["message"]) == (400, True)


async def test_exec_reads_its_body_first_and_tells_its_exit_code(served: Served) -> None:
    ident = await create(served, "sleep", "100")
    await start(served, ident)
    exec_id, client = await exec_start(served, ident, "sh", "-c", "cat; echo $V; exit 5", AttachStdin=True, Env=["V=x"])
    client.writer.write(b"in\n")
    client.writer.write_eof()
    assert await client.frames() == {1: b"in\nx\n", 2: b""}
    client.writer.close()
    _, found = await served.call("GET", f"/exec/{exec_id}/json")
    assert isinstance(found, dict)
    assert (found["Running"], found["ExitCode"], found["ProcessConfig"]["entrypoint"]) == (False, 5, "sh")
    assert (await served.call("POST", f"/exec/{exec_id}/start", json={"Detach": True}))[0] == 409


async def test_an_exec_that_does_not_start_says_why_on_the_stream(served: Served) -> None:
    ident = await create(served, "sleep", "100")
    await start(served, ident)
    exec_id, client = await exec_start(served, ident, "no-such-command")
    assert b"executable file not found" in (await client.frames())[1]
    client.writer.close()
    _, found = await served.call("GET", f"/exec/{exec_id}/json")
    assert isinstance(found, dict)
    assert found["ExitCode"] == 127


async def test_a_detached_exec_answers_at_once(served: Served) -> None:
    ident = await create(served, "sleep", "100")
    await start(served, ident)
    _, made = await served.call("POST", f"/containers/{ident}/exec", json={"Cmd": ["sleep", "100"]})
    assert isinstance(made, dict)
    assert await served.call("POST", f"/exec/{made['Id']}/start", json={"Detach": True}) == (200, None)
    _, found = await served.call("GET", f"/exec/{made['Id']}/json")
    assert isinstance(found, dict)
    assert found["Running"]


@pytest.mark.parametrize("body", [{}, {"Cmd": []}, {"Cmd": ["x"], "Env": ["=1"]}, {"Cmd": ["x"], "DetachKeys": "ab"}])
async def test_an_exec_that_is_none_is_refused(served: Served, body: dict[str, object]) -> None:
    ident = await create(served, "sleep", "100")
    await start(served, ident)
    assert (await served.call("POST", f"/containers/{ident}/exec", json=body))[0] == 400


async def test_terminals_are_resized(served: Served) -> None:
    ident = await create(served, "sh", "-c", "read x; stty size", Tty=True, OpenStdin=True)
    client = await take(served, f"/containers/{ident}/attach?stream=1&stdin=1&stdout=1")
    await start(served, ident)
    assert (await served.call("POST", f"/containers/{ident}/resize?h=33&w=77"))[0] == 200
    assert (await served.call("POST", f"/containers/{ident}/resize?h=-1&w=1"))[0] == 400
    client.writer.write(b"\n")
    assert (await client.reader.read()).endswith(b"33 77\r\n")
    client.writer.close()


def test_default_detach_keys() -> None:
    assert parse_detach_keys("") == b"\x10\x11"
    assert parse_detach_keys("ctrl-@,[,ctrl-\\,Q") == b"\0[\x1cQ"


@pytest.mark.parametrize("text", ["ab", "ctrl-", "ctrl-1", ",", "a,", "ä", ",".join("a" * 17)])
def test_detach_keys_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid detach keys"):
        parse_detach_keys(text)


@given(st.lists(st.binary(max_size=6).map(lambda raw: bytes(b"abc"[byte % 3] for byte in raw)), max_size=12),
       st.sampled_from([b"a", b"ab", b"aab", b"aba", b"cc"]))
def test_detach_keys_are_found_wherever_the_chunks_are_cut(chunks: list[bytes], keys: bytes) -> None:
    whole = b"".join(chunks)
    detector, passed, asked = DetachKeys(keys), b"", False
    for chunk in chunks:
        out, asked = detector.feed(chunk)
        passed += out
        if asked:
            break
    assert asked == (keys in whole)
    assert (passed if asked else passed + detector.flush()) == (whole[:whole.index(keys)] if asked else whole)


async def test_what_follows_the_head_does_not_come_with_it(served: Served) -> None:
    """A client that throws its read-ahead away must not lose output, however late it reads."""
    ident = await create(served, "sleep", "60")
    await start(served, ident)
    wanted = {"Cmd": ["echo", "hi"], "AttachStdout": True}
    _, answer = await served.call("POST", f"/containers/{ident}/exec", json=wanted)
    assert isinstance(answer, dict)
    body = b'{"Detach": false, "Tty": false}'
    request = (f"POST /exec/{answer['Id']}/start HTTP/1.1\r\n{UPGRADE}Content-Type: application/json\r\n"
               f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, str(served.socket))
        await loop.sock_sendall(sock, request)
        await asyncio.sleep(0.1)
        head = await loop.sock_recv(sock, 65536)
        assert head.endswith(b"\r\n\r\n")
        assert await loop.sock_recv(sock, 65536) == b"\x01\0\0\0\0\0\0\x03hi\n"
