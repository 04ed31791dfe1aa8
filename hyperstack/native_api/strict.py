"""Reading untyped documents into typed ones, where every field must be known: honoured, or refused by its path."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect as types

from hyperstack.pod.errors import InvalidArgument, UnsupportedOption

T = TypeVar("T")

_type_info: Callable[[Any], types.Type] = functools.cache(types.type_info)
_AT = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`\Z")


class Refused(NamedTuple):
    """A field that exists and is not honoured."""

    reason: str
    accepted: tuple[Any, ...] = ()
    """Values that ask for what happens anyway. Empty ones (null, "", {}, []) always do."""
    hint: str = ""


Refusals = Mapping[type, Mapping[str, Refused]]


def read(value: Any, kind: type[T], refusals: Refusals, *, path: str = "") -> T:
    """`value` as a `kind`, a msgspec Struct of Structs.

    :raise InvalidArgument: an unknown field (with a suggestion) or a wrong type; with the path.
    :raise UnsupportedOption: a field of `refusals`, with the path and the reason.
    """
    known = _known(value, _type_info(kind), refusals, path)
    try:
        return msgspec.convert(known, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _AT.search(text)
        where = ".".join(part for part in (path, found[1] if found else "") if part)
        what = (text[:found.start()] if found else text).replace("`", "")
        raise InvalidArgument(f"{where or 'the document'}: {what[:1].lower()}{what[1:]}", field=where) from error


def _known(value: Any, info: types.Type, refusals: Refusals, path: str) -> Any:
    """The value without what is empty, or refused but harmless."""
    if isinstance(info, types.UnionType):
        wanted = types.StructType if isinstance(value, dict) else types.ListType
        info = next((choice for choice in info.types if isinstance(choice, wanted)), info)
    if isinstance(info, types.StructType) and isinstance(value, dict):
        return _known_fields(value, info, refusals, path)
    if isinstance(info, types.ListType) and isinstance(value, list):
        return [_known(item, info.item_type, refusals, f"{path}[{index}]") for index, item in enumerate(value)]
    return value


def _known_fields(value: dict[str, Any], info: types.StructType, refusals: Refusals, path: str) -> dict[str, Any]:
    fields = {field.encode_name: field for field in info.fields}
    refused = refusals.get(info.cls, {})
    found = {}
    for name, item in value.items():
        where = f"{path}.{name}" if path else name
        if name in fields:
            if item is not None:
                found[name] = _known(item, fields[name].type, refusals, where)
        elif name in refused:
            if item not in (None, "", {}, [], *refused[name].accepted):
                raise UnsupportedOption(where, refused[name].reason, hint=refused[name].hint or None)
        else:
            close = difflib.get_close_matches(name[:64], [*fields, *refused], n=1)
            hint = f'did you mean "{close[0]}"?' if close else f"known: {', '.join(sorted(fields))}"
            raise InvalidArgument(f'unknown field "{where[:256]}"', field=where[:256], hint=hint)
    return found
