"""Work that several callers want at the same time is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Watcher = Callable[[str, int, int], None]
"""Hears a status, how much is done, and of how much (0 and 0 where that says nothing)."""


class _Job(Generic[T]):
    task: asyncio.Task[T]

    def __init__(self) -> None:
        self.watchers: list[Watcher] = []
        self.abandoned = False
        self.last: tuple[str, int, int] | None = None

    def tell(self, status: str, current: int, total: int) -> None:
        self.last = (status, current, total)
        for watcher in self.watchers:
            watcher(status, current, total)


class SharedJobs(Generic[T]):
    """A caller that is cancelled leaves; the job is cancelled with the last one."""

    def __init__(self) -> None:
        self._jobs: dict[Hashable, _Job[T]] = {}

    async def run(self, key: Hashable, work: Callable[[Watcher], Coroutine[Any, Any, T]], watcher: Watcher) -> T:
        """The result of `work`, begun by whoever came first with the key. Everybody gets its error, too."""
        job = self._jobs.get(key)
        while job is not None and job.abandoned:
            # It still holds its files.
            await asyncio.wait([job.task])
            job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job()
            job.task = asyncio.create_task(self._guarded(key, work(job.tell)))
        elif job.last is not None:
            watcher(*job.last)
        job.watchers.append(watcher)
        try:
            return await asyncio.shield(job.task)
        finally:
            job.watchers.remove(watcher)
            if not job.watchers and not job.task.done():
                job.abandoned = True
                job.task.cancel()
                await asyncio.wait([job.task])

    async def _guarded(self, key: Hashable, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        finally:
            del self._jobs[key]
