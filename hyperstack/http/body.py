"""Request bodies: bounded, and read as Go reads JSON, because that is what clients of Docker's API count on.

A field's name matches in any case, null is the zero value, and unknown fields are ignored; a value of the wrong type is
an error that names the field. What is wrong is said in Go's words, see `go_json`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import inspect as types

from hyperstack.http import go_json, media_types
from hyperstack.pod.errors import InvalidArgument

T = TypeVar("T")

MAX_BODY = 4 * 1024 * 1024
"""Bytes of a JSON body; Docker's own create bodies are some kilobytes."""

MAX_DEPTH = 32
"""Nesting of a JSON body; the deepest field of Docker's API lies at 6."""

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What Go's clients can send, and the store can keep."""
Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1, extra={"go": "int"})]
"""The same, where Go has its type of no given size."""

_type_info: Callable[[Any], types.Type] = functools.cache(types.type_info)
_SURROGATE = re.compile("[\ud800-\udfff]")


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


async def read_json(request: web.Request, kind: type[T], *, required: bool = False) -> T:
    """The body as a `kind`; none at all is an empty object, unless one is `required`.

    :raise InvalidArgument: it says to be something else than JSON, or see `decode`.
    """
    empty = request.content_length == 0 or not request.body_exists
    media_types.require_json(request.headers.get("Content-Type", ""), empty=empty)
    raw = await read(request)
    if (required or not empty) and not raw.strip():
        raise InvalidArgument("invalid JSON: got EOF while reading request body", field="body")
    return decode(raw, kind)


def decode(raw: bytes, kind: type[T]) -> T:
    """A JSON document as a `kind` (a msgspec Struct or a container of them); an empty body is an empty object.

    :raise InvalidArgument: it is not JSON, too deep, or a field has a wrong type; names the field.
    """
    rest = ""
    try:
        value = msgspec.json.decode(raw) if raw.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        value, rest = _first_value(raw, error)
    check_tree(value)
    info = _type_info(kind)
    try:
        result = msgspec.convert(_as_go_reads(value, info), kind)
    except msgspec.ValidationError as error:
        try:
            go_json.check_types(value, info)
        except go_json.GoTypeError as wrong:
            raise InvalidArgument(f"invalid JSON: {wrong}", field=wrong.field or "body") from error
        raise InvalidArgument(f"invalid JSON: {error}", field="body") from error
    if rest and rest[0] not in "]}":
        raise InvalidArgument("unexpected content after JSON", field="body", value=rest[:64])
    return result


def _first_value(raw: bytes, error: Exception) -> tuple[Any, str]:
    """Of a document that is none as a whole: the value at its beginning, and what follows that.

    Bytes that are no UTF-8 become U+FFFD, as in Go. :raise InvalidArgument: there is none; says what is wrong.
    """
    if len(raw) > go_json.MAX_SCANNED:
        raise InvalidArgument(f"invalid JSON: {error}", field="body") from error
    text = raw.decode("utf-8", "surrogateescape")
    try:
        end = go_json.end_of_value(text)
        value = msgspec.json.decode(text[:end].encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    except go_json.GoSyntaxError as wrong:
        raise InvalidArgument(f"invalid JSON: {wrong}", field="body") from error
    except (msgspec.DecodeError, RecursionError) as other:
        raise InvalidArgument(f"invalid JSON: {other}", field="body") from other
    return value, text[end:].lstrip(" \t\r\n")


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
        case types.Metadata():
            return _as_go_reads(value, info.type)
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


def _too_long(limit: int) -> InvalidArgument:
    return InvalidArgument(f"the request body is longer than {limit} bytes", field="body")
