"""How long a start takes: from the API's create to the command's first output byte, and its parts, beside the peers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from bench import vmm
from bench.api import Api
from bench.bed import Bed, origin, warm_up
from bench.plain_qemu import PlainQemu
from bench.podman import Podman
from bench.report import Report, say
from bench.samples import Samples
from hyperstack.pod.errors import HyperStackError
from tests.harness import CACHE
from tests.images import BUSYBOX

COMMAND = ["/bin/echo", "hi"]
_OUR_CLOCK = ("API: before POST /containers/create, on an open connection; until the first byte of the output on an "
              "attached stream")
_PEER_CLOCK = "CLI: before the podman process is started; until the first byte of its standard output"
_PLAIN_CLOCK = "before qemu-system-x86_64 is started; until the first word of its init arrives from the serial console"
_PEERS = {"runc": "start.podman_ms", "crun": "start.podman_crun_ms"}
_TEMPLATES_OFF = 'templates = "off"\n'
_POOL_ON = "[pool]\nsize = 2\n"
_CACHE = CACHE / "daemon"
_REFILL_S = 2.0
"""Pause before each sample of the pool, for the daemon to put in what was taken."""


@dataclass(frozen=True)
class Kernels:
    """Names in the daemon's store; empty where there is none."""

    ours: str
    debian: str

    @classmethod
    def ask(cls, api: Api) -> Kernels:
        names = [one["name"] for one in api.ask("GET", "/hyperstack/v1/kernels")]
        default = next(one["name"] for one in api.ask("GET", "/hyperstack/v1/kernels") if one["default"])
        debian = next((name for name in names if name.startswith("debian-")), "")
        return cls("" if default.startswith("debian-") else default, debian)


def measure(bed: Bed, samples: int) -> None:
    report = bed.report
    report.details |= {"image": BUSYBOX, "command": COMMAND}
    podmans = {name: podman for name in _PEERS if (podman := bed.podman(name))}
    with bed.daemon() as (_, api):
        kernels = Kernels.ask(api)
        report.details["kernels"] = {"ours": kernels.ours or "absent", "debian": kernels.debian or "absent"}
        kind = _with_default_kernel(api, report, kernels, podmans, samples)
        if kind == "template" and kernels.ours and kernels.debian:
            _with_debian(api, report, kernels.debian, samples)
    if kind == "template":
        _cold(bed, samples)
    _pool(bed, samples)
    _bare(bed, kernels, samples)
    ours = "start.template_ms" if "start.template_ms" in report.figures else "start.cold_run_ms"
    report.details["start.vs_podman"] = f"{ours} / {_PEERS['runc']}"
    report.ratio("start.vs_podman", ours, _PEERS["runc"])
    report.ratio("start.vs_podman_crun", ours, _PEERS["crun"])


def _with_default_kernel(api: Api, report: Report, kernels: Kernels, podmans: Mapping[str, Podman],
                         samples: int) -> str:
    """What the daemon starts pods from when nothing is said; ours and the peers' runs take turns, so that all of them
    meet the same host."""
    kind = warm_up(api)
    found, peers = _runs(api, podmans, samples)
    for name, series in peers.items():
        report.median(_PEERS[name], series)
    if kind == "template":
        report.median("start.template_ms" if kernels.ours else "start.template_debian_ms", found["template"])
        if not kernels.ours:
            report.leave_out("start.template_ms", reason="the default kernel is Debian's: build ours first")
        if found.keys() - {"template"}:
            report.details["fallbacks"] = {name: len(series.values) for name, series in found.items()}
    else:
        report.median("start.cold_run_ms", next(iter(found.values())))
        report.leave_out("start.template_ms", "start.template_debian_ms",
                         reason=f"the daemon starts no pod from a template (it says {kind!r})")
    return kind


def _with_debian(api: Api, report: Report, kernel: str, samples: int) -> None:
    kind = warm_up(api, kernel=kernel)
    found, _ = _runs(api, {}, samples, kernel=kernel)
    if "template" in found:
        report.median("start.template_debian_ms", found["template"])
    else:
        report.leave_out("start.template_debian_ms", reason=f"no template of {kernel}: its pods come from {kind!r}")


def _cold(bed: Bed, samples: int) -> None:
    """With templates switched off."""
    try:
        with bed.daemon(settings=_TEMPLATES_OFF) as (_, api):
            warm_up(api, wanted="cold")
            found, _ = _runs(api, {}, samples)
            bed.report.median("start.cold_run_ms", found["cold"])
    except RuntimeError as error:
        bed.report.leave_out("start.cold_run_ms", reason=str(error)[-300:])


def _pool(bed: Bed, samples: int) -> None:
    try:
        with bed.daemon(settings=_POOL_ON) as (_, api):
            warm_up(api, wanted="pool")
            found, _ = _runs(api, {}, samples, pause_s=_REFILL_S)
            bed.report.median("start.pool_ms", found["pool"])
    except RuntimeError as error:
        bed.report.leave_out("start.pool_ms", reason=f"no warm pool: {str(error)[-300:]}")


def _bare(bed: Bed, kernels: Kernels, samples: int) -> None:
    """The VMM without a daemon, and a plain QEMU with the same kernel."""
    for kernel, figure, plain in ((kernels.ours, "start.cold_ms", "start.plain_qemu_ms"),
                                  (kernels.debian, "start.cold_debian_ms", "start.plain_qemu_debian_ms")):
        if not kernel:
            bed.report.leave_out(figure, plain, reason="no such kernel in the daemon's store")
            continue
        chosen = vmm.kernel(_CACHE, kernel)
        try:
            bed.report.median(figure, vmm.cold_starts(chosen, _CACHE, bed.directory / "vmm", samples))
        except HyperStackError as error:
            bed.report.leave_out(figure, reason=str(error))
        series = Samples(_PLAIN_CLOCK)
        for number in range(samples):
            say(f"plain QEMU {number + 1} of {samples}")
            with PlainQemu(chosen.image, bed.gauge, bed.directory, bed.accelerator) as machine:
                series.values.append(machine.took_ms)
        bed.report.median(plain, series)


def _runs(api: Api, podmans: Mapping[str, Podman], samples: int, *, kernel: str = "", pause_s: float = 0.0
          ) -> tuple[dict[str, Samples], dict[str, Samples]]:
    """Our runs by what their pods came from, and the peers' by their runtimes. One round goes uncounted before: it
    fills the file caches."""
    ours: dict[str, Samples] = defaultdict(lambda: Samples(_OUR_CLOCK))
    peers = {name: Samples(_PEER_CLOCK) for name in podmans}
    for number in range(1 + samples):
        say(f"run {number} of {samples}")
        time.sleep(pause_s)
        took, kind = run_ms(api, kernel=kernel)
        if number:
            ours[kind].values.append(took)
        for name, podman in podmans.items():
            peer = podman.run_ms(BUSYBOX, COMMAND)
            if number:
                peers[name].values.append(peer)
    return ours, peers


def run_ms(api: Api, *, kernel: str = "") -> tuple[float, str]:
    """One create, attach, start, first byte, and what the pod was started from; it is removed off the clock."""
    with api.stream() as stream:
        began = time.perf_counter()
        ident = api.create(BUSYBOX, COMMAND, attach=True, kernel=kernel)
        stream.begin(f"/containers/{ident}/attach?stream=1&stdout=1")
        api.start(ident)
        stream.first_byte()
        took = time.perf_counter() - began
        api.wait(ident)
        kind = origin(api, ident)
        api.remove(ident)
    return took * 1000, kind
