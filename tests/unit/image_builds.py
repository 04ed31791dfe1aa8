"""Whole images for the image tests, written against the specifications alone."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import zstandard

from tests.tars import tar_of
from tests.unit.image_layers import make_tar, member

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def document(value: object) -> bytes:
    return json.dumps(value).encode()


@dataclass
class BuiltImage:
    manifest: bytes
    config: bytes
    layers: list[bytes]
    """As they travel."""
    plain: list[bytes]
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Config and layers by digest."""

    @property
    def id(self) -> str:
        return digest(self.config)


def build(layers: Sequence[bytes] = (), *, packing: str = "gzip", architecture: str = "amd64",
          diff_ids: Sequence[str] = (), **config: Any) -> BuiltImage:
    """An image of these plain tars; one with a file `f` where none is given. `diff_ids` may be lies."""
    plain = list(layers) or [make_tar(member("f", data=b"contents"))]
    packed = [_pack(layer, packing) for layer in plain]
    settings = document({
        "architecture": architecture, "os": "linux", "config": config, "created": "2024-01-01T00:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids) or [digest(layer) for layer in plain]}})
    suffix = f"+{packing}" if packing else ""
    manifest = document({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest(settings), "size": len(settings)},
        "layers": [{"mediaType": f"application/vnd.oci.image.layer.v1.tar{suffix}", "digest": digest(layer),
                    "size": len(layer)} for layer in packed]})
    return BuiltImage(manifest, settings, packed, plain, {digest(blob): blob for blob in (settings, *packed)})


def _pack(layer: bytes, packing: str) -> bytes:
    match packing:
        case "gzip":
            return gzip.compress(layer, mtime=0)
        case "zstd":
            return zstandard.ZstdCompressor(write_checksum=True).compress(layer)
        case _:
            return layer


def index_of(**images: BuiltImage) -> bytes:
    """An index with an image per architecture."""
    return document({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        {"mediaType": OCI_MANIFEST, "digest": digest(image.manifest), "size": len(image.manifest),
         "platform": {"os": "linux", "architecture": architecture}} for architecture, image in images.items()]})


def oci_archive(image: BuiltImage, name: str) -> bytes:
    files = {f"blobs/sha256/{key[7:]}": data for key, data in image.blobs.items()}
    files[f"blobs/sha256/{digest(image.manifest)[7:]}"] = image.manifest
    entry = {"mediaType": OCI_MANIFEST, "digest": digest(image.manifest), "size": len(image.manifest),
             "annotations": {"io.containerd.image.name": name}}
    return tar_of({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', **files,
                   "index.json": document({"schemaVersion": 2, "manifests": [entry]})})


def old_docker_archive(image: BuiltImage, *names: str) -> bytes:
    """As Docker wrote it before version 25: plain layers in directories, equal ones as links, the manifest last."""
    files: dict[str, bytes] = {f"{image.id[7:]}.json": image.config}
    links: dict[str, str] = {}
    seen: dict[str, str] = {}
    for number, layer in enumerate(image.plain):
        name = f"{number:064x}/layer.tar"
        if digest(layer) in seen:
            links[name] = f"../{seen[digest(layer)]}"
        else:
            seen[digest(layer)], files[name] = name, layer
    files["manifest.json"] = document([{
        "Config": f"{image.id[7:]}.json", "RepoTags": list(names) or None,
        "Layers": [f"{number:064x}/layer.tar" for number in range(len(image.plain))]}])
    return tar_of({name: data for name, data in files.items() if name != "manifest.json"} | {
        "manifest.json": files["manifest.json"]}, links)


async def stream(data: bytes, step: int = 100_000) -> AsyncIterator[bytes]:
    source = io.BytesIO(data)
    while piece := source.read(step):
        yield piece


async def collect(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])
