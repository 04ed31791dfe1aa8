"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hyperstack.cli.errors import CliError


def write_whole(path: Path, data: bytes, *, mode: int = 0o600, directory_mode: int = 0o755) -> None:
    """:param directory_mode: of the directories above, where they are not there yet.

    :raise CliError: it cannot be written; what was there before still is.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=directory_mode)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
                os.replace(file.name, path.resolve())
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from error
