"""A daemon that dies, is started again, shares its host, and leaves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from hyperstack.network.api import Network, Subnet
from hyperstack.network.bridge import BridgeNetwork
from hyperstack.pod.errors import Forbidden, InvalidArgument, Unavailable
from hyperstack.pod.spec import PortBinding
from tests.netns.conftest import Site
from tests.netns.lab import Lab


def devices(lab: Lab) -> set[str]:
    names = {line.split(":")[1].strip().partition("@")[0] for line in lab.ip(lab.host, "-o link").splitlines()}
    return {name for name in names if name.startswith(("hs", "ht"))}


def tables(lab: Lab) -> str:
    return lab.run(lab.host, "nft", "list", "tables")


async def test_a_running_pod_keeps_everything_over_a_kill_of_the_daemon(site: Site, lab: Lab) -> None:
    network = await site.network()
    pod = await site.pod(network)
    lab.serve(pod.namespace, 80)
    await site.publish(pod, network, PortBinding(container_port=80, host_port=8080))
    before = lab.run(lab.host, "nft", "list", "ruleset")
    assert await site.restart() == []
    assert lab.run(lab.host, "nft", "list", "ruleset") == before
    assert lab.ask(lab.outside, lab.HOST, 8080) == lab.OUTSIDE
    newcomer = await site.pod(network)
    assert lab.ask(newcomer.namespace, pod.address, 80) == newcomer.address
    await site.backend.unpublish(pod.binding.pod_id)
    with pytest.raises(ConnectionRefusedError):
        lab.ask(lab.outside, lab.HOST, 8080)


async def test_a_dead_machines_tap_is_gone_and_its_pod_can_be_plugged_again(site: Site, lab: Lab) -> None:
    network = await site.network()
    pod = await site.pod(network)
    pod.close()
    assert devices(lab) == {pod.binding.bridge}
    again = lab.pod(await site.backend.plug(pod.binding, uid=65534), pod.binding)
    assert lab.pings(again.namespace, network.subnets[0].gateway)


async def test_a_tap_that_a_dying_machine_still_holds_is_replaced(site: Site, lab: Lab) -> None:
    network = await site.network()
    pod = await site.pod(network)
    again = lab.pod(await site.backend.plug(pod.binding, uid=65534), pod.binding)
    assert lab.pings(again.namespace, network.subnets[0].gateway)
    assert not lab.pings(pod.namespace, network.subnets[0].gateway, wait_s=1)


async def test_a_spare_reaches_nobody_until_it_is_a_pods(site: Site, lab: Lab) -> None:
    network = await site.network()
    neighbour, binding = await site.pod(network), site.plan(network)
    spare = lab.pod(await site.backend.make_spare("ready", uid=65534), binding)
    assert not lab.pings(spare.namespace, neighbour.address, wait_s=1)
    await site.backend.plug_spare(binding, ident="ready")
    assert lab.pings(neighbour.namespace, spare.address)
    assert lab.pings(spare.namespace, neighbour.address)
    assert devices(lab) == {binding.bridge, binding.tap, neighbour.binding.tap}
    assert await site.restart() == []
    assert lab.pings(spare.namespace, neighbour.address), "a new daemon finds it under its pod's name"


async def test_a_spare_takes_the_place_of_a_tap_that_a_dying_machine_still_holds(site: Site, lab: Lab) -> None:
    network = await site.network()
    pod = await site.pod(network)
    spare = lab.pod(await site.backend.make_spare("ready", uid=65534), pod.binding)
    await site.backend.plug_spare(pod.binding, ident="ready")
    assert lab.pings(spare.namespace, network.subnets[0].gateway)


async def test_a_spare_whose_machine_died_is_an_error_and_the_pod_is_plugged_anew(site: Site, lab: Lab) -> None:
    network = await site.network()
    binding = site.plan(network)
    os.close(await site.backend.make_spare("ready", uid=65534))
    with pytest.raises(Unavailable, match="is gone"):
        await site.backend.plug_spare(binding, ident="ready")
    pod = lab.pod(await site.backend.plug(binding, uid=65534), binding)
    assert lab.pings(pod.namespace, network.subnets[0].gateway)


async def test_what_nothing_stored_names_is_swept_away(site: Site, lab: Lab) -> None:
    network, stale = await site.network("alpha"), await site.network("beta")
    pod, lost = await site.pod(network), await site.pod(stale)
    site.networks.remove(stale)
    site.bindings.remove(lost.binding)
    assert set(await site.restart()) == {lost.binding.bridge, lost.binding.tap}
    assert devices(lab) == {pod.binding.bridge, pod.binding.tap}
    rules = lab.run(lab.host, "nft", "list", "ruleset")
    assert lost.binding.tap not in rules
    assert stale.subnets[0].cidr not in rules
    assert lab.pings(pod.namespace, network.subnets[0].gateway)
    assert await site.sweep() == []


@pytest.mark.parametrize("damage", ["nft flush ruleset", "ip link delete {bridge}", "ip address flush dev {bridge}",
                                    "ip link set {tap} nomaster", "nft delete table ip hyperstack-test"])
async def test_a_sweep_completes_what_is_half_made_or_broken(site: Site, lab: Lab, damage: str) -> None:
    """Each is also what a daemon killed between two of its steps leaves."""
    network = await site.network()
    pod = await site.pod(network)
    lab.serve(lab.outside, 80)
    assert lab.ask(pod.namespace, lab.OUTSIDE, 80) == lab.HOST
    lab.run(lab.host, *damage.format(bridge=pod.binding.bridge, tap=pod.binding.tap).split())
    assert await site.restart() == []
    assert lab.ask(pod.namespace, lab.OUTSIDE, 80) == lab.HOST


async def test_rules_that_somebody_flushed_come_back_by_themselves(site: Site, lab: Lab) -> None:
    network = await site.network()
    pod = await site.pod(network)
    lab.serve(pod.namespace, 80)
    await site.publish(pod, network, PortBinding(container_port=80, host_port=8080))
    before = lab.run(lab.host, "nft", "list", "ruleset")
    lab.run(lab.host, "nft", "flush", "ruleset")
    async with asyncio.timeout(30):
        while "hyperstack-test" not in tables(lab):
            await asyncio.sleep(0.05)
    assert lab.run(lab.host, "nft", "list", "ruleset") == before


async def test_rules_that_somebody_flushed_come_back_with_the_next_pod(lab: Lab, resolv_conf: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperstack.network.bridge.telling._SETTLE_S", 600)
    site = Site(lab, resolv_conf)
    await site.backend.start()
    network = await site.network()
    pod = await site.pod(network)
    lab.serve(lab.outside, 80)
    lab.run(lab.host, "nft", "flush", "ruleset")
    await site.pod(network)
    assert lab.ask(pod.namespace, lab.OUTSIDE, 80) == lab.HOST
    await site.backend.close()


async def test_every_step_may_be_repeated(site: Site, lab: Lab) -> None:
    network = await site.network()
    pod = await site.pod(network)
    ports = await site.publish(pod, network, PortBinding(container_port=80, host_port=8080))
    for _ in range(2):
        await site.backend.ensure(network)
        await site.backend.publish(ports, network)
    for _ in range(2):
        await site.backend.unpublish(pod.binding.pod_id)
        await site.backend.unplug(pod.binding)
        await site.backend.remove(network.id)
    assert devices(lab) == set()
    assert "hyperstack" not in tables(lab)


async def test_a_daemon_that_leaves_nothing_running_leaves_nothing(site: Site, lab: Lab) -> None:
    await site.network()
    assert devices(lab)
    assert "hyperstack-test" in tables(lab)
    await site.backend.close()
    assert devices(lab) == set()
    assert "hyperstack" not in tables(lab)


async def test_a_daemon_that_leaves_pods_running_leaves_them_their_network(site: Site, lab: Lab) -> None:
    pod = await site.pod(await site.network())
    lab.serve(lab.outside, 80)
    await site.backend.close()
    assert lab.ask(pod.namespace, lab.OUTSIDE, 80) == lab.HOST


async def test_two_daemons_on_one_host_do_not_touch_each_other(site: Site, lab: Lab, resolv_conf: Path) -> None:
    pod = await site.pod(await site.network())
    other = BridgeNetwork(instance="other", resolv_conf=resolv_conf)
    await other.start()
    subnet, gateway = other.choose_subnet([])
    assert subnet != site.networks[0].subnets[0].cidr
    await other.ensure(Network(id="x", name="bridge", project="alpha", subnets=(Subnet(cidr=subnet, gateway=gateway),)))
    await other.sweep([], [], [])
    await other.close()
    assert devices(lab) == {pod.binding.bridge, pod.binding.tap}
    assert tables(lab).count("hyperstack-test") == 2
    assert "hyperstack-other" not in tables(lab)


async def test_a_cancelled_plug_leaves_no_descriptor(site: Site, lab: Lab) -> None:
    binding = site.plan(await site.network())
    task = asyncio.create_task(site.backend.plug(binding, uid=65534))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await site.backend.unplug(binding)  # queued behind the abandoned work
    await asyncio.sleep(0)
    assert binding.tap not in devices(lab)
    assert not [fd for fd in os.listdir("/proc/self/fd") if _is_tap(fd, binding.tap)]


def _is_tap(fd: str, name: str) -> bool:
    try:
        return f"iff:\t{name}\n" in Path("/proc/self/fdinfo", fd).read_text()
    except OSError:
        return False


async def test_many_pods_plugged_at_once_all_work(site: Site, lab: Lab) -> None:
    network = await site.network()
    bindings = [site.plan(network) for _ in range(20)]
    descriptors = await asyncio.gather(*(site.backend.plug(binding, uid=65534) for binding in bindings))
    first, *_, last = [lab.pod(fd, binding) for fd, binding in zip(descriptors, bindings, strict=True)]
    assert lab.pings(first.namespace, last.address)
    assert await site.sweep() == []


async def test_a_network_that_was_not_made_is_said_so(site: Site) -> None:
    network = await site.network()
    binding = site.plan(network)
    await site.backend.remove(network.id)
    with pytest.raises(Unavailable, match=binding.bridge):
        await site.backend.plug(binding, uid=65534)


async def test_overlapping_and_senseless_subnets_are_refused(site: Site) -> None:
    first = await site.network()
    taken = first.subnets[0]
    for subnet, gateway, error in ((taken.cidr, taken.gateway, Forbidden), ("10.212.0.0/16", "10.212.9.9", Forbidden),
                                   ("10.1.2.0/24", "10.1.3.1", InvalidArgument), ("x", "10.1.3.1", InvalidArgument),
                                   ("127.0.0.0/8", "127.0.0.5", InvalidArgument)):
        with pytest.raises(error):
            await site.backend.ensure(Network(id="y", name="y", project="beta",
                                              subnets=(Subnet(cidr=subnet, gateway=gateway),)))
