"""What the shell offers after TAB: names that the daemon knows. Silent where it does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from hyperstack.cli.client import NATIVE, Client
from hyperstack.cli.errors import CliError

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _completer(names: Callable[[Client], Iterable[str]]) -> Completer:
    def complete(ctx: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        options = ctx.find_root().params
        try:
            client = Client(options["host"], options.get("project") or "")
            return [CompletionItem(name) for name in names(client) if name.startswith(typed)]
        except (CliError, KeyError):
            return []
    return complete


def _container_names(client: Client, **query: Any) -> list[str]:
    return [name.removeprefix("/") for row in client.get("/containers/json", query) for name in row["Names"][:1]]


def _image_names(client: Client) -> list[str]:
    return [name for row in client.get("/images/json") for name in row.get("RepoTags") or ()]


containers = _completer(lambda client: _container_names(client, all=True))
running_containers = _completer(_container_names)
local_images = _completer(_image_names)
kernels = _completer(lambda client: [row["name"] for row in client.get(f"{NATIVE}/kernels")])
networks = _completer(lambda client: [row["Name"] for row in client.get("/networks")])
pods = _completer(lambda client: [row["name"] for row in client.get(f"{NATIVE}/pods")])
volumes = _completer(lambda client: [row["Name"] for row in client.get("/volumes").get("Volumes") or ()])
