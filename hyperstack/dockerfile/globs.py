"""Matching names with wildcards, in time that a pattern's length and a name's bound, whoever wrote them.

A pattern is a row of elements, and where in it a name may have come to is a set of positions. The set that follows one
of the name's characters depends on nothing but the set and the character, so it is worked out once and remembered: a
name is read once from its beginning to its end, however many stars there are. An expression of Python's `re` would try
out one way after the other, and for a name of 100 letters and a pattern of ten stars there are more than anybody waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hyperstack.pod.errors import InvalidArgument

MAX_LENGTH = 4096
"""Of a pattern; a path has no more bytes."""
MAX_STEPS = 100_000_000
"""Characters that are compared for one file of patterns, or one instruction: half a minute, and a thousand times what
large projects need."""
_REMEMBERED = 1 << 14
"""Steps of one pattern."""


class BadPattern(InvalidArgument):
    """A pattern that means nothing."""

    def __init__(self, pattern: str) -> None:
        super().__init__(f"syntax error in pattern {pattern[:100]!r}", field="pattern", value=pattern[:100])


class Steps:
    """What may still be compared."""

    def __init__(self, left: int = MAX_STEPS) -> None:
        self._left = left

    def take(self, count: int) -> None:
        """:raise InvalidArgument: it is too much."""
        self._left -= count
        if self._left < 0:
            raise InvalidArgument("The patterns take too long to compare with so many names", field="pattern",
                                  hint="fewer patterns, or fewer wildcards in them")


@dataclass(frozen=True)
class _Element:
    """One character that is among `ranges`, or any number of them."""

    ranges: tuple[tuple[str, str], ...] = ()
    negated: bool = True
    slash: bool = False
    """Whether a slash may be among them."""
    repeated: bool = False
    """Any number, none too."""
    gap: bool = False
    """Beginning of a `**/`: nothing at all, or the element that follows and a slash behind it."""

    def takes(self, char: str) -> bool:
        if char == "/" and not self.slash:
            return False
        return any(low <= char <= high for low, high in self.ranges) != self.negated


_ANY = _Element()
_STAR = _Element(repeated=True)
_ALL = _Element(slash=True, repeated=True)
_GAP = _Element(gap=True)
_DIRECTORIES = _Element(slash=True)


class Glob:
    """One pattern."""

    def __init__(self, pattern: str, *, double_stars: bool, steps: Steps | None = None) -> None:
        """:param double_stars: whether `**` is any number of directories; else it is `*`.

        :raise BadPattern: it is malformed.
        """
        if len(pattern) > MAX_LENGTH:
            raise BadPattern(pattern)
        self._steps = steps or Steps()
        self._elements = _parse(pattern, double_stars=double_stars)
        self._end = 1 << len(self._elements)
        self._optional = _positions(self._elements, lambda e: e.repeated or e.gap)
        self._gaps = _positions(self._elements, lambda e: e.gap)
        self._directories = self._gaps << 1
        self._repeated = _positions(self._elements, lambda e: e.repeated) | self._directories
        self._beginning = self._closure(1)
        self._taking: dict[str, int] = {}
        self._following: dict[tuple[int, str], int] = {}

    def matches(self, name: str) -> bool:
        """:raise InvalidArgument: too much was compared."""
        return self._read(name, parents=False)

    def matches_below(self, name: str) -> bool:
        """Whether it matches the name, or a directory above it. :raise InvalidArgument: too much was compared."""
        return self._read(name, parents=True)

    def _read(self, name: str, *, parents: bool) -> bool:
        self._steps.take(1)
        positions, following, count = self._beginning, self._following, 0
        for count, char in enumerate(name):  # noqa: B007 - how far it came is what it costs
            if parents and char == "/" and positions & self._end:
                break
            known = following.get((positions, char))
            positions = self._follow(positions, char) if known is None else known
            if not positions:
                break
        self._steps.take(count)
        return bool(positions & self._end)

    def _follow(self, positions: int, char: str) -> int:
        self._steps.take(len(self._elements))  # as it is no look into a dictionary
        if len(self._following) >= _REMEMBERED:
            self._following.clear()
            self._taking.clear()
        taking = self._taking.get(char)
        if taking is None:
            taking = self._taking[char] = _positions(self._elements, lambda e: not e.gap and e.takes(char))
        taken = positions & taking
        onwards = (taken & ~self._repeated) << 1 | taken & self._repeated
        if char == "/":
            onwards |= (taken & self._directories) << 1
        result = self._following[positions, char] = self._closure(onwards)
        return result

    def _closure(self, positions: int) -> int:
        """With those that are reached without a character: over what may be nothing."""
        while True:
            more = positions | (positions & self._optional) << 1 | (positions & self._gaps) << 2
            if more == positions:
                return positions
            positions = more


def _positions(elements: Iterable[_Element], wanted: Callable[[_Element], bool]) -> int:
    """A bit for each such element."""
    return sum(1 << at for at, element in enumerate(elements) if wanted(element))


def _parse(pattern: str, *, double_stars: bool) -> list[_Element]:
    found: list[_Element] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            behind = at + len(pattern[at:]) - len(pattern[at:].lstrip("*"))
            double, at = double_stars and behind > at, behind
            if not double:
                found.append(_STAR)
            elif at == len(pattern):
                found.append(_ALL)
            else:
                at += pattern[at] == "/"
                if found[-2:-1] != [_GAP]:  # one is as good as several
                    found += [_GAP, _DIRECTORIES]
        elif char == "?":
            found.append(_ANY)
        elif char == "[":
            element, at = _parse_class(pattern, at)
            found.append(element)
        else:
            if char == "\\":
                if at == len(pattern):
                    raise BadPattern(pattern)
                char, at = pattern[at], at + 1
            found.append(_Element(((char, char),), negated=False, slash=True))
    return found


def _parse_class(pattern: str, at: int) -> tuple[_Element, int]:
    """A set of characters from behind its bracket on, and where it ends."""
    negated = pattern[at:at + 1] == "^"
    at += negated
    ranges: list[tuple[str, str]] = []
    while pattern[at:at + 1] != "]" or not ranges:
        low, at = _class_character(pattern, at)
        high = low
        if pattern[at:at + 1] == "-":
            high, at = _class_character(pattern, at + 1)
        if high < low:
            raise BadPattern(pattern)
        ranges.append((low, high))
    return _Element(tuple(ranges), negated=negated), at + 1


def _class_character(pattern: str, at: int) -> tuple[str, int]:
    if pattern[at:at + 1] == "\\":
        at += 1
    elif pattern[at:at + 1] in ("-", "]"):
        raise BadPattern(pattern)
    if at >= len(pattern):
        raise BadPattern(pattern)
    return pattern[at], at + 1
