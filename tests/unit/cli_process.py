"""hyperctl for the tests: as a process of its own, or, where nothing is attached, in this one, which costs less."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack

from hyperstack.cli.main import main
from tests.unit.cli_daemon import Daemon

Done = subprocess.CompletedProcess[bytes]


def command(daemon: Daemon, *words: str) -> list[str]:
    return [sys.executable, "-m", "hyperstack.cli.main", "-H", daemon.socket, *words]


def hyperctl(daemon: Daemon, *words: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Done:
    """Run it as a user does."""
    return subprocess.run(command(daemon, *words), input=stdin, capture_output=True, timeout=60, check=False,
                          env={**os.environ, **(env or {})})


def here(daemon: Daemon, *words: str, stdin: bytes = b"") -> Done:
    """Run `main` in this process with descriptors 0, 1 and 2 as files. Not for run, exec, attach and start."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(stdin)
        files[0].seek(0)
        saved = [os.dup(number) for number in range(3)]
        streams = sys.stdin, sys.stdout, sys.stderr
        try:
            for number, file in enumerate(files):
                os.dup2(file.fileno(), number)
            sys.stdin, sys.stdout, sys.stderr = (
                stack.enter_context(open(number, mode, closefd=False)) for number, mode in enumerate("rww"))
            code = _exit_code(["-H", daemon.socket, *words])
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            sys.stdin, sys.stdout, sys.stderr = streams
            for number, kept in enumerate(saved):
                os.dup2(kept, number)
                os.close(kept)
        files[1].seek(0)
        files[2].seek(0)
        return Done(list(words), code, files[1].read(), files[2].read())


def _exit_code(words: list[str]) -> int:
    try:
        main(words)
    except SystemExit as left:
        return int(left.code or 0)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must come."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 s"
        time.sleep(0.02)
