"""The disks of a pod: layers that all VMs share, a private writable disk per container, volumes.

A disk reaches the VM as a descriptor with a serial, by which the guest's agent finds it:

    l<17 hex>   an image layer, by its diff id
    w<17 hex>   a container's writable layer, by the container's id
    v<17 hex>   a volume, by its id
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.records import ContainerRecord, PodRecord, VolumeRecord
from hyperstack.engine.storage.volumes import VolumeService, mounted_volumes
from hyperstack.engine.store import Store
from hyperstack.guest import messages
from hyperstack.hypervisor.api import Disk
from hyperstack.image.api import ImageBackend
from hyperstack.pod.errors import Exhausted, NotFound
from hyperstack.volume.api import DiskForm, MemoryForm
from hyperstack.volume.local.blank import make_blank_disk

_HEX = 17
"""Digits of a serial: 20 characters at most, one for the kind, and 68 bits do not collide on one host."""


@dataclass(frozen=True, kw_only=True)
class ContainerDisks:
    """Serials, as the agent's `create` wants them."""

    layers: tuple[str, ...]
    writable: str
    served: Mapping[str, str] = field(default_factory=dict)
    """Volumes that another VM serves -> what the guest calls them."""


class PodDisks:
    def __init__(self, store: Store, images: ImageBackend, volumes: VolumeService, config: EngineConfig) -> None:
        self._store = store
        self._images = images
        self.volumes = volumes
        self.config = config

    def directory(self, pod_id: str) -> Path:
        """What the engine keeps of one pod: writable disks and logs."""
        return self.config.data_root / "pods" / pod_id

    def writable_path(self, container: ContainerRecord) -> Path:
        return self.directory(container.pod_id) / f"{container.id}.disk"

    def log_path(self, container: ContainerRecord) -> Path:
        return self.directory(container.pod_id) / f"{container.id}.log"

    def files_of(self, container: ContainerRecord) -> list[Path]:
        return sorted(self.directory(container.pod_id).glob(f"{container.id}.*"))

    def delete(self, container: ContainerRecord) -> None:
        """The container's files, and the pod's directory with those of its last one. Idempotent."""
        for path in self.files_of(container):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.directory(container.pod_id).rmdir()

    def used(self, container: ContainerRecord) -> int:
        """Bytes that the writable disk takes on the host."""
        try:
            return self.writable_path(container).stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def sweep(self, pods: Collection[str], containers: Collection[str]) -> list[str]:
        """Delete what belongs to none of these; returns what was deleted."""
        removed = []
        for directory in (self.config.data_root / "pods").glob("*"):
            if directory.name not in pods:
                shutil.rmtree(directory, ignore_errors=True)
                removed.append(str(directory))
                continue
            for path in directory.iterdir():
                if path.name.partition(".")[0] not in containers:
                    path.unlink()
                    removed.append(str(path))
        return removed

    async def make_writable(self, container: ContainerRecord) -> None:
        """The container's empty private disk. :raise Exhausted: no space on the host."""
        path = self.writable_path(container)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        await make_blank_disk(path, container.spec.disk_size or self.config.default_disk_bytes)

    def serials(self, container: ContainerRecord) -> ContainerDisks:
        image = self._images.get(container.image_id)
        # A layer that an image applies twice counts where it stands highest: the lower copy shows nothing that the
        # higher one does not, and an overlay refuses a directory twice.
        last = {diff_id: index for index, diff_id in enumerate(image.diff_ids)}
        return ContainerDisks(layers=tuple(_layer_serial(d) for i, d in enumerate(image.diff_ids) if last[d] == i),
                              writable="w" + container.id[:_HEX],
                              served={volume.name: name for volume, name, _ in served_volumes(self._store, container)})

    def own(self, pod: PodRecord, containers: list[ContainerRecord]) -> PodRecord:
        """The pod with the volumes of these containers that no other pod's VM has: for the caller to store at once.

        :raise NotFound: a volume is gone.
        """
        wanted = [volume.id for volume in self._volumes(containers) if (self.owner(volume.id) or pod).id == pod.id]
        return replace(pod, owned=tuple(dict.fromkeys((*pod.owned, *wanted))))

    def owner(self, volume_id: str) -> PodRecord | None:
        """Whose VM has the volume's disk: two kernels that write to one file system destroy it."""
        return next((pod for pod in self._store.pods.all() if volume_id in pod.owned), None)

    def serves(self, pod_id: str) -> bool:
        """Whether another pod's VM uses a volume that this one's has."""
        return any(pod_id in pod.shared.values() for pod in self._store.pods.all())

    def volumes_of(self, containers: list[ContainerRecord]) -> list[tuple[str, str]]:
        """(name, serial) of the disks that are volumes, which these containers of one pod mount, and its VM has.

        :raise NotFound: a volume is gone.
        """
        return [(volume.name, "v" + volume.id[:_HEX]) for volume in self._owned(containers)
                if isinstance(self.volumes.form(volume), DiskForm)]

    def memory_of(self, containers: list[ContainerRecord]) -> list[messages.Volume]:
        """Of the volumes that these containers of one pod mount, and its VM has, those in its memory.

        :raise NotFound: a volume is gone.
        """
        forms = [(volume.name, self.volumes.form(volume)) for volume in self._owned(containers)]
        return [messages.Volume(name=name, tmpfs=form.size, files=form.files, mode=form.mode, uid=form.uid,
                                gid=form.gid) for name, form in forms if isinstance(form, MemoryForm)]

    def _owned(self, containers: list[ContainerRecord]) -> list[VolumeRecord]:
        pod = self._store.pods.get(containers[0].pod_id) if containers else None
        return [volume for volume in self._volumes(containers) if pod is not None and volume.id in pod.owned]

    def _volumes(self, containers: list[ContainerRecord]) -> list[VolumeRecord]:
        return [self.volumes.by_name(containers[0].project, name) for name in mounted_volumes(containers)]

    def needed(self, containers: list[ContainerRecord]) -> dict[str, bool]:
        """Serials of the disks that these containers of one pod need, and whether each is read-only."""
        serials: dict[str, bool] = {}
        for container in containers:
            disks = self.serials(container)
            serials |= dict.fromkeys(disks.layers, True) | {disks.writable: False}
        return serials | {serial: False for _, serial in self.volumes_of(containers)}

    @contextlib.contextmanager
    def opened(self, pod: PodRecord, containers: list[ContainerRecord]) -> Iterator[tuple[Disk, ...]]:
        """Open descriptors of all disks that these containers of the pod need, closed again on leaving."""
        with contextlib.ExitStack() as stack:
            disks: dict[str, Disk] = {}

            def add(serial: str, fd: int, read_only: bool) -> None:
                stack.callback(os.close, fd)
                disks[serial] = Disk(serial=serial, fd=fd, read_only=read_only)

            for container in containers:
                image = self._images.get(container.image_id)
                for diff_id, path in zip(image.diff_ids, self._images.layer_disks(image), strict=True):
                    serial = _layer_serial(diff_id)
                    if serial not in disks:
                        add(serial, _open(path, os.O_RDONLY), True)
                add("w" + container.id[:_HEX], _open(self.writable_path(container), os.O_RDWR), False)
            for name, serial in self.volumes_of(containers):
                # Containers that may only read it are held to that by their mounts: others of it may write.
                add(serial, self.volumes.open(self.volumes.by_name(pod.project, name), read_only=False), False)
            yield tuple(disks.values())


def served_volumes(store: Store, container: ContainerRecord) -> list[tuple[VolumeRecord, str, str]]:
    """Of the volumes that it mounts, those whose disks other pods' VMs have; with what each is called in the guest, and
    the port at which it is served."""
    pod, found = store.pods.get(container.pod_id), []
    for index, name in enumerate(sorted(mounted_volumes([container]))):
        volume = store.volumes.named(container.project, name)
        if volume is not None and (pod is None or volume.id not in pod.owned):
            port = f"volume.{container.id[:12]}.{index}"
            found.append((volume, f"_{port}", port))
    return found


def _layer_serial(diff_id: str) -> str:
    return "l" + diff_id.partition(":")[2][:_HEX]


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound("disk", str(path), hint="it was removed behind the daemon's back; remove the container"
                       ) from None
    except OSError as error:
        raise Exhausted(f"Cannot open {path}: {error.strerror}",
                        hint="raise the daemon's limit of open files") from error
