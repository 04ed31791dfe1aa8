"""Containers that wait for their restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from hyperstack.engine.lives import restarts
from hyperstack.engine.lives.common import Lives
from hyperstack.engine.records import ContainerRecord
from hyperstack.pod.errors import HyperStackError, NotFound
from hyperstack.pod.states import ContainerState, check_container

log = logging.getLogger(__name__)


class Restarting:
    def __init__(self, lives: Lives, start: Callable[[ContainerRecord], Awaitable[None]]) -> None:
        """:param start: called with the pod's lock."""
        self._lives = lives
        self._start = start
        self._waiting: dict[str, asyncio.Task[None]] = {}

    def schedule(self, container: ContainerRecord) -> None:
        self._waiting[container.id] = asyncio.create_task(self._restart(container))

    async def _restart(self, container: ContainerRecord) -> None:
        await asyncio.sleep(max(0.0, (container.next_restart_at - time.time_ns()) / 1e9))
        with contextlib.suppress(NotFound):
            async with self._lives.locked(container.id) as found:
                self._waiting.pop(container.id, None)
                if found.state is not ContainerState.RESTARTING:
                    return
                try:
                    await self._start(replace(found, restart_count=found.restart_count + 1))
                except HyperStackError as error:
                    log.warning("container %s: restart failed: %s", container.id[:12], error)
                    await self._retry_later(container.id)

    async def _retry_later(self, container_id: str) -> None:
        """A restart that failed counts as one more exit."""
        container = self._lives.store.containers.get(container_id)
        if container is None or container.state is not ContainerState.EXITED:
            return
        if restarts.wants_restart(container.spec.restart, exit_code=container.exit_code,
                                  restart_count=container.restart_count,
                                  manually_stopped=container.manually_stopped):
            wait = restarts.backoff_ns(container.backoff_ns, ran_ns=0)
            container = self._lives.put(replace(
                container, next_restart_at=time.time_ns() + wait, backoff_ns=wait,
                state=check_container(container.id, container.state, ContainerState.RESTARTING)))
            self.schedule(container)

    def cancel(self, container_id: str) -> None:
        task = self._waiting.pop(container_id, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def close(self) -> None:
        tasks = list(self._waiting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
