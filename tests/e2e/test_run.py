"""`hyperctl run`: what a newcomer types, and what comes back."""

from __future__ import annotations

import os

import pytest

from tests.harness import Daemon
from tests.images import BUSYBOX, USERS


def test_the_guest_has_a_kernel_of_its_own(daemon: Daemon) -> None:
    release = daemon.text("run", "--rm", BUSYBOX, "uname", "-r")
    assert release
    assert release != os.uname().release


def test_the_guests_clock_runs_as_fast_as_the_hosts(daemon: Daemon) -> None:
    """A guest that had to find out its clock's rate would get it wrong on a busy host, by a factor of up to 80."""
    script = "tr ' ' '\\n' </proc/cmdline | grep tsc_early; dmesg | grep -o 'tsc: Detected [0-9.]*'"
    lines = daemon.text("run", "--rm", "--privileged", BUSYBOX, "sh", "-c", script).splitlines()
    if not lines[0].startswith("tsc_early_khz="):
        pytest.skip("hardware virtualisation tells the guest its clock's rate")
    told, detected = int(lines[0].partition("=")[2]), float(lines[-1].rpartition(" ")[2])
    assert detected == pytest.approx(told / 1000, rel=0.001)


def test_output_error_and_exit_code_come_back_apart(daemon: Daemon) -> None:
    done = daemon.ctl("run", "--rm", BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 42", check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 42)


def test_nothing_is_left_after_rm(daemon: Daemon) -> None:
    daemon.ctl("run", "--rm", "--name", "gone", BUSYBOX, "true")
    assert daemon.text("ps", "-aq") == ""
    assert daemon.vms() == {}


@pytest.mark.parametrize(("argv", "code", "words"), [
    (("/no/such/command",), 127, "no such file"),
    (("no-such-command",), 127, "not found"),
    (("/etc/passwd",), 126, "permission denied"),
])
def test_a_command_that_cannot_start_has_the_shells_exit_code(daemon: Daemon, argv: tuple[str, ...], code: int,
                                                              words: str) -> None:
    done = daemon.ctl("run", "--rm", BUSYBOX, *argv, check=False)
    assert done.returncode == code
    assert words in done.stderr.decode().lower()


def test_a_wrong_option_is_125_and_names_it(daemon: Daemon) -> None:
    done = daemon.ctl("run", "--no-such-option", BUSYBOX, check=False)
    assert done.returncode == 125
    assert b"--no-such-option" in done.stderr


def test_a_killed_command_is_128_and_the_signal(daemon: Daemon) -> None:
    # The command is not PID 1 of its namespace, so that a signal without a handler ends it.
    done = daemon.ctl("run", "--rm", "--init", BUSYBOX, "sh", "-c", "kill -TERM $$; sleep 60", check=False)
    assert done.returncode == 143


def test_the_images_own_entry_point_user_directory_and_environment_hold(daemon: Daemon) -> None:
    assert daemon.text("run", "--rm", USERS).splitlines() == ["entry default", "alice", "/tmp", "plain"]


def test_options_win_over_the_image(daemon: Daemon) -> None:
    lines = daemon.text("run", "--rm", "-u", "root", "-w", "/etc", "-e", "FLAVOUR=spicy", USERS, "a", "b").splitlines()
    assert lines == ["entry a b", "root", "/etc", "spicy"]


def test_one_guest_shows_every_option_of_its_surroundings(daemon: Daemon) -> None:
    """Many promises, one boot: each line of the script is one of them."""
    script = """
        hostname; ulimit -n; cat /proc/self/status | grep -c 'CapEff:.0000000000000000'; id -u; id -G
        stat -f -c %T /scratch; df -m /scratch | tail -1 | awk '{print $2}'; touch /x 2>&1 | grep -o 'Read-only'
        touch /scratch/x && echo written; grep NoNewPrivs /proc/self/status | awk '{print $2}'; echo $A $B
    """
    lines = daemon.text(
        "run", "--rm", "--hostname", "guest-7", "--ulimit", "nofile=77:88", "--user", "1000:50", "--cap-drop", "ALL",
        "--tmpfs", "/scratch:size=8m", "--read-only", "--security-opt", "no-new-privileges", "-e", "A=1", "-e", "B=2 3",
        BUSYBOX, "sh", "-c", script).splitlines()
    assert lines == ["guest-7", "77", "1", "1000", "50", "tmpfs", "8", "Read-only", "written", "1", "1 2 3"]


def test_the_host_name_is_the_containers_short_id(daemon: Daemon) -> None:
    ident = daemon.text("create", BUSYBOX, "hostname")
    assert daemon.text("start", "-a", ident) == ident[:12]
    assert daemon.text("inspect", "--format", "{{.Config.Hostname}}", ident) == ident[:12]


def test_a_missing_image_is_named(daemon: Daemon) -> None:
    done = daemon.ctl("run", "--rm", "127.0.0.1:5000/nobody/nothing:7", "true", check=False)
    assert done.returncode == 125
    assert b"nobody/nothing" in done.stderr


def test_a_taken_name_is_refused_and_names_its_owner(daemon: Daemon) -> None:
    owner = daemon.text("create", "--name", "one", BUSYBOX)
    done = daemon.ctl("create", "--name", "one", BUSYBOX, check=False)
    assert done.returncode == 1
    assert owner[:12].encode() in done.stderr
    assert daemon.text("ps", "-aq", "--no-trunc") == owner
