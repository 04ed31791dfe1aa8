"""The HTTP APIs on a unix socket, over the engine in memory."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from hyperstack import docker_api, native_api
from hyperstack.engine import api
from hyperstack.engine.api import Engine
from hyperstack.engine.records import Event
from hyperstack.http.routing import make_runner
from hyperstack.identity.api import Principal
from tests.unit.docker_api_engine import FakeEngine, Identities
from tests.unit.docker_api_images import BUSYBOX


@dataclass
class Served:
    engine: FakeEngine
    socket: Path
    client: aiohttp.ClientSession

    async def call(self, method: str, path: str, **options: object) -> tuple[int, object]:
        """(status, parsed JSON or None)."""
        if "data" not in options:
            options["headers"] = {"Content-Type": "application/json", **(options.get("headers") or {})}  # type: ignore[dict-item]
        async with self.client.request(method, f"http://d{path}", **options) as answer:  # type: ignore[arg-type]
            text = await answer.text()
            return answer.status, await answer.json(content_type=None) if text else None

    async def raw(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which these bytes were sent."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        writer.write(request)
        return reader, writer


@dataclass
class _Doors:
    """The fake in the contract's own types, so that mypy compares the two."""

    containers: api.Containers
    execs: api.Execs
    pods: api.Pods
    images: api.Images
    layers: api.Layers
    builds: api.Builds
    volumes: api.Volumes
    networks: api.Networks
    kernels: api.Kernels
    system: api.System
    fake: FakeEngine

    def events(self, who: Principal, *, since_ns: int = 0, until_ns: int = 0) -> AsyncIterator[Event]:
        return self.fake.events(who, since_ns=since_ns, until_ns=until_ns)


@contextlib.asynccontextmanager
async def serve() -> AsyncIterator[Served]:
    """With the image busybox there."""
    with tempfile.TemporaryDirectory(prefix="hs-api-") as directory:
        root = Path(directory) / "root"
        root.mkdir()
        fake = FakeEngine(root)
        fake.images.images[BUSYBOX.id] = BUSYBOX
        engine: Engine = _Doors(fake.containers, fake.execs, fake.pods, fake.images, fake.layers, fake.builds,
                                fake.volumes, fake.networks, fake.kernels, fake.system, fake)
        app = docker_api.build_app(engine, Identities())
        app.add_routes(native_api.routes(engine, Identities()))
        runner = make_runner(app, shutdown_timeout=0.1)
        await runner.setup()
        socket = Path(directory) / "api.sock"
        await web.UnixSite(runner, str(socket)).start()
        client = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)))
        try:
            yield Served(fake, socket, client)
        finally:
            await client.close()
            await runner.cleanup()
            await fake.close()
