"""hyperctl exec."""

from __future__ import annotations

from collections.abc import Sequence

import click

from hyperstack.cli import session, terminal
from hyperstack.cli.app import App, Command, pass_app
from hyperstack.cli.client import quoted
from hyperstack.cli.completing import running_containers
from hyperstack.cli.options import environment, environment_file


@click.command("exec", cls=Command, context_settings={"allow_interspersed_args": False})
@click.option("-d", "--detach", is_flag=True, help="Run in the background")
@click.option("--detach-keys", default=terminal.DEFAULT_DETACH_KEYS, show_default=True,
              help="Keys that leave the command running")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable")
@click.option("--env-file", multiple=True, help="Read environment variables from a file")
@click.option("-i", "--interactive", is_flag=True, help="Keep stdin open")
@click.option("--privileged", is_flag=True, help="All capabilities inside the VM; nothing on the host")
@click.option("-t", "--tty", is_flag=True, help="Allocate a terminal")
@click.option("-u", "--user", default="", metavar="NAME|UID[:GROUP|GID]", help="User, and group, of the command")
@click.option("-w", "--workdir", default="", metavar="PATH", help="Working directory")
@click.argument("name", metavar="CONTAINER", shell_complete=running_containers)
@click.argument("command", nargs=-1, required=True, metavar="COMMAND [ARG...]", type=click.UNPROCESSED)
@pass_app
def execute(app: App, *, name: str, command: Sequence[str], detach: bool, detach_keys: str, env: Sequence[str],
            env_file: Sequence[str], interactive: bool, privileged: bool, tty: bool, user: str, workdir: str) -> int:
    """Run a command in a running container, and exit with the command's code."""
    keys = terminal.parse_detach_keys(detach_keys)
    stdin = interactive and not detach
    session.require_terminal(tty=tty, stdin=stdin)
    size = terminal.size(1) if tty else None
    client = app.client
    ident = client.post(f"/containers/{quoted(name)}/exec", payload={
        "Cmd": list(command), "Tty": tty, "User": user, "WorkingDir": workdir, "Privileged": privileged,
        "Env": [*(line for file in env_file for line in environment_file(file)),
                *(environment(value) for value in env)],
        "AttachStdin": stdin, "AttachStdout": not detach, "AttachStderr": not detach, "Detach": detach,
        **({"ConsoleSize": list(size)} if size else {})})["Id"]
    start = {"Detach": detach, "Tty": tty, **({"ConsoleSize": list(size)} if size else {})}
    if detach:
        client.post(f"/exec/{ident}/start", payload=start)
        return 0
    ended = session.run(session.Attached(
        stream=client.upgrade(f"/exec/{ident}/start", payload=start), tty=tty, stdin=stdin, detach_keys=keys,
        resize=lambda rows, columns: client.post(f"/exec/{ident}/resize", {"h": rows, "w": columns})))
    if ended is session.Ended.DETACHED:
        return 0
    return int(client.get(f"/exec/{ident}/json").get("ExitCode") or 0)
