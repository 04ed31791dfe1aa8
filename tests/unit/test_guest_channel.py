"""The host's end of the agent protocol, against a small peer in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hyperstack.guest.channel import AgentChannel, GuestCallError
from hyperstack.guest.frames import MAX_MESSAGE, STDERR, STDIN, STDOUT, AckFrame, DataFrame, EofFrame
from hyperstack.guest.messages import Event, ExitEvent, Limits, OomEvent, Process
from hyperstack.pod.errors import Conflict, GuestError, InvalidArgument, Unavailable
from tests.unit.guest_peer import KEY, Handler, Peer

WINDOW = 65536
PROCESS = Process(argv=(b"/bin/true",), env=(), cwd=b"/", user=b"", tty=False, stdin=True, capabilities=(),
                  no_new_privileges=False, rlimits=((7, 1024, 2**64 - 1),))


class Collector:
    """A sink that keeps everything; `gate` holds it up."""

    def __init__(self) -> None:
        self.data = {STDOUT: bytearray(), STDERR: bytearray()}
        self.order: list[tuple[int, bytes]] = []
        self.ends: dict[int, int] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.ended = asyncio.Event()

    async def write(self, stream: int, offset: int, data: bytes) -> None:
        await self.gate.wait()
        assert offset == len(self.data[stream])
        self.data[stream] += data
        self.order.append((stream, data))

    async def eof(self, stream: int, offset: int) -> None:
        assert offset == len(self.data[stream])
        self.ends[stream] = offset
        if len(self.ends) == 2:
            self.ended.set()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    yield peer
    await peer.close()


@contextlib.asynccontextmanager
async def connected(peer: Peer, **keys: object) -> AsyncIterator[AgentChannel]:
    async with await AgentChannel.connect(peer.open, KEY, deadline_s=10, window=WINDOW, **keys) as channel:  # type: ignore[arg-type]  # optional keywords of connect
        yield channel


async def failure(channel: AgentChannel) -> str:
    async with asyncio.timeout(10):
        reason = await asyncio.shield(channel.closed)
    assert isinstance(reason, GuestError)
    return str(reason)


async def until(condition: object) -> None:
    """Let the loop run until a peer's side effect shows."""
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]  # a callable
            await asyncio.sleep(0)


async def test_a_call_is_answered_with_a_typed_reply(peer: Peer) -> None:
    peer.handlers["ping"] = lambda _: {"uptime_ns": 5, "agent": "1", "kernel": "6.1"}
    async with connected(peer) as channel:
        assert (await channel.ping()).kernel == "6.1"


async def test_optional_keys_are_not_sent(peer: Peer) -> None:
    peer.handlers["start"] = lambda _: {"pid": 7}
    async with connected(peer) as channel:
        assert await channel.start("c", 1, PROCESS) == 7
        await channel.update("c", Limits(memory=0))
    start, update = peer.calls
    assert "seccomp" not in start["process"]
    assert start["process"]["rlimits"] == [[7, 1024, 2**64 - 1]]
    assert update["limits"] == {"memory": 0}


async def test_a_refusal_carries_errno_and_leaves_the_connection(peer: Peer) -> None:
    peer.handlers["exec"] = lambda _: {"error": "no such\x1b[31m file", "errno": 2}
    async with connected(peer) as channel:
        with pytest.raises(GuestCallError) as caught:
            await channel.exec("c", 1, PROCESS)
        assert caught.value.errno == 2
        assert "\x1b" not in str(caught.value)
        await channel.sync()


async def test_a_call_too_large_for_a_frame_is_the_callers_mistake(peer: Peer) -> None:
    async with connected(peer) as channel:
        with pytest.raises(InvalidArgument, match="start takes"):
            await channel.start("c", 1, Process(
                argv=(b"x" * MAX_MESSAGE,), env=(), cwd=b"/", user=b"", tty=False, stdin=False, capabilities=(),
                no_new_privileges=False, rlimits=()))
        await channel.sync()


async def test_an_unanswered_call_times_out_and_its_late_reply_is_ignored(peer: Peer) -> None:
    peer.handlers["sync"] = lambda _: None
    async with connected(peer) as channel:
        with pytest.raises(GuestError, match="did not answer sync"):
            await channel.sync(deadline_s=0.05)
        peer.reply(peer.calls[0]["number"])
        await channel.remove("c")


