"""Docker's command line: what goes into containers and comes out of them: exec, attach, logs, cp, export, commit."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import tarfile
from pathlib import Path

from tests.clients.peers import Cli, missing
from tests.harness import wait_until
from tests.images import BUSYBOX


def test_input_and_both_outputs(cli: Cli) -> None:
    done = cli.run("run", "--rm", "-i", BUSYBOX, "sh", "-c", "cat; echo err >&2; exit 6", stdin=b"piped", code=6)
    assert (done.stdout, done.stderr) == ("piped", "err\n")
    large = b"0123456789abcdef" * 65536
    assert cli("run", "--rm", "-i", BUSYBOX, "wc", "-c", stdin=large) == str(len(large))


def test_exec(cli: Cli) -> None:
    cli("run", "-d", "--name", "hs-e", BUSYBOX, "sleep", "600")
    assert cli.lines("exec", "-w", "/tmp", "-e", "X=y", "-u", "alice", "hs-e", "sh", "-c", "pwd; echo $X; id -un") == [
        "/tmp", "y", "alice"]
    cli.run("exec", "hs-e", "sh", "-c", "exit 4", code=4)
    assert cli("exec", "-i", "hs-e", "cat", stdin=b"in") == "in"
    done = cli.run("exec", "hs-e", "nosuch", code=cli.expect.exec_not_found)
    assert "executable file not found in $PATH" in done.stdout + done.stderr
    done = cli.attempt("exec", "-u", "hs-none", "hs-e", "true")
    assert done.returncode in (1, 126), "it is not created; or it does not start, before Docker 28"
    assert "unable to find user hs-none: no matching entries in passwd file" in done.stdout + done.stderr
    assert cli("exec", "-d", "hs-e", "sh", "-c", "echo 1 > /done") == ""
    wait_until(lambda: "done" in cli("exec", "hs-e", "ls", "/"), "a detached exec has done its work")
    if cli.expect.privileged:
        assert cli("exec", "--privileged", "hs-e", "true") == ""


def test_logs(cli: Cli) -> None:
    cli("run", "--name", "hs-l", BUSYBOX, "sh", "-c", "echo one; sleep 0.1; echo two; sleep 0.1; echo three >&2")
    done = cli.run("logs", "hs-l")
    assert (done.stdout, done.stderr) == ("one\ntwo\n", "three\n")
    assert cli.run("logs", "--tail", "2", "hs-l").stdout == "two\n"
    assert cli.run("logs", "-n", "0", "hs-l").stdout == ""
    stamped = cli.lines("logs", "-t", "hs-l")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z one\Z", stamped[0])
    assert cli("logs", "--since", "1h", "hs-l") == "one\ntwo"
    assert cli("logs", "--until", "1h", "hs-l") == ""
    assert cli("logs", "--since", stamped[1].split()[0], "hs-l") == "two"
    assert cli("logs", "-f", "hs-l") == "one\ntwo"
    assert cli("logs", "--details", "hs-l") == " one\n two"


def test_what_is_followed_ends_with_the_container(cli: Cli) -> None:
    cli("run", "-d", "--name", "hs-f", BUSYBOX, "sh", "-c",
        "echo begun; while [ ! -e /stop ]; do sleep 0.05; done; echo over; exit 5")
    followed, attached, waited = (cli.popen(*words, "hs-f") for words in (("logs", "-f"), ("attach", "--no-stdin"),
                                                                          ("wait",)))
    assert followed.stdout is not None
    assert followed.stdout.read(6) == b"begun\n"
    wait_until(lambda: cli("inspect", "-f", "{{.State.Running}}", "hs-f") == "true", "it runs")
    cli("exec", "hs-f", "touch", "/stop")
    assert followed.communicate(timeout=60)[0] == b"over\n"
    assert b"over\n" in attached.communicate(timeout=60)[0]
    assert waited.communicate(timeout=60)[0] == b"5\n"
    assert (followed.returncode, attached.returncode, waited.returncode) == (0, 5, 0)


def test_a_terminal_and_the_keys_that_detach(cli: Cli) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(cli.argv("run", "-it", "--name", "hs-t", "--detach-keys", "ctrl-a,d", BUSYBOX, "sh"),
                               stdin=theirs, stdout=theirs, stderr=theirs, env=cli.environment, close_fds=True)
    os.close(theirs)
    try:
        _read_until(ours, b"# ")
        os.write(ours, b"tty; echo $((6*7))\n")
        seen = _read_until(ours, b"42\r\n")
        assert b"/dev/pts/0" in seen or b"/dev/console" in seen
        os.write(ours, b"\x01d")
        assert process.wait(timeout=60) == 0
    finally:
        os.close(ours)
    assert cli("inspect", "-f", "{{.State.Running}} {{.Config.Tty}}", "hs-t") == "true true"


def _read_until(descriptor: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        seen += os.read(descriptor, 4096)
    return seen


def test_start_attached(cli: Cli) -> None:
    cli("create", "-i", "--name", "hs-s", BUSYBOX, "sh", "-c", "read x; echo got $x; exit 9")
    assert cli.run("start", "-ai", "hs-s", stdin=b"this\n", code=9).stdout == "got this\n"


def test_copies_in_and_out(cli: Cli, tmp_path: Path) -> None:
    cli("create", "--name", "hs-c", BUSYBOX, "sleep", "600")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content\n")
    cli("cp", str(tmp_path / "tree"), "hs-c:/tmp")
    cli("start", "hs-c")
    assert cli("exec", "hs-c", "cat", "/tmp/tree/file") == "content"
    cli("cp", "hs-c:/tmp/tree/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "content\n"
    packed = subprocess.run(cli.argv("cp", "hs-c:/tmp/tree", "-"), env=cli.environment, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
        assert sorted(tar.getnames()) == ["tree", "tree/file"]
    cli("exec", "hs-c", "mkdir", "/in")
    cli("cp", "-", "hs-c:/in", stdin=packed.stdout)
    assert cli("exec", "hs-c", "find", "/in", "-type", "f") == "/in/tree/file"
    said = cli.fails("cp", "hs-c:/none", str(tmp_path))
    assert "Could not find the file /none in container hs-c" in said or missing("container:path", "hs-c:/none", said)
    assert cli.fails("cp", str(tmp_path / "tree" / "file"), "hs-c:/no/where") != ""


def test_changes_commits_and_exports(cli: Cli, tmp_path: Path) -> None:
    cli("run", "--name", "hs-d", BUSYBOX, "sh", "-c", "mkdir /new; echo x > /new/f; rm /etc/group")
    assert sorted(cli.lines("diff", "hs-d")) == ["A /new", "A /new/f", "C /etc", "D /etc/group"]
    made = cli("commit", "-m", "why", "-a", "who", "-c", 'CMD ["cat", "/new/f"]', "-c", "ENV A=b", "-c", "EXPOSE 80",
               "-c", "LABEL l=m", "hs-d", "hs-made:1")
    assert made.startswith("sha256:")
    assert cli("run", "--rm", "hs-made:1") == "x"
    shown = cli("image", "inspect", "-f", "{{.Comment}} {{.Author}} {{json .Config.Cmd}} {{.Config.Labels.l}}",
                "hs-made:1")
    assert shown == 'why who ["cat","/new/f"] m'
    cli("export", "-o", str(tmp_path / "tar"), "hs-d")
    with tarfile.open(tmp_path / "tar") as tar:
        assert "new/f" in tar.getnames()
        assert "etc/group" not in tar.getnames()


def test_log_drivers(cli: Cli) -> None:
    cli("run", "--name", "hs-none", "--log-driver", "none", BUSYBOX, "echo", "unkept")
    assert "configured logging driver does not support reading" in cli.fails("logs", "hs-none")
    cli("run", "--name", "hs-local", "--log-driver", "local", "--log-opt", "max-size=1m", BUSYBOX, "echo", "kept")
    assert cli("logs", "hs-local") == "kept"
    assert cli("inspect", "-f", "{{.HostConfig.LogConfig.Type}}", "hs-local") == "local"
