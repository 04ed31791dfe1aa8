"""What this room adds to the common errors: Docker's words where a `NotFound` does not fit its usual sentence."""

from __future__ import annotations

import msgspec

from hyperstack.pod.errors import HyperStackError, NotFound

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that `msgspec.json.decode` raises over a stranger's bytes."""


class ImageUnavailable(NotFound):
    """A registry has no such repository, tag or platform, or does not show it to this caller."""

    def __init__(self, message: str, *, reference: str, hint: str | None = None, denied: bool = False) -> None:
        # NotFound's own sentence ("No such image: x") is about this host; Docker users know the registry's ones.
        HyperStackError.__init__(self, message, field="image", value=reference, hint=hint)
        self.kind = "image"
        self.denied = denied
        """It may well be there; this caller is not let to it."""


def printable(text: str, limit: int = 300) -> str:
    """A stranger's text, safe for a terminal and short."""
    cleaned = "".join(char if char.isprintable() else " " for char in text[:limit * 4]).strip()
    return cleaned if len(cleaned) <= limit else cleaned[:limit - 3] + "..."
