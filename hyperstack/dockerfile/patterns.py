"""Names that patterns mean: .dockerignore's, and wildcards of COPY and ADD.

Docker's rules are not git's: a pattern is always anchored at the context's root, `**` is any number of directories, a
later `!pattern` takes names back in, and what matches a directory matches all that is in it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from hyperstack.pod.errors import InvalidArgument

MAX_PATTERNS = 10_000
_MAX_LENGTH = 4096


class BadPattern(InvalidArgument):
    """A pattern that means nothing."""

    def __init__(self, pattern: str) -> None:
        super().__init__(f"syntax error in pattern {pattern[:100]!r}", field="pattern", value=pattern[:100])


def read_ignore_file(data: bytes) -> list[str]:
    """The patterns of a .dockerignore file, cleaned. :raise BadPattern: one is malformed, or there are too many."""
    found = []
    for line in data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").splitlines():
        if line.startswith("#"):
            continue
        pattern = line.strip()
        negated = pattern.startswith("!")
        pattern = pattern[1:].strip() if negated else pattern
        if not pattern:
            continue
        pattern = posixpath.normpath(pattern)
        # normpath keeps a second leading slash.
        pattern = "/" + pattern.lstrip("/") if pattern.startswith("//") else pattern
        if len(pattern) > 1 and pattern.startswith("/"):
            pattern = pattern[1:]
        found.append("!" + pattern if negated else pattern)
    if len(found) > MAX_PATTERNS:
        raise InvalidArgument(f".dockerignore has more than {MAX_PATTERNS} patterns", field=".dockerignore",
                              value=len(found))
    return found


class Ignored:
    """Tells which names patterns leave out."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """:raise BadPattern: one is malformed."""
        self._rules: list[tuple[bool, re.Pattern[str], str]] = []
        for pattern in patterns:
            negated = pattern.startswith("!")
            text = pattern[1:] if negated else pattern
            self._rules.append((not negated, re.compile(_expression(text), re.DOTALL), text))
        self._exceptions = [text for ignores, _, text in self._rules if not ignores]

    def __call__(self, name: str) -> bool:
        """:param name: relative to the root, `/` between the parts."""
        parents = [name]
        while "/" in parents[-1]:
            parents.append(parents[-1].rpartition("/")[0])
        ignored = False
        for ignores, expression, _ in self._rules:
            if ignores != ignored and any(expression.match(parent) for parent in parents):
                ignored = ignores
        return ignored

    def prunes(self, directory: str) -> bool:
        """Whether nothing below an ignored directory can be taken back in."""
        return self(directory) and not any(_may_be_below(text, directory) for text in self._exceptions)


def _may_be_below(pattern: str, directory: str) -> bool:
    """Whether the pattern can match something in the directory; in doubt it can."""
    fixed = re.split(r"[*?\[\\]", pattern, maxsplit=1)[0]
    inside = directory + "/"
    return fixed.startswith(inside) or (fixed != pattern and inside.startswith(fixed)) or inside.startswith(
        fixed + "/")


def is_wild(text: str) -> bool:
    """Whether there is a wildcard in it."""
    at = 0
    while at < len(text):
        if text[at] in "*?[":
            return True
        at += 2 if text[at] == "\\" else 1
    return False


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Go's filepath.Match: `*` and `?` stop at slashes, and there is no `**`. :raise BadPattern: it is malformed."""
    return re.compile(_expression(pattern, double_stars=False), re.DOTALL)


def _expression(pattern: str, *, double_stars: bool = True) -> str:
    if len(pattern) > _MAX_LENGTH:
        raise BadPattern(pattern)
    out, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            stars = 1
            while pattern[at:at + 1] == "*":
                at, stars = at + 1, stars + 1
            if stars == 1 or not double_stars:
                out.append("[^/]*")
            elif at == len(pattern):
                out.append(".*")
            else:
                at += pattern[at] == "/"
                if out[-1:] != ["(?:.*/)?"]:
                    out.append("(?:.*/)?")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            at = _class(pattern, at, out)
        elif char == "\\":
            if at == len(pattern):
                raise BadPattern(pattern)
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(char))
    return "".join(out) + r"\Z"


def _class(pattern: str, at: int, out: list[str]) -> int:
    """A set of characters from behind its bracket on; where it ends."""
    negated = pattern[at:at + 1] == "^"
    at += negated
    ranges: list[str] = []
    while True:
        if pattern[at:at + 1] == "]" and ranges:
            break
        low, at = _class_character(pattern, at)
        high = low
        if pattern[at:at + 1] == "-":
            high, at = _class_character(pattern, at + 1)
        if high < low:
            raise BadPattern(pattern)
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    out.append(f"(?!/)[{'^' if negated else ''}{''.join(ranges)}]")
    return at + 1


def _class_character(pattern: str, at: int) -> tuple[str, int]:
    if pattern[at:at + 1] == "\\":
        at += 1
    elif pattern[at:at + 1] in ("-", "]"):
        raise BadPattern(pattern)
    if at >= len(pattern):
        raise BadPattern(pattern)
    return pattern[at], at + 1
