"""hyperctl volume ls, create and rm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from hyperstack.cli.app import App, Command, each, pass_app
from hyperstack.cli.client import filters, quoted
from hyperstack.cli.completing import volumes
from hyperstack.cli.listing import Listing
from hyperstack.cli.options import mapping

_LISTING = Listing({"Driver": "DRIVER", "Name": "VOLUME NAME", "Scope": "SCOPE", "Mountpoint": "MOUNTPOINT",
                    "Labels": "LABELS"}, ("Driver", "Name"))


@click.command(cls=Command)
@click.option("-f", "--filter", "chosen", multiple=True, metavar="KEY=VALUE",
              help="Show those that match: dangling, driver, label, name")
@click.option("--format", "layout", default="", help="table, json, table TEMPLATE or TEMPLATE")
@click.option("-q", "--quiet", is_flag=True, help="Show names only")
@pass_app
def ls(app: App, *, chosen: Sequence[str], layout: str, quiet: bool) -> None:
    """List volumes."""
    answer = app.client.get("/volumes", {"filters": filters(chosen)})
    found = sorted(answer.get("Volumes") or (), key=lambda volume: str(volume["Name"]))
    if quiet:
        for volume in found:
            click.echo(volume["Name"])
        return
    _LISTING.show([_row(volume) for volume in found], layout)


def _row(volume: Mapping[str, Any]) -> dict[str, Any]:
    labels: Mapping[str, str] = volume.get("Labels") or {}
    return {"Driver": volume.get("Driver", ""), "Name": volume["Name"], "Scope": volume.get("Scope", ""),
            "Mountpoint": volume.get("Mountpoint", ""), "Label": lambda name: labels.get(name, ""),
            "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items()))}


@click.command(cls=Command)
@click.option("-d", "--driver", default="local", show_default=True, help="Volume driver")
@click.option("--label", multiple=True, metavar="KEY[=VALUE]", help="Set a label")
@click.option("-o", "--opt", multiple=True, metavar="KEY=VALUE",
              help="Set an option of the driver, such as size=10G, or type, o and device")
@click.argument("name", required=False, default="", metavar="[VOLUME]")
@pass_app
def create(app: App, *, name: str, driver: str, label: Sequence[str], opt: Sequence[str]) -> None:
    """Create a volume, and print its name."""
    made = app.client.post("/volumes/create", payload={
        "Name": name, "Driver": driver, "Labels": mapping(label, "label"),
        "DriverOpts": mapping(opt, "opt", required=True)})
    click.echo(made["Name"])


@click.command(cls=Command)
@click.option("-f", "--force", is_flag=True, help="Do not complain of a volume that is not there")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME [VOLUME...]", shell_complete=volumes)
@pass_app
def rm(app: App, *, names: Sequence[str], force: bool) -> None:
    """Remove volumes."""
    def action(name: str) -> str:
        app.client.delete(f"/volumes/{quoted(name)}", {"force": force})
        return name

    each(names, action)
