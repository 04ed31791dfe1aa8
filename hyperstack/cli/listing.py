"""Lists of objects: tables in Docker's layout, `--format`, JSON and -q.

A row is a map from Docker's field names to text; headings are a map from the same names. `table TEMPLATE` renders the
template once over the headings and once per row, as Docker does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

Row = Mapping[str, Any]

_MIN_WIDTH = 10
_PADDING = 3
"""Docker's: Go's tabwriter with a minimal cell of 10 and 3 spaces between columns."""

_TABLE = "table"


class Listing:
    """One kind of list: its fields' headings and which of them are shown when nobody asks."""

    def __init__(self, headings: Mapping[str, str], default: Sequence[str]) -> None:
        self._headings = headings
        self._default = default

    def text(self, rows: Iterable[Row], layout: str = "", extra: Sequence[str] = ()) -> str:
        """The list in a `--format`: empty or `table`, `table TEMPLATE`, `json`, or TEMPLATE.

        :param extra: fields to show after the default ones, for flags such as --size.
        :raise TemplateError: as `template`.
        """
        layout = _unescaped(layout.strip())
        if layout in ("", _TABLE):
            names = (*self._default, *extra)
            return table([[self._headings[name] for name in names],
                          *([str(row[name]) for name in names] for row in rows)])
        from hyperstack.cli import template, values

        if layout == "json":
            return "".join(values.to_json(dict(sorted(row.items()))) + "\n" for row in rows)
        if not layout.startswith(_TABLE + " "):
            parsed = template.parse(layout)
            return "".join(parsed.render(row) + "\n" for row in rows)
        parsed = template.parse(layout.removeprefix(_TABLE).strip())
        lines = [parsed.render(self._heading_row()), *(parsed.render(row) for row in rows)]
        return table([line.split("\t") for line in lines])

    def show(self, rows: Iterable[Row], layout: str = "", extra: Sequence[str] = ()) -> None:
        """Print the list."""
        click.echo(self.text(rows, layout, extra), nl=False)

    def _heading_row(self) -> dict[str, Any]:
        functions: dict[str, Callable[..., str]] = {"Label": lambda name: str(name).upper()}
        return {**functions, **self._headings}


def table(lines: Sequence[Sequence[str]], *, min_width: int = _MIN_WIDTH) -> str:
    """Columns aligned; the first line, the headings, bold on a terminal."""
    lines = [[printable(cell) for cell in line] for line in lines]
    widths: dict[int, int] = {}
    for line in lines:
        for number, cell in enumerate(line[:-1]):
            widths[number] = max(widths.get(number, min_width), len(cell) + _PADDING)
    texts = ["".join(cell.ljust(widths[number]) for number, cell in enumerate(line[:-1])) + line[-1] for line in lines]
    if texts and styled():
        texts[0] = click.style(texts[0], bold=True)
    return "".join(text + "\n" for text in texts)


def styled() -> bool:
    """Whether stdout is a terminal whose owner did not refuse colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def printable(text: str) -> str:
    """Text from an image or a guest, without the control characters that could drive the user's terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def short_id(ident: str, *, no_trunc: bool = False) -> str:
    """Twelve digits of an id, or all of it."""
    return ident if no_trunc else ident.removeprefix("sha256:")[:12]


def ellipsis(text: str, limit: int) -> str:
    """At most `limit` characters, the last of them … where some are missing."""
    return text if len(text) <= limit else text[:limit - 1] + "…"


def _unescaped(layout: str) -> str:
    """A shell's single quotes leave \\t as it is: Docker reads it as a tab, in tables and elsewhere."""
    return layout.replace("\\t", "\t").replace("\\n", "\n")
