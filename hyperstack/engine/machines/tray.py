"""A machine's tray for archives: a piece of memory that its guest sees as a disk, plugged in when one first needs it.

It stays plugged in, and gives its memory back after each archive. Its size is sealed, so that nobody who holds it can
cut it off under another; it is the one guest's, which may write what it likes to it at any time.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import secrets

from hyperstack.guest.tray import open_tray
from hyperstack.hypervisor.api import Disk, Machine
from hyperstack.pod.errors import GuestError, HyperStackError

log = logging.getLogger(__name__)

PLACES, PLACE = 4, 1024 * 1024
TURN = 2
"""As in guest/agent/bulk.h: how many, bytes of each, and how many are emptied before that is said."""
_NAME = "bulk"
_SERIAL_SIZE = 20
NOTHING = bytes(_SERIAL_SIZE)
"""An offer of no tray."""


class Tray:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._fd = -1
        self._serial = ""
        self._taken = self._closed = False

    async def take(self) -> bytes:
        """For one archive, until `give_back`: what the guest is told of it. Empty where another has it, or where there
        is none to be had."""
        if self._taken or self._closed:
            return b""
        self._taken = True
        try:
            if self._fd < 0:
                await self._plug()
        except (HyperStackError, OSError) as error:
            log.warning("machine %s: an archive goes by the stream: %s", self._machine.id[:12], error)
            self._taken = False
            return b""
        except BaseException:
            self._taken = False
            raise
        return self._serial.encode().ljust(_SERIAL_SIZE, b"\0")

    async def _plug(self) -> None:
        await self._machine.detach_disks(f"{_NAME}-")  # of a daemon that died
        self._serial = f"{_NAME}-{secrets.token_hex(4)}"
        with open_tray(_NAME, PLACES * PLACE) as (tray, _):
            await self._machine.attach_disk(Disk(serial=self._serial, fd=tray, read_only=False))
            if self._closed:
                raise GuestError("the machine is gone")
            self._fd = os.dup(tray)

    def give_back(self) -> None:
        """The archive's process has ended."""
        self._taken = False
        if self._fd >= 0:
            with contextlib.suppress(OSError), mmap.mmap(self._fd, PLACES * PLACE) as memory:
                memory.madvise(mmap.MADV_REMOVE)

    def read(self, turn: int, size: int) -> bytes:
        """:raise GuestError: the machine is gone."""
        self._check()
        return os.pread(self._fd, size, turn % PLACES * PLACE)

    def write(self, turn: int, offset: int, data: memoryview) -> None:
        """:raise GuestError: the machine is gone."""
        self._check()
        os.pwrite(self._fd, data, turn % PLACES * PLACE + offset)

    def _check(self) -> None:
        if self._closed:
            raise GuestError("the machine is gone")

    def close(self) -> None:
        """The machine has ended, or is let go of. Idempotent."""
        self._closed = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
