"""What the commands print: side by side with the real docker CLI where there is one, and in their own words."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli_daemon import Daemon, Refused
from tests.unit.cli_process import here, hyperctl

needs_docker = pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not installed")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    served = Daemon(tmp_path)
    yield served
    served.close()


def docker(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["docker", "-H", daemon.socket, *words], capture_output=True, timeout=60, check=False,
                          env={**os.environ, "DOCKER_API_VERSION": "1.44"})


DOCKERS_COLUMNS = (r"table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}"
                   r"\t{{.PIDs}}")
"""Of `stats`; we have one more."""

SIDE_BY_SIDE = [
    ("ps",), ("ps", "-a"), ("ps", "-aq"), ("ps", "-aq", "--no-trunc"), ("ps", "-a", "--no-trunc"),
    ("ps", "-a", "--format", "table {{.ID}}\\t{{.Names}}\\t{{.Ports}}"),
    ("ps", "-a", "--format", '{{.Names}} {{.Label "com.example"}} {{upper .State}} {{.Networks}}'),
    ("ps", "-a", "--format", "{{json .Labels}}"),
    ("container", "ls", "-a"), ("images",), ("images", "-q"), ("image", "ls", "--no-trunc"), ("images", "--digests"),
    ("images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"), ("port", "web"), ("port", "web", "80"),
    ("port", "web", "80/tcp"), ("port", "web", "443"), ("logs", "done"), ("wait", "done"), ("rm", "none"),
    ("inspect", "--type", "container", "-f", "{{.State.Running}} {{.Name}}", "web"),
    ("inspect", "--type", "container", "-f", "{{json .Config.Labels}}", "web"),
    ("inspect", "--type", "container", "-f", "{{range $p, $c := .NetworkSettings.Ports}}{{$p}}={{len $c}} {{end}}",
     "web"),
    ("top", "web"), ("stats", "--no-stream", "--format", DOCKERS_COLUMNS, "web"),
    ("stats", "--no-stream", "--format", "{{.Name}} {{.MemPerc}}", "web"),
    ("diff", "web"), ("history", "busybox"), ("history", "-q", "busybox"), ("volume", "ls"), ("volume", "ls", "-q"),
    ("volume", "create", "v"), ("rmi", "busybox"), ("tag", "busybox", "host:5000/x:1"), ("container", "prune", "-f"),
    ("image", "prune", "-af"), ("volume", "prune", "-f"), ("events", "--until", "1700000001"), ("system", "df"),
    ("update", "--memory", "64m", "web"), ("pull", "-q", "alpine:3"), ("pull", "alpine"), ("rename", "web", "site"),
]


@pytest.fixture
def populated(daemon: Daemon) -> Daemon:
    ident = daemon.add("web", ["sleep", "60"], start=True, Labels={"com.example": "yes"}).id
    done = daemon.add("done", ["sh", "-c", "echo one; echo two >&2; exit 3 # a long command"], start=True)
    assert done.process.ended.wait(30)
    daemon.answers = {
        ("GET", "/containers/web/top"): {"Titles": ["PID", "CMD"], "Processes": [["1", "sleep 60"], ["22", "sh"]]},
        ("GET", "/containers/web/stats"): {
            "id": ident, "name": "/web", "memory_stats": {"usage": 3 << 20, "limit": 128 << 20, "stats": {}},
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "networks": {"eth0": {"rx_bytes": 1234, "tx_bytes": 5}}, "pids_stats": {"current": 2},
            "blkio_stats": {"io_service_bytes_recursive": [
                {"op": "read", "value": 4096}, {"op": "write", "value": 0}]}},
        ("GET", "/containers/web/changes"): [{"Kind": 1, "Path": "/new"}, {"Kind": 0, "Path": "/etc"}],
        ("GET", "/images/busybox/history"): [{
            "Id": "sha256:" + "a" * 64, "Created": 1700000000,
            "CreatedBy": "/bin/sh -c #(nop)  CMD [\"sh\"] and much more", "Size": 4260000, "Comment": ""}],
        ("GET", "/volumes"): {"Volumes": [{"Name": "b", "Driver": "local"}, {"Name": "a", "Driver": "local"}]},
        ("POST", "/volumes/create"): {"Name": "v"},
        ("DELETE", "/images/busybox"): [{"Untagged": "busybox:latest"}, {"Deleted": "sha256:" + "1" * 64}],
        ("POST", "/images/busybox/tag"): {}, ("POST", "/containers/web/rename"): {},
        ("POST", "/containers/prune"): {"ContainersDeleted": ["x", "y"], "SpaceReclaimed": 2048},
        ("POST", "/images/prune"): {
            "ImagesDeleted": [{"Untagged": "a:1"}, {"Deleted": "sha256:b"}], "SpaceReclaimed": 5},
        ("POST", "/volumes/prune"): {"VolumesDeleted": [], "SpaceReclaimed": 0},
        ("POST", "/containers/web/update"): {"Warnings": []},
        ("GET", "/events"): {
            "Type": "container", "Action": "start", "time": 1700000000, "timeNano": 1700000000123456789,
            "Actor": {"ID": "abc", "Attributes": {"name": "web", "image": "busybox"}}},
        ("GET", "/system/df"): {
            "LayersSize": 5000000, "BuildCache": [],
            "Images": [{"Id": "sha256:" + "1" * 64, "Size": 4000000, "SharedSize": 0, "Containers": 2},
                       {"Id": "sha256:" + "2" * 64, "Size": 1000000, "SharedSize": 0, "Containers": 0}],
            "Containers": [{"Id": "1", "ImageID": "sha256:" + "1" * 64, "State": "running", "SizeRw": 10},
                           {"Id": "2", "ImageID": "sha256:" + "1" * 64, "State": "exited", "SizeRw": 30}],
            "Volumes": [{"Name": "v", "UsageData": {"Size": 100, "RefCount": 1}},
                        {"Name": "w", "UsageData": {"Size": 300, "RefCount": 0}}]},
    }
    return daemon


@needs_docker
@pytest.mark.parametrize("words", SIDE_BY_SIDE, ids=" ".join)
def test_prints_what_docker_prints(populated: Daemon, words: tuple[str, ...]) -> None:
    theirs, ours = docker(populated, *words), here(populated, *words)
    assert (ours.stdout, ours.stderr, ours.returncode) == (theirs.stdout, theirs.stderr, theirs.returncode)
    assert ours.stdout or ours.stderr or words[0] in ("tag", "rename")


def test_stats_have_dockers_columns_and_what_the_pod_costs_the_host(populated: Daemon) -> None:
    ident = next(ident for ident, one in populated.containers.items() if one.name == "web")
    title, line = here(populated, "stats", "--no-stream", "web").stdout.decode().splitlines()
    assert re.split(r" {2,}", title) == ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O",
                                         "BLOCK I/O", "PIDS", "HOST MEM (PSS)"]
    assert line.endswith(" 2         --"), "this daemon does not tell"
    populated.answers["GET", "/hyperstack/v1/stats"] = [
        {"id": "b", "name": "web", "host": {"pss_bytes": 40 << 20}, "containers": [ident, "c" * 64]}]
    assert here(populated, "stats", "--no-stream", "web").stdout.decode().rstrip().endswith(" 40MiB")
    shown = here(populated, "stats", "--no-stream", "--format", "{{.Name}} {{.HostMem}}", "web")
    assert shown.stdout == b"web 40MiB\n"
    assert json.loads(here(populated, "stats", "--no-stream", "--format", "json", "web").stdout)["HostMem"] == "40MiB"
    populated.answers["GET", "/hyperstack/v1/stats"] = Refused(503, "it is going down")
    assert b"it is going down" in here(populated, "stats", "--no-stream", "web").stderr


@needs_docker
@pytest.mark.parametrize("words", [
    ("run", "--rm", "busybox", "no-such-program"), ("run", "--name", "web", "busybox"),
    ("exec", "done", "sh", "-c", "exit 4"), ("exec", "none", "sh"), ("kill", "none"), ("stop", "-t", "abc", "x"),
    ("run",), ("rm",), ("nonsense",), ("ps", "--nonsense"), ("ps", "extra"), ("logs",), ("image", "nonsense"),
], ids=" ".join)
def test_exits_as_docker_does(populated: Daemon, words: tuple[str, ...]) -> None:
    theirs = docker(populated, *words)
    ours = (hyperctl if words[0] in ("run", "exec") else here)(populated, *words)
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)


@needs_docker
def test_asks_for_the_same_container_as_docker(populated: Daemon) -> None:
    words = [
        "create", "--name", "x", "-it", "-e", "A=1", "-w", "/tmp", "-u", "1:2", "-m", "64m", "--cpus", "1.5",
        "-v", "/h:/c:ro", "-v", "/anonymous", "--tmpfs", "/t:size=1m", "-p", "8080:80", "-p", "127.0.0.1::53/udp", "-P",
        "-h", "host", "-l", "a=b", "--restart", "on-failure:2", "--read-only", "--cap-add", "CAP_KILL", "--cap-drop",
        "ALL", "--ulimit", "nofile=10:20", "--stop-signal", "USR1", "--stop-timeout", "3", "--privileged",
        "--security-opt", "no-new-privileges", "--dns", "1.1.1.1", "--add-host", "a:1.2.3.4", "--init", "--shm-size",
        "1m", "--sysctl", "net.a=1", "--pids-limit", "9", "--log-opt", "max-size=1m", "--storage-opt", "size=1G",
        "--mount", "type=tmpfs,target=/m,tmpfs-size=1m", "--entrypoint", "/bin/e", "--expose", "99", "--group-add", "5",
        "--annotation", "k=v", "busybox", "one", "--two"]
    bodies = []
    for program in (docker, here):
        assert program(populated, *words).returncode == 0
        bodies.append(_without_defaults(populated.asked("POST", "/containers/create").json()))
        here(populated, "rm", "x")
    theirs, ours = bodies
    assert ours == theirs


def _without_defaults(value: object) -> object:
    """A body without what says nothing (null, empty, zero), and without Docker's own way to write a default."""
    if not isinstance(value, dict):
        return value
    said = {key: _without_defaults(item) for key, item in value.items()
            if (key, item) not in (("MemorySwappiness", -1), ("ConsoleSize", [0, 0]))}
    return {key: item for key, item in said.items()
            if item not in (None, "", 0, False, [], {}) or key in ("80/tcp", "53/udp", "99/tcp", "/anonymous")}


