"""hyperctl images, pull, push, search, rmi, tag and history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from hyperstack.cli import pulling, references, units
from hyperstack.cli.app import App, Command, each, pass_app
from hyperstack.cli.client import filters, quoted_image
from hyperstack.cli.completing import local_images
from hyperstack.cli.errors import CliError
from hyperstack.cli.listing import Listing, ellipsis, short_id

_NONE = "<none>"
_HEADINGS = {
    "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "ID": "IMAGE ID", "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT", "Size": "SIZE", "Containers": "CONTAINERS",
}
_IMAGES = Listing(_HEADINGS, ("Repository", "Tag", "ID", "CreatedSince", "Size"))
_WITH_DIGESTS = Listing(_HEADINGS, ("Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"))
_HISTORY = Listing({"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY",
                    "Size": "SIZE", "Comment": "COMMENT"}, ("ID", "CreatedSince", "CreatedBy", "Size", "Comment"))
_CREATED_BY_WIDTH = 45


@click.command("images", cls=Command)
@click.option("-a", "--all", "every", is_flag=True, help="Show images that are only layers of others, too")
@click.option("--digests", is_flag=True, help="Show digests")
@click.option("-f", "--filter", "chosen", multiple=True, metavar="KEY=VALUE",
              help="Show those that match: dangling, label, reference, before, since")
@click.option("--format", "layout", default="", help="table, json, table TEMPLATE or TEMPLATE")
@click.option("--no-trunc", is_flag=True, help="Do not shorten ids")
@click.option("-q", "--quiet", is_flag=True, help="Show ids only")
@click.argument("name", required=False, default="", metavar="[REPOSITORY[:TAG]]", shell_complete=local_images)
@pass_app
def images(app: App, *, name: str, every: bool, digests: bool, chosen: Sequence[str], layout: str, no_trunc: bool,
           quiet: bool) -> None:
    """List images."""
    wanted = [*chosen, f"reference={name}"] if name else chosen
    found = app.client.get("/images/json", {"all": every, "filters": filters(wanted), "digests": digests})
    if quiet:
        for item in found:
            click.echo(item["Id"] if no_trunc else short_id(item["Id"]))
        return
    listing = _WITH_DIGESTS if digests else _IMAGES
    listing.show([row for item in found for row in _rows(item, digests=digests, no_trunc=no_trunc)], layout)


def _rows(item: Mapping[str, Any], *, digests: bool, no_trunc: bool) -> list[dict[str, Any]]:
    """One row per name of an image, and one of <none> where it has none."""
    created = float(item.get("Created") or 0)
    by_repository = dict(reference.split("@", 1) for reference in item.get("RepoDigests") or () if "@" in reference)
    names = [references.split(tag) for tag in item.get("RepoTags") or () if tag != f"{_NONE}:{_NONE}"]
    if not names:
        names = [(repository, _NONE) for repository in by_repository] if digests else []
    return [{
        "Repository": repository, "Tag": tag or "latest",
        "Digest": by_repository.get(repository, _NONE),
        "ID": item["Id"] if no_trunc else short_id(item["Id"]),
        "CreatedSince": units.ago(created), "CreatedAt": units.local_time(created),
        "Size": units.decimal_size(item.get("Size") or 0, 3),
        "Containers": str(count) if (count := item.get("Containers", -1)) >= 0 else "N/A",
    } for repository, tag in names or [(_NONE, _NONE)]]


@click.command(cls=Command)
@click.option("--platform", default="", help="Platform of the image (os/arch)")
@click.option("-q", "--quiet", is_flag=True, help="Print the name only")
@click.argument("name", metavar="NAME[:TAG|@DIGEST]")
@pass_app
def pull(app: App, *, name: str, platform: str, quiet: bool) -> None:
    """Download an image from a registry."""
    pulling.pull(app.client, name, platform=platform, quiet=quiet)
    click.echo(references.canonical(name))


@click.command(cls=Command)
@click.option("-a", "--all-tags", is_flag=True, help="Push all tags of the repository")
@click.option("-q", "--quiet", is_flag=True, help="Print the name only")
@click.argument("name", metavar="NAME[:TAG]", shell_complete=local_images)
@pass_app
def push(app: App, *, name: str, all_tags: bool, quiet: bool) -> None:
    """Upload an image to the registry in its name."""
    from hyperstack.cli.credentials import headers_for

    repository, version = references.split(name)
    if all_tags and version:
        raise CliError("a tag can't be used with --all-tags/-a")
    if not version and not all_tags and not quiet:
        click.echo("Using default tag: latest")
    response = app.client.request("POST", f"/images/{quoted_image(repository)}/push", headers=headers_for(name),
                                  query={"tag": None if all_tags else version or "latest"})
    pulling.show(response.json_lines(), quiet=quiet)
    if quiet:
        click.echo(references.canonical(name))


@click.command(cls=Command)
@click.option("--limit", type=click.IntRange(1, 100), default=25, show_default=True, help="Show so many at most")
@click.argument("term", metavar="REGISTRY/TERM")
@pass_app
def search(app: App, *, term: str, limit: int) -> None:
    """Look for repositories in the catalogue of a registry."""
    for found in app.client.get("/images/search", {"term": term, "limit": limit}):
        click.echo(found["name"])


@click.command(cls=Command)
@click.option("-f", "--force", is_flag=True, help="Remove it though it has several names, or a stopped container")
@click.option("--no-prune", is_flag=True, help="Keep parents that have no name")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE [IMAGE...]", shell_complete=local_images)
@pass_app
def rmi(app: App, *, names: Sequence[str], force: bool, no_prune: bool) -> None:
    """Remove images."""
    def action(name: str) -> str | None:
        removed = app.client.delete(f"/images/{quoted_image(name)}", {"force": force, "noprune": no_prune}) or ()
        return "\n".join(f"{what}: {ident}" for step in removed for what, ident in step.items()) or None

    each(names, action)


@click.command(cls=Command)
@click.argument("name", metavar="SOURCE_IMAGE[:TAG]", shell_complete=local_images)
@click.argument("target", metavar="TARGET_IMAGE[:TAG]")
@pass_app
def tag(app: App, *, name: str, target: str) -> None:
    """Give an image a further name."""
    repository, version = references.split(target)
    app.client.post(f"/images/{quoted_image(name)}/tag", {"repo": repository, "tag": version or "latest"})


@click.command(cls=Command)
@click.option("--format", "layout", default="", help="table, json, table TEMPLATE or TEMPLATE")
@click.option("-H", "--human/--no-human", default=True, help="Write sizes and times for people")
@click.option("--no-trunc", is_flag=True, help="Do not shorten ids and commands")
@click.option("-q", "--quiet", is_flag=True, help="Show ids only")
@click.argument("name", metavar="IMAGE", shell_complete=local_images)
@pass_app
def history(app: App, *, name: str, layout: str, human: bool, no_trunc: bool, quiet: bool) -> None:
    """Show the layers of an image and what made them."""
    found = app.client.get(f"/images/{quoted_image(name)}/history")
    if quiet:
        for item in found:
            click.echo(short_id(item["Id"], no_trunc=no_trunc))
        return
    _HISTORY.show([_step(item, human=human, no_trunc=no_trunc) for item in found], layout)


def _step(item: Mapping[str, Any], *, human: bool, no_trunc: bool) -> dict[str, Any]:
    created = float(item.get("Created") or 0)
    by = str(item.get("CreatedBy") or "").replace("\t", " ")
    at = units.local_time(created)
    return {
        "ID": short_id(item["Id"], no_trunc=no_trunc),
        "CreatedSince": units.ago(created) if human else at,
        "CreatedAt": at,
        "CreatedBy": by if no_trunc else ellipsis(by, _CREATED_BY_WIDTH),
        "Size": units.decimal_size(item.get("Size") or 0, 3) if human else str(item.get("Size") or 0),
        "Comment": str(item.get("Comment") or ""),
    }
