"""A tar stream read forward once: ustar, old V7, GNU (long names, sparse) and pax, from hostile bytes.

Python's `tarfile` is lenient (it guesses, it swallows broken headers) and takes ten times as long per entry. This
reader accepts what Go's archive/tar accepts, since that is what images are made and unpacked with, and refuses the
rest. Deliberate choices where tars differ from each other:

* pax *global* headers are skipped, as Go and Docker do; git writes them for its commit id only.
* Names are bytes: nothing says that they are text.
* Every length is bounded before memory is taken for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

BLOCK = 512
MAX_HEADER = 1 << 20
"""Bytes of one pax or GNU long-name record, as Go's archive/tar bounds it."""
MAX_SPARSE_EXTENTS = 1 << 18
"""Data pieces of one sparse file."""
MAX_FILE_SIZE = 1 << 43
"""8 TiB: what a file in an image may pretend to be; real data is bounded by the layer's limit."""

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_HEADER_ONLY = frozenset({HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO})
_ZEROS = bytes(BLOCK)
_MAX_DIGITS = 20
_XATTR = b"SCHILY.xattr."
_DECIMAL = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?\Z")


class TarError(ValueError):
    """The stream is not a well-formed tar, or oversteps a bound. The message is one sentence without a full stop."""


class HeaderError(TarError):
    """What should be a header is none, as where the whole is no tar."""


@dataclass(slots=True)
class Entry:
    """One member; its data is read with `TarStream.take` or `TarStream.pieces` before the next one is asked for."""

    name: bytes
    kind: bytes
    """One of the constants above."""
    mode: int
    uid: int
    gid: int
    stored: int
    """Bytes of data in the stream; a sparse file has less of them than its size."""
    mtime: int
    mtime_ns: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    size: int = 0
    """Bytes of the file once unpacked."""
    extents: list[tuple[int, int]] | None = None
    """Sparse files: (offset, length) of the stored pieces, ascending, apart from each other."""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


