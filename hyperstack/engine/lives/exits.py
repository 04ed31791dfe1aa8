"""Ends of the processes that are not a container's main one: execs, and the agent's archive processes."""

from __future__ import annotations

import asyncio

from hyperstack.guest.messages import ExitEvent, ProcessStatus

_KILLED, _SIGKILL = 137, 9


class Exits:
    """Who waits for which process, by pod and handle."""

    def __init__(self) -> None:
        self._expected: dict[tuple[str, int], asyncio.Future[ExitEvent]] = {}

    def expect(self, pod_id: str, handle: int) -> asyncio.Future[ExitEvent]:
        """Asked before the process is started, so that its end is not missed. Never raises: a lost one counts as
        killed."""
        future: asyncio.Future[ExitEvent] = asyncio.get_running_loop().create_future()
        self._expected[pod_id, handle] = future
        future.add_done_callback(lambda _: self._expected.pop((pod_id, handle), None))
        return future

    def exited(self, pod_id: str, event: ExitEvent) -> None:
        future = self._expected.get((pod_id, event.handle))
        if future is not None and not future.done():
            future.set_result(event)

    def lost(self, pod_id: str) -> None:
        """The pod's machine is gone, and all processes with it."""
        for (owner, handle), future in list(self._expected.items()):
            if owner == pod_id and not future.done():
                future.set_result(ExitEvent(handle=handle, code=_KILLED, signal=_SIGKILL, oom=False, time_ns=0))


def exit_of(status: ProcessStatus) -> ExitEvent:
    """The end of a process that the agent lists as finished, as it would have told it at the time."""
    return ExitEvent(handle=status.handle, code=status.code, signal=status.signal, oom=status.oom,
                     time_ns=status.exit_ns)
