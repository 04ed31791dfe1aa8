"""The confined process of a build: `python -m hyperstack.image.build_worker`, see `Job`.

It reads a job from stdin, as JSON, has its files open, confines itself, and only then looks at what may be hostile: a
build context, an image's files. It writes one line of JSON, see `Outcome`.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from hyperstack.dockerfile.globs import Steps
from hyperstack.dockerfile.patterns import Ignored, read_ignore_file
from hyperstack.image import confine, tar
from hyperstack.image.composition import Composition, CopyError, Owner, mode_of, owner_of, selected
from hyperstack.image.compression import CompressionError, unpacked_any
from hyperstack.image.erofs.reader import DiskError
from hyperstack.image.tree import FileNode, Node, TarTree, TreeError, find, layers_root, parts_of
from hyperstack.pod.errors import InvalidArgument

_PIECE = 1 << 20
MAX_TEXT = 1 << 20
"""Bytes of a Dockerfile, and of a .dockerignore."""
_IGNORE = ".dockerignore"
_USUAL = "Dockerfile"
"""Which may be written in small letters."""


# Dataclasses and json, not msgspec, as in `hyperstack.image.worker`: the process starts faster.
@dataclass(frozen=True, kw_only=True)
class Source:
    """Something to copy: a pattern within the origin, or an open file that is called so."""

    pattern: str = ""
    name: str = ""
    fd: int = -1
    mtime: int = 0
    mode: int = 0o644


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to do; the descriptors are inherited."""

    kind: str
    """"open": make a context plain and check it; "compose": write a layer's tar."""
    memory: int
    cpu_seconds: int
    system_calls: str
    """The seccomp filter, in base64."""
    max_bytes: int
    max_entries: int
    uid: int | None = None
    packed: int = -1
    """open: the context as it came."""
    plain: int = -1
    """open: an empty file; compose: the context's tar, where sources come from it."""
    dockerfile: str = ""
    """open: its name in the context."""
    base: tuple[int, ...] = ()
    """compose: the image's layer disks, lowest first."""
    origin: tuple[int, ...] = ()
    """compose: those of the image that sources come from, where they do."""
    spool: int = -1
    """compose: an empty file."""
    out: int = -1
    """compose: an empty file, for the tar."""
    sources: tuple[Source, ...] = ()
    destination: str = ""
    chown: str = ""
    chmod: str = ""
    extract: bool = False
    """A source that is a tar is unpacked."""
    keep_owner: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    outcome: str
    """"done", "refused" (the context's or the Dockerfile's fault), "full" (no space), "failed" (ours)."""
    message: str = ""
    digest: str = ""
    entries: int = 0
    dockerfile: str | None = None
    """open: its bytes in base64; None where the context has no such file."""


# -- open

def open_context(job: Job) -> Outcome:
    """:raise ValueError: the context is refused."""
    size = 0
    for piece in unpacked_any(lambda count: os.read(job.packed, count)):
        size += len(piece)
        if size > job.max_bytes:
            raise TreeError(f"it unpacks to more than {job.max_bytes} bytes")
        view = memoryview(piece)
        while view:
            view = view[os.write(job.plain, view):]
    tree = TarTree(job.plain, max_entries=job.max_entries, devices=False)
    _ignored(tree.root)
    try:
        parts_of(os.fsencode(job.dockerfile))
    except TreeError:
        raise CopyError(f"forbidden path outside the build context: {job.dockerfile[:100]} ()") from None
    node = find(tree.root, os.fsencode(job.dockerfile))
    if node is None and job.dockerfile == _USUAL:
        node = find(tree.root, os.fsencode(_USUAL.lower()))
    text = None
    if node is not None:
        if not node.is_regular:
            raise TreeError(f"the Dockerfile {job.dockerfile[:100]} is not a file")
        text = base64.b64encode(_text(node, job.dockerfile)).decode()
    return Outcome(outcome="done", dockerfile=text, entries=tree.entries)


def _text(node: Node, name: str) -> bytes:
    if node.size > MAX_TEXT:
        raise TreeError(f"{name[:100]} is {node.size} bytes long (at most {MAX_TEXT})")
    return b"".join(node.data())


def _ignored(root: Node) -> Ignored:
    """What the context's own .dockerignore leaves out."""
    node = find(root, _IGNORE.encode())
    return Ignored(read_ignore_file(_text(node, _IGNORE)) if node is not None and node.is_regular else [])


# -- compose

