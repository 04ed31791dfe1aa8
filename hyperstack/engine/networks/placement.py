"""Where pods are to be: networks, addresses, names, ports, decided from the records. Nothing here touches the host.

A pod's way out is through one of its networks: of those with the highest priority, one that is not internal, the first
by name. Its ports are published there, as in Docker.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Collection, Iterator, Sequence

from msgspec.structs import replace

from hyperstack.engine.lookup import find
from hyperstack.engine.networks.options import parse_options
from hyperstack.engine.records import ContainerRecord, NetworkRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.network.api import Binding, Network, NetworkBackend, Published, Subnet
from hyperstack.pod.errors import Conflict, Forbidden, InvalidArgument, NotFound, UnsupportedOption
from hyperstack.pod.spec import NO_NETWORK, Endpoint, PodSpec, PortBinding

DEFAULT_NETWORK = "bridge"
"""Every project has one of its own under this name, made when its first pod starts."""

BUILTIN = (DEFAULT_NETWORK, NO_NETWORK)
MAX_NETWORKS_OF_POD = 32
"""The agent's own bound."""

_FULL_ID = re.compile(r"[0-9a-f]{64}\Z")


class Placement:
    def __init__(self, backend: NetworkBackend, store: Store, *, default_ipv6: bool) -> None:
        self._backend = backend
        self._store = store
        self._default_ipv6 = default_ipv6

    def renew_defaults(self) -> None:
        """The default networks that there are get IPv6, or lose it where no pod has an address of it.

        :raise UnsupportedOption: the host has none.
        """
        if self._default_ipv6 and not self._backend.has_ipv6:
            raise UnsupportedOption("network.ipv6", "the host's kernel has no IPv6, or no nftables for it, or it is "
                                    "switched off", hint="sysctl net.ipv6.conf.all.disable_ipv6; or leave it out")
        used = {b.network_id for pod in self._store.pods.all() for b in pod.bindings if b.address6}
        for record in self._store.networks.all():
            if record.name != DEFAULT_NETWORK or bool(record.subnets6) is self._default_ipv6:
                continue
            if self._default_ipv6 or record.id not in used:
                self._store.networks.put(replace(record, subnets6=self._subnets6(record.id)))

    def _subnets6(self, network_id: str) -> tuple[Subnet, ...]:
        """Of a default network."""
        if not self._default_ipv6:
            return ()
        cidr, gateway = self._backend.choose_subnet6(
            network_id, [subnet.cidr for n in self._store.networks.all() for subnet in n.subnets6])
        return (Subnet(cidr=cidr, gateway=gateway, chosen=True),)

    def admit(self, project: str, spec: PodSpec) -> PodSpec:
        """A new pod's spec, its networks by name.

        :raise InvalidArgument: there is no such network, or what is asked for is not to be had there.
        """
        if spec.network == NO_NETWORK and (spec.aliases or spec.links):
            raise _no_names(NO_NETWORK)
        if spec.network == NO_NETWORK and spec.further:
            raise none_and_others("leave out --network none")
        if spec.network == NO_NETWORK:
            return spec
        endpoints = tuple(self._admitted(project, endpoint) for endpoint in spec.endpoints)
        names = [endpoint.network for endpoint in endpoints]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidArgument(f"network {twice} is named twice", field="network", value=twice,
                                  hint="once is enough")
        if len(names) > MAX_NETWORKS_OF_POD:
            raise InvalidArgument(f"{len(names)} networks of one pod", field="network", value=len(names),
                                  hint=f"at most {MAX_NETWORKS_OF_POD}")
        return spec.on(endpoints)

    def _admitted(self, project: str, endpoint: Endpoint) -> Endpoint:
        if endpoint.network in BUILTIN:
            if endpoint.aliases or endpoint.links:
                raise _no_names(endpoint.network)
            return endpoint
        try:
            record = find(self._store.networks, "network", project, endpoint.network)
        except NotFound:
            # Not as what it is: Docker's client takes that for an image that is missing, and pulls.
            shown = endpoint.network[:128]
            raise InvalidArgument(f"network {shown} not found", field="network", value=shown,
                                  hint=f"create it first: hyperctl network create {shown}") from None
        self._backend.plan(network_of(record), pod_id="", taken=(), mac=endpoint.mac_address,
                           address=endpoint.ip_address, address6=endpoint.ip6_address)
        return replace(endpoint, network=record.name)

    def plan(self, pod: PodRecord, exposed: tuple[str, ...]) -> PodRecord:
        """The pod with its places and ports for a new machine. No side effect but a new network's record.

        :raise NotFound: no such network. :raise Exhausted, InvalidArgument, Conflict: see the network door.
        """
        if not pod.spec.network:
            pod = replace(pod, spec=pod.spec.on((Endpoint(network=pod.spec.home or DEFAULT_NETWORK),)))
        endpoints = pod.spec.endpoints
        others = [p for p in self._store.pods.all() if p.id != pod.id]
        with _told_of("failed to set up container networking"):
            placed = [self._place(pod, self._record(pod.project, endpoint.network), endpoint, others,
                                  device=f"eth{number}", shared=len(endpoints) > 1)
                      for number, endpoint in enumerate(endpoints)]
            return self._with(replace(pod, ports=(), nic=bool(placed)), placed, exposed, running=False)

    def joined(self, pod: PodRecord, endpoint: Endpoint, exposed: tuple[str, ...]) -> PodRecord:
        """A running pod that is on one more network, which its spec names already. Raises as `plan`."""
        others = [p for p in self._store.pods.all() if p.id != pod.id]
        used = {binding.device for binding in pod.bindings}
        device = next(name for name in (f"eth{number}" for number in range(MAX_NETWORKS_OF_POD)) if name not in used)
        placed = [self._shared(pod, binding) for binding in pod.bindings]
        record = self._record(pod.project, endpoint.network)
        placed.append(self._place(pod, record, endpoint, others, device=device, shared=True))
        return self._with(pod, placed, exposed, running=True)

    def left(self, pod: PodRecord, network_id: str, exposed: tuple[str, ...]) -> PodRecord:
        """A running pod that is not on this network any more."""
        return self._with(pod, [b for b in pod.bindings if b.network_id != network_id], exposed, running=True)

    def names(self, pod: PodRecord, endpoint: Endpoint) -> list[str]:
        """What others of a network may call the pod."""
        containers = [c for c in self._store.containers.all() if c.pod_id == pod.id and not c.spec.sharing.network]
        return [*endpoint.aliases, *(c.name for c in containers), *(c.id[:12] for c in containers),
                *([] if pod.implicit else [pod.name]), *([pod.spec.hostname] if pod.spec.hostname else [])]

    def _place(self, pod: PodRecord, record: NetworkRecord, endpoint: Endpoint, others: Collection[PodRecord], *,
               device: str, shared: bool) -> Binding:
        here = [b for p in others for b in p.bindings if b.network_id == record.id]
        held = {_plain(address) for b in here for address in (b.address, b.address6) if address}
        asked = [e for p in others for e in p.spec.endpoints if (p.project, e.network) == (record.project, record.name)]
        # Whoever asked for an address finds it free when it starts again.
        kept = {e.ip_address for e in asked if not endpoint.ip_address}
        kept |= {e.ip6_address for e in asked if not endpoint.ip6_address}
        taken = held | kept - {""}
        macs = {binding.mac for binding in here}
        while True:
            binding = self._backend.plan(
                network_of(record), pod_id=pod.id, taken=taken, mac=endpoint.mac_address, address=endpoint.ip_address,
                address6=endpoint.ip6_address, device=device, shared=shared,
                names=() if record.builtin else self.names(pod, endpoint), links=_links(endpoint),
                servers=pod.spec.dns)
            if binding.mac not in macs:
                return binding
            if endpoint.mac_address or endpoint.ip_address:
                raise Conflict(f"MAC address {binding.mac} is in use in network {record.name}", field="mac_address",
                               value=binding.mac, hint="choose another, or none: one is made from the address")
            # Somebody asked for the MAC that goes with this address.
            taken.add(_plain(binding.address))

    def _shared(self, pod: PodRecord, binding: Binding) -> Binding:
        """The same place, on a tap that has others beside it."""
        record = self._store.networks.get(binding.network_id)
        if binding.branch or record is None:
            return binding
        endpoint = next((e for e in pod.spec.endpoints if e.network == record.name), Endpoint(network=record.name))
        wanted = replace(endpoint, mac_address=binding.mac, ip_address=_plain(binding.address),
                         ip6_address=_plain(binding.address6))
        return self._place(pod, record, wanted, (), device=binding.device, shared=True)

    def _with(self, pod: PodRecord, bindings: Sequence[Binding], exposed: tuple[str, ...], *, running: bool
              ) -> PodRecord:
        """On these networks, and its ports where its way out is. Ports that it has stay what they are; of a running
        pod that can have none any more they are closed."""
        priorities = {endpoint.network: endpoint.priority for endpoint in pod.spec.endpoints}

        def rank(binding: Binding) -> tuple[int, bool, str]:
            record = self._store.networks.get(binding.network_id)
            name = record.name if record is not None else ""
            return -priorities.get(name, 0), _is_internal(record), name

        ordered = sorted(bindings, key=rank)
        first = ordered[0] if ordered else None
        inside = first is None or _is_internal(self._store.networks.get(first.network_id))
        ports = () if running and inside else self._ports(pod, first, exposed)
        return replace(pod, binding=first, further=tuple(ordered[1:]), ports=ports)

    def _ports(self, pod: PodRecord, binding: Binding | None, exposed: tuple[str, ...]) -> tuple[Published, ...]:
        wanted = pod.spec.ports + _publish_all(pod, exposed)
        if not wanted:
            return ()
        if binding is None:
            raise InvalidArgument("Ports cannot be published without a network", field="ports",
                                  hint="leave out -p, or --network none")
        record = self._store.networks.get(binding.network_id)
        if record is None:
            raise NotFound("network", binding.network_id)
        if pod.ports:
            wanted = tuple(PortBinding(container_port=port.container_port, protocol=port.protocol,  # type: ignore[arg-type] # as it was given
                                       host_ip=port.host_ip, host_port=port.host_port) for port in pod.ports)
        others = [port for p in self._store.pods.all() if p.id != pod.id for port in p.ports]
        endpoint = f"{pod.name} ({pod.endpoint_id(binding)})"
        with _told_of(f"driver failed programming external connectivity on endpoint {endpoint}"):
            return self._backend.choose_ports(_at(wanted, record), pod_id=pod.id, address=_plain(binding.address),
                                              address6=_plain(binding.address6), taken=others)

    def _record(self, project: str, name: str) -> NetworkRecord:
        record = self._store.networks.named(project, name)
        if record is not None and not record.removing:
            return record
        if name != DEFAULT_NETWORK:
            raise NotFound("network", name, hint="it was removed; create it again")
        cidr, gateway = self._backend.choose_subnet(
            [subnet.cidr for n in self._store.networks.all() for subnet in n.subnets], large=True)
        fresh = default_record(project)
        return self._store.networks.put(replace(fresh, subnets=(Subnet(cidr=cidr, gateway=gateway, chosen=True),),
                                                subnets6=self._subnets6(fresh.id), created_at=time.time_ns()))


