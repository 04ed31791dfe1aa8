"""Networks as Docker shows them. There are two: the project's bridge, and none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from hyperstack.docker_api.filters import Filters
from hyperstack.engine.api import Engine
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.http.call import Call
from hyperstack.http.responses import json_response
from hyperstack.http.routing import Route
from hyperstack.http.times import ZERO_TIME
from hyperstack.pod.errors import NotFound, Unsupported

_NAMES = ("bridge", "none")
_MADE_BY_USERS = "user-defined networks"


def network_name(pod: PodRecord) -> str:
    return pod.spec.network


def network_id(project: str, name: str) -> str:
    """Stable, and different per project: the bridges of two projects are two networks."""
    return hashlib.sha256(f"{project}/{name}".encode()).hexdigest()


def endpoint_settings(record: ContainerRecord, pod: PodRecord | None) -> dict[str, Any]:
    """A container's place on its network; empty where its pod has none (yet)."""
    binding = pod.binding if pod is not None else None
    address, _, prefix = binding.address.partition("/") if binding is not None else ("", "", "")
    return {
        "IPAMConfig": None, "Links": None, "Aliases": None, "DriverOpts": None,
        "MacAddress": binding.mac if binding is not None else "",
        "NetworkID": network_id(record.project, pod.spec.network) if pod is not None else "",
        "EndpointID": hashlib.sha256(f"{pod.id}/{address}".encode()).hexdigest() if pod is not None and address else "",
        "Gateway": binding.gateway if binding is not None else "", "IPAddress": address,
        "IPPrefixLen": int(prefix or 0), "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "DNSNames": None}


def exposed_ports(record: ContainerRecord) -> list[str]:
    return sorted({*record.spec.exposed_ports, *record.image_config.exposed_ports})


def port_map(record: ContainerRecord, pod: PodRecord) -> dict[str, list[dict[str, str]] | None]:
    """`NetworkSettings.Ports`: exposed ports, and where each is published."""
    ports: dict[str, list[dict[str, str]] | None] = dict.fromkeys(exposed_ports(record))
    for published in pod.ports:
        key = f"{published.container_port}/{published.protocol}"
        places = ports.get(key) or []
        ports[key] = [*places, {"HostIp": published.host_ip or "0.0.0.0",  # noqa: S104 - shown, not bound
                                "HostPort": str(published.host_port)}]
    return ports


class NetworkRoutes:
    """GET /networks and its neighbours."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def table(self) -> list[Route]:
        return [
            Route("GET", "/networks", self.list_all),
            Route("GET", "/networks/{name}", self.inspect),
            Route("POST", "/networks/create", self.refuse),
            Route("POST", "/networks/prune", self.prune),
            Route("POST", "/networks/{name}/connect", self.refuse),
            Route("POST", "/networks/{name}/disconnect", self.refuse),
            Route("DELETE", "/networks/{name}", self.refuse),
        ]

    async def list_all(self, call: Call) -> web.StreamResponse:
        wanted = Filters.parse(call, known=("name", "id", "driver", "type", "scope", "label", "dangling"))
        networks = [self._describe(call, name) for name in _NAMES]
        return json_response([network for network in networks if _matches(network, wanted)])

    async def inspect(self, call: Call) -> web.StreamResponse:
        wanted = call.part("name")
        for name in _NAMES:
            ident = network_id(call.who.project, name)
            if wanted == name or (len(wanted) >= 4 and ident.startswith(wanted)):
                return json_response(self._describe(call, name))
        raise NotFound("network", wanted[:128])

    async def refuse(self, call: Call) -> web.StreamResponse:
        raise Unsupported(_MADE_BY_USERS, "the embedded bridge")

    async def prune(self, call: Call) -> web.StreamResponse:
        """Nothing of what exists may be pruned."""
        return json_response({"NetworksDeleted": None})

    def _describe(self, call: Call, name: str) -> dict[str, Any]:
        pods = [(record, self._engine.containers.pod_of(record))
                for record in self._engine.containers.list_all(call.who)]
        members = [(record, pod) for record, pod in pods if pod.spec.network == name and pod.binding is not None]
        return {
            "Name": name, "Id": network_id(call.who.project, name), "Created": ZERO_TIME, "Scope": "local",
            "Driver": "bridge" if name == "bridge" else "null", "EnableIPv4": True, "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Options": None, "Config": _ipam(members)}, "Internal": False,
            "Attachable": False, "Ingress": False, "ConfigFrom": {"Network": ""}, "ConfigOnly": False,
            "Containers": {record.id: _member(record, pod) for record, pod in members}, "Options": {}, "Labels": {}}


def _ipam(members: Sequence[tuple[ContainerRecord, PodRecord]]) -> list[dict[str, str]]:
    """The gateway is known from the pods that have one."""
    gateways = {pod.binding.gateway for _, pod in members if pod.binding is not None}
    return [{"Gateway": gateway} for gateway in sorted(gateways)]


def _member(record: ContainerRecord, pod: PodRecord) -> dict[str, str]:
    place = endpoint_settings(record, pod)
    return {"Name": record.name, "EndpointID": place["EndpointID"], "MacAddress": place["MacAddress"],
            "IPv4Address": pod.binding.address if pod.binding is not None else "", "IPv6Address": ""}


def _matches(network: dict[str, Any], wanted: Filters) -> bool:
    return (wanted.any_within("name", network["Name"]) and wanted.any_prefix("id", network["Id"])
            and wanted.any_is("driver", network["Driver"]) and wanted.any_is("type", "builtin")
            and wanted.any_is("scope", network["Scope"]) and wanted.labels({})
            and not wanted.truth("dangling"))
