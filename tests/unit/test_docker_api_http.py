"""Docker's API over a real socket: versions, errors, shapes and streams of answers."""

from __future__ import annotations

import asyncio
import base64
import bz2
import dataclasses
import gzip
import io
import json
import lzma
import stat
import struct
import tarfile
from collections.abc import AsyncIterator
from typing import Any

import pytest
import zstandard

from hyperstack.docker_api.decompression import decompressed
from hyperstack.docker_api.wording import duration, go_mode
from hyperstack.engine.api import CachedStep
from tests.tars import tar_of
from tests.unit.docker_api_images import BUSYBOX
from tests.unit.docker_api_server import Served, serve

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


async def make(served: Served, *argv: str, name: str = "", **body: Any) -> str:
    """A created container's id."""
    status, answer = await served.call("POST", f"/containers/create?name={name}",
                                       json={"Image": "busybox", "Cmd": list(argv), **body})
    assert status == 201, answer
    assert isinstance(answer, dict)
    return str(answer["Id"])


async def run(served: Served, *argv: str, name: str = "", **body: Any) -> str:
    """A started container's id."""
    ident = await make(served, *argv, name=name, **body)
    status, answer = await served.call("POST", f"/containers/{ident}/start")
    assert status == 204, answer
    return ident


async def finish(served: Served, ident: str) -> Any:
    status, answer = await served.call("POST", f"/containers/{ident}/wait")
    assert status == 200
    return answer


# -- versions, identities and errors

async def test_ping_tells_the_version_that_clients_negotiate_with(served: Served) -> None:
    for method in ("HEAD", "GET"):
        async with served.client.request(method, "http://d/_ping") as answer:
            assert answer.status == 200
            assert answer.headers["Api-Version"] == "1.55"
            assert answer.headers["Docker-Experimental"] == "false"
            assert answer.headers["Ostype"] == "linux"
            assert answer.headers["Server"].startswith("HyperStack/")


@pytest.mark.parametrize(("version", "status", "words"), [
    ("v1.24", 200, ""), ("v1.55", 200, ""),
    ("v1.24.1", 200, ""),
    ("v1.56", 400, "client version 1.56 is too new. Maximum supported API version is 1.55"),
    ("v99999.1", 400, "client version 99999.1 is too new. Maximum supported API version is 1.55"),
    ("vx", 404, "page not found"), ("v1.5x", 404, "page not found"),
])
async def test_versions_in_the_path(served: Served, version: str, status: int, words: str) -> None:
    found, answer = await served.call("GET", f"/{version}/containers/json")
    assert found == status
    if words:
        assert isinstance(answer, dict)
        assert words in answer["message"]


@pytest.mark.parametrize("version", ["1.5", "1", "1.5.1", "0.0", ".", "1.23.99"])
async def test_a_version_that_is_too_old_is_told_as_text(served: Served, version: str) -> None:
    async with served.client.get(f"http://d/v{version}/info") as answer:
        assert (answer.status, answer.content_type) == (400, "text/plain")
        assert f"client version {version} is too old. Minimum supported API version is 1.24" in await answer.text()


@pytest.mark.parametrize(("target", "status", "where"), [
    ("//_ping", 301, "/_ping"), ("/v1.51/x/../_ping?a=%2F", 301, "/v1.51/_ping?a=%2F"), ("/./", 301, "/"),
    ("/v1.51/containers/%2e%2e/json", 301, "/v1.51/json"), ("/..", 301, "/"), ("/a//", 301, "/a/"),
    ("/containers/%zz/json", 400, None), ("/%", 400, None), ("/v1.51/%5fping", 200, None),
    ("/containers/json?all=%zz", 400, None), ("/containers/json?a;b", 400, None),
])
async def test_paths_and_queries_are_read_as_go_reads_them(served: Served, target: str, status: int, where: str | None
                                                           ) -> None:
    reader, writer = await served.raw(f"GET {target} HTTP/1.0\r\nHost: d\r\n\r\n".encode())
    head = (await reader.read()).decode().split("\r\n\r\n")[0].split("\r\n")
    writer.close()
    headers = dict(line.split(": ", 1) for line in head[1:])
    assert (int(head[0].split()[1]), headers.get("Location")) == (status, where)


async def test_options_are_answered_for_any_path(served: Served) -> None:
    async with served.client.options("http://d/nothing") as answer:
        assert (answer.status, await answer.read(), "Api-Version" in answer.headers) == (200, b"", True)


