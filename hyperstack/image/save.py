"""Writes images as one tar that is an OCI layout and a `docker save` archive at the same time."""

from __future__ import annotations

import json
import tarfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperstack.image.digest import hexadecimal
from hyperstack.image.names import Reference
from hyperstack.image.threads import in_thread

_BLOCK = 512
_PIECE = 1 << 20
_END = bytes(2 * _BLOCK)


@dataclass(frozen=True, kw_only=True)
class SavedImage:
    """What an archive says of an image. All digests are blobs of the store."""

    config: str
    manifest: str
    media_type: str
    """Of the manifest."""
    layers: tuple[str, ...]
    names: tuple[Reference, ...]
    """With tags; none where it is saved by its id."""


def member_header(name: str, size: int) -> bytes:
    """The same bytes for the same contents: no owner, no time."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def blob_name(digest: str) -> str:
    return f"blobs/sha256/{hexadecimal(digest)}"


def documents(images: Sequence[SavedImage], manifest_sizes: Sequence[int]) -> dict[str, bytes]:
    """The archive's own files: oci-layout, index.json and Docker's manifest.json."""
    entries: list[dict[str, Any]] = []
    for image, size in zip(images, manifest_sizes, strict=True):
        entry = {"mediaType": image.media_type, "digest": image.manifest, "size": size}
        entries += [{**entry, "annotations": {"io.containerd.image.name": str(name),
                                              "org.opencontainers.image.ref.name": name.tag}}
                    for name in image.names] or [entry]
    docker = [{"Config": blob_name(image.config), "RepoTags": [name.familiar() for name in image.names] or None,
               "Layers": [blob_name(layer) for layer in image.layers]} for image in images]
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    return {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": _json(index), "manifest.json": _json(docker)}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


async def write_archive(own: dict[str, bytes], blobs: Sequence[tuple[str, Path]]) -> AsyncIterator[bytes]:
    """The tar in pieces: the archive's own files, then (digest, file) of each blob."""
    for name, data in own.items():
        yield member_header(name, len(data)) + data + bytes(-len(data) % _BLOCK)
    for digest, path in blobs:
        with path.open("rb") as file:
            size = path.stat().st_size
            yield member_header(blob_name(digest), size)
            while piece := await in_thread(file.read, _PIECE):
                yield piece
            yield bytes(-size % _BLOCK)
    yield _END


def archive_bytes(own: dict[str, bytes], blobs: dict[str, bytes]) -> bytes:
    """The same tar of blobs in memory, by digest."""
    members = own | {blob_name(digest): data for digest, data in blobs.items()}
    return b"".join(member_header(name, len(data)) + data + bytes(-len(data) % _BLOCK)
                    for name, data in members.items()) + _END
