"""Docker's own clients, unchanged, against the API: the command line where the host has it, and the Python SDK."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, ContainerError, ImageNotFound
from docker.errors import NotFound as DockerNotFound

from tests.unit.docker_api_server import Served, serve

needs_cli = pytest.mark.skipif(shutil.which("docker") is None, reason="no docker command on this host")


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


async def cli(served: Served, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    """(exit code, stdout, stderr) of a docker command."""
    child = await asyncio.create_subprocess_exec(
        "docker", *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "DOCKER_HOST": f"unix://{served.socket}",
                                             "DOCKER_CONFIG": str(served.socket.parent)})
    try:
        out, err = await child.communicate(stdin)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
    return child.returncode or 0, out, err


async def ok(served: Served, *arguments: str, stdin: bytes = b"") -> str:
    code, out, err = await cli(served, *arguments, stdin=stdin)
    assert code == 0, err.decode()
    return out.decode()


# -- the command line

@needs_cli
async def test_run_shows_both_streams_and_the_exit_code(served: Served) -> None:
    assert await cli(served, "run", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3") == (3, b"out\n", b"err\n")


@needs_cli
async def test_run_pulls_what_is_absent(served: Served) -> None:
    served.engine.images.images.clear()
    code, out, err = await cli(served, "run", "--rm", "busybox", "echo", "hi")
    assert (code, out) == (0, b"hi\n")
    assert b"Unable to find image 'busybox:latest' locally" in err
    assert served.engine.containers.records == {}


@needs_cli
async def test_run_passes_binary_stdin_of_any_size(served: Served) -> None:
    data = bytes(range(256)) * 16384
    assert await cli(served, "run", "-i", "--rm", "busybox", "cat", stdin=data) == (0, data, b"")


@needs_cli
async def test_run_of_what_is_no_command_exits_as_a_shell(served: Served) -> None:
    code, _, err = await cli(served, "run", "busybox", "no-such-command")
    assert code == 127
    assert b"executable file not found" in err


@needs_cli
async def test_run_of_what_a_vm_cannot_honour_says_so(served: Served) -> None:
    code, _, err = await cli(served, "run", "--pid", "host", "busybox", "true")
    assert code == 125
    assert b"HostConfig.PidMode=host is not supported" in err


@needs_cli
async def test_the_commands_of_a_day(served: Served) -> None:
    ident = (await ok(served, "run", "-d", "--name", "day", "-l", "a=b", "busybox", "sh", "-c",
                      "echo started; exec sleep 100")).strip()
    assert (await ok(served, "ps", "--format", "{{.Names}} {{.State}} {{.Command}}")).startswith("day running")
    assert (await ok(served, "ps", "-q", "--no-trunc", "--filter", "label=a=b")).strip() == ident
    while not await ok(served, "logs", "day"):
        await asyncio.sleep(0.05)
    assert await ok(served, "logs", "--tail", "1", "day") == "started\n"
    assert await ok(served, "exec", "day", "echo", "in") == "in\n"
    assert await ok(served, "exec", "-i", "day", "cat", stdin=b"typed") == "typed"
    assert (await cli(served, "exec", "day", "sh", "-c", "exit 9"))[0] == 9
    assert await ok(served, "inspect", "-f", "{{.State.Status}} {{.Config.Labels.a}}", "day") == "running b\n"
    assert "sleep" in await ok(served, "top", "day")
    assert json.loads(await ok(served, "stats", "--no-stream", "--format", "{{json .}}", "day"))["CPUPerc"] == "50.00%"
    await ok(served, "rename", "day", "night")
    await ok(served, "update", "--memory", "64m", "--memory-swap", "-1", "night")
    await ok(served, "pause", "night")
    await ok(served, "unpause", "night")
    await ok(served, "stop", "-t", "1", "night")
    assert await ok(served, "wait", "night") == "143\n"
    await ok(served, "rm", "night")
    assert await ok(served, "ps", "-aq") == ""


@needs_cli
async def test_cp_in_and_out(served: Served, tmp_path: Path) -> None:
    await ok(served, "run", "-d", "--name", "box", "busybox", "sleep", "100")
    (tmp_path / "file").write_bytes(b"\0content\xff")
    await ok(served, "cp", str(tmp_path / "file"), "box:/inside")
    await ok(served, "cp", "box:/inside", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == b"\0content\xff"
    code, _, err = await cli(served, "cp", "box:/absent", str(tmp_path / "x"))
    assert (code, b"absent" in err) == (1, True)


@needs_cli
async def test_images_volumes_networks_and_the_system(served: Served) -> None:
    assert "Downloading" not in await ok(served, "pull", "-q", "busybox")
    assert await ok(served, "images", "--format", "{{.Repository}}:{{.Tag}}") == "busybox:latest\n"
    await ok(served, "tag", "busybox", "mine:1")
    assert "ADD file" in await ok(served, "history", "mine:1")
    assert "Untagged" in await ok(served, "rmi", "busybox")
    assert "Loaded image" in await ok(served, "load", stdin=b"a tar")
    assert await ok(served, "volume", "create", "data") == "data\n"
    assert await ok(served, "volume", "ls", "-q") == "data\n"
    assert (await ok(served, "network", "ls", "--format", "{{.Name}}")).split() == ["bridge", "none"]
    ident = await ok(served, "network", "create", "--subnet", "10.77.0.0/16", "--gateway", "10.77.0.9", "--ip-range",
                     "10.77.5.0/24", "--aux-address", "a=10.77.5.1", "--internal", "--attachable", "--label", "tier=x",
                     "-o", "com.docker.network.driver.mtu=1400", "front")
    inspected = json.loads(await ok(served, "network", "inspect", "front"))[0]
    assert (inspected["Id"], inspected["Internal"], inspected["Attachable"]) == (ident.strip(), True, True)
    assert inspected["IPAM"]["Config"] == [{"Subnet": "10.77.0.0/16", "IPRange": "10.77.5.0/24",
                                            "Gateway": "10.77.0.9", "AuxiliaryAddresses": {"a": "10.77.5.1"}}]
    assert await ok(served, "network", "ls", "-q", "--filter", "label=tier=x") == ident[:12] + "\n"
    for words, reason in ((("--ipv6", "six"), b"IPv6 on this host is not supported"),
                          (("-d", "macvlan", "m"), b"macvlan"),
                          (("front",), b"network with name front already exists"), (("host",), b"predefined host"),
                          (("--subnet", "10.77.9.0/24", "o"), b"Pool overlaps with other one on this address space"),
                          (("-o", "com.docker.network.bridge.name=br0", "o"), b"bridge.name is not supported")):
        code, _, err = await cli(served, "network", "create", *words)
        assert (code, reason in err) == (1, True), err
    assert await ok(served, "network", "rm", "front") == "front\n"
    assert b"pre-defined network" in (await cli(served, "network", "rm", "bridge"))[2]
    await ok(served, "network", "create", "spare")
    assert "spare" in await ok(served, "network", "prune", "-f")
    assert await ok(served, "version", "--format", "{{.Server.APIVersion}}") == "1.55\n"
    assert "Storage Driver" in await ok(served, "info")
    assert "Images" in await ok(served, "system", "df")
    assert (await ok(served, "system", "prune", "-f")).endswith("0B\n")
    assert b"not a swarm manager" in (await cli(served, "node", "ls"))[2]


@needs_cli
async def test_events_are_followed(served: Served) -> None:
    child = await asyncio.create_subprocess_exec(
        "docker", "events", "--format", "{{.Type}} {{.Action}}", stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "DOCKER_HOST": f"unix://{served.socket}"})
    try:
        while not served.engine.listeners:
            await asyncio.sleep(0.02)
        await ok(served, "run", "--rm", "busybox", "true")
        assert child.stdout is not None
        lines = [(await child.stdout.readline()).decode().strip() for _ in range(4)]
    finally:
        child.kill()
        await child.wait()
    assert lines == ["container create", "container start", "container die", "container destroy"]


@needs_cli
async def test_a_terminal_is_attached_and_detached_with_keys(served: Served) -> None:
    """The command line wants a terminal of its own for -t; `script` gives it one."""
    child = await asyncio.create_subprocess_exec(
        "script", "-qec", "docker run -it --name term busybox cat", "/dev/null", stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "DOCKER_HOST": f"unix://{served.socket}"})
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"hello\n")
        seen = b""
        while seen.count(b"hello") < 2:  # Its echo, and cat's answer.
            seen += await child.stdout.read(100)
        child.stdin.write(b"\x10\x11")
        await child.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
    assert await ok(served, "inspect", "-f", "{{.State.Status}}", "term") == "running\n"


# -- the SDK

@contextlib.contextmanager
def sdk(served: Served) -> Iterator[Any]:
    client = docker.DockerClient(base_url=f"unix://{served.socket}", timeout=20)
    try:
        yield client
    finally:
        client.close()


async def test_the_sdk_runs_execs_and_attaches(served: Served) -> None:
    def work() -> None:
        with sdk(served) as client:
            assert client.ping()
            assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
            with pytest.raises(ContainerError):
                client.containers.run("busybox", ["sh", "-c", "exit 4"])
            box = client.containers.run("busybox", ["sh", "-c", "echo one; exec cat"], detach=True, stdin_open=True,
                                        labels={"a": "b"}, mem_limit="64m", name="box", environment={"K": "v"},
                                        ports={"80/tcp": None}, volumes=["data:/data"], tmpfs={"/run": "size=1m"})
            assert box.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True).output == (b"out\n", b"err\n")
            assert box.exec_run("no-such-command").exit_code == 127
            assert [found.name for found in client.containers.list(filters={"label": "a=b"})] == ["box"]
            raw = box.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
            raw._sock.sendall(b"typed\n")
            assert raw.read(14) == b"\x01\0\0\0\0\0\0\x06typed\n"
            raw.close()
            assert box.stats(stream=False)["memory_stats"]["limit"] == 64 << 20
            assert box.attrs["HostConfig"]["Memory"] == 64 << 20
            box.kill()
            assert box.wait()["StatusCode"] == 137
            assert box.logs(stdout=True) == b"one\ntyped\n"
            box.remove()
            with pytest.raises(DockerNotFound):
                client.containers.get("box")

    await asyncio.to_thread(work)


async def test_the_sdk_copies_and_handles_images(served: Served) -> None:
    def work() -> None:
        with sdk(served) as client:
            box = client.containers.run("busybox", ["sleep", "100"], detach=True)
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                member = tarfile.TarInfo("f")
                member.size = 4
                tar.addfile(member, io.BytesIO(b"data"))
            assert box.put_archive("/", buffer.getvalue())
            parts, found = box.get_archive("/f")
            assert found["size"] == 4
            assert b"data" in b"".join(parts)
            assert client.images.pull("busybox", tag="latest").tags == ["busybox:latest"]
            with pytest.raises(ImageNotFound):
                client.images.get("absent")
            assert b"sha256:" in b"".join(client.images.get("busybox").save())
            assert client.images.load(b"a tar")[0].tags == ["busybox:latest"]
            assert [volume.name for volume in [client.volumes.create("vol")]] == ["vol"]
            assert client.networks.list(names=["bridge"])[0].name == "bridge"
            with pytest.raises(APIError, match="not supported"):
                client.containers.run("busybox", "true", network_mode="host")
            assert client.info()["OSType"] == "linux"
            assert client.df()["ImageUsage"]["TotalSize"] == 4 << 20

    await asyncio.to_thread(work)


async def test_the_sdk_follows_logs_and_events(served: Served) -> None:
    def work() -> None:
        with sdk(served) as client:
            events = client.events(decode=True, filters={"event": "die"})
            box = client.containers.run("busybox", ["sh", "-c", "echo a; sleep 0.1; echo b"], detach=True)
            assert b"".join(box.logs(stream=True, follow=True)) == b"a\nb\n"
            assert next(events)["Actor"]["ID"] == box.id
            events.close()

    await asyncio.to_thread(work)
