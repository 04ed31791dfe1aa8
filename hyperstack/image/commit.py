"""An image from another one and what is new in it: a layer, or the configuration alone."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

from hyperstack.image import digest as digests
from hyperstack.image import manifest as manifests
from hyperstack.image.api import NewLayer
from hyperstack.image.archive import Member, bounded, store_stream
from hyperstack.image.blobs import BlobStore, discard
from hyperstack.image.config import ImageConfigOptions
from hyperstack.image.index import ImageIndex, ImageRow, LayerRow
from hyperstack.image.load import layer_type, manifest_document
from hyperstack.image.names import Reference
from hyperstack.image.pull import Pins, Puller
from hyperstack.image.threads import in_thread, with_stream
from hyperstack.pod.errors import InvalidArgument

_LEVEL = 4
"""Of gzip: half the time of the usual one for some percent more bytes."""


class Committer:
    def __init__(self, blobs: BlobStore, index: ImageIndex, puller: Puller, pins: Pins, options: ImageConfigOptions
                 ) -> None:
        self._blobs = blobs
        self._index = index
        self._puller = puller
        self._pins = pins
        self._options = options

    async def commit(self, parent: ImageRow, layer: AsyncIterator[bytes], new: NewLayer, reference: Reference | None
                     ) -> str:
        """The id of the new image; errors as `ImageBackend.commit` has them."""
        if reference is not None and reference.digest:
            raise InvalidArgument("a commit cannot be named by a digest", field="reference", value=str(reference))
        with self._pins.hold_all():
            image = await self.derive(parent, layer, new)
            self._index.put_image(image, [str(reference)] if reference is not None else [])
        return image.id

    async def derive(self, parent: ImageRow | None, layer: AsyncIterator[bytes] | LayerRow | None, new: NewLayer, *,
                     skip_empty: bool = False) -> ImageRow:
        """An image with all its blobs, which no index knows yet. What the layer's id will be is not known before it is
        unpacked, so the caller keeps everything from being swept until it has indexed the image.

        :param parent: None: it is made from nothing. :param layer: None: nothing but the configuration is new.
        :param skip_empty: a layer without a file is none.
        """
        limits = self._options.limits
        rows = parent.layers if parent is not None else ()
        added = None
        if layer is not None:
            if len(rows) >= limits.layers:
                raise InvalidArgument(f"an image has at most {limits.layers} layers, and this one would have one more",
                                      field="layers", value=len(rows) + 1,
                                      hint="export the container and import it again as one layer")
            added = layer if isinstance(layer, LayerRow) else await self._layer(layer, skip_empty=skip_empty)
        if added is not None:
            rows = (*rows, added)
        config = _config(parent.config if parent is not None else None, added, new, self._options.platform)
        manifest = await in_thread(self._manifest, config, rows)
        await in_thread(self._blobs.put, config, digests.of(config))
        await in_thread(self._blobs.put, manifest, digests.of(manifest))
        return ImageRow(id=digests.of(config), config=config, manifest=digests.of(manifest), layers=rows)

    async def _layer(self, layer: AsyncIterator[bytes], *, skip_empty: bool) -> LayerRow | None:
        content = _Content()
        member = await with_stream(layer, lambda pieces: self._store(content.watched(pieces)))
        try:
            if skip_empty and not content.any:
                return None
            await in_thread(self._blobs.adopt, member.path, member.digest)
        finally:
            await in_thread(discard, member.path)
        diff_id = await self._puller.ensure_unpacked(member.digest, None, lambda status, current, total: None)
        return LayerRow(diff_id=diff_id, blob=member.digest)

    def _store(self, pieces: Iterator[bytes]) -> Member:
        limits = self._options.limits
        return store_stream(_gzipped(bounded(pieces, limits.layer_bytes)), self._blobs, limits.blob_bytes)

    def _manifest(self, config: bytes, rows: tuple[LayerRow, ...]) -> bytes:
        layers = [{"mediaType": layer_type(self._blobs.path(row.blob)), "digest": row.blob,
                   "size": self._blobs.size(row.blob)} for row in rows]
        return manifest_document(digests.of(config), len(config), layers)


def _gzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes for the same contents: there is no time in the header."""
    packer = zlib.compressobj(_LEVEL, wbits=31)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


class _Content:
    """Whether anything but zeros passed: a tar without members has nothing else."""

    def __init__(self) -> None:
        self.any = False

    def watched(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.any = self.any or bool(piece.strip(b"\0"))
            yield piece


def _config(parent: bytes | None, added: LayerRow | None, new: NewLayer, platform: str) -> bytes:
    before = manifests.parse_config(parent) if parent is not None else None
    here = before.platform if before is not None else manifests.parse_platform(platform)
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    step = {"created": created, "created_by": new.created_by, "author": new.author, "comment": new.message,
            "empty_layer": added is None}
    history = before.raw.get("history") if before is not None else None
    diff_ids = [*(before.diff_ids if before is not None else ()), *([added.diff_id] if added is not None else [])]
    document: dict[str, Any] = {
        "created": created, "author": new.author, "architecture": here.architecture, "os": here.os,
        "variant": here.variant, "config": new.run, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [*(history if isinstance(history, list) else []), {k: v for k, v in step.items() if v}]}
    return json.dumps({key: value for key, value in document.items() if value}, separators=(",", ":")).encode()
