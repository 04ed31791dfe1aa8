"""hyperctl update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from hyperstack.cli.app import App, Command, each, pass_app
from hyperstack.cli.client import quoted
from hyperstack.cli.completing import containers
from hyperstack.cli.errors import CliError
from hyperstack.cli.options import resources, restart_policy


@click.command(cls=Command)
@click.option("-c", "--cpu-shares", type=int, default=0, help="CPU shares (relative weight)")
@click.option("--cpu-period", type=int, default=0, help="Period of the CPU limit in microseconds")
@click.option("--cpu-quota", type=int, default=0, help="CPU time per period in microseconds")
@click.option("--cpus", type=click.FloatRange(min=0), default=0, help="Number of CPUs, such as 1.5")
@click.option("--cpuset-cpus", default="", metavar="LIST", help="CPUs of the host that the pod's VM may use")
@click.option("-m", "--memory", default="", metavar="SIZE", help="Memory limit, such as 512m")
@click.option("--memory-reservation", default="", metavar="SIZE", help="Memory soft limit")
@click.option("--memory-swap", default="", metavar="SIZE", help="Memory plus swap; -1: no limit")
@click.option("--pids-limit", type=int, default=0, help="Limit of processes; -1: none")
@click.option("--restart", default="", help="When it exits: no, always, unless-stopped, on-failure[:TRIES]")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER [CONTAINER...]", shell_complete=containers)
@pass_app
def update(app: App, /, names: Sequence[str], restart: str, **limits: Any) -> None:
    """Change the limits or the restart policy of containers."""
    changes = resources(**limits)
    if restart:
        changes["RestartPolicy"] = restart_policy(restart)
    if not changes:
        raise CliError("you must provide one or more flags when using this command",
                       hint="Run 'hyperctl update --help' for what can be changed.")

    def action(name: str) -> str:
        answer = app.client.post(f"/containers/{quoted(name)}/update", payload=changes) or {}
        for warning in answer.get("Warnings") or ():
            click.echo(f"WARNING: {warning}", err=True)
        return name

    each(names, action)
