"""The program that a machine runs before others are forked from it, compiled on the host that uses it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hyperstack.guest.tools import run, temporary_directory

_SOURCES = Path(__file__).with_name("rehearsal_program")
_DEADLINE_S = 60.0

RUN = "/rehearse"
"""Where the program is to be in the container; with the argument "wait" it runs until it is killed."""


def program_path(cache_dir: Path) -> Path:
    """Where the program of these sources is, or will be."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_SOURCES.iterdir()) if path.is_file()))
    return cache_dir / f"rehearse-{digest.hexdigest()[:16]}"


def build_program(cache_dir: Path) -> Path:
    """The compiled program, static; compiled where its source has changed since.

    :raise Unavailable: it does not compile; the message has the compiler's last words.
    """
    program = program_path(cache_dir)
    if not program.exists():
        with temporary_directory(cache_dir) as work:
            run(["make", "-s", "-C", str(_SOURCES), f"OUT={work}"], deadline_s=_DEADLINE_S,
                hint="apt-get install make musl-tools linux-libc-dev")
            (work / "rehearse").replace(program)
    return program
