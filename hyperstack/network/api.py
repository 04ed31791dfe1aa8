"""The network door: what the engine may ask of a network backend.

Terms
    network   a layer-2 segment of one project with a subnet.
    binding   a pod's place on it: address, MAC, tap name. Decided by `plan` (no side effect), stored by the engine,
              *then* made by `plug`. So a daemon that dies in between finds in its store all that may exist.
              A pod may have several, on as many networks; its machine has one tap all the same.
    spare     a tap that a machine holds before it is a pod's.

Lifecycle
    check(network) -> ensure(network) -> plan -> (store) -> plug -> publish ... unpublish -> unplug -> remove(network)
    While the machine runs, `rewire` changes which networks the pod is on.
    Each of them is idempotent. `sweep` removes what no stored binding names.

Names
    On a network with `names`, pods are told the gateway's address as their name server. It answers for the names of the
    bindings that are plugged there, and passes other questions on: to the binding's own servers, else to the host's.

No path exists between networks, nor from a pod to the host's services except those the backend itself offers (the
gateway's address answers DNS where the backend says so).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from hyperstack.pod.finding import Finding
from hyperstack.pod.spec import PortBinding


@dataclass(frozen=True, kw_only=True)
class Subnet:
    cidr: str
    gateway: str
    """The host's address in it."""
    chosen: bool = False
    """Nobody asked for it: it was free."""
    gateway_named: bool = True
    """Whether somebody asked for that gateway, or chose it with the subnet."""
    ip_range: str = ""
    """CIDR within it that addresses nobody asked for come from; empty: all of it."""
    reserved: dict[str, str] = field(default_factory=dict)
    """Addresses that no pod is given, by a name that means something to the user."""


@dataclass(frozen=True, kw_only=True)
class Network:
    id: str
    """Stable and unique on the host; backends derive device names from it."""
    name: str
    project: str
    subnets: tuple[Subnet, ...]
    """At least one. Pods of all of them reach each other; addresses come from the first that has one left."""
    subnets6: tuple[Subnet, ...] = ()
    """Of IPv6; none: no IPv6."""
    internal: bool = False
    """No way out of the host."""
    mtu: int = 1500
    names: bool = False
    """Pods find each other by name."""
    isolated: bool = False
    """Its pods do not reach each other."""
    masquerade: bool = True
    """Pods leave with the host's address; else with their own, which others must have a route to."""
    host_ip: str = ""
    """Where ports are published that name no address; empty: on every address of the host."""


@dataclass(frozen=True, kw_only=True)
class Binding:
    pod_id: str
    network_id: str
    network: str = ""
    """Its network's name; empty in records of earlier versions, which know one binding of a pod."""
    mac: str
    address: str
    """CIDR"""
    gateway: str
    tap: str
    bridge: str
    dns: tuple[str, ...]
    mtu: int
    address6: str = ""
    """CIDR; empty: no IPv6."""
    gateway6: str = ""
    device: str = "eth0"
    """What the pod calls its end."""
    branch: str = ""
    """The host's device on top of the tap that takes what comes with this binding's MAC, where the tap is shared by
    several bindings; empty: it is this one's alone."""
    names: tuple[str, ...] = ()
    """What the pod is called on a network with names, lower case; several pods may share one. Empty elsewhere."""
    links: dict[str, str] = field(default_factory=dict)
    """Names for this pod alone -> the names of others that they stand for."""
    servers: tuple[str, ...] = ()
    """Whom the gateway's resolver asks for this pod, on a network with names; empty: the host's name servers."""

    @property
    def port(self) -> str:
        """The device that is in the bridge."""
        return self.branch or self.tap


@dataclass(frozen=True, kw_only=True)
class Published:
    pod_id: str
    container_port: int
    protocol: str
    host_ip: str
    host_port: int
    address: str
    """The pod's, without prefix length."""
    address6: str = ""
    """The same of IPv6; empty: it is not published over IPv6."""


