"""Small native programs, compiled on the host that uses them and kept under their source's hash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from hyperstack.pod.errors import Unavailable

_HERE = Path(__file__).parent
_TIMEOUT_S = 60


def build(name: str, cache_dir: Path) -> Path:
    """The program of the folder `name` beside this module; compiled where the cache does not have this source's.

    Two daemons may do this at once. Blocks for as long as the compiler takes, 0.2 s for the first time.

    :raise Unavailable: the compiler is missing or fails.
    """
    folder = _HERE / name
    digest = hashlib.sha256()
    for source in sorted(folder.iterdir()):
        if source.is_file():
            digest.update(f"{source.name}\0".encode() + source.read_bytes())
    program = cache_dir / f"{name}-{digest.hexdigest()[:16]}"
    if program.exists():
        return program
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache_dir) as scratch:
        staged = Path(scratch, name)
        try:
            subprocess.run(["make", "-s", "-C", str(folder), f"OUT={staged}"], check=True, capture_output=True,
                           text=True, timeout=_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as error:
            words = getattr(error, "stderr", None) or str(error)
            raise Unavailable(f"{name} cannot be compiled: {words.strip()[-500:]}",
                              hint="apt-get install make gcc musl-tools linux-libc-dev") from error
        staged.chmod(0o555)
        os.replace(staged, program)
    return program
