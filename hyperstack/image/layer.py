"""A layer's tar becomes a file system: names made safe, OCI whiteouts turned into overlayfs's, bounds held.

What hostile or odd tars get (as Docker has it where Docker is safe):

* a name or a hard link's target is taken from the layer's root, absolute or not; one that climbs out with `..` is
  refused
* a parent that no entry made is made, root's, 0755; a parent that is a symbolic link *of this layer* is followed
  inside it
* the last of several entries with a name wins; a directory keeps its children when it comes again
* `.wh.NAME` hides NAME of the layers below, `.wh..wh..opq` hides all that they have in the directory
"""

from __future__ import annotations

import stat

from hyperstack.image import tar
from hyperstack.image.erofs.format import FT_BLOCK, FT_CHARACTER, FT_FIFO, FT_REGULAR, FT_SYMLINK, MAX_NAME
from hyperstack.image.erofs.writer import Attributes, Directory, ErofsWriter
from hyperstack.image.paths import OutOfRootError, TooManyLinksError, components, walk

MAX_PATH = 4096
"""Bytes of a name, PATH_MAX."""
_MAX_ID = 0xFFFFFFFE
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_RESERVED = b".wh..wh."
"""Other names that begin so are aufs's own housekeeping."""
_DEVICES = {tar.CHARACTER: (stat.S_IFCHR, FT_CHARACTER), tar.BLOCK_DEVICE: (stat.S_IFBLK, FT_BLOCK),
            tar.FIFO: (stat.S_IFIFO, FT_FIFO)}


class LayerError(ValueError):
    """The layer cannot become a file system. The message is one sentence without a full stop."""


def _shown(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 100 else text[:97] + "...")


