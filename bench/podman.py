"""The container peer: Debian's podman, with storage and configuration of its own for the run."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.report import say
from tests.harness import Namespace

_PATIENCE_S = 60.0
"""For a podman that is under way when all has to end."""
_TAIL = 400
"""Characters of podman's words that an error repeats."""


_UNIFIED = Path("/sys/fs/cgroup/unified")
_WITHOUT_UNIFIED = ["unshare", "--mount", "sh", "-c", f'umount {_UNIFIED} && exec "$@"', "sh"]
"""crun refuses to run beside a cgroup2 that a hybrid host has there. It takes a few milliseconds, on podman's clock."""


class Podman:
    """:raise FileNotFoundError: podman or the runtime is not installed."""

    def __init__(self, directory: Path, namespace: Namespace, runtime: str) -> None:
        for program in ("podman", runtime):
            if shutil.which(program) is None:
                raise FileNotFoundError(f"no {program}: apt-get install --no-install-recommends {program}")
        self.runtime = runtime
        self._namespace = namespace
        self._running: set[subprocess.Popen[bytes]] = set()
        # --cgroup-manager: a host without systemd has no other. The ulimits: where root lacks CAP_SYS_RESOURCE,
        # podman's own defaults are above what may be set.
        self._base = [*(_WITHOUT_UNIFIED if runtime == "crun" and _UNIFIED.is_mount() else ()),
                      "podman", "--root", str(directory / "storage"), "--runroot", str(directory / "runroot"),
                      "--tmpdir", str(directory / "tmp"), "--runtime", runtime, "--cgroup-manager", "cgroupfs",
                      "--events-backend", "none"]
        self.limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]

    def pull(self, image: str) -> None:
        self._call("pull", "-q", "--tls-verify=false", image)

    def run_ms(self, image: str, command: Sequence[str]) -> float:
        """From the start of the podman process to its first output byte."""
        argv = self.words("run", "--rm", *self.limits, image, *command)
        began = time.perf_counter()
        with self._spawned(argv) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            first = process.stdout.read(1)
            took = time.perf_counter() - began
            process.stdout.read()
            words = process.stderr.read().decode(errors="replace")
        if not first or process.returncode != 0:
            raise RuntimeError(f"podman run failed ({process.returncode}): {words.strip()[-_TAIL:]}")
        return took * 1000

    def words(self, *words: str) -> list[str]:
        """The whole command line of a podman command."""
        return self._namespace.inside([*self._base, *words])

    def run(self, image: str, command: Sequence[str], *, binds: Sequence[str] = ()) -> str:
        """A running container's id. :param binds: VOLUME:PATH."""
        volumes = [word for bind in binds for word in ("-v", bind)]
        return self._call("run", "-d", *self.limits, *volumes, image, *command)

    def exec(self, ident: str, argv: Sequence[str]) -> str:
        return self._call("exec", ident, *argv)

    def address(self, ident: str) -> str:
        return self._call("inspect", "--format", "{{.NetworkSettings.IPAddress}}", ident)

    def pids(self, ident: str) -> list[int]:
        """Of the container's process, and of conmon, which watches it."""
        return [int(word) for word in
                self._call("inspect", "--format", "{{.State.Pid}} {{.State.ConmonPid}}", ident).split()]

    def remove_all(self) -> None:
        self._call("rm", "-fa", "-t", "0")

    def close(self) -> None:
        """Remove all that it keeps beyond the directory. Says what it could not."""
        for process in [*self._running]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE_S)
        for words in (("rm", "-fa", "-t", "0"), ("volume", "prune", "-f"), ("rmi", "-fa")):
            try:
                self._call(*words)
            except RuntimeError as error:
                say(str(error))

    def _call(self, *words: str) -> str:
        argv = self.words(*words)
        with self._spawned(argv) as process:
            output, errors = (part.decode(errors="replace").strip() for part in process.communicate())
        if process.returncode != 0:
            raise RuntimeError(f"podman {words[0]} with {self.runtime} failed: {errors[-_TAIL:]}")
        return output

    @contextlib.contextmanager
    def _spawned(self, argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        """In a session of its own, where no Ctrl-C reaches it: a podman that is killed leaves what no other finds. One
        that its caller abandons is waited for by `close`."""
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   start_new_session=True)
        self._running.add(process)
        with process:
            yield process
        self._running.discard(process)
