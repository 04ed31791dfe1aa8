"""Finding a record by what a user typed."""

from __future__ import annotations

import re
from collections.abc import Collection

from hyperstack.engine.store import R, Table
from hyperstack.pod.errors import InvalidArgument, NotFound

_HEX = re.compile(r"[0-9a-f]{1,64}\Z")


def find(table: Table[R], kind: str, project: str, ref: str) -> R:
    """The project's record of that full id, name, or unambiguous id prefix, in this order, as Docker looks it up.

    :raise NotFound: there is none. :raise InvalidArgument: the prefix fits several.
    """
    ref = ref.removeprefix("/")
    record = table.get(ref)
    if record is not None and record.project == project:
        return record
    record = table.named(project, ref)
    if record is not None:
        return record
    fits = table.with_prefix(project, ref) if _HEX.match(ref) else []
    if len(fits) > 1:
        raise InvalidArgument(f"Multiple IDs found with provided prefix: {ref}", field=kind, value=ref,
                              hint="type more of the id")
    if not fits:
        raise NotFound(kind, ref if len(ref) <= 128 else ref[:125] + "...")
    return fits[0]


def _has_label(labels: dict[str, str], wanted: str) -> bool:
    """`wanted` is a name, or name=value."""
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def selected(labels: dict[str, str], wanted: Collection[str], unwanted: Collection[str]) -> bool:
    """Whether a prune takes what has these labels: it has all of `wanted`, and not all of `unwanted`."""
    return (all(_has_label(labels, label) for label in wanted)
            and not (unwanted and all(_has_label(labels, label) for label in unwanted)))
