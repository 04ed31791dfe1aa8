"""The engine's networks with a real store, on a host where nothing is started: they are records alone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from hyperstack.engine.events import EventBus
from hyperstack.engine.networks.projects import ProjectNetworks
from hyperstack.engine.networks.rewiring import Rewiring
from hyperstack.engine.networks.service import NetworkService
from hyperstack.engine.records import ContainerRecord
from hyperstack.engine.store import Store
from hyperstack.network.bridge import BridgeNetwork


class NoGuests:
    """Nothing runs."""

    def get(self, pod_id: str) -> None:
        return None

    def containers_of(self, pod_id: str) -> list[ContainerRecord]:
        return []

    async def follow_networks(self, pod_id: str) -> None:
        raise AssertionError(pod_id)


def make_networks(store: Store) -> ProjectNetworks:
    @contextlib.asynccontextmanager
    async def locked(container_id: str) -> AsyncIterator[ContainerRecord]:
        container = store.containers.get(container_id)
        assert container is not None
        yield container

    events = EventBus(store)
    service = NetworkService(BridgeNetwork(instance="unit"), store, events)
    return ProjectNetworks(store, service, events, Rewiring(store, service, NoGuests()), locked=locked)