def test_version_shows_both_ends(daemon: Daemon) -> None:
    done = here(daemon, "version")
    assert re.search(rb"Client: hyperctl\n Version: +0\.1\.0\n", done.stdout)
    assert re.search(rb"Server: hyperd\n Version: +0\.1\.0\n", done.stdout)
    assert here(daemon, "version", "-f", "{{.Server.ApiVersion}}").stdout == b"1.44\n"


def test_without_a_daemon_it_says_how_to_start_one(daemon: Daemon, tmp_path: Path) -> None:
    done = here(daemon, "-H", f"unix://{tmp_path}/none", "ps")
    assert done.returncode == 1
    assert b"Cannot connect to hyperd at unix://" in done.stderr
    assert b"systemctl start hyperd" in done.stderr
    assert here(daemon, "-H", f"unix://{tmp_path}/none", "run", "busybox").returncode == 125
    assert b"a unix socket" in here(daemon, "-H", "tcp://1.2.3.4:1", "ps").stderr


def test_doctor_shows_remedies_and_fails_where_a_check_fails(daemon: Daemon) -> None:
    daemon.answers["GET", "/hyperstack/v1/doctor"] = {"findings": [
        {"name": "accelerator", "status": "ok", "detail": "KVM boots a guest", "remedy": ""},
        {"name": "disk", "status": "fail", "detail": "1 MB left", "remedy": "make room in /var"}]}
    done = here(daemon, "doctor")
    assert done.returncode == 1
    assert done.stdout.decode().splitlines() == [
        "ok   accelerator  KVM boots a guest", "fail disk         1 MB left",
        "                  -> make room in /var"]
    assert here(daemon, "doctor", "--format", "{{.name}}").stdout == b"accelerator\ndisk\n"


