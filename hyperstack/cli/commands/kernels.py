"""hyperctl kernel build, add, ls, inspect, default and rm."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import click

from hyperstack.cli import units
from hyperstack.cli.app import App, Command, each, pass_app
from hyperstack.cli.client import NATIVE, quoted
from hyperstack.cli.completing import kernels
from hyperstack.cli.errors import CliError
from hyperstack.cli.listing import Listing, printable

_LISTING = Listing(
    {"Name": "NAME", "Release": "RELEASE", "Origin": "ORIGIN", "Format": "FORMAT", "Size": "SIZE",
     "MinMemory": "MIN MEMORY", "Default": "DEFAULT", "Pods": "PODS", "Added": "ADDED", "Path": "PATH"},
    ("Name", "Release", "Origin", "Size", "MinMemory", "Default", "Pods"))
_MODULE_SUFFIXES = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")


@click.command(cls=Command)
@click.option("--format", "layout", default="", help="table, json, table TEMPLATE or TEMPLATE")
@click.option("-q", "--quiet", is_flag=True, help="Show names only")
@pass_app
def ls(app: App, *, layout: str, quiet: bool) -> None:
    """List the kernels that a pod can boot (run --kernel)."""
    found = app.client.get(f"{NATIVE}/kernels")
    if quiet:
        for kernel in found:
            click.echo(kernel["name"])
        return
    _LISTING.show([_row(kernel) for kernel in found], layout)


def _row(kernel: Mapping[str, Any]) -> dict[str, Any]:
    added = (kernel.get("added_at") or 0) / 1e9
    return {
        "Name": kernel["name"], "Release": kernel.get("release") or "", "Origin": kernel.get("origin") or "",
        "Format": kernel.get("format") or "", "Path": kernel.get("path") or "",
        "Size": units.decimal_size(kernel.get("bytes") or 0), "Pods": str(len(kernel.get("pods") or ())),
        "MinMemory": units.binary_size((kernel.get("min_memory_mib") or 0) * 1024 * 1024),
        "Added": units.ago(added) if added else "",
        "Default": ", ".join(word for word, key in (("host", "default"), ("project", "project_default"))
                             if kernel.get(key)),
    }


@click.command(cls=Command)
@click.option("-q", "--quiet", is_flag=True, help="Do not show how it goes")
@pass_app
def build(app: App, *, quiet: bool) -> None:
    """Build HyperStack's own kernel, try it, and make it the default. It takes minutes, and Ctrl-C does not end it."""
    name = _follow(app.client.request("POST", f"{NATIVE}/kernels/build").json_lines(), quiet=quiet)
    click.echo(name)


def _follow(messages: Iterable[Any], *, quiet: bool) -> str:
    """Show on stderr how the build goes, a line for each step; on a terminal the last one counts up.

    :raise CliError: it failed.
    """
    counts = sys.stderr.isatty()
    shown = name = ""
    for message in messages:
        if failure := message.get("error"):
            raise CliError(str(failure))
        name = str((message.get("aux") or {}).get("name", "")) or name
        status, detail = printable(str(message.get("status", ""))), message.get("progressDetail") or {}
        if quiet or not status:
            continue
        if status != shown:
            click.echo(f"\n{status}" if shown else status, err=True, nl=False)
            shown = status
        if counts and detail.get("total"):
            click.echo(f"\r{status} {100 * detail['current'] // detail['total']}%", err=True, nl=False)
    if shown:
        click.echo(err=True)
    return name


@click.command(cls=Command)
@click.option("--cmdline", default="", metavar="WORDS", help="More words for the kernel's command line")
@click.option("--config", "config", default="", metavar="FILE", help="Its configuration, where the image has none")
@click.option("--image", default="", metavar="FILE", help="The kernel: an ELF vmlinux or a bzImage (vmlinuz)")
@click.option("--modules", "directory", default="", metavar="DIR", help="Its modules: lib/modules/RELEASE")
@click.option("--tree", default="", metavar="DIR",
              help="An unpacked package with boot/vmlinuz-RELEASE and lib/modules/RELEASE, instead of the others")
