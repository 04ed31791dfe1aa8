"""Pods on networks: which network, which address, which ports. What is decided is stored before it is plugged.

Making and removing networks is `hyperstack.engine.project_networks`'.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import re
import time
from collections.abc import Collection

from msgspec.structs import replace

from hyperstack.engine.events import EventBus
from hyperstack.engine.lookup import find
from hyperstack.engine.network_options import parse_options
from hyperstack.engine.records import ContainerRecord, Event, NetworkRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.network.api import Binding, Network, NetworkBackend, Published, Subnet
from hyperstack.pod.errors import Conflict, InvalidArgument, NotFound
from hyperstack.pod.spec import PodSpec, PortBinding

DEFAULT_NETWORK = "bridge"
"""Every project has one of its own under this name, made when its first pod starts."""

NO_NETWORK = "none"
BUILTIN = (DEFAULT_NETWORK, NO_NETWORK)

_FULL_ID = re.compile(r"[0-9a-f]{64}\Z")


class NetworkService:
    def __init__(self, backend: NetworkBackend, store: Store, events: EventBus) -> None:
        self._backend = backend
        self._store = store
        self._events = events
        self._begun: set[str] = set()
        self._ready: set[str] = set()
        self._making = asyncio.Lock()
        events.listen(self._follow_names)

    async def start(self) -> None:
        await self._backend.start()

    async def close(self) -> None:
        await self._backend.close()

    def admit(self, project: str, spec: PodSpec) -> PodSpec:
        """A new pod's spec, its network by name.

        :raise InvalidArgument: there is no such network, or what is asked for is not to be had there.
        """
        if spec.network in BUILTIN:
            if spec.aliases or spec.links:
                raise InvalidArgument("network-scoped alias is supported only for containers in user defined networks",
                                      field="aliases", value=spec.network,
                                      hint="create a network, and use it with --network")
            return spec
        try:
            record = find(self._store.networks, "network", project, spec.network)
        except NotFound:
            # Not as what it is: Docker's client takes that for an image that is missing, and pulls.
            raise InvalidArgument(f"network {spec.network[:128]} not found", field="network", value=spec.network[:128],
                                  hint=f"create it first: hyperctl network create {spec.network[:128]}") from None
        self._backend.plan(network_of(record), pod_id="", taken=(), mac=spec.mac_address, address=spec.ip_address)
        return replace(spec, network=record.name)

    def plan(self, pod: PodRecord, exposed: tuple[str, ...]) -> PodRecord:
        """The pod with a binding and ports; the caller stores it. No side effect but a new network's record.

        :raise NotFound: no such network. :raise Exhausted, InvalidArgument, Conflict: see the network door.
        """
        if pod.spec.network == NO_NETWORK:
            if pod.spec.ports:
                raise InvalidArgument("Ports cannot be published without a network", field="ports",
                                      hint="leave out -p, or --network none")
            return replace(pod, binding=None, ports=())
        record = self._record(pod.project, pod.spec.network)
        others = [p for p in self._store.pods.all() if p.id != pod.id]
        binding = self._place(pod, record, others)
        wanted = pod.spec.ports + self._publish_all(pod, exposed)
        ports: tuple[Published, ...] = ()
        if wanted:
            ports = self._backend.choose_ports(_at(wanted, record), pod_id=pod.id,
                                               address=binding.address.partition("/")[0],
                                               taken=[port for p in others for port in p.ports])
        return replace(pod, binding=binding, ports=ports)

    def _place(self, pod: PodRecord, record: NetworkRecord, others: Collection[PodRecord]) -> Binding:
        here = [p.binding for p in others if p.binding is not None and p.binding.network_id == record.id]
        taken = {binding.address.partition("/")[0] for binding in here}
        if not pod.spec.ip_address:
            # Whoever asked for an address finds it free when it starts again.
            taken |= {p.spec.ip_address for p in others if p.spec.ip_address
                      and (p.project, p.spec.network) == (record.project, record.name)}
        macs = {binding.mac for binding in here}
        while True:
            binding = self._backend.plan(network_of(record), pod_id=pod.id, taken=taken, mac=pod.spec.mac_address,
                                         address=pod.spec.ip_address, names=() if record.builtin else self._names(pod),
                                         links=_links(pod.spec), servers=pod.spec.dns)
            if binding.mac not in macs:
                return binding
            if pod.spec.mac_address or pod.spec.ip_address:
                raise Conflict(f"MAC address {binding.mac} is in use in network {record.name}", field="mac_address",
                               value=binding.mac, hint="choose another, or none: one is made from the address")
            # Somebody asked for the MAC that goes with this address.
            taken.add(binding.address.partition("/")[0])

    async def plug(self, pod: PodRecord) -> int | None:
        """The tap's descriptor, the caller's to close; None without a network."""
        if pod.binding is None:
            return None
        record = await self._network_of(pod.binding)
        descriptor = await self._backend.plug(pod.binding, uid=pod.vm_uid)
        self._tell(record, "connect", pod)
        return descriptor

    async def make_spare(self, machine: str, *, uid: int) -> int:
        """A tap for a machine that is no pod's yet; its descriptor, the caller's to close."""
        return await self._backend.make_spare(machine, uid=uid)

    async def plug_spare(self, pod: PodRecord) -> None:
        """The tap that the pod's machine had before it was the pod's. Nothing without a network."""
        if pod.binding is not None:
            record = await self._network_of(pod.binding)
            await self._backend.plug_spare(pod.binding, ident=pod.machine)
            self._tell(record, "connect", pod)

    async def _network_of(self, binding: Binding) -> NetworkRecord:
        """It is there then. :raise NotFound: it was removed."""
        record = self._store.networks.get(binding.network_id)
        if record is None:
            raise NotFound("network", binding.network_id)
        await self._ensure(record)
        return record

    async def publish(self, pod: PodRecord) -> None:
        if pod.ports and pod.binding is not None:
            record = self._store.networks.get(pod.binding.network_id)
            if record is not None:
                await self._backend.publish(pod.ports, network_of(record))

    async def unplug(self, pod: PodRecord) -> None:
        """Idempotent; the record keeps its binding until the caller stores it without."""
        if pod.ports:
            await self._backend.unpublish(pod.id)
        if pod.binding is not None:
            await self._backend.unplug(pod.binding)
            record = self._store.networks.get(pod.binding.network_id)
            if record is not None:
                self._tell(record, "disconnect", pod)

    async def sweep(self) -> list[str]:
        """Bring the host to what the records say; returns what was removed."""
        pods = self._store.pods.all()
        bindings: list[Binding] = [p.binding for p in pods if p.binding is not None]
        used = {b.network_id for b in bindings}
        networks = [n for n in self._store.networks.all() if n.id in used]
        self._begun, self._ready = set(used), set(used)
        removed = await self._backend.sweep([network_of(n) for n in networks], bindings,
                                            [port for p in pods for port in p.ports])
        for record in self._store.networks.all():
            if record.removing:
                self._store.networks.delete(record.id)
        return removed

    # -- for those who make and remove networks

    def subnets(self, wanted: Collection[Subnet], network: Network) -> tuple[Subnet, ...]:
        """Of a new network: those that the user wants, each with a gateway, else one that is free.

        :raise InvalidArgument, Conflict: see `NetworkBackend.check`. :raise Exhausted: no subnet is left.
        """
        others = [network_of(record) for record in self._store.networks.all()]
        if not wanted:
            cidr, gateway = self._backend.choose_subnet([subnet.cidr for other in others for subnet in other.subnets])
            wanted = (Subnet(cidr=cidr, gateway=gateway),)
        checked = tuple(wanted)
        self._backend.check(Network(id=network.id, name=network.name, project=network.project, subnets=checked,
                                    internal=network.internal, mtu=network.mtu), others)
        return checked

    def pods_on(self, record: NetworkRecord) -> list[PodRecord]:
        """Those that hold an address of it now."""
        return [p for p in self._store.pods.all() if p.binding is not None and p.binding.network_id == record.id]

    async def remove(self, record: NetworkRecord) -> None:
        """Take it off the host. Idempotent; nobody may be on it."""
        async with self._making:
            self._ready.discard(record.id)
            if record.id in self._begun:
                await self._backend.remove(record.id)
                self._begun.discard(record.id)

    async def _ensure(self, record: NetworkRecord) -> None:
        if record.id in self._ready:
            return
        async with self._making:
            self._begun.add(record.id)
            await self._backend.ensure(network_of(record))
            self._ready.add(record.id)

    def _record(self, project: str, name: str) -> NetworkRecord:
        record = self._store.networks.named(project, name)
        if record is not None and not record.removing:
            return record
        if name != DEFAULT_NETWORK:
            raise NotFound("network", name, hint="it was removed; create it again")
        cidr, gateway = self._backend.choose_subnet(
            [subnet.cidr for n in self._store.networks.all() for subnet in n.subnets], large=True)
        return self._store.networks.put(replace(
            default_record(project), subnets=(Subnet(cidr=cidr, gateway=gateway),), created_at=time.time_ns()))

    # -- names

    def _names(self, pod: PodRecord) -> list[str]:
        """What others of its network may call the pod."""
        containers = [c for c in self._store.containers.all() if c.pod_id == pod.id and not c.spec.sharing.network]
        return [*pod.spec.aliases, *(c.name for c in containers), *(c.id[:12] for c in containers),
                *([] if pod.implicit else [pod.name]), *([pod.spec.hostname] if pod.spec.hostname else [])]

    def _follow_names(self, event: Event) -> None:
        """A container that is renamed goes by its new name at once."""
        if (event.kind, event.action) != ("container", "rename"):
            return
        container = self._store.containers.get(event.ident)
        pod = self._store.pods.get(container.pod_id) if container is not None else None
        if pod is None or pod.binding is None or not pod.binding.names:
            return
        names = tuple(dict.fromkeys(name.lower() for name in self._names(pod)))
        binding = dataclasses.replace(pod.binding, names=names)
        self._store.pods.put(replace(pod, binding=binding))
        self._backend.rename(binding)

    def _tell(self, record: NetworkRecord, action: str, pod: PodRecord) -> None:
        if record.builtin:
            return  # every start of every pod would tell it
        for container in self._store.containers.all():
            if container.pod_id == pod.id and not container.spec.sharing.network:
                self._events.emit("network", action, record.id, record.project, {
                    "name": record.name, "type": record.driver, "container": container.id})

    @staticmethod
    def _publish_all(pod: PodRecord, exposed: tuple[str, ...]) -> tuple[PortBinding, ...]:
        if not pod.spec.publish_all:
            return ()
        given = {(p.container_port, p.protocol) for p in pod.spec.ports}
        bindings = []
        for port in exposed:
            number, _, protocol = port.partition("/")
            if protocol not in ("", "tcp", "udp", "sctp") or not number.isdecimal():
                raise InvalidArgument(f"The image exposes an invalid port: {port}", field="ExposedPorts", value=port)
            key = (int(number), protocol or "tcp")
            if key not in given:
                bindings.append(PortBinding(container_port=key[0], protocol=key[1]))  # type: ignore[arg-type] # checked
        return tuple(bindings)


def default_record(project: str, name: str = DEFAULT_NETWORK) -> NetworkRecord:
    """One of the networks that every project has, as it is before its first pod. Its id says whose it is."""
    return NetworkRecord(id=hashlib.sha256(f"{project}/{name}".encode()).hexdigest(), name=name, project=project,
                         created_at=0, driver="null" if name == NO_NETWORK else "bridge", builtin=True)


def network_of(record: NetworkRecord) -> Network:
    """As the network door knows it."""
    options = parse_options(record.options)
    return Network(id=record.id, name=record.name, project=record.project, subnets=record.subnets,
                   internal=record.internal, mtu=options.mtu, names=not record.builtin, isolated=options.isolated,
                   masquerade=options.masquerade, host_ip=options.host_ip)


def exposed_ports(containers: list[ContainerRecord]) -> tuple[str, ...]:
    """What the containers and their images expose, each once."""
    ports: dict[str, None] = {}
    for container in containers:
        if container.spec.sharing.network:
            continue  # the ports are those of whose network it is
        ports.update(dict.fromkeys(container.image_config.exposed_ports))
        ports.update(dict.fromkeys(container.spec.exposed_ports))
    return tuple(ports)


def _at(ports: tuple[PortBinding, ...], record: NetworkRecord) -> tuple[PortBinding, ...]:
    """The ports on the address that the network names for those that name none. :raise InvalidArgument: no way in."""
    if record.internal:
        raise InvalidArgument(f"network {record.name} is internal: no port of its pods can be published",
                              field="ports", hint="use a network with a way out, or publish nothing")
    host_ip = parse_options(record.options).host_ip
    return tuple(replace(port, host_ip=port.host_ip or host_ip) for port in ports)


def _links(spec: PodSpec) -> dict[str, str]:
    """Alias -> name of the other, for `container:alias`, or `container` alone."""
    links = {}
    for link in spec.links:
        target, _, alias = link.partition(":")
        links[alias or target] = target[:12] if _FULL_ID.match(target) else target
    return links
