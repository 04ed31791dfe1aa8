"""How a registry is told who asks: Basic, and Bearer tokens from the realm that it names."""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from hyperstack.image.api import Credentials

_CHALLENGE = re.compile(r"\s*(Bearer|Basic)\s+(.*)", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r'([a-z_]{1,32})\s*=\s*(?:"([^"]*)"|([^\s,"]*))', re.IGNORECASE)
_MAX_CHALLENGE = 4096
_DEFAULT_LIFE_S = 60
"""Of a token that does not tell, as the token specification has it."""
_MARGIN_S = 10
_MAX_LIFE_S = 3600
_MAX_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """What a 401 asks for."""

    scheme: str
    """bearer or basic"""
    realm: str = ""
    service: str = ""
    scope: str = ""


class TokenAnswer(msgspec.Struct, frozen=True):
    token: str | None = None
    access_token: str | None = None
    expires_in: int | None = None

    @property
    def value(self) -> str:
        return self.token or self.access_token or ""


def parse_challenge(header: str) -> Challenge | None:
    """A WWW-Authenticate header; None where it is of no kind that is known."""
    match = _CHALLENGE.match(header[:_MAX_CHALLENGE])
    if match is None:
        return None
    values = {name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(match[2])}
    return Challenge(scheme=match[1].lower(), realm=values.get("realm", ""), service=values.get("service", ""),
                     scope=values.get("scope", ""))


def basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def realm_is_safe(realm: str, *, registry: str) -> bool:
    """Whether credentials may travel to that realm: by TLS, or where the registry itself is spoken to in the clear."""
    try:
        parts = urlsplit(realm)
    except ValueError:
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or parts.scheme == urlsplit(registry).scheme == "http")


class TokenCache:
    """Authorization headers by (endpoint, repository, credentials), as long as they hold."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str, Credentials | None], tuple[str, float]] = {}

    def get(self, key: tuple[str, str, Credentials | None]) -> str | None:
        header, expires = self._tokens.get(key, ("", 0.0))
        return header if time.monotonic() < expires else None

    def put(self, key: tuple[str, str, Credentials | None], header: str, life_s: int | None) -> None:
        if len(self._tokens) >= _MAX_TOKENS:
            self._tokens.clear()
        life = min(max(life_s or _DEFAULT_LIFE_S, 0), _MAX_LIFE_S) - _MARGIN_S
        self._tokens[key] = (header, time.monotonic() + life)

    def drop(self, key: tuple[str, str, Credentials | None]) -> None:
        self._tokens.pop(key, None)
