"""hyperctl stop, kill, restart, pause, unpause, wait, rm and rename."""

from __future__ import annotations

from collections.abc import Sequence

import click

from hyperstack.cli.app import App, Command, each, pass_app
from hyperstack.cli.client import Query, quoted
from hyperstack.cli.completing import containers, running_containers

_RUNNING = click.argument("names", nargs=-1, required=True, metavar="CONTAINER [CONTAINER...]",
                          shell_complete=running_containers)
_ANY = click.argument("names", nargs=-1, required=True, metavar="CONTAINER [CONTAINER...]", shell_complete=containers)
_TIMEOUT = click.option("-t", "--timeout", "--time", type=int, default=None,
                        help="Seconds before SIGKILL (-1: wait for ever)")
_SIGNAL = click.option("-s", "--signal", default=None, help="Signal to send")


def _act(app: App, names: Sequence[str], verb: str, query: Query | None = None) -> None:
    def action(name: str) -> str:
        app.client.post(f"/containers/{quoted(name)}/{verb}", query)
        return name

    each(names, action)


@click.command(cls=Command)
@_TIMEOUT
@_SIGNAL
@_RUNNING
@pass_app
def stop(app: App, *, names: Sequence[str], timeout: int | None, signal: str | None) -> None:
    """Stop containers: their stop signal, then SIGKILL."""
    _act(app, names, "stop", {"t": timeout, "signal": signal})


@click.command(cls=Command)
@_TIMEOUT
@_SIGNAL
@_ANY
@pass_app
def restart(app: App, *, names: Sequence[str], timeout: int | None, signal: str | None) -> None:
    """Stop and start containers."""
    _act(app, names, "restart", {"t": timeout, "signal": signal})


@click.command(cls=Command)
@_SIGNAL
@_RUNNING
@pass_app
def kill(app: App, *, names: Sequence[str], signal: str | None) -> None:
    """Send a signal, SIGKILL where none is named."""
    _act(app, names, "kill", {"signal": signal})


@click.command(cls=Command)
@_RUNNING
@pass_app
def pause(app: App, *, names: Sequence[str]) -> None:
    """Freeze the processes of containers."""
    _act(app, names, "pause")


@click.command(cls=Command)
@_RUNNING
@pass_app
def unpause(app: App, *, names: Sequence[str]) -> None:
    """Let the processes of paused containers go on."""
    _act(app, names, "unpause")


@click.command(cls=Command)
@_RUNNING
@pass_app
def wait(app: App, *, names: Sequence[str]) -> None:
    """Wait until containers stop, and print their exit codes."""
    each(names, lambda name: str(app.client.post(f"/containers/{quoted(name)}/wait")["StatusCode"]))


@click.command(cls=Command)
@click.option("-f", "--force", is_flag=True, help="Remove running containers, too (SIGKILL)")
@click.option("-v", "--volumes", is_flag=True, help="Remove their anonymous volumes, too")
@_ANY
@pass_app
def rm(app: App, *, names: Sequence[str], force: bool, volumes: bool) -> None:
    """Remove containers."""
    def action(name: str) -> str:
        app.client.delete(f"/containers/{quoted(name.removeprefix('/'))}", {"force": force, "v": volumes})
        return name

    each(names, action)


@click.command(cls=Command)
@click.argument("name", metavar="CONTAINER", shell_complete=containers)
@click.argument("new_name", metavar="NEW_NAME")
@pass_app
def rename(app: App, *, name: str, new_name: str) -> None:
    """Give a container another name."""
    app.client.post(f"/containers/{quoted(name)}/rename", {"name": new_name})
