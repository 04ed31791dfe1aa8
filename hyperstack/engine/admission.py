"""From a request to records: everything is checked first, then made, then stored at once, or nothing is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from msgspec.structs import replace

from hyperstack.engine.images import ImageService
from hyperstack.engine.lives import joining
from hyperstack.engine.logs.drivers import keeping
from hyperstack.engine.lookup import find
from hyperstack.engine.machines import cpusets, launch, linking
from hyperstack.engine.machines.starting import Kernels
from hyperstack.engine.networks.service import NetworkService
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.storage.binds import BindService
from hyperstack.engine.storage.disks import PodDisks
from hyperstack.engine.storage.volumes import VolumeService
from hyperstack.engine.store import Store
from hyperstack.guest.linux import container_capabilities, rlimit, signal_number
from hyperstack.identity.api import Principal
from hyperstack.image.api import Image
from hyperstack.image.config import host_platform
from hyperstack.pod.errors import Conflict, InvalidArgument, NameTaken, NotFound
from hyperstack.pod.ids import check_name, new_id, random_name
from hyperstack.pod.spec import ContainerSpec, Mount, MountKind, PodSpec, RestartKind, RestartPolicy


class Admission:
    def __init__(self, store: Store, images: ImageService, kernels: Kernels, networks: NetworkService,
                 volumes: VolumeService, disks: PodDisks, binds: BindService, *,
                 choose_kernel: Callable[[str, str], str],
                 pod_lock: Callable[[str], contextlib.AbstractAsyncContextManager[None]]) -> None:
        """:param choose_kernel: of a project and what the user named, the kernel that a new pod boots."""
        self._store = store
        self._images = images
        self._kernels = kernels
        self._networks = networks
        self._volumes = volumes
        self._disks = disks
        self._binds = binds
        self._choose_kernel = choose_kernel
        self._pod_lock = pod_lock

    async def container(self, who: Principal, spec: ContainerSpec, pod_spec: PodSpec, *, pull_missing: bool,
                        transient: bool = False) -> ContainerRecord:
        """A container in a pod of its own, or in that of another one with which it shares something."""
        name = self._free_name(who.project, spec.name, "container")
        if spec.sharing.donors:
            return await self._join(who, replace(spec, name=name), pull_missing=pull_missing)
        spec = linking.resolve(self._store, who.project, spec)
        image = await self._image(who, spec.image, pull_missing=pull_missing)
        pod = self._pod(who, replace(pod_spec, name=name, project=who.project), name, implicit=True)
        container = replace(self._container(pod, replace(spec, name=name), name, image, order=0), transient=transient)
        # Docker's default, which programs take their own container's id from.
        pod = replace(pod, spec=replace(pod.spec, hostname=pod.spec.hostname or container.id[:12]))
        await self._make(who, pod, [container])
        return self._stored(container.id)

    async def _join(self, who: Principal, spec: ContainerSpec, *, pull_missing: bool) -> ContainerRecord:
        spec, pod = joining.resolve(self._store, who.project, spec)
        image = await self._image(who, spec.image, pull_missing=pull_missing)
        async with self._pod_lock(pod.id):
            if self._store.pods.get(pod.id) is None:
                raise InvalidArgument(f"No such container: {spec.sharing.network}", field="container",
                                      value=spec.sharing.network)
            others = [c for c in self._store.containers.all() if c.pod_id == pod.id]
            order = 1 + max((c.order for c in others), default=0)
            container = self._container(pod, spec, spec.name, image, order=order)
            await self._make(who, pod, [container], joined=True)
        return self._stored(container.id)

    async def pod(self, who: Principal, spec: PodSpec) -> PodRecord:
        """A manifest's pod with all its containers, their images pulled where they are missing."""
        name = self._free_name(who.project, spec.name, "pod")
        pod = self._pod(who, replace(spec, name=name, project=who.project), name, implicit=False)
        restart = RestartPolicy(kind=spec.restart)
        containers = []
        for init, specs in ((True, spec.init_containers), (False, spec.containers)):
            for order, asked in enumerate(specs):
                full = f"{name}_{asked.name or random_name()}"
                self._check_free(who.project, check_name(full), "container")
                image = await self._image(who, asked.image, pull_missing=True)
                policy = restart if not init else RestartPolicy(
                    kind=RestartKind.NO if restart.kind is RestartKind.NO else RestartKind.ON_FAILURE)
                containers.append(self._container(pod, replace(asked, restart=policy), full, image, order=order,
                                                  init=init))
        if not spec.containers:
            raise InvalidArgument("A pod needs at least one container", field="spec.containers", value="[]")
        await self._make(who, pod, containers)
        stored = self._store.pods.get(pod.id)
        assert stored is not None
        return stored

    def _pod(self, who: Principal, spec: PodSpec, name: str, *, implicit: bool) -> PodRecord:
        spec = replace(spec, kernel=self._choose_kernel(who.project, spec.kernel))
        spec = self._networks.placement.admit(who.project, spec)
        spec = replace(spec, home=spec.network)
        return PodRecord(id=new_id(), name=name, project=who.project, spec=spec, implicit=implicit,
                         created_at=time.time_ns())

    def _container(self, pod: PodRecord, spec: ContainerSpec, name: str, image: Image, *, order: int,
                   init: bool = False) -> ContainerRecord:
        _check(spec)
        config = image.config
        if spec.security.run_as_non_root and (spec.user or config.user).partition(":")[0] in ("", "0", "root"):
            raise InvalidArgument(f"Container {spec.name} has runAsNonRoot, but would run as root",
                                  field="securityContext.runAsNonRoot", value=True, hint="set runAsUser")
        record = ContainerRecord(id=new_id(), pod_id=pod.id, project=pod.project, name=name, spec=spec,
                                 image_id=image.id, image_config=config, created_at=time.time_ns(), order=order,
                                 init=init)
        if not launch.command_line(record):
            raise InvalidArgument("no command specified", field="Cmd", hint="name a command after the image")
        return record

    async def _make(self, who: Principal, pod: PodRecord, containers: list[ContainerRecord], *, joined: bool = False
                    ) -> None:
        """Volumes and disks first, then the records in one transaction; what fails is undone.

        :param joined: the pod is there already, with other containers.
        """
        made: list[str] = []
        try:
            ready = [await self._with_volumes(who, c, made) for c in containers]
            launch.machine_memory_mib(pod, ready, self._kernels.get(pod.spec.kernel), self._disks.config)
            for container in ready:
                await self._disks.make_writable(container)
            name, kind = (containers[0].name, "container") if pod.implicit or joined else (pod.name, "pod")
            self._check_free(who.project, name, kind)
            with self._store.transaction():
                if not joined:
                    self._store.pods.put(pod)
                for container in ready:
                    self._store.containers.put(container)
                for name in {m.source for c in ready for m in c.spec.mounts if m.kind is MountKind.VOLUME}:
                    self._volumes.keep(who.project, name)
        except BaseException:
            for container in containers:
                self._disks.delete(container)
            for name in made:
                with contextlib.suppress(Conflict):  # another container was made with it meanwhile
                    await self._volumes.remove(who, name, force=True)
            raise

    async def _with_volumes(self, who: Principal, container: ContainerRecord, made: list[str]) -> ContainerRecord:
        """The container with every volume it mounts, named, made where absent; the image's own ones included; and with
        its binds, where it may have them."""
        mounts = [*container.spec.mounts, *self._inherited(who, container.spec)]
        targets = {m.target.rstrip("/") for m in mounts}
        for target in container.image_config.volumes:
            if target.rstrip("/") not in targets:
                mounts.append(Mount(kind=MountKind.VOLUME, target=target, anonymous=True))
        for index, mount in enumerate(mounts):
            if mount.kind is MountKind.BIND:
                mounts[index] = await self._binds.admit(who, mount)
            if mount.kind is not MountKind.VOLUME:
                continue
            absent = not mount.source or self._store.volumes.named(who.project, mount.source) is None
            volume = await self._volumes.create(who, mount.source, pending=True, labels=mount.labels,
                                                options=mount.driver_options)
            if absent:
                made.append(volume.name)
            mounts[index] = await self._volumes.admit(
                who, replace(mount, source=volume.name, anonymous=mount.anonymous or not mount.source))
        return replace(container, spec=replace(container.spec, mounts=tuple(mounts)))

    def _inherited(self, who: Principal, spec: ContainerSpec) -> list[Mount]:
        """Volumes and binds of the containers that the spec names, where it has nothing itself.

        :raise InvalidArgument: no such container. Not as what it is: Docker's client takes that for a missing image.
        """
        targets, found = {mount.target for mount in spec.mounts}, []
        for text in spec.volumes_from:
            ref, _, mode = text.partition(":")
            try:
                donor = find(self._store.containers, "container", who.project, ref)
            except NotFound as error:
                raise InvalidArgument(error.message, field="volumes_from", value=ref) from None
            for mount in donor.spec.mounts:
                if mount.kind in (MountKind.VOLUME, MountKind.BIND) and mount.target not in targets:
                    targets.add(mount.target)
                    found.append(replace(mount, read_only=mount.read_only or mode == "ro"))
        return found

    async def _image(self, who: Principal, name: str, *, pull_missing: bool) -> Image:
        try:
            image = self._images.get(who, name)
        except NotFound:
            if not pull_missing:
                raise
            image = await self._images.pull(who, name)
        ours, its = host_platform(), f"{image.os or 'linux'}/{image.architecture}"
        if image.architecture and its != ours:
            raise InvalidArgument(f"The image {name} is for {its}, this host runs {ours}", field="image", value=name,
                                  hint=f"pull it with --platform {ours}")
        return image

    def _free_name(self, project: str, name: str, kind: str) -> str:
        if name:
            name = check_name(name, kind=kind)
            self._check_free(project, name, kind)
            return name
        while True:
            name = random_name()
            if self._store.pods.named(project, name) is None and self._store.containers.named(project, name) is None:
                return name

    def _check_free(self, project: str, name: str, kind: str) -> None:
        owner = self._store.containers.named(project, name) or self._store.pods.named(project, name)
        if owner is not None:
            raise NameTaken(kind, name, owner.id)

    def _stored(self, ident: str) -> ContainerRecord:
        record = self._store.containers.get(ident)
        assert record is not None
        return record


def _check(spec: ContainerSpec) -> None:
    """What would otherwise be found out only when the guest is told. :raise InvalidArgument: names the field."""
    container_capabilities(add=spec.security.cap_add, drop=spec.security.cap_drop)
    for ulimit in spec.ulimits:
        rlimit(ulimit)
    if spec.stop_signal:
        signal_number(spec.stop_signal)
    if spec.auto_remove and spec.restart.kind is not RestartKind.NO:
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy", field="RestartPolicy",
                              value=spec.restart.kind)
    cpusets.check(spec.resources.cpuset_cpus)
    keeping(spec.log)
    for mount in spec.mounts:
        if not mount.target.startswith("/") or mount.target == "/":
            raise InvalidArgument(f"invalid mount path: '{mount.target}' mount path must be absolute and not /",
                                  field="target", value=mount.target)
