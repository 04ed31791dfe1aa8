"""Large archives pass a guest's memory, which says where, how much, and when, and may say anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.engine.bulk import AFTER, Exchange
from hyperstack.engine.machines.tray import NOTHING, PLACE, PLACES, Tray
from hyperstack.hypervisor.api import Disk
from hyperstack.pod.errors import Conflict, GuestError, Unavailable


class Port:
    """As much of a machine as a tray needs; the guest's disk is `disk`."""

    id = "0" * 64

    def __init__(self, *, has_room: bool = True) -> None:
        self.disk = -1
        self._has_room = has_room

    async def detach_disks(self, prefix: str) -> None:
        assert self.disk < 0, f"{prefix} is plugged in once"

    async def attach_disk(self, disk: Disk) -> None:
        if not self._has_room:
            raise Unavailable("no room")
        self.disk, self.serial = os.dup(disk.fd), disk.serial


@contextlib.contextmanager
def trays(*, has_room: bool = True) -> Iterator[tuple[Tray, Port]]:
    port = Port(has_room=has_room)
    tray = Tray(port)  # type: ignore[arg-type]
    try:
        yield tray, port
    finally:
        tray.close()
        if port.disk >= 0:
            os.close(port.disk)


class Teller:
    """What the process is told."""

    def __init__(self) -> None:
        self.told = b""

    async def __call__(self, data: bytes) -> None:
        self.told += data


async def chunks(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


async def gathered(tray: Tray, teller: Teller, *pieces: bytes) -> bytes:
    return b"".join([chunk async for chunk in Exchange(tray, teller).outward(chunks(*pieces))])


BEGINNING = os.urandom(4096) * (AFTER // 4096)


async def test_an_archive_comes_out_by_places_in_turn() -> None:
    rounds = [os.urandom(size) for size in (PLACE, 1, PLACE, 700, PLACE, PLACE - 1)]
    with trays() as (tray, port):
        teller = Teller()

        async def output() -> AsyncIterator[bytes]:
            yield BEGINNING
            assert teller.told == port.serial.encode().ljust(20, b"\0"), "it is offered a tray"
            yield b"\1"
            for turn, data in enumerate(rounds):
                os.pwrite(port.disk, data, turn % PLACES * PLACE)
                yield struct.pack("<I", len(data))

        exchange = Exchange(tray, teller)
        got = b"".join([chunk async for chunk in exchange.outward(output())])  # type: ignore[arg-type]
        assert got == BEGINNING + b"".join(rounds)
        assert teller.told[20:] == b"\1" * len(rounds)
        exchange.close()
        assert os.fstat(port.disk).st_blocks == 0, "its memory is given back"


@pytest.mark.parametrize("rest", [
    b"\2", b"\1" + struct.pack("<I", 0), b"\1" + struct.pack("<I", PLACE + 1), b"\1" + struct.pack("<I", 2**32 - 1),
    b"\1\1"])
async def test_what_a_guest_says_wrong_of_its_places_ends_the_archive(rest: bytes) -> None:
    with trays() as (tray, _), pytest.raises(GuestError):
        await gathered(tray, Teller(), BEGINNING, rest)


async def test_more_than_the_stream_is_to_carry_is_refused() -> None:
    with trays() as (tray, _), pytest.raises(GuestError, match="more of an archive"):
        await gathered(tray, Teller(), BEGINNING + b"\1")


async def test_a_tray_that_was_not_offered_is_not_taken() -> None:
    with trays(has_room=False) as (tray, _):
        assert await gathered(tray, Teller(), BEGINNING, b"\0", b"rest") == BEGINNING + b"rest"
        with pytest.raises(GuestError, match="not offered"):
            await gathered(tray, Teller(), BEGINNING, b"\1")


@given(st.lists(st.binary(min_size=1, max_size=64), max_size=8))
async def test_whatever_a_guest_says_ends_in_an_archive_or_an_error(pieces: Sequence[bytes]) -> None:
    with trays() as (tray, _), contextlib.suppress(GuestError):
        got = await gathered(tray, Teller(), BEGINNING, *pieces)
        assert len(got) <= len(BEGINNING) + len(b"".join(pieces)) * PLACE


async def test_one_archive_at_a_time_has_the_tray() -> None:
    with trays() as (tray, _):
        assert await tray.take()
        teller = Teller()
        assert await gathered(tray, teller, BEGINNING, b"\0", b"rest") == BEGINNING + b"rest"
        assert teller.told == NOTHING
        tray.give_back()
        assert await tray.take()


class Unpacker:
    """A process that takes an archive as the agent's does. :param places: that it empties before it goes silent."""

    def __init__(self, port: Port, *, by_tray: bool = True, places: int = 2**31) -> None:
        self.exchange: Exchange | None = None
        self.got = b""
        self._port = port
        self._by_tray, self._places = by_tray, places
        self._records = b""
        self._turn = 0
        self._decided = False

    async def __call__(self, data: bytes) -> None:
        assert self.exchange is not None
        if len(self.got) < AFTER or (self._decided and not self._by_tray):
            self.got += data
        elif not self._decided:
            assert len(data) == 20
            self._decided = True
            self.exchange.told(b"\1" if self._by_tray else b"\0")
        else:
            self._records += data
            size = struct.unpack("<I", data)[0]
            self.got += os.pread(self._port.disk, size, self._turn % PLACES * PLACE)
            self._turn += 1
            if self._turn <= self._places:
                self.exchange.told(b"\1")


@pytest.mark.parametrize("by_tray", [True, False])
@pytest.mark.parametrize("size", [0, 1, AFTER - 1, AFTER, AFTER + 1, AFTER + PLACE, AFTER + 9 * PLACE + 5])
async def test_an_archive_goes_in_whole(size: int, by_tray: bool) -> None:
    archive = os.urandom(size)
    with trays() as (tray, port):
        unpacker = Unpacker(port, by_tray=by_tray)
        unpacker.exchange = Exchange(tray, unpacker)
        await unpacker.exchange.inward(chunks(*(archive[at:at + 100_003] for at in range(0, size, 100_003))))
    assert unpacker.got == archive


async def test_places_that_are_not_emptied_are_not_written_to() -> None:
    with trays() as (tray, port):
        unpacker = Unpacker(port, places=0)
        exchange = unpacker.exchange = Exchange(tray, unpacker)
        going = asyncio.ensure_future(exchange.inward(chunks(bytes(AFTER + 2 * PLACES * PLACE))))
        while len(unpacker.got) < AFTER + PLACES * PLACE:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(unpacker.got) == AFTER + PLACES * PLACE
        exchange.over()
        with pytest.raises(Conflict):
            await going


async def test_a_place_cannot_be_emptied_before_it_is_filled() -> None:
    with trays() as (tray, _):
        exchange = Exchange(tray, Teller())
        exchange.told(b"\0")
        with pytest.raises(GuestError, match="not filled"):
            exchange.told(b"\1")


async def test_nothing_is_read_or_written_once_the_machine_is_gone() -> None:
    with trays() as (tray, _):
        assert await tray.take()
        tray.close()
        with pytest.raises(GuestError, match="gone"):
            tray.read(0, 1)
        with pytest.raises(GuestError, match="gone"):
            tray.write(0, 0, memoryview(b"x"))
        assert not await tray.take()
