"""-v and --mount, in the words of Docker's API."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable
from typing import Any

from hyperstack.cli.errors import CliError
from hyperstack.cli.options import mapping
from hyperstack.cli.units import parse_size


def split_volumes(values: Iterable[str]) -> tuple[list[str], list[str]]:
    """-v options: (binds, paths of anonymous volumes). A relative host path is taken from the working directory.

    :raise CliError: an empty part, or more than three.
    """
    binds: list[str] = []
    anonymous: list[str] = []
    for value in values:
        parts = value.split(":")
        if len(parts) > 3 or not all(parts):
            raise CliError(f'invalid volume specification: "{value}"',
                           hint="Write it as HOST_PATH:PATH[:ro], NAME:PATH[:ro] or PATH.")
        if len(parts) == 1:
            anonymous.append(value)
            continue
        if parts[0].startswith((".", "~")):
            parts[0] = os.path.abspath(os.path.expanduser(parts[0]))
        binds.append(":".join(parts))
    return binds, anonymous


def mount(value: str) -> dict[str, Any]:
    """--mount type=...,source=...,target=... as the API's.

    :raise CliError: a key that is unknown or lacks its value, or no target.
    """
    found: dict[str, Any] = {"Type": "volume"}
    try:
        fields = next(csv.reader([value]))
    except (csv.Error, StopIteration) as error:
        raise CliError(f'invalid argument "{value}" for --mount: {error}') from error
    for part in fields:
        key, equals, content = part.partition("=")
        _mount_field(found, key.strip().lower(), content if equals else None, value)
    if not found.get("Target"):
        raise CliError(f'invalid argument "{value}" for --mount: target is required')
    if found["Type"] == "bind" and found.get("Source", "").startswith((".", "~")):
        found["Source"] = os.path.abspath(os.path.expanduser(found["Source"]))
    return found


def _mount_field(found: dict[str, Any], key: str, content: str | None, whole: str) -> None:
    if key in ("readonly", "ro", "volume-nocopy", "bind-create-src") and content in (None, "true", "1", "false", "0"):
        on = content in (None, "true", "1")
        if key == "bind-create-src":
            found.setdefault("BindOptions", {})["CreateMountpoint"] = on
        elif key == "volume-nocopy":
            found.setdefault("VolumeOptions", {})["NoCopy"] = on
        else:
            found["ReadOnly"] = on
        return
    if content is None:
        raise CliError(f'invalid argument "{whole}" for --mount: "{key}" needs a value')
    match key:
        case "type":
            found["Type"] = content.lower()
        case "source" | "src":
            found["Source"] = content
        case "target" | "dst" | "destination":
            found["Target"] = content
        case "tmpfs-size":
            found.setdefault("TmpfsOptions", {})["SizeBytes"] = parse_size(content)
        case "tmpfs-mode" if re.fullmatch(r"[0-7]{1,5}", content):
            found.setdefault("TmpfsOptions", {})["Mode"] = int(content, 8)
        case "bind-recursive" if content in ("enabled", "disabled", "writable", "readonly"):
            options = found.setdefault("BindOptions", {})
            options |= {"disabled": {"NonRecursive": True}, "writable": {"ReadOnlyNonRecursive": True},
                        "readonly": {"ReadOnlyForceRecursive": True}}.get(content, {})
        case "volume-subpath":
            found.setdefault("VolumeOptions", {})["Subpath"] = content
        case "bind-propagation":
            found.setdefault("BindOptions", {})["Propagation"] = content
        case "consistency":
            found["Consistency"] = content
        case "volume-driver":
            found.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})["Name"] = content
        case "volume-label" | "volume-opt":
            options = found.setdefault("VolumeOptions", {})
            place = options.setdefault("Labels", {}) if key == "volume-label" else \
                options.setdefault("DriverConfig", {}).setdefault("Options", {})
            place.update(mapping([content], f"mount {key}"))
        case _:
            raise CliError(f'invalid argument "{whole}" for --mount: unexpected "{key}={content}"')
