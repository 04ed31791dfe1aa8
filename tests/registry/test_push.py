"""Pushes into Debian's docker-registry, judged by skopeo; logins, descriptions and catalogues."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hyperstack.image.api import Credentials, NewLayer, Progress
from hyperstack.image.store import ImageStore
from hyperstack.pod.errors import InvalidArgument, NotFound, RegistryError, Unauthorized, Unsupported
from tests.registry.conftest import PASSWORD, USER, MakeStore, RealRegistry, free_port
from tests.unit.image_builds import build, digest, oci_archive, stream
from tests.unit.image_layers import make_tar, member

ALICE = Credentials(username=USER, password=PASSWORD)


async def inspected(registry: RealRegistry, name: str) -> dict[str, Any]:
    """What skopeo reads there, after it has fetched all of it."""
    login = ["--creds", registry.credentials] if registry.credentials else []
    done = await asyncio.to_thread(subprocess.run, [
        "skopeo", "inspect", "--raw", "--tls-verify=false", *login, f"docker://{registry.host}/{name}"],
        check=True, capture_output=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def loaded(store: ImageStore, reference: str, *layers: bytes) -> str:
    image, = await store.load(stream(oci_archive(build(list(layers), Cmd=["pushed"]), reference)))
    return image.id


async def test_what_is_pushed_is_pulled_again(registry: RealRegistry, make_store: MakeStore, tmp_path: Path) -> None:
    store = await make_store(insecure=[registry.host])
    reference = f"{registry.host}/team/app:1"
    built = build([make_tar(member("f", data=os.urandom(3 << 20))), make_tar(member("g"))], Cmd=["pushed"])
    await store.load(stream(oci_archive(built, reference)))
    heard: list[Progress] = []
    pushed, = await store.push(reference, progress=heard.append)
    assert (pushed.tag, pushed.digest, pushed.size) == ("1", digest(built.manifest), len(built.manifest))
    words = [step.status for step in heard]
    assert words[0] == f"The push refers to repository [{registry.host}/team/app]"
    assert words[-1] == f"1: digest: {pushed.digest} size: {pushed.size}"
    assert words.count("Pushed") == 2
    assert max(step.current for step in heard if step.status == "Pushing") > 3 << 20
    assert store.get(reference).digests == (f"{registry.host}/team/app@{pushed.digest}",)
    assert (await inspected(registry, "team/app:1"))["config"]["digest"] == built.id
    other = await make_store("other", insecure=[registry.host])
    assert (await other.pull(reference)).id == built.id
    heard.clear()
    await store.push(reference, progress=heard.append)
    assert [step.status for step in heard].count("Layer already exists") == 2


async def test_a_committed_image_is_pushed(registry: RealRegistry, make_store: MakeStore) -> None:
    store = await make_store(insecure=[registry.host])
    base = await loaded(store, "base:1")
    reference = f"{registry.host}/committed:1"
    image = await store.commit(base, stream(make_tar(member("new"))), NewLayer(run={"Cmd": ["c"]}, reference=reference))
    await store.push(reference)
    other = await make_store("other", insecure=[registry.host])
    assert (await other.pull(reference)).id == image.id


async def test_a_push_needs_a_login_where_the_registry_wants_one(guarded_registry: RealRegistry, make_store: MakeStore
                                                                 ) -> None:
    store = await make_store(insecure=[guarded_registry.host])
    reference = f"{guarded_registry.host}/mine:1"
    await loaded(store, reference)
    with pytest.raises(RegistryError, match="no basic auth credentials"):
        await store.push(reference)
    with pytest.raises(Unauthorized, match="unauthorized: authentication required"):
        await store.push(reference, credentials=Credentials(username=USER, password="wrong"))
    await store.push(reference, credentials=ALICE)
    assert (await inspected(guarded_registry, "mine:1"))["schemaVersion"] == 2


async def test_logins_are_asked_of_the_registry(guarded_registry: RealRegistry, registry: RealRegistry,
                                                make_store: MakeStore) -> None:
    store = await make_store(insecure=[guarded_registry.host, registry.host])
    await store.check_login(guarded_registry.host, ALICE)
    await store.check_login(registry.host, ALICE)
    with pytest.raises(RegistryError, match="no basic auth credentials"):
        await store.check_login(guarded_registry.host, None)
    for wrong in (Credentials(username=USER, password="wrong"), Credentials(username="bob", password=PASSWORD)):
        with pytest.raises(RegistryError, match=r"login attempt to .*/v2/ failed with status: 401 Unauthorized"):
            await store.check_login(guarded_registry.host, wrong)
    with pytest.raises(RegistryError, match="connect: connection refused"):
        await store.check_login(f"localhost:{free_port()}", ALICE)


async def test_a_name_is_described_without_a_pull(registry: RealRegistry, make_store: MakeStore, tmp_path: Path
                                                  ) -> None:
    built = build()
    reference = registry.push(built, "described:1", tmp_path)
    store = await make_store(insecure=[registry.host])
    found = await store.describe(reference)
    assert (found.digest, found.size) == (digest(built.manifest), len(built.manifest))
    assert found.platforms == (("linux", "amd64", ""),)
    assert store.list_all() == []
    with pytest.raises(NotFound):
        await store.describe(f"{registry.host}/absent:1")


async def test_the_tags_of_a_repository(registry: RealRegistry, make_store: MakeStore, tmp_path: Path) -> None:
    for tag in ("1", "2"):
        registry.push(build(), f"many/tags:{tag}", tmp_path)
    store = await make_store(insecure=[registry.host])
    names = [f"{registry.host}/many/tags:1", f"{registry.host}/many/tags:2"]
    assert sorted(await store.remote_tags(f"{registry.host}/many/tags")) == names
    with pytest.raises(NotFound):
        await store.remote_tags(f"{registry.host}/many/none")


async def test_a_catalogue_is_searched(registry: RealRegistry, make_store: MakeStore, tmp_path: Path) -> None:
    for name in ("find/one:1", "find/two:1", "elsewhere:1"):
        registry.push(build(), name, tmp_path)
    store = await make_store(insecure=[registry.host])
    found = await store.search(f"{registry.host}/find", limit=25)
    assert found == [f"{registry.host}/find/one", f"{registry.host}/find/two"]
    assert await store.search(f"{registry.host}/find", limit=1) == [f"{registry.host}/find/one"]
    for term in ("busybox", "docker.io/busybox", "library/busybox"):
        with pytest.raises(Unsupported, match="Docker Hub"):
            await store.search(term, limit=25)


async def test_only_what_is_here_and_has_a_tag_is_pushed(registry: RealRegistry, make_store: MakeStore) -> None:
    store = await make_store(insecure=[registry.host])
    with pytest.raises(NotFound, match="does not exist locally"):
        await store.push(f"{registry.host}/absent:1")
    ident = await loaded(store, f"{registry.host}/there:1")
    with pytest.raises(InvalidArgument, match="cannot push a digest reference"):
        await store.push(f"{registry.host}/there@{ident}")


@contextlib.asynccontextmanager
async def hostile(handler: Any) -> AsyncIterator[str]:
    """A registry whose every answer is the handler's; its host."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "localhost", port).start()
    try:
        yield f"localhost:{port}"
    finally:
        await runner.cleanup()


