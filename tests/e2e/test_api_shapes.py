"""Every operation of the published reference, asked of a real daemon with real containers: its good answer and its
errors have the reference's status, headers, fields, types and formats.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness import REGISTRY, Daemon, Namespace
from tests.images import BUSYBOX, daemon_with_busybox
from tests.reference.client import Answer, Checked, UnixConnection, frames
from tests.reference.operations import OF_MANAGERS, OPERATIONS
from tests.tars import tar_of

NOBODY = "no-such-thing"
FOREVER = ["sleep", "100000"]


class World:
    """What the operations are asked about."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.api = Checked(daemon.socket)
        self.ask = self.api.ask
        self._count = 0
        self.ask("POST", "/volumes/create", {"Name": "data", "Labels": {"a": "b"}})
        self.ask("POST", "/networks/create", {"Name": "net", "IPAM": {"Config": [
            {"Subnet": "10.77.0.0/24", "IPRange": "10.77.0.128/25", "AuxiliaryAddresses": {"x": "10.77.0.200"}}]}})
        self.running = self.container(
            FOREVER, start=True, Labels={"l": "1"}, Env=["A=b"], ExposedPorts={"80/tcp": {}, "81/udp": {}},
            Healthcheck={"Test": ["CMD", "true"], "Interval": 10**9},
            HostConfig={"Binds": ["data:/data:ro"], "Tmpfs": {"/scratch": "size=1m"}, "NetworkMode": "net",
                        "PortBindings": {"80/tcp": [{"HostPort": "18080"}]}, "Memory": 64 << 20,
                        "Ulimits": [{"Name": "nofile", "Soft": 64, "Hard": 128}]},
            NetworkingConfig={"EndpointsConfig": {"net": {"Aliases": ["web"]}}})
        """With everything that shows in an answer."""
        self.typing = self.container(["cat"], start=True, OpenStdin=True, Tty=True, AttachStdin=True)
        """Its output is what it is told."""

    def container(self, command: list[str], *, start: bool = False, **config: Any) -> str:
        self._count += 1
        made = self.ask("POST", "/containers/create", {"Image": BUSYBOX, "Cmd": command, **config},
                        query={"name": f"c{self._count}"})
        assert made.status == 201, made.message
        ident = str(made.value["Id"])
        if start:
            assert self.ask("POST", f"/containers/{ident}/start").status == 204
        return ident

    @contextlib.contextmanager
    def lasting(self, **config: Any) -> Iterator[str]:
        """A running container for what changes it."""
        ident = self.container(FOREVER, start=True, **config)
        yield ident
        self.ask("DELETE", f"/containers/{ident}", query={"force": 1, "v": 1})

    def exec(self, command: list[str], **config: Any) -> str:
        made = self.ask("POST", f"/containers/{self.running}/exec",
                        {"Cmd": command, "AttachStdout": True, "AttachStderr": True, **config})
        assert made.status == 201, made.message
        return str(made.value["Id"])


Drive = Callable[[World], object]
_drives: dict[str, Drive] = {}


def drives(*names: str) -> Callable[[Drive], Drive]:
    """Of an operation; the function asks for all its good answers."""
    def remember(drive: Drive) -> Drive:
        _drives.update(dict.fromkeys(names, drive))
        return drive

    return remember


@pytest.fixture(scope="module")
def world(namespace: Namespace) -> Iterator[World]:
    with daemon_with_busybox(namespace) as daemon:
        yield World(daemon)


@pytest.mark.parametrize("name", [one.name for one in OPERATIONS if "{" in one.path and one.name not in OF_MANAGERS])
def test_what_is_not_there(world: World, name: str) -> None:
    """Of an object that nobody made: 404, or what a host without the whole function says."""
    method, _, path = name.partition(" ")
    path = path.replace("{id}", NOBODY).replace("{name}", NOBODY)
    body = {"Container": NOBODY, "Cmd": ["true"]} if method in ("POST", "PUT") and path[-6:] != "/start" else None
    query = {"path": "/", "repo": "a", "name": "b", "h": 1, "w": 1}
    if name == "PUT /containers/{id}/archive":
        answer = world.ask(method, path, raw=tar_of({"a": b"b"}), query=query)
    elif name.startswith("GET /distribution"):
        answer = world.ask(method, f"/distribution/{REGISTRY}/{NOBODY}/json")
        assert answer.status in (401, 403, 404)
        return
    elif name == "POST /images/{name}/push":
        assert NOBODY in world.ask(method, path).value[-1]["error"]
        return
    elif name == "GET /containers/{id}/attach/ws":
        answer = world.ask(method, path, headers=WEBSOCKET)
    elif name == "GET /containers/{id}/logs":
        answer = world.ask(method, path, query={"stdout": 1})
    else:
        answer = world.ask(method, path, body, query=query)
    assert answer.status == (503 if name == "PUT /volumes/{id}" else 404), answer.raw
    assert method == "HEAD" or NOBODY in answer.message or answer.status == 503