async def test_pending_calls_fail_when_the_connection_dies(peer: Peer) -> None:
    peer.handlers["sync"] = lambda _: None
    async with connected(peer) as channel:
        calls = [asyncio.create_task(channel.sync()) for _ in range(3)]
        await until(lambda: len(peer.calls) == 3)
        peer.drop()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, GuestError)
        assert "closed" in await failure(channel)
        with pytest.raises(GuestError):
            await channel.sync()


async def test_closing_is_no_failure(peer: Peer) -> None:
    async with connected(peer) as channel:
        await channel.close()
        await channel.close()
        assert channel.closed.result() is None
        with pytest.raises(GuestError):
            await channel.ping()


async def test_the_welcome_is_found_behind_what_was_in_flight(peer: Peer) -> None:
    peer.noise = b"HYPERSTACK\x01\x01" + bytes(16) + b"\xff" * 300_000
    async with connected(peer) as channel:
        await channel.sync()


async def test_endless_garbage_instead_of_a_welcome_is_given_up(peer: Peer) -> None:
    peer.noise = bytes((8 << 20) + 70_000)
    with pytest.raises(GuestError, match="no welcome in the first"):
        await AgentChannel.connect(peer.open, KEY, deadline_s=10)


async def test_a_silent_guest_is_given_up_after_the_deadline(peer: Peer) -> None:
    peer.silent_hellos = 100
    with pytest.raises(GuestError, match="did not answer within"):
        await AgentChannel.connect(peer.open, KEY, deadline_s=0.1)


async def test_an_opener_that_is_not_ready_is_asked_again_but_not_one_that_knows_better(peer: Peer) -> None:
    refusals = [ConnectionRefusedError(), FileNotFoundError()]

    async def open_later() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if refusals:
            raise refusals.pop()
        return await peer.open()

    async def gone() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise Unavailable("the machine is gone")

    async with await AgentChannel.connect(open_later, KEY, deadline_s=10) as channel:
        await channel.sync()
    with pytest.raises(Unavailable, match="the machine is gone"):
        await AgentChannel.connect(gone, KEY, deadline_s=10)


async def test_output_arrives_whole_in_order_and_with_its_ends(peer: Peer) -> None:
    sink = Collector()
    blob = bytes(range(256)) * 4096
    async with connected(peer) as channel:
        await channel.attach(1, sink, stdout=0, stderr=0)
        peer.produce(1, STDERR, b"first")
        peer.produce(1, STDOUT, b"second")
        await until(lambda: sink.data[STDOUT])
        assert sink.order == [(STDERR, b"first"), (STDOUT, b"second")]
        peer.produce(1, STDOUT, blob, end=True)
        peer.produce(1, STDERR, b"", end=True)
        await sink.ended.wait()
        await until(lambda: peer.process(1).outputs[STDOUT].acknowledged == 6 + len(blob))
    assert sink.data[STDOUT] == b"second" + blob
    assert len(sink.order) < 64


async def test_nothing_is_acknowledged_before_the_sink_has_it(peer: Peer) -> None:
    sink = Collector()
    sink.gate.clear()
    async with connected(peer) as channel:
        await channel.attach(1, sink, stdout=0, stderr=None)
        peer.produce(1, STDOUT, bytes(10 * WINDOW))
        for _ in range(3):
            await channel.sync()
        assert peer.process(1).outputs[STDOUT].acknowledged == 0
        assert peer.process(1).outputs[STDOUT].sent == WINDOW
        sink.gate.set()
        await until(lambda: len(sink.data[STDOUT]) == 10 * WINDOW)


async def test_a_slow_sink_stalls_neither_other_processes_nor_calls(peer: Peer) -> None:
    slow, quick = Collector(), Collector()
    slow.gate.clear()
    async with connected(peer) as channel:
        await channel.attach(1, slow, stdout=0, stderr=0)
        await channel.attach(2, quick, stdout=0, stderr=0)
        peer.produce(1, STDOUT, bytes(10 * WINDOW))
        peer.produce(2, STDOUT, bytes(10 * WINDOW), end=True)
        peer.produce(2, STDERR, b"", end=True)
        await quick.ended.wait()
        await channel.sync()
        assert not slow.order


async def test_a_sink_that_raises_is_left_alone_and_its_bytes_stay_in_the_guest(peer: Peer) -> None:
    class Full(Collector):
        async def write(self, stream: int, offset: int, data: bytes) -> None:
            await super().write(stream, offset, data)
            raise OSError(28, "no space")

    sink = Full()
    async with connected(peer) as channel:
        await channel.attach(1, sink, stdout=0, stderr=None)
        peer.produce(1, STDOUT, b"one")
        await until(lambda: sink.order)
        peer.produce(1, STDOUT, b"two")
        await channel.sync()
        assert len(sink.order) == 1
        assert peer.process(1).outputs[STDOUT].acknowledged == 0


