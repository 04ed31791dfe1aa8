"""What the makers of guest files share: other programs, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hyperstack.pod.errors import Unavailable

_TAIL = 800
"""Characters of a failed program's output that an error repeats."""


def run(command: Sequence[str], *, deadline_s: float, cwd: Path | None = None, hint: str | None = None,
        check: bool = True, env: Mapping[str, str] | None = None, stdin: Path | None = None) -> str:
    """The program's output.

    :param env: its whole environment; None: ours, in the C locale.
    :raise Unavailable: it is missing, fails (unless not `check`) or takes too long.
    """
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"} if env is None else env
    try:
        with open(stdin or os.devnull, "rb") as given:
            done = subprocess.run(command, cwd=cwd, env=environment, timeout=deadline_s, check=False, text=True,
                                  errors="replace", stdin=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError as error:
        raise Unavailable(f"there is no {command[0]}", hint=hint) from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"`{' '.join(command)}` took longer than {deadline_s:.0f} s", hint=hint) from error
    if check and done.returncode != 0:
        raise Unavailable(f"`{' '.join(command)}` failed: {done.stdout.strip()[-_TAIL:]}", hint=hint)
    return done.stdout


@contextlib.contextmanager
def temporary_directory(root: Path, prefix: str = ".new-") -> Iterator[Path]:
    """On the file system of `root`, so that its content can be renamed; it may itself be renamed away."""
    root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_atomically(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    Path(file.name).rename(path)
