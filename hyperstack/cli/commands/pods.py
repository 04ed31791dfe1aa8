"""hyperctl pod create, ls, rm, start, stop and logs: the native API's pods."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from hyperstack.cli import units
from hyperstack.cli.app import App, Command, each, pass_app
from hyperstack.cli.client import NATIVE, quoted
from hyperstack.cli.commands.logs import show as show_logs
from hyperstack.cli.completing import pods
from hyperstack.cli.errors import CliError
from hyperstack.cli.listing import Listing, short_id

MAX_MANIFEST = 1024 * 1024
"""Bytes; Kubernetes' own limit of an object is near it."""

_HEADINGS = {
    "ID": "POD ID", "Name": "NAME", "Status": "STATUS", "State": "VM", "Ready": "READY", "Created": "CREATED",
    "IP": "IP", "Kernel": "KERNEL", "Memory": "MEMORY", "Namespace": "NAMESPACE", "Labels": "LABELS",
    "Reason": "REASON",
}
_LISTING = Listing(_HEADINGS, ("ID", "Name", "Status", "Ready", "Created", "IP", "Kernel"))
_NAMES = click.argument("names", nargs=-1, required=True, metavar="POD [POD...]", shell_complete=pods)


@click.command(cls=Command)
@click.option("-f", "--file", "manifest", required=True, metavar="FILE", help="Kubernetes Pod manifest; - reads stdin")
@click.option("--no-start", is_flag=True, help="Do not start it")
@pass_app
def create(app: App, *, manifest: str, no_start: bool) -> None:
    """Create and start the pods of a Kubernetes Pod manifest, all or none, and print their ids."""
    answer = app.client.request("POST", f"{NATIVE}/pods", query={"start": "0"} if no_start else None,
                                body=_manifest(manifest), headers={"Content-Type": "application/yaml"}).json()
    for pod in answer["pods"]:
        click.echo(pod["id"])


def _manifest(name: str) -> bytes:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_MANIFEST + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_MANIFEST + 1)
    except OSError as error:
        raise CliError(f"cannot read the manifest {name}: {error.strerror}") from error
    if len(data) > MAX_MANIFEST:
        raise CliError(f"the manifest {name} is longer than {MAX_MANIFEST} bytes")
    return data


@click.command(cls=Command)
@click.option("--format", "layout", default="", help="table, json, table TEMPLATE or TEMPLATE")
@click.option("--no-trunc", is_flag=True, help="Do not shorten ids")
@click.option("-q", "--quiet", is_flag=True, help="Show ids only")
@pass_app
def ls(app: App, *, layout: str, no_trunc: bool, quiet: bool) -> None:
    """List pods."""
    found = app.client.get(f"{NATIVE}/pods")
    if quiet:
        for pod in found:
            click.echo(short_id(pod["id"], no_trunc=no_trunc))
        return
    _LISTING.show([_row(pod, no_trunc=no_trunc) for pod in found], layout)


def _row(pod: Mapping[str, Any], *, no_trunc: bool) -> dict[str, Any]:
    containers = [item for item in pod.get("containers") or () if not item.get("init")]
    running = sum(container.get("state") == "running" for container in containers)
    labels: Mapping[str, str] = pod.get("labels") or {}
    return {
        "ID": short_id(pod["id"], no_trunc=no_trunc), "Name": pod["name"], "Status": pod["phase"],
        "State": pod["state"], "Reason": pod.get("reason") or "",
        "Ready": f"{running}/{len(containers)}",
        "Created": units.ago(units.unix_time(str(pod.get("created_at") or ""))),
        "IP": pod.get("ip_address") or "", "Kernel": pod.get("kernel") or "", "Namespace": pod.get("namespace") or "",
        "Memory": units.binary_size((pod.get("memory_mib") or 0) * 1024 * 1024),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Label": lambda name: labels.get(name, ""),
    }


@click.command(cls=Command)
@click.option("-f", "--force", is_flag=True, help="Remove running pods, too")
@_NAMES
@pass_app
def rm(app: App, *, names: Sequence[str], force: bool) -> None:
    """Remove pods with their containers."""
    def action(name: str) -> str:
        app.client.delete(f"{NATIVE}/pods/{quoted(name)}", {"force": force})
        return name

    each(names, action)


@click.command(cls=Command)
@_NAMES
@pass_app
def start(app: App, *, names: Sequence[str]) -> None:
    """Start stopped pods."""
    def action(name: str) -> str:
        app.client.post(f"{NATIVE}/pods/{quoted(name)}/start")
        return name

    each(names, action)


@click.command(cls=Command)
@click.option("-t", "--timeout", "--time", type=int, default=None, help="Seconds before SIGKILL")
@_NAMES
@pass_app
def stop(app: App, *, names: Sequence[str], timeout: int | None) -> None:
    """Stop pods: the stop signal to each container, then SIGKILL."""
    def action(name: str) -> str:
        app.client.post(f"{NATIVE}/pods/{quoted(name)}/stop", {"t": timeout})
        return name

    each(names, action)


@click.command(cls=Command)
@click.option("-c", "--container", default="", help="Which container, where the pod has several")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on")
@click.option("--since", default="", metavar="TIME", help="From this time, or this long ago (42m)")
@click.option("-n", "--tail", default="all", metavar="LINES", help="Lines from the end, or all")
@click.option("-t", "--timestamps", is_flag=True, help="Begin each line with its time")
@click.argument("name", metavar="POD", shell_complete=pods)
@pass_app
def logs(app: App, *, name: str, container: str, follow: bool, since: str, tail: str, timestamps: bool) -> None:
    """Show what a container of a pod wrote."""
    pod = app.client.get(f"{NATIVE}/pods/{quoted(name)}")
    held = pod.get("containers") or ()
    chosen = [item for item in held if _is_named(item, pod["name"], container)] if container else \
        [item for item in held if not item.get("init")]
    if len(chosen) != 1:
        names = ", ".join(str(item["name"]) for item in held)
        raise CliError(f"pod {name} has no container {container}" if container else
                       f"pod {name} has {len(chosen)} containers: choose one with -c", hint=f"Containers: {names}")
    show_logs(app.client, chosen[0]["id"], follow=follow, since=since, until="", tail=tail, timestamps=timestamps)


def _is_named(item: Mapping[str, Any], pod: str, wanted: str) -> bool:
    """By its name on the host (pod_container), its name in the manifest, or its id."""
    return wanted in (item["name"], item["name"].removeprefix(f"{pod}_")) or str(item["id"]).startswith(wanted)
