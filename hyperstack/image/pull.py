"""A pull from the reference to the rows of the index: resolve, fetch, unpack, commit."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from hyperstack.image import manifest as manifests
from hyperstack.image.api import Credentials, Progress, ProgressSink
from hyperstack.image.blobs import BlobStore
from hyperstack.image.config import ImageConfigOptions
from hyperstack.image.convert import Converter, WrongDiffId
from hyperstack.image.digest import short
from hyperstack.image.download import download
from hyperstack.image.errors import ImageUnavailable
from hyperstack.image.index import ImageIndex, ImageRow, LayerRow
from hyperstack.image.manifest import Descriptor, Manifest, ParsedConfig
from hyperstack.image.names import Reference
from hyperstack.image.refusals import Refusal
from hyperstack.image.registry import RegistryClient, Source
from hyperstack.image.shared import SharedJobs, Watcher
from hyperstack.image.threads import in_thread
from hyperstack.pod.errors import RegistryError

_T = TypeVar("_T")


class Pins:
    """What running pulls and loads need although no image names it yet."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._all = 0

    @contextmanager
    def hold(self, digests: Collection[str]) -> Iterator[None]:
        self._counts.update(digests)
        try:
            yield
        finally:
            self._counts.subtract(digests)
            self._counts = +self._counts

    @contextmanager
    def hold_all(self) -> Iterator[None]:
        self._all += 1
        try:
            yield
        finally:
            self._all -= 1

    def __contains__(self, digest: str) -> bool:
        return self._all > 0 or digest in self._counts


async def together(works: list[Awaitable[_T]]) -> list[_T]:
    """All results in order. The first error ends the others, and is raised once they have ended."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, kw_only=True)
class _Resolved:
    """What the registry says the reference is."""

    source: Source
    digest: str
    """Of what the reference names: the index where there is one."""
    manifest: Manifest
    document: bytes
    """The manifest's own bytes."""
    manifest_digest: str


