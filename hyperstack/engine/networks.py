"""Pods on networks: which network, which address, which ports. What is decided is stored before it is plugged."""

from __future__ import annotations

import asyncio
import time

from msgspec.structs import replace

from hyperstack.engine.records import ContainerRecord, NetworkRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.network.api import Binding, Network, NetworkBackend, Published
from hyperstack.pod.errors import InvalidArgument, NotFound
from hyperstack.pod.ids import new_id
from hyperstack.pod.spec import PortBinding

DEFAULT_NETWORK = "bridge"
"""Every project has one of its own under this name, made when its first pod starts."""

NO_NETWORK = "none"


class NetworkService:
    def __init__(self, backend: NetworkBackend, store: Store) -> None:
        self._backend = backend
        self._store = store
        self._ready: set[str] = set()
        self._making = asyncio.Lock()

    async def start(self) -> None:
        await self._backend.start()

    async def close(self) -> None:
        await self._backend.close()

    def get(self, project: str, name: str) -> NetworkRecord | None:
        return self._store.networks.named(project, name)

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
        taken = {p.binding.address.partition("/")[0] for p in others if p.binding and p.binding.network_id == record.id}
        binding = self._backend.plan(self._network(record), pod_id=pod.id, taken=taken, mac=pod.spec.mac_address,
                                     address=pod.spec.ip_address)
        wanted = pod.spec.ports + self._publish_all(pod, exposed)
        ports: tuple[Published, ...] = ()
        if wanted:
            ports = self._backend.choose_ports(wanted, pod_id=pod.id, address=binding.address.partition("/")[0],
                                               taken=[port for p in others for port in p.ports])
        return replace(pod, binding=binding, ports=ports)

    async def plug(self, pod: PodRecord) -> int | None:
        """The tap's descriptor, the caller's to close; None without a network."""
        if pod.binding is None:
            return None
        record = self._store.networks.get(pod.binding.network_id)
        if record is None:
            raise NotFound("network", pod.binding.network_id)
        await self._ensure(record)
        return await self._backend.plug(pod.binding, uid=pod.vm_uid)

    async def publish(self, pod: PodRecord) -> None:
        if pod.ports and pod.binding is not None:
            record = self._store.networks.get(pod.binding.network_id)
            if record is not None:
                await self._backend.publish(pod.ports, self._network(record))

    async def unplug(self, pod: PodRecord) -> None:
        """Idempotent; the record keeps its binding until the caller stores it without."""
        if pod.ports:
            await self._backend.unpublish(pod.id)
        if pod.binding is not None:
            await self._backend.unplug(pod.binding)

    async def sweep(self) -> list[str]:
        """Bring the host to what the records say; returns what was removed."""
        pods = self._store.pods.all()
        bindings: list[Binding] = [p.binding for p in pods if p.binding is not None]
        used = {b.network_id for b in bindings}
        networks = [n for n in self._store.networks.all() if n.id in used]
        self._ready = set(used)
        return await self._backend.sweep([self._network(n) for n in networks], bindings,
                                         [port for p in pods for port in p.ports])

    async def _ensure(self, record: NetworkRecord) -> None:
        if record.id in self._ready:
            return
        async with self._making:
            await self._backend.ensure(self._network(record))
            self._ready.add(record.id)

    def _record(self, project: str, name: str) -> NetworkRecord:
        record = self._store.networks.named(project, name)
        if record is not None:
            return record
        if name != DEFAULT_NETWORK:
            raise NotFound("network", name)
        subnet, gateway = self._backend.choose_subnet([n.subnet for n in self._store.networks.all()])
        return self._store.networks.put(NetworkRecord(id=new_id(), name=name, project=project, subnet=subnet,
                                                      gateway=gateway, created_at=time.time_ns()))

    @staticmethod
    def _network(record: NetworkRecord) -> Network:
        return Network(id=record.id, name=record.name, project=record.project, subnet=record.subnet,
                       gateway=record.gateway, internal=record.internal)

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


def exposed_ports(containers: list[ContainerRecord]) -> tuple[str, ...]:
    """What the containers and their images expose, each once."""
    ports: dict[str, None] = {}
    for container in containers:
        ports.update(dict.fromkeys(container.image_config.exposed_ports))
        ports.update(dict.fromkeys(container.spec.exposed_ports))
    return tuple(ports)
