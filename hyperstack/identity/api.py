"""The identity door: who sent this request, and for which project.

The daemon asks once per connection or request; everything behind takes only the `Principal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What the subject of a client's certificate says; empty where it says nothing."""

    common_name: str
    organization: str
    unit: str


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What the transport knows of the caller."""

    uid: int | None
    """Of a unix socket's peer, as the kernel says."""
    gid: int | None
    headers: Mapping[str, str]
    certificate: Certificate | None = None
    """Of a TLS client; the transport has verified it."""
    loopback: bool = False
    """A TCP connection without TLS from this host itself: some process of somebody here, nobody knows whose."""


@dataclass(frozen=True, kw_only=True)
class Principal:
    user: str
    project: str
    admin: bool
    """May name host paths, other projects' objects, and daemon-wide settings."""
    uid: int | None = None
    """The host's user that the caller is; None: none of them, or nobody knows."""


class IdentityBackend(Protocol):
    name: str

    async def identify(self, peer: Peer) -> Principal:
        """:raise Forbidden: the caller is nobody here, or asks for a project that is not theirs."""