@contextlib.contextmanager
def _told_of(where: str) -> Iterator[None]:
    """What clashes with others is told with the step in which it did."""
    try:
        yield
    except (Conflict, Forbidden) as error:
        raise type(error)(f"{where}: {error.message}", field=error.field, value=error.value, hint=error.hint) from error


def default_record(project: str, name: str = DEFAULT_NETWORK) -> NetworkRecord:
    """One of the networks that every project has, as it is before its first pod. Its id says whose it is."""
    return NetworkRecord(id=hashlib.sha256(f"{project}/{name}".encode()).hexdigest(), name=name, project=project,
                         created_at=0, driver="null" if name == NO_NETWORK else "bridge", builtin=True)


def network_of(record: NetworkRecord) -> Network:
    """As the network door knows it."""
    options = parse_options(record.options)
    return Network(id=record.id, name=record.name, project=record.project, subnets=record.subnets,
                   subnets6=record.subnets6, internal=record.internal, mtu=options.mtu, names=not record.builtin,
                   isolated=options.isolated, masquerade=options.masquerade, host_ip=options.host_ip)


def exposed_ports(containers: list[ContainerRecord]) -> tuple[str, ...]:
    """What the containers and their images expose, each once."""
    ports: dict[str, None] = {}
    for container in containers:
        if container.spec.sharing.network:
            continue  # the ports are those of whose network it is
        ports.update(dict.fromkeys(container.image_config.exposed_ports))
        ports.update(dict.fromkeys(container.spec.exposed_ports))
    return tuple(ports)


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


