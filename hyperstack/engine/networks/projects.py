"""The networks of a project: made, shown, removed, and containers put on them."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import time
from collections.abc import AsyncIterator, Callable, Collection

from msgspec.structs import replace

from hyperstack.engine.events import EventBus
from hyperstack.engine.lookup import find, selected
from hyperstack.engine.networks.options import parse_options
from hyperstack.engine.networks.placement import BUILTIN, default_record, network_of, none_and_others
from hyperstack.engine.networks.rewiring import Rewiring
from hyperstack.engine.networks.service import NetworkService
from hyperstack.engine.records import ContainerRecord, NetworkRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.identity.api import Principal
from hyperstack.network.api import Subnet
from hyperstack.pod.errors import (
    Conflict,
    Forbidden,
    HyperStackError,
    InvalidArgument,
    NotFound,
    UnsupportedOption,
)
from hyperstack.pod.ids import new_id
from hyperstack.pod.spec import NETWORK_ANNOTATION, NO_NETWORK, Endpoint
from hyperstack.pod.states import SandboxState

Locked = Callable[[str], contextlib.AbstractAsyncContextManager[ContainerRecord]]

_RESERVED = (*BUILTIN, "host", "default", "container")
MAX_NAME = 255
MAX_NETWORKS = 1024
"""Of one project; each in use is a bridge, a resolver and a dozen elements of the filter's sets."""


class ProjectNetworks:
    """Implements `hyperstack.engine.api.Networks`."""

    def __init__(self, store: Store, networks: NetworkService, events: EventBus, rewiring: Rewiring, *, locked: Locked
                 ) -> None:
        """:param locked: a container, with the lock of its pod held."""
        self._store = store
        self._networks = networks
        self._rewiring = rewiring
        self._locked = locked
        self._events = events

    async def create(self, who: Principal, name: str, *, driver: str = "", internal: bool = False,
                     attachable: bool = False, labels: dict[str, str] | None = None,
                     options: dict[str, str] | None = None, subnets: Collection[Subnet] = (), ipv6: bool = False
                     ) -> NetworkRecord:
        _check_name(name)
        if driver not in ("", "bridge"):
            raise _no_driver(driver[:64])
        if self._store.networks.named(who.project, name) is not None:
            raise Conflict(f"network with name {name} already exists", field="name", value=name,
                           hint="choose another name, or remove that network")
        if sum(record.project == who.project for record in self._store.networks.all()) >= MAX_NETWORKS:
            raise Conflict(f"the project has {MAX_NETWORKS} networks", field="name", value=name,
                           hint="remove some that are not used: hyperctl network prune")
        parse_options(options or {})
        record = NetworkRecord(id=new_id(), name=name, project=who.project, created_at=time.time_ns(),
                               internal=internal, attachable=attachable, labels=labels or {}, options=options or {})
        made = self._networks.subnets([_with_gateway(subnet) for subnet in subnets], network_of(record), ipv6=ipv6)
        # Its bridge is made when its first pod starts.
        record = self._store.networks.put(replace(record, subnets=made.subnets, subnets6=made.subnets6))
        self._tell(record, "create")
        return record

    def get(self, who: Principal, ref: str) -> NetworkRecord:
        known = self.list_all(who)
        found = next((record for record in known if ref in (record.id, record.name)), None)
        if found is not None:
            return found
        fits = [record for record in known if record.id.startswith(ref)]
        if len(fits) > 1:
            raise InvalidArgument(f"network {ref} is ambiguous ({len(fits)} matches found based on ID prefix)",
                                  field="network", value=ref)
        if not fits:
            raise NotFound("network", ref)
        return fits[0]

    def list_all(self, who: Principal) -> list[NetworkRecord]:
        made = [n for n in self._store.networks.all() if n.project == who.project and n.name not in BUILTIN]
        return [*self._builtin(who.project), *made]

    def members(self, who: Principal, record: NetworkRecord) -> list[tuple[ContainerRecord, PodRecord]]:
        pods = {pod.id: pod for pod in self._networks.pods_on(record)}
        if record.name == NO_NETWORK:
            pods = {pod.id: pod for pod in self._store.pods.all() if pod.project == record.project
                    and pod.spec.network == NO_NETWORK and pod.state is SandboxState.READY}
        return [(c, pods[c.pod_id]) for c in self._store.containers.all()
                if c.pod_id in pods and not c.spec.sharing.network]

    async def remove(self, who: Principal, ref: str) -> None:
        record = self.get(who, ref)
        if record.builtin:
            raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed", field="name",
                            value=record.name)
        members = self.members(who, record)
        if members:
            named = ", ".join(f'name:"{container.name}" id:"{container.id[:12]}"' for container, _ in members[:16])
            raise Forbidden(f"error while removing network: network {record.name} has active endpoints ({named})",
                            field="name", value=record.name, hint="stop those containers first")
        self._store.networks.put(replace(record, removing=True))
        await self._networks.remove(record)
        if self._store.networks.get(record.id) is not None:  # another caller may have been faster
            self._store.networks.delete(record.id)
            self._tell(record, "destroy")

    async def prune(self, who: Principal, *, until_ns: int = 0, labels: Collection[str] = (),
                    without_labels: Collection[str] = ()) -> list[str]:
        removed = []
        used = {endpoint.network for pod in self._store.pods.all() if pod.project == who.project
                for endpoint in pod.spec.endpoints}
        for record in self.list_all(who):
            wanted = (not record.builtin and record.name not in used
                      and (not until_ns or record.created_at <= until_ns)
                      and selected(record.labels, labels, without_labels))
            if wanted:
                with contextlib.suppress(NotFound, Forbidden):  # removed meanwhile, or joined
                    await self.remove(who, record.id)
                    removed.append(record.name)
        self._events.emit("network", "prune", "", who.project, {"reclaimed": "0"})
        return removed

    async def connect(self, who: Principal, ref: str, container: str, *, place: Endpoint) -> None:
        record = self.get(who, ref)
        endpoint = replace(place, network=record.name)
        async with self._changeable(who, container) as (found, pod):
            there = record.name in (pod.spec.network, *(other.network for other in pod.spec.endpoints))
            if there and self._rewiring.runs(pod):
                raise Forbidden(f"endpoint with name {found.name} already exists in network {record.name}",
                                field="network", value=record.name, hint="disconnect it first, to change its place")
            if there and record.name == NO_NETWORK:
                return
            if not there and pod.spec.network and NO_NETWORK in (record.name, pod.spec.network):
                raise none_and_others(f"disconnect it from {pod.spec.network} first")
            places = tuple(endpoint if place.network == record.name else place for place in pod.spec.endpoints)
            spec = self._networks.placement.admit(who.project, pod.spec.on(places if there else (*places, endpoint)))
            asked = replace(pod, spec=spec)
            if spec.endpoints and self._rewiring.runs(pod):
                await self._rewiring.join(pod, asked, spec.endpoints[-1])
                self._networks.tell(record, "connect", pod)
            else:
                self._store.pods.put(asked)

    async def disconnect(self, who: Principal, ref: str, container: str) -> None:
        record: NetworkRecord | None = None
        with contextlib.suppress(NotFound):  # it is gone, and the container still names it
            record = self.get(who, ref)
        name = ref if record is None else record.name
        async with self._changeable(who, container) as (found, pod):
            left = tuple(endpoint for endpoint in pod.spec.endpoints if endpoint.network != name)
            if len(left) == len(pod.spec.endpoints) and name != pod.spec.network:
                if record is None and self._rewiring.runs(pod):
                    raise NotFound("network", ref)
                article = "" if self._rewiring.runs(pod) else "the "
                raise Conflict(f"container {found.id} is not connected to {article}network {name[:128]}",
                               field="network", value=name[:128])
            asked = replace(pod, spec=pod.spec.on(left))
            if pod.spec.endpoints and self._rewiring.runs(pod) and record is not None:
                self._networks.tell(record, "disconnect", pod)
                await self._rewiring.leave(pod, asked, record)
            else:
                self._store.pods.put(asked)

    @contextlib.asynccontextmanager
    async def _changeable(self, who: Principal, ref: str) -> AsyncIterator[tuple[ContainerRecord, PodRecord]]:
        """A container and its pod, locked."""
        container = find(self._store.containers, "container", who.project, ref)
        async with self._locked(container.id) as container:
            pod = self._store.pods.get(container.pod_id)
            assert pod is not None
            if container.spec.sharing.network:
                raise InvalidArgument("container sharing network namespace with another container or host cannot be "
                                      "connected to any other network", field="container", value=container.name)
            if not pod.implicit:
                raise UnsupportedOption("a change of the network of a manifest's pod", "the manifest says where it is",
                                        hint=f"remove it, and create it with the annotation {NETWORK_ANNOTATION}")
            yield container, pod

    def _builtin(self, project: str) -> list[NetworkRecord]:
        return [self._store.networks.named(project, name) or default_record(project, name) for name in BUILTIN]

    def _tell(self, record: NetworkRecord, action: str) -> None:
        self._events.emit("network", action, record.id, record.project, {"name": record.name, "type": record.driver})


