"""/networks, and a container's place on one, as Docker shows them."""

from __future__ import annotations

import hashlib
from typing import Any

from aiohttp import web

from hyperstack.docker_api import ipam, shapes
from hyperstack.docker_api.bodies import ConnectBody, DisconnectBody, NetworkCreateBody
from hyperstack.docker_api.endpoints import parse_endpoint
from hyperstack.docker_api.filters import GO_FALSE, GO_TRUE, Filters
from hyperstack.engine.api import Binding, Engine, Published, Subnet
from hyperstack.engine.records import ContainerRecord, NetworkRecord, PodRecord
from hyperstack.http.call import Call
from hyperstack.http.responses import empty, json_response
from hyperstack.http.routing import Route
from hyperstack.http.times import rfc3339
from hyperstack.pod.errors import Forbidden, InvalidArgument, NotFound, UnsupportedOption
from hyperstack.pod.spec import NO_NETWORK, Endpoint


def endpoints(pod: PodRecord, *, live: bool) -> dict[str, dict[str, Any]]:
    """`NetworkSettings.Networks`: a container's place on each of its networks."""
    asked = pod.spec.endpoints
    if pod.spec.network == NO_NETWORK:
        asked = (Endpoint(network=NO_NETWORK),)
    return {endpoint.network: endpoint_settings(pod, endpoint, live=live) for endpoint in asked}


def endpoint_settings(pod: PodRecord, endpoint: Endpoint, *, live: bool) -> dict[str, Any]:
    """What was asked for, and where it runs, what it got."""
    last = binding_on(pod, endpoint.network)
    binding = last if live else None
    address, _, prefix = binding.address.partition("/") if binding is not None else ("", "", "")
    address6, _, prefix6 = binding.address6.partition("/") if binding is not None else ("", "", "")
    wanted = {name: value for name, value in (("IPv4Address", endpoint.ip_address),
                                              ("IPv6Address", endpoint.ip6_address)) if value}
    return {
        "IPAMConfig": wanted or None, "Links": list(endpoint.links) or None, "Aliases": list(endpoint.aliases) or None,
        "DriverOpts": None, "GwPriority": endpoint.priority, "MacAddress": binding.mac if binding is not None else "",
        "NetworkID": last.network_id if last is not None else "",
        "EndpointID": pod.endpoint_id(binding) if binding is not None else "",
        "Gateway": binding.gateway if binding is not None else "", "IPAddress": address,
        "IPPrefixLen": int(prefix or 0), "IPv6Gateway": binding.gateway6 if binding is not None else "",
        "GlobalIPv6Address": address6, "GlobalIPv6PrefixLen": int(prefix6 or 0),
        "DNSNames": _names(pod, binding, endpoint) or None if binding is not None else None}


def _names(pod: PodRecord, binding: Binding, endpoint: Endpoint) -> list[str]:
    """The pod's own names before those that it has on this network alone."""
    return sorted(binding.names, key=lambda name: (name in pod.id[:12], name in endpoint.aliases))


def binding_on(pod: PodRecord, network: str) -> Binding | None:
    """The pod's place on the network of this name, where it has one now."""
    return next((binding for binding in pod.bindings if binding.network in ("", network)), None)


def exposed_ports(record: ContainerRecord) -> list[str]:
    return sorted({*record.spec.exposed_ports, *record.image_config.exposed_ports})


def port_map(record: ContainerRecord, pod: PodRecord) -> dict[str, list[dict[str, str]] | None]:
    """`NetworkSettings.Ports`: exposed ports, and where each is published."""
    ports: dict[str, list[dict[str, str]] | None] = dict.fromkeys(exposed_ports(record))
    for published in pod.ports:
        key = f"{published.container_port}/{published.protocol}"
        places = ports.get(key) or []
        ports[key] = [*places, *({"HostIp": address, "HostPort": str(published.host_port)}
                                 for address in shown_addresses(published))]
    return ports


def shown_addresses(published: Published) -> tuple[str, ...]:
    """Of the host's, where the port is: two words for all of them, as Docker has it."""
    if published.host_ip:
        return (published.host_ip,)
    return ("0.0.0.0", *(["::"] if published.address6 else []))  # noqa: S104 - shown, not bound


class NetworkRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._networks = engine.networks
        self._containers = engine.containers

    def table(self) -> list[Route]:
        return [
            Route("GET", "/networks", self.list_all),
            Route("POST", "/networks/create", self.create),
            Route("POST", "/networks/prune", self.prune),
            Route("GET", "/networks/{name:.*}", self.inspect),
            Route("POST", "/networks/{name:.*}/connect", self.connect),
            Route("POST", "/networks/{name:.*}/disconnect", self.disconnect),
            Route("DELETE", "/networks/{name:.*}", self.remove),
        ]

    async def list_all(self, call: Call) -> web.StreamResponse:
        wanted = Filters.parse(call, known=("name", "id", "driver", "type", "scope", "label", "dangling"))
        dangling = _dangling(wanted)
        for kind in wanted.get("type"):
            if kind not in ("builtin", "custom"):
                raise InvalidArgument(f"invalid filter: 'type'='{kind[:64]}'", field="filters", value=kind[:64],
                                      hint="builtin or custom")
        used = {endpoint.network for record in self._containers.list_all(call.who)
                for endpoint in self._containers.pod_of(record).spec.endpoints}
        return json_response([describe(network) for network in self._networks.list_all(call.who)
                              if _matches(network, wanted) and dangling in (
                                  None, network.name not in used and not network.builtin)])

    async def inspect(self, call: Call) -> web.StreamResponse:
        if not call.part("name"):
            return await self.list_all(call)
        verbose = call.text("verbose")
        if verbose and verbose not in GO_TRUE | GO_FALSE:
            raise InvalidArgument(f'invalid value for verbose: {verbose[:64]}: strconv.ParseBool: parsing '
                                  f'"{verbose[:64]}": invalid syntax', field="verbose", value=verbose[:64])
        network = self._networks.get(call.who, call.part("name"))
        if call.text("scope", "local") != "local":
            raise NotFound("network", call.part("name"), hint="the scope of networks is local")
        members = self._networks.members(call.who, network)
        places = [place for _, pod in members if (place := binding_on(pod, network.name)) is not None]
        taken = [address for place in places for address in (place.address, place.address6)]
        return json_response({**describe(network), **shapes.network_status(network.all_subnets, taken, call.version),
                              "Containers": {record.id: _member(record, pod, network.name) for record, pod in members}})

    async def create(self, call: Call) -> web.StreamResponse:
        body = await call.body(NetworkCreateBody)
        _refuse(body)
        network = await self._networks.create(
            call.who, body.name, driver=body.driver, internal=body.internal, attachable=body.attachable,
            labels=body.labels, options=body.options, ipv6=body.enable_ipv6,
            subnets=ipam.subnets(body.ipam.config, ipv6=body.enable_ipv6))
        return json_response({"Id": network.id, "Warning": ""}, status=201)

    async def remove(self, call: Call) -> web.StreamResponse:
        if call.part("name") == "host":
            raise Forbidden("host is a pre-defined network and cannot be removed", field="name", value="host")
        await self._networks.remove(call.who, call.part("name"))
        return empty()

    async def prune(self, call: Call) -> web.StreamResponse:
        wanted = Filters.parse(call, known=("until", "label", "label!"))
        removed = await self._networks.prune(call.who, until_ns=wanted.until_ns(), labels=wanted.get("label"),
                                             without_labels=wanted.get("label!"))
        return json_response({"NetworksDeleted": removed or None})

    async def connect(self, call: Call) -> web.StreamResponse:
        body = await call.body(ConnectBody)
        self._check_container(call, body.container)
        ref = call.part("name")
        if ref == "host":
            raise InvalidArgument("cannot connect container to host network - container must be created in host "
                                  "network mode", field="network", value=ref)
        network = self._networks.get(call.who, ref)
        ipam.check_endpoint(body.endpoint_config, network.name, network)
        await self._networks.connect(call.who, network.id, body.container,
                                     place=parse_endpoint(body.endpoint_config, "EndpointConfig"))
        return empty(200)

    def _check_container(self, call: Call, ref: str) -> None:
        """:raise InvalidArgument: none is named. :raise NotFound: there is none."""
        if not ref:
            raise InvalidArgument('invalid name or ID supplied: ""', field="Container")
        self._containers.get(call.who, ref)

    async def disconnect(self, call: Call) -> web.StreamResponse:
        body = await call.body(DisconnectBody)
        try:
            self._check_container(call, body.container)
        except NotFound:
            if body.force:
                network = self._networks.get(call.who, call.part("name"))
                raise NotFound("endpoint", body.container, hint=f"on network {network.name}") from None
            raise
        await self._networks.disconnect(call.who, call.part("name"), body.container)
        return empty(200)


