"""Which of the starts that are asked for may go on now.

A start is a busy processor for a moment, and memory for as long as its machine lives. A host that is asked for a
hundred at once brings them up sooner a few at a time, and none of them late for its deadline: a start's deadlines begin
with its turn, however long it waited for that.

Rules
    Slots       At most `slots` starts are under way. One project has at most all but one of them, so that a storm of
                one project's does not delay another's first start at all.
    Fairness    Projects that wait get turns one after the other; within a project, who came first goes first.
    Memory      A start goes on only where the host has available what its machine may come to need, beside a reserve
                and beside what the starts under way may need. A machine that this host could not hold if it were empty
                is refused at once.
    Shortage    A start that is short of memory holds up nobody but its own project. What frees memory is not ours to
                know (a pod's end, any other process's), so the host is looked at again and again; a start that was
                short for `patience_s` on end is refused. Where only the starts under way stand between a start and
                its memory, all wait for these: they end, well or not, by their own deadlines.
    Aside       Making a template takes no slot, as the starts that follow are the shorter for it. It has the least
                claim on memory: it waits while there is too little for it beside the starts under way, or a start
                waits for memory, and is never refused for that. While it is under way its machine counts as theirs do.

What a machine has not touched is nobody's: once it is up, only what it took counts, as MemAvailable shows it. Memory is
overcommitted on purpose, and the cgroup limits of the machines are what holds when guests grow into it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from hyperstack.pod.errors import Exhausted, HyperStackError

log = logging.getLogger(__name__)

MACHINE_OVERHEAD_MIB = 96
"""What a machine takes of the host beside its guest's RAM: 79 to 88 MiB were measured (docs/hypervisor.md)."""

_POLL_S = 0.5
"""Between two looks at the host's memory while a start is short of it."""
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, kw_only=True)
class QueueState:
    """How it stands with the queue, for people to look at."""

    slots: int
    running: int
    """Starts under way."""
    waiting: int
    short_of_memory: int
    """Those of the waiting for whose machines the host has too little memory."""


@dataclass(frozen=True, kw_only=True)
class _HostMemory:
    """MiB, of /proc/meminfo: swap is not counted."""

    total: int
    available: int


class _Ticket:
    """One start, from its arrival to its end."""

    def __init__(self, ident: str, project: str, memory_mib: int) -> None:
        self.ident = ident
        self.project = project
        self.memory_mib = memory_mib
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.short_since: float | None = None
        """By the loop's clock; None: there was memory for it when the host was last looked at, or nobody looked."""


