"""The hypervisor door: everything the engine may ask of a hypervisor.

Terms
    machine     one running VM. It is a process (or a domain) of its own, which outlives the daemon.
    spec        all that is needed to start it; nothing else is looked up.
    record      what must be kept to find the machine again after the daemon died; plain JSON.

Lifecycle
    The engine stores the machine's id and uid, *then* calls `start`. Whatever `start` makes on the host is findable
    from the id alone (cgroup, run directory), so that a daemon that dies anywhere within can `adopt` or `destroy`
    what it left. `start` returns as soon as the machine's processors run; whether the guest lives is found out over
    the agent channel. `wait` ends when the machine does, with the reason. `destroy` is idempotent and leaves nothing.

Disks and NICs arrive as open descriptors; the caller closes its own copies after the call returned.

Templates
    A template is a machine that was booted once, up to its agent's open port, and kept. Machines started from it (its
    clones) go on from there. They have the template's kernel, RAM size and processors, and its guest's secrets up to
    that moment, so `TemplateSpec.scope` says who shares one; disks, NIC and what the agent is told are a clone's own.

    A parent is a clone that stands still, for others to be forked from instead of being made from the template: they
    have what it did until then in common as well.

A backend that lacks a capability raises `Unsupported(what, backend)`; callers ask `capabilities`, never `isinstance`.

Example
    machine = await hypervisor.start(spec)
    reader, writer = await machine.connect_agent()
    ...
    await machine.destroy()
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from hyperstack.pod.finding import Finding
from hyperstack.pod.kernel import Kernel


class Capability(enum.Flag):
    """Optional abilities."""

    NONE = 0
    DISK_HOTPLUG = enum.auto()
    PAUSE = enum.auto()
    CONSOLE = enum.auto()
    """`console_tail` tells what the guest's kernel printed."""
    TEMPLATE = enum.auto()
    """Machines can be cloned from a booted one."""
    GROW = enum.auto()
    """Machines can be given memory and processors while they run."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A block device of the guest.

    `serial` (at most 20 characters of [A-Za-z0-9_-]) is how the guest's agent finds it.
    """

    serial: str
    fd: int
    """Open read-only or read-write, as `read_only` says; a raw image."""
    read_only: bool


@dataclass(frozen=True, kw_only=True)
class Nic:
    fd: int
    """An open tap with IFF_NO_PI|IFF_VNET_HDR."""
    mac: str


@dataclass(frozen=True, kw_only=True)
class TemplateSpec:
    """What a template and all its clones have in common."""

    kernel: Kernel
    memory_mib: int
    vcpus: int
    nic: bool
    """Whether they have one."""
    scope: str
    """Who shares it; templates of different scopes are made apart."""


@dataclass(frozen=True, kw_only=True)
class Template:
    id: str
    """64 hex digits: of the spec and all else that it depends on, of this host's boot above all."""
    spec: TemplateSpec
    created_ns: int
    memory_bytes: int
    """What its RAM takes of the host, once for all clones."""


TRIAL_PREFIX = "template-"
"""Machines with ids that begin so are nobody's pods: they become templates, or try one out."""
POOL_PREFIX = "ready-"
"""Machines with ids that begin so were started before there was a pod for them; they keep their ids when one gets
them."""


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    id: str
    """64 hex digits: the pod's id; or TRIAL_PREFIX or POOL_PREFIX and 16 hex digits."""
    uid: int
    """The unprivileged uid and gid that the machine alone runs under."""
    kernel: Kernel
    memory_mib: int
    vcpus: int = 1
    disks: tuple[Disk, ...] = ()
    nic: Nic | None = None
    template: Template | None = None
    """Clone this instead of booting; kernel, RAM, processors and whether there is a NIC must be as in its spec."""


class Origin(enum.StrEnum):
    """How a machine began."""

    COLD = "cold"          # it booted
    TEMPLATE = "template"  # as a template was kept
    FORK = "fork"          # as the template's parent stood
    UNKNOWN = ""           # an earlier daemon started it


class ExitKind(enum.StrEnum):
    SHUTDOWN = "shutdown"    # the guest powered itself off
    PANIC = "panic"          # the guest's kernel panicked or reset
    KILLED = "killed"        # the VMM got a signal, or crashed
    DESTROYED = "destroyed"  # we did it


@dataclass(frozen=True, kw_only=True)
class MachineExit:
    kind: ExitKind
    reason: str
    """One sentence; for KILLED with the signal where it is known and the VMM's last words."""
    console: str = ""
    """The console's last lines where known (bounded, sanitised to printable text)."""


@dataclass(frozen=True, kw_only=True)
class HostUsage:
    """What a machine costs the host."""

    memory_bytes: int
    """Of its cgroup."""
    cpu_ns: int
    pids: int
    pss_bytes: int = 0
    """Resident memory of the VMM process, of what it shares with other machines its part; 0: nobody asked, it ended,
    or the host does not tell."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a machine can have while it runs."""

    memory_mib: int
    vcpus: int


