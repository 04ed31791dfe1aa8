"""The `filters` parameter: `{"label": {"a=b": true}}`, or lists as older clients send them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from hyperstack.docker_api.moments import moment_ns
from hyperstack.http.call import Call
from hyperstack.pod.errors import InvalidArgument

MAX_VALUES = 256
MAX_PATTERN = 256
_QUANTIFIERS = re.compile(r"[*+?]")
_GROUPS = re.compile(r"[(){}\\]")

_TRUE, _FALSE = frozenset({"1", "true"}), frozenset({"0", "false"})
GO_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
GO_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
"""What Go's `strconv.ParseBool` takes."""
_FORM = '{"label": ["a=b"]}'


class Filters:
    """Values asked for, by filter name. Every test is true where the filter was not given."""

    def __init__(self, values: Mapping[str, tuple[str, ...]]) -> None:
        self._values = values

    @classmethod
    def parse(cls, call: Call, *, known: Iterable[str], of: str = "") -> Filters:
        """:param of: what Docker says before its words about a malformed parameter.
        :raise InvalidArgument: not JSON of that shape, or an unknown filter; names it."""
        text = call.text("filters")
        values = _decoded(text) if text else {}
        if values is None:
            raise InvalidArgument(f"{of}invalid filter", field="filters", hint=f"for instance {_FORM}")
        for name, given in values.items():
            if name not in known:
                shown = f" '{name[:64]}'" if name else ""
                raise InvalidArgument(f"invalid filter{shown}", field="filters", value=name[:64],
                                      hint=f"one of {', '.join(sorted(known))}")
            if len(given) > MAX_VALUES:
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

    def any_match(self, name: str, candidate: str) -> bool:
        """One of the values is the candidate, or as a regular expression found in it. Raises as `patterns`."""
        values = self.get(name)
        return not values or candidate in values or any(pattern.search(candidate) for pattern in self.patterns(name))

    def patterns(self, name: str) -> list[re.Pattern[str]]:
        """The values, which are regular expressions; what is none matches nothing but itself.

        :raise InvalidArgument: one is too complicated.
        """
        return [_pattern(value, name) for value in self.get(name)]

    def labels(self, labels: Mapping[str, str], name: str = "label") -> bool:
        """All of `name` and `name=value` hold."""
        return all(_has_label(labels, value) for value in self.get(name))

    def not_labels(self, labels: Mapping[str, str]) -> bool:
        """Not all of the `label!` values hold."""
        unwanted = self.get("label!")
        return not (unwanted and all(_has_label(labels, value) for value in unwanted))

    def truth(self, name: str) -> bool | None:
        """A yes-or-no filter. :raise InvalidArgument: another value, or both."""
        if name not in self._values:
            return None
        values = {*self.get(name)}
        yes, no = bool(values & _TRUE), bool(values & _FALSE)
        if yes == no:
            shown = f"={shown_list(self.get(name))}" if values else ""
            raise InvalidArgument(f"invalid filter '{name}{shown}'", field="filters", hint="true or false")
        return yes

    def until_ns(self) -> int:
        """The `until` filter, 0 where absent. :raise InvalidArgument: no time, or several."""
        values = self.get("until")
        if len(values) > 1:
            raise InvalidArgument("more than one until filter specified", field="filters")
        return moment_ns(values[0], field="until") if values else 0

    def first_until_ns(self) -> int:
        """The earliest of several `until`, 0 where absent. :raise InvalidArgument: one is no time."""
        return min((moment_ns(value, field="until") for value in self.get("until")), default=0)


def shown_list(values: Sequence[str]) -> str:
    """As Go prints it."""
    return f"[{' '.join(values)[:64]}]"


def _decoded(text: str) -> dict[str, tuple[str, ...]] | None:
    """None: it is nothing of the kind. What is said of a value (`{"a=b": false}`) does not matter, as in Docker."""
    kinds: tuple[Any, ...] = (dict[str, dict[str, bool] | None], dict[str, list[str] | None])
    for kind in kinds:
        try:
            found = msgspec.json.decode(text, type=kind | None)
        except (msgspec.DecodeError, RecursionError):
            continue
        return {name: tuple(dict.fromkeys(given or ())) for name, given in (found or {}).items()}
    return None


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
    except (re.error, OverflowError):
        return re.compile(re.escape(text) + r"\Z")
