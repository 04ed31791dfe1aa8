"""Digests: `sha256:` and 64 lower-case hexadecimal digits, the only kind that is taken."""

from __future__ import annotations

import hashlib
import re

_DIGEST = re.compile(r"sha256:[a-f0-9]{64}\Z")


def is_digest(text: str) -> bool:
    return _DIGEST.match(text) is not None


def of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def hexadecimal(digest: str) -> str:
    """The part behind the colon, which is safe as a file name since only `is_digest` text becomes a digest."""
    return digest.removeprefix("sha256:")


def short(digest: str) -> str:
    """Twelve digits, as Docker shows ids."""
    return hexadecimal(digest)[:12]
