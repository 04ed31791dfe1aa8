"""Request bodies: bounded, and read as Go reads JSON, because that is what clients of Docker's API count on.

A field's name matches in any case, null is the zero value, and unknown fields are ignored; a value of the wrong type is
an error that names the field.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import inspect as types

from hyperstack.pod.errors import InvalidArgument

T = TypeVar("T")

MAX_BODY = 4 * 1024 * 1024
"""Bytes of a JSON body; Docker's own create bodies are some kilobytes."""

MAX_DEPTH = 32
"""Nesting of a JSON body; the deepest field of Docker's API lies at 6."""

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What Go's clients can send, and the store can keep."""

_type_info: Callable[[Any], types.Type] = functools.cache(types.type_info)
_SURROGATE = re.compile("[\ud800-\udfff]")
_AT = re.compile(r" - at `\$\.?([^`]*)`\Z")


async def read(request: web.Request, *, limit: int = MAX_BODY) -> bytes:
    """The whole body. :raise InvalidArgument: it is longer than `limit`."""
    if request.content_length is not None and request.content_length > limit:
        raise _too_long(limit)
    parts, size = [], 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > limit:
            raise _too_long(limit)
        parts.append(part)
    return b"".join(parts)


def decode(raw: bytes, kind: type[T]) -> T:
    """A JSON document as a `kind` (a msgspec Struct or a container of them); an empty body is an empty object.

    :raise InvalidArgument: it is not JSON, too deep, or a field has a wrong type; names the field.
    """
    try:
        value = msgspec.json.decode(raw) if raw.strip() else {}
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArgument(f"the request body is not valid JSON: {error}", field="body") from error
    check_tree(value)
    try:
        return msgspec.convert(_as_go_reads(value, _type_info(kind)), kind)
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error)) from error


def check_tree(value: object, depth: int = 0) -> None:
    """Nothing behind this line needs to fear deep nesting, a NUL that would end a C string early, or half a surrogate
    pair that no encoder takes.

    :raise InvalidArgument: it has one of them.
    """
    if depth > MAX_DEPTH:
        raise InvalidArgument(f"the request body is nested deeper than {MAX_DEPTH}", field="body")
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidArgument("a string of the request body contains a NUL byte", field="body", value=value[:64])
        if _SURROGATE.search(value):
            raise InvalidArgument("a string of the request body is not valid Unicode", field="body")
    elif isinstance(value, dict):
        for key, item in value.items():
            check_tree(key, depth)
            check_tree(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            check_tree(item, depth + 1)


def _as_go_reads(value: Any, info: types.Type) -> Any:
    match info:
        case types.StructType() if isinstance(value, dict):
            fields = {field.encode_name.lower(): field for field in info.fields}
            known = ((fields[key.lower()], item) for key, item in value.items() if key.lower() in fields)
            return {field.encode_name: _as_go_reads(item, field.type) for field, item in known if item is not None}
        case types.DictType() if isinstance(value, dict):
            return {key: _as_go_reads(item, info.value_type) for key, item in value.items()}
        case (types.ListType() | types.VarTupleType()) if isinstance(value, list):
            return [_as_go_reads(item, info.item_type) for item in value]
        case types.UnionType() if isinstance(value, (dict, list)):
            wanted = types.StructType | types.DictType if isinstance(value, dict) else types.ListType
            inner = next((choice for choice in info.types if isinstance(choice, wanted)), None)
            return value if inner is None else _as_go_reads(value, inner)
        case types.StructType() | types.DictType() if value is None:
            return {}
        case types.ListType() if value is None:
            return []
        case types.StrType() if value is None:
            return ""
    return value


def _wrong_type(text: str) -> InvalidArgument:
    found = _AT.search(text)
    field = found[1] if found else ""
    what = (text[:found.start()] if found else text).replace("`", "")
    return InvalidArgument(f"invalid request body: {field + ': ' if field else ''}{what[:1].lower()}{what[1:]}",
                           field=field or "body")


def _too_long(limit: int) -> InvalidArgument:
    return InvalidArgument(f"the request body is longer than {limit} bytes", field="body")
