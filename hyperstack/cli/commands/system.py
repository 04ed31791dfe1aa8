"""hyperctl version, info, doctor and system df."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import click

from hyperstack import __version__
from hyperstack.cli import units
from hyperstack.cli.app import App, Command, pass_app
from hyperstack.cli.client import API, NATIVE
from hyperstack.cli.errors import CliError, DaemonUnreachable
from hyperstack.cli.listing import Listing, printable, styled

_FORMAT = click.option("-f", "--format", "layout", default="", help="json or a TEMPLATE")
_MARKS = {"ok": ("✔", "green"), "warn": ("!", "yellow"), "fail": ("✘", "red")}
_USAGE = Listing({"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE",
                  "Reclaimable": "RECLAIMABLE"}, ("Type", "TotalCount", "Active", "Size", "Reclaimable"))


@click.command(cls=Command)
@_FORMAT
@pass_app
def version(app: App, *, layout: str) -> None:
    """Show the versions of hyperctl and hyperd."""
    facts: dict[str, Any] = {"Client": {
        "Version": __version__, "ApiVersion": API.removeprefix("/v"),
        "PythonVersion": platform.python_version(), "Os": "linux", "Arch": platform.machine()}, "Server": None}
    failure: DaemonUnreachable | None = None
    try:
        facts["Server"] = app.client.get("/version")
    except DaemonUnreachable as error:
        failure = error
    if layout:
        click.echo(_rendered(facts, layout))
    else:
        click.echo(_version_text("Client: hyperctl", facts["Client"]))
        if facts["Server"]:
            click.echo("\n" + _version_text("Server: hyperd", facts["Server"]))
    if failure:
        raise failure


def _version_text(title: str, facts: Mapping[str, Any]) -> str:
    lines = [("Version", "Version"), ("API version", "ApiVersion"), ("Minimum API version", "MinAPIVersion"),
             ("Python version", "PythonVersion"), ("Kernel", "KernelVersion"), ("Git commit", "GitCommit"),
             ("Built", "BuildTime")]
    shown = [f" {name + ':':<21}{facts[key]}" for name, key in lines if facts.get(key)]
    return "\n".join([title, *shown, f" {'OS/Arch:':<21}{facts.get('Os', '')}/{facts.get('Arch', '')}"])


@click.command(cls=Command)
@_FORMAT
@pass_app
def info(app: App, *, layout: str) -> None:
    """Show what the host holds and can do."""
    facts = app.client.get("/info")
    if layout:
        click.echo(_rendered(facts, layout))
        return
    for name, key in (
            ("Containers", "Containers"), (" Running", "ContainersRunning"), (" Paused", "ContainersPaused"),
            (" Stopped", "ContainersStopped"), ("Images", "Images"), ("Server Version", "ServerVersion"),
            ("Storage Driver", "Driver"), ("Logging Driver", "LoggingDriver"), ("Cgroup Driver", "CgroupDriver"),
            ("Cgroup Version", "CgroupVersion"), ("Default Runtime", "DefaultRuntime"),
            ("Kernel Version", "KernelVersion"), ("Operating System", "OperatingSystem"), ("OSType", "OSType"),
            ("Architecture", "Architecture"), ("CPUs", "NCPU"), ("Total Memory", "MemTotal"), ("Name", "Name"),
            ("ID", "ID"), ("Root Dir", "DockerRootDir")):
        if facts.get(key) not in (None, ""):
            shown = units.binary_size(facts[key]) if key == "MemTotal" else facts[key]
            click.echo(f"{name}: {shown}")
    for key, value in facts.get("DriverStatus") or ():
        click.echo(f" {key}: {value}")
    for label in facts.get("Labels") or ():
        click.echo(f"Label: {label}")
    for warning in facts.get("Warnings") or ():
        click.echo(warning, err=True)


@click.command(cls=Command)
@click.option("--format", "layout", default="", help="json or a TEMPLATE for each finding")
@pass_app
def doctor(app: App, *, layout: str) -> None:
    """Check what this host can do, with a remedy for what it cannot. Exits with 1 where something fails."""
    findings: Sequence[Mapping[str, str]] = app.client.get(f"{NATIVE}/doctor")["findings"]
    if layout:
        for finding in findings:
            click.echo(_rendered(finding, layout))
    else:
        width = max((len(finding["name"]) for finding in findings), default=0)
        for finding in findings:
            _show_finding(finding, width)
    failed = sum(finding["status"] == "fail" for finding in findings)
    if failed:
        raise CliError(f"{failed} of {len(findings)} checks failed")


def _show_finding(finding: Mapping[str, str], width: int) -> None:
    mark, colour = _MARKS.get(finding["status"], ("?", "yellow"))
    shown = click.style(mark, fg=colour, bold=True) if styled() else finding["status"].ljust(4)
    click.echo(f"{shown} {finding['name'].ljust(width)}  {printable(finding['detail'])}")
    if finding["status"] != "ok" and finding.get("remedy"):
        indent = " " * (width + (4 if styled() else 7))
        click.echo(f"{indent}-> {printable(finding['remedy'])}")


@click.command(cls=Command)
@click.option("--format", "layout", default="", help="table, json, table TEMPLATE or TEMPLATE")
@pass_app
def df(app: App, *, layout: str) -> None:
    """Show what takes disk space."""
    usage = app.client.get("/system/df")
    images, containers, volumes, cached = (
        usage.get(key) or () for key in ("Images", "Containers", "Volumes", "BuildCache"))
    sizes = {image["Id"]: int(image.get("Size") or 0) for image in images}
    used = {item.get("ImageID") for item in containers}
    running = [item for item in containers if item.get("State") in ("running", "paused", "restarting")]
    usages = [item.get("UsageData") or {} for item in volumes]
    disks = [(max(0, int(data.get("Size") or 0)), data.get("RefCount", 0)) for data in usages]  # -1: it has no disk
    written = {item["Id"]: int(item.get("SizeRw") or 0) for item in containers}
    _USAGE.show([
        _usage("Images", len(images), len(used & set(sizes)), int(usage.get("LayersSize") or sum(sizes.values())),
               sum(size for ident, size in sizes.items() if ident not in used)),
        _usage("Containers", len(containers), len(running), sum(written.values()),
               sum(written.values()) - sum(written[item["Id"]] for item in running)),
        _usage("Local Volumes", len(volumes), sum(count > 0 for _, count in disks), sum(size for size, _ in disks),
               sum(size for size, count in disks if count <= 0)),
        _usage("Build Cache", len(cached), sum(bool(item.get("InUse")) for item in cached),
               sum(int(item.get("Size") or 0) for item in cached),
               sum(int(item.get("Size") or 0) for item in cached if not item.get("InUse"))),
    ], layout)


def _usage(kind: str, count: int, active: int, size: int, reclaimable: int) -> dict[str, str]:
    share = f" ({100 * reclaimable // size}%)" if size else ""
    return {"Type": kind, "TotalCount": str(count), "Active": str(active), "Size": units.decimal_size(size),
            "Reclaimable": units.decimal_size(reclaimable) + share}


def _rendered(value: Any, layout: str) -> str:
    from hyperstack.cli import template, values

    return values.to_json(value) if layout == "json" else template.parse(layout).render(value)
