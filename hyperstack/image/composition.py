"""What COPY, ADD and WORKDIR put over an image, as a layer's tar, without the image's files ever being mounted.

The image is looked at only where its files decide the outcome: whether a destination is a directory, where a symbolic
link on the way leads, and what a directory's own mode and owner are, which the layer has to repeat.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from hyperstack.dockerfile.globs import Glob, Steps
from hyperstack.dockerfile.patterns import is_wild
from hyperstack.image import tar, tar_writer
from hyperstack.image.paths import TooManyLinksError, walk, words
from hyperstack.image.tree import Node, TreeError, find, parts_of, shown

_MAX_NAMES = 1 << 20
"""Bytes of a file of users or groups."""
_STEPS_OF_A_PATH = 100
"""What it takes to find one, by what it takes to compare a character."""
_ID = re.compile(r"[0-9]{1,10}\Z")
_MAX_ID = 0xFFFFFFFE
_KINDS = {stat.S_IFREG: tar.REGULAR, stat.S_IFLNK: tar.SYMLINK, stat.S_IFDIR: tar.DIRECTORY, stat.S_IFIFO: tar.FIFO,
          stat.S_IFCHR: tar.CHARACTER, stat.S_IFBLK: tar.BLOCK_DEVICE}
_MAPPING = "unable to convert uid/gid chown string to host mapping: "


class CopyError(ValueError):
    """What is to be copied cannot be. The message is one sentence without a full stop."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    uid: int
    gid: int


