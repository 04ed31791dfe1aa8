"""Locks, sockets, notifications and the log: what the process does before any pod exists."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperstack.daemon import lock, logs, sockets
from hyperstack.daemon.lock import DirectoryLock
from hyperstack.daemon.notify import Notifier
from hyperstack.pod.errors import Conflict, InvalidArgument


def test_the_second_daemon_is_told_who_holds_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.0)
    with DirectoryLock(tmp_path, note="socket /run/a.sock"), \
            pytest.raises(Conflict, match=rf"pid {os.getpid()}, socket /run/a\.sock"):
        DirectoryLock(tmp_path, note="socket /run/b.sock")


def test_a_killed_holder_leaves_no_stale_lock(tmp_path: Path) -> None:
    code = ("import sys, os; from pathlib import Path; from hyperstack.daemon.lock import DirectoryLock\n"
            "lock = DirectoryLock(Path(sys.argv[1]), note='x'); print(flush=True); os.kill(os.getpid(), 9)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == -9
    assert done.stdout == b"\n"
    DirectoryLock(tmp_path, note="y").close()


def test_a_child_of_the_holder_does_not_keep_the_lock(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path, note="x"):
        child = subprocess.Popen(["sleep", "60"])
    try:
        DirectoryLock(tmp_path, note="y").close()
    finally:
        child.kill()
        child.wait()


def test_the_socket_is_for_root_and_the_group_alone(tmp_path: Path) -> None:
    with contextlib.closing(sockets.listen(tmp_path / "a" / "x.sock", gid=12)):
        status = (tmp_path / "a" / "x.sock").stat()
        assert stat.S_IMODE(status.st_mode) == 0o660
        assert (status.st_uid, status.st_gid) == (0, 12)


def test_a_dead_daemons_socket_is_replaced_a_live_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    sockets.listen(path, gid=0).close()
    with contextlib.closing(sockets.listen(path, gid=0)), pytest.raises(Conflict, match="listens"):
        sockets.listen(path, gid=0)


def test_a_file_in_the_sockets_place_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    path.write_text("precious")
    with pytest.raises(InvalidArgument, match="not a socket"):
        sockets.listen(path, gid=0)
    assert path.read_text() == "precious"


def test_a_group_that_the_host_lacks_leaves_the_socket_to_root() -> None:
    assert sockets.group_id("hyperstack-no-such-group") == 0
    assert sockets.group_id("") == 0


def test_notifications_reach_the_service_manager(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"})
        notifier.ready("serving")
        assert manager.recv(4096) == b"READY=1\nSTATUS=serving"
        notifier.reloading()
        assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert notifier.watchdog_s == 30.0


def test_without_a_service_manager_notifications_go_nowhere() -> None:
    notifier = Notifier({})
    notifier.ready("serving")
    assert notifier.watchdog_s == 0.0


def test_another_process_watchdog_is_not_ours() -> None:
    assert Notifier({"WATCHDOG_PID": "1", "WATCHDOG_USEC": "1000"}).watchdog_s == 0.0


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


def test_a_logged_newline_cannot_forge_a_line(capsys: pytest.CaptureFixture[str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    logs.configure("info", "text")
    logging.getLogger("x").warning("guest said %s", "hi\n2026-01-01 error forged: \x1b[2J")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("warning x: guest said hi")
    assert second.startswith("    ")
    assert "\x1b" not in second


def test_under_the_journal_a_line_starts_with_its_priority(capsys: pytest.CaptureFixture[str],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    logs.configure("info", "text")
    logging.getLogger("x").error("broken")
    assert capsys.readouterr().err == "<3>error x: broken\n"


def test_json_lines_are_one_document_each(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logging.getLogger("x").info("a\nb")
    assert json.loads(capsys.readouterr().err)["message"] == "a\nb"
