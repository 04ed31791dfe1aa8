"""Trees of files that nobody mounts: a build context's tar, and an image's layers one over the other.

Both give the same nodes, so that what is copied can come from either. A path is followed within its own root: a
symbolic link, absolute or with any number of `..`, leads nowhere else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence

from hyperstack.image import tar
from hyperstack.image.erofs.format import MAX_NAME
from hyperstack.image.erofs.reader import Inode, LayerDisk
from hyperstack.image.paths import OutOfRootError, TooManyLinksError, components, walk, words

MAX_PATH = 4096
_PIECE = 1 << 20
_MAX_ID = 0xFFFFFFFE
_KINDS = {tar.REGULAR: stat.S_IFREG, tar.SYMLINK: stat.S_IFLNK, tar.DIRECTORY: stat.S_IFDIR, tar.FIFO: stat.S_IFIFO,
          tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK}
_OPAQUE = b"trusted.overlay.opaque"


class TreeError(ValueError):
    """A tree cannot be made, or a path leads nowhere. The message is one sentence without a full stop."""


def shown(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return text if len(text) <= 100 else text[:97] + "..."


class Node:
    """A file of any kind. `same` is equal for names of one file."""

    __slots__ = ("device", "gid", "mode", "mtime", "mtime_ns", "same", "size", "target", "uid")

    def __init__(self, mode: int, uid: int = 0, gid: int = 0, mtime: int = 0, mtime_ns: int = 0) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.mtime_ns = mtime_ns
        self.size = 0
        self.target = b""
        self.device = (0, 0)
        self.same: object = None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    def children(self) -> dict[bytes, Node]:
        return {}

    def xattrs(self) -> dict[bytes, bytes]:
        return {}

    def data(self) -> Iterator[bytes]:
        """A regular file's contents."""
        return iter(())


class FileNode(Node):
    """A regular file that lies in an open one of the host's."""

    __slots__ = ("_extents", "_fd", "_offset", "_xattrs")

    def __init__(self, fd: int, offset: int, size: int, *, mode: int = 0o644,
                 extents: list[tuple[int, int]] | None = None, xattrs: dict[bytes, bytes] | None = None) -> None:
        super().__init__(stat.S_IFREG | mode)
        self.size = size
        self._fd = fd
        self._offset = offset
        self._extents = extents
        self._xattrs = xattrs or {}

    def xattrs(self) -> dict[bytes, bytes]:
        return self._xattrs

    def data(self) -> Iterator[bytes]:
        at, position = self._offset, 0
        for start, length in [(0, self.size)] if self._extents is None else self._extents:
            yield from _zeros(start - position)
            yield from _pieces(self._fd, at, length)
            at, position = at + length, start + length
        yield from _zeros(self.size - position)


class MadeNode(Node):
    """Anything else of a tar."""

    __slots__ = ("_children", "_xattrs")

    def __init__(self, mode: int, uid: int = 0, gid: int = 0, mtime: int = 0, mtime_ns: int = 0) -> None:
        super().__init__(mode, uid, gid, mtime, mtime_ns)
        self._children: dict[bytes, Node] = {}
        self._xattrs: dict[bytes, bytes] = {}

    def children(self) -> dict[bytes, Node]:
        return self._children

    def xattrs(self) -> dict[bytes, bytes]:
        return self._xattrs


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, _PIECE))
        count -= _PIECE


def _pieces(fd: int, offset: int, length: int) -> Iterator[bytes]:
    while length:
        piece = os.pread(fd, min(length, _PIECE), offset)
        if not piece:
            raise TreeError("a file ends early")
        yield piece
        offset, length = offset + len(piece), length - len(piece)


# -- from a tar

class TarTree:
    """The files of a plain tar in an open file, which must stay open."""

    def __init__(self, fd: int, *, max_entries: int, devices: bool, ignored: Callable[[str], bool] | None = None,
                 start: int = 0) -> None:
        """:param devices: whether device nodes may be in it. :param ignored: names that are left out.
        :param start: of the tar, in the file.

        :raise TreeError, TarError: it is refused.
        """
        self.root = MadeNode(stat.S_IFDIR | 0o755)
        self.entries = 0
        self._fd = fd
        self._devices = devices
        self._ignored = ignored
        stream = tar.TarStream(_whole(fd, start))
        for entry in stream:
            self.entries += 1
            if self.entries > max_entries:
                raise TreeError(f"it has more than {max_entries} files")
            self._add(entry, start + stream.offset)

    def _add(self, entry: tar.Entry, offset: int) -> None:
        parts = parts_of(entry.name)
        name = b"/".join(parts)
        if self._ignored is not None and parts and self._ignored(os.fsdecode(name)):
            return
        node = self._node(entry, offset)
        if not parts:
            if not node.is_directory:
                raise TreeError("its root is not a directory")
            return
        parent = self._parent(parts[:-1], name)
        there = parent.children().get(parts[-1])
        if node.is_directory and there is not None and there.is_directory:
            there.mode, there.uid, there.gid, there.mtime = node.mode, node.uid, node.gid, node.mtime
            return
        parent.children()[parts[-1]] = node

    def _parent(self, parts: list[bytes], name: bytes) -> Node:
        node: Node = self.root
        for part in parts:
            child = node.children().get(part)
            if child is None:
                child = node.children()[part] = MadeNode(stat.S_IFDIR | 0o755)
            elif not child.is_directory:
                raise TreeError(f"{shown(name)} lies beneath what is no directory")
            node = child
        return node

    def _node(self, entry: tar.Entry, offset: int) -> Node:
        if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID) or not -1 << 62 < entry.mtime < 1 << 62:
            raise TreeError(f"{shown(entry.name)} has an owner or a time that no file can have")
        if entry.kind == tar.HARD_LINK:
            return self._linked(entry)
        if entry.kind in (tar.CHARACTER, tar.BLOCK_DEVICE) and not self._devices:
            raise TreeError(f"{shown(entry.name)} is a device")
        xattrs = {key: value for key, value in entry.xattrs.items() if not key.startswith(b"trusted.")}
        if entry.kind == tar.REGULAR:
            node: Node = FileNode(self._fd, offset, entry.size, extents=entry.extents, xattrs=xattrs)
            node.same = offset, entry.size, self._fd
        else:
            made = MadeNode(0)
            made.xattrs().update(xattrs)
            node = made
        node.mode = _KINDS[entry.kind] | entry.mode & 0o7777
        node.uid, node.gid, node.mtime, node.mtime_ns = entry.uid, entry.gid, entry.mtime, entry.mtime_ns
        if entry.kind == tar.SYMLINK:
            if not 0 < len(entry.link) < MAX_PATH:
                raise TreeError(f"{shown(entry.name)} is a symbolic link to {len(entry.link)} bytes")
            node.target = entry.link
        node.device = entry.major, entry.minor
        return node

    def _linked(self, entry: tar.Entry) -> Node:
        node: Node | None = self.root
        for part in parts_of(entry.link):
            node = node.children().get(part) if node is not None else None
        if node is None or node.is_directory:
            raise TreeError(f"{shown(entry.name)} is a hard link to {shown(entry.link)}, which is no file before it")
        return node


