"""Kernel images, read as hostile bytes: the kernel out of a bzImage, and what an ELF kernel tells of itself.

QEMU boots an ELF vmlinux through its PVH entry without running the decompressor, which under emulation saves seconds.
Layouts: the kernel's Documentation/arch/x86/boot.rst, elf(5), kernel/configs.c, and Xen's elfnote.h for the entry.
"""

from __future__ import annotations

import lzma
import re
import shutil
import struct
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import zstandard

from hyperstack.pod.errors import InvalidArgument, Unavailable

_LIMIT = 256 << 20
"""Bytes of an uncompressed kernel; Debian's have 50-70 MB."""
_MAGIC_OFFSET = 0x202
_SETUP_SECTORS_OFFSET = 0x1F1
_VERSION_OFFSET = 0x206
_PAYLOAD_OFFSET = 0x248
_VERSION_WITH_PAYLOAD = 0x0208
_ELF = b"\x7fELF"
_LZ4_DEADLINE_S = 60

_ELF_HEADER = struct.Struct("<4sBBB9xHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_NOTE = struct.Struct("<III")
_ELF64, _LITTLE_ENDIAN, _X86_64, _PT_NOTE = 2, 1, 62, 4
_PHYS32_ENTRY = 18
"""Type of the note by the owner "Xen" that holds the 32-bit entry: PVH."""
_MAX_HEADERS = 64
_MAX_NOTES = 1 << 16
"""Bytes of a note segment; kernels have some hundreds."""
_BANNER = re.compile(rb"Linux version (\d[\w.+~-]{0,63}) ")
_BZIMAGE_BANNER_OFFSET = 0x20E
_CONFIG_START = b"IKCFG_ST"
_CONFIG_LIMIT = 4 << 20
"""Bytes of an unpacked configuration; Debian's has 260 kB."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A kernel image that QEMU can boot."""

    data: bytes
    format: str
    """"vmlinux" (ELF with a PVH entry) or "bzImage"."""
    release: str
    """`uname -r`; empty where the image does not tell."""
    config: str | None
    """Its configuration, where it is built in (CONFIG_IKCONFIG)."""


def read(data: bytes) -> Image:
    """The best way to boot the image: a bzImage whose kernel has a PVH entry is unpacked.

    :raise InvalidArgument: neither an x86-64 ELF kernel with a PVH entry nor a bzImage.
    :raise Unavailable: see `extract`.
    """
    if is_elf(data):
        if not has_pvh_entry(data):
            raise InvalidArgument("the ELF kernel has no PVH entry", field="image",
                                  hint="Build it with CONFIG_PVH=y, or give its bzImage.")
        return Image(data=data, format="vmlinux", release=_release(data), config=embedded_config(data))
    kernel = extract(data)
    if has_pvh_entry(kernel):
        return Image(data=kernel, format="vmlinux", release=_release(kernel) or _setup_release(data),
                     config=embedded_config(kernel))
    return Image(data=data, format="bzImage", release=_setup_release(data) or _release(kernel),
                 config=embedded_config(kernel))


def is_elf(image: bytes) -> bool:
    return image.startswith(_ELF)


def extract(image: bytes) -> bytes:
    """The ELF kernel in a bzImage.

    :raise InvalidArgument: not a bzImage, or its payload is garbled, too large or no ELF.
    :raise Unavailable: it is compressed with LZ4 and there is no `lz4`.
    """
    if len(image) < _PAYLOAD_OFFSET + 8 or image[_MAGIC_OFFSET:_MAGIC_OFFSET + 4] != b"HdrS":
        raise InvalidArgument("the kernel image is no bzImage", field="kernel",
                              hint="Give an x86-64 bzImage (vmlinuz) or an ELF vmlinux.")
    version, = struct.unpack_from("<H", image, _VERSION_OFFSET)
    if version < _VERSION_WITH_PAYLOAD:
        raise InvalidArgument(f"boot protocol {version:#x} does not tell where the payload is", field="kernel",
                              value=version)
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_OFFSET)
    start = ((image[_SETUP_SECTORS_OFFSET] or 4) + 1) * 512 + offset
    payload = image[start:start + length]
    if len(payload) != length:
        raise InvalidArgument("the kernel image is cut short", field="kernel", value=len(image))
    try:
        kernel = _decompress(payload)
    except (lzma.LZMAError, zlib.error, zstandard.ZstdError, EOFError) as error:
        raise InvalidArgument(f"the kernel image's payload is garbled: {error}", field="kernel") from error
    if not is_elf(kernel):
        raise InvalidArgument("the kernel image's payload is no ELF kernel", field="kernel", value=len(kernel))
    # However it is packed, the build ends the payload with the unpacked size: a stream that was cut short is found.
    if kernel is not payload and len(kernel) != int.from_bytes(payload[-4:], "little"):
        raise InvalidArgument("the kernel image's payload is cut short or too large", field="kernel",
                              value=len(kernel))
    return kernel