@click.argument("name", metavar="NAME")
@pass_app
def add(app: App, *, name: str, image: str, directory: str, config: str, tree: str, cmdline: str) -> None:
    """Add a kernel of your own. It is checked, and must bring up a pod in a trial boot."""
    if bool(image) == bool(tree):
        raise CliError("give either --image or --tree")
    if tree and (directory or config):
        raise CliError("--tree has the modules and the configuration: it goes with neither --modules nor --config")
    files = _of_tree(Path(tree)) if tree else _of_parts(image, directory, config)
    with tempfile.TemporaryFile() as archive:
        _pack(files, archive)
        archive.seek(0)
        added = app.client.request("POST", f"{NATIVE}/kernels", query={"name": name, "cmdline": cmdline or None},
                                   body=archive, headers={"Content-Type": "application/x-tar"}).json()
    for warning in added["warnings"]:
        click.echo(f"Warning: {warning}", err=True)
    click.echo(added["name"])


def _of_tree(tree: Path) -> dict[str, Path]:
    """Name in the archive -> file. :raise CliError: not one kernel, but none or several."""
    images = sorted((tree / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise CliError(f"{tree}/boot has {len(images)} kernels (vmlinuz-*), where it takes one",
                       hint="Name the files with --image and --modules instead.")
    release = images[0].name.removeprefix("vmlinuz-")
    modules, config = tree / "lib/modules" / release, tree / "boot" / f"config-{release}"
    return _of_parts(str(images[0]), str(modules) if modules.is_dir() else "", str(config) if config.exists() else "")


def _of_parts(image: str, directory: str, config: str) -> dict[str, Path]:
    files = {"image": Path(image)}
    if config:
        files["config"] = Path(config)
    if directory:
        root = Path(directory)
        found = [path for path in sorted(root.rglob("*.ko*")) if path.name.endswith(_MODULE_SUFFIXES)]
        if not found:
            raise CliError(f"there are no modules in {directory}")
        files.update({f"modules/{path.name}": path for path in found})
        if (root / "modules.builtin").exists():
            files["modules/modules.builtin"] = root / "modules.builtin"
    return files


def _pack(files: Mapping[str, Path], archive: IO[bytes]) -> None:
    """A tar of them, whatever they are owned by; links are followed."""
    import tarfile

    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in files.items():
            try:
                with path.open("rb") as file:
                    entry = tarfile.TarInfo(name)
                    entry.size = path.stat().st_size
                    tar.addfile(entry, file)
            except OSError as error:
                raise CliError(f"cannot read {path}: {error.strerror or error}") from error


@click.command(cls=Command)
@click.argument("names", nargs=-1, required=True, metavar="KERNEL [KERNEL...]", shell_complete=kernels)
@pass_app
def rm(app: App, *, names: Sequence[str]) -> None:
    """Remove kernels that no pod uses."""
    def action(name: str) -> str:
        app.client.delete(f"{NATIVE}/kernels/{quoted(name)}")
        return name

    each(names, action)


@click.command(cls=Command)
@click.option("--project", default="", metavar="NAME", help="Of this project instead of the host")
@click.option("--unset", is_flag=True, help="With --project: go back to the host's default")
@click.argument("name", required=False, default="", metavar="[KERNEL]", shell_complete=kernels)
@pass_app
def default(app: App, *, name: str, project: str, unset: bool) -> None:
    """Show or choose the kernel of pods that name none. Pods that exist keep what they were made with."""
    if unset:
        if name or not project:
            raise CliError("--unset takes --project, and no kernel")
        app.client.delete(f"{NATIVE}/projects/{quoted(project)}/kernel")
    elif name:
        app.client.post(f"{NATIVE}/kernels/{quoted(name)}/default", {"project": project or None})
    elif project:
        raise CliError("no kernel is named", hint="`hyperctl --project NAME kernel ls` shows a project's default.")
    else:
        for kernel in app.client.get(f"{NATIVE}/kernels"):
            if kernel.get("default"):
                click.echo(kernel["name"])
