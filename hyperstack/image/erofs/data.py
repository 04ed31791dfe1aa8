"""Contents of files on their way into an image: buffered, with holes where there is nothing but zeros."""

from __future__ import annotations

import os
from array import array

from hyperstack.image.erofs.format import BLOCK, NULL

_CELL = 1 << 16
"""Large files are searched for holes in cells of this size, which is the smallest chunk as well."""
_MAX_CHUNKS = 1 << 16
_MAX_IMAGE = 1 << 43
"""8 TiB, holes included: what every host file system can address, and well inside the format's 32-bit block numbers."""
_FLUSH = 1 << 20
_ZERO_CELL = bytes(_CELL)


class ImageTooBig(Exception):
    """The image would pass the caller's limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the layer unpacks to more than {limit} bytes")


class Appender:
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


class ChunkedFile:
    """Data of one large file on its way into chunks; a chunk in which nothing but zeros arrived stays a hole."""

    def __init__(self, data: Appender, size: int) -> None:
        self._data = data
        self.bits = max(_CELL.bit_length() - 1, (-(-size // _MAX_CHUNKS) - 1).bit_length())
        self.chunks = array("I", [NULL]) * -(-size >> self.bits)
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
            if self.chunks[number] == NULL:
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
