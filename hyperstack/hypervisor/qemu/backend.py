"""`QemuHypervisor`: starts machines, and finds those that an earlier daemon started."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import hashlib
import logging
import os
import re
import signal
import socket
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperstack.hypervisor.api import (
    POOL_PREFIX,
    TRIAL_PREFIX,
    Capability,
    Disk,
    Machine,
    MachineSpec,
    Nic,
    Origin,
    Template,
    TemplateSpec,
)
from hyperstack.hypervisor.qemu import command, disks, growth, launcher, probe, runtime_root
from hyperstack.hypervisor.qemu.build import build
from hyperstack.hypervisor.qemu.cgroups import CgroupParent
from hyperstack.hypervisor.qemu.forks import Ends, Numbers, Requests, Seats, Slot
from hyperstack.hypervisor.qemu.machine import QemuMachine
from hyperstack.hypervisor.qemu.parents import Parent
from hyperstack.hypervisor.qemu.place import (
    AGENT_SOCKET,
    MONITOR_SOCKET,
    Place,
    adopt_last_words,
    new_last_words,
)
from hyperstack.hypervisor.qemu.process import VmmProcess
from hyperstack.hypervisor.qemu.qmp import listen_unix
from hyperstack.hypervisor.qemu.templates import LOOSE_MAC, OpenTemplate, TemplateStore, identify, loose_tap
from hyperstack.pod.errors import Conflict, Exhausted, HyperStackError, InvalidArgument, Unavailable, Unsupported
from hyperstack.pod.finding import Finding

log = logging.getLogger(__name__)

_ID = re.compile(rf"(?:[0-9a-f]{{64}}|(?:{TRIAL_PREFIX}|{POOL_PREFIX})[0-9a-f]{{16}})\Z")
_USED_UP = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOSPC)


@dataclass(frozen=True)
class _Tools:
    """What is prepared once before the first machine."""

    root: runtime_root.RuntimeRoot
    jail: Path
    accelerator: probe.Accelerator
    tsc_khz: int


class QemuHypervisor:
    """Implements `api.Hypervisor`.

    :param run_dir: one directory per machine, below it; goes with a reboot, so /run is the place. Its path also tells
        apart the daemons of one host: their machines never meet.
    :param cache_dir: the jail, QEMU's root, the probe's result and templates; may be removed while no machine runs.
    """

    name = "qemu"
    capabilities = (Capability.DISK_HOTPLUG | Capability.PAUSE | Capability.CONSOLE
                    | Capability.TEMPLATE | Capability.GROW)

    def __init__(self, run_dir: Path, cache_dir: Path) -> None:
        self._run_dir = run_dir
        self._cache_dir = cache_dir
        tag = hashlib.sha256(os.fsencode(run_dir.resolve())).hexdigest()[:12]
        self._cgroups = CgroupParent(f"hyperstack-{tag}")
        self._templates = TemplateStore(cache_dir / "templates")
        self._tools: _Tools | None = None
        self._preparing = asyncio.Lock()
        self._machines: dict[str, QemuMachine] = {}
        self._parents: dict[str, Parent] = {}
        """By template."""
        self._raised: dict[str, tuple[Requests, Numbers, list[Slot]]] = {}
        """What is needed to make parents of machines that run, by machine."""
        self.accelerator = "unknown"

    async def probe(self) -> list[Finding]:
        findings = [await asyncio.to_thread(probe.cgroup_finding, self._cgroups)]
        try:
            tools = await self._prepare_tools()
        except Unavailable as error:
            return [*findings, Finding(name="qemu", status="fail", detail=error.message, remedy=error.hint or "")]
        return [*findings, Finding(name="qemu", status="ok", detail=f"{tools.root.program} runs confined"),
                probe.accelerator_finding(tools.accelerator)]

    async def _prepare_tools(self) -> _Tools:
        """:raise Unavailable: something is missing on this host."""
        async with self._preparing:
            if self._tools is None:
                library = await asyncio.to_thread(build, "preload", self._cache_dir)
                root = await asyncio.to_thread(runtime_root.prepare, self._cache_dir, runtime_root.find_qemu(), library)
                jail = await asyncio.to_thread(build, "jail", self._cache_dir)
                rom = await asyncio.to_thread(build, "trial", self._cache_dir)
                accelerator = await probe.choose_accelerator(cache_dir=self._cache_dir, root=root, jail=jail, rom=rom)
                log.info("accelerator: %s, %s", accelerator.name, accelerator.reason)
                counter = await asyncio.to_thread(build, "counter", self._cache_dir)
                self._tools = _Tools(root, jail, accelerator, await asyncio.to_thread(probe.measure_tsc_khz, counter))
                self.accelerator = accelerator.name
            return self._tools

    def _place(self, ident: str) -> Place:
        if not _ID.match(ident):
            raise InvalidArgument("a machine's id is 64 hex digits", field="id", value=ident[:80])
        return Place(self._run_dir / ident, self._cgroups.group(ident))

    def expect_start(self) -> None:
        asyncio.get_running_loop().run_in_executor(None, self._cgroups.wake)

    async def start(self, spec: MachineSpec) -> QemuMachine:
        template = spec.template
        if template is None:
            return await self._start(spec, None)
        common = template.spec
        with contextlib.ExitStack() as stack:
            if spec.nic is None and common.nic and spec.id.startswith(TRIAL_PREFIX):
                spec = dataclasses.replace(spec, nic=_loose_nic(stack))
            if (spec.kernel, spec.memory_mib, spec.vcpus, spec.nic is not None) != (
                    common.kernel, common.memory_mib, common.vcpus, common.nic):
                raise InvalidArgument("the machine is not as its template is", field="template", value=template.id)
            if parent := self._parents.get(template.id):
                try:
                    return await self._start(spec, parent)
                except Unavailable as error:
                    log.warning("the parent of %s is given up: %s", template.id[:12], error)
                    await self._end_parent(template.id)
            return await self._start(spec, stack.enter_context(self._templates.opened(template)))

    async def _start(self, spec: MachineSpec, origin: OpenTemplate | Parent | None, *, forks: bool = False
                     ) -> QemuMachine:
        """:param origin: its template, or the template that it is to become; or whom it is forked from.
        :param forks: it is to be a parent.
        """
        tools = await self._prepare_tools()
        await asyncio.to_thread(self._cgroups.prepare)
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = self._place(spec.id)
        if spec.uid <= 0:
            raise InvalidArgument("a machine never runs as root", field="uid", value=spec.uid)
        if spec.id in self._machines or place.cgroup.pids():
            raise Conflict(f"machine {spec.id[:12]} runs already", field="id", value=spec.id)
        if place.exists():
            await place.clear()
        machine: QemuMachine | None = None
        try:
            machine, state = await self._launched(self._launch(spec, place, tools, origin, forks=forks))
            await machine.open()
            if isinstance(origin, Parent):
                await machine.begin()
            elif spec.template is not None:
                await machine.restore(state)
        except BaseException as error:
            raised = _explain(error, machine.last_words() if machine else "")
            await asyncio.shield(self._undo(machine, place))
            raise raised from error
        self._machines[spec.id] = machine
        return machine

    async def _undo(self, machine: QemuMachine | None, place: Place) -> None:
        if machine is not None:
            await machine.destroy()
        else:
            await place.clear()

    @staticmethod
    async def _launched(launch: Coroutine[Any, Any, tuple[QemuMachine, int]]) -> tuple[QemuMachine, int]:
        """What it makes, which does not stay without an owner where the start is cancelled meanwhile."""
        task = asyncio.ensure_future(launch)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            machine, _ = await task
            await asyncio.shield(machine.destroy())
            raise

    async def _launch(self, spec: MachineSpec, place: Place, tools: _Tools, origin: OpenTemplate | Parent | None, *,
                      forks: bool) -> tuple[QemuMachine, int]:
        """Make the place, then the process in it; with the process's number of the template's state."""
        with contextlib.ExitStack() as stack:
            for disk in spec.disks:
                disks.claim(disk)
            place.path.mkdir(mode=0o700)
            place.cgroup.create(growth.limits(memory_mib=spec.memory_mib, vcpus=spec.vcpus,
                                       processors=growth.processors(spec)))
            directory = place.open_directory()
            stack.callback(os.close, directory)
            monitor = stack.enter_context(listen_unix(directory, MONITOR_SOCKET))
            agent = stack.enter_context(listen_unix(directory, AGENT_SOCKET))
            last_words = new_last_words()
            keep_words = stack.enter_context(contextlib.ExitStack())
            keep_words.callback(os.close, last_words)
            ends = Ends(monitor=monitor.fileno(), agent=agent.fileno(), last_words=last_words,
                        tap=spec.nic.fd if spec.nic else None)
            entrances = stack.enter_context(place.cgroup.entrances())
            state, child, seats = 0, None, Seats()
            if isinstance(origin, Parent):
                seats = Seats.plan(origin.slots, spec.disks)
                pid, child = await origin.fork(uid=spec.uid, name=spec.id[:12], cgroups=entrances, ends=ends,
                                               seats=seats)
            else:
                pid, state = self._spawn(spec, tools, origin, ends, entrances, forks=forks)
            process = _hold(pid)
            keep_words.pop_all()
            begun = Origin.FORK if isinstance(origin, Parent) else Origin.TEMPLATE if spec.template else Origin.COLD
            return QemuMachine(spec.id, process, place, last_words, self._forget, begun, child, seats), state

    def _spawn(self, spec: MachineSpec, tools: _Tools, files: OpenTemplate | None, ends: Ends,
               entrances: Sequence[int], *, forks: bool) -> tuple[int, int]:
        """A new QEMU; its pid, and its number of the template's state."""
        with contextlib.ExitStack() as stack:
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, null)
            descriptors = launcher.Descriptors(stdin=null, stderr=ends.last_words)
            channels = command.Channels(monitor=descriptors.give(ends.monitor), agent=descriptors.give(ends.agent))
            ram, state = None, 0
            if files is not None:
                ram = command.Ram(fd=descriptors.give(files.ram), shared=spec.template is None)
                state = descriptors.give(files.state)
            fork = None
            if forks:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                stack.callback(theirs.close)
                fork = descriptors.give(theirs.fileno())
                # The NIC comes last on the command line, after one descriptor for each disk.
                tap = descriptors.last + len(spec.disks) + 1 if spec.nic else None
                self._raised[spec.id] = (Requests(ours), Numbers(channels, fork, tap),
                                         [Slot.of(disk) for disk in spec.disks])
            cold = spec.template is None
            line = command.command_line(
                spec, program=tools.root.program, firmware=tools.root.firmware, accelerator=tools.accelerator.name,
                channels=channels, give=descriptors.give, boot=_boot(spec, tools) if cold else None, ram=ram,
                sandbox=not forks)
            files_seen = [(runtime_root.KERNEL, spec.kernel.image.resolve(strict=True)),
                          (runtime_root.INITRD, spec.kernel.initrd.resolve(strict=True))] if cold else []
            pid = launcher.spawn(tools.jail, uid=spec.uid, root=tools.root.path, kvm=tools.accelerator.name == "kvm",
                                 cgroups=entrances, files=files_seen, descriptors=descriptors, command=line, fork=fork)
            return pid, state

    # Templates

    async def make_template(self, spec: TemplateSpec, *, ident: str, uid: int, deadline_s: float) -> Template:
        tools = await self._prepare_tools()
        key = _template_id(spec, tools)
        with contextlib.ExitStack() as stack:
            try:
                path, files = stack.enter_context(self._templates.staging(spec.memory_mib))
                nic = _loose_nic(stack) if spec.nic else None
            except OSError as error:
                raise Unavailable(f"no template can be made: {error.strerror}") from error
            machine = await self._start(MachineSpec(id=ident, uid=uid, kernel=spec.kernel, memory_mib=spec.memory_mib,
                                                    vcpus=spec.vcpus, nic=nic), files)
            try:
                await machine.agent_ready(deadline_s)
                await machine.save(files.state)
            except TimeoutError as error:
                raise Unavailable("QEMU does not finish saving the machine") from error
            finally:
                await asyncio.shield(machine.destroy())
            return self._templates.keep(key, spec, path)

    async def find_template(self, spec: TemplateSpec) -> Template | None:
        return self._templates.find(_template_id(spec, await self._prepare_tools()), spec)

    async def drop_template(self, template: Template) -> None:
        await self._end_parent(template.id)
        await asyncio.to_thread(self._templates.drop, template)

    # Parents

    async def start_parent(self, template: Template, *, ident: str, uid: int, disks: tuple[Disk, ...] = ()
                           ) -> QemuMachine:
        tools = await self._prepare_tools()
        if tools.accelerator.name != "tcg":
            raise Unsupported("forking machines", f"{self.name} with {tools.accelerator.name}")
        common = template.spec
        with contextlib.ExitStack() as stack:
            spec = MachineSpec(id=ident, uid=uid, kernel=common.kernel, memory_mib=common.memory_mib,
                               vcpus=common.vcpus, nic=_loose_nic(stack) if common.nic else None, template=template,
                               disks=disks)
            return await self._start(spec, stack.enter_context(self._templates.opened(template)), forks=True)

    async def keep_parent(self, template: Template, machine: Machine) -> None:
        assert isinstance(machine, QemuMachine)
        requests, numbers, slots = self._raised.pop(machine.id)
        try:
            parent = await Parent.stand(machine, requests, numbers, slots)
        except BaseException:
            requests.close()
            raise
        await self._end_parent(template.id)
        self._parents[template.id] = parent

    def has_parent(self, template: Template) -> bool:
        parent = self._parents.get(template.id)
        return parent is not None and parent.alive

    async def _end_parent(self, template: str) -> None:
        if parent := self._parents.pop(template, None):
            await parent.end()

    def _forget(self, ident: str) -> None:
        self._machines.pop(ident, None)
        if ident in self._raised:
            self._raised.pop(ident)[0].close()

    async def adopt(self, ident: str) -> QemuMachine | None:
        if ident in self._machines:
            return self._machines[ident]
        place = self._place(ident)
        pids = place.cgroup.pids()
        if len(pids) != 1:
            return None
        process = VmmProcess.found(pids.pop(), lambda pid: pid in place.cgroup.pids())
        if process is None:
            return None
        try:
            machine = QemuMachine(ident, process, place, adopt_last_words(process.pid), self._forget)
        except OSError as error:
            process.close()
            log.warning("machine %s cannot be adopted: %s", ident[:12], error)
            return None
        try:
            await machine.open()
        except Unavailable as error:
            log.warning("machine %s cannot be adopted: %s", ident[:12], error)
            await machine.release()
            return None
        except BaseException:
            await machine.release()
            raise
        self._machines[ident] = machine
        return machine

    async def destroy_leftovers(self, ident: str) -> None:
        if machine := self._machines.get(ident):
            await machine.destroy()
        else:
            await self._place(ident).clear()

    async def list_leftovers(self) -> Collection[str]:
        found = self._cgroups.idents()
        with contextlib.suppress(FileNotFoundError):
            found.update(entry.name for entry in os.scandir(self._run_dir) if entry.is_dir(follow_symlinks=False))
        return {name for name in found if _ID.match(name)}

    async def close(self) -> None:
        for template in list(self._parents):
            await self._end_parent(template)
        for machine in list(self._machines.values()):
            await machine.release()
        self._machines.clear()
        self._cgroups.remove()
        with contextlib.suppress(OSError):  # there is none, or machines that run on
            self._run_dir.rmdir()


