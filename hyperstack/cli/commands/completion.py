"""hyperctl completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from hyperstack.cli.app import PROGRAM, Command

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_HYPERCTL_COMPLETE"


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  hyperctl completion bash > /etc/bash_completion.d/hyperctl
    zsh:   hyperctl completion zsh > "${fpath[1]}/_hyperctl"
    fish:  hyperctl completion fish > ~/.config/fish/completions/hyperctl.fish
    """
    click.echo(script(ctx.find_root().command, shell), nl=False)


def script(root: click.Command, shell: str) -> str:
    """The script: it asks hyperctl itself for what can follow."""
    kind = get_completion_class(shell)
    assert kind is not None  # SHELLS are those that click knows
    return kind(root, {}, PROGRAM, _VARIABLE).source()
