"""The file server, with a guest at the other end that means ill: FUSE messages and garbage, over the real stream."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hyperstack.guest.file_server import FileServers, HostUser, Share
from hyperstack.guest.tray import TRAY_BYTES, open_tray
from tests.harness import CACHE

LOOKUP, GETATTR, SYMLINK, MKNOD, MKDIR, UNLINK = 1, 3, 6, 8, 9, 10
OPEN, READ, INIT, CREATE, FALLOCATE = 14, 15, 26, 35, 43
TRAY_ASK, TRAY_WRITE = 0x79617274, 0x77617274
"""No operations of FUSE's: see files/tray.h."""
_HEAD = struct.Struct("<IIQQIIIHH")
_ANSWER = struct.Struct("<IiQ")
_EPERM, _EINVAL = 1, 22
MESSAGES = 4000
"""Of garbage, to each of a few servers."""


@dataclass
class Guest:
    """Speaks FUSE with one server."""

    stream: socket.socket
    pid: int
    number: int = 0

    def send(self, opcode: int, node: int, body: bytes = b"", *, uid: int = 0) -> None:
        self.number += 1
        self.stream.sendall(_HEAD.pack(_HEAD.size + len(body), opcode, self.number, node, uid, uid, 1, 0, 0) + body)

    def ask(self, opcode: int, node: int, body: bytes = b"", *, uid: int = 0) -> tuple[int, bytes]:
        """(errno, body) of the answer."""
        self.send(opcode, node, body, uid=uid)
        length, error, unique = _ANSWER.unpack(self._receive(_ANSWER.size))
        assert unique == self.number
        return -error, self._receive(length - _ANSWER.size)

    def begin(self) -> None:
        error, _ = self.ask(INIT, 0, struct.pack("<IIII", 7, 36, 131072, 0xFFFFFFFF))
        assert error == 0

    def find(self, name: str, node: int = 1) -> tuple[int, int]:
        """(errno, node)"""
        error, body = self.ask(LOOKUP, node, name.encode() + b"\0")
        return error, struct.unpack_from("<Q", body)[0] if not error else 0

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            got = self.stream.recv(size - len(data))
            assert got, "the server ended"
            data += got
        return data


@pytest.fixture
def area(tmp_path: Path) -> Path:
    """A directory with a secret beside it."""
    (tmp_path / "secret").write_text("unread")
    (tmp_path / "share/below").mkdir(parents=True)
    (tmp_path / "share/f").write_text("content")
    (tmp_path / "share/up").symlink_to("../secret")
    return tmp_path


@contextmanager
def serving(directory: Path, *, read_only: bool = False, user: HostUser | None = None, tray: int | None = None
            ) -> Iterator[Guest]:
    """A server of `directory`, which has to end by itself, and not by a signal, when its stream does."""
    loop = asyncio.new_event_loop()
    servers = FileServers(CACHE / "daemon")
    fd = os.open(directory, os.O_PATH)
    try:
        stream = loop.run_until_complete(
            servers.serve([Share(fd=fd, read_only=read_only)], user=user, cgroups=[], tray=tray))
        [process] = servers._watched.values()
        stream.settimeout(60)
        with stream:
            yield Guest(stream, process.pid)
        assert process.wait(60) in (0, 1)
        loop.run_until_complete(_close(servers))
    finally:
        os.close(fd)
        loop.close()


async def _close(servers: FileServers) -> None:
    servers.close()


def test_it_can_do_little_on_the_host(area: Path) -> None:
    """Read back from /proc."""
    with serving(area / "share") as guest:
        proc = Path(f"/proc/{guest.pid}")
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
        assert int(status["CapPrm"], 16) == sum(1 << bit for bit in (0, 1, 3, 4, 6, 7))  # files' owners, and whose
        assert (int(status["CapBnd"], 16), int(status["CapInh"], 16)) == (0, 0)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert set(os.listdir(proc / "root")) == {"0"}
        assert set(os.listdir(proc / "root/0")) == {"below", "f", "up"}
        for kind in ("mnt", "net", "ipc", "uts"):
            assert os.readlink(proc / "ns" / kind) != os.readlink(f"/proc/self/ns/{kind}")
        mounts = (proc / "mountinfo").read_text().splitlines()
        assert len(mounts) == 2
        assert all("nosuid,nodev,noexec" in line for line in mounts)
        options = {line.split()[4]: line.split()[5].split(",")[0] for line in mounts}
        assert options == {"/": "ro", "/0": "rw"}
        held = {os.readlink(proc / "fd" / number).split(":")[0] for number in os.listdir(proc / "fd")}
        assert held <= {"/", "/dev/null", "socket"}


