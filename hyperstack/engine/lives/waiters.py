"""Those who wait for a container to end."""

from __future__ import annotations

import asyncio

from hyperstack.engine.api import WaitCondition
from hyperstack.pod.errors import NotFound

Outcome = tuple[int, str]
"""Exit code, and the engine's error where there was one."""


class Waiters:
    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[WaitCondition, asyncio.Future[Outcome]]]] = {}

    def add(self, container_id: str, condition: WaitCondition) -> asyncio.Future[Outcome]:
        """Registered when this returns."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(container_id, [])
        waiting.append((condition, future))
        future.add_done_callback(lambda _: self._forget(container_id))
        return future

    def exited(self, container_id: str, outcome: Outcome) -> None:
        self._settle(container_id, outcome, {WaitCondition.NEXT_EXIT, WaitCondition.NOT_RUNNING})

    def removed(self, container_id: str, outcome: Outcome) -> None:
        self._settle(container_id, outcome, {WaitCondition.REMOVED})
        # Nobody can end what is gone: a wait for its next exit would last for ever.
        for _, future in list(self._waiting.get(container_id, [])):
            if not future.done():
                future.set_exception(NotFound("container", container_id))

    def _settle(self, container_id: str, outcome: Outcome, conditions: set[WaitCondition]) -> None:
        for condition, future in list(self._waiting.get(container_id, [])):
            if condition in conditions and not future.done():
                future.set_result(outcome)

    def _forget(self, container_id: str) -> None:
        left = [(c, f) for c, f in self._waiting.get(container_id, []) if not f.done()]
        if left:
            self._waiting[container_id] = left
        else:
            self._waiting.pop(container_id, None)
