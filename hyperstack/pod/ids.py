"""Identifiers and names."""

from __future__ import annotations

import re
import secrets

from hyperstack.pod.errors import InvalidArgument

ID_LENGTH = 64
"""Hex digits of a pod, container or exec id, as Docker has it."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z")
_OF_TWO = frozenset({"container", "volume"})
"""Kinds of objects whose names have two characters at least, as in Docker."""
_LEFT = ("bold", "brisk", "calm", "clever", "eager", "fair", "gentle", "happy", "keen", "lucid", "noble", "quick",
         "quiet", "sharp", "sober", "steady", "sunny", "swift", "vivid", "wise")
_RIGHT = ("bohr", "curie", "dijkstra", "euler", "fermi", "gauss", "hamilton", "hopper", "knuth", "lamport",
          "liskov", "lovelace", "maxwell", "noether", "pascal", "ritchie", "shannon", "turing", "wirth", "yonath")


def new_id() -> str:
    """A random 64-digit hex id whose 12-digit short form is not all decimal (it would read as a number)."""
    while True:
        ident = secrets.token_hex(ID_LENGTH // 2)
        if not ident[:12].isdecimal():
            return ident


def random_name() -> str:
    """A name for an object that the user did not name."""
    return f"{secrets.choice(_LEFT)}_{secrets.choice(_RIGHT)}_{secrets.token_hex(2)}"


def check_name(name: str, *, kind: str = "container") -> str:
    """The name without a leading slash.

    :raise InvalidArgument: it is not ``[a-zA-Z0-9][a-zA-Z0-9_.-]*`` of at most 128 characters, or of one where the
        kind has two.
    """
    name = name.removeprefix("/")
    least = 2 if kind in _OF_TWO else 1
    if not _NAME.match(name) or len(name) < least:
        shown = name if len(name) <= 64 else name[:61] + "..."
        raise InvalidArgument(
            f"Invalid {kind} name ({shown}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            field="name", value=shown, hint=f"{least} to 128 characters")
    return name
