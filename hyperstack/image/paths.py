"""Paths of hostile archives as components."""

from __future__ import annotations


class OutOfRootError(ValueError):
    """A path that climbs out of the root that it is taken from."""


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