@lru_cache(maxsize=8192)
def _number(raw: bytes) -> int:
    """A numeric header field: octal text, or base-256 where the first bit is set (two's complement)."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big") & ~(0x80 << 8 * (len(raw) - 1))
        if raw[0] & 0x40:
            value -= 1 << 8 * len(raw) - 1
        return value
    text = raw.strip(b" \0").partition(b"\0")[0].rstrip(b" ")
    if not text:
        return 0
    if not text.isdigit():
        raise HeaderError(f"a number in a tar header is not octal: {raw!r}")
    try:
        return int(text, 8)
    except ValueError:
        raise HeaderError(f"a number in a tar header is not octal: {raw!r}") from None


def _decimal(key: bytes, raw: bytes) -> tuple[int, int]:
    """A pax number as (seconds, nanoseconds); whole numbers have no nanoseconds."""
    match = _DECIMAL.match(raw)
    if match is None:
        raise TarError(f"pax record {key.decode('latin-1')} is not a number: {raw[:40]!r}")
    sign, whole, fraction = match.groups()
    value, nanos = int(whole), int((fraction or b"0")[:9].ljust(9, b"0"))
    if sign:
        return (-value - 1, 1_000_000_000 - nanos) if nanos else (-value, 0)
    return value, nanos


def _integer(records: dict[bytes, bytes], key: bytes, default: int) -> int:
    return _decimal(key, records[key])[0] if key in records else default


def _text(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def parse_pax(data: bytes) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """The records of a pax header, and apart from them those of GNU sparse format 0.0, whose keys repeat.

    :raise TarError: a record is malformed.
    """
    records: dict[bytes, bytes] = {}
    repeated: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit():
            raise TarError("a pax record has no length")
        end = position + int(digits)
        if end > len(data) or end < space + 3 or data[end - 1] != 0x0A:
            raise TarError("a pax record's length is wrong")
        key, equals, value = data[space + 1:end - 1].partition(b"=")
        if not equals or not key or b"\0" in key:
            raise TarError("a pax record has no valid key")
        if key in (b"path", b"linkpath", b"GNU.sparse.name") and b"\0" in value:
            raise TarError("a pax record's name holds a NUL")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            repeated.append((key, value))
        elif value or key.startswith(_XATTR):
            # An empty value takes a record back: the header's own holds.
            records[key] = value
        position = end
    return records, repeated


class TarStream:
    """Entries and their data out of pieces of bytes; the pieces may be cut anywhere."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._buffer = b""
        self._position = 0
        self._passed = 0
        """Bytes of the stream before the buffer."""
        self._left = 0
        """Bytes of the current entry (data, then padding) that nobody took yet."""
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        """:raise TarError: the stream is malformed, or ends in the middle of an entry."""
        while True:
            self._skip_rest()
            block = self._header()
            if block is None:
                return
            entry = self._entry(block)
            if entry is not None:
                yield entry

    @property
    def offset(self) -> int:
        """Where the stream stands: right after an entry came, where its data begins."""
        return self._passed + self._position

    def drain(self) -> None:
        """Read to the end of the stream, so that a digest over it is complete."""
        self._buffer, self._position = b"", 0
        for _ in self._pieces:
            pass

    def take(self, count: int) -> bytes:
        """The entry's next `count` bytes, in one piece: for small files.

        :raise TarError: the stream ends before.
        """
        self._left -= count
        return self._take(count)

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The entry's next `count` bytes as they come.

        :raise TarError: the stream ends before.
        """
        while count:
            if self._position == len(self._buffer):
                self._refill()
            view = memoryview(self._buffer)[self._position:self._position + count]
            self._position += len(view)
            self._left -= len(view)
            count -= len(view)
            yield view

    def _refill(self) -> None:
        self._passed += len(self._buffer)
        self._buffer, self._position = next(self._pieces, b""), 0
        if not self._buffer:
            raise TarError("the tar stream ends in the middle of an entry")

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if end <= len(self._buffer):
            data = self._buffer[self._position:end]
            self._position = end
            return data
        parts = []
        while count:
            if self._position == len(self._buffer):
                self._refill()
            part = self._buffer[self._position:self._position + count]
            self._position += len(part)
            count -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _skip_rest(self) -> None:
        left = self._left + self._padding
        self._left = self._padding = 0
        while left:
            if self._position == len(self._buffer):
                self._refill()
            step = min(left, len(self._buffer) - self._position)
            self._position += step
            left -= step

    def _open_data(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _header(self) -> bytes | None:
        """The next header block, or None at the end. A stream that ends without the two zero blocks ends as well."""
        if self._position == len(self._buffer):
            self._passed += len(self._buffer)
            self._buffer, self._position = next(self._pieces, b""), 0
            if not self._buffer:
                return None
        block = self._take(BLOCK)
        if block == _ZEROS:
            return None
        checksum = _number(block[148:156])
        # Spaces stand in for the checksum's own eight bytes.
        total = sum(block) - sum(block[148:156]) + 256
        if total != checksum:
            signed = total - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
            if signed != checksum:
                raise TarError("a tar header's checksum is wrong")
        return block

    def _entry(self, block: bytes) -> Entry | None:
        """The entry that begins with this header and its extension headers; None at the archive's end."""
        pax: dict[bytes, bytes] = {}
        repeated: list[tuple[bytes, bytes]] = []
        long_name = long_link = None
        while (kind := block[156:157]) in b"xXgLK":
            size = _number(block[124:136])
            if not 0 <= size <= MAX_HEADER:
                raise TarError(f"an extended tar header of {size} bytes is too long (at most {MAX_HEADER})")
            self._open_data(size)
            data = self.take(size)
            self._skip_rest()
            if kind == b"L":
                long_name = _text(data)
            elif kind == b"K":
                long_link = _text(data)
            elif kind != b"g":
                pax, repeated = parse_pax(data)
            following = self._header()
            if following is None:
                if kind == b"g":
                    return None
                raise TarError("the archive ends after an extended header")
            block = following
        entry = self._plain(block)
        if long_name is not None:
            entry.name = long_name
        if long_link is not None:
            entry.link = long_link
        if pax or repeated:
            _apply_pax(entry, pax)
        self._finish(entry, block, pax, repeated)
        return entry

    def _plain(self, block: bytes) -> Entry:
        kind = block[156:157]
        name = _text(block[:100])
        if block[257:263] == b"ustar\0":
            prefix = _text(block[345:476] if block[508:512] == b"tar\0" else block[345:500])
            if prefix:
                name = prefix + b"/" + name
        if kind in (b"\0", b"7"):
            kind = DIRECTORY if kind == b"\0" and name.endswith(b"/") else REGULAR
        device = kind in (CHARACTER, BLOCK_DEVICE)
        return Entry(name, kind, _number(block[100:108]), _number(block[108:116]), _number(block[116:124]),
                     _number(block[124:136]), _number(block[136:148]), 0, _text(block[157:257]),
                     _number(block[329:337]) if device else 0, _number(block[337:345]) if device else 0)

    def _finish(self, entry: Entry, block: bytes, pax: dict[bytes, bytes],
                repeated: list[tuple[bytes, bytes]]) -> None:
        """Open the entry's data and learn a sparse file's map, which may be at the head of that data."""
        if entry.kind in _HEADER_ONLY:
            entry.stored = 0
        if not 0 <= entry.stored <= MAX_FILE_SIZE:
            raise TarError(f"a tar entry claims {entry.stored} bytes (at most {MAX_FILE_SIZE})")
        extents: list[tuple[int, int]] | None = None
        entry.size = entry.stored
        if entry.kind == b"S":
            entry.kind = REGULAR
            entry.size = _number(block[483:495])
            extents = self._old_sparse(block)
            self._open_data(entry.stored)
        else:
            self._open_data(entry.stored)
            if entry.kind == REGULAR and (repeated or any(key.startswith(b"GNU.sparse.") for key in pax)):
                extents = self._pax_sparse(entry, pax, repeated)
        if extents is not None:
            entry.stored = self._left
            entry.extents = _checked(extents, entry)
        elif entry.kind != REGULAR and entry.kind not in _HEADER_ONLY:
            raise TarError(f"a tar entry has the unknown type {entry.kind!r}")

    def _old_sparse(self, block: bytes) -> list[tuple[int, int]]:
        extents = _sparse_fields(block[386:482])
        more = block[482]
        while more:
            following = self._take(BLOCK)
            extents += _sparse_fields(following[:504])
            more = following[504]
            if len(extents) > MAX_SPARSE_EXTENTS:
                raise TarError(f"a sparse file has more than {MAX_SPARSE_EXTENTS} pieces")
        return extents

    def _pax_sparse(self, entry: Entry, pax: dict[bytes, bytes], repeated: list[tuple[bytes, bytes]]
                    ) -> list[tuple[int, int]] | None:
        entry.name = pax.get(b"GNU.sparse.name", entry.name)
        if (pax.get(b"GNU.sparse.major"), pax.get(b"GNU.sparse.minor")) == (b"1", b"0"):
            entry.size = _integer(pax, b"GNU.sparse.realsize", -1)
            return self._sparse_map_in_data()
        entry.size = _integer(pax, b"GNU.sparse.size", _integer(pax, b"GNU.sparse.realsize", -1))
        if b"GNU.sparse.map" in pax:
            numbers = [_decimal(b"GNU.sparse.map", item)[0] for item in pax[b"GNU.sparse.map"].split(b",") if item]
        elif repeated:
            if any(key != (b"GNU.sparse.offset", b"GNU.sparse.numbytes")[at % 2]
                   for at, (key, _) in enumerate(repeated)):
                raise TarError("a sparse file's offsets and lengths do not alternate")
            numbers = [_decimal(key, value)[0] for key, value in repeated]
        elif pax.get(b"GNU.sparse.numblocks") == b"0":
            numbers = []
        else:
            raise TarError("a sparse file has no map that this reader knows")
        if len(numbers) % 2:
            raise TarError("a sparse file's map ends with half a pair")
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def _sparse_map_in_data(self) -> list[tuple[int, int]]:
        """GNU sparse 1.0: decimal lines at the head of the data (their count first), padded to a block."""
        lines: list[bytes] = []
        rest, needed = b"", 1
        while len(lines) < needed:
            if self._left < BLOCK:
                raise TarError("a sparse file's map is cut off")
            *complete, rest = (rest + self.take(BLOCK)).split(b"\n")
            lines += complete
            if lines:
                needed = 1 + 2 * _digits(lines[0])
            if needed > 1 + 2 * MAX_SPARSE_EXTENTS:
                raise TarError(f"a sparse file has more than {MAX_SPARSE_EXTENTS} pieces")
            if len(lines) < needed and len(rest) > _MAX_DIGITS:
                raise TarError("a sparse file's map is not made of numbers")
        numbers = [_digits(line) for line in lines[1:needed]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def _digits(line: bytes) -> int:
    if not line.isdigit() or len(line) > _MAX_DIGITS:
        raise TarError("a sparse file's map is not made of numbers")
    return int(line)


def _sparse_fields(raw: bytes) -> list[tuple[int, int]]:
    return [(_number(raw[at:at + 12]), _number(raw[at + 12:at + 24]))
            for at in range(0, len(raw), 24) if raw[at] and raw[at + 12]]


def _checked(extents: list[tuple[int, int]], entry: Entry) -> list[tuple[int, int]]:
    """The extents without empty ones, proven to be ascending, apart, inside the file, and to hold all stored bytes."""
    if not 0 <= entry.size <= MAX_FILE_SIZE:
        raise TarError(f"a sparse file claims {entry.size} bytes (at most {MAX_FILE_SIZE})")
    end = total = 0
    for offset, length in extents:
        if offset < end or length < 0 or offset + length > entry.size:
            raise TarError("a sparse file's pieces overlap or reach beyond its end")
        end = offset + length
        total += length
    if total != entry.stored:
        raise TarError(f"a sparse file's pieces make {total} bytes, and {entry.stored} are stored")
    return [extent for extent in extents if extent[1]]


def _apply_pax(entry: Entry, pax: dict[bytes, bytes]) -> None:
    entry.name = pax.get(b"path", entry.name)
    entry.link = pax.get(b"linkpath", entry.link)
    entry.uid = _integer(pax, b"uid", entry.uid)
    entry.gid = _integer(pax, b"gid", entry.gid)
    entry.stored = _integer(pax, b"size", entry.stored)
    if b"mtime" in pax:
        entry.mtime, entry.mtime_ns = _decimal(b"mtime", pax[b"mtime"])
    for key, value in pax.items():
        if key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR):]] = value
