"""Docker's own clients against hyperd: what works with Docker works here."""

from __future__ import annotations

import io
import shutil
import tarfile

import docker.errors
import pytest

from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX, SECOND
from tests.tars import tar_of

needs_docker_cli = pytest.mark.skipif(shutil.which("docker") is None, reason="no docker client on this host")


def test_the_sdk_runs_a_container_and_reads_it(daemon: Daemon) -> None:
    with daemon.sdk() as client:
        assert client.ping()
        assert client.containers.run(BUSYBOX, ["echo", "from the SDK"], remove=True) == b"from the SDK\n"
        container = client.containers.run(BUSYBOX, ["sleep", "600"], detach=True, name="sdk", labels={"a": "b"},
                                          environment={"X": "1"}, hostname="sdk")
        assert container.status in ("created", "running")
        assert container.exec_run(["sh", "-c", "echo $X; hostname; exit 3"]) == (3, b"1\nsdk\n")
        assert [found.name for found in client.containers.list(filters={"label": "a=b"})] == ["sdk"]
        stats = container.stats(stream=False)
        assert stats["memory_stats"]["usage"] > 0
        assert [row[-1] for row in container.top()["Processes"]] == ["sleep 600"]
        container.put_archive("/tmp", tar_of({"note": b"hello"}))
        stream, status = container.get_archive("/tmp/note")
        assert status["size"] == 5
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
            member = tar.extractfile("note")
            assert member is not None
            assert member.read() == b"hello"
        container.stop(timeout=0)
        assert container.wait()["StatusCode"] == 137
        container.remove()
        with pytest.raises(docker.errors.NotFound):
            client.containers.get("sdk")


def test_events_tell_a_containers_life(daemon: Daemon) -> None:
    with daemon.sdk() as client:
        events = client.events(decode=True, filters={"container": "told"})
        client.containers.run(BUSYBOX, ["true"], name="told", remove=False)
        client.containers.get("told").remove()
        seen: list[str] = []
        for event in events:
            seen.append(event["Action"])
            if event["Action"] == "destroy":
                break
        events.close()
    wanted = ["create", "start", "die", "destroy"]
    assert [action for action in seen if action in wanted] == wanted


def test_images_are_pulled_listed_saved_loaded_and_removed(daemon: Daemon) -> None:
    with daemon.sdk() as client:
        image = client.images.pull(SECOND)
        assert SECOND in image.tags
        archive = b"".join(image.save(named=True))
        client.images.remove(SECOND)
        with pytest.raises(docker.errors.ImageNotFound):
            client.images.get(SECOND)
        [loaded] = client.images.load(archive)
        assert loaded.id == image.id
        assert client.containers.run(SECOND, ["cat", "/etc/second"], remove=True) == b"yes\n"
        client.images.remove(SECOND)


@needs_docker_cli
def test_the_docker_command_line_works(daemon: Daemon) -> None:
    assert daemon.docker_cli("run", "--rm", BUSYBOX, "echo", "hi").stdout == b"hi\n"
    done = daemon.docker_cli("run", "--rm", "-i", BUSYBOX, "sh", "-c", "cat; exit 6", stdin=b"piped", check=False)
    assert (done.stdout, done.returncode) == (b"piped", 6)
    daemon.docker_cli("run", "-d", "--name", "cli", BUSYBOX, "sh", "-c", "echo logged; sleep 600")
    wait_until(lambda: daemon.docker_cli("logs", "cli").stdout == b"logged\n", "its log is there")
    assert daemon.docker_cli("exec", "cli", "echo", "in").stdout == b"in\n"
    assert b"cli" in daemon.docker_cli("ps").stdout
    assert daemon.docker_cli("inspect", "-f", "{{.State.Running}}", "cli").stdout == b"true\n"
    assert daemon.docker_cli("run", "--rm", "--network", "host", BUSYBOX, "true", check=False).returncode == 125
    daemon.docker_cli("rm", "-f", "cli")
    assert daemon.docker_cli("ps", "-aq").stdout == b""
