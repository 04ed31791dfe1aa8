"""What tests ask of Docker's own client."""

from __future__ import annotations

import json
from typing import Any

from tests.harness import Daemon

SLEEP = ("sleep", "100000")


def text(daemon: Daemon, *args: str) -> str:
    """What it prints."""
    return daemon.docker_cli(*args).stdout.decode().strip()


def inspect(daemon: Daemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.docker_cli("inspect", name).stdout)[0]
    return found


def complaint(daemon: Daemon, *args: str) -> str:
    """What it has against something that must not succeed."""
    done = daemon.docker_cli(*args, check=False)
    assert done.returncode != 0, done.stdout
    return done.stderr.decode()
