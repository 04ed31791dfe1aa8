"""A small agent for tests: speaks docs/protocol.md over a socketpair, in this process, and survives its connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from hyperstack.guest.frames import (
    HELLO_MAGIC,
    HELLO_SIZE,
    KEY_SIZE,
    MAX_DATA,
    STDERR,
    STDIN,
    STDOUT,
    WELCOME_MAGIC,
    AckFrame,
    CallFrame,
    DataFrame,
    EofFrame,
    EventFrame,
    Frame,
    FrameParser,
    ReplyFrame,
    Side,
    encode,
)

KEY = bytes(range(KEY_SIZE))
Handler = Callable[[dict[str, Any]], dict[str, Any] | None]


@dataclass
class PeerStream:
    """Everything that a process ever wrote to one stream, and how far the host has it."""

    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    acknowledged: int = 0
    sent: int = 0
    eof_sent: bool = False
    flowing: bool = False


@dataclass
class PeerProcess:
    outputs: dict[int, PeerStream] = field(default_factory=lambda: {STDOUT: PeerStream(), STDERR: PeerStream()})
    stdin: bytearray = field(default_factory=bytearray)
    stdin_ended: bool = False
    stdin_refused: bool = False
    reads: bool = True
    """False: input is not acknowledged."""


class Peer:
    """:param cuts: bytes after which each connection in turn is cut, in the middle of whatever it says."""

    def __init__(self, *, cuts: list[int] | None = None, window: int = 65536, chunk: int = MAX_DATA) -> None:
        self.processes: dict[int, PeerProcess] = {}
        self.handlers: dict[str, Handler] = {}
        self.calls: list[dict[str, Any]] = []
        self.connections = 0
        self.noise = b""
        """Sent before each welcome, as if left over from an earlier connection."""
        self.silent_hellos = 0
        """So many hellos are not answered."""
        self._cuts = cuts or []
        self._window = window
        self._chunk = chunk
        self._host_window = 0
        self._budget = 0
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """An `Opener`."""
        await self.close()
        ours, theirs = socket.socketpair()
        streams = await asyncio.open_connection(sock=ours)
        self._task = asyncio.create_task(self._serve(theirs))
        return streams

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def drop(self) -> None:
        """End the connection as a dying VMM does."""
        if self._writer:
            self._writer.transport.abort()

    def process(self, handle: int) -> PeerProcess:
        return self.processes.setdefault(handle, PeerProcess())

    def produce(self, handle: int, stream: int, data: bytes, *, end: bool = False) -> None:
        output = self.process(handle).outputs[stream]
        output.data += data
        output.ended |= end
        self._pump()

    def refuse_stdin(self, handle: int) -> None:
        process = self.process(handle)
        process.stdin_refused = True
        self.say(EofFrame(STDIN, handle, len(process.stdin)))

    def read_stdin(self, handle: int) -> None:
        """Acknowledge what has arrived."""
        process = self.process(handle)
        process.reads = True
        self.say(AckFrame(STDIN, handle, len(process.stdin)))

    def event(self, **keys: Any) -> None:
        self.say(EventFrame(msgspec.msgpack.encode(keys)))

    def reply(self, number: int, **keys: Any) -> None:
        self.say(ReplyFrame(number, msgspec.msgpack.encode(keys)))

    def say(self, frame: Frame) -> None:
        self.send(encode(frame))

    def send(self, data: bytes) -> None:
        if self._writer is None or self._writer.is_closing():
            return
        self._writer.write(data[:self._budget])
        self._budget -= len(data)
        if self._budget <= 0:
            self._writer.close()

    async def _serve(self, sock: socket.socket) -> None:
        reader, self._writer = await asyncio.open_connection(sock=sock)
        self._budget = self._cuts[self.connections] if self.connections < len(self._cuts) else 1 << 40
        self.connections += 1
        try:
            hello = await reader.readexactly(HELLO_SIZE)
            assert hello.startswith(HELLO_MAGIC + KEY), "the host begins with a hello and its key"
            if self.silent_hellos:
                self.silent_hellos -= 1
                await asyncio.sleep(3600)
            self._host_window = int.from_bytes(hello[48:52], "little")
            self._forget_connection()
            self.send(self.noise)
            self.send(WELCOME_MAGIC + hello[28:44] + bytes(8) + self._window.to_bytes(4, "little") + bytes(12))
            parser = FrameParser(Side.GUEST)
            while data := await reader.read(65536):
                for frame in parser.feed(data):
                    self._handle(frame)
                self._pump()
        except (OSError, EOFError):
            pass
        finally:
            self._writer.transport.abort()

    def _forget_connection(self) -> None:
        for process in self.processes.values():
            for output in process.outputs.values():
                output.flowing = output.eof_sent = False

    def _handle(self, frame: Frame) -> None:
        match frame:
            case CallFrame(number, payload):
                call = msgspec.msgpack.decode(payload)
                self.calls.append({**call, "number": number})
                handler = self.handlers.get(call["op"], self._attach if call["op"] == "attach" else lambda _: {})
                answer = handler(call)
                if answer is not None:
                    self.reply(number, **answer)
            case DataFrame(_, handle, offset, data):
                process = self.process(handle)
                assert offset == len(process.stdin), "input continues exactly"
                process.stdin += data
                if process.reads:
                    self.say(AckFrame(STDIN, handle, len(process.stdin)))
            case AckFrame(stream, handle, offset):
                output = self.process(handle).outputs[stream]
                assert output.acknowledged <= offset <= output.sent, "only what was sent is acknowledged"
                output.acknowledged = offset
            case EofFrame(_, handle, offset):
                assert offset == len(self.process(handle).stdin)
                self.process(handle).stdin_ended = True

    def _attach(self, call: dict[str, Any]) -> dict[str, Any]:
        process = self.process(call["handle"])
        for stream, key in ((STDOUT, "stdout"), (STDERR, "stderr")):
            if key in call:
                output = process.outputs[stream]
                if not output.acknowledged <= call[key] <= len(output.data):
                    return {"error": "offset out of range", "errno": 22}
                output.sent = output.acknowledged = call[key]
                output.flowing = True
        return {"stdin": len(process.stdin), "stdin_closed": process.stdin_refused or process.stdin_ended}

    def _pump(self) -> None:
        for handle, process in self.processes.items():
            for stream, output in process.outputs.items():
                self._pump_stream(handle, stream, output)

    def _pump_stream(self, handle: int, stream: int, output: PeerStream) -> None:
        if not output.flowing:
            return
        while room := min(self._chunk, len(output.data) - output.sent,
                          output.acknowledged + self._host_window - output.sent):
            data = bytes(output.data[output.sent:output.sent + room])
            self.say(DataFrame(stream, handle, output.sent, data))
            output.sent += room
        if output.ended and output.sent == len(output.data) and not output.eof_sent:
            output.eof_sent = True
            self.say(EofFrame(stream, handle, output.sent))
