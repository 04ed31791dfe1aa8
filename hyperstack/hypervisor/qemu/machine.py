"""One running QEMU: how it is talked to, watched and ended."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hyperstack.hypervisor.api import Disk, ExitKind, HostUsage, MachineExit, Nic, Origin, Room
from hyperstack.hypervisor.qemu import command, disks, growth
from hyperstack.hypervisor.qemu.forks import Child, Seats
from hyperstack.hypervisor.qemu.place import AGENT_SOCKET, MONITOR_SOCKET, Place, printable, read_last_words
from hyperstack.hypervisor.qemu.plugs import Plugs
from hyperstack.hypervisor.qemu.process import VmmProcess
from hyperstack.hypervisor.qemu.qmp import CommandFailed, Monitor, connect_unix
from hyperstack.pod.errors import Unavailable, Unsupported

log = logging.getLogger(__name__)

_EXIT_CONSOLE_CHARS = 4096
_GRACE_S = 2.0
"""Between the end of the monitor's connection and the end of the process that held it."""
_HELD_POLL_S = 0.02
_SAVE_TIMEOUT_S = 30.0
"""It takes 5 ms; the file's disk may be busy."""
_SETTLE_STEP_S, _SETTLE_STEPS, _SETTLED_SHARE = 0.1, 30, 0.1
"""A guest that takes less than a tenth of a processor for a tenth of a second has booted; one that never gets so quiet
is saved as it is, which costs its clones a little time and nothing else."""
_HOST_REASONS = ("host-signal", "host-error", "host-qmp-quit", "host-ui")
_BROKEN_STATES = ("internal-error", "io-error", "guest-panicked", "watchdog")