def _at(ports: tuple[PortBinding, ...], record: NetworkRecord) -> tuple[PortBinding, ...]:
    """The ports on the address that the network names for those that name none. :raise InvalidArgument: no way in."""
    if record.internal:
        raise InvalidArgument(f"network {record.name} is internal: no port of its pods can be published",
                              field="ports", hint="use a network with a way out, or publish nothing")
    host_ip = parse_options(record.options).host_ip
    return tuple(replace(port, host_ip=port.host_ip or host_ip) for port in ports)


def _is_internal(record: NetworkRecord | None) -> bool:
    return record is not None and record.internal


def _links(endpoint: Endpoint) -> dict[str, str]:
    """Alias -> name of the other, for `container:alias`, or `container` alone."""
    links = {}
    for link in endpoint.links:
        target, _, alias = link.partition(":")
        links[alias or target] = target[:12] if _FULL_ID.match(target) else target
    return links


def _plain(address: str) -> str:
    """Without prefix length."""
    return address.partition("/")[0]


def none_and_others(hint: str) -> InvalidArgument:
    return InvalidArgument("container cannot be connected to multiple networks with one of the networks in private "
                           "(none) mode", field="network", value=NO_NETWORK, hint=hint)


def _no_names(network: str) -> InvalidArgument:
    return InvalidArgument("network-scoped alias is supported only for containers in user defined networks",
                           field="aliases", value=network, hint="create a network, and use it with --network")
