"""Each row, point and paragraph of the pages on Docker's API has tests, which tests/reference/rows.toml names."""

from __future__ import annotations

import ast
import functools
import tomllib
from pathlib import Path

import pytest

from tests.reference.pages import statements

TESTS = Path(__file__).parents[1]
ROWS: dict[str, dict[str, dict[str, list[str]]]] = tomllib.loads((TESTS / "reference/rows.toml").read_text())
EVERY = "all"


@functools.cache
def functions(file: Path) -> frozenset[str]:
    return frozenset(node.name for node in ast.parse(file.read_bytes()).body
                     if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def is_there(name: str) -> bool:
    """Whether it is a test, or one of the benches."""
    path, colons, function = name.partition("::")
    if not colons:
        return name.startswith("bench/") and (TESTS.parent / name).is_file()
    return (TESTS / path).is_file() and function.startswith("test_") and function in functions(TESTS / path)


def entry_of(held: dict[str, list[str]], text: str) -> str:
    """The longest of the beginnings that it has; empty: none."""
    return EVERY if EVERY in held else max((one for one in held if text.startswith(one)), key=len, default="")


@pytest.mark.parametrize("page", ROWS)
def test_each_statement_has_its_tests(page: str) -> None:
    without, taken = [], set[tuple[str, str]]()
    for statement in statements(page):
        held = ROWS[page].get(statement.section, {})
        entry = entry_of(held, statement.text)
        if not held.get(entry) or (statement.section, entry) in taken:
            without.append((statement.section, statement.text[:60]))
        elif entry != EVERY:
            taken.add((statement.section, entry))
    assert without == [], (
        f"docs/{page}: write a test that fails where these words are untrue, and name it in tests/reference/rows.toml, "
        "under the section and the beginning of the row, point or paragraph, one of each")


@pytest.mark.parametrize("page", ROWS)
def test_what_is_no_longer_said_is_not_listed(page: str) -> None:
    stale = [(section, beginning) for section, held in ROWS[page].items() for beginning in held
             if not any(statement.section == section and (beginning == EVERY or statement.text.startswith(beginning))
                        for statement in statements(page))]
    assert stale == [], f"docs/{page} says none of this any more: take it out of tests/reference/rows.toml"


def test_the_tests_that_are_named_exist() -> None:
    named = {name for sections in ROWS.values() for held in sections.values() for names in held.values()
             for name in names}
    assert sorted(name for name in named if not is_there(name)) == [], (
        "tests/reference/rows.toml names tests that are not there; those that took their place belong there")