class NetworkBackend(Protocol):
    name: str

    @property
    def has_ipv6(self) -> bool:
        """Whether networks can have it; known once the backend is started."""

    async def start(self) -> None:
        """Make what all networks need (tables, sysctls). :raise Unavailable: the host cannot; says what is missing."""

    async def probe(self) -> list[Finding]:
        """What this host can do for the backend, each with a remedy; tried out where that disturbs nothing."""

    def choose_subnet(self, taken: Collection[str], *, large: bool = False) -> tuple[str, str]:
        """A free (subnet, gateway) for a new network, away from the host's own routes.

        :param large: for as many pods as a network can have, if possible.
        :raise Exhausted: none left.
        """

    def check(self, network: Network, others: Collection[Network]) -> None:
        """Whether a network that a user describes can be made beside all others of the host.

        :raise InvalidArgument: a subnet, gateway, range or MTU is unusable. :raise Forbidden: it overlaps another one.
        :raise Conflict: it is where the host goes.
        :raise UnsupportedOption: it has IPv6, and the host does not.
        """

    async def ensure(self, network: Network) -> None: ...

    async def remove(self, network_id: str) -> None: ...

    def plan(self, network: Network, *, pod_id: str, taken: Collection[str], mac: str = "", address: str = "",
             address6: str = "", device: str = "eth0", shared: bool = False, names: Collection[str] = (),
             links: Mapping[str, str] | None = None, servers: tuple[str, ...] = ()) -> Binding:
        """A place on the network. `taken` are the addresses (without prefix) in use, of both families.

        `names`, `links` and `servers` mean nothing on a network without names.

        :param shared: the pod's tap is, or will be, that of several bindings.
        :raise Exhausted: the subnet is full. :raise InvalidArgument: `address` is outside it. :raise Forbidden: in use.
        """

    async def plug(self, *bindings: Binding, uid: int) -> int:
        """Make the tap of one pod, join it to the networks, fence it (MAC and address spoofing dropped).

        :return: its descriptor.
        :raise Unavailable: the host refuses; that of several bindings where it lacks macvlan.
        """

    async def make_spare(self, ident: str, *, uid: int) -> int:
        """A tap that is connected to nothing, for a machine that is nobody's yet; its descriptor.

        It goes with its last descriptor, and nothing else keeps it.
        """

    async def plug_spare(self, *bindings: Binding, ident: str) -> None:
        """As `plug`, with the tap that `make_spare` made under this `ident` and a machine holds.

        :raise Unavailable: it is gone, or the host refuses.
        """

    async def rewire(self, pod_id: str, *bindings: Binding) -> None:
        """Have a running machine on exactly these networks. Idempotent; what is as it was is not interrupted.

        :raise Unavailable: the host refuses, or the tap is gone.
        """

    async def unplug(self, *bindings: Binding) -> None:
        """Of one pod, all of them."""

    def rename(self, binding: Binding) -> None:
        """The pod of this binding goes by its `names` from now on; nothing else of it changed. Unknown: no error."""

    def choose_subnet6(self, network_id: str, taken: Collection[str]) -> tuple[str, str]:
        """A free (subnet, gateway) of IPv6 for a new network."""

    def choose_ports(self, wanted: tuple[PortBinding, ...], *, pod_id: str, address: str, address6: str = "",
                     taken: Collection[Published]) -> tuple[Published, ...]:
        """Fill in host ports; of a range the first that is free.

        :param address6: where ports are published over IPv6 as well.
        :raise Conflict: one is taken (by us or by a listener on the host); names it.
        """

    async def publish(self, ports: tuple[Published, ...], network: Network) -> None: ...

    async def unpublish(self, pod_id: str) -> None: ...

    async def sweep(self, networks: Collection[Network], bindings: Collection[Binding],
                    ports: Collection[Published], idle: Collection[str] = ()) -> list[str]:
        """Bring the host to exactly this state: remove what is not named (returns what), keep running taps.

        :param idle: pods whose machines have a tap and which are on no network.
        """

    async def close(self) -> None: ...
