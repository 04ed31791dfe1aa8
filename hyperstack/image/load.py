"""Images that come as a tar: `load` of archives, `import` of a root file system."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyperstack.image import compression
from hyperstack.image import digest as digests
from hyperstack.image import manifest as manifests
from hyperstack.image import names as references
from hyperstack.image.api import Progress, ProgressSink
from hyperstack.image.archive import Archive, ArchivedImage, read_archive, store_stream
from hyperstack.image.blobs import BlobStore, discard
from hyperstack.image.config import ImageConfigOptions
from hyperstack.image.convert import WrongDiffId
from hyperstack.image.digest import short
from hyperstack.image.index import ImageIndex, ImageRow, LayerRow
from hyperstack.image.names import Reference
from hyperstack.image.pull import Pins, Puller, together
from hyperstack.image.threads import in_thread, with_stream
from hyperstack.pod.errors import InvalidArgument

_SUFFIX = {compression.GZIP: "+gzip", compression.ZSTD: "+zstd", compression.PLAIN: ""}
_HEAD = 16


class Loader:
    def __init__(self, blobs: BlobStore, index: ImageIndex, puller: Puller, pins: Pins,
                 options: ImageConfigOptions) -> None:
        self._blobs = blobs
        self._index = index
        self._puller = puller
        self._pins = pins
        self._options = options

    async def load(self, stream: AsyncIterator[bytes], progress: ProgressSink) -> list[tuple[str, tuple[str, ...]]]:
        """Ids of the archive's images with their tags in it; errors as `ImageBackend.load` has them."""
        limits = self._options.limits
        archive = await with_stream(
            stream, functools.partial(read_archive, store=self._blobs, max_bytes=limits.archive_bytes))
        try:
            found = archive.images(manifests.parse_platform(self._options.platform))
            return [await self._load_image(archive, image, progress) for image in found]
        except manifests.DocumentError as error:
            raise InvalidArgument(f"the archive is refused: {error}", field="archive") from error
        finally:
            await in_thread(archive.drop)

    async def _load_image(self, archive: Archive, image: ArchivedImage, progress: ProgressSink
                          ) -> tuple[str, tuple[str, ...]]:
        names = list(dict.fromkeys(references.parse(name) for name in image.names))
        document = await in_thread(archive.document, archive.blob(image.config))
        parsed = manifests.parse_config(document)
        if parsed.platform.os not in ("", "linux"):
            raise InvalidArgument(f"cannot load {parsed.platform.os} image on linux", field="archive")
        if len(parsed.diff_ids) != len(image.layers):
            raise InvalidArgument(f"invalid manifest, layers length mismatch: expected {len(image.layers)}, got "
                                  f"{len(parsed.diff_ids)}", field="archive", hint="the second is its config's")
        if len(image.layers) > self._options.limits.layers:
            raise manifests.DocumentError(f"an image has {len(image.layers)} layers (at most "
                                          f"{self._options.limits.layers})")
        rows = tuple(LayerRow(diff_id=diff_id, blob=blob)
                     for diff_id, blob in zip(parsed.diff_ids, image.layers, strict=True))
        manifest = (archive.document(archive.blob(image.manifest)) if image.manifest
                    else self._make_manifest(archive, image, len(document)))
        manifest_digest = digests.of(manifest)
        with self._pins.hold([image.config, manifest_digest, *image.layers, *parsed.diff_ids]):
            await in_thread(self._adopt, archive, [image.config, *image.layers])
            await in_thread(self._blobs.put, manifest, manifest_digest)
            await together([self._unpack(rows.index(row), row, progress) for row in dict.fromkeys(rows)])
            kept = [str(name) for name in names if not name.digest]
            kept += [str(name.at(manifest_digest)) for name in names if image.manifest]
            self._index.put_image(
                ImageRow(id=image.config, config=document, manifest=manifest_digest, layers=rows), kept)
        return image.config, tuple(str(name) for name in names if not name.digest)

    def _adopt(self, archive: Archive, wanted: list[str]) -> None:
        for digest in dict.fromkeys(wanted):
            if not self._blobs.has(digest):
                self._blobs.adopt(archive.blob(digest).path, digest)

    async def _unpack(self, number: int, row: LayerRow, progress: ProgressSink) -> None:
        def tell(status: str, current: int, total: int) -> None:
            progress(Progress(ident=short(row.diff_id), status="Loading layer", current=current, total=total))
        try:
            await self._puller.ensure_unpacked(row.blob, row.diff_id, tell)
        except WrongDiffId as error:
            raise InvalidArgument(f'invalid diffID for layer {number}: expected "{row.diff_id}", got "{error.actual}"',
                                  field="layer", value=row.diff_id, hint=error.hint) from error

    def _make_manifest(self, archive: Archive, image: ArchivedImage, config_size: int) -> bytes:
        """An OCI manifest for an image of an archive that has none (`docker save` before Docker 25)."""
        layers = []
        for digest in image.layers:
            member = archive.blob(digest)
            layers.append({"mediaType": layer_type(member.path), "digest": digest, "size": member.size})
        return manifest_document(image.config, config_size, layers)

    async def import_tar(self, stream: AsyncIterator[bytes], reference: Reference | None, message: str,
                         run: Mapping[str, Any]) -> str:
        """The id of the new image; errors as `ImageBackend.import_tar` has them."""
        if reference is not None and reference.digest:
            raise InvalidArgument("an import cannot be named by a digest", field="reference", value=str(reference))
        limit = self._options.limits.blob_bytes
        member = await with_stream(stream, functools.partial(store_stream, store=self._blobs, max_bytes=limit))
        try:
            kind = await in_thread(layer_type, member.path)
            # What the layer's id will be is not known before it is unpacked, so nothing at all may be swept meanwhile.
            with self._pins.hold_all():
                await in_thread(self._blobs.adopt, member.path, member.digest)
                diff_id = await self._puller.ensure_unpacked(member.digest, None, lambda status, current, total: None)
                config = _config(dict(run), message, diff_id, self._options.platform)
                return await self._commit_import(reference, config, LayerRow(diff_id=diff_id, blob=member.digest),
                                                 member.size, kind)
        finally:
            await in_thread(discard, member.path)

    async def _commit_import(self, reference: Reference | None, config: bytes, layer: LayerRow, size: int,
                             kind: str) -> str:
        ident = digests.of(config)
        manifest = manifest_document(ident, len(config), [{"mediaType": kind, "digest": layer.blob, "size": size}])
        await in_thread(self._blobs.put, config, ident)
        await in_thread(self._blobs.put, manifest, digests.of(manifest))
        self._index.put_image(ImageRow(id=ident, config=config, manifest=digests.of(manifest), layers=(layer,)),
                              [str(reference)] if reference else [])
        return ident


def layer_type(path: Path) -> str:
    """The media type of a layer's blob. :raise InvalidArgument: it is compressed with something that is not read."""
    with path.open("rb") as file:
        try:
            return manifests.OCI_LAYER + _SUFFIX[compression.detect(file.read(_HEAD))]
        except compression.CompressionError as error:
            raise InvalidArgument(f"the layer is refused: {error}", field="layer") from error


def manifest_document(config: str, config_size: int, layers: list[dict[str, object]]) -> bytes:
    """An OCI manifest. :param layers: descriptors, lowest first."""
    document = {"schemaVersion": 2, "mediaType": manifests.OCI_MANIFEST,
                "config": {"mediaType": manifests.OCI_CONFIG, "digest": config, "size": config_size}, "layers": layers}
    return json.dumps(document, separators=(",", ":")).encode()


def _config(run: dict[str, Any], message: str, diff_id: str, platform: str) -> bytes:
    system = manifests.parse_platform(platform)
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    document = {"created": created, "architecture": system.architecture, "os": system.os, "config": run,
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
                "history": [{"created": created, "comment": message or "Imported from -"}]}
    if system.variant:
        document["variant"] = system.variant
    return json.dumps(document, separators=(",", ":")).encode()
