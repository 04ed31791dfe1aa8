"""JSON schemas in few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

_OPTIONAL = "x-optional"


def string(pattern: str = "", **more: Any) -> Schema:
    return {"type": "string", **({"pattern": pattern} if pattern else {}), **more}


def one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


def integer(low: int = -(2**63), high: int = 2**63 - 1) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def optional(schema: Schema) -> Schema:
    """Of a field that may be absent."""
    return {**schema, _OPTIONAL: True}


def array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def mapping(values: Schema, keys: str = "") -> Schema:
    found: Schema = {"type": "object", "additionalProperties": values}
    return {**found, "propertyNames": {"pattern": keys}} if keys else found


def record(**fields: Schema) -> Schema:
    """An answer's object: all these fields, unless optional, and no others."""
    return {"type": "object", "additionalProperties": False,
            "required": [name for name, schema in fields.items() if _OPTIONAL not in schema],
            "properties": {name: _plain(schema) for name, schema in fields.items()}}


def body(required: tuple[str, ...] = (), /, **fields: Schema) -> Schema:
    """A request's object: any of these fields, and others, which are ignored."""
    found: Schema = {"type": "object", "properties": {name: _plain(schema) for name, schema in fields.items()}}
    return {**found, "required": list(required)} if required else found


def extended(schema: Schema, **fields: Schema) -> Schema:
    """A record with more fields."""
    more = record(**fields)
    return {**schema, "required": [*schema["required"], *more["required"]],
            "properties": {**schema["properties"], **more["properties"]}}


def _plain(schema: Mapping[str, Any]) -> Schema:
    return {name: value for name, value in schema.items() if name != _OPTIONAL}


TEXT = string()
BOOL: Schema = {"type": "boolean"}
COUNT = integer(0)
INT = integer()
UINT64 = integer(0, 2**64 - 1)
NULL: Schema = {"type": "null"}
EMPTY: Schema = {"type": "object", "maxProperties": 0}
ANY: Schema = {}
HEX64 = string(r"^[0-9a-f]{64}$")
DIGEST = string(r"^sha256:[0-9a-f]{64}$")
TIME = string(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$")
STRINGS = array(TEXT)
WORDS = mapping(TEXT)
PORT = integer(0, 65535)
MAYBE_STRINGS = nullable(STRINGS)
MAYBE_WORDS = nullable(WORDS)
PORT_KEY = r"^\d{1,5}/(tcp|udp|sctp)$"
