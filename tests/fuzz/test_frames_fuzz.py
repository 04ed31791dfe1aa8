"""Coverage-guided fuzzing of what a guest can send, for a bounded time: `pytest tests/fuzz/test_frames_fuzz.py`.

libFuzzer ends its process, so each target runs in one of its own: `python -m tests.fuzz.test_frames_fuzz TARGET
[libFuzzer options] [corpus]` fuzzes for as long as one likes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.fuzz.atheris_run import fuzz, run_target

SECONDS = 4
KEY = bytes(16)


def frames(data: bytes) -> None:
    """The parser says the same however the bytes are cut, and buffers no more than a frame."""
    from hyperstack.guest.frames import MAX_MESSAGE, FrameParser, Side
    from hyperstack.pod.errors import GuestError

    def outcome(pieces: list[bytes]) -> str:
        parser = FrameParser(Side.HOST)
        found = []
        try:
            for piece in pieces:
                found += parser.feed(piece)
                assert parser.buffered <= MAX_MESSAGE + 8
        except GuestError as error:
            return str(error)
        return repr(found)

    cut = data[0] if data else 0
    assert outcome([data]) == outcome([data[:cut], data[cut:cut + 7], data[cut + 7:]])


def documents(data: bytes) -> None:
    """A reply or event has its type or is refused as the guest's fault."""
    from hyperstack.guest import codec, messages
    from hyperstack.pod.errors import GuestError

    replies = [messages.Reply, messages.PingReply, messages.ConfigureReply, messages.AttachReply, messages.StatsReply,
               messages.ProcessesReply, messages.ArchiveStatReply, messages.ListReply]
    choice = data[0] if data else 0
    try:
        if choice % 9 == 8:
            codec.decode_event(data[1:])
        else:
            codec.decode_reply(data[1:], replies[choice % 9], "op")
    except GuestError:
        pass


def connection(data: bytes) -> None:
    """A whole connection with one attached process ends in good order, whatever follows the handshake."""
    _loop.run_until_complete(_connect_and_feed(data))


_loop = asyncio.new_event_loop()


async def _connect_and_feed(data: bytes) -> None:
    from hyperstack.guest.channel import AgentChannel
    from hyperstack.guest.frames import HELLO_SIZE, WELCOME_MAGIC, ReplyFrame, encode
    from hyperstack.pod.errors import GuestError

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    received = {1: 0, 2: 0}

    class Sink:
        async def write(self, stream: int, offset: int, data: bytes) -> None:
            assert offset == received[stream]
            received[stream] += len(data)

        async def eof(self, stream: int, offset: int) -> None:
            assert offset == received[stream]

    async def answer() -> None:
        hello = await _loop.sock_recv(theirs, HELLO_SIZE)
        attached = msgspec.msgpack.encode({"stdin": 0, "stdin_closed": False})
        await _loop.sock_sendall(theirs, b"".join((
            WELCOME_MAGIC, hello[28:44], bytes(8), (4096).to_bytes(4, "little"), bytes(12),
            encode(ReplyFrame(1, attached)) if data[:1] != b"\x00" else b"", data)))
        theirs.shutdown(socket.SHUT_WR)

    async def on_event(_: object) -> None:
        return

    answering = asyncio.create_task(answer())
    try:
        channel = await AgentChannel.connect(lambda: asyncio.open_connection(sock=ours), KEY, deadline_s=10,
                                             window=4096, on_event=on_event)
        async with channel:
            try:
                await channel.attach(1, Sink(), stdout=0, stderr=0)
                await channel.write_stdin(1, b"x" * 5000)
            except GuestError:
                pass
            reason = await asyncio.wait_for(asyncio.shield(channel.closed), 10)
            assert isinstance(reason, GuestError)
            assert not channel.closed.cancelled()
    finally:
        await answering
        theirs.close()


TARGETS: dict[str, Callable[[bytes], None]] = {"frames": frames, "documents": documents, "connection": connection}


def seeds() -> list[bytes]:
    """Legal input, for the fuzzer to start from."""
    from hyperstack.guest.frames import AckFrame, DataFrame, EofFrame, EventFrame, Frame, ReplyFrame, encode

    exited = {"event": "exit", "handle": 1, "code": 0, "signal": 0, "oom": False, "time_ns": 1}
    listing = {"containers": [{"id": "c", "handle": 1, "paused": False, "oom_kills": 0}], "processes": [
        {"handle": 1, "container": "c", "pid": 5, "running": False, "code": 0, "signal": 9, "oom": True, "exit_ns": 1,
         "stdin": 0, "stdout": [1, 2, True], "stderr": [0, 0, True]}]}
    said: list[Frame] = [
        DataFrame(1, 1, 0, b"output"), DataFrame(2, 1, 0, b"error"), AckFrame(0, 1, 100), EofFrame(1, 1, 6),
        EofFrame(0, 1, 0), EventFrame(msgspec.msgpack.encode(exited)), ReplyFrame(1, b"\x80"),
        ReplyFrame(1, msgspec.msgpack.encode({"error": "no", "errno": 2}))]
    return [*map(encode, said), b"".join(map(encode, said)), b"\x08" + msgspec.msgpack.encode(exited),
            b"\x07" + msgspec.msgpack.encode(listing)]


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_a_guest_sends_is_more_than_a_guest_error(target: str, tmp_path: Path) -> None:
    run_target("tests.fuzz.test_frames_fuzz", target, seeds(), tmp_path, seconds=SECONDS, max_len=4096,
               rss_limit_mb=1024)


if __name__ == "__main__":
    fuzz(TARGETS, "hyperstack.guest", ["hyperstack.guest.channel"])
