"""The networks of a project: made, shown, removed, and containers put on them."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import time
from collections.abc import AsyncIterator, Callable, Collection

from msgspec.structs import replace

from hyperstack.engine.events import EventBus
from hyperstack.engine.lookup import find, has_label
from hyperstack.engine.network_options import parse_options
from hyperstack.engine.networks import NetworkService
from hyperstack.engine.placement import BUILTIN, default_record, network_of, none_and_others
from hyperstack.engine.records import ContainerRecord, NetworkRecord, PodRecord
from hyperstack.engine.rewiring import Rewiring
from hyperstack.engine.store import Store
from hyperstack.identity.api import Principal
from hyperstack.network.api import Subnet
from hyperstack.pod.errors import Conflict, Forbidden, InvalidArgument, NotFound, UnsupportedOption
from hyperstack.pod.ids import check_name, new_id
from hyperstack.pod.spec import NETWORK_ANNOTATION, NO_NETWORK, Endpoint

Locked = Callable[[str], contextlib.AbstractAsyncContextManager[ContainerRecord]]

_RESERVED = (*BUILTIN, "host", "default", "container")
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
        name = check_name(name, kind="network")
        if name in _RESERVED:
            raise Forbidden(f"operation is not permitted on predefined {name} network", field="name", value=name,
                            hint="choose another name")
        if driver not in ("", "bridge"):
            raise UnsupportedOption(f"the network driver {driver[:64]}", "this host has bridges", hint="bridge")
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
        builtin = {record.name: record for record in self._builtin(who.project)}
        if ref in builtin:
            return builtin[ref]
        try:
            return find(self._store.networks, "network", who.project, ref)
        except NotFound:
            for record in builtin.values():
                if len(ref) >= _MIN_PREFIX and record.id.startswith(ref):
                    return record
            raise

    def list_all(self, who: Principal) -> list[NetworkRecord]:
        made = [n for n in self._store.networks.all() if n.project == who.project and n.name not in BUILTIN]
        return [*self._builtin(who.project), *made]

    def members(self, who: Principal, record: NetworkRecord) -> list[tuple[ContainerRecord, PodRecord]]:
        pods = {pod.id: pod for pod in self._networks.pods_on(record)}
        return [(c, pods[c.pod_id]) for c in self._store.containers.all()
                if c.pod_id in pods and not c.spec.sharing.network]

    async def remove(self, who: Principal, ref: str) -> None:
        record = self.get(who, ref)
        if record.builtin:
            raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed", field="name",
                            value=record.name)
        members = self.members(who, record)
        if members:
            named = " ".join(f'(name:"{container.name}" id:"{container.id[:12]}")' for container, _ in members[:16])
            raise Forbidden(f"error while removing network: network {record.name} has active endpoints {named}",
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
                      and all(has_label(record.labels, label) for label in labels)
                      and not any(has_label(record.labels, label) for label in without_labels))
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
            if record.name in (pod.spec.network, *(other.network for other in pod.spec.endpoints)):
                raise Forbidden(f"endpoint with name {found.name} already exists in network {record.name}",
                                field="network", value=record.name, hint="disconnect it first, to change its place")
            if pod.spec.network and NO_NETWORK in (record.name, pod.spec.network):
                raise none_and_others(f"disconnect it from {pod.spec.network} first")
            spec = self._networks.placement.admit(who.project, pod.spec.on((*pod.spec.endpoints, endpoint)))
            asked = replace(pod, spec=spec)
            if spec.endpoints and self._rewiring.runs(pod):
                await self._rewiring.join(pod, asked, spec.endpoints[-1])
            else:
                self._store.pods.put(asked)
            self._networks.tell(record, "connect", pod)

    async def disconnect(self, who: Principal, ref: str, container: str) -> None:
        record: NetworkRecord | None = None
        with contextlib.suppress(NotFound):  # it is gone, and the container still names it
            record = self.get(who, ref)
        name = ref if record is None else record.name
        async with self._changeable(who, container) as (_, pod):
            left = tuple(endpoint for endpoint in pod.spec.endpoints if endpoint.network != name)
            if len(left) == len(pod.spec.endpoints) and name != pod.spec.network:
                if record is None:
                    raise NotFound("network", ref)
                raise Conflict(f"container {container[:64]} is not connected to network {name[:128]}", field="network",
                               value=name[:128])
            asked = replace(pod, spec=pod.spec.on(left))
            if pod.spec.endpoints and self._rewiring.runs(pod) and record is not None:
                await self._rewiring.leave(pod, asked, record)
            else:
                self._store.pods.put(asked)
            if record is not None:
                self._networks.tell(record, "disconnect", pod)

    @contextlib.asynccontextmanager
    async def _changeable(self, who: Principal, ref: str) -> AsyncIterator[tuple[ContainerRecord, PodRecord]]:
        """A container and its pod, locked."""
        container = find(self._store.containers, "container", who.project, ref)
        async with self._locked(container.id) as container:
            pod = self._store.pods.get(container.pod_id)
            assert pod is not None
            if container.spec.sharing.network:
                raise Conflict("container sharing network namespace with another container or host cannot be connected "
                               "to any other network", field="container", value=container.name)
            if not pod.implicit:
                raise UnsupportedOption("a change of the network of a manifest's pod", "the manifest says where it is",
                                        hint=f"remove it, and create it with the annotation {NETWORK_ANNOTATION}")
            yield container, pod

    def _builtin(self, project: str) -> list[NetworkRecord]:
        return [self._store.networks.named(project, name) or default_record(project, name) for name in BUILTIN]

    def _tell(self, record: NetworkRecord, action: str) -> None:
        self._events.emit("network", action, record.id, record.project, {"name": record.name, "type": record.driver})


_MIN_PREFIX = 4


def _with_gateway(subnet: Subnet) -> Subnet:
    """The first host address is the gateway's where the user names none."""
    if subnet.gateway:
        return subnet
    try:
        first = str(ipaddress.ip_network(subnet.cidr)[1])
    except (ValueError, IndexError) as error:
        raise InvalidArgument(f"invalid subnet {subnet.cidr[:64]!r}: {str(error)[:128]}", field="subnet",
                              value=subnet.cidr[:64], hint="give a subnet such as 10.1.2.0/24") from None
    return dataclasses.replace(subnet, gateway=first)
