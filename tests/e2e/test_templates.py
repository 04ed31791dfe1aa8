"""Pods that are clones: what differs between them, what they share, and what happens where a template is no good."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.inventory import leaks
from tests.harness import CACHE, Daemon, wait_until
from tests.images import BUSYBOX

SELF = ("cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id;"
        " head -c 16 /dev/urandom | hexdump -e '16/1 \"%02x\"'; echo;"
        " grep stack /proc/self/maps | cut -d' ' -f1; hostname; cat /sys/class/net/eth0/address; date +%s")
"""What must be a clone's own, one a line."""

_LITTLE_BLOCKS = 2048
"""One MiB."""


@pytest.fixture
def defaults(tmp_path: Path) -> tuple[str, str]:
    """The product's settings, however the tests are told to begin their pods."""
    config = tmp_path / "hyperd.toml"
    config.touch()
    return "--config", str(config)


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], defaults: tuple[str, str]) -> Daemon:
    made = make_daemon(*defaults)
    made.start()
    made.ctl("pull", BUSYBOX)
    return made


def clone(daemon: Daemon, name: str, *options: str) -> None:
    """A running pod that is a clone; the first of its class boots, and the template is made beside it."""
    daemon.run_until(daemon.quickest, name, *options, BUSYBOX, "sleep", "600")


def ram_files() -> dict[Path, int]:
    """Templates' RAM, with what it takes on the host."""
    return {path: path.stat().st_blocks for path in (CACHE / "daemon/templates").glob("*/ram")}


def test_clones_have_nothing_of_each_other(daemon: Daemon) -> None:
    found = []
    for name in ("one", "two", "three"):
        clone(daemon, name)
        found.append(daemon.text("exec", name, "sh", "-c", SELF).splitlines())
    *different, clocks = zip(*found, strict=True)
    assert len(different) == 6
    for values in different:
        assert len(set(values)) == 3, values
    assert all(abs(int(clock) - time.time()) < 60 for clock in clocks)


def test_a_clone_has_what_it_was_asked_for(daemon: Daemon) -> None:
    clone(daemon, "small", "-m", "150m", "--hostname", "little", "--tmpfs", "/scratch")
    assert daemon.text("exec", "small", "cat", "/sys/fs/cgroup/memory.max") == str(150 << 20)
    assert daemon.text("exec", "small", "hostname") == "little"
    wrote = daemon.ctl("exec", "small", "sh", "-c", "dd if=/dev/zero of=/file bs=1M count=64 && sync && wc -c < /file")
    assert wrote.stdout.strip() == str(64 << 20).encode()


def test_a_busy_clone_changes_nothing_of_its_template(daemon: Daemon) -> None:
    clone(daemon, "busy")
    before = ram_files()
    daemon.ctl("exec", "busy", "sh", "-c", "head -c 60000000 /dev/urandom > /dev/shm/x")
    daemon.ctl("exec", "busy", "sh", "-c", "head -c 300000000 /dev/zero > /big; cat /big > /dev/null")
    for path, blocks in ram_files().items():
        # The file system's own blocks come and go; the clone touched a hundred times as much.
        assert blocks - before.get(path, blocks) < _LITTLE_BLOCKS, f"{path} has grown"
    clone(daemon, "next")
    assert daemon.text("exec", "next", "echo", "well") == "well"


def test_a_clone_cannot_write_to_its_template(daemon: Daemon) -> None:
    clone(daemon, "confined")
    [pid] = daemon.vms()
    opened = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{number}")
        if "/templates/" in target:
            words = Path(f"/proc/{pid}/fdinfo/{number}").read_text().split()
            opened[target] = int(words[words.index("flags:") + 1], 8) & os.O_ACCMODE
    names = {os.path.basename(target).split()[0] for target in opened}
    assert names == {"ram"}, "QEMU closes the state once it has read it"
    assert set(opened.values()) == {os.O_RDONLY}
    mapped = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/templates/" in line]
    assert mapped
    assert all(fields[1].endswith("p") for fields in mapped), "a mapping of the template is shared"


def test_clones_outlive_the_daemon_and_their_template(daemon: Daemon) -> None:
    clone(daemon, "kept")
    vms = daemon.vms()
    daemon.kill()
    daemon.start()
    assert daemon.vms() == vms
    assert daemon.text("exec", "kept", "echo", "still here") == "still here"
    wait_until(lambda: not leaks(daemon), "nothing is leaked", timeout=60)


def test_a_template_that_is_no_good_is_given_up_and_the_pod_boots(make_daemon: Callable[..., Daemon],
                                                              tmp_path: Path, defaults: tuple[str, str]) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(CACHE / "daemon", cache, ignore=shutil.ignore_patterns("templates", ".*"))
    daemon = make_daemon("--cache-dir", str(cache), *defaults)
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    clone(daemon, "good")
    for state in (cache / "templates").glob("*/state"):
        state.write_bytes(b"QEVM" + bytes(5000))
    for pid in daemon.parents():
        os.kill(pid, signal.SIGKILL)
    daemon.ctl("run", "-d", "--name", "second", BUSYBOX, "sleep", "600")
    assert daemon.origin("second") == "cold"
    assert "is given up" in daemon.log.read_text()
    assert daemon.text("exec", "good", "echo", "unharmed") == "unharmed"
    assert not list((cache / "templates").glob("*/state"))


def test_without_its_parent_a_pod_begins_as_the_template_was_kept(daemon: Daemon) -> None:
    if daemon.quickest != "fork":
        pytest.skip("machines have no parents here")
    clone(daemon, "forked")
    [parent] = daemon.parents()
    os.kill(parent, signal.SIGKILL)
    daemon.ctl("run", "-d", "--name", "next", BUSYBOX, "sleep", "600")
    assert daemon.origin("next") == "template"
    assert daemon.text("exec", "forked", "echo", "unharmed") == "unharmed"
    wait_until(lambda: daemon.parents(), "another parent stands")
    clone(daemon, "again")


def test_without_templates_every_pod_boots(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    settings = tmp_path / "hyperd.toml"
    settings.write_text('[hypervisor]\ntemplates = "off"\n')
    daemon = make_daemon("--config", str(settings))
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    for name in ("one", "two"):
        daemon.ctl("run", "-d", "--name", name, BUSYBOX, "sleep", "600")
        assert daemon.origin(name) == "cold"
