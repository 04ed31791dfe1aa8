"""Writes an uncompressed EROFS image in one pass: file data as it comes, then the metadata.

The image has three parts, in this order:

    block 0         superblock (at byte 1024)
    data            whole blocks: contents of files in the order they came, then those of large directories
    metadata        inodes with their extended attributes, tails of files, chunk maps; the root's block comes first,
                    because the superblock holds the root's number in 16 bits

Inodes are written (to a spool file that is appended at the end) as soon as a file's data is through, so memory holds
only the tree of names. Two runs over the same input give the same bytes.

The on-disk format is Linux's Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h, with nothing that Linux 6.1
does not read: extended inodes, flat and inline data, chunk-based files (for those with holes), inline extended
attributes, device nodes, checksum of the superblock.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

BLOCK = 4096
_SLOT = 32
"""An inode's number is its offset in the metadata divided by this."""
_MAGIC = 0xE0F5E1E2
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHH38x")
_SUPER_OFFSET = 1024
_XATTR_HEADER = 12
_COMPAT_CHECKSUM = 0x1
_INCOMPAT_CHUNKED = 0x4
_INODE = struct.Struct("<HHHHQIIIIQIIQQ")
_NLINK_OFFSET = 44
_DIRENT = struct.Struct("<QHBB")
_PLAIN, _INLINE, _CHUNKED = 0 << 1 | 1, 2 << 1 | 1, 4 << 1 | 1
"""Data layouts, with the bit that says `extended inode`."""
_NULL = 0xFFFFFFFF
"""Block address of a hole."""
_U64 = 0xFFFFFFFFFFFFFFFF

FT_REGULAR, FT_DIRECTORY, FT_CHARACTER, FT_BLOCK, FT_FIFO, FT_SOCKET, FT_SYMLINK = 1, 2, 3, 4, 5, 6, 7

MAX_NAME = 255
_MAX_TAIL = 2048
"""A longer tail takes a data block: inlined it would leave more of a metadata block unused than it saves."""
_CELL = 1 << 16
"""Large files are searched for holes in cells of this size, which is the smallest chunk as well."""
_MIN_CHUNKED = 1 << 20
"""Smaller files are not worth a search for holes."""
_MAX_CHUNKS = 1 << 16
_MAX_IMAGE = 1 << 43
"""8 TiB, holes included: what every host file system can address, and well inside the format's 32-bit block numbers."""
_FLUSH = 1 << 20
_ZERO_CELL = bytes(_CELL)
_XATTR_PREFIXES: tuple[tuple[bytes, int], ...] = (
    (b"user.", 1), (b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3), (b"trusted.", 4),
    (b"security.", 6))
MAX_XATTRS = 65536
"""Bytes of all extended attributes of a file together (XATTR_LIST_MAX; the format's own limit is 256 KiB)."""


class ImageTooBig(Exception):
    """The image would pass the caller's limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the layer unpacks to more than {limit} bytes")


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


def encode_xattrs(xattrs: dict[bytes, bytes]) -> bytes:
    """The inline attribute area of an inode; empty where there are none. Names of unknown kinds are left out.

    :raise ValueError: they do not fit, with the reason.
    """
    area = bytearray(12)
    for name, value in sorted(xattrs.items()):
        prefix, index = next((pair for pair in _XATTR_PREFIXES if name.startswith(pair[0])), (b"", 0))
        suffix = name[len(prefix):]
        if not index or not (suffix or index in (2, 3)):
            continue
        if len(name) > 255 or len(value) > 65535:
            raise ValueError(f"the extended attribute {name[:40]!r} is too long")
        area += struct.pack("<BBH", len(suffix), index, len(value)) + suffix + value
        area += bytes(-len(area) % 4)
        if len(area) > MAX_XATTRS:
            raise ValueError(f"a file has more than {MAX_XATTRS} bytes of extended attributes")
    return bytes(area) if len(area) > 12 else b""


def crc32c(data: bytes) -> int:
    """CRC-32C as the superblock has it: no final inversion."""
    crc = _NULL
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


class _Appender:
    """Buffered writing at a file's end, with holes."""

    def __init__(self, fd: int, start: int, limit: int) -> None:
        self._fd = fd
        self._buffer = bytearray()
        self._limit = limit
        self.position = start
        self.written = 0
        """Bytes that take space on the host."""
        os.lseek(fd, start, os.SEEK_SET)

    def append(self, data: bytes | memoryview) -> None:
        self._buffer += data
        self.position += len(data)
        if len(self._buffer) >= _FLUSH:
            self.flush()

    def pad(self, multiple: int) -> None:
        self.pad_to(self.position + -self.position % multiple)

    def pad_to(self, position: int) -> None:
        if position > self.position:
            self.append(bytes(position - self.position))

    def hole(self, count: int) -> None:
        """`count` zero bytes that take no space where the file system can help it."""
        if count < _CELL:
            self.append(bytes(count))
            return
        self.flush()
        self.position += count
        if self.position > _MAX_IMAGE:
            raise ImageTooBig(_MAX_IMAGE)
        os.lseek(self._fd, count, os.SEEK_CUR)

    def flush(self) -> None:
        self.written += len(self._buffer)
        if self.written > self._limit:
            raise ImageTooBig(self._limit)
        view = memoryview(self._buffer)
        while view:
            view = view[os.write(self._fd, view):]
        del view
        self._buffer.clear()


