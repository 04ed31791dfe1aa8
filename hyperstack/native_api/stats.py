"""/stats: what pods cost the host, beside what their containers use in the guest."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from hyperstack.engine.api import ContainerStats, Engine, HostCost
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.http.call import Call
from hyperstack.http.responses import json_response
from hyperstack.http.routing import Route
from hyperstack.pod.states import ContainerState

_LIVE = (ContainerState.RUNNING, ContainerState.PAUSED)


class StatsRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._pods = engine.pods
        self._containers = engine.containers

    def table(self) -> list[Route]:
        return [
            Route("GET", "/stats", self.list_all, cancellable=True),
            Route("GET", "/pods/{name}/stats", self.inspect, cancellable=True),
        ]

    async def list_all(self, call: Call) -> web.StreamResponse:
        """The host's side alone: no guest is asked, so none can hold up the answer."""
        return json_response([{**_pod(pod, cost), "containers": [record.id for record in self._pods.containers_of(pod)]}
                              for pod, cost in await self._pods.costs(call.who)])

    async def inspect(self, call: Call) -> web.StreamResponse:
        pod = self._pods.get(call.who, call.part("name"))
        live = [record for record in self._pods.containers_of(pod) if record.state in _LIVE]
        cost = await self._pods.cost(call.who, pod.id)
        samples = await asyncio.gather(*(self._containers.stats(call.who, record.id) for record in live))
        containers = [_container(record, sample) for record, sample in zip(live, samples, strict=True)]
        return json_response({**_pod(pod, cost), "containers": containers})


def _pod(pod: PodRecord, cost: HostCost) -> dict[str, Any]:
    return {"id": pod.id, "name": pod.name, "memory_mib": pod.memory_mib, "vcpus": pod.vcpus,
            "host": msgspec.to_builtins(cost)}


def _container(record: ContainerRecord, sample: ContainerStats) -> dict[str, Any]:
    return {"id": record.id, "name": record.name, "memory_bytes": sample.memory, "cache_bytes": sample.cache,
            "memory_limit_bytes": sample.memory_limit, "cpu_ns": sample.cpu_ns, "pids": sample.pids,
            "read_bytes": sample.read_bytes, "write_bytes": sample.write_bytes, "network": sample.network}
