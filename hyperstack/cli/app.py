"""What every command has in hand, and the click classes that give the tree Docker's manners."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import click

from hyperstack.cli.client import DEFAULT_HOST, Client
from hyperstack.cli.errors import CliError

PROGRAM = "hyperctl"


@dataclass
class App:
    """The global options."""

    host: str = DEFAULT_HOST
    project: str = ""

    @cached_property
    def client(self) -> Client:
        return Client(self.host, self.project)


pass_app = click.make_pass_decorator(App, ensure=True)


class Command(click.Command):
    """A command whose switches may be written as Docker's: `--rm=false`, `--sig-proxy=false`."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Arguments as they are declared, options by their long names, as Docker's help lists them."""
        return sorted(super().get_params(ctx), key=_place_in_help)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _plain_switches(self, ctx, args))

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, " ".join(self.collect_usage_pieces(ctx)), "Usage:  ")


class Group(click.Group):
    """Commands that are imported when they are used."""

    command_class = Command

    def __init__(self, *args: Any, lazy: Mapping[str, str] | None = None, hidden_names: Sequence[str] = (),
                 sections: Mapping[str, Sequence[str]] | None = None, **kwargs: Any) -> None:
        """
        :param lazy: name of a command -> "module:attribute".
        :param hidden_names: aliases that help does not list.
        :param sections: headings of the help page and the commands under each, in order.
        """
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})
        self._hidden = frozenset(hidden_names)
        self._sections = dict(sections or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted((set(self._lazy) | set(self.commands)) - self._hidden)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        where = self._lazy.get(cmd_name)
        if where is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = where.partition(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]
                        ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing:
            self._unknown(ctx, name)
        return name, command, args[1:]

    def _unknown(self, ctx: click.Context, name: str) -> NoReturn:
        import difflib

        close = difflib.get_close_matches(name, self.list_commands(ctx), n=3, cutoff=0.6)
        guess = f"Did you mean {' or '.join(close)}?\n" if close else ""
        raise CliError(f"{PROGRAM}: unknown command: {ctx.command_path} {name}",
                       hint=f"{guess}Run '{ctx.command_path} --help' for more information")

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, " ".join(self.collect_usage_pieces(ctx)), "Usage:  ")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = self._sections or {"Commands": self.list_commands(ctx)}
        for heading, names in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name, self._summary(ctx, name)) for name in names])

    def _summary(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return command.get_short_help_str(limit=200) if command else ""


def _place_in_help(parameter: click.Parameter) -> tuple[bool, str]:
    if isinstance(parameter, click.Argument):
        return False, ""
    return True, max(parameter.opts, key=len).lstrip("-")


def _plain_switches(command: click.Command, ctx: click.Context, args: list[str]) -> list[str]:
    """`--switch=true` and `--switch=false` as click wants them; everything else as it is."""
    switches: dict[str, click.Option] = {}
    taking_value: set[str] = set()
    for option in command.get_params(ctx):
        if isinstance(option, click.Option):
            if option.is_flag:
                switches.update(dict.fromkeys(option.opts, option))
            elif not option.count:
                taking_value.update(option.opts)
    plain: list[str] = []
    rest = iter(args)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--" or (not word.startswith("-") and not ctx.allow_interspersed_args):
            plain += [word, *rest]
        elif equals and name in switches and value.lower() in ("true", "false", "1", "0", "t", "f"):
            plain += _switched(switches[name], name, value.lower() in ("true", "1", "t"))
        else:
            plain.append(word)
            if word in taking_value:
                plain += [following for following in [next(rest, None)] if following is not None]
    return plain


def _switched(option: click.Option, name: str, on: bool) -> list[str]:
    if on:
        return [name]
    return option.secondary_opts[:1]


def each(names: Sequence[str], action: Callable[[str], str | None]) -> None:
    """Do one thing to several objects as Docker does: print each that worked, then fail for those that did not.

    :param action: returns what to print, None for nothing.
    """
    failures: list[CliError] = []
    for name in names:
        try:
            done = action(name)
        except CliError as error:
            failures.append(error)
        else:
            if done is not None:
                click.echo(done)
    if failures:
        raise CliError("\n".join(error.message for error in failures), exit_code=failures[0].exit_code,
                       hint=failures[0].hint)


def confirm(question: str, *, force: bool) -> bool:
    """Whether the user agrees; without a terminal and without --force nothing is removed."""
    return force or click.confirm(f"WARNING! {question}\nAre you sure you want to continue?", default=False)
