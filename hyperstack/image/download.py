"""One blob from a registry into the content store: resumed, counted, hashed while it arrives."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from pathlib import Path
from typing import BinaryIO

import aiohttp

from hyperstack.image.blobs import BlobStore, full_disk_told
from hyperstack.image.config import Patience
from hyperstack.image.digest import short
from hyperstack.image.manifest import Descriptor
from hyperstack.image.registry import RegistryClient, Source, TransferFailed
from hyperstack.image.shared import Watcher
from hyperstack.image.threads import in_thread
from hyperstack.pod.errors import RegistryError

_LOG = logging.getLogger(__name__)
_PIECE = 1 << 20
_TELL_S = 0.1
"""Between two words of progress."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(?:\d{1,19}|\*)\Z")


class _Partial:
    """A file that grows, with the hash of all that it holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("a+b")
        self._hash = hashlib.sha256()
        self.size = 0

    def load(self, limit: int) -> None:
        """Hash what an earlier try left; for a thread."""
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            self._hash.update(piece)
            self.size += len(piece)
        if self.size > limit:
            self.reset()

    def append(self, data: bytes) -> None:
        """For a thread. :raise OSError: no space; what fitted is kept."""
        self._file.write(data)
        self._file.flush()
        self._hash.update(data)
        self.size += len(data)

    def reset(self) -> None:
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def close(self) -> None:
        self._file.close()


async def download(client: RegistryClient, store: BlobStore, source: Source, blob: Descriptor, patience: Patience,
                   tell: Watcher) -> None:
    """The blob is in the store afterwards.

    :raise RegistryError: it did not arrive, or is not what its descriptor says.
    :raise Exhausted: no space left; what arrived is kept.
    """
    with full_disk_told(store.tmp.parent, f"layer {short(blob.digest)} ({blob.size} bytes)"):
        partial = _Partial(store.partial(blob.digest, source.url))
        try:
            await in_thread(partial.load, blob.size)
            pieced = await _fill(client, source, blob, partial, patience, tell)
            tell("Verifying Checksum", 0, 0)
            if pieced and partial.digest != blob.digest:
                # The beginning may be of a time when the registry sent something else; so once more, without it.
                partial.reset()
                await _fill(client, source, blob, partial, patience, tell)
            if partial.digest != blob.digest:
                partial.path.unlink()
                raise RegistryError(f"{source.host} sent {partial.digest} in place of the blob {blob.digest}",
                                    field="digest", value=blob.digest, hint="the registry is broken, or lies")
        finally:
            partial.close()
        await in_thread(store.adopt, partial.path, blob.digest)
    tell("Download complete", 0, 0)


async def _fill(client: RegistryClient, source: Source, blob: Descriptor, partial: _Partial, patience: Patience,
                tell: Watcher) -> bool:
    """Try until all bytes are there. A try that brought a good part of them does not count. Returns whether they came
    in several pieces, be it over several pulls."""
    attempt = 0
    pieced = partial.size > 0
    while partial.size < blob.size:
        await client.back_off(attempt)
        before = partial.size
        try:
            await _transfer(client, source, blob, partial, patience, tell)
        except TransferFailed as error:
            pieced = True
            attempt = 1 if partial.size >= before + _PIECE else attempt + 1
            if attempt >= patience.tries:
                raise
            _LOG.info("blob %s: %s; trying again at byte %d", short(blob.digest), error.message, partial.size)
            tell("Retrying", partial.size, blob.size)
    return pieced


async def _transfer(client: RegistryClient, source: Source, blob: Descriptor, partial: _Partial, patience: Patience,
                    tell: Watcher) -> None:
    headers = {"Range": f"bytes={partial.size}-"} if partial.size else {}
    async with client.get(source, f"/blobs/{blob.digest}", headers) as response:
        if response.status == 206:
            match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != partial.size:
                raise RegistryError(f"{source.host} sent another part of the blob {short(blob.digest)} than was asked "
                                    "for", field="registry", value=source.host)
        elif partial.size:
            # It does not know ranges and began anew.
            partial.reset()
        length = response.content_length
        if length is not None and length != blob.size - partial.size:
            raise RegistryError(f"{source.host} announces {length} bytes for the blob {short(blob.digest)}; its "
                                f"manifest says {blob.size - partial.size}", field="size", value=length)
        await _receive(response, source, blob, partial, patience, tell)
    if partial.size < blob.size:
        raise TransferFailed(f"{source.host} ended the blob {short(blob.digest)} after {partial.size} of {blob.size} "
                             "bytes", field="size", value=partial.size, hint="try again later")


async def _receive(response: aiohttp.ClientResponse, source: Source, blob: Descriptor, partial: _Partial,
                   patience: Patience, tell: Watcher) -> None:
    window, arrived, told = time.monotonic(), 0, 0.0
    held = bytearray()
    try:
        async for piece in response.content.iter_any():
            held += piece
            arrived += len(piece)
            if partial.size + len(held) > blob.size:
                held.clear()
                raise RegistryError(f"{source.host} sends more than the {blob.size} bytes of the blob "
                                    f"{short(blob.digest)}", field="size", value=blob.size)
            now = time.monotonic()
            if now - window > patience.stall:
                # Single bytes now and then keep a socket alive, but are no transfer.
                if arrived < patience.stall_bytes and partial.size + len(held) < blob.size:
                    raise TransferFailed(f"{source.host} sent only {arrived} bytes in {patience.stall:g} s",
                                         field="registry", value=source.host, hint="try again later")
                window, arrived = now, 0
            if len(held) >= _PIECE:
                data, held = bytes(held), bytearray()
                await in_thread(partial.append, data)
            if now - told > _TELL_S:
                told = now
                tell("Downloading", partial.size + len(held), blob.size)
    finally:
        # What arrived before a failure is what the next try resumes from.
        if held:
            partial.append(bytes(held))
