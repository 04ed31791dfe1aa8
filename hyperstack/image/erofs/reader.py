"""Reads the disks that `writer` writes: names, attributes and contents, without mounting anything.

Disks are ours, but what they hold is not: an image's author chose every name, target and attribute. Whatever does not
fit together is an error, never a guess.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from hyperstack.image.erofs.format import (
    BLOCK,
    CHUNKED,
    DIRENT,
    INLINE,
    INODE,
    MAGIC,
    NULL,
    PLAIN,
    SLOT,
    SUPER,
    SUPER_OFFSET,
    XATTR,
    XATTR_HEADER,
    XATTR_PREFIXES,
)

_PIECE = 1 << 20
_MAX_DIRECTORY = 1 << 30
_PREFIXES = {index: prefix for prefix, index in XATTR_PREFIXES}


class DiskError(ValueError):
    """A layer's disk is not what was written. One sentence without a full stop."""


@dataclass(frozen=True, slots=True)
class Inode:
    nid: int
    layout: int
    xattr_bytes: int
    mode: int
    size: int
    union: int
    """Block address, device number or chunk format."""
    uid: int
    gid: int
    mtime: int
    mtime_ns: int
    links: int

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_whiteout(self) -> bool:
        """What an overlay takes for `nothing is here`."""
        return stat.S_ISCHR(self.mode) and self.union == 0

    @property
    def device(self) -> tuple[int, int]:
        return self.union >> 8 & 0xFFF, self.union & 0xFF | self.union >> 12 & 0xFFF00


class LayerDisk:
    def __init__(self, fd: int) -> None:
        """:raise DiskError: it is no disk of a layer."""
        self._fd = fd
        fields = SUPER.unpack(self._read(SUPER_OFFSET, SUPER.size))
        if fields[0] != MAGIC:
            raise DiskError("a layer's disk has no superblock")
        self._root, self._metadata = fields[5], fields[10] * BLOCK

    @property
    def root(self) -> Inode:
        return self.inode(self._root)

    def inode(self, nid: int) -> Inode:
        raw = self._read(self._metadata + nid * SLOT, INODE.size)
        layout, xattrs, mode, _, size, union, _, uid, gid, mtime, mtime_ns, links, *_ = INODE.unpack(raw)
        seconds = mtime - (1 << 64) if mtime >> 63 else mtime
        area = 4 * (xattrs - 1) + XATTR_HEADER if xattrs else 0
        return Inode(nid, layout, area, mode, size, union, uid, gid, seconds, mtime_ns, links)

    def entries(self, directory: Inode) -> dict[bytes, int]:
        """Names to inode numbers, without the two that every directory has."""
        if directory.size > _MAX_DIRECTORY:
            raise DiskError("a directory of a layer is too long")
        found: dict[bytes, int] = {}
        data = b"".join(self.data(directory))
        for start in range(0, len(data), BLOCK):
            block = data[start:start + BLOCK]
            count = DIRENT.unpack_from(block)[1] // DIRENT.size
            if not 0 < count <= len(block) // DIRENT.size:
                raise DiskError("a directory of a layer is malformed")
            heads = [DIRENT.unpack_from(block, at * DIRENT.size) for at in range(count)]
            ends = [head[1] for head in heads[1:]] + [len(block)]
            for (nid, offset, _, _), end in zip(heads, ends, strict=True):
                name = block[offset:end].rstrip(b"\0")
                if name not in (b".", b".."):
                    found[name] = nid
        return found

    def data(self, inode: Inode) -> Iterator[bytes]:
        """A regular file's contents, a link's target, a directory's blocks; holes as zeros."""
        if inode.layout == CHUNKED:
            yield from self._chunks(inode)
            return
        if inode.layout not in (PLAIN, INLINE):
            raise DiskError(f"a file of a layer has the layout {inode.layout}")
        body = inode.size - inode.size % BLOCK if inode.layout == INLINE else inode.size
        yield from self._pieces(inode.union * BLOCK, body)
        if body < inode.size:
            yield self._read(self._metadata + inode.nid * SLOT + INODE.size + inode.xattr_bytes, inode.size - body)

    def xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        if not inode.xattr_bytes:
            return {}
        area = self._read(self._metadata + inode.nid * SLOT + INODE.size, inode.xattr_bytes)
        found, at = {}, XATTR_HEADER
        while at + XATTR.size <= len(area):
            length, index, size = XATTR.unpack_from(area, at)
            at += XATTR.size
            name = _PREFIXES.get(index, b"") + area[at:at + length]
            found[name] = area[at + length:at + length + size]
            at += length + size
            at += -at % 4
        return found

    def _chunks(self, inode: Inode) -> Iterator[bytes]:
        size = 1 << (inode.union & 0x1F) + BLOCK.bit_length() - 1
        count = -(-inode.size // size)
        raw = self._read(self._metadata + inode.nid * SLOT + INODE.size + inode.xattr_bytes, 4 * count)
        left = inode.size
        for (address,) in struct.iter_unpack("<I", raw):
            length = min(size, left)
            left -= length
            if address == NULL:
                for at in range(0, length, _PIECE):
                    yield bytes(min(_PIECE, length - at))
            else:
                yield from self._pieces(address * BLOCK, length)

    def _pieces(self, offset: int, length: int) -> Iterator[bytes]:
        while length:
            piece = self._read(offset, min(_PIECE, length))
            offset, length = offset + len(piece), length - len(piece)
            yield piece

    def _read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                raise DiskError("a layer's disk is cut off")
            data += more
        return data
