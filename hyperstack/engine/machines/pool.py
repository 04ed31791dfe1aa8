"""Machines that stand ready before a pod asks for one.

A ready machine was forked from a template, runs, and its agent answers; it has no disks, no address, and no name. A pod
of its class takes it over instead of starting one, and what is left of the start is what must be the pod's own: time
and entropy, names, network, disks. It keeps its id, its uid and its agent's key, which the pod's record takes over
before anything else is done with it; so a daemon that is killed leaves machines that a record names, and machines that
none names, which the next one removes.

Rules
    Classes     A class is a template, so a project's own by default, and machines stand ready only in classes that pods
                asked for lately, `pool_size` in each.
    Priority    One is made at a time, and only once no start waited or was under way for a moment.
    Memory      All together they take at most a share of what the host has available; a class that was asked for more
                lately takes the place of one that was not. Where the host is short of memory, all are given up.
    Freshness   A machine goes with its template: when that is renewed, dropped, too old, or without its parent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections import Counter, OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass, field

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.machines.greeting import greet
from hyperstack.engine.machines.liveness import lost
from hyperstack.engine.machines.start_queue import MACHINE_OVERHEAD_MIB, StartQueue
from hyperstack.engine.machines.templates import Templates
from hyperstack.engine.machines.uids import Uids
from hyperstack.engine.networks.service import NetworkService
from hyperstack.guest import messages
from hyperstack.guest.channel import AgentChannel
from hyperstack.guest.connection import EventHandler
from hyperstack.guest.frames import KEY_SIZE
from hyperstack.hypervisor.api import POOL_PREFIX, Hypervisor, Machine, MachineSpec, Nic, Template, TemplateSpec
from hyperstack.pod.errors import HyperStackError

log = logging.getLogger(__name__)

POOL_ORIGIN = "pool"
"""How the VM of a pod began that took a ready machine; see `PodRecord.origin`."""

_MIB = 1 << 20
_NOMINAL_BYTES = 4 * _MIB
"""What a ready machine takes of the host within seconds, at least (docs/hypervisor.md)."""
_QUIET_S = 1.0
"""After a machine came up: its process is still to be started, and to say its first words."""
_LOOK_S = 1.0
"""Between two looks at the host's memory while there are ready machines."""
_FORGOTTEN_S = 1800.0
"""A class that nobody asked for so long has no ready machines."""
_RETRY_S = 60.0
"""After a machine of a class did not come up."""
_GREETING_S = 30.0
_ANY_MAC = "02:00:00:00:00:01"
"""Each pod's agent is told the pod's own."""


@dataclass(frozen=True, kw_only=True)
class PoolState:
    """How it stands with the pool, for people to look at."""

    size: int
    """Wanted in each class that is in use."""
    ready: int
    memory: int
    """Bytes of the host that they take."""


@dataclass(eq=False, kw_only=True)
class Ready:
    """A machine that is no pod's; or no longer, when it was taken."""

    template: Template
    machine: Machine
    uid: int
    key: bytes
    channel: AgentChannel = field(init=False)
    memory_bytes: int = 0
    on_event: EventHandler | None = None
    """To be set by who takes it."""
    watcher: asyncio.Task[None] | None = None

    async def hear(self, event: messages.Event) -> None:
        if self.on_event is not None:
            await self.on_event(event)