async def test_a_registry_that_takes_no_bytes_is_given_up(make_store: MakeStore) -> None:
    async def never(request: web.Request) -> web.Response:
        if request.method == "POST":
            return web.Response(status=202, headers={"Location": "/v2/x/blobs/uploads/1?a=b"})
        if request.method == "PUT":
            request.transport.pause_reading()  # type: ignore[union-attr]
            await asyncio.sleep(60)
        return web.Response(status=404)

    async with hostile(never) as host:
        store = await make_store(insecure=[host])
        await loaded(store, f"{host}/x:1", make_tar(member("f", data=os.urandom(12 << 20))))
        with pytest.raises(RegistryError, match=r"does not take the layer|broke off"):
            async with asyncio.timeout(20):
                await store.push(f"{host}/x:1")


async def test_a_password_does_not_follow_a_layer_elsewhere(make_store: MakeStore) -> None:
    seen: list[str | None] = []

    async def thief(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        await request.read()
        return web.Response(status=201)

    async with hostile(thief) as elsewhere:
        async def sends_on(request: web.Request) -> web.Response:
            if request.headers.get("Authorization") is None:
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            if request.method == "POST":
                return web.Response(status=202, headers={"Location": f"http://{elsewhere}/upload"})
            return web.Response(status=404 if request.method == "HEAD" else 500)

        async with hostile(sends_on) as host:
            store = await make_store(insecure=[host])
            await loaded(store, f"{host}/x:1")
            with pytest.raises(RegistryError):
                await store.push(f"{host}/x:1", credentials=ALICE)
    assert seen
    assert set(seen) == {None}


async def test_a_registry_that_takes_something_else_is_told_of(make_store: MakeStore) -> None:
    async def liar(request: web.Request) -> web.Response:
        await request.read()
        if request.method == "POST":
            return web.Response(status=202, headers={"Location": "/v2/x/blobs/uploads/1"})
        if request.method == "HEAD":
            return web.Response(status=404)
        return web.Response(status=201, headers={"Docker-Content-Digest": "sha256:" + "0" * 64})

    async with hostile(liar) as host:
        store = await make_store(insecure=[host])
        await loaded(store, f"{host}/x:1")
        with pytest.raises(RegistryError, match="calls the manifest sha256:0000"):
            await store.push(f"{host}/x:1")