class _ChunkedFile:
    """Data of one large file on its way into chunks; a chunk in which nothing but zeros arrived stays a hole."""

    def __init__(self, data: _Appender, size: int) -> None:
        self._data = data
        self.bits = max(_CELL.bit_length() - 1, (-(-size // _MAX_CHUNKS) - 1).bit_length())
        self.chunks = array("I", [_NULL]) * -(-size >> self.bits)
        self._offset = 0
        """In the file: up to where it was told of data or zeros."""
        self._filled = 0
        """In the file: up to where the current chunk is on disk; 0 where it is a hole so far."""
        self._size = size
        self._cell = bytearray()

    def write(self, piece: memoryview) -> None:
        while piece:
            room = _CELL - len(self._cell)
            self._cell += piece[:room]
            piece = piece[room:]
            if len(self._cell) == _CELL:
                self._end_cell()

    def skip(self, count: int) -> None:
        """`count` zeros."""
        if self._cell:
            part = min(count, _CELL - len(self._cell))
            self._cell += bytes(part)
            count -= part
            if len(self._cell) == _CELL:
                self._end_cell()
        whole = count - count % _CELL
        self._advance(whole)
        self._cell += bytes(count - whole)

    def finish(self) -> None:
        if self._cell:
            self._end_cell()
        self._close_chunk()
        self._data.pad(BLOCK)

    def _end_cell(self) -> None:
        cell = self._cell
        if cell == _ZERO_CELL[:len(cell)]:
            self._advance(len(cell))
        else:
            number = self._offset >> self.bits
            if self.chunks[number] == _NULL:
                self._data.pad(BLOCK)
                self.chunks[number] = self._data.position // BLOCK
                self._filled = number << self.bits
            self._data.hole(self._offset - self._filled)
            self._data.append(bytes(cell))
            self._filled = self._offset + len(cell)
            self._advance(len(cell))
        cell.clear()

    def _advance(self, count: int) -> None:
        if (self._offset + count) >> self.bits != self._offset >> self.bits:
            self._close_chunk()
        self._offset += count

    def _close_chunk(self) -> None:
        if self._filled:
            end = min((self._filled - 1 >> self.bits) + 1 << self.bits, self._size)
            self._data.hole(end - self._filled)
            self._filled = 0


class ErofsWriter:
    """Call `regular`, `symlink`, `device` and `share` as the files come, then `finish` with the tree."""

    def __init__(self, image: int, spool: int, *, max_bytes: int) -> None:
        """Both are empty files open for reading and writing; `max_bytes` bounds what each may take on the host.

        :raise ImageTooBig: (from any method) the limit is passed.
        """
        self._image = image
        self._spool = spool
        self._data = _Appender(image, BLOCK, max_bytes)
        # The spool's first block is the root's.
        self._meta = _Appender(spool, BLOCK, max_bytes)
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
        return self._inode(attributes, _INLINE if tail else _PLAIN, size, address if size else 0, xattrs, tail)

    def _large(self, attributes: Attributes, size: int, pieces: Iterator[memoryview],
               extents: list[tuple[int, int]] | None) -> int:
        chunked = _ChunkedFile(self._data, size)
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
        if _NULL not in chunked.chunks:
            return self._inode(attributes, _PLAIN, size, chunked.chunks[0] if size else 0, xattrs)
        self._chunked = True
        block_map = struct.pack(f"<{len(chunked.chunks)}I", *chunked.chunks)
        return self._inode(attributes, _CHUNKED, size, chunked.bits - (BLOCK.bit_length() - 1), xattrs, block_map)

    def symlink(self, attributes: Attributes, target: bytes) -> int:
        return self._small(attributes, target)

    def device(self, attributes: Attributes, major: int, minor: int) -> int:
        """A device node, FIFO or socket (with 0, 0)."""
        encoded = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
        return self._inode(attributes, _PLAIN, 0, encoded, encode_xattrs(attributes.xattrs))

    def share(self, nid: int, by: int = 1) -> None:
        """The file has one more name, or (-1) one less."""
        self._links[nid] = self._links.get(nid, 1) + by

    def symlink_target(self, nid: int) -> bytes | None:
        """What an earlier `symlink` was given; None where it is not kept inline (longer than half a block)."""
        self._meta.flush()
        header = os.pread(self._spool, _INODE.size, nid * _SLOT)
        layout, xattr_count, _, _, size, *_ = _INODE.unpack(header)
        area = 4 * (xattr_count + 2) if xattr_count else 0
        return os.pread(self._spool, size, nid * _SLOT + _INODE.size + area) if layout == _INLINE else None

    def _inode(self, attributes: Attributes, layout: int, size: int, union: int, xattrs: bytes = b"",
               rest: bytes = b"") -> int:
        position = self._place(len(xattrs) + len(rest))
        self._count += 1
        header = _INODE.pack(
            layout, _xattr_count(xattrs), attributes.mode, 0, size, union,
            self._count & _NULL, attributes.uid, attributes.gid, attributes.mtime & _U64,
            attributes.mtime_ns, 1, 0, 0)
        self._meta.append(header + xattrs + rest if xattrs or rest else header)
        return position // _SLOT

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
        self._meta.pad_to(self._meta.position + _XATTR_HEADER)
        self._meta.pad(BLOCK)
        self._meta.flush()
        for nid, links in self._links.items():
            os.pwrite(self._spool, struct.pack("<I", links), nid * _SLOT + _NLINK_OFFSET)
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
            fields = _SUPER.pack(_MAGIC, checksum, _COMPAT_CHECKSUM, BLOCK.bit_length() - 1, 0, 0, self._count, 0, 0,
                                 blocks, self._data.position // BLOCK, 0, uuid, b"", incompatible, 0, 0, 0)
            return fields.ljust(BLOCK - _SUPER_OFFSET, b"\0")
        os.pwrite(self._image, block(crc32c(block(0))), _SUPER_OFFSET)

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
            inode = _INODE.pack(
                _INLINE if inline else _PLAIN, _xattr_count(xattrs), directory.attributes.mode, 0, size, address,
                nid + 1 & _NULL, directory.attributes.uid, directory.attributes.gid,
                directory.attributes.mtime & _U64, directory.attributes.mtime_ns, links, 0, 0)
            content = inode + xattrs + (last if inline else b"")
            self._count += 1
            if directory is root:
                os.pwrite(self._spool, content, 0)
            else:
                self._meta.pad_to(nid * _SLOT)
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
                directory.nid = position // _SLOT
                position += _INODE.size + total
            plans.append((directory, parent, directory.nid, address, parts))
            address += len(parts) - inline
            queue.extend((child, directory) for child in directory.children.values() if isinstance(child, Directory))
        return plans


def _fit(position: int, extra: int) -> int:
    """The first place from `position` on for an inode and `extra` bytes: what fits in a block stays within one."""
    position += -position % _SLOT
    total = _INODE.size + extra
    if position % BLOCK + total > BLOCK >= total:
        position += -position % BLOCK
    return position


def _tail_fits(xattrs: int, tail: int) -> bool:
    return tail <= _MAX_TAIL and _INODE.size + xattrs + tail <= BLOCK


def _xattr_count(area: bytes) -> int:
    return (len(area) - 12) // 4 + 1 if area else 0


def _sorted_names(directory: Directory) -> list[bytes]:
    return sorted([b".", b"..", *directory.children])


def _split(names: list[bytes]) -> tuple[list[int], int]:
    """How many names go into each block, and the bytes of the last block."""
    counts = []
    count = used = 0
    for name in names:
        need = _DIRENT.size + len(name)
        if used + need > BLOCK:
            counts.append(count)
            count = used = 0
        count += 1
        used += need
    return [*counts, count], used


def _dirent_block(names: list[bytes], children: dict[bytes, int | Directory], own: int, parent: int) -> bytes:
    offset = _DIRENT.size * len(names)
    records = []
    for name in names:
        child = children.get(name)
        if isinstance(child, int):
            nid, file_type = child >> 3, child & 7
        else:
            nid, file_type = child.nid if child is not None else own if name == b"." else parent, FT_DIRECTORY
        records.append(_DIRENT.pack(nid, offset, file_type, 0))
        offset += len(name)
    return b"".join(records) + b"".join(names)
