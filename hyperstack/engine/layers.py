"""What containers have changed of their images: told, packed whole, and made into new images.

A container's writable disk is a tenant's file system, which the host never mounts: the agent in the container's own
machine reads it, and one that does not run gets a machine for as long as that takes. What comes from there is believed
no more than an image of a stranger's registry.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from functools import partial
from typing import Any

from hyperstack.engine.api import Change, ChangeKind
from hyperstack.engine.archive import ArchiveProcess
from hyperstack.engine.builds.changes import apply_changes
from hyperstack.engine.images import ImageService
from hyperstack.engine.lives.supervisor import Supervisor
from hyperstack.engine.lookup import find
from hyperstack.engine.machines import launch
from hyperstack.engine.machines.sandboxes import Sandbox
from hyperstack.engine.records import ContainerRecord
from hyperstack.engine.store import Store
from hyperstack.guest.channel import GuestCallError
from hyperstack.guest.messages import LayerForm
from hyperstack.identity.api import Principal
from hyperstack.image.api import Image, NewLayer
from hyperstack.image.names import parse
from hyperstack.pod.errors import Conflict, Exhausted, GuestError, HyperStackError
from hyperstack.pod.states import ContainerState

MAX_CHANGES = 500_000
"""That one answer tells of; each takes some 200 bytes of the daemon's memory."""
_MAX_NAME = 4096
_KINDS = {ord("C"): ChangeKind.CHANGED, ord("A"): ChangeKind.ADDED, ord("D"): ChangeKind.DELETED}


class LayerService:
    """Implements `hyperstack.engine.api.Layers`."""

    def __init__(self, store: Store, supervisor: Supervisor, images: ImageService) -> None:
        self._store = store
        self._supervisor = supervisor
        self._images = images

    async def changes(self, who: Principal, ref: str) -> list[Change]:
        container = find(self._store.containers, "container", who.project, ref)
        async with contextlib.aclosing(self._read(container, LayerForm.CHANGES)) as chunks:
            return await read_changes(chunks, container=container.name)

    def export(self, who: Principal, ref: str) -> AsyncIterator[bytes]:
        container = find(self._store.containers, "container", who.project, ref)
        self._supervisor.emit(container, "export")
        return self._read(container, LayerForm.ROOT)

    async def commit(self, who: Principal, ref: str, *, reference: str = "", author: str = "", message: str = "",
                     pause: bool = True, changes: Collection[str] = (), config: Mapping[str, Any] | None = None
                     ) -> Image:
        container = find(self._store.containers, "container", who.project, ref)
        run = _over(_run_config(container, self._images.get(who, container.image_id)), config or {})
        new = NewLayer(run=apply_changes(changes, run), reference=reference, author=author, message=message,
                       created_by=" ".join(launch.command_line(container)))
        async with contextlib.aclosing(self._read(container, LayerForm.TAR, still=pause)) as layer:
            image = await self._images.commit(who, container.image_id, layer, new)
        self._supervisor.emit(container, "commit", comment=message, imageID=image.id,
                              imageRef=parse(reference).familiar() if reference else "")
        return image

    def layer(self, container: ContainerRecord) -> AsyncGenerator[bytes, None]:
        """The container's changes as a layer's tar. To be read to its end or closed."""
        return self._read(container, LayerForm.TAR)

    async def _read(self, container: ContainerRecord, form: LayerForm, *, still: bool = False
                    ) -> AsyncGenerator[bytes, None]:
        """:param still: nothing runs in the container meanwhile."""
        async with contextlib.AsyncExitStack() as stack:
            sandbox = await stack.enter_async_context(self._supervisor.mounted(container.id))
            if still:
                await stack.enter_async_context(self._still(sandbox, container))
            process = ArchiveProcess(sandbox, self._supervisor)
            try:
                await process.begin(partial(sandbox.channel.layer_read, container.id, process.handle, form),
                                    bulk=form is not LayerForm.CHANGES)
            except GuestCallError as error:
                if error.errno != errno.ENOSYS:
                    raise
                raise Conflict(f"The machine of container {container.name} was started by an older version, which "
                               "cannot do this", field="container", value=container.name,
                               hint="restart the container, then try again") from error
            async with contextlib.aclosing(process.output(container.name, stack.pop_all())) as chunks:
                async for chunk in chunks:
                    yield chunk

    @contextlib.asynccontextmanager
    async def _still(self, sandbox: Sandbox, container: ContainerRecord) -> AsyncIterator[None]:
        """Frozen, where it runs. Its state stays as it is: only a user pauses a container."""
        frozen = self._supervisor.container(container.id).state is ContainerState.RUNNING
        if frozen:
            try:
                await sandbox.channel.pause(container.id)
            except GuestCallError:  # it ended in between
                frozen = False
        try:
            yield
        finally:
            now = self._store.containers.get(container.id)
            if frozen and now is not None and now.state is not ContainerState.PAUSED:
                with contextlib.suppress(HyperStackError):
                    await sandbox.channel.resume(container.id)


