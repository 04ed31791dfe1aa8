"""Times as both APIs write them."""

from __future__ import annotations

import datetime

ZERO_TIME = "0001-01-01T00:00:00Z"
_NS = 1_000_000_000


def rfc3339(time_ns: int, *, fixed: bool = False) -> str:
    """UTC with nanoseconds, as Go writes it: without zeros at the end, unless all are to be of one length. Go's zero
    time for 0."""
    if time_ns <= 0:
        return ZERO_TIME
    seconds, rest = divmod(time_ns, _NS)
    fraction = f".{rest:09d}" if fixed else f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"