_BRIDGE = "com.docker.network.bridge"
_DEFAULT_BRIDGE = {f"{_BRIDGE}.default_bridge": "true", f"{_BRIDGE}.enable_icc": "true",
                   f"{_BRIDGE}.enable_ip_masquerade": "true", f"{_BRIDGE}.host_binding_ipv4": "0.0.0.0",  # noqa: S104 - shown, not bound
                   "com.docker.network.driver.mtu": "1500"}
"""Docker's options of the network that is there from the beginning, as far as they are so here."""


def describe(network: NetworkRecord) -> dict[str, Any]:
    """A network in Docker's shape, without its members."""
    return {
        "Name": network.name, "Id": network.id, "Created": rfc3339(network.created_at), "Scope": "local",
        "Driver": network.driver, "EnableIPv4": True, "EnableIPv6": bool(network.subnets6),
        "IPAM": {"Driver": "default", "Options": None, "Config": None if network.driver == "null" else [
            _pool(subnet) for subnet in network.all_subnets]},
        "Internal": network.internal, "Attachable": network.attachable, "Ingress": False,
        "ConfigFrom": {"Network": ""}, "ConfigOnly": False, "Containers": {},
        "Options": _DEFAULT_BRIDGE if network.builtin and network.driver == "bridge" else network.options,
        "Labels": network.labels}


def _refuse(body: NetworkCreateBody) -> None:
    """:raise HyperStackError: in Docker's words, or names what cannot be honoured."""
    if body.scope == "swarm":
        raise Forbidden("cannot create a swarm scoped network when swarm is not active", field="Scope")
    if body.ingress:
        raise Forbidden("Ingress network can only be global scope network", field="Ingress")
    if (name := body.config_from.network) and not body.config_only:
        raise NotFound("configuration network", name, hint="there are none here: give the settings themselves")
    if body.ipam.driver not in ("", "default", "null"):
        raise NotFound("plugin", body.ipam.driver, hint="the driver of addresses is default")
    if body.enable_ipv4 is False and not body.enable_ipv6:
        raise InvalidArgument("IPv4 or IPv6 must be enabled", field="EnableIPv4")
    for field, value, reason, hint in (
            ("Scope", body.scope not in ("", "local"), "this host is not part of a swarm", "local"),
            ("ConfigOnly", body.config_only, "a network is made with its own settings", ""),
            ("EnableIPv4=false", body.enable_ipv4 is False, "every pod has an IPv4 address", "--ipv6 beside it"),
            ("IPAM.Driver", body.ipam.driver not in ("", "default"), "addresses are given by the daemon", "default"),
            ("IPAM.Options", bool(body.ipam.options), "the daemon's own allocation has none", "")):
        if value:
            raise UnsupportedOption(field, reason, hint=hint or None)


def _pool(subnet: Subnet) -> dict[str, Any]:
    """What was asked for; of a subnet that was chosen the gateway as well."""
    return {"Subnet": subnet.cidr, **({"IPRange": subnet.ip_range} if subnet.ip_range else {}),
            **({"Gateway": subnet.gateway} if subnet.gateway_named else {}),
            **({"AuxiliaryAddresses": subnet.reserved} if subnet.reserved else {})}


def _member(record: ContainerRecord, pod: PodRecord, network: str) -> dict[str, str]:
    place, binding = endpoint_settings(pod, Endpoint(network=network), live=True), binding_on(pod, network)
    ident = place["EndpointID"] or hashlib.sha256(f"{pod.id}/{network}".encode()).hexdigest()
    return {"Name": record.name, "EndpointID": ident, "MacAddress": place["MacAddress"],
            "IPv4Address": binding.address if binding is not None else "",
            "IPv6Address": binding.address6 if binding is not None else ""}


def _dangling(wanted: Filters) -> bool | None:
    """:raise InvalidArgument: the filter is neither true nor false."""
    values = wanted.get("dangling")
    if len(values) > 1:
        raise InvalidArgument('got more than one value for filter key "dangling"', field="filters")
    if values and values[0] not in ("1", "true", "0", "false"):
        raise InvalidArgument('invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")',
                              field="filters", value=values[0][:64])
    return values[0] in ("1", "true") if values else None


def _matches(network: NetworkRecord, wanted: Filters) -> bool:
    return (wanted.any_match("name", network.name) and wanted.any_match("id", network.id)
            and wanted.any_is("driver", network.driver)
            and wanted.any_is("type", "builtin" if network.builtin else "custom")
            and wanted.any_is("scope", "local") and wanted.labels(network.labels))
