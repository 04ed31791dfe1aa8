"""Which backend stands behind each door. The one module that knows them all."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from hyperstack import docker_api, native_api
from hyperstack.daemon.config import Config, parse_size
from hyperstack.engine.config import EngineConfig, TemplateSharing
from hyperstack.engine.engine import HostEngine
from hyperstack.guest.file_server import FileServers
from hyperstack.guest.kernels import KernelStore
from hyperstack.guest.rehearsal import layer_files, layer_name
from hyperstack.hypervisor.qemu.backend import QemuHypervisor
from hyperstack.identity.local import LocalIdentity
from hyperstack.image.config import ImageConfigOptions
from hyperstack.image.plain import make_layer
from hyperstack.image.store import ImageStore
from hyperstack.network.bridge import BridgeNetwork
from hyperstack.network.bridge.backend import DEFAULT_POOLS
from hyperstack.pod.spec import DEFAULT_PROJECT
from hyperstack.volume.local import LocalVolumes


class Rooms:
    """The engine with its backends, and the HTTP application in front of it. Nothing runs yet."""

    def __init__(self, config: Config, kernels: KernelStore) -> None:
        root = Path(config.data_root)
        # The image store looks these up at each pull, so a reload changes their content, not them.
        self._mirrors: dict[str, tuple[str, ...]] = {}
        self._insecure: set[str] = set()
        self.reload(config)
        images = ImageStore(root / "images", config=ImageConfigOptions(
            mirrors=self._mirrors, insecure=self._insecure, worker_uid=_worker_uid(config),
            ca_file=Path(config.registries.ca_file) if config.registries.ca_file else None))
        self.engine = HostEngine(
            engine_config(config),
            hypervisor=QemuHypervisor(Path(config.run_dir) / "machines", config.cache),
            kernels=kernels,
            images=images,
            network=BridgeNetwork(instance=config.instance, pools=config.network.pools or DEFAULT_POOLS),
            volumes=LocalVolumes(root / "volumes"),
            files=FileServers(config.cache))
        self.app = _application(self.engine, LocalIdentity(group=config.group))

    def reload(self, config: Config) -> None:
        """Take over what can be changed while pods run: the registries."""
        self._mirrors.clear()
        self._mirrors.update({host: tuple(endpoints) for host, endpoints in config.registries.mirrors.items()})
        self._insecure.clear()
        self._insecure.update(config.registries.insecure)


async def prepare(config: Config, progress: Callable[[str], None]) -> KernelStore:
    """The kernels of this host; makes or fetches what pods boot, which takes a moment on the first start only.

    :raise Unavailable: the agent does not compile, or there is no kernel and Debian's archive cannot be reached.
    """
    kernels = KernelStore(config.cache)
    await kernels.ensure_default(progress)
    if not _rehearsal_layer(config).exists():
        make_layer(_rehearsal_layer(config), layer_files(config.cache))
    return kernels


def engine_config(config: Config) -> EngineConfig:
    return EngineConfig(
        data_root=Path(config.data_root),
        default_memory_mib=parse_size(config.pods.memory, field="pods.memory") >> 20,
        default_disk_bytes=parse_size(config.pods.disk, field="pods.disk"),
        default_volume_bytes=parse_size(config.pods.volume, field="pods.volume"),
        default_ipv6=config.network.ipv6,
        uid_base=config.hypervisor.first_uid,
        uid_count=config.hypervisor.max_machines,
        start_slots=config.hypervisor.concurrent_starts or EngineConfig.start_slots,
        memory_reserve_mib=parse_size(config.hypervisor.memory_reserve, field="hypervisor.memory_reserve") >> 20,
        boot_deadline_s=float(config.pods.boot_timeout_s),
        template_sharing=TemplateSharing(config.hypervisor.templates),
        build_private_sources=tuple(map(ipaddress.ip_network, config.build.private_sources)),
        pool_size=config.hypervisor.pool,
        pool_memory_percent=config.hypervisor.pool_memory_percent,
        rehearsal_layer=_rehearsal_layer(config) if config.hypervisor.forks else None,
        template_projects=(DEFAULT_PROJECT,),
        bind_paths={project: [Path(path) for path in paths] for project, paths in config.binds.allow.items()})


def _rehearsal_layer(config: Config) -> Path:
    return config.cache / layer_name()


def _worker_uid(config: Config) -> int:
    """Whom layers are unpacked as: a uid that no machine has, beside theirs."""
    return config.hypervisor.first_uid - 1


def _application(engine: HostEngine, identity: LocalIdentity) -> web.Application:
    app = docker_api.build_app(engine, identity)
    app.add_routes(native_api.routes(engine, identity))
    return app
