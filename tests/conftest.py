"""Fixtures and options that all tests share. See tests/harness.py for the daemon they start."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import Daemon, Namespace, Registry
from tests.images import daemon_with_busybox, fill_registry


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=5, help="how often the kill test kills the daemon")
    parser.addoption("--build-kernel", action="store_true", help="build our kernel, twice: many minutes")
    parser.addoption("--seed", type=int, default=None, help="of the kill test; printed where it fails")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: minutes; left out with -m 'not slow'")
    # A shell starts what it puts in the background with interrupts ignored, and all that we start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is fast tells first: unit, then one VM, then the whole, then its clients, then what kills it."""
    order = ("tests/unit", "tests/fuzz", "tests/netns", "tests/vm", "tests/e2e", "tests/clients", "tests/faults")
    items.sort(key=lambda item: next((i for i, part in enumerate(order) if part in str(item.path)), len(order)))
    needs_root = pytest.mark.skip(reason="needs root")
    for item in items:
        if os.geteuid() != 0 and "tests/unit" not in str(item.path):
            item.add_marker(needs_root)


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    given = pytestconfig.getoption("--seed")
    return random.SystemRandom().randrange(1 << 32) if given is None else given


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    """A network with a registry that holds the test images."""
    made = Namespace()
    try:
        with tempfile.TemporaryDirectory(prefix="hs-registry-") as directory:
            registry = Registry(Path(directory), made)
            try:
                fill_registry(made)
                yield made
            finally:
                registry.close()
    finally:
        made.close()


@pytest.fixture(scope="session")
def shared_daemon(namespace: Namespace) -> Iterator[Daemon]:
    """One running daemon for all tests that leave it as they found it; it has pulled the busybox image."""
    with daemon_with_busybox(namespace) as daemon:
        yield daemon


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Iterator[Daemon]:
    """The shared daemon, without pods and containers before and after."""
    yield shared_daemon
    pods = shared_daemon.text("pod", "ls", "-q").split()
    if pods:
        shared_daemon.ctl("pod", "rm", "-f", *pods, check=False)
    containers = shared_daemon.text("ps", "-aq").split()
    if containers:
        shared_daemon.ctl("rm", "-f", *containers)


@pytest.fixture
def make_daemon(namespace: Namespace) -> Iterator[Callable[..., Daemon]]:
    """Daemons of the test's own, not yet started, ended with it."""
    made: list[Daemon] = []

    def make(*options: str) -> Daemon:
        made.append(Daemon(namespace, *options))
        return made[-1]

    yield make
    for one in made:
        print(f"--- {one.log}\n{one.log_tail(100)}")  # Shown where the test failed.
        one.close()
