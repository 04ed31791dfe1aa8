"""The entry point of hyperctl: the command tree, and the one place where errors become words and exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Any, NoReturn

import click

from hyperstack import __version__, cli
from hyperstack.cli.app import PROGRAM, App, Group
from hyperstack.cli.client import DEFAULT_HOST
from hyperstack.cli.errors import USAGE_EXIT, CliError
from hyperstack.cli.streams import OutputClosed

_C = cli.__name__ + ".commands."

_CONTAINER = {
    "attach": _C + "attach:attach", "commit": _C + "layers:commit", "cp": _C + "cp:cp", "create": _C + "run:create",
    "diff": _C + "show:diff", "exec": _C + "execute:execute", "export": _C + "layers:export",
    "inspect": _C + "inspect:container_inspect", "kill": _C + "lifecycle:kill", "logs": _C + "logs:logs",
    "ls": _C + "ps:ps", "list": _C + "ps:ps", "ps": _C + "ps:ps", "pause": _C + "lifecycle:pause",
    "port": _C + "show:port", "prune": _C + "prune:container_prune", "rename": _C + "lifecycle:rename",
    "restart": _C + "lifecycle:restart", "rm": _C + "lifecycle:rm", "remove": _C + "lifecycle:rm",
    "run": _C + "run:run", "start": _C + "attach:start", "stats": _C + "stats:stats", "stop": _C + "lifecycle:stop",
    "top": _C + "show:top", "unpause": _C + "lifecycle:unpause", "update": _C + "update:update",
    "wait": _C + "lifecycle:wait",
}
_IMAGE = {
    "build": _C + "build:build", "history": _C + "images:history",
    "import": _C + "image_files:import_", "inspect": _C + "inspect:image_inspect",
    "load": _C + "image_files:load", "ls": _C + "images:images", "list": _C + "images:images",
    "prune": _C + "prune:image_prune", "pull": _C + "images:pull", "push": _C + "images:push", "rm": _C + "images:rmi",
    "remove": _C + "images:rmi", "save": _C + "image_files:save", "search": _C + "images:search",
    "tag": _C + "images:tag",
}
_VOLUME = {
    "create": _C + "volumes:create", "inspect": _C + "inspect:volume_inspect", "ls": _C + "volumes:ls",
    "list": _C + "volumes:ls", "prune": _C + "prune:volume_prune", "rm": _C + "volumes:rm",
    "remove": _C + "volumes:rm",
}
_NETWORK = {
    "connect": _C + "networks:connect", "create": _C + "networks:create", "disconnect": _C + "networks:disconnect",
    "inspect": _C + "inspect:network_inspect", "ls": _C + "networks:ls", "list": _C + "networks:ls",
    "prune": _C + "prune:network_prune", "rm": _C + "networks:rm", "remove": _C + "networks:rm",
}
_POD = {
    "create": _C + "pods:create", "inspect": _C + "inspect:pod_inspect", "logs": _C + "pods:logs",
    "ls": _C + "pods:ls", "list": _C + "pods:ls", "rm": _C + "pods:rm", "remove": _C + "pods:rm",
    "start": _C + "pods:start", "stop": _C + "pods:stop",
}
_SYSTEM = {
    "df": _C + "system:df", "events": _C + "events:events", "info": _C + "system:info",
    "prune": _C + "prune:system_prune",
}
_KERNEL = {
    "add": _C + "kernels:add", "build": _C + "kernels:build", "default": _C + "kernels:default",
    "inspect": _C + "inspect:kernel_inspect", "ls": _C + "kernels:ls", "list": _C + "kernels:ls",
    "rm": _C + "kernels:rm", "remove": _C + "kernels:rm",
}

_BUILDER = {"build": _C + "build:build", "prune": _C + "prune:builder_prune"}
_TLS = {"client": _C + "tls:client", "init": _C + "tls:init"}
_CONTEXT = {
    "create": _C + "contexts:create", "inspect": _C + "contexts:inspect", "ls": _C + "contexts:ls",
    "list": _C + "contexts:ls", "rm": _C + "contexts:rm", "remove": _C + "contexts:rm", "show": _C + "contexts:show",
    "use": _C + "contexts:use",
}

_TOP = {
    **{name: where for name, where in _CONTAINER.items() if name not in ("ls", "list", "remove", "prune", "inspect")},
    "build": _C + "build:build", "completion": _C + "completion:completion",
    "doctor": _C + "system:doctor", "events": _C + "events:events",
    "history": _IMAGE["history"], "images": _IMAGE["ls"], "import": _IMAGE["import"], "info": _SYSTEM["info"],
    "inspect": _C + "inspect:inspect", "load": _IMAGE["load"], "login": _C + "login:login",
    "logout": _C + "login:logout", "pull": _IMAGE["pull"], "push": _IMAGE["push"], "rmi": _IMAGE["rm"],
    "save": _IMAGE["save"], "search": _IMAGE["search"], "tag": _IMAGE["tag"], "version": _C + "system:version",
}

_MANAGEMENT = ("builder", "container", "context", "image", "kernel", "network", "pod", "system", "tls", "volume")
_COMMON = ("run", "exec", "ps", "logs", "stop", "rm", "build", "pull", "images", "inspect", "version", "info", "doctor")


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"HyperStack version {__version__}")
        ctx.exit()


@click.group(cls=Group, name=PROGRAM, lazy=_TOP, invoke_without_command=True, subcommand_metavar="COMMAND [ARG...]",
             sections={"Common Commands": _COMMON, "Management Commands": _MANAGEMENT,
                       "Commands": sorted(set(_TOP) - set(_COMMON))},
             epilog="Run 'hyperctl COMMAND --help' for more information on a command.")
@click.option("-H", "--host", envvar="HYPERSTACK_HOST", default=DEFAULT_HOST, show_default=True, metavar="unix://PATH",
              help="Socket of the daemon (also: HYPERSTACK_HOST)")
@click.option("--project", envvar="HYPERSTACK_PROJECT", default="", metavar="NAME",
              help="Act in this project (also: HYPERSTACK_PROJECT)")
@click.option("-v", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="Print the version and quit")
@click.pass_context
def hyperctl(ctx: click.Context, host: str, project: str) -> None:
    """Run Docker images as HyperVM pods: each in a small virtual machine of its own."""
    ctx.obj = App(host=host, project=project)
    _help_without_command(ctx)


def _help_without_command(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _management(name: str, summary: str, commands: dict[str, str]) -> None:
    """Add one of Docker's management commands, such as `image`."""
    @click.pass_context
    def group(ctx: click.Context) -> None:
        _help_without_command(ctx)

    hyperctl.add_command(click.group(cls=Group, name=name, help=summary, lazy=commands, invoke_without_command=True,
                                     subcommand_metavar="COMMAND [ARG...]", hidden_names=("list", "remove"))(group))


