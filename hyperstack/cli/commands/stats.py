"""hyperctl stats."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import click

from hyperstack.cli import units
from hyperstack.cli.app import App, Command, pass_app
from hyperstack.cli.client import NATIVE, Client, quoted
from hyperstack.cli.completing import running_containers
from hyperstack.cli.errors import ApiError, CliError
from hyperstack.cli.listing import Listing, short_id

_LISTING = Listing({
    "ID": "CONTAINER ID", "Container": "CONTAINER", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS", "HostMem": "HOST MEM (PSS)",
}, ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs", "HostMem"))

_REDRAW_S = 1.0
"""The daemon samples once a second."""

_COUNT_S = 3.0
"""Between two counts of the host's memory: each takes the host's kernel some 5 ms for each VM."""

_UNKNOWN = "--"


@click.command(cls=Command)
@click.option("-a", "--all", "every", is_flag=True, help="Show stopped containers, too")
@click.option("--format", "layout", default="", help="table, json, table TEMPLATE or TEMPLATE")
@click.option("--no-stream", is_flag=True, help="Show one sample and end")
@click.option("--no-trunc", is_flag=True, help="Do not shorten ids")
@click.argument("names", nargs=-1, metavar="[CONTAINER...]", shell_complete=running_containers)
@pass_app
def stats(app: App, *, names: Sequence[str], every: bool, layout: str, no_stream: bool, no_trunc: bool) -> None:
    """Show what containers use: CPU, memory, network, disk; and what their pod's VM takes of the host's memory."""
    client = app.client
    if no_stream:
        samples = {name: client.get(f"/containers/{quoted(name)}/stats", {"stream": "false"})
                   for name in names or _listed(client, every=every)}
        costs = host_memory(client)
        _LISTING.show([row(name, sample, costs, no_trunc=no_trunc) for name, sample in samples.items()], layout)
        return
    board = _Board(client)
    costs, counted = dict[str, int](), -_COUNT_S
    while True:
        board.watch(names or _listed(client, every=every), keep_missing=bool(names))
        if time.monotonic() - counted >= _COUNT_S:
            costs, counted = host_memory(client), time.monotonic()
        text = _LISTING.text([row(name, sample, costs, no_trunc=no_trunc) for name, sample in board.samples()], layout)
        click.echo(_over(text) if sys.stdout.isatty() else text, nl=False)
        sys.stdout.flush()
        time.sleep(_REDRAW_S)


def _listed(client: Client, *, every: bool) -> list[str]:
    return [item["Id"] for item in client.get("/containers/json", {"all": every})]


def _over(text: str) -> str:
    """Drawn over the last picture, line by line, so that nothing flickers."""
    return "\x1b[H" + text.replace("\n", "\x1b[K\n") + "\x1b[J"


class _Board:
    """The newest sample of each watched container; one thread reads each container's stream."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._samples: dict[str, Mapping[str, Any]] = {}
        self._watched: list[str] = []
        self._failed: dict[str, CliError] = {}

    def watch(self, names: Sequence[str], *, keep_missing: bool) -> None:
        """Watch these from now on.

        :raise CliError: a container that was named (`keep_missing`) does not exist.
        """
        if keep_missing and self._failed:
            raise next(iter(self._failed.values()))
        for name in names:
            if name not in self._samples:
                self._samples[name] = {}
                threading.Thread(target=self._read, args=(name,), daemon=True).start()
        self._watched = list(names)

    def samples(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [(name, self._samples.get(name) or {}) for name in self._watched]

    def _read(self, name: str) -> None:
        try:
            for sample in self._client.request("GET", f"/containers/{quoted(name)}/stats",
                                               query={"stream": "true"}).json_lines():
                self._samples[name] = sample
        except CliError as error:
            self._failed[name] = error
        self._samples[name] = {}


def host_memory(client: Client) -> dict[str, int]:
    """Container's id -> bytes of the host's memory that the VM of its pod takes; containers of one pod share a VM."""
    try:
        pods = client.get(f"{NATIVE}/stats")
    except ApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return {}  # A daemon that was not upgraded yet.
    return {ident: pod["host"]["pss_bytes"] for pod in pods for ident in pod["containers"]}


def row(name: str, sample: Mapping[str, Any], costs: Mapping[str, int], *, no_trunc: bool = False) -> dict[str, str]:
    """The fields of one sample of `GET /containers/{id}/stats`; `--` where there is none yet.

    :param costs: see `host_memory`.
    """
    memory = sample.get("memory_stats") or {}
    ident = str(sample.get("id") or name)
    facts = {"Container": name, "ID": short_id(ident, no_trunc=no_trunc),
             "Name": str(sample.get("name") or _UNKNOWN).removeprefix("/")}
    if not memory:
        return {**facts, "CPUPerc": _UNKNOWN, "MemUsage": f"{_UNKNOWN} / {_UNKNOWN}", "MemPerc": _UNKNOWN,
                "NetIO": _UNKNOWN, "BlockIO": _UNKNOWN, "PIDs": _UNKNOWN, "HostMem": _UNKNOWN}
    used, limit = memory_used(memory), int(memory.get("limit") or 0)
    networks = (sample.get("networks") or {}).values()
    blocks = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    return {
        **facts,
        "CPUPerc": f"{cpu_percent(sample):.2f}%",
        "MemUsage": f"{units.binary_size(used)} / {units.binary_size(limit)}",
        "MemPerc": f"{100 * used / limit if limit else 0:.2f}%",
        "NetIO": " / ".join(units.decimal_size(sum(int(net.get(key) or 0) for net in networks), 3)
                            for key in ("rx_bytes", "tx_bytes")),
        "BlockIO": " / ".join(units.decimal_size(sum(int(block["value"]) for block in blocks
                                                     if str(block.get("op", "")).lower() == wanted), 3)
                              for wanted in ("read", "write")),
        "PIDs": str((sample.get("pids_stats") or {}).get("current") or 0),
        "HostMem": units.binary_size(costs[ident]) if costs.get(ident) else _UNKNOWN,
    }


def memory_used(memory: Mapping[str, Any]) -> int:
    """Usage without the page cache that the kernel would give back, as Docker counts it."""
    usage = int(memory.get("usage") or 0)
    facts = memory.get("stats") or {}
    reclaimable = int(facts.get("total_inactive_file") or facts.get("inactive_file") or 0)
    return usage - reclaimable if reclaimable < usage else usage


def cpu_percent(sample: Mapping[str, Any]) -> float:
    """Percent of one CPU between this sample and the one before it."""
    now, before = sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}
    used = _total(now) - _total(before)
    system = int(now.get("system_cpu_usage") or 0) - int(before.get("system_cpu_usage") or 0)
    cpus = int(now.get("online_cpus") or 0) or len((now.get("cpu_usage") or {}).get("percpu_usage") or ()) or 1
    return 100.0 * cpus * used / system if used > 0 and system > 0 else 0.0


def _total(stats: Mapping[str, Any]) -> int:
    return int((stats.get("cpu_usage") or {}).get("total_usage") or 0)
