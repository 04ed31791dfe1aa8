"""The other peer: a VM as one types it, `qemu-system-x86_64 -kernel ...`, with nothing of ours but the kernel."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import gauge
from hyperstack.guest import initramfs

_PATIENCE_S = 120.0
_MOST_WORDS = 1 << 16
MEMORY_MIB = 512
"""As a pod has that asks for nothing."""


class PlainQemu:
    """Boots when entered, until its init has spoken; ends when left.

    :param accelerator: as the daemon's probe chose it.
    """

    def __init__(self, kernel: Path, program: Path, directory: Path, accelerator: str) -> None:
        initrd = directory / "plain-initrd.cpio"
        initrd.write_bytes(initramfs.build(program.read_bytes(), []))
        self._argv = ["qemu-system-x86_64", "-M", "q35", "-accel", accelerator, "-m", str(MEMORY_MIB), "-nodefaults",
                      "-display", "none", "-serial", "stdio", "-no-reboot",
                      "-cpu", "max" if accelerator == "tcg" else "host",
                      "-kernel", str(kernel), "-initrd", str(initrd), "-append", "console=ttyS0 quiet panic=-1"]
        self.took_ms = 0.0
        """From before the process was started until its init's first word arrived."""

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        began = time.perf_counter()
        self._process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                         stderr=subprocess.STDOUT)
        try:
            self._await_first_word()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.took_ms = (time.perf_counter() - began) * 1000
        return self

    def _await_first_word(self) -> None:
        """:raise RuntimeError: the VM ended, or said nothing in time."""
        assert self._process.stdout is not None
        console, heard, deadline = self._process.stdout.fileno(), b"", time.monotonic() + _PATIENCE_S
        while gauge.FIRST_WORD not in heard:
            ready, _, _ = select.select([console], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(console, 4096) if ready else b""
            if not chunk or len(heard) > _MOST_WORDS:
                raise RuntimeError(f"a plain QEMU did not come up: {heard[-400:].decode(errors='replace').strip()}")
            heard += chunk

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
