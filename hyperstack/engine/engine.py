"""One host's engine, put together from the rooms it is given."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from hyperstack.engine.admission import Admission
from hyperstack.engine.builds.runner import Runner
from hyperstack.engine.builds.service import BuildService
from hyperstack.engine.builds.sources import Fetcher
from hyperstack.engine.config import EngineConfig
from hyperstack.engine.containers import ContainerService
from hyperstack.engine.events import EventBus
from hyperstack.engine.execs import ExecService
from hyperstack.engine.images import ImageService
from hyperstack.engine.kernels.service import KernelService
from hyperstack.engine.layers import LayerService
from hyperstack.engine.lives.health import HealthMonitor
from hyperstack.engine.lives.supervisor import Supervisor
from hyperstack.engine.machines.pool import Pool
from hyperstack.engine.machines.sandboxes import Sandboxes
from hyperstack.engine.machines.start_queue import StartQueue
from hyperstack.engine.machines.templates import Templates
from hyperstack.engine.machines.uids import Uids
from hyperstack.engine.networks.projects import ProjectNetworks
from hyperstack.engine.networks.rewiring import Rewiring
from hyperstack.engine.networks.service import NetworkService
from hyperstack.engine.pods import PodService
from hyperstack.engine.records import Event
from hyperstack.engine.recovery import Recovery
from hyperstack.engine.storage.binds import BindService
from hyperstack.engine.storage.disks import PodDisks
from hyperstack.engine.storage.volumes import VolumeService
from hyperstack.engine.store import Store
from hyperstack.engine.system import SystemService
from hyperstack.guest.file_server import FileServers
from hyperstack.guest.kernels import KernelStore
from hyperstack.hypervisor.api import Hypervisor
from hyperstack.identity.api import Principal
from hyperstack.image.api import ImageBackend
from hyperstack.network.api import NetworkBackend
from hyperstack.volume.api import VolumeBackend

log = logging.getLogger(__name__)


class HostEngine:
    """Implements `hyperstack.engine.api.Engine`. One per data root."""

    def __init__(self, config: EngineConfig, *, hypervisor: Hypervisor, kernels: KernelStore, images: ImageBackend,
                 network: NetworkBackend, volumes: VolumeBackend, files: FileServers) -> None:
        self._store = Store(config.data_root / "engine.db")
        self._events = EventBus(self._store)
        self._image_backend = images
        self._hypervisor = hypervisor
        self._networks = NetworkService(network, self._store, self._events, default_ipv6=config.default_ipv6)
        self._binds = BindService(files, config.bind_paths)
        self.volumes = VolumeService(volumes, self._store, self._events, self._binds, config)
        self.images = ImageService(images, self._store, self._events)
        disks = PodDisks(self._store, images, self.volumes, config)
        starts = StartQueue(slots=config.start_slots, reserve_mib=config.memory_reserve_mib,
                            patience_s=config.memory_patience_s)
        self._templates = Templates(hypervisor, starts, config)
        uids = Uids(self._store, config)
        self._pool = Pool(hypervisor, self._templates, self._networks, starts, uids, config)
        self._sandboxes = Sandboxes(self._store, hypervisor, kernels, self._networks, disks, self._templates,
                                    self._pool, starts, uids, config)
        self._supervisor = Supervisor(self._store, self._events, self._sandboxes, disks, self._binds, config)
        self.layers = LayerService(self._store, self._supervisor, self.images)
        self._health = HealthMonitor(self._store, self._events, self._sandboxes, self._supervisor)
        self.networks = ProjectNetworks(self._store, self._networks, self._events,
                                        Rewiring(self._store, self._networks, self._sandboxes),
                                        locked=self._supervisor.locked)
        self.kernels = KernelService(kernels, self._store, hypervisor, self._templates, starts, config)
        admission = Admission(self._store, self.images, kernels, self._networks, self.volumes, disks, self._binds,
                              choose_kernel=self.kernels.chosen, pod_lock=self._supervisor.pod_lock)
        self.containers = ContainerService(self._store, admission, self._supervisor, self._sandboxes, disks,
                                           self._events)
        fetcher = Fetcher(images, config.build_private_sources, git_uid=config.git_uid)
        self.builds = BuildService(self._store, images, self.images, self.containers,
                                   Runner(self._store, admission, self.containers, self._supervisor, self.layers),
                                   fetcher)
        self.execs = ExecService(self._store, self._supervisor, self._sandboxes)
        self.pods = PodService(self._store, admission, self._supervisor, self._sandboxes, disks, self._events)
        self.system = SystemService(self._store, hypervisor, network, kernels, self.images, self.volumes, disks, starts,
                                    self._pool, config)
        self._recovery = Recovery(self._store, hypervisor, self._sandboxes, self._supervisor, self.execs, self.pods,
                                  self._networks, self.volumes, disks)

    async def start(self) -> None:
        """Take over what an earlier daemon left; returns when every pod is as its record says."""
        await self._image_backend.start()
        for finding in await self._hypervisor.probe():
            if finding.status != "ok":
                log.warning("%s: %s %s", finding.name, finding.detail, finding.remedy)
        await self._networks.start()
        await self._recovery.run()
        await self.builds.recover()
        self._health.resume()
        self.kernels.prepare_templates()

    async def close(self) -> None:
        """Let go; machines run on, and the next daemon takes them over."""
        await self._templates.close()
        await self.kernels.close()
        await self._health.close()
        await self._supervisor.close()
        await self._pool.close()
        await self._sandboxes.close()
        self._binds.close()
        await self._networks.close()
        await self._image_backend.close()
        self._store.close()

    def events(self, who: Principal, *, since_ns: int = 0, until_ns: int = 0) -> AsyncIterator[Event]:
        return self._events.subscribe(who.project, since_ns=since_ns, until_ns=until_ns)
