"""The engine's networks on a real kernel: made, used, removed, and found again by another daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from hyperstack.engine.events import EventBus
from hyperstack.engine.networks.projects import ProjectNetworks
from hyperstack.engine.networks.rewiring import Rewiring
from hyperstack.engine.networks.service import NetworkService
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.identity.api import Principal
from hyperstack.network.api import Binding, Subnet
from hyperstack.network.bridge import BridgeNetwork
from hyperstack.pod.errors import (
    Conflict,
    Forbidden,
    GuestError,
    HyperStackError,
    InvalidArgument,
    NotFound,
    UnsupportedOption,
)
from hyperstack.pod.spec import ContainerSpec, Endpoint, ImageConfig, PodSpec, PortBinding
from tests.netns.lab import Lab
from tests.netns.test_lifecycle import devices, tables

ALPHA, BETA = (Principal(user="u", project=project, admin=False) for project in ("alpha", "beta"))


class Host:
    """One daemon's networks, with the store that outlives it."""

    def __init__(self, store: Store, resolv_conf: Path, *, ipv6: bool = False) -> None:
        self.store = store
        self.events = EventBus(store)
        self.backend = BridgeNetwork(instance="test", resolv_conf=resolv_conf)
        self.service = NetworkService(self.backend, store, self.events, default_ipv6=ipv6)
        self.networks = ProjectNetworks(store, self.service, self.events, Rewiring(store, self.service, self),
                                        locked=self._locked)
        self.fds: list[int] = []
        self.running: set[str] = set()
        self.refusal: HyperStackError | None = None
        self.told: list[tuple[str, ...]] = []
        """What each guest was told, in turn: its devices."""

    # As the sandboxes are asked.

    def get(self, pod_id: str) -> object | None:
        return self if pod_id in self.running else None

    def containers_of(self, pod_id: str) -> list[ContainerRecord]:
        return [container for container in self.store.containers.all() if container.pod_id == pod_id]

    async def follow_networks(self, pod_id: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.told.append(tuple(binding.device for binding in self.stored(pod_id).bindings))

    def stored(self, pod_id: str) -> PodRecord:
        pod = self.store.pods.get(pod_id)
        assert pod is not None
        return pod

    @contextlib.asynccontextmanager
    async def _locked(self, container_id: str) -> AsyncIterator[ContainerRecord]:
        container = self.store.containers.get(container_id)
        assert container is not None
        yield container

    def pod(self, name: str, network: str, project: str = "alpha", **spec: Any) -> PodRecord:
        self.store.containers.put(ContainerRecord(
            id=name.encode().hex().ljust(64, "0"), pod_id=name, project=project, name=name, image_id="i",
            spec=ContainerSpec(image="busybox"), image_config=ImageConfig(), created_at=1))
        return self.store.pods.put(PodRecord(id=name, name=name, project=project, created_at=1, implicit=True,
                                             spec=PodSpec(network=network, **spec)))

    async def start(self, pod: PodRecord) -> PodRecord:
        """As a sandbox does: decided, stored, made."""
        pod = self.store.pods.put(self.service.placement.plan(pod, ()))
        fd = await self.service.plug(pod)
        assert fd is not None
        self.fds.append(fd)
        self.running.add(pod.id)
        return pod

    async def stop(self, pod: PodRecord) -> None:
        os.close(self.fds.pop())
        self.running.discard(pod.id)
        await self.service.unplug(pod)
        self.store.pods.put(replace(pod, binding=None))


@pytest_asyncio.fixture
async def host(lab: Lab, resolv_conf: Path, tmp_path: Path) -> AsyncIterator[Host]:
    store = Store(tmp_path / "engine.db")
    host = Host(store, resolv_conf)
    await host.service.start()
    yield host
    for fd in host.fds:
        os.close(fd)
    await host.service.close()
    store.close()


async def test_a_network_is_a_record_until_a_pod_is_there_and_nothing_after_its_removal(host: Host, lab: Lab) -> None:
    front = await host.networks.create(ALPHA, "front")
    assert devices(lab) == set()
    pod = await host.start(host.pod("web", "front"))
    assert pod.binding is not None
    assert devices(lab) == {pod.binding.bridge, pod.binding.tap}
    assert [container.name for container, _ in host.networks.members(ALPHA, front)] == ["web"]
    with pytest.raises(Forbidden, match=r'active endpoints \(name:"web"'):
        await host.networks.remove(ALPHA, "front")
    await host.stop(pod)
    await host.networks.remove(ALPHA, "front")
    assert (devices(lab), tables(lab), host.store.networks.all()) == (set(), "", [])
    told = [(event.action, event.attributes["name"]) for event in host.events._store.events_since(1)
            if event.kind == "network"]
    assert told == [("create", "front"), ("destroy", "front")], "a container's own life tells the rest"


async def test_two_who_remove_it_at_once_remove_it_once(host: Host, lab: Lab) -> None:
    await host.networks.create(ALPHA, "front")
    await host.stop(await host.start(host.pod("web", "front")))
    await asyncio.gather(host.networks.remove(ALPHA, "front"), host.networks.remove(ALPHA, "front"))
    told = [event.action for event in host.events._store.events_since(1) if event.kind == "network"]
    assert told.count("destroy") == 1
    assert devices(lab) == set()


async def test_two_projects_have_networks_of_one_name_and_know_nothing_of_each_other(host: Host) -> None:
    one, two = await host.networks.create(ALPHA, "front"), await host.networks.create(BETA, "front")
    assert one.subnets[0].cidr != two.subnets[0].cidr
    with pytest.raises(Forbidden, match="a network of another project"):
        await host.networks.create(BETA, "back", subnets=one.subnets)
    with pytest.raises(Conflict, match="already exists"):
        await host.networks.create(ALPHA, "front")
    assert [network.name for network in host.networks.list_all(BETA)] == ["bridge", "none", "front"]
    assert await host.networks.prune(BETA) == ["front"]
    assert host.networks.get(ALPHA, one.id[:12]) == one


async def test_a_daemon_killed_amid_a_removal_leaves_nothing_to_the_next(host: Host, lab: Lab, resolv_conf: Path
                                                                         ) -> None:
    front, back = await host.networks.create(ALPHA, "front"), await host.networks.create(ALPHA, "back")
    gone, stays = await host.start(host.pod("gone", "front")), await host.start(host.pod("stays", "back"))
    host.fds.reverse()
    await host.stop(gone)
    assert gone.binding is not None
    assert stays.binding is not None
    assert gone.binding.bridge in devices(lab)
    host.store.networks.put(replace(front, removing=True))  # stored; and then it died
    after = Host(host.store, resolv_conf)
    await after.service.start()
    assert await after.service.sweep() == [gone.binding.bridge]
    assert devices(lab) == {stays.binding.bridge, stays.binding.tap}
    assert [network.id for network in host.store.networks.all()] == [back.id]
    await after.stop(stays) if after.fds else await after.service.unplug(stays)
    host.store.pods.put(replace(stays, binding=None))
    await after.networks.remove(ALPHA, "back")
    assert tables(lab) == ""


async def test_a_container_that_does_not_run_changes_its_networks(host: Host) -> None:
    await host.networks.create(ALPHA, "front")
    await host.networks.create(ALPHA, "back")
    host.pod("web", "bridge")
    await host.networks.connect(ALPHA, "front", "web", place=Endpoint(network="", aliases=("a",)))
    assert host.stored("web").spec.further[0].aliases == ("a",)
    await host.networks.connect(ALPHA, "front", "web", place=Endpoint(network="", aliases=("b",)))
    assert host.stored("web").spec.further[0].aliases == ("b",), "as it was asked for last"
    assert [endpoint.network for endpoint in host.stored("web").spec.endpoints] == ["bridge", "front"]
    assert await host.networks.prune(ALPHA) == ["back"]
    await host.networks.disconnect(ALPHA, "bridge", "web")
    pod = host.stored("web")
    assert (pod.spec.network, pod.spec.aliases, pod.spec.further) == ("front", ("b",), ())
    with pytest.raises(Conflict, match="is not connected to the network none"):
        await host.networks.disconnect(ALPHA, "none", "web")
    with pytest.raises(InvalidArgument, match="multiple networks"):
        await host.networks.connect(ALPHA, "none", "web", place=Endpoint(network=""))
    host.store.pods.put(replace(pod, implicit=False))
    with pytest.raises(UnsupportedOption, match=r"manifest's pod is not supported.*org.hyperstack.network"):
        await host.networks.disconnect(ALPHA, "front", "web")


async def test_a_container_that_does_not_run_is_told_at_once_what_it_cannot_have(host: Host) -> None:
    await host.networks.create(ALPHA, "front", subnets=[Subnet(cidr="10.99.0.0/24", gateway="")])
    host.pod("web", "bridge")
    for network, address, error in (("absent", "", NotFound), ("front", "10.99.0.1", Forbidden),
                                    ("front", "10.98.0.1", InvalidArgument), ("front", "10.99.0.255", Forbidden)):
        with pytest.raises(error):
            await host.networks.connect(ALPHA, network, "web", place=Endpoint(network="", ip_address=address))
    assert [endpoint.network for endpoint in host.stored("web").spec.endpoints] == ["bridge"]


async def test_default_networks_have_ipv6_where_the_operator_says_so(host: Host, lab: Lab, resolv_conf: Path) -> None:
    first = (await host.start(host.pod("web", "bridge"))).binding
    assert first is not None
    assert first.address6 == ""
    await host.service.close()
    told = Host(host.store, resolv_conf, ipv6=True)
    await told.service.start()
    assert await told.service.sweep() == []
    ports = (PortBinding(container_port=80, host_port=8080),)
    binding = (await told.start(told.pod("six", "bridge", ports=ports))).binding
    other = (await told.start(told.pod("other", "bridge", project="beta"))).binding
    assert binding is not None
    assert other is not None
    assert binding.address6.startswith("fd")
    assert binding.gateway6
    assert binding.network_id == first.network_id
    assert binding.gateway6 != other.gateway6
    pods = [lab.pod(os.dup(fd), one) for fd, one in zip((*host.fds, *told.fds), (first, binding, other), strict=True)]
    lab.serve(pods[1].namespace, 7000, address="::")
    assert lab.ask(lab.host, binding.address6.partition("/")[0], 7000) == binding.gateway6
    assert lab.pings(pods[0].namespace, binding.address.partition("/")[0]), "those that ran before are as they were"
    assert host.stored("six").ports[0].address6
    await told.service.close()
    back = Host(host.store, resolv_conf)
    await back.service.start()
    kept = [record for record in host.store.networks.all() if record.subnets6]
    assert len(kept) == 2, "while pods have addresses of it"
    for name in ("six", "other"):
        await back.service.unplug(host.stored(name))
        host.store.pods.put(replace(host.stored(name), binding=None, ports=()))
    await back.service.close()
    again = Host(host.store, resolv_conf)
    await again.service.start()
    assert not any(record.subnets6 for record in host.store.networks.all())
    for fd in told.fds:
        os.close(fd)
    await again.service.close()


async def test_ipv6_of_default_networks_on_a_host_without_it_is_refused(host: Host, lab: Lab, resolv_conf: Path
                                                                           ) -> None:
    lab.run(lab.host, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    other = Host(host.store, resolv_conf, ipv6=True)
    with pytest.raises(UnsupportedOption, match=r"network\.ipv6 is not supported"):
        await other.service.start()
    await other.service.close()


async def test_a_container_without_a_network_leaves_none_before_it_joins_one(host: Host) -> None:
    await host.networks.create(ALPHA, "front")
    host.pod("web", "none", home="none")
    nowhere = Endpoint(network="")
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=r"one of the networks in private \(none\) mode"):
            await host.networks.connect(ALPHA, "front", "web", place=nowhere)
        await host.networks.connect(ALPHA, "none", "web", place=nowhere)
        assert host.stored("web").spec.network == "none", "it stays where it is"
        await host.networks.disconnect(ALPHA, "none", "web")
        with pytest.raises(Conflict, match="is not connected to the network none"):
            await host.networks.disconnect(ALPHA, "none", "web")
        await host.networks.connect(ALPHA, "none", "web", place=nowhere)
    await host.networks.disconnect(ALPHA, "none", "web")
    await host.networks.connect(ALPHA, "front", "web", place=nowhere)
    assert host.stored("web").spec.network == "front"
    await host.networks.disconnect(ALPHA, "front", "web")
    assert host.service.placement.plan(host.stored("web"), ()).spec.network == "none", "which it was made for"


async def test_who_has_left_all_networks_starts_on_the_one_it_was_made_for(host: Host) -> None:
    await host.networks.create(ALPHA, "front")
    await host.start(host.pod("web", "front", home="front"))
    await host.networks.disconnect(ALPHA, "front", "web")
    pod = host.stored("web")
    assert (pod.spec.network, pod.bindings) == ("", ())
    await host.stop(pod)
    pod = await host.start(pod)
    assert [binding.network for binding in pod.bindings] == ["front"]
    assert pod.spec.network == "front"


async def test_a_running_container_changes_its_networks(host: Host, lab: Lab) -> None:
    for name in ("a", "b", "c"):
        await host.networks.create(ALPHA, name)
    one = (await host.start(host.pod("web", "b", ports=(PortBinding(container_port=80, host_port=8080),)))).binding
    assert one is not None
    await host.networks.connect(ALPHA, "c", "web", place=Endpoint(network="", aliases=("x",)))
    first, second = host.stored("web").bindings
    assert (first.network, first.address, first.mac, first.tap) == ("b", one.address, one.mac, one.tap)
    assert (second.network, second.device, "x" in second.names) == ("c", "eth1", True)
    assert devices(lab) == {b.bridge for b in (first, second)} | {b.port for b in (first, second)} | {one.tap}
    assert ports_of(lab, first.bridge) == {first.port}
    assert ports_of(lab, second.bridge) == {second.port}
    # The first by name has the way out, and the ports with it.
    await host.networks.connect(ALPHA, "a", "web", place=Endpoint(network=""))
    pod = host.stored("web")
    assert [binding.network for binding in pod.bindings] == ["a", "b", "c"]
    assert [(port.host_port, port.address) for port in pod.ports] == [(8080, address(pod.bindings[0]))]
    assert f"{address(pod.bindings[0])} . 80" in lab.run(lab.host, "nft", "list", "ruleset")
    for name in ("b", "a", "c"):
        await host.networks.disconnect(ALPHA, name, "web")
    assert host.stored("web").bindings == ()
    assert host.stored("web").ports == ()
    assert ports_of(lab, first.bridge) == ports_of(lab, second.bridge) == set()
    assert "bindings {\n\t\ttype ifname . ether_addr . ipv4_addr\n\t}" in lab.run(lab.host, "nft", "list", "ruleset")
    await host.networks.connect(ALPHA, "b", "web", place=Endpoint(network="", ip_address=address(one)))
    assert [binding.device for binding in host.stored("web").bindings] == ["eth0"]
    assert host.stored("web").ports[0].host_port == 8080
    assert host.told == [("eth0", "eth1"), ("eth2", "eth0", "eth1"), ("eth2", "eth1"), ("eth1",), (), ("eth0",)]
    told = [(event.action, event.attributes["name"]) for event in host.events._store.events_since(1)
            if event.kind == "network" and event.action in ("connect", "disconnect")]
    assert told == [("connect", "c"), ("connect", "a"), ("disconnect", "b"), ("disconnect", "a"), ("disconnect", "c"),
                    ("connect", "b")]


async def test_a_guest_that_cannot_join_leaves_all_as_it_was_and_one_that_cannot_leave_is_cut_off(host: Host, lab: Lab
                                                                                                  ) -> None:
    for name in ("a", "b"):
        await host.networks.create(ALPHA, name)
    pod = await host.start(host.pod("web", "b"))
    host.refusal = GuestError("no macvlan")
    with pytest.raises(GuestError):
        await host.networks.connect(ALPHA, "a", "web", place=Endpoint(network=""))
    assert host.stored("web") == pod
    assert pod.binding is not None
    assert ports_of(lab, pod.binding.bridge) == {pod.binding.tap}
    await host.networks.disconnect(ALPHA, "b", "web")
    assert host.stored("web").bindings == ()
    assert ports_of(lab, pod.binding.bridge) == set()


async def test_what_a_killed_daemon_had_only_stored_the_next_one_makes(host: Host, lab: Lab, resolv_conf: Path) -> None:
    front, back = await host.networks.create(ALPHA, "front"), await host.networks.create(ALPHA, "back")
    pod = await host.start(host.pod("web", "front"))
    idle = await host.start(host.pod("idle", "front"))
    asked = replace(pod, spec=pod.spec.on((*pod.spec.endpoints, Endpoint(network="back"))))
    wanted = host.store.pods.put(host.service.placement.joined(asked, asked.spec.endpoints[-1], ()))
    host.store.pods.put(host.service.placement.left(replace(idle, spec=idle.spec.on(())), front.id, ()))
    after = Host(host.store, resolv_conf)
    await after.service.start()
    assert await after.service.sweep() == []
    by_network = {binding.network: binding for binding in wanted.bindings}
    assert ports_of(lab, by_network["front"].bridge) == {by_network["front"].port}
    assert ports_of(lab, by_network["back"].bridge) == {by_network["back"].port}
    assert idle.binding is not None
    assert idle.binding.tap in devices(lab), "its machine goes on"
    # And what it had only stored of the way back.
    after.store.pods.put(after.service.placement.left(replace(wanted, spec=pod.spec), back.id, ()))
    last = Host(host.store, resolv_conf)
    await last.service.start()
    assert set(await last.service.sweep()) == {by_network["back"].bridge, by_network["back"].branch}
    assert ports_of(lab, by_network["front"].bridge) == {by_network["front"].port}


def ports_of(lab: Lab, bridge: str) -> set[str]:
    return {link["ifname"] for link in json.loads(lab.run(lab.host, "ip", "-json", "link", "show", "master", bridge))}


def address(binding: Binding) -> str:
    return binding.address.partition("/")[0]