class LayerBuilder:
    """The tree of one layer while its tar passes."""

    def __init__(self, writer: ErofsWriter, *, max_entries: int) -> None:
        self.root = Directory(Attributes(stat.S_IFDIR | 0o755))
        self.entries = 0
        self._writer = writer
        self._max_entries = max_entries
        self._parent_name = b""
        self._parent = self.root
        self._whiteout = 0
        """What `children` hold for all whiteouts of the layer, which share one inode."""

    def consume(self, stream: tar.TarStream) -> None:
        """:raise LayerError: an entry is refused.
        :raise TarError: the tar is malformed.
        """
        for entry in stream:
            self.entries += 1
            if self.entries > self._max_entries:
                raise LayerError(f"the layer has more than {self._max_entries} entries")
            try:
                self._add(entry, stream)
            except ValueError as error:
                if isinstance(error, tar.TarError | LayerError):
                    raise
                raise LayerError(f"{_shown(entry.name)}: {error}") from error

    def _add(self, entry: tar.Entry, stream: tar.TarStream) -> None:
        if len(entry.name) > MAX_PATH:
            raise LayerError(f"a path of {len(entry.name)} bytes is too long (at most {MAX_PATH}): "
                             f"{_shown(entry.name)}")
        dirname, _, name = entry.name.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            parts = _parts(entry.name)
            if not parts:
                if entry.kind != tar.DIRECTORY:
                    raise LayerError("the layer's root is not a directory")
                self.root.attributes = _attributes(entry, stat.S_IFDIR)
                return
            dirname, name = b"/".join(parts[:-1]), parts[-1]
        if len(name) > MAX_NAME:
            raise LayerError(f"a name of {len(name)} bytes is too long (at most {MAX_NAME}): {_shown(name)}")
        parent = self._parent_of(dirname)
        if name.startswith(_WHITEOUT):
            self._hide(parent, name)
        elif entry.kind == tar.DIRECTORY:
            self._make_directory(parent, name, entry)
        elif entry.kind == tar.HARD_LINK:
            self._link(parent, name, entry)
        else:
            self._put(parent, name, self._file(entry, stream))

    def _file(self, entry: tar.Entry, stream: tar.TarStream) -> int:
        if entry.kind == tar.REGULAR:
            nid = self._writer.regular(_attributes(entry, stat.S_IFREG), entry.size, stream.pieces(entry.stored),
                                       entry.extents)
            return self._writer.entry(nid, FT_REGULAR)
        if entry.kind == tar.SYMLINK:
            if not 0 < len(entry.link) < MAX_PATH:
                raise LayerError(f"the symbolic link {_shown(entry.name)} has a target of {len(entry.link)} bytes")
            nid = self._writer.symlink(_attributes(entry, stat.S_IFLNK), entry.link)
            return self._writer.entry(nid, FT_SYMLINK)
        kind, file_type = _DEVICES[entry.kind]
        if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
            raise LayerError(f"{_shown(entry.name)} has the device number {entry.major}:{entry.minor}")
        nid = self._writer.device(_attributes(entry, kind), entry.major, entry.minor)
        return self._writer.entry(nid, file_type)

    def _make_directory(self, parent: Directory, name: bytes, entry: tar.Entry) -> None:
        attributes = _attributes(entry, stat.S_IFDIR)
        there = parent.children.get(name)
        if isinstance(there, Directory):
            there.attributes = attributes
            return
        # A directory that replaces what the same layer hides must not show the hidden one's children.
        opaque = there is not None and there == self._whiteout
        self._put(parent, name, Directory(attributes, opaque=opaque))

    def _put(self, parent: Directory, name: bytes, child: int | Directory) -> None:
        there = parent.children.get(name)
        if isinstance(there, int):
            self._writer.share(there >> 3, -1)
        elif there is not None:
            # The cached parent may be inside what is replaced.
            self._parent_name, self._parent = b"", self.root
        parent.children[name] = child

    def _hide(self, parent: Directory, name: bytes) -> None:
        if name == _OPAQUE:
            parent.opaque = True
            return
        if name.startswith(_RESERVED):
            return
        hidden = name[len(_WHITEOUT):]
        if hidden in (b"", b".", b".."):
            raise LayerError(f"a whiteout hides {_shown(hidden)}")
        there = parent.children.get(hidden)
        if isinstance(there, Directory):
            # Whiteouts are about the layers below, in whatever order this layer's entries come.
            there.opaque = True
        elif there is None:
            if self._whiteout:
                self._writer.share(self._whiteout >> 3)
            else:
                self._whiteout = self._writer.entry(self._writer.device(Attributes(stat.S_IFCHR), 0, 0), FT_CHARACTER)
            parent.children[hidden] = self._whiteout

    def _link(self, parent: Directory, name: bytes, entry: tar.Entry) -> None:
        *above, last = _parts(entry.link) or [b""]
        directory = self._walk(above, make=False)
        target = directory.children.get(last) if directory is not None else None
        if not isinstance(target, int) or target == self._whiteout:
            reason = "which is not a file of this layer" if not isinstance(target, Directory) else "a directory"
            raise LayerError(f"{_shown(entry.name)} is a hard link to {_shown(entry.link)}, {reason}")
        if parent.children.get(name) != target:
            self._writer.share(target >> 3)
            self._put(parent, name, target)

    def _parent_of(self, dirname: bytes) -> Directory:
        if dirname != self._parent_name:
            found = self._walk(_parts(dirname), make=True)
            if found is None:
                raise AssertionError("a walk that makes directories finds them")
            self._parent_name, self._parent = dirname, found
        return self._parent

    def _walk(self, parts: list[bytes], *, make: bool) -> Directory | None:
        """The directory with this path; None where it is absent and not to be made."""
        def step(here: Directory, name: bytes, last: bool) -> Directory | bytes | None:
            child = here.children.get(name)
            if isinstance(child, Directory):
                return child
            if child is not None and child & 7 == FT_SYMLINK:
                target = self._writer.symlink_target(child >> 3)
                if target is None:
                    raise TooManyLinksError(name)
                return target
            return self._missing(here, name, child) if make else None

        try:
            return walk(self.root, parts, step)
        except TooManyLinksError as error:
            raise LayerError("a path leads through too many or too long symbolic links at "
                             f"{_shown(error.args[0])}") from None

    def _missing(self, parent: Directory, name: bytes, there: int | None) -> Directory:
        if there is not None and there != self._whiteout:
            raise LayerError(f"{_shown(name)} is a file and a directory in one layer")
        if len(name) > MAX_NAME:
            raise LayerError(f"a name of {len(name)} bytes is too long (at most {MAX_NAME}): {_shown(name)}")
        made = Directory(Attributes(stat.S_IFDIR | 0o755), opaque=there is not None)
        parent.children[name] = made
        return made


def _parts(name: bytes) -> list[bytes]:
    """The components of a path from the layer's root, `..` resolved by words alone.

    :raise LayerError: it climbs out of the root.
    """
    try:
        return components(name)
    except OutOfRootError:
        raise LayerError(f"{_shown(name)} leads out of the layer") from None


def _attributes(entry: tar.Entry, file_type: int) -> Attributes:
    if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
        raise LayerError(f"{_shown(entry.name)} has the owner {entry.uid}:{entry.gid}, beyond 32 bits")
    if not -1 << 63 <= entry.mtime < 1 << 63:
        raise LayerError(f"{_shown(entry.name)} has a time beyond 64 bits")
    xattrs = entry.xattrs
    if xattrs:
        # The guest's overlay reads these as orders about other layers (redirects, metadata-only files).
        xattrs = {name: value for name, value in xattrs.items() if not name.startswith(b"trusted.overlay.")}
    return Attributes(file_type | entry.mode & 0o7777, entry.uid, entry.gid, entry.mtime, entry.mtime_ns, xattrs)
