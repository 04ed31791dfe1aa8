"""Layers to disks: starts the confined worker, judges what it made, and publishes the disk."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hyperstack.image import syscalls
from hyperstack.image.blobs import BlobStore, publish
from hyperstack.image.config import ImageConfigOptions
from hyperstack.image.digest import hexadecimal, is_digest, short
from hyperstack.image.errors import MALFORMED, printable
from hyperstack.image.threads import in_thread
from hyperstack.image.worker import Report, Settings
from hyperstack.pod.errors import Exhausted, HyperStackError, InvalidArgument

_BLOCK = 4096
_MAX_LINE = 1 << 16
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A published layer disk."""

    diff_id: str
    size: int
    entries: int


class WrongDiffId(InvalidArgument):
    """A layer does not unpack to what its image's config promises."""

    def __init__(self, layer: str, *, expected: str, actual: str) -> None:
        super().__init__(f"layer {layer} unpacks to {actual}; its image's config says {expected}", field="layer",
                         value=expected, hint="the image is broken: build or push it again")
        self.actual = actual


class ConversionFailed(HyperStackError):
    """The unpacking process died or this host let it down; the layer is not to blame."""


class Converter:
    def __init__(self, blobs: BlobStore, layers: Path, options: ImageConfigOptions) -> None:
        self._blobs = blobs
        self._layers = layers
        self._options = options
        self._slots = asyncio.Semaphore(options.parallel_conversions)

    def open(self) -> None:
        self._layers.mkdir(exist_ok=True, mode=0o700)

    def path(self, diff_id: str) -> Path:
        if not is_digest(diff_id):
            raise ValueError(f"not a digest: {diff_id!r}")
        return self._layers / f"{hexadecimal(diff_id)}.erofs"

    def disks(self) -> list[Path]:
        """All published disks, whether an index knows them or not."""
        return list(self._layers.glob("*.erofs"))

    async def convert(self, blob: Path, *, expected: str | None = None,
                      on_read: Callable[[int], None] | None = None) -> Disk:
        """Make the disk of the layer in `blob`; `on_read` hears how many of its bytes were taken.

        :raise InvalidArgument: the layer is refused; WrongDiffId where it is not the `expected` one.
        :raise Exhausted: no space left on the disk.
        :raise ConversionFailed: the process died.
        """
        async with self._slots:
            image = self._blobs.temporary()
            try:
                report = await self._run(blob, image, on_read or (lambda read: None))
                disk = self._judge(report, image, blob, expected)
                await in_thread(publish, image, self.path(disk.diff_id))
            finally:
                image.unlink(missing_ok=True)
        return disk

    async def _run(self, blob: Path, image: Path, on_read: Callable[[int], None]) -> Report:
        limits = self._options.limits
        spool = self._blobs.temporary()
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(blob.open("rb")), stack.enter_context(image.open("r+b")),
                     stack.enter_context(spool.open("r+b"))]
            # Nobody else needs the spool's name, and a kill leaves nothing of it.
            spool.unlink()
            fds = [file.fileno() for file in files]
            settings = Settings(
                blob=fds[0], image=fds[1], spool=fds[2], max_bytes=limits.layer_bytes, max_entries=limits.layer_entries,
                memory=limits.unpack_memory, cpu_seconds=limits.unpack_cpu_seconds, uid=self._options.worker_uid,
                system_calls=base64.b64encode(syscalls.compiled()).decode())
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-m", "hyperstack.image.worker", msgspec.json.encode(settings).decode(),
                pass_fds=fds, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE, limit=_MAX_LINE, start_new_session=True, env=_ENVIRONMENT)
        try:
            return await _listen(process, on_read)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    def _judge(self, report: Report, image: Path, blob: Path, expected: str | None) -> Disk:
        name = short(expected) if expected else blob.name[:12]
        match report.outcome:
            case "done":
                size = os.stat(image).st_size
                if size != report.size or size % _BLOCK or not is_digest(report.diff_id):
                    raise ConversionFailed(f"layer {name}: the unpacking process left {size} bytes, not {report.size}")
                if expected is not None and report.diff_id != expected:
                    raise WrongDiffId(name, expected=expected, actual=report.diff_id)
                return Disk(diff_id=report.diff_id, size=size, entries=report.entries)
            case "refused":
                raise InvalidArgument(f"layer {name} is refused: {printable(report.message)}", field="layer",
                                      value=name)
            case "full":
                raise Exhausted(f"layer {name}: no space left on the disk of {self._layers}", field="disk",
                                value=str(self._layers), hint="free some, e.g. with `hyperctl image prune`, and retry")
            case _:
                raise ConversionFailed(f"layer {name} could not be unpacked: {printable(report.message)}")


async def _listen(process: asyncio.subprocess.Process, on_read: Callable[[int], None]) -> Report:
    """The worker's last word. What it writes is judged like a stranger's: it had hostile input."""
    if process.stdout is None or process.stderr is None:
        raise AssertionError("both were asked for as pipes")
    complaint = asyncio.create_task(process.stderr.read(_MAX_LINE))
    try:
        while line := await process.stdout.readline():
            report = msgspec.json.decode(line, type=Report)
            if report.outcome:
                return report
            on_read(report.read)
        code = await process.wait()
        last = printable((await complaint).decode("utf-8", "replace").strip().rpartition("\n")[2])
        return Report(outcome="failed", message=f"the unpacking process ended with {code}: {last or 'no word'}")
    except (*MALFORMED, ValueError):
        return Report(outcome="failed", message="the unpacking process wrote what is no report")
    finally:
        complaint.cancel()
