"""Containers, as `hyperstack.engine.api.Containers` promises them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection

from msgspec.structs import asdict, replace

from hyperstack.engine import top
from hyperstack.engine.admission import Admission
from hyperstack.engine.api import ContainerStats, PathStat, WaitCondition
from hyperstack.engine.archive import Archives
from hyperstack.engine.events import EventBus
from hyperstack.engine.lives.attachments import ContainerAttachment
from hyperstack.engine.lives.common import ACTIVE, ALIVE
from hyperstack.engine.lives.supervisor import Supervisor
from hyperstack.engine.logs.drivers import check_readable
from hyperstack.engine.logs.reader import read_lines
from hyperstack.engine.lookup import find, selected
from hyperstack.engine.machines import cpusets, launch, linking
from hyperstack.engine.machines.sandboxes import Sandboxes
from hyperstack.engine.records import ContainerRecord, HealthRecord, LogRecord, PodRecord
from hyperstack.engine.storage.disks import PodDisks
from hyperstack.engine.store import Store
from hyperstack.guest.linux import signal_number
from hyperstack.identity.api import Principal
from hyperstack.pod.errors import Conflict, InvalidArgument, NameTaken, UnsupportedOption
from hyperstack.pod.ids import check_name
from hyperstack.pod.spec import ContainerSpec, PodSpec, Resources, RestartPolicy
from hyperstack.pod.states import ContainerState

_NO_NEW_NAME = "Error when allocating new name: "


def _new_name(name: str) -> str:
    try:
        return check_name(name)
    except InvalidArgument as error:
        error.message = f"{_NO_NEW_NAME}{error.message}".replace("name (", "name (/", 1)
        raise


def _killing_signal(text: str) -> int:
    """:raise InvalidArgument: no such signal; of a number, in other words, as Docker."""
    try:
        return signal_number(text)
    except InvalidArgument as error:
        if text.removeprefix("-").isdecimal() and int(text[:9]):
            error.message = f"the linux daemon does not support signal {text[:64]}"
        raise


class ContainerService:
    """Implements `hyperstack.engine.api.Containers`."""

    def __init__(self, store: Store, admission: Admission, supervisor: Supervisor, sandboxes: Sandboxes,
                 disks: PodDisks, events: EventBus) -> None:
        self._store = store
        self._admission = admission
        self._supervisor = supervisor
        self._sandboxes = sandboxes
        self._disks = disks
        self._events = events
        self._archives = Archives(supervisor)

    async def create(self, who: Principal, spec: ContainerSpec, pod: PodSpec, *, pull_missing: bool = False
                     ) -> ContainerRecord:
        record = await self._admission.container(who, spec, pod, pull_missing=pull_missing)
        self._supervisor.emit(record, "create")
        return record

    def get(self, who: Principal, ref: str) -> ContainerRecord:
        return find(self._store.containers, "container", who.project, ref)

    def pod_of(self, container: ContainerRecord) -> PodRecord:
        pod = self._store.pods.get(container.pod_id)
        assert pod is not None, container.id
        return pod

    def health_of(self, container: ContainerRecord) -> HealthRecord | None:
        return self._store.health.get(container.id)

    def links_of(self, container: ContainerRecord) -> list[str]:
        return [f"/{other.name}:/{container.name}/{alias}" for alias, other in linking.others(self._store, container)]

    def link_names(self, who: Principal) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for container in self._store.containers.all():
            if container.project == who.project:
                for alias, other in linking.others(self._store, container):
                    found.setdefault(other.id, []).append(f"/{container.name}/{alias}")
        return found

    async def unlink(self, who: Principal, ref: str, alias: str) -> None:
        async with self._supervisor.locked(self.get(who, ref).id) as container:
            linking.unlink(self._store, container, alias)
        await self._sandboxes.follow_links([container.pod_id])

    def list_all(self, who: Principal) -> list[ContainerRecord]:
        found = [c for c in self._store.containers.all() if c.project == who.project]
        return sorted(found, key=lambda c: c.created_at, reverse=True)

    async def start(self, who: Principal, ref: str) -> None:
        await self._supervisor.start(self.get(who, ref).id)

    async def stop(self, who: Principal, ref: str, *, timeout: int | None = None, signal: str | None = None) -> None:
        await self._supervisor.stop(self.get(who, ref).id, timeout=timeout, signal=signal)

    async def restart(self, who: Principal, ref: str, *, timeout: int | None = None, signal: str | None = None) -> None:
        container = self.get(who, ref)
        if container.state in ACTIVE:
            await self._supervisor.stop(container.id, timeout=timeout, signal=signal)
        await self._supervisor.start(container.id)
        self._supervisor.emit(container, "restart")

    async def kill(self, who: Principal, ref: str, *, signal: str = "KILL") -> None:
        number = _killing_signal(signal)
        await self._supervisor.kill(self.get(who, ref).id, number)

    async def pause(self, who: Principal, ref: str) -> None:
        await self._supervisor.pause(self.get(who, ref).id, paused=True)

    async def unpause(self, who: Principal, ref: str) -> None:
        await self._supervisor.pause(self.get(who, ref).id, paused=False)

    async def wait(self, who: Principal, ref: str, condition: WaitCondition) -> tuple[int, str]:
        container = self.get(who, ref)
        if condition is WaitCondition.NOT_RUNNING and container.state not in ALIVE:
            return container.exit_code, container.error
        return await self._supervisor.waiters.add(container.id, condition)

    async def remove(self, who: Principal, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        container = self.get(who, ref)
        pod = self.pod_of(container)
        if not (pod.implicit or container.joined):
            raise Conflict(f"Container {container.name} belongs to pod {pod.name}", field="container",
                           value=container.name, hint=f"remove the pod: hyperctl pod rm {pod.name}")
        await self._supervisor.remove(container.id, force=force, volumes=volumes)

    async def rename(self, who: Principal, ref: str, name: str) -> None:
        container = self.get(who, ref)
        name = _new_name(name)
        async with self._supervisor.locked(container.id) as container:
            if name == container.name:
                raise InvalidArgument("Renaming a container with the same name as its current name", field="name",
                                      value=name)
            pod = self.pod_of(container)
            for table in (self._store.containers, self._store.pods):
                other = table.named(who.project, name)
                if other is not None and other.id not in (container.id, pod.id):
                    taken = NameTaken("container", name, other.id)
                    taken.message = f"{_NO_NEW_NAME}{taken.message}"
                    raise taken
            with self._store.transaction():
                self._store.containers.put(replace(container, name=name))
                if pod.implicit and pod.name == container.name:
                    self._store.pods.put(replace(pod, name=name))
        self._supervisor.emit(replace(container, name=name), "rename", oldName=f"/{container.name}")

    async def update(self, who: Principal, ref: str, *, resources: Resources | None = None,
                     restart: RestartPolicy | None = None) -> list[str]:
        container = self.get(who, ref)
        async with self._supervisor.locked(container.id) as container:
            pod = self.pod_of(container)
            spec = container.spec
            if restart is not None:
                if spec.auto_remove and restart.kind != "no":
                    raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container",
                                   field="restart", value=restart.kind)
                spec = replace(spec, restart=restart)
            if resources is not None:
                cpusets.check(resources.cpuset_cpus)
                if resources.cpuset_cpus and spec.sharing.network:
                    raise UnsupportedOption("CpusetCpus of a container that joined another", "they are in one VM",
                                            hint="update the other one")
                spec = replace(spec, resources=resources)
                sandbox = self._sandboxes.get(pod.id)
                if sandbox is not None and container.id in sandbox.prepared:
                    beside = [c for c in self._sandboxes.containers_of(pod.id)
                              if c.id != container.id and c.state in ALIVE]
                    await self._sandboxes.make_room(container, resources, beside)
                    changed = launch.changed_limits(container.spec.resources, resources)
                    await sandbox.channel.update(container.id, changed)
                    if resources.cpuset_cpus != container.spec.resources.cpuset_cpus:
                        await sandbox.machine.pin(cpusets.parse(resources.cpuset_cpus))
            self._store.containers.put(replace(container, spec=spec))
        self._supervisor.emit(container, "update")
        return []

    async def top(self, who: Principal, ref: str, ps_args: str = "-ef") -> tuple[list[str], list[list[str]]]:
        container = self._running(who, ref)
        processes = await self._sandboxes.require(container.pod_id).channel.processes(container.id)
        self._supervisor.emit(container, "top")
        return top.table(processes, ps_args, now_ns=time.time_ns())

    async def stats(self, who: Principal, ref: str) -> ContainerStats:
        container = self.get(who, ref)
        sandbox = self._sandboxes.get(container.pod_id)
        if container.state not in ALIVE or sandbox is None:
            return ContainerStats(time_ns=time.time_ns())
        reply, host = await asyncio.gather(sandbox.channel.stats(container.id), sandbox.machine.usage())
        usage = reply.containers.get(container.id)
        if usage is None:
            return ContainerStats(time_ns=time.time_ns())
        pod = self.pod_of(container)
        nets = reply.nets or ({"eth0": reply.net} if pod.bindings else {})
        fields = {name: getattr(usage, name) for name in usage.__struct_fields__ if name != "oom_kills"}
        fields["memory_limit"] = usage.memory_limit or reply.memory_total
        return ContainerStats(time_ns=time.time_ns(), online_cpus=pod.vcpus or 1, host_memory=host.memory_bytes,
                              system_cpu_ns=reply.uptime_ns * (pod.vcpus or 1),
                              network={device: asdict(net) for device, net in nets.items()}, **fields)

    async def attach(self, who: Principal, ref: str, *, stdin: bool, stdout: bool, stderr: bool, logs: bool = False,
                     stream: bool = True) -> ContainerAttachment:
        container = self.get(who, ref)
        if container.state is ContainerState.PAUSED:
            raise Conflict(f"Container {container.id} is paused. Unpause the container before attach.",
                           field="state", value=container.state)
        if container.state in ALIVE:
            run = self._supervisor.runs.require(container)
        elif stream:
            run = self._supervisor.runs.prepare(container)
        else:
            run = self._supervisor.runs.past(container)
        streams = {n for n, wanted in ((1, stdout), (2, stderr)) if wanted}
        def tell(action: str) -> None:
            self._supervisor.emit(container, action)

        tell("attach")
        return ContainerAttachment(run, stdin=stdin and container.spec.open_stdin, streams=streams, past=logs,
                                   follow=stream, tell=tell)

    def logs(self, who: Principal, ref: str, *, follow: bool = False, stdout: bool = True, stderr: bool = True,
             since_ns: int = 0, until_ns: int = 0, tail: int | None = None) -> AsyncIterator[list[LogRecord]]:
        container = self.get(who, ref)
        check_readable(container.spec.log)
        streams = {n for n, wanted in ((1, stdout), (2, stderr)) if wanted}
        return read_lines(self._supervisor.runs.log(container), streams=streams, since_ns=since_ns, until_ns=until_ns,
                          tail=tail, follow=follow and container.state in ACTIVE)

    async def resize(self, who: Principal, ref: str, *, rows: int, columns: int) -> None:
        container = self._running(who, ref)
        if container.spec.tty:
            await self._sandboxes.require(container.pod_id).channel.resize(container.handle, rows=rows, columns=columns)
        self._supervisor.emit(container, "resize", height=str(rows), width=str(columns))

    async def archive_stat(self, who: Principal, ref: str, path: str) -> PathStat:
        return await self._archives.stat(self.get(who, ref), path)

    async def archive_get(self, who: Principal, ref: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]:
        container = self.get(who, ref)
        found = await self._archives.get(container, path)
        self._supervisor.emit(container, "archive-path")
        return found

    async def archive_put(self, who: Principal, ref: str, path: str, tar: AsyncIterator[bytes], *,
                          no_overwrite_dir_non_dir: bool = False, copy_uid_gid: bool = False) -> None:
        container = self.get(who, ref)
        await self._archives.put(container, path, tar, no_overwrite_dir_non_dir=no_overwrite_dir_non_dir,
                                 copy_uid_gid=copy_uid_gid)
        self._supervisor.emit(container, "extract-to-dir")

    async def prune(self, who: Principal, *, until_ns: int = 0, labels: Collection[str] = (),
                    without: Collection[str] = ()) -> tuple[list[str], int]:
        removed, freed = [], 0
        for container in self.list_all(who):
            pod = self.pod_of(container)
            kept = container.state in ACTIVE or not (pod.implicit or container.joined)
            if kept or (until_ns and container.created_at > until_ns):
                continue
            own = container.image_config.labels | container.spec.labels
            if not selected(own, labels, without):
                continue
            freed += self._disks.used(container)
            await self._supervisor.remove(container.id, force=False)
            removed.append(container.id)
        self._events.emit("container", "prune", "", who.project, {"reclaimed": str(freed)})
        return removed, freed

    def _running(self, who: Principal, ref: str) -> ContainerRecord:
        container = self.get(who, ref)
        if container.state not in ALIVE:
            raise Conflict(f"container {container.id} is not running", field="state", value=container.state)
        return container
