"""hyperctl kernel: what it prints, and what it sends."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli_daemon import Daemon
from tests.unit.cli_process import here


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    served = Daemon(tmp_path)
    yield served
    served.close()


def test_kernels_are_listed_and_chosen(daemon: Daemon) -> None:
    daemon.answers["GET", "/hyperstack/v1/kernels"] = [
        {"name": "debian", "release": "6.1.0", "path": "/k", "format": "vmlinux", "origin": "debian", "default": True,
         "project_default": True, "min_memory_mib": 96, "bytes": 20_500_000, "added_at": 0, "pods": ["web"]}]
    lines = here(daemon, "kernel", "ls").stdout.decode().splitlines()
    assert lines[0].split("  ")[0] == "NAME"
    assert lines[1].split() == ["debian", "6.1.0", "debian", "20.5MB", "96MiB", "host,", "project", "1"]
    assert here(daemon, "kernel", "ls", "-q").stdout == b"debian\n"
    assert here(daemon, "kernel", "ls", "--format", "{{.Format}} {{.Path}}").stdout == b"vmlinux /k\n"
    assert here(daemon, "kernel", "default").stdout == b"debian\n"
    here(daemon, "create", "--kernel", "debian", "busybox")
    body = daemon.asked("POST", "/containers/create").json()
    assert body["HostConfig"]["Annotations"] == {"org.hyperstack.kernel": "debian"}


def test_the_default_kernel_is_chosen_for_the_host_or_a_project(daemon: Daemon) -> None:
    daemon.answers["POST", "/hyperstack/v1/kernels/mine/default"] = None
    daemon.answers["DELETE", "/hyperstack/v1/projects/team/kernel"] = None
    here(daemon, "kernel", "default", "mine")
    assert daemon.asked("POST", "/hyperstack/v1/kernels/mine/default").query == {}
    here(daemon, "kernel", "default", "mine", "--project", "team")
    assert daemon.asked("POST", "/hyperstack/v1/kernels/mine/default").query == {"project": "team"}
    here(daemon, "kernel", "default", "--unset", "--project", "team")
    assert daemon.asked("DELETE", "/hyperstack/v1/projects/team/kernel")
    assert here(daemon, "kernel", "default", "--unset").returncode == 1


def test_an_added_kernel_is_sent_with_its_modules(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-6.1").write_bytes(b"kernel")
    (tmp_path / "boot/config-6.1").write_bytes(b"CONFIG_A=y")
    (tmp_path / "lib/modules/6.1/kernel/fs").mkdir(parents=True)
    (tmp_path / "lib/modules/6.1/kernel/fs/erofs.ko.xz").write_bytes(b"module")
    (tmp_path / "lib/modules/6.1/modules.builtin").write_bytes(b"list")
    daemon.answers["POST", "/hyperstack/v1/kernels"] = {"name": "mine", "release": "6.1", "boot_ms": 1,
                                                        "warnings": ["no IPv6"]}
    done = here(daemon, "kernel", "add", "mine", "--tree", str(tmp_path), "--cmdline", "a=b")
    assert (done.stdout, done.stderr) == (b"mine\n", b"Warning: no IPv6\n")
    asked = daemon.asked("POST", "/hyperstack/v1/kernels")
    assert asked.query == {"name": "mine", "cmdline": "a=b"}
    with tarfile.open(fileobj=io.BytesIO(asked.body)) as tar:
        assert {entry.name: tar.extractfile(entry).read() for entry in tar} == {  # type: ignore[union-attr]
            "image": b"kernel", "config": b"CONFIG_A=y", "modules/erofs.ko.xz": b"module",
            "modules/modules.builtin": b"list"}


@pytest.mark.parametrize("words", [
    (), ("--image", "/nowhere"), ("--tree", "/nowhere"), ("--image", "/bin/ls", "--tree", "/"),
    ("--image", "/bin/ls", "--modules", "/nowhere")])
def test_what_cannot_be_sent_is_told(daemon: Daemon, words: tuple[str, ...]) -> None:
    done = here(daemon, "kernel", "add", "mine", *words)
    assert done.returncode == 1
    assert done.stderr


def test_the_build_is_shown_and_its_kernel_named(daemon: Daemon) -> None:
    daemon.answers["POST", "/hyperstack/v1/kernels/build"] = "".join(json.dumps(line) + "\r\n" for line in (
        {"status": "Unpacking"}, {"status": "Compiling", "progressDetail": {"current": 1, "total": 2}},
        {"status": "Compiling", "progressDetail": {"current": 2, "total": 2}},
        {"status": "Done", "aux": {"name": "ours"}})).encode()
    done = here(daemon, "kernel", "build")
    assert (done.stdout, done.stderr) == (b"ours\n", b"Unpacking\nCompiling\nDone\n")
    assert here(daemon, "kernel", "build", "-q").stderr == b""
    daemon.answers["POST", "/hyperstack/v1/kernels/build"] = b'{"status":"Compiling"}\r\n{"error":"no gcc"}\r\n'
    done = here(daemon, "kernel", "build")
    assert (done.returncode, done.stdout, b"no gcc" in done.stderr) == (1, b"", True)
