"""Reads image archives: what `docker save` writes (now and formerly) and OCI layouts.

The archive is read once, forward. Every regular file in it goes to a temporary file while its digest is computed, so
that afterwards members are found by name as by digest, wherever they stood. Nothing is unpacked under a name of the
archive's.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from hyperstack.image import manifest as manifests
from hyperstack.image import tar
from hyperstack.image.blobs import BlobStore, discard, full_disk_told
from hyperstack.image.compression import CompressionError, unpacked
from hyperstack.image.errors import MALFORMED, printable
from hyperstack.pod.errors import InvalidArgument

MAX_MEMBERS = 65536
_MAX_IMAGES = 1024
_MAX_LINKS = 8
_REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file of the archive, waiting to become a blob or to be dropped."""

    path: Path
    digest: str
    size: int


@dataclass(frozen=True, kw_only=True)
class ArchivedImage:
    """One image of an archive, its parts named by digests of members."""

    config: str
    layers: tuple[str, ...]
    """Digests of the layers as they are in the archive, lowest first."""
    names: tuple[str, ...]
    """As the archive has them; not yet judged."""
    manifest: str | None = None
    """Digest of its manifest, where the archive has one."""


class _DockerImage(msgspec.Struct, frozen=True, rename="pascal"):
    config: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] | None = None


@dataclass
class Archive:
    """The members of an archive. `drop` removes the temporary files of those that were not adopted."""

    by_name: dict[str, Member] = field(default_factory=dict)
    by_digest: dict[str, Member] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def drop(self) -> None:
        for member in self.by_name.values():
            discard(member.path)

    def member(self, name: str) -> Member:
        """:raise InvalidArgument: the archive has no such file."""
        name = posixpath.normpath(name)
        for _ in range(_MAX_LINKS):
            if name in self.by_name:
                return self.by_name[name]
            if name not in self.links:
                break
            name = self.links[name]
        raise InvalidArgument(f"the archive has no {printable(name, 100)}", field="archive", value=name[:100])

    def blob(self, digest: str) -> Member:
        """:raise InvalidArgument: the archive has no such blob."""
        if digest not in self.by_digest:
            raise InvalidArgument(f"the archive has no blob {digest}", field="archive", value=digest)
        return self.by_digest[digest]

    def document(self, member: Member) -> bytes:
        """:raise InvalidArgument: it is too long for a document."""
        if member.size > manifests.MAX_DOCUMENT:
            raise InvalidArgument(f"a document of the archive is {member.size} bytes long (at most "
                                  f"{manifests.MAX_DOCUMENT})", field="archive", value=member.size)
        return member.path.read_bytes()

    def images(self, platform: manifests.Platform) -> list[ArchivedImage]:
        """:raise InvalidArgument: it is no image archive, or lacks a part.
        :raise DocumentError: a document in it is malformed.
        """
        images = []
        if "index.json" in self.by_name:
            images = self._from_layout(platform)
        if "manifest.json" in self.by_name:
            images = _merge(images, self._from_docker())
        if not images:
            raise InvalidArgument("the archive holds no image: it has neither index.json nor manifest.json",
                                  field="archive", hint="a root file system's tar is taken by `import`, not by `load`")
        return images

    def _from_docker(self) -> list[ArchivedImage]:
        document = self.document(self.member("manifest.json"))
        try:
            entries = msgspec.json.decode(document, type=tuple[_DockerImage, ...])
        except MALFORMED as error:
            raise InvalidArgument(f"manifest.json is malformed: {printable(str(error))}", field="archive") from error
        if len(entries) > _MAX_IMAGES:
            raise InvalidArgument(f"the archive has more than {_MAX_IMAGES} images", field="archive")
        return [ArchivedImage(config=self.member(entry.config).digest,
                              layers=tuple(self.member(layer).digest for layer in entry.layers),
                              names=entry.repo_tags or ()) for entry in entries]

    def _from_layout(self, platform: manifests.Platform) -> list[ArchivedImage]:
        index = manifests.parse(self.document(self.member("index.json")), manifests.OCI_INDEX)
        if not isinstance(index, manifests.Index) or len(index.manifests) > _MAX_IMAGES:
            raise InvalidArgument(f"index.json is no index of at most {_MAX_IMAGES} images", field="archive")
        images: list[ArchivedImage] = []
        for entry in index.manifests:
            notes = entry.annotations or {}
            # containerd and Docker write the whole name in the one, and a mere tag in the other.
            name = notes.get(_FULL_NAME) or notes.get(_REF_NAME, "")
            image = self._from_manifest(entry, platform, (name,) if "/" in name or ":" in name else ())
            if image is not None:
                images = _merge(images, [image])
        return images

    def _from_manifest(self, entry: manifests.Descriptor, platform: manifests.Platform, names: tuple[str, ...]
                       ) -> ArchivedImage | None:
        """The image of an entry, or that of its index for the platform; None for what is no image (attestations)."""
        try:
            parsed = manifests.parse(self.document(self.blob(entry.digest)), entry.media_type)
        except manifests.NotAnImage:
            return None
        if isinstance(parsed, manifests.Manifest):
            return ArchivedImage(config=self.blob(parsed.config.digest).digest, manifest=entry.digest, names=names,
                                 layers=tuple(self.blob(layer.digest).digest for layer in parsed.layers))
        chosen = manifests.choose(parsed, platform)
        if chosen is None:
            raise InvalidArgument(f"the archive has no image for {platform}", field="platform", value=str(platform))
        if chosen.media_type in manifests.INDEX_TYPES:
            raise InvalidArgument("an index within an index is not supported", field="archive")
        return self._from_manifest(chosen, platform, names)


