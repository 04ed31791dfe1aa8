"""The image of the container that a machine runs before others are forked from it: a program of ours, compiled on the
host that uses it, among what every image has."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from hyperstack.guest.tools import run, temporary_directory

_SOURCES = Path(__file__).with_name("rehearsal_program")
_DEADLINE_S = 60.0

RUN = "/rehearse"
"""Where the program is in the container; with the argument "wait" it runs until it is killed."""
_SKELETON: Mapping[str, bytes] = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n", "/etc/group": b"root:x:0:\n", "/etc/resolv.conf": b"",
    **{f"/{name}/.keep": b"" for name in ("dev", "proc", "sys", "tmp", "root", "usr/bin", "var/log")},
}
"""So that the guest meets directories that it mounts on, a file that it puts its own over, and others that it makes."""


def layer_name() -> str:
    """Of the layer that `layer_files` tells: another one where its sources are."""
    sources = (Path(__file__), *sorted(path for path in _SOURCES.iterdir() if path.is_file()))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    return f"rehearsal-{digest.hexdigest()[:16]}.erofs"


def layer_files(cache_dir: Path) -> dict[str, bytes]:
    """Contents by path. :raise Unavailable: the program does not compile; with the compiler's last words."""
    with temporary_directory(cache_dir) as work:
        run(["make", "-s", "-C", str(_SOURCES), f"OUT={work}"], deadline_s=_DEADLINE_S,
            hint="apt-get install make musl-tools linux-libc-dev")
        return {**_SKELETON, RUN: (work / "rehearse").read_bytes()}
