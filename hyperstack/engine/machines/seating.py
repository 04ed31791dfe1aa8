"""Disks, and volumes in memory, for containers that begin and end in a VM that runs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Collection

from msgspec.structs import replace

from hyperstack.engine.machines.sandboxes import Sandbox
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.storage.disks import PodDisks
from hyperstack.engine.store import Store
from hyperstack.guest import messages
from hyperstack.guest.channel import GuestCallError
from hyperstack.pod.errors import Conflict, HyperStackError

log = logging.getLogger(__name__)


class Seating:
    """The caller holds the pod's lock."""

    def __init__(self, store: Store, disks: PodDisks) -> None:
        self._store = store
        self._disks = disks

    async def seat(self, sandbox: Sandbox, pod: PodRecord, container: ContainerRecord) -> None:
        """The container's disks are in the running VM, and the pod's volumes that it uses mounted there. Idempotent.

        A disk is stored when it is there: a daemon that dies in between finds it plugged when it tries again.

        Volumes whose disks other VMs have are not its business; see `volume_sharing`.
        """
        before = pod.owned
        pod = self._store.pods.put(self._disks.own(pod, [container]))
        try:
            await self._bring_in(sandbox, pod, container)
        except BaseException:
            await asyncio.shield(self._give_back(sandbox, container, before))
            raise

    async def undo(self, sandbox: Sandbox, pod: PodRecord, container: ContainerRecord) -> None:
        """Of a start that ended with its daemon: what had not become of it is nobody's."""
        there = pod.seated | pod.plugged
        unused = {name for name, serial in self._disks.volumes_of([container]) if serial not in there}
        idents = {self._disks.volumes.by_name(container.project, name).id for name in unused}
        await self._give_back(sandbox, container, [ident for ident in pod.owned if ident not in idents])

    async def _give_back(self, sandbox: Sandbox, container: ContainerRecord, before: Collection[str]) -> None:
        """Volumes that the VM was to have from now on, and cannot use, are anybody's again."""
        if self._disks.serves(sandbox.pod_id):
            return
        serials = dict(self._disks.volumes_of([container]))
        for name in (*serials, *(volume.name for volume in self._disks.memory_of([container]))):
            ident = self._disks.volumes.by_name(container.project, name).id
            if ident in before:
                continue
            try:
                await _unmount(sandbox, name)
                if name in serials:
                    await sandbox.machine.detach_disk(serials[name])
            except HyperStackError as error:  # it goes with the machine
                log.warning("pod %s keeps the volume %s: %s", sandbox.pod_id[:12], name, error)
                continue
            pod = self._store.pods.get(sandbox.pod_id)
            if pod is not None:
                self._store.pods.put(replace(
                    pod, owned=tuple(one for one in pod.owned if one != ident),
                    plugged={s: read_only for s, read_only in pod.plugged.items() if s != serials.get(name)}))

    async def _bring_in(self, sandbox: Sandbox, pod: PodRecord, container: ContainerRecord) -> None:
        for volume in self._disks.memory_of([container]):
            await _mount(sandbox, volume)
        there = pod.seated | pod.plugged
        if all(serial in there for serial in self._disks.needed([container])):
            return
        volumes = {serial: name for name, serial in self._disks.volumes_of([container])}
        with self._disks.opened(pod, [container]) as disks:
            for disk in disks:
                if disk.serial in there:
                    continue
                try:
                    await sandbox.machine.attach_disk(disk)
                except Conflict as error:
                    if error.field != "serial":  # another machine's, not one of an earlier try
                        raise
                if disk.serial in volumes:
                    await _mount(sandbox, messages.Volume(name=volumes[disk.serial], serial=disk.serial))
                now = self._store.pods.get(pod.id) or pod
                pod = self._store.pods.put(replace(now, plugged=now.plugged | {disk.serial: disk.read_only}))

    async def unseat(self, sandbox: Sandbox, pod: PodRecord, container: ContainerRecord,
                     others: list[ContainerRecord]) -> None:
        """Give back what was plugged for the container, which is unmounted, and what none of the others needs."""
        kept = self._disks.needed(others)
        volumes = {serial: name for name, serial in self._disks.volumes_of([container])}
        if self._disks.serves(pod.id):
            kept |= dict.fromkeys(volumes, False)
        for serial in [s for s in self._disks.needed([container]) if s in pod.plugged and s not in kept]:
            if serial in volumes:
                await sandbox.channel.unvolume(volumes[serial])
            await sandbox.machine.detach_disk(serial)
            now = self._store.pods.get(pod.id) or pod
            gone = self._disks.volumes.by_name(pod.project, volumes[serial]).id if serial in volumes else ""
            self._store.pods.put(replace(
                now, owned=tuple(ident for ident in now.owned if ident != gone),
                plugged={s: read_only for s, read_only in now.plugged.items() if s != serial}))

    async def release(self, sandbox: Sandbox, containers: list[ContainerRecord]) -> None:
        """Unmount those of these containers' volumes in memory that none in the VM uses any more, nor another VM: what
        is in them is gone, as with Docker's.

        :param containers: of the VM's pod.
        """
        volumes = self._disks.memory_of(containers)
        if not volumes or self._disks.serves(sandbox.pod_id):
            return
        users = [c for c in self._store.containers.all() if c.pod_id == sandbox.pod_id and c.id in sandbox.prepared]
        used = {volume.name for volume in self._disks.memory_of(users)}
        for name in [volume.name for volume in volumes if volume.name not in used]:
            gone = self._disks.volumes.by_name(containers[0].project, name).id
            pod = self._store.pods.get(sandbox.pod_id)
            if pod is not None:
                self._store.pods.put(replace(pod, owned=tuple(ident for ident in pod.owned if ident != gone)))
            with contextlib.suppress(HyperStackError):  # a guest that cannot is about to be taken down
                await sandbox.channel.unvolume(name)


async def _mount(sandbox: Sandbox, volume: messages.Volume) -> None:
    try:
        await sandbox.channel.volume(volume)
    except GuestCallError as error:
        if error.errno != errno.EEXIST:
            raise


async def _unmount(sandbox: Sandbox, name: str) -> None:
    try:
        await sandbox.channel.unvolume(name)
    except GuestCallError as error:
        if error.errno != errno.ENOENT:
            raise