def _whole(fd: int, offset: int) -> Iterator[bytes]:
    while piece := os.pread(fd, _PIECE, offset):
        yield piece
        offset += len(piece)


def parts_of(name: bytes) -> list[bytes]:
    """The components of a path from the root. :raise TreeError: it climbs out of the root, or is too long."""
    if len(name) > MAX_PATH:
        raise TreeError(f"a path of {len(name)} bytes is too long (at most {MAX_PATH})")
    for part in name.split(b"/"):
        if len(part) > MAX_NAME:
            raise TreeError(f"a name of {len(part)} bytes is too long (at most {MAX_NAME}): {shown(part)}")
    try:
        return components(name)
    except OutOfRootError:
        raise TreeError(f"{shown(name)} leads out of the root") from None


# -- from layers

class LayersNode(Node):
    """What several layers together have under one name, as an overlay shows it."""

    __slots__ = ("_found", "_stack")

    def __init__(self, stack: Sequence[tuple[LayerDisk, Inode]]) -> None:
        """:param stack: the highest first; more than one only where all are directories."""
        disk, inode = stack[0]
        super().__init__(inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_ns)
        self._stack = stack
        self._found: dict[bytes, Node] | None = None
        self.size = inode.size if stat.S_ISREG(inode.mode) else 0
        self.same = (id(disk), inode.nid) if inode.links > 1 and not inode.is_directory else None
        if stat.S_ISLNK(inode.mode):
            self.target = b"".join(disk.data(inode))
        elif stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
            self.device = inode.device

    def children(self) -> dict[bytes, Node]:
        if not self.is_directory:
            return {}
        if self._found is None:
            stacks: dict[bytes, list[tuple[LayerDisk, Inode]]] = {}
            ended: set[bytes] = set()
            for disk, directory in self._stack:
                for name, nid in disk.entries(directory).items():
                    if name in ended:
                        continue
                    inode = disk.inode(nid)
                    if not inode.is_directory and name in stacks:
                        ended.add(name)
                        continue
                    if not inode.is_whiteout:
                        stacks.setdefault(name, []).append((disk, inode))
                    if not inode.is_directory or disk.xattrs(inode).get(_OPAQUE) == b"y":
                        ended.add(name)
            self._found = {name: LayersNode(stack) for name, stack in sorted(stacks.items())}
        return self._found

    def xattrs(self) -> dict[bytes, bytes]:
        disk, inode = self._stack[0]
        return {key: value for key, value in disk.xattrs(inode).items() if not key.startswith(b"trusted.")}

    def data(self) -> Iterator[bytes]:
        disk, inode = self._stack[0]
        return disk.data(inode)


def layers_root(fds: Sequence[int]) -> Node:
    """:param fds: of the layers' disks, lowest first; of none: an empty directory."""
    disks = [LayerDisk(fd) for fd in reversed(fds)]
    if not disks:
        return MadeNode(stat.S_IFDIR | 0o755)
    stack = []
    for disk in disks:
        root = disk.root
        stack.append((disk, root))
        if disk.xattrs(root).get(_OPAQUE) == b"y":
            break
    return LayersNode(stack)


# -- paths

def find(root: Node, path: bytes, *, follow: bool = True) -> Node | None:
    """What the path leads to within the root; None where that is nothing.

    :param follow: also the last component, where that is a symbolic link.
    :raise TreeError: too many links.
    """
    def step(node: Node, name: bytes, last: bool) -> Node | bytes | None:
        child = node.children().get(name)
        return child.target if child is not None and child.is_link and (follow or not last) else child

    try:
        return walk(root, words(path), step)
    except TooManyLinksError:
        raise TreeError(f"too many levels of symbolic links at {shown(path)}") from None
