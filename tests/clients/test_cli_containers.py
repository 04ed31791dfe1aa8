"""docker run, ps, stop, update and the other verbs of containers, as Docker's command line shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.clients.peers import LABEL, Cli, missing
from tests.harness import wait_until
from tests.images import BUSYBOX, USERS

ID = re.compile(r"[0-9a-f]{64}\Z")


def test_exit_codes_of_run(cli: Cli) -> None:
    assert cli("run", "--rm", BUSYBOX, "echo", "hi") == "hi"
    cli.run("run", "--rm", BUSYBOX, "sh", "-c", "exit 3", code=3)
    cli.run("run", "--rm", "--init", BUSYBOX, "sh", "-c", "kill -9 $$", code=137)
    assert "executable file not found in $PATH" in cli.fails("run", "--rm", BUSYBOX, "nosuch", code=127)
    assert "permission denied" in cli.fails("run", "--rm", BUSYBOX, "/etc", code=126)
    assert "no such file or directory" in cli.fails("run", "--rm", BUSYBOX, "/no/such", code=127).lower()
    said = cli.fails("run", "--rm", "127.0.0.1:5000/hs-none", code=125)
    assert "Unable to find image '127.0.0.1:5000/hs-none:latest' locally" in said
    assert "manifest for 127.0.0.1:5000/hs-none:latest not found: manifest unknown" in said
    assert "network hs-none not found" in cli.fails("run", "--rm", "--network", "hs-none", BUSYBOX, code=125)
    assert "invalid mount path: 'relative' mount path must be absolute" in cli.fails(
        "run", "--rm", "-v", "hs-v:relative", BUSYBOX, code=125)
    assert "unknown flag: --nosuch" in cli.fails("run", "--nosuch", BUSYBOX, code=125)
    assert "unable to find user hs-none: no matching entries in passwd file" in cli.fails(
        "run", "--rm", "-u", "hs-none", BUSYBOX, "true", code=125)


def test_options_of_run_reach_the_process(cli: Cli) -> None:
    script = "pwd; hostname; echo $A $B; id -u; id -G; cat /proc/sys/kernel/msgmax; ulimit -n; grep x.test /etc/hosts"
    out = cli.lines("run", "--rm", "-w", "/tmp", "-h", "named", "-e", "A=1", "-e", "B", "--env", "C=3", "-u",
                    "1000:1000",
                    "--group-add", "50", "--sysctl", "kernel.msgmax=4096", "--ulimit", "nofile=64:64",
                    "--add-host", "x.test:10.1.2.3", BUSYBOX, "sh", "-c", script)
    assert out == ["/tmp", "named", "1", "1000", "1000 50", "4096", "64", "10.1.2.3\tx.test"]
    assert cli("run", "--rm", "--entrypoint", "/bin/echo", USERS, "over") == "over"
    assert cli.lines("run", "--rm", USERS, "x") == ["entry x", "alice", "/tmp", "plain"]
    assert cli("run", "--rm", "--init", BUSYBOX, "cat", "/proc/self/stat").split()[3] == "1"
    assert "Read-only file system" in cli.fails("run", "--rm", "--read-only", BUSYBOX, "touch", "/x")
    assert cli("run", "--rm", "--read-only", "--tmpfs", "/t:size=1m", BUSYBOX, "sh", "-c",
               "echo 1 > /t/x; cat /t/x") == "1"
    assert cli("run", "--rm", "--shm-size", "8m", BUSYBOX, "sh", "-c",
               "df -k /dev/shm | tail -n 1").split()[1] == "8192"
    assert "Operation not permitted" in cli.fails("run", "--rm", "--cap-drop", "ALL", BUSYBOX, "chown", "1", "/tmp")
    assert cli("run", "--rm", "--dns", "10.9.9.9", "--dns-search", "y.test", BUSYBOX, "grep", "^search",
               "/etc/resolv.conf") == "search y.test"


def test_what_only_a_shared_kernel_can_do(cli: Cli) -> None:
    refusals = {("--network", "host"): cli.expect.host_network, ("--pid", "host"): cli.expect.host_processes}
    for option, wanted in refusals.items():
        if wanted:
            assert wanted in cli.fails("run", "--rm", *option, BUSYBOX, "true", code=125)
        else:
            cli("run", "--rm", *option, BUSYBOX, "true")


def test_the_list_of_containers(cli: Cli) -> None:
    ident = cli("run", "-d", "--name", "hs-one", "-p", "127.0.0.1:38081:80", "-l", "k=v", BUSYBOX, "sleep", "600")
    assert ID.match(ident)
    cli("create", "--name", "hs-two", BUSYBOX, "true")
    mine = ("--filter", "name=hs-")
    [row] = cli.table("ps", *mine)
    assert (row["CONTAINER ID"], row["IMAGE"], row["NAMES"]) == (ident[:12], BUSYBOX, "hs-one")
    assert (row["COMMAND"], row["PORTS"]) == ('"sleep 600"', "127.0.0.1:38081->80/tcp")
    assert re.match(r"Up (Less than a second|\d+ seconds?)\Z", row["STATUS"])
    assert [row["STATUS"].split()[0] for row in cli.table("ps", "-a", *mine)] == ["Created", "Up"]
    assert cli.lines("ps", "-aq", "--no-trunc", *mine)[1] == ident
    assert cli("ps", "-l", "--format", "{{.Names}} {{.State}}") == "hs-two created"
    assert cli("ps", "-n", "1", "--format", "{{.Names}}") == "hs-two"
    for filters, wanted in ((("status=created",), ["hs-two"]), (("label=k=v",), ["hs-one"]), (("label=none",), []),
                            (("ancestor=" + BUSYBOX, "status=running"), ["hs-one"]), (("id=" + ident[:8],), ["hs-one"]),
                            (("before=hs-two",), ["hs-one"]), (("since=hs-one",), ["hs-two"]),
                            (("publish=38081",), ["hs-one"]), (("network=bridge", "exited=0"), [])):
        asked = [word for one in filters for word in ("--filter", one)]
        assert cli.lines("ps", "-a", *mine, *asked, "--format", "{{.Names}}") == wanted, filters
    assert "invalid filter 'nosuch'" in cli.fails("ps", "--filter", "nosuch=1").lower()
    assert "invalid filter 'status=nosuch'" in cli.fails("ps", "--filter", "status=nosuch").lower()
    [row] = cli.table("ps", "-s", *mine)
    assert re.match(r"[\d.]+k?M?B \(virtual [\d.]+MB\)\Z", row["SIZE"])
    shown = cli("ps", *mine, "--format", "{{.Names}}|{{.Label \"k\"}}|{{.Networks}}|{{.Mounts}}|{{.LocalVolumes}}")
    assert shown == "hs-one|v|bridge||0"


def test_stop_start_kill_restart_and_what_they_say(cli: Cli) -> None:
    ident = cli("create", "--name", "hs-a", "--stop-signal", "KILL", BUSYBOX, "sleep", "600")
    assert f'The container name "/hs-a" is already in use by container "{ident}"' in cli.fails("create", "--name",
                                                                                               "hs-a", BUSYBOX)
    assert cli("start", "hs-a") == "hs-a"
    assert cli("start", "hs-a") == "hs-a"
    assert "stop the container before " in cli.fails("rm", "hs-a").lower()
    assert cli("stop", "-t", "5", "hs-a") == "hs-a"
    assert cli("stop", "hs-a") == "hs-a"
    assert "is not running" in cli.fails("kill", "hs-a")
    assert "is not running" in cli.fails("exec", "hs-a", "true")
    assert "is not running" in cli.fails("top", "hs-a")
    assert cli("restart", "-t", "0", "hs-a") == "hs-a"
    assert "invalid signal" in cli.fails("kill", "-s", "NOSUCH", "hs-a").lower()
    assert cli("kill", "--signal", "KILL", ident[:12]) == ident[:12]
    assert cli("wait", "hs-a") == "137"
    assert re.match(r"Exited \(137\) (Less than a second|\d+ seconds?|About a minute) ago\Z",
                    cli("ps", "-a", "--filter", "name=hs-a", "--format", "{{.Status}}"))
    assert cli("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Running}}",
               "hs-a") == "exited 137 false"
    assert cli("rm", "hs-a") == "hs-a"


@pytest.mark.parametrize(("options", "code", "words"), [
    (("--cpus", "1000"), 125, "range of cpus is from 0.01 to "),
    (("--memory", "1k"), 125, "minimum memory limit allowed is 6mb"),
    (("--memory", "64m", "--memory-swap", "32m"), 125, "minimum memoryswap limit should be larger than memory limit"),
    (("--cpuset-cpus", "4000"), 125, "requested cpus are not available - requested 4000, available: 0"),
    (("--network", "none", "--ip", "10.1.2.3"), 125, "ip address is supported on user"),
    (("--cap-add", "BAD"), 125, 'unknown capability: "cap_bad"'),
    (("--sysctl", "net.hs-none=1"), 127, "no such file or directory"),
    (("--restart", "never"), 125, "invalid restart policy: unknown policy 'never'"),
    (("--stop-signal", "NOSUCH"), 125, "invalid signal: nosuch"),
    (("-p", "127.0.0.1:99999:80"), 125, "invalid"),
    (("--ulimit", "nofile=10:5"), 125, "ulimit"),
    (("--tmpfs", "relative"), 125, "mount path must be absolute"),
    (("--pid", "container:hs-idle"), 125, " running"),
    (("--entrypoint", "/hs-none"), 127, "no such file or directory"),
    (("--entrypoint", "/etc/passwd"), 126, "permission denied")], ids=lambda value: " ".join(value)
    if isinstance(value, tuple) else "")
def test_mistakes_of_a_run(cli: Cli, options: tuple[str, ...], code: int, words: str) -> None:
    cli("create", "--name", "hs-idle", BUSYBOX)
    said = cli.fails("run", "--name", "hs-x", *options, BUSYBOX, "true", code=code)
    assert words in said.lower()
    assert "Error waiting for container" not in said, "it is told once"


@pytest.mark.parametrize("words", [
    ("ps", "--filter", "is-task=maybe"), ("ps", "--filter", "health=bad"),
    ("images", "--filter", "dangling=maybe"), ("network", "ls", "--filter", "type=bad"),
    ("volume", "ls", "--filter", "nosuch=1")], ids=" ".join)
def test_filters_that_mean_nothing(cli: Cli, words: tuple[str, ...]) -> None:
    said = cli.fails(*words).lower()
    assert "invalid filter" in said or "unrecognised filter" in said or "unrecognized filter" in said


def test_several_at_once_and_some_that_are_not_there(cli: Cli) -> None:
    for name in ("hs-a", "hs-b"):
        cli("run", "-d", "--name", name, BUSYBOX, "sleep", "600")
    assert cli.lines("stop", "-t", "0", "hs-a", "hs-b") == ["hs-a", "hs-b"]
    done = cli.run("rm", "hs-a", "hs-none", "hs-b", code=1)
    assert done.stdout.split() == ["hs-a", "hs-b"]
    assert missing("container", "hs-none", done.stderr)


@pytest.mark.parametrize("words", [
    ("rm",), ("start",), ("stop",), ("kill",), ("restart",), ("pause",), ("unpause",), ("logs",), ("attach",), ("top",),
    ("port",), ("diff",), ("wait",), ("export",), ("container", "inspect"), ("commit",)], ids=" ".join)
def test_no_such_container(cli: Cli, words: tuple[str, ...]) -> None:
    assert missing("container", "hs-none", cli.fails(*words, "hs-none"))


def test_no_such_container_among_more_words(cli: Cli) -> None:
    for words in (("exec", "hs-none", "true"), ("rename", "hs-none", "hs-x"), ("update", "-m", "64m", "hs-none"),
                  ("stats", "--no-stream", "hs-none")):
        assert missing("container", "hs-none", cli.fails(*words)), words
    said = cli.fails("cp", "hs-none:/x", "-")
    assert missing("container", "hs-none", said) or missing("container:path", "hs-none:/x", said)
    done = cli.run("inspect", "hs-none", code=1)
    assert done.stdout == "[]\n"
    assert "no such object: hs-none" in done.stderr.lower()
    assert missing("container", "hs-none", cli.run("rm", "-f", "hs-none").stderr)


def test_pause_and_unpause(cli: Cli) -> None:
    cli("run", "-d", "--name", "hs-p", BUSYBOX, "sleep", "600")
    assert cli("pause", "hs-p") == "hs-p"
    assert cli("ps", "--filter", "name=hs-p", "--format", "{{.Status}}").endswith("(Paused)")
    assert "is paused, unpause the container before exec" in cli.fails("exec", "hs-p", "true")
    assert "is already paused" in cli.fails("pause", "hs-p")
    assert "cannot start a paused container, try unpause instead" in cli.fails("start", "hs-p")
    assert cli("unpause", "hs-p") == "hs-p"
    assert "is not paused" in cli.fails("unpause", "hs-p")


def test_top_and_stats(cli: Cli) -> None:
    cli("run", "-d", "--name", "hs-t", "-m", "64m", BUSYBOX, "sleep", "600")
    [row] = cli.table("top", "hs-t")
    assert (row["UID"], row["CMD"]) == ("root", "sleep 600")
    assert [row["COMMAND"] for row in cli.table("top", "hs-t", "-o", "pid,comm")] == ["sleep"]
    [row] = cli.table("stats", "--no-stream", "hs-t")
    assert row["NAME"] == "hs-t"
    assert row["MEM USAGE / LIMIT"].endswith(" / 64MiB")
    assert int(row["PIDS"]) == 1
    assert "hs-t" in cli("stats", "--no-stream", "--all", "--format", "{{.Name}}").split()


def test_ports(cli: Cli) -> None:
    cli("run", "-d", "--name", "hs-p", "-p", "127.0.0.1:38082:80", "-p", "127.0.0.1::53/udp", "--expose", "99",
        BUSYBOX, "sleep", "600")
    assert cli("port", "hs-p", "80") == "127.0.0.1:38082"
    assert re.match(r"127\.0\.0\.1:\d+\Z", cli("port", "hs-p", "53/udp"))
    assert "80/tcp -> 127.0.0.1:38082" in cli.lines("port", "hs-p")
    assert "No public port '99" in cli.fails("port", "hs-p", "99")
    assert "99/tcp" in cli("ps", "--filter", "name=hs-p", "--format", "{{.Ports}}").split(", ")
    assert "port is already allocated" in cli.fails("run", "-d", "--name", "hs-q", "-p", "127.0.0.1:38082:80", BUSYBOX,
                                                    "sleep", "9", code=125)


def test_rename_and_update(cli: Cli) -> None:
    cli("run", "-d", "--name", "hs-a", "--restart", "on-failure:3", BUSYBOX, "sleep", "600")
    cli("create", "--name", "hs-taken", BUSYBOX)
    assert cli("rename", "hs-a", "hs-b") == ""
    assert "already in use" in cli.fails("rename", "hs-b", "hs-taken")
    assert "Renaming a container with the same name as its current name" in cli.fails("rename", "hs-b", "hs-b")
    assert "Invalid container name" in cli.fails("rename", "hs-b", "in/valid")
    said = cli.lines("update", "--memory", "64m", "--memory-swap", "64m", "--restart", "always", "hs-b")
    assert said[-1] == "hs-b"
    shown = cli("inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}}", "hs-b")
    assert shown == f"{64 << 20} always"
    assert "Minimum memory limit allowed is 6MB" in cli.fails("update", "--memory", "1k", "hs-b")


def test_inspect_shows_what_was_asked_for(cli: Cli) -> None:
    ident = cli("run", "-d", "--name", "hs-i", "-e", "A=1", "-l", "k=v", "--restart", "unless-stopped", "--cpus", "0.5",
                "-m", "64m", "--pids-limit", "99", "--cap-add", "NET_ADMIN", "-v", "hs-vol:/data:ro",
                "--stop-timeout", "3", "--health-cmd", "true", "--health-interval", "60s", BUSYBOX, "sleep", "600")
    [shown] = json.loads(cli("inspect", "hs-i"))
    host = shown["HostConfig"]
    assert (shown["Id"], shown["Name"], shown["Path"], shown["Args"]) == (ident, "/hs-i", "sleep", ["600"])
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (500_000_000, 64 << 20, 99)
    assert host["RestartPolicy"] == {"Name": "unless-stopped", "MaximumRetryCount": 0}
    assert host["Binds"] == ["hs-vol:/data:ro"]
    assert [cap.removeprefix("CAP_") for cap in host["CapAdd"]] == ["NET_ADMIN"]
    assert shown["Config"]["Healthcheck"]["Test"] == ["CMD-SHELL", "true"]
    assert shown["Config"]["StopTimeout"] == 3
    [mount] = shown["Mounts"]
    assert (mount["Type"], mount["Name"], mount["Destination"], mount["RW"]) == ("volume", "hs-vol", "/data", False)
    assert cli("inspect", "--type", "container", "-s", "-f", "{{.SizeRootFs}}", "hs-i").isdecimal()
    assert cli("container", "inspect", "-f", '{{index .Config.Labels "k"}} {{.RestartCount}}', "hs-i") == "v 0"
    assert host["Runtime"] == cli.expect.runtime


def test_a_health_check_is_shown(cli: Cli) -> None:
    cli("run", "-d", "--name", "hs-h", "--health-cmd", "test -e /well", "--health-interval", "100ms",
        "--health-retries", "1",
        BUSYBOX, "sleep", "600")
    shown = ("ps", "--filter", "name=hs-h", "--format", "{{.Status}}")
    wait_until(lambda: cli(*shown).endswith("(unhealthy)"), "it is not well")
    cli("exec", "hs-h", "touch", "/well")
    wait_until(lambda: cli(*shown).endswith("(healthy)"), "it is well")
    assert cli("ps", "-q", "--filter", "health=healthy", "--filter", "name=hs-h") != ""


def test_a_container_that_removes_itself_takes_its_anonymous_volumes_along(cli: Cli) -> None:
    before = set(cli.lines("volume", "ls", "-q"))
    cli("run", "--rm", "-v", "/anonymous", "-v", "hs-kept:/kept", BUSYBOX, "true")
    wait_until(lambda: set(cli.lines("volume", "ls", "-q")) == before | {"hs-kept"}, "its anonymous volume is gone")


def test_containers_that_share(cli: Cli) -> None:
    cli("run", "-d", "--name", "hs-x", "--ipc", "shareable", BUSYBOX, "sh", "-c",
        "echo kept > /dev/shm/f; while true; do echo served | nc -l -p 7000; done")
    fetch = "until nc 127.0.0.1 7000; do sleep 0.1; done"
    assert cli("run", "--rm", "--network", "container:hs-x", BUSYBOX, "sh", "-c", fetch) == "served"
    assert "nc -l -p 7000" in cli("run", "--rm", "--pid", "container:hs-x", BUSYBOX, "ps")
    assert cli("run", "--rm", "--ipc", "container:hs-x", BUSYBOX, "cat", "/dev/shm/f") == "kept"
    assert missing("container", "hs-none", cli.fails("run", "--rm", "--network", "container:hs-none", BUSYBOX,
                                                     code=125))
    assert "conflicting options" in cli.fails("run", "--rm", "--network", "container:hs-x", "-p", "80", BUSYBOX,
                                              code=125)


def test_files_of_the_host(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("read\n")
    there = f"{tmp_path}:/there"
    assert cli("run", "--rm", "-v", there, BUSYBOX, "sh", "-c", "cat /there/in; echo written > /there/out") == "read"
    assert (tmp_path / "out").read_text() == "written\n"
    assert "Read-only file system" in cli.fails("run", "--rm", "-v", f"{there}:ro", BUSYBOX, "touch", "/there/x")
    assert cli("run", "--rm", "-v", f"{tmp_path}/in:/file:ro", BUSYBOX, "cat", "/file") == "read"
    mount = f"type=bind,source={tmp_path}/none,target=/there"
    said = cli.fails("run", "--rm", "--mount", mount, BUSYBOX, code=125)
    assert f"bind source path does not exist: {tmp_path}/none" in said


def test_prune_of_containers(cli: Cli) -> None:
    gone = cli("create", "--name", "hs-gone", "-l", LABEL, BUSYBOX)
    cli("create", "--name", "hs-kept", BUSYBOX)
    assert gone in cli("container", "prune", "-f", "--filter", f"label={LABEL}")
    assert cli.lines("ps", "-a", "--filter", "name=hs-", "--format", "{{.Names}}") == ["hs-kept"]
    assert "Total reclaimed space: 0B" in cli("container", "prune", "-f", "--filter", f"label={LABEL}")
