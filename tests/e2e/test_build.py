"""docker build with the classic builder: real Dockerfiles, the real CLI, and what comes of them run in VMs."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import PATIENCE_S, Daemon, Output, wait_until
from tests.images import BUSYBOX, SECOND


class Builds:
    """Contexts in a directory, and builds of them."""

    def __init__(self, daemon: Daemon, root: Path) -> None:
        self.daemon = daemon
        self.root = root

    def write(self, **files: str | bytes) -> None:
        """Files of the context; two underscores in a name are a dot, three a slash."""
        for name, content in files.items():
            path = self.root / name.replace("___", "/").replace("__", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def build(self, dockerfile: str, *options: str, check: bool = True) -> Output:
        (self.root / "Dockerfile").write_text(dockerfile.replace("BUSYBOX", BUSYBOX))
        environment = {**self.daemon.environment, "DOCKER_BUILDKIT": "0"}
        done = subprocess.run(["docker", "build", *options, str(self.root)], env=environment, capture_output=True,
                              timeout=120, check=False)
        if check:
            assert done.returncode == 0, done.stdout.decode() + done.stderr.decode() + self.daemon.log_tail()
        return done

    def run(self, image: str, *command: str) -> str:
        return self.daemon.docker_cli("run", "--rm", image, *command).stdout.decode()

    def config(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.daemon.docker_cli("image", "inspect", image).stdout)[0]["Config"]
        return found


@pytest.fixture
def builds(daemon: Daemon, tmp_path: Path) -> Iterator[Builds]:
    with daemon.sdk() as client:
        before = {image.id for image in client.images.list()}
        yield Builds(daemon, tmp_path)
        for container in client.containers.list(all=True):
            container.remove(force=True)
        for image in client.images.list():
            if image.id not in before:
                client.images.remove(image.id, force=True)
    daemon.docker_cli("builder", "prune", "-af")


ALL = r"""
# escape=\
ARG BASE=BUSYBOX
FROM ${BASE} AS first
ARG WHAT=world
ENV GREETING="hello ${WHAT}" OTHER=a\ b
LABEL kind=test "quoted name"="a value"
WORKDIR /work/deep
RUN echo "$GREETING" > greeting && \
    # a comment in between
    echo two >> greeting
RUN ["/bin/sh", "-c", "echo exec >> greeting"]
USER alice
RUN id -un > /tmp/who; pwd >> /tmp/who
USER root
COPY --chown=alice:staff --chmod=640 one.txt sub/ ./copied/
COPY <<END /inline
written in the Dockerfile for ${WHAT}
END
ADD archive.tar /unpacked/
EXPOSE 80 53/udp
VOLUME /data
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=5s CMD true
SHELL ["/bin/busybox", "sh", "-c"]
RUN <<END
echo heredoc
echo 'more $x' > /heredoc
END
MAINTAINER somebody
ENTRYPOINT ["/bin/cat"]
CMD ["greeting"]

