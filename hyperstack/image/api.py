"""The image door: what the engine may ask of the image store.

Terms
    reference   what a user types: [host[:port]/]path[:tag][@digest]; `normalise` gives the canonical form.
    image       a config and its layers; its id is the digest of the config.
    layer disk  a read-only EROFS file made once from a layer, named by the layer's diff id, shared by every VM.

The store keeps the compressed blobs (for push and save) and the layer disks under one directory, and its index in a
SQLite file of its own. Nothing becomes visible before it is verified and whole; a killed pull resumes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hyperstack.pod.spec import ImageConfig


@dataclass(frozen=True, kw_only=True)
class Image:
    id: str
    """sha256:<64 hex> of the config."""
    references: tuple[str, ...]
    """Canonical names with tags, e.g. docker.io/library/busybox:latest."""
    digests: tuple[str, ...]
    """Canonical names with manifest digests."""
    config: ImageConfig
    raw_config: dict[str, Any]
    """The image's whole config document, parsed and bounded."""
    diff_ids: tuple[str, ...]
    """Lowest layer first."""
    created_at: int
    size: int
    """Bytes of its layer disks on this host."""
    layer_sizes: tuple[int, ...]
    """The same for each layer, lowest first."""
    architecture: str
    os: str


@dataclass(frozen=True, kw_only=True)
class NewLayer:
    """What a commit says beside the layer itself."""

    run: dict[str, Any]
    """The `config` part of the new image's config document."""
    reference: str = ""
    author: str = ""
    message: str = ""
    created_by: str = ""
    """The command that wrote the layer, for the history."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    username: str = ""
    password: str = ""
    identity_token: str = ""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a registry now has."""

    reference: str
    """Canonical, with the tag."""
    tag: str
    digest: str
    """Of the manifest."""
    size: int
    """Bytes of the manifest."""


@dataclass(frozen=True, kw_only=True)
class RemoteImage:
    """What a name means in a registry."""

    digest: str
    size: int
    """Bytes of the manifest or index."""
    media_type: str
    platforms: tuple[tuple[str, str, str], ...]
    """os, architecture, variant."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One step of a pull, load or save; what Docker shows as a line per layer."""

    ident: str
    """Short layer digest, or the tag for messages about the whole."""
    status: str
    """Docker's words: Pulling fs layer, Downloading, Verifying Checksum, Download complete, Extracting, Pull complete,
    Already exists."""
    current: int = 0
    total: int = 0
    message: bool = False
    """A sentence about the whole, and no step of a layer."""


ProgressSink = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who needs an image, so that it cannot go."""

    who: str
    """`container 0123456789ab`, as whoever removes the image may be told."""
    running: bool


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the sources of a build's COPY and ADD are; to be closed."""

    tar: Path | None
    """Plain and checked; None: it has no files at all."""
    dockerfile: bytes | None
    """None where there is none of the name that was asked for."""


@dataclass(frozen=True, kw_only=True)
class NamedFile:
    """A file to copy that is in no context: a here-document, a download."""

    name: str
    path: Path
    mtime: int = 0
    mode: int = 0o644


@dataclass(frozen=True, kw_only=True)
class Copying:
    """What COPY, ADD or WORKDIR asks for."""

    base: str
    """The image that it is copied over; empty: nothing."""
    destination: str
    """An absolute path; with a slash at its end, a directory."""
    patterns: tuple[str, ...] = ()
    files: tuple[NamedFile, ...] = ()
    """Neither patterns nor files: just the directory is made."""
    context: Context | None = None
    origin: str = ""
    """The image that the patterns are about; empty: the context."""
    chown: str = ""
    chmod: str = ""
    extract: bool = False
    """Sources that are tars are unpacked."""


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A layer that is not an image's yet; to be discarded."""

    tar: Path
    digest: str
    """Of what was copied, but for times."""
    entries: int
    """0: everything was there already."""


@dataclass(frozen=True, kw_only=True)
class CachedStep:
    key: str
    project: str
    image: str
    description: str
    created_at: int
    """Seconds, as the next one."""
    used_at: int
    uses: int
    size: int
    """Bytes that only the cache needs."""
    in_use: bool
    """An image that is somebody's has all its layers."""


class Workshop(Protocol):
    """What builds need of the image store. Paths that it gives are temporary files of its own."""

    async def keep(self, stream: AsyncIterator[bytes], *, max_bytes: int = 0) -> Path:
        """A stream of a stranger's in a temporary file. :raise InvalidArgument: it is too long."""

    def discard(self, path: Path) -> None: ...

    async def open_context(self, packed: Path, dockerfile: str) -> Context:
        """A tar, plain or packed with gzip, bzip2, xz or zstd. :raise InvalidArgument: it is refused."""

    def close_context(self, context: Context) -> None: ...

    async def compose(self, copying: Copying) -> Composed:
        """:raise InvalidArgument: a source is not there, or it cannot be copied. :raise Exhausted: no space left."""

    async def read(self, path: Path) -> AsyncGenerator[bytes, None]:
        """What is in a temporary file."""
        yield b""

    async def step(self, parent: str, layer: AsyncIterator[bytes] | None, new: NewLayer, *, key: str, project: str
                   ) -> str:
        """The id of the image that a build's step makes; it is nobody's until it is published.

        :param parent: empty: nothing. :param key: what finds it again.
        """

    async def step_of(self, donor: str, parent: str, new: NewLayer, *, key: str, project: str) -> str | None:
        """As `step`, with the layer of the image `donor`, where that was made from the same by the same steps."""

    def cached(self, key: str) -> str | None:
        """The image that a step with this key made."""

    def publish(self, image: str, references: Collection[str]) -> None:
        """A step's image becomes somebody's, with these names."""

    def steps(self) -> list[CachedStep]:
        """All that is cached, the longest unused first."""

    def forget(self, keys: Collection[str], *, in_use: Collection[str]) -> int:
        """Drop cached steps, but not those whose image is in use, and what was done anew since. Returns bytes freed."""


