"""Points in time as clients write them, in the three ways that Docker takes: a duration before now, a date, seconds."""

from __future__ import annotations

import datetime
import re
import time

from hyperstack.http.call import timestamp_ns
from hyperstack.pod.errors import InvalidArgument

_NS = 10**9
_STEP = re.compile(r"(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"[+-]?(?:{_STEP.pattern}){{1,8}}\Z", re.ASCII)
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": _NS, "m": 60 * _NS, "h": 3600 * _NS}
_MAX_LENGTH = 64

_ELEMENTS = re.compile("2006|01|02|15|04|05|Z07:00|.")
_PATTERNS = {"2006": r"\d{4}", "01": r"\d\d", "02": r"\d\d", "15": r"\d\d", "04": r"\d\d",
             "05": r"\d\d(?:[.,]\d{1,18})?", "Z07:00": r"Z|[+-]\d\d:\d\d"}
_BOUNDS = {"01": ("month", 1, 12), "15": ("hour", 0, 23), "04": ("minute", 0, 59), "05": ("second", 0, 59)}
_FRACTION = ".999999999"
_EXAMPLES = "for instance 24h, 2024-01-31T12:00:00 or seconds since the epoch"


def moment_ns(text: str, *, field: str) -> int:
    """Nanoseconds since the epoch of "24h" (ago), "2024-01-31T12:00:00Z", "2024-01-31" (of UTC) or "1700000000.5".

    :raise InvalidArgument: it is nothing of that, in Docker's words.
    """
    if text != "0" and _DURATION.match(text[:_MAX_LENGTH * 4]):
        sign = -1 if text.startswith("-") else 1
        ago = sum(int(float(number) * _UNITS[unit]) for number, unit in _STEP.findall(text))
        return max(time.time_ns() - sign * ago, 1)
    try:
        return _date_ns(text)
    except ValueError as error:
        if "-" in text:
            raise InvalidArgument(str(error), field=field, value=text[:_MAX_LENGTH],
                                  hint=_EXAMPLES) from None
    try:
        return max(timestamp_ns(text, field=field), 1)
    except InvalidArgument:
        raise InvalidArgument(f'failed to parse value as time or duration: "{text[:_MAX_LENGTH]}"', field=field,
                              value=text[:_MAX_LENGTH], hint=_EXAMPLES) from None


def _layout(text: str) -> str:
    """Which of Go's layouts the text is to be read with, by what is in it."""
    zoned = any(char in text for char in "zZ+") or text.count("-") == 3
    zone = "Z07:00" if zoned else ""
    if "." in text:
        return f"2006-01-02T15:04:05{_FRACTION}{zone}"
    if "T" in text:
        colons = text.count(":")
        if zoned and not any(char in text for char in "zZ") and colons:
            colons -= 1
        return "2006-01-02T15" + {0: "", 1: ":04"}.get(colons, ":04:05") + zone
    return f"2006-01-02{zone}"


def _date_ns(text: str) -> int:
    """:raise ValueError: it is no date; says what of it is wrong."""
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"parsing time: {len(text)} characters")
    layout, rest, found = _layout(text), text, dict[str, str]()
    for element in _ELEMENTS.findall(layout.replace(_FRACTION, "")):
        part = re.match(_PATTERNS.get(element, re.escape(element)), rest, re.ASCII)
        if part is None:
            raise ValueError(f'parsing time "{text}" as "{layout}": cannot parse "{rest}" as "{element}"')
        name, low, high = _BOUNDS.get(element, ("", 0, 0))
        if name and not low <= int(part[0][:2]) <= high:
            raise ValueError(f'parsing time "{text}": {name} out of range')
        found[element], rest = part[0], rest[part.end():]
    if rest:
        raise ValueError(f'parsing time "{text}": extra text: "{rest}"')
    second, _, fraction = found.get("05", "0").replace(",", ".").partition(".")
    try:
        moment = datetime.datetime(int(found["2006"]), int(found["01"]), int(found["02"]), int(found.get("15", 0)),
                                   int(found.get("04", 0)), int(second), tzinfo=datetime.UTC)
    except ValueError:
        raise ValueError(f'parsing time "{text}": day out of range') from None
    zone = found.get("Z07:00", "Z")
    offset = 0 if zone == "Z" else int(zone[0] + "1") * (int(zone[1:3]) * 3600 + int(zone[4:]) * 60)
    return max((int(moment.timestamp()) - offset) * _NS + int(fraction[:9].ljust(9, "0") or 0), 1)
