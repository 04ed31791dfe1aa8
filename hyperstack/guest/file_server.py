"""Starts file servers: each gives one machine a few files of the host, over a stream, as FUSE requests and answers.

The server (`files/`, in C) is confined before it reads its first byte: a root that holds what it shares and nothing
else, no network, few capabilities, few system calls. It is no part of the daemon: it lives as long as the other end of
its stream, which the machine's VMM holds.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hyperstack.guest.tools import run, temporary_directory
from hyperstack.pod.errors import Exhausted, Unavailable

log = logging.getLogger(__name__)

FILE_SERVER_SOURCES = Path(__file__).with_name("files")
MAX_SHARES = 256
"""Of one server; files/main.c has the same number."""
_COMPILE_DEADLINE_S = 60.0
_START_DEADLINE_S = 10.0
"""It takes 3 ms."""
_WORDS = 4096


@dataclass(frozen=True, kw_only=True)
class Share:
    """A directory or a regular file. In the guest it is `/N` of what is served, N its place in the list."""

    fd: int
    read_only: bool
    flat: bool = False
    """Without the host's mounts below it."""


@dataclass(frozen=True, kw_only=True)
class HostUser:
    """Who the server is on the host. None in its place: root, and each file is its maker's."""

    uid: int
    groups: tuple[int, ...]
    """The first is the primary one."""


class FileServers:
    """:param cache_dir: of compiled programs."""

    def __init__(self, cache_dir: Path) -> None:
        self._cache_dir = cache_dir
        self._watched: dict[int, subprocess.Popen[bytes]] = {}
        """By pidfd."""

    async def serve(self, shares: Sequence[Share], *, user: HostUser | None, cgroups: Sequence[int],
                    tray: int | None = None) -> socket.socket:
        """Start a server; the machine's end of its stream. The caller keeps what it passed.

        :param tray: see `tray.open_tray`.
        :param cgroups: descriptors of the cgroup.procs that it joins.
        :raise Unavailable: it does not compile or start; the message has its last words.
        :raise Exhausted: no memory or descriptors.
        """
        program = await asyncio.to_thread(build_file_server, self._cache_dir)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                await self._start(program, theirs, shares, user, cgroups, tray)
        except BaseException:
            ours.close()
            raise
        return ours

    async def _start(self, program: Path, stream: socket.socket, shares: Sequence[Share], user: HostUser | None,
                     cgroups: Sequence[int], tray: int | None) -> None:
        line = [str(program), "--socket", str(stream.fileno())]
        given = [stream.fileno(), *(share.fd for share in shares), *cgroups]
        if tray is not None:
            line += ["--tray", str(tray)]
            given.append(tray)
        for share in shares:
            line += ["--share", f"{share.fd}:{_mode(share)}"]
        for fd in cgroups:
            line += ["--cgroup", str(fd)]
        if user is not None:
            line += ["--user", str(user.uid), *(word for group in user.groups for word in ("--group", str(group)))]
        words, words_end = os.pipe2(os.O_CLOEXEC)
        with ExitStack() as stack:
            stack.callback(os.close, words)
            try:
                self._watch(_spawn(line, words_end, given))
            except OSError as error:
                raise Exhausted(f"the file server cannot be started: {error.strerror}") from error
            finally:
                os.close(words_end)
            # It closes its end when it is confined; until then it may say what went wrong.
            async with asyncio.timeout(_START_DEADLINE_S):
                said = await asyncio.to_thread(os.read, words, _WORDS)
            if said:
                raise Unavailable(said.decode(errors="replace").strip())

    def _watch(self, server: subprocess.Popen[bytes]) -> None:
        pidfd = os.pidfd_open(server.pid)
        self._watched[pidfd] = server
        asyncio.get_running_loop().add_reader(pidfd, self._ended, pidfd)

    def _ended(self, pidfd: int) -> None:
        server = self._watched.pop(pidfd)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        if server.wait() != 0:
            log.warning("file server %d ended with status %d", server.pid, server.returncode)

    def close(self) -> None:
        """Let go of all servers; they run on."""
        for pidfd in list(self._watched):
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
        self._watched.clear()


def _spawn(line: list[str], stderr: int, given: Sequence[int]) -> subprocess.Popen[bytes]:
    """Returns when the program runs: a millisecond."""
    return subprocess.Popen(line, env={}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
                            pass_fds=given)


def _mode(share: Share) -> str:
    return ("ro" if share.read_only else "rw") + ("-flat" if share.flat else "")


def build_file_server(cache_dir: Path) -> Path:
    """The compiled program, static; compiled where its source has changed since.

    :raise Unavailable: it does not compile; the message has the compiler's last words.
    """
    sources = sorted(path for path in FILE_SERVER_SOURCES.iterdir() if path.is_file())
    digest = hashlib.sha256(b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in sources))
    program = cache_dir / f"file-server-{digest.hexdigest()[:16]}"
    if not program.exists():
        with temporary_directory(cache_dir) as work:
            run(["make", "-s", "-C", str(FILE_SERVER_SOURCES), f"OUT={work / 'server'}"],
                deadline_s=_COMPILE_DEADLINE_S, hint="apt-get install make gcc musl-tools linux-libc-dev")
            (work / "server").replace(program)
    return program
