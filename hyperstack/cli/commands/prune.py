"""hyperctl builder, container, image, network, volume and system prune."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from hyperstack.cli import units
from hyperstack.cli.app import App, Command, confirm, pass_app
from hyperstack.cli.client import Client, filters
from hyperstack.cli.units import parse_size

_FORCE = click.option("-f", "--force", is_flag=True, help="Do not ask")
_FILTER = click.option("--filter", "chosen", multiple=True, metavar="KEY=VALUE",
                       help="Only those that match: until=24h, label=KEY=VALUE")


@click.command("prune", cls=Command)
@click.option("-a", "--all", "every", is_flag=True, help="Also what images of this host are made from")
@click.option("--keep-storage", default="", metavar="BYTES", help="Keep so much of what was used last")
@_FILTER
@_FORCE
@pass_app
def builder_prune(app: App, *, every: bool, keep_storage: str, chosen: Sequence[str], force: bool) -> None:
    """Forget what steps of builds made."""
    what = "all build cache" if every else "all build cache that no image needs"
    if confirm(f"This will remove {what}.", force=force):
        _report(_cached(app.client, chosen, every=every, keep=parse_size(keep_storage) if keep_storage else 0))


@click.command("prune", cls=Command)
@_FILTER
@_FORCE
@pass_app
def container_prune(app: App, *, chosen: Sequence[str], force: bool) -> None:
    """Remove all stopped containers."""
    if confirm("This will remove all stopped containers.", force=force):
        _report(_containers(app.client, chosen))


@click.command("prune", cls=Command)
@click.option("-a", "--all", "every", is_flag=True, help="Remove all unused images, not only nameless ones")
@_FILTER
@_FORCE
@pass_app
def image_prune(app: App, *, every: bool, chosen: Sequence[str], force: bool) -> None:
    """Remove images that are not used."""
    what = "all images without at least one container associated to them" if every else "all dangling images"
    if confirm(f"This will remove {what}.", force=force):
        _report(_images(app.client, chosen, every=every))


@click.command("prune", cls=Command)
@_FILTER
@_FORCE
@pass_app
def network_prune(app: App, *, chosen: Sequence[str], force: bool) -> None:
    """Remove networks that no container names."""
    if confirm("This will remove all custom networks not used by at least one container.", force=force):
        _, lines, _ = _networks(app.client, chosen)
        if lines:
            click.echo("\n".join(["Deleted Networks:", *lines, ""]))


@click.command("prune", cls=Command)
@click.option("-a", "--all", "every", is_flag=True, help="Remove named volumes that are not used, too")
@_FILTER
@_FORCE
@pass_app
def volume_prune(app: App, *, every: bool, chosen: Sequence[str], force: bool) -> None:
    """Remove volumes that no container uses."""
    what = "all" if every else "anonymous"
    if confirm(f"This will remove {what} local volumes not used by at least one container.", force=force):
        _report(_volumes(app.client, chosen, every=every))


@click.command("prune", cls=Command)
@click.option("-a", "--all", "every", is_flag=True, help="Remove all unused images, not only nameless ones")
@click.option("--volumes", is_flag=True, help="Remove anonymous volumes, too")
@_FILTER
@_FORCE
@pass_app
def system_prune(app: App, *, every: bool, volumes: bool, chosen: Sequence[str], force: bool) -> None:
    """Remove stopped containers and what is not used any more."""
    lines = ["This will remove:", "  - all stopped containers",
             "  - all networks not used by at least one container",
             *(["  - all anonymous volumes not used by at least one container"] if volumes else []),
             "  - all images without at least one container associated to them" if every else "  - all dangling images",
             "  - all build cache" if every else "  - all build cache that no image needs"]
    if not confirm("\n".join(lines), force=force):
        return
    steps = [_containers(app.client, chosen), _networks(app.client, chosen)]
    if volumes:
        steps.append(_volumes(app.client, [value for value in chosen if not value.startswith("until")], every=False))
    steps.append(_images(app.client, chosen, every=every))
    steps.append(_cached(app.client, [value for value in chosen if value.startswith("until")], every=every))
    _report(*steps)


_Pruned = tuple[str, list[str], int]
"""What kind, lines that name each, bytes freed."""


def _containers(client: Client, chosen: Sequence[str]) -> _Pruned:
    answer = client.post("/containers/prune", {"filters": filters(chosen)})
    return "Deleted Containers", list(answer.get("ContainersDeleted") or ()), _freed(answer)


def _images(client: Client, chosen: Sequence[str], *, every: bool) -> _Pruned:
    answer = client.post("/images/prune", {"filters": filters([*chosen, *(["dangling=false"] if every else [])])})
    lines = [f"{what.lower()}: {name}" for step in answer.get("ImagesDeleted") or () for what, name in step.items()]
    return "Deleted Images", lines, _freed(answer)


def _cached(client: Client, chosen: Sequence[str], *, every: bool, keep: int = 0) -> _Pruned:
    answer = client.post("/build/prune", {"filters": filters(chosen), "all": every, "keep-storage": keep or None})
    return "Deleted build cache objects", list(answer.get("CachesDeleted") or ()), _freed(answer)


def _networks(client: Client, chosen: Sequence[str]) -> _Pruned:
    answer = client.post("/networks/prune", {"filters": filters(chosen)})
    return "Deleted Networks", list(answer.get("NetworksDeleted") or ()), 0


def _volumes(client: Client, chosen: Sequence[str], *, every: bool) -> _Pruned:
    answer = client.post("/volumes/prune", {"filters": filters([*chosen, *(["all=true"] if every else [])])})
    return "Deleted Volumes", list(answer.get("VolumesDeleted") or ()), _freed(answer)


def _freed(answer: dict[str, Any]) -> int:
    return int(answer.get("SpaceReclaimed") or 0)


def _report(*steps: _Pruned) -> None:
    for title, lines, _ in steps:
        if lines:
            click.echo("\n".join([f"{title}:", *lines, ""]))
    click.echo(f"Total reclaimed space: {units.decimal_size(sum(freed for _, _, freed in steps))}")
