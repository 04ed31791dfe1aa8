"""Caches of guest kernels of a test's own, made of what is in the shared one."""

from __future__ import annotations

import json
from pathlib import Path

from tests.harness import CACHE


def own_cache(directory: Path) -> Path:
    """A cache with the default kernel, to which a test may add."""
    shared, cache = CACHE / "daemon", directory / "cache"
    name = (shared / "kernels/default").read_text()
    (cache / "kernels").mkdir(parents=True)
    (cache / "kernels/default").write_text(name)
    (cache / "kernels" / name).symlink_to(shared / "kernels" / name)
    (cache / "agent").symlink_to(shared / "agent")
    return cache


def cache_with_a_kernel(directory: Path, name: str, command_line: str) -> Path:
    """A cache with the default kernel, and with another: the same, but told something else, or more."""
    cache = own_cache(directory)
    default = cache / "kernels" / (cache / "kernels/default").read_text()
    another = cache / "kernels" / name
    another.mkdir()
    for file in ("vmlinux", "modules"):
        (another / file).symlink_to((default / file).resolve())
    record = json.loads((default / "kernel.json").read_text())
    (another / "kernel.json").write_text(json.dumps({**record, "command_line": command_line.format(**record)}))
    return cache
