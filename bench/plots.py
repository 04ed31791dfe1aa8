"""From stored results (DIRECTORY/NAME.json, as the benches print them) to the pictures of docs/performance.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.charts import Bar, Goal, Series, Stack, bars, curves, scorecard, stacks, strips

DIRECTORY = Path(__file__).parent.parent / "docs/performance"

Document = dict[str, Any]
"""Of one bench: figures, details, host."""

GOALS = (
    ("start.template_ms", "start from a template", "ms", 200, 100, False),
    ("start.template_debian_ms", "the same, Debian's kernel", "ms", 300, 150, False),
    ("start.vs_podman", "start, podman's is 1", "x", 1.0, 0.4, False),
    ("start.pool_ms", "start from the warm pool", "ms", 100, 50, False),
    ("start.cold_ms", "cold boot until the agent answers", "ms", 450, 300, False),
    ("memory.idle_pod_mib", "memory of an idle pod", "MiB", 20, 12, False),
    ("density.pods", "idle pods on 24 GiB", "pods", 300, 600, True),
    ("rate.pods_per_s", "a hundred pods at once", "pods/s", 8, 15, True),
    ("memory.hyperd_mb_at_100", "the daemon beside 100 pods", "MB", 120, 80, False),
    ("cpu.hyperd_idle_percent", "the daemon's idle processor time", "%", 3, 1, False),
)
"""Figure, what it is, unit, what it must and shall be, and whether more is better."""

_ENOUGH_PODS = 300
_STORM = 100

_STARTS = (
    ("start.pool_ms", "pod, warm pool", False), ("start.template_ms", "pod, template", False),
    ("start.template_debian_ms", "pod, template, Debian's kernel", False),
    ("start.cold_run_ms", "pod, cold", False), ("start.cold_ms", "bare machine, cold", False),
    ("start.cold_debian_ms", "bare machine, Debian's kernel", False),
    ("start.podman_ms", "podman, runc", True), ("start.podman_crun_ms", "podman, crun", True),
    ("start.plain_qemu_ms", "plain QEMU, our kernel", True),
    ("start.plain_qemu_debian_ms", "plain QEMU, Debian's kernel", True))
_DISK_FLOWS = (("io.layer_read_mb_s", "image's layer, read"), ("io.writable_read_mb_s", "writable layer, read"),
               ("io.writable_write_mb_s", "writable layer, write"), ("io.volume_read_mb_s", "volume, read"),
               ("io.volume_write_mb_s", "volume, write"))
_DISK_ACCESSES = (("io.layer_read_4k_us", "image's layer, read"), ("io.writable_read_4k_us", "writable layer, read"),
                  ("io.writable_write_4k_us", "writable layer, write + sync"),
                  ("io.volume_read_4k_us", "volume, read"), ("io.volume_write_4k_us", "volume, write + sync"))
_NET_FLOWS = (("net.host_to_pod_mb_s", "host to pod"), ("net.pod_to_host_mb_s", "pod to host"),
              ("net.pod_to_pod_mb_s", "pod to pod"))
_NET_TRIPS = (("net.host_ping_us", "host, open connection"), ("net.pods_ping_us", "pod to pod, open connection"),
              ("net.host_connect_us", "host, new connection"), ("net.pods_connect_us", "pod to pod, new connection"))

_Maker = Callable[[Document], str | None]


def draw(directory: Path) -> list[Path]:
    """Make what the results in the directory allow; the files that were written.

    :raise ValueError: a result is not a bench's.
    """
    results = {path.stem: _load(path) for path in sorted(directory.glob("*.json"))}
    drawn = {name: make(results[bench]) for name, (bench, make) in _MAKERS.items() if bench in results}
    drawn["scorecard"] = _scorecard(results) if results else None
    written = []
    for name, text in drawn.items():
        if text is not None:
            (directory / f"{name}.svg").write_text(text)
            written.append(directory / f"{name}.svg")
    return written


def _load(path: Path) -> Document:
    try:
        document = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict) or {"figures", "details", "host"} - document.keys():
        raise ValueError(f"{path} is no result of a bench: it has no figures, details and host")
    return document


def _note(document: Document) -> str:
    """Where and when: without it no number says anything."""
    host, hyperd = document["host"], document["details"].get("hyperd", {})
    return (f"{host['cpus']} x {host['cpu']}, {host['memory_mib'] / 1024:.0f} GiB, Linux {host['kernel']}, accelerator "
            f"{hyperd.get('accelerator', '?')}, guest {hyperd.get('guest_kernel', '?')}; load before "
            f"{host['load_before']}; {host['began'][:10]}, commit {host['commit']}")


def _scorecard(results: dict[str, Document]) -> str:
    figures = {name: value for document in results.values() for name, value in document["figures"].items()}
    # Fewer pods than the promise speaks of say nothing about it.
    if "density" in results and results["density"]["details"]["stopped by"] == "the limit of pods":
        figures = {name: value for name, value in figures.items() if name != "density.pods" or value >= _ENOUGH_PODS}
    if "rate" in results and results["rate"]["details"].get("pods") != _STORM:
        figures.pop("rate.pods_per_s", None)
    goals = [Goal(label, figures.get(name), unit, must, aim, more) for name, label, unit, must, aim, more in GOALS]
    return scorecard("What was promised, and what was measured",
                     "bar left of the line: promise kept (a share of what is allowed, logarithmic); dashed: the aim",
                     goals, _note(next(iter(results.values()))))


def _start(document: Document) -> str | None:
    rows = [Series(label, document["details"][name]["values"], peer) for name, label, peer in _STARTS
            if name in document["figures"]]
    return strips("How long a start takes", "each dot a start, the line their median; milliseconds, logarithmic; less "
                  "is better", "ms", rows, _note(document)) if rows else None


def _memory(document: Document) -> str | None:
    details = document["details"]
    rows = [Stack("idle pod", details["idle pod by mapping, mean MiB"]),
            Stack("plain QEMU", details["plain QEMU by mapping, MiB"])]
    if "memory.podman_mib" in document["figures"]:
        rows.append(Stack("podman container", {"process and conmon": document["figures"]["memory.podman_mib"]}))
    return stacks("Where the memory of an idle pod goes", "the host's memory (PSS: shared pages are shared out), MiB",
                  "MiB", rows, _note(document))


def _density(document: Document) -> str | None:
    points = [(pods, available) for pods, available, _ in document["details"]["curve"]]
    if not points:
        return None
    points.insert(0, (0, document["details"]["mem_available_mib"]["before"]))
    return curves("How many idle pods the host holds", "the line ends where the bench stopped: "
                  f"{document['details']['stopped by']}", ("pods", "MiB available"), {"host": points},
                  _note(document))


def _rate(document: Document) -> str | None:
    lines = {}
    for figure, label in (("rate.pods_per_s", "pods"), ("rate.podman_per_s", "podman")):
        if times := document["details"].get(f"{figure}: when each ran"):
            lines[label] = [(0.0, 0.0), *((at, count) for count, at in enumerate(sorted(times["values"]), 1))]
    return curves("A storm of starts", "all asked for at once; how many ran after how many seconds",
                  ("s", "running"), lines, _note(document)) if lines else None


def _pairs(document: Document, rows: Sequence[tuple[str, str]]) -> list[Bar]:
    """Ours and podman's of each figure that was measured. :param rows: figure and label."""
    figures, found = document["figures"], []
    for figure, label in rows:
        if figure in figures:
            found.append(Bar(label, figures[figure]))
            if (peer := figure.replace(".", ".podman_", 1)) in figures:
                found.append(Bar("podman", figures[peer], peer=True))
    return found


