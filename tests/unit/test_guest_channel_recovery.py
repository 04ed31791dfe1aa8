"""Exactly once: whatever connection dies and whenever, the log ends up with what the process wrote."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hyperstack.engine.logs.file import STDERR, STDOUT, LogFile
from hyperstack.engine.logs.reader import read_chunks
from hyperstack.guest.channel import AgentChannel
from hyperstack.pod.errors import GuestError
from tests.unit.guest_peer import KEY, Peer


class LogSink:
    """What the engine does with a container's output."""

    def __init__(self, log: LogFile) -> None:
        self._log = log
        self._open = {STDOUT, STDERR}
        self.ended = False
        self.over = asyncio.Event()

    async def write(self, stream: int, offset: int, data: bytes) -> None:
        self._log.append(stream, offset, data, 1)

    async def eof(self, stream: int, offset: int) -> None:
        assert offset == self._log.next_offset(stream)
        self._open.discard(stream)
        if not self._open:
            self.ended = True
            self.over.set()


async def follow_once(peer: Peer, path: Path, window: int) -> bool:
    """One life of a daemon: until the streams end (True), or the connection does."""
    log = LogFile.open(path)  # never closed: a killed daemon does not either
    try:
        channel = await AgentChannel.connect(peer.open, KEY, deadline_s=10, window=window)
        sink = LogSink(log)
        try:
            await channel.attach(1, sink, stdout=log.next_offset(STDOUT), stderr=log.next_offset(STDERR))
            channel.closed.add_done_callback(lambda _: sink.over.set())
            await sink.over.wait()
        finally:
            await channel.close()
        return sink.ended
    except GuestError:
        return False
    finally:
        log.close()


async def produce(peer: Peer, seed: int, outputs: dict[int, bytes]) -> None:
    """The process writes at its own pace, connected or not."""
    choose = random.Random(seed)
    offsets = dict.fromkeys(outputs, 0)
    while offsets:
        stream = choose.choice(list(offsets))
        start = offsets[stream]
        end = offsets[stream] = start + choose.randrange(1, 5000)
        peer.produce(1, stream, outputs[stream][start:end], end=end >= len(outputs[stream]))
        if end >= len(outputs[stream]):
            del offsets[stream]
        await asyncio.sleep(0)


async def run_through(path: Path, cuts: list[int], window: int, chunk: int, seed: int, sizes: tuple[int, int]) -> None:
    choose = random.Random(seed)
    outputs = {STDOUT: choose.randbytes(sizes[0]), STDERR: choose.randbytes(sizes[1])}
    peer = Peer(cuts=cuts, chunk=chunk)
    producing = asyncio.create_task(produce(peer, seed, outputs))
    async with asyncio.timeout(60):
        while not await follow_once(peer, path, window):
            assert peer.connections <= len(cuts)
        await producing
    await peer.close()
    log = LogFile.open(path)
    for stream, output in outputs.items():
        stored = b"".join([record.data async for record in read_chunks(log, streams={stream})])
        assert stored == output
        assert log.next_offset(stream) == len(output)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(52, 60_000), max_size=8), window=st.sampled_from([4096, 16384, 65536]),
       chunk=st.sampled_from([1000, 65536]), seed=st.integers(0, 2**32), sizes=st.tuples(*[st.integers(0, 60_000)] * 2))
def test_output_is_stored_exactly_once(cuts: list[int], window: int, chunk: int, seed: int, sizes: tuple[int, int]
                                       ) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run_through(Path(directory) / "c.log", cuts, window, chunk, seed, sizes))


async def test_a_connection_that_is_cut_within_the_welcome_is_made_again(tmp_path: Path) -> None:
    await run_through(tmp_path / "c.log", [1, 30, 51], 65536, 65536, 1, (1000, 10))