def _run_config(container: ContainerRecord, image: Image) -> dict[str, Any]:
    """The image's own run configuration with what the user said over it, as Docker commits it."""
    spec, base = container.spec, container.image_config
    own = image.raw_config.get("config")
    entrypoint, command = launch.command_words(container)
    check = spec.healthcheck
    said: dict[str, Any] = {
        "User": spec.user or base.user, "Env": list(launch.merge_environment(base.env, spec.env)),
        "Entrypoint": list(entrypoint), "Cmd": list(command), "WorkingDir": spec.working_dir or base.working_dir,
        "Labels": {**base.labels, **spec.labels}, "StopSignal": spec.stop_signal or base.stop_signal,
        "ExposedPorts": {port: {} for port in (*base.exposed_ports, *spec.exposed_ports)},
        "Volumes": {path: {} for path in (*base.volumes, *(m.target for m in spec.mounts if m.anonymous))}}
    if check is not None and check.test:
        said["Healthcheck"] = {"Test": list(check.test), "Interval": check.interval, "Timeout": check.timeout,
                               "StartPeriod": check.start_period, "StartInterval": check.start_interval,
                               "Retries": check.retries}
    merged = {**(own if isinstance(own, dict) else {}), **said}
    return {key: value for key, value in merged.items() if value}


def _over(run: dict[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Docker's rules for the configuration that comes with a commit: sets are joined, all else replaces."""
    merged = run | {name: {**run.get(name, {}), **value} if isinstance(value, dict) and name != "Healthcheck" else value
                    for name, value in said.items()}
    if "Env" in said:
        merged["Env"] = list(launch.merge_environment(tuple(run.get("Env", ())), tuple(said["Env"])))
    if "Entrypoint" in said and "Cmd" not in said:
        merged.pop("Cmd", None)
    return merged


def parse_change(name: bytes) -> Change:
    """One item of the agent's list. :raise GuestError: it is none."""
    kind = _KINDS.get(name[0])
    if kind is None or not name[1:2] == b"/":
        raise GuestError("the guest's list of changes is malformed")
    return Change(kind=kind, path=name[1:].decode("utf-8", "surrogateescape"))


async def read_changes(chunks: AsyncIterator[bytes], *, container: str) -> list[Change]:
    """What the guest tells of, by path. :raise GuestError: it is no such list. :raise Exhausted: it has no end."""
    found: list[Change] = []
    async for name in split_names(chunks):
        if len(found) >= MAX_CHANGES:
            raise Exhausted(f"Container {container} has more than {MAX_CHANGES} changes", field="container",
                            value=container, hint="export or commit it instead")
        found.append(parse_change(name))
    return sorted(found, key=lambda change: change.path)


async def split_names(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What stands between zero bytes. :raise GuestError: it is longer than a path can be, or does not end."""
    rest = b""
    async for chunk in chunks:
        *names, rest = (rest + chunk).split(b"\0")
        for name in names:
            if not name:
                raise GuestError("the guest's list of changes is malformed")
            yield name
        if len(rest) > _MAX_NAME:
            raise GuestError("the guest's list of changes has a name that is too long")
    if rest:
        raise GuestError("the guest's list of changes does not end")
