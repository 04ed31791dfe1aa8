"""Pods on networks: plugged, rewired, unplugged. What `placement` decides is stored before it is done here.

Making and removing networks is `hyperstack.engine.networks.projects`'.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Collection

from msgspec.structs import replace

from hyperstack.engine.events import EventBus
from hyperstack.engine.networks.placement import Placement, network_of
from hyperstack.engine.records import Event, NetworkRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.network.api import Binding, Network, NetworkBackend, Subnet
from hyperstack.pod.errors import InvalidArgument, NotFound
from hyperstack.pod.spec import Endpoint


class NetworkService:
    def __init__(self, backend: NetworkBackend, store: Store, events: EventBus, *, default_ipv6: bool = False) -> None:
        """:param default_ipv6: projects' default networks have IPv6."""
        self._backend = backend
        self._store = store
        self._events = events
        self._begun: set[str] = set()
        self._ready: set[str] = set()
        self._making = asyncio.Lock()
        self.placement = Placement(backend, store, default_ipv6=default_ipv6)
        events.listen(self._follow_names)

    async def start(self) -> None:
        """:raise UnsupportedOption: the default networks shall have IPv6, which the host has not."""
        await self._backend.start()
        self.placement.renew_defaults()

    async def close(self) -> None:
        await self._backend.close()

    async def plug(self, pod: PodRecord) -> int | None:
        """The tap's descriptor, the caller's to close; None without a network."""
        if not pod.bindings:
            return None
        for binding in pod.bindings:
            await self._network_of(binding)
        return await self._backend.plug(*pod.bindings, uid=pod.vm_uid)

    async def make_spare(self, machine: str, *, uid: int) -> int:
        """A tap for a machine that is no pod's yet; its descriptor, the caller's to close."""
        return await self._backend.make_spare(machine, uid=uid)

    async def plug_spare(self, pod: PodRecord) -> None:
        """The tap that the pod's machine had before it was the pod's. Nothing without a network."""
        if pod.bindings:
            for binding in pod.bindings:
                await self._network_of(binding)
            await self._backend.plug_spare(*pod.bindings, ident=pod.machine)

    async def rewire(self, pod: PodRecord) -> None:
        """Have the running pod's tap in exactly the networks of its record, and its ports open there. Idempotent.

        :raise Unavailable: the host refuses.
        """
        for binding in pod.bindings:
            await self._network_of(binding)
        await self._backend.rewire(pod.id, *pod.bindings)
        await (self.publish(pod) if pod.ports else self._backend.unpublish(pod.id))

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
        """Idempotent; the record keeps its bindings until the caller stores it without."""
        if pod.ports:
            await self._backend.unpublish(pod.id)
        await self._backend.unplug(*pod.bindings)

    async def sweep(self) -> list[str]:
        """Bring the host to what the records say; returns what was removed."""
        pods = self._store.pods.all()
        bindings: list[Binding] = [binding for p in pods for binding in p.bindings]
        used = {b.network_id for b in bindings}
        networks = [n for n in self._store.networks.all() if n.id in used]
        self._begun, self._ready = set(used), set(used)
        removed = await self._backend.sweep([network_of(n) for n in networks], bindings,
                                            [port for p in pods for port in p.ports],
                                            idle=[p.id for p in pods if p.nic and not p.bindings])
        for record in self._store.networks.all():
            if record.removing:
                self._store.networks.delete(record.id)
        return removed

    # -- for those who make and remove networks

    def subnets(self, wanted: Collection[Subnet], network: Network, *, ipv6: bool = False) -> Network:
        """A new network with subnets: those that the user wants, each with a gateway, else one that is free.

        :param ipv6: it shall have IPv6.
        :raise InvalidArgument, Conflict: see `NetworkBackend.check`. :raise Exhausted: no subnet is left.
        """
        others = [network_of(record) for record in self._store.networks.all()]
        four = tuple(subnet for subnet in wanted if ":" not in subnet.cidr)
        six = tuple(subnet for subnet in wanted if ":" in subnet.cidr)
        if six and not ipv6:
            raise InvalidArgument(f"network {network.name}: {six[0].cidr} is a subnet of IPv6", field="subnet",
                                  value=six[0].cidr, hint="say --ipv6 as well")
        if ipv6 and not six:
            cidr, gateway = self._backend.choose_subnet6(
                network.id, [subnet.cidr for other in others for subnet in other.subnets6])
            six = (Subnet(cidr=cidr, gateway=gateway, chosen=True),)
        if not four:
            cidr, gateway = self._backend.choose_subnet([subnet.cidr for other in others for subnet in other.subnets])
            four = (Subnet(cidr=cidr, gateway=gateway, chosen=True),)
        made = dataclasses.replace(network, subnets=four, subnets6=six)
        self._backend.check(made, others)
        return made

    def pods_on(self, record: NetworkRecord) -> list[PodRecord]:
        """Those that hold an address of it now."""
        return [p for p in self._store.pods.all() if any(b.network_id == record.id for b in p.bindings)]

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

    # -- names

    def _follow_names(self, event: Event) -> None:
        """A container that is renamed goes by its new name at once."""
        if (event.kind, event.action) != ("container", "rename"):
            return
        container = self._store.containers.get(event.ident)
        pod = self._store.pods.get(container.pod_id) if container is not None else None
        if pod is None or pod.binding is None:
            return
        first, *rest = [self._renamed(pod, binding) for binding in pod.bindings]
        self._store.pods.put(replace(pod, binding=first, further=tuple(rest)))
        for binding in (first, *rest):
            if binding.names:
                self._backend.rename(binding)

    def _renamed(self, pod: PodRecord, binding: Binding) -> Binding:
        record = self._store.networks.get(binding.network_id)
        if not binding.names or record is None:
            return binding
        endpoint = next((e for e in pod.spec.endpoints if e.network == record.name), Endpoint(network=record.name))
        names = dict.fromkeys(name.lower() for name in self.placement.names(pod, endpoint))
        return dataclasses.replace(binding, names=tuple(names))

    def tell(self, record: NetworkRecord, action: str, pod: PodRecord) -> None:
        """That the running pod's containers come to the network, or leave it."""
        for container in self._store.containers.all():
            if container.pod_id == pod.id and not container.spec.sharing.network:
                self._events.emit("network", action, record.id, record.project, {
                    "name": record.name, "type": record.driver, "container": container.id})
