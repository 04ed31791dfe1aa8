"""One QEMU process, ours or adopted, held by a pidfd so that its number cannot come to mean another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Collection
from pathlib import Path

from hyperstack.pod.errors import Unavailable


class VmmProcess:
    """From its start or adoption until `close`. Must be made within a running event loop."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(pidfd, self._on_end)

    @classmethod
    def started(cls, pid: int) -> VmmProcess:
        """A child that nobody has waited for yet."""
        return cls(pid, os.pidfd_open(pid))

    @classmethod
    def found(cls, pid: int, is_member: Callable[[int], bool]) -> VmmProcess | None:
        """A running process; `is_member` is asked again once the number is pinned."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        if not is_member(pid):
            os.close(pidfd)
            return None
        return cls(pid, pidfd)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        if not self._end.done():
            self._end.set_result(self._reap())

    def _reap(self) -> str:
        """How it ended, in words; only a parent is told."""
        try:
            status = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return "is gone"
        if status is None:
            return "is gone"
        if status.si_code == os.CLD_EXITED:
            return f"ended with status {status.si_status}"
        try:
            name = signal.Signals(status.si_status).name
        except ValueError:
            name = f"signal {status.si_status}"
        return f"was killed by {name}"

    async def wait(self) -> str:
        """Ends when the process does; "is gone", "ended with status 1", "was killed by SIGKILL"."""
        return await asyncio.shield(self._end)

    async def pss_bytes(self) -> int:
        """Its resident memory, of each shared page the part that falls to it; 0 once it has ended."""
        # The kernel walks all of its page tables meanwhile, which takes milliseconds.
        found = await asyncio.to_thread(_read_pss, self.pid)
        return found if self.alive else 0

    @property
    def alive(self) -> bool:
        return not self._end.done()

    def pin(self, cpus: Collection[int]) -> None:
        """Hold its threads to these CPUs; new ones take after those that make them. None: to all that we may use.

        :raise Unavailable: it has ended.
        """
        wanted, held = set(cpus) or os.sched_getaffinity(0), set[str]()
        while fresh := set(_threads(self.pid)) - held:
            for thread in fresh:
                with contextlib.suppress(ProcessLookupError):  # that thread has ended
                    os.sched_setaffinity(int(thread), wanted)
            held |= fresh
        if not held or not self.alive:
            raise Unavailable("the machine is gone")

    def kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of it, running or not. Idempotent."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if not self._end.done():
            self._end.cancel()


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return []


def _read_pss(pid: int) -> int:
    with contextlib.suppress(OSError):  # It ended, or this daemon may not trace processes of other users.
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) << 10
    return 0
