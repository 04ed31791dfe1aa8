"""A guest kernel, whoever made it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A bootable kernel with its initramfs (agent and, where needed, modules)."""

    name: str
    image: Path
    """Uncompressed ELF vmlinux, or bzImage."""
    initrd: Path
    command_line: str = ""
    """What this kernel needs beyond the backend's own."""
    min_memory_mib: int = 64
    release: str = ""
