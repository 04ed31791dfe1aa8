"""Clients that are libraries: testcontainers; and none at all but curl, with the examples of the reference."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Engine, clean
from tests.clients.peers import Cli
from tests.harness import PATIENCE_S
from tests.images import BUSYBOX


def test_testcontainers(engine: Engine, docker_cli: Cli, tmp_path: Path) -> None:
    # Ryuk, which removes what a killed test leaves, is an image of Docker Hub.
    settings = {**docker_cli.environment, "TESTCONTAINERS_RYUK_DISABLED": "true"}
    before = docker_cli.lines("ps", "-aq")
    script = Path(__file__).with_name("with_testcontainers.py")
    done = subprocess.run(engine.network.inside([sys.executable, str(script), BUSYBOX, str(tmp_path)]), env=settings,
                          capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert docker_cli.lines("ps", "-aq") == before, "it left nothing"


class Curl:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __call__(self, method: str, path: str, body: Any = None, *, status: int = 200,
                 data: bytes | None = None) -> bytes:
        """The answer's body. :raise AssertionError: its status is another."""
        options = ["-H", "Content-Type: application/json", "-d", json.dumps(body)] if body is not None else []
        if data is not None:
            options = ["-H", "Content-Type: application/x-tar", "--data-binary", "@-"]
        argv = ["curl", "-sS", "-X", method, "--unix-socket", self._engine.host.removeprefix("unix://"), *options,
                "-w", "\n%{http_code}", f"http://localhost{path}"]
        done = subprocess.run(argv, input=data, capture_output=True, timeout=PATIENCE_S, check=True)
        answer, _, code = done.stdout.rpartition(b"\n")
        assert int(code) == status, answer
        return answer

    def json(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        return json.loads(self(method, path, body, status=status))


@pytest.fixture
def curl(engine: Engine) -> Iterator[Curl]:
    yield Curl(engine)
    clean(engine.host)


def test_curl_runs_a_container(curl: Curl) -> None:
    assert curl("GET", "/_ping") == b"OK"
    made = curl.json("POST", "/v1.41/containers/create?name=hs-curl", {"Image": BUSYBOX, "Cmd": ["echo",
                                                                                                 "hello world"]},
                     status=201)
    assert made["Warnings"] == []
    assert curl("POST", f"/v1.41/containers/{made['Id']}/start", status=204) == b""
    assert curl.json("POST", f"/v1.41/containers/{made['Id']}/wait") == {"StatusCode": 0}
    # Two streams in frames: which of them, and how many bytes.
    assert curl("GET", "/v1.41/containers/hs-curl/logs?stdout=1") == b"\x01\0\0\0\0\0\0\x0chello world\n"
    assert curl.json("GET", "/containers/hs-curl/json")["State"]["ExitCode"] == 0
    assert curl("DELETE", "/containers/hs-curl", status=204) == b""
    assert curl.json("GET", "/containers/hs-curl/json", status=404) == {"message": "No such container: hs-curl"}


def test_curl_looks_into_a_running_container(curl: Curl) -> None:
    curl.json("POST", "/containers/create?name=hs-curl", {"Image": BUSYBOX, "Cmd": ["sleep", "600"],
                                                          "Labels": {"k": "v"},
                                                          "HostConfig": {"Memory": 64 << 20}}, status=201)
    curl("POST", "/containers/hs-curl/start", status=204)
    curl("POST", "/containers/hs-curl/start", status=304)
    [row] = curl.json("GET", "/containers/json?filters=%7B%22label%22%3A%5B%22k%3Dv%22%5D%7D")
    assert (row["Names"], row["State"]) == (["/hs-curl"], "running")
    assert curl.json("GET", "/containers/hs-curl/top")["Processes"][0][-1] == "sleep 600"
    assert curl.json("GET", "/containers/hs-curl/stats?stream=0")["memory_stats"]["limit"] == 64 << 20
    ident = curl.json("POST", "/containers/hs-curl/exec", {"Cmd": ["sh", "-c", "echo in; exit 3"],
                                                           "AttachStdout": True},
                      status=201)["Id"]
    assert curl("POST", f"/exec/{ident}/start", {"Detach": False, "Tty": False}) == b"\x01\0\0\0\0\0\0\x03in\n"
    assert curl.json("GET", f"/exec/{ident}/json")["ExitCode"] == 3
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("note")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"text"))
    curl("PUT", "/containers/hs-curl/archive?path=/tmp", data=buffer.getvalue())
    with tarfile.open(fileobj=io.BytesIO(curl("GET", "/containers/hs-curl/archive?path=/tmp/note"))) as tar:
        assert tar.getnames() == ["note"]
    assert curl.json("POST", "/containers/hs-curl/update", {"Memory": 48 << 20}) == {"Warnings": None}
    curl("POST", "/containers/hs-curl/kill?signal=KILL", status=204)
    assert curl.json("POST", "/containers/hs-curl/wait") == {"StatusCode": 137}


def test_curl_makes_networks_volumes_and_tags(curl: Curl) -> None:
    network = curl.json("POST", "/networks/create", {"Name": "hs-net", "Labels": {"k": "v"}}, status=201)["Id"]
    assert curl.json("GET", "/networks/hs-net")["Id"] == network
    curl("DELETE", f"/networks/{network}", status=204)
    assert curl.json("POST", "/volumes/create", {"Name": "hs-vol"}, status=201)["Driver"] == "local"
    assert [row["Name"] for row in curl.json("GET", "/volumes")["Volumes"] if row["Name"] == "hs-vol"] == ["hs-vol"]
    curl("DELETE", "/volumes/hs-vol", status=204)
    curl("POST", f"/images/{BUSYBOX}/tag?repo=hs-tag&tag=1", status=201)
    assert "hs-tag:1" in curl.json("GET", "/images/hs-tag:1/json")["RepoTags"]
    assert {"Untagged": "hs-tag:1"} in curl.json("DELETE", "/images/hs-tag:1")
    told = curl("GET", "/events?since=0&until=1")
    assert told == b""
    assert curl.json("GET", "/info")["OSType"] == "linux"
    assert curl.json("POST", "/containers/create", {"Image": 5}, status=400)["message"] != ""
