"""Nothing that a client may send is ignored in silence: each field of a body changes what the engine is asked for, or
what is answered, and each parameter is read; or docs/docker.md says that it means nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from hyperstack.http.call import Call
from tests.reference.operations import OF_MANAGERS, OPERATIONS, Operation
from tests.reference.pages import table
from tests.reference.schema import Schema
from tests.unit.docker_api_images import BUSYBOX
from tests.unit.docker_api_server import Served, serve

NO_EFFECT = {(row[0].strip("`"), name) for row in table("docker.md", "Without effect")
             for name in re.findall(r"`([^`]+)`", row[1])}
"""(operation, field or parameter)."""
TELL = ('Either hyperstack/docker_api reads it, or refuses it by its name, or docs/docker.md, "Without effect", has a '
        "row of it; and no row of something that does have one.")
_ABSENT = {*OF_MANAGERS, "POST /swarm/init", "POST /swarm/join", "PUT /volumes/{id}"}
"""Every request has the same answer."""
_ROOMS = ("containers", "execs", "images", "layers", "builds", "volumes", "networks")
_READERS = ("has", "text", "texts", "flag", "integer", "time_ns")

_MOUNT = {"Type": "bind", "Source": "/a", "Target": "/b"}
_BESIDE: dict[str, dict[str, Any]] = {
    "POST /containers/create": {"Image": "busybox"},
    "POST /containers/create Healthcheck": {"Test": ["CMD", "x"]},
    "POST /containers/create HostConfig.Mounts": _MOUNT,
    "POST /containers/create HostConfig.Mounts > VolumeOptions": {**_MOUNT, "Type": "volume", "Source": "vol"},
    "POST /containers/create HostConfig.Mounts > TmpfsOptions": {"Type": "tmpfs", "Target": "/b"},
    "POST /containers/create HostConfig.Mounts > ImageOptions": {**_MOUNT, "Type": "image"},
    "POST /containers/create HostConfig.PortBindings": {"HostPort": "80"},
    "POST /containers/create HostConfig.RestartPolicy": {"Name": "on-failure"},
    "POST /containers/create HostConfig.Ulimits": {"Name": "nofile", "Soft": 1, "Hard": 2},
    "POST /containers/{id}/exec": {"Cmd": ["true"]},
    "POST /containers/{id}/update RestartPolicy": {"Name": "on-failure"},
    "POST /commit Healthcheck": {"Test": ["CMD", "x"]},
    "POST /exec/{id}/start": {"Detach": True},
    "POST /auth": {"username": "a", "password": "b"},
    "POST /networks/create": {"Name": "made"},
    "POST /networks/create IPAM.Config": {"Subnet": "10.9.0.0/16"},
    "POST /networks/{id}/connect": {"Container": "box"},
    "POST /networks/{id}/disconnect": {"Container": "box"},
}
"""What must stand beside a field, or around (`>`) one that has fields, for it to mean anything."""
_VALUES = {"boolean": "1", "integer": "7"}
"""Of parameters."""
_KEYS = {"HostConfig.PortBindings": "80/tcp", "NetworkingConfig.EndpointsConfig": "bridge"}
"""Of what maps something to objects."""
_OTHERWISE: dict[str, Any] = {"EnableIPv4": False, "Detach": False, "Name": "y", "Cmd": ["y"], "Test": ["CMD", "y"]}
"""By a field's name: values where the usual one would be the default, or stands there already."""
_ASKED = {"POST /commit": "container=box", "POST /images/create": "fromSrc=-",
          "POST /images/create fromImage": "", "POST /images/create tag": "", "GET /containers/{id}/stats": "stream=0",
          "GET /images/search": "term=x",
          "GET /images/get": "names=busybox",
          "POST /images/{name}/tag": "repo=other",
          "GET /containers/{id}/logs": "stdout=1", "GET /containers/{id}/archive": "path=/",
          "HEAD /containers/{id}/archive": "path=/", "PUT /containers/{id}/archive": "path=/"}
"""Parameters that an operation cannot do without."""
_WEBSOCKET = ("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
              f"Sec-WebSocket-Key: {'A' * 22}==\r\n")


def plain(schema: Schema) -> Schema:
    """Without the null that some fields may be."""
    return schema["anyOf"][0] if "anyOf" in schema else schema


