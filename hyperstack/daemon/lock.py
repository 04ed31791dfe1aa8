"""One daemon per data root and per run directory.

The kernel drops a flock when its holder dies, however it dies, so there is no stale lock to clean up. Descriptors are
close-on-exec, so the VMs, which outlive the daemon, never hold it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from hyperstack.pod.errors import Conflict

_PATIENCE_S = 2.0
"""A predecessor that was killed a moment ago may still be dying."""


class DirectoryLock:
    """An exclusive lock on a directory for as long as the object is open."""

    def __init__(self, directory: Path, *, note: str) -> None:
        """:raise Conflict: another process holds it; the message says which. :raise OSError: cannot write there."""
        self._path = directory / "hyperd.lock"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._acquire(directory)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"pid {os.getpid()}, {note}\n".encode(), 0)
        except BaseException:
            os.close(self._fd)
            raise

    def _acquire(self, directory: Path) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(self._fd, 512, 0).decode(errors="replace").strip() or "unknown"
                    raise Conflict(f"{directory} is in use by another hyperd ({holder})", field="data_root",
                                   value=str(directory),
                                   hint="stop that one first, or give this one its own --data-root and --run-dir"
                                   ) from None
            time.sleep(0.05)

    def close(self) -> None:
        """Release it. The file stays: removing it would let two daemons lock two files of one name."""
        os.close(self._fd)

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
