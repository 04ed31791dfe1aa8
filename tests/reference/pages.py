"""The statements of the documentation: the rows of its tables, the points of its lists, and its paragraphs, but for
those that only lead to what follows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[2] / "docs"
_LEAD = 120
"""Characters of a line that says no more than what comes, and ends with a colon."""
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
    """All of a page. In a section, rows come first."""
    found = []
    for section, lines in _sections((DOCS / page).read_text()):
        rows = [tuple(cell.strip() for cell in _CELLS.split(line)[1:-1]) for line in lines if line.startswith("|")]
        blocks = _blocks(line for line in lines if not line.startswith("|"))
        # The first two lines of a table are its heading and a rule.
        rules = {index for index, row in enumerate(rows) if set("".join(row)) <= set("-:")}
        held = [row for index, row in enumerate(rows) if index not in rules and index + 1 not in rules]
        told = ((block.removeprefix("* "),) for block in blocks if len(block) > _LEAD or not block.endswith(":"))
        found += [Statement(section, cells) for cells in (*held, *told)]
    return found


def table(page: str, section: str) -> list[tuple[str, ...]]:
    """The rows of a section's table. :raise LookupError: the page has no such table."""
    found = [statement.cells for statement in statements(page)
             if statement.section == section and len(statement.cells) > 1]
    if not found:
        raise LookupError(f"docs/{page} has no table in a section {section!r}")
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