class Machine(Protocol):
    """A running VM, started or adopted."""

    id: str
    pid: int
    """Of the VMM process on the host; 0 where there is none."""
    origin: Origin

    async def connect_agent(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection to the guest agent's port; the backend drops an earlier one.

        :raise Unavailable: the machine is gone.
        """

    @property
    def disk_names(self) -> dict[str, str]:
        """Of disks that the guest knows by another serial: that one -> its own. After `start` or `equip` only."""

    async def equip(self, wanted: Sequence[Disk], nic: Nic | None) -> None:
        """Give a machine that was forked without disks its disks, and another tap (which has the same MAC).

        :raise Unsupported: it was not forked by this daemon.
        :raise Unavailable: it is gone, or QEMU refuses.
        """

    async def attach_disk(self, disk: Disk) -> None:
        """:raise Unsupported: no DISK_HOTPLUG."""

    async def detach_disk(self, serial: str) -> None:
        """Idempotent; returns when the guest can no longer reach the disk."""

    async def detach_disks(self, prefix: str) -> None:
        """The same of all whose serials begin so. A guest may see a disk a moment longer than it can reach it: one that
        comes in its place has another serial."""

    async def attach_port(self, name: str, fd: int) -> None:
        """A serial port that the guest knows by this name, with the connected stream socket at its other end. The
        machine holds that as long as it runs, so whoever serves the port lives and ends with it.

        :param name: at most 32 characters of [a-z0-9.-].
        :raise Exhausted: it has as many ports as it can have.
        """

    async def detach_port(self, name: str) -> None:
        """Idempotent."""

    def helper_groups(self) -> contextlib.AbstractContextManager[Sequence[int]]:
        """Open descriptors of the cgroup.procs that a helper of this machine joins by writing "0" to each: it is on the
        machine's account then, and ends with it at the latest."""

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def pin(self, cpus: Collection[int]) -> None:
        """Hold all its threads, those to come too, to these CPUs of the host; none: to all that there are.

        :raise Unavailable: it is gone.
        """

    async def room(self) -> Room:
        """What `grow` can be asked for. :raise Unsupported: no GROW. :raise Unavailable: it is gone."""

    async def grow(self, *, memory_mib: int, vcpus: int) -> int:
        """Give the guest so much RAM, or a little more, and the host's room for that and for so many processors; the
        agent brings them up. Never takes anything away. Idempotent.

        :return: MiB of RAM that it has then.
        :raise Unsupported: no GROW, or the guest's kernel does not take it.
        :raise Exhausted: it is more than its `room`. :raise Unavailable: it is gone.
        """

    async def console_tail(self) -> str:
        """The last lines (at most 64 KiB) of the guest's console, control characters replaced."""

    async def usage(self, *, pss: bool = False) -> HostUsage:
        """:param pss: tell `pss_bytes`, too, for which the host's kernel looks at each page: milliseconds."""

    async def wait(self) -> MachineExit:
        """Ends when the machine does. Any number of tasks may wait; each is told the same."""

    async def destroy(self) -> None:
        """Kill it and leave no process, cgroup, file or mount. Idempotent."""


class Hypervisor(Protocol):
    name: str
    capabilities: Capability
    accelerator: str
    """"kvm", "tcg"..., as the probe found; for `info`."""

    async def probe(self) -> list[Finding]:
        """What this host can do, each with a remedy; boots something with a deadline to know the accelerator."""

    def expect_start(self) -> None:
        """One will be asked for in a moment: what makes it faster may be done meanwhile. Returns at once."""

    async def start(self, spec: MachineSpec) -> Machine:
        """Start a machine; nothing is left behind where it fails.

        :raise Unavailable: the VMM did not come up; the message has its last words.
        :raise Exhausted: the host lacks memory or descriptors for it.
        """

    async def make_template(self, spec: TemplateSpec, *, ident: str, uid: int, deadline_s: float) -> Template:
        """Boot a machine of this id and uid, wait until its agent has opened its port, and keep it.

        :raise Unsupported: no TEMPLATE.
        :raise Unavailable: it did not come so far; nothing is left behind.
        """

    async def find_template(self, spec: TemplateSpec) -> Template | None:
        """One that was kept, by this daemon or an earlier one, and that this host can still use."""

    async def drop_template(self, template: Template) -> None:
        """Forget it; its clones are not harmed. Idempotent."""

    async def start_parent(self, template: Template, *, ident: str, uid: int, disks: tuple[Disk, ...] = ()) -> Machine:
        """A clone that is to be a parent: the caller has it do once what the template's clones will do, leaves nothing
        of that in it, and hands it to `keep_parent` or destroys it.

        :param disks: each a file of its own. Children's disks may take their places: read-only ones that are not
            larger, writable ones of the same size (`Machine.disk_names`).

        :raise Unsupported: this backend cannot fork machines, or not on this host.
        :raise Unavailable: as `start`.
        """

    async def keep_parent(self, template: Template, machine: Machine) -> None:
        """Stop the machine. From now on clones of the template are forked from it: they begin where it stopped, and
        share what they do not change. It goes with the template, with another parent, or with this object.

        :raise Unavailable: it is gone or cannot be forked; the caller destroys it.
        """

    def has_parent(self, template: Template) -> bool: ...

    async def adopt(self, ident: str) -> Machine | None:
        """The running machine of that id, else None (then `destroy_leftovers` has something to do, or nothing)."""

    async def destroy_leftovers(self, ident: str) -> None:
        """Finish what a dead daemon left half-done for that id. Idempotent, harmless where there is nothing."""

    async def list_leftovers(self) -> Collection[str]:
        """Ids of every machine, running or half-made, that can be found on this host."""

    async def close(self) -> None:
        """Let go of all machines without ending them (the daemon stops)."""
