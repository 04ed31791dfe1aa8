"""What passes between the daemon and machines that are forked: requests, and which disk is in which slot.

A parent's disks are slots: a child's disks take their places, by another file behind the same descriptor, and the
guest need not find them anew. It knows them by the slots' serials, so it is told which is which. A read-only slot
looks larger than any layer is; what is behind a file's end reads as zeros. A writable one takes disks of its own size
only, so that no guest can write more than its disk; while it is vacant there is nothing behind it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hyperstack.hypervisor.api import Disk
from hyperstack.hypervisor.qemu.command import Channels
from hyperstack.pod.errors import Unavailable

FORK, REPLACE = 1, 2
_HEAD = struct.Struct("=6Ii12s")
"""kind; uid; how many control groups, replaced descriptors, eventfds and threads; the tap's number, or -1; a name. The
numbers follow: `struct request` of preload/fork.c."""
_NO_TAP = -1
_ANSWER = struct.Struct("=q")
_ANSWER_TIMEOUT_S = 5.0
"""It takes 3 ms; threads that do not stop are given up after a second."""


@dataclass(frozen=True)
class Slot:
    """A disk of a parent's, and the numbers that QEMU has it under."""

    serial: str
    read_only: bool
    size: int
    inode: tuple[int, int]
    numbers: tuple[int, ...] = ()

    @classmethod
    def of(cls, disk: Disk) -> Slot:
        status = os.fstat(disk.fd)
        return cls(disk.serial, disk.read_only, status.st_size, (status.st_dev, status.st_ino))

    def takes(self, disk: Disk) -> bool:
        """Files only: QEMU goes about block devices otherwise."""
        status = os.fstat(disk.fd)
        fits = status.st_size <= self.size if self.read_only else status.st_size == self.size
        return stat.S_ISREG(status.st_mode) and disk.read_only == self.read_only and fits


@dataclass(frozen=True)
class Numbers:
    """Descriptors of a parent that its children have their own of."""

    channels: Channels
    control: int
    tap: int | None


@dataclass(frozen=True)
class Ends:
    """Our descriptors for one child."""

    monitor: int
    agent: int
    last_words: int
    tap: int | None


@dataclass(frozen=True)
class Seats:
    """Which of a machine's disks are in slots."""

    taken: Mapping[Slot, Disk] = field(default_factory=dict)
    standing: Sequence[Disk] = ()
    """Those that found no slot."""

    @classmethod
    def plan(cls, slots: Iterable[Slot], disks: Iterable[Disk]) -> Seats:
        free, taken, standing = list(slots), {}, []
        for disk in disks:
            slot = next((slot for slot in free if slot.takes(disk)), None)
            if slot is None:
                standing.append(disk)
            else:
                free.remove(slot)
                taken[slot] = disk
        return cls(taken, standing)

    @property
    def names(self) -> dict[str, str]:
        """The guest's serial -> the disk's own."""
        return {slot.serial: disk.serial for slot, disk in self.taken.items()}

    def replacements(self) -> list[tuple[int, int]]:
        """(number there, descriptor here)"""
        return [(number, disk.fd) for slot, disk in self.taken.items() for number in slot.numbers]


class Requests:
    """Our end of the socket that preload/fork.c listens to."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self._socket.setblocking(False)
        self._one_at_a_time = asyncio.Lock()

    async def ask(self, request: Callable[[], bytes], descriptors: Sequence[int]) -> int:
        """The answer. Where nobody waits for it to the end, nothing can be asked any more: the next answer would be
        taken for another's.

        :param request: made when its turn has come.
        :raise Unavailable: it is gone, does not answer, or refuses.
        """
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                    socket.send_fds(self._socket, [request()], descriptors)
                    answer = await asyncio.get_running_loop().sock_recv(self._socket, _ANSWER.size)
            except BaseException as error:
                self.close()
                if not isinstance(error, OSError):  # TimeoutError is one
                    raise
                raise Unavailable(f"the machine does not answer: {error.strerror or 'timeout'}") from error
        if len(answer) != _ANSWER.size:
            raise Unavailable("the machine is gone")
        number: int = _ANSWER.unpack(answer)[0]
        if number < 0:
            raise Unavailable(f"the machine refuses: {errno.errorcode.get(-number, number)}")
        return number

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()


class Child:
    """What can still be done with a forked machine by the daemon that forked it."""

    def __init__(self, requests: Requests, numbers: Numbers, slots: Sequence[Slot]) -> None:
        self.requests = requests
        self._numbers = numbers
        self.slots = slots

    async def equip(self, seats: Seats, tap: int | None) -> None:
        """Put disks in slots, and another tap behind the NIC. :raise Unavailable: the machine is gone."""
        replaced = seats.replacements()
        if tap is not None and self._numbers.tap is not None:
            replaced.append((self._numbers.tap, tap))
        request = encode_request(kind=REPLACE, replaced=[number for number, _ in replaced], tap=self._numbers.tap)
        await self.requests.ask(lambda: request, [fd for _, fd in replaced])


def encode_request(*, kind: int, uid: int = 0, name: str = "", cgroups: int = 0, replaced: Collection[int] = (),
                   eventfds: Collection[int] = (), threads: Collection[int] = (), tap: int | None = None) -> bytes:
    """`struct request`, without what is unused of its last array."""
    head = _HEAD.pack(kind, uid, cgroups, len(replaced), len(eventfds), len(threads), _NO_TAP if tap is None else tap,
                      name.encode("ascii"))
    numbers = (*replaced, *eventfds, *threads)
    return head + struct.pack(f"={len(numbers)}i", *numbers)
