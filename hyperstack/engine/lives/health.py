"""Health checks: a command within each container that has one, run again and again, and what it says of the container.

Docker's rules. A container begins as `starting`; the first success makes it `healthy`, so many failures one after the
other `unhealthy`; failures within the start period do not count before the first success. One that has stopped counts
as `unhealthy`. A check does not run while its container is paused, and keeps what it found.

The monitor follows the engine's events, so that whatever starts or ends a container need not know of it. What was found
is stored: a daemon that comes back goes on with the streak that the last one left.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time

from msgspec.structs import replace

from hyperstack.engine.events import EventBus
from hyperstack.engine.lives.supervisor import Supervisor
from hyperstack.engine.machines import launch, linking
from hyperstack.engine.machines.sandboxes import Sandbox, Sandboxes
from hyperstack.engine.records import (
    ContainerRecord,
    Event,
    ExecRequest,
    HealthProbe,
    HealthRecord,
    HealthStatus,
)
from hyperstack.engine.store import Store
from hyperstack.guest.channel import GuestCallError
from hyperstack.guest.messages import ExitEvent
from hyperstack.pod.errors import HyperStackError
from hyperstack.pod.ids import new_id
from hyperstack.pod.spec import Healthcheck
from hyperstack.pod.states import ContainerState

log = logging.getLogger(__name__)

_NS = 1_000_000_000
_DEFAULTS = Healthcheck(interval=30 * _NS, timeout=30 * _NS, start_interval=5 * _NS, retries=3)
_LOG_KEPT = 5
_OUTPUT_BYTES = 4096
"""Of one probe. All these are Docker's numbers."""
_SIGKILL, _SIGNALLED = 9, 128
_END_S = 5.0
"""For a killed probe to be reported dead, and for the end of its output."""
_SHELL = ("/bin/sh", "-c")
_RUNS = (ContainerState.RUNNING, ContainerState.PAUSED)


def effective(container: ContainerRecord) -> Healthcheck | None:
    """The check in force, with all its numbers: what the user says, else the image, else Docker's defaults."""
    asked, image = container.spec.healthcheck or Healthcheck(), container.image_config.healthcheck or Healthcheck()
    test = asked.test or image.test
    if not test or test[0] == "NONE":
        return None
    numbers = {name: getattr(asked, name) or getattr(image, name) or getattr(_DEFAULTS, name)
               for name in ("interval", "timeout", "start_period", "start_interval", "retries")}
    return Healthcheck(test=test, **numbers)


def command(container: ContainerRecord, check: Healthcheck) -> tuple[str, ...]:
    """What a probe executes."""
    kind, *words = check.test
    shell = container.spec.shell or container.image_config.shell or _SHELL
    return (shell if kind == "CMD-SHELL" else ()) + tuple(words)


def judge(health: HealthRecord, probe: HealthProbe, check: Healthcheck, *, started_at: int) -> HealthRecord:
    """What becomes of a container's health by one more probe."""
    status, streak = health.status, health.failing_streak
    if probe.exit_code == 0:
        status, streak = HealthStatus.HEALTHY, 0
    elif status is not HealthStatus.STARTING or probe.started_at - started_at >= check.start_period:
        streak += 1
        if streak >= check.retries:
            status = HealthStatus.UNHEALTHY
    return replace(health, status=status, failing_streak=streak, log=(*health.log, probe)[-_LOG_KEPT:])


