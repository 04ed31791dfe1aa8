"""Names that patterns mean: .dockerignore's, and wildcards of COPY and ADD.

Docker's rules are not git's: a pattern is always anchored at the context's root, `**` is any number of directories, a
later `!pattern` takes names back in, and what matches a directory matches all that is in it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from hyperstack.dockerfile.globs import Glob, Steps
from hyperstack.pod.errors import InvalidArgument

MAX_PATTERNS = 10_000


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
        self._rules: list[tuple[bool, Glob]] = []
        self._exceptions: list[tuple[str, str]] = []
        """Those that take names back in, and how each begins."""
        self._steps = Steps()
        for pattern in patterns:
            negated = pattern.startswith("!")
            text = pattern[1:] if negated else pattern
            self._rules.append((not negated, Glob(text, double_stars=True, steps=self._steps)))
            if negated:
                self._exceptions.append((text, re.split(r"[*?\[\\]", text, maxsplit=1)[0]))

    def __call__(self, name: str) -> bool:
        """:param name: relative to the root, `/` between the parts. :raise InvalidArgument: too much was compared."""
        ignored = False
        for ignores, glob in self._rules:
            if ignores != ignored and glob.matches_below(name):
                ignored = ignores
        return ignored

    def prunes(self, directory: str) -> bool:
        """Whether nothing below an ignored directory can be taken back in. Raises as a call does."""
        if not self(directory):
            return False
        self._steps.take(len(self._exceptions))
        return not any(_may_be_below(text, fixed, directory) for text, fixed in self._exceptions)


def _may_be_below(pattern: str, fixed: str, directory: str) -> bool:
    """Whether the pattern, which begins with `fixed`, can match something in the directory; in doubt it can."""
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
