"""hyperctl attach and start."""

from __future__ import annotations

from collections.abc import Sequence

import click

from hyperstack.cli import attaching, session, terminal
from hyperstack.cli.app import App, Command, each, pass_app
from hyperstack.cli.client import Client, quoted
from hyperstack.cli.completing import containers, running_containers
from hyperstack.cli.errors import CliError

_DETACH_KEYS = click.option("--detach-keys", default=terminal.DEFAULT_DETACH_KEYS, show_default=True,
                            help="Keys that leave the container running")
_SIG_PROXY = click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on to the process")


@click.command(cls=Command)
@_DETACH_KEYS
@click.option("--no-stdin", is_flag=True, help="Do not attach stdin")
@_SIG_PROXY
@click.argument("name", metavar="CONTAINER", shell_complete=running_containers)
@pass_app
def attach(app: App, *, name: str, detach_keys: str, no_stdin: bool, sig_proxy: bool) -> int:
    """Attach this terminal to a running container, and exit with the container's code."""
    client = app.client
    facts = client.get(f"/containers/{quoted(name)}/json")
    state, config = facts["State"], facts["Config"]
    for wrong, why in (("Paused", "paused: unpause it first"), ("Restarting", "restarting: wait until it runs")):
        if state.get(wrong):
            raise CliError(f"cannot attach to {name}: it is {why}")
    if not state.get("Running"):
        raise CliError(f"cannot attach to {name}: it is stopped", hint=f"Start it with: hyperctl start -a {name}")
    stdin = bool(config.get("OpenStdin")) and not no_stdin
    session.require_terminal(tty=bool(config.get("Tty")), stdin=stdin)
    exited = attaching.Exit(client, facts["Id"], condition="not-running")
    ended = session.run(attaching.open_attached(client, facts["Id"], attaching.Wiring(
        tty=bool(config.get("Tty")), detach_keys=terminal.parse_detach_keys(detach_keys), sig_proxy=sig_proxy,
        streams=attaching.ALL_STREAMS if stdin else attaching.ALL_STREAMS - {"stdin"})))
    return 0 if ended is session.Ended.DETACHED else exited.code()


@click.command(cls=Command)
@click.option("-a", "--attach", "attached", is_flag=True, help="Attach stdout and stderr, and pass signals on")
@_DETACH_KEYS
@click.option("-i", "--interactive", is_flag=True, help="Attach stdin")
@_SIG_PROXY
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER [CONTAINER...]", shell_complete=containers)
@pass_app
def start(app: App, *, names: Sequence[str], attached: bool, detach_keys: str, interactive: bool, sig_proxy: bool
          ) -> int:
    """Start stopped containers."""
    client = app.client
    if attached or interactive:
        if len(names) > 1:
            raise CliError("you cannot start and attach multiple containers at once")
        return _start_attached(client, names[0], detach_keys, stdin=interactive, sig_proxy=sig_proxy)

    def action(name: str) -> str:
        client.post(f"/containers/{quoted(name)}/start")
        return name

    each(names, action)
    return 0


def _start_attached(client: Client, name: str, detach_keys: str, *, stdin: bool, sig_proxy: bool) -> int:
    facts = client.get(f"/containers/{quoted(name)}/json")
    ident, tty = facts["Id"], bool(facts["Config"].get("Tty"))
    stdin = stdin and bool(facts["Config"].get("OpenStdin"))
    session.require_terminal(tty=tty, stdin=stdin)

    def begin() -> None:
        client.post(f"/containers/{ident}/start")

    return attaching.attached_run(client, ident, attaching.Wiring(
        tty=tty, detach_keys=terminal.parse_detach_keys(detach_keys), sig_proxy=sig_proxy,
        streams=attaching.ALL_STREAMS if stdin else attaching.ALL_STREAMS - {"stdin"}),
        until_removed=bool(facts["HostConfig"].get("AutoRemove")), start=begin)
