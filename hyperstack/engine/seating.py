"""Disks for containers that join a pod whose VM runs already."""

from __future__ import annotations

import errno

from msgspec.structs import replace

from hyperstack.engine.disks import PodDisks
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.sandboxes import Sandbox
from hyperstack.engine.store import Store
from hyperstack.guest import messages
from hyperstack.guest.channel import GuestCallError
from hyperstack.pod.errors import Conflict


class Seating:
    """The caller holds the pod's lock."""

    def __init__(self, store: Store, disks: PodDisks) -> None:
        self._store = store
        self._disks = disks

    async def seat(self, sandbox: Sandbox, pod: PodRecord, container: ContainerRecord) -> None:
        """The container's disks are in the running VM, and its volumes mounted there. Idempotent.

        A disk is stored when it is there: a daemon that dies in between finds it plugged when it tries again.

        :raise Conflict: a volume that it writes to is read-only in the VM, or in use elsewhere.
        """
        needed = self._disks.needed([container])
        there = pod.seated | pod.plugged
        if all(serial in there and (read_only or not there[serial]) for serial, read_only in needed.items()):
            return
        volumes = {serial: name for name, serial, _ in self._disks.volumes_of([container])}
        with self._disks.opened(pod, [container]) as disks:
            for disk in disks:
                if disk.serial in there:
                    self._check_writable(pod, volumes.get(disk.serial, disk.serial), there[disk.serial],
                                         disk.read_only)
                    continue
                try:
                    await sandbox.machine.attach_disk(disk)
                except Conflict as error:
                    if error.field != "serial":  # another machine's, not one of an earlier try
                        raise
                if disk.serial in volumes:
                    await _mount(sandbox, messages.Volume(name=volumes[disk.serial], serial=disk.serial,
                                                          read_only=disk.read_only))
                pod = self._store.pods.put(replace(pod, plugged=pod.plugged | {disk.serial: disk.read_only}))

    async def unseat(self, sandbox: Sandbox, pod: PodRecord, container: ContainerRecord,
                     others: list[ContainerRecord]) -> None:
        """Give back what was plugged for the container, which is unmounted, and what none of the others needs."""
        kept = self._disks.needed(others)
        volumes = {serial: name for name, serial, _ in self._disks.volumes_of([container])}
        for serial in [s for s in self._disks.needed([container]) if s in pod.plugged and s not in kept]:
            if serial in volumes:
                await sandbox.channel.unvolume(volumes[serial])
            await sandbox.machine.detach_disk(serial)
            pod = self._store.pods.put(replace(
                pod, plugged={s: read_only for s, read_only in pod.plugged.items() if s != serial}))

    @staticmethod
    def _check_writable(pod: PodRecord, name: str, is_read_only: bool, may_be: bool) -> None:
        if is_read_only and not may_be:
            raise Conflict(f"Volume {name} is read-only in the running VM of pod {pod.name}", field="volume",
                           value=name, hint="mount it read-only, or stop the pod's containers and start them again")


async def _mount(sandbox: Sandbox, volume: messages.Volume) -> None:
    try:
        await sandbox.channel.volume(volume)
    except GuestCallError as error:
        if error.errno != errno.EEXIST:
            raise
