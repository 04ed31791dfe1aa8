"""Which template a pod's machine is cloned from: looked for, made in the background, tried out, renewed, distrusted.

A pod never waits for a template: where there is none yet, its machine boots, and the next one finds what was made
meanwhile. Templates are made one at a time, each tried out by a clone before anybody else gets it.

Where the hypervisor can fork machines, a clone of each template goes through a rehearsal (rehearsal.py) and stands from
then on for the pods' machines to be forked from. It ends with the daemon; until the next daemon has raised another,
clones begin as the template was kept.

Who shares one is `EngineConfig.template_sharing`. All clones of a template know what its guest's kernel drew at random
while it booted (docs/security.md), so by default no project's pods share one with another's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict

from hyperstack.engine.config import EngineConfig, TemplateSharing
from hyperstack.engine.machines.greeting import greet
from hyperstack.engine.machines.rehearsal import rehearse, stage
from hyperstack.engine.machines.start_queue import MACHINE_OVERHEAD_MIB, StartQueue
from hyperstack.guest.frames import KEY_SIZE
from hyperstack.hypervisor.api import (
    TRIAL_PREFIX,
    Capability,
    Hypervisor,
    Machine,
    MachineSpec,
    Template,
    TemplateSpec,
)
from hyperstack.pod.errors import HyperStackError, Unsupported
from hyperstack.pod.kernel import Kernel

log = logging.getLogger(__name__)

_KEPT = 16
"""Templates at a time, each some 40 to 90 MiB of the host's page cache; the one longest unused goes."""
_RETRY_S = 300.0
"""Between two attempts at one that could not be made, or whose clones failed."""
_TRIAL_DEADLINE_S = 30.0