async def test_a_new_connection_continues_where_the_sink_is(peer: Peer) -> None:
    sink = Collector()
    async with connected(peer) as channel:
        await channel.attach(1, sink, stdout=0, stderr=0)
        peer.produce(1, STDOUT, b"before ")
        await until(lambda: sink.data[STDOUT])
    peer.produce(1, STDOUT, b"between ")
    async with connected(peer) as channel:
        await channel.attach(1, sink, stdout=7, stderr=0)
        peer.produce(1, STDOUT, b"after", end=True)
        peer.produce(1, STDERR, b"", end=True)
        await sink.ended.wait()
    assert sink.data[STDOUT] == b"before between after"


async def test_a_process_is_attached_once_and_a_refused_attachment_can_be_repeated(peer: Peer) -> None:
    async with connected(peer) as channel:
        with pytest.raises(GuestCallError) as caught:
            await channel.attach(1, Collector(), stdout=9, stderr=0)
        assert caught.value.errno == 22
        await channel.attach(1, Collector(), stdout=0, stderr=0)
        with pytest.raises(Conflict):
            await channel.attach(1, Collector(), stdout=0, stderr=0)
        await channel.release(1)
        await channel.attach(1, Collector(), stdout=0, stderr=0)


async def test_a_start_and_its_attachment_are_said_in_one_breath(peer: Peer) -> None:
    """The agent may answer the attachment first, as a start is answered after exec, and output may come before both."""
    def attach(call: dict[str, Any]) -> dict[str, Any]:
        start = peer.calls[-2]
        peer.process(1).outputs[STDOUT].data += b"early"
        peer.process(1).outputs[STDOUT].flowing = True
        asyncio.get_running_loop().call_soon(lambda: peer.reply(start["number"], pid=9))
        return {"stdin": 0, "stdin_closed": True}

    peer.handlers |= {"start": lambda _: None, "attach": attach}
    sink = Collector()
    async with connected(peer) as channel:
        assert await channel.start_attached("c", 1, PROCESS, sink, stdout=0, stderr=0) == 9
        await until(lambda: sink.data[STDOUT] == b"early")
    assert [call["op"] for call in peer.calls] == ["start", "attach"]


def answering(reply: dict[str, Any]) -> Handler:
    return lambda _: reply


async def test_of_a_refused_start_nothing_is_attached(peer: Peer) -> None:
    refusals = {"start": {"error": "no such file", "errno": 2}, "attach": {"error": "no process 1", "errno": 3}}
    sink = Collector()
    async with connected(peer) as channel:
        for accepted in ("attach", "nothing"):
            peer.handlers = {op: answering(words) for op, words in refusals.items() if op != accepted}
            with pytest.raises(GuestCallError, match="no such file"):
                await channel.start_attached("c", 1, PROCESS, sink, stdout=0, stderr=0)
        peer.handlers = {"start": lambda _: {"pid": 9}}
        peer.produce(1, STDOUT, b"x")
        assert await channel.start_attached("c", 1, PROCESS, sink, stdout=0, stderr=0) == 9
        await until(lambda: sink.data[STDOUT] == b"x")


async def test_input_waits_for_the_window(peer: Peer) -> None:
    peer.process(1).reads = False
    async with connected(peer) as channel:
        await channel.attach(1, Collector(), stdout=None, stderr=None)
        writing = asyncio.create_task(channel.write_stdin(1, b"x" * 200_000))
        await until(lambda: len(peer.process(1).stdin) == 65536)
        await channel.sync()
        assert not writing.done()
        peer.read_stdin(1)
        await writing
        await channel.close_stdin(1)
        await channel.close_stdin(1)
        await until(lambda: peer.process(1).stdin_ended)
        assert len(peer.process(1).stdin) == 200_000
        with pytest.raises(Conflict, match="was closed before"):
            await channel.write_stdin(1, b"more")


async def test_a_process_that_closed_its_input_refuses_more(peer: Peer) -> None:
    peer.process(1).reads = False
    async with connected(peer) as channel:
        with pytest.raises(Conflict, match="not attached"):
            await channel.write_stdin(1, b"x")
        await channel.attach(1, Collector(), stdout=None, stderr=None)
        writing = asyncio.create_task(channel.write_stdin(1, b"x" * 200_000))
        await until(lambda: len(peer.process(1).stdin) == 65536)
        peer.refuse_stdin(1)
        with pytest.raises(Conflict, match="closed its standard input"):
            await writing
        await channel.close_stdin(1)


