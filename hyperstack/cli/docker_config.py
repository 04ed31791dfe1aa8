"""The configuration of Docker's clients, ~/.docker (or $DOCKER_CONFIG): theirs and ours alike."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hyperstack.cli.errors import CliError
from hyperstack.cli.files import write_whole

_MAX_CONFIG = 1024 * 1024


def directory() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def read() -> dict[str, Any]:
    """config.json; empty where there is none. :raise CliError: it is broken."""
    path = directory() / "config.json"
    try:
        with path.open("rb") as file:
            parsed = json.loads(file.read(_MAX_CONFIG))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CliError(f"cannot read {path}: {error}") from error
    return parsed if isinstance(parsed, dict) else {}


def write(configuration: dict[str, Any]) -> None:
    """For nobody else to read: it may hold credentials. :raise CliError: it cannot be written."""
    write_whole(directory() / "config.json", json.dumps(configuration, indent="\t").encode(), directory_mode=0o700)
