"""Each test has its own lab, and runs as the host in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from hyperstack.network.api import Binding, Network, Published, Subnet
from hyperstack.network.bridge import BridgeNetwork
from hyperstack.pod.spec import PortBinding
from tests.netns.lab import Lab, PodPeer, entered


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="network namespaces and taps need root and /dev/net/tun"))


@pytest.fixture
def lab() -> Iterator[Lab]:
    with contextlib.ExitStack() as cleanup:
        lab = Lab(cleanup)
        with entered(lab.host):
            yield lab


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text(f"nameserver {Lab.OUTSIDE}\n")
    return path


class Site:
    """A backend with what an engine would have stored."""

    def __init__(self, lab: Lab, resolv_conf: Path, instance: str = "test") -> None:
        self.lab, self._resolv_conf, self._instance = lab, resolv_conf, instance
        self.backend = self._new()
        self.networks: list[Network] = []
        self.bindings: list[Binding] = []
        self.ports: list[Published] = []

    def _new(self) -> BridgeNetwork:
        return BridgeNetwork(instance=self._instance, resolv_conf=self._resolv_conf)

    async def restart(self) -> list[str]:
        """The daemon was killed: a new one knows what is stored, and nothing else."""
        self.backend = self._new()
        await self.backend.start()
        return await self.sweep()

    async def sweep(self) -> list[str]:
        return await self.backend.sweep(self.networks, self.bindings, self.ports)

    async def network(self, project: str = "alpha", **options: Any) -> Network:
        cidr, gateway = self.backend.choose_subnet([s.cidr for n in self.networks for s in n.subnets])
        network = Network(**{"id": f"{project}-{len(self.networks)}", "name": "bridge", "project": project,
                             "subnets": (Subnet(cidr=cidr, gateway=gateway),), **options})
        self.networks.append(network)
        await self.backend.ensure(network)
        return network

    def by_id(self, ident: str) -> Network:
        return next(network for network in self.networks if network.id == ident)

    def plan(self, network: Network, *, pod_id: str = "", **asked: Any) -> Binding:
        taken = [address.partition("/")[0] for b in self.bindings if b.network_id == network.id
                 for address in (b.address, b.address6)]
        binding = self.backend.plan(network, pod_id=pod_id or f"pod-{len(self.bindings)}", taken=taken, **asked)
        self.bindings.append(binding)
        return binding

    async def pod(self, network: Network, **asked: Any) -> PodPeer:
        binding = self.plan(network, **asked)
        return self.lab.pod(await self.backend.plug(binding, uid=65534), binding)

    async def publish(self, pod: PodPeer, network: Network, *wanted: PortBinding) -> tuple[Published, ...]:
        ports = self.backend.choose_ports(wanted, pod_id=pod.binding.pod_id, address=pod.address,
                                          address6=pod.binding.address6, taken=self.ports)
        self.ports.extend(ports)
        await self.backend.publish(ports, network)
        return ports


@pytest_asyncio.fixture
async def site(lab: Lab, resolv_conf: Path) -> AsyncIterator[Site]:
    site = Site(lab, resolv_conf)
    await site.backend.start()
    yield site
    await site.backend.close()
