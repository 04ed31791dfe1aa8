"""What an idle pod costs the host in memory, and what the daemon costs that watches a hundred of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import proc, vmm
from bench.api import Api
from bench.bed import IDLE, Bed, warm_up
from bench.plain_qemu import MEMORY_MIB, PlainQemu
from bench.podman import Podman
from bench.report import say
from bench.samples import Samples
from tests.harness import CACHE, Daemon
from tests.images import BUSYBOX

_POD = "PSS of the pod's one host process (/proc/PID/smaps_rollup); busybox's sleep in it, a NIC, a writable disk"
_CONTAINER = "PSS of the container's process and of its conmon; busybox's sleep in it, the default network"
_PLAIN = f"PSS of a plain QEMU with {MEMORY_MIB} MiB, the same kernel and an init that waits; no disk, no NIC"
_SETTLE_S = 10.0
"""For guests to end what they do after a boot."""
_PEERS = 5
_MIB = 1 << 10
"""In the KiB that /proc counts."""


def measure(bed: Bed, pods: int, crowd: int, idle_s: int) -> None:
    """:param pods: whose PSS is taken. :param crowd: how many the daemon watches when its own cost is."""
    with bed.daemon() as (daemon, api):
        bed.report.details["pods come from"] = warm_up(api) or "cold"
        say(f"starting {pods} pods")
        idents = [api.run(BUSYBOX, IDLE) for _ in range(pods)]
        time.sleep(_SETTLE_S)
        _pods(bed, daemon)
        _daemon(bed, daemon, api, idents, crowd, idle_s)
        kernel = api.pod_of(idents[0])["kernel"] or _default_kernel(api)
    _podman(bed)
    _plain(bed, kernel)
    bed.report.ratio("memory.vs_podman", "memory.idle_pod_mib", "memory.podman_mib")
    bed.report.ratio("memory.vs_plain_qemu", "memory.idle_pod_mib", "memory.plain_qemu_mib")


def _pods(bed: Bed, daemon: Daemon) -> None:
    vms = sorted(daemon.vms())
    costs = Samples(_POD, "MiB", [proc.pss(pid) / _MIB for pid in vms])
    bed.report.mean("memory.idle_pod_mib", costs)
    parts = [proc.breakdown(proc.smaps(pid)) for pid in vms]
    bed.report.details["idle pod by mapping, mean MiB"] = {
        name: round(sum(part[name] for part in parts) / len(parts) / _MIB, 2) for name in proc.CATEGORIES}
    bed.report.details["largest mappings of one idle pod"] = _largest(vms[0])
    # The kernel's memory for a process is in no PSS.
    bed.report.details["idle pod's page tables, mean MiB"] = round(
        sum(proc.status(pid, "VmPTE") for pid in vms) / len(vms) / _MIB, 2)
    bed.report.details["idle pod's threads"] = len(list(Path(f"/proc/{vms[0]}/task").iterdir()))


def _largest(pid: int, count: int = 12) -> list[dict[str, object]]:
    found = sorted(proc.smaps(pid), key=lambda mapping: -mapping.pss)[:count]
    return [{"name": mapping.name or "anonymous", "permissions": mapping.permissions,
             "size_mib": round(mapping.size / _MIB, 1), "rss_mib": round(mapping.rss / _MIB, 2),
             "pss_mib": round(mapping.pss / _MIB, 2)} for mapping in found]


def _daemon(bed: Bed, daemon: Daemon, api: Api, idents: Sequence[str], crowd: int, idle_s: int) -> None:
    """The figures bear the number of pods in their names, so that those of a smaller crowd are not taken for it."""
    for number in range(len(idents), crowd):
        say(f"pod {number + 1} of {crowd}")
        api.run(BUSYBOX, IDLE)
    time.sleep(_SETTLE_S)
    crowd = len(daemon.vms())
    bed.report.figures[f"memory.hyperd_mb_at_{crowd}"] = round(daemon.rss_bytes() / 1e6, 1)
    say(f"watching an idle daemon for {idle_s} s")
    before, began = proc.cpu_s(daemon.pid), time.monotonic()
    time.sleep(idle_s)
    percent = 100 * (proc.cpu_s(daemon.pid) - before) / (time.monotonic() - began)
    bed.report.figures["cpu.hyperd_idle_percent"] = round(percent, 2)
    bed.report.details["cpu.hyperd_idle_percent"] = {
        "clock": f"processor time of hyperd and its threads over {idle_s} s beside {crowd} idle pods; 100 is one "
                 "processor", "pods": crowd}
    vms = daemon.vms()
    began_cpu = {pid: proc.cpu_s(pid) for pid in vms}
    time.sleep(min(idle_s, _SETTLE_S))
    spent = sum(proc.cpu_s(pid) - began_cpu[pid] for pid in vms)
    bed.report.figures["cpu.idle_pod_percent"] = round(100 * spent / min(idle_s, _SETTLE_S) / len(vms), 3)


def _default_kernel(api: Api) -> str:
    return next(str(one["name"]) for one in api.ask("GET", "/hyperstack/v1/kernels") if one["default"])


def _podman(bed: Bed) -> None:
    podman = bed.podman()
    if podman is None:
        bed.report.leave_out("memory.podman_mib", reason="no podman with runc")
        return
    with _containers(podman) as idents:
        costs = [sum(proc.pss(pid) for pid in podman.pids(ident)) / _MIB for ident in idents]
    bed.report.mean("memory.podman_mib", Samples(_CONTAINER, "MiB", costs), digits=2)


@contextlib.contextmanager
def _containers(podman: Podman) -> Iterator[list[str]]:
    try:
        yield [podman.run(BUSYBOX, IDLE) for _ in range(_PEERS)]
    finally:
        podman.remove_all()


def _plain(bed: Bed, kernel: str) -> None:
    image = vmm.kernel(CACHE / "daemon", kernel).image
    costs = Samples(_PLAIN, "MiB")
    with PlainQemu(image, bed.gauge, bed.directory, bed.accelerator) as machine:
        time.sleep(_SETTLE_S)
        costs.values.append(proc.pss(machine.pid) / _MIB)
        bed.report.details["plain QEMU by mapping, MiB"] = {
            name: round(size / _MIB, 2) for name, size in proc.breakdown(proc.smaps(machine.pid)).items()}
    bed.report.mean("memory.plain_qemu_mib", costs)
