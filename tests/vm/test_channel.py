"""The channel against the real agent in a real machine: flow control, cut connections, the seccomp profile."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from hyperstack.engine.logs.file import STDERR, STDOUT, LogFile
from hyperstack.engine.logs.reader import read_chunks
from hyperstack.guest.channel import DEFAULT_WINDOW
from hyperstack.guest.linux import capability_numbers
from hyperstack.guest.messages import ProcessStatus
from hyperstack.guest.seccomp import default_profile
from hyperstack.pod.errors import Conflict, GuestError, Unavailable
from hyperstack.pod.spec import DEFAULT_CAPABILITIES
from tests.vm.agent_vm import Collector, Guest, boot, busybox_root, make_layer, process

LINES = 6000
pytestmark = pytest.mark.asyncio(loop_scope="module")

TALK = f"""
i=0
while [ $i -lt {LINES} ]; do
    echo "line $i ........................................................................................."
    [ $((i % 10)) = 0 ] && echo "error $i" >&2
    i=$((i + 1))
done
exit 7
"""


@contextlib.asynccontextmanager
async def machine_with_a_container(directory: Path) -> AsyncIterator[Guest]:
    layer = make_layer(busybox_root(directory / "root"), directory / "layer")
    async with boot(directory, [("layer0", layer, True)]) as guest:
        await guest.create("c")
        await guest.channel.start("c", guest.handle(), process("sleep", "3600"))
        yield guest


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guest]:
    """With one running container, `c`; booted once, as that takes the longest."""
    async with machine_with_a_container(tmp_path_factory.mktemp("machine")) as guest:
        yield guest


@pytest_asyncio.fixture(loop_scope="module")
async def guest(machine: Guest) -> Guest:
    """The machine on a good connection, whatever the test before did to it."""
    if machine.channel.closed.done():
        await machine.connect()
    return machine


class LogSink:
    def __init__(self, log: LogFile) -> None:
        self._log = log
        self._open = {STDOUT, STDERR}
        self.ended = asyncio.Event()
        self.taken = 0

    async def write(self, stream: int, offset: int, data: bytes) -> None:
        self._log.append(stream, offset, data, 1)
        self.taken += len(data)

    async def eof(self, stream: int, offset: int) -> None:
        assert offset == self._log.next_offset(stream)
        self._open.discard(stream)
        if not self._open:
            self.ended.set()


async def follow_for(guest: Guest, handle: int, path: Path, seconds: float) -> tuple[bool, int]:
    """A daemon that lives so long: whether it saw the streams end, and how much it took."""
    log = LogFile.open(path)
    try:
        await guest.connect()
        sink = LogSink(log)
        await guest.channel.attach(handle, sink, stdout=log.next_offset(STDOUT), stderr=log.next_offset(STDERR))
        try:
            async with asyncio.timeout(seconds):
                await sink.ended.wait()
        except TimeoutError:
            pass
        await guest.channel.close()
        return sink.ended.is_set(), sink.taken
    finally:
        log.close()


async def status_of(guest: Guest, handle: int) -> ProcessStatus:
    return next(status for status in (await guest.channel.list_all()).processes if status.handle == handle)


async def test_output_is_exact_over_connections_that_are_cut(guest: Guest, tmp_path: Path) -> None:
    choose = random.Random(1)
    handle = guest.handle()
    await guest.channel.exec("c", handle, process("sh", "-c", TALK))
    await guest.channel.close()
    cuts, whole = 0, False
    while not whole:
        whole, taken = await follow_for(guest, handle, tmp_path / "log", choose.choice([0.01, 0.05, 0.2]))
        cuts += not whole and taken > 0
    await guest.connect()
    while (ended := await status_of(guest, handle)).running:
        await asyncio.sleep(0.01)  # its streams end a little before it does
    await guest.channel.release(handle)
    assert ended.code == 7
    assert cuts >= 3, "the test cut nothing"
    log = LogFile.open(tmp_path / "log")
    stored = {stream: b"".join([record.data async for record in read_chunks(log, streams={stream})])
              for stream in (STDOUT, STDERR)}
    assert stored[STDOUT].splitlines() == [b"line %d %s" % (number, b"." * 89) for number in range(LINES)]
    assert stored[STDERR].splitlines() == [b"error %d" % number for number in range(0, LINES, 10)]


async def test_what_is_piped_through_a_process_comes_back(guest: Guest) -> None:
    blob = os.urandom(2 << 20)
    handle, sink = await guest.begin("c", "cat", further=True, stdin=blob)
    event = await guest.finish(handle, sink)
    assert event.code == 0
    assert hashlib.sha256(sink.data[STDOUT]).digest() == hashlib.sha256(blob).digest()


async def test_a_process_that_closes_its_input_refuses_more(guest: Guest) -> None:
    handle, sink = guest.handle(), Collector()
    await guest.channel.exec("c", handle, process("sh", "-c", "exec <&-; sleep 1; echo done", stdin=True))
    await guest.channel.attach(handle, sink, stdout=0, stderr=0)
    with pytest.raises(Conflict):
        await asyncio.wait_for(guest.channel.write_stdin(handle, bytes(1 << 20)), 60)
    await guest.finish(handle, sink)
    assert sink.out == "done\n"


async def test_a_slow_sink_stalls_only_its_own_process(guest: Guest) -> None:
    class Stalled(Collector):
        async def write(self, stream: int, offset: int, data: bytes) -> None:
            await asyncio.sleep(3600)

    handle = guest.handle()
    await guest.channel.exec("c", handle, process("yes"))
    await guest.channel.attach(handle, Stalled(), stdout=0, stderr=0)
    assert await guest.shell("c", "seq 1 20000 | md5sum") == f"{hashlib.md5(sequence(20000)).hexdigest()}  -\n"
    assert await guest.shell("c", "seq 1 20000") == sequence(20000).decode()
    status = await status_of(guest, handle)
    assert status.stdout.acknowledged == 0
    assert 0 < status.stdout.written <= DEFAULT_WINDOW
    await guest.channel.signal(handle, 9)
    assert (await guest.exited(handle)).signal == 9


def sequence(last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(1, last + 1))


async def test_the_default_seccomp_profile_holds_in_the_guest(guest: Guest) -> None:
    """With a capability that would allow it, so that only the filter can be what denies."""
    capabilities = frozenset(DEFAULT_CAPABILITIES) | {"CAP_SYS_ADMIN"}
    numbers = capability_numbers(capabilities)
    script = "mkdir -p /tmp/m && mount -t tmpfs none /tmp/m && echo mounted"
    assert await guest.shell("c", script, capabilities=numbers, seccomp=default_profile(capabilities)) == "mounted\n"
    event, sink = await guest.run("c", "sh", "-c", script, further=True, capabilities=numbers,
                                  seccomp=default_profile(frozenset(DEFAULT_CAPABILITIES)))
    assert event.code != 0
    assert "Operation not permitted" in sink.err or "permission denied" in sink.err
    assert await guest.shell("c", "grep Seccomp: /proc/self/status",
                             seccomp=default_profile(frozenset(DEFAULT_CAPABILITIES))) == "Seccomp:\t2\n"


async def test_a_dead_machine_fails_what_waits(tmp_path: Path) -> None:
    async with machine_with_a_container(tmp_path) as guest:
        sleeping, _ = await guest.begin("c", "sleep", "3600", further=True)
        guest.machine.kill()
        async with asyncio.timeout(30):
            assert isinstance(await asyncio.shield(guest.channel.closed), GuestError)
        with pytest.raises(GuestError):
            await guest.channel.signal(sleeping, 9)
        await guest.machine.wait()
        with pytest.raises(Unavailable, match="the machine has ended"):
            await guest.connect()
