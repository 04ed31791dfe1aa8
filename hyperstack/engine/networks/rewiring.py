"""Networks of pods whose VMs run: first the record, then the host, then the guest.

The host decides who reaches whom, so a pod is off a network once the host is told, whatever its guest says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Protocol

from hyperstack.engine.networks.placement import exposed_ports
from hyperstack.engine.networks.service import NetworkService
from hyperstack.engine.records import ContainerRecord, NetworkRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.pod.errors import HyperStackError, UnsupportedOption
from hyperstack.pod.spec import Endpoint

log = logging.getLogger(__name__)


class Guests(Protocol):
    """What is asked of `hyperstack.engine.machines.sandboxes.Sandboxes`."""

    def get(self, pod_id: str) -> object | None:
        """Its VM, where it has one."""

    def containers_of(self, pod_id: str) -> list[ContainerRecord]: ...

    async def follow_networks(self, pod_id: str) -> None:
        """Tell the guest of its networks. :raise HyperStackError: it cannot follow."""


class Rewiring:
    """The caller holds the pod's lock."""

    def __init__(self, store: Store, networks: NetworkService, guests: Guests) -> None:
        self._store = store
        self._networks = networks
        self._guests = guests

    def runs(self, pod: PodRecord) -> bool:
        """Whether it has a VM, which must be told."""
        return self._guests.get(pod.id) is not None

    async def join(self, pod: PodRecord, asked: PodRecord, endpoint: Endpoint) -> None:
        """:param asked: with the spec that names the network.

        :raise HyperStackError: it cannot be; nothing has changed then.
        """
        if not pod.nic:
            raise UnsupportedOption("a network for a running pod that has none", "its VM was started without a network "
                                    "interface", hint="stop the container first, or give --network when you create it")
        exposed = exposed_ports(self._guests.containers_of(pod.id))
        changed = self._store.pods.put(self._networks.placement.joined(asked, endpoint, exposed))
        try:
            await self._networks.rewire(changed)
            await self._guests.follow_networks(pod.id)
        except BaseException:
            await asyncio.shield(self._undo(pod))
            raise

    async def _undo(self, pod: PodRecord) -> None:
        self._store.pods.put(pod)
        with contextlib.suppress(HyperStackError):
            await self._networks.rewire(pod)
            await self._guests.follow_networks(pod.id)

    async def leave(self, pod: PodRecord, asked: PodRecord, record: NetworkRecord) -> None:
        """:raise Unavailable: the host refuses; the next start of the daemon does it."""
        exposed = exposed_ports(self._guests.containers_of(pod.id))
        changed = self._store.pods.put(self._networks.placement.left(asked, record.id, exposed))
        await self._networks.rewire(changed)
        try:
            await self._guests.follow_networks(pod.id)
        except HyperStackError as error:
            log.warning("pod %s has left %s, which its guest does not know: %s", pod.id[:12], record.name, error)
