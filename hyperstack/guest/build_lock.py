"""Who builds a kernel into a store: one process at a time, and what it leaves behind where it was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hyperstack.pod.errors import Conflict

PREFIX = ".new-build-"
"""Of a builder's directory, below the store's root."""
_LOCK = ".kernel-build.lock"


@contextlib.contextmanager
def sole_builder(root: Path) -> Iterator[None]:
    """Nobody else builds into this store, and what former builders left is gone. The lock ends with its process.

    :raise Conflict: somebody else does.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict("another process builds a kernel into this store", field="store", value=str(root),
                           hint="wait for it to end") from error
        for left in root.glob(f"{PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(lock)


def remove_abandoned(root: Path) -> None:
    """What builders left that were killed; those that live are let be."""
    if any(root.glob(f"{PREFIX}*")):
        with contextlib.suppress(Conflict), sole_builder(root):
            pass