class QemuMachine:
    """Implements `api.Machine`. Made by the backend, which hands over a process that exists already."""

    def __init__(self, ident: str, process: VmmProcess, place: Place, last_words: int,
                 on_destroyed: Callable[[str], None], origin: Origin = Origin.UNKNOWN,
                 child: Child | None = None, seats: Seats | None = None) -> None:
        """`last_words` is closed by the machine; `on_destroyed` is called with the id after nothing is left.

        :param child: of one that was forked. :param seats: which of its disks are in slots.
        """
        self.id = ident
        self.pid = process.pid
        self.origin = origin
        self._child = child
        self._seats = seats or Seats()
        self._process = process
        self._place = place
        self._directory = place.open_directory()
        self._last_words = last_words
        self._on_destroyed = on_destroyed
        loop = asyncio.get_running_loop()
        self._monitor = Monitor(self._on_event)
        self._growth = growth.Growth(ident, self._monitor.order, place.cgroup)
        self._plugs = Plugs(ident, self._monitor)
        self._exit: asyncio.Future[MachineExit] = loop.create_future()
        self._guest_end: asyncio.Future[str] = loop.create_future()
        self._stopped = asyncio.Event()
        self._agent_ready = asyncio.Event()
        self._console = b""
        self._agent: asyncio.StreamWriter | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._destruction: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Reach its monitor and begin to watch it. :raise Unavailable: it died or does not answer."""
        try:
            await self._monitor.connect(self._directory, MONITOR_SOCKET)
        except Unavailable as error:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_S):
                    raise Unavailable(f"QEMU {await self._process.wait()}") from error
            raise
        await self._look_at_state()
        self._watcher = asyncio.create_task(self._watch(), name=f"watch {self.id[:12]}")

    # What QEMU says

    def _on_event(self, name: str, data: Mapping[str, Any]) -> None:
        if name == "SHUTDOWN":
            self._note_guest_end(str(data.get("reason", ""))[:64])
        elif name == "STOP":
            self._stopped.set()
        elif name == "VSERPORT_CHANGE" and data.get("id") == command.AGENT_DEVICE and data.get("open") is True:
            self._agent_ready.set()
        elif name == "DEVICE_DELETED":
            self._plugs.deleted(str(data.get("device", "")))

    def _note_guest_end(self, reason: str) -> None:
        if not self._guest_end.done():
            self._guest_end.set_result(reason)

    async def _look_at_state(self) -> None:
        """Events come to the one who is connected; what happened before is in the state."""
        state = await self._query("query-status", "status")
        if state == "shutdown":
            self._note_guest_end("")
        elif state in _BROKEN_STATES:
            self._note_guest_end(state)

    async def _query(self, name: str, key: str) -> str:
        answer = await self._monitor.execute(name)
        if not isinstance(answer, dict) or not isinstance(answer.get(key), str):
            raise Unavailable(f"QEMU answers nonsense to {name}")
        return str(answer[key])

    # The end

    async def _watch(self) -> None:
        death = asyncio.ensure_future(self._process.wait())
        lost = asyncio.ensure_future(self._monitor.lost())
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            while not self._guest_end.done() and not death.done() and not lost.done():
                waited: set[asyncio.Future[Any]] = {death, lost, stopped, self._guest_end}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if stopped.done():
                    self._stopped.clear()
                    stopped = asyncio.ensure_future(self._stopped.wait())
                    with contextlib.suppress(Unavailable, CommandFailed):
                        await self._look_at_state()
            if self._guest_end.done():
                end = await self._describe_guest_end(self._guest_end.result())
            else:
                end = await self._describe_death()
        finally:
            for task in (death, lost, stopped):
                task.cancel()
        log.info("machine %s: %s", self.id[:12], end.reason)
        self._finish(end)

    async def _describe_guest_end(self, reason: str) -> MachineExit:
        with contextlib.suppress(Unavailable, CommandFailed):
            await self._read_console()
        console = self._console_text()[-_EXIT_CONSOLE_CHARS:]
        if reason in _HOST_REASONS:
            return MachineExit(kind=ExitKind.KILLED, reason=f"QEMU was stopped by the host ({reason})", console=console)
        if reason in _BROKEN_STATES:
            return MachineExit(kind=ExitKind.PANIC, reason=f"QEMU gave the machine up: {reason}", console=console)
        if reason in ("guest-reset", "guest-panic") or "Kernel panic" in console:
            return MachineExit(kind=ExitKind.PANIC, reason="the guest's kernel panicked or reset", console=console)
        return MachineExit(kind=ExitKind.SHUTDOWN, reason="the guest powered itself off", console=console)

    async def _describe_death(self) -> MachineExit:
        try:
            async with asyncio.timeout(_GRACE_S):
                how = await self._process.wait()
        except TimeoutError:
            # A VMM that we cannot talk to any more is not left running.
            self._process.kill()
            await self._process.wait()
            how = "broke its monitor's connection and was ended"
        reason = f"QEMU {how}"
        if self._place.cgroup.oom_kills():
            reason += " because it passed the host's memory limit for it"
        if words := read_last_words(self._last_words):
            reason += f": {words[-1000:]}"
        return MachineExit(kind=ExitKind.KILLED, reason=reason, console=self._console_text()[-_EXIT_CONSOLE_CHARS:])

    def _finish(self, end: MachineExit) -> None:
        if not self._exit.done():
            self._exit.set_result(end)

    async def wait(self) -> MachineExit:
        return await asyncio.shield(self._exit)

    async def destroy(self) -> None:
        if self._destruction is None or (self._destruction.done() and self._destruction_failed()):
            self._destruction = asyncio.create_task(self._destroy(), name=f"destroy {self.id[:12]}")
        await asyncio.shield(self._destruction)

    def _destruction_failed(self) -> bool:
        task = self._destruction
        return task is not None and (task.cancelled() or task.exception() is not None)

    async def _destroy(self) -> None:
        self._finish(MachineExit(kind=ExitKind.DESTROYED, reason="it was destroyed",
                                 console=self._console_text()[-_EXIT_CONSOLE_CHARS:]))
        await self._stop_watching()
        if self._process.alive:
            self._process.kill()
            await self._process.wait()
        await self._place.clear()
        await self.release()
        self._on_destroyed(self.id)

    async def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None

    async def release(self) -> None:
        """Let go of it without ending it. Idempotent; the object is of no use afterwards."""
        await self._stop_watching()
        if self._agent is not None:
            self._agent.close()
            self._agent = None
        await self._monitor.close()
        if self._child is not None:
            self._child.requests.close()
        self._process.close()
        for fd in (self._directory, self._last_words):
            if fd >= 0:
                os.close(fd)
        self._directory = self._last_words = -1
        if not self._exit.done():
            self._exit.cancel()

    def last_words(self) -> str:
        """What QEMU or the jail wrote to standard error."""
        return read_last_words(self._last_words)

    # The agent and the console

    async def connect_agent(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._agent is not None:
            # QEMU serves one connection and would leave the next one waiting.
            self._agent.close()
            self._agent = None
        if self._directory < 0 or not self._process.alive:
            raise Unavailable(f"machine {self.id[:12]} is gone")
        connection = await connect_unix(self._directory, AGENT_SOCKET)
        reader, self._agent = await asyncio.open_unix_connection(sock=connection)
        return reader, self._agent

    async def console_tail(self) -> str:
        with contextlib.suppress(Unavailable, CommandFailed):
            await self._read_console()
        return self._console_text()

    async def _read_console(self) -> None:
        """Reading empties QEMU's ring, so what was read before is kept here, bounded as the ring is."""
        answer = await self._monitor.execute(
            "ringbuf-read", {"device": command.CONSOLE, "size": command.CONSOLE_BYTES, "format": "base64"})
        try:
            fresh = base64.b64decode(answer, validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise Unavailable("QEMU answers nonsense to ringbuf-read") from error
        self._console = (self._console + fresh)[-command.CONSOLE_BYTES:]

    def _console_text(self) -> str:
        return printable(self._console.decode(errors="replace"))

    # Processors

    @property
    def alive(self) -> bool:
        """Whether its process is there."""
        return self._process.alive

    async def pause(self) -> None:
        await self._monitor.order("stop")

    async def resume(self) -> None:
        await self._monitor.order("cont")

    async def pin(self, cpus: Collection[int]) -> None:
        self._process.pin(cpus)

    async def usage(self, *, pss: bool = False) -> HostUsage:
        return replace(self._place.cgroup.usage(), pss_bytes=await self._process.pss_bytes() if pss else 0)

    # Templates

    async def agent_ready(self, deadline_s: float) -> None:
        """Until the guest's agent has opened its port and the guest has nothing more to do.

        :raise Unavailable: it died, or does not come so far in time.
        """
        died = asyncio.ensure_future(self.wait())
        ready = asyncio.ensure_future(self._agent_ready.wait())
        try:
            await asyncio.wait((died, ready), timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if died.done():
                raise Unavailable(f"the machine died: {died.result().reason}")
            if not ready.done():
                raise Unavailable(f"the guest's agent did not open its port within {deadline_s:g} s")
        finally:
            died.cancel()
            ready.cancel()
        for _ in range(_SETTLE_STEPS):
            before = self._place.cgroup.usage().cpu_ns
            await asyncio.sleep(_SETTLE_STEP_S)
            if self._place.cgroup.usage().cpu_ns - before < _SETTLED_SHARE * _SETTLE_STEP_S * 10**9:
                return

    async def save(self, state: int) -> None:
        """Stop it for good and write all but its RAM, which is in a shared file, to the open file `state`.

        :raise Unavailable: QEMU cannot.
        """
        await self._ignore_shared_ram()
        await self._monitor.order("getfd", {"fdname": "state"}, fd=state)
        await self._monitor.order("migrate", {"uri": "fd:state"})
        async with asyncio.timeout(_SAVE_TIMEOUT_S):
            while (status := await self._query("query-migrate", "status")) != "completed":
                if status in ("failed", "cancelled"):
                    raise Unavailable(f"QEMU {status} to save the machine")
                await asyncio.sleep(_HELD_POLL_S)

    async def restore(self, state: int) -> None:
        """Go on from what `save` wrote. A state that QEMU cannot load ends it a moment later.

        :param state: QEMU's own number of the open file.
        """
        await self._ignore_shared_ram()
        await self._monitor.order("migrate-incoming", {"uri": f"fd:{state}"})

    async def stand_still(self) -> None:
        """Stop it for good and let go of its sockets: a machine to be forked has no connections.

        :raise Unavailable: it is gone.
        """
        await self.pause()
        await self._stop_watching()
        if self._agent is not None:
            self._agent.close()
            self._agent = None
        await self._monitor.close()

    async def begin(self) -> None:
        """Go on where its parent stood still, with all its disks. :raise Unavailable: QEMU refuses."""
        for disk in self._seats.standing:
            await self._plugs.plug(disk)
        await self.resume()

    @property
    def disk_names(self) -> dict[str, str]:
        return self._seats.names

    async def equip(self, wanted: Sequence[Disk], nic: Nic | None) -> None:
        if self._child is None:
            raise Unsupported("equipping machines that were not forked", "qemu")
        for disk in wanted:
            disks.claim(disk)
        self._seats = Seats.plan(self._child.slots, wanted)
        await self._child.equip(self._seats, nic.fd if nic else None)
        for disk in self._seats.standing:
            await self._plugs.plug(disk)

    async def _ignore_shared_ram(self) -> None:
        await self._monitor.order("migrate-set-capabilities",
                            {"capabilities": [{"capability": "x-ignore-shared", "state": True}]})

    # Devices

    async def attach_disk(self, disk: Disk) -> None:
        await self._plugs.attach_disk(disk)

    async def detach_disk(self, serial: str) -> None:
        await self._plugs.detach_disk(serial)

    async def detach_disks(self, prefix: str) -> None:
        await self._plugs.detach_disks(prefix)

    async def attach_port(self, name: str, fd: int) -> None:
        await self._plugs.attach_port(name, fd)

    async def detach_port(self, name: str) -> None:
        await self._plugs.detach_port(name)

    # Memory and processors

    async def room(self) -> Room:
        return await self._growth.room()

    async def grow(self, *, memory_mib: int, vcpus: int) -> int:
        return await self._growth.grow(memory_mib=memory_mib, vcpus=vcpus)

    def helper_groups(self) -> contextlib.AbstractContextManager[Sequence[int]]:
        return self._place.cgroup.helper_entrances()
