"""Image references: Docker's grammar, the canonical form and the familiar one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from hyperstack.image.digest import is_digest
from hyperstack.pod.errors import InvalidArgument

DEFAULT_HOST = "docker.io"
DEFAULT_TAG = "latest"
_LIBRARY = "library/"
_MAX_NAME = 255
_MAX_REFERENCE = 512
"""A longest name, tag and digest fit in this."""
_HOST_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?\Z")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_BARE_ID = re.compile(r"[a-f0-9]{64}\Z")


@dataclass(frozen=True, slots=True)
class Reference:
    """A canonical reference. With a digest, the tag is only a remark."""

    host: str
    """As in the name, with port: docker.io, localhost:5000."""
    path: str
    """library/busybox"""
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.host}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The name as Docker shows it: busybox, user/app, localhost:5000/app."""
        if self.host != DEFAULT_HOST:
            return self.name
        rest = self.path.removeprefix(_LIBRARY)
        return rest if "/" not in rest else self.path

    def __str__(self) -> str:
        return self.name + self._suffix()

    def familiar(self) -> str:
        return self.familiar_name + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def at(self, digest: str) -> Reference:
        """The same name by digest alone."""
        return replace(self, tag="", digest=digest)


def parse(text: str) -> Reference:
    """:raise InvalidArgument: it is no reference; the error says which part is wrong."""
    if not text or len(text) > _MAX_REFERENCE:
        raise _invalid(text, "it is empty" if not text else f"longer than {_MAX_REFERENCE} characters")
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _invalid(text, f'the digest "{digest}" is not sha256: and 64 lower-case hexadecimal digits')
    tag = ""
    colon = name.rfind(":")
    if colon > name.rfind("/"):
        name, tag = name[:colon], name[colon + 1:]
        if not _TAG.match(tag):
            raise _invalid(text, f'the tag "{tag}" is not 1 to 128 of [A-Za-z0-9_.-], the first a letter, digit or _')
    if _BARE_ID.match(name):
        raise InvalidArgument(f"invalid repository name ({name}), cannot specify 64-byte hexadecimal strings",
                              field="image", value=text)
    host, path = _split_host(name)
    if not _HOST.match(host):
        raise _invalid(text, f'"{host}" is not a host')
    if not _PATH.match(path):
        if _PATH.match(path.lower()):
            raise _invalid(text, f"repository name ({path}) must be lowercase")
        raise _invalid(text, f'"{path}" is not a repository name')
    if len(host) + len(path) + 1 > _MAX_NAME:
        raise _invalid(text, f"repository name must not be more than {_MAX_NAME} characters")
    if not tag and not digest:
        tag = DEFAULT_TAG
    return Reference(host, path, tag, digest)


def _split_host(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (any(mark in first for mark in ".:[") or first == "localhost" or first != first.lower()):
        host, path = DEFAULT_HOST, name
    else:
        host, path = first, rest
    if host == "index.docker.io":
        host = DEFAULT_HOST
    if host == DEFAULT_HOST and "/" not in path:
        path = _LIBRARY + path
    return host, path


def _invalid(text: str, reason: str) -> InvalidArgument:
    shown = text if len(text) <= 100 else text[:97] + "..."
    return InvalidArgument(f"invalid reference format: {reason}", field="image", value=shown,
                           hint="write [host[:port]/]name[:tag][@sha256:...]")
