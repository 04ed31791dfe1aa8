"""Machines that stand still for others to be forked from, as preload/fork.c does it.

A parent is a clone of a template that has done once what every pod does, so that the code for it is translated. Its
children share that, and whatever else they do not write to. It lives as long as the daemon that made it: when its
socket closes, it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hyperstack.hypervisor.qemu.command import Channels
from hyperstack.hypervisor.qemu.machine import QemuMachine
from hyperstack.pod.errors import Unavailable

_HEAD = struct.Struct("=5Ii12s")
"""uid; how many control groups, replaced descriptors, eventfds and threads; the tap's number, or -1; a name. The
numbers follow: `struct request` of preload/fork.c."""
_NO_TAP = -1
_ANSWER = struct.Struct("=q")
_ANSWER_TIMEOUT_S = 5.0
"""It takes 3 ms; threads that do not stop are given up after a second."""
_SETTLE_STEP_S, _SETTLE_STEPS = 0.01, 300
_LAST_WORDS = 2
_HARMLESS = re.compile(r"/|anon_inode:(\[eventfd\]|\[signalfd\]|\[eventpoll\])\Z")
"""Descriptors that a child may have in common with its parent: files without a position that matters, and what the
child gets anew or never uses."""


@dataclass(frozen=True)
class Numbers:
    """Descriptors of a parent that its children have their own of."""

    channels: Channels
    tap: int | None


@dataclass(frozen=True)
class Ends:
    """Our descriptors for one child."""

    monitor: int
    agent: int
    last_words: int
    tap: int | None


class Parent:
    """One that stands. Made by `stand`."""

    def __init__(self, machine: QemuMachine, control: socket.socket, numbers: Numbers) -> None:
        self.machine = machine
        self._control = control
        self._numbers = numbers

    @classmethod
    async def stand(cls, machine: QemuMachine, control: socket.socket, numbers: Numbers) -> Parent:
        """Stop the machine for good and cut all its connections.

        :raise Unavailable: it is gone, or has descriptors that cannot be shared.
        """
        await machine.stand_still()
        parent = cls(machine, control, numbers)
        control.settimeout(_ANSWER_TIMEOUT_S)
        for _ in range(_SETTLE_STEPS):
            strange = parent._strangers()
            if not strange:
                return parent
            await asyncio.sleep(_SETTLE_STEP_S)
        raise Unavailable(f"the machine cannot be forked: it holds {', '.join(sorted(set(strange)))}")

    @property
    def alive(self) -> bool:
        return self.machine.alive

    def fork(self, *, uid: int, name: str, cgroups: Sequence[int], ends: Ends) -> int:
        """One child; its pid, a child of this process or of whoever came after it. It joins the control groups, becomes
        `uid` and is confined as the jail confines; where that fails, it ends and says so on `ends.last_words`.

        Blocks the event loop for some 3 ms: so nothing can come between a child and its being known.

        :param name: 12 characters that take the place of the parent's in the process list.
        :param cgroups: open cgroup.procs files.
        :raise Unavailable: the parent is gone or does not answer.
        """
        if (ends.tap is None) != (self._numbers.tap is None):
            raise Unavailable("the parent's NIC is not as its child's")
        replaced = {self._numbers.channels.monitor: ends.monitor, self._numbers.channels.agent: ends.agent,
                    _LAST_WORDS: ends.last_words}
        if ends.tap is not None and self._numbers.tap is not None:
            replaced[self._numbers.tap] = ends.tap
        eventfds = [number for number, target in self._descriptors().items() if target == "anon_inode:[eventfd]"]
        request = encode_request(uid=uid, name=name, cgroups=len(cgroups), replaced=list(replaced), eventfds=eventfds,
                                 threads=self._threads(), tap=self._numbers.tap)
        try:
            socket.send_fds(self._control, [request], [*cgroups, *replaced.values()])
            answer = self._control.recv(_ANSWER.size)
        except OSError as error:
            raise Unavailable(f"the machine's parent does not answer: {error.strerror or 'timeout'}") from error
        if len(answer) != _ANSWER.size:
            raise Unavailable("the machine's parent is gone")
        pid: int = _ANSWER.unpack(answer)[0]
        if pid <= 0:
            raise Unavailable(f"the machine's parent cannot be forked: {errno.errorcode.get(-pid, pid)}")
        return pid

    async def end(self) -> None:
        """Idempotent; its children are not harmed."""
        self._control.close()
        await self.machine.destroy()

    def _descriptors(self) -> Mapping[int, str]:
        found = {}
        directory = f"/proc/{self.machine.pid}/fd"
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                with contextlib.suppress(OSError):
                    found[int(name)] = os.readlink(f"{directory}/{name}")
        return found

    def _threads(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [int(name) for name in os.listdir(f"/proc/{self.machine.pid}/task")]
        return []

    def _strangers(self) -> list[str]:
        """What it holds and a child must not have."""
        channels = self._numbers.channels
        own = {channels.monitor, channels.agent, self._numbers.tap, _LAST_WORDS}
        sockets = 0
        strange = []
        for number, target in self._descriptors().items():
            if number in own or _HARMLESS.match(target):
                continue
            if target.startswith("socket:"):
                sockets += 1
            else:
                strange.append(target)
        # The one that is left is the one it is told by.
        return strange + ["a connection"] * (sockets - 1)


def encode_request(*, uid: int, name: str, cgroups: int, replaced: Sequence[int], eventfds: Sequence[int],
                   threads: Sequence[int], tap: int | None) -> bytes:
    """`struct request`, without what is unused of its last array."""
    head = _HEAD.pack(uid, cgroups, len(replaced), len(eventfds), len(threads), _NO_TAP if tap is None else tap,
                      name.encode("ascii"))
    numbers = (*replaced, *eventfds, *threads)
    return head + struct.pack(f"={len(numbers)}i", *numbers)