def _check_name(name: str) -> None:
    """:raise InvalidArgument: nothing can be called so. :raise Forbidden: it is the name of another thing."""
    if not name:
        raise InvalidArgument("invalid name: name is empty", field="name", value=name)
    if len(name) > MAX_NAME or not name.isprintable():
        raise InvalidArgument(f"invalid name: {name[:64]!r}", field="name", value=name[:64],
                              hint=f"at most {MAX_NAME} printable characters")
    if name in _RESERVED:
        raise Forbidden(f"operation is not permitted on predefined {name} network ", field="name", value=name)


def _no_driver(name: str) -> HyperStackError:
    match name:
        case "host" | "null":
            return Forbidden(f'only one instance of "{name}" network is allowed', field="driver", value=name)
        case "overlay":
            return Forbidden('This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
                             "connect this node to swarm and try again.", field="driver", value=name, hint="use bridge")
        case "macvlan" | "ipvlan":
            return UnsupportedOption(f"the network driver {name}", "this host has bridges", hint="bridge")
    return NotFound("plugin", name, hint="this host has one network driver, bridge")


def _with_gateway(subnet: Subnet) -> Subnet:
    """The first host address is the gateway's where the user names none."""
    if subnet.gateway:
        return subnet
    try:
        first = str(ipaddress.ip_network(subnet.cidr)[1])
    except (ValueError, IndexError) as error:
        raise InvalidArgument(f"invalid subnet {subnet.cidr[:64]!r}: {str(error)[:128]}", field="subnet",
                              value=subnet.cidr[:64], hint="give a subnet such as 10.1.2.0/24") from None
    return dataclasses.replace(subnet, gateway=first, gateway_named=False)