def _decompress(payload: bytes) -> bytes:
    """Whatever follows the compressed stream (the build appends the size) is ignored."""
    match payload[:4]:
        case b"\xfd7zX":
            return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload, _LIMIT + 1)
        case b"\x28\xb5\x2f\xfd":
            return zstandard.ZstdDecompressor().stream_reader(payload).read(_LIMIT + 1)
        case b"\x02\x21\x4c\x18":
            return _lz4(payload)
        case magic if magic.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(payload, _LIMIT + 1)
        case magic if magic.startswith(b"\x5d\x00\x00"):
            return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(payload, _LIMIT + 1)
        case magic if magic == _ELF:
            return payload
        case magic:
            raise InvalidArgument(f"the kernel is compressed in an unknown way ({magic.hex()})", field="kernel",
                                  value=magic.hex(), hint="Known are gzip, xz, lzma, zstd and lz4.")


def _lz4(payload: bytes) -> bytes:
    # The last four bytes are the uncompressed size; `lz4` would take them for another block.
    program = shutil.which("lz4")
    if program is None:
        raise Unavailable("the kernel is compressed with LZ4, and there is no lz4", hint="apt-get install lz4")
    with tempfile.TemporaryFile() as packed:
        packed.write(payload[:-4])
        packed.seek(0)
        with subprocess.Popen([program, "-dc"], stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as lz4:
            timer = threading.Timer(_LZ4_DEADLINE_S, lz4.kill)
            timer.start()
            try:
                assert lz4.stdout is not None
                kernel = lz4.stdout.read(_LIMIT + 1)
            finally:
                timer.cancel()
                lz4.kill()
    # What is larger is cut off and killed; the caller sees that its size is wrong.
    if not kernel:
        raise InvalidArgument("the kernel image's payload is garbled", field="kernel")
    return kernel


def has_pvh_entry(kernel: bytes) -> bool:
    """Whether an ELF kernel can be entered as QEMU does.

    :raise InvalidArgument: it is no x86-64 ELF, or its headers are garbled.
    """
    return any(owner == b"Xen" and kind == _PHYS32_ENTRY for owner, kind in _notes(kernel))


def embedded_config(kernel: bytes) -> str | None:
    """The configuration that an uncompressed kernel has built in; None where it has none, or a garbled one."""
    start = kernel.find(_CONFIG_START)
    if start < 0:
        return None
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        text = inflater.decompress(kernel[start + len(_CONFIG_START):start + _CONFIG_LIMIT], _CONFIG_LIMIT)
    except zlib.error:
        return None
    return text.decode(errors="replace") if inflater.eof else None


def _notes(kernel: bytes) -> Iterator[tuple[bytes, int]]:
    """Owner and type of every note."""
    try:
        _, bits, order, _, _, machine, _, _, offset, _, _, _, size, count, *_ = _ELF_HEADER.unpack_from(kernel)
        if (bits, order, machine) != (_ELF64, _LITTLE_ENDIAN, _X86_64):
            raise InvalidArgument("the kernel is not for x86-64", field="image", value=machine)
        if size != _PROGRAM_HEADER.size or count > _MAX_HEADERS:
            raise InvalidArgument("the ELF kernel's headers are garbled", field="image", value=count)
        for number in range(count):
            kind, _, start, _, _, length, _, _ = _PROGRAM_HEADER.unpack_from(kernel, offset + number * size)
            if kind == _PT_NOTE and length <= _MAX_NOTES:
                yield from _notes_of(kernel[start:start + length])
    except (struct.error, OverflowError) as error:
        raise InvalidArgument("the ELF kernel is cut short", field="image", value=len(kernel)) from error


def _notes_of(segment: bytes) -> Iterator[tuple[bytes, int]]:
    at = 0
    while at + _NOTE.size <= len(segment):
        name_size, data_size, kind = _NOTE.unpack_from(segment, at)
        at += _NOTE.size
        yield segment[at:at + name_size].rstrip(b"\0"), kind
        at += -(-name_size // 4) * 4 + -(-data_size // 4) * 4


def _release(kernel: bytes) -> str:
    found = _BANNER.search(kernel)
    return found[1].decode() if found else ""


def _setup_release(image: bytes) -> str:
    """As the bzImage's setup header points to it."""
    offset, = struct.unpack_from("<H", image, _BZIMAGE_BANNER_OFFSET)
    words = image[offset + 512:offset + 512 + 64].partition(b"\0")[0].split() if offset else []
    return words[0].decode() if words and re.fullmatch(rb"\d[\w.+~-]{0,63}", words[0]) else ""
