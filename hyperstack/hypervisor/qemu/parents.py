"""Machines that stand still for others to be forked from, as preload/fork.c does it.

A parent is a clone of a template that has done once what every pod does, so that the code for it is translated. Its
children share that, and whatever else they do not write to. It lives as long as the daemon that made it: when its
socket closes, it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence

from hyperstack.hypervisor.qemu.forks import FORK, Child, Ends, Numbers, Requests, Seats, Slot, encode_request
from hyperstack.hypervisor.qemu.machine import QemuMachine
from hyperstack.pod.errors import Unavailable

_SETTLE_STEP_S, _SETTLE_STEPS = 0.01, 300
_LAST_WORDS = 2
_HARMLESS = re.compile(r"/|anon_inode:(\[eventfd\]|\[signalfd\]|\[eventpoll\])\Z")
"""Descriptors that a child may have in common with its parent: files without a position that matters, and what the
child gets anew or never uses."""


class Parent:
    """One that stands. Made by `stand`."""

    def __init__(self, machine: QemuMachine, requests: Requests, numbers: Numbers, slots: Sequence[Slot]) -> None:
        self.machine = machine
        self.slots = slots
        self._requests = requests
        self._numbers = numbers
        # Of a machine that stands still they stay what they are; threads that wait for work may still end.
        self._eventfds = [number for number, target in _descriptors(machine.pid).items()
                          if target == "anon_inode:[eventfd]"]

    @classmethod
    async def stand(cls, machine: QemuMachine, requests: Requests, numbers: Numbers, slots: Sequence[Slot]) -> Parent:
        """Stop the machine for good and cut all its connections.

        :raise Unavailable: it is gone, or has descriptors that cannot be shared.
        """
        await machine.stand_still()
        for _ in range(_SETTLE_STEPS):
            strange = _strangers(machine.pid, numbers)
            if not strange:
                return cls(machine, requests, numbers, _numbers_of(machine.pid, slots))
            await asyncio.sleep(_SETTLE_STEP_S)
        raise Unavailable(f"the machine cannot be forked: it holds {', '.join(sorted(set(strange)))}")

    @property
    def alive(self) -> bool:
        return self.machine.alive

    async def fork(self, *, uid: int, name: str, cgroups: Sequence[int], ends: Ends, seats: Seats) -> tuple[int, Child]:
        """One child; its pid, a child of this process or of whoever came after it. It joins the control groups, becomes
        `uid` and is confined as the jail confines; where that fails, it ends and says so on `ends.last_words`.

        Takes some 3 ms. Not to be cancelled: the child may be there though nobody was told of it.

        :param name: 12 characters that take the place of the parent's in the process list.
        :param cgroups: open cgroup.procs files.
        :raise Unavailable: the parent is gone or does not answer.
        """
        if (ends.tap is None) != (self._numbers.tap is None):
            raise Unavailable("the parent's NIC is not as its child's")
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.callback(theirs.close)
            keep = stack.enter_context(contextlib.ExitStack())
            keep.callback(ours.close)
            replaced = [(self._numbers.channels.monitor, ends.monitor), (self._numbers.channels.agent, ends.agent),
                        (_LAST_WORDS, ends.last_words), (self._numbers.control, theirs.fileno()),
                        *seats.replacements()]
            if ends.tap is not None and self._numbers.tap is not None:
                replaced.append((self._numbers.tap, ends.tap))
            # What the parent wrote to, no two of its children share.
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, nothing)
            replaced += [(number, nothing) for slot in self.slots if not slot.read_only and slot not in seats.taken
                         for number in slot.numbers]
            def request() -> bytes:
                return encode_request(
                    kind=FORK, uid=uid, name=name, cgroups=len(cgroups), replaced=[number for number, _ in replaced],
                    eventfds=self._eventfds, threads=_threads(self.machine.pid), tap=self._numbers.tap)

            pid = await self._requests.ask(request, [*cgroups, *(fd for _, fd in replaced)])
            keep.pop_all()
            return pid, Child(Requests(ours), self._numbers, self.slots)

    async def end(self) -> None:
        """Idempotent; its children are not harmed."""
        self._requests.close()
        await self.machine.destroy()


def _strangers(pid: int, numbers: Numbers) -> list[str]:
    """What the process holds and a child must not have."""
    own = {numbers.channels.monitor, numbers.channels.agent, numbers.control, numbers.tap, _LAST_WORDS}
    return ["a connection" if target.startswith("socket:") else target
            for number, target in _descriptors(pid).items() if number not in own and not _HARMLESS.match(target)]


def _descriptors(pid: int) -> Mapping[int, str]:
    found = {}
    directory = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            with contextlib.suppress(OSError):
                found[int(name)] = os.readlink(f"{directory}/{name}")
    return found


def _numbers_of(pid: int, slots: Iterable[Slot]) -> list[Slot]:
    """The slots, with the numbers that the process has their files under."""
    found: dict[tuple[int, int], list[int]] = {}
    for number in _descriptors(pid):
        with contextlib.suppress(OSError):
            status = os.stat(f"/proc/{pid}/fd/{number}")
            found.setdefault((status.st_dev, status.st_ino), []).append(number)
    return [dataclasses.replace(slot, numbers=tuple(found.get(slot.inode, ()))) for slot in slots]


def _threads(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return []
