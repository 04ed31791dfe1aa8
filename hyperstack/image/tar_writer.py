"""Writes tars: ustar headers, and pax records for what does not fit into them. Names are bytes."""

from __future__ import annotations

from hyperstack.image.tar import BLOCK, DIRECTORY, REGULAR

_MAX_TEXT = 100
_MAX_ID = 0o7777777
_MAX_NUMBER = 0o77777777777
_PAX = b"x"
END = bytes(2 * BLOCK)
"""What an archive ends with."""


def header(name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, mtime_ns: int = 0,
           link: bytes = b"", device: tuple[int, int] = (0, 0), xattrs: dict[bytes, bytes] | None = None) -> bytes:
    """What stands before a member's data; the data is to be padded with `padding`."""
    if kind == DIRECTORY and not name.endswith(b"/"):
        name += b"/"
    records: list[tuple[bytes, bytes]] = []
    if len(name) > _MAX_TEXT:
        records.append((b"path", name))
    if len(link) > _MAX_TEXT:
        records.append((b"linkpath", link))
    for key, value, limit in ((b"uid", uid, _MAX_ID), (b"gid", gid, _MAX_ID), (b"size", size, _MAX_NUMBER)):
        if value > limit:
            records.append((key, str(value).encode()))
    if mtime_ns or not 0 <= mtime <= _MAX_NUMBER:
        records.append((b"mtime", _decimal(mtime, mtime_ns)))
    records += [(b"SCHILY.xattr." + key, value) for key, value in sorted((xattrs or {}).items())]
    extended = b"".join(_record(key, value) for key, value in records)
    plain = _block(name, kind, mode, uid if uid <= _MAX_ID else 0, gid if gid <= _MAX_ID else 0,
                   size if size <= _MAX_NUMBER else 0, mtime if 0 <= mtime <= _MAX_NUMBER else 0, link, device)
    if not extended:
        return plain
    return _block(b"PaxHeaders/x", _PAX, 0o644, 0, 0, len(extended), 0) + extended + padding(len(extended)) + plain


def padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _block(name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, link: bytes = b"",
           device: tuple[int, int] = (0, 0)) -> bytes:
    fields = b"".join((
        name[:_MAX_TEXT].ljust(_MAX_TEXT, b"\0"), _octal(mode & 0o7777, 8), _octal(uid, 8), _octal(gid, 8),
        _octal(size if kind in (REGULAR, _PAX) else 0, 12), _octal(mtime, 12), b" " * 8, kind,
        link[:_MAX_TEXT].ljust(_MAX_TEXT, b"\0"), b"ustar\x0000", bytes(64), _octal(device[0], 8),
        _octal(device[1], 8))).ljust(BLOCK, b"\0")
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def _octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def _decimal(seconds: int, nanoseconds: int) -> bytes:
    if seconds < 0 and nanoseconds:
        return b"-%d.%09d" % (-seconds - 1, 1_000_000_000 - nanoseconds)
    return b"%d.%09d" % (seconds, nanoseconds) if nanoseconds else b"%d" % seconds


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH key=value` and a newline; the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)
