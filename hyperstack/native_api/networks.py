"""/networks: list, inspect, create, remove, prune."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from hyperstack.engine.api import Engine, Subnet
from hyperstack.engine.records import NetworkRecord
from hyperstack.http import body
from hyperstack.http.call import Call
from hyperstack.http.responses import empty, json_response
from hyperstack.http.routing import Route
from hyperstack.http.times import rfc3339
from hyperstack.pod.errors import InvalidArgument
from hyperstack.pod.spec import Struct

MAX_SUBNETS = 64


class SubnetBody(Struct, frozen=True, kw_only=True):
    cidr: str
    gateway: str = ""
    ip_range: str = ""
    reserved: dict[str, str] = {}


class NetworkBody(Struct, frozen=True, kw_only=True):
    """A network that somebody wants. Unknown fields are a mistake."""

    name: str
    internal: bool = False
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    subnets: list[SubnetBody] = []
    ipv6: bool = False


class NetworkRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._networks = engine.networks

    def table(self) -> list[Route]:
        return [
            Route("GET", "/networks", self.list_all),
            Route("POST", "/networks", self.create),
            Route("POST", "/networks/prune", self.prune),
            Route("GET", "/networks/{name}", self.inspect),
            Route("DELETE", "/networks/{name}", self.remove),
        ]

    async def list_all(self, call: Call) -> web.StreamResponse:
        return json_response([describe(network) for network in self._networks.list_all(call.who)])

    async def inspect(self, call: Call) -> web.StreamResponse:
        network = self._networks.get(call.who, call.part("name"))
        pods = {pod.id: pod for _, pod in self._networks.members(call.who, network)}
        return json_response({**describe(network), "pods": [
            {"id": pod.id, "name": pod.name, "address": binding.address, "address6": binding.address6,
             "mac": binding.mac, "names": binding.names} for pod in pods.values() for binding in pod.bindings
            if binding.network_id == network.id]})

    async def create(self, call: Call) -> web.StreamResponse:
        try:
            wanted = msgspec.json.decode(await body.read(call.request), type=NetworkBody)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidArgument(f"this is no network: {error}", field="body",
                                  hint='{"name": "front", "subnets": [{"cidr": "10.1.2.0/24"}]}') from error
        if len(wanted.subnets) > MAX_SUBNETS:
            raise InvalidArgument(f"more than {MAX_SUBNETS} subnets", field="subnets", value=len(wanted.subnets))
        network = await self._networks.create(
            call.who, wanted.name, internal=wanted.internal, labels=wanted.labels, options=wanted.options,
            subnets=[Subnet(cidr=subnet.cidr, gateway=subnet.gateway, ip_range=subnet.ip_range,
                            reserved=subnet.reserved) for subnet in wanted.subnets], ipv6=wanted.ipv6)
        return json_response(describe(network), status=201)

    async def remove(self, call: Call) -> web.StreamResponse:
        await self._networks.remove(call.who, call.part("name"))
        return empty()

    async def prune(self, call: Call) -> web.StreamResponse:
        return json_response({"removed": await self._networks.prune(call.who)})


def describe(network: NetworkRecord) -> dict[str, Any]:
    return {"id": network.id, "name": network.name, "project": network.project, "driver": network.driver,
            "builtin": network.builtin, "internal": network.internal, "labels": network.labels,
            "options": network.options, "created_at": rfc3339(network.created_at) if network.created_at else None,
            "subnets": [{"cidr": subnet.cidr, "gateway": subnet.gateway, "ip_range": subnet.ip_range,
                         "reserved": subnet.reserved} for subnet in network.all_subnets]}
