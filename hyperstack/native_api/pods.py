"""/pods: create from a manifest, list, inspect, start, stop, remove."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
from aiohttp import web

from hyperstack.engine.api import Engine
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.http import body
from hyperstack.http.call import Call
from hyperstack.http.responses import empty, json_response
from hyperstack.http.routing import Route
from hyperstack.http.times import rfc3339
from hyperstack.native_api.documents import MAX_SIZE
from hyperstack.native_api.manifest import Manifest, parse_manifests
from hyperstack.pod.errors import HyperStackError, NotFound
from hyperstack.pod.states import ContainerState, SandboxState


class PodRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pods = engine.pods

    def table(self) -> list[Route]:
        return [
            Route("GET", "/pods", self.list_all),
            Route("POST", "/pods", self.create),
            Route("GET", "/pods/{name}", self.inspect),
            Route("DELETE", "/pods/{name}", self.remove),
            Route("POST", "/pods/{name}/start", self.start),
            Route("POST", "/pods/{name}/stop", self.stop),
        ]

    async def list_all(self, call: Call) -> web.StreamResponse:
        return json_response([self._describe(pod) for pod in self._pods.list_all(call.who)])

    async def inspect(self, call: Call) -> web.StreamResponse:
        pod = self._pods.get(call.who, call.part("name"))
        return json_response({**self._describe(pod), "spec": msgspec.to_builtins(pod.spec)})

    async def create(self, call: Call) -> web.StreamResponse:
        """All pods of the manifest are made, or none. Then they are started; one that does not start stays, with its
        logs, and the error says why."""
        raw = await body.read(call.request, limit=MAX_SIZE)
        # A megabyte of YAML takes a second, which other callers shall not wait for.
        manifests = await asyncio.to_thread(parse_manifests, raw, project=call.who.project)
        for manifest in manifests:
            await self._ensure_images(call, manifest)
        made: list[PodRecord] = []
        try:
            for manifest in manifests:
                made.append(await self._pods.create(call.who, manifest.spec, start=False))
        except HyperStackError:
            for pod in made:
                with contextlib.suppress(NotFound):
                    await self._pods.remove(call.who, pod.id, force=True)
            raise
        if call.flag("start", default=True):
            for pod in made:
                await self._pods.start(call.who, pod.id)
        pods = [self._describe(self._pods.get(call.who, pod.id)) for pod in made]
        return json_response({"id": pods[0]["id"], "pods": pods}, status=201)

    async def _ensure_images(self, call: Call, manifest: Manifest) -> None:
        for image, policy in manifest.pulls:
            if policy == "Always":
                await self._engine.images.pull(call.who, image)
                continue
            try:
                self._engine.images.get(call.who, image)
            except NotFound:
                if policy == "Never":
                    raise
                await self._engine.images.pull(call.who, image)

    async def start(self, call: Call) -> web.StreamResponse:
        await self._pods.start(call.who, call.part("name"))
        return empty()

    async def stop(self, call: Call) -> web.StreamResponse:
        await self._pods.stop(call.who, call.part("name"), timeout=call.integer("t"))
        return empty()

    async def remove(self, call: Call) -> web.StreamResponse:
        await self._pods.remove(call.who, call.part("name"), force=call.flag("force"))
        return empty()

    def _describe(self, pod: PodRecord) -> dict[str, Any]:
        containers = self._pods.containers_of(pod)
        return {
            "id": pod.id, "name": pod.name, "namespace": pod.spec.namespace, "project": pod.project,
            "implicit": pod.implicit, "state": pod.state.value, "phase": phase(pod, containers), "reason": pod.reason,
            "created_at": rfc3339(pod.created_at), "started_at": rfc3339(pod.started_at) if pod.started_at else None,
            "labels": pod.spec.labels, "annotations": pod.spec.annotations, "hostname": pod.spec.hostname,
            "kernel": pod.kernel, "kernel_release": pod.kernel_release, "memory_mib": pod.memory_mib,
            "vcpus": pod.vcpus, "start": pod.origin, "network": pod.spec.network,
            "ip_address": pod.binding.address.partition("/")[0] if pod.binding is not None else "",
            "ports": [{"container_port": port.container_port, "protocol": port.protocol, "host_ip": port.host_ip,
                       "host_port": port.host_port} for port in pod.ports],
            "containers": [_container(record) for record in containers],
        }


def _container(record: ContainerRecord) -> dict[str, Any]:
    return {"id": record.id, "name": record.name, "image": record.spec.image, "image_id": record.image_id,
            "init": record.init, "state": record.state.value, "exit_code": record.exit_code,
            "exit_signal": record.exit_signal, "oom_killed": record.oom_killed, "error": record.error,
            "restart_count": record.restart_count, "started_at": rfc3339(record.started_at),
            "finished_at": rfc3339(record.finished_at)}


def phase(pod: PodRecord, containers: list[ContainerRecord]) -> str:
    """Kubernetes' word: Pending, Running, Succeeded or Failed."""
    main = [record for record in containers if not (record.init or record.joined)]
    if pod.state is SandboxState.FAILED:
        return "Failed"
    if any(record.state in (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING)
           for record in main):
        return "Running"
    if main and all(record.state is ContainerState.EXITED for record in main):
        return "Failed" if any(record.exit_code or record.exit_signal for record in main) else "Succeeded"
    return "Pending"
