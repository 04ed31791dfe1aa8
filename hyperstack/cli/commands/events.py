"""hyperctl events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from hyperstack.cli import units
from hyperstack.cli.app import App, Command, pass_app
from hyperstack.cli.client import filters
from hyperstack.cli.listing import printable


@click.command(cls=Command)
@click.option("-f", "--filter", "chosen", multiple=True, metavar="KEY=VALUE",
              help="Show those that match: container, event, image, label, type, volume, network")
@click.option("--format", "layout", default="", help="json or a TEMPLATE")
@click.option("--since", default="", metavar="TIME", help="From this time, or this long ago (10m)")
@click.option("--until", default="", metavar="TIME", help="Up to this time, then end")
@pass_app
def events(app: App, *, chosen: Sequence[str], layout: str, since: str, until: str) -> None:
    """Show what happens, as it happens."""
    render = _renderer(layout)
    response = app.client.request("GET", "/events", query={
        "since": units.parse_timestamp(since) if since else None,
        "until": units.parse_timestamp(until) if until else None, "filters": filters(chosen)})
    for event in response.json_lines():
        click.echo(render(event))


def _renderer(layout: str) -> Callable[[Any], str]:
    if not layout:
        return _line
    from hyperstack.cli import template, values

    return values.to_json if layout == "json" else template.parse(layout).render


def _line(event: Mapping[str, Any]) -> str:
    """`2024-05-01T12:00:00.123456789+02:00 container start ID (image=..., name=...)`"""
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    text = f"{_stamp(event)} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    return printable(f"{text} ({attributes})" if attributes else text)


def _stamp(event: Mapping[str, Any]) -> str:
    nanoseconds = int(event.get("timeNano") or int(event.get("time") or 0) * 1_000_000_000)
    local = datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC).astimezone()
    zone = local.isoformat()[-6:]
    return f"{local:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 1_000_000_000:09d}{'Z' if zone == '+00:00' else zone}"