async def test_a_waiting_writer_is_told_of_the_connections_end(peer: Peer) -> None:
    peer.process(1).reads = False
    async with connected(peer) as channel:
        await channel.attach(1, Collector(), stdout=None, stderr=None)
        writing = asyncio.create_task(channel.write_stdin(1, b"x" * 200_000))
        await until(lambda: len(peer.process(1).stdin) == 65536)
        peer.drop()
        with pytest.raises(GuestError):
            await writing


async def test_a_refusal_of_input_may_come_with_the_reply_to_attach(peer: Peer) -> None:
    def attach(_: object) -> None:
        number = peer.calls[-1]["number"]
        peer.reply(number, stdin=5, stdin_closed=False)
        peer.say(EofFrame(STDIN, 1, 5))

    peer.handlers["attach"] = attach
    async with connected(peer) as channel:
        await channel.attach(1, Collector(), stdout=0, stderr=0)
        with pytest.raises(Conflict):
            await channel.write_stdin(1, b"x")


async def test_events_reach_the_handler_in_order(peer: Peer) -> None:
    seen: list[Event] = []

    async def on_event(event: Event) -> None:
        seen.append(event)

    async with connected(peer, on_event=on_event) as channel:
        peer.event(event="oom", container="c")
        peer.event(event="exit", handle=999, code=0, signal=9, oom=True, time_ns=1)
        await channel.sync()
        await until(lambda: len(seen) == 2)
    assert seen == [OomEvent(container="c"), ExitEvent(handle=999, code=0, signal=9, oom=True, time_ns=1)]


async def test_a_handler_may_make_calls(peer: Peer) -> None:
    done = asyncio.Event()

    async def on_event(event: Event) -> None:
        await channel.sync()
        done.set()

    async with connected(peer, on_event=on_event) as channel:
        peer.event(event="oom", container="c")
        async with asyncio.timeout(10):
            await done.wait()


async def test_a_flood_of_events_ends_the_connection(peer: Peer) -> None:
    async def on_event(_: Event) -> None:
        await asyncio.sleep(3600)

    async with connected(peer, on_event=on_event) as channel:
        for _ in range(5000):
            peer.event(event="oom", container="c")
        assert "events at once" in await failure(channel)


VIOLATIONS = {
    "reply to a call nobody made": lambda peer: peer.reply(77),
    "second reply": lambda peer: peer.reply(1),
    "event without a type": lambda peer: peer.event(a=1),
    "event with an unknown key": lambda peer: peer.event(event="oom", container="c", more=1),
    "output of an unknown process": lambda peer: peer.say(DataFrame(STDOUT, 5, 0, b"x")),
    "end of an unknown process's output": lambda peer: peer.say(EofFrame(STDOUT, 5, 0)),
    "acknowledgement for an unknown process": lambda peer: peer.say(AckFrame(STDIN, 5, 0)),
    "output of a stream that is not attached": lambda peer: peer.say(DataFrame(STDERR, 1, 0, b"x")),
    "a gap": lambda peer: peer.say(DataFrame(STDOUT, 1, 1, b"x")),
    "an end elsewhere": lambda peer: peer.say(EofFrame(STDOUT, 1, 9)),
    "more than the window": lambda peer: [peer.say(DataFrame(STDOUT, 1, at * 65536, bytes(65536)))
                                          for at in range(3)],
    "output after its end": lambda peer: [peer.say(EofFrame(STDOUT, 1, 0)), peer.say(DataFrame(STDOUT, 1, 0, b"x"))],
    "acknowledged input that was not sent": lambda peer: peer.say(AckFrame(STDIN, 1, 1)),
    "input closed after what was not sent": lambda peer: peer.say(EofFrame(STDIN, 1, 1)),
    "garbage": lambda peer: peer.send(b"\xff" * 64),
}


@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS.keys())
async def test_a_violation_ends_the_connection(peer: Peer, violation: object) -> None:
    sink = Collector()
    sink.gate.clear()
    async with connected(peer) as channel:
        await channel.attach(1, sink, stdout=0, stderr=None)
        violation(peer)  # type: ignore[operator]  # a callable
        await failure(channel)
        with pytest.raises(GuestError):
            await channel.sync()
