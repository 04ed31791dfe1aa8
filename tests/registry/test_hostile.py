"""Registries that hang, lie, flood and loop."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from hyperstack.image.api import Credentials, Progress
from hyperstack.image.config import Limits
from hyperstack.image.store import ImageStore
from hyperstack.pod.errors import HyperStackError, NotFound, RegistryError, TooManyRequests, Unauthorized
from tests.registry.conftest import MakeStore
from tests.unit.image_builds import OCI_MANIFEST, BuiltImage, build, digest
from tests.unit.image_layers import make_tar, member

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HostileRegistry:
    """Serves one image properly, but for what a test puts in place of its manifest's or its layers' answers."""

    def __init__(self) -> None:
        self.image = build([make_tar(member("f", data=os.urandom(2 << 20)))])
        self.manifest: Answer = self.proper_manifest
        self.blob: Answer = self.proper_blob
        self.token: Answer = self.no_token
        self.requests: list[web.Request] = []
        self.host = ""
        self._runner: web.AppRunner | None = None

    def ranges(self) -> list[str | None]:
        """Of the requests for the (first) layer."""
        return [request.headers.get("Range") for request in self.requests
                if digest(self.image.layers[0]) in request.path]

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/v2/{name:.*}/manifests/{what}", self._manifest)
        app.router.add_get("/v2/{name:.*}/blobs/{digest}", self._blob)
        app.router.add_route("*", "/token", self._token)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.host = site.name.removeprefix("http://")

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def reference(self) -> str:
        return f"{self.host}/app:1"

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.manifest(request)

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if request.match_info["digest"] == self.image.id:
            return await self.proper_blob(request)
        return await self.blob(request)

    async def _token(self, request: web.Request) -> web.StreamResponse:
        return await self.token(request)

    async def proper_manifest(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self.image.manifest, content_type=OCI_MANIFEST)

    async def proper_blob(self, request: web.Request) -> web.StreamResponse:
        data = self.image.blobs[request.match_info["digest"]]
        match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if match is None:
            return web.Response(body=data)
        start = int(match[1])
        return web.Response(status=206, body=data[start:],
                            headers={"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})

    async def no_token(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=401)


@pytest.fixture
async def hostile() -> AsyncIterator[HostileRegistry]:
    registry = HostileRegistry()
    await registry.start()
    yield registry
    await registry.close()


@pytest.fixture
async def store(hostile: HostileRegistry, make_store: MakeStore) -> ImageStore:
    return await make_store(insecure=[hostile.host], limits=Limits(blob_bytes=50 << 20))


def fixed(*, status: int = 200, body: bytes = b"", kind: str = OCI_MANIFEST, **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, content_type=kind,
                            headers={name.replace("_", "-"): value for name, value in headers.items()})
    return answer


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    while True:
        await response.write(bytes(1 << 16))


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def dripping(request: web.Request) -> web.StreamResponse:
    """A byte now and then: never silent for long, never done."""
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


def many_layers() -> BuiltImage:
    image = build()
    image.manifest = image.manifest.replace(b'"size": ', b'"size": 99999')
    return image


@pytest.mark.parametrize(("answer", "words"), [
    (silent, "Client.Timeout exceeded"), (dripping, "Client.Timeout exceeded"), (endless, "more than 4194304 bytes"),
    (fixed(body=b"<html>", kind="text/html"), "text/html was sent"), (fixed(body=b"{}"), "neither"),
    (fixed(body=b"[" * 10_000), "malformed"),
    (fixed(status=500), "HTTP status: 500 Internal"), (fixed(status=418), "unknown: status 418"),
    (fixed(status=429, kind="application/json",
           body=b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow \\u001b[31mdown"}]}'),
     r"toomanyrequests: slow  \[31mdown"),
    (fixed(status=302, Location="file:///etc/passwd"), "redirects"), (fixed(status=302, Location="/v2/app/manifests/1"),
                                                                      "times"),
    (fixed(status=302), "times"), (fixed(body=b'{"schemaVersion":1}'), "schema version 1"),
    (fixed(body=build().manifest, Docker_Content_Digest="sha256:" + "0" * 64), "in place of"),
    (fixed(body=many_layers().manifest), "its config is 99999"),
    (fixed(status=401), "unauthorized: authentication required"),
    (fixed(status=403, body=b"\xff"), "pull access denied"),
    (fixed(status=401, WWW_Authenticate="Negotiate"), "unauthorized: authentication required"),
    (fixed(status=401, WWW_Authenticate='Bearer realm="ftp://x/"'), "not https"),
    (fixed(status=401, WWW_Authenticate='Bearer realm="' + "x" * 5000), "not https"),
])
async def test_manifests_that_do_not_come(hostile: HostileRegistry, store: ImageStore, answer: Answer,
                                          words: str) -> None:
    hostile.manifest = answer
    with pytest.raises(HyperStackError, match=words) as caught:
        await store.pull(hostile.reference)
    assert isinstance(caught.value, RegistryError | NotFound | Unauthorized | TooManyRequests)
    assert caught.value.message.isprintable()
    assert store.list_all() == []


async def test_a_manifest_by_digest_must_have_it(hostile: HostileRegistry, store: ImageStore) -> None:
    with pytest.raises(RegistryError, match="in place of"):
        await store.pull(f"{hostile.host}/app@sha256:{'0' * 64}")


@pytest.mark.parametrize(("answer", "words"), [
    (silent, "Client.Timeout exceeded"), (dripping, "only .* bytes in|Client.Timeout"), (endless, "sends more than"),
    (fixed(status=404), "unknown: status 404"), (fixed(status=500), "HTTP status: 500"),
    (fixed(body=b"short"), "announces 5 bytes"),
])
async def test_blobs_that_do_not_come(hostile: HostileRegistry, store: ImageStore, answer: Answer, words: str) -> None:
    hostile.blob = answer
    with pytest.raises((RegistryError, NotFound), match=words):
        await store.pull(hostile.reference)
    assert store.list_all() == []
    hostile.blob = hostile.proper_blob
    assert (await store.pull(hostile.reference)).id == hostile.image.id


async def test_a_blob_of_other_bytes_is_refused_and_not_kept(hostile: HostileRegistry, store: ImageStore,
                                                             tmp_path: Path) -> None:
    hostile.blob = fixed(body=os.urandom(len(hostile.image.layers[0])))
    with pytest.raises(RegistryError, match="in place of the blob"):
        await store.pull(hostile.reference)
    assert list((tmp_path / "images/partial").iterdir()) == []
    hostile.blob = hostile.proper_blob
    assert (await store.pull(hostile.reference)).id == hostile.image.id


def cut_after(hostile: HostileRegistry, length: int) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        """Proper, but the connection breaks after so many bytes."""
        whole = await hostile.proper_blob(request)
        assert isinstance(whole, web.Response)
        assert isinstance(whole.body, bytes)
        response = web.StreamResponse(status=whole.status, headers={
            name: value for name, value in whole.headers.items() if name == "Content-Range"})
        response.content_length = len(whole.body)
        await response.prepare(request)
        await response.write(whole.body[:length])
        if length < len(whole.body):
            assert request.transport is not None
            request.transport.close()
        return response
    return answer


async def test_a_broken_transfer_is_resumed_where_it_broke(hostile: HostileRegistry, store: ImageStore) -> None:
    hostile.blob = cut_after(hostile, 1_500_000)
    heard: list[Progress] = []
    assert (await store.pull(hostile.reference, progress=heard.append)).id == hostile.image.id
    ranges = hostile.ranges()
    # Some of what arrived last is lost with the connection.
    assert ranges[0] is None
    assert 500_000 < int(re.fullmatch(r"bytes=(\d+)-", ranges[1] or "")[1]) <= 1_500_000  # type: ignore[index]  # fails
    assert len(ranges) == 2
    assert "Retrying" in [step.status for step in heard]


async def test_a_registry_without_ranges_starts_over(hostile: HostileRegistry, store: ImageStore) -> None:
    breaking = cut_after(hostile, 1_500_000)
    calls = 0

    async def once(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        return await breaking(request) if calls == 1 else web.Response(
            body=hostile.image.blobs[request.match_info["digest"]])

    hostile.blob = once
    assert (await store.pull(hostile.reference)).id == hostile.image.id


async def test_a_wrong_range_is_refused(hostile: HostileRegistry, store: ImageStore) -> None:
    breaking = cut_after(hostile, 1_500_000)
    calls = 0

    async def once(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls == 1:
            return await breaking(request)
        return web.Response(status=206, body=b"x", headers={"Content-Range": "bytes 7-8/9"})

    hostile.blob = once
    with pytest.raises(RegistryError, match="another part"):
        await store.pull(hostile.reference)


async def test_a_pull_that_ended_resumes_in_the_next_one(hostile: HostileRegistry, make_store: MakeStore,
                                                         store: ImageStore
                                                         ) -> None:
    reached = asyncio.Event()

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(hostile.image.layers[0])
        await response.prepare(request)
        await response.write(hostile.image.layers[0][:1_800_000])
        reached.set()
        await asyncio.Event().wait()
        return response

    hostile.blob = half
    task = asyncio.create_task(store.pull(hostile.reference))
    await reached.wait()
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.close()
    hostile.blob = hostile.proper_blob
    hostile.requests.clear()
    again = await make_store(insecure=[hostile.host])
    assert (await again.pull(hostile.reference)).id == hostile.image.id
    ranges = hostile.ranges()
    assert ranges == ["bytes=1800000-"]


async def test_a_slow_registry_does_not_hold_up_the_same_layer_from_elsewhere(
        hostile: HostileRegistry, make_store: MakeStore) -> None:
    other = HostileRegistry()
    other.image = hostile.image
    await other.start()
    try:
        store = await make_store(insecure=[hostile.host, other.host])
        hostile.blob = dripping
        slow = asyncio.create_task(store.pull(hostile.reference))
        await asyncio.sleep(0.1)
        assert (await store.pull(other.reference)).id == other.image.id
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
    finally:
        await other.close()


def guarded(hostile: HostileRegistry, proper: Answer, token: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {token}":
            return web.Response(status=401, headers={
                "WWW-Authenticate": f'Bearer realm="http://{hostile.host}/token",service="here",scope="repository:app:pull"'})
        return await proper(request)
    return answer


async def test_tokens(hostile: HostileRegistry, store: ImageStore) -> None:
    asked: list[str] = []

    async def token(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Authorization", ""))
        assert request.query["service"] == "here"
        assert request.query["scope"] == "repository:app:pull"
        return web.json_response({"access_token": "t0ken", "expires_in": 300})

    hostile.token = token
    hostile.manifest = guarded(hostile, hostile.proper_manifest, "t0ken")
    hostile.blob = guarded(hostile, hostile.proper_blob, "t0ken")
    await store.pull(hostile.reference, credentials=Credentials(username="u", password="p"))
    assert asked == ["Basic " + base64.b64encode(b"u:p").decode()]


async def test_identity_tokens(hostile: HostileRegistry, store: ImageStore) -> None:
    async def token(request: web.Request) -> web.StreamResponse:
        form = await request.post()
        assert (form["grant_type"], form["refresh_token"]) == ("refresh_token", "identity")
        return web.json_response({"token": "t0ken"})

    hostile.token = token
    hostile.manifest = guarded(hostile, hostile.proper_manifest, "t0ken")
    assert await store.pull(hostile.reference, credentials=Credentials(identity_token="identity"))


@pytest.mark.parametrize(("token", "words"), [
    (fixed(body=b"{}", kind="application/json"), "did not include a token"), (fixed(body=b"<"), "no token"),
    (fixed(body=b'{"token":"a\\nb: c"}'), "did not include a token"), (fixed(body=b'{"token":"wrong"}'),
                                                                     "unauthorized: authentication required"),
    (fixed(status=500), "HTTP status: 500"), (endless, "more than 65536 bytes"), (silent, "Client.Timeout exceeded"),
    (fixed(status=302, Location="http://169.254.169.254/"), "HTTP status: 302 Found")])
async def test_token_servers_that_do_not_help(hostile: HostileRegistry, store: ImageStore, token: Answer,
                                              words: str) -> None:
    hostile.token = token
    hostile.manifest = guarded(hostile, hostile.proper_manifest, "t0ken")
    with pytest.raises((RegistryError, Unauthorized), match=words):
        await store.pull(hostile.reference)
    assert len(hostile.requests) <= 6


async def test_credentials_stay_with_the_registry(hostile: HostileRegistry, store: ImageStore) -> None:
    elsewhere = HostileRegistry()
    elsewhere.image = hostile.image
    await elsewhere.start()
    try:
        layer = digest(hostile.image.layers[0])
        hostile.blob = fixed(status=307, Location=f"http://{elsewhere.host}/v2/app/blobs/{layer}")
        hostile.token = fixed(body=b'{"token":"t0ken"}')
        hostile.manifest = guarded(hostile, hostile.proper_manifest, "t0ken")
        assert await store.pull(hostile.reference, credentials=Credentials(username="u", password="p"))
        request, = elsewhere.requests
        assert "Authorization" not in request.headers
    finally:
        await elsewhere.close()


@pytest.mark.parametrize("layers", [
    [make_tar(member("../../etc/cron.d/x", data=b"x"))], [b"no tar at all" * 100],
    [make_tar(member("ok")), make_tar(member("f", uid=-1), layout=1)]])
async def test_layers_that_cannot_be_unpacked(hostile: HostileRegistry, store: ImageStore, layers: list[bytes]) -> None:
    hostile.image = build(layers)
    with pytest.raises(HyperStackError, match="is refused"):
        await store.pull(hostile.reference)
    assert store.list_all() == []
    hostile.image = build(Cmd=["fine"])
    assert (await store.pull(hostile.reference)).config.command == ("fine",)


async def test_a_config_that_promises_other_layers_is_refused(hostile: HostileRegistry, store: ImageStore) -> None:
    secret = build([make_tar(member("secret", data=b"tenant's own"))])
    hostile.image = secret
    await store.pull(hostile.reference)
    # Knowing the id of somebody's layer must not be enough to be given it.
    hostile.image = build([make_tar(member("bait"))], diff_ids=[digest(secret.plain[0])])
    with pytest.raises(RegistryError, match="unpacks to"):
        await store.pull(f"{hostile.host}/app:2")


async def test_a_claim_of_too_much_is_refused_before_a_byte_is_fetched(hostile: HostileRegistry,
                                                                       store: ImageStore) -> None:
    size = len(hostile.image.layers[0])
    hostile.image.manifest = hostile.image.manifest.replace(b": %d" % size, b": %d" % (60 << 20))
    with pytest.raises(RegistryError, match=f"{60 << 20} bytes long"):
        await store.pull(hostile.reference)
    assert hostile.ranges() == []


@pytest.mark.parametrize(("reference", "words"), [
    ("localhost:1/app:1", r'Get "https://localhost:1/v2/": dial tcp \S+:1: connect: connection refused'),
    ("no-such-host.invalid/app:1", r'Get "https://no-such-host.invalid/v2/": dial tcp: lookup no-such-host.invalid: ')])
async def test_nobody_there(store: ImageStore, make_store: MakeStore, reference: str, words: str) -> None:
    with pytest.raises(RegistryError, match=words):
        await store.pull(reference)