class Pool:
    """One per engine. All its methods belong to the event loop's thread."""

    def __init__(self, hypervisor: Hypervisor, templates: Templates, networks: NetworkService, starts: StartQueue,
                 uids: Uids, config: EngineConfig) -> None:
        self._hypervisor = hypervisor
        self._templates = templates
        self._networks = networks
        self._starts = starts
        self._uids = uids
        self._config = config
        self._ready: list[Ready] = []
        """The oldest first."""
        self._asked: OrderedDict[TemplateSpec, float] = OrderedDict()
        """When a class was last asked for, by the monotonic clock; the last at the end."""
        self._not_before: dict[TemplateSpec, float] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._endings: set[asyncio.Task[None]] = set()

    def take(self, template: Template) -> Ready | None:
        """A ready machine of that template, the caller's from now on; None where there is none. Returns at once."""
        if not self._config.pool_size:
            return None
        self._asked[template.spec] = time.monotonic()
        self._asked.move_to_end(template.spec)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="pool")
        found = next((one for one in self._ready if one.template == template), None)
        if found is not None:
            self._let_go(found)
        return found

    async def discard(self, ready: Ready) -> None:
        """End it, taken or not, and leave nothing."""
        self._let_go(ready)
        ending = asyncio.create_task(self._end(ready))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        await asyncio.shield(ending)

    async def _end(self, ready: Ready) -> None:
        await ready.channel.close()
        await ready.machine.destroy()
        self._uids.give_back(ready.uid)

    def state(self, project: str | None = None) -> PoolState:
        """Of what one project's pods may take, or of all."""
        scope = None if project is None else self._templates.scope(project)
        mine = [one for one in self._ready if scope in (None, one.template.spec.scope)]
        return PoolState(size=self._config.pool_size, ready=len(mine), memory=sum(one.memory_bytes for one in mine))

    async def close(self) -> None:
        """All ready machines end."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._drain("the daemon stops")
        await asyncio.gather(*self._endings, return_exceptions=True)

    # -- keeping it

    async def _keep(self) -> None:
        while self._asked or self._ready:
            await asyncio.sleep(_QUIET_S if self._lacking() is not None else _LOOK_S)
            try:
                await self._tend()
            except (HyperStackError, OSError) as error:
                log.warning("the pool of ready machines: %s", error)
        self._keeper = None

    async def _tend(self) -> None:
        """Give up what is no good any more, then bring up one of what lacks."""
        now = time.monotonic()
        for spec in [spec for spec, asked in self._asked.items() if now - asked > _FORGOTTEN_S]:
            del self._asked[spec]
        for one in [one for one in self._ready if not self._is_good(one)]:
            await self.discard(one)
        if self._ready and self._starts.is_short:
            await self._drain("the host is short of memory")
        template = self._lacking()
        if template is not None and self._starts.idle_s >= _QUIET_S and await self._has_room(template.spec):
            await self._add(template)

    def _is_good(self, one: Ready) -> bool:
        spec = one.template.spec
        return spec in self._asked and self._templates.standing(spec) == one.template

    def _lacking(self) -> Template | None:
        """Of the class that was asked for last of all those that have too few."""
        count = Counter(one.template.spec for one in self._ready)
        for spec in reversed(self._asked):
            if count[spec] < self._config.pool_size and time.monotonic() >= self._not_before.get(spec, 0.0):
                template = self._templates.standing(spec)
                if template is not None:
                    return template
        return None

    async def _has_room(self, spec: TemplateSpec) -> bool:
        """Whether the host has memory for one more, made where a class that was asked for longer ago has one."""
        if self._starts.room_mib() < spec.memory_mib + MACHINE_OVERHEAD_MIB:
            return False
        taken = sum(one.memory_bytes for one in self._ready)
        each = max((one.memory_bytes for one in self._ready), default=_NOMINAL_BYTES)
        if taken + each <= (self._starts.room_mib() * _MIB + taken) * self._config.pool_memory_percent // 100:
            return True
        order = list(self._asked)
        earlier = [one for one in self._ready if order.index(one.template.spec) < order.index(spec)]
        if earlier:
            await self.discard(min(earlier, key=lambda one: order.index(one.template.spec)))
        return False

    async def _add(self, template: Template) -> None:
        began = time.monotonic()
        uid = self._uids.lend()
        machine: Machine | None = None
        try:
            machine = await self._start(template, uid)
            ready = Ready(template=template, machine=machine, uid=uid, key=secrets.token_bytes(KEY_SIZE))
            ready.channel = await greet(machine, ready.key, deadline_s=_GREETING_S, on_event=ready.hear)
            ready.memory_bytes = max(_NOMINAL_BYTES, (await machine.usage()).memory_bytes)
        except BaseException as error:
            if machine is not None:
                await asyncio.shield(machine.destroy())
            self._uids.give_back(uid)
            self._back_off(template, error)
            return
        self._ready.append(ready)
        ready.watcher = asyncio.create_task(self._watch(ready), name=f"ready {machine.id}")
        log.debug("%s stands ready after %.0f ms, %d MiB", machine.id, (time.monotonic() - began) * 1000,
                  ready.memory_bytes // _MIB)

    def _back_off(self, template: Template, error: BaseException) -> None:
        if not isinstance(error, HyperStackError | OSError):
            raise error
        self._not_before[template.spec] = time.monotonic() + _RETRY_S
        log.warning("no ready machine of %s, %d MiB: %s", template.spec.kernel.name, template.spec.memory_mib, error)

    async def _start(self, template: Template, uid: int) -> Machine:
        ident, spec = POOL_PREFIX + secrets.token_hex(8), template.spec
        with ExitStack() as stack:
            nic = None
            if spec.nic:
                tap = await self._networks.make_spare(ident, uid=uid)
                stack.callback(os.close, tap)
                nic = Nic(fd=tap, mac=_ANY_MAC)
            return await self._hypervisor.start(MachineSpec(
                id=ident, uid=uid, kernel=spec.kernel, memory_mib=spec.memory_mib, vcpus=spec.vcpus, nic=nic,
                template=template))

    async def _watch(self, ready: Ready) -> None:
        reason = await lost(ready.machine, ready.channel, keepalive_s=self._config.keepalive_s,
                            deadline_s=self._config.keepalive_deadline_s)
        log.warning("%s, which stood ready, is gone: %s", ready.machine.id, reason)
        ready.watcher = None
        await self.discard(ready)

    def _let_go(self, ready: Ready) -> None:
        if ready in self._ready:
            self._ready.remove(ready)
        if ready.watcher is not None:
            ready.watcher.cancel()
            ready.watcher = None

    async def _drain(self, why: str) -> None:
        if self._ready:
            log.info("%d ready machines are given up: %s", len(self._ready), why)
        while self._ready:
            await self.discard(self._ready[0])
