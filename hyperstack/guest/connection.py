"""One connection to an agent: calls and their replies, events, and the streams of attached processes.

A reader task takes frames apart and never waits for anybody: replies resolve futures, output goes to bounded queues,
each emptied by a task of its own, events go to a bounded queue with one task. Whatever goes wrong on the wire, in
either direction, ends the connection once, with one `GuestError` that everybody who waits is given.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from hyperstack.guest import codec
from hyperstack.guest.frames import (
    STDIN,
    AckFrame,
    CallFrame,
    DataFrame,
    EofFrame,
    EventFrame,
    Frame,
    FrameParser,
    ReplyFrame,
    Side,
    Welcome,
    encode,
)
from hyperstack.guest.messages import Call, ErrorReply, Event, Reply
from hyperstack.guest.streams import Input, Output
from hyperstack.pod.errors import GuestError

logger = logging.getLogger(__name__)

_READ_SIZE = 1 << 18
_MAX_EVENTS = 4096
"""Events that may wait for `on_event`; a pod has at most some thousand processes to tell of at once."""
_MAX_ABANDONED = 1024
"""Calls without an answer whose callers have given up."""

_MAX_CALLS = 2**32 - 1

R = TypeVar("R", bound=Reply)
EventHandler = Callable[[Event], Awaitable[None]]


class GuestCallError(GuestError):
    """The agent refused a call, in good order: the connection goes on.

    :param errno: of Linux, as the guest gives it; 0 where it has none.
    """

    def __init__(self, operation: str, message: str, errno: int) -> None:
        super().__init__(f"the guest cannot {operation}: {_printable(message)}", field=operation, value=errno)
        self.operation = operation
        self.errno = errno
        self.reason = _printable(message)


def _printable(text: str) -> str:
    """A guest's words, safe for a terminal and a log."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:1024])