class ImageBackend(Protocol):
    """All methods that name an image take a reference, an id (with or without sha256:) or an unambiguous id prefix."""

    @property
    def workshop(self) -> Workshop: ...

    async def start(self) -> None:
        """Open the index, remove what a killed predecessor left half-made."""

    def normalise(self, reference: str) -> str:
        """Canonical form. :raise InvalidArgument: names what is wrong with it."""

    def display(self, reference: str) -> str:
        """The familiar short form of a canonical reference: docker.io/library/x:latest is x:latest."""

    async def pull(self, reference: str, *, platform: str = "", credentials: Credentials | None = None,
                   progress: ProgressSink | None = None) -> Image:
        """Fetch, verify, convert. Two pulls of one layer at a time share the work.

        :raise NotFound: no such repository or tag, or not for this caller, or no manifest for the platform.
        :raise Unauthorized: the registry wants credentials, or others. :raise TooManyRequests: it says so.
        :raise RegistryError: unreachable, refused, timed out, or sent what does not verify.
        :raise Exhausted: no disk space; what was fetched is kept for the next try, nothing half-made is visible.
        """

    async def push(self, reference: str, *, credentials: Credentials | None = None,
                   progress: ProgressSink | None = None) -> list[Pushed]:
        """Send the image with this name and tag, or all of the repository's that are here, to the registry in the name.

        :raise NotFound: no such image here. :raise Forbidden, Unauthorized: the registry does not let this caller.
        :raise RegistryError: unreachable, refused, timed out, or it took something else than was sent.
        """

    async def check_login(self, host: str, credentials: Credentials | None) -> None:
        """Whether a registry takes these credentials. :raise Unauthorized: it does not. :raise RegistryError: as above.
        """

    async def describe(self, reference: str, credentials: Credentials | None = None) -> RemoteImage:
        """What a registry has by that name; nothing is kept. Errors as `pull` has them."""

    async def remote_tags(self, reference: str, credentials: Credentials | None = None) -> list[str]:
        """Familiar names of all that a registry has in the reference's repository. Errors as `pull` has them."""

    async def search(self, term: str, *, limit: int) -> list[str]:
        """Repositories of the registry that `term` begins with. :raise Unsupported: it begins with none."""

    def get(self, name: str) -> Image:
        """:raise NotFound: no such image here, or several with that id prefix. :raise InvalidArgument: no reference."""

    def list_all(self, *, intermediate: bool = False) -> list[Image]:
        """:param intermediate: also what steps of builds made, and nobody named."""

    def tag(self, name: str, reference: str) -> None: ...

    def remove(self, name: str, *, force: bool = False, in_use: Mapping[str, Holder] | None = None
               ) -> list[tuple[str, str]]:
        """Untag; delete where it was the last name, and nobody needs it. Returns [("Untagged", ref), ("Deleted", id)].

        :param in_use: by the image's id.
        :raise Conflict: it is in use, or has several names and is named by its id; see `removal`.
        """

    def prune(self, *, dangling_only: bool, in_use: Collection[str], wanted: Callable[[Image], bool] | None = None
              ) -> tuple[list[tuple[str, str]], int]:
        """Remove what no container uses, of the images that are `wanted`. Returns what was removed, and bytes freed."""

    async def load(self, stream: AsyncIterator[bytes], progress: ProgressSink | None = None) -> list[Image]:
        """`docker save` archives and OCI layouts, plain or compressed (gzip, zstd). Of each image the names that it has
        in the archive."""

    def save(self, names: Collection[str]) -> AsyncIterator[bytes]:
        """One tar that both `docker load` and OCI tools read."""

    async def import_tar(self, stream: AsyncIterator[bytes], *, reference: str = "", message: str = "",
                         run: Mapping[str, Any] | None = None) -> Image:
        """A root file system tar as a one-layer image. :param run: the `config` part of its config document."""

    async def commit(self, parent: str, layer: AsyncIterator[bytes], new: NewLayer) -> Image:
        """The image `parent` with one more layer: a tar with OCI's whiteouts, believed no more than one of a registry.

        :raise InvalidArgument: the layer is refused, or one too many. :raise Exhausted: no disk space.
        """

    def layer_disks(self, image: Image) -> list[Path]:
        """Paths of the read-only disks, lowest first."""

    async def close(self) -> None: ...
