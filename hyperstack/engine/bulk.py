"""Large archives into a machine and out of it, past the agent's stream.

The beginning of an archive goes by the stream, so that a small one costs nothing more. What the guest says of the rest
is a stranger's word: places are used in turn, sizes are checked, and what is in a place is copied before it is looked
at. docs/protocol.md, "Archives past the stream", has both ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from hyperstack.engine.machines.tray import NOTHING, PLACE, PLACES, TURN, Tray
from hyperstack.pod.errors import Conflict, GuestError

AFTER = 1024 * 1024
"""Bytes that go by the stream; guest/agent/bulk.h has the same."""
_RECORD = struct.Struct("<I")
"""How many bytes are in the next place."""
_BY_STREAM, _BY_TRAY = b"\0", b"\1"
"""The guest's answer to an offer."""
_EMPTIED = b"\1"


class Exchange:
    """The data of one archive process, which was started with `bulk`; in one direction.

    :param tell: writes to the process's standard input. :raise Conflict: it reads no more.
    """

    def __init__(self, tray: Tray, tell: Callable[[bytes], Awaitable[None]]) -> None:
        self._tray = tray
        self._tell = tell
        self._has_tray = False
        self._decided = b""
        self._filled = self._emptied = 0
        self._over = False
        self._changed = asyncio.Event()

    def close(self) -> None:
        """The process has ended. Idempotent."""
        if self._has_tray:
            self._has_tray = False
            self._tray.give_back()

    # --- out of the machine

    async def outward(self, output: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
        """The archive. :param output: the process's standard output. :raise GuestError: it is not of this protocol."""
        passed = 0
        async for chunk in output:
            passed += len(chunk)
            if passed > AFTER:
                raise GuestError("the guest sends more of an archive than was to go by the stream", field="archive")
            yield chunk
            if passed == AFTER:
                break
        else:
            return
        with contextlib.suppress(Conflict):  # that was all
            await self._offer()
        source = _Source(output)
        if not self._is_by_tray(await source.exactly(1)):
            async for chunk in source.rest():
                yield chunk
            return
        while record := await source.exactly(_RECORD.size):
            size = _RECORD.unpack(record)[0]
            if not 0 < size <= PLACE:
                raise GuestError(f"the guest has put {size} bytes into a place of {PLACE}", field="archive", value=size)
            data = self._tray.read(self._emptied, size)
            self._emptied += 1
            if self._emptied % TURN == 0:
                with contextlib.suppress(Conflict):  # it waits for no more places
                    await self._tell(TURN * _EMPTIED)
            yield data

    # --- into the machine

    async def inward(self, archive: AsyncIterator[bytes]) -> None:
        """Takes it to its end. :raise Conflict: the process takes no more of it."""
        passed = used = 0
        async for chunk in archive:
            rest = memoryview(chunk)
            if passed < AFTER:
                part, rest = rest[:AFTER - passed], rest[AFTER - passed:]
                passed += len(part)
                await self._tell(bytes(part))
            if rest and not self._decided:
                await self._offer()
                await self._until(lambda: bool(self._decided))
            if rest and self._decided == _BY_STREAM:
                await self._tell(bytes(rest))
                continue
            while rest:
                if not used:
                    await self._until(lambda: self._filled - self._emptied < PLACES)
                part, rest = rest[:PLACE - used], rest[PLACE - used:]
                self._tray.write(self._filled, used, part)
                used += len(part)
                if used == PLACE:
                    await self._fill(used)
                    used = 0
        if used:
            await self._fill(used)

    async def _fill(self, used: int) -> None:
        self._filled += 1  # before it is told: the guest may answer at once
        await self._tell(_RECORD.pack(used))

    def told(self, data: bytes) -> None:
        """What the process writes while it takes an archive. :raise GuestError: it is not of this protocol."""
        if not self._decided:
            self._is_by_tray(data[:1])
            self._decided, data = data[:1], data[1:]
        self._emptied += len(data)
        if self._emptied > self._filled:
            raise GuestError("the guest has emptied a place that was not filled", field="archive")
        self._changed.set()

    def over(self) -> None:
        """It writes no more."""
        self._over = True
        self._changed.set()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            if self._over:
                raise Conflict("the guest takes no more of the archive", field="archive")
            self._changed.clear()
            await self._changed.wait()

    async def _offer(self) -> None:
        offer = await self._tray.take()
        self._has_tray = bool(offer)
        await self._tell(offer or NOTHING)

    def _is_by_tray(self, word: bytes) -> bool:
        """Whether the guest takes the tray. :raise GuestError: it takes one that it was not offered."""
        if word not in (b"", _BY_STREAM, _BY_TRAY) or (word == _BY_TRAY and not self._has_tray):
            raise GuestError("the guest takes a tray that it was not offered", field="archive")
        return word == _BY_TRAY


class _Source:
    """Bytes of chunks."""

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        self._chunks = chunks
        self._kept = b""

    async def exactly(self, size: int) -> bytes:
        """Nothing at the end. :raise GuestError: it comes within."""
        while len(self._kept) < size:
            chunk = await anext(self._chunks, b"")
            if not chunk:
                break
            self._kept += chunk
        found, self._kept = self._kept[:size], self._kept[size:]
        if found and len(found) < size:
            raise GuestError("the guest's archive ends within a record", field="archive")
        return found

    async def rest(self) -> AsyncIterator[bytes]:
        if self._kept:
            yield self._kept
        async for chunk in self._chunks:
            yield chunk
