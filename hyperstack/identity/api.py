"""The identity door: who sent this request, and for which project.

The daemon asks once per connection or request; everything behind takes only the `Principal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What the transport knows of the caller."""

    uid: int | None
    """Of a unix socket's peer, as the kernel says."""
    gid: int | None
    headers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Principal:
    user: str
    project: str
    admin: bool
    """May name host paths, other projects' objects, and daemon-wide settings."""


class IdentityBackend(Protocol):
    name: str

    async def identify(self, peer: Peer) -> Principal:
        """:raise Forbidden: the caller is nobody here, or asks for a project that is not theirs."""
