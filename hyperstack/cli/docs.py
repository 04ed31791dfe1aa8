"""Writes the pages of docs/commands, and the completion scripts, from the commands themselves.

    python -m hyperstack.cli.docs docs/commands [packaging/completions]
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from hyperstack.cli.app import PROGRAM, Group
from hyperstack.cli.commands.completion import SHELLS, script
from hyperstack.cli.examples import EXAMPLES, EXIT_CODES
from hyperstack.cli.main import hyperctl

_COMPLETION_FILES = {"bash": "hyperctl.bash", "zsh": "_hyperctl", "fish": "hyperctl.fish"}
_WITH_EXIT_CODES = ("run", "exec")
_PREFORMATTED = "\b\n"
"""Click's mark at the head of a paragraph that is not to be wrapped."""

_NOTE = "<!-- Written by: python -m hyperstack.cli.docs docs/commands -->\n"


def pages() -> dict[str, str]:
    """File name -> text, of all pages."""
    found = _by_page()
    made = {f"{path.replace(' ', '_')}.md": _page(path, command, aliases)
            for path, (command, aliases) in found.items()}
    return {"README.md": _index(found), **made}


def completions() -> dict[str, str]:
    """File name -> text, of the completion scripts."""
    return {_COMPLETION_FILES[shell]: script(hyperctl, shell) for shell in SHELLS}


def commands() -> Iterator[tuple[str, click.Command]]:
    """(path, command) of every command, under each of its names."""
    return _walk(hyperctl, "")


def _by_page() -> dict[str, tuple[click.Command, list[str]]]:
    """Path -> (command, other paths of the same command); the shortest path is the page's."""
    paths: dict[int, tuple[click.Command, list[str]]] = {}
    for path, command in commands():
        paths.setdefault(id(command), (command, []))[1].append(path)
    ordered = [(sorted(names, key=lambda name: (name.count(" "), name)), command) for command, names in paths.values()]
    return {names[0]: (command, names[1:]) for names, command in sorted(ordered, key=lambda item: item[0])}


def _walk(group: Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    ctx = click.Context(group, info_name=PROGRAM)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None  # it was listed
        if isinstance(command, Group):
            yield from _walk(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def _index(found: Mapping[str, tuple[click.Command, list[str]]]) -> str:
    rows = "".join(f"| [`hyperctl {path}`]({path.replace(' ', '_')}.md) | {command.get_short_help_str(200)} |\n"
                   for path, (command, _) in found.items())
    ctx = click.Context(hyperctl, info_name=PROGRAM)
    return (f"{_NOTE}# hyperctl\n\n{hyperctl.help}\n\n```\nhyperctl [OPTIONS] COMMAND [ARG...]\n```\n\n"
            f"{_options(hyperctl, ctx)}\n## Commands\n\n| command | |\n|---|---|\n{rows}\n"
            f"## Exit codes of run and exec\n\n{EXIT_CODES}\n"
            "Other commands end with 0, with 1 where something failed, and with 125 for an option that is wrong.\n")


def _page(path: str, command: click.Command, aliases: list[str]) -> str:
    ctx = click.Context(command, info_name=f"{PROGRAM} {path}")
    usage = " ".join([f"{PROGRAM} {path}", *command.collect_usage_pieces(ctx)])
    parts = [f"{_NOTE}# hyperctl {path}\n", _plain(command.help or ""), f"```\n{usage}\n```\n"]
    if aliases:
        parts.append("The same: " + ", ".join(f"`hyperctl {alias}`" for alias in aliases) + ".\n")
    parts.append(_options(command, ctx))
    if path in EXAMPLES:
        parts.append(f"## Examples\n\n```sh\n{EXAMPLES[path]}\n```\n")
    if path in _WITH_EXIT_CODES:
        parts.append(f"## Exit codes\n\n{EXIT_CODES}")
    return "\n".join(part for part in parts if part)


def _options(command: click.Command, ctx: click.Context) -> str:
    rows = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if isinstance(parameter, click.Option) and record and "--help" not in parameter.opts:
            name, meaning = (cell.replace("|", "\\|") for cell in record)
            rows.append(f"| `{name}` | {meaning} |\n")
    return "| option | |\n|---|---|\n" + "".join(rows) if rows else ""


def _plain(text: str) -> str:
    """A docstring without click's marks, its preformatted parts as code."""
    paragraphs = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        preformatted = paragraph.startswith(_PREFORMATTED)
        body = paragraph.removeprefix(_PREFORMATTED).strip()
        paragraphs.append(f"```sh\n{body}\n```" if preformatted else body)
    return "\n\n".join(paragraphs) + "\n"


def write(directory: Path, files: Mapping[str, str]) -> None:
    """Make the directory hold these files; pages of commands that are gone go as well."""
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.glob("*.md"):
        if stale.name not in files:
            stale.unlink()
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    write(Path(sys.argv[1]), pages())
    for target in sys.argv[2:]:
        write(Path(target), completions())