class StartQueue:
    """One per engine. All its methods belong to the event loop's thread."""

    def __init__(self, *, slots: int, reserve_mib: int, patience_s: float, meminfo: Path = _MEMINFO) -> None:
        self._slots = slots
        self._reserve_mib = reserve_mib
        self._patience_s = patience_s
        self._meminfo = meminfo
        self._waiting: dict[str, deque[_Ticket]] = {}
        """Project -> its tickets; the project whose turn is next comes first. None is empty."""
        self._running: set[_Ticket] = set()
        self._aside: list[int] = []
        """MiB, of each that is under way."""
        self._timer: asyncio.TimerHandle | None = None
        self._last_end = -math.inf

    @contextlib.asynccontextmanager
    async def turn(self, ident: str, project: str, *, memory_mib: int) -> AsyncIterator[None]:
        """Wait for a start's turn, and hold it within the block.

        :param ident: the pod's id; nobody else waits under it.
        :param memory_mib: what the machine may come to need of the host.
        :raise Exhausted: the host can never hold this machine, or was short of memory for it for too long.
        :raise HyperStackError: what `withdraw` was given.
        """
        self._refuse_impossible(memory_mib)
        ticket = _Ticket(ident, project, memory_mib)
        self._waiting.setdefault(project, deque()).append(ticket)
        self._admit_next()
        try:
            await ticket.admitted
            yield
        finally:
            self._leave(ticket)

    @contextlib.asynccontextmanager
    async def aside(self, *, memory_mib: int) -> AsyncIterator[None]:
        """Wait until the host has memory to spare for a machine that nobody waits for, and hold it within the block.

        :raise Exhausted: the host can never hold this machine.
        """
        self._refuse_impossible(memory_mib)
        while True:
            if not self.is_short and self.room_mib() - self._promised() >= memory_mib:
                break
            await asyncio.sleep(_POLL_S)
        self._aside.append(memory_mib)
        try:
            yield
        finally:
            self._aside.remove(memory_mib)
            self._admit_next()

    def withdraw(self, ident: str, error: HyperStackError) -> bool:
        """Have a start that still waits fail with this error. False: none waits under this id."""
        for ticket in self._tickets():
            if ticket.ident == ident and not ticket.admitted.done():
                self._refuse(ticket, error)
                return True
        return False

    @property
    def idle_s(self) -> float:
        """Seconds since a start was last waiting or under way; 0 while one is."""
        if self._waiting or self._running:
            return 0.0
        return asyncio.get_running_loop().time() - self._last_end

    @property
    def is_short(self) -> bool:
        """Whether the host lacks memory for a start that waits, or even for the reserve."""
        return (any(ticket.short_since is not None for ticket in self._tickets())
                or self._read_memory().available < self._reserve_mib)

    def room_mib(self) -> int:
        """What the host has available beside the reserve; negative where it lacks some of that."""
        return self._read_memory().available - self._reserve_mib

    def state(self, project: str | None = None) -> QueueState:
        """Of one project, or of all."""
        waiting = [t for t in self._tickets() if project in (None, t.project)]
        return QueueState(slots=self._slots, running=sum(project in (None, t.project) for t in self._running),
                          waiting=len(waiting), short_of_memory=sum(t.short_since is not None for t in waiting))

    # -- admission

    def _admit_next(self) -> None:
        """To be called after whatever may let a start go on: an arrival, an end, a look at the host's memory."""
        if not self._waiting or len(self._running) >= self._slots:
            return
        available = self._read_memory().available
        while len(self._running) < self._slots and (ticket := self._choose(available)) is not None:
            self._forget_waiting(ticket)
            if ticket.project in self._waiting:
                self._waiting[ticket.project] = self._waiting.pop(ticket.project)  # behind all others
            self._running.add(ticket)
            ticket.admitted.set_result(None)

    def _choose(self, available: int) -> _Ticket | None:
        promised = self._promised()
        under_way = Counter(ticket.project for ticket in self._running)
        for project, queue in self._waiting.items():
            if under_way[project] >= max(1, self._slots - 1):
                continue
            ticket = next((t for t in queue if not t.admitted.done()), None)
            if ticket is None:  # Cancelled all, and on their way out.
                continue
            if self._is_short(ticket, available):
                self._note_shortage(ticket, available)
            elif self._is_short(ticket, available - promised):
                return None
            else:
                return ticket
        return None

    def _promised(self) -> int:
        return sum(ticket.memory_mib for ticket in self._running) + sum(self._aside)

    def _leave(self, ticket: _Ticket) -> None:
        """Its start ended, or does not wait any more, for whatever reason."""
        if ticket in self._running:
            self._running.discard(ticket)
        else:
            self._forget_waiting(ticket)
        self._last_end = asyncio.get_running_loop().time()
        self._admit_next()

    def _forget_waiting(self, ticket: _Ticket) -> None:
        queue = self._waiting.get(ticket.project)
        if queue is not None and ticket in queue:
            queue.remove(ticket)
            if not queue:
                del self._waiting[ticket.project]

    def _refuse(self, ticket: _Ticket, error: HyperStackError) -> None:
        self._forget_waiting(ticket)
        ticket.admitted.set_exception(error)

    def _tickets(self) -> Iterator[_Ticket]:
        return (ticket for queue in self._waiting.values() for ticket in queue)

    # -- memory

    def _is_short(self, ticket: _Ticket, available: int) -> bool:
        return available < ticket.memory_mib + self._reserve_mib

    def _refuse_impossible(self, memory_mib: int) -> None:
        room = self._read_memory().total - self._reserve_mib
        if memory_mib > room:
            raise Exhausted(
                f"The machine may come to need {memory_mib} MiB of memory, and this host has {max(room, 0)} MiB for "
                "machines", field="memory", value=memory_mib,
                hint="ask for less with -m, or run it on a host with more memory; hypervisor.memory_reserve, "
                     f"{self._reserve_mib} MiB, is kept free")

    def _note_shortage(self, ticket: _Ticket, available: int) -> None:
        if ticket.short_since is None:
            ticket.short_since = asyncio.get_running_loop().time()
            log.info("pod %s waits for memory: it may need %d MiB beside a reserve of %d, and the host has %d",
                     ticket.ident[:12], ticket.memory_mib, self._reserve_mib, available)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_POLL_S, self._look_again)

    def _look_again(self) -> None:
        """All that wait are looked at, not only who is next: where the host is full, a queue of a hundred is refused
        after one patience, not after a hundred."""
        self._timer = None
        now, available = asyncio.get_running_loop().time(), self._read_memory().available
        for ticket in [t for t in self._tickets() if not t.admitted.done()]:
            if not self._is_short(ticket, available):
                ticket.short_since = None
            elif ticket.short_since is not None and now - ticket.short_since >= self._patience_s:
                self._refuse(ticket, self._shortage(ticket, available))
            else:
                self._note_shortage(ticket, available)
        self._admit_next()

    def _shortage(self, ticket: _Ticket, available: int) -> Exhausted:
        return Exhausted(
            f"The machine may come to need {ticket.memory_mib} MiB of memory; for {self._patience_s:g} s the host had "
            f"less than that and its reserve of {self._reserve_mib} MiB, now {available} MiB", field="memory",
            value=ticket.memory_mib, hint="stop what is not needed any more, or ask for less with -m")

    def _read_memory(self) -> _HostMemory:
        words = {line.partition(":")[0]: line.split() for line in self._meminfo.read_text().splitlines()}
        return _HostMemory(total=int(words["MemTotal"][1]) >> 10, available=int(words["MemAvailable"][1]) >> 10)