def _merge(images: list[ArchivedImage], more: list[ArchivedImage]) -> list[ArchivedImage]:
    """One entry per image with all its names; the earlier entry's parts win."""
    merged = {image.config: image for image in images}
    for image in more:
        earlier = merged.get(image.config, image)
        merged[image.config] = replace(earlier, names=tuple(dict.fromkeys((*earlier.names, *image.names))))
    return list(merged.values())


def read_archive(pieces: Iterator[bytes], store: BlobStore, max_bytes: int) -> Archive:
    """All members of the archive (plain, gzip or zstd), in temporary files; for a thread.

    :raise InvalidArgument: it is no tar, or oversteps a bound.
    :raise Exhausted: no space left.
    """
    archive = Archive()
    try:
        with _refusals("archive", store):
            _read_members(archive, pieces, store, max_bytes)
    except BaseException:
        archive.drop()
        raise
    return archive


def store_stream(pieces: Iterator[bytes], store: BlobStore, max_bytes: int) -> Member:
    """A whole stream in a temporary file; for a thread. Errors as `read_archive`."""
    with _refusals("layer", store):
        return _store_pieces(bounded(pieces, max_bytes), store)


@contextmanager
def _refusals(what: str, store: BlobStore) -> Iterator[None]:
    try:
        with full_disk_told(store.tmp.parent, what):
            yield
    except tar.HeaderError as error:
        raise InvalidArgument("archive/tar: invalid tar header", field=what, hint=printable(str(error))) from error
    except (tar.TarError, CompressionError) as error:
        raise InvalidArgument(f"the {what} is refused: {printable(str(error))}", field=what) from error


def _read_members(archive: Archive, pieces: Iterator[bytes], store: BlobStore, max_bytes: int) -> None:
    stream = tar.TarStream(bounded(unpacked(_reader(pieces)), max_bytes))
    for count, entry in enumerate(stream, 1):
        if count > MAX_MEMBERS:
            raise tar.TarError(f"it has more than {MAX_MEMBERS} members")
        name = posixpath.normpath(entry.name.decode("utf-8", "replace"))
        if entry.kind in (tar.SYMLINK, tar.HARD_LINK):
            # Docker used to write a layer that comes twice as a link to ../<id>/layer.tar.
            target = entry.link.decode("utf-8", "replace")
            base = posixpath.dirname(name) if entry.kind == tar.SYMLINK else ""
            archive.links[name] = posixpath.normpath(posixpath.join(base, target))
        elif entry.kind == tar.REGULAR:
            if entry.extents is not None:
                raise tar.TarError("it has a sparse file")
            member = _store_pieces(stream.pieces(entry.stored), store)
            replaced = archive.by_name.get(name)
            archive.by_name[name] = member
            archive.by_digest[member.digest] = member
            if replaced is not None:
                discard(replaced.path)
    # A compressed stream that breaks behind the tar's end is broken all the same.
    stream.drain()


def bounded(pieces: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    """The same pieces. :raise TarError: there is more of them; for within `store_stream`."""
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > max_bytes:
            raise tar.TarError(f"it is longer than {max_bytes} bytes")
        yield piece


def _store_pieces(pieces: Iterable[bytes | memoryview], store: BlobStore) -> Member:
    path = store.temporary()
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("wb") as file:
            for piece in pieces:
                size += len(piece)
                file.write(piece)
                digest.update(piece)
    except BaseException:
        discard(path)
        raise
    return Member(path=path, digest=f"sha256:{digest.hexdigest()}", size=size)


def _reader(pieces: Iterator[bytes]) -> Callable[[int], bytes]:
    """Pieces of any length as a `read(size)` that gives at most so much at once."""
    rest = b""

    def read(size: int) -> bytes:
        nonlocal rest
        while not rest:
            piece = next(pieces, None)
            if piece is None:
                return b""
            rest = piece
        data, rest = rest[:size], rest[size:]
        return data
    return read
