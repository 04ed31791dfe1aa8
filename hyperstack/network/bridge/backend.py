"""The embedded network behind the network door.

Three layers: `Desired` (memory of what shall be), `Ruleset`, `nft` and `elements` (filters), `Links` (devices). What
the kernel is told of them goes through `Telling`.

A tap is not persistent: it lives as long as the descriptor that the machine holds, so it survives the daemon, vanishes
with the machine, and needs nobody to adopt it. Its fence stays until `unplug` or `sweep`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TypeVar

from hyperstack.network.api import Binding, Network, Published, Subnet
from hyperstack.network.bridge import addressing, checks, nft, plugs
from hyperstack.network.bridge.elements import Change
from hyperstack.network.bridge.firewalls import other_firewalls
from hyperstack.network.bridge.links import Links
from hyperstack.network.bridge.names import Names
from hyperstack.network.bridge.naming import Naming
from hyperstack.network.bridge.ports import PortChooser
from hyperstack.network.bridge.probe import SAMPLE, SAMPLE6, probe
from hyperstack.network.bridge.resolvers import RESOLV_CONF, host_resolvers
from hyperstack.network.bridge.ruleset import Desired, Ruleset
from hyperstack.network.bridge.sysctls import ensure_forwarding, ensure_forwarding6, has_ipv6
from hyperstack.network.bridge.telling import Telling
from hyperstack.pod.errors import InvalidArgument, Unavailable, UnsupportedOption
from hyperstack.pod.finding import Finding
from hyperstack.pod.spec import PortBinding

log = logging.getLogger(__name__)

DEFAULT_POOLS = ("10.212.0.0/14", "172.29.0.0/16", "192.168.208.0/20")
"""Where `choose_subnet` looks, in turn: away from the defaults of Docker (172.17-28, 192.168.0-), podman (10.88/16),
Kubernetes (10.96/12, 10.244/16), libvirt (192.168.122/24); three, since hosts behind a VPN route all of 10/8."""

_DNS_PORT = 53

T = TypeVar("T")


class BridgeNetwork:
    """`NetworkBackend` with Linux bridges. Call `sweep` with all that is stored right after `start`.

    :param instance: a short tag that tells this daemon's devices and tables from another's on the same host.
    :param pools: CIDRs from which networks nobody gave a subnet get a /24, projects' default ones a /22.
    """

    name = "bridge"

    def __init__(self, *, instance: str, pools: Collection[str] = DEFAULT_POOLS,
                 resolv_conf: Path = RESOLV_CONF) -> None:
        if not instance.isalnum() or not instance.isascii() or len(instance) > 32:
            raise InvalidArgument(f"invalid instance tag: {instance[:40]!r}", field="instance", value=instance[:40],
                                  hint="at most 32 letters and digits")
        self._pools = [IPv4Network(pool) for pool in pools]
        self._resolv_conf = resolv_conf
        self._names = Names(instance)
        self._ruleset = Ruleset(self._names)
        self._desired = Desired()
        self._naming = Naming()
        self._ports = PortChooser()
        self._kernel = Telling(self._ruleset, self._names.table, lambda: self._desired)
        self._links: Links | None = None

    @property
    def has_ipv6(self) -> bool:
        return self._ruleset.ipv6

    async def start(self) -> None:
        """See what this host can do; nothing is made before the first network.

        :raise Unavailable: no nftables, or it lacks what the rules need.
        """
        self._desired.resolvers = host_resolvers(self._resolv_conf)
        await self._naming.follow(self._desired)
        if not self._desired.resolvers.upstream:
            log.warning("%s names no IPv4 name server: pods will not resolve names", self._resolv_conf)
        self._links = await self._kernel.devices(Links)
        await self._kernel.open()
        self._ruleset.ipv6 = await self._kernel.filters(self._try_ipv6)
        sample = self._ruleset.whole(Desired(networks={SAMPLE.id: SAMPLE}, name_ports={SAMPLE.id: 1},
                                             resolvers=self._desired.resolvers))
        await self._kernel.filters(lambda: nft.apply(sample, check_only=True))
        others = await self._kernel.filters(lambda: other_firewalls(self._names))
        if others.status != "ok":
            log.warning("%s: %s; to let pods through: %s", others.name, others.detail, others.remedy)
        self._kernel.watch()

    def _try_ipv6(self) -> bool:
        if not has_ipv6():
            return False
        try:
            nft.apply(self._ruleset.whole(Desired(networks={SAMPLE6.id: SAMPLE6})), check_only=True)
        except Unavailable:
            return False
        return True

    async def probe(self) -> list[Finding]:
        return await asyncio.to_thread(probe, self._names, host_resolvers(self._resolv_conf))

    async def close(self) -> None:
        """Let go of the host. What nobody uses goes, running pods keep all that they have."""
        if self._links is None:
            return
        links, self._links = self._links, None
        self._naming.close()
        await self._kernel.unwatch()
        try:
            names = await self._kernel.devices(links.names)
            if not any(name.startswith(self._names.tap_prefix) for name in names):
                await self._kernel.devices(lambda: _delete_all(links, self._names))
                await self._kernel.filters(lambda: nft.apply(self._ruleset.nothing()))
        finally:
            await self._kernel.devices(links.close)
            await self._kernel.close()

    def choose_subnet(self, taken: Collection[str], *, large: bool = False) -> tuple[str, str]:
        avoid = [*(IPv4Network(subnet) for subnet in taken), *self._where_the_host_goes()]
        subnet = addressing.choose_subnet(self._pools, avoid, large=large)
        return str(subnet), str(subnet[1])

    def choose_subnet6(self, network_id: str, taken: Collection[str]) -> tuple[str, str]:
        subnet = addressing.choose_subnet6(network_id, taken)
        return str(subnet), str(subnet[1])

    def _where_the_host_goes(self) -> list[IPv4Network]:
        resolvers = (IPv4Network(server) for server in host_resolvers(self._resolv_conf).reachable)
        return [*addressing.host_routes(), *resolvers]

    def check(self, network: Network, others: Collection[Network]) -> None:
        checks.check_network(network)
        checks.check_apart(network, others)
        checks.check_beside_host(network, self._where_the_host_goes(), self._pools)
        if network.subnets6 and not self.has_ipv6:
            raise UnsupportedOption("IPv6 on this host", "its kernel has no IPv6, or no nftables for it, or it is "
                                    "switched off", hint="sysctl net.ipv6.conf.all.disable_ipv6; or leave out --ipv6")

    async def ensure(self, network: Network) -> None:
        """The network's bridge, rules, and way out. Cheap where all is there.

        :raise InvalidArgument: its subnet is unusable. :raise Conflict: it overlaps another network's.
        """
        known = self._desired.networks.get(network.id)
        bridge = self._names.bridge(network.id)
        links = self._require_links()
        if known == network and links.index(bridge) is not None:
            return
        checks.check_network(network)
        checks.check_apart(network, self._desired.networks.values())
        new6 = bool(network.subnets6) and not self._desired.has_ipv6
        fresh = known is None and bool(self._desired.networks) and not new6
        self._desired.networks[network.id] = network
        await self._naming.ensure(network)
        # The rules stand before the bridge does: no moment in which it forwards and nobody watches.
        port = self._desired.name_ports.get(network.id)
        await (self._kernel.say(self._ruleset.network("add", network, port)) if fresh
               else self._kernel.say_everything())
        await self._kernel.devices(lambda: self._make_bridge(links, network))

    def _make_bridge(self, links: Links, network: Network) -> None:
        links.ensure_bridge(self._names.bridge(network.id), network)
        if network.subnets6 and not network.internal and ensure_forwarding6():
            log.warning("net.ipv6.conf.all.forwarding was 0; it is 1 now, as pods need it to reach beyond this host; "
                        "devices that accept router advertisements go on to do so (accept_ra=2)")
        if not network.internal and ensure_forwarding():
            log.warning("net.ipv4.ip_forward was 0; it is 1 now, as pods need it to reach beyond this host. A host in "
                        "several networks now routes between them unless its firewall forbids it")

    async def remove(self, network_id: str) -> None:
        links = self._require_links()
        await self._kernel.devices(lambda: links.delete(self._names.bridge(network_id)))
        network = self._desired.networks.pop(network_id, None)
        port = self._desired.name_ports.pop(network_id, None)
        self._naming.remove(network_id)
        if network is not None:
            await (self._kernel.say(self._ruleset.network("delete", network, port)) if self._desired.networks
                   else self._kernel.say_everything())

    def plan(self, network: Network, *, pod_id: str, taken: Collection[str], mac: str = "", address: str = "",
             address6: str = "", device: str = "eth0", shared: bool = False, names: Collection[str] = (),
             links: Mapping[str, str] | None = None, servers: tuple[str, ...] = ()) -> Binding:
        chosen, subnet = addressing.choose_address(network, taken, address)
        binding = Binding(
            pod_id=pod_id, network_id=network.id, network=network.name,
            mac=addressing.check_mac(mac, network) if mac else addressing.mac_of(chosen),
            address=f"{chosen}/{IPv4Network(subnet.cidr).prefixlen}",
            gateway="" if network.internal else subnet.gateway,
            tap=self._names.tap(pod_id), bridge=self._names.bridge(network.id), device=device,
            branch=self._names.branch(pod_id, network.id) if shared else "",
            dns=self._name_servers(network, subnet), mtu=network.mtu,
            **addressing.place6(network, taken, address6))
        if not network.names:
            return binding
        return replace(binding, names=tuple(dict.fromkeys(name.lower() for name in names)),
                       links={alias.lower(): name.lower() for alias, name in (links or {}).items()},
                       servers=tuple(server for server in servers if _is_ipv4(server)))

    def _name_servers(self, network: Network, subnet: Subnet) -> tuple[str, ...]:
        if network.names:
            return (subnet.gateway,)
        resolvers = self._desired.resolvers
        if network.internal or not resolvers.upstream:
            return ()
        return resolvers.reachable or (subnet.gateway,)

    async def plug(self, *bindings: Binding, uid: int) -> int:
        """The tap's descriptor; the caller gives it to the machine and closes its own copy.

        :raise Unavailable: a network was not ensured, or the host refuses; `unplug` clears away what there is then.
        """
        links, changes = self._require_links(), self._bind(bindings[0].pod_id, bindings)
        return await _descriptor_of(self._kernel.fenced(
            changes, lambda: plugs.plug(links, bindings, uid, self._isolated)))

    async def make_spare(self, ident: str, *, uid: int) -> int:
        links, name = self._require_links(), self._names.tap(ident)
        return await _descriptor_of(self._kernel.devices(lambda: links.make_tap(name, uid)))

    async def plug_spare(self, *bindings: Binding, ident: str) -> None:
        """:raise Unavailable: a network was not ensured, the spare is gone, or the host refuses."""
        links, name = self._require_links(), self._names.tap(ident)
        changes = self._bind(bindings[0].pod_id, bindings)
        await self._kernel.fenced(changes, lambda: plugs.plug_spare(links, bindings, name, self._isolated))

    async def rewire(self, pod_id: str, *bindings: Binding) -> None:
        """:raise Unavailable: a network was not ensured, the tap is gone, or the host refuses."""
        links, former = self._require_links(), self._desired.bindings.get(pod_id, ())
        changes = self._bind(pod_id, bindings)
        await self._kernel.fenced(changes, lambda: plugs.rewire(links, former, bindings, self._isolated))

    def _bind(self, pod_id: str, bindings: tuple[Binding, ...]) -> list[Change]:
        """Desire them; what is to be told of it. :raise Unavailable: a network was not ensured."""
        for binding in bindings:
            if binding.network_id not in self._desired.networks:
                raise Unavailable(f"the network of {binding.bridge} has not been made", field="network",
                                  value=binding.network_id)
        former = self._desired.bindings.pop(pod_id, ())
        if bindings:
            self._desired.bindings[pod_id] = bindings
        for binding in former:
            self._naming.take(binding)
        for binding in bindings:
            self._naming.put(binding)
        gone = [binding for binding in former if binding not in bindings]
        new = [binding for binding in bindings if binding not in former]
        return [Change("delete", self._ruleset.bindings(gone)), Change("add", self._ruleset.bindings(new))]

    def _isolated(self, binding: Binding) -> bool:
        network = self._desired.networks.get(binding.network_id)
        return network is not None and network.isolated

    async def unplug(self, *bindings: Binding) -> None:
        links = self._require_links()
        if not bindings:
            return
        await self._kernel.devices(lambda: links.delete(bindings[0].tap))
        known = self._desired.bindings.pop(bindings[0].pod_id, ())
        for binding in known:
            self._naming.take(binding)
        if known:
            await self._kernel.change(Change("delete", self._ruleset.bindings(known)))

    def rename(self, binding: Binding) -> None:
        known = self._desired.bindings.get(binding.pod_id, ())
        if any(one.network_id == binding.network_id for one in known):
            self._desired.bindings[binding.pod_id] = tuple(
                binding if one.network_id == binding.network_id else one for one in known)
            self._naming.put(binding)

    def choose_ports(self, wanted: tuple[PortBinding, ...], *, pod_id: str, address: str, address6: str = "",
                     taken: Collection[Published]) -> tuple[Published, ...]:
        return self._ports.choose(wanted, pod_id=pod_id, address=address.partition("/")[0],
                                  address6=address6.partition("/")[0], taken=taken)

    async def publish(self, ports: tuple[Published, ...], network: Network) -> None:
        """All of a pod's ports; another set replaces the pod's former one.

        :raise InvalidArgument: the network is internal.
        """
        if not ports:
            return
        if network.internal:
            raise InvalidArgument(f"network {network.name} is internal: no port of its pods can be published",
                                  field="ports", hint="use a network with a way out, or publish nothing")
        pod_id = ports[0].pod_id
        former = self._desired.ports.get(pod_id)
        if former == ports:
            return
        self._desired.ports[pod_id] = ports
        await self._kernel.change(Change("delete", self._ruleset.ports(former or ())),
                           Change("add", self._ruleset.ports(ports)))
        await self._kernel.forget_flows(_udp((*(former or ()), *ports)))

    async def unpublish(self, pod_id: str) -> None:
        known = self._desired.ports.pop(pod_id, None)
        if known:
            await self._kernel.change(Change("delete", self._ruleset.ports(known)))
            await self._kernel.forget_flows(_udp(known))

    async def sweep(self, networks: Collection[Network], bindings: Collection[Binding],
                    ports: Collection[Published], idle: Collection[str] = ()) -> list[str]:
        """Also repairs: bridges and rules that somebody removed are made again, running taps join them again."""
        links = self._require_links()
        by_pod: dict[str, tuple[Published, ...]] = {}
        for port in ports:
            by_pod[port.pod_id] = (*by_pod.get(port.pod_id, ()), port)
        self._desired = Desired(networks={network.id: network for network in networks},
                                bindings=_by_pod(bindings), ports=by_pod,
                                resolvers=host_resolvers(self._resolv_conf))
        await self._naming.follow(self._desired)
        await self._kernel.say_everything()
        # The resolvers listen elsewhere than before.
        await self._kernel.forget_flows((_DNS_PORT,) if self._desired.name_ports else ())
        spares = [self._names.tap(pod) for pod in idle]
        return await self._kernel.devices(lambda: self._sweep_devices(links, networks, spares))

    def _sweep_devices(self, links: Links, networks: Collection[Network], idle: Collection[str]) -> list[str]:
        """:param idle: taps that are in no bridge."""
        pods = self._desired.bindings.values()
        wanted = {self._names.bridge(network.id) for network in networks} | set(idle)
        wanted |= {name for bindings in pods for binding in bindings for name in (binding.tap, binding.port)}
        removed = [name for name in links.names()
                   if self._names.is_ours(name) and name not in wanted and links.delete(name)]
        for network in networks:
            self._make_bridge(links, network)
        for name in idle:
            links.leave(name)
        for bindings in pods:
            if links.index(bindings[0].tap) is not None:
                plugs.join(links, bindings, self._isolated)
        return removed

    def _require_links(self) -> Links:
        if self._links is None:
            raise Unavailable("the bridge network has not been started", field="network", value=self.name)
        return self._links


def _by_pod(bindings: Collection[Binding]) -> dict[str, tuple[Binding, ...]]:
    found: dict[str, tuple[Binding, ...]] = {}
    for binding in bindings:
        found[binding.pod_id] = (*found.get(binding.pod_id, ()), binding)
    return found


def _udp(ports: Collection[Published]) -> set[int]:
    return {port.host_port for port in ports if port.protocol == "udp"}


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


async def _descriptor_of(work: Coroutine[None, None, int]) -> int:
    making = asyncio.create_task(work)
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        # The threads go on; whoever gave up must not leave them with a descriptor that nobody closes.
        making.add_done_callback(_close_result)
        raise


def _close_result(task: asyncio.Task[int]) -> None:
    if not task.cancelled() and task.exception() is None:
        os.close(task.result())


def _delete_all(links: Links, names: Names) -> None:
    for name in links.names():
        if names.is_ours(name):
            links.delete(name)