def test_inspect_prints_what_there_is_then_fails_for_the_rest(populated: Daemon) -> None:
    done = here(populated, "inspect", "web", "none")
    assert done.returncode == 1
    assert [item["Name"] for item in json.loads(done.stdout)] == ["/web"]
    assert done.stderr == b"Error: No such object: none\n"


def test_the_project_travels_in_a_header(daemon: Daemon) -> None:
    here(daemon, "--project", "blue", "ps")
    assert daemon.asked("GET", "/containers/json").headers["X-HyperStack-Project"] == "blue"


def test_switches_may_have_values(daemon: Daemon) -> None:
    here(daemon, "create", "--read-only=true", "-e", "--init=false", "--init=false", "busybox", "--tty=true")
    body = daemon.asked("POST", "/containers/create").json()
    assert body["HostConfig"]["ReadonlyRootfs"] is True
    assert "Init" not in body["HostConfig"]
    assert (body["Env"], body["Cmd"]) == (["--init=false"], ["--tty=true"])


@pytest.mark.parametrize(("words", "advice"), [
    (("lgs",), b"Did you mean logs"), (("ps", "--fromat", "x"), b"--format"),
    (("inspect", "-f", "{{.Nmae}}", "web"), b"did you mean .Name?"), (("ps", "--filter", "x"), b"KEY=VALUE"),
    (("update", "web"), b"hyperctl update --help"), (("cp", "a", "b"), b"CONTAINER:PATH")])
