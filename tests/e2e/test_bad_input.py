"""What a registry, an operator or a tenant gets wrong, and the words they get for it."""

from __future__ import annotations

import io
import socket
import tarfile
import threading
from collections.abc import Iterator

import pytest

from tests.harness import Daemon, Namespace
from tests.images import BUSYBOX, Pusher, base_layer


@pytest.fixture
def silent_registry(namespace: Namespace) -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with namespace.entered():
        listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    for connection in held:
        connection.close()


def failure(daemon: Daemon, *args: str) -> str:
    done = daemon.ctl(*args, check=False)
    assert done.returncode != 0, done.stdout
    return done.stderr.decode()


def test_a_tag_a_repository_and_a_registry_that_are_not_there(daemon: Daemon) -> None:
    assert "nosuchtag" in failure(daemon, "pull", "127.0.0.1:5000/busybox:nosuchtag")
    assert "no/such" in failure(daemon, "pull", "127.0.0.1:5000/no/such:1")
    assert "127.0.0.1:1" in failure(daemon, "pull", "127.0.0.1:1/x:1")


def test_a_platform_that_the_image_has_not(daemon: Daemon) -> None:
    """One that is of one platform only is pulled, with a warning, as Docker has it, and does not run for another."""
    words = b"does not match the specified platform (linux/s390x)"
    assert words in daemon.ctl("pull", "--platform", "linux/s390x", BUSYBOX).stdout
    assert "linux/s390x" in failure(daemon, "run", "--platform", "linux/s390x", BUSYBOX, "true")


def test_a_name_that_is_no_reference(daemon: Daemon) -> None:
    assert "UPPER" in failure(daemon, "run", "127.0.0.1:5000/UPPER:1")


def test_a_registry_that_hangs_is_given_up_and_holds_nobody_up(daemon: Daemon, silent_registry: str) -> None:
    client = daemon.ctl_popen("pull", f"{silent_registry}/x:1")
    try:
        assert daemon.text("run", "--rm", BUSYBOX, "echo", "meanwhile") == "meanwhile"
        _, words = client.communicate(timeout=600)
    finally:
        client.kill()
        client.wait()
    assert client.returncode != 0
    assert silent_registry in words.decode()


def test_a_layer_that_climbs_out_of_its_root_is_refused(daemon: Daemon, namespace: Namespace) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("../../escaped")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"evil"))
    Pusher(namespace).push("climber", "1", [base_layer(), buffer.getvalue()], {"Cmd": ["sh"]})
    assert "'../..' leads out of the layer" in failure(daemon, "pull", "127.0.0.1:5000/climber:1")
    assert "climber" not in daemon.text("images")


def test_memory_below_what_a_vm_can_live_in(daemon: Daemon) -> None:
    assert "memory" in failure(daemon, "run", "-m", "1m", BUSYBOX, "true").lower()


def test_a_kernel_that_nobody_registered(daemon: Daemon) -> None:
    assert "nokernel" in failure(daemon, "run", "--kernel", "nokernel", BUSYBOX, "true")
