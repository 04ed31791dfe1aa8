"""Real registries (Debian's docker-registry) on loopback ports, open and guarded, and stores to pull with."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from hyperstack.image.config import ImageConfigOptions, Patience
from hyperstack.image.store import ImageStore
from tests.harness import CACHE
from tests.unit.image_builds import BuiltImage, oci_archive

USER, PASSWORD = "alice", "correct horse"
PASSWORD_HASH = "$2b$04$Yuq1TGW56pq8j5Rwp5pdXuU8zCN4C.uH7vifX/9.noCAwrfeanT4i"
"""Of that password, by bcrypt with the least cost: all that docker-registry takes."""
PATIENCE = Patience(connect=2, stall=0.5, request=2, tries=3, backoff=0.01)
WORKER_UID = 64_999 if os.geteuid() == 0 else None

MakeStore = Callable[..., Awaitable[ImageStore]]


@dataclass(frozen=True)
class RealRegistry:
    host: str
    data: Path
    credentials: str = ""

    def push(self, image: BuiltImage, name: str, scratch: Path) -> str:
        """With skopeo, so that the product's own code is not on both ends. Returns the reference."""
        archive = scratch / "pushed.tar"
        archive.write_bytes(oci_archive(image, f"{self.host}/{name}"))
        login = ["--dest-creds", self.credentials] if self.credentials else []
        subprocess.run(["skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests",
                        "--dest-tls-verify=false", *login,
                        f"oci-archive:{archive}", f"docker://{self.host}/{name}"], check=True, capture_output=True)
        return f"{self.host}/{name}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def registry_binary() -> Path:
    """Debian's package, installed or unpacked by test.sh."""
    there = [path for path in (Path("/usr/bin/docker-registry"), CACHE / "docker-registry/usr/bin/docker-registry")
             if path.exists()]
    assert there, "no docker-registry: run ./test.sh, which fetches it"
    return there[0]


@contextmanager
def running(directory: Path, *, guarded: bool) -> Iterator[RealRegistry]:
    host = f"localhost:{free_port()}"
    settings: dict[str, object] = {
        "version": 0.1, "log": {"level": "error"}, "http": {"addr": host},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}}}
    if guarded:
        (directory / "htpasswd").write_text(f"{USER}:{PASSWORD_HASH}\n")
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    (directory / "config.yml").write_text(yaml.safe_dump(settings))
    process = subprocess.Popen([registry_binary(), "serve", directory / "config.yml"], stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)
    try:
        name, port = host.split(":")
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex((name, int(port))) == 0:
                    break
            time.sleep(0.05)
        yield RealRegistry(host, directory / "data", f"{USER}:{PASSWORD}" if guarded else "")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running(tmp_path_factory.mktemp("registry"), guarded=False) as started:
        yield started


@pytest.fixture(scope="session")
def guarded_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running(tmp_path_factory.mktemp("guarded"), guarded=True) as started:
        yield started


@pytest.fixture
async def make_store(tmp_path: Path) -> AsyncIterator[MakeStore]:
    """`await make_store("name", insecure=[...])`: a started store, closed with the test."""
    opened: list[ImageStore] = []

    async def make(name: str = "images", **changes: object) -> ImageStore:
        settings: dict[str, object] = {"platform": "linux/amd64", "worker_uid": WORKER_UID, "patience": PATIENCE,
                                       **changes}
        store = ImageStore(tmp_path / name, config=ImageConfigOptions(**settings))  # type: ignore[arg-type]  # a test's
        await store.start()
        opened.append(store)
        return store

    yield make
    for store in opened:
        await store.close()