def test_as_a_user_it_has_no_rights_but_the_users(area: Path) -> None:
    (area / "share/f").chmod(0o600)
    with serving(area / "share", user=HostUser(uid=4321, groups=(4321,))) as guest:
        status = Path(f"/proc/{guest.pid}/status").read_text()
        assert "CapPrm:\t0000000000000000" in status
        assert "Uid:\t4321\t4321\t4321\t4321" in status
        guest.begin()
        _, share = guest.find("0")
        _, file = guest.find("f", share)
        assert guest.ask(OPEN, file, struct.pack("<II", 0, 0))[0] == 13  # whoever the guest says that it is
        assert guest.ask(MKDIR, share, struct.pack("<II", 0o755, 0) + b"new\0")[0] == 13


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/", "../secret", "below/../../secret"])
def test_names_are_single(area: Path, name: str) -> None:
    with serving(area / "share") as guest:
        guest.begin()
        _, share = guest.find("0")
        for node in (1, share):
            assert guest.find(name, node)[0] == _EINVAL
            assert guest.ask(UNLINK, node, name.encode() + b"\0")[0] == _EINVAL
        assert guest.ask(LOOKUP, share, b"endless")[0] == _EINVAL
        assert guest.find("up", share)[0] == 0
        assert guest.ask(OPEN, guest.find("up", share)[1], struct.pack("<II", 0, 0))[0] != 0
    assert (area / "secret").read_text() == "unread"


def test_a_read_only_share_is_so_on_the_host(area: Path) -> None:
    with serving(area / "share", read_only=True) as guest:
        guest.begin()
        _, share = guest.find("0")
        _, file = guest.find("f", share)
        assert guest.ask(OPEN, file, struct.pack("<II", os.O_RDWR, 0))[0] == 30
        assert guest.ask(MKDIR, share, struct.pack("<II", 0o755, 0) + b"new\0")[0] == 30
        assert guest.ask(UNLINK, share, b"f\0")[0] == 30


def test_devices_are_neither_made_nor_opened(area: Path) -> None:
    os.mknod(area / "share/zero", 0o20666, os.makedev(1, 5))
    with serving(area / "share") as guest:
        guest.begin()
        _, share = guest.find("0")
        for kind in (0o020000, 0o060000):
            body = struct.pack("<IIII", kind | 0o666, os.makedev(1, 3), 0, 0) + b"null\0"
            assert guest.ask(MKNOD, share, body)[0] == _EPERM
        assert guest.ask(OPEN, guest.find("zero", share)[1], struct.pack("<II", 0, 0))[0] != 0


def test_data_of_large_reads_comes_by_the_tray_where_it_is_asked_for(area: Path) -> None:
    content = os.urandom(700_000)
    (area / "share/f").write_bytes(content)
    with open_tray() as (writable, readable), serving(area / "share", tray=writable) as guest:
        guest.begin()
        _, file = guest.find("f", guest.find("0")[1])
        handle = struct.unpack_from("<Q", guest.ask(OPEN, file, struct.pack("<II", 0, 0))[1])[0]

        def read(offset: int, size: int) -> tuple[int, bytes]:
            return guest.ask(READ, file, struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0))

        assert read(0, 50_000) == (0, content[:50_000])
        guest.send(TRAY_ASK, 0)
        places = []
        for offset in range(0, 640_000, 64_000):
            error, answer = read(offset, 1 << 30 if offset == 64_000 else 64_000)
            place, size = struct.unpack("<II", answer)
            assert (error, size) == (-1, 1 << 18 if offset == 64_000 else 64_000)
            assert os.pread(readable, size, place << 18) == content[offset:offset + size]
            places.append(place)
        assert places == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
        assert read(1, 4096) == (0, content[1:4097])
        assert read(699_000, 50_000) == (0, content[699_000:])
        assert read(1 << 40, 50_000) == (0, b"")
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(readable, b"x", 0)
        assert os.fstat(readable).st_size == TRAY_BYTES == 8 << 18


