"""Image references: Docker's grammar, the canonical form and the familiar one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from hyperstack.image.digest import is_digest
from hyperstack.pod.errors import InvalidArgument

DEFAULT_HOST = "docker.io"
DEFAULT_TAG = "latest"
_LIBRARY = "library/"
_MAX_PATH = 255
_MAX_REFERENCE = 1024
"""A longest host, path, tag and digest fit in this."""
_SHOWN = 100
"""Characters of what is no reference that an error keeps."""
_HOST_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?\Z")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_TAG_CHARACTERS = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REST = re.compile(rf"(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>{_TAG_CHARACTERS}))?"
                   rf"(?:@(?P<digest>{_DIGEST}))?\Z")
_TAG = re.compile(rf"{_TAG_CHARACTERS}\Z")
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
    """With the tag `latest` where there is neither tag nor digest.

    :raise InvalidArgument: it is no reference, in Docker's words.
    """
    reference = parse_name(text)
    return reference if reference.tag or reference.digest else replace(reference, tag=DEFAULT_TAG)


def parse_name(text: str) -> Reference:
    """As written: a repository may stay without a tag. :raise InvalidArgument: as `parse` does."""
    if len(text) > _MAX_REFERENCE:
        raise _too_long(text)
    if _BARE_ID.match(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings",
                              field="image", value=text)
    host, rest = _split_host(text)
    repository = rest.partition(":")[0]
    if repository != repository.lower():
        raise _invalid(text, f": repository name ({repository}) must be lowercase", hint=None)
    match = _REST.match(rest)
    if match is None or not _HOST.match(host):
        raise _invalid(text)
    path, tag, digest = match["path"], match["tag"] or "", match["digest"] or ""
    if len(path) > _MAX_PATH:
        raise _too_long(text)
    if digest and not is_digest(digest):
        raise _wrong_digest(digest)
    return Reference(host, path, tag, digest)


def with_tag(repository: str, tag: str) -> Reference:
    """Of a name for an image that is here, `repository[:tag]`; `tag` goes before the one that is in it.

    :raise InvalidArgument: one of the two is malformed, or a digest is in the name.
    """
    reference = parse_name(repository)
    if reference.digest:
        raise InvalidArgument("cannot import digest reference", field="repo", value=repository,
                              hint="write name[:tag]: what an image's digest is, its registry says")
    return replace(reference, tag=_checked(tag) if tag else reference.tag or DEFAULT_TAG)


def with_tag_or_digest(name: str, what: str) -> Reference:
    """Of what a registry has. `what` goes before the tag or the digest that is in the name; it has neither where
    both are without one. :raise InvalidArgument: one of the two is malformed."""
    reference = parse_name(name.removesuffix(":"))
    if is_digest(what):
        return reference.at(what)
    return replace(reference, tag=_checked(what)) if what else reference


def _checked(tag: str) -> str:
    if not _TAG.match(tag):
        raise InvalidArgument("invalid tag format", field="tag", value=tag[:_SHOWN],
                              hint="1 to 128 of [A-Za-z0-9_.-], the first a letter, a digit or _")
    return tag


def _split_host(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (any(mark in first for mark in ".:") or first == "localhost" or first != first.lower()):
        host, path = DEFAULT_HOST, name
    else:
        host, path = first, rest
    if host == "index.docker.io":
        host = DEFAULT_HOST
    if host == DEFAULT_HOST and "/" not in path:
        path = _LIBRARY + path
    return host, path


def _invalid(text: str, reason: str = "",
             hint: str | None = "write [host[:port]/]name[:tag][@sha256:...]") -> InvalidArgument:
    return InvalidArgument(f"invalid reference format{reason}", field="image", value=text[:_SHOWN], hint=hint)


def _too_long(text: str) -> InvalidArgument:
    return InvalidArgument(f"repository name must not be more than {_MAX_PATH} characters", field="image",
                           value=text[:_SHOWN])


def _wrong_digest(digest: str) -> InvalidArgument:
    algorithm, _, encoded = digest.partition(":")
    wrong = "unsupported digest algorithm" if algorithm != "sha256" else \
        "invalid checksum digest length" if len(encoded) != 64 else "invalid checksum digest format"
    return InvalidArgument(wrong, field="digest", value=digest[:_SHOWN],
                           hint="write sha256: and 64 lower-case hexadecimal digits")
