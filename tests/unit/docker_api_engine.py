"""An engine in memory whose containers are processes of this host: real pipes, terminals, signals and exit codes behind
the HTTP APIs, without a VM."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import stat
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

import msgspec

from hyperstack.engine.api import (
    BuildEvent,
    BuildRequest,
    BuildSink,
    CachedStep,
    Change,
    ChangeKind,
    ContainerStats,
    HostCost,
    Image,
    PathStat,
    ProgressSink,
    StepFailed,
    WaitCondition,
)
from hyperstack.engine.records import (
    ContainerRecord,
    Event,
    ExecRecord,
    ExecRequest,
    HealthRecord,
    LogRecord,
    PodRecord,
    VolumeRecord,
)
from hyperstack.identity.api import Peer, Principal
from hyperstack.pod.errors import (
    Conflict,
    Forbidden,
    InvalidArgument,
    NameTaken,
    NotFound,
    NotModified,
    StartFailed,
)
from hyperstack.pod.finding import Finding
from hyperstack.pod.ids import check_name, new_id, random_name
from hyperstack.pod.spec import ContainerSpec, PodSpec, Resources, RestartPolicy
from hyperstack.pod.states import ContainerState, SandboxState
from tests.unit.docker_api_images import BUSYBOX, Images
from tests.unit.docker_api_process import Attached, Process
from tests.unit.kernel_service import make_service
from tests.unit.network_service import make_networks


class Identities:
    """Everybody on the socket is root's project, but for callers who name a forbidden one."""

    name = "test"

    async def identify(self, peer: Peer) -> Principal:
        if peer.headers.get("X-Project") == "forbidden":
            raise Forbidden("that project is not yours")
        assert peer.uid == os.getuid()
        return Principal(user=f"uid:{peer.uid}", project="default", admin=True)