class Connection:
    """After the handshake. Made and driven by `AgentChannel`.

    :param window: bytes of unacknowledged output per stream, as told in the hello.
    :param early: bytes that came with the welcome.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, welcome: Welcome, *, window: int,
                 early: bytes, on_event: EventHandler | None) -> None:
        self.welcome = welcome
        self.window = window
        self.closed: asyncio.Future[GuestError | None] = asyncio.get_running_loop().create_future()
        """Done when the connection has ended and no sink is called any more: the reason, None after `close`."""
        self._reader = reader
        self._writer = writer
        self._parser = FrameParser(Side.HOST)
        self._failure: GuestError | None = None
        self._closing = False
        self._calls = 0
        self._pending: dict[int, asyncio.Future[bytes | None]] = {}
        """None is the end of the connection."""
        self._abandoned: set[int] = set()
        self._sending = asyncio.Lock()
        self._outputs: dict[int, Output] = {}
        self._inputs: dict[int, Input] = {}
        self._events: asyncio.Queue[Event] = asyncio.Queue(_MAX_EVENTS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._deliveries: dict[int, asyncio.Task[None]] = {}
        if on_event:
            self._spawn(self._tell(on_event), "agent events").add_done_callback(
                lambda _: self.fail(GuestError("events of the guest's agent are no longer handled")))
        self._receiver = asyncio.create_task(self._main(early), name="agent receiver")

    # --- calls ---

    async def call(self, call: Call, reply: type[R], deadline_s: float) -> R:
        """:raise GuestCallError: the agent refused. :raise GuestError: it is silent, gone or garbled.

        :raise InvalidArgument: the call does not fit into a frame.
        """
        payload = codec.encode_call(call)
        operation = codec.operation(call)
        self.check()
        number = self._next_number()
        answer = self._pending[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(deadline_s):
                await self.send(CallFrame(number, payload))
                answered = await answer
        except TimeoutError:
            raise GuestError(f"the guest did not answer {operation} within {deadline_s:g} s", field=operation,
                             value=deadline_s) from None
        finally:
            if self._pending.pop(number, None) is not None:
                self._abandon(number)
        if answered is None:
            raise self._reason()
        try:
            result = codec.decode_reply(answered, reply, operation)
        except GuestError as error:
            self.fail(error)
            raise
        if isinstance(result, ErrorReply):
            raise GuestCallError(operation, result.error, result.errno)
        return result

    def _next_number(self) -> int:
        if self._calls == _MAX_CALLS:
            self.fail(GuestError("all call numbers of the connection are used up", hint="Connect again."))
            self.check()
        self._calls += 1
        return self._calls

    def _abandon(self, number: int) -> None:
        """The caller has gone; the reply may still come."""
        self._abandoned.add(number)
        if len(self._abandoned) > _MAX_ABANDONED:
            self.fail(GuestError(f"the guest left {len(self._abandoned)} calls unanswered", field="calls"))

    async def send(self, frame: Frame) -> None:
        """Waits while the guest takes nothing. Cancelled, it has sent nothing.

        :raise GuestError: the connection ended.
        """
        async with self._sending:
            self.check()
            try:
                await self._writer.drain()
            except OSError as error:
                self.fail(GuestError(f"the connection to the guest's agent broke: {error}"))
            self.check()
            self._writer.write(encode(frame))

    def check(self) -> None:
        """:raise GuestError: the connection ended."""
        if self._failure:
            raise self._reason()

    def _reason(self) -> GuestError:
        """A new object for each who asks: a traceback grows on every one that is raised."""
        assert self._failure
        return GuestError(self._failure.message, field=self._failure.field, value=self._failure.value,
                          hint=self._failure.hint)

    # --- streams ---

    def add_output(self, handle: int, output: Output) -> None:
        self._outputs[handle] = output
        task = self._deliveries[handle] = self._spawn(output.deliver(), f"output of process {handle}")
        task.add_done_callback(lambda _: output.discard())

    def add_input(self, handle: int, stream: Input) -> None:
        self._inputs[handle] = stream

    def input(self, handle: int) -> Input | None:
        return self._inputs.get(handle)

    def has_output(self, handle: int) -> bool:
        return handle in self._outputs

    def forget(self, handle: int) -> None:
        """The guest will send nothing more of this process."""
        self._outputs.pop(handle, None)
        self._inputs.pop(handle, None)
        if task := self._deliveries.pop(handle, None):
            task.cancel()

    def discard(self, handle: int) -> None:
        """Deliver no more of what the guest may still send of this process."""
        if task := self._deliveries.pop(handle, None):
            task.cancel()

    # --- receiving ---

    async def _receive(self, early: bytes) -> None:
        """Until `fail`.

        :raise GuestError: the peer has gone or broke the protocol.
        """
        data = early
        while not self._failure:
            for frame in self._parser.feed(data):
                self._dispatch(frame)
            try:
                data = await self._reader.read(_READ_SIZE)
            except OSError as error:
                raise GuestError(f"the connection to the guest's agent broke: {error}") from error
            if not data:
                raise GuestError("the guest's agent port was closed")

    def _dispatch(self, frame: Frame) -> None:
        match frame:
            case DataFrame(stream, handle, offset, data):
                self._output(handle).data(stream, offset, data)
            case AckFrame(_, handle, offset):
                self._input(handle).acknowledge(offset)
            case EofFrame(stream, handle, offset):
                if stream == STDIN:
                    self._input(handle).refuse(offset)
                else:
                    self._output(handle).eof(stream, offset)
            case ReplyFrame(number, payload):
                self._resolve(number, payload)
            case EventFrame(payload):
                self._announce(codec.decode_event(payload))

    def _output(self, handle: int) -> Output:
        output = self._outputs.get(handle)
        if output is None:
            raise GuestError(f"output of process {handle}, which is not attached", field="handle", value=handle)
        return output

    def _input(self, handle: int) -> Input:
        stream = self._inputs.get(handle)
        if stream is None:
            raise GuestError(f"input of process {handle}, which is not attached, is acknowledged", field="handle",
                             value=handle)
        return stream

    def _resolve(self, number: int, payload: bytes) -> None:
        answer = self._pending.pop(number, None)
        if answer is not None:
            if not answer.done():
                answer.set_result(payload)
        elif number in self._abandoned:
            self._abandoned.remove(number)
        else:
            raise GuestError(f"reply to call {number}, which was not made or is answered already", field="call",
                             value=number)

    def _announce(self, event: Event) -> None:
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            raise GuestError(f"more than {_MAX_EVENTS} events at once", field="event") from None

    async def _tell(self, on_event: EventHandler) -> None:
        while True:
            await on_event(await self._events.get())

    # --- the end ---

    def fail(self, error: GuestError) -> None:
        """End the connection. The first reason stands; calls fail at once."""
        if not self._failure:
            self._note(error)
            self._writer.transport.abort()

    def _note(self, error: GuestError) -> None:
        if self._failure:
            return
        self._failure = error
        for answer in self._pending.values():
            if not answer.done():
                answer.set_result(None)
        for stream in self._inputs.values():
            stream.fail(self._reason())

    async def close(self) -> None:
        """Idempotent; when it returned, no sink and no event handler is called any more."""
        self._closing = True
        self.fail(GuestError("the connection to the guest's agent was closed by its user"))
        await asyncio.wait([self._receiver])

    async def _main(self, early: bytes) -> None:
        try:
            await self._receive(early)
        except GuestError as error:
            self._note(error)
        finally:
            # Whatever else ended it, a mistake of ours included: nobody waits for ever.
            self._note(GuestError("the connection to the guest's agent is no longer served"))
            self._writer.transport.abort()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not self.closed.done():
                self.closed.set_result(None if self._closing else self._failure)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._failure:
            logger.error("%s stopped: %s", task.get_name(), error, exc_info=error)
