"""Facts of the host and of the daemon, as `hyperstack.engine.api.System` promises them."""

from __future__ import annotations

import os
import platform
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.doctor import diagnose
from hyperstack.engine.images import ImageService
from hyperstack.engine.lives.common import ALIVE
from hyperstack.engine.machines.pool import Pool
from hyperstack.engine.machines.start_queue import StartQueue
from hyperstack.engine.machines.starting import Kernels
from hyperstack.engine.storage.disks import PodDisks
from hyperstack.engine.storage.volumes import VolumeService
from hyperstack.engine.store import Store
from hyperstack.hypervisor.api import Hypervisor
from hyperstack.identity.api import Principal
from hyperstack.network.api import NetworkBackend
from hyperstack.pod.finding import Finding
from hyperstack.pod.states import ContainerState

_MACHINE_ID = Path("/etc/machine-id")


class SystemService:
    """Implements `hyperstack.engine.api.System`."""

    def __init__(self, store: Store, hypervisor: Hypervisor, network: NetworkBackend, kernels: Kernels,
                 images: ImageService, volumes: VolumeService, disks: PodDisks, starts: StartQueue,
                 pool: Pool, config: EngineConfig) -> None:
        self._store = store
        self._hypervisor = hypervisor
        self._network = network
        self._kernels = kernels
        self._images = images
        self._volumes = volumes
        self._disks = disks
        self._starts = starts
        self._pool = pool
        self._config = config

    def info(self, who: Principal) -> dict[str, Any]:
        states = [c.state for c in self._store.containers.all() if c.project == who.project]
        default = self._kernels.get("")
        return {
            "containers": len(states),
            "running": sum(s in ALIVE and s is not ContainerState.PAUSED for s in states),
            "paused": states.count(ContainerState.PAUSED),
            "stopped": sum(s not in ALIVE for s in states),
            "images": len(self._images.list_all(who)),
            "starts": asdict(self._starts.state(None if who.admin else who.project)),
            "pool": asdict(self._pool.state(None if who.admin else who.project)),
            "pods": sum(p.project == who.project for p in self._store.pods.all()),
            "cpus": os.cpu_count() or 1,
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "id": self._ident(),
            "hostname": platform.node(),
            "os": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
            "os_version": platform.freedesktop_os_release().get("VERSION_ID", ""),
            "kernel": platform.release(),
            "hypervisor": self._hypervisor.name,
            "accelerator": self._hypervisor.accelerator,
            "data_root": str(self._config.data_root),
            "guest_kernel": default.release or default.name,
            "storage": "erofs+overlay",
            "cgroup_version": "2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "1",
            "warnings": self._warnings(),
        }

    def _ident(self) -> str:
        """The same as long as host and data are."""
        host = _MACHINE_ID.read_text() if _MACHINE_ID.exists() else platform.node()
        return str(uuid.uuid5(uuid.NAMESPACE_URL, host + str(self._config.data_root)))

    def _warnings(self) -> list[str]:
        if self._hypervisor.accelerator == "kvm":
            return []
        return ["No usable hardware virtualization: machines run under software emulation, several times slower"]

    async def doctor(self) -> list[Finding]:
        return await diagnose(self._hypervisor, self._network, self._config.data_root)

    async def disk_usage(self, who: Principal) -> dict[str, Any]:
        containers = [c for c in self._store.containers.all() if c.project == who.project]
        return {
            "layers": self._images.disk_bytes(),
            "containers": {c.id: self._disks.used(c) for c in containers},
            "volumes": {v.name: await self._volumes.used(v) for v in self._volumes.list_all(who)},
        }
