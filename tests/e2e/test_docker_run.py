"""What `docker run`, `create`, `exec` and `update` can ask for, seen from inside a guest."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.docker import SLEEP, complaint, inspect, text
from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX, USERS


def test_one_guest_shows_what_it_was_asked_for(daemon: Daemon) -> None:
    """Many promises, one boot: each line of the script is one of them."""
    script = """
        hostname; cat /proc/sys/kernel/domainname; cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/msgmax
        grep -E 'db|here' /etc/hosts | grep -v 127; cat /etc/resolv.conf
        id -Gn; cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn; df -k /dev/shm | awk 'NR == 2 {print $2}'
        cat /sys/fs/cgroup/memory.low /sys/fs/cgroup/pids.max; nproc; cat /proc/1/comm
        awk '/CapEff/ {print $2}' /proc/self/status; touch /etc/x 2>&1 | grep -o Read-only
        mount | grep -c 'on /scratch'
    """
    lines = text(
        daemon, "run", "--rm", "--hostname", "guest-8", "--domainname", "example.org", "--sysctl",
        "net.ipv4.ip_local_port_range=2000 3000", "--sysctl", "kernel.msgmax=4000", "--add-host", "db:10.1.2.3",
        "--add-host", "here:host-gateway", "--dns", "192.0.2.53", "--dns-search", "example.org", "--dns-option",
        "timeout:1", "--group-add", "staff", "--group-add", "77", "--oom-score-adj", "300", "--ulimit",
        "nofile=70:80", "--shm-size", "12m", "-m", "64m", "--memory-reservation", "16m", "--pids-limit", "50", "--cpus",
        "1", "--init", "--cap-drop", "ALL", "--cap-add", "NET_RAW", "--read-only", "--tmpfs", "/scratch:size=1m",
        "--userns", "host", BUSYBOX, "sh", "-c", script).splitlines()
    gateway = lines[5].split()[0]
    assert lines == ["guest-8", "example.org", "2000\t3000", "4000", "10.1.2.3\tdb", f"{gateway}\there",
                     "nameserver 192.0.2.53", "search example.org", "options timeout:1", "root staff 77", "300", "70",
                     "80", "12288", str(16 << 20), "50", "1", "init", "0000000000002000", "Read-only", "1"]
    assert gateway.endswith(".1")


def test_cpus_of_the_host_can_be_chosen(daemon: Daemon) -> None:
    all_of_them = sorted(os.sched_getaffinity(0))
    last = str(all_of_them[-1])
    daemon.docker_cli("run", "-d", "--name", "pinned", "--cpuset-cpus", last, BUSYBOX, *SLEEP)
    wait_until(lambda: len(daemon.vms()) == 1, "those before it have ended")
    [vm] = daemon.vms()
    threads = [int(thread.name) for thread in Path(f"/proc/{vm}/task").iterdir()]
    assert {frozenset(os.sched_getaffinity(thread)) for thread in threads} == {frozenset({int(last)})}
    assert inspect(daemon, "pinned")["HostConfig"]["CpusetCpus"] == last
    daemon.docker_cli("update", "--cpuset-cpus", f"0-{last}", "pinned")
    assert os.sched_getaffinity(vm) == set(all_of_them)
    assert "Requested CPUs are not available - requested 8000" in complaint(
        daemon, "run", "--cpuset-cpus", "8000", BUSYBOX)


def test_users_and_groups_are_the_images_own(daemon: Daemon) -> None:
    assert text(daemon, "run", "--rm", "-u", "alice:staff", BUSYBOX, "id") == (
        "uid=1000(alice) gid=50(staff) groups=50(staff)")
    assert "unable to find group nosuch" in complaint(daemon, "run", "--rm", "--group-add", "nosuch", BUSYBOX)
    assert "unable to find user nobody-here" in complaint(daemon, "run", "--rm", "-u", "nobody-here", BUSYBOX)


def test_limits_are_changed_and_lifted_while_it_runs(daemon: Daemon) -> None:
    daemon.docker_cli("run", "-d", "--name", "box", "-m", "64m", "--pids-limit", "40", BUSYBOX, *SLEEP)
    show = ("exec", "box", "sh", "-c", "cd /sys/fs/cgroup; cat memory.max memory.low pids.max cpu.max cpu.weight")
    daemon.docker_cli("update", "-m", "48m", "--memory-swap", "-1", "--memory-reservation", "8m", "--pids-limit", "70",
                      "--cpus", "0.5", "--cpu-shares", "2", "--restart", "on-failure:4", "box")
    assert text(daemon, *show).split() == [str(48 << 20), str(8 << 20), "70", "50000", "100000", "1"]
    daemon.docker_cli("update", "--pids-limit", "-1", "box")
    assert text(daemon, *show).split()[2] == "max"
    found = inspect(daemon, "box")["HostConfig"]
    assert (found["Memory"], found["NanoCpus"], found["RestartPolicy"]) == (
        48 << 20, 500_000_000, {"Name": "on-failure", "MaximumRetryCount": 4})
    told = complaint(daemon, "update", "-m", "4t", "--memory-swap", "-1", "box")
    assert "The running machine can have" in told
    assert "a limit of 4194304 MiB does not fit" in told
    daemon.docker_cli("stop", "-t", "0", "box")
    daemon.docker_cli("update", "-m", "80m", "--memory-swap", "-1", "box")
    daemon.docker_cli("start", "box")
    assert text(daemon, *show).split()[0] == str(80 << 20)


def test_a_running_container_is_renamed(daemon: Daemon) -> None:
    daemon.docker_cli("run", "-d", "--name", "before", BUSYBOX, *SLEEP)
    daemon.docker_cli("rename", "before", "after")
    assert text(daemon, "exec", "after", "echo", "here") == "here"
    assert "No such container: before" in complaint(daemon, "stop", "before")
    daemon.docker_cli("run", "-d", "--name", "before", BUSYBOX, *SLEEP)
    assert "is already in use" in complaint(daemon, "rename", "before", "after")


def test_signals_and_grace_are_the_containers_and_the_callers(daemon: Daemon) -> None:
    script = "for s in TERM INT USR1; do trap \"echo $s; exit 5\" $s; done; echo up; while :; do sleep 0.1; done"

    def ready(name: str) -> bool:
        return text(daemon, "logs", name) == "up"

    for name, options, stop, said in (("own", ("--stop-signal", "INT"), (), "INT"),
                                      ("asked", (), ("-s", "USR1"), "USR1")):
        daemon.docker_cli("run", "-d", "--name", name, *options, BUSYBOX, "sh", "-c", script)
        wait_until(partial(ready, name), "the traps are set")
        daemon.docker_cli("stop", *stop, name)
        assert text(daemon, "logs", name) == f"up\n{said}"
        assert inspect(daemon, name)["State"]["ExitCode"] == 5
    daemon.docker_cli("run", "-d", "--name", "deaf", "--stop-timeout", "1", BUSYBOX, *SLEEP)
    begun = time.monotonic()
    daemon.docker_cli("stop", "deaf")
    assert time.monotonic() - begun < 9  # not Docker's ten
    assert inspect(daemon, "deaf")["State"]["ExitCode"] == 137


def test_wait_has_three_conditions(daemon: Daemon) -> None:
    daemon.docker_cli("create", "--name", "short", "--rm", BUSYBOX, "sh", "-c", "exit 6")
    with daemon.sdk() as client:
        api = client.api
        url = api._url("/containers/{0}/wait", "short")
        assert api.wait("short", condition="not-running") == {"StatusCode": 0}
        waiting = {condition: api._post(url, params={"condition": condition}, stream=True)
                   for condition in ("next-exit", "removed")}
        daemon.docker_cli("start", "short")
        assert {condition: json.loads(answer.content)["StatusCode"] for condition, answer in waiting.items()} == {
            "next-exit": 6, "removed": 6}
    assert "No such container" in complaint(daemon, "wait", "short")
    assert "short" not in text(daemon, "ps", "-a", "--format", "{{.Names}}")


def test_what_ends_with_rm_takes_its_anonymous_volumes_along(daemon: Daemon) -> None:
    before = text(daemon, "volume", "ls", "-q")
    daemon.docker_cli("run", "-d", "--name", "brief", "--rm", "-v", "/anonymous", "-v", "named:/named", BUSYBOX, "true")
    wait_until(lambda: text(daemon, "ps", "-aq") == "", "it is gone")
    wait_until(lambda: text(daemon, "volume", "ls", "-q").split() == [*before.split(), "named"], "and its volume")
    daemon.docker_cli("volume", "rm", "named")


def test_top_takes_what_ps_takes(daemon: Daemon) -> None:
    daemon.docker_cli("run", "-d", "--name", "busy", BUSYBOX, "sh", "-c", "sleep 1000 & exec sleep 100000")
    columns = ("-o", "pid,ppid,user,args")
    wait_until(lambda: "exec" not in text(daemon, "top", "busy", *columns), "both commands run")
    lines = text(daemon, "top", "busy", *columns).splitlines()
    assert lines[0].split() == ["PID", "PPID", "USER", "COMMAND"]
    assert sorted(line.split(maxsplit=3)[3] for line in lines[1:]) == ["sleep 1000", "sleep 100000"]
    assert text(daemon, "top", "busy").splitlines()[0].split()[:2] == ["UID", "PID"]
    assert text(daemon, "top", "busy", "aux").splitlines()[0].split()[:2] == ["USER", "PID"]


def test_an_exec_has_options_of_its_own(daemon: Daemon) -> None:
    daemon.docker_cli("run", "-d", "--name", "box", "-e", "A=1", "--cap-drop", "ALL", USERS, *SLEEP)
    daemon.docker_cli("run", "-d", "--name", "plain", "--cap-drop", "ALL", BUSYBOX, *SLEEP)
    script = "echo $A $B; pwd; id -un; awk '/CapEff/ {print $2}' /proc/self/status"
    said = text(daemon, "exec", "-e", "A=2", "-e", "B=3", "-w", "/etc", "-u", "alice:staff", "plain", "sh", "-c",
                script)
    assert said.splitlines() == ["2 3", "/etc", "alice", "0" * 16]
    assert text(daemon, "exec", "--privileged", "plain", "sh", "-c", script).splitlines()[-1] != "0" * 16
    daemon.docker_cli("exec", "-d", "plain", "sh", "-c", "echo done >/tmp/left")
    wait_until(lambda: text(daemon, "exec", "plain", "cat", "/tmp/left") == "done", "the detached one ran")


def test_an_init_reaps_and_passes_signals_on(daemon: Daemon) -> None:
    # Orphans that have ended would stay as zombies under a process that waits for nobody.
    script = "for i in 1 2 3; do (sleep 0.1 & ) ; done; trap 'exit 4' TERM; echo up; while :; do sleep 0.2; done"
    daemon.docker_cli("run", "-d", "--name", "tidy", "--init", BUSYBOX, "sh", "-c", script)
    wait_until(lambda: text(daemon, "logs", "tidy") == "up", "it runs")
    zombies = "grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"
    wait_until(lambda: text(daemon, "exec", "tidy", "sh", "-c", zombies) == "0", "nobody is left unreaped")
    daemon.docker_cli("stop", "tidy")
    assert inspect(daemon, "tidy")["State"]["ExitCode"] == 4


@pytest.mark.parametrize(("options", "words"), [
    (("--device", "/dev/sda"), "HostConfig.Devices is not supported"),
    (("--gpus", "all"), "HostConfig.DeviceRequests is not supported"),
    (("--device-cgroup-rule", "c 1:1 rwm"), "HostConfig.DeviceCgroupRules is not supported"),
    (("--blkio-weight", "300"), "HostConfig.BlkioWeight=300 is not supported"),
    (("--oom-kill-disable",), "HostConfig.OomKillDisable"),
    (("--cgroup-parent", "/x"), "HostConfig.CgroupParent=/x is not supported"),
    (("--uts", "host"), "HostConfig.UTSMode=host is not supported"),
    (("--cpuset-mems", "1"), "HostConfig.CpusetMems=1 is not supported"),
    (("--memory-swappiness", "10"), "HostConfig.MemorySwappiness=10 is not supported"),
    (("--network", "none", "--add-host", "x:host-gateway"), "unable to derive the IP value for host-gateway"),
])
def test_what_a_vm_cannot_honour_is_refused_by_the_client_as_well(daemon: Daemon, options: tuple[str, ...], words: str
                                                                 ) -> None:
    assert words in complaint(daemon, "run", "--rm", *options, BUSYBOX, "true")


# --- logs ---

def test_logs_of_a_driver_that_keeps_none_are_refused_but_seen(daemon: Daemon) -> None:
    said = daemon.docker_cli("run", "--name", "secret", "--log-driver", "none", BUSYBOX, "sh", "-c",
                             "echo out; echo err >&2")
    assert (said.stdout, said.stderr) == (b"out\n", b"err\n")
    assert "configured logging driver does not support reading" in complaint(daemon, "logs", "secret")
    assert inspect(daemon, "secret")["HostConfig"]["LogConfig"] == {"Type": "none", "Config": {}}
    assert daemon.docker_cli("start", "-a", "secret").stdout == b"out\n"


def test_logs_turn_over_and_are_packed(daemon: Daemon) -> None:
    daemon.docker_cli("run", "--name", "wordy", "--log-driver", "local", "--log-opt", "max-size=100k", "--log-opt",
                      "max-file=3", "-d", BUSYBOX, "seq", "1", "100000")
    daemon.docker_cli("wait", "wordy")
    lines = text(daemon, "logs", "wordy").split()
    assert lines == [str(number) for number in range(100001 - len(lines), 100001)]
    assert 1000 < len(lines) < 100000
    assert text(daemon, "logs", "--tail", "5000", "wordy").split() == lines[-5000:]
    pod = inspect(daemon, "wordy")["HyperStack"]["Pod"]
    files = list((daemon.state / "pods" / pod).glob("*.log*"))
    assert len({file.name.removesuffix(".gz") for file in files}) <= 3
    assert sum(file.stat().st_size for file in files) < 1 << 20
    assert "invalid max-file" in complaint(daemon, "create", "--log-opt", "max-file=x", BUSYBOX)


def test_details_of_a_log_are_what_its_options_name(daemon: Daemon) -> None:
    daemon.docker_cli("run", "--name", "told", "--label", "tier=front end", "--label", "other=1", "-e", "STAGE=test",
                      "--log-opt", "labels=tier,absent", "--log-opt", "env=STAGE", "--log-opt", "tag={{.Name}}/{{.ID}}",
                      BUSYBOX, "echo", "line")
    ident = inspect(daemon, "told")["Id"][:12]
    assert text(daemon, "logs", "--details", "told") == f"STAGE=test,tag=told%2F{ident},tier=front+end line"
    assert text(daemon, "logs", "told") == "line"


def test_the_tail_of_one_stream_and_times(daemon: Daemon) -> None:
    daemon.docker_cli("run", "--name", "two", BUSYBOX, "sh", "-c",
                      "for i in 1 2 3; do echo o$i; echo e$i >&2; sleep 0.3; done")
    with daemon.sdk() as client:
        one = client.containers.get("two")
        assert one.logs(stdout=False, stderr=True, tail=2) == b"e2\ne3\n"
        assert one.logs(stdout=True, stderr=False, tail=1) == b"o3\n"
        stamps = [line.split()[0] for line in one.logs(stderr=False, timestamps=True).decode().splitlines()]
    assert stamps == sorted(stamps)
    assert text(daemon, "logs", "--tail", "0", "two") == ""
    assert daemon.docker_cli("logs", "--since", stamps[1], "two").stdout == b"o2\no3\n"
    assert daemon.docker_cli("logs", "--until", stamps[1], "two").stdout.startswith(b"o1\n")
    assert b"o3" not in daemon.docker_cli("logs", "--until", stamps[1], "two").stdout
    both = daemon.docker_cli("logs", "--since", stamps[1], "--tail", "1", "two")
    assert both.stdout + both.stderr in (b"o3\n", b"e3\n")


def test_a_follower_from_the_end_sees_what_comes_alone(daemon: Daemon) -> None:
    daemon.docker_cli("run", "-d", "--name", "late", BUSYBOX, "sh", "-c",
                      "echo early; while [ ! -e /go ]; do sleep 0.1; done; echo late")
    wait_until(lambda: text(daemon, "logs", "late") == "early", "it wrote")
    with daemon.sdk() as client:
        stream = client.containers.get("late").logs(stream=True, follow=True, tail=0)
        daemon.docker_cli("exec", "late", "touch", "/go", check=False)  # it may end with the container
        assert b"".join(stream) == b"late\n"


# --- events ---

def test_attaching_detaching_and_pruning_are_told(daemon: Daemon) -> None:
    since = str(time.time())
    daemon.docker_cli("run", "--name", "seen", BUSYBOX, "true")
    daemon.docker_cli("container", "prune", "-f")
    told = text(daemon, "events", "--since", since, "--until", str(time.time()), "--filter", "type=container",
                "--format", "{{.Action}}").splitlines()
    assert told == ["create", "attach", "start", "die", "destroy", "prune"]


def test_the_detach_keys_of_a_client_that_leaves_them_to_the_daemon_are_told(daemon: Daemon) -> None:
    daemon.docker_cli("run", "-dit", "-u", "1000", "--name", "kept", BUSYBOX, "sh")
    since = str(time.time())
    with daemon.sdk() as client:
        api = client.api
        ident = api.exec_create("kept", ["sh"], stdin=True, tty=True)["Id"]
        assert api.exec_inspect(ident)["ProcessConfig"]["user"] == "1000", "it is the container's"
        for connect in (partial(api.attach_socket, "kept", params={"stdin": 1, "stdout": 1, "stream": 1}),
                        partial(api.exec_start, ident, tty=True, socket=True)):
            stream = connect()
            stream._sock.sendall(b"\x10\x11")
            while stream._sock.recv(4096):
                pass
            stream.close()
        wait_until(lambda: "exec_detach" in events(daemon, since), "both have left")
    assert [action.partition(":")[0] for action in events(daemon, since)] == [
        "exec_create", "attach", "detach", "exec_start", "exec_detach"]
    assert inspect(daemon, "kept")["State"]["Running"] is True


def events(daemon: Daemon, since: str) -> list[str]:
    """The container's, in their order, but for sizes of terminals."""
    told = text(daemon, "events", "--since", since, "--until", str(time.time()), "--filter", "container=kept",
                "--format", "{{.Action}}")
    return [action for action in told.splitlines() if action != "resize"]
