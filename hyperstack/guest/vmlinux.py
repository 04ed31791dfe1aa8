"""The uncompressed kernel out of a bzImage.

QEMU boots an ELF vmlinux through its PVH entry without running the decompressor, which under emulation saves seconds.
Layout: the kernel's Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import lzma
import shutil
import struct
import subprocess
import zlib

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
    done = subprocess.run([program, "-dc"], input=payload[:-4], capture_output=True, check=False,
                          timeout=_LZ4_DEADLINE_S)
    if done.returncode != 0:
        raise InvalidArgument(f"the kernel image's payload is garbled: {done.stderr.decode(errors='replace')[-200:]}",
                              field="kernel")
    return done.stdout
