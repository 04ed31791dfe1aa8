"""Values in a `--format` template: what is true, how they print, and the functions.

Functions: Go's (eq ne lt le gt ge not len index slice print printf println html js urlquery; and, or are in `template`)
and Docker's (json split join title lower upper pad truncate), with their argument order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperstack.cli.errors import TemplateError

_VERB = re.compile(r"%([-+# 0]*)(\d*)(?:\.(\d*))?([a-zA-Z%])")
_MAX_WIDTH = 1000
_NAMES_SHOWN = 40


@dataclass(frozen=True)
class Missing:
    """A field that is not there: false, and an error where it would be printed."""

    name: str = ""
    siblings: tuple[str, ...] = ()

    def check_printable(self) -> None:
        """:raise TemplateError: the names beside it are the API's own, so this one is a typing mistake.

        Users' own maps (labels, networks) have keys in any spelling, and lack keys with good reason.
        """
        if not self.name or not self.siblings or not all(sibling[:1].isupper() for sibling in self.siblings):
            return
        import difflib

        close = difflib.get_close_matches(self.name, self.siblings, n=1)
        known = ", ".join(sorted(self.siblings)[:_NAMES_SHOWN])
        raise TemplateError(f'template error: no field "{self.name}" here' +
                            (f"; did you mean .{close[0]}?" if close else ""), hint=f"Fields: {known}")


MISSING = Missing()


def kind(value: Any) -> str:
    """What a value is, in words for a message."""
    names: dict[type, str] = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list",
                              dict: "a map"}
    return names.get(type(value), "nothing")


def truth(value: Any) -> bool:
    """Go's: false, 0, "", nil, empty lists and maps are false."""
    return not isinstance(value, Missing) and bool(value)


def printed(value: Any) -> str:
    """A value as an action prints it."""
    if isinstance(value, Missing):
        value.check_printable()
        return "<no value>"
    return "<no value>" if value is None else _shown(value)


def _shown(value: Any) -> str:
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case Mapping():
            return "map[" + " ".join(f"{_shown(key)}:{_shown(value[key])}" for key in sorted(value, key=str)) + "]"
        case list() | tuple():
            return "[" + " ".join(_shown(item) for item in value) + "]"
        case Missing():
            return "<no value>"
        case _:
            return str(value)


def pairs(value: Any) -> list[tuple[Any, Any]]:
    """What a range goes over: (index or key, item); maps in the order of their keys."""
    match value:
        case None | Missing():
            return []
        case Mapping():
            return [(key, value[key]) for key in sorted(value, key=str)]
        case list() | tuple():
            return list(enumerate(value))
    raise TemplateError(f"template error: range can't go over {kind(value)}")


def call(name: str, arguments: list[Any]) -> Any:
    """:raise TemplateError: wrong number or kind of arguments."""
    function = FUNCTIONS[name]
    try:
        return function(*arguments)
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        shown = ", ".join(kind(argument) for argument in arguments) or "no arguments"
        raise TemplateError(f"template error: error calling {name} with {shown}") from error


def call_field(head: object, function: Callable[..., Any], arguments: list[Any]) -> Any:
    """A field that is a function, such as `.Label "x"`."""
    try:
        return function(*arguments)
    except TypeError as error:
        raise TemplateError("template error: wrong number of arguments for a field that is a function") from error


