"""Start the real thing: a hyperd with its own state, in a network namespace of its own, and ask what it left behind.

Nothing here is a mock. The namespace keeps the tests' bridges, nftables and published ports away from the host and
from other runs; everything else lives under one temporary directory and ends with it, also when a test fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import docker

from hyperstack.hypervisor.api import POOL_PREFIX, TRIAL_PREFIX
from hyperstack.pod.ids import ID_LENGTH

BIN = Path(sys.executable).parent
"""Where hyperd and hyperctl are installed."""
PATIENCE_S = 120.0
"""Deadline of a step that must come to an end; far beyond what it takes, so that a busy machine fails no test."""
REGISTRY = "127.0.0.1:5000"
"""Of the local registry, within each namespace that has one."""
CACHE = Path(os.environ.get("HYPERSTACK_CACHE") or Path.home() / ".cache" / "hyperstack")

_STARTS = {"cold": '[hypervisor]\ntemplates = "off"\n', "template": "[hypervisor]\nforks = false\n", "fork": "",
           "pool": "[hypervisor]\npool = 2\n"}
"""Settings by the value of HYPERSTACK_TEST_STARTS; not set, the product's defaults."""
Output = subprocess.CompletedProcess[bytes]
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def wait_until(condition: Callable[[], object], what: str, *, timeout: float = PATIENCE_S) -> None:
    """Poll until it holds. :raise TimeoutError: it never did; `what` says what was waited for."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout:.0f} s still not so: {what}")
        time.sleep(0.05)


class Namespace:
    """A network namespace with its loopback up. Only the network: cgroups and mounts stay the host's."""

    def __init__(self) -> None:
        self.name = f"hs-{os.getpid():x}-{time.monotonic_ns() & 0xffffff:x}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.run("ip", "link", "set", "lo", "up")

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` in here. Not `ip netns exec`: that hides /sys/fs/cgroup."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *argv]

    def run(self, *argv: str, check: bool = True, timeout: float = PATIENCE_S) -> Output:
        return subprocess.run(self.inside(argv), check=check, capture_output=True, timeout=timeout)

    def links(self) -> set[str]:
        return {link["ifname"] for link in json.loads(self.run("ip", "-json", "link").stdout)}

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets made by this thread within the block belong to the namespace."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            away = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _enter(away)
                yield
            finally:
                os.close(away)
                _enter(home)
        finally:
            os.close(home)

    def connect(self, address: str, port: int, *, timeout: float = 10.0) -> socket.socket:
        with self.entered():
            return socket.create_connection((address, port), timeout=timeout)

    def close(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Registry:
    """Debian's docker-registry on the namespace's loopback."""

    def __init__(self, directory: Path, namespace: Namespace, *, address: str = REGISTRY, htpasswd: str = "") -> None:
        """:param htpasswd: the line of the one user whom it serves; empty: everybody."""
        directory.mkdir(parents=True, exist_ok=True)
        settings = directory / "registry.yml"
        settings.write_text(
            f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{address}'}}\n"
            f"storage: {{filesystem: {{rootdirectory: {directory}/blobs}}, delete: {{enabled: true}}}}\n")
        if htpasswd:
            (directory / "htpasswd").write_text(htpasswd + "\n")
            with settings.open("a") as file:
                file.write(f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}\n")
        self._log = (directory / "registry.log").open("wb")
        self._process = subprocess.Popen(namespace.inside([_registry_binary(), "serve", str(settings)]),
                                         stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL)

        def answers() -> bool:
            with contextlib.suppress(OSError), namespace.connect(*address.split(":")):  # type: ignore[arg-type]
                return True
            return False

        wait_until(answers, "the registry answers")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


def _registry_binary() -> str:
    for candidate in ("/usr/bin/docker-registry", str(CACHE / "docker-registry/usr/bin/docker-registry")):
        if Path(candidate).exists():
            return candidate
    raise FileNotFoundError("docker-registry: run ./test.sh, which fetches it")


class Daemon:
    """One hyperd and the host as it leaves it."""

    def __init__(self, namespace: Namespace, *options: str, directory: Path | None = None) -> None:
        # Not pytest's tmp_path: a unix socket's path has 107 bytes.
        self.directory = directory or Path(tempfile.mkdtemp(prefix="hs-", dir="/tmp"))
        self.namespace = namespace
        self.state = self.directory / "state"
        self.run_dir = self.directory / "run"
        self.socket = self.run_dir / "docker.sock"
        self.log = self.directory / "hyperd.log"
        # As hypervisor/qemu/backend.py names the cgroups of one daemon's machines.
        self.cgroup_name = "hyperstack-" + hashlib.sha256(os.fsencode(self.run_dir / "machines")).hexdigest()[:12]
        self.options = (*self._starts(), *options) if "--config" not in options else options
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def _starts(self) -> tuple[str, ...]:
        """How pods' machines begin in this run of the tests."""
        kind = os.environ.get("HYPERSTACK_TEST_STARTS", "")
        if not kind:
            return ()
        file = self.directory / "starts.toml"
        self.directory.mkdir(parents=True, exist_ok=True)
        file.write_text(_STARTS[kind])
        return "--config", str(file)

    # -- the process

    def argv(self) -> list[str]:
        return self.namespace.inside([
            str(BIN / "hyperd"), "--data-root", str(self.state), "--run-dir", str(self.run_dir), "--log-level", "debug",
            "--group", "", "--cache-dir", str(CACHE / "daemon"), "--insecure-registry", REGISTRY, *self.options])

    def spawn(self) -> None:
        """Start it without waiting until it serves."""
        assert self.process is None
        self.state.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
        self.starts += 1

    def start(self) -> None:
        """Start it and wait until it answers. :raise RuntimeError: it ended; with the end of its log."""
        self.spawn()
        wait_until(self._answers_or_died, "hyperd answers")
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"hyperd ended: {self.log_tail()}")

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self._reap()

    def kill(self) -> None:
        """SIGKILL, as a crash is."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def _reap(self) -> int:
        assert self.process is not None
        code = self.process.wait(timeout=PATIENCE_S)
        self.process = None
        return code

    def _answers_or_died(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            return True
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(10)
            with contextlib.suppress(OSError):
                probe.connect(str(self.socket))
                probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return probe.recv(64).startswith(b"HTTP/1.")
        return False

    def log_tail(self, lines: int = 30) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    # -- its clients

    @property
    def environment(self) -> dict[str, str]:
        ours = ("DOCKER_", "HYPERSTACK_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {**inherited, "DOCKER_HOST": f"unix://{self.socket}", "HYPERSTACK_HOST": f"unix://{self.socket}",
                "HOME": str(self.directory), "TERM": "dumb"}

    def ctl(self, *args: str, stdin: bytes = b"", check: bool = True, timeout: float = PATIENCE_S) -> Output:
        """Run hyperctl to its end. :raise AssertionError: it failed, and `check` says it must not."""
        return self._client([str(BIN / "hyperctl"), *args], stdin=stdin, check=check, timeout=timeout)

    def docker_cli(self, *args: str, stdin: bytes = b"", check: bool = True, timeout: float = PATIENCE_S) -> Output:
        return self._client(["docker", *args], stdin=stdin, check=check, timeout=timeout)

    def ctl_popen(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        # Unbuffered: what was read before `communicate` must not stay behind in a buffer.
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        argv = [str(BIN / "hyperctl"), *args]
        return subprocess.Popen(argv, env=self.environment, bufsize=0, **{**pipes, **options})

    def text(self, *args: str, stdin: bytes = b"") -> str:
        """The standard output of hyperctl, stripped."""
        return self.ctl(*args, stdin=stdin).stdout.decode().strip()

    @contextlib.contextmanager
    def sdk(self, version: str | None = None) -> Iterator[docker.DockerClient]:
        """:param version: of the API; else the newest."""
        client = docker.DockerClient(base_url=f"unix://{self.socket}", version=version, timeout=int(PATIENCE_S))
        with contextlib.closing(client):
            yield client

    def _client(self, argv: list[str], *, stdin: bytes, check: bool, timeout: float) -> Output:
        done = subprocess.run(argv, input=stdin, capture_output=True, env=self.environment, timeout=timeout,
                              check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv[:6])}... ended with {done.returncode}:\n"
                                 f"{done.stderr.decode(errors='replace')[-2000:]}\n--- hyperd:\n{self.log_tail()}")
        return done

    # -- the host

    def vms(self) -> dict[int, str]:
        """Pids of this daemon's VM processes, with the ids of their pods. A VM is known by its cgroup: its command line
        says nothing of its owner, as it sees nothing of the host."""
        pods = self._taken()
        owners = {pid: pods.get(name, name) for pid, name in self._machines().items()}
        return {pid: owner for pid, owner in owners.items() if len(owner) == ID_LENGTH}

    def origin(self, pod: str) -> str:
        """How the pod's machine began."""
        [found] = json.loads(self.text("pod", "inspect", pod))
        return str(found["start"])

    @property
    def quickest(self) -> str:
        """How a pod's machine begins, at the best, where none stands ready: those of KVM are not forked."""
        with self.sdk() as api:
            return "fork" if api.version()["Components"][1]["Details"]["Accelerator"] == "tcg" else "template"

    def run_until(self, origin: str, name: str, *words: str, timeout: float = PATIENCE_S) -> None:
        """A running container whose machine began like that; others are removed again, as there may be no template,
        or no ready machine, yet.

        :param words: options, image and command.
        """
        def made() -> bool:
            self.ctl("run", "-d", "--name", name, *words)
            if self.origin(name) == origin:
                return True
            self.ctl("rm", "-f", name)
            time.sleep(1)  # machines are made ready while nothing else starts
            return False

        wait_until(made, f"a pod begins by {origin}", timeout=timeout)

    def parents(self) -> set[int]:
        """Pids of machines that others are forked from, made or in the making."""
        return {pid for pid, name in self._machines().items() if name.startswith(TRIAL_PREFIX)}

    def ready(self) -> set[int]:
        """Pids of machines that stand ready and are no pod's."""
        taken = self._taken()
        return {pid for pid, name in self._machines().items() if name.startswith(POOL_PREFIX) and name not in taken}

    def _taken(self) -> dict[str, str]:
        """Machines that stood ready -> the pods whose they are now."""
        return {pod["machine_id"]: pod["id"] for pod in self.pod_records() if pod.get("machine_id")}

    def pod_records(self) -> list[dict[str, Any]]:
        """As they are stored."""
        store = self.state / "engine.db"
        if not store.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            return [json.loads(doc) for (doc,) in connection.execute("SELECT doc FROM pod")]

    def _machines(self) -> dict[int, str]:
        """Those of templates, and those that stand ready, as well."""
        found: dict[int, str] = {}
        for cgroup in self.cgroups():
            with contextlib.suppress(OSError):
                found |= {int(pid): cgroup.name for pid in (cgroup / "cgroup.procs").read_text().split()}
        return found

    def cgroups(self) -> list[Path]:
        """Every cgroup of this daemon's machines, in all hierarchies, and their parents."""
        return [Path(root) for root, _, _ in os.walk("/sys/fs/cgroup") if self.cgroup_name in root]

    def mounts(self) -> list[str]:
        """Mount points within this daemon's directories."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line.split()[4] for line in lines if line.split()[4].startswith(str(self.directory) + "/")]

    def close(self) -> None:
        """End everything that belongs to it, by whatever means."""
        if self.process is not None:
            self.kill()
        wait_until(self._no_machines, "the VMs are gone")
        for mount in reversed(self.mounts()):
            subprocess.run(["umount", "-l", mount], check=False)
        for cgroup in sorted(self.cgroups(), key=lambda path: -len(path.parts)):
            with contextlib.suppress(OSError):
                cgroup.rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _no_machines(self) -> bool:
        """Those that there are are killed: one that the daemon had just begun comes into its group after the daemon."""
        pids = self._machines()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids


def processes() -> Iterator[tuple[int, str]]:
    """Pid and command line of each process of the host."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
