"""Docker's patterns, which are not git's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.dockerfile.patterns import BadPattern, Ignored, compile_glob, is_wild, read_ignore_file


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
        compile_glob(pattern)


def test_globs_of_sources_stop_at_slashes_and_know_no_double_star() -> None:
    assert compile_glob("*.txt").match("a.txt")
    assert not compile_glob("*.txt").match("a/b.txt")
    assert not compile_glob("**.txt").match("a/b.txt")
    assert compile_glob("hom?.[ch]").match("home.c")
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
