"""Bytes in, bytes out: any size, any value, at the pace of the slowest."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pty
import random
import select
import signal
import subprocess
import time

import aiohttp
import pytest

from tests.harness import PATIENCE_S, Daemon, wait_until
from tests.images import BUSYBOX


def random_bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def test_twenty_megabytes_pass_through_unchanged(daemon: Daemon) -> None:
    sent = random_bytes(20 << 20, 1)
    done = daemon.ctl("run", "-i", "--rm", BUSYBOX, "cat", stdin=sent, timeout=300)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(sent).digest()


def test_the_end_of_stdin_reaches_the_command(daemon: Daemon) -> None:
    assert daemon.text("run", "-i", "--rm", BUSYBOX, "sh", "-c", "wc -c; echo after", stdin=b"12345") == "5\nafter"


def test_a_slow_reader_loses_nothing_and_stalls_only_itself(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "talker", BUSYBOX, "sleep", "600")
    slow = daemon.ctl_popen("exec", "talker", "sh", "-c", "seq 1 400000")
    try:
        assert slow.stdout is not None
        head = slow.stdout.read(1000)
        assert daemon.text("exec", "talker", "echo", "not stalled") == "not stalled"
        output = head + slow.communicate(timeout=PATIENCE_S)[0]
    finally:
        slow.kill()
        slow.wait()
    assert output == b"".join(b"%d\n" % number for number in range(1, 400001))


def test_an_exec_takes_stdin_and_tells_its_exit_code(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "host", BUSYBOX, "sleep", "600")
    sent = random_bytes(1 << 20, 2)
    assert daemon.ctl("exec", "-i", "host", "cat", stdin=sent).stdout == sent
    assert daemon.ctl("exec", "host", "sh", "-c", "exit 9", check=False).returncode == 9
    assert daemon.ctl("exec", "host", "nothing-like-it", check=False).returncode == 127
    assert daemon.text("exec", "-e", "X=1", "-w", "/etc", "-u", "alice", "host", "sh", "-c", "echo $X $PWD $(id -un)") \
        == "1 /etc alice"


def test_who_waits_is_answered_after_who_is_attached(daemon: Daemon) -> None:
    """Clients that read both take the answer to the wait for the end of the output. (Here none is read before, so it is
    no more than the socket has room for in little pieces.)"""
    with daemon.sdk() as client:
        for number in range(5):
            name = client.api.create_container(BUSYBOX, ["seq", "1", "100"], tty=True)["Id"]
            attached = client.api.attach_socket(name, params={"stdout": 1, "stderr": 1, "stream": 1})
            try:
                client.api.start(name)
                client.api.wait(name)
                attached._sock.setblocking(False)
                output = b""
                with contextlib.suppress(BlockingIOError):  # It may not be closed yet.
                    while data := attached._sock.recv(65536):
                        output += data
                assert output.split()[-1] == b"100", f"of run {number} {len(output)} bytes"
            finally:
                attached._sock.close()
                client.api.remove_container(name, force=True)


def test_logs_are_the_output_byte_for_byte(daemon: Daemon) -> None:
    daemon.ctl("run", "--name", "writer", BUSYBOX, "sh", "-c", "printf 'a\\000b\\377\\n'; echo err >&2; printf tail")
    done = daemon.ctl("logs", "writer")
    assert done.stdout == b"a\0b\xff\ntail"
    assert done.stderr == b"err\n"


def test_followed_logs_end_with_the_container(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "counter", BUSYBOX, "sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.3; done")
    assert daemon.ctl("logs", "-f", "counter").stdout == b"1\n2\n3\n4\n5\n"
    assert daemon.ctl("logs", "--tail", "2", "counter").stdout == b"4\n5\n"
    first = daemon.text("logs", "-t", "--tail", "1", "counter")
    assert first.endswith("Z 5")


class Terminal:
    """hyperctl on a pseudo-terminal."""

    def __init__(self, daemon: Daemon, *args: str) -> None:
        self.master, slave = pty.openpty()
        self.process = daemon.ctl_popen(*args, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.seen = b""

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def expect(self, wanted: bytes) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while wanted not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{wanted!r} never came: {self.seen!r}"
            self.seen += os.read(self.master, 65536)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def test_a_terminal_is_one_and_follows_the_windows_size(daemon: Daemon) -> None:
    terminal = Terminal(daemon, "run", "-it", "--name", "shell", BUSYBOX, "sh")
    try:
        terminal.expect(b"# ")
        subprocess.run(["stty", "rows", "31", "cols", "97"], stdin=terminal.master, check=True)
        terminal.process.send_signal(signal.SIGWINCH)

        def resized() -> bool:
            return daemon.text("exec", "shell", "sh", "-c", "stty size < /proc/1/fd/0") == "31 97"

        wait_until(resized, "the guest's terminal has the window's size")
        terminal.type(b"tty; exit 5\n")
        terminal.expect(b"/dev/")
        assert terminal.process.wait(timeout=PATIENCE_S) == 5
    finally:
        terminal.close()


def test_the_detach_keys_leave_the_container_running(daemon: Daemon) -> None:
    terminal = Terminal(daemon, "run", "-it", "--name", "kept", BUSYBOX, "sh")
    try:
        terminal.expect(b"# ")
        terminal.type(b"\x10\x11")
        assert terminal.process.wait(timeout=PATIENCE_S) == 0
    finally:
        terminal.close()
    assert daemon.text("inspect", "--format", "{{.State.Status}}", "kept") == "running"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_client_reaches_the_command(daemon: Daemon, number: signal.Signals) -> None:
    script = "trap 'echo caught; exit 3' INT TERM; echo ready; while :; do sleep 0.1; done"
    client = daemon.ctl_popen("run", "--rm", BUSYBOX, "sh", "-c", script)
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(number)
        output, _ = client.communicate(timeout=PATIENCE_S)
    finally:
        client.kill()
        client.wait()
    assert (output, client.returncode) == (b"caught\n", 3)


def test_a_websocket_attaches_as_well(daemon: Daemon) -> None:
    daemon.ctl("create", "-i", "--name", "web-socket", BUSYBOX, "sh", "-c", "read line; echo got $line")
    daemon.ctl("start", "web-socket")

    async def talk() -> bytes:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(daemon.socket))) as session, \
                session.ws_connect("http://d/containers/web-socket/attach/ws?stream=1&stdin=1&stdout=1") as socket:
            await socket.send_bytes(b"words\n")
            return b"".join([message.data async for message in socket])

    assert asyncio.run(asyncio.wait_for(talk(), 60)) == b"got words\n"
