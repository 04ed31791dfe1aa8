"""Named volumes of a project."""

from __future__ import annotations

import time
from collections.abc import Collection

from msgspec.structs import replace

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.events import EventBus
from hyperstack.engine.locks import KeyedLocks
from hyperstack.engine.lookup import selected
from hyperstack.engine.records import ContainerRecord, VolumeRecord
from hyperstack.engine.storage.binds import NON_RECURSIVE, BindService
from hyperstack.engine.store import Store
from hyperstack.identity.api import Principal
from hyperstack.pod.errors import Conflict, InvalidArgument, NotFound, UnsupportedOption
from hyperstack.pod.ids import check_name, new_id
from hyperstack.pod.spec import Mount, MountKind
from hyperstack.volume.api import DiskForm, Form, HostForm, MemoryForm, Volume, VolumeBackend

_ANONYMOUS = "com.docker.volume.anonymous"
"""Docker's label of volumes that have no name of the user's."""


class VolumeService:
    """Implements `hyperstack.engine.api.Volumes`."""

    def __init__(self, backend: VolumeBackend, store: Store, events: EventBus, binds: BindService,
                 config: EngineConfig) -> None:
        self._backend = backend
        self._binds = binds
        self._store = store
        self._events = events
        self._config = config
        self._making = KeyedLocks()

    async def create(self, who: Principal, name: str = "", *, driver: str = "", labels: dict[str, str] | None = None,
                     options: dict[str, str] | None = None, pending: bool = False) -> VolumeRecord:
        """See `Volumes.create`. :param pending: it is for a container that is being made; see `VolumeRecord`."""
        anonymous = not name
        if anonymous:
            labels = {**(labels or {}), _ANONYMOUS: ""}
        name = check_name(name, kind="volume") if name else new_id()
        # Whoever wants it too waits until its disk is there.
        async with self._making.hold(f"{who.project}/{name}"):
            return await self._create(who, name, driver or self._backend.name, labels or {}, options or {},
                                      pending=pending, anonymous=anonymous)

    async def _create(self, who: Principal, name: str, driver: str, labels: dict[str, str], options: dict[str, str], *,
                      pending: bool, anonymous: bool) -> VolumeRecord:
        existing = self._store.volumes.named(who.project, name)
        if driver != self._backend.name:
            absent = NotFound("plugin", driver, hint=f"this host has {self._backend.name}")
            absent.message = f"create {name}: error looking up volume plugin {driver[:64]}: {absent.message}"
            raise absent
        if existing is not None:
            return existing
        try:
            form = self._backend.form(options)
        except UnsupportedOption:
            raise
        except InvalidArgument as error:
            error.message = f"create {name}: {error.message}"
            raise
        if isinstance(form, HostForm):
            await self._binds.permit(who, form.path)
        record = self._store.volumes.put(VolumeRecord(
            id=new_id(), name=name, project=who.project, driver=driver, created_at=time.time_ns(), pending=pending,
            labels=labels, options=options, anonymous=anonymous, size=self._config.default_volume_bytes))
        try:
            await self._backend.create(self._volume(record), options=record.options)
        except BaseException:
            self._store.volumes.delete(record.id)
            raise
        self._events.emit("volume", "create", name, who.project, {"driver": driver})
        return record

    def keep(self, project: str, name: str) -> None:
        """Its container is stored: no longer pending."""
        record = self.by_name(project, name)
        if record.pending:
            self._store.volumes.put(replace(record, pending=False))

    async def admit(self, who: Principal, mount: Mount) -> Mount:
        """The mount of a volume, which is there, with what follows from the volume's options.

        :raise InvalidArgument, Forbidden, UnsupportedOption: it is a directory of the host, see `BindService.admit`.
        """
        form = self.form(self.by_name(who.project, mount.source))
        if isinstance(form, DiskForm):
            return replace(mount, device="", inherited=(), uid=0)
        if isinstance(form, MemoryForm):  # as with Docker's: what is copied before the start is gone with it
            return replace(mount, device="", inherited=(*form.flags, "nocopy"), uid=0)
        mount = await self._binds.admit(who, replace(mount, device=form.path))
        # A user's server gives files to nobody else, so the image's cannot be copied with their owners.
        kept = ("nocopy",) if mount.uid or "ro" in form.flags else ()
        return replace(mount, inherited=(*form.flags, *kept, *(() if form.recursive else (NON_RECURSIVE,))))

    def form(self, record: VolumeRecord) -> Form:
        return self._backend.form(record.options)

    def get(self, who: Principal, name: str) -> VolumeRecord:
        return self.by_name(who.project, name)

    def by_name(self, project: str, name: str) -> VolumeRecord:
        record = self._store.volumes.named(project, name)
        if record is None:
            raise NotFound("volume", name)
        return record

    def list_all(self, who: Principal) -> list[VolumeRecord]:
        return [v for v in self._store.volumes.all() if v.project == who.project]

    def users(self, record: VolumeRecord) -> list[ContainerRecord]:
        """Containers that mount it, in any state."""
        return [c for c in self._store.containers.all() if c.project == record.project and any(
            m.kind is MountKind.VOLUME and m.source == record.name for m in c.spec.mounts)]

    async def remove(self, who: Principal, name: str, *, force: bool = False) -> None:
        """:raise Conflict: a container mounts it. `force` only forgives that there is no such volume, as Docker's."""
        record = self._store.volumes.named(who.project, name)
        if record is None:
            if force:
                return
            raise NotFound("volume", name)
        users = self.users(record)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(c.id for c in users)}]",
                           field="name", value=name, hint="remove those containers first")
        await self._backend.remove(record.id)
        self._store.volumes.delete(record.id)
        self._tell_destroyed(record)

    def forget_anonymous(self, container: ContainerRecord) -> list[VolumeRecord]:
        """Take the volumes that were made for this container alone, and that no other mounts, out of the store.

        For a transaction that removes the container; their disks go with `discard`, or when the daemon next starts.
        """
        forgotten = []
        for mount in container.spec.mounts:
            if mount.kind is MountKind.VOLUME and mount.anonymous:
                record = self._store.volumes.named(container.project, mount.source)
                if record is not None and not self.users(record):
                    self._store.volumes.delete(record.id)
                    forgotten.append(record)
        return forgotten

    async def discard(self, forgotten: Collection[VolumeRecord]) -> None:
        for record in forgotten:
            await self._backend.remove(record.id)
            self._tell_destroyed(record)

    def _tell_destroyed(self, record: VolumeRecord) -> None:
        self._events.emit("volume", "destroy", record.name, record.project, {"driver": record.driver})

    async def prune(self, who: Principal, *, all_unused: bool = False, labels: Collection[str] = (),
                    without: Collection[str] = ()) -> tuple[list[str], int]:
        names, freed = [], 0
        for record in self.list_all(who):
            # What has options is more than a place for data, and stays, as in Docker.
            wanted = (record.anonymous or all_unused) and not record.options
            if wanted and selected(record.labels, labels, without) and not record.pending and not self.users(record):
                freed += max(0, await self.used(record))
                await self.remove(who, record.name)
                names.append(record.name)
        self._events.emit("volume", "prune", "", who.project, {"reclaimed": str(freed)})
        return names, freed

    def open(self, record: VolumeRecord, *, read_only: bool) -> int:
        """A descriptor of its disk, the caller's to close."""
        return self._backend.open(record.id, read_only=read_only)

    async def used(self, record: VolumeRecord) -> int:
        """Bytes on the host; -1: it has no disk."""
        return await self._backend.used(record.id) if isinstance(self.form(record), DiskForm) else -1

    async def recover(self) -> list[str]:
        """Finish what a killed daemon left: volumes for containers that never came to be are undone, records without
        a disk get one, disks without a record go. Returns what was removed."""
        for record in self._store.volumes.all():
            if record.pending:
                self._store.volumes.delete(record.id)
            else:
                await self._backend.create(self._volume(record), options=record.options)
        return await self._backend.sweep({v.id for v in self._store.volumes.all()})

    @staticmethod
    def _volume(record: VolumeRecord) -> Volume:
        return Volume(id=record.id, name=record.name, project=record.project, size=record.size)


def mounted_volumes(containers: Collection[ContainerRecord]) -> dict[str, bool]:
    """Names of the volumes that these containers mount of a VM, their own or another, and whether all of them mount it
    read-only. Not those that are the host's directories."""
    names: dict[str, bool] = {}
    for container in containers:
        for mount in container.spec.mounts:
            if mount.kind is MountKind.VOLUME and not mount.device:
                names[mount.source] = names.get(mount.source, True) and mount.read_only
    return names