class _Entry:
    """A file of the layer; a directory may be there only for what is in it."""

    __slots__ = ("base", "children", "mode", "node", "owner", "path", "touched")

    def __init__(self, path: bytes, node: Node, *, base: Node | None = None, touched: bool = False,
                 owner: Owner | None = None, mode: int | None = None) -> None:
        """:param base: what the image has there. :param touched: it is of the image, and only repeated.
        :param owner, mode: in place of the node's own."""
        self.path = path
        self.node = node
        self.base = base
        self.children: dict[bytes, _Entry] = {}
        self.touched = touched
        self.owner = owner or Owner(uid=node.uid, gid=node.gid)
        self.mode = stat.S_IMODE(node.mode) if mode is None else mode

    def below(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name


class Composition:
    """A layer in the making."""

    def __init__(self, base: Node, *, max_entries: int, now: int) -> None:
        """:param now: the time of directories that are made for others, in seconds."""
        self._base = base
        self._root = _Entry(b"", base, base=base, touched=True)
        self._max_entries = max_entries
        self._now = now
        self.entries = 0
        """Of the layer, but for directories that the image has as well."""

    # -- destinations

    def is_directory(self, path: bytes) -> bool:
        """Whether the image has a directory there."""
        found = find(self._base, path)
        return found is not None and found.is_directory

    def directory(self, path: bytes, owner: Owner) -> _Entry:
        """The directory, made with all that it lies in where it is missing; links on the way are followed.

        :raise CopyError: something else is there.
        """
        def step(here: _Entry, name: bytes, last: bool) -> _Entry | bytes:
            parts_of(name)  # its length
            there = here.children.get(name)
            node = there.node if there is not None else self._below(here, name)
            if node is None:
                there = here.children[name] = _Entry(here.below(name), _made(self._now), owner=owner)
                self._count()
            elif node.is_link:
                return node.target
            elif not node.is_directory:
                raise CopyError(f"cannot copy to non-directory: {shown(path)}")
            elif there is None:
                there = here.children[name] = _Entry(here.below(name), node, base=node, touched=True)
            return there

        try:
            found = walk(self._root, words(path), step)
        except TooManyLinksError:
            raise CopyError(f"too many levels of symbolic links at {shown(path)}") from None
        assert found is not None, "each step finds or makes something"
        return found

    def _below(self, entry: _Entry, name: bytes) -> Node | None:
        return entry.base.children().get(name) if entry.base is not None else None

    def _count(self) -> None:
        self.entries += 1
        if self.entries > self._max_entries:
            raise CopyError(f"more than {self._max_entries} files are to be copied")

    # -- contents

    def put_file(self, node: Node, destination: bytes, owner: Owner | None, mode: int | None) -> None:
        """One file under this very path, whose last component is replaced where it is there."""
        parents, _, name = destination.rstrip(b"/").rpartition(b"/")
        self._put(self.directory(parents, owner or Owner(uid=0, gid=0)), name, node, owner, mode)

    def merge(self, node: Node, destination: bytes, owner: Owner | None, mode: int | None) -> None:
        """What is in a directory, into a directory."""
        before = self.entries
        target = self.directory(destination, owner or Owner(uid=0, gid=0))
        if self.entries > before:
            target.mode = stat.S_IMODE(node.mode) if mode is None else mode
            target.owner = owner or Owner(uid=node.uid, gid=node.gid)
        pending = [(node, target)]
        while pending:
            source, into = pending.pop()
            for name, child in source.children().items():
                if child.is_directory:
                    pending.append((child, self._merged(into, name, child, owner, mode)))
                else:
                    self._put(into, name, child, owner, mode)

    def _merged(self, into: _Entry, name: bytes, node: Node, owner: Owner | None, mode: int | None) -> _Entry:
        there = into.children.get(name)
        base = there.node if there is not None else self._below(into, name)
        if base is not None and base.is_link:
            # Where an image has /lib as a link to usr/lib, a copied lib directory goes there as well.
            found = find(self._base, into.below(name)) if there is None else None
            if found is not None and found.is_directory:
                return self.directory(into.below(name), Owner(uid=0, gid=0))
            base = None
        if there is not None and there.node.is_directory:
            entry = there
        else:
            self._count()
            entry = into.children[name] = _Entry(into.below(name), node,
                                                 base=base if base is not None and base.is_directory else None)
        entry.node, entry.touched = node, False
        entry.mode = stat.S_IMODE(node.mode) if mode is None else mode
        entry.owner = owner or Owner(uid=node.uid, gid=node.gid)
        return entry

    def _put(self, into: _Entry, name: bytes, node: Node, owner: Owner | None, mode: int | None) -> None:
        if name not in into.children:
            self._count()
        if node.is_link:
            mode = None
        into.children[name] = _Entry(into.below(name), node, owner=owner, mode=mode)

    # -- the layer

    def write(self, out: int, *, max_bytes: int) -> str:
        """The layer's tar into an open file. Returns a digest of what was copied: all but times.

        :raise CopyError: it is larger than that. :raise TreeError: a source is broken.
        """
        digest = hashlib.sha256()
        size = 0
        names: dict[object, bytes] = {}
        pending = [self._root]
        while pending:
            entry = pending.pop()
            name = entry.path
            if name.startswith(b".wh.") or b"/.wh." in name:
                raise CopyError(f"{shown(name)} has a name that means a deletion in a layer")
            if name or self._root_differs(entry):
                for piece in _member(name or b"./", entry, names, digest):
                    size += len(piece)
                    if size > max_bytes:
                        raise CopyError(f"more than {max_bytes} bytes are to be copied")
                    _write(out, piece)
            pending += [entry.children[child] for child in sorted(entry.children, reverse=True)]
        _write(out, tar_writer.END)
        return f"sha256:{digest.hexdigest()}"

    def _root_differs(self, root: _Entry) -> bool:
        """A layer that says nothing of its root makes it root's, 0755."""
        return (root.mode, root.owner) != (0o755, Owner(uid=0, gid=0))


def _made(now: int) -> Node:
    return Node(stat.S_IFDIR | 0o755, mtime=now)


def _member(name: bytes, entry: _Entry, names: dict[object, bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    node, owner = entry.node, entry.owner
    kind = _KINDS.get(stat.S_IFMT(node.mode))
    if kind is None:
        raise CopyError(f"{shown(name)} is a socket")
    xattrs = node.xattrs()
    if not entry.touched:
        digest.update(repr((name, kind, entry.mode, owner.uid, owner.gid, node.size, node.target, node.device,
                            sorted(xattrs.items()))).encode())
    first = names.get(node.same) if node.same is not None else None
    if first is not None:
        digest.update(first)
        yield tar_writer.header(name, tar.HARD_LINK, entry.mode, owner.uid, owner.gid, 0, node.mtime, node.mtime_ns,
                                first)
        return
    if node.same is not None and kind != tar.DIRECTORY:
        names[node.same] = name
    yield tar_writer.header(name, kind, entry.mode, owner.uid, owner.gid, node.size, node.mtime, node.mtime_ns,
                            node.target, node.device, xattrs)
    if kind == tar.REGULAR:
        for piece in node.data():
            digest.update(piece)
            yield piece
        yield tar_writer.padding(node.size)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


# -- sources

def selected(root: Node, pattern: str, *, where: str, steps: Steps) -> list[tuple[bytes, Node]]:
    """Names and files that a source of COPY or ADD means, in order. A link is followed within the root.

    :param where: how the root is called in an error.
    :raise CopyError: there is none.
    :raise InvalidArgument: the pattern is malformed, or means too many names: links can lead round in circles.
    """
    try:
        parts = parts_of(os.fsencode(pattern))
    except TreeError:
        raise CopyError(f"forbidden path outside the {where}: {shown(os.fsencode(pattern))} ()") from None
    path = os.fsdecode(b"/".join(parts))
    if not is_wild(path):
        node = find(root, b"/".join(parts))
        if node is None:
            raise CopyError(f"file not found in {where} or excluded by .dockerignore: stat {path}: file does not exist"
                            if where == "build context" else
                            f"stat {path}: file does not exist (in the {where})")
        return [(parts[-1] if parts else b"", node)]
    found: list[tuple[bytes, Node]] = [(b"", root)]
    for part in (os.fsdecode(part) for part in parts):
        glob = Glob(part, double_stars=False, steps=steps) if is_wild(part) else None
        following = []
        for name, node in found:
            if not node.is_directory:
                continue
            children = node.children()
            wanted = ([child for child in sorted(children) if glob.matches(os.fsdecode(child))] if glob is not None
                      else [os.fsencode(part)])
            for child in wanted:
                steps.take(_STEPS_OF_A_PATH)
                path_of = name + b"/" + child if name else child
                reached = find(root, path_of)
                if reached is not None:
                    following.append((path_of, reached))
        found = following
    if not found:
        raise CopyError(f"no source files were specified (nothing matches {shown(os.fsencode(pattern))})")
    return [(name.rpartition(b"/")[2], node) for name, node in found]


def owner_of(text: str, base: Node) -> Owner | None:
    """USER[:GROUP] of --chown, looked up in the image's own files; None where nothing is said.

    :raise CopyError: no such user or group.
    """
    if not text:
        return None
    if text.count(":") > 1:
        raise CopyError(f"{_MAPPING}invalid chown string format: {text[:60]}")
    user, colon, group = text.partition(":")
    uid = _number(user) if _ID.match(user) else _look_up(base, "passwd", user)
    if not colon:
        return Owner(uid=uid, gid=uid)
    return Owner(uid=uid, gid=_number(group) if _ID.match(group) else _look_up(base, "group", group))


def mode_of(text: str) -> int | None:
    """The octal digits of --chmod; None where nothing is said. :raise CopyError: they are none."""
    if not text:
        return None
    if not re.fullmatch(r"0?[0-7]{3,4}", text):
        raise CopyError(f"invalid chmod parameter: {text[:40]!r}; it must be octal digits such as 644")
    return int(text, 8)


def _number(text: str) -> int:
    if int(text) > _MAX_ID:
        raise CopyError(f"{text} is no user or group: ids have 32 bits")
    return int(text)


def _look_up(base: Node, file: str, name: str) -> int:
    lost = f"can't find uid for user {name[:60]}: no such user: {name[:60]}" if file == "passwd" else \
        f"can't find gid for group {name[:60]}: no such group: {name[:60]}"
    node = find(base, f"etc/{file}".encode())
    if node is None or not node.is_regular or node.size > _MAX_NAMES:
        raise CopyError(f"{_MAPPING}{lost} (the image has no /etc/{file})")
    for line in b"".join(node.data()).decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) > 2 and _ID.match(fields[2]):
            return _number(fields[2])
    raise CopyError(f"{_MAPPING}{lost} (it is looked up in the image's /etc/{file})")