@pytest.mark.parametrize(("method", "path", "status", "words"), [
    ("GET", "/nothing", 404, "page not found"),
    ("PUT", "/containers/json", 404, "page not found"),
    ("GET", "/containers/nobody/json", 404, "No such container: nobody"),
    ("POST", "/containers/nobody/wait", 404, "No such container"),
    ("POST", "/containers/nobody/wait?condition=never", 400, 'invalid condition: "never"'),
    ("POST", "/containers/nobody/attach?stream=1&detachKeys=ctrl-9", 404, "No such container"),
    ("GET", "/containers/nobody/logs?stdout=1", 404, "No such container"),
    ("GET", "/containers/json?limit=many", 400, 'parsing "many": invalid syntax (limit must be an integer)'),
    ("GET", "/containers/json?filters={", 400, "invalid filter (for instance"),
    ("GET", '/containers/json?filters={"color":["red"]}', 400, "invalid filter 'color'"),
    ("GET", '/containers/json?filters={"status":["asleep"]}', 400, "invalid filter 'status=asleep'"),
    ("GET", '/containers/json?filters={"name":["(a%2B)%2B$"]}', 400, "too complicated"),
    ("GET", "/events?since=yesterday", 400, 'strconv.ParseInt: parsing "yesterday": invalid syntax'),
    ("POST", '/containers/prune?filters={"until":["soon"]}', 400, 'failed to parse value as time or duration: "soon"'),
    ("POST", "/containers/create", 400, "got EOF while reading request body"),
    ("POST", "/images/create", 400, "fromImage or fromSrc must be given"),
    ("POST", "/images/create?fromSrc=http://x/y", 400, "fromSrc with an URL is not supported"),
    ("GET", "/images/absent/json", 404, "No such image: absent"),
    ("GET", "/images/search", 400, "term must be given"),
    ("POST", "/images/ABSENT/push", 400, "repository name (library/ABSENT) must be lowercase"),
    ("GET", '/images/busybox/json?platform={"os":"linux","architecture":"s390x"}', 404,
     "its platform (linux/amd64) does not match the specified platform (linux/s390x)"),
    ("GET", '/images/busybox/history?platform={"os":"linux","architecture":"arm","variant":"v7"}', 404, "linux/arm/v7"),
    ("GET", '/images/get?names=busybox&platform={"os":"windows","architecture":"arm"}', 404, "platform (windows/arm)"),
    ("POST", '/images/busybox/push?tag=latest&platform={"os":"linux","architecture":"arm"}', 404,
     "does not match"),
    ("DELETE", '/images/busybox?platforms={"os":"linux","architecture":"arm"}', 404, "does not match"),
    ("GET", "/images/busybox/json?platform={x", 400, "failed to parse platform"),
    ("POST", "/images/create?fromImage=x&platform=a/b/c/d", 400, "cannot parse platform specifier"),
    ("POST", '/images/load?platform={"os":"linux","architecture":"s390x"}', 400,
     "platform=linux/s390x is not supported"),
    ("POST", "/session", 501, "set DOCKER_BUILDKIT=0"),
    ("POST", "/build?version=2", 501, "set DOCKER_BUILDKIT=0"),
    ("POST", "/build?squash=1", 400, "build parameter squash is not supported"),
    ("POST", "/networks/create", 400, "invalid name: name is empty"),
    ("DELETE", "/networks/bridge", 403, "bridge is a pre-defined network and cannot be removed"),
    ("GET", "/networks/bridge?scope=swarm", 404, "network bridge not found"),
    ("GET", "/networks/absent", 404, "network absent not found"),
    ("GET", "/volumes/absent", 404, "get absent: no such volume"),
    ("GET", "/swarm", 503, "This node is not a swarm manager"),
    ("POST", "/services/create", 503, "This node is not a swarm manager"),
    ("GET", "/secrets", 503, "This node is not a swarm manager"),
    ("POST", "/swarm/init", 501, "does not support being part of a swarm"),
    ("POST", "/swarm/leave", 503, "This node is not part of a swarm"),
    ("PUT", "/volumes/x", 503, "This node is not a swarm manager"),
    ("POST", "/plugins/pull", 501, "does not support plugins"),
    ("GET", "/plugins/some/thing/json", 404, 'plugin "some/thing" not found'),
    ("POST", "/plugins/some/thing:1/enable", 404, "not found"),
    ("DELETE", "/plugins/x", 404, "not found"),
    ("GET", "/system/df?type=image&type=color", 400, "unknown object type: color"),
    ("POST", "/commit", 400, 'invalid name or ID supplied: ""'),
    ("POST", "/commit?container=nobody", 404, "No such container"),
    ("GET", "/containers/nobody/export", 404, "No such container"),
    ("GET", "/exec/absent/json", 404, "No such exec instance"),
    ("GET", "/containers/x%00y/json", 400, "NUL byte"),
])
async def test_errors_have_dockers_status_and_a_message(served: Served, method: str, path: str, status: int, words: str
                                                        ) -> None:
    found, answer = await served.call(method, path)
    assert isinstance(answer, dict)
    assert (found, words in answer["message"]) == (status, True), answer


async def test_bodies_are_bounded(served: Served) -> None:
    status, answer = await served.call("POST", "/containers/create", data=b" " * 5_000_000, headers=JSON)
    assert (status, isinstance(answer, dict) and "longer than" in answer["message"]) == (400, True)


async def test_a_stranger_is_refused(served: Served) -> None:
    status, answer = await served.call("GET", "/info", headers={"X-Project": "forbidden"})
    assert (status, answer) == (403, {"message": "that project is not yours"})