def compose(job: Job) -> Outcome:
    """:raise ValueError: it cannot be copied."""
    base = layers_root(job.base)
    composition = Composition(base, max_entries=job.max_entries, now=int(time.time()))
    owner, mode = owner_of(job.chown, base), mode_of(job.chmod)
    if owner is None and not job.keep_owner:
        owner = Owner(uid=0, gid=0)
    destination = os.fsencode(job.destination)
    if not job.sources:
        composition.directory(destination, Owner(uid=0, gid=0))
    else:
        _copy(job, composition, destination, owner, mode)
    digest = composition.write(job.out, max_bytes=job.max_bytes)
    return Outcome(outcome="done", digest=digest, entries=composition.entries)


def _copy(job: Job, composition: Composition, destination: bytes, owner: Owner | None, mode: int | None) -> None:
    found = list(_sources(job))
    into = destination.endswith(b"/")
    if len(found) > 1 and not into:
        raise CopyError("When using COPY with more than one source file, the destination must be a directory and end "
                        "with a /")
    for name, node, wanted in found:
        if node.is_directory:
            composition.merge(node, destination, owner, mode)
            continue
        archive = _archive(job, node) if wanted and node.is_regular else None
        if archive is not None:
            composition.merge(archive, destination, owner if job.chown else None, mode)
            continue
        beneath = into or composition.is_directory(destination)
        target = destination.rstrip(b"/") + b"/" + name if beneath else destination
        composition.put_file(node, target, owner, mode)


def _sources(job: Job) -> Iterator[tuple[bytes, Node, bool]]:
    """Names, files, and whether a file that is a tar is to be unpacked: downloads never are."""
    root: Node | None = None
    where = "build context"
    if any(source.pattern for source in job.sources):
        if job.origin:
            root, where = layers_root(job.origin), "image"
        elif job.plain >= 0:
            ignored = _ignored(TarTree(job.plain, max_entries=job.max_entries, devices=False).root)
            root = TarTree(job.plain, max_entries=job.max_entries, devices=False, ignored=ignored).root
        else:
            root = layers_root(())
    steps = Steps()
    for source in job.sources:
        if source.pattern:
            assert root is not None
            chosen = selected(root, source.pattern, where=where, steps=steps)
            yield from ((name, node, job.extract) for name, node in chosen)
        else:
            node = FileNode(source.fd, 0, os.fstat(source.fd).st_size, mode=source.mode)
            node.mtime = source.mtime
            yield os.fsencode(source.name), node, False


def _archive(job: Job, node: Node) -> Node | None:
    """What is in a file that is a tar, packed or not; None where it is none."""
    try:
        if next(iter(tar.TarStream(unpacked_any(_reader(node)))), None) is None:
            return None
    except (tar.TarError, CompressionError):
        return None
    start = size = os.lseek(job.spool, 0, os.SEEK_END)
    for piece in unpacked_any(_reader(node)):
        size += len(piece)
        if size > job.max_bytes:
            raise CopyError(f"an archive unpacks to more than {job.max_bytes} bytes")
        view = memoryview(piece)
        while view:
            view = view[os.write(job.spool, view):]
    return TarTree(job.spool, max_entries=job.max_entries, devices=True, start=start).root


def _reader(node: Node) -> Callable[[int], bytes]:
    pieces = node.data()
    rest = b""

    def read(count: int) -> bytes:
        nonlocal rest
        if not rest:
            rest = next(pieces, b"")
        data, rest = rest[:count], rest[count:]
        return data
    return read


# -- the process

_WORK = {"open": open_context, "compose": compose}


def _outcome(job: Job) -> Outcome:
    try:
        return _WORK[job.kind](job)
    except CopyError as error:
        return Outcome(outcome="refused", message=str(error))
    except tar.HeaderError as error:
        return Outcome(outcome="refused", message=f"archive/tar: invalid tar header ({error})")
    except (tar.TarError, TreeError, CompressionError, DiskError) as error:
        what = "the build context is refused: " if job.kind == "open" else ""
        return Outcome(outcome="refused", message=what + str(error))
    except InvalidArgument as error:
        return Outcome(outcome="refused", message=error.message)
    except MemoryError:
        return Outcome(outcome="refused", message=f"it needs more than {job.memory} bytes of memory")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return Outcome(outcome="full" if full else "failed", message=error.strerror or str(error))


def main() -> int:
    raw = json.load(sys.stdin)
    raw["sources"] = tuple(Source(**source) for source in raw["sources"])
    job = Job(**raw)
    try:
        confine.confine(uid=job.uid, memory=job.memory, cpu_seconds=job.cpu_seconds,
                        system_calls=base64.b64decode(job.system_calls))
    except confine.ConfinementError as error:
        outcome = Outcome(outcome="failed", message=str(error))
    else:
        outcome = _outcome(job)
    os.write(1, json.dumps(asdict(outcome)).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
