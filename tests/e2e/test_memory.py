"""What a pod's guest frees goes back to the host, while the pod runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX

_MIB = 1 << 20


def resident(pid: int) -> int:
    """Bytes of the host's memory that the process has for itself."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no rollup of {pid}")


def free(daemon: Daemon, name: str) -> int:
    """Bytes of the guest's memory that nobody uses."""
    return int(daemon.text("exec", name, "awk", "/^MemFree/ {print $2}", "/proc/meminfo")) * 1024


def test_memory_that_a_guest_frees_goes_back_to_the_host(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    daemon.ctl("run", "-d", "--name", "greedy", "--shm-size", "300m", BUSYBOX, "sleep", "600")
    [pid] = daemon.vms()
    daemon.ctl("exec", "greedy", "dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=200")
    used = resident(pid)
    assert used > 200 * _MIB
    daemon.ctl("exec", "greedy", "rm", "/dev/shm/x")
    # The guest's kernel tells of free memory every other second.
    wait_until(lambda: resident(pid) < used - 150 * _MIB, "the memory is the host's again")
    assert daemon.text("exec", "greedy", "sh", "-c", "dd if=/dev/zero bs=1M count=200 | tee /dev/shm/x | wc -c"
                       ).endswith(str(200 * _MIB)), "and the guest can have it once more"


def test_a_guest_that_has_little_left_gives_back_what_it_frees_too(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    daemon.ctl("run", "-d", "--name", "full", "--shm-size", "1g", BUSYBOX, "sleep", "600")
    [pid] = daemon.vms()
    keep = free(daemon, "full") // _MIB - 55
    for name, size in (("keep", keep), ("x", 30)):
        daemon.ctl("exec", "full", "dd", "if=/dev/zero", f"of=/dev/shm/{name}", "bs=1M", f"count={size}")
    used = resident(pid)
    daemon.ctl("exec", "full", "rm", "/dev/shm/x")
    wait_until(lambda: resident(pid) < used - 22 * _MIB, "nearly all of the 30 MiB are the host's again", timeout=30)
