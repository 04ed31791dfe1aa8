"""hyperctl ps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import click

from hyperstack.cli import units
from hyperstack.cli.app import App, Command, pass_app
from hyperstack.cli.client import filters
from hyperstack.cli.listing import Listing, ellipsis, short_id

_HEADINGS = {
    "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
    "Status": "STATUS", "Ports": "PORTS", "Names": "NAMES", "Size": "SIZE", "Labels": "LABELS", "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "State": "STATE",
}
LISTING = Listing(_HEADINGS, ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"))
_COMMAND_WIDTH = 20
_MOUNT_WIDTH = 15


@click.command(cls=Command)
@click.option("-a", "--all", "every", is_flag=True, help="Show all containers (default: those that run)")
@click.option("-f", "--filter", "chosen", multiple=True, metavar="KEY=VALUE",
              help="Show those that match: id, name, label, status, ancestor, exited, volume, network, before, since")
@click.option("--format", "layout", default="", help="table, json, table TEMPLATE or TEMPLATE")
@click.option("-n", "--last", type=int, default=-1, help="Show the last N created, in any state")
@click.option("-l", "--latest", is_flag=True, help="Show the one created last, in any state")
@click.option("--no-trunc", is_flag=True, help="Do not shorten ids and commands")
@click.option("-q", "--quiet", is_flag=True, help="Show ids only")
@click.option("-s", "--size", is_flag=True, help="Show sizes on disk")
@pass_app
def ps(app: App, *, every: bool, chosen: Sequence[str], layout: str, last: int, latest: bool, no_trunc: bool,
       quiet: bool, size: bool) -> None:
    """List containers."""
    limit = 1 if latest else last
    size = size or ".Size" in layout
    found = app.client.get("/containers/json", {
        "all": every, "limit": limit if limit > 0 else None, "size": size, "filters": filters(chosen)})
    if quiet:
        for item in found:
            click.echo(short_id(item["Id"], no_trunc=no_trunc))
        return
    LISTING.show([row(item, no_trunc=no_trunc) for item in found], layout, ["Size"] if size else [])


def row(item: Mapping[str, Any], *, no_trunc: bool = False) -> dict[str, Any]:
    """The fields of one container of `GET /containers/json`."""
    labels: Mapping[str, str] = item.get("Labels") or {}
    mounts = item.get("Mounts") or ()
    command = str(item.get("Command", ""))
    created = float(item.get("Created") or 0)
    names = [str(mount.get("Name") or mount.get("Source") or "") for mount in mounts]
    networks = (item.get("NetworkSettings") or {}).get("Networks") or {}
    image = str(item.get("Image", ""))
    return {
        "ID": short_id(item["Id"], no_trunc=no_trunc),
        "Image": short_id(image) if image.startswith("sha256:") and not no_trunc else image or "<no image>",
        "Command": json.dumps(command if no_trunc else ellipsis(command, _COMMAND_WIDTH), ensure_ascii=False),
        "CreatedAt": units.local_time(created),
        "RunningFor": units.ago(created),
        "Status": str(item.get("Status", "")),
        "State": str(item.get("State", "")),
        "Ports": display_ports(item.get("Ports") or ()),
        "Names": ",".join(name.removeprefix("/") for name in item.get("Names") or () if name.count("/") == 1),
        "Size": _size(item),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Label": lambda name: labels.get(name, ""),
        "Mounts": ",".join(name if no_trunc else ellipsis(name, _MOUNT_WIDTH) for name in names),
        "LocalVolumes": str(sum(mount.get("Driver") == "local" for mount in mounts)),
        "Networks": ",".join(sorted(networks)),
    }


def _size(item: Mapping[str, Any]) -> str:
    written = units.decimal_size(item.get("SizeRw") or 0, 3)
    whole = item.get("SizeRootFs") or 0
    return f"{written} (virtual {units.decimal_size(whole, 3)})" if whole else written


def display_ports(ports: Sequence[Mapping[str, Any]]) -> str:
    """`0.0.0.0:8080->80/tcp, 443/tcp`; runs of neighbouring ports as ranges."""
    keys = sorted((str(port.get("IP") or ""), str(port.get("Type") or "tcp"), int(port.get("PublicPort") or 0),
                   int(port["PrivatePort"])) for port in ports)
    runs: list[list[tuple[str, str, int, int]]] = [[key] for key in keys[:1]]
    for before, key in pairwise(keys):
        if key == before:
            continue
        step = 1 if key[2] else 0
        if key[:2] == before[:2] and key[3] == before[3] + 1 and key[2] == before[2] + step and \
                bool(key[2]) == bool(before[2]):
            runs[-1].append(key)
        else:
            runs.append([key])
    published = [_run_of_ports(run) for run in runs if run[0][2]]
    return ", ".join([_run_of_ports(run) for run in runs if not run[0][2]] + published)


def _run_of_ports(run: Sequence[tuple[str, str, int, int]]) -> str:
    address, protocol, public, private = run[0]
    inside = f"{private}-{run[-1][3]}" if len(run) > 1 else f"{private}"
    if not public:
        return f"{inside}/{protocol}"
    outside = f"{public}-{run[-1][2]}" if len(run) > 1 else f"{public}"
    shown = f"[{address}]" if ":" in address else address
    return f"{shown}:{outside}->{inside}/{protocol}"
