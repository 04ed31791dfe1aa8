"""Builds' side of the image store: contexts, layers out of copied files, and the cache of what steps made."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from dataclasses import asdict
from pathlib import Path

import msgspec

from hyperstack.image import manifest as manifests
from hyperstack.image import names as references
from hyperstack.image import syscalls
from hyperstack.image.api import CachedStep, Composed, Context, Copying, NewLayer
from hyperstack.image.archive import store_stream
from hyperstack.image.blobs import BlobStore, discard, full_disk_told
from hyperstack.image.build_worker import Job, Outcome, Source
from hyperstack.image.commit import Committer
from hyperstack.image.config import ImageConfigOptions
from hyperstack.image.convert import ConversionFailed, Converter
from hyperstack.image.errors import MALFORMED, printable
from hyperstack.image.index import CacheRow, ImageIndex, ImageRow, LayerRow
from hyperstack.image.pull import Pins
from hyperstack.image.threads import in_thread, with_stream
from hyperstack.pod.errors import Exhausted, InvalidArgument, NotFound

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_MAX_ANSWER = 4 << 20
"""A Dockerfile of 1 MiB in base64, and some."""
_PIECE = 1 << 20
_CPU_SECONDS = 600
"""Of one step: a gigabyte of small files takes some twenty."""


class ImageWorkshop:
    """Implements `hyperstack.image.api.Workshop`."""

    def __init__(self, blobs: BlobStore, converter: Converter, committer: Committer, index: ImageIndex, pins: Pins,
                 options: ImageConfigOptions, *, sweep: Callable[[], int]) -> None:
        self._blobs = blobs
        self._converter = converter
        self._committer = committer
        self._index = index
        self._pins = pins
        self._options = options
        self._sweep = sweep
        self._slots = asyncio.Semaphore(options.parallel_conversions)

    # -- files

    async def keep(self, stream: AsyncIterator[bytes], *, max_bytes: int = 0) -> Path:
        limit = max_bytes or self._options.limits.blob_bytes
        member = await with_stream(stream, functools.partial(store_stream, store=self._blobs, max_bytes=limit))
        return member.path

    def discard(self, path: Path) -> None:
        discard(path)

    async def read(self, path: Path) -> AsyncGenerator[bytes, None]:
        with path.open("rb") as file:
            while piece := await in_thread(file.read, _PIECE):
                yield piece

    # -- what the confined process does

    async def open_context(self, packed: Path, dockerfile: str) -> Context:
        plain = self._blobs.temporary()
        try:
            with contextlib.ExitStack() as stack:
                fds = [stack.enter_context(packed.open("rb")).fileno(), stack.enter_context(plain.open("r+b")).fileno()]
                outcome = await self._run(self._job("open", packed=fds[0], plain=fds[1], dockerfile=dockerfile), fds)
        except BaseException:
            discard(plain)
            raise
        text = base64.b64decode(outcome.dockerfile) if outcome.dockerfile is not None else None
        return Context(tar=plain, dockerfile=text)

    def close_context(self, context: Context) -> None:
        if context.tar is not None:
            discard(context.tar)

    async def compose(self, copying: Copying) -> Composed:
        out = self._blobs.temporary()
        spool = self._blobs.temporary()
        try:
            with contextlib.ExitStack() as stack:
                fds: list[int] = []

                def opened(path: Path, mode: str = "rb") -> int:
                    fds.append(stack.enter_context(path.open(mode)).fileno())
                    return fds[-1]

                tar = copying.context.tar if copying.context is not None and not copying.origin else None
                sources = tuple(Source(pattern=pattern) for pattern in copying.patterns) + tuple(
                    Source(name=file.name, fd=opened(file.path), mtime=file.mtime, mode=file.mode)
                    for file in copying.files)
                outcome = await self._run(self._job(
                    "compose", base=tuple(map(opened, self._disks(copying.base))),
                    origin=tuple(map(opened, self._disks(copying.origin))),
                    plain=opened(tar) if tar is not None else -1, spool=opened(spool, "r+b"), out=opened(out, "r+b"),
                    sources=sources, destination=copying.destination, chown=copying.chown, chmod=copying.chmod,
                    extract=copying.extract, keep_owner=bool(copying.origin)), fds)
        except BaseException:
            discard(out)
            raise
        finally:
            discard(spool)
        return Composed(tar=out, digest=outcome.digest, entries=outcome.entries)

    def _disks(self, image: str) -> list[Path]:
        return [self._converter.path(layer.diff_id) for layer in self._row(image).layers] if image else []

    def _job(self, kind: str, *, packed: int = -1, plain: int = -1, dockerfile: str = "", base: tuple[int, ...] = (),
             origin: tuple[int, ...] = (), spool: int = -1, out: int = -1, sources: tuple[Source, ...] = (),
             destination: str = "", chown: str = "", chmod: str = "", extract: bool = False, keep_owner: bool = False
             ) -> Job:
        limits = self._options.limits
        return Job(kind=kind, memory=limits.unpack_memory, cpu_seconds=min(limits.unpack_cpu_seconds, _CPU_SECONDS),
                   system_calls=base64.b64encode(syscalls.compiled()).decode(), max_bytes=limits.layer_bytes,
                   max_entries=limits.layer_entries, uid=self._options.worker_uid, packed=packed, plain=plain,
                   dockerfile=dockerfile, base=base, origin=origin, spool=spool, out=out, sources=sources,
                   destination=destination, chown=chown, chmod=chmod, extract=extract, keep_owner=keep_owner)

    async def _run(self, job: Job, fds: list[int]) -> Outcome:
        """:raise InvalidArgument: it is refused. :raise Exhausted: no space left. :raise ConversionFailed: it died."""
        async with self._slots:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-m", "hyperstack.image.build_worker", pass_fds=fds,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                start_new_session=True, env=_ENVIRONMENT)
            try:
                answer, complaint = await process.communicate(msgspec.json.encode(asdict(job)))
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        try:
            outcome = msgspec.json.decode(answer[:_MAX_ANSWER], type=Outcome)
        except (*MALFORMED, ValueError):
            last = printable(complaint.decode("utf-8", "replace").strip().rpartition("\n")[2])
            raise ConversionFailed(f"the process of this build step ended with {process.returncode}: "
                                   f"{last or 'no word'}") from None
        match outcome.outcome:
            case "done":
                return outcome
            case "refused":
                raise InvalidArgument(printable(outcome.message, 1000), field="build")
            case "full":
                raise Exhausted("no space left on the disk for this build step", field="disk",
                                hint="free some, e.g. with `hyperctl image prune`, and build again")
            case _:
                raise ConversionFailed(f"this build step failed: {printable(outcome.message)}")

    # -- images

    async def step(self, parent: str, layer: AsyncIterator[bytes] | None, new: NewLayer, *, key: str, project: str
                   ) -> str:
        return await self._step(parent, layer, new, key=key, project=project)

    async def step_of(self, donor: str, parent: str, new: NewLayer, *, key: str, project: str) -> str | None:
        done, below = self._row(donor), self._row(parent) if parent else None
        theirs, ours = _history(done), _history(below) if below is not None else []
        layers = below.layers if below is not None else ()
        if len(theirs) <= len(ours) or theirs[:len(ours)] != ours or theirs[len(ours)][0] != new.created_by:
            return None
        empty = theirs[len(ours)][1]
        same = [row.diff_id for row in done.layers[:len(layers)]] == [row.diff_id for row in layers]
        if not same or (not empty and len(done.layers) <= len(layers)):
            return None
        return await self._step(parent, None if empty else done.layers[len(layers)], new, key=key, project=project)

    async def _step(self, parent: str, layer: AsyncIterator[bytes] | LayerRow | None, new: NewLayer, *, key: str,
                    project: str) -> str:
        now = int(time.time())
        with full_disk_told(self._blobs.tmp.parent, "layer of this build step"), self._pins.hold_all():
            image = await self._committer.derive(self._row(parent) if parent else None, layer, new, skip_empty=True)
            self._index.put_step(image, CacheRow(key=key, project=project, image=image.id, created_at=now, used_at=now,
                                                 description=new.created_by[:1000]))
        return image.id

    def _row(self, ident: str) -> ImageRow:
        row = self._index.image(ident)
        if row is None:
            raise NotFound("image", ident)
        return row

    def cached(self, key: str) -> str | None:
        return self._index.cached(key, int(time.time()))

    def publish(self, image: str, names: Collection[str]) -> None:
        self._row(image)
        self._index.publish(image)
        self._index.name(image, [str(references.parse(name)) for name in names])

    # -- the cache

    def steps(self) -> list[CachedStep]:
        sizes, hidden = self._index.layer_sizes(), self._index.intermediates()
        layers = {ident: [layer.diff_id for layer in self._row(ident).layers] for ident in self._index.image_ids()}
        owned = {diff_id for ident, diff_ids in layers.items() if ident not in hidden for diff_id in diff_ids}
        counted: set[str] = set()
        found = []
        for row in self._index.cache_rows():
            own = [diff_id for diff_id in layers[row.image] if diff_id not in owned | counted]
            counted.update(own)
            found.append(CachedStep(
                key=row.key, project=row.project, image=row.image, description=row.description,
                created_at=row.created_at, used_at=row.used_at, uses=row.uses,
                size=sum(sizes[diff_id] for diff_id in set(own)),
                in_use=all(diff_id in owned for diff_id in layers[row.image])))
        return found

    def forget(self, keys: Collection[str], *, in_use: Collection[str]) -> int:
        self._index.forget_steps([row.key for row in self._index.cache_rows()
                                  if row.key in keys and row.image not in in_use], in_use)
        return self._sweep()


def _history(image: ImageRow) -> list[tuple[str, bool]]:
    """What made each of its steps, and whether that left no layer."""
    found = manifests.parse_config(image.config).raw.get("history")
    return [(str(step.get("created_by") or ""), step.get("empty_layer") is True)
            for step in (found if isinstance(found, list) else []) if isinstance(step, dict)]