def is_tar(raw: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return tar.getnames()


def good(answer: Answer, status: int = 200) -> Answer:
    assert answer.status == status, (answer.status, answer.raw[:500])
    return answer


# -- containers

@drives("GET /containers/json")
def _list(world: World) -> None:
    world.container(["true"])
    labelled = {"filters": json.dumps({"label": ["l=1"]})}
    queries: list[dict[str, Any]] = [{}, {"all": 1, "size": 1}, {"limit": 1}, labelled]
    for query in queries:
        assert good(world.ask("GET", "/containers/json", query=query)).value


@drives("POST /containers/create")
def _create(world: World) -> None:
    world.container(["true"])
    assert world.ask("POST", "/containers/create", {"Image": "nobody/nothing"}).status == 404
    assert world.ask("POST", "/containers/create", {"Image": BUSYBOX}, query={"name": "c1"}).status == 409
    assert world.ask("POST", "/containers/create", {"Image": BUSYBOX, "Cmd": {}}).status == 400


@drives("GET /containers/{id}/json")
def _inspect(world: World) -> None:
    assert good(world.ask("GET", f"/containers/{world.running}/json", query={"size": 1})).value["SizeRw"] >= 0
    for ident in (world.typing, world.container(["true"])):
        good(world.ask("GET", f"/containers/{ident}/json"))


@drives("GET /containers/{id}/top")
def _top(world: World) -> None:
    for query in ({}, {"ps_args": "aux"}):
        found = good(world.ask("GET", f"/containers/{world.running}/top", query=query)).value
        assert all(len(row) == len(found["Titles"]) for row in found["Processes"])


@drives("GET /containers/{id}/logs")
def _logs(world: World) -> None:
    ident = world.container(["sh", "-c", "echo out; echo err >&2"], start=True)
    good(world.ask("POST", f"/containers/{ident}/wait"))
    query = {"stdout": 1, "stderr": 1, "timestamps": 1, "tail": "5", "follow": 1}
    found = list(frames(good(world.ask("GET", f"/containers/{ident}/logs", query=query)).raw))
    assert sorted(stream for stream, _ in found) == [1, 2]
    good(world.ask("GET", f"/containers/{world.typing}/logs", query={"stdout": 1}))


@drives("GET /containers/{id}/changes")
def _changes(world: World) -> None:
    assert good(world.ask("GET", f"/containers/{world.container(['true'])}/changes")).value in (None, [])
    world.ask("PUT", f"/containers/{world.typing}/archive", raw=tar_of({"new": b"x"}), query={"path": "/tmp"})
    assert {"Path": "/tmp/new", "Kind": 1} in good(world.ask("GET", f"/containers/{world.typing}/changes")).value


@drives("GET /containers/{id}/export")
def _export(world: World) -> None:
    assert "bin/busybox" in is_tar(good(world.ask("GET", f"/containers/{world.running}/export")).raw)


@drives("GET /containers/{id}/stats")
def _stats(world: World) -> None:
    stopped = world.container(["true"])
    for ident, query in ((world.running, {"stream": 0}), (world.running, {"stream": 0, "one-shot": 1}),
                         (stopped, {"stream": 0, "one-shot": 1})):
        assert good(world.ask("GET", f"/containers/{ident}/stats", query=query)).value[0]["id"] == ident
    found = good(world.ask("GET", f"/containers/{world.running}/stats", lines=2)).value
    assert found[1]["preread"] == found[0]["read"]


@drives("POST /containers/{id}/resize")
def _resize(world: World) -> None:
    good(world.ask("POST", f"/containers/{world.typing}/resize", query={"h": 20, "w": 90}))


@drives("POST /containers/{id}/start")
def _start(world: World) -> None:
    good(world.ask("POST", f"/containers/{world.running}/start"), 304)
    with world.lasting():
        pass


@drives("POST /containers/{id}/stop")
def _stop(world: World) -> None:
    with world.lasting() as ident:
        good(world.ask("POST", f"/containers/{ident}/stop", query={"t": 0}), 204)
        good(world.ask("POST", f"/containers/{ident}/stop"), 304)


@drives("POST /containers/{id}/restart")
def _restart(world: World) -> None:
    with world.lasting() as ident:
        good(world.ask("POST", f"/containers/{ident}/restart", query={"t": 0, "signal": "KILL"}), 204)


@drives("POST /containers/{id}/kill")
def _kill(world: World) -> None:
    with world.lasting() as ident:
        good(world.ask("POST", f"/containers/{ident}/kill", query={"signal": "SIGKILL"}), 204)
        world.ask("POST", f"/containers/{ident}/wait")
        good(world.ask("POST", f"/containers/{ident}/kill"), 409)


@drives("POST /containers/{id}/update")
def _update(world: World) -> None:
    good(world.ask("POST", f"/containers/{world.running}/update", {"Memory": 65 << 20, "MemorySwap": -1}))


@drives("POST /containers/{id}/rename")
def _rename(world: World) -> None:
    ident = world.container(["true"])
    good(world.ask("POST", f"/containers/{ident}/rename", query={"name": "renamed"}), 204)
    good(world.ask("POST", f"/containers/{ident}/rename", query={"name": "c1"}), 409)


@drives("POST /containers/{id}/pause", "POST /containers/{id}/unpause")
def _pause(world: World) -> None:
    with world.lasting() as ident:
        good(world.ask("POST", f"/containers/{ident}/pause"), 204)
        good(world.ask("POST", f"/containers/{ident}/pause"), 409)
        shown = good(world.ask("GET", f"/containers/{ident}/json")).value["State"]
        assert (shown["Status"], shown["Paused"], shown["Running"]) == ("paused", True, True)
        good(world.ask("POST", f"/containers/{ident}/unpause"), 204)
        good(world.ask("POST", f"/containers/{ident}/unpause"), 409)


@drives("POST /containers/{id}/attach")
def _attach(world: World) -> None:
    path, query = f"/containers/{world.typing}/attach", {"stream": 1, "stdin": 1, "stdout": 1}
    answer, sock = world.api.upgrade("POST", path, query=query)
    with sock:
        assert answer.status == 101
        sock.sendall(b"hello\n")
        assert sock.recv(5) == b"hello"
    ident = world.container(["echo", "hi"], start=True)
    world.ask("POST", f"/containers/{ident}/wait")
    answer = good(world.ask("POST", f"/containers/{ident}/attach", query={"logs": 1, "stdout": 1}))
    assert list(frames(answer.raw)) == [(1, b"hi\n")]
    good(world.ask("POST", path, query={"detachKeys": "nonsense"}), 400)


WEBSOCKET = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
             "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode()}


@drives("GET /containers/{id}/attach/ws")
def _websocket(world: World) -> None:
    path, query = f"/containers/{world.typing}/attach/ws", {"stream": 1, "stdout": 1}
    answer, sock = world.api.upgrade("GET", path, query=query, headers=WEBSOCKET)
    with sock:
        assert answer.status == 101
    good(world.ask("GET", path), 400)


@drives("POST /containers/{id}/wait")
def _wait(world: World) -> None:
    ident = world.container(["sh", "-c", "exit 3"], start=True)
    assert good(world.ask("POST", f"/containers/{ident}/wait")).value == {"StatusCode": 3}
    good(world.ask("POST", f"/containers/{ident}/wait", query={"condition": "someday"}), 400)


@drives("DELETE /containers/{id}")
def _remove(world: World) -> None:
    ident = world.container(["true"])
    good(world.ask("DELETE", f"/containers/{ident}"), 204)
    good(world.ask("DELETE", f"/containers/{world.typing}"), 409)


@drives("HEAD /containers/{id}/archive", "GET /containers/{id}/archive", "PUT /containers/{id}/archive")
def _archive(world: World) -> None:
    path, query = f"/containers/{world.running}/archive", {"path": "/etc/passwd"}
    good(world.ask("PUT", path, raw=tar_of({"put": b"in"}), query={"path": "/tmp", "noOverwriteDirNonDir": "1"}))
    for method in ("HEAD", "GET"):
        answer = good(world.ask(method, path, query=query))
        stat = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
        assert set(stat) == {"name", "size", "mode", "mtime", "linkTarget"}
    assert is_tar(answer.raw) == ["passwd"]
    good(world.ask("GET", path, query={"path": "/nowhere"}), 404)
    good(world.ask("PUT", path, raw=b"no tar", query={"path": "/tmp"}), 400)


@drives("POST /containers/prune")
def _prune_containers(world: World) -> None:
    world.container(["true"], Labels={"prune": "me"})
    found = good(world.ask("POST", "/containers/prune", query={"filters": json.dumps({"label": ["prune=me"]})})).value
    assert len(found["ContainersDeleted"]) == 1
    good(world.ask("POST", "/containers/prune", query={"filters": json.dumps({"label": ["prune=me"]})}))


@drives("POST /containers/{id}/exec", "GET /exec/{id}/json")
def _exec(world: World) -> None:
    ident = world.exec(["true"])
    assert good(world.ask("GET", f"/exec/{ident}/json")).value["ExitCode"] is None
    good(world.ask("POST", f"/containers/{world.container(['true'])}/exec", {"Cmd": ["true"]}), 409)
    good(world.ask("POST", f"/containers/{world.running}/exec", {"Cmd": []}), 400)


@drives("POST /exec/{id}/start")
def _exec_start(world: World) -> None:
    answer = good(world.ask("POST", f"/exec/{world.exec(['echo', 'hi'])}/start", {}))
    assert list(frames(answer.raw)) == [(1, b"hi\n")]
    ident = world.exec(["sh", "-c", "exit 4"])
    answer, sock = world.api.upgrade("POST", f"/exec/{ident}/start", {"Detach": False})
    with sock:
        assert (answer.status, sock.recv(1)) == (101, b"")
    assert good(world.ask("GET", f"/exec/{ident}/json")).value["ExitCode"] == 4
    good(world.ask("POST", f"/exec/{ident}/start", {"Detach": True}), 409)


@drives("POST /exec/{id}/resize")
def _exec_resize(world: World) -> None:
    ident = world.exec(["cat"], Tty=True, AttachStdin=True)
    answer, sock = world.api.upgrade("POST", f"/exec/{ident}/start", {"Tty": True})
    with sock:
        assert answer.status == 101
        sock.sendall(b"x\n")
        sock.recv(1)
        good(world.ask("POST", f"/exec/{ident}/resize", query={"h": 10, "w": 20}))


# -- images

@drives("GET /images/json")
def _images(world: World) -> None:
    for query in ({}, {"all": 1, "shared-size": 1, "digests": 1}):
        assert good(world.ask("GET", "/images/json", query=query)).value


@drives("POST /build")
def _build(world: World) -> None:
    context = tar_of({"Dockerfile": f"FROM {BUSYBOX}\nLABEL a=b\n".encode()})
    answer = world.ask("POST", "/build", raw=context, query={"t": "built:1"},
                       headers={"Content-Type": "application/x-tar"})
    assert any("aux" in line for line in good(answer).value), answer.value
    good(world.ask("DELETE", "/images/built:1"))
    good(world.ask("POST", "/build", raw=tar_of({"nothing": b""})), 400)


@drives("POST /build/prune")
def _build_prune(world: World) -> None:
    good(world.ask("POST", "/build/prune"))


@drives("POST /images/create", "GET /images/{name}/json", "GET /images/{name}/history",
        "GET /images/{name}/attestations", "POST /images/{name}/tag", "DELETE /images/{name}")
def _image(world: World) -> None:
    found = good(world.ask("POST", "/images/create", query={"fromImage": f"{REGISTRY}/users", "tag": "1"})).value
    assert found[-1]["status"].startswith("Status: ")
    name = f"/images/{REGISTRY}/users:1"
    ident = good(world.ask("GET", f"{name}/json")).value["Id"]
    # It was made without a word of how, and then Docker, too, has none.
    assert good(world.ask("GET", f"{name}/history")).value == []
    assert good(world.ask("GET", f"{name}/attestations")).value == []
    good(world.ask("POST", f"{name}/tag", query={"repo": "mine", "tag": "2"}), 201)
    good(world.ask("POST", f"{name}/tag", query={"repo": "NOT A NAME"}), 400)
    assert good(world.ask("DELETE", "/images/mine:2")).value == [{"Untagged": "mine:2"}]
    assert {"Deleted": ident} in good(world.ask("DELETE", name)).value
    good(world.ask("GET", f"/images/{BUSYBOX}/json"))
    good(world.ask("DELETE", f"/images/{BUSYBOX}"), 409)
    good(world.ask("POST", "/images/create", query={"fromImage": f"{REGISTRY}/nothing", "tag": "1"}), 404)


@drives("POST /images/{name}/push", "GET /distribution/{name}/json")
def _push(world: World) -> None:
    good(world.ask("POST", f"/images/{BUSYBOX}/tag", query={"repo": f"{REGISTRY}/pushed", "tag": "1"}), 201)
    lines = good(world.ask("POST", f"/images/{REGISTRY}/pushed/push", query={"tag": "1"})).value
    assert lines[-1]["aux"]["Tag"] == "1"
    digest = good(world.ask("GET", f"/distribution/{REGISTRY}/pushed:1/json")).value["Descriptor"]["digest"]
    assert digest == lines[-1]["aux"]["Digest"]
    good(world.ask("DELETE", f"/images/{REGISTRY}/pushed:1"))


@drives("GET /images/search")
def _search(world: World) -> None:
    assert good(world.ask("GET", "/images/search", query={"term": f"{REGISTRY}/busy"})).value
    good(world.ask("GET", "/images/search"), 400)


@drives("POST /images/prune")
def _prune_images(world: World) -> None:
    good(world.ask("POST", "/images/prune", query={"filters": json.dumps({"dangling": ["true"]})}))


@drives("GET /images/{name}/get", "GET /images/get", "POST /images/load")
def _save(world: World) -> None:
    for path in (f"/images/{BUSYBOX}/get", "/images/get"):
        saved = good(world.ask("GET", path, query={"names": [BUSYBOX]})).raw
        assert "manifest.json" in is_tar(saved)
    lines = good(world.ask("POST", "/images/load", raw=saved, headers={"Content-Type": "application/x-tar"})).value
    assert any(BUSYBOX in line.get("stream", "") for line in lines)
    refused = good(world.ask("POST", "/images/load", raw=b"no tar")).value
    assert "error" in refused[-1]


@drives("POST /commit")
def _commit(world: World) -> None:
    made = good(world.ask("POST", "/commit", {"Labels": {"x": "y"}}, query={
        "container": world.running, "repo": "committed", "tag": "1", "comment": "c", "author": "a"}), 201)
    assert good(world.ask("GET", "/images/committed:1/json")).value["Id"] == made.value["Id"]
    good(world.ask("DELETE", "/images/committed:1"))
    good(world.ask("POST", "/commit", query={"container": NOBODY}), 404)


@drives("POST /session")
def _session(world: World) -> None:
    good(world.ask("POST", "/session"), 501)


# -- the system

@drives("POST /auth")
def _auth(world: World) -> None:
    good(world.ask("POST", "/auth", {"username": "a", "password": "b", "serveraddress": REGISTRY}))
    good(world.ask("POST", "/auth", {"username": 5}), 400)


@drives("GET /info", "GET /version", "GET /_ping", "HEAD /_ping")
def _about(world: World) -> None:
    for path in ("/info", "/version", "/_ping"):
        good(world.ask("GET", path))
    good(world.ask("HEAD", "/_ping"))


@drives("GET /events")
def _events(world: World) -> None:
    world.container(["true"])
    now = time.time()
    query = {"since": int(now) - 60, "until": int(now) + 1}
    kinds = {(event["Type"], event["Action"]) for event in good(world.ask("GET", "/events", query=query)).value}
    assert ("container", "create") in kinds
    good(world.ask("GET", "/events", query={"since": "yesterday"}), 400)


@drives("GET /system/df")
def _df(world: World) -> None:
    kinds = {"image": "ImageUsage", "container": "ContainerUsage", "volume": "VolumeUsage",
             "build-cache": "BuildCacheUsage"}
    for verbose in (0, 1):
        assert set(good(world.ask("GET", "/system/df", query={"verbose": verbose})).value) == set(kinds.values())
        for name, kind in kinds.items():
            assert set(good(world.ask("GET", "/system/df", query={"verbose": verbose, "type": name})).value) == {kind}
    good(world.ask("GET", "/system/df", query={"type": "nonsense"}), 400)


# -- volumes and networks

@drives("GET /volumes", "POST /volumes/create", "GET /volumes/{id}", "DELETE /volumes/{id}", "PUT /volumes/{id}")
def _volumes(world: World) -> None:
    made = good(world.ask("POST", "/volumes/create", {"Name": "vol", "DriverOpts": {"size": "16MiB"}}), 201).value
    assert good(world.ask("GET", "/volumes/vol")).value == made
    assert made in good(world.ask("GET", "/volumes")).value["Volumes"]
    good(world.ask("PUT", "/volumes/vol", {}, query={"version": 1}), 503)
    good(world.ask("DELETE", "/volumes/vol"), 204)
    good(world.ask("DELETE", "/volumes/data"), 409)
    good(world.ask("POST", "/volumes/create", {"Name": "a/b"}), 400)


@drives("POST /volumes/prune")
def _prune_volumes(world: World) -> None:
    world.ask("POST", "/volumes/create", {"Name": "unused", "Labels": {"p": "q"}})
    query = {"filters": json.dumps({"all": ["1"], "label": ["p=q"]})}
    assert good(world.ask("POST", "/volumes/prune", query=query)).value["VolumesDeleted"] == ["unused"]


@drives("GET /networks", "GET /networks/{id}", "POST /networks/create", "DELETE /networks/{id}",
        "POST /networks/{id}/connect", "POST /networks/{id}/disconnect")
def _networks(world: World) -> None:
    assert good(world.ask("GET", "/networks")).value
    found = good(world.ask("GET", "/networks/net")).value
    assert list(found["Containers"]) == [world.running]
    # Net, broadcast, gateway, the one that is kept free, and the container's.
    assert found["Status"]["IPAM"]["Subnets"]["10.77.0.0/24"]["IPsInUse"] == 5
    good(world.ask("POST", "/networks/create", {"Name": "other", "Internal": True}), 201)
    good(world.ask("POST", "/networks/create", {"Name": "other"}), 409)
    ident = world.container(["true"])
    good(world.ask("POST", "/networks/bridge/disconnect", {"Container": ident}))
    good(world.ask("POST", "/networks/other/connect", {"Container": ident, "EndpointConfig": {"Aliases": ["x"]}}))
    good(world.ask("POST", "/networks/other/disconnect", {"Container": ident, "Force": True}))
    good(world.ask("DELETE", "/networks/other"), 204)
    good(world.ask("DELETE", "/networks/net"), 403)


@drives("POST /networks/prune")
def _prune_networks(world: World) -> None:
    world.ask("POST", "/networks/create", {"Name": "unused", "Labels": {"p": "q"}})
    query = {"filters": json.dumps({"label": ["p=q"]})}
    assert good(world.ask("POST", "/networks/prune", query=query)).value["NetworksDeleted"] == ["unused"]


# -- what is not here

@drives("GET /plugins")
def _plugins(world: World) -> None:
    assert good(world.ask("GET", "/plugins")).value == []


@drives("GET /plugins/privileges", "POST /plugins/pull", "POST /plugins/create", "POST /swarm/init",
        "POST /swarm/join")
def _absent(world: World) -> None:
    for name in ("GET /plugins/privileges", "POST /plugins/pull", "POST /plugins/create", "POST /swarm/init",
                 "POST /swarm/join"):
        good(world.ask(*name.split(" "), query={"remote": "x", "name": "y"}), 501)


PLUGINS = ("GET /plugins/{name}/json", "DELETE /plugins/{name}", "POST /plugins/{name}/enable",
           "POST /plugins/{name}/disable", "POST /plugins/{name}/upgrade", "POST /plugins/{name}/push",
           "POST /plugins/{name}/set")


@drives(*PLUGINS)
def _plugin(world: World) -> None:
    """None can be made, so none is found."""
    for name in PLUGINS:
        method, _, path = name.partition(" ")
        good(world.ask(method, path.replace("{name}", "x/y:1"), {} if method == "POST" else None), 404)


@drives("POST /swarm/leave", *OF_MANAGERS)
def _no_manager(world: World) -> None:
    for name in ("POST /swarm/leave", *OF_MANAGERS):
        method, _, path = name.partition(" ")
        answer = world.ask(method, path.replace("{id}", "x"), {} if method == "POST" else None, query={"version": "1"})
        assert (answer.status, "swarm" in answer.message) == (503, True)


@pytest.mark.parametrize("drive", dict.fromkeys(_drives.values()), ids=lambda drive: drive.__name__.strip("_"))
def test_the_good_answers(world: World, drive: Drive) -> None:
    drive(world)
    assert {name for name, its in _drives.items() if its is drive} <= world.api.answered


def test_no_operation_is_left_out() -> None:
    assert set(_drives) == {operation.name for operation in OPERATIONS}


def test_what_no_version_has_is_no_page(world: World) -> None:
    for path in ("/nonsense", "/containers", "/v1.55/containers/a/b/c", "/v1.5x/info", "/"):
        connection = UnixConnection(world.daemon.socket)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())) == (404, {"message": "page not found"})
