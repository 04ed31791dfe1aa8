"""What follows the word of an instruction: flags, words, lists, pairs, durations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from hyperstack.dockerfile.errors import DockerfileError, SyntaxMistake, quoted, shown
from hyperstack.dockerfile.source import Statement

_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+\Z")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?)(ns|us|µs|ms|s|m|h)")
_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_LATER = {"mount": "mounts during a RUN", "network": "a network per RUN", "security": "a security mode per RUN",
          "device": "devices during a RUN", "link": "copies that are independent of what is below",
          "parents": "copies that keep their parents", "exclude": "exclusions of one copy",
          "keep-git-dir": "keeping .git", "checksum": "checksums of downloads", "unpack": "unpacking of downloads"}


def json_words(rest: str) -> tuple[str, ...] | None:
    """A JSON list of strings; None where it is not written as one."""
    if not rest.startswith("["):
        return None
    try:
        found = json.loads(rest)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list):
        return None
    if not all(isinstance(word, str) for word in found):
        raise SyntaxMistake("when using JSON array syntax, arrays must be comprised of strings only")
    if any("\0" in word or _surrogate(word) for word in found):
        raise DockerfileError("a string of a list holds a character that no argument can have")
    return tuple(found)


def _surrogate(word: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in word)


def flags(statement: Statement, known: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """The --name=value words in front, and the rest."""
    found: dict[str, str] = {}
    rest = statement.rest
    while rest.startswith("--"):
        word, *more = rest.split(None, 1)
        if word == "--":
            return found, more[0] if more else ""
        option, equals, value = word.partition("=")
        name = option.removeprefix("--")
        if name not in known:
            if name in _LATER:
                raise DockerfileError(f"the --{name} option ({_LATER[name]}) is not supported: this is the classic "
                                      "builder", hint=f"leave --{name} out")
            raise DockerfileError(f"unknown flag: {shown(option, 60)}",
                                  hint=meant(option, [f"--{other}" for other in known]))
        if name in found:
            raise DockerfileError(f"duplicate flag specified: {option}")
        if not equals:
            raise DockerfileError(f"missing a value on flag: {option}")
        found[name] = value
        rest = more[0].strip() if more else ""
    return found, rest


def meant(word: str, known: Iterable[str]) -> str | None:
    """A question for the known word that a mistyped one is less than three letters from."""
    near = [(distance, other) for other in sorted(known) if 0 < (distance := _distance(word[:40].lower(), other.lower()
                                                                                       )) < 3]
    return f"did you mean {min(near)[1]}?" if near else None


def _distance(one: str, other: str) -> int:
    """How many letters are to be put in, taken out or changed."""
    row = list(range(len(other) + 1))
    for at, char in enumerate(one, 1):
        corner, row[0] = row[0], at
        for to, wanted in enumerate(other, 1):
            corner, row[to] = row[to], min(row[to] + 1, row[to - 1] + 1, corner + (char != wanted))
    return row[-1]


def required(statement: Statement, rest: str, *, count: str = "at least") -> str:
    if not rest:
        raise DockerfileError(f"{statement.word} requires {count} one argument")
    return rest


def split_words(rest: str, escape: str) -> list[str]:
    """At blanks that are neither quoted nor escaped; quotes and escapes stay, for `words.expand`."""
    found, word, quote, at = [], "", "", 0
    while at < len(rest):
        char = rest[at]
        at += 1
        if char == escape and quote != "'" and at < len(rest):
            word += char + rest[at]
            at += 1
        elif not quote and char.isspace():
            if word:
                found.append(word)
            word = ""
        else:
            if quote:
                quote = "" if char == quote else quote
            elif char in "\"'":
                quote = char
            word += char
    return [*found, word] if word else found


def pairs(statement: Statement, escape: str) -> tuple[tuple[str, str], ...]:
    found = split_words(required(statement, statement.rest), escape)
    if "=" not in found[0]:
        parts = statement.rest.split(None, 1)
        if len(parts) < 2:
            raise SyntaxMistake(f"{statement.word} must have two arguments")
        return ((parts[0], parts[1]),)
    pairs = []
    for word in found:
        name, equals, value = word.partition("=")
        if not equals:
            raise SyntaxMistake(f"Syntax error - can't find = in {quoted(shown(word, 60))}. Must be of the form: "
                                "name=value")
        if not name:
            raise DockerfileError(f"{statement.word} names can not be blank")
        pairs.append((name, value))
    return tuple(pairs)


def duration(text: str) -> int:
    """Nanoseconds of 1h2m3.5s. :raise DockerfileError: it is none, or a week and more."""
    if text == "0":
        return 0
    if len(text) > 64 or not _DURATION.match(text):
        raise DockerfileError(f"time: invalid duration {quoted(shown(text, 40))}", hint="for instance 30s or 1m30s")
    total = sum(float(number) * _NS[unit] for number, unit in _DURATION_PART.findall(text))
    if total > 7 * 24 * _NS["h"]:
        raise DockerfileError(f"duration {shown(text, 40)} is longer than a week")
    return int(total)