class Puller:
    def __init__(self, client: RegistryClient, blobs: BlobStore, converter: Converter, index: ImageIndex, pins: Pins,
                 options: ImageConfigOptions) -> None:
        self._client = client
        self._blobs = blobs
        self._converter = converter
        self._index = index
        self._pins = pins
        self._options = options
        self._slots = asyncio.Semaphore(options.parallel_downloads)
        self._downloads: SharedJobs[None] = SharedJobs()
        self._conversions: SharedJobs[str] = SharedJobs()

    async def pull(self, reference: Reference, platform: str, credentials: Credentials | None,
                   progress: ProgressSink) -> str:
        """Returns the image's id; errors as `ImageBackend.pull` has them."""
        wanted = manifests.parse_platform(platform or self._options.platform)
        try:
            resolved = await self._resolve(reference, wanted, credentials, progress)
            document = await self._config(resolved)
            parsed = manifests.parse_config(document)
            other = self._check(reference, resolved.manifest, parsed, wanted, explicit=bool(platform))
        except manifests.DocumentError as error:
            raise RegistryError(f"{reference.familiar()}: {error}", field="image", value=reference.familiar(),
                                hint="the image cannot be used; ask whoever pushed it") from error
        layers = [LayerRow(diff_id=diff_id, blob=layer.digest)
                  for layer, diff_id in zip(resolved.manifest.layers, parsed.diff_ids, strict=True)]
        ident = resolved.manifest.config.digest
        needed = [ident, resolved.manifest_digest, *(row.blob for row in layers), *parsed.diff_ids]
        with self._pins.hold(needed):
            # Nothing is told of the layers of an image that is here already.
            await self._fetch_layers(resolved, layers, progress if self._index.image(ident) is None else _unheard)
            for digest, data in ((resolved.manifest_digest, resolved.document), (ident, document)):
                # The config was fetched before it was pinned, so it may be gone again.
                await in_thread(self._blobs.put, data, digest)
            names = {str(reference.at(resolved.digest)), str(reference.at(resolved.manifest_digest))}
            if not reference.digest:
                names.add(str(reference))
            fresh = self._index.image_named(str(reference)) != ident
            self._index.put_image(
                ImageRow(id=ident, config=document, manifest=resolved.manifest_digest, layers=tuple(layers)), names)
        progress(Progress(ident="", status=f"Digest: {resolved.digest}", message=True))
        words = "Downloaded newer image for" if fresh else "Image is up to date for"
        progress(Progress(ident="", status=f"Status: {words} {reference.familiar()}", message=True))
        if other:
            progress(Progress(ident="", status=f"WARNING: {other}", message=True))
        return ident

    async def _resolve(self, reference: Reference, wanted: manifests.Platform, credentials: Credentials | None,
                       progress: ProgressSink) -> _Resolved:
        """From the first source that has it; the last one's error where none does."""
        *mirrors, origin = self._client.sources(reference, credentials)
        for source in mirrors:
            try:
                return await self._resolve_at(source, reference, wanted, progress)
            except (ImageUnavailable, RegistryError, manifests.DocumentError):
                continue
        try:
            return await self._resolve_at(origin, reference, wanted, progress)
        except Refusal as error:
            raise error.of_pull(reference) from error

    async def _resolve_at(self, source: Source, reference: Reference, wanted: manifests.Platform,
                          progress: ProgressSink) -> _Resolved:
        document, kind, digest = await self._client.manifest(source, reference.digest or reference.tag)
        parsed = manifests.parse(document, kind)
        # Not before: until something is told, a client learns of an error by its status.
        what = str(reference.at(reference.digest)) if reference.digest else reference.tag
        progress(Progress(ident=what, status=f"Pulling from {reference.path}", message=True))
        own = digest
        if isinstance(parsed, manifests.Index):
            entry = manifests.choose(parsed, wanted)
            if entry is None:
                there = sorted({str(item.platform) for item in parsed.manifests
                                if item.platform is not None and item.platform.os != "unknown"})
                raise ImageUnavailable(f"no matching manifest for {wanted} in the manifest list entries",
                                       reference=reference.familiar(),
                                       hint=f"{reference.familiar()} has {', '.join(there[:16])}" if there else None)
            document, kind, own = await self._client.manifest(source, entry.digest)
            parsed = manifests.parse(document, kind or entry.media_type)
            if isinstance(parsed, manifests.Index):
                raise manifests.DocumentError("an index within an index is not supported")
        return _Resolved(source=source, digest=digest, manifest=parsed, document=document, manifest_digest=own)

    async def _config(self, resolved: _Resolved) -> bytes:
        """The image's config document, verified."""
        blob = resolved.manifest.config
        if blob.size > manifests.MAX_DOCUMENT:
            raise manifests.DocumentError(f"its config is {blob.size} bytes long (at most {manifests.MAX_DOCUMENT})")
        await self._fetch(resolved.source, blob, _ignore)
        return await in_thread(self._blobs.read, blob.digest)

    def _check(self, reference: Reference, manifest: Manifest, parsed: ParsedConfig, wanted: manifests.Platform, *,
               explicit: bool) -> str:
        """A warning, where the one image that there is is of another platform than the one that is asked for.

        :raise ImageUnavailable: it is of another platform than this host. :raise DocumentError: it is malformed.
        """
        limits = self._options.limits
        if len(manifest.layers) != len(parsed.diff_ids):
            raise manifests.DocumentError(f"its manifest has {len(manifest.layers)} layers and its config "
                                          f"{len(parsed.diff_ids)}")
        if len(manifest.layers) > limits.layers:
            raise manifests.DocumentError(f"it has {len(manifest.layers)} layers (at most {limits.layers})")
        for layer in manifest.layers:
            if layer.size > limits.blob_bytes:
                raise manifests.DocumentError(f"its layer {short(layer.digest)} is {layer.size} bytes long (at most "
                                              f"{limits.blob_bytes})")
        if parsed.platform.architecture and not parsed.platform.matches(wanted):
            if explicit:
                return (f"image with reference {reference} was found but its platform ({parsed.platform}) "
                        f"does not match the specified platform ({wanted})")
            raise ImageUnavailable(
                f"image with reference {reference.familiar()} was found but does not match this host: wanted {wanted}, "
                f"actual: {parsed.platform}", reference=reference.familiar(),
                hint=f"--platform {parsed.platform} fetches it all the same; it cannot run here")
        return ""

    async def _fetch_layers(self, resolved: _Resolved, layers: list[LayerRow], progress: ProgressSink) -> None:
        """Each distinct blob once: an image may hold the same layer several times."""
        blobs = {blob.digest: blob for blob in resolved.manifest.layers}
        pairs = list(dict.fromkeys((row.blob, row.diff_id) for row in layers))
        for digest, diff_id in pairs:
            known = self._blobs.has(digest) and self._is_unpacked(digest, diff_id)
            progress(Progress(ident=short(digest), status="Already exists" if known else "Pulling fs layer"))
        await together([self._layer(resolved.source, blobs[digest], diff_id, progress) for digest, diff_id in pairs])

    async def _layer(self, source: Source, blob: Descriptor, diff_id: str, progress: ProgressSink) -> None:
        ident = short(blob.digest)

        def tell(status: str, current: int, total: int) -> None:
            progress(Progress(ident=ident, status=status, current=current, total=total))

        if not self._blobs.has(blob.digest):
            await self._fetch(source, blob, tell)
        elif self._is_unpacked(blob.digest, diff_id):
            return
        try:
            await self.ensure_unpacked(blob.digest, diff_id, tell)
        except WrongDiffId as error:
            raise RegistryError(error.message, field=error.field, value=error.value, hint=error.hint) from error
        tell("Pull complete", 0, 0)

    def _is_unpacked(self, blob: str, diff_id: str) -> bool:
        """Whether this blob itself was seen to be that layer. A config that merely names a layer of this host proves
        nothing: its author might never have had that layer, and would be given it."""
        return self._index.diff_id_of(blob) == diff_id and self._converter.path(diff_id).exists()

    async def _fetch(self, source: Source, blob: Descriptor, tell: Watcher) -> None:
        if self._blobs.has(blob.digest):
            return

        async def work(tell: Watcher) -> None:
            if self._slots.locked():
                tell("Waiting", 0, 0)
            async with self._slots:
                await download(self._client, self._blobs, source, blob, self._options.patience, tell)

        # By source: whoever pulls from elsewhere need not wait for a registry that stalls.
        await self._downloads.run((blob.digest, source.url, source.credentials), work, tell)

    async def ensure_unpacked(self, blob: str, diff_id: str | None, tell: Watcher) -> str:
        """The disk of the layer in a blob of the store, and its rows in the index. `diff_id` None: whatever it is.
        Returns the diff id.

        :raise InvalidArgument: the layer is refused; WrongDiffId where it is not that layer.
        """
        async def work(tell: Watcher) -> str:
            total = self._blobs.size(blob)
            disk = await self._converter.convert(self._blobs.path(blob), expected=diff_id,
                                                 on_read=lambda read: tell("Extracting", read, total))
            self._index.add_layer(disk.diff_id, blob, disk.size, disk.entries)
            return disk.diff_id

        known = self._index.diff_id_of(blob)
        if known is not None and self._is_unpacked(blob, known):
            if diff_id not in (None, known):
                raise WrongDiffId(short(blob), expected=diff_id or "", actual=known)
            return known
        return await self._conversions.run((blob, diff_id), work, tell)


def _unheard(progress: Progress) -> None:
    """For what is here already."""


def _ignore(status: str, current: int, total: int) -> None:
    """For what is no layer: nobody is told."""
