"""Writes an uncompressed EROFS image in one pass: file data as it comes, then the metadata.

The image has three parts, in this order:

    block 0         superblock (at byte 1024)
    data            whole blocks: contents of files in the order they came, then those of large directories
    metadata        inodes with their extended attributes, tails of files, chunk maps; the root's block comes first,
                    because the superblock holds the root's number in 16 bits

Inodes are written (to a spool file that is appended at the end) as soon as a file's data is through, so memory holds
only the tree of names. Two runs over the same input give the same bytes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from hyperstack.image.erofs.data import Appender, ChunkedFile
from hyperstack.image.erofs.format import (
    BLOCK,
    CHUNKED,
    DIRENT,
    FT_DIRECTORY,
    INLINE,
    INODE,
    MAGIC,
    NULL,
    PLAIN,
    SLOT,
    SUPER,
    SUPER_OFFSET,
    XATTR_HEADER,
    crc32c,
    encode_xattrs,
)

_COMPAT_CHECKSUM = 0x1
_INCOMPAT_CHUNKED = 0x4
_NLINK_OFFSET = 44
_U64 = 0xFFFFFFFFFFFFFFFF
_MAX_TAIL = 2048
"""A longer tail takes a data block: inlined it would leave more of a metadata block unused than it saves."""
_MIN_CHUNKED = 1 << 20
"""Smaller files are not worth a search for holes."""


@dataclass(slots=True)
class Attributes:
    """What a file has beside its contents."""

    mode: int
    """Permission bits and file type, as st_mode."""
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    mtime_ns: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Directory:
    """A directory while its children are still coming."""

    attributes: Attributes
    children: dict[bytes, int | Directory] = field(default_factory=dict)
    """Names to sub-directories, or to what `ErofsWriter.entry` made of other files."""
    nid: int = 0
    opaque: bool = False
    """Overlay file systems do not look below it."""


class ErofsWriter:
    """Call `regular`, `symlink`, `device` and `share` as the files come, then `finish` with the tree."""

    def __init__(self, image: int, spool: int, *, max_bytes: int) -> None:
        """Both are empty files open for reading and writing; `max_bytes` bounds what each may take on the host.

        :raise ImageTooBig: (from any method) the limit is passed.
        """
        self._image = image
        self._spool = spool
        self._data = Appender(image, BLOCK, max_bytes)
        # The spool's first block is the root's.
        self._meta = Appender(spool, BLOCK, max_bytes)
        self._links: dict[int, int] = {}
        self._count = 0
        self._chunked = False

    @staticmethod
    def entry(nid: int, file_type: int) -> int:
        """How a directory's `children` hold a file."""
        return nid << 3 | file_type

    def regular(self, attributes: Attributes, size: int, pieces: Iterator[memoryview],
                extents: list[tuple[int, int]] | None = None) -> int:
        """A file's number. `pieces` hold all its data, or that of its `extents` where it is sparse."""
        if extents is not None or size >= _MIN_CHUNKED:
            return self._large(attributes, size, pieces, extents)
        if size < BLOCK:
            return self._small(attributes, b"".join(pieces))
        address = self._data.position // BLOCK
        left = size - size % BLOCK
        tail = bytearray()
        for piece in pieces:
            body = piece[:left]
            self._data.append(body)
            left -= len(body)
            tail += piece[len(body):]
        return self._with_tail(attributes, size, address, bytes(tail))

    def _small(self, attributes: Attributes, data: bytes) -> int:
        return self._with_tail(attributes, len(data), self._data.position // BLOCK, data)

    def _with_tail(self, attributes: Attributes, size: int, address: int, tail: bytes) -> int:
        xattrs = encode_xattrs(attributes.xattrs) if attributes.xattrs else b""
        if not _tail_fits(len(xattrs), len(tail)):
            self._data.append(tail)
            self._data.pad(BLOCK)
            tail = b""
        return self._inode(attributes, INLINE if tail else PLAIN, size, address if size else 0, xattrs, tail)

    def _large(self, attributes: Attributes, size: int, pieces: Iterator[memoryview],
               extents: list[tuple[int, int]] | None) -> int:
        chunked = ChunkedFile(self._data, size)
        offset = 0
        piece = memoryview(b"")
        for start, length in extents if extents is not None else [(0, size)]:
            chunked.skip(start - offset)
            offset = start + length
            while length:
                piece = piece or next(pieces)
                chunked.write(piece[:length])
                piece, length = piece[length:], length - min(length, len(piece))
        chunked.skip(size - offset)
        chunked.finish()
        xattrs = encode_xattrs(attributes.xattrs)
        if NULL not in chunked.chunks:
            return self._inode(attributes, PLAIN, size, chunked.chunks[0] if size else 0, xattrs)
        self._chunked = True
        block_map = struct.pack(f"<{len(chunked.chunks)}I", *chunked.chunks)
        return self._inode(attributes, CHUNKED, size, chunked.bits - (BLOCK.bit_length() - 1), xattrs, block_map)

    def symlink(self, attributes: Attributes, target: bytes) -> int:
        return self._small(attributes, target)

    def device(self, attributes: Attributes, major: int, minor: int) -> int:
        """A device node, FIFO or socket (with 0, 0)."""
        encoded = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
        return self._inode(attributes, PLAIN, 0, encoded, encode_xattrs(attributes.xattrs))

    def share(self, nid: int, by: int = 1) -> None:
        """The file has one more name, or (-1) one less."""
        self._links[nid] = self._links.get(nid, 1) + by

    def symlink_target(self, nid: int) -> bytes | None:
        """What an earlier `symlink` was given; None where it is not kept inline (longer than half a block)."""
        self._meta.flush()
        header = os.pread(self._spool, INODE.size, nid * SLOT)
        layout, xattr_count, _, _, size, *_ = INODE.unpack(header)
        area = 4 * (xattr_count + 2) if xattr_count else 0
        return os.pread(self._spool, size, nid * SLOT + INODE.size + area) if layout == INLINE else None

    def _inode(self, attributes: Attributes, layout: int, size: int, union: int, xattrs: bytes = b"",
               rest: bytes = b"") -> int:
        position = self._place(len(xattrs) + len(rest))
        self._count += 1
        header = INODE.pack(
            layout, _xattr_count(xattrs), attributes.mode, 0, size, union,
            self._count & NULL, attributes.uid, attributes.gid, attributes.mtime & _U64,
            attributes.mtime_ns, 1, 0, 0)
        self._meta.append(header + xattrs + rest if xattrs or rest else header)
        return position // SLOT

    def _place(self, extra: int) -> int:
        """Pad to where an inode with that many bytes behind it may stand."""
        self._meta.pad_to(_fit(self._meta.position, extra))
        return self._meta.position

    def finish(self, root: Directory, uuid: bytes) -> int:
        """Write the directories, append the metadata, write the superblock. Returns the image's size in bytes."""
        self._write_directories(root)
        self._data.pad(BLOCK)
        self._data.flush()
        # fsck.erofs 1.5 reads a header of attributes behind every inode, also where there is none.
        self._meta.pad_to(self._meta.position + XATTR_HEADER)
        self._meta.pad(BLOCK)
        self._meta.flush()
        for nid, links in self._links.items():
            os.pwrite(self._spool, struct.pack("<I", links), nid * SLOT + _NLINK_OFFSET)
        size = self._data.position + self._meta.position
        # Of a layer without files the spool holds just the root, short of a block.
        os.ftruncate(self._spool, self._meta.position)
        copied = 0
        while copied < self._meta.position:
            copied += os.sendfile(self._image, self._spool, copied, self._meta.position - copied)
        self._write_superblock(size // BLOCK, uuid)
        return size

    def _write_superblock(self, blocks: int, uuid: bytes) -> None:
        incompatible = _INCOMPAT_CHUNKED if self._chunked else 0

        def block(checksum: int) -> bytes:
            fields = SUPER.pack(MAGIC, checksum, _COMPAT_CHECKSUM, BLOCK.bit_length() - 1, 0, 0, self._count, 0, 0,
                                 blocks, self._data.position // BLOCK, 0, uuid, b"", incompatible, 0, 0, 0)
            return fields.ljust(BLOCK - SUPER_OFFSET, b"\0")
        os.pwrite(self._image, block(crc32c(block(0))), SUPER_OFFSET)

    def _write_directories(self, root: Directory) -> None:
        plans = self._plan_directories(root)
        for directory, parent, nid, address, parts in plans:
            entries = directory.children
            names = _sorted_names(directory)
            at, blocks = 0, []
            for count in parts:
                blocks.append(_dirent_block(names[at:at + count], entries, nid, parent.nid))
                at += count
            xattrs = encode_xattrs(directory.attributes.xattrs)
            *full, last = blocks
            size = BLOCK * len(full) + len(last)
            inline = _tail_fits(len(xattrs), len(last))
            for block in blocks[:len(full) if inline else len(blocks)]:
                self._data.append(block)
                self._data.pad(BLOCK)
            links = 2 + sum(isinstance(child, Directory) for child in entries.values())
            inode = INODE.pack(
                INLINE if inline else PLAIN, _xattr_count(xattrs), directory.attributes.mode, 0, size, address,
                nid + 1 & NULL, directory.attributes.uid, directory.attributes.gid,
                directory.attributes.mtime & _U64, directory.attributes.mtime_ns, links, 0, 0)
            content = inode + xattrs + (last if inline else b"")
            self._count += 1
            if directory is root:
                os.pwrite(self._spool, content, 0)
            else:
                self._meta.pad_to(nid * SLOT)
                self._meta.append(content)

    def _plan_directories(self, root: Directory) -> list[tuple[Directory, Directory, int, int, list[int]]]:
        """Where each directory's inode and data will be, parents first: (directory, its parent, number, address,
        names in each block). A directory's data holds its parent's number and its children's, so none can be written
        before all have one."""
        position, address = self._meta.position, self._data.position // BLOCK
        plans: list[tuple[Directory, Directory, int, int, list[int]]] = []
        queue: list[tuple[Directory, Directory]] = [(root, root)]
        for directory, parent in queue:
            if directory.opaque:
                directory.attributes.xattrs = {**directory.attributes.xattrs, b"trusted.overlay.opaque": b"y"}
            parts, last = _split(_sorted_names(directory))
            extra = len(encode_xattrs(directory.attributes.xattrs))
            inline = _tail_fits(extra, last)
            total = extra + (last if inline else 0)
            if directory is not root:
                position = _fit(position, total)
                directory.nid = position // SLOT
                position += INODE.size + total
            plans.append((directory, parent, directory.nid, address, parts))
            address += len(parts) - inline
            queue.extend((child, directory) for child in directory.children.values() if isinstance(child, Directory))
        return plans


def _fit(position: int, extra: int) -> int:
    """The first place from `position` on for an inode and `extra` bytes: what fits in a block stays within one."""
    position += -position % SLOT
    total = INODE.size + extra
    if position % BLOCK + total > BLOCK >= total:
        position += -position % BLOCK
    return position


def _tail_fits(xattrs: int, tail: int) -> bool:
    return tail <= _MAX_TAIL and INODE.size + xattrs + tail <= BLOCK


def _xattr_count(area: bytes) -> int:
    return (len(area) - XATTR_HEADER) // 4 + 1 if area else 0


def _sorted_names(directory: Directory) -> list[bytes]:
    return sorted([b".", b"..", *directory.children])


def _split(names: list[bytes]) -> tuple[list[int], int]:
    """How many names go into each block, and the bytes of the last block."""
    counts = []
    count = used = 0
    for name in names:
        need = DIRENT.size + len(name)
        if used + need > BLOCK:
            counts.append(count)
            count = used = 0
        count += 1
        used += need
    return [*counts, count], used


def _dirent_block(names: list[bytes], children: dict[bytes, int | Directory], own: int, parent: int) -> bytes:
    offset = DIRENT.size * len(names)
    records = []
    for name in names:
        child = children.get(name)
        if isinstance(child, int):
            nid, file_type = child >> 3, child & 7
        else:
            nid, file_type = child.nid if child is not None else own if name == b"." else parent, FT_DIRECTORY
        records.append(DIRENT.pack(nid, offset, file_type, 0))
        offset += len(name)
    return b"".join(records) + b"".join(names)
