"""Who reaches whom."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hyperstack.pod.errors import Conflict, InvalidArgument
from hyperstack.pod.spec import PortBinding
from tests.netns.conftest import Site
from tests.netns.lab import Lab, within

REFUSED = r"No route to host|unreachable|refused|denied"


async def test_pods_of_one_network_reach_each_other(site: Site, lab: Lab) -> None:
    network = await site.network()
    one, two = await site.pod(network), await site.pod(network)
    lab.serve(two.namespace, 80)
    assert lab.ask(one.namespace, two.address, 80) == one.address


async def test_pods_of_different_networks_do_not(site: Site, lab: Lab) -> None:
    one, two = await site.pod(await site.network("alpha")), await site.pod(await site.network("beta"))
    lab.serve(two.namespace, 80)
    lab.serve(two.namespace, 80, udp=True)
    for udp in (False, True):
        with pytest.raises(TimeoutError):
            lab.ask(one.namespace, two.address, 80, udp=udp, timeout=0.5)
    assert not lab.pings(one.namespace, two.address, wait_s=1)
    assert lab.pings(lab.host, two.address)


async def test_a_pod_reaches_the_world_with_the_hosts_address(site: Site, lab: Lab) -> None:
    pod = await site.pod(await site.network())
    lab.serve(lab.outside, 80)
    lab.serve(lab.outside, 80, udp=True)
    assert lab.ask(pod.namespace, lab.OUTSIDE, 80) == lab.HOST
    assert lab.ask(pod.namespace, lab.OUTSIDE, 80, udp=True) == lab.HOST


async def test_the_world_does_not_reach_a_pod_by_its_address(site: Site, lab: Lab) -> None:
    network = await site.network()
    pod = await site.pod(network)
    lab.serve(pod.namespace, 80)
    lab.ip(lab.outside, f"route add {network.subnets[0].cidr} via {lab.HOST}")
    with pytest.raises(TimeoutError):
        lab.ask(lab.outside, pod.address, 80, timeout=0.5)
    assert lab.ask(lab.host, pod.address, 80) == network.subnets[0].gateway


async def test_a_pod_pings_its_gateway_and_reaches_no_service_of_the_host(site: Site, lab: Lab) -> None:
    network = await site.network()
    pod = await site.pod(network)
    lab.serve(lab.host, 8000)
    lab.serve(lab.host, 8000, udp=True)
    assert lab.pings(pod.namespace, network.subnets[0].gateway)
    for address in (network.subnets[0].gateway, lab.HOST, lab.SECOND):
        with pytest.raises(OSError, match=REFUSED):
            lab.ask(pod.namespace, address, 8000)
        with pytest.raises(OSError, match=REFUSED):
            lab.ask(pod.namespace, address, 8000, udp=True)


async def test_a_pod_does_not_reach_the_hosts_loopback(site: Site, lab: Lab) -> None:
    network = await site.network()
    pod = await site.pod(network)
    lab.serve(lab.host, 8000, address="127.0.0.1")
    # A guest may unset its own martian filter and route 127/8 to its gateway.
    lab.run(pod.namespace, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    lab.ip(pod.namespace, "address del 127.0.0.1/8 dev lo")
    lab.ip(pod.namespace, f"route add 127.0.0.0/8 via {network.subnets[0].gateway}")
    with pytest.raises(TimeoutError):
        lab.ask(pod.namespace, "127.0.0.1", 8000, timeout=0.5)


async def test_an_internal_network_has_no_way_out_or_in(site: Site, lab: Lab) -> None:
    await site.network("beta")  # for which the host forwards
    network = await site.network(internal=True)
    one, two = await site.pod(network), await site.pod(network)
    assert one.binding.dns == ()
    lab.serve(two.namespace, 80)
    lab.serve(lab.outside, 80)
    assert lab.ask(one.namespace, two.address, 80) == one.address
    lab.ip(one.namespace, f"route add default via {network.subnets[0].gateway}")
    with pytest.raises(OSError, match=REFUSED):
        lab.ask(one.namespace, lab.OUTSIDE, 80)
    with pytest.raises(InvalidArgument, match="internal"):
        await site.publish(two, network, PortBinding(container_port=80))


async def test_link_local_addresses_of_the_provider_are_out_of_reach(site: Site, lab: Lab) -> None:
    pod = await site.pod(await site.network())
    lab.ip(lab.outside, "address add 169.254.169.254/32 dev lo")
    lab.serve(lab.outside, 80, address="169.254.169.254")
    assert lab.ask(lab.host, "169.254.169.254", 80) == lab.HOST
    with pytest.raises(OSError, match=REFUSED):
        lab.ask(pod.namespace, "169.254.169.254", 80)


async def test_published_ports_answer_on_every_address_of_the_host(site: Site, lab: Lab) -> None:
    network = await site.network()
    pod, sibling = await site.pod(network), await site.pod(network)
    lab.serve(pod.namespace, 80)
    lab.serve(pod.namespace, 53, udp=True)
    tcp, udp = await site.publish(pod, network, PortBinding(container_port=80, host_port=8080),
                                  PortBinding(container_port=53, protocol="udp"))
    assert (tcp.host_port, udp.host_port) == (8080, 32768)
    assert lab.ask(lab.outside, lab.HOST, 8080) == lab.OUTSIDE
    assert lab.ask(lab.outside, lab.HOST, udp.host_port, udp=True) == lab.OUTSIDE
    for address in ("127.0.0.1", "127.0.0.53"):
        assert lab.ask(lab.host, address, 8080) == network.subnets[0].gateway
        assert lab.ask(lab.host, address, udp.host_port, udp=True) == network.subnets[0].gateway
    assert lab.ask(lab.host, lab.HOST, 8080) == lab.HOST
    for insider in (pod, sibling):
        assert lab.ask(insider.namespace, lab.HOST, 8080) == network.subnets[0].gateway
    await site.backend.unpublish(pod.binding.pod_id)
    with pytest.raises(ConnectionRefusedError):
        lab.ask(lab.outside, lab.HOST, 8080)


async def test_a_udp_sender_that_never_pauses_reaches_whoever_has_the_port_now(site: Site, lab: Lab) -> None:
    """Connection tracking would keep its flow on the first receiver."""
    network = await site.network()
    wanted = PortBinding(container_port=53, host_port=5353, protocol="udp")
    with within(lab.outside, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.settimeout(5)
        sender.sendto(b"to nobody", (lab.HOST, 5353))
        for number in range(2):
            pod = await site.pod(network)
            with pod.bind(53) as receiver:
                await site.publish(pod, network, wanted)
                sender.sendto(b"to pod %d" % number, (lab.HOST, 5353))
                assert receiver.recv(100) == b"to pod %d" % number
            await site.backend.unpublish(pod.binding.pod_id)
            site.ports.clear()


async def test_a_port_published_on_one_address_answers_there_only(site: Site, lab: Lab) -> None:
    network = await site.network()
    pod = await site.pod(network)
    lab.serve(pod.namespace, 80)
    await site.publish(pod, network, PortBinding(container_port=80, host_port=8080, host_ip=lab.SECOND),
                       PortBinding(container_port=80, host_port=8081, host_ip="127.0.0.1"))
    assert lab.ask(lab.outside, lab.SECOND, 8080) == lab.OUTSIDE
    assert lab.ask(lab.host, "127.0.0.1", 8081) == network.subnets[0].gateway
    for address, port in ((lab.HOST, 8080), (lab.HOST, 8081)):
        with pytest.raises(ConnectionRefusedError):
            lab.ask(lab.outside, address, port)


async def test_another_projects_pod_does_not_get_in_by_a_published_port(site: Site, lab: Lab) -> None:
    network = await site.network("alpha")
    pod, stranger = await site.pod(network), await site.pod(await site.network("beta"))
    lab.serve(pod.namespace, 80)
    await site.publish(pod, network, PortBinding(container_port=80, host_port=8080))
    with pytest.raises(TimeoutError):
        lab.ask(stranger.namespace, lab.HOST, 8080, timeout=0.5)


async def test_a_port_conflict_names_the_port_and_who_has_it(site: Site, lab: Lab) -> None:
    network = await site.network()
    pod, other = await site.pod(network), await site.pod(network)
    await site.publish(pod, network, PortBinding(container_port=80, host_port=8080))
    lab.serve(lab.host, 9090)
    lab.serve(lab.host, 9090, udp=True)
    with pytest.raises(Conflict, match=rf"8080 failed: port is already allocated .by pod {pod.binding.pod_id[:12]}"):
        await site.publish(other, network, PortBinding(container_port=80, host_port=8080))
    for wanted in (PortBinding(container_port=80, host_port=9090),
                   PortBinding(container_port=80, host_port=9090, protocol="udp")):
        with pytest.raises(Conflict, match=rf":9090:\S+/{wanted.protocol}: address already in use .by \S+ \(pid"):
            await site.publish(other, network, wanted)
    with pytest.raises(InvalidArgument, match=r"has no address 203\.0\.113\.7"):
        await site.publish(other, network, PortBinding(container_port=80, host_port=1, host_ip="203.0.113.7"))


async def test_names_resolve_at_the_hosts_own_servers(site: Site, lab: Lab) -> None:
    pod = await site.pod(await site.network())
    lab.serve(lab.outside, 53, udp=True)
    assert pod.binding.dns == (lab.OUTSIDE,)
    assert lab.ask(pod.namespace, lab.OUTSIDE, 53, udp=True) == lab.HOST
    assert lab.ask(pod.namespace, pod.binding.gateway, 53, udp=True) == lab.HOST


async def test_a_resolver_on_the_hosts_loopback_is_reached_through_the_gateway(lab: Lab, tmp_path: Path) -> None:
    resolv_conf = tmp_path / "stub.conf"
    resolv_conf.write_text("nameserver 127.0.0.53\n")
    site = Site(lab, resolv_conf)
    await site.backend.start()
    pod = await site.pod(await site.network())
    assert pod.binding.dns == (pod.binding.gateway,)
    for udp in (False, True):
        lab.serve(lab.host, 53, udp=udp, address="127.0.0.53")
        # The stub of systemd-resolved answers none but loopback addresses.
        assert lab.ask(pod.namespace, pod.binding.gateway, 53, udp=udp) == "127.0.0.1"
    await site.backend.close()


async def test_a_subnet_keeps_away_from_the_hosts_routes(site: Site, lab: Lab) -> None:
    first, _ = site.backend.choose_subnet([])
    lab.ip(lab.host, f"route add {first} via {lab.OUTSIDE}")
    second, gateway = within(lab.host, lambda: site.backend.choose_subnet(["10.212.1.0/24"]))
    assert (second, gateway) == ("10.212.2.0/24", "10.212.2.1")
