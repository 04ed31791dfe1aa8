"""Trays: pieces of memory by which bulk data passes between a machine and whom it talks to, past a stream of which QEMU
takes 4 KiB at a time. To the guest one is a disk, of places that are used in turn."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

TRAY_BYTES = 8 * 256 * 1024
"""files/tray.h has the same."""


@contextmanager
def open_tray(name: str = "tray", size: int = TRAY_BYTES) -> Iterator[tuple[int, int]]:
    """Descriptors of a new tray: to read and write it, and only to read it. It takes memory where it is used, and is as
    large as it is for ever, whoever holds it."""
    writable = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(writable, size)
        fcntl.fcntl(writable, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        readable = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield writable, readable
        finally:
            os.close(readable)
    finally:
        os.close(writable)
