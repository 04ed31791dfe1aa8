"""What Go's JSON decoder says of a text or of a value that it does not take: words that Docker's clients are used to.

Only for documents that are known to be wrong: what is right is decoded elsewhere, and faster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from msgspec import inspect as types

MAX_SCANNED = 64 * 1024
"""Characters of a text in which the first mistake is looked for; that takes a millisecond for each kilobyte."""

_SPACE = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_BEGUN = re.compile(r"-?(?:0|[1-9][0-9]*)?(?:\.[0-9]*)?(?:(?<=[0-9])[eE][+-]?)?")
_LITERALS = {"t": "true", "f": "false", "n": "null"}
_QUOTED = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v", "\\": r"\\",
           "'": r"\'"}


class GoSyntaxError(ValueError):
    """A text that is no JSON, in Go's words."""


class GoTypeError(ValueError):
    """A value of a wrong type, in Go's words."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


def end_of_value(text: str) -> int:
    """Where the first JSON value of a text ends.

    :param text: bytes that are no UTF-8 are there as surrogates.
    :raise GoSyntaxError: it has none.
    """
    at, open_ones, expected = 0, list[str](), "value"
    while True:
        at = _skipped(text, at)
        if at == len(text):
            raise GoSyntaxError("unexpected EOF" if at and text.strip() else "got EOF while reading request body")
        char = text[at]
        if expected == "key":
            if char != '"':
                raise _unexpected(char, "looking for beginning of object key string")
            at = _skipped(text, _end_of_string(text, at))
            if at < len(text) and text[at] != ":":
                raise _unexpected(text[at], "after object key")
            at, expected = at + 1, "value"
            continue
        if expected == "value":
            if char in "{[":
                open_ones.append(char)
                at = _skipped(text, at + 1)
                empty = at < len(text) and text[at] == ("}" if char == "{" else "]")
                expected = "more" if empty else "key" if char == "{" else "value"
                if not empty:
                    continue
                at, char = at + 1, text[at]
                open_ones.pop()
            else:
                at = _end_of_scalar(text, at, char)
        elif char == ",":
            at, expected = at + 1, "key" if open_ones[-1] == "{" else "value"
            continue
        elif char == ("}" if open_ones[-1] == "{" else "]"):
            open_ones.pop()
            at += 1
        else:
            raise _unexpected(char, "after object key:value pair" if open_ones[-1] == "{" else "after array element")
        if not open_ones:
            return at
        expected = "more"


def _end_of_scalar(text: str, at: int, char: str) -> int:
    if char == '"':
        return _end_of_string(text, at)
    if char in _LITERALS:
        return _end_of_literal(text, at, _LITERALS[char])
    if char not in "-0123456789":
        raise _unexpected(char, "looking for beginning of value")
    number, begun = _NUMBER.match(text, at), _BEGUN.match(text, at)
    end = begun.end() if begun else at
    if number is not None and number.end() >= end:
        return number.end()
    if end == len(text):
        raise GoSyntaxError("unexpected EOF")
    raise _unexpected(text[end], "in numeric literal")


def _end_of_literal(text: str, at: int, literal: str) -> int:
    for char, wanted in zip(text[at:at + len(literal)], literal, strict=False):
        if char != wanted:
            raise _unexpected(char, f"in literal {literal} (expecting {_quoted(wanted)})")
    if len(text) < at + len(literal):
        raise GoSyntaxError("unexpected EOF")
    return at + len(literal)


def _end_of_string(text: str, at: int) -> int:
    """Of the string that begins at `at`."""
    at += 1
    while True:
        plain = _PLAIN.match(text, at)
        at = plain.end() if plain else at
        if at == len(text):
            raise GoSyntaxError("unexpected EOF")
        if text[at] == '"':
            return at + 1
        if text[at] != "\\":
            raise _unexpected(text[at], "in string")
        escape = _ESCAPE.match(text, at)
        if escape is None:
            shown = text[at:at + (6 if text[at + 1:at + 2] == "u" else 2)]
            if at + len(shown) >= len(text):
                raise GoSyntaxError("unexpected EOF")
            raise GoSyntaxError(f"invalid escape sequence `{shown}` in string")
        at = escape.end()


def _skipped(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _unexpected(char: str, where: str) -> GoSyntaxError:
    return GoSyntaxError(f"invalid character {_quoted(char)} {where}")


def _quoted(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"'\\x{code - 0xDC00:02x}'"
    if char in _QUOTED or char.isprintable():
        return f"'{_QUOTED.get(char, char)}'"
    return f"'\\x{code:02x}'" if code < 0x80 else f"'\\u{code:04x}'" if code < 0x10000 else f"'\\U{code:08x}'"


def check_types(value: Any, info: types.Type) -> None:
    """:raise GoTypeError: a part of a JSON value is not of the type that `info` says."""
    for path, found, wanted in _mismatches(value, info, ()):
        root = "" if getattr(getattr(info, "cls", None), "GO_EMBEDS", False) else _go_name(info).rpartition(".")[2]
        steps = (step.replace("~", "~0").replace("/", "~1") for step in path)
        place = ".".join((root, *steps)) if path else ""
        into = f"Go value of type {_go_name(wanted)}" if not path else \
            f"{'' if path[-1].isdecimal() else 'Go struct field '}{place} of type {_go_name(wanted)}"
        raise GoTypeError(f"json: cannot unmarshal {_kind(found, wanted)} into {into}", field=".".join(path))


def _mismatches(value: Any, info: types.Type, path: tuple[str, ...]
                ) -> Iterator[tuple[tuple[str, ...], Any, types.Type]]:
    """Where a value is of another type than it must be, what is there, and what must be."""
    match info:
        case types.Metadata():
            yield from ((place, found, info if wanted is info.type else wanted)
                        for place, found, wanted in _mismatches(value, info.type, path))
        case types.UnionType():
            choices = [choice for choice in info.types if not isinstance(choice, types.NoneType)]
            found = [[*_mismatches(value, choice, path)] for choice in choices]
            if all(found) and len(choices) > 1:  # a type that decodes itself, which knows no path
                yield (), value, types.StrType()
            elif all(found):
                yield from found[-1]
        case types.StructType() if isinstance(value, dict):
            fields = {field.encode_name.lower(): field.type for field in info.fields}
            for name, item in value.items():
                if name.lower() in fields:
                    yield from _mismatches(item, fields[name.lower()], (*path, name))
        case types.DictType() if isinstance(value, dict):
            for name, item in value.items():
                yield from _mismatches(item, info.value_type, (*path, name))
        case types.ListType() if isinstance(value, list):
            for number, item in enumerate(value):
                yield from _mismatches(item, info.item_type, (*path, str(number)))
        case _ if value is not None and not _fits(value, info):
            yield path, value, info


def _fits(value: Any, info: types.Type) -> bool:
    match info:
        case types.StrType():
            return isinstance(value, str)
        case types.BoolType():
            return isinstance(value, bool)
        case types.IntType():
            low = -(2**63) if info.ge is None else info.ge
            return type(value) is int and low <= value <= (2**63 - 1 if info.le is None else info.le)
        case types.FloatType():
            return type(value) in (int, float)
        case types.StructType() | types.DictType() | types.ListType():
            return False
    return True


def _kind(value: Any, wanted: types.Type) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():
            inner = wanted.type if isinstance(wanted, types.Metadata) else wanted
            return f"number {value}"[:64] if isinstance(inner, types.IntType) else "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def _go_name(info: types.Type) -> str:
    """Of a type: what a struct's `GO` says, or what the field's own type is in Go."""
    match info:
        case types.Metadata():
            return (info.extra or {}).get("go") or _go_name(info.type)
        case types.StructType():
            return str(getattr(info.cls, "GO", info.cls.__name__))
        case types.DictType():
            return f"map[string]{_go_name(info.value_type)}"
        case types.ListType():
            return f"[]{_go_name(info.item_type)}"
        case types.UnionType():
            return _go_name(next(choice for choice in info.types if not isinstance(choice, types.NoneType)))
        case types.BoolType():
            return "bool"
        case types.IntType():
            return "int64"
        case types.FloatType():
            return "float64"
    return "string"
