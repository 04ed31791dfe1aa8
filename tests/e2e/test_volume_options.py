"""Volumes that are a tmpfs or a directory of the host, and parts of volumes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX

MEMORY = ("-o", "type=tmpfs", "-o", "device=tmpfs")


@pytest.fixture(autouse=True)
def clean(daemon: Daemon) -> Iterator[None]:
    yield
    for listing, removal in ((("ps", "-aq"), ("rm", "-f")), (("volume", "ls", "-q"), ("volume", "rm"))):
        names = daemon.text(*listing).split()
        if names:
            daemon.ctl(*removal, *names)


def run(daemon: Daemon, *options: str, script: str = "") -> str:
    return daemon.text("run", "--rm", *options, BUSYBOX, *(["sh", "-c", script] if script else ["true"]))


def sleeper(daemon: Daemon, name: str, *options: str) -> None:
    daemon.ctl("run", "-d", "--name", name, *options, BUSYBOX, "sleep", "600")


def test_a_tmpfs_is_what_its_options_say(daemon: Daemon) -> None:
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=2m,nr_inodes=50,uid=1000,gid=7,mode=1770,noexec"}
    daemon.ctl("volume", "create", *(word for item in options.items() for word in ("-o", "=".join(item))), "memory")
    [found] = json.loads(daemon.text("volume", "inspect", "memory"))
    assert (found["Options"], found["Driver"]) == (options, "local")
    said = run(daemon, "-v", "memory:/t", script="stat -c %u:%g:%a /t; stat -f -c '%T %b %c' /t; cp /bin/busybox /t/b; "
               "/t/b true 2>&1; dd if=/dev/zero of=/t/f bs=1M count=4 2>&1 | grep -o 'No space'").splitlines()
    assert said[:2] == ["1000:7:1770", "tmpfs 512 50"]
    assert "Permission denied" in said[2]
    assert said[3] == "No space"


def test_a_tmpfs_of_a_container_knows_the_same_options(daemon: Daemon) -> None:
    options = "size=2m,nr_inodes=50,uid=1000,gid=7,mode=1770,noexec"
    sleeper(daemon, "box", "--tmpfs", f"/t:{options}")
    assert daemon.text("exec", "box", "stat", "-c", "%u:%g:%a", "/t") == "1000:7:1770"
    assert daemon.text("exec", "box", "stat", "-f", "-c", "%T %b %c", "/t") == "tmpfs 512 50"
    assert json.loads(daemon.text("inspect", "-f", "{{json .HostConfig.Tmpfs}}", "box")) == {"/t": options}
    refused = daemon.ctl("run", "--rm", "--tmpfs", "/t:uid=4294967295", BUSYBOX, "true", check=False)
    assert b"invalid tmpfs option 'uid=4294967295'" in refused.stderr


def test_what_is_in_a_tmpfs_is_there_as_long_as_somebody_uses_it(daemon: Daemon) -> None:
    """In whichever VM."""
    daemon.ctl("volume", "create", *MEMORY, "memory")
    sleeper(daemon, "first", "-v", "memory:/t")
    daemon.ctl("exec", "first", "sh", "-c", "echo kept >/t/f")
    sleeper(daemon, "second", "-v", "memory:/t")
    assert daemon.text("exec", "second", "cat", "/t/f") == "kept"
    daemon.ctl("rm", "-f", "first")
    assert run(daemon, "-v", "memory:/t:ro", script="cat /t/f; touch /t/g 2>&1 || true").startswith("kept\n")
    daemon.ctl("rm", "-f", "second")
    wait_until(lambda: not daemon.vms(), "nobody has it")
    assert run(daemon, "-v", "memory:/t", script="ls /t") == ""


def test_a_tmpfs_of_one_who_joined_goes_with_him(daemon: Daemon) -> None:
    """Though the VM stays, and as soon as nobody else has it."""
    daemon.ctl("volume", "create", *MEMORY, "memory")
    sleeper(daemon, "host")
    for name in ("one", "two"):
        sleeper(daemon, name, "--network", "container:host", "-v", "memory:/t")
    daemon.ctl("exec", "one", "touch", "/t/f")
    daemon.ctl("stop", "-t", "0", "one")
    daemon.ctl("start", "one")
    assert daemon.text("exec", "one", "ls", "/t") == "f"
    daemon.ctl("stop", "-t", "0", "one", "two")
    daemon.ctl("start", "one")
    assert daemon.text("exec", "one", "ls", "/t") == ""


def test_nothing_of_the_image_is_copied_into_a_tmpfs(daemon: Daemon) -> None:
    """As with Docker, which copies before the start, and lets go of it in between."""
    assert "passwd" in run(daemon, "-v", "disk:/etc", script="ls /etc")
    mount = "type=volume,src=memory,dst=/etc,volume-opt=type=tmpfs,volume-opt=device=tmpfs"
    assert run(daemon, "--mount", mount, script="ls /etc").split() == ["hostname", "hosts", "resolv.conf"]
    [found] = json.loads(daemon.text("volume", "inspect", "memory"))
    assert found["Options"] == {"type": "tmpfs", "device": "tmpfs"}


def test_a_directory_of_the_host_is_a_volume(daemon: Daemon, tmp_path: Path) -> None:
    daemon.ctl("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", f"device={tmp_path}", "data")
    sleeper(daemon, "first", "-v", "data:/d")
    (tmp_path / "f").write_text("host's")
    assert daemon.text("exec", "first", "cat", "/d/f") == "host's"
    both = ("-v", "data:/d", "-v", f"{tmp_path}:/same")
    assert run(daemon, *both, script="echo more >>/d/f; cat /same/f") == "host'smore"
    assert (tmp_path / "f").read_text() == "host'smore\n"
    [found] = json.loads(daemon.text("inspect", "first"))
    assert [(m["Type"], m["Name"], m["Destination"], m["RW"]) for m in found["Mounts"]] == [
        ("volume", "data", "/d", True)]
    assert found["HostConfig"]["Binds"] == ["data:/d"]
    [usage] = [line for line in daemon.text("system", "df").splitlines() if line.startswith("Local Volumes")]
    assert usage.split() == ["Local", "Volumes", "0", "0", "0B", "0B"], "what is the host's is no use of a disk"
    used = daemon.ctl("volume", "rm", "data", check=False)
    assert b"volume is in use" in used.stderr
    daemon.ctl("rm", "-f", "first")
    daemon.ctl("volume", "rm", "data")
    assert (tmp_path / "f").exists(), "the host's files are nobody's to remove"


def test_the_images_files_are_copied_into_an_empty_directory_of_the_host(daemon: Daemon, tmp_path: Path) -> None:
    daemon.ctl("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", f"device={tmp_path}", "data")
    passwd = run(daemon, "-v", "data:/etc", script="cat /etc/passwd")
    assert (tmp_path / "passwd").read_text().strip() == passwd
    (tmp_path / "passwd").write_text("other\n")
    assert run(daemon, "-v", "data:/etc", script="cat /etc/passwd") == "other"


def test_one_that_may_only_be_read(daemon: Daemon, tmp_path: Path) -> None:
    daemon.ctl("volume", "create", "-o", "type=none", "-o", "o=bind,ro", "-o", f"device={tmp_path}", "data")
    refused = daemon.ctl("run", "--rm", "--privileged", "-v", "data:/home", BUSYBOX, "sh", "-c",
                         "mount -o remount,rw /home; touch /home/x", check=False)
    assert b"touch: /home/x: Read-only file system" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_missed_when_it_is_wanted(daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "later"
    daemon.ctl("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", f"device={path}", "data")
    missing = daemon.ctl("run", "--rm", "-v", "data:/d", BUSYBOX, "true", check=False)
    assert f"failed to mount local volume: mount {path}:data: no such file or directory".encode() in missing.stderr
    path.mkdir()
    assert run(daemon, "-v", "data:/d", script="touch /d/f; ls /d") == "f"


def test_a_part_that_is_missing_is_not_made(daemon: Daemon) -> None:
    mount = "type=volume,src=parts,dst=/p,volume-subpath=absent/part"
    refused = daemon.ctl("run", "--rm", "--mount", mount, BUSYBOX, "true", check=False)
    assert b'cannot access path "absent/part" in volume parts: No such file or directory' in refused.stderr
    assert refused.returncode != 0
    assert run(daemon, "-v", "parts:/d", script="ls /d") == ""


@pytest.mark.parametrize("kind", ["own", "served", "host"])
def test_no_link_leads_out_of_a_volume(daemon: Daemon, tmp_path: Path, kind: str) -> None:
    if kind == "host":
        daemon.ctl("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", f"device={tmp_path}", "parts")
    run(daemon, "-v", "parts:/d", script="mkdir -p /d/in/deep; cd /d; ln -s ../.. in/up; ln -s /etc far; "
        "ln -s ../../0 in/side; ln -s in/deep ok")
    if kind == "served":
        sleeper(daemon, "server", "-v", "parts:/d")
    for part in ("in/up", "far", "in/side"):
        refused = daemon.ctl("run", "--rm", "-v", f"{tmp_path}:/beside", "--mount",
                             f"type=volume,src=parts,dst=/p,volume-subpath={part}", BUSYBOX, "true", check=False)
        assert f'path "{part}" escapes from volume'.encode() in refused.stderr
    run(daemon, "--mount", "type=volume,src=parts,dst=/p,volume-subpath=ok", script="touch /p/made")
    assert run(daemon, "-v", "parts:/d", script="ls /d/in/deep") == "made"