class Containers:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.records: dict[str, ContainerRecord] = {}
        self.pods: dict[str, PodRecord] = {}
        self.health: dict[str, HealthRecord] = {}
        self.processes: dict[str, Process] = {}
        self.watchers: set[asyncio.Task[None]] = set()
        self.removed: dict[str, asyncio.Event] = {}

    def _set(self, record: ContainerRecord, **changes: Any) -> ContainerRecord:
        self.records[record.id] = changed = msgspec.structs.replace(record, **changes)
        return changed

    def links_of(self, container: ContainerRecord) -> list[str]:
        return []

    def link_names(self, who: Principal) -> dict[str, list[str]]:
        return {}

    async def unlink(self, who: Principal, ref: str, alias: str) -> None:
        raise NotFound("link", f"/{ref}/{alias}")

    async def create(self, who: Principal, spec: ContainerSpec, pod: PodSpec, *, pull_missing: bool = False
                     ) -> ContainerRecord:
        image = self.engine.images.get(who, spec.image)
        name = spec.name or random_name()
        for other in self.records.values():
            if other.name == name:
                raise NameTaken("container", name, other.id)
        ident = new_id()
        record = ContainerRecord(id=ident, pod_id=new_id(), project=who.project, name=name, spec=spec,
                                 image_id=image.id, image_config=image.config, created_at=time.time_ns())
        self.pods[record.pod_id] = PodRecord(id=record.pod_id, name=name, project=who.project, spec=pod, implicit=True,
                                             created_at=record.created_at)
        self.records[ident] = record
        self.processes[ident] = Process(tty=spec.tty, open_stdin=spec.open_stdin)
        self.removed[ident] = asyncio.Event()
        self.engine.tell("container", "create", ident, name)
        return record

    def get(self, who: Principal, ref: str) -> ContainerRecord:
        for record in self.records.values():
            if ref == record.name:
                return record
        for record in self.records.values():
            if len(ref) >= 4 and record.id.startswith(ref):
                return record
        raise NotFound("container", ref)

    def pod_of(self, container: ContainerRecord) -> PodRecord:
        return self.pods[container.pod_id]

    def health_of(self, container: ContainerRecord) -> HealthRecord | None:
        return self.health.get(container.id)

    def list_all(self, who: Principal) -> list[ContainerRecord]:
        return sorted(self.records.values(), key=lambda record: -record.created_at)

    async def start(self, who: Principal, ref: str) -> None:
        record = self.get(who, ref)
        if record.state is ContainerState.RUNNING:
            raise NotModified("it runs already")
        process = self.processes[record.id]
        if process.child is not None:
            process = self.processes[record.id] = Process(tty=record.spec.tty, open_stdin=record.spec.open_stdin)
        entrypoint = record.spec.entrypoint or ()
        argv = (*entrypoint, *(record.spec.command or record.image_config.command))
        pid = await process.start(argv, self.engine.root, record.spec.env)
        self._set(record, state=ContainerState.RUNNING, started_at=time.time_ns(), pid=pid)
        self.pods[record.pod_id] = msgspec.structs.replace(self.pods[record.pod_id], state=SandboxState.READY)
        self.engine.tell("container", "start", record.id, record.name)
        watcher = asyncio.create_task(self._watch(record.id, process))
        self.watchers.add(watcher)

    async def _watch(self, ident: str, process: Process) -> None:
        code = await process.code
        if ident not in self.records:
            return
        record = self._set(self.records[ident], state=ContainerState.EXITED, finished_at=time.time_ns(), exit_code=code)
        self.engine.tell("container", "die", ident, record.name)
        if record.spec.auto_remove:
            await self.remove(Principal(user="", project="default", admin=True), ident)

    async def stop(self, who: Principal, ref: str, *, timeout: int | None = None, signal: str | None = None) -> None:
        record = self.get(who, ref)
        if record.state is not ContainerState.RUNNING:
            raise NotModified("it does not run")
        self.processes[record.id].kill(15)
        await asyncio.shield(self.processes[record.id].code)
        await asyncio.sleep(0)

    async def restart(self, who: Principal, ref: str, *, timeout: int | None = None, signal: str | None = None) -> None:
        with contextlib.suppress(NotModified):
            await self.stop(who, ref)
        await self.start(who, ref)

    async def kill(self, who: Principal, ref: str, *, signal: str = "KILL") -> None:
        import signal as signals

        record = self.get(who, ref)
        if record.state is not ContainerState.RUNNING:
            raise Conflict(f"container {record.id} is not running")
        number = int(signal) if signal.isdecimal() else signals.Signals[f"SIG{signal.removeprefix('SIG')}"]
        self.processes[record.id].kill(number)

    async def pause(self, who: Principal, ref: str) -> None:
        record = self.get(who, ref)
        self.processes[record.id].kill(signal.SIGSTOP)
        self._set(record, state=ContainerState.PAUSED)

    async def unpause(self, who: Principal, ref: str) -> None:
        record = self.get(who, ref)
        self.processes[record.id].kill(signal.SIGCONT)
        self._set(record, state=ContainerState.RUNNING)

    async def wait(self, who: Principal, ref: str, condition: WaitCondition) -> tuple[int, str]:
        record = self.get(who, ref)
        process = self.processes[record.id]
        if condition is WaitCondition.NOT_RUNNING and record.state in (ContainerState.CREATED, ContainerState.EXITED):
            return record.exit_code, record.error
        code = await asyncio.shield(process.code)
        if condition is WaitCondition.REMOVED:
            await self.removed[record.id].wait()
        return code, ""

    async def remove(self, who: Principal, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        record = self.get(who, ref)
        if record.state in (ContainerState.RUNNING, ContainerState.PAUSED) and not force:
            raise Conflict(f"cannot remove container \"/{record.name}\": container is running: stop the container "
                           "before removing or force remove")
        del self.records[record.id]
        await self.processes[record.id].end()
        self.removed[record.id].set()
        self.engine.tell("container", "destroy", record.id, record.name)

    async def rename(self, who: Principal, ref: str, name: str) -> None:
        self._set(self.get(who, ref), name=check_name(name))

    async def update(self, who: Principal, ref: str, *, resources: Resources | None = None,
                     restart: RestartPolicy | None = None) -> list[str]:
        record = self.get(who, ref)
        spec = record.spec
        self._set(record, spec=msgspec.structs.replace(spec, resources=resources or spec.resources,
                                                       restart=restart or spec.restart))
        return []

    async def top(self, who: Principal, ref: str, ps_args: str = "-ef") -> tuple[list[str], list[list[str]]]:
        return ["PID", "CMD"], [["1", "sleep\udcff"]]

    async def stats(self, who: Principal, ref: str) -> ContainerStats:
        return ContainerStats(time_ns=time.time_ns(), memory=3 << 20, cache=1 << 20, memory_limit=64 << 20,
                              cpu_ns=time.monotonic_ns() // 2, system_cpu_ns=time.monotonic_ns(), pids=2,
                              read_bytes=4096, network={"eth0": {"rx_bytes": 5, "tx_bytes": 7}})

    async def attach(self, who: Principal, ref: str, *, stdin: bool, stdout: bool, stderr: bool, logs: bool = False,
                     stream: bool = True) -> Attached:
        return self.processes[self.get(who, ref).id].attach(stdin=stdin)

    async def logs(self, who: Principal, ref: str, *, follow: bool = False, stdout: bool = True, stderr: bool = True,
                   since_ns: int = 0, until_ns: int = 0, tail: int | None = None) -> AsyncIterator[list[LogRecord]]:
        process, position = self.processes[self.get(who, ref).id], 0
        if tail is not None:
            position = max(len(process.log) - tail, 0)
        while True:
            while position < len(process.log):
                record = process.log[position]
                position += 1
                if (stdout if record.stream == 1 else stderr) and record.time_ns >= since_ns:
                    yield [record]
            if not follow or process.code.done():
                return
            async with process.grown:
                if position == len(process.log) and not process.code.done():
                    await process.grown.wait()

    async def resize(self, who: Principal, ref: str, *, rows: int, columns: int) -> None:
        self.processes[self.get(who, ref).id].resize(rows, columns)

    def _path(self, path: str) -> Path:
        return self.engine.root / path.lstrip("/")

    async def archive_stat(self, who: Principal, ref: str, path: str) -> PathStat:
        self.get(who, ref)
        where = self._path(path)
        try:
            found = where.lstat()
        except OSError as error:
            raise NotFound("file or directory", path) from error
        return PathStat(name=where.name, size=found.st_size, mode=found.st_mode, mtime_ns=found.st_mtime_ns,
                        link_target=os.readlink(where) if stat.S_ISLNK(found.st_mode) else "")

    async def archive_get(self, who: Principal, ref: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]:
        found = await self.archive_stat(who, ref, path)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.add(self._path(path), arcname=found.name)

        async def parts() -> AsyncIterator[bytes]:
            yield buffer.getvalue()

        return found, parts()

    async def archive_put(self, who: Principal, ref: str, path: str, tar: AsyncIterator[bytes], *,
                          no_overwrite_dir_non_dir: bool = False, copy_uid_gid: bool = False) -> None:
        self.get(who, ref)
        data = b"".join([part async for part in tar])
        with tarfile.open(fileobj=io.BytesIO(data)) as opened:
            opened.extractall(self._path(path))

    async def prune(self, who: Principal, *, until_ns: int = 0, labels: Collection[str] = (),
                    without: Collection[str] = ()) -> tuple[list[str], int]:
        gone = [record.id for record in self.records.values() if record.state is ContainerState.EXITED]
        for ident in gone:
            await self.remove(who, ident)
        return gone, 0


class Execs:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.records: dict[str, ExecRecord] = {}
        self.processes: dict[str, Process] = {}
        self.watchers: set[asyncio.Task[None]] = set()

    async def create(self, who: Principal, container: str, request: ExecRequest) -> ExecRecord:
        record = self.engine.containers.get(who, container)
        if record.state is not ContainerState.RUNNING:
            raise Conflict(f"container {record.id} is not running")
        created = ExecRecord(id=new_id(), container_id=record.id, project=who.project, request=request, created_at=1)
        self.records[created.id] = created
        return created

    def get(self, who: Principal, ident: str) -> ExecRecord:
        if ident not in self.records:
            raise NotFound("exec instance", ident)
        return self.records[ident]

    def running(self, container: ContainerRecord) -> list[ExecRecord]:
        return [record for record in self.records.values() if record.container_id == container.id and record.running]

    async def start(self, who: Principal, ident: str, *, detach: bool = False, rows: int = 0, columns: int = 0
                    ) -> Attached | None:
        record = self.get(who, ident)
        if record.running or record.exit_code is not None:
            raise Conflict(f"exec command {ident} has already run")
        process = self.processes[ident] = Process(tty=record.request.tty, open_stdin=record.request.attach_stdin)
        attached = None if detach else process.attach(stdin=record.request.attach_stdin)
        try:
            await process.start(record.request.argv, self.engine.root, record.request.env)
        except StartFailed as error:
            self.records[ident] = msgspec.structs.replace(record, exit_code=error.exit_code)
            raise
        self.records[ident] = msgspec.structs.replace(record, running=True)
        self.watchers.add(asyncio.create_task(self._watch(ident, process)))
        return attached

    async def _watch(self, ident: str, process: Process) -> None:
        code = await process.code
        self.records[ident] = msgspec.structs.replace(self.records[ident], running=False, exit_code=code)

    async def resize(self, who: Principal, ident: str, *, rows: int, columns: int) -> None:
        self.get(who, ident)
        self.processes[ident].resize(rows, columns)


class Volumes:
    def __init__(self) -> None:
        self.volumes: dict[str, VolumeRecord] = {}

    async def create(self, who: Principal, name: str = "", *, driver: str = "", labels: dict[str, str] | None = None,
                     options: dict[str, str] | None = None) -> VolumeRecord:
        name = name or new_id()
        self.volumes[name] = VolumeRecord(id=new_id(), name=name, project=who.project, driver=driver or "local",
                                          created_at=time.time_ns(), labels=labels or {}, options=options or {})
        return self.volumes[name]

    def get(self, who: Principal, name: str) -> VolumeRecord:
        if name not in self.volumes:
            raise NotFound("volume", name)
        return self.volumes[name]

    def list_all(self, who: Principal) -> list[VolumeRecord]:
        return list(self.volumes.values())

    async def remove(self, who: Principal, name: str, *, force: bool = False) -> None:
        self.get(who, name)
        del self.volumes[name]

    async def prune(self, who: Principal, *, all_unused: bool = False, labels: Collection[str] = (),
                    without: Collection[str] = ()) -> tuple[list[str], int]:
        gone = list(self.volumes)
        self.volumes.clear()
        return gone, 0


class Pods:
    """Pods from manifests, as records alone: nothing of them runs here."""

    def __init__(self) -> None:
        self.records: dict[str, PodRecord] = {}

    async def create(self, who: Principal, spec: PodSpec, *, start: bool = True) -> PodRecord:
        if any(record.name == spec.name for record in self.records.values()):
            raise NameTaken("pod", spec.name, "0" * 64)
        state = SandboxState.READY if start else SandboxState.ABSENT
        record = PodRecord(id=new_id(), name=spec.name, project=who.project, spec=spec, implicit=False,
                           created_at=time.time_ns(), state=state)
        self.records[record.id] = record
        return record

    def get(self, who: Principal, ref: str) -> PodRecord:
        for record in self.records.values():
            if ref == record.name or record.id.startswith(ref):
                return record
        raise NotFound("pod", ref)

    def list_all(self, who: Principal) -> list[PodRecord]:
        return list(self.records.values())

    def containers_of(self, pod: PodRecord) -> list[ContainerRecord]:
        return [ContainerRecord(id=new_id(), pod_id=pod.id, project=pod.project, name=spec.name, spec=spec,
                                image_id=BUSYBOX.id, image_config=BUSYBOX.config, created_at=pod.created_at,
                                init=spec in pod.spec.init_containers)
                for spec in (*pod.spec.init_containers, *pod.spec.containers)]

    async def cost(self, who: Principal, ref: str) -> HostCost:
        pod = self.get(who, ref)
        if pod.state is not SandboxState.READY:
            raise Conflict(f"Pod {pod.name} is not running", field="pod", value=pod.name)
        return HostCost(pss_bytes=40 << 20, memory_bytes=90 << 20, cpu_ns=5, pids=4)

    async def costs(self, who: Principal) -> list[tuple[PodRecord, HostCost]]:
        return [(pod, await self.cost(who, pod.id)) for pod in self.list_all(who) if pod.state is SandboxState.READY]

    async def start(self, who: Principal, ref: str) -> None:
        record = self.get(who, ref)
        self.records[record.id] = msgspec.structs.replace(record, state=SandboxState.READY)

    async def stop(self, who: Principal, ref: str, *, timeout: int | None = None) -> None:
        record = self.get(who, ref)
        self.records[record.id] = msgspec.structs.replace(record, state=SandboxState.ABSENT)

    async def remove(self, who: Principal, ref: str, *, force: bool = False) -> None:
        record = self.get(who, ref)
        if record.state is SandboxState.READY and not force:
            raise Conflict(f"pod {record.name} is running")
        del self.records[record.id]


class System:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def info(self, who: Principal) -> dict[str, Any]:
        records = self.engine.containers.records.values()
        return {"containers": len(records), "running": sum(r.state is ContainerState.RUNNING for r in records),
                "cpus": 2, "memory": 1 << 30, "hostname": "testhost", "os": "Debian", "kernel": "6.1", "warnings": [],
                "hypervisor": "none", "accelerator": "tcg", "pods": 0, "data_root": "/var/lib/hyperstack"}

    async def doctor(self) -> list[Finding]:
        return [Finding(name="accelerator", status="warn", detail="no KVM", remedy="enable nested virtualisation")]

    async def disk_usage(self, who: Principal) -> dict[str, Any]:
        return {"layers": 4 << 20, "containers": dict.fromkeys(self.engine.containers.records, 512),
                "volumes": {}}


class Builds:
    """Tells back what it was asked for, and what it was given."""

    def __init__(self) -> None:
        self.steps: list[CachedStep] = []

    async def build(self, who: Principal, request: BuildRequest, context: AsyncIterator[bytes], tell: BuildSink,
                    progress: ProgressSink) -> str:
        size = sum([len(part) async for part in context])
        if request.target == "absent":
            raise InvalidArgument('target stage "absent" could not be found')
        await tell(BuildEvent(stream=f"Step 1/1 : {size} {msgspec.json.encode(request).decode()}\n"))
        if request.target == "fails":
            raise StepFailed("/bin/sh -c false", 7)
        await tell(BuildEvent(image=BUSYBOX.id))
        return BUSYBOX.id

    def cache(self, who: Principal) -> list[CachedStep]:
        return self.steps

    async def prune(self, who: Principal, *, everything: bool, wanted: Callable[[CachedStep], bool],
                    keep_bytes: int = 0) -> tuple[list[str], int]:
        gone = [step for step in self.steps if wanted(step)]
        self.steps = [step for step in self.steps if step not in gone]
        return [step.key for step in gone], sum(step.size for step in gone)


class Layers:
    """Every container has changed the same: all that is in the root."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.committed: dict[str, Any] = {}

    async def changes(self, who: Principal, ref: str) -> list[Change]:
        self.engine.containers.get(who, ref)
        paths = sorted(self.engine.root.rglob("*"))
        return [Change(kind=ChangeKind.ADDED, path=f"/{path.relative_to(self.engine.root)}") for path in paths]

    def export(self, who: Principal, ref: str) -> AsyncIterator[bytes]:
        self.engine.containers.get(who, ref)

        async def parts() -> AsyncIterator[bytes]:
            _, tar = await self.engine.containers.archive_get(who, ref, "/")
            async for part in tar:
                yield part

        return parts()

    async def commit(self, who: Principal, ref: str, **said: Any) -> Image:
        self.engine.containers.get(who, ref)
        self.committed = said
        return BUSYBOX


class FakeEngine:
    """See the module."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.past: list[Event] = []
        self.listeners: list[asyncio.Queue[Event]] = []
        self.containers = Containers(self)
        self.execs = Execs(self)
        self.pods = Pods()
        self.images = Images()
        self.layers = Layers(self)
        self.builds = Builds()
        self.volumes = Volumes()
        self.system = System(self)
        self.kernels, self._store = make_service(root.with_name("kernels"), "debian", "other")
        self.networks = make_networks(self._store)

    def tell(self, kind: str, action: str, ident: str, name: str) -> None:
        event = Event(kind=kind, action=action, ident=ident, attributes={"name": name, "image": "busybox"},
                      time_ns=time.time_ns(), project="default")
        self.past.append(event)
        for listener in self.listeners:
            listener.put_nowait(event)

    def events(self, who: Principal, *, since_ns: int = 0, until_ns: int = 0) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self.listeners.append(queue)
        past = [event for event in self.past if since_ns and event.time_ns >= since_ns]

        async def items() -> AsyncIterator[Event]:
            try:
                for event in past:
                    yield event
                while not until_ns:
                    yield await queue.get()
            finally:
                self.listeners.remove(queue)

        return items()

    async def close(self) -> None:
        self._store.close()
        for process in (*self.containers.processes.values(), *self.execs.processes.values()):
            await process.end()
        for watcher in (*self.containers.watchers, *self.execs.watchers):
            await watcher
