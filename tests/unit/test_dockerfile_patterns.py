"""Docker's patterns, which are not git's."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.dockerfile.globs import BadPattern, Glob, Steps
from hyperstack.dockerfile.patterns import Ignored, is_wild, read_ignore_file
from hyperstack.pod.errors import InvalidArgument


def source(pattern: str) -> Glob:
    return Glob(pattern, double_stars=False)


def left_out(patterns: str, *names: str) -> list[str]:
    ignored = Ignored(read_ignore_file(patterns.encode()))
    return [name for name in names if ignored(name)]


@pytest.mark.parametrize(("patterns", "names", "expected"), [
    # Anchored at the root, unlike git's.
    ("temp", ["temp", "temp/a", "sub/temp"], ["temp", "temp/a"]),
    ("*/temp*", ["a/temp", "a/temporary/x", "a/b/temp", "temp"], ["a/temp", "a/temporary/x"]),
    ("temp?", ["tempa", "temp", "temp/", "tempab"], ["tempa"]),
    ("**/*.go", ["a.go", "b/a.go", "b/c/a.go", "a.goo"], ["a.go", "b/a.go", "b/c/a.go"]),
    ("a/**/z", ["a/z", "a/b/z", "a/b/c/z", "z"], ["a/z", "a/b/z", "a/b/c/z"]),
    ("a/**", ["a/b", "a/b/c", "a", "b"], ["a/b", "a/b/c"]),
    ("*.md\n!README*.md\nREADME-secret.md", ["a.md", "README.md", "README-x.md", "README-secret.md"],
     ["a.md", "README-secret.md"]),
    ("dir\n!dir/kept", ["dir", "dir/a", "dir/kept", "dir/kept/x"], ["dir", "dir/a"]),
    ("/rooted", ["rooted", "a/rooted"], ["rooted"]),
    ("a/../b/./c/", ["b/c", "b/c/d", "a"], ["b/c", "b/c/d"]),
    ("# comment\n\n  spaced  \n", ["spaced", "# comment"], ["spaced"]),
    ("[a-c]x\n[^a-c]y", ["ax", "dx", "ay", "dy"], ["ax", "dy"]),
    ("a\\*b", ["a*b", "axb"], ["a*b"]),
    ("*", ["a", "a/b", ".c"], ["a", "a/b", ".c"]),
    ("*\n!a/b", ["a/b", "a", "c"], ["a", "c"]),
    (".", ["a", "b/c"], []),
    ("a.b", ["a.b", "axb"], ["a.b"]),
    ("x$", ["x$", "x"], ["x$"])])
def test_ignored(patterns: str, names: list[str], expected: list[str]) -> None:
    assert left_out(patterns, *names) == expected


def test_an_ignored_directory_is_passed_over_only_where_nothing_comes_back() -> None:
    ignored = Ignored(["node_modules", "dist", "!dist/keep", "logs", "!**/*.txt"])
    assert not ignored.prunes("node_modules")  # **/*.txt may be anywhere
    assert Ignored(["node_modules", "!src/x"]).prunes("node_modules")
    assert not Ignored(["dist", "!dist/keep"]).prunes("dist")
    assert not Ignored(["a", "!a/b/c"]).prunes("a/b")
    assert not Ignored(["x"]).prunes("y")


@pytest.mark.parametrize("pattern", ["[", "[]", "[a", "a\\", "[a-]", "[-a]", "[z-a]"])
def test_malformed_patterns(pattern: str) -> None:
    with pytest.raises(BadPattern):
        Ignored([pattern])
    with pytest.raises(BadPattern):
        source(pattern)


def test_globs_of_sources_stop_at_slashes_and_know_no_double_star() -> None:
    assert source("*.txt").matches("a.txt")
    assert not source("*.txt").matches("a/b.txt")
    assert not source("**.txt").matches("a/b.txt")
    assert source("hom?.[ch]").matches("home.c")
    assert is_wild("a*")
    assert not is_wild("a\\*")


def test_many_double_stars_are_as_good_as_one() -> None:
    assert left_out("**/" * 500 + "x", "a/" * 500 + "a", "a/" * 500 + "x") == ["a/" * 500 + "x"]


@given(st.text(st.sampled_from("ab*?[]^-\\/!.# "), max_size=12), st.text(st.sampled_from("ab/."), max_size=12))
def test_any_pattern_is_compiled_or_refused(pattern: str, name: str) -> None:
    try:
        ignored = Ignored(read_ignore_file(pattern.encode()))
    except BadPattern:
        return
    assert ignored(name) in (True, False)
    if ignored.prunes(name):
        assert ignored(name + "/below")


PLAIN = st.text(st.characters(whitelist_categories=("L", "N")), min_size=1, max_size=5)


@given(st.lists(PLAIN, min_size=1, max_size=4))
def test_a_plain_name_ignores_itself_and_what_is_below(parts: list[str]) -> None:
    name = "/".join(parts)
    ignored = Ignored([name])
    assert ignored(name)
    assert ignored(name + "/x")
    assert not ignored("y" + name)


PIECES = ("a", "b", ".", "/", "*", "**", "**/", "?", "[ab]", "[^a]", "[/b]", "\\*")
MEANINGS = {"*": "[^/]*", "?": "[^/]", "[ab]": "[ab]", "[^a]": "(?!/)[^a]", "[/b]": "b", "\\*": r"\*", ".": r"\."}


@given(st.lists(st.sampled_from(PIECES), max_size=6), st.text(st.sampled_from("ab./*"), max_size=8))
def test_it_matches_what_an_expression_of_the_same_meaning_does(pieces: list[str], name: str) -> None:
    pattern = "".join(pieces)
    stars = re.sub(r"(?<!\\)\*+", "*", pattern)
    expression = "".join(MEANINGS.get(piece, piece) for piece in re.findall(r"\[.*?\]|\\.|.", stars))
    assert source(pattern).matches(name) == bool(re.fullmatch(expression, name))
    parts = re.findall(r"\[.*?\]|\\.|\*{2,}/?|.", pattern)
    doubled = "".join(_meaning(piece, last=number == len(parts)) for number, piece in enumerate(parts, start=1))
    above = (name[:at] for at, char in enumerate(name) if char == "/")
    expected = any(re.fullmatch(doubled, one) for one in (name, *above))
    assert Glob(pattern, double_stars=True).matches_below(name) == expected


def _meaning(piece: str, *, last: bool) -> str:
    if piece.startswith("**"):
        return ".*" if last and not piece.endswith("/") else "(?:.*/)?"
    return MEANINGS.get(piece, piece)


@given(st.lists(st.sampled_from(["*a", "?*", "**/*a*", "[ab]*", "*b*"]), min_size=10, max_size=60),
       st.integers(10, 200))
def test_what_is_compared_grows_with_the_pattern_and_the_name_and_not_with_their_powers(pieces: list[str], length: int
                                                                                        ) -> None:
    pattern = "".join(pieces) + "!"
    steps = Steps(4 * len(pattern) * (length + 1))
    assert not Glob(pattern, double_stars=True, steps=steps).matches_below("ab" * (length // 2))


def test_more_than_anybody_needs_is_refused() -> None:
    glob = Glob("*a*", double_stars=False, steps=Steps(1000))
    assert glob.matches("a" * 100)
    with pytest.raises(InvalidArgument, match="too long to compare"):
        glob.matches("a" * 1000)