def _throughput(title: str, rows: Sequence[tuple[str, str]]) -> _Maker:
    return lambda document: _bars(title, "MB/s", "more", rows, document)


def _latency(title: str, rows: Sequence[tuple[str, str]]) -> _Maker:
    return lambda document: _bars(title, "us", "less", rows, document)


def _bars(title: str, unit: str, better: str, rows: Sequence[tuple[str, str]], document: Document) -> str | None:
    found = _pairs(document, rows)
    subtitle = f"blue: in a pod; grey: in a podman container on the same host; medians, {unit}; {better} is better"
    return bars(title, subtitle, unit, found, _note(document)) if found else None


_MAKERS: dict[str, tuple[str, _Maker]] = {
    "start": ("start", _start), "memory": ("memory", _memory), "density": ("density", _density),
    "rate": ("rate", _rate),
    "io-throughput": ("io", _throughput("Disks: throughput", _DISK_FLOWS)),
    "io-latency": ("io", _latency("Disks: one access of 4 KiB at a random place", _DISK_ACCESSES)),
    "net-throughput": ("net", _throughput("Network: throughput of one TCP connection", _NET_FLOWS)),
    "net-latency": ("net", _latency("Network: one byte there and back over TCP", _NET_TRIPS))}
"""Picture -> the bench whose result it needs, and what draws it."""
