"""hyperctl run and create."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hyperstack.cli import attaching, pulling, references, session, terminal
from hyperstack.cli.app import PROGRAM, App, Command, pass_app
from hyperstack.cli.client import Client
from hyperstack.cli.completing import kernels, local_images, networks
from hyperstack.cli.create import CreateOptions, body
from hyperstack.cli.errors import USAGE_EXIT, ApiError, CliError

NOT_FOUND_EXIT, NOT_INVOKABLE_EXIT = 127, 126
_NOT_FOUND = ("executable file not found", "no such file or directory")
_NOT_INVOKABLE = ("permission denied", "is a directory")

_REPEATED = {
    "add-host": "Add a line to /etc/hosts (HOST:IP)", "annotation": "Add an annotation (KEY=VALUE)",
    "cap-add": "Add a Linux capability", "cap-drop": "Drop a Linux capability",
    "dns": "Use this DNS server", "dns-option": "Set a resolver option", "dns-search": "Set a DNS search domain",
    "env-file": "Read environment variables from a file", "expose": "Expose a port or a range of ports",
    "group-add": "Join a further group", "label-file": "Read labels from a file",
    "link": "Call another container of the network so (CONTAINER[:ALIAS])",
    "log-opt": "Set an option of the log driver", "mount": "Attach a file system (type=,source=,target=,...)",
    "network-alias": "What else it is called on its network",
    "security-opt": "Set a security option (no-new-privileges, seccomp=unconfined)",
    "storage-opt": "Set a storage option (size=10G)", "sysctl": "Set a kernel parameter (KEY=VALUE)",
    "tmpfs": "Mount a tmpfs (PATH[:OPTIONS])", "ulimit": "Set a resource limit (NAME=SOFT[:HARD])",
}
_TEXTS = {
    "cidfile": "Write the container's id to a file",
    "cpuset-cpus": "CPUs of the host that the pod's VM may use, such as 0-2,5", "domainname": "NIS domain name",
    "health-cmd": "Command that tells whether the container is well",
    "health-interval": "Time between two health checks (default 30s)",
    "health-start-interval": "Time between two health checks in the start period (default 5s)",
    "health-start-period": "Time from the start in which failed checks do not count (default 0s)",
    "health-timeout": "Time that one health check may take (default 30s)", "ip": "IPv4 address",
    "ip6": "IPv6 address",
    "ipc": "IPC: private, shareable, none, or container:NAME to have that one's",
    "log-driver": "Log driver: json-file, local or none", "mac-address": "MAC address",
    "memory-reservation": "Memory soft limit",
    "memory-swap": "Memory plus swap; -1: no limit", "name": "Name the container",
    "pid": "PID namespace: container:NAME for that one's",
    "platform": "Platform of the image (os/arch)", "shm-size": "Size of /dev/shm",
    "stop-signal": "Signal that stops the container",
}
_FLAGS = {
    "no-healthcheck": "Run no health check, whatever the image says",
    "init": "Run an init as PID 1 that forwards signals and reaps processes",
    "privileged": "All capabilities inside the VM; nothing on the host",
    "read-only": "Mount the root file system read-only",
}


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    *(click.option(f"--{name}", multiple=True, help=text) for name, text in _REPEATED.items()),
    *(click.option(f"--{name}", default="", help=text) for name, text in _TEXTS.items()),
    *(click.option(f"--{name}", is_flag=True, help=text) for name, text in _FLAGS.items()),
    click.option("-a", "--attach", multiple=True, metavar="STREAM", help="Attach to stdin, stdout or stderr"),
    click.option("-c", "--cpu-shares", type=int, default=0, help="CPU shares (relative weight)"),
    click.option("--cpu-period", type=int, default=0, help="Period of the CPU limit in microseconds"),
    click.option("--cpu-quota", type=int, default=0, help="CPU time per period in microseconds"),
    click.option("--cpus", type=click.FloatRange(min=0), default=0, help="Number of CPUs, such as 1.5"),
    click.option("--entrypoint", default=None, help="Replace the image's entrypoint"),
    click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable"),
    click.option("--health-retries", type=click.IntRange(min=0), default=0,
                 help="Failed checks, one after the other, that make it unhealthy (default 3)"),
    click.option("-h", "--hostname", default="", help="Host name"),
    click.option("-i", "--interactive", is_flag=True, help="Keep stdin open"),
    click.option("--kernel", default="", shell_complete=kernels,
                 help="Boot the pod with this kernel (see: hyperctl kernel ls)"),
    click.option("-l", "--label", multiple=True, metavar="KEY[=VALUE]", help="Set a label"),
    click.option("-m", "--memory", default="", metavar="SIZE", help="Memory limit, such as 512m"),
    click.option("--network", "--net", multiple=True, shell_complete=networks,
                 help="Join this network, none, or container:NAME's; the first of several is the one that --ip, "
                      "--network-alias, --link and --mac-address are of"),
    click.option("--oom-score-adj", type=click.IntRange(-1000, 1000), default=0,
                 help="How early it is killed where memory gets short"),
    click.option("--pids-limit", type=int, default=0, help="Limit of processes; -1: none"),
    click.option("-p", "--publish", multiple=True, metavar="[[IP:]HOST:]PORT",
                 help="Publish a port, or a range of ports, on the host"),
    click.option("-P", "--publish-all", is_flag=True, help="Publish every exposed port on a port of the host's choice"),
    click.option("--pull", type=click.Choice(["always", "missing", "never"]), default="missing", show_default=True,
                 help="When to pull the image"),
    click.option("-q", "--quiet", is_flag=True, help="Do not show the pull"),
    click.option("--restart", default="no", show_default=True,
                 help="When it exits: no, always, unless-stopped, on-failure[:TRIES]"),
    click.option("--rm", is_flag=True, help="Remove the container and its anonymous volumes when it exits"),
    click.option("--stop-timeout", type=int, default=None, help="Seconds from the stop signal to SIGKILL"),
    click.option("-t", "--tty", is_flag=True, help="Allocate a terminal"),
    click.option("-u", "--user", default="", metavar="NAME|UID[:GROUP|GID]", help="User, and group, of the process"),
    click.option("-v", "--volume", multiple=True, metavar="[SOURCE:]PATH[:ro]", help="Mount a volume or a host path"),
    click.option("--volumes-from", multiple=True, metavar="CONTAINER[:ro]",
                 help="Mount what that container mounts of volumes and host paths"),
    click.option("-w", "--workdir", default="", metavar="PATH", help="Working directory"),
    click.argument("image", shell_complete=local_images),
    click.argument("command", nargs=-1, metavar="[COMMAND] [ARG...]", type=click.UNPROCESSED),
)


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command(cls=Command, context_settings={"allow_interspersed_args": False})
@_with_options
@pass_app
def create(app: App, /, **given: Any) -> None:
    """Create a container without starting it, and print its id."""
    options = CreateOptions(detach=False, **given)
    click.echo(_created(app.client, options))


@click.command(cls=Command, context_settings={"allow_interspersed_args": False})
@click.option("-d", "--detach", is_flag=True, help="Run in the background and print the container's id")
@click.option("--detach-keys", default=terminal.DEFAULT_DETACH_KEYS, show_default=True,
              help="Keys that leave the container running")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on to the process")
@_with_options
@pass_app
def run(app: App, /, detach_keys: str, sig_proxy: bool, **given: Any) -> int:
    """Create a pod from an image, run a command in it, and exit with the command's code."""
    try:
        return _run(app.client, CreateOptions(**given), terminal.parse_detach_keys(detach_keys), sig_proxy=sig_proxy)
    except ApiError as error:
        raise CliError(f"{PROGRAM}: {error.message}", exit_code=_exit_code(error.detail)) from error
    except CliError as error:
        raise CliError(f"{PROGRAM}: {error.message}", exit_code=USAGE_EXIT,
                       hint=error.hint or "Run 'hyperctl run --help' for more information") from error