_management("builder", "Build images, and tidy what builds keep", _BUILDER)
_management("container", "Manage containers", _CONTAINER)
_management("context", "Manage contexts of the docker command line", _CONTEXT)
_management("image", "Manage images", _IMAGE)
_management("kernel", "Manage the kernels that pods boot", _KERNEL)
_management("network", "Manage networks", _NETWORK)
_management("pod", "Manage pods of several containers", _POD)
_management("system", "Show and tidy what the host holds", _SYSTEM)
_management("tls", "Make certificates for hyperd over TCP", _TLS)
_management("volume", "Manage volumes", _VOLUME)


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with Docker's codes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without these characters is no reason to fail
    try:
        code: Any = hyperctl.main(args, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except CliError as error:
        _say(error.message, error.hint)
        _leave(error.exit_code)
    except click.UsageError as error:
        _leave(_usage(error))
    except click.ClickException as error:
        _say(f"{PROGRAM}: {error.format_message()}")
        _leave(1)
    except (KeyboardInterrupt, click.Abort):
        _leave(128 + signal.SIGINT)
    except (OutputClosed, BrokenPipeError):
        _leave(128 + signal.SIGPIPE)
    except OSError as error:
        _say(f"{PROGRAM}: {error}")
        _leave(1)
    _leave(code if isinstance(code, int) else 0)


def _usage(error: click.UsageError) -> int:
    """Say what is wrong with the words typed; 125 for a flag and 1 for an argument, as Docker has it."""
    ctx = error.ctx
    if ctx is None:
        _say(f"{PROGRAM}: {error.format_message()}")
        return USAGE_EXIT
    usage = "Usage:  " + " ".join([ctx.command_path, *ctx.command.collect_usage_pieces(ctx)])
    _say(f"{PROGRAM}: {error.format_message()}",
         f"\n{usage}\n\nRun '{ctx.command_path} --help' for more information")
    about_argument = isinstance(error, click.BadParameter) and isinstance(error.param, click.Argument)
    about_flag = isinstance(error, click.BadParameter | click.BadOptionUsage | click.NoSuchOption)
    return USAGE_EXIT if about_flag and not about_argument else 1


def _say(message: str, hint: str = "") -> None:
    try:
        click.echo(message, err=True)
        if hint:
            click.echo(hint, err=True)
    except BrokenPipeError:
        return  # nobody listens; the exit code still tells


def _leave(code: int) -> NoReturn:
    """Exit without flushing into a pipe that is closed: the interpreter would complain about it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()
