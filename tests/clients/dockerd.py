"""Docker's own engine, of Debian 13's packages, as a peer: in a network and a mount namespace of its own.

Nothing is installed: ./test.sh unpacks the packages into the cache. Its state is in a directory of its own, its
containers' control groups below one of its own, and all of that is gone when it is closed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.harness import CACHE, PATIENCE_S, REGISTRY, Namespace, wait_until

UNPACKED = CACHE / "docker-engine-trixie"
ROOT = Path(os.environ.get("HYPERSTACK_TEST_DOCKER_ENGINE") or UNPACKED)
"""Where its packages are unpacked."""
_PROGRAMS = [directory / where for directory in (ROOT, UNPACKED) for where in ("usr/sbin", "usr/bin")]


class CannotRun(Exception):
    """Docker's engine does not start on this host; says what it said last."""


class Dockerd:
    def __init__(self, namespace: Namespace) -> None:
        """:raise CannotRun: it is not unpacked, or ended before it answered."""
        if not (ROOT / "usr/sbin/dockerd").exists():
            raise CannotRun("its packages are not unpacked: run ./test.sh")
        self.directory = Path(tempfile.mkdtemp(prefix="hs-dockerd-", dir="/tmp"))  # A short path, for the socket.
        self.socket = self.directory / "docker.sock"
        self._cgroup = self.directory.name
        self._log = self.directory / "log"
        settings = self.directory / "daemon.json"
        settings.write_text("{}")
        argv = ["unshare", "--mount", "--propagation", "private", "dockerd", "--config-file", str(settings),
                "--data-root", str(self.directory / "data"), "--exec-root", str(self.directory / "exec"),
                "--pidfile", str(self.directory / "pid"), "--host", f"unix://{self.socket}",
                "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{self._cgroup}",
                "--insecure-registry", REGISTRY]
        path = ":".join([*map(str, _PROGRAMS), os.environ.get("PATH", "")])
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(namespace.inside(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                             env={**os.environ, "PATH": path}, start_new_session=True)
        try:
            wait_until(lambda: self.socket.exists() or self._process.poll() is not None, "dockerd listens")
            if self._process.poll() is not None:
                raise CannotRun(self._log.read_text(errors="replace")[-500:])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._process.terminate()  # It ends its containers and its containerd.
        try:
            self._process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for hierarchy in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")):
            with contextlib.suppress(OSError):
                (hierarchy / self._cgroup).rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)
