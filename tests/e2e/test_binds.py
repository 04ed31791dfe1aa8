"""Directories and files of the host in containers."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A directory with a secret beside it."""
    (tmp_path / "secret").write_text("nobody's")
    directory = tmp_path / "share"
    directory.mkdir(mode=0o755)
    (directory / "greeting").write_text("hello\n")
    return directory


def test_a_directory_is_read_and_written_from_both_sides(daemon: Daemon, share: Path) -> None:
    said = daemon.text("run", "--rm", "-v", f"{share}:/s", BUSYBOX, "sh", "-c",
                       "cat /s/greeting; mkdir /s/made; echo back >/s/made/answer; stat -c %u:%g:%a /s/made/answer")
    assert said.split() == ["hello", "0:0:644"]
    assert (share / "made/answer").read_text() == "back\n"
    assert (share / "made/answer").stat().st_uid == 0


def test_what_the_host_changes_is_seen_at_once(daemon: Daemon, share: Path) -> None:
    daemon.ctl("run", "-d", "--name", "watcher", "-v", f"{share}:/s", BUSYBOX, "sleep", "600")
    assert daemon.text("exec", "watcher", "cat", "/s/greeting") == "hello"
    for text in ("longer than before", "less"):
        (share / "greeting").write_text(text)
        assert daemon.text("exec", "watcher", "cat", "/s/greeting") == text
        (share / "other").write_text(text * 2)
        (share / "other").rename(share / "greeting")
        assert daemon.text("exec", "watcher", "cat", "/s/greeting") == text * 2
    (share / "greeting").unlink()
    assert daemon.text("exec", "watcher", "ls", "/s") == ""


def test_a_file_is_bound_over_the_images_and_read_only(daemon: Daemon, share: Path) -> None:
    done = daemon.ctl("run", "--rm", "-v", f"{share / 'greeting'}:/etc/passwd:ro", BUSYBOX, "sh", "-c",
                      "cat /etc/passwd; echo x >/etc/passwd", check=False)
    assert (done.stdout, done.returncode) == (b"hello\n", 1)
    assert b"Read-only file system" in done.stderr
    assert (share / "greeting").read_text() == "hello\n"


def test_files_belong_to_whom_the_container_says(daemon: Daemon, share: Path) -> None:
    share.chmod(0o777)
    daemon.ctl("run", "--rm", "-u", "1234:77", "-v", f"{share}:/s", BUSYBOX, "touch", "/s/mine")
    assert ((share / "mine").stat().st_uid, (share / "mine").stat().st_gid) == (1234, 77)
    (share / "locked").write_text("root's")
    (share / "locked").chmod(0o600)
    refused = daemon.ctl("run", "--rm", "-u", "1234", "-v", f"{share}:/s", BUSYBOX, "cat", "/s/locked", check=False)
    assert b"Permission denied" in refused.stderr
    daemon.ctl("run", "--rm", "-v", f"{share}:/s", BUSYBOX, "chown", "5:6", "/s/locked")
    assert (share / "locked").stat().st_uid == 5


def test_nothing_beside_the_share_can_be_reached(daemon: Daemon, share: Path) -> None:
    """Links are the container's own to follow, and a device in the share is no device."""
    (share / "up").symlink_to("../secret")
    (share / "far").symlink_to(share.parent / "secret")
    os.mknod(share / "zero", 0o20666, os.makedev(1, 5))
    said = daemon.ctl("run", "--rm", "--privileged", "-v", f"{share}:/s", BUSYBOX, "sh", "-c",
                      "cat /s/up; cat /s/far; ls /s/..; head -c1 /s/zero; mknod /s/null c 1 3; ls /s",
                      check=False)
    assert b"nobody's" not in said.stdout
    assert b"secret" not in said.stdout
    assert b"can't open '/s/up'" in said.stderr
    assert b"/s/zero" in said.stderr
    assert b"mknod: /s/null: Operation not permitted" in said.stderr


def test_a_missing_source_is_made_for_v_and_refused_for_mount(daemon: Daemon, share: Path) -> None:
    refused = daemon.ctl("run", "--rm", "--mount", f"type=bind,src={share}/absent,dst=/s", BUSYBOX, "true", check=False)
    assert f"bind source path does not exist: {share}/absent".encode() in refused.stderr
    assert not (share / "absent").exists()
    daemon.ctl("run", "--rm", "-v", f"{share}/absent/below:/s", BUSYBOX, "touch", "/s/made")
    assert (share / "absent/below/made").exists()


def test_a_large_file_is_read_as_it_is(daemon: Daemon, share: Path) -> None:
    """In pieces of any size; by two containers of one VM, of which one begins anew."""
    content = os.urandom((3 << 20) + 12345)
    (share / "large").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    for name, network in (("first", "bridge"), ("second", "container:first")):
        daemon.ctl("run", "-d", "--name", name, "--network", network, "-v", f"{share}:/s", BUSYBOX, "sleep", "600")
    daemon.ctl("restart", "-t", "0", "second")
    for name, sizes in (("first", ("1048576", "100003")), ("second", ("4097",))):
        for size in sizes:
            said = daemon.text("exec", name, "sh", "-c", f"echo 3 >/proc/sys/vm/drop_caches 2>/dev/null; "
                               f"dd if=/s/large bs={size} 2>/dev/null | sha256sum")
            assert said.split()[0] == expected
            (share / "large").write_bytes(content)  # so that nothing that is cached holds
    daemon.ctl("rm", "-f", "second", "first")


def test_inspect_shows_them_as_docker_does(daemon: Daemon, share: Path) -> None:
    daemon.ctl("create", "--name", "bound", "-v", f"{share}:/a:ro", "--mount", f"type=bind,src={share},dst=/b", BUSYBOX)
    [found] = json.loads(daemon.text("inspect", "bound"))
    assert sorted(found["Mounts"], key=lambda mount: str(mount["Destination"])) == [
        {"Type": "bind", "Source": str(share), "Destination": "/a", "Mode": "ro", "RW": False,
         "Propagation": "rprivate"},
        {"Type": "bind", "Source": str(share), "Destination": "/b", "Mode": "", "RW": True, "Propagation": "rprivate"}]
    assert found["HostConfig"]["Binds"] == [f"{share}:/a:ro"]


def test_a_restarted_container_and_a_killed_daemon_find_them_again(daemon: Daemon, share: Path) -> None:
    daemon.ctl("run", "-d", "--name", "kept", "-v", f"{share}:/s", BUSYBOX, "sleep", "600")
    daemon.kill()
    daemon.start()
    assert daemon.text("exec", "kept", "cat", "/s/greeting") == "hello"
    daemon.ctl("restart", "-t", "0", "kept")
    assert daemon.text("exec", "kept", "cat", "/s/greeting") == "hello"
    daemon.ctl("rm", "-f", "kept")
    wait_until(lambda: not [group for group in daemon.cgroups() if group.name == "helpers"], "no helper is left")
