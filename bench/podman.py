"""The container peer: Debian's podman with runc, with storage and configuration of its own for the run."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from tests.harness import Namespace


class Podman:
    """:raise FileNotFoundError: podman or runc is not installed."""

    def __init__(self, directory: Path, namespace: Namespace) -> None:
        for program in ("podman", "runc"):
            if shutil.which(program) is None:
                raise FileNotFoundError(program)
        self._namespace = namespace
        # --cgroup-manager: a host without systemd has no other. The ulimits: where root lacks CAP_SYS_RESOURCE,
        # podman's own defaults are above what may be set.
        self._base = ["podman", "--root", str(directory / "storage"), "--runroot", str(directory / "runroot"),
                      "--tmpdir", str(directory / "tmp"), "--runtime", "runc", "--cgroup-manager", "cgroupfs",
                      "--events-backend", "none"]
        self._limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]

    def pull(self, image: str) -> None:
        self._call(["pull", "-q", "--tls-verify=false", image])

    def run_ms(self, image: str, command: list[str]) -> float:
        """From the start of the podman process to its first output byte."""
        argv = self._namespace.inside([*self._base, "run", "--rm", *self._limits, image, *command])
        began = time.perf_counter()
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            first = process.stdout.read(1)
            took = time.perf_counter() - began
            process.stdout.read()
            words = process.stderr.read().decode(errors="replace")
        if not first or process.returncode != 0:
            raise RuntimeError(f"podman run failed ({process.returncode}): {words.strip()[-500:]}")
        return took * 1000

    def close(self) -> None:
        self._call(["rm", "-fa"])
        self._call(["rmi", "-fa"])

    def _call(self, words: list[str]) -> None:
        argv = self._namespace.inside([*self._base, *words])
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"podman {words[0]} failed: {done.stderr.strip()[-500:]}")