class HealthMonitor:
    def __init__(self, store: Store, events: EventBus, sandboxes: Sandboxes, supervisor: Supervisor) -> None:
        self._store = store
        self._events = events
        self._sandboxes = sandboxes
        self._supervisor = supervisor
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._clearing: dict[str, asyncio.Task[None]] = {}
        """What the last probe of a container left behind is being cleared away."""
        events.listen(self._heard)

    def resume(self) -> None:
        """Go on with the containers that an earlier daemon left running."""
        for record in self._store.health.all():
            if self._store.containers.get(record.id) is None:
                self._store.health.delete(record.id)
        for container in self._store.containers.all():
            if container.state in _RUNS and container.id not in self._watches:
                self._begin(container, fresh=False)

    async def close(self) -> None:
        tasks = list(self._watches.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _heard(self, event: Event) -> None:
        if event.kind != "container":
            return
        match event.action:
            case "start":
                container = self._store.containers.get(event.ident)
                if container is not None:
                    self._begin(container, fresh=True)
            case "die":
                self._end(event.ident)
            case "destroy":
                self._end(event.ident)
                self._store.health.delete(event.ident)

    def _begin(self, container: ContainerRecord, *, fresh: bool) -> None:
        self._stop(container.id)
        pod = self._store.pods.get(container.pod_id)
        check = effective(container)
        # As Kubernetes has it: what an image says of health is not for pods from a manifest.
        if check is None or pod is None or not (pod.implicit or container.joined):
            return
        before = self._store.health.get(container.id)
        if fresh or before is None:
            self._store.health.put(HealthRecord(
                id=container.id, project=container.project, status=HealthStatus.STARTING,
                log=before.log if before is not None else ()))
        self._watches[container.id] = asyncio.create_task(self._watch(container.id, check))

    def _end(self, container_id: str) -> None:
        self._stop(container_id)
        health = self._store.health.get(container_id)
        if health is not None:
            self._store.health.put(replace(health, status=HealthStatus.UNHEALTHY))

    def _stop(self, container_id: str) -> None:
        self._clearing.pop(container_id, None)
        task = self._watches.pop(container_id, None)
        if task is not None:
            task.cancel()

    async def _watch(self, container_id: str, check: Healthcheck) -> None:
        while True:
            container, health = self._store.containers.get(container_id), self._store.health.get(container_id)
            if container is None or health is None or container.state not in _RUNS:
                return
            await asyncio.sleep(_pause_ns(health, check, container.started_at) / _NS)
            container = self._store.containers.get(container_id)
            if container is None or container.state is not ContainerState.RUNNING:
                continue
            # Without one the pod is on its way down, or not adopted yet: nothing can be said of the container.
            sandbox = self._sandboxes.get(container.pod_id)
            if sandbox is not None and (probe := await self._probe(sandbox, container, check)) is not None:
                self._note(container, check, probe)

    def _note(self, container: ContainerRecord, check: Healthcheck, probe: HealthProbe) -> None:
        health = self._store.health.get(container.id)
        current = self._store.containers.get(container.id)
        if health is None or current is None or current.state not in _RUNS:
            return
        changed = self._store.health.put(judge(health, probe, check, started_at=current.started_at))
        if changed.status is not health.status:
            self._supervisor.emit(current, f"health_status: {changed.status}")

    async def _probe(self, sandbox: Sandbox, container: ContainerRecord, check: Healthcheck) -> HealthProbe | None:
        """None where nothing can be said: the container is held still."""
        if (clearing := self._clearing.pop(container.id, None)) is not None:
            await asyncio.wait((clearing,))  # a guest that is slow to end probes gets no more of them
        started_at, output = time.time_ns(), _Output()
        timeout_s = check.timeout / _NS
        try:
            async with asyncio.timeout(timeout_s):
                code = await self._run(sandbox, container, command(container, check), output)
            text = output.text()
        except TimeoutError:
            code, text = -1, f"Health check exceeded timeout ({timeout_s:g}s): {output.text()}"
        except HyperStackError as error:
            if isinstance(error, GuestCallError) and error.errno == errno.EBUSY:
                return None
            code, text = -1, str(error)
        return HealthProbe(started_at=started_at, ended_at=time.time_ns(), exit_code=code, output=text)

    async def _run(self, sandbox: Sandbox, container: ContainerRecord, argv: tuple[str, ...], output: _Output) -> int:
        """The exit code, as a shell has it. :raise HyperStackError: it could not be started."""
        pod = self._store.pods.get(container.pod_id)
        assert pod is not None, container.pod_id
        handle, ident, request = sandbox.new_handle(), new_id(), ExecRequest(argv=argv)
        ended = self._supervisor.exits.expect(container.pod_id, handle)
        try:
            self._supervisor.emit(container, f"exec_create: {request.told}", execID=ident)  # As of every exec.
            process = launch.exec_process(pod, container, request, linking.environment(self._store, container))
            await sandbox.channel.exec(container.id, handle, process)
            self._supervisor.emit(container, f"exec_start: {request.told}", execID=ident)
            await sandbox.channel.attach(handle, output, stdout=0, stderr=0)
            event = await asyncio.shield(ended)
            with contextlib.suppress(TimeoutError):  # what the probe left behind may hold its output open
                await asyncio.wait_for(output.complete.wait(), _END_S)
            code = _SIGNALLED + event.signal if event.signal else event.code
            self._supervisor.emit(container, "exec_die", execID=ident, exitCode=str(code))
            return code
        finally:
            # Also where the container dies in the middle of it; the guest must not keep probes that nobody waits for.
            self._clearing[container.id] = self._supervisor.spawn(_clear_away(sandbox, handle, ended))


class _Output:
    """The head of a probe's output, both streams as they come; all is taken, so that the probe never waits."""

    def __init__(self) -> None:
        self.complete = asyncio.Event()
        self._head = bytearray()
        self._open = 2

    async def write(self, stream: int, offset: int, data: bytes) -> None:
        self._head += data[:_OUTPUT_BYTES - len(self._head)]

    async def eof(self, stream: int, offset: int) -> None:
        self._open -= 1
        if self._open <= 0:
            self.complete.set()

    def text(self) -> str:
        return self._head.decode("utf-8", "replace")


async def _clear_away(sandbox: Sandbox, handle: int, ended: asyncio.Future[ExitEvent]) -> None:
    try:
        if not ended.done():
            await sandbox.channel.signal(handle, _SIGKILL)
            await asyncio.wait((ended,), timeout=_END_S)
        await sandbox.channel.release(handle)
    except HyperStackError:
        log.debug("a probe of pod %s was not there any more", sandbox.pod_id[:12])
    finally:
        ended.cancel()


def _pause_ns(health: HealthRecord, check: Healthcheck, started_at: int) -> int:
    """Before the next probe."""
    early = health.status is HealthStatus.STARTING and time.time_ns() - started_at < check.start_period
    return check.start_interval if early else check.interval