def test_writes_by_a_tray_are_refused_where_it_has_no_places_for_them(area: Path) -> None:
    (area / "share/f").write_bytes(b"kept")
    with open_tray() as (writable, _), serving(area / "share", tray=writable) as guest:
        guest.begin()
        guest.send(TRAY_ASK, 0)
        _, file = guest.find("f", guest.find("0")[1])
        handle = struct.unpack_from("<Q", guest.ask(OPEN, file, struct.pack("<II", os.O_RDWR, 0))[1])[0]
        for place, size, told in ((0, 8192, 8192), (8, 8192, 8192), (0, 8192, 8191), (0, 1 << 31, 1 << 31)):
            body = struct.pack("<QQIIQIIII", handle, 0, size, 0, 0, 0, 0, place, told)
            assert guest.ask(TRAY_WRITE, file, body)[0] == _EINVAL
        assert guest.ask(TRAY_WRITE, file, body[:-1])[0] != 0
    assert (area / "share/f").read_bytes() == b"kept"


def test_nothing_is_done_before_the_first_word(area: Path) -> None:
    with serving(area / "share") as guest:
        assert guest.find("0")[0] != 0


@pytest.mark.parametrize("turn", range(3))
def test_garbage_ends_in_errors_and_reaches_nothing(area: Path, seed: int, turn: int) -> None:
    """Every operation, with numbers that are right, nearly right and wrong, in records that are whole and cut off."""
    draw = random.Random(f"{seed} {turn}")
    with open_tray() as (tray, _), serving(area / "share", tray=tray) as guest:
        guest.begin()
        guest.send(TRAY_ASK, 0)
        nodes, handles = [1, guest.find("0")[1]], [0]
        for _ in range(MESSAGES):
            opcode, node = draw.randrange(0, 54), draw.choice([*nodes, draw.getrandbits(64), draw.getrandbits(33)])
            if opcode in (2, 36, 42, 38, INIT, 33):  # no answer, or the end
                continue
            body = b"".join(struct.pack("<Q", draw.choice([0, 1, draw.getrandbits(64), draw.getrandbits(12),
                                                            draw.choice(handles), draw.choice(nodes)]))
                            for _ in range(draw.randrange(0, 12)))
            if opcode == FALLOCATE:  # blocks that are taken are the host's: as many as it has, if it is asked for them
                body = body[:16] + struct.pack("<QQ", draw.getrandbits(20), draw.getrandbits(3))
            name = draw.choice([b"f\0", b"below\0", b"up\0", b"new\0", b"..\0", b"../secret\0", b"a\0b\0", b"n" * 300])
            error, answer = guest.ask(opcode, node, draw.choice([name, body, body + name, body[:draw.randrange(99)]]),
                                      uid=draw.choice([0, 1000, 0xFFFFFFFF]))
            if not error and opcode in (LOOKUP, MKDIR, SYMLINK, CREATE) and len(answer) >= 8:
                nodes = [*nodes[-20:], struct.unpack_from("<Q", answer)[0]]
            if not error and opcode in (OPEN, 27) and len(answer) >= 8:
                handles = [*handles[-20:], struct.unpack_from("<Q", answer)[0]]
        assert guest.ask(GETATTR, nodes[1], struct.pack("<IIQ", 0, 0, 0))[0] == 0  # it serves on
    assert (area / "secret").read_text() == "unread"
    assert set(os.listdir(area)) == {"secret", "share"}


@pytest.mark.parametrize("length", [0, 1, 39, 1 << 20, 0xFFFFFFFF])
def test_what_is_no_message_ends_the_stream(area: Path, length: int) -> None:
    with serving(area / "share") as guest:
        guest.begin()
        guest.stream.sendall(_HEAD.pack(length, LOOKUP, 1, 1, 0, 0, 0, 0, 0) + bytes(64))
        assert guest.stream.recv(1) == b""
