"""One volume in several VMs at once."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX


@pytest.fixture
def volume(daemon: Daemon) -> Iterator[str]:
    """The name of one that goes with the test."""
    yield "common"
    containers = daemon.text("ps", "-aq").split()
    if containers:
        daemon.ctl("rm", "-f", *containers)
    daemon.ctl("volume", "rm", "common")


def sleeper(daemon: Daemon, name: str, *options: str) -> None:
    daemon.ctl("run", "-d", "--name", name, *options, BUSYBOX, "sleep", "600")


def settled(daemon: Daemon, count: int) -> None:
    wait_until(lambda: len(daemon.vms()) == count, f"{count} VMs are left")


def test_both_see_what_the_other_writes(daemon: Daemon, volume: str) -> None:
    sleeper(daemon, "first", "-v", f"{volume}:/d")
    sleeper(daemon, "second", "-v", f"{volume}:/d")
    for writer, reader in (("first", "second"), ("second", "first")):
        daemon.ctl("exec", writer, "sh", "-c", f"echo by {writer} >/d/f; mkdir /d/{writer}")
        assert daemon.text("exec", reader, "cat", "/d/f") == f"by {writer}"
    assert daemon.text("exec", "second", "ls", "/d").split() == ["f", "first", "second"]


def test_large_files_are_whole_on_both_sides(daemon: Daemon, volume: str) -> None:
    """Their data goes by memory that the two VMs have in common, and no other."""
    for name in ("first", "second", "third"):
        sleeper(daemon, name, "-v", f"{volume}:/d")
    daemon.ctl("exec", "first", "sh", "-c", "dd if=/dev/urandom of=/d/f bs=999999 count=7")
    digest = daemon.text("exec", "first", "sha256sum", "/d/f")
    for name in ("second", "third"):
        assert daemon.text("exec", name, "sha256sum", "/d/f") == digest
        # Blocks that are no multiple of anything, from both sides of a place's size, into a file that is there.
        daemon.ctl("exec", name, "sh", "-c", "dd if=/d/f of=/d/g bs=5001; dd if=/d/f of=/d/g bs=300001 conv=notrunc; "
                                             "tail -c 3000000 /d/f >>/d/g; truncate -s 6999993 /d/g; sync")
        for reader in ("first", "second", "third"):
            assert daemon.text("exec", reader, "sh", "-c", "sha256sum </d/g").split()[0] == digest.split()[0]
    held = {pid: memory(pid) for pid in daemon.vms()}
    pairs = [one & other for one, other in itertools.combinations(held.values(), 2)]
    assert sorted(map(len, pairs)) == [0, 1, 1], "each client has one with the server, and none with the other"
    daemon.ctl("restart", "-t", "0", "second")
    assert daemon.text("exec", "second", "sha256sum", "/d/f") == digest
    daemon.ctl("rm", "-f", "second", "third")
    settled(daemon, 1)
    wait_until(lambda: not any(memory(pid) for pid in daemon.vms()), "the server has let go of it")
    assert daemon.text("exec", "first", "sha256sum", "/d/f") == digest


def test_many_at_once_read_and_write(daemon: Daemon, volume: str) -> None:
    """More than there are places."""
    for name in ("first", "second"):
        sleeper(daemon, name, "-v", f"{volume}:/d")
    one = "dd if=/dev/urandom of=/d/$n bs=700001 count=3; cat /d/$n | sha256sum >/d/$n.sum"
    daemon.ctl("exec", "second", "sh", "-c", f"for n in $(seq 12); do ({one}) & done; wait; sync")
    check = 'for n in $(seq 12); do test "$(sha256sum </d/$n)" = "$(cat /d/$n.sum)" && echo $n & done; wait'
    for name in ("first", "second"):
        good = daemon.text("exec", name, "sh", "-c", check).split()
        assert sorted(good, key=int) == [str(number) for number in range(1, 13)]


def memory(pid: int) -> set[int]:
    """Inodes of what a VM has in common with others for that."""
    return {file.stat().st_ino for file in Path(f"/proc/{pid}/fd").iterdir()
            if os.readlink(file).startswith("/memfd:shared")}


def test_one_that_may_only_read_reads(daemon: Daemon, volume: str) -> None:
    """Whether it has the disk or is served."""
    sleeper(daemon, "reader", "-v", f"{volume}:/d:ro")
    sleeper(daemon, "writer", "-v", f"{volume}:/d")
    sleeper(daemon, "late", "-v", f"{volume}:/d:ro")
    daemon.ctl("exec", "writer", "sh", "-c", "echo text >/d/f")
    for name in ("reader", "late"):
        assert daemon.text("exec", name, "cat", "/d/f") == "text"
        refused = daemon.ctl("exec", name, "touch", "/d/mine", check=False)
        assert b"Read-only file system" in refused.stderr


def test_who_has_the_disk_may_stop_and_start_and_go(daemon: Daemon, volume: str) -> None:
    sleeper(daemon, "first", "-v", f"{volume}:/d")
    sleeper(daemon, "second", "-v", f"{volume}:/d")
    daemon.ctl("exec", "first", "sh", "-c", "echo kept >/d/f")
    daemon.ctl("stop", "-t", "0", "first")
    assert daemon.text("exec", "second", "cat", "/d/f") == "kept"
    daemon.ctl("start", "first")
    assert daemon.text("exec", "first", "cat", "/d/f") == "kept"
    daemon.ctl("rm", "-f", "first")
    daemon.ctl("exec", "second", "sh", "-c", "echo more >>/d/f")
    sleeper(daemon, "first", "-v", f"{volume}:/d")  # its name is free again
    assert daemon.text("exec", "first", "cat", "/d/f").split() == ["kept", "more"]
    daemon.ctl("rm", "-f", "second", "first")
    settled(daemon, 0)
    assert daemon.text("pod", "ls", "-q") == ""
    assert daemon.text("run", "--rm", "-v", f"{volume}:/d", BUSYBOX, "cat", "/d/f").split() == ["kept", "more"]


def test_a_killed_daemon_changes_nothing(daemon: Daemon, volume: str) -> None:
    sleeper(daemon, "first", "-v", f"{volume}:/d")
    sleeper(daemon, "second", "-v", f"{volume}:/d")
    daemon.ctl("rm", "-f", "first")
    daemon.kill()
    daemon.start()
    daemon.ctl("exec", "second", "sh", "-c", "echo after >/d/f")
    sleeper(daemon, "third", "-v", f"{volume}:/d")
    assert daemon.text("exec", "third", "cat", "/d/f") == "after"
    daemon.ctl("rm", "-f", "second", "third")
    settled(daemon, 0)


def test_all_that_start_at_once_have_it(daemon: Daemon, volume: str) -> None:
    """And each of two has what the other has, too."""
    names = [f"at-once-{number}" for number in range(4)]
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda name: sleeper(daemon, name, "-v", f"{volume}:/d"), names))
    for name in names:
        daemon.ctl("exec", name, "touch", f"/d/{name}")
    assert daemon.text("exec", names[-1], "ls", "/d").split() == names


def test_all_that_join_running_vms_at_once_have_it(daemon: Daemon, volume: str) -> None:
    """There is a moment in which a VM is to have the disk and has not mounted it."""
    hosts = ("one", "two", "three")
    for host in hosts:
        sleeper(daemon, host)
    names = [f"in-{host}" for host in hosts]
    for _ in range(3):
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda host: sleeper(daemon, f"in-{host}", "--network", f"container:{host}",
                                               "-v", f"{volume}:/d"), hosts))
        daemon.ctl("exec", names[0], "sh", "-c", "echo $(hostname) >/d/f")
        assert len({daemon.text("exec", name, "cat", "/d/f") for name in names}) == 1
        daemon.ctl("rm", "-f", *names)


def test_a_running_vm_that_cannot_have_it_leaves_it_to_others(daemon: Daemon, volume: str) -> None:
    sleeper(daemon, "host")
    before = set(daemon.state.glob("volumes/*"))
    daemon.ctl("volume", "create", volume)
    [disk] = set(daemon.state.glob("volumes/*")) - before
    away = disk.rename(disk.with_name("away"))
    refused = daemon.ctl("run", "-d", "--name", "in", "--network", "container:host", "-v", f"{volume}:/d", BUSYBOX,
                         "sleep", "600", check=False)
    assert refused.returncode != 0
    away.rename(disk)
    sleeper(daemon, "other", "-v", f"{volume}:/d")
    daemon.ctl("exec", "other", "touch", "/d/f")
    daemon.ctl("start", "in")
    assert daemon.text("exec", "in", "ls", "/d") == "f"


def test_a_daemon_that_dies_meanwhile_leaves_it_to_others(daemon: Daemon, volume: str) -> None:
    sleeper(daemon, "host")
    [vm] = daemon.vms()
    daemon.ctl("create", "--name", "in", "--network", "container:host", "-v", f"{volume}:/d", BUSYBOX, "sleep", "600")
    os.kill(vm, signal.SIGSTOP)  # so that it cannot be given the disk
    with ThreadPoolExecutor() as threads:
        start = threads.submit(daemon.ctl, "start", "in", check=False)
        wait_until(lambda: any(pod.get("owned") for pod in daemon.pod_records()), "it is to have the volume")
        daemon.kill()
        assert start.result().returncode != 0
    os.kill(vm, signal.SIGCONT)
    daemon.start()
    sleeper(daemon, "other", "-v", f"{volume}:/d")
    daemon.ctl("exec", "other", "touch", "/d/f")
    daemon.ctl("start", "in")
    assert daemon.text("exec", "in", "ls", "/d") == "f"


def test_the_size_holds_for_all(daemon: Daemon, volume: str) -> None:
    daemon.ctl("volume", "create", "-o", "size=32m", volume)
    sleeper(daemon, "first", "-v", f"{volume}:/d")
    full = daemon.ctl("run", "--rm", "-v", f"{volume}:/d", BUSYBOX, "dd", "if=/dev/zero", "of=/d/f", "bs=1M",
                      "count=64", check=False)
    assert b"No space left on device" in full.stderr


def test_what_an_image_has_is_copied_into_an_empty_one(daemon: Daemon, volume: str) -> None:
    sleeper(daemon, "first", "-v", f"{volume}:/elsewhere")
    found = daemon.text("run", "--rm", "-v", f"{volume}:/etc", BUSYBOX, "cat", "/etc/passwd")
    assert found == daemon.text("exec", "first", "cat", "/elsewhere/passwd")
    assert "alice" in found


def test_a_vm_that_served_and_died_is_not_waited_for(daemon: Daemon, volume: str) -> None:
    sleeper(daemon, "first", "-v", f"{volume}:/d")
    sleeper(daemon, "second", "-v", f"{volume}:/d")
    daemon.ctl("exec", "first", "sh", "-c", "echo safe >/d/f; sync")
    [pod] = json.loads(daemon.text("inspect", "first"))
    [pid] = [pid for pid, owner in daemon.vms().items() if owner == pod["HyperStack"]["Pod"]]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: json.loads(daemon.text("inspect", "first"))[0]["State"]["Status"] == "exited", "it is noticed")
    lost = daemon.ctl("exec", "second", "cat", "/d/f", check=False)
    assert lost.returncode != 0
    daemon.ctl("restart", "-t", "0", "second")
    assert daemon.text("exec", "second", "cat", "/d/f") == "safe"


def test_volumes_from_another_container(daemon: Daemon, volume: str, tmp_path: Path) -> None:
    """Volumes, anonymous ones too, and binds; where there is nothing else."""
    sleeper(daemon, "donor", "-v", f"{volume}:/named", "-v", "/anonymous", "-v", f"{tmp_path}:/host", "--tmpfs", "/own")
    daemon.ctl("exec", "donor", "sh", "-c", "for d in named anonymous host own; do echo $d >/$d/f; done")
    said = daemon.text("run", "--rm", "--volumes-from", "donor:ro", "--tmpfs", "/host", BUSYBOX, "sh", "-c",
                       "cat /named/f /anonymous/f; ls /host; ls -d /own; touch /named/g 2>&1; true")
    assert said.split()[:2] == ["named", "anonymous"]
    assert "Read-only file system" in said
    assert "/own" not in said
    assert "\nf" not in said
    assert daemon.text("exec", "donor", "cat", "/anonymous/f") == "anonymous"
    absent = daemon.ctl("run", "--rm", "--volumes-from", "nobody", BUSYBOX, "true", check=False)
    assert b"No such container: nobody" in absent.stderr


def test_a_part_of_a_volume(daemon: Daemon, volume: str) -> None:
    """Whether this VM has the disk or is served."""
    daemon.ctl("run", "--rm", "-v", f"{volume}:/d", BUSYBOX, "sh", "-c", "mkdir -p /d/part/in; echo deep >/d/part/in/f")
    for name in ("first", "second"):
        sleeper(daemon, name, "--mount", f"type=volume,src={volume},dst=/p,volume-subpath=part")
        assert daemon.text("exec", name, "cat", "/p/in/f") == "deep"
    refused = daemon.ctl("create", "--mount", f"type=volume,src={volume},dst=/p,volume-subpath=../x", BUSYBOX,
                         check=False)
    assert b"must be a relative path within the volume" in refused.stderr


def test_a_mount_says_what_its_volume_is_made_with(daemon: Daemon, volume: str) -> None:
    daemon.ctl("run", "--rm", "--mount", f"type=volume,src={volume},dst=/p,volume-opt=size=32m,volume-label=a=b",
               BUSYBOX, "true")
    [found] = json.loads(daemon.text("volume", "inspect", volume))
    assert (found["Options"], found["Labels"]) == ({"size": "32m"}, {"a": "b"})
