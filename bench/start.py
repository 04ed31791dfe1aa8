"""How long a start takes: from the API's create to the command's first output byte, and its parts, beside the peers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

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
_OURS = ("start.template_ms", "start.template_debian_ms", "start.cold_run_ms")
"""What is compared with podman: the first that there is."""
_TEMPLATES_OFF = '[hypervisor]\ntemplates = "off"\n'
_POOL_SIZE = 2
_POOL_ON = f"[hypervisor]\npool = {_POOL_SIZE}\n"
_CACHE = CACHE / "daemon"
_REFILL_S = 30.0
"""For the daemon to put into the pool what was taken."""
_CALM_S = 0.5
"""After that, so that nothing of it goes on beside a sample."""


@dataclass(frozen=True)
class Kernels:
    """Names in the daemon's store; empty where there is none."""

    ours: str
    debian: str

    @classmethod
    def ask(cls, api: Api) -> Kernels:
        """The default first, where there are several of a kind."""
        found = sorted(api.ask("GET", "/hyperstack/v1/kernels"), key=lambda one: not one["default"])
        names = [str(one["name"]) for one in found]
        return cls(*(next((name for name in names if name.startswith(prefix)), "")
                     for prefix in ("hyperstack-", "debian-")))

    @property
    def main(self) -> str:
        """What figures that name no kernel are measured with."""
        return self.ours or self.debian


def measure(bed: Bed, samples: int) -> None:
    report = bed.report
    podmans = {name: podman for name in _PEERS if (podman := bed.podman(name))}
    with bed.daemon() as (_, api):
        kernels = Kernels.ask(api)
        report.details |= {"image": BUSYBOX, "command": COMMAND, "kernels": asdict(kernels), "kernel": kernels.main}
        cold = _templates(api, report, kernels, podmans, samples)
    if not cold:
        _cold(bed, kernels, samples)
    _pool(bed, kernels, samples)
    _bare(bed, kernels, samples)
    ours = next((name for name in _OURS if name in report.figures), _OURS[-1])
    report.details["start.vs_podman"] = f"{ours} / {_PEERS['runc']}"
    report.ratio("start.vs_podman", ours, _PEERS["runc"])
    report.ratio("start.vs_podman_crun", ours, _PEERS["crun"])


def _templates(api: Api, report: Report, kernels: Kernels, podmans: Mapping[str, Podman], samples: int) -> bool:
    """Ours and the peers' runs take turns, so that all of them meet the same host; whether ours were cold, because the
    daemon has no templates."""
    kind = warm_up(api, kernel=kernels.main)
    found, peers = _runs(api, podmans, samples, kernel=kernels.main)
    for name, series in peers.items():
        report.median(_PEERS[name], series)
    if kind != "fork":
        report.leave_out("start.template_ms", "start.template_debian_ms",
                         reason=f"the daemon starts no pod from a template (it says {kind!r})")
        report.median("start.cold_run_ms", next(iter(found.values())))
        return True
    report.details["what the runs came from"] = {name: len(series.values) for name, series in found.items()}
    if not kernels.ours:
        report.leave_out("start.template_ms", reason="our kernel is not built: `hyperctl kernel build`")
        report.median("start.template_debian_ms", found["fork"])
        return False
    report.median("start.template_ms", found["fork"])
    if not kernels.debian:
        report.leave_out("start.template_debian_ms", reason="Debian's kernel is not in the daemon's store")
        return False
    warm_up(api, kernel=kernels.debian)
    found, _ = _runs(api, {}, samples, kernel=kernels.debian)
    report.median("start.template_debian_ms", found["fork"])
    return False


def _cold(bed: Bed, kernels: Kernels, samples: int) -> None:
    """With templates switched off."""
    try:
        with bed.daemon(settings=_TEMPLATES_OFF) as (_, api):
            found, _ = _runs(api, {}, samples, kernel=kernels.main)
            bed.report.median("start.cold_run_ms", found["cold"])
    except RuntimeError as error:
        bed.report.leave_out("start.cold_run_ms", reason=str(error)[-300:])


def _pool(bed: Bed, kernels: Kernels, samples: int) -> None:
    try:
        with bed.daemon(settings=_POOL_ON) as (_, api):
            warm_up(api, wanted="pool", kernel=kernels.main)
            found, _ = _runs(api, {}, samples, kernel=kernels.main, before=lambda: _refilled(api))
            bed.report.median("start.pool_ms", found["pool"])
    except RuntimeError as error:
        bed.report.leave_out("start.pool_ms", reason=f"no warm pool: {str(error)[-300:]}")


def _refilled(api: Api) -> None:
    """Until all that can stand ready does, and a moment more. :raise RuntimeError: it does not come to that."""
    deadline = time.monotonic() + _REFILL_S
    while api.ask("GET", "/info")["HyperStack"]["pool"]["ready"] < _POOL_SIZE:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the pool is not full after {_REFILL_S:.0f} s")
        time.sleep(0.1)
    time.sleep(_CALM_S)


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


def _runs(api: Api, podmans: Mapping[str, Podman], samples: int, *, kernel: str,
          before: Callable[[], None] = lambda: None) -> tuple[dict[str, Samples], dict[str, Samples]]:
    """Our runs by what their pods came from, and the peers' by their runtimes. One round goes uncounted before: it
    fills the file caches.

    :param before: called off the clock, before each of ours.
    """
    ours: dict[str, Samples] = defaultdict(lambda: Samples(_OUR_CLOCK))
    peers = {name: Samples(_PEER_CLOCK) for name in podmans}
    for number in range(1 + samples):
        say(f"run {number} of {samples}")
        before()
        took, kind = run_ms(api, kernel=kernel)
        if number:
            ours[kind].values.append(took)
        for name, podman in podmans.items():
            peer = podman.run_ms(BUSYBOX, COMMAND)
            if number:
                peers[name].values.append(peer)
    return ours, peers


def run_ms(api: Api, *, kernel: str) -> tuple[float, str]:
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
