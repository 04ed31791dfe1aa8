"""YAML and JSON from strangers: bounded in size, depth and number of values before anything is built.

YAML's scalars are read by the core schema of YAML 1.2 (`yes` and dates are strings). Anchors, aliases, tags and
repeated keys are refused: a manifest needs none of them, and each hides what it says.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from hyperstack.http.body import check_tree
from hyperstack.pod.errors import InvalidArgument

MAX_SIZE = 1024 * 1024
"""Bytes; Kubernetes' own limit of an object is near it."""

MAX_DEPTH = 32
MAX_VALUES = 20_000
MAX_DOCUMENTS = 64

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,32}|[0-9]{1,32}(\.[0-9]{0,32})?)([eE][-+]?[0-9]{1,3})?\Z")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True,
                          "TRUE": True, "false": False, "False": False, "FALSE": False}
_END = object()


def parse_documents(raw: bytes) -> list[Any]:
    """The documents (dicts, lists, strings, numbers, booleans, None) of a JSON or YAML text; empty ones left out.

    :raise InvalidArgument: not UTF-8, not well-formed, or beyond one of the limits; says where.
    """
    if len(raw) > MAX_SIZE:
        raise InvalidArgument(f"the manifest is longer than {MAX_SIZE} bytes", field="manifest")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the manifest is not UTF-8: {error}", field="manifest") from error
    documents = _json(text) if text.lstrip().startswith("{") else None
    if documents is None:
        documents = _yaml(text)
    for document in documents:
        check_tree(document)
    return documents


def _json(text: str) -> list[Any] | None:
    """None where it is not JSON: a flow mapping of YAML begins with a brace, too."""
    try:
        return [json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)]
    except (ValueError, RecursionError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgument(f"the manifest has the key {twice[:64]!r} twice in one object", field=twice[:64])
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _yaml(text: str) -> list[Any]:
    try:
        builder = _Builder(yaml.parse(text, Loader=_LOADER))
        return [document for document in builder.documents() if document is not None]
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidArgument(f"the manifest is not valid YAML{where}: {error.problem or error.context}",
                              field="manifest") from error
    except yaml.YAMLError as error:
        raise InvalidArgument(f"the manifest is not valid YAML: {error}", field="manifest") from error


class _Builder:
    """Builds values out of the parser's events, so that a limit ends the parsing, not only the use of its result."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events
        self._values = 0

    def documents(self) -> list[Any]:
        documents: list[Any] = []
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if len(documents) == MAX_DOCUMENTS:
                    raise InvalidArgument(f"more than {MAX_DOCUMENTS} documents in one manifest", field="manifest")
                documents.append(self._value(next(self._events), 0))
        return documents

    def _value(self, event: yaml.Event, depth: int) -> Any:
        line = _line(event)
        self._values += 1
        if self._values > MAX_VALUES or depth > MAX_DEPTH:
            raise InvalidArgument(f"the manifest has more than {MAX_VALUES} values, or is nested deeper than "
                                  f"{MAX_DEPTH} (line {line})", field="manifest")
        if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            return _END
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise InvalidArgument(f"anchors and aliases are not read (line {line})", field="manifest",
                                  hint="write the value out")
        if getattr(event, "tag", None) not in (None, "!"):
            raise InvalidArgument(f"YAML tags are not read (line {line})", field="manifest", hint="leave it out")
        if isinstance(event, yaml.SequenceStartEvent):
            return list(iter(lambda: self._value(next(self._events), depth + 1), _END))
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(depth + 1)
        assert isinstance(event, yaml.ScalarEvent)
        return _scalar(event)

    def _mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in self._events:
            line = _line(event)
            key = self._value(event, depth)
            if key is _END:
                break
            if isinstance(key, bool | int | float) and isinstance(event, yaml.ScalarEvent):
                key = event.value  # Kubernetes' keys are strings, whatever they look like.
            if not isinstance(key, str):
                raise InvalidArgument(f"a key that is not a string (line {line})", field="manifest")
            if key in found:
                raise InvalidArgument(f"the key {key[:64]!r} is there twice in one object (line {line})",
                                      field=key[:64])
            found[key] = self._value(next(self._events), depth)
        return found


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _scalar(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    if event.style not in (None, "") or len(text) > 80:  # Quoted, or a block: a string, whatever is in it.
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.match(text):
        return int(text)
    if _FLOAT.match(text) and math.isfinite(number := float(text)):
        return number
    return text