async def test_a_taken_name_is_a_conflict(served: Served) -> None:
    await make(served, "true", name="twin")
    status, answer = await served.call("POST", "/containers/create?name=twin", json={"Image": "busybox"})
    assert status == 409
    assert isinstance(answer, dict)
    assert 'name "/twin" is already in use' in answer["message"]


async def test_another_processor_is_refused(served: Served) -> None:
    status, answer = await served.call("POST", "/containers/create?platform=linux/s390x", json={"Image": "busybox"})
    assert (status, isinstance(answer, dict) and "platform=linux/s390x" in answer["message"]) == (400, True)


# -- containers

async def test_a_life(served: Served) -> None:
    ident = await make(served, "sh", "-c", "echo out; echo err >&2; exit 7", name="life", Labels={"a": "b"})
    _, created = await served.call("GET", f"/containers/{ident}/json")
    assert isinstance(created, dict)
    assert (created["State"]["Status"], created["Name"], created["Path"]) == ("created", "/life", "sh")
    assert created["State"]["StartedAt"] == "0001-01-01T00:00:00Z"
    assert created["Config"]["Env"] == ["PATH=/bin"]
    assert created["Config"]["Labels"] == {"maker": "us", "a": "b"}
    assert (await served.call("POST", f"/containers/{ident}/start"))[0] == 204
    assert await finish(served, ident) == {"StatusCode": 7}
    _, ended = await served.call("GET", "/containers/life/json")
    assert isinstance(ended, dict)
    assert (ended["State"]["Status"], ended["State"]["ExitCode"], ended["State"]["Running"]) == ("exited", 7, False)
    assert (await served.call("DELETE", "/containers/life"))[0] == 204
    assert (await served.call("GET", "/containers/life/json"))[0] == 404


async def test_the_verbs(served: Served) -> None:
    ident = await run(served, "sleep", "100")
    assert (await served.call("POST", f"/containers/{ident}/start"))[0] == 304
    assert (await served.call("POST", f"/containers/{ident}/pause"))[0] == 204
    status, answer = await served.call("POST", f"/containers/{ident}/attach?stream=1&stdout=1")
    assert (status, isinstance(answer, dict) and "is paused" in answer["message"]) == (409, True)
    assert (await served.call("POST", f"/containers/{ident}/unpause"))[0] == 204
    assert (await served.call("POST", f"/containers/{ident}/rename?name=other"))[0] == 204
    assert (await served.call("POST", "/containers/other/rename?name="))[0] == 400
    assert await served.call("POST", "/containers/other/update", json={"Memory": 64 << 20}) == (200, {"Warnings": None})
    assert (await served.call("GET", "/containers/other/json"))[1]["HostConfig"]["Memory"] == 64 << 20  # type: ignore[index]
    assert (await served.call("DELETE", "/containers/other"))[0] == 409
    assert (await served.call("POST", "/containers/other/kill?signal=SIGKILL"))[0] == 204
    assert await finish(served, "other") == {"StatusCode": 137}
    assert (await served.call("POST", "/containers/other/stop"))[0] == 304
    assert (await served.call("POST", "/containers/other/kill"))[0] == 409
    assert (await served.call("POST", "/containers/other/restart?t=1"))[0] == 204
    assert (await served.call("POST", "/containers/other/stop?t=1"))[0] == 204
    status, pruned = await served.call("POST", '/containers/prune?filters={"until":["0s"]}')
    assert (status, pruned) == (200, {"ContainersDeleted": [ident], "SpaceReclaimed": 0})


async def test_a_command_that_is_absent_says_so_in_words_that_clients_know(served: Served) -> None:
    ident = await make(served, "no-such-command")
    status, answer = await served.call("POST", f"/containers/{ident}/start")
    assert (status, isinstance(answer, dict) and "executable file not found" in answer["message"]) == (400, True)


async def test_wait_sends_its_headers_before_the_end(served: Served) -> None:
    ident = await make(served, "true")
    async with served.client.post(f"http://d/containers/{ident}/wait?condition=next-exit") as answer:
        assert answer.status == 200  # The container has not even been started.
        await served.call("POST", f"/containers/{ident}/start")
        assert json.loads(await answer.read()) == {"StatusCode": 0}


@pytest.mark.parametrize(("query", "found"), [
    ("", {"one"}), ("all=1", {"one", "two"}), ("limit=1", {"two"}), ('filters={"name":["^/tw"]}&all=1', {"two"}),
    ('filters={"name":["one|two"]}&all=1', {"one", "two"}), ('filters={"label":{"k=v":true}}&all=1', {"two"}),
    ('filters={"label":{"k=v":false}}&all=1', {"two"}), ('filters={"status":["created"]}', {"two"}),
    ('filters={"since":["one"]}&all=1', {"two"}), ('filters={"before":["two"]}', {"one"}),
    ('filters={"ancestor":["busybox:latest"]}&all=1', {"one", "two"}), ('filters={"ancestor":["other"]}', set()),
    ('filters={"volume":["data"]}&all=1', {"two"}), ('filters={"network":["none"]}&all=1', {"two"}),
    ('filters={"expose":["80"]}&all=1', {"two"}), ('filters={"exited":["0"]}', set()),
    ('filters={"publish":["80"]}&all=1', set()), ('filters={"health":["none"]}', {"one"}),
])
async def test_lists_are_filtered(served: Served, query: str, found: set[str]) -> None:
    await run(served, "sleep", "100", name="one")
    await make(served, "true", name="two", Labels={"k": "v"}, ExposedPorts={"80/tcp": {}},
               HostConfig={"Binds": ["data:/data"], "NetworkMode": "none"})
    status, answer = await served.call("GET", f"/containers/json?{query}")
    assert status == 200
    assert isinstance(answer, list)
    assert {row["Names"][0].removeprefix("/") for row in answer} == found


