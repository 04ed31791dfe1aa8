"""The on-disk format: what both who writes and who reads a layer's disk must know of it.

It is that of Linux's Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h, with nothing that Linux 6.1 does not
read: extended inodes, flat and inline data, chunk-based files (for those with holes), inline extended attributes,
device nodes, checksum of the superblock.
"""

from __future__ import annotations

import struct

BLOCK = 4096
MAGIC = 0xE0F5E1E2
SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHH38x")
SUPER_OFFSET = 1024
INODE = struct.Struct("<HHHHQIIIIQIIQQ")
SLOT = 32
"""An inode's number is its offset in the metadata divided by this."""
DIRENT = struct.Struct("<QHBB")
PLAIN, INLINE, CHUNKED = 0 << 1 | 1, 2 << 1 | 1, 4 << 1 | 1
"""Data layouts, with the bit that says `extended inode`."""
NULL = 0xFFFFFFFF
"""Block address of a hole."""

FT_REGULAR, FT_DIRECTORY, FT_CHARACTER, FT_BLOCK, FT_FIFO, FT_SOCKET, FT_SYMLINK = 1, 2, 3, 4, 5, 6, 7

MAX_NAME = 255
MAX_XATTRS = 65536
"""Bytes of all extended attributes of a file together (XATTR_LIST_MAX; the format's own limit is 256 KiB)."""
XATTR_HEADER = 12
XATTR = struct.Struct("<BBH")
"""Before each attribute: length of its name without the prefix, the prefix, length of its value."""
XATTR_PREFIXES: tuple[tuple[bytes, int], ...] = (
    (b"user.", 1), (b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3), (b"trusted.", 4),
    (b"security.", 6))


def encode_xattrs(xattrs: dict[bytes, bytes]) -> bytes:
    """The inline attribute area of an inode; empty where there are none. Names of unknown kinds are left out.

    :raise ValueError: they do not fit, with the reason.
    """
    area = bytearray(XATTR_HEADER)
    for name, value in sorted(xattrs.items()):
        prefix, index = next((pair for pair in XATTR_PREFIXES if name.startswith(pair[0])), (b"", 0))
        suffix = name[len(prefix):]
        if not index or not (suffix or index in (2, 3)):
            continue
        if len(name) > 255 or len(value) > 65535:
            raise ValueError(f"the extended attribute {name[:40]!r} is too long")
        area += XATTR.pack(len(suffix), index, len(value)) + suffix + value
        area += bytes(-len(area) % 4)
        if len(area) > MAX_XATTRS:
            raise ValueError(f"a file has more than {MAX_XATTRS} bytes of extended attributes")
    return bytes(area) if len(area) > XATTR_HEADER else b""


def crc32c(data: bytes) -> int:
    """CRC-32C as the superblock has it: no final inversion."""
    crc = NULL
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
