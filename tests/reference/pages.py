"""The statements of the documentation: the rows of its tables, the points of its lists, and the paragraphs of sections
that have neither."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[2] / "docs"
_CELLS = re.compile(r"(?<!\\)\|")


class Statement(NamedTuple):
    section: str
    """The heading above it."""
    cells: tuple[str, ...]
    """Of a row; one of anything else."""

    @property
    def text(self) -> str:
        """By which it is known: the first cell that is not empty, without marks."""
        return re.sub(r"`|\*\*", "", next(cell for cell in self.cells if cell))


def statements(page: str) -> list[Statement]:
    """All of a page."""
    found = []
    for section, lines in _sections((DOCS / page).read_text()):
        rows = [tuple(cell.strip() for cell in _CELLS.split(line)[1:-1]) for line in lines if line.startswith("|")]
        blocks = _blocks(line for line in lines if not line.startswith("|"))
        points = [block[2:] for block in blocks if block.startswith("* ")]
        # The first two lines of a table are its heading and a rule.
        rules = {index for index, row in enumerate(rows) if set("".join(row)) <= set("-:")}
        held = [row for index, row in enumerate(rows) if index not in rules and index + 1 not in rules]
        told = [*held, *((point,) for point in points)] or [(block,) for block in blocks]
        found += [Statement(section, cells) for cells in told]
    return found


def table(page: str, section: str) -> list[tuple[str, ...]]:
    """The rows of a section's table. :raise LookupError: the page has no such section."""
    found = [statement.cells for statement in statements(page) if statement.section == section]
    if not found:
        raise LookupError(f"docs/{page} has no section {section!r}")
    return found


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    heading, code = "", False
    lines: list[str] = []
    for line in text.splitlines():
        fence = line.startswith("```")
        code ^= fence
        if line.startswith("#") and not code:
            yield heading, lines
            heading, lines = line.lstrip("# "), []
        elif not (code or fence or line.startswith("    ")):
            lines.append(line)
    yield heading, lines


def _blocks(lines: Iterator[str]) -> list[str]:
    """Paragraphs, and points of lists, each in one line."""
    found = [""]
    for line in lines:
        if not line or line.startswith("* "):
            found.append(line)
        else:
            found[-1] = f"{found[-1]} {line.strip()}".strip()
    return [block for block in found if block]
