"""Volumes that containers of several VMs use at once.

A volume is a disk with a file system that one kernel can have mounted. The first VM that uses it has the disk; it
serves the files to the others, each of which reaches it by a stream between the two machines that runs through nothing
else. So the disk is never mounted by the host's kernel, its size is the limit for all, and one volume is one file
system with one set of locks. A VM that serves others stays when its own containers have ended, until they have, too.

Who has a volume's disk (`PodRecord.owned`) and who is served by whom (`PodRecord.shared`) is stored before it is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import secrets
import socket
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from hyperstack.engine.locks import KeyedLocks
from hyperstack.engine.machines.sandboxes import Sandbox, Sandboxes
from hyperstack.engine.records import ContainerRecord, PodRecord, VolumeRecord
from hyperstack.engine.storage.disks import PodDisks, served_volumes
from hyperstack.engine.store import Store
from hyperstack.guest import messages
from hyperstack.guest.channel import GuestCallError
from hyperstack.guest.tray import TRAY_BYTES, open_tray
from hyperstack.hypervisor.api import Disk
from hyperstack.pod.errors import HyperStackError, Unavailable

_LOOK_S = 0.05
_TRAY_BYTES = 2 * TRAY_BYTES
"""Places for what is read, and behind them for what is written."""


class VolumeSharing:
    def __init__(self, store: Store, sandboxes: Sandboxes, disks: PodDisks, *, patience_s: float) -> None:
        """:param patience_s: for the start of a VM that is to serve."""
        self._store = store
        self._sandboxes = sandboxes
        self._disks = disks
        self._patience_s = patience_s
        self._ports = KeyedLocks()

    async def attach(self, sandbox: Sandbox, container: ContainerRecord, seat: Callable[[], Awaitable[None]]) -> None:
        """Connect the container's VM with those that have the disks of its volumes. The caller has the pod's lock.

        :param seat: gives the VM the disks that nobody has.
        :raise Unavailable: a VM that was to serve does not come up.
        """
        await self.detach(sandbox, container)  # of a start that was broken off
        await seat()
        for volume, name, port in served_volumes(self._store, container):
            await self._attach_one(sandbox, container, volume, name, port, seat)

    async def _attach_one(self, sandbox: Sandbox, container: ContainerRecord, volume: VolumeRecord, name: str,
                          port: str, seat: Callable[[], Awaitable[None]]) -> None:
        read_only = all(mount.read_only for mount in container.spec.mounts if mount.source == volume.name)
        deadline = asyncio.get_running_loop().time() + self._patience_s
        while True:
            server = self._server(sandbox.pod_id, volume, port)
            if server is not None:
                tray = await self._connect(sandbox, server, volume, port, read_only=read_only)
                if tray is not None:
                    break
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"the VM that has the volume {volume.name} neither starts nor stops", field="volume",
                                  value=volume.name)
            await asyncio.sleep(_LOOK_S)
            await seat()
            if volume.id in self._pod(sandbox.pod_id).owned:
                return
        await sandbox.channel.volume(messages.Volume(name=name, port=port, tray=tray))

    async def _connect(self, sandbox: Sandbox, server: Sandbox, volume: VolumeRecord, port: str, *, read_only: bool
                       ) -> str | None:
        """The tray that large reads and writes go by, empty where there is none. None: the server's guest has no such
        volume yet; one that runs is to have the disk before it has mounted it."""
        async with self._ports.hold(port):
            await _let_go(server, port)  # of the container's former life, whom nobody may have told yet
            theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            with theirs, ours:
                await server.machine.attach_port(port, theirs.fileno())
                try:
                    tray = await _serve(server, volume, port, read_only=read_only)
                except GuestCallError as error:
                    if error.errno != errno.ENOENT:
                        raise
                    await server.machine.detach_port(port)
                    return None
                await sandbox.machine.attach_port(port, ours.fileno())
            if tray:
                with open_tray("shared", _TRAY_BYTES) as (memory, _):
                    for machine in (server.machine, sandbox.machine):
                        await machine.attach_disk(Disk(serial=tray, fd=memory, read_only=False))
        return tray

    async def release(self, server: Sandbox, port: str) -> None:
        """Take away what was at the port of one that serves, unless somebody is there again. Idempotent."""
        async with self._ports.hold(port):
            if not any(pod.shared.get(port) == server.pod_id for pod in self._store.pods.all()):
                with contextlib.suppress(HyperStackError):
                    await _let_go(server, port)

    def _server(self, pod_id: str, volume: VolumeRecord, port: str) -> Sandbox | None:
        """The running sandbox that has the disk, once it is stored that it serves: so it stays. None: it starts, or
        stops. Nothing is awaited in here: between the two nothing can happen."""
        owner = self._disks.owner(volume.id)
        server = None if owner is None else self._sandboxes.get(owner.id)
        if server is not None:
            pod = self._pod(pod_id)
            self._store.pods.put(replace(pod, shared=pod.shared | {port: server.pod_id}))
        return server

    async def detach(self, sandbox: Sandbox, container: ContainerRecord) -> None:
        """Let go of what is served to the container. Idempotent."""
        pod = self._pod(sandbox.pod_id)
        for port, server in list(pod.shared.items()):
            if not port.startswith(_prefix(container)):
                continue
            with contextlib.suppress(HyperStackError):
                await sandbox.channel.unvolume(f"_{port}")
            with contextlib.suppress(HyperStackError):
                await _let_go(sandbox, port)
            now = self._pod(sandbox.pod_id)
            self._store.pods.put(replace(now, shared={p: s for p, s in now.shared.items() if p != port}))
            self._sandboxes.let_go({port: server})

    def _pod(self, pod_id: str) -> PodRecord:
        pod = self._store.pods.get(pod_id)
        if pod is None:
            raise Unavailable(f"Pod {pod_id[:12]} is gone", field="pod", value=pod_id)
        return pod


async def _serve(server: Sandbox, volume: VolumeRecord, port: str, *, read_only: bool) -> str:
    """The tray; empty where the agent is from before there were such."""
    tray = _trays(port) + secrets.token_hex(4)
    try:
        await server.channel.serve(volume.name, port, read_only=read_only, tray=tray)
        return tray
    except GuestCallError as error:
        if error.errno != errno.EINVAL:
            raise
    await server.channel.serve(volume.name, port, read_only=read_only)
    return ""


async def _let_go(sandbox: Sandbox, port: str) -> None:
    """One end of it. Idempotent."""
    await sandbox.machine.detach_port(port)
    await sandbox.machine.detach_disks(_trays(port))


def _trays(port: str) -> str:
    """How the serial begins of the disk beside the port, in both machines: memory that the two have in common, and
    nobody else has. What follows is new each time."""
    return f"s{hashlib.sha256(port.encode()).hexdigest()[:10]}-"


def _prefix(container: ContainerRecord) -> str:
    return f"volume.{container.id[:12]}."