def _run(client: Client, options: CreateOptions, detach_keys: bytes, *, sig_proxy: bool) -> int:
    attached = options.attached
    session.require_terminal(tty=options.tty, stdin="stdin" in attached)
    ident = _created(client, options)

    def start() -> None:
        try:
            client.post(f"/containers/{ident}/start")
        except ApiError:
            if options.rm:
                _take_back(client, ident)
            raise

    if not attached:
        start()
        click.echo(ident)
        return 0
    return attaching.attached_run(client, ident, attaching.Wiring(
        tty=options.tty, detach_keys=detach_keys, sig_proxy=sig_proxy, streams=attached),
        until_removed=options.rm, start=start)


def _created(client: Client, options: CreateOptions) -> str:
    """Create, pulling the image where that is asked for. Returns the id."""
    cidfile = _reserved_cidfile(options.cidfile)
    payload = body(options, console=terminal.size(1) if options.tty else None)
    query = {"name": options.name or None, "platform": options.platform or None}
    if options.pull == "always":
        pulling.pull(client, options.image, platform=options.platform, quiet=options.quiet, to_stderr=True)
    try:
        answer = client.post("/containers/create", query, payload)
    except ApiError as error:
        if error.status != 404 or "image" not in error.detail.lower() or options.pull != "missing":
            raise
        click.echo(f"Unable to find image '{references.tagged(options.image)}' locally", err=True)
        pulling.pull(client, options.image, platform=options.platform, quiet=options.quiet, to_stderr=True)
        answer = client.post("/containers/create", query, payload)
    for warning in answer.get("Warnings") or ():
        click.echo(f"WARNING: {warning}", err=True)
    ident = str(answer["Id"])
    if cidfile is not None:
        cidfile.write_text(ident)
    return ident


def _reserved_cidfile(name: str) -> Path | None:
    """The file for the id, checked before anything is made: an old one may name a container that still runs."""
    if not name:
        return None
    path = Path(name)
    if path.exists():
        raise CliError(f"container ID file found, make sure the other container isn't running or delete {name}")
    if not os.access(path.parent, os.W_OK):
        raise CliError(f"cannot write the container ID file {name}: no such directory, or not yours to write in")
    return path


def _exit_code(message: str) -> int:
    """A start that failed, as a shell would number it."""
    lowered = message.lower()
    if any(words in lowered for words in _NOT_FOUND):
        return NOT_FOUND_EXIT
    return NOT_INVOKABLE_EXIT if any(words in lowered for words in _NOT_INVOKABLE) else USAGE_EXIT


def _take_back(client: Client, ident: str) -> None:
    """Remove a container that could not be started, so that its name is free when we return."""
    try:
        client.delete(f"/containers/{ident}", {"v": True, "force": True})
    except ApiError:
        return  # the daemon was quicker; why it did not start is the news
