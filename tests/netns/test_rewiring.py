"""A pod on several networks: what it reaches on each, and what its guest cannot do about it."""

from __future__ import annotations

import contextlib

import pytest

from hyperstack.network.api import Binding, Network
from hyperstack.pod.errors import Unavailable
from tests.netns.conftest import Site
from tests.netns.lab import Lab, PodPeer, arp_frame, nothing_there, udp_frame


class Several:
    """A pod that joins networks one after the other, and its guest, which follows or does not."""

    def __init__(self, site: Site, lab: Lab, peer: PodPeer) -> None:
        self.site, self.lab, self.peer = site, lab, peer
        self.bindings = [peer.binding]

    async def join(self, network: Network) -> Binding:
        first = self.bindings[0]
        self.bindings = [b if b.branch else self._plan(self.site.by_id(b.network_id), b.address) for b in self.bindings]
        self.site.bindings.remove(first)
        binding = self._plan(network)
        self.bindings.append(binding)
        await self.rewire()
        self.lab.ip(self.peer.namespace, f"link add link eth0 name n{network.id} address {binding.mac} type macvlan")
        self.lab.ip(self.peer.namespace, f"address add {binding.address} dev n{network.id}")
        self.lab.ip(self.peer.namespace, f"link set n{network.id} up")
        return binding

    def _plan(self, network: Network, address: str = "") -> Binding:
        taken = [b.address.partition("/")[0] for b in self.site.bindings if b.network_id == network.id]
        with contextlib.suppress(ValueError):
            taken.remove(address.partition("/")[0])
        binding = self.site.backend.plan(network, pod_id=self.peer.binding.pod_id, taken=taken, shared=True,
                                         address=address.partition("/")[0])
        self.site.bindings.append(binding)
        return binding

    async def leave(self, binding: Binding) -> None:
        self.bindings.remove(binding)
        self.site.bindings.remove(binding)
        await self.rewire()

    async def rewire(self) -> None:
        await self.site.backend.rewire(self.peer.binding.pod_id, *self.bindings)


async def test_it_reaches_its_networks_and_is_no_way_between_them(site: Site, lab: Lab) -> None:
    front, back, other = await site.network(), await site.network(), await site.network()
    near, far, stranger = await site.pod(front), await site.pod(back), await site.pod(other)
    pod = Several(site, lab, await site.pod(front))
    assert not lab.pings(far.namespace, pod.peer.address, wait_s=1)
    joined = await pod.join(back)
    address = joined.address.partition("/")[0]
    assert lab.pings(near.namespace, pod.peer.address)
    assert lab.pings(pod.peer.namespace, near.address)
    assert lab.pings(far.namespace, address)
    assert lab.pings(pod.peer.namespace, far.address)
    for one, two in ((near, far.address), (far, near.address), (near, address), (stranger, address)):
        assert not lab.pings(one.namespace, two, wait_s=1)
    await site.restart()
    assert lab.pings(far.namespace, address)
    assert lab.pings(near.namespace, pod.peer.address)
    # The guest keeps its device: it is off the network all the same.
    await pod.leave(joined)
    assert not lab.pings(far.namespace, address, wait_s=1)
    assert not lab.pings(pod.peer.namespace, far.address, wait_s=1)
    assert lab.pings(near.namespace, pod.peer.address)


async def test_its_frames_are_fenced_on_each_network_alone(site: Site, lab: Lab) -> None:
    front, back = await site.network(), await site.network()
    near, far = await site.pod(front), await site.pod(back)
    pod = Several(site, lab, await site.pod(front))
    joined = await pod.join(back)
    first, address = pod.bindings[0], joined.address.partition("/")[0]
    receiver, witness = far.bind(7000), near.bind(7000)

    def send(mac: str, source: str, target: PodPeer) -> None:
        pod.peer.inject(udp_frame(source_mac=mac, target_mac=target.binding.mac, source=source, target=target.address,
                                  port=7000, payload=b"x"))

    send(first.mac, pod.peer.address, far)      # into the other network, as what it is on the first
    send(joined.mac, pod.peer.address, far)     # with the first's address
    send(first.mac, address, far)
    send(joined.mac, far.binding.gateway, far)  # as the gateway
    send("02:00:00:00:00:99", address, far)     # as nobody
    send(joined.mac, address, near)             # into the first, as what it is on the other
    pod.peer.inject(arp_frame(source_mac=joined.mac, sender_mac=joined.mac, sender=far.binding.gateway,
                              target=far.address))
    send(joined.mac, address, far)              # what is its own comes through
    assert receiver.recvfrom(10)[1][0] == address
    send(first.mac, pod.peer.address, near)
    assert witness.recvfrom(10)[1][0] == pod.peer.address
    assert nothing_there(receiver)
    assert nothing_there(witness)
    assert joined.mac not in lab.run(far.namespace, "ip", "neigh", "show", far.binding.gateway)


async def test_branches_end_with_their_tap_and_are_refused_where_it_is_gone(site: Site, lab: Lab) -> None:
    front, back = await site.network(), await site.network()
    pod = Several(site, lab, await site.pod(front))
    joined = await pod.join(back)
    pod.peer.close()
    assert joined.branch not in lab.ip(lab.host, "-o link")
    with pytest.raises(Unavailable, match="is gone"):
        await pod.rewire()
    await site.backend.unplug(*pod.bindings)
    assert "02:48:" not in lab.run(lab.host, "nft", "list", "ruleset")


async def test_names_of_all_its_networks_are_known_to_it(site: Site, lab: Lab) -> None:
    front, back = await site.network(name="front", names=True), await site.network(name="back", names=True)
    await site.pod(front, names=("near",))
    far = await site.pod(back, names=("far",))
    pod = Several(site, lab, await site.pod(front))
    await pod.join(back)
    resolver = site.backend._naming._resolvers[front.id]
    places = resolver._places(pod.bindings[0])
    assert [directory.called("far", binding)[0].pod_id for directory, binding in places
            if directory.called("far", binding)] == [far.binding.pod_id]