def test_mistakes_get_advice(populated: Daemon, words: tuple[str, ...], advice: bytes) -> None:
    done = here(populated, *words)
    assert done.returncode != 0
    assert advice in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_daemon_that_talks_nonsense_gets_a_message(daemon: Daemon) -> None:
    daemon.answers["GET", "/containers/json"] = b"<html>"
    done = here(daemon, "ps")
    assert (done.returncode, b"not JSON" in done.stderr) == (1, True)
    daemon.answers["GET", "/containers/json"] = Refused(500, "the disk is full")
    assert here(daemon, "ps").stderr == b"Error response from daemon: the disk is full\n"


def test_completion_offers_commands_options_and_names(populated: Daemon) -> None:
    def offered(words: str) -> list[str]:
        done = hyperctl(populated, env={"_HYPERCTL_COMPLETE": "bash_complete", "COMP_WORDS": f"hyperctl {words}",
                                        "COMP_CWORD": str(len(words.split(" "))), "HYPERSTACK_HOST": populated.socket})
        return done.stdout.decode().split()

    assert "plain,pause" in offered("pa")
    assert "plain,--format" in offered("ps --form")
    assert offered("stop w") == ["plain,web"]
    assert offered("run busy") == ["plain,busybox:latest"]


def test_pulls_take_the_credentials_of_docker_login(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                    ) -> None:
    def sent(reference: str) -> dict[str, str] | None:
        assert here(daemon, "pull", reference).returncode == 0
        value = daemon.asked("POST", "/images/create").headers.get("X-Registry-Auth")
        return json.loads(base64.urlsafe_b64decode(value)) if value else None

    helper = tmp_path / "docker-credential-test"
    helper.write_text("#!/bin/sh\nread key\nif [ $key = kept.example ]; then echo '{\"Username\": \"<token>\", "
                      "\"Secret\": \"t\"}'; else exit 1; fi\n")
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({
        "auths": {"https://index.docker.io/v1/": {"auth": base64.b64encode(b"me:pass:word").decode()},
                  "host:5000": {"identitytoken": "i"}, "broken.example": {"auth": "?"}},
        "credHelpers": {"kept.example": "test", "other.example": "test", "gone.example": "none-such"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert sent("alpine") == {"username": "me", "password": "pass:word", "serveraddress": "docker.io"}
    assert sent("host:5000/x") == {"identitytoken": "i", "serveraddress": "host:5000"}
    assert sent("kept.example/x") == {"identitytoken": "t", "serveraddress": "kept.example"}
    assert sent("other.example/x") is None
    assert sent("unknown.example/x") is None
    assert b"log in to it again" in here(daemon, "pull", "broken.example/x").stderr
    assert b"docker-credential-none-such failed" in here(daemon, "pull", "gone.example/x").stderr
