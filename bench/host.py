"""Facts about the machine a figure was measured on; without them a figure says nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path


def facts() -> dict[str, str | int | float]:
    """Plain values; a tool that is missing is "absent"."""
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count() or 1,
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "os": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
        "load_before": round(os.getloadavg()[0], 2),
        "qemu": _first_line("qemu-system-x86_64", "--version"),
        "podman": _first_line("podman", "--version"),
        "runc": _first_line("runc", "--version"),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(program: str, option: str) -> str:
    if shutil.which(program) is None:
        return "absent"
    done = subprocess.run([program, option], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0].strip() or "unknown"
