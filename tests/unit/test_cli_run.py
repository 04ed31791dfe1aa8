"""hyperctl as a process: run, exec, attach, logs, and what becomes of streams, signals and exit codes."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli_daemon import Daemon
from tests.unit.cli_process import command, here, hyperctl, until


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    served = Daemon(tmp_path)
    yield served
    served.close()


def test_run_gives_output_and_exit_code(daemon: Daemon) -> None:
    done = hyperctl(daemon, "run", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 3)


def test_run_detached_prints_the_id(daemon: Daemon) -> None:
    done = hyperctl(daemon, "run", "-d", "--name", "web", "busybox", "sleep", "60")
    assert done.returncode == 0
    assert done.stdout.decode().strip() == daemon.find("web").id


def test_run_passes_stdin_and_half_closes_it(daemon: Daemon) -> None:
    done = hyperctl(daemon, "run", "-i", "--rm", "busybox", "sh", "-c", "cat; echo end", stdin=b"some\0 bytes\xff\n")
    assert (done.stdout, done.returncode) == (b"some\0 bytes\xff\nend\n", 0)
    until(lambda: not daemon.containers)


def test_without_i_stdin_is_left_alone(daemon: Daemon) -> None:
    done = hyperctl(daemon, "run", "busybox", "cat", stdin=b"not read")
    assert (done.stdout, done.returncode) == (b"", 0)
    assert "stdin" not in daemon.asked("POST", "/containers/.*/attach").query


def test_large_binary_output_arrives_unchanged(daemon: Daemon) -> None:
    size = 20_000_000
    done = hyperctl(daemon, "run", "-i", "busybox", "cat", stdin=bytes(range(256)) * (size // 256))
    assert done.stdout == bytes(range(256)) * (size // 256)


@pytest.mark.parametrize(("argv", "code"), [(("no-such-program-at-all",), 127), (("/etc/passwd",), 126)])
def test_what_cannot_be_started_has_a_shells_code(daemon: Daemon, argv: tuple[str, ...], code: int) -> None:
    done = hyperctl(daemon, "run", "busybox", *argv)
    assert done.returncode == code
    assert done.stderr.startswith(b"hyperctl: Error response from daemon: exec:")


def test_a_container_that_failed_to_start_is_removed_with_rm(daemon: Daemon) -> None:
    assert hyperctl(daemon, "run", "--rm", "busybox", "no-such-program-at-all").returncode == 127
    assert not daemon.containers


def test_a_missing_image_is_pulled(daemon: Daemon) -> None:
    done = hyperctl(daemon, "run", "alpine", "echo", "hello")
    assert (done.stdout, done.returncode) == (b"hello\n", 0)
    assert done.stderr.decode().splitlines() == [
        "Unable to find image 'alpine:latest' locally", "latest: Pulling from library/alpine",
        "aaaaaaaaaaaa: Pulling fs layer", "aaaaaaaaaaaa: Pull complete", "Digest: sha256:" + "2" * 64]


def test_pull_never_does_not_pull(daemon: Daemon) -> None:
    done = hyperctl(daemon, "run", "--pull", "never", "alpine")
    assert done.returncode == 125
    assert b"No such image: alpine:latest" in done.stderr


def test_pull_always_pulls_a_known_image_quietly(daemon: Daemon) -> None:
    done = hyperctl(daemon, "run", "--pull=always", "-q", "busybox", "echo", "x")
    assert (done.stdout, done.stderr) == (b"x\n", b"")
    assert daemon.asked("POST", "/images/create").query == {"fromImage": "busybox", "tag": "latest"}


def test_a_failed_pull_tells_why(daemon: Daemon) -> None:
    daemon.pull_steps = [{"errorDetail": {"message": "toomanyrequests"}, "error": "toomanyrequests"}]
    done = hyperctl(daemon, "run", "alpine")
    assert done.returncode == 125
    assert b"hyperctl: toomanyrequests" in done.stderr


def test_ctrl_c_goes_to_the_container(daemon: Daemon) -> None:
    with subprocess.Popen(command(daemon, "run", "busybox", "sh", "-c", "trap 'echo got; exit 7' INT; echo up; "
                                  "while :; do sleep 0.1; done"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"got\n"
        assert process.wait(30) == 7


def test_a_container_killed_by_a_signal_exits_with_128_and_its_number(daemon: Daemon) -> None:
    assert hyperctl(daemon, "run", "busybox", "sh", "-c", "kill -TERM $$").returncode == 143


def test_a_reader_that_goes_away_is_no_error(daemon: Daemon) -> None:
    words = " ".join(command(daemon, "run", "busybox", "yes"))
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {words} | head -1"], capture_output=True, timeout=60,
                          check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"y\n", b"", 141)


def test_cidfile_is_written_once(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    assert here(daemon, "create", "--cidfile", str(file), "busybox").returncode == 0
    assert file.read_text() in daemon.containers
    again = hyperctl(daemon, "run", "--cidfile", str(file), "busybox")
    assert again.returncode == 125
    assert len(daemon.containers) == 1


def test_a_tty_needs_a_terminal_for_its_input(daemon: Daemon) -> None:
    done = hyperctl(daemon, "run", "-it", "busybox")
    assert (done.returncode, b"the input device is not a TTY" in done.stderr) == (125, True)
    assert not daemon.containers


def test_warnings_of_the_daemon_are_shown(daemon: Daemon) -> None:
    assert here(daemon, "create", "--name", "warned", "busybox").stderr == b"WARNING: a warning\n"


def test_exec_gives_output_and_exit_code(daemon: Daemon) -> None:
    daemon.add("web", ["sleep", "60"], start=True)
    done = hyperctl(daemon, "exec", "-i", "-e", "A=1", "web", "sh", "-c", "cat; echo $A >&2; exit 9", stdin=b"in")
    assert (done.stdout, done.stderr, done.returncode) == (b"in", b"1\n", 9)


def test_exec_of_what_is_not_there_is_127(daemon: Daemon) -> None:
    daemon.add("web", ["sleep", "60"], start=True)
    assert hyperctl(daemon, "exec", "web", "no-such-program-at-all").returncode == 127


def test_exec_detached_returns_at_once(daemon: Daemon) -> None:
    daemon.add("web", ["sleep", "60"], start=True)
    done = hyperctl(daemon, "exec", "-d", "web", "sleep", "60")
    assert (done.stdout, done.returncode) == (b"", 0)


def test_options_behind_the_image_belong_to_the_command(daemon: Daemon) -> None:
    assert hyperctl(daemon, "run", "busybox", "echo", "-d", "--rm").stdout == b"-d --rm\n"


def test_start_attached_and_logs(daemon: Daemon) -> None:
    here(daemon, "create", "-i", "--name", "web", "busybox", "sh", "-c", "cat; echo err >&2; exit 4")
    done = hyperctl(daemon, "start", "-ai", "web", stdin=b"in\n")
    assert (done.stdout, done.stderr, done.returncode) == (b"in\n", b"err\n", 4)
    log = here(daemon, "logs", "web")
    assert (log.stdout, log.stderr) == (b"in\n", b"err\n")


def test_attach_to_a_running_container(daemon: Daemon) -> None:
    hyperctl(daemon, "run", "-di", "--name", "web", "busybox", "sh", "-c", "cat; exit 5")
    done = hyperctl(daemon, "attach", "web", stdin=b"hello\n")
    assert (done.stdout, done.returncode) == (b"hello\n", 5)


def test_attach_to_a_stopped_container_says_what_to_do(daemon: Daemon) -> None:
    here(daemon, "create", "--name", "web", "busybox")
    done = here(daemon, "attach", "web")
    assert done.returncode == 1
    assert b"hyperctl start -a web" in done.stderr


def test_stop_rm_and_their_failures(daemon: Daemon) -> None:
    daemon.add("web", ["sleep", "60"], start=True)
    assert here(daemon, "stop", "web").stdout == b"web\n"
    done = here(daemon, "rm", "web", "other")
    assert (done.stdout, done.returncode) == (b"web\n", 1)
    assert done.stderr == b"Error response from daemon: No such container: other\n"


def test_wait_prints_exit_codes(daemon: Daemon) -> None:
    hyperctl(daemon, "run", "-d", "--name", "web", "busybox", "sh", "-c", "exit 6")
    assert here(daemon, "wait", "web").stdout == b"6\n"


def test_a_daemon_that_dies_meanwhile_is_told(daemon: Daemon) -> None:
    """The fake closes its streams, and its answer to the wait, without a word."""
    with subprocess.Popen(command(daemon, "run", "--name", "web", "busybox", "sh", "-c", "echo up; sleep 60"),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"up\n"
        daemon.cut()
        assert b"Lost the connection to hyperd" in process.stderr.read()
        assert process.wait(30) == 125
    assert daemon.find("web").process.running
