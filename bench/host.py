"""Facts about the machine a figure was measured on; without them a figure says nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
_STEAL = 7
"""Of the numbers behind "cpu" in /proc/stat: time that other VMs of this machine's host took."""


class Facts:
    """Made when a bench begins; `facts` tells when it has ended, too."""

    def __init__(self) -> None:
        self._began = time.time()
        self._load = os.getloadavg()[0]
        self._ticks = _cpu_ticks()

    def facts(self) -> dict[str, Any]:
        """Plain values; a tool that is missing is "absent"."""
        ticks = [after - before for before, after in zip(self._ticks, _cpu_ticks(), strict=True)]
        return {
            "cpu": _cpu_model(),
            "cpus": os.cpu_count() or 1,
            "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
            "kernel": platform.release(),
            "os": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
            "transparent_huge_pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
            "load_before": round(self._load, 2),
            "steal_percent": round(100 * ticks[_STEAL] / max(1, sum(ticks)), 1),
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._began)),
            "took_s": round(time.time() - self._began),
            "commit": _first_line("git", "-C", str(_ROOT), "describe", "--always", "--dirty"),
            **{name: _first_line(program, "--version") for name, program in
               (("qemu", "qemu-system-x86_64"), ("podman", "podman"), ("runc", "runc"), ("crun", "crun"))},
        }


def _cpu_ticks() -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq, steal; of all processors since the boot."""
    return [int(word) for word in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _chosen(path: str) -> str:
    """Of a file such as "always [madvise] never"."""
    try:
        text = Path(path).read_text()
    except OSError:
        return "absent"
    return next((word.strip("[]") for word in text.split() if word.startswith("[")), text.strip())


def _first_line(*argv: str) -> str:
    if shutil.which(argv[0]) is None:
        return "absent"
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0].strip() or "unknown"
