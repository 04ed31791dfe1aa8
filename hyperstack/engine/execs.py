"""More processes in running containers, as `hyperstack.engine.api.Execs` promises them."""

from __future__ import annotations

import asyncio
import contextlib
import time

from msgspec.structs import replace

from hyperstack.engine.lives.attachments import ExecAttachment
from hyperstack.engine.lives.beginnings import as_start_failure
from hyperstack.engine.lives.exits import exit_of
from hyperstack.engine.lives.supervisor import Supervisor
from hyperstack.engine.lookup import find
from hyperstack.engine.machines import launch, linking
from hyperstack.engine.machines.sandboxes import Sandbox, Sandboxes
from hyperstack.engine.records import ContainerRecord, ExecRecord, ExecRequest
from hyperstack.engine.store import Store
from hyperstack.engine.streams import ProcessStream
from hyperstack.guest.messages import ExitEvent, ProcessStatus
from hyperstack.identity.api import Principal
from hyperstack.pod.errors import Conflict, HyperStackError, InvalidArgument, NotFound, StartFailed
from hyperstack.pod.ids import new_id
from hyperstack.pod.states import ContainerState

_SIGNALLED, _NOT_FOUND, _NOT_EXECUTABLE = 128, 127, 126
_KEPT = 256
"""Finished execs of a container whose exit codes can still be asked for."""


class ExecService:
    """Implements `hyperstack.engine.api.Execs`."""

    def __init__(self, store: Store, supervisor: Supervisor, sandboxes: Sandboxes) -> None:
        self._store = store
        self._supervisor = supervisor
        self._sandboxes = sandboxes

    async def create(self, who: Principal, container: str, request: ExecRequest) -> ExecRecord:
        if not request.argv:
            raise InvalidArgument("No exec command specified", field="Cmd")
        found = self._runnable(find(self._store.containers, "container", who.project, container))
        record = self._store.execs.put(ExecRecord(id=new_id(), container_id=found.id, project=who.project,
                                                  request=request, created_at=time.time_ns()))
        self._forget_old(found.id)
        self._supervisor.emit(found, f"exec_create: {request.told}", execID=record.id)
        return record

    def get(self, who: Principal, ident: str) -> ExecRecord:
        record = self._store.execs.get(ident)
        if record is None or record.project != who.project:
            raise NotFound("exec instance", ident[:128])
        return record

    def running(self, container: ContainerRecord) -> list[ExecRecord]:
        return [e for e in self._store.execs.all() if e.container_id == container.id and e.running]

    async def start(self, who: Principal, ident: str, *, detach: bool = False, rows: int = 0, columns: int = 0
                    ) -> ExecAttachment | None:
        record = self.get(who, ident)
        if record.handle:
            raise Conflict(f"exec command {record.id} has already run", field="exec", value=ident)
        container = self._runnable(self._supervisor.container(record.container_id))
        sandbox = self._sandboxes.require(container.pod_id)
        pod = self._store.pods.get(container.pod_id)
        assert pod is not None
        process = launch.exec_process(pod, container, record.request, linking.environment(self._store, container))
        if record.request.tty and rows and columns:
            process = replace(process, rows=rows, columns=columns)
        record = self._store.execs.put(replace(record, handle=sandbox.new_handle()))
        ended = self._supervisor.exits.expect(container.pod_id, record.handle)
        try:
            pid = await sandbox.channel.exec(container.id, record.handle, process)
        except HyperStackError as error:
            ended.cancel()
            failure = as_start_failure(error)
            known = isinstance(failure, StartFailed) and failure.exit_code == _NOT_FOUND
            code = _NOT_FOUND if known else _NOT_EXECUTABLE  # Docker's for all that keeps an exec from starting
            self._store.execs.put(replace(record, exit_code=code))
            raise failure from error
        record = self._store.execs.put(replace(record, pid=pid, running=True))
        self._supervisor.emit(container, f"exec_start: {record.request.told}", execID=record.id)
        stream = ProcessStream(1 if record.request.tty else 2)
        if detach:
            stream.close()
        await sandbox.channel.attach(record.handle, stream, stdout=0, stderr=None if record.request.tty else 0)
        recorded = self._supervisor.spawn(self._record_end(record, ended))
        self._supervisor.spawn(self._forget_process(sandbox, record, recorded, stream))
        if detach:
            return None
        return ExecAttachment(sandbox.channel, record, stream, recorded,
                              lambda action: self._supervisor.emit(container, action, execID=record.id))

    async def resize(self, who: Principal, ident: str, *, rows: int, columns: int) -> None:
        record = self.get(who, ident)
        if not record.running:
            raise Conflict(f"exec instance {ident} is not running", field="exec", value=ident)
        container = self._supervisor.container(record.container_id)
        if record.request.tty:
            await self._sandboxes.require(container.pod_id).channel.resize(record.handle, rows=rows, columns=columns)

    async def adopt(self, sandbox: Sandbox, record: ExecRecord, status: ProcessStatus) -> None:
        """An exec of an earlier daemon: its client is gone, its exit code is still wanted."""
        stream = ProcessStream(1 if record.request.tty else 2)
        stream.close()
        future = self._supervisor.exits.expect(sandbox.pod_id, record.handle)
        if not status.running:
            future.set_result(exit_of(status))
        recorded = self._supervisor.spawn(self._record_end(record, future))
        await sandbox.channel.attach(record.handle, stream, stdout=status.stdout.acknowledged,
                                     stderr=None if record.request.tty else status.stderr.acknowledged)
        self._supervisor.spawn(self._forget_process(sandbox, record, recorded, stream))

    def lose(self, record: ExecRecord) -> None:
        """An exec whose end nobody can know any more."""
        self._store.execs.put(replace(record, running=False, exit_code=_SIGNALLED + 9))

    async def _record_end(self, record: ExecRecord, ended: asyncio.Future[ExitEvent]) -> None:
        event = await ended
        code = _SIGNALLED + event.signal if event.signal else event.code
        if self._store.execs.get(record.id) is not None:
            self._store.execs.put(replace(record, running=False, exit_code=code))
        container = self._store.containers.get(record.container_id)
        if container is not None:
            self._supervisor.emit(container, "exec_die", execID=record.id, exitCode=str(code))

    async def _forget_process(self, sandbox: Sandbox, record: ExecRecord, recorded: asyncio.Task[None],
                              stream: ProcessStream) -> None:
        await recorded
        if self._sandboxes.get(sandbox.pod_id) is not sandbox:
            stream.close()  # the machine is gone: no end of the stream will come
            return
        await stream.ended()
        with contextlib.suppress(HyperStackError):
            await sandbox.channel.release(record.handle)

    def _runnable(self, container: ContainerRecord) -> ContainerRecord:
        if container.state is ContainerState.PAUSED:
            raise Conflict(f"Container {container.name} is paused, unpause the container before exec",
                           field="state", value=container.state)
        if container.state is not ContainerState.RUNNING:
            raise Conflict(f"container {container.id} is not running", field="state", value=container.state)
        return container

    def _forget_old(self, container_id: str) -> None:
        done = [e for e in self._store.execs.all() if e.container_id == container_id and not e.running]
        for record in done[:-_KEPT]:
            self._store.execs.delete(record.id)