async def test_sizes_are_given_where_asked(served: Served) -> None:
    await make(served, "true")
    _, answer = await served.call("GET", "/containers/json?all=1&size=1")
    assert isinstance(answer, list)
    assert (answer[0]["SizeRw"], answer[0]["SizeRootFs"]) == (512, 512 + (4 << 20))


async def test_strings_of_guests_that_are_not_utf8_are_escaped(served: Served) -> None:
    ident = await run(served, "sleep", "100")
    async with served.client.get(f"http://d/containers/{ident}/top") as answer:
        assert json.loads(await answer.read())["Processes"] == [["1", "sleep\udcff"]]


async def test_stats_have_a_sample_before(served: Served) -> None:
    ident = await run(served, "sleep", "100")
    _, once = await served.call("GET", f"/containers/{ident}/stats?stream=0&one-shot=1")
    assert isinstance(once, dict)
    assert once["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert once["memory_stats"]["usage"] - once["memory_stats"]["stats"]["inactive_file"] == 2 << 20
    _, twice = await served.call("GET", f"/containers/{ident}/stats?stream=0")
    assert isinstance(twice, dict)
    assert 0 < twice["precpu_stats"]["cpu_usage"]["total_usage"] < twice["cpu_stats"]["cpu_usage"]["total_usage"]
    assert twice["networks"]["eth0"]["rx_bytes"] == 5
    read, _ = twice["blkio_stats"]["io_service_bytes_recursive"]
    assert (read["op"], read["value"]) == ("read", 4096)


async def test_stats_of_what_does_not_run_are_zeros(served: Served) -> None:
    ident = await make(served, "true")
    _, answer = await served.call("GET", f"/containers/{ident}/stats?stream=0")
    assert isinstance(answer, dict)
    assert (answer["memory_stats"], answer["read"]) == ({}, "0001-01-01T00:00:00Z")


# -- logs and events

def frames(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        stream, length = struct.unpack(">BxxxL", data[:8])
        found.append((stream, data[8:8 + length]))
        data = data[8 + length:]
    return found


async def test_logs_are_framed_and_chosen(served: Served) -> None:
    ident = await run(served, "sh", "-c", "echo out; sleep 0.1; printf '\\000\\377' >&2")
    await finish(served, ident)

    async def logs(query: str) -> tuple[str, bytes]:
        async with served.client.get(f"http://d/containers/{ident}/logs?{query}") as answer:
            return answer.headers["Content-Type"], await answer.read()

    kind, both = await logs("stdout=1&stderr=1")
    assert kind == "application/vnd.docker.multiplexed-stream"
    assert frames(both) == [(1, b"out\n"), (2, b"\0\xff")]
    assert frames((await logs("stderr=true"))[1]) == [(2, b"\0\xff")]
    assert frames((await logs("stdout=1&stderr=1&tail=1"))[1]) == [(2, b"\0\xff")]
    assert frames((await logs("stdout=1&since=99999999999"))[1]) == []
    [(_, stamped)] = frames((await logs("stdout=1&timestamps=1"))[1])
    assert stamped.endswith(b"Z out\n")
    assert frames((await logs("stdout=1&details=1"))[1]) == [(1, b" out\n")]
    assert (await served.call("GET", f"/containers/{ident}/logs"))[0] == 400


async def test_followed_logs_end_with_the_container(served: Served) -> None:
    ident = await run(served, "sh", "-c", "echo one; read line; echo two", OpenStdin=True)
    async with served.client.get(f"http://d/containers/{ident}/logs?stdout=1&follow=1") as answer:
        first = await answer.content.readexactly(12)
        assert frames(first) == [(1, b"one\n")]
        await served.engine.containers.processes[ident].write(b"go\n")
        assert frames(await answer.content.read()) == [(1, b"two\n")]


async def test_logs_of_a_terminal_are_raw(served: Served) -> None:
    ident = await run(served, "echo", "hi", Tty=True)
    await finish(served, ident)
    async with served.client.get(f"http://d/containers/{ident}/logs?stdout=1") as answer:
        assert answer.headers["Content-Type"] == "application/vnd.docker.raw-stream"
        assert await answer.read() == b"hi\r\n"


async def test_a_follower_who_goes_away_is_forgotten(served: Served) -> None:
    async with served.client.get("http://d/events") as answer:
        assert answer.status == 200
        assert len(served.engine.listeners) == 1
    while served.engine.listeners:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("version", "accept", "kind"), [
    ("v1.51", "application/json-seq", "application/json"), ("v1.52", "application/json-seq", "application/json-seq"),
    ("v1.52", "application/jsonl", "application/json"), ("v1.53", "application/jsonl", "application/jsonl"),
    ("v1.55", "*/*", "application/json")])
async def test_events_are_lines_of_json(served: Served, version: str, accept: str, kind: str) -> None:
    query = '?filters={"event":["start"],"type":["container"]}'
    async with served.client.get(f"http://d/{version}/events{query}", headers={"Accept": accept}) as answer:
        ident = await run(served, "true", name="seen")
        raw = await answer.content.readline()
    assert answer.headers["Content-Type"] == kind
    assert raw.startswith(b"\x1e") is (kind == "application/json-seq")
    line = json.loads(raw.lstrip(b"\x1e"))
    assert (line["Type"], line["Action"], line["Actor"]["ID"]) == ("container", "start", ident)
    legacy = ("start", ident, "busybox") if version == "v1.51" else (None, None, None)
    assert (line.get("status"), line.get("id"), line.get("from")) == legacy
    assert line["Actor"]["Attributes"]["name"] == "seen"
    assert line["timeNano"] // 10**9 == line["time"]


async def test_past_events_end_at_until(served: Served) -> None:
    await make(served, "true", name="past")
    async with served.client.get('http://d/events?since=1&until=99999999999&filters={"container":["past"]}') as answer:
        lines = [json.loads(line) async for line in answer.content]
    assert [line["Action"] for line in lines] == ["create"]


# -- images, volumes, networks

async def test_a_pull_tells_its_progress(served: Served) -> None:
    login = base64.urlsafe_b64encode(json.dumps({"username": "me", "password": "secret?>"}).encode()).decode()
    async with served.client.post("http://d/images/create?fromImage=busybox&tag=latest",
                                  headers={"X-Registry-Auth": login}) as answer:
        lines = [json.loads(line) async for line in answer.content]
    assert {"status": "Pull complete", "progressDetail": {}, "id": "abababababab"} in lines
    assert lines[-1] == {"status": "Status: Image is up to date for busybox:latest"}
    assert served.engine.images.pulled_with is not None
    assert served.engine.images.pulled_with.password == "secret?>"


async def test_a_pull_without_a_tag_is_one_of_all_tags(served: Served) -> None:
    async with served.client.post("http://d/images/create?fromImage=busybox") as answer:
        lines = [json.loads(line) async for line in answer.content]
    assert [line["status"] for line in lines].count("Pull complete") == 2


async def test_an_error_before_the_first_line_is_a_status_and_later_a_line(served: Served) -> None:
    assert (await served.call("POST", "/images/create?fromImage=absent:1"))[0] == 404
    async with served.client.post("http://d/images/create?fromImage=broken:1") as answer:
        lines = [json.loads(line) async for line in answer.content]
    assert answer.status == 200
    assert lines[-1]["error"] == "the registry lies about digests"
    assert lines[-1]["errorDetail"] == {"message": "the registry lies about digests"}


@pytest.mark.parametrize("header", ["%%%", base64.b64encode(b"[1]").decode(), "A" * 7000])
async def test_credentials_that_are_none_are_ignored_as_in_docker(served: Served, header: str) -> None:
    async with served.client.post("http://d/images/create?fromImage=x&tag=1", headers={"X-Registry-Auth": header}
                                  ) as answer:
        assert answer.status == 200, await answer.text()
    assert served.engine.images.pulled_with is None


@pytest.mark.parametrize(("steps", "sizes"), [
    ([{"created_by": "late"}], [7]),
    ([{"created_by": "early"}, {"created_by": "ENV", "empty_layer": True}, {"created_by": "late"}], [7, 0, 5]),
    ([{"created_by": "a"}, {"created_by": "b"}, {"created_by": "c"}], [0, 7, 5])])
async def test_a_history_has_the_sizes_of_the_last_layers(served: Served, steps: list[dict[str, Any]],
                                                          sizes: list[int]) -> None:
    served.engine.images.images[BUSYBOX.id] = dataclasses.replace(
        BUSYBOX, diff_ids=("sha256:" + "01" * 32, "sha256:" + "02" * 32), layer_sizes=(5, 7),
        raw_config={"history": steps})
    _, history = await served.call("GET", "/images/busybox/history")
    assert isinstance(history, list)
    assert [row["Size"] for row in history] == sizes


async def test_images_are_shown_tagged_and_removed(served: Served) -> None:
    _, rows = await served.call("GET", '/images/json?filters={"reference":["busy*"],"dangling":["false"]}')
    assert isinstance(rows, list)
    assert (rows[0]["RepoTags"], rows[0]["Containers"]) == (["busybox:latest"], 0)
    assert (await served.call("GET", '/images/json?filters={"reference":["b"]}'))[1] == []
    _, image = await served.call("GET", "/images/busybox/json")
    assert isinstance(image, dict)
    assert (image["Config"]["Cmd"], image["RootFS"]["Layers"], image["Author"]) == (
        ["sh"], ["sha256:" + "ef" * 32], "somebody")
    _, history = await served.call("GET", "/images/busybox/history")
    assert isinstance(history, list)
    assert (history[0]["CreatedBy"], history[0]["Created"]) == ("ADD file", 1704164645)
    assert (await served.call("POST", "/images/busybox/tag?repo=mine&tag=1"))[0] == 201
    assert (await served.call("GET", "/images/mine:1/json"))[0] == 200
    async with served.client.get("http://d/images/get?names=busybox&names=mine:1") as answer:
        assert await answer.text() == image["Id"] * 2
    assert (await served.call("GET", "/images/get"))[0] == 400
    _, removed = await served.call("DELETE", "/images/busybox")
    assert removed == [{"Untagged": "busybox:latest"}, {"Deleted": image["Id"]}]


async def test_a_load_names_what_it_loaded(served: Served) -> None:
    async with served.client.post("http://d/images/load?quiet=1", data=b"a tar") as answer:
        assert json.loads(await answer.read()) == {"stream": "Loaded image: busybox:latest\n"}


async def test_volumes(served: Served) -> None:
    status, made = await served.call("POST", "/volumes/create", json={"Name": "data", "Labels": {"a": "b"}})
    assert (status, isinstance(made, dict) and made["Name"]) == (201, "data")
    await make(served, "true", HostConfig={"Binds": ["data:/data"]})
    _, listed = await served.call("GET", '/volumes?filters={"dangling":["true"]}')
    assert listed == {"Volumes": [], "Warnings": None}
    _, listed = await served.call("GET", '/volumes?filters={"label":["a=b"]}')
    assert isinstance(listed, dict)
    assert [volume["Name"] for volume in listed["Volumes"]] == ["data"]
    assert (await served.call("POST", "/volumes/create", json={"Name": "a/b"}))[0] == 400
    assert (await served.call("DELETE", "/volumes/data"))[0] == 204


async def test_the_two_networks(served: Served) -> None:
    _, networks = await served.call("GET", "/networks")
    assert isinstance(networks, list)
    assert [network["Name"] for network in networks] == ["bridge", "none"]
    _, found = await served.call("GET", f"/networks/{networks[0]['Id'][:12]}")
    assert isinstance(found, dict)
    assert found["Name"] == "bridge"


async def test_a_network_and_a_container_as_compose_asks_for_them(served: Served) -> None:
    """Nulls and empty maps as its client writes them."""
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.network": "default"}
    status, made = await served.call("POST", "/v1.50/networks/create", json={
        "Name": "shop_default", "CheckDuplicate": True, "Driver": "", "Scope": "", "EnableIPv4": None,
        "EnableIPv6": None, "IPAM": None, "Internal": False, "Attachable": False, "Ingress": False,
        "ConfigOnly": False, "ConfigFrom": None, "Options": None, "Labels": labels})
    assert isinstance(made, dict)
    assert (status, made["Warning"]) == (201, "")
    _, found = await served.call("GET", '/networks?filters={"name":{"shop_default":true},'
                                 '"label":{"com.docker.compose.project=shop":true}}')
    assert isinstance(found, list)
    assert [(network["Id"], network["Labels"]) for network in found] == [(made["Id"], labels)]
    ident = await make(served, "true", HostConfig={"NetworkMode": "shop_default", "Links": None},
                       NetworkingConfig={"EndpointsConfig": {"shop_default": {
                           "IPAMConfig": None, "Links": None, "Aliases": ["shop-web-1", "web"], "MacAddress": "",
                           "DriverOpts": None, "GwPriority": 0, "NetworkID": "", "EndpointID": "", "Gateway": "",
                           "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "GlobalIPv6Address": "",
                           "GlobalIPv6PrefixLen": 0, "DNSNames": None}}})
    _, container = await served.call("GET", f"/containers/{ident}/json")
    assert isinstance(container, dict)
    assert container["NetworkSettings"]["Networks"].keys() == {"shop_default"}
    assert container["NetworkSettings"]["Networks"]["shop_default"]["Aliases"] == ["shop-web-1", "web"]
    assert container["HostConfig"]["NetworkMode"] == "shop_default"
    for ref in ("shop_default", made["Id"], made["Id"][:12]):
        _, rows = await served.call("GET", f'/containers/json?all=1&filters={{"network":["{ref}"]}}')
        assert isinstance(rows, list)
        assert [row["Id"] for row in rows] == [ident]
    for kind, names in (("custom", ["shop_default"]), ("builtin", ["bridge", "none"])):
        _, found = await served.call("GET", f'/networks?filters={{"type":["{kind}"]}}')
        assert isinstance(found, list)
        assert [network["Name"] for network in found] == names


async def test_info_and_version(served: Served) -> None:
    _, info = await served.call("GET", "/info")
    assert isinstance(info, dict)
    assert (info["NCPU"], info["Swarm"]["LocalNodeState"]) == (2, "inactive")
    _, version = await served.call("GET", "/version")
    assert isinstance(version, dict)
    assert (version["ApiVersion"], version["MinAPIVersion"], version["Os"]) == ("1.55", "1.24", "linux")
    _, usage = await served.call("GET", "/system/df")
    assert isinstance(usage, dict)
    assert set(usage) == {"ImageUsage", "ContainerUsage", "VolumeUsage", "BuildCacheUsage"}
    assert usage["ImageUsage"]["TotalSize"] == 4 << 20
    assert usage["ImageUsage"]["Items"] is None
    _, old = await served.call("GET", "/v1.51/system/df")
    assert isinstance(old, dict)
    assert (old["LayersSize"], "ImageUsage" in old) == (4 << 20, False)
    _, both = await served.call("GET", "/v1.52/system/df")
    assert isinstance(both, dict)
    assert (both["Images"][0]["Size"], both["ImageUsage"]["TotalCount"]) == (4 << 20, len(both["Images"]))
    _, verbose = await served.call("GET", "/v1.52/system/df?verbose=1&type=image")
    assert isinstance(verbose, dict)
    assert set(verbose) == {"ImageUsage"}
    assert verbose["ImageUsage"]["Items"] == both["Images"]


# -- files

COMPRESSORS = [pytest.param(gzip.compress, id="gzip"), pytest.param(bz2.compress, id="bz2"),
               pytest.param(lzma.compress, id="xz"), pytest.param(zstandard.ZstdCompressor().compress, id="zstd")]


@pytest.mark.parametrize("compress", [pytest.param(bytes, id="plain"), *COMPRESSORS])
async def test_archives_go_in_and_out(served: Served, compress: Any) -> None:
    ident = await run(served, "sleep", "100")
    content = bytes(range(256)) * 4096
    tar = compress(tar_of({"f": content}))
    status, answer = await served.call("PUT", f"/containers/{ident}/archive?path=/", data=tar)
    assert (status, answer) == (200, None)
    async with served.client.get(f"http://d/containers/{ident}/archive?path=/f") as out:
        assert out.headers["Content-Type"] == "application/x-tar"
        with tarfile.open(fileobj=io.BytesIO(await out.read())) as opened:
            member = opened.extractfile("f")
            assert member is not None
            assert member.read() == content
    async with served.client.head(f"http://d/containers/{ident}/archive?path=/f") as head:
        found = json.loads(base64.b64decode(head.headers["X-Docker-Container-Path-Stat"]))
    assert (found["name"], found["size"], found["linkTarget"]) == ("f", len(content), "")
    assert (await served.call("GET", f"/containers/{ident}/archive?path=/absent"))[0] == 404
    assert (await served.call("GET", f"/containers/{ident}/archive"))[0] == 400


@pytest.mark.parametrize("compress", COMPRESSORS)
async def test_members_one_after_the_other_are_one_archive(compress: Any) -> None:
    async def parts() -> AsyncIterator[bytes]:
        data = compress(b"a" * 1000) + compress(b"b" * 1000) + bytes(512)
        for start in range(0, len(data), 7):
            yield data[start:start + 7]

    assert b"".join([part async for part in decompressed(parts())]) == b"a" * 1000 + b"b" * 1000


@pytest.mark.parametrize("compress", COMPRESSORS)
async def test_a_bomb_comes_in_pieces(compress: Any) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield compress(bytes(32 << 20))

    sizes = [len(part) async for part in decompressed(parts())]
    assert sum(sizes) == 32 << 20
    assert max(sizes) <= 16 << 20


@pytest.mark.parametrize("damaged", [
    gzip.compress(bytes(range(256)) * 50)[:100], gzip.compress(b"x" * 9000)[:20] + b"\xff" * 50,
    lzma.compress(b"x" * 9000)[:40], bz2.compress(b"x" * 9000)[:20],
    zstandard.ZstdCompressor().compress(b"x" * 900)[:9],
])
async def test_a_damaged_archive_is_the_clients_fault(served: Served, damaged: bytes) -> None:
    ident = await run(served, "sleep", "100")
    status, answer = await served.call("PUT", f"/containers/{ident}/archive?path=/", data=damaged)
    assert (status, isinstance(answer, dict) and "archive is damaged" in answer["message"]) == (400, True)


@pytest.mark.parametrize(("mode", "go"), [
    (stat.S_IFREG | 0o644, 0o644), (stat.S_IFDIR | 0o1777, 1 << 31 | 1 << 20 | 0o777),
    (stat.S_IFLNK | 0o777, 1 << 27 | 0o777), (stat.S_IFREG | 0o6755, 1 << 23 | 1 << 22 | 0o755),
    (stat.S_IFCHR | 0o600, 1 << 26 | 1 << 21 | 0o600), (stat.S_IFBLK | 0o600, 1 << 26 | 0o600),
    (stat.S_IFIFO, 1 << 25), (stat.S_IFSOCK, 1 << 24),
])
def test_modes_are_gos(mode: int, go: int) -> None:
    assert go_mode(mode) == go


@pytest.mark.parametrize(("seconds", "words"), [
    (0, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (150, "2 minutes"),
    (3600, "About an hour"), (7200, "2 hours"), (3 * 86400, "3 days"), (15 * 86400, "2 weeks"),
    (70 * 86400, "2 months"), (800 * 86400, "2 years"), (-5, "Less than a second"),
])
def test_durations_are_dockers(seconds: int, words: str) -> None:
    assert duration(seconds * 10**9) == words


async def test_the_platform_that_is_there_may_be_named(served: Served) -> None:
    query = 'platform={"os":"linux","architecture":"amd64"}'
    for path in ("/images/busybox/json", "/images/busybox/history", "/v1.43/images/busybox/json"):
        assert (await served.call("GET", f"{path}?{query}"))[0] == 200
    # What a version does not know is ignored.
    assert (await served.call("GET", "/v1.43/images/busybox/json?platform=nonsense"))[0] == 200
    assert (await served.call("POST", f"/images/load?{query}", data=b"x"))[0] == 200


async def test_a_build_is_asked_told_and_fails_in_docker_s_words(served: Served) -> None:
    step = CachedStep(key="ab" * 32, project="default", image=BUSYBOX.id, description="RUN make",
                      created_at=1_700_000_000, used_at=1_700_000_001, uses=2, size=4096, in_use=False)
    served.engine.builds.steps = [step]
    query = ("dockerfile=D&t=a:1&t=b&q=&buildargs={\"A\":\"1\",\"B\":null}&labels={\"l\":\"v\"}&nocache=1&rm=0"
             "&forcerm=1"
             "&memory=67108864&cpuquota=5000&shmsize=1048576&networkmode=none&extrahosts=x:10.0.0.1&target=t"
             "&ulimits=[{\"Name\":\"nofile\",\"Soft\":9,\"Hard\":9}]&cachefrom=[\"c\"]&platform=linux/amd64&pull=1")
    auths = base64.urlsafe_b64encode(b'{"r:5000":{"username":"u","password":"p"},"other":{}}').decode()
    sent = {"X-Registry-Config": auths}
    async with served.client.post(f"http://d/build?{query}", data=b"x" * 10, headers=sent) as answer:
        assert answer.status == 200
        lines = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert lines[1] == {"aux": {"ID": BUSYBOX.id}}
    asked = json.loads(lines[0]["stream"].removeprefix("Step 1/1 : 10 "))
    assert (asked["dockerfile"], asked["references"], asked["target"]) == ("D", ["a:1", "b"], "t")
    assert (asked["arguments"], asked["labels"], asked["cache_from"]) == ({"A": "1", "B": None}, {"l": "v"}, ["c"])
    assert (asked["use_cache"], asked["remove"], asked["force_remove"], asked["pull"]) == (False, False, True, True)
    assert (asked["network"], asked["shm_size"], asked["platform"]) == ("none", 1 << 20, "linux/amd64")
    assert list(asked["credentials"]) == ["r:5000"]
    async with served.client.post("http://d/build?q=1", data=b"") as answer:
        assert json.loads((await answer.text()).splitlines()[-1]) == {"stream": BUSYBOX.id + "\n"}
    async with served.client.post("http://d/build?target=fails", data=b"") as answer:
        told = json.loads((await answer.text()).splitlines()[-1])
    assert told["error"] == "The command '/bin/sh -c false' returned a non-zero code: 7"
    assert told["errorDetail"] == {"code": 7, "message": told["error"]}
    async with served.client.get("http://d/v1.44/system/df?type=build-cache") as answer:
        [row] = (await answer.json())["BuildCache"]
    assert (row["Description"], row["Size"], row["UsageCount"], row["InUse"]) == ("RUN make", 4096, 2, False)
    async with served.client.post('http://d/build/prune?all=1&filters={"id":["cd"]}') as answer:
        assert await answer.json() == {"CachesDeleted": None, "SpaceReclaimed": 0}
    async with served.client.post("http://d/build/prune?all=1") as answer:
        assert await answer.json() == {"CachesDeleted": ["ab" * 32], "SpaceReclaimed": 4096}


@pytest.mark.parametrize(("query", "status", "words"), [
    ("buildargs=[1]", 400, "error reading build args: json: cannot unmarshal array"),
    ("labels=x", 400, "error reading labels: invalid character"), ("cachefrom={}", 400, "error reading cache-from"),
    ("memory=1", 400, "Minimum memory limit"), ("networkmode=host", 400, "networkmode=host is not supported"),
    ("networkmode=container:x", 400, "networkmode"), ("outputs=[{}]", 400, "build parameter outputs is not supported"),
    ("isolation=hyperv", 400, "isolation"), ("remote=client-session", 501, "DOCKER_BUILDKIT=0"),
    ("target=absent", 400, 'target stage "absent" could not be found'), ("platform=a/b/c/d", 400, "cannot parse"),
    ("extrahosts=x", 400, "x"), ("ulimits=[{}]", 400, "ulimit"), ("cgroupparent=/x", 400, "cgroupparent"),
    *((f"{name}=1", 400, f"build parameter {name} is not supported")
      for name in ("squash", "secrets", "ssh", "cpusetmems", "securityopt"))])
async def test_parameters_of_a_build_that_are_refused(served: Served, query: str, status: int, words: str) -> None:
    async with served.client.post(f"http://d/build?{query}", data=b"") as answer:
        assert answer.status == status, await answer.text()
        assert words in (await answer.json())["message"]
