"""An engine, and each docker client of the host to talk to it."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import docker
import docker.errors
import pytest

from tests.clients.alike import NOBODY
from tests.clients.dockerd import CannotRun, Dockerd
from tests.clients.peers import (
    DEBIAN_13,
    FOREIGN,
    OURS,
    PREFIX,
    Cli,
    Expectations,
    HostNetwork,
    Network,
    binaries,
    expected_of,
)
from tests.clients.services import Images, make_images
from tests.harness import Namespace, Registry
from tests.images import BUSYBOX, daemon_with_busybox, fill_registry


@dataclass(frozen=True)
class Engine:
    host: str
    network: Network
    expect: Expectations


@pytest.fixture(scope="package")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A daemon of our own with a registry beside it, unless the environment names another engine."""
    if FOREIGN:
        with _foreign() as engine:
            yield engine
        return
    namespace = request.getfixturevalue("namespace")
    with daemon_with_busybox(namespace, "--insecure-registry", NOBODY) as daemon:
        yield Engine(f"unix://{daemon.socket}", namespace, OURS)


@contextlib.contextmanager
def _foreign() -> Iterator[Engine]:
    network = HostNetwork()
    with tempfile.TemporaryDirectory(prefix="hs-registry-") as directory:
        registry = Registry(Path(directory), cast(Namespace, network))
        try:
            fill_registry(cast(Namespace, network))
            with contextlib.closing(docker.DockerClient(base_url=FOREIGN)) as client:
                client.images.pull(BUSYBOX)
            yield Engine(FOREIGN, network, expected_of(_release(FOREIGN)))
        finally:
            registry.close()


@pytest.fixture(scope="package", params=sorted(binaries()))
def client(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Cli]:
    with tempfile.TemporaryDirectory(prefix="hs-home-") as home:
        yield Cli(binaries()[request.param], engine.host, engine.network, Path(home), engine.expect)


@pytest.fixture(scope="package")
def docker_cli(engine: Engine) -> Iterator[Cli]:
    """One docker client, for tests that are about something else."""
    with tempfile.TemporaryDirectory(prefix="hs-home-") as home:
        binary = next(path for name, path in sorted(binaries().items(), reverse=True))
        yield Cli(binary, engine.host, engine.network, Path(home), engine.expect)
        clean(engine.host)


@pytest.fixture(scope="package")
def images(docker_cli: Cli) -> Iterator[Images]:
    """Real servers, from Debian's packages."""
    made = make_images(docker_cli)
    yield made
    docker_cli("rmi", "-f", *dataclasses.astuple(made))


@pytest.fixture(scope="package", name="docker")
def docker_itself(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Docker's own engine; where it cannot run, the tests that ask for it are skipped and say why."""
    if FOREIGN:
        pytest.skip("the scenario itself runs against another engine")
    namespace = Namespace()
    registry = Registry(tmp_path_factory.mktemp("registry"), namespace)
    try:
        fill_registry(namespace)
        engine = Dockerd(namespace)
        host = f"unix://{engine.socket}"
        try:
            with tempfile.TemporaryDirectory(prefix="hs-home-") as home:
                cli = Cli(DEBIAN_13, host, namespace, Path(home), expected_of(_release(host)))
                cli("pull", "-q", BUSYBOX)
                yield cli
                clean(cli.host)
        finally:
            engine.close()
    except CannotRun as error:
        pytest.skip(f"Docker's engine does not run here: {error}")
    finally:
        registry.close()
        namespace.close()


@pytest.fixture(scope="package")
def ours(docker: Cli, engine: Engine) -> Iterator[Cli]:
    with tempfile.TemporaryDirectory(prefix="hs-home-") as home:
        yield Cli(docker.binary, engine.host, engine.network, Path(home), OURS)
    clean(engine.host)


@pytest.fixture
def cli(client: Cli) -> Iterator[Cli]:
    """The client, with nothing of the scenario's left in the engine afterwards."""
    yield client
    clean(client.host)


def _release(host: str) -> int:
    """Of the engine there: 28."""
    with contextlib.closing(docker.DockerClient(base_url=host)) as api:
        return int(api.version()["Version"].partition(".")[0])


def clean(host: str) -> None:
    with contextlib.closing(docker.DockerClient(base_url=host, timeout=60)) as api:
        for container in api.containers.list(all=True, ignore_removed=True):
            if container.name.startswith(PREFIX):
                with contextlib.suppress(docker.errors.NotFound):
                    container.remove(force=True, v=True)
        for network in api.networks.list():
            if network.name.startswith(PREFIX):
                network.remove()
        for volume in api.volumes.list():
            if volume.name.startswith(PREFIX):
                volume.remove()
        for image in api.images.list():
            for tag in image.tags:
                if tag.rpartition("/")[2].startswith(PREFIX):
                    api.images.remove(tag, force=True)