def to_json(value: Any) -> str:
    """Compact JSON; fields that are functions are left out."""
    if isinstance(value, Missing):
        value.check_printable()
        value = None
    if isinstance(value, Mapping):
        value = {key: item for key, item in value.items() if not callable(item)}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None or isinstance(value, Missing):
            return MISSING
        if isinstance(value, Mapping):
            strings = value and all(isinstance(item, str) for item in value.values())
            value = value.get(str(key), "" if strings else MISSING)
        elif isinstance(value, list | tuple | str) and isinstance(key, int) and not isinstance(key, bool):
            if not 0 <= key < len(value):
                raise TemplateError(f"template error: error calling index: index out of range: {key} of {len(value)}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
        else:
            raise TemplateError(f"template error: error calling index: can't index {kind(value)} with {kind(key)}")
    return value


def _slice(value: Any, *bounds: int) -> Any:
    if any(not 0 <= bound <= len(value) for bound in bounds) or list(bounds) != sorted(bounds) or len(bounds) > 2:
        raise TemplateError("template error: error calling slice: index out of range")
    return value[slice(*(bounds if len(bounds) == 2 else (bounds[0] if bounds else 0, len(value))))]


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise TypeError
    numeric = isinstance(first, int | float)
    return any(first == other and (type(first) is type(other) or (numeric and isinstance(other, int | float)))
               for other in others)


def _compare(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compared(left: Any, right: Any) -> bool:
        return test(left, right)
    return compared


def _length(value: Any) -> int:
    return len(value.encode()) if isinstance(value, str) else 0 if value is None else len(value)


def _join(value: Sequence[Any] | None, separator: str) -> str:
    return separator.join(_shown(item) for item in value or ())


def _text(*values: Any) -> str:
    """Go's Sprint: spaces between two values neither of which is a string."""
    written = ""
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            written += " "
        written += printed(value)
    return written


def _line(*values: Any) -> str:
    return " ".join(printed(value) for value in values) + "\n"


def _pad(text: str, before: int, after: int) -> str:
    return " " * min(before, _MAX_WIDTH) + text + " " * min(after, _MAX_WIDTH) if text else text


def _truncate(text: str, length: int) -> str:
    return text[:length] if length >= 0 else text


def _html(value: Any) -> str:
    import html

    return html.escape(printed(value)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _js(value: Any) -> str:
    return json.dumps(printed(value))[1:-1].replace("'", "\\'").replace("<", "\\u003C").replace(">", "\\u003E")


def _urlquery(value: Any) -> str:
    from urllib.parse import quote_plus

    return quote_plus(printed(value))


def _printf(layout: str, *arguments: Any) -> str:
    rest = list(arguments)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        return _format_verb(flags, min(int(width or 0), _MAX_WIDTH),
                            None if precision is None else min(int(precision or 0), _MAX_WIDTH), verb, rest.pop(0))

    text = _VERB.sub(one, layout)
    return text + (f"%!(EXTRA {', '.join(_shown(value) for value in rest)})" if rest else "")


def _format_verb(flags: str, width: int, precision: int | None, verb: str, value: Any) -> str:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if verb in "dbox" and isinstance(value, int) and numeric:
        text = format(value, verb)
    elif verb in "xX" and isinstance(value, str):
        text = format(int.from_bytes(value.encode(), "big"), verb) if value else ""
    elif verb in "feEgG" and numeric:
        text = f"{value:.{6 if precision is None else precision}{verb}}"
    elif verb == "q":
        text = json.dumps(printed(value), ensure_ascii=False)
    elif verb in "sv" or (verb == "t" and isinstance(value, bool)):
        text = printed(value)[:precision]
    elif verb == "T":
        text = kind(value)
    else:
        return f"%!{verb}({printed(value)})"
    if "+" in flags and numeric and not text.startswith("-"):
        text = "+" + text
    if "-" in flags:
        return text.ljust(width)
    return text.zfill(width) if "0" in flags and numeric else text.rjust(width)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "eq": _equal,
    "ge": _compare(lambda left, right: bool(left >= right)),
    "gt": _compare(lambda left, right: bool(left > right)),
    "html": _html,
    "index": _index,
    "join": _join,
    "js": _js,
    "json": to_json,
    "le": _compare(lambda left, right: bool(left <= right)),
    "len": _length,
    "lower": lambda text: text.lower(),
    "lt": _compare(lambda left, right: bool(left < right)),
    "ne": lambda left, right: not _equal(left, right),
    "not": lambda value: not truth(value),
    "pad": _pad,
    "print": _text,
    "printf": _printf,
    "println": _line,
    "slice": _slice,
    "split": lambda text, separator: text.split(separator) if separator else list(text),
    "title": lambda text: re.sub(r"(?<!\S)\w", lambda match: match[0].upper(), text),
    "truncate": _truncate,
    "upper": lambda text: text.upper(),
    "urlquery": _urlquery,
}
