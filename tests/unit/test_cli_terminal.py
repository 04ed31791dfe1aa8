"""hyperctl on a terminal: raw mode, window size, detach keys, colours and bars."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.cli.errors import CliError
from hyperstack.cli.terminal import DetachFilter, parse_detach_keys
from tests.unit.cli_daemon import Daemon
from tests.unit.cli_process import here, until


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    served = Daemon(tmp_path)
    yield served
    served.close()


class Terminal:
    """hyperctl as the leader of a session on a pseudo-terminal of its own."""

    def __init__(self, daemon: Daemon, words: tuple[str, ...], rows: int, columns: int) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            termios.tcsetwinsize(0, (rows, columns))
            os.execv(sys.executable, [sys.executable, "-m", "hyperstack.cli.main", "-H", daemon.socket, *words])
        self.seen = b""
        self._status: int | None = None

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def expect(self, text: bytes) -> None:
        """Read until the text has been shown."""
        deadline = time.monotonic() + 30
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"{text!r} was not shown within 30 s, but {self.seen!r}"
            try:
                self.seen += os.read(self.master, 65536)
            except OSError:
                raise AssertionError(f"{text!r} was not shown, but {self.seen!r}") from None

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def exit_code(self) -> int:
        """Wait for the end, showing what comes until then."""
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                break
            if not data:
                break
            self.seen += data
        _, self._status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(self._status)

    def close(self) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)


class Opener(Protocol):
    def __call__(self, *words: str, rows: int = 24, columns: int = 80) -> Terminal: ...


@pytest.fixture
def on_terminal(daemon: Daemon) -> Iterator[Opener]:
    opened: list[Terminal] = []

    def opener(*words: str, rows: int = 24, columns: int = 80) -> Terminal:
        opened.append(Terminal(daemon, words, rows, columns))
        return opened[-1]

    yield opener
    for terminal in opened:
        terminal.close()


def is_raw(master: int) -> bool:
    return not termios.tcgetattr(master)[3] & termios.ICANON


def test_an_interactive_shell(on_terminal: Opener) -> None:
    shell = on_terminal("run", "-it", "busybox", "sh", "-c", "stty -echo; echo ready; read a; echo \"<$a>\"; exit 4")
    shell.expect(b"ready")
    shell.type(b"words\r")
    shell.expect(b"<words>")
    assert shell.exit_code() == 4


def test_ctrl_c_is_typed_into_the_container(on_terminal: Opener) -> None:
    shell = on_terminal("run", "-it", "busybox", "sh", "-c", "trap 'echo caught; exit 3' INT; echo ready; "
                        "while :; do sleep 0.1; done")
    shell.expect(b"ready")
    shell.type(b"\x03")
    shell.expect(b"caught")
    assert shell.exit_code() == 3


def test_the_window_size_follows(on_terminal: Opener, daemon: Daemon) -> None:
    shell = on_terminal("run", "-it", "--name", "web", "busybox", "sh", "-c",
                        "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done", rows=31, columns=101)
    shell.expect(b"ready")
    until(lambda: (31, 101) in daemon.find("web").process.sizes)
    assert daemon.asked("POST", "/containers/create").json()["HostConfig"]["ConsoleSize"] == [31, 101]
    shell.resize(44, 123)
    shell.expect(b"44 123")


def test_detach_keys_leave_the_container_running(on_terminal: Opener, daemon: Daemon) -> None:
    shell = on_terminal("run", "-it", "--name", "web", "busybox", "sh", "-c", "echo ready; cat")
    shell.expect(b"ready")
    until(lambda: is_raw(shell.master))
    shell.type(b"\x10")
    shell.type(b"\x11")
    assert shell.exit_code() == 0
    assert daemon.find("web").process.running
    assert not here(daemon, "ps", "-q").stderr


def test_the_terminal_is_as_before_afterwards(on_terminal: Opener, daemon: Daemon) -> None:
    daemon.add("web", ["sleep", "60"], start=True)
    shell = on_terminal("exec", "-it", "--detach-keys", "ctrl-x,q", "web", "sh", "-c", "echo ready; cat")
    shell.expect(b"ready")
    until(lambda: is_raw(shell.master))
    shell.type(b"\x18x\x18q")
    code = shell.exit_code
    until(lambda: not is_raw(shell.master))
    assert code() == 0


def test_headings_are_bold_on_a_terminal_only(on_terminal: Opener, daemon: Daemon) -> None:
    table = on_terminal("ps", "-a")
    assert table.exit_code() == 0
    assert b"\x1b[1mCONTAINER ID" in table.seen
    assert b"\x1b" not in here(daemon, "ps", "-a").stdout


def test_a_pull_draws_bars(on_terminal: Opener, daemon: Daemon) -> None:
    pull = on_terminal("pull", "alpine")
    assert pull.exit_code() == 0
    assert b"aaaaaaaaaaaa: Pull complete" in pull.seen.replace(b"\x1b[0m", b"")
    assert pull.seen.rstrip().endswith(b"docker.io/library/alpine:latest")


@pytest.mark.parametrize(("text", "keys"), [("ctrl-p,ctrl-q", b"\x10\x11"), ("a", b"a"), ("ctrl-@,CTRL-A", b"\0\1"),
                                            ("ctrl-[,]", b"\x1b]")])
def test_detach_keys_are_read(text: str, keys: bytes) -> None:
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["", "ctrl-", "ctrl-pp", "ctrl-1", "a,,b", "é"])
def test_detach_keys_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(CliError, match="invalid detach keys"):
        parse_detach_keys(text)


@given(st.lists(st.binary(max_size=6)), st.binary(min_size=1, max_size=4))
def test_the_filter_passes_everything_but_the_keys(chunks: list[bytes], keys: bytes) -> None:
    typed = b"".join(chunks)
    found = typed.find(keys)
    watch = DetachFilter(keys)
    passed = b""
    for chunk in chunks:
        data, detached = watch.feed(chunk)
        passed += data
        if detached:
            assert found >= 0
            assert passed == typed[:found]
            return
    assert found < 0
    assert typed.startswith(passed)
    assert keys.startswith(typed[len(passed):])
