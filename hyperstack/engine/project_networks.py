"""The networks of a project: made, shown, removed, and containers put on them."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import time
from collections.abc import AsyncIterator, Callable, Collection

from msgspec.structs import replace

from hyperstack.engine.events import EventBus
from hyperstack.engine.lives import ACTIVE
from hyperstack.engine.lookup import find, has_label
from hyperstack.engine.network_options import parse_options
from hyperstack.engine.networks import BUILTIN, NO_NETWORK, NetworkService, default_record, network_of
from hyperstack.engine.records import ContainerRecord, NetworkRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.identity.api import Principal
from hyperstack.network.api import Subnet
from hyperstack.pod.errors import Conflict, Forbidden, InvalidArgument, NotFound, UnsupportedOption
from hyperstack.pod.ids import check_name, new_id
from hyperstack.pod.spec import NETWORK_ANNOTATION, PodSpec

Locked = Callable[[str], contextlib.AbstractAsyncContextManager[ContainerRecord]]

_RESERVED = (*BUILTIN, "host", "default", "container")
MAX_NETWORKS = 1024
"""Of one project; each in use is a bridge, a resolver and a dozen elements of the filter's sets."""


class ProjectNetworks:
    """Implements `hyperstack.engine.api.Networks`."""

    def __init__(self, store: Store, networks: NetworkService, events: EventBus, *, locked: Locked) -> None:
        """:param locked: a container, with the lock of its pod held."""
        self._store = store
        self._networks = networks
        self._locked = locked
        self._events = events

    async def create(self, who: Principal, name: str, *, driver: str = "", internal: bool = False,
                     attachable: bool = False, labels: dict[str, str] | None = None,
                     options: dict[str, str] | None = None, subnets: Collection[Subnet] = ()) -> NetworkRecord:
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
        chosen = self._networks.subnets([_with_gateway(subnet) for subnet in subnets], network_of(record))
        # Its bridge is made when its first pod starts.
        record = self._store.networks.put(replace(record, subnets=chosen))
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
        used = {pod.spec.network for pod in self._store.pods.all() if pod.project == who.project}
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

    async def connect(self, who: Principal, ref: str, container: str, *, place: PodSpec) -> None:
        record = self.get(who, ref)
        async with self._stopped(who, container) as pod:
            if pod.spec.network != NO_NETWORK:
                raise Conflict(f"a pod has one network, and this one has {pod.spec.network}", field="network",
                               value=record.name, hint=f"disconnect it first: hyperctl network disconnect "
                               f"{pod.spec.network} {container[:64]}")
            spec = self._networks.admit(who.project, replace(
                pod.spec, network=record.name, aliases=place.aliases, links=place.links, ip_address=place.ip_address,
                mac_address=place.mac_address))
            self._store.pods.put(replace(pod, spec=spec))

    async def disconnect(self, who: Principal, ref: str, container: str) -> None:
        try:
            name = self.get(who, ref).name
        except NotFound:
            name = ref  # it is gone, and the container still names it
        async with self._stopped(who, container) as pod:
            if pod.spec.network != name or name == NO_NETWORK:
                raise Conflict(f"container {container[:64]} is not connected to network {name[:128]}", field="network",
                               value=name[:128])
            self._store.pods.put(replace(pod, spec=replace(pod.spec, network=NO_NETWORK, aliases=(), links=(),
                                                           ip_address="", mac_address="")))

    @contextlib.asynccontextmanager
    async def _stopped(self, who: Principal, ref: str) -> AsyncIterator[PodRecord]:
        """The pod of a container that does not run, locked. :raise Conflict: it runs."""
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
            if container.state in ACTIVE or pod.binding is not None:
                raise UnsupportedOption("a change of the networks of a running pod", "a VM gets its network interface "
                                        "when it starts", hint="stop the container first, or give --network when you "
                                        "create it")
            yield pod

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
        first = str(ipaddress.IPv4Network(subnet.cidr)[1])
    except (ValueError, IndexError) as error:
        raise InvalidArgument(f"invalid subnet {subnet.cidr[:64]!r}: {str(error)[:128]}", field="subnet",
                              value=subnet.cidr[:64], hint="give an IPv4 subnet such as 10.1.2.0/24") from None
    return dataclasses.replace(subnet, gateway=first)
