"""Paths of hostile archives: as components, and where they lead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

MAX_LINKS = 40
"""Symbolic links on one path, as Linux has it."""

Place = TypeVar("Place")


class OutOfRootError(ValueError):
    """A path that climbs out of the root that it is taken from."""


class TooManyLinksError(ValueError):
    """A path leads through more than MAX_LINKS symbolic links, or one too long. Its argument is the last one's name."""


def components(name: bytes) -> list[bytes]:
    """Of a path from the root, absolute or not; `..` is resolved by words alone.

    :raise OutOfRootError: it climbs out.
    """
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise OutOfRootError
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return parts


def walk(root: Place, parts: Sequence[bytes], step: Callable[[Place, bytes, bool], Place | bytes | None]
         ) -> Place | None:
    """Where a path leads that never leaves its root: at the root `..` stays there, and links begin anew from it.

    :param parts: may have `..` among them.
    :param step: what is in a place under a name: another place, or the target of a symbolic link that is to be
        followed; or None, which ends the walk. It is told whether the name is the path's last.
    :return: None where a step did.
    :raise TooManyLinksError: links lead to links.
    """
    trail = [root]
    pending = list(reversed(parts))
    followed = 0
    while pending:
        name = pending.pop()
        if name == b"..":
            if len(trail) > 1:
                trail.pop()
            continue
        there = step(trail[-1], name, not pending)
        if there is None:
            return None
        if not isinstance(there, bytes):
            trail.append(there)
            continue
        followed += 1
        if followed > MAX_LINKS:
            raise TooManyLinksError(name)
        if there.startswith(b"/"):
            del trail[1:]
        pending += reversed(words(there))
    return trail[-1]


def words(path: bytes) -> list[bytes]:
    """Its components as they stand, `..` too."""
    return [part for part in path.split(b"/") if part not in (b"", b".")]
