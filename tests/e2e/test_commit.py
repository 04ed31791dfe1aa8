"""diff, export and commit, of containers that run and of such that do not, with Docker's own clients."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX

SCRIPT = """
echo new > /new; rm /bin/ls; mkdir -p /made/deep; echo x > /made/deep/file; chown 7:8 /made/deep/file
rm -r /var; mkdir -m 700 /var; echo own > /etc/group; ln -s /new /tmp/link
"""
CHANGES = {"A /new", "D /bin/ls", "C /bin", "A /made", "A /made/deep", "A /made/deep/file", "C /var", "C /etc",
           "C /etc/group", "C /tmp", "A /tmp/link"}


def changed(daemon: Daemon, name: str, *, running: bool) -> None:
    daemon.docker_cli("run", "-d", "--name", name, BUSYBOX, "sh", "-c", SCRIPT + "touch /tmp/done; exec sleep 600")
    wait_until(lambda: daemon.docker_cli("exec", name, "test", "-e", "/tmp/done", check=False).returncode == 0,
               "it has done its changes")
    daemon.docker_cli("exec", name, "rm", "/tmp/done")
    if not running:
        daemon.docker_cli("stop", "-t", "0", name)


def inspected(daemon: Daemon, image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.docker_cli("image", "inspect", image).stdout)[0]
    return found


@pytest.fixture
def images(daemon: Daemon) -> Any:
    """Removes the images that a test made."""
    with daemon.sdk() as client:
        before = {image.id for image in client.images.list()}
        yield client
        for container in client.containers.list(all=True):
            container.remove(force=True)
        for image in client.images.list():
            if image.id not in before:
                client.images.remove(image.id, force=True)


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_changes_are_told_exported_and_committed(daemon: Daemon, images: Any, running: bool) -> None:
    changed(daemon, "one", running=running)
    assert set(daemon.docker_cli("diff", "one").stdout.decode().splitlines()) == CHANGES
    assert set(daemon.text("diff", "one").splitlines()) == CHANGES
    with tarfile.open(fileobj=io.BytesIO(daemon.docker_cli("export", "one").stdout)) as archive:
        members = {member.name: member for member in archive}
        content = archive.extractfile("new")
        assert content is not None
        assert content.read() == b"new\n"
    assert "bin/busybox" in members
    assert "bin/ls" not in members
    assert (members["made/deep/file"].uid, members["made/deep/file"].gid) == (7, 8)
    image = daemon.docker_cli("commit", "-m", "why", "-a", "who", "one", "committed:1").stdout.decode().strip()
    state = daemon.docker_cli("inspect", "-f", "{{.State.Status}}", "one").stdout.decode().strip()
    assert state == ("running" if running else "exited")
    found = inspected(daemon, "committed:1")
    assert (found["Id"], found["Author"]) == (image, "who")
    assert len(found["RootFS"]["Layers"]) == len(inspected(daemon, BUSYBOX)["RootFS"]["Layers"]) + 1
    output = daemon.docker_cli("run", "--rm", "committed:1", "sh", "-c",
                               "cat /new /etc/group; test -e /bin/ls || echo no ls; find /var; stat -c %u:%g "
                               "/made/deep/file; readlink /tmp/link; hostname > /dev/null && cat /etc/hosts | head -1")
    assert output.stdout.decode().splitlines() == ["new", "own", "no ls", "/var", "7:8", "/new", "127.0.0.1\tlocalhost"]
    steps = daemon.docker_cli("history", "--format", "json", "--no-trunc", "committed:1").stdout.splitlines()
    top = json.loads(steps[0])
    assert (top["Comment"], "sleep 600" in top["CreatedBy"], top["Size"] != "0B") == ("why", True, True)


def test_a_commit_keeps_how_the_container_was_run_and_takes_changes(daemon: Daemon, images: Any) -> None:
    daemon.docker_cli("create", "--name", "conf", "-e", "A=1", "-w", "/tmp", "-l", "k=v", "--expose", "80",
                      "-u", "1000", "--entrypoint", "/bin/sh", "--health-cmd", "true", BUSYBOX, "-c", "true")
    daemon.ctl("commit", "-c", 'ENV B="two words"', "-c", 'CMD ["-c", "echo $A $B; pwd; id -u"]', "-c", "LABEL x=y",
               "conf", "conf:2")
    config = inspected(daemon, "conf:2")["Config"]
    assert config["Entrypoint"] == ["/bin/sh"]
    assert config["Labels"] == {"k": "v", "x": "y"}
    assert list(config["ExposedPorts"]) == ["80/tcp"]
    assert config["Healthcheck"]["Test"] == ["CMD-SHELL", "true"]
    assert daemon.docker_cli("run", "--rm", "conf:2").stdout == b"1 two words\n/tmp\n1000\n"
    with daemon.sdk() as client:
        image = client.containers.get("conf").commit("conf", "3", conf={"Cmd": ["-c", "echo three"], "Env": ["B=3"]})
        assert "A=1" in image.attrs["Config"]["Env"]
        assert "B=3" in image.attrs["Config"]["Env"]
        assert client.containers.run("conf:3", remove=True) == b"three\n"
    daemon.docker_cli("create", "--name", "less", "-e", "B", "conf:2")
    assert "B" not in daemon.docker_cli("inspect", "-f", "{{.Config.Env}}", "less").stdout.decode()
    daemon.docker_cli("commit", "less", "conf:6")
    assert daemon.docker_cli("run", "--rm", "conf:6").stdout == b"1\n/tmp\n1000\n", "its variable was taken away"
    daemon.docker_cli("commit", "-c", 'ENTRYPOINT ["echo"]', "conf", "conf:4")
    assert daemon.docker_cli("run", "--rm", "conf:4").stdout == b"\n"
    bad = daemon.docker_cli("commit", "-c", "RUN x", "conf", "conf:5", check=False)
    assert b"is not a valid change command" in bad.stderr


def test_a_committed_image_travels(daemon: Daemon, images: Any) -> None:
    changed(daemon, "far", running=False)
    daemon.ctl("commit", "far", "travels:1")
    archive = daemon.docker_cli("save", "travels:1", BUSYBOX).stdout
    ident = inspected(daemon, "travels:1")["Id"]
    daemon.docker_cli("rm", "far")
    daemon.docker_cli("rmi", "travels:1")
    assert b"Loaded image: travels:1" in daemon.docker_cli("load", stdin=archive).stdout
    assert inspected(daemon, "travels:1")["Id"] == ident
    assert daemon.docker_cli("run", "--rm", "travels:1", "cat", "/new").stdout == b"new\n"
    rebuilt = daemon.ctl("import", "-", "flat:1", stdin=daemon.docker_cli(
        "export", daemon.docker_cli("create", "travels:1").stdout.decode().strip()).stdout)
    assert rebuilt.returncode == 0
    assert daemon.docker_cli("run", "--rm", "flat:1", "cat", "/new").stdout == b"new\n"


def test_a_commit_holds_the_container_still(daemon: Daemon, images: Any) -> None:
    """Two files that are always equal are equal in the image, too."""
    daemon.docker_cli("run", "-d", "--name", "busy", "--health-cmd", "true", "--health-interval", "100ms",
                      BUSYBOX, "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=48; "
                      "i=0; while :; do i=$((i+1)); for f in /a /b; do echo $i > $f.new; mv $f.new $f; done; done")
    wait_until(lambda: daemon.docker_cli("exec", "busy", "test", "-e", "/b", check=False).returncode == 0, "it counts")
    for _ in range(2):
        daemon.docker_cli("commit", "busy", "still:1")
        a, b = daemon.docker_cli("run", "--rm", "still:1", "sh", "-c", "cat /a; echo; cat /b").stdout.decode().split()
        assert int(a) - int(b) in (0, 1)
    codes = "{{.State.Health.Status}} {{range .State.Health.Log}}{{.ExitCode}}{{end}}"
    found = daemon.docker_cli("inspect", "-f", codes, "busy").stdout
    assert found == b"healthy 00000\n", "a check that cannot run counts as none"
    first = daemon.docker_cli("exec", "busy", "cat", "/a").stdout
    wait_until(lambda: daemon.docker_cli("exec", "busy", "cat", "/a").stdout != first, "it goes on counting")


def test_a_commit_that_ends_with_its_daemon_does_not_leave_the_container_still(make_daemon: Callable[..., Daemon]
                                                                               ) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    daemon.docker_cli("run", "-d", "--name", "busy", BUSYBOX, "sh", "-c",
                      "dd if=/dev/urandom of=/big bs=1M count=128; while :; do date > /now; sleep 0.1; done")
    wait_until(lambda: daemon.docker_cli("exec", "busy", "test", "-e", "/now", check=False).returncode == 0, "it runs")
    commit = daemon.ctl_popen("commit", "busy", "never:1")
    wait_until(lambda: list((daemon.state / "images" / "tmp").iterdir()), "the layer is on its way")
    daemon.kill()
    commit.communicate()
    daemon.start()
    assert daemon.docker_cli("inspect", "-f", "{{.State.Status}}", "busy").stdout == b"running\n"
    assert daemon.docker_cli("exec", "busy", "true").returncode == 0
    assert b"never" not in daemon.docker_cli("images").stdout
    daemon.docker_cli("rm", "-f", "busy")


def test_what_is_not_there_is_an_error(daemon: Daemon) -> None:
    for arguments in (("diff", "absent"), ("export", "absent"), ("commit", "absent", "x:1")):
        done = daemon.docker_cli(*arguments, check=False)
        assert done.returncode == 1
        assert b"No such container: absent" in done.stderr
