"""A layer of a few files of our own, for machines that are nobody's pods."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hyperstack.image import tar
from hyperstack.image.erofs.writer import ErofsWriter
from hyperstack.image.layer import LayerBuilder

_MAX_BYTES = 64 << 20
_MAX_ENTRIES = 1000


def make_layer(path: Path, files: Mapping[str, bytes]) -> None:
    """An EROFS image at `path`; all files are root's and executable.

    :param files: contents by path in the image.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.mode, entry.size = 0o755, len(content)
            archive.addfile(entry, io.BytesIO(content))
    data = packed.getvalue()
    with contextlib.ExitStack() as stack:
        image = stack.enter_context(tempfile.NamedTemporaryFile(dir=path.parent, delete=False))
        stack.callback(lambda: Path(image.name).unlink(missing_ok=True))
        spool = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
        writer = ErofsWriter(image.fileno(), spool.fileno(), max_bytes=_MAX_BYTES)
        builder = LayerBuilder(writer, max_entries=_MAX_ENTRIES)
        builder.consume(tar.TarStream(iter((data,))))
        writer.finish(builder.root, hashlib.sha256(data).digest()[:16])
        os.fchmod(image.fileno(), 0o600)
        os.replace(image.name, path)