def sample(schema: Schema, name: str = "") -> Any:
    schema = plain(schema)
    if name in _OTHERWISE:
        return _OTHERWISE[name]
    if "enum" in schema:
        return schema["enum"][-1]
    match schema["type"]:
        case "array":
            return [sample(schema["items"])]
        case "object":
            return {"x": sample(schema["additionalProperties"])} if "additionalProperties" in schema else {}
    return {"boolean": True, "integer": 7, "string": "x"}[schema["type"]]


def _fields_of_bodies() -> set[tuple[str, str]]:
    return {(operation.name, name) for operation in OPERATIONS if isinstance(operation.body, dict)
            for name, _, _ in fields(operation.name, operation.body)}


Around = Callable[[Any], Any]


def fields(operation: str, schema: Schema, place: str = "", around: Around = lambda value: value
           ) -> Iterator[tuple[str, Any, Any]]:
    """Each field at any depth: its name, a body without it, and one with it.

    :param around: makes a whole body of the object that the fields are in, which lies at `place`.
    """
    beside = _BESIDE.get(f"{operation} {place}".strip(), {})
    for name, inner in schema.get("properties", {}).items():
        path = f"{place}.{name}".strip(".")
        inner, outside = plain(inner), _BESIDE.get(f"{operation} {place} > {name}", beside)
        if "properties" not in inner:  # Those are in its own fields.
            yield path, around(beside), around({**beside, name: sample(inner, name)})

        def further(form: Callable[[Any], Any], name: str = name, outside: dict[str, Any] = outside) -> Around:
            return lambda value: around({**outside, name: form(value)})

        yield from fields(operation, inner, path, further(lambda value: value))
        if inner["type"] == "array":
            yield from fields(operation, plain(inner["items"]), path, further(lambda value: [value]))
        elif "additionalProperties" in inner:
            values, key = plain(inner["additionalProperties"]), _KEYS.get(path, "x")
            if values.get("type") == "array":
                yield from fields(operation, plain(values["items"]), path, further(_listed_under(key)))
            else:
                yield from fields(operation, values, path, further(_under(key)))


def _under(key: str) -> Callable[[Any], Any]:
    return lambda value: {key: value}


def _listed_under(key: str) -> Callable[[Any], Any]:
    return lambda value: {key: [value]}


def watch(served: Served, calls: list[str]) -> None:
    """Every question to the engine is noted before it is answered."""
    def noted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls.append(f"{name} {args[1:]} {options}")
            return method(*args, **options)

        return call

    for room in _ROOMS:
        for name, method in inspect.getmembers(getattr(served.engine, room), callable):
            if not name.startswith("_"):
                setattr(getattr(served.engine, room), name, noted(f"{room}.{name}", method))


async def path_of(served: Served, operation: Operation) -> str:
    """With the names of what is there; a container that an earlier request has stopped or removed is there again."""
    if (await served.call("POST", "/containers/box/start"))[0] != 304:
        await served.call("DELETE", "/containers/box", params={"force": "1"})
        await served.call("POST", "/containers/create", params={"name": "box"}, json={
            "Image": "busybox", "Cmd": ["sleep", "60"], "Tty": True, "OpenStdin": True})
        await served.call("POST", "/containers/box/start")
        await served.call("POST", "/volumes/create", json={"Name": "v"})
    served.engine.images.images[BUSYBOX.id] = BUSYBOX
    path = operation.path.replace("{name}", "busybox")
    if path.startswith("/exec/"):
        _, made = await served.call("POST", "/containers/box/exec", json={"Cmd": ["true"]})
        assert isinstance(made, dict)
        return path.replace("{id}", made["Id"])
    return path.replace("{id}", {"/networks": "bridge", "/volumes": "v"}.get(path[:path.index("/", 1)], "box")
                        ) if "{id}" in path else path


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


async def test_every_field_of_a_body_means_something(served: Served) -> None:
    calls: list[str] = []

    async def effect(operation: Operation, body: Any) -> tuple[object, str]:
        path = await path_of(served, operation)
        calls.clear()
        status, answer = await served.call(operation.method, path, json=body, params=_ASKED.get(operation.name))
        message = answer.get("message", "") if isinstance(answer, dict) else ""
        told = re.sub(r"\b[0-9a-f]{64}\b", "ID", "\n".join(calls))
        return (told or status, message if not told else ""), message

    ignored = set()
    watch(served, calls)
    for operation in OPERATIONS:
        if not isinstance(operation.body, dict) or operation.name in _ABSENT:
            continue
        for name, without, with_it in fields(operation.name, operation.body):
            before, message = await effect(operation, without)
            if "is not supported" in message:
                continue  # What the field belongs to is refused as a whole.
            assert "invalid" not in message, (operation.name, name, without, message)
            if before == (await effect(operation, with_it))[0]:
                ignored.add((operation.name, name))
    told = NO_EFFECT & _fields_of_bodies()
    assert (sorted(ignored - told), sorted(told - ignored)) == ([], []), TELL


