"""Images as the projects of a host see them: one store, removal guarded by the containers that use an image."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Collection

from hyperstack.engine.builds.changes import apply_changes
from hyperstack.engine.events import EventBus
from hyperstack.engine.records import ContainerRecord
from hyperstack.engine.store import Store
from hyperstack.identity.api import Principal
from hyperstack.image.api import (
    Credentials,
    Holder,
    Image,
    ImageBackend,
    NewLayer,
    ProgressSink,
    Pushed,
    RemoteImage,
)
from hyperstack.pod.errors import InvalidArgument, NotFound
from hyperstack.pod.states import ContainerState

_RUNS = frozenset({ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING, ContainerState.STARTING})
_NOBODY = Holder(who="", running=False)


class ImageService:
    """Implements `hyperstack.engine.api.Images`."""

    def __init__(self, backend: ImageBackend, store: Store, events: EventBus) -> None:
        self._backend = backend
        self._store = store
        self._events = events
        self._users: list[Callable[[], set[str]]] = []

    def also_in_use(self, images: Callable[[], set[str]]) -> None:
        """Tell of images that somebody needs beside the containers."""
        self._users.append(images)

    def get(self, who: Principal, name: str) -> Image:
        return self._backend.get(name)

    def list_all(self, who: Principal, *, intermediate: bool = False) -> list[Image]:
        return self._backend.list_all(intermediate=intermediate)

    def display(self, reference: str) -> str:
        return self._backend.display(reference)

    def display_name(self, image_id: str) -> str:
        for image in self._backend.list_all():
            if image.id == image_id and image.references:
                return self._backend.display(image.references[0])
        return image_id

    async def pull(self, who: Principal, reference: str, *, platform: str = "", credentials: Credentials | None = None,
                   progress: ProgressSink | None = None) -> Image:
        image = await self._backend.pull(reference, platform=platform, credentials=credentials, progress=progress)
        name = self._backend.display(self._backend.normalise(reference))
        self.emit(who, "pull", name, name=self._repository(name))
        return image

    async def push(self, who: Principal, reference: str, *, credentials: Credentials | None = None,
                   progress: ProgressSink | None = None) -> list[Pushed]:
        pushed = await self._backend.push(reference, credentials=credentials, progress=progress)
        for one in pushed:
            name = self._backend.display(one.reference)
            self.emit(who, "push", name, name=self._repository(name))
        return pushed

    async def check_login(self, who: Principal, host: str, credentials: Credentials | None) -> None:
        await self._backend.check_login(host, credentials)

    async def describe_remote(self, who: Principal, reference: str, *, credentials: Credentials | None = None
                              ) -> RemoteImage:
        return await self._backend.describe(reference, credentials)

    async def remote_tags(self, who: Principal, reference: str, *, credentials: Credentials | None = None
                          ) -> list[str]:
        return await self._backend.remote_tags(reference, credentials)

    async def search(self, who: Principal, term: str, *, limit: int) -> list[str]:
        return await self._backend.search(term, limit=limit)

    async def remove(self, who: Principal, name: str, *, force: bool = False) -> list[tuple[str, str]]:
        image = self._backend.get(name)
        removed = self._backend.remove(name, force=force, in_use=self._holders(who))
        for action, _ in removed:
            if action == "Untagged":
                self._events.emit("image", "untag", image.id, who.project, {**image.config.labels, "name": image.id})
            else:
                self.emit(who, "delete", image.id, name=image.id)
        return removed

    async def tag(self, who: Principal, name: str, reference: str) -> None:
        self._backend.tag(name, reference)
        self.emit(who, "tag", self._backend.get(reference).id,
                  name=self._backend.display(self._backend.normalise(reference)))

    async def load(self, who: Principal, stream: AsyncIterator[bytes], progress: ProgressSink | None = None
                   ) -> list[Image]:
        images = await self._backend.load(stream, progress)
        for image in images:
            self.emit(who, "load", image.id, name=image.id)
        return images

    def save(self, who: Principal, names: Collection[str]) -> AsyncIterator[bytes]:
        for name in names:
            ident = self._backend.get(name).id
            self.emit(who, "save", ident, name=ident)
        return self._backend.save(names)

    async def import_tar(self, who: Principal, stream: AsyncIterator[bytes], *, reference: str = "", message: str = "",
                         changes: Collection[str] = ()) -> Image:
        image = await self._backend.import_tar(stream, reference=reference, message=message, run=apply_changes(changes))
        self.emit(who, "import", image.id, name=image.id)
        if reference:
            self.emit(who, "tag", image.id, name=self._backend.display(self._backend.normalise(reference)))
        return image

    async def commit(self, who: Principal, parent: str, layer: AsyncIterator[bytes], new: NewLayer) -> Image:
        image = await self._backend.commit(parent, layer, new)
        self.emit(who, "create", image.id, name=image.id)
        if new.reference:
            self.emit(who, "tag", image.id, name=self._backend.display(self._backend.normalise(new.reference)))
        return image

    async def prune(self, who: Principal, *, dangling_only: bool = True,
                    wanted: Callable[[Image], bool] | None = None) -> tuple[list[tuple[str, str]], int]:
        removed, freed = self._backend.prune(dangling_only=dangling_only, in_use=self.in_use(), wanted=wanted)
        self.emit(who, "prune", "", reclaimed=str(freed))
        return removed, freed

    def disk_bytes(self) -> int:
        """All layer disks on the host, each once."""
        disks = {path for image in self._backend.list_all(intermediate=True)
                 for path in self._backend.layer_disks(image)}
        return sum(path.stat().st_blocks * 512 for path in disks)

    @staticmethod
    def _repository(name: str) -> str:
        """A familiar name without its tag or digest."""
        name = name.partition("@")[0]
        return name[:name.rfind(":")] if name.rfind(":") > name.rfind("/") else name

    def in_use(self) -> set[str]:
        """Ids of images that containers and running builds need."""
        return {container.image_id for container in self._store.containers.all()}.union(
            *(images() for images in self._users))

    def _holders(self, who: Principal) -> dict[str, Holder]:
        """Of each image that is needed one who needs it, running ones first. What belongs to another project has no
        name for the caller."""
        found = {image: Holder(who="build", running=True) for images in self._users for image in images()}
        for container in sorted(self._store.containers.all(), key=lambda c: (_runs(c), c.project == who.project)):
            words = container.id[:12] if container.project == who.project else "of another project"
            if _runs(container) or not found.get(container.image_id, _NOBODY).running:
                found[container.image_id] = Holder(who=f"container {words}", running=_runs(container))
        return found

    def emit(self, who: Principal, action: str, ident: str, **attributes: str) -> None:
        """:param ident: of an image, or a name of one; its labels are told, where it is there."""
        labels: dict[str, str] = {}
        with contextlib.suppress(NotFound, InvalidArgument):
            labels = self._backend.get(ident).config.labels if ident else {}
        self._events.emit("image", action, ident, who.project, {**labels, **attributes})


def _runs(container: ContainerRecord) -> bool:
    return container.state in _RUNS
