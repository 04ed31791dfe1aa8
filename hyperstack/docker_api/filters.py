"""The `filters` parameter: `{"label": {"a=b": true}}`, or lists as older clients send them."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterable, Mapping

import msgspec

from hyperstack.http.call import Call, timestamp_ns
from hyperstack.pod.errors import InvalidArgument

MAX_VALUES = 256
MAX_PATTERN = 256
_QUANTIFIERS = re.compile(r"[*+?]")
_GROUPS = re.compile(r"[(){}\\]")

_STEP = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|ms|m|s)")
_DURATION = re.compile(rf"(?:{_STEP.pattern}){{1,4}}\Z")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class Filters:
    """Values asked for, by filter name. Every test is true where the filter was not given."""

    def __init__(self, values: Mapping[str, tuple[str, ...]]) -> None:
        self._values = values

    @classmethod
    def parse(cls, call: Call, *, known: Iterable[str]) -> Filters:
        """:raise InvalidArgument: not JSON of that shape, or an unknown filter; names it."""
        text = call.text("filters")
        try:
            found = msgspec.json.decode(text or "{}", type=dict[str, dict[str, bool] | list[str]])
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidArgument("invalid filter", field="filters", hint='it is JSON: {"label": ["a=b"]}') from error
        values = {}
        for name, given in found.items():
            if name not in known:
                raise InvalidArgument(f"invalid filter '{name[:64]}'", field="filters", value=name[:64],
                                      hint=f"one of {', '.join(sorted(known))}")
            values[name] = tuple(given) if isinstance(given, list) else tuple(key for key, on in given.items() if on)
            if len(values[name]) > MAX_VALUES:
                raise InvalidArgument(f"more than {MAX_VALUES} values in filter {name}", field="filters")
        return cls(values)

    def get(self, name: str) -> tuple[str, ...]:
        return self._values.get(name, ())

    def any_is(self, name: str, *candidates: str) -> bool:
        """One of the values is one of the candidates."""
        values = self.get(name)
        return not values or any(value in candidates for value in values)

    def any_prefix(self, name: str, candidate: str) -> bool:
        values = self.get(name)
        return not values or any(candidate.startswith(value) for value in values)

    def any_within(self, name: str, candidate: str) -> bool:
        values = self.get(name)
        return not values or any(value in candidate for value in values)

    def patterns(self, name: str) -> list[re.Pattern[str]]:
        """The values, which are regular expressions. :raise InvalidArgument: one is none, or too complicated."""
        return [_pattern(value, name) for value in self.get(name)]

    def labels(self, labels: Mapping[str, str], name: str = "label") -> bool:
        """All of `name` and `name=value` hold."""
        return all(_has_label(labels, value) for value in self.get(name))

    def not_labels(self, labels: Mapping[str, str]) -> bool:
        """None of the `label!` values holds."""
        return not any(_has_label(labels, value) for value in self.get("label!"))

    def truth(self, name: str) -> bool | None:
        """A yes-or-no filter. :raise InvalidArgument: another value."""
        values = self.get(name)
        if not values:
            return None
        if any(value.lower() not in ("1", "true", "0", "false") for value in values) or len(set(values)) != 1:
            raise InvalidArgument(f"invalid filter '{name}=[{' '.join(values)[:64]}]'", field="filters",
                                  value=values[0][:64], hint="true or false")
        return values[0].lower() in ("1", "true")

    def until_ns(self) -> int:
        """The `until` filter, 0 where absent. :raise InvalidArgument: no time, or several."""
        values = self.get("until")
        if len(values) > 1:
            raise InvalidArgument("more than one until filter specified", field="filters")
        return _moment_ns(values[0]) if values else 0

    def first_until_ns(self) -> int:
        """The earliest of several `until`, 0 where absent. :raise InvalidArgument: one is no time."""
        return min(map(_moment_ns, self.get("until")), default=0)


def _moment_ns(text: str) -> int:
    """Of seconds since the epoch, a duration before now ("24h", "1h30m"), or an ISO date and time."""
    if _DURATION.match(text):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _STEP.findall(text))
        return max(time.time_ns() - int(seconds * 1e9), 1)
    if "-" in text and len(text) <= 40:
        try:
            moment = datetime.datetime.fromisoformat(text)
        except ValueError as error:
            raise _no_time(text) from error
        return max(int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()), 0) * 10**9
    try:
        return timestamp_ns(text, field="until")
    except InvalidArgument as error:
        raise _no_time(text) from error


def _no_time(text: str) -> InvalidArgument:
    return InvalidArgument(f'failed to parse value as time or duration: "{text[:64]}"', field="filters",
                           value=text[:64], hint="24h, 2024-01-31T12:00:00 or seconds since the epoch")


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _pattern(text: str, name: str) -> re.Pattern[str]:
    """Python's matcher can take exponential time, Go's cannot: what could is refused."""
    if len(text) > MAX_PATTERN or _GROUPS.search(text) or len(_QUANTIFIERS.findall(text)) > 3:
        raise InvalidArgument(f"invalid filter '{name}': the pattern {text[:64]!r} is too complicated",
                              field="filters", value=text[:64],
                              hint="letters, ^, $, [...], | and at most three of * + ?")
    try:
        return re.compile(text)
    except (re.error, OverflowError) as error:
        raise InvalidArgument(f"invalid filter '{name}': {error}", field="filters", value=text[:64]) from error
