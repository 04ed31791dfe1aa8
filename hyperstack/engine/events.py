"""What happened, told to whoever listens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping

from hyperstack.engine.records import Event
from hyperstack.engine.store import Store
from hyperstack.pod.errors import Exhausted

_QUEUE = 2048
"""Events that one subscriber may leave unread before it is dropped; about 1 MB."""


class EventBus:
    """Events are stored, so that `since` reaches back over a restart of the daemon, and then sent on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._subscribers: set[_Subscription] = set()
        self._listeners: list[Callable[[Event], None]] = []

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Have a part of the engine told of every event of every project, at once and after it is stored."""
        self._listeners.append(listener)

    def emit(self, kind: str, action: str, ident: str, project: str,
             attributes: Mapping[str, str] | None = None) -> None:
        event = Event(kind=kind, action=action, ident=ident, project=project, attributes=dict(attributes or {}),
                      time_ns=time.time_ns())
        self._store.add_event(event)
        for listener in self._listeners:
            listener(event)
        for subscriber in list(self._subscribers):
            if subscriber.project == project:
                subscriber.offer(event)

    def subscribe(self, project: str, *, since_ns: int = 0, until_ns: int = 0) -> AsyncIterator[Event]:
        """See `Engine.events`."""
        past = self._store.events_since(since_ns) if since_ns else []
        return _Subscription(self._subscribers, project, [e for e in past if e.project == project], until_ns)


class _Subscription(AsyncIterator[Event]):
    """Registered from its making until it ends, is closed, or is forgotten by its reader."""

    def __init__(self, registry: set[_Subscription], project: str, past: list[Event], until_ns: int) -> None:
        self.project = project
        self._registry = registry
        self._until_ns = until_ns
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        for event in past:
            self._queue.put_nowait(event)
        self._limit = _QUEUE + len(past)
        self._overrun = False
        registry.add(self)

    def offer(self, event: Event) -> None:
        if self._queue.qsize() >= self._limit:
            self._overrun = True
            self._registry.discard(self)
            return
        self._queue.put_nowait(event)

    async def __anext__(self) -> Event:
        if self._overrun and self._queue.empty():
            raise Exhausted("This listener did not read its events and was dropped",
                            hint="ask again with `since` to catch up")
        timeout = None
        if self._until_ns:
            timeout = max(0.0, (self._until_ns - time.time_ns()) / 1e9)
        try:
            event = self._queue.get_nowait() if not self._queue.empty() else \
                await asyncio.wait_for(self._queue.get(), timeout)
        except TimeoutError:
            await self.aclose()
            raise StopAsyncIteration from None
        if self._until_ns and event.time_ns > self._until_ns:
            await self.aclose()
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        self._registry.discard(self)
