"""What the unpacking process may still do, asked of the process itself."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

UID = 64_998
_PROBE = """
import json, os, socket, subprocess, sys, threading
from hyperstack.image.confine import confine
from hyperstack.image.syscalls import compiled

status = open("/proc/self/status")
confine(uid=json.loads(sys.argv[1]), memory=1 << 30, cpu_seconds=77, system_calls=compiled())

def attempt(what):
    try:
        what()
    except OSError as error:
        return error.errno
    except RuntimeError:
        return -1
    return 0

counted = []
def count():
    counted.append(1)
thread = threading.Thread(target=count)
thread.start()
thread.join()
status.seek(0)
print(json.dumps({
    "status": dict(line.split(":", 1) for line in status),
    "threads": len(counted),
    "open": attempt(lambda: open("/etc/passwd")), "create": attempt(lambda: open("/tmp/x", "w")),
    "socket": attempt(socket.socket), "run": attempt(lambda: subprocess.run(["true"])), "fork": attempt(os.fork),
    "kill": attempt(lambda: os.kill(1, 0)), "chmod": attempt(lambda: os.chmod("/", 0)),
    "setuid": attempt(lambda: os.setuid(0)), "unlink": attempt(lambda: os.unlink("/tmp/x"))}))
"""


def probe(uid: int | None) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", _PROBE, json.dumps(uid)], check=True, capture_output=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_nothing_can_be_opened_run_reached_or_changed() -> None:
    found = probe(UID if os.geteuid() == 0 else None)
    assert found["threads"] == 1
    for deed in ("open", "create", "socket", "run", "fork", "kill", "chmod", "setuid", "unlink"):
        assert found[deed] == 1, deed
    status = found["status"]
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have powers that can be dropped")
def test_a_daemon_s_powers_are_dropped() -> None:
    status = probe(UID)["status"]
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(UID)}
    assert status["Groups"].strip() == ""
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces")
def test_it_has_namespaces_of_its_own() -> None:
    script = ("import os, sys; from hyperstack.image.confine import confine; "
              "from hyperstack.image.syscalls import compiled; "
              f"confine(uid={UID}, memory=1 << 30, cpu_seconds=9, system_calls=compiled()); "
              "print('ready', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            for name in ("net", "ipc", "mnt", "uts"):
                assert os.readlink(f"/proc/{process.pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
            lines = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
            limits = {line[:25].strip(): line[26:].split()[:2] for line in lines}
            assert limits["Max address space"] == [str(1 << 30)] * 2
            assert limits["Max cpu time"] == ["9", "9"]
            assert limits["Max core file size"] == ["0", "0"]
        finally:
            process.stdin.close()
            process.wait()


_PARENT = """
import subprocess, sys
script = ("import sys; from hyperstack.image.confine import confine; "
          "from hyperstack.image.syscalls import compiled; "
          "confine(uid=None, memory=1 << 30, cpu_seconds=60, system_calls=compiled()); "
          "print(1, flush=True); sys.stdin.read()")
child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_it_ends_with_whoever_started_it() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        watch = os.pidfd_open(child)
        try:
            parent.kill()
            parent.wait()
            assert select.select([watch], [], [], 30)[0], "it lives on"
        finally:
            os.close(watch)