FROM scratch AS second
COPY --from=first /bin /bin
COPY --from=first /work/deep/greeting /inline /
CMD ["/bin/cat", "/greeting"]
"""


def test_every_instruction(builds: Builds) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("in/the/archive")
        member.size, member.mode, member.uid = 3, 0o600, 7
        archive.addfile(member, io.BytesIO(b"yes"))
    builds.write(one__txt="one", sub___two__txt="two", sub___skipped="no", __dockerignore="**/skip*\n",
                 archive__tar=packed.getvalue())
    first = builds.build(ALL, "-t", "first:1", "--target", "first", "--build-arg", "WHAT=you", "--label", "more=yes")
    out = first.stdout.decode()
    assert "Step 1/24 : ARG BASE=" in out
    assert "---> Running in" in out
    assert " ---> Removed intermediate container" in out
    assert "Successfully tagged first:1" in out
    assert builds.run("first:1") == "hello you\ntwo\nexec\n"
    script = ("cat /tmp/who /inline /heredoc /unpacked/in/the/archive; cd copied; ls; "
              "stat -c '%n %U:%G %a' one.txt . ; stat -c '%u %a' /unpacked/in/the/archive; echo $OTHER; "
              "stat -c %a /tmp")
    shown = builds.daemon.docker_cli("run", "--rm", "--entrypoint", "sh", "first:1", "-c", script).stdout.decode()
    assert shown.splitlines() == [
        "alice", "/work/deep", "written in the Dockerfile for you", "more $x", "yesone.txt", "two.txt",
        "one.txt alice:staff 640", ". alice:staff 755", "7 600", "a b", "1777"]
    config = builds.config("first:1")
    assert config["Labels"] == {"kind": "test", "quoted name": "a value", "more": "yes"}
    assert config["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    assert config["Volumes"] == {"/data": {}}
    assert (config["StopSignal"], config["User"], config["WorkingDir"]) == ("SIGUSR1", "root", "/work/deep")
    assert config["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000}
    assert (config["Entrypoint"], config["Cmd"]) == (["/bin/cat"], ["greeting"])
    again = builds.build(ALL, "-t", "second:1", "-t", "second:2", "--build-arg", "WHAT=you")
    assert again.stdout.decode().count("Using cache") == 21
    assert builds.run("second:2") == "hello you\ntwo\nexec\n"
    assert builds.run("second:1", "/bin/cat", "/inline") == "written in the Dockerfile for you\n"


def test_a_command_that_fails_fails_the_build(builds: Builds) -> None:
    done = builds.build("FROM BUSYBOX\nRUN echo told; exit 3\n", check=False)
    assert done.returncode == 3
    assert b"told" in done.stdout
    assert b"The command '/bin/sh -c echo told; exit 3' returned a non-zero code: 3" in done.stderr


def test_a_malformed_dockerfile_is_told(builds: Builds) -> None:
    done = builds.build("FROM BUSYBOX\nRUNN echo\n", check=False)
    assert done.returncode == 1
    assert b"dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)" in done.stderr
    done = builds.build("FROM BUSYBOX\nCOPY absent /\n", check=False)
    assert done.returncode == 1
    assert b"COPY failed: file not found in build context or excluded by .dockerignore: stat absent" in done.stderr


def test_output_and_options(builds: Builds) -> None:
    quiet = builds.build("FROM BUSYBOX\nRUN echo loud\n", "-q", "--no-cache")
    assert quiet.stdout.startswith(b"sha256:")
    assert b"loud" not in quiet.stdout
    ident = builds.root / "ident"
    builds.build("FROM BUSYBOX\nRUN echo loud\n", "--iidfile", str(ident))
    assert ident.read_text() == quiet.stdout.decode().strip()
    limited = ("FROM BUSYBOX\nRUN cat /sys/fs/cgroup/memory.max; ls /sys/class/net; df -k /dev/shm | tail -1; "
               "grep extra /etc/hosts; ulimit -n; echo $HTTP_PROXY\n")
    out = builds.build(limited, "--memory", "64m", "--network", "none", "--shm-size", "8m", "--add-host",
                       "extra:10.1.2.3", "--ulimit", "nofile=99:99", "--build-arg", "HTTP_PROXY=http://proxy:1",
                       "--build-arg", "UNUSED=1").stdout.decode()
    assert "\n67108864\n" in out
    assert "eth0" not in out
    assert " 8192 " in out
    assert "10.1.2.3" in out
    assert "\n99\n" in out
    assert "http://proxy:1\n" in out
    assert "[Warning] One or more build-args [UNUSED] were not consumed" in out
    for options, words in ((("--network", "host"), b"networkmode=host is not supported"),
                           (("--security-opt", "seccomp=x"), b"securityopt is not supported"),
                           (("--cgroup-parent", "x"), b"cgroupparent is not supported"),
                           (("--cpuset-cpus", "9999"), b"9999"),
                           (("-t", "BAD"), b"invalid reference format"),
                           (("--target", "absent"), b'target stage "absent" could not be found'),
                           (("--platform", "linux/s390x"), b"s390x")):
        done = builds.build("FROM BUSYBOX\nRUN true\n", *options, check=False)
        assert done.returncode != 0
        assert words in done.stderr, done.stderr


def test_buildkit_is_told_what_to_use(builds: Builds) -> None:
    with builds.daemon.sdk() as client:
        answer = client.api.post(client.api._url("/build"), params={"version": "2"})
        assert answer.status_code == 501
        assert "set DOCKER_BUILDKIT=0" in answer.json()["message"]
        assert client.api.head(client.api._url("/_ping")).headers["Builder-Version"] == "1"


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64, b""])
def test_a_call_of_buildkit_that_is_none_ends(builds: Builds, sent: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(builds.daemon.socket))
        client.sendall(b"POST /grpc HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        said = client.recv(4096)
        assert said.startswith(b"HTTP/1.1 101 "), said
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass
    builds.daemon.ctl("version")


def test_triggers_and_stages_of_others(builds: Builds) -> None:
    builds.write(app__txt="app")
    builds.build("FROM BUSYBOX\nONBUILD COPY app.txt /app\nONBUILD RUN cat /app > /built\n", "-t", "parent:1")
    out = builds.build("FROM parent:1\nFROM scratch\nCOPY --from=0 /built /x\n"
                       "COPY --from=parent:1 /bin/busybox /busybox\n", "-t", "child:1").stdout.decode()
    assert "# Executing 2 build triggers" in out
    assert builds.config("child:1").get("OnBuild") is None
    assert builds.run("child:1", "/busybox", "cat", "/x") == "app"


def test_the_cache_follows_contents_and_arguments(builds: Builds) -> None:
    dockerfile = "FROM BUSYBOX\nARG A=1\nRUN echo $A > /a\nCOPY f /f\nRUN cat /f\n"

    def cached(*options: str) -> int:
        return builds.build(dockerfile, *options).stdout.count(b"Using cache")

    builds.write(f="one")
    cached()
    assert cached() == 4
    (builds.root / "f").touch()
    assert cached() == 4, "a mere time is no change"
    builds.write(f="two")
    assert cached() == 2
    assert cached("--build-arg", "A=2") == 1
    assert cached("--no-cache") == 0
    assert cached() == 4
    df = builds.daemon.docker_cli("system", "df").stdout.decode()
    assert "Build Cache" in df
    builds.daemon.docker_cli("builder", "prune", "-af")
    assert cached() == 0
    assert b"<none>" not in builds.daemon.docker_cli("images", "--filter", "dangling=false").stdout


def test_a_client_that_vanishes_ends_its_build(builds: Builds) -> None:
    (builds.root / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN echo begun; sleep 600\n")
    environment = {**builds.daemon.environment, "DOCKER_BUILDKIT": "0"}
    with subprocess.Popen(["docker", "build", "--no-cache", str(builds.root)], env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert client.stdout is not None
        assert any(line == b"begun\n" for line in client.stdout)
        client.kill()
    daemon = builds.daemon
    wait_until(lambda: not daemon.docker_cli("ps", "-aq").stdout, "the step's container is gone")
    wait_until(lambda: not daemon.vms(), "and its machine")
    assert list((daemon.state / "images/tmp").iterdir()) == []


def test_a_killed_daemon_leaves_nothing_of_a_build(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    first = f"FROM {BUSYBOX}\nRUN echo first > /one\n"
    (tmp_path / "Dockerfile").write_text(f"{first}VOLUME /v\nRUN echo begun; sleep 600\n")
    with daemon.ctl_popen("build", str(tmp_path)) as client:
        assert client.stdout is not None
        assert any(line == b"begun\n" for line in client.stdout)
        daemon.kill()
        assert client.wait() != 0
    daemon.start()
    wait_until(lambda: not daemon.docker_cli("ps", "-aq").stdout, "the step's container is gone")
    wait_until(lambda: not daemon.vms(), "and its machine")
    assert daemon.docker_cli("volume", "ls", "-q").stdout == b""
    assert list((daemon.state / "images/tmp").iterdir()) == []
    assert list((daemon.state / "pods").iterdir()) == []
    # What the first step made is still known.
    (tmp_path / "Dockerfile").write_text(first)
    assert "Using cache" in daemon.text("build", "-t", "kept:1", str(tmp_path))
    assert daemon.text("run", "--rm", "kept:1", "cat", "/one") == "first"
    daemon.stop()


def test_steps_are_taken_over_from_an_image_that_is_named(builds: Builds) -> None:
    dockerfile = "FROM BUSYBOX\nRUN date +%N > /when\nCOPY f /f\nENV A=1\nRUN cat /f > /g\n"
    builds.write(f="one")
    builds.build(dockerfile, "-t", "donor:1")
    when = builds.run("donor:1", "cat", "/when")
    builds.daemon.docker_cli("builder", "prune", "-af")
    out = builds.build(dockerfile, "-t", "made:1", "--cache-from", "donor:1,absent:1").stdout
    assert out.count(b"Using cache") == 4
    assert builds.run("made:1", "cat", "/when") == when
    assert builds.config("made:1")["Env"][-1] == "A=1"
    builds.daemon.docker_cli("builder", "prune", "-af")
    assert builds.build(dockerfile.replace("cat /f", "cat /f /f"), "--cache-from", "made:1").stdout.count(b"Using") == 3


def test_a_step_that_failed_leaves_its_container_to_look_into(builds: Builds) -> None:
    daemon, dockerfile = builds.daemon, "FROM BUSYBOX\nRUN echo seen > /seen\nRUN touch /half && false\n"

    def containers() -> list[str]:
        return daemon.docker_cli("ps", "-aq").stdout.decode().split()

    builds.build(dockerfile, "--no-cache", "--force-rm", check=False)
    assert containers() == []
    builds.build(dockerfile, "--no-cache", check=False)
    [left] = containers()
    assert b"A /half" in daemon.docker_cli("diff", left).stdout
    daemon.docker_cli("rm", left)
    builds.build("FROM BUSYBOX\nRUN touch /kept\n", "--rm=false")
    assert len(containers()) == 1


def test_stdin_and_base_images_that_are_not_here(builds: Builds) -> None:
    daemon = builds.daemon
    environment = {**daemon.environment, "DOCKER_BUILDKIT": "0"}

    def piped(data: bytes, *options: str) -> str:
        return subprocess.run(["docker", "build", *options, "-"], input=data, env=environment, check=True, timeout=120,
                              capture_output=True).stdout.decode()

    out = piped(f"FROM {SECOND}\nFROM {SECOND}\nRUN cat /etc/second\n".encode(), "--pull")
    assert "\nyes\n" in out
    assert "Pull complete" in out or "Already exists" in out
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in (("sub/Own", f"FROM {BUSYBOX}\nCOPY data /data\n"), ("data", "packed")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    piped(packed.getvalue(), "-f", "sub/Own", "-t", "stdin:1")
    assert builds.run("stdin:1", "cat", "/data") == "packed"


def test_the_cache_is_a_project_s(builds: Builds) -> None:
    (builds.root / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN date > /when\n")
    ctl = builds.daemon.ctl
    ctl("build", str(builds.root))
    assert b"Using cache" in ctl("build", str(builds.root)).stdout
    assert b"Using cache" not in ctl("--project", "other", "build", str(builds.root)).stdout
    assert b"Using cache" in ctl("--project", "other", "build", str(builds.root)).stdout
    ctl("--project", "other", "builder", "prune", "-af")
    assert b"Using cache" in ctl("build", str(builds.root)).stdout
