"""The API's unix sockets: who may connect is decided by their owner, group and mode."""

from __future__ import annotations

import errno
import grp
import logging
import os
import socket
import stat
from pathlib import Path

from hyperstack.pod.errors import Conflict, InvalidArgument

_log = logging.getLogger(__name__)
BACKLOG = 1024
"""Connections that may wait to be accepted; the kernel refuses further ones."""


def group_id(name: str) -> int:
    """The gid of a group's name; 0 (root alone) for an empty one or where the host lacks the group."""
    if not name:
        return 0
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        _log.warning("the host has no group %r: only root may use the socket (groupadd --system %s)", name, name)
        return 0


def listen(path: Path, *, gid: int) -> socket.socket:
    """A listening socket at `path`, 0660 root:gid. What a dead daemon left there is replaced.

    :raise Conflict: a live process listens there. :raise InvalidArgument: the path is something else than a socket.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # No window in which others may connect: the socket is born without permissions for them.
    old = os.umask(0o177)
    try:
        sock.bind(str(path))
        os.chown(path, 0, gid)
        path.chmod(0o660)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(old)
    return sock


def _clear(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidArgument(f"{path} exists and is not a socket", field="hosts", value=str(path),
                              hint="remove it, or choose another --host")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                raise
        else:
            raise Conflict(f"another process listens on {path}", field="hosts", value=str(path),
                           hint="stop it, or choose another --host")
    path.unlink(missing_ok=True)
