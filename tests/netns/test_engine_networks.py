"""The engine's networks on a real kernel: made, used, removed, and found again by another daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from hyperstack.engine.events import EventBus
from hyperstack.engine.networks import NetworkService
from hyperstack.engine.project_networks import ProjectNetworks
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.identity.api import Principal
from hyperstack.network.bridge import BridgeNetwork
from hyperstack.pod.errors import Conflict, Forbidden, UnsupportedOption
from hyperstack.pod.spec import ContainerSpec, ImageConfig, PodSpec
from hyperstack.pod.states import ContainerState
from tests.netns.lab import Lab
from tests.netns.test_lifecycle import devices, tables

ALPHA, BETA = (Principal(user="u", project=project, admin=False) for project in ("alpha", "beta"))


class Host:
    """One daemon's networks, with the store that outlives it."""

    def __init__(self, store: Store, resolv_conf: Path) -> None:
        self.store = store
        self.events = EventBus(store)
        self.backend = BridgeNetwork(instance="test", resolv_conf=resolv_conf)
        self.service = NetworkService(self.backend, store, self.events)
        self.networks = ProjectNetworks(store, self.service, self.events, locked=self._locked)
        self.fds: list[int] = []

    @contextlib.asynccontextmanager
    async def _locked(self, container_id: str) -> AsyncIterator[ContainerRecord]:
        container = self.store.containers.get(container_id)
        assert container is not None
        yield container

    def pod(self, name: str, network: str, project: str = "alpha") -> PodRecord:
        self.store.containers.put(ContainerRecord(
            id=name.encode().hex().ljust(64, "0"), pod_id=name, project=project, name=name, image_id="i",
            spec=ContainerSpec(image="busybox"), image_config=ImageConfig(), created_at=1))
        return self.store.pods.put(PodRecord(id=name, name=name, project=project, created_at=1, implicit=True,
                                             spec=PodSpec(network=network)))

    async def start(self, pod: PodRecord) -> PodRecord:
        """As a sandbox does: decided, stored, made."""
        pod = self.store.pods.put(self.service.plan(pod, ()))
        fd = await self.service.plug(pod)
        assert fd is not None
        self.fds.append(fd)
        return pod

    async def stop(self, pod: PodRecord) -> None:
        os.close(self.fds.pop())
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
    assert told == [("create", "front"), ("connect", "front"), ("disconnect", "front"), ("destroy", "front")]


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
    with pytest.raises(Conflict, match="a network of another project"):
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


async def test_a_container_that_does_not_run_changes_its_network(host: Host) -> None:
    await host.networks.create(ALPHA, "front")
    host.pod("web", "bridge")
    with pytest.raises(Conflict, match="this one has bridge"):
        await host.networks.connect(ALPHA, "front", "web", place=PodSpec())
    await host.networks.disconnect(ALPHA, "bridge", "web")
    await host.networks.connect(ALPHA, "front", "web", place=PodSpec(aliases=("a",), ip_address=""))
    pod = host.store.pods.get("web")
    assert pod is not None
    assert (pod.spec.network, pod.spec.aliases) == ("front", ("a",))
    with pytest.raises(Conflict, match="is not connected to network none"):
        await host.networks.disconnect(ALPHA, "none", "web")
    assert await host.networks.prune(ALPHA) == []
    host.store.pods.put(replace(pod, implicit=False))
    with pytest.raises(UnsupportedOption, match=r"manifest's pod is not supported.*org.hyperstack.network"):
        await host.networks.disconnect(ALPHA, "front", "web")
    host.store.pods.put(pod)
    container = host.store.containers.all()[0]
    host.store.containers.put(replace(container, state=ContainerState.RUNNING))
    for change in (host.networks.disconnect(ALPHA, "front", "web"),
                   host.networks.connect(ALPHA, "front", "web", place=PodSpec())):
        with pytest.raises(UnsupportedOption, match="networks of a running pod is not supported"):
            await change
