"""How fast a pod's disks are: layers, the writable layer, a volume, a directory of the host; podman beside it."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench import gauge
from bench.bed import IDLE, Bed, Box
from bench.report import Report, say
from bench.samples import Samples

_READ = ("in the guest (or the container): the whole file once, in blocks of 1 MiB; before, the page caches of guest "
         "and host were dropped")
_WRITE = "in the guest (or the container): a new file in blocks of 1 MiB and its fdatasync, until it is on the disk"
_READ_4K = ("in the guest (or the container): 4 KiB from a random place of a file; before, the page caches of guest "
            "and host were dropped")
_WRITE_4K = "in the guest (or the container): 4 KiB at a random place of a file, and its fdatasync"
_CLOCK_CHECK_S = 5.0


@dataclass(frozen=True)
class Place:
    name: str
    path: str
    writable: bool


_PLACES = (Place("layer", gauge.DATA_PATH, writable=False), Place("writable", "/var/file", writable=True),
           Place("volume", "/volume/file", writable=True), Place("bind", "/bind/file", writable=True))


def measure(bed: Bed, mib: int, rounds: int, count: int) -> None:
    """:param mib: size of each file. :param rounds: of throughput. :param count: of single accesses."""
    with tempfile.TemporaryDirectory(prefix="hyperstack-bench-", dir="/var/tmp") as directory:
        _measure(bed, mib, rounds, count, ("bench:/volume", f"{directory}:/bind"))


def _measure(bed: Bed, mib: int, rounds: int, count: int, binds: tuple[str, ...]) -> None:
    gauge.push_image(bed.namespace, bed.gauge, data=os.urandom(mib << 20))
    bed.report.details["file_mib"] = mib
    with bed.daemon(image=gauge.IMAGE) as (_, api):
        ident = api.run(gauge.IMAGE, IDLE, binds=binds)
        bed.report.details["guest's clock over the host's"] = round(clock_ratio(api, ident), 4)
        _box(bed.report, "io.", api, ident, mib, rounds, count)
    podman = bed.podman(image=gauge.IMAGE)
    if podman is None:
        bed.report.leave_out("io.podman_*", reason="no podman with runc")
        return
    _box(bed.report, "io.podman_", podman, podman.run(gauge.IMAGE, IDLE, binds=binds), mib, rounds, count)


def clock_ratio(box: Box, ident: str) -> float:
    """Guest's seconds per second of the host: what the guest measures is only worth as much as its clock."""
    def read() -> tuple[float, int]:
        """Ours, at the middle of the call in which the guest's was read; and the guest's."""
        before = time.monotonic_ns()
        guest = int(box.exec(ident, [gauge.PATH, "clock"]))
        return (before + time.monotonic_ns()) / 2, guest

    began, guest_began = read()
    time.sleep(_CLOCK_CHECK_S)
    ended, guest_ended = read()
    return (guest_ended - guest_began) / (ended - began)


def _box(report: Report, prefix: str, box: Box, ident: str, mib: int, rounds: int, count: int) -> None:
    for place in _PLACES:
        say(f"{prefix}{place.name}")
        name = f"{prefix}{place.name}"
        if place.writable:
            writes = Samples(_WRITE, "MB/s", [
                gauge.mb_per_s(box.exec(ident, [gauge.PATH, "write", place.path, str(mib)])) for _ in range(rounds)])
            report.median(f"{name}_write_mb_s", writes)
        reads = Samples(_READ, "MB/s")
        for _ in range(rounds):
            drop_host_cache()
            reads.values.append(gauge.mb_per_s(box.exec(ident, [gauge.PATH, "read", place.path])))
        report.median(f"{name}_read_mb_s", reads)
        drop_host_cache()
        output = box.exec(ident, [gauge.PATH, "read-latency", place.path, str(count)])
        report.median(f"{name}_read_4k_us", gauge.microseconds(_READ_4K, output))
        if place.writable:
            output = box.exec(ident, [gauge.PATH, "write-latency", place.path, str(count)])
            report.median(f"{name}_write_4k_us", gauge.microseconds(_WRITE_4K, output))


def drop_host_cache() -> None:
    """So that reads reach the disk for pod and container alike: behind a guest's cache there is the host's."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")
