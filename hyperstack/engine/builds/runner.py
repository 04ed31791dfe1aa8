"""RUN: a container in a machine of its own, whose changes become a layer."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
from collections.abc import AsyncIterator

from msgspec.structs import replace

from hyperstack.engine.admission import Admission
from hyperstack.engine.api import WaitCondition
from hyperstack.engine.builds.request import BuildEvent, BuildRequest, BuildSink, StepFailed
from hyperstack.engine.containers import ContainerService
from hyperstack.engine.layers import LayerService
from hyperstack.engine.lives.supervisor import Supervisor
from hyperstack.engine.records import ContainerRecord
from hyperstack.engine.store import Store
from hyperstack.guest.frames import STDERR
from hyperstack.identity.api import Principal
from hyperstack.pod.errors import GuestError, HyperStackError
from hyperstack.pod.spec import ContainerSpec, Healthcheck, PodSpec

_RED, _PLAIN = "\x1b[91m", "\x1b[0m"
"""Docker's builder shows the errors of a command so."""


class Runner:
    def __init__(self, store: Store, admission: Admission, containers: ContainerService, supervisor: Supervisor,
                 layers: LayerService) -> None:
        self._store = store
        self._admission = admission
        self._containers = containers
        self._supervisor = supervisor
        self._layers = layers

    @contextlib.asynccontextmanager
    async def ran(self, who: Principal, request: BuildRequest, image: str, command: list[str], env: tuple[str, ...],
                  tell: BuildSink, leaving: set[asyncio.Future[None]]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The layer of what a command changed, once it has ended well; within the block the machine is still there.

        :param leaving: what the build has to wait for at its end: the next step need not wait for a machine's.
        :raise StepFailed: it ended with another code than 0.
        """
        spec = ContainerSpec(image=image, entrypoint=(), command=tuple(command), env=env, ulimits=request.ulimits,
                             resources=request.resources, shm_size=request.shm_size,
                             healthcheck=Healthcheck(test=("NONE",)))
        place = PodSpec(network=request.network, extra_hosts=request.extra_hosts)
        container = await self._admission.container(who, spec, place, pull_missing=False, transient=True)
        self._supervisor.emit(container, "create")
        kept = False
        self._supervisor.hold(container.pod_id)
        try:
            await tell(BuildEvent(stream=f" ---> Running in {container.id[:12]}\n"))
            code = await self._run(who, container, tell)
            if code:
                kept = not request.force_remove
                raise StepFailed(" ".join(command), code)
            async with contextlib.aclosing(self._layers.layer(container)) as layer:
                yield layer
            kept = not request.remove
        finally:
            leaving.add(asyncio.ensure_future(self._leave(who, container, kept=kept)))
        if not kept:
            await tell(BuildEvent(stream=f" ---> Removed intermediate container {container.id[:12]}\n"))

    async def _run(self, who: Principal, container: ContainerRecord, tell: BuildSink) -> int:
        """The exit code, once all output is out."""
        attachment = await self._containers.attach(who, container.id, stdin=False, stdout=True, stderr=True)
        ended = asyncio.ensure_future(self._containers.wait(who, container.id, WaitCondition.NEXT_EXIT))
        try:
            await self._supervisor.start(container.id)
            decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in (1, 2)}
            while (record := await attachment.read()) is not None:
                text = decoders[record.stream].decode(record.data)
                if text:
                    await tell(BuildEvent(stream=f"{_RED}{text}{_PLAIN}" if record.stream == STDERR else text))
            await attachment.close()  # Who waits is answered once all of the output is taken.
            code, error = await ended
        finally:
            ended.cancel()
            await attachment.close()
        if error:
            raise GuestError(f"the container of this step was lost: {error}")
        return code

    async def _leave(self, who: Principal, container: ContainerRecord, *, kept: bool) -> None:
        """Let go of the machine; and of the container, unless it is kept for who looks into what went wrong."""
        self._supervisor.release(container.pod_id)
        with contextlib.suppress(HyperStackError):
            if not kept:
                await self._containers.remove(who, container.id, force=True, volumes=True)
                return
            async with self._supervisor.locked(container.id) as found:
                self._store.containers.put(replace(found, transient=False))
            await self._supervisor.settle(container.pod_id)