async def test_every_parameter_is_read(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()

    def noting(method: Callable[..., Any]) -> Callable[..., Any]:
        def reader(call: Call, name: str, *args: Any, **options: Any) -> Any:
            read.add(name)
            return method(call, name, *args, **options)

        return reader

    for name in _READERS:
        monkeypatch.setattr(Call, name, noting(getattr(Call, name)))
    ignored = set()
    for operation in OPERATIONS:
        for name, schema in {} if operation.name in _ABSENT else operation.parameters().items():
            read.clear()
            value = "{}" if "contentMediaType" in schema else _VALUES.get(schema["type"], "x")
            await begin(served, operation, name, value)
            if name not in read:
                ignored.add((operation.name, name))
    told = NO_EFFECT - _fields_of_bodies()
    assert (sorted(ignored - told), sorted(told - ignored)) == ([], []), TELL


async def begin(served: Served, operation: Operation, name: str, value: str) -> None:
    """Send a request with a parameter, and wait until its answer begins."""
    path = await path_of(served, operation)
    asked = "&".join((_ASKED.get(f"{operation.name} {name}", _ASKED.get(operation.name, "")), urlencode({name: value})))
    headers = _WEBSOCKET if path.endswith("/ws") else "Connection: close\r\n"
    reader, writer = await served.raw(f"{operation.method} {path}?{asked} HTTP/1.1\r\nHost: d\r\n{headers}"
                                      "Content-Length: 0\r\n\r\n".encode())
    async with asyncio.timeout(20):
        assert (await reader.readline()).startswith(b"HTTP/1.1 ")
    writer.close()

async def test_a_prune_of_the_builds_cache_keeps_what_it_is_told_to(served: Served) -> None:
    calls: list[str] = []
    watch(served, calls)
    for query in ("", "keep-storage=5", "reserved-space=6", "max-used-space=7", "reserved-space=8&max-used-space=7"):
        assert (await served.call("POST", f"/build/prune?{query}"))[0] == 200
    assert [re.findall(r"'keep_bytes': (\d+)", call) for call in calls] == [["0"], ["5"], ["6"], ["7"], ["8"]]
    status, refused = await served.call("POST", "/build/prune?min-free-space=9")
    assert (status, "min-free-space is not supported" in str(refused)) == (400, True)


async def test_a_mac_address_of_the_whole_container_is_one_of_older_versions(served: Served) -> None:
    mac, networks = "02:00:00:00:00:01", {"EndpointsConfig": {"bridge": {"MacAddress": "02:00:00:00:00:01"}}}
    body = {"Image": "busybox", "MacAddress": mac}
    status, refused = await served.call("POST", "/v1.52/containers/create", json=body)
    assert (status, "MacAddress is not supported" in str(refused)) == (400, True)
    for version, asked, warned in (("1.43", body, 0), ("1.44", body, 1), ("1.51", body, 1),
                                   ("1.52", {"Image": "busybox", "NetworkingConfig": networks}, 0)):
        status, made = await served.call("POST", f"/v{version}/containers/create", json=asked)
        assert status == 201
        assert isinstance(made, dict)
        assert [words[:36] for words in made["Warnings"]] == ["The container-wide MacAddress field "] * warned
        for shown, there in (("1.51", mac), ("1.52", None)):
            _, found = await served.call("GET", f"/v{shown}/containers/{made['Id']}/json")
            assert isinstance(found, dict)
            assert found["Config"].get("MacAddress") == there


async def test_a_terminal_of_an_exec_begins_with_the_size_that_it_was_made_with(served: Served) -> None:
    calls: list[str] = []
    watch(served, calls)
    exec_start = next(operation for operation in OPERATIONS if operation.name == "POST /exec/{id}/start")
    await path_of(served, exec_start)
    for asked, size in (({}, "'rows': 33, 'columns': 44"), ({"ConsoleSize": [5, 6]}, "'rows': 5, 'columns': 6")):
        _, made = await served.call("POST", "/containers/box/exec", json={"Cmd": ["true"], "ConsoleSize": [33, 44]})
        assert isinstance(made, dict)
        async with served.client.post(f"http://d/exec/{made['Id']}/start", json=asked) as answer:
            await answer.read()
        assert size in next(call for call in reversed(calls) if call.startswith("execs.start "))
