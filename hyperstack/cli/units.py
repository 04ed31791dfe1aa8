"""Sizes, durations and times, read and written as Docker does."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from hyperstack.cli.errors import CliError

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?\Z", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
_MAX_SIZE = 2**63 - 1


def parse_size(text: str) -> int:
    """`512m`, `1.5g`, `64KiB` as bytes; units are powers of 1024 whichever way they are written.

    :raise CliError: it is no size.
    """
    match = _SIZE.match(text.strip())
    if match is None or len(text) > 64:
        raise CliError(f'invalid size: "{text}" (write it as 512m or 1.5g)')
    size = int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))
    if size > _MAX_SIZE:
        raise CliError(f'invalid size: "{text}" is more than {_MAX_SIZE} bytes')
    return size


def parse_duration(text: str) -> float | None:
    """Go's `1h30m`, `1.5s` as seconds; None where it is no duration."""
    end, seconds = 0, 0.0
    for match in _DURATION.finditer(text):
        if match.start() != end:
            return None
        end = match.end()
        seconds += float(match[1]) * _SECONDS[match[2]]
    return seconds if end == len(text) and text else None


def parse_timestamp(text: str) -> str:
    """A --since or --until (a time ago, RFC 3339, a date, or unix seconds) as the API's unix seconds.

    :raise CliError: it is none of these.
    """
    ago = parse_duration(text)
    if ago is not None:
        return f"{time.time() - ago:.9f}"
    if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", text):
        return text
    try:
        moment = datetime.fromisoformat(text).timestamp()  # without a zone it is local time
    except (ValueError, OverflowError):
        raise CliError(f'invalid time: "{text}"',
                       hint="Write it as 42m (ago), 2013-01-02T13:23:37Z, 2013-01-02 or unix seconds.") from None
    return f"{moment:.9f}"


def decimal_size(size: float, precision: int = 4) -> str:
    """`1.24MB`: powers of 1000, as images and disks are written."""
    return _scaled(size, 1000, _DECIMAL, precision)


def binary_size(size: float) -> str:
    """`12.4MiB`: powers of 1024, as memory is written."""
    return _scaled(size, 1024, _BINARY, 4)


def _scaled(size: float, base: int, names: tuple[str, ...], precision: int) -> str:
    step = 0
    while size >= base and step < len(names) - 1:
        size /= base
        step += 1
    return f"{size:.{precision}g}{names[step]}"


def age(seconds: float) -> str:
    """`About a minute`, `3 hours`: Docker's words for a duration."""
    whole = int(max(seconds, 0))
    minutes, hours = whole // 60, (whole + 1800) // 3600
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    for limit, unit, name in ((48, 1, "hours"), (24 * 14, 24, "days"), (24 * 60, 168, "weeks"),
                              (24 * 730, 720, "months")):
        if hours < limit:
            return f"{hours // unit} {name}"
    return f"{hours // (24 * 365)} years"


def ago(moment: float) -> str:
    """`3 hours ago`, of unix seconds; empty where the time is not known."""
    return f"{age(time.time() - moment)} ago" if moment > 0 else "N/A"


def unix_time(text: str) -> float:
    """Unix seconds of the API's RFC 3339; 0 for what is no time, as for Go's zero time."""
    try:
        return max(datetime.fromisoformat(text).timestamp(), 0.0)
    except (ValueError, OverflowError):
        return 0.0


def local_time(moment: float) -> str:
    """`2024-05-01 12:00:00 +0200 CEST`, as Docker writes a creation time."""
    return datetime.fromtimestamp(moment, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S %z %Z")