def _boot(spec: MachineSpec, tools: _Tools) -> command.Boot:
    return command.Boot(kernel=f"/{runtime_root.KERNEL}", initrd=f"/{runtime_root.INITRD}",
                        command_line=spec.kernel.command_line, tsc_khz=tools.tsc_khz)


def _loose_nic(stack: contextlib.ExitStack) -> Nic:
    fd = loose_tap()
    stack.callback(os.close, fd)
    return Nic(fd=fd, mac=LOOSE_MAC)


def _template_id(spec: TemplateSpec, tools: _Tools) -> str:
    """The machine's whole command line is in it, so that templates of another version of this program are not used."""
    machine = MachineSpec(id="", uid=0, kernel=spec.kernel, memory_mib=spec.memory_mib, vcpus=spec.vcpus)
    # Measured anew at each start of the daemon, with another result in the last digits.
    boot = dataclasses.replace(_boot(machine, tools), tsc_khz=0)
    line = command.command_line(machine, program=tools.root.program, firmware=tools.root.firmware, give=int, boot=boot,
                                accelerator=tools.accelerator.name, channels=command.Channels(monitor=0, agent=0))
    return identify(spec, [tools.root.path.name, *line])


def _hold(pid: int) -> VmmProcess:
    try:
        return VmmProcess.started(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _explain(error: BaseException, last_words: str) -> BaseException:
    """The contract's error for what went wrong at start."""
    words = f": {last_words[-1000:]}" if last_words else ""
    if isinstance(error, HyperStackError) and words:
        kind = Exhausted if "annot allocate memory" in words else Unavailable
        return kind(f"the machine did not start: {error.message}{words}", hint=error.hint)
    if isinstance(error, OSError):
        kind = Exhausted if error.errno in _USED_UP else Unavailable
        what = f"{error.strerror or error} {error.filename or ''}".rstrip()
        return kind(f"the machine could not be started: {what}{words}")
    return error
