"""The Dockerfile instructions that `--change` knows, at an import and a commit, applied to an image's run
configuration."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from typing import Any

from hyperstack.pod.errors import InvalidArgument

_PORT = re.compile(r"[0-9]{1,5}(?:/(?:tcp|udp|sctp))?\Z")
_NAME = re.compile(r"[^\s=]+\Z")
_MAX_CHANGE = 1 << 16


def apply_changes(changes: Collection[str], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `config` part of an image config document: `base`, which is left as it is, with the changes made.

    :raise InvalidArgument: an instruction is unknown or malformed.
    """
    config: dict[str, Any] = copy.deepcopy(dict(base or {}))
    words = {change.strip().partition(" ")[0].upper() for change in changes}
    if "ENTRYPOINT" in words and "CMD" not in words:
        config.pop("Cmd", None)  # Docker's rule: the old command is hardly an argument of the new entry point
    for change in changes:
        word, _, rest = change.strip().partition(" ")
        instruction = _INSTRUCTIONS.get(word.upper())
        if instruction is None or len(change) > _MAX_CHANGE:
            raise InvalidArgument(f"{word[:40]!r} is not an instruction that a change may hold", field="changes",
                                  value=change[:100], hint=f"use {', '.join(sorted(_INSTRUCTIONS))}")
        if not rest.strip():
            raise _malformed(change, "it has no argument")
        try:
            instruction(config, rest.strip())
        except ValueError as error:
            raise _malformed(change, str(error)) from error
    return config


def _malformed(change: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"the change {change[:100]!r} is malformed: {reason}", field="changes", value=change[:100])


def _words(rest: str) -> list[str] | None:
    """A JSON list of strings; None where it is not written as one."""
    if not rest.startswith("["):
        return None
    try:
        words = json.loads(rest)
    except (ValueError, RecursionError):
        return None
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def _command(key: str) -> Callable[[dict[str, Any], str], None]:
    def apply(config: dict[str, Any], rest: str) -> None:
        config[key] = _words(rest) or ["/bin/sh", "-c", rest]
    return apply


def _pairs(rest: str) -> list[tuple[str, str]]:
    """NAME=VALUE..., quoted as in a shell, or the old form NAME VALUE."""
    words = shlex.split(rest)
    if "=" not in words[0]:
        name, _, value = rest.partition(" ")
        pairs = [(name, value.strip())]
    else:
        if lonely := [word for word in words if "=" not in word]:
            raise ValueError(f"{lonely[0]!r} has no =; quote values that hold blanks")
        pairs = [(name, value) for name, _, value in (word.partition("=") for word in words)]
    if not all(_NAME.match(name) for name, _ in pairs):
        raise ValueError("a name is empty or has a blank")
    return pairs


def _env(config: dict[str, Any], rest: str) -> None:
    values = dict(item.split("=", 1) for item in config.get("Env", []))
    values.update(_pairs(rest))
    config["Env"] = [f"{name}={value}" for name, value in values.items()]


def _label(config: dict[str, Any], rest: str) -> None:
    config.setdefault("Labels", {}).update(_pairs(rest))


def _expose(config: dict[str, Any], rest: str) -> None:
    for port in rest.split():
        if not _PORT.match(port.lower()) or not 0 < int(port.partition("/")[0]) < 65536:
            raise ValueError(f"{port!r} is not a port such as 80 or 53/udp")
        config.setdefault("ExposedPorts", {})[port.lower() if "/" in port else f"{port}/tcp"] = {}


def _volume(config: dict[str, Any], rest: str) -> None:
    for path in _words(rest) or rest.split():
        config.setdefault("Volumes", {})[path] = {}


def _text(key: str) -> Callable[[dict[str, Any], str], None]:
    def apply(config: dict[str, Any], rest: str) -> None:
        config[key] = rest
    return apply


_INSTRUCTIONS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "CMD": _command("Cmd"), "ENTRYPOINT": _command("Entrypoint"), "ENV": _env, "LABEL": _label, "EXPOSE": _expose,
    "VOLUME": _volume, "USER": _text("User"), "WORKDIR": _text("WorkingDir"), "STOPSIGNAL": _text("StopSignal")}
