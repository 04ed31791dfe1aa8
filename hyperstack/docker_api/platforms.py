"""The `platform` of a request. An image here is of one platform, so it can only be the one that is there."""

from __future__ import annotations

import re

import msgspec

from hyperstack.engine.api import Image
from hyperstack.http.call import Call
from hyperstack.pod.errors import HyperStackError, InvalidArgument, NotFound, UnsupportedOption

_TEXT = re.compile(r"[a-z0-9_.-]{1,32}(/[a-z0-9_.-]{1,32}){0,2}\Z")


class _Platform(msgspec.Struct, frozen=True):
    """As OCI has it; clients send it as JSON since 1.48."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


class PlatformAbsent(NotFound):
    """The image is there, for another platform."""

    def __init__(self, name: str, platform: str) -> None:
        HyperStackError.__init__(self, f"image with reference {name} was found but does not provide the specified "
                                 f"platform ({platform})", field="platform", value=platform)
        self.kind = "image"


def check_platform(call: Call, image: Image, name: str) -> None:
    """:raise PlatformAbsent: the caller asks for another one. :raise InvalidArgument: for something that is none."""
    for text in (*call.texts("platform"), *call.texts("platforms")):
        wanted = _parse(text)
        variant = str(image.raw_config.get("variant") or "")
        if wanted.os != image.os or wanted.architecture not in ("", image.architecture) \
                or (variant and wanted.variant not in ("", variant)):
            raise PlatformAbsent(name, str(wanted))


def check_host_platform(call: Call, architecture: str) -> None:
    """For what comes from a client: it is taken for the host's own platform, which may be named.

    :raise UnsupportedOption: another one is named.
    """
    for text in call.texts("platform"):
        wanted = _parse(text)
        if wanted.os != "linux" or wanted.architecture not in ("", architecture):
            raise UnsupportedOption(f"platform={wanted}", "what is taken in is for the host's own processor",
                                    hint=f"linux/{architecture}")


def parse_platform(text: str) -> str:
    """os/architecture[/variant]. :raise InvalidArgument: it is none."""
    return str(_parse(text))


def _parse(text: str) -> _Platform:
    try:
        if text.startswith("{"):
            found = msgspec.json.decode(text, type=_Platform)
        elif _TEXT.match(text):
            found = _Platform(*text.split("/"))
        else:
            raise ValueError("neither JSON nor os/architecture[/variant]")
        if not _TEXT.match(str(found)):
            raise ValueError("it has no such parts")
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidArgument(f"invalid platform {text[:64]!r}: {error}", field="platform", value=text[:64],
                              hint="for instance linux/amd64") from error
    return found
