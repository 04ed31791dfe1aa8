"""Pushes: an image of the store into a registry, its layers as they travelled, its manifest byte for byte."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlencode, urljoin

from hyperstack.image import digest as digests
from hyperstack.image import manifest as manifests
from hyperstack.image.api import Credentials, Progress, ProgressSink, Pushed
from hyperstack.image.blobs import BlobStore
from hyperstack.image.config import ImageConfigOptions
from hyperstack.image.digest import short
from hyperstack.image.errors import printable
from hyperstack.image.index import ImageRow
from hyperstack.image.names import Reference
from hyperstack.image.pull import Pins, together
from hyperstack.image.refusals import Refusal
from hyperstack.image.registry import Hung, RegistryClient, Source, TransferFailed
from hyperstack.image.threads import in_thread
from hyperstack.pod.errors import RegistryError

_LOG = logging.getLogger(__name__)
_PIECE = 1 << 18
_TELL = 1 << 20
"""Bytes between two steps that are told."""
_DIGESTING_S = 300.0
"""For a registry to check a layer that it has got."""


class Uploader:
    def __init__(self, client: RegistryClient, blobs: BlobStore, pins: Pins, options: ImageConfigOptions) -> None:
        self._client = client
        self._blobs = blobs
        self._pins = pins
        self._patience = options.patience
        self._slots = asyncio.Semaphore(options.parallel_downloads)

    async def push(self, reference: Reference, row: ImageRow, credentials: Credentials | None, progress: ProgressSink
                   ) -> Pushed:
        """Into the registry itself, never a mirror. What it has already is not sent again. Errors as
        `ImageBackend.push` has them."""
        try:
            return await self._push(self._client.sources(reference, credentials)[-1], reference, row, progress)
        except Refusal as error:
            raise error.of(reference) from error

    async def _push(self, source: Source, reference: Reference, row: ImageRow, progress: ProgressSink) -> Pushed:
        layers = {layer.blob: layer.diff_id for layer in row.layers}
        with self._pins.hold([row.id, row.manifest, *layers]):
            document = await in_thread(self._blobs.read, row.manifest)
            kind = manifests.parse(document).media_type or manifests.OCI_MANIFEST
            # The uppermost first, and by the name of what is in it: that of its packed form is the registry's matter.
            for diff_id in reversed(layers.values()):
                progress(Progress(ident=short(diff_id), status="Preparing"))
            await together([self._layer(source, blob, short(diff_id), progress) for blob, diff_id in layers.items()])
            await self._blob(source, row.id, _unheard)
            await self._manifest(source, reference.tag, document, kind)
        progress(Progress(ident="", status=f"{reference.tag}: digest: {row.manifest} size: {len(document)}",
                          message=True))
        return Pushed(reference=str(reference), tag=reference.tag, digest=row.manifest, size=len(document))

    async def _layer(self, source: Source, blob: str, shown: str, progress: ProgressSink) -> None:
        def tell(sent: int, total: int) -> None:
            progress(Progress(ident=shown, status="Pushing", current=sent, total=total))

        if self._slots.locked():
            progress(Progress(ident=shown, status="Waiting"))
        async with self._slots:
            sent = await self._blob(source, blob, tell)
        progress(Progress(ident=shown, status="Pushed" if sent else "Layer already exists"))

    async def _blob(self, source: Source, blob: str, tell: Callable[[int, int], None]) -> bool:
        """Whether it had to be sent."""
        attempt = 0
        while True:
            await self._client.back_off(attempt)
            try:
                if await self._is_there(source, blob):
                    return False
                await self._send(source, blob, tell)
            except TransferFailed as error:
                attempt += 1
                if attempt >= self._patience.tries:
                    raise
                _LOG.info("blob %s: %s; trying again", short(blob), error.message)
            else:
                return True

    async def _is_there(self, source: Source, blob: str) -> bool:
        try:
            async with self._client.ask(source, "HEAD", f"{source.url}/blobs/{blob}", {}):
                return True
        except Refusal as error:
            if not error.absent:
                raise
            return False

    async def _send(self, source: Source, blob: str, tell: Callable[[int, int], None]) -> None:
        async with asyncio.timeout(self._patience.request), \
                self._client.ask(source, "POST", f"{source.url}/blobs/uploads/", {"Content-Length": "0"}) as answer:
            place = urljoin(f"{source.url}/blobs/uploads/", answer.headers.get("Location", ""))
        if not self._client.may_follow(source, place):
            raise RegistryError(f"{source.host} wants the layer at {printable(place, 100)!r}, which is not https",
                                field="registry", value=source.host)
        size = self._blobs.size(blob)
        place += ("&" if "?" in place else "?") + urlencode({"digest": blob})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        try:
            async with asyncio.timeout(self._patience.stall) as deadline:
                def body() -> AsyncIterator[bytes]:
                    return _pieces(self._blobs.path(blob), size, deadline, self._patience.stall,
                                   lambda sent: tell(sent, size))

                async with self._client.ask(source, "PUT", place, headers, body=body):
                    return
        except TimeoutError as error:
            raise Hung(f"{source.host} does not take the layer {short(blob)}: nothing for {self._patience.stall:g} s",
                       field="registry", value=source.host, hint="try again later") from error

    async def _manifest(self, source: Source, tag: str, document: bytes, kind: str) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield document

        headers = {"Content-Type": kind, "Content-Length": str(len(document))}
        try:
            async with asyncio.timeout(self._patience.request), \
                    self._client.ask(source, "PUT", f"{source.url}/manifests/{tag}", headers, body=body) as answer:
                said = answer.headers.get("Docker-Content-Digest", "")
        except TimeoutError as error:
            raise Hung(f"{source.host} does not take the manifest", field="registry", value=source.host) from error
        if digests.is_digest(said) and said != digests.of(document):
            raise RegistryError(f"{source.host} calls the manifest {said}; it is {digests.of(document)}",
                                field="digest", value=said, hint="the registry is broken, or lies")


async def _pieces(path: Path, size: int, deadline: asyncio.Timeout, stall: float, tell: Callable[[int], None]
                  ) -> AsyncIterator[bytes]:
    """A file; each piece that is taken puts the deadline off."""
    loop = asyncio.get_running_loop()
    sent = told = 0
    with path.open("rb") as file:
        while data := await in_thread(file.read, _PIECE):
            yield data
            sent += len(data)
            deadline.reschedule(loop.time() + (stall if sent < size else _DIGESTING_S))
            if sent - told >= _TELL or sent == size:
                told = sent
                tell(sent)


def _unheard(sent: int, total: int) -> None:
    """For what is no layer."""
