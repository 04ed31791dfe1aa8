"""One request, as a handler sees it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from hyperstack.http import body
from hyperstack.identity.api import Principal
from hyperstack.pod.errors import InvalidArgument

T = TypeVar("T")

_FALSE = frozenset({"", "0", "no", "false", "none"})
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z")
_INT64 = re.compile(r"[+-]?[0-9]{1,32}\Z")
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request of a known caller. Parameters that do not parse raise `InvalidArgument` with their name."""

    request: web.Request
    who: Principal
    version: tuple[int, int]
    """Of Docker's API, as the path says."""

    def part(self, name: str) -> str:
        """A variable part of the path; a leading slash, as Docker's own names have it, is dropped."""
        value = self.request.match_info[name].removeprefix("/")
        if "\0" in value:
            raise InvalidArgument(f"{name} contains a NUL byte", field=name)
        return value

    def has(self, name: str) -> bool:
        return bool(self.request.query.get(name))

    def text(self, name: str, default: str = "") -> str:
        value = self.request.query.get(name) or default
        if "\0" in value:
            raise InvalidArgument(f"{name} contains a NUL byte", field=name)
        return value

    def texts(self, name: str, *, empty: bool = False) -> list[str]:
        """All values of a repeated parameter. :param empty: those too that are empty."""
        return [value for value in self.request.query.getall(name, []) if value or empty]

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean, in Docker's reading: anything but 0, no, false and none is true."""
        value = self.request.query.get(name)
        return default if value is None else value.strip().lower() not in _FALSE

    def integer(self, name: str, default: int | None = None) -> int | None:
        value = self.request.query.get(name, "").strip()
        if not value:
            return default
        if not _INTEGER.match(value):
            raise InvalidArgument(f'strconv.Atoi: parsing "{value[:64]}": invalid syntax', field=name, value=value[:64],
                                  hint=f"{name} must be an integer")
        return int(value)

    def time_ns(self, name: str) -> int:
        """Seconds since the epoch with an optional fraction, as positive nanoseconds; 0 where absent."""
        value = self.request.query.get(name, "")
        return max(timestamp_ns(value, field=name), 1) if value else 0

    async def body(self, kind: type[T], *, required: bool = False) -> T:
        """The JSON body. :raise InvalidArgument: see `body.read_json`."""
        return await body.read_json(self.request, kind, required=required)

    def stream(self) -> AsyncIterator[bytes]:
        """The raw body, as it comes."""
        return self.request.content.iter_any()


def timestamp_ns(value: str, *, field: str) -> int:
    """Nanoseconds since the epoch of "1700000000.000000001". :raise InvalidArgument: it is something else."""
    seconds, dot, fraction = value.partition(".")
    for part in (seconds, fraction) if dot else (seconds,):
        wrong = None if _INT64.match(part) else "invalid syntax"
        if wrong is None and not -(2**63) <= int(part) < 2**63:
            wrong = "value out of range"
        if wrong is not None:
            raise InvalidArgument(f'strconv.ParseInt: parsing "{part[:64]}": {wrong}', field=field, value=value[:64],
                                  hint=f"{field} is seconds since the epoch, 1700000000 or 1700000000.5")
    return min(int(seconds) * _NS + int(fraction.lstrip("+-")[:9].ljust(9, "0")), 2**63 - 1)
