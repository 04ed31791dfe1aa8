"""Disks and serial ports that come to a machine while it runs, and go."""

from __future__ import annotations

import asyncio
import contextlib

from hyperstack.hypervisor.api import Disk
from hyperstack.hypervisor.qemu import command, disks
from hyperstack.hypervisor.qemu.qmp import CommandFailed, Monitor
from hyperstack.pod.errors import Conflict, Exhausted, Unavailable

_UNPLUG_TIMEOUT_S = 10.0
_HELD_S, _HELD_POLL_S = 2.0, 0.02


class Plugs:
    """Of one running machine."""

    def __init__(self, ident: str, monitor: Monitor) -> None:
        self._ident = ident
        self._monitor = monitor
        self._unplugged: dict[str, asyncio.Event] = {}

    def deleted(self, device: str) -> None:
        """QEMU says that the guest has let go of it."""
        event = self._unplugged.get(device)
        if event is not None:
            event.set()

    async def attach_disk(self, disk: Disk) -> None:
        """:raise Conflict: a disk of that serial is attached, or another machine writes it.
        :raise Unavailable: QEMU refuses it.
        """
        if disks.device_id(disk.serial) in await self._devices():
            raise Conflict(f"machine {self._ident[:12]} has a disk {disk.serial} already", field="serial",
                           value=disk.serial)
        disks.claim(disk)
        # A daemon that died between these steps may have left the first of them.
        await self._drop_image(disk.serial)
        await self.plug(disk)

    async def plug(self, disk: Disk) -> None:
        """A disk that is claimed, and not there. :raise Unavailable: QEMU refuses it."""
        answer = await self._monitor.order("add-fd", {"opaque": disk.serial}, fd=disk.fd)
        try:
            fdset = int(answer["fdset-id"])
            await self._monitor.order("blockdev-add", disks.blockdev(disk, fdset))
            await self._monitor.order("device_add", disks.device(disk))
        except BaseException as error:
            with contextlib.suppress(Unavailable):
                await asyncio.shield(self._drop_image(disk.serial))
            if isinstance(error, (KeyError, TypeError, ValueError)):
                raise Unavailable("QEMU answers nonsense to add-fd") from error
            raise

    async def detach_disk(self, serial: str) -> None:
        device = disks.device_id(serial)
        if device in await self._devices():
            await self._unplug(device)
        await self._drop_image(serial)

    async def detach_disks(self, prefix: str) -> None:
        nodes = await self._monitor.order("query-named-block-nodes", {"flat": True}) or ()
        names = {str(item.get("node-name")) for item in nodes} | await self._devices()
        for serial in sorted({disks.serial_of(name) for name in names}):
            if serial.startswith(prefix):
                await self.detach_disk(serial)

    async def _unplug(self, device: str) -> None:
        event = self._unplugged[device] = asyncio.Event()
        try:
            await self._monitor.order("device_del", {"id": device})
            async with asyncio.timeout(_UNPLUG_TIMEOUT_S):
                await event.wait()
        except TimeoutError as error:
            raise Unavailable(f"the guest of {self._ident[:12]} does not let go of {device}") from error
        finally:
            del self._unplugged[device]

    async def _devices(self) -> set[str]:
        """Ids of the devices that have one."""
        answer = await self._monitor.order("qom-list", {"path": "/machine/peripheral"})
        return {str(item.get("name")) for item in answer or () if isinstance(item, dict)}

    async def _drop_image(self, serial: str) -> None:
        """Close a disk's image, where it is open and no device uses it."""
        node = disks.node_name(serial)
        nodes = await self._monitor.order("query-named-block-nodes", {"flat": True})
        if any(item.get("node-name") == node for item in nodes or ()):
            await self._remove_held("blockdev-del", {"node-name": node})
        for fdset in await self._monitor.order("query-fdsets") or ():
            if any(entry.get("opaque") == serial for entry in fdset["fds"]):
                await self._monitor.order("remove-fd", {"fdset-id": fdset["fdset-id"]})

    async def _remove_held(self, what: str, arguments: dict[str, str]) -> None:
        """A device that was reported gone may hold what is behind it a moment longer.

        :raise Unavailable: QEMU is gone, or it is still held after the grace.
        """
        deadline = asyncio.get_running_loop().time() + _HELD_S
        while True:
            try:
                await self._monitor.execute(what, arguments)
                return
            except CommandFailed as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(str(error)) from error
            await asyncio.sleep(_HELD_POLL_S)

    async def attach_port(self, name: str, fd: int) -> None:
        chardev, device = command.port_chardev(name, name), command.port_device(name)
        await self._monitor.order("getfd", {"fdname": name}, fd=fd)
        await self._monitor.order("chardev-add", chardev)
        try:
            await self._monitor.execute("device_add", device)
        except BaseException as error:
            with contextlib.suppress(Unavailable):
                await asyncio.shield(self._monitor.order("chardev-remove", {"id": chardev["id"]}))
            if isinstance(error, CommandFailed):
                raise Exhausted(f"machine {self._ident[:12]} can have no more ports: {error}") from error
            raise

    async def detach_port(self, name: str) -> None:
        ident = command.port_device_id(name)
        if ident in await self._devices():
            await self._monitor.order("device_del", {"id": ident})  # a port is gone at once, whatever the guest says
        if any(item.get("label") == ident for item in await self._monitor.order("query-chardev") or ()):
            await self._remove_held("chardev-remove", {"id": ident})