class Templates:
    """One maker per engine."""

    def __init__(self, hypervisor: Hypervisor, starts: StartQueue, config: EngineConfig) -> None:
        self._hypervisor = hypervisor
        self._starts = starts
        self._config = config
        self._known: OrderedDict[TemplateSpec, Template] = OrderedDict()
        """Tried out, the one used last at the end."""
        self._not_before: dict[TemplateSpec, float] = {}
        self._wanted: asyncio.Queue[TemplateSpec] = asyncio.Queue()
        self._queued: set[TemplateSpec] = set()
        self._maker: asyncio.Task[None] | None = None
        self._forks = config.rehearsal_layer is not None
        """Until the hypervisor says that it cannot."""
        self._uids: dict[TemplateSpec, int] = {}
        """Of parents, by number."""

    @property
    def enabled(self) -> bool:
        return (self._config.template_sharing is not TemplateSharing.OFF
                and Capability.TEMPLATE in self._hypervisor.capabilities)

    def memory_mib(self, asked: int) -> int:
        """RAM of the machine for a pod that asks for so much: pods of a class share a template, and RAM that a guest
        does not touch costs nothing. The next of 128, 192, 256, 384, 512, 768... MiB."""
        if not self.enabled:
            return asked
        size = 128
        while size < asked:
            size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
        return size

    def prepare(self, project: str, kernel: Kernel, memory_mib: int) -> None:
        """Have the template of an ordinary pod ready before the first is asked for. Returns at once."""
        if self.enabled:
            self.take(project, kernel, memory_mib=self.memory_mib(memory_mib), vcpus=1, nic=True)

    def take(self, project: str, kernel: Kernel, *, memory_mib: int, vcpus: int, nic: bool) -> Template | None:
        """The template for such a machine; None where there is none yet, and then one is made. Returns at once."""
        if not self.enabled:
            return None
        spec = TemplateSpec(kernel=kernel, memory_mib=memory_mib, vcpus=vcpus, nic=nic, scope=self.scope(project))
        template = self._known.get(spec)
        if template is not None:
            self._known.move_to_end(spec)
        if template is None or self._is_old(template) or self._lacks_parent(template):
            self._want(spec)
        return template

    def standing(self, spec: TemplateSpec) -> Template | None:
        """The one that machines begin from now; None as well where it is about to be replaced, or its parent is."""
        template = self._known.get(spec)
        return None if template is None or self._is_old(template) or self._lacks_parent(template) else template

    def scope(self, project: str) -> str:
        """Of the templates of a project's pods."""
        return f"project {project}" if self._config.template_sharing is TemplateSharing.PROJECT else "host"

    async def distrust(self, template: Template, why: HyperStackError) -> None:
        """A clone of it did not come up: it is not used again."""
        log.warning("template %s is given up: %s", template.id[:12], why)
        if self._known.get(template.spec) is template:
            del self._known[template.spec]
        self._not_before[template.spec] = time.monotonic() + _RETRY_S
        await self._hypervisor.drop_template(template)

    async def close(self) -> None:
        if self._maker is not None:
            self._maker.cancel()
            await asyncio.gather(self._maker, return_exceptions=True)

    def _lacks_parent(self, template: Template) -> bool:
        return self._forks and not self._hypervisor.has_parent(template)

    def _is_old(self, template: Template) -> bool:
        return time.time_ns() - template.created_ns > self._config.template_age_s * 10**9

    def _want(self, spec: TemplateSpec) -> None:
        if spec in self._queued or time.monotonic() < self._not_before.get(spec, 0.0):
            return
        self._queued.add(spec)
        self._wanted.put_nowait(spec)
        if self._maker is None:
            self._maker = asyncio.create_task(self._make_wanted(), name="templates")

    async def _make_wanted(self) -> None:
        while True:
            spec = await self._wanted.get()
            try:
                async with self._starts.aside(memory_mib=spec.memory_mib + MACHINE_OVERHEAD_MIB):
                    await self._provide(spec)
            except (HyperStackError, OSError) as error:
                self._not_before[spec] = time.monotonic() + _RETRY_S
                log.warning("no template of %s, %d MiB: %s; pods boot instead", spec.kernel.name, spec.memory_mib,
                            error)
            finally:
                self._queued.discard(spec)

    async def _provide(self, spec: TemplateSpec) -> None:
        template = await self._hypervisor.find_template(spec)
        if template is None or self._is_old(template):
            began = time.monotonic()
            template = await self._hypervisor.make_template(spec, ident=_trial_id(), uid=self._config.trial_uid,
                                                            deadline_s=self._config.boot_deadline_s)
            log.info("made the template %s of %s, %d MiB, in %.1f s", template.id[:12], spec.kernel.name,
                     spec.memory_mib, time.monotonic() - began)
        if self._lacks_parent(template):
            await self._raise_parent(template)
        try:
            await self._try_out(template)
        except HyperStackError:
            await self._hypervisor.drop_template(template)
            raise
        self._known[spec] = template
        self._known.move_to_end(spec)
        while len(self._known) > _KEPT:
            _, unused = self._known.popitem(last=False)
            await self._hypervisor.drop_template(unused)

    async def _raise_parent(self, template: Template) -> None:
        """Where it does not come up, the template is as good without."""
        taken = {number for spec, number in self._uids.items() if spec in self._known}
        number = self._uids[template.spec] = min(set(range(len(taken) + 1)) - taken)
        began = time.monotonic()
        machine: Machine | None = None
        try:
            assert self._config.rehearsal_layer is not None
            async with stage(self._config.rehearsal_layer, disk_bytes=self._config.default_disk_bytes,
                             directory=self._config.data_root) as disks:
                machine = await self._hypervisor.start_parent(
                    template, ident=_trial_id(), uid=self._config.parent_uid(number), disks=disks)
            await rehearse(machine, template.spec)
            await self._hypervisor.keep_parent(template, machine)
        except Unsupported:
            self._forks = False
        except BaseException as error:
            if machine is not None:
                await asyncio.shield(machine.destroy())
            if not isinstance(error, HyperStackError | TimeoutError | OSError):
                raise
            self._not_before[template.spec] = time.monotonic() + _RETRY_S
            log.warning("no machine to fork others of %s from: %s", template.spec.kernel.name, error or "timeout")
        else:
            log.info("machines of the template %s are forked after a rehearsal of %.1f s", template.id[:12],
                     time.monotonic() - began)

    async def _try_out(self, template: Template) -> None:
        """:raise HyperStackError: its clone does not answer."""
        spec = template.spec
        machine = await self._hypervisor.start(MachineSpec(
            id=_trial_id(), uid=self._config.trial_uid, kernel=spec.kernel, memory_mib=spec.memory_mib,
            vcpus=spec.vcpus, template=template))
        try:
            async with await greet(machine, secrets.token_bytes(KEY_SIZE), deadline_s=_TRIAL_DEADLINE_S) as channel:
                await channel.ping(deadline_s=_TRIAL_DEADLINE_S)
        finally:
            await asyncio.shield(machine.destroy())


def _trial_id() -> str:
    return TRIAL_PREFIX + secrets.token_hex(8)
