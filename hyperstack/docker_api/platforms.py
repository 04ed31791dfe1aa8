"""The `platform` of a request. An image here is of one platform, so it can only be the one that is there."""

from __future__ import annotations

import re

import msgspec

from hyperstack.engine.api import Image
from hyperstack.http.call import Call
from hyperstack.pod.errors import HyperStackError, InvalidArgument, NotFound, UnsupportedOption

_COMPONENT = "^[A-Za-z0-9_.-]+$"
_SYSTEM = r"^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?$"
_SYSTEMS = frozenset({
    "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux", "nacl", "netbsd",
    "openbsd", "plan9", "solaris", "windows", "zos"})
_PROCESSORS = {
    "386": "386", "amd64": "amd64", "x86_64": "amd64", "x86-64": "amd64", "i386": "386", "arm": "arm", "armhf": "arm",
    "armel": "arm", "arm64": "arm64", "aarch64": "arm64", "ppc64": "ppc64", "ppc64le": "ppc64le", "loong64": "loong64",
    "mips": "mips", "mipsle": "mipsle", "mips64": "mips64", "mips64le": "mips64le", "riscv64": "riscv64",
    "s390x": "s390x", "wasm": "wasm"}
"""What may stand alone, as the Open Container Initiative calls it."""
_MAX_LENGTH = 128


class _Platform(msgspec.Struct, frozen=True):
    """As OCI has it; clients send it as JSON since 1.46."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


class PlatformAbsent(NotFound):
    """The image is there, for another platform."""

    def __init__(self, name: str, actual: str, wanted: str) -> None:
        HyperStackError.__init__(self, f"image with reference {name} was found but its platform ({actual}) does not "
                                 f"match the specified platform ({wanted})", field="platform", value=wanted)
        self.kind = "image"


def check_platform(call: Call, image: Image, name: str, *, since: tuple[int, int], parameter: str = "platform") -> None:
    """:param since: the version of the API that has the parameter; older ones ignore it.

    :raise PlatformAbsent: the caller asks for another one. :raise InvalidArgument: for something that is none.
    """
    for text in call.texts(parameter) if call.version >= since else ():
        wanted = _decode(text)
        variant = str(image.raw_config.get("variant") or "")
        if wanted.os != image.os or wanted.architecture != image.architecture \
                or (variant and wanted.variant not in ("", variant)):
            raise PlatformAbsent(name, str(_Platform(image.os, image.architecture, variant)), str(wanted))


def check_host_platform(call: Call, architecture: str, *, encoded: bool) -> None:
    """For what comes from a client: it is taken for the host's own platform, which may be named.

    :param encoded: the parameter is JSON, and there since 1.48.
    :raise UnsupportedOption: another one is named.
    """
    for text in call.texts("platform") if not encoded or call.version >= (1, 48) else ():
        wanted = _decode(text) if encoded else _parse(text, architecture)
        if wanted.os != "linux" or wanted.architecture != architecture:
            raise UnsupportedOption(f"platform={wanted}", "what is taken in is for the host's own processor",
                                    hint=f"linux/{architecture}")


def parse_platform(text: str, architecture: str) -> str:
    """os/architecture[/variant] of what a user writes: a part of it may be left out.

    :param architecture: the host's. :raise InvalidArgument: it is none.
    """
    return str(_parse(text, architecture))


def _parse(text: str, architecture: str) -> _Platform:
    parts = text.split("/")
    if len(text) > _MAX_LENGTH or len(parts) > 3:
        raise _invalid(text, f'"{text[:64]}": cannot parse platform specifier: invalid argument')
    for number, part in enumerate(parts):
        pattern = _COMPONENT if number else _SYSTEM
        if not re.fullmatch(pattern, part) or part.endswith("\n"):
            what, of = ("an invalid", "platform") if number else ("an invalid OS", "OSAndVersion")
            shown = pattern.replace("\\", "\\\\")
            raise _invalid(text, f'"{part}" is {what} component of "{text}": {of} specifier component must match '
                                 f'"{shown}": invalid argument')
    system = "darwin" if parts[0].lower() == "macos" else parts[0].lower()
    if len(parts) > 1:
        found = parts[1].lower()
        return _Platform(system, _PROCESSORS.get(found, found), "".join(parts[2:]).lower())
    if system in _SYSTEMS:
        return _Platform(system, architecture)
    if system in _PROCESSORS:
        return _Platform("linux", _PROCESSORS[system])
    raise _invalid(text, f'"{text}": unknown operating system or architecture: invalid argument')


def _decode(text: str) -> _Platform:
    try:
        found = msgspec.json.decode(text[:4096], type=_Platform)
    except (msgspec.DecodeError, RecursionError) as error:
        first = text.strip()[:1]
        wrong = str(error) if first in ("{", "") else f"invalid character '{first}' looking for beginning of value"
        raise _invalid(text, f"failed to parse platform: {wrong}") from error
    if not found.os and not found.architecture and found.variant:
        raise _invalid(text, "optional platform fields provided, but OS and Architecture are missing")
    if not found.os or not found.architecture:
        raise _invalid(text, "both OS and Architecture must be provided")
    return found


def _invalid(text: str, words: str) -> InvalidArgument:
    return InvalidArgument(words, field="platform", value=text[:64])
