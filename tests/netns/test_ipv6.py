"""IPv6 on networks that have it: who reaches whom, and what a hostile guest may try."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest

from hyperstack.network.api import Network, Subnet
from hyperstack.network.bridge.addressing import bridge_mac
from hyperstack.network.bridge.ruleset6 import link_local
from hyperstack.pod.errors import Conflict, Forbidden, InvalidArgument, UnsupportedOption
from hyperstack.pod.spec import PortBinding
from tests.netns.conftest import Site
from tests.netns.lab import Lab, PodPeer, checksum, mac, nothing_there, within

HOST6, OUTSIDE6 = "2001:db8:ffff::1", "2001:db8:ffff::9"
FRONT, BACK = (Subnet(cidr=f"fd00:{number}::/64", gateway=f"fd00:{number}::1") for number in (1, 2))
ECHO, ADVERT, ROUTER = 128, 136, 134


@pytest.fixture
def wide(lab: Lab) -> Lab:
    """The lab with IPv6 on its uplink."""
    for namespace, address in ((lab.host, HOST6), (lab.outside, OUTSIDE6)):
        lab.ip(namespace, f"address add {address}/64 dev uplink nodad")
    lab.ip(lab.host, f"-6 route add default via {OUTSIDE6}")
    return lab


def six(pod: PodPeer) -> str:
    return pod.binding.address6.partition("/")[0]


def asks(lab: Lab, namespace: int, address: str, port: int) -> str:
    """Whom the server saw; empty: nobody answered."""
    try:
        return lab.ask(namespace, address, port, timeout=1.5)
    except OSError:
        return ""


async def test_pods_reach_their_network_and_the_world_and_no_other_network(site: Site, wide: Lab) -> None:
    front, back = await site.network(subnets6=(FRONT,)), await site.network(subnets6=(BACK,))
    one, two, other = await site.pod(front), await site.pod(front), await site.pod(back)
    assert (one.binding.address6, one.binding.gateway6, six(two)) == ("fd00:1::2/64", "fd00:1::1", "fd00:1::3")
    for pod in (one, two, other):
        wide.serve(pod.namespace, 7000, address="::")
    wide.serve(wide.outside, 7000, address="::")
    wide.serve(wide.host, 7001, address="::")
    assert asks(wide, one.namespace, six(two), 7000) == six(one)
    assert asks(wide, one.namespace, OUTSIDE6, 7000) == HOST6, "with the host's address"
    assert asks(wide, wide.host, six(one), 7000) == FRONT.gateway
    wide.ip(wide.outside, f"-6 route add fd00::/16 via {HOST6}")
    for namespace, target, port in ((one.namespace, six(other), 7000), (other.namespace, six(one), 7000),
                                    (wide.outside, six(one), 7000), (one.namespace, FRONT.gateway, 7001),
                                    (one.namespace, HOST6, 7001), (one.namespace, BACK.gateway, 7001)):
        assert asks(wide, namespace, target, port) == "", (target, port)
    await site.restart()
    assert asks(wide, one.namespace, six(two), 7000) == six(one)
    assert asks(wide, one.namespace, six(other), 7000) == ""


async def test_several_subnets_of_a_network_are_filled_one_after_the_other_and_reach_each_other(site: Site, wide: Lab
                                                                                               ) -> None:
    small = replace(FRONT, ip_range="fd00:1::/126")
    network = await site.network(subnets6=(small, BACK))
    one, two, three = [await site.pod(network) for _ in range(3)]
    assert [six(pod) for pod in (one, two, three)] == ["fd00:1::2", "fd00:1::3", "fd00:2::2"]
    assert (three.binding.address6, three.binding.gateway6) == ("fd00:2::2/64", BACK.gateway)
    four = await site.pod(network, address6="fd00:2::99")
    for pod in (one, three, four):
        wide.serve(pod.namespace, 7000, address="::")
    wide.serve(wide.outside, 7000, address="::")
    await site.restart()
    assert asks(wide, two.namespace, six(three), 7000) == six(two), "by way of the host"
    assert asks(wide, three.namespace, six(one), 7000) == six(three)
    assert asks(wide, three.namespace, six(four), 7000) == six(three)
    assert asks(wide, three.namespace, OUTSIDE6, 7000) == HOST6
    with pytest.raises(Forbidden, match="in use"):
        site.plan(network, address6="fd00:2::99")
    with pytest.raises(InvalidArgument, match=r"give an address of fd00:1::/64, fd00:2::/64"):
        site.plan(network, address6="fd00:3::9")


async def test_an_internal_network_has_no_way_out_and_an_isolated_one_none_within(site: Site, wide: Lab) -> None:
    inside = await site.network(subnets6=(FRONT,), internal=True)
    apart = await site.network(subnets6=(BACK,), isolated=True)
    one, two = await site.pod(inside), await site.pod(inside)
    three, four = await site.pod(apart), await site.pod(apart)
    wide.serve(wide.outside, 7000, address="::")
    for pod in (two, four):
        wide.serve(pod.namespace, 7000, address="::")
    assert one.binding.gateway6 == ""
    wide.ip(one.namespace, f"-6 route add default via {FRONT.gateway}")
    assert asks(wide, one.namespace, six(two), 7000) == six(one)
    assert asks(wide, one.namespace, OUTSIDE6, 7000) == ""
    assert asks(wide, three.namespace, six(four), 7000) == ""
    assert asks(wide, three.namespace, OUTSIDE6, 7000) == HOST6


async def test_a_published_port_answers_on_every_address_of_the_host(site: Site, wide: Lab) -> None:
    network = await site.network(subnets6=(FRONT,))
    pod, peer = await site.pod(network), await site.pod(network)
    other = await site.pod(await site.network(subnets6=(BACK,)))
    wide.serve(pod.namespace, 80, address="::")
    ports = await site.publish(pod, network, PortBinding(container_port=80, host_port=8080))
    assert ports[0].address6.partition("/")[0] == six(pod)
    assert asks(wide, wide.outside, HOST6, 8080) == OUTSIDE6
    assert asks(wide, wide.outside, wide.HOST, 8080) == f"::ffff:{wide.OUTSIDE}"
    assert asks(wide, wide.host, HOST6, 8080) != ""
    assert asks(wide, wide.host, wide.HOST, 8080) != ""
    assert asks(wide, peer.namespace, HOST6, 8080) != ""
    assert asks(wide, other.namespace, HOST6, 8080) == "", "no way between networks"
    await site.backend.unpublish(pod.binding.pod_id)
    assert asks(wide, wide.outside, HOST6, 8080) == ""
    site.ports.clear()
    await site.publish(pod, network, PortBinding(container_port=80, host_port=8080, host_ip=HOST6))
    assert asks(wide, wide.outside, HOST6, 8080) == OUTSIDE6
    assert asks(wide, wide.outside, wide.HOST, 8080) == ""
    with pytest.raises(Conflict, match=r"2001:db8:ffff::1.*8080 failed: port is already allocated"):
        await site.publish(peer, network, PortBinding(container_port=80, host_port=8080, host_ip=HOST6))


async def test_a_udp_sender_that_never_pauses_reaches_whoever_has_the_port_now(site: Site, wide: Lab) -> None:
    network = await site.network(subnets6=(FRONT,))
    wanted = PortBinding(container_port=53, host_port=5353, protocol="udp")
    with within(wide.outside, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sender:
        sender.sendto(b"to nobody", (HOST6, 5353))
        for number in range(2):
            pod = await site.pod(network)
            with within(pod.namespace, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as receiver:
                receiver.bind(("::", 53))
                receiver.settimeout(5)
                await site.publish(pod, network, wanted)
                sender.sendto(b"to pod %d" % number, (HOST6, 5353))
                assert receiver.recv(100) == b"to pod %d" % number
            await site.backend.unpublish(pod.binding.pod_id)
            site.ports.clear()


def icmp6(sender: PodPeer, target: PodPeer, *, source: str, kind: int, body: bytes, source_mac: str = "") -> bytes:
    """Ethernet, IPv6 and ICMPv6 with its checksum."""
    addresses = IPv6Address(source).packed + IPv6Address(six(target)).packed
    message = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = addresses + struct.pack("!II", len(message), 58) + message
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    message = message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]
    head = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + addresses
    return mac(target.binding.mac) + mac(source_mac or sender.binding.mac) + b"\x86\xdd" + head + message


def advert(address: str, owner: str) -> bytes:
    """A neighbour advertisement's body, that overrides what was known."""
    return struct.pack("!I", 0x20000000) + IPv6Address(address).packed + b"\x02\x01" + mac(owner)


async def test_forged_frames_are_dropped_and_honest_ones_are_not(site: Site, wide: Lab) -> None:
    network = await site.network(subnets6=(FRONT,))
    sender, target = await site.pod(network), await site.pod(network)
    own, local = six(sender), str(link_local(sender.binding.mac))
    seen = wide_socket(wide, target)
    gateway = FRONT.gateway
    echo = struct.pack("!HH", 1, 1) + b"forged"
    for frame in (
            icmp6(sender, target, source=gateway, kind=ECHO, body=echo),
            icmp6(sender, target, source="fd00:1::77", kind=ECHO, body=echo),
            icmp6(sender, target, source="fe80::1", kind=ECHO, body=echo),
            icmp6(sender, target, source=own, kind=ECHO, body=echo, source_mac="02:99:99:99:99:99"),
            icmp6(sender, target, source=own, kind=ADVERT, body=advert(gateway, sender.binding.mac)),
            icmp6(sender, target, source=local, kind=ADVERT, body=advert(gateway, sender.binding.mac)),
            icmp6(sender, target, source=local, kind=ROUTER, body=bytes(12)),
            icmp6(sender, target, source=local, kind=137, body=bytes(36))):
        sender.inject(frame)
    sender.inject(icmp6(sender, target, source=own, kind=ADVERT, body=advert(own, sender.binding.mac)))
    sender.inject(icmp6(sender, target, source=own, kind=ECHO, body=struct.pack("!HH", 1, 1) + b"honest"))
    kinds = []
    while True:
        packet = seen.recv(2000)
        if packet[20] == 58 and packet[6:12] == mac(sender.binding.mac):
            kinds.append(packet[54])
            if packet.endswith(b"honest"):
                break
        assert b"forged" not in packet
        assert packet[6:12] != mac("02:99:99:99:99:99")
    assert ROUTER not in kinds
    assert kinds.count(ADVERT) == 1, "its own"


def wide_socket(lab: Lab, pod: PodPeer) -> socket.socket:
    wire = within(pod.namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD)))
    wire.bind(("eth0", 0x86DD))
    wire.settimeout(5)
    return wire


async def test_a_pod_of_a_network_without_it_sends_none(site: Site, wide: Lab) -> None:
    with_it, without = await site.network(subnets6=(FRONT,)), await site.network()
    target = await site.pod(with_it)
    sender = await site.pod(without)
    assert (sender.binding.address6, sender.binding.gateway6) == ("", "")
    assert "disable_ipv6 = 1" in wide.run(wide.host, "sysctl", f"net.ipv6.conf.{sender.binding.bridge}.disable_ipv6")
    wide.ip(sender.namespace, "address add fd00:1::66/64 dev eth0 nodad")
    wide.serve(target.namespace, 7000, address="::")
    assert asks(wide, sender.namespace, six(target), 7000) == ""


async def test_a_host_without_ipv6_refuses_it_and_names_why(site: Site, wide: Lab, resolv_conf: Path) -> None:
    wide.run(wide.host, "sysctl", "-w", "net.ipv6.conf.all.disable_ipv6=1")
    without = Site(wide, resolv_conf, instance="without")
    await without.backend.start()
    network = Network(id="n", name="n", project="p", subnets=(Subnet(cidr="10.9.0.0/24", gateway="10.9.0.1"),),
                      subnets6=(FRONT,))
    with pytest.raises(UnsupportedOption, match="IPv6 on this host is not supported: its kernel has no IPv6"):
        without.backend.check(network, [])
    await without.backend.close()


async def test_what_cannot_be_a_subnet_or_an_address_is_refused(site: Site, wide: Lab) -> None:
    def network(subnet: Subnet, ident: str = "n") -> Network:
        return Network(id=ident, name="n", project="p", subnets=(Subnet(cidr="10.9.0.0/24", gateway="10.9.0.1"),),
                       subnets6=(subnet,))

    for subnet, words in ((Subnet(cidr="2a00::/64", gateway="2a00::1"), "no private range"),
                          (Subnet(cidr="fd00::/16", gateway="fd00::1"), "no private range"),
                          (Subnet(cidr="fd00:1::/64", gateway="fd00:2::1"), "failed to allocate gateway"),
                          (Subnet(cidr="fd00:1::/64", gateway="x"), "gateway|not permitted|At least"),
                          (Subnet(cidr="fd00:1::/64", gateway="fd00:1::1", ip_range="fd00:2::/80"), "not within")):
        with pytest.raises(InvalidArgument, match=words):
            site.backend.check(network(subnet), [])
    with pytest.raises(Conflict, match="which this host has a route to"):
        site.backend.check(network(Subnet(cidr="2001:db8:ffff::/64", gateway="2001:db8:ffff::2")), [])
    other = replace(network(FRONT, "other"), subnets=(Subnet(cidr="10.8.0.0/24", gateway="10.8.0.1"),))
    with pytest.raises(Forbidden, match="that of network n"):
        site.backend.check(network(FRONT), [other])
    made = await site.network(subnets6=(FRONT,))
    await site.pod(made, address6="fd00:1::77")
    plan = site.backend.plan
    for wanted, error in (("fd00:1::77", Forbidden), ("fd00:1::1", Forbidden), ("fd00:2::5", InvalidArgument),
                          ("fd00:1::", Forbidden), ("10.0.0.1", InvalidArgument)):
        with pytest.raises(error):
            plan(made, pod_id="x", taken=["fd00:1::77"], address6=wanted)
    with pytest.raises(InvalidArgument, match="has no IPv6"):
        plan(await site.network(), pod_id="x", taken=(), address6="fd00:1::5")
    chosen, gateway = site.backend.choose_subnet6("n", ())
    assert IPv6Address(gateway) in IPv6Network(chosen)
    assert site.backend.choose_subnet6("n", [chosen])[0] != chosen


def bridged_packets_are_filtered(yes: bool) -> None:
    """As where br_netfilter is loaded."""
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables")
    if switch.exists():
        switch.write_text(str(int(yes)))
    elif yes:
        pytest.skip("this kernel has no br_netfilter")


async def test_a_port_is_published_on_the_hosts_loopback_address(site: Site, wide: Lab) -> None:
    bridged_packets_are_filtered(False)
    networks = [await site.network(subnets6=(subnet,)) for subnet in (FRONT, BACK)]
    for number, (network, gateway) in enumerate(zip(networks, (FRONT.gateway, BACK.gateway), strict=True)):
        pod = await site.pod(network)
        wide.serve(pod.namespace, 7000, address="::")
        wide.serve(pod.namespace, 7000, address="::", udp=True)
        await site.publish(pod, network, PortBinding(container_port=7000, host_port=8000 + number),
                           PortBinding(container_port=7000, host_port=8000 + number, protocol="udp"),
                           PortBinding(container_port=7000, host_port=8010 + number, host_ip="::1"))
        assert asks(wide, wide.host, "::1", 8000 + number) == gateway
        assert wide.ask(wide.host, "::1", 8000 + number, udp=True) == gateway
        assert asks(wide, wide.host, "::1", 8010 + number) == gateway
        assert asks(wide, wide.outside, HOST6, 8010 + number) == "", "on ::1 alone"
        assert asks(wide, pod.namespace, "::1", 8000 + number) == "", "the pod's own loopback is another"
    wide.serve(wide.host, 9000, address="::1")
    assert asks(wide, wide.host, "::1", 9000) == "::1", "the host's own servers are where they were"
    assert " dev lo " in wide.ip(wide.host, "-6 route get ::1")
    assert await site.restart() == []
    assert asks(wide, wide.host, "::1", 8001) == BACK.gateway


async def test_where_bridged_packets_are_filtered_it_is_not_and_that_is_said(site: Site, wide: Lab) -> None:
    bridged_packets_are_filtered(True)
    network = await site.network(subnets6=(FRONT,))
    pod = await site.pod(network)
    wide.serve(pod.namespace, 7000, address="::")
    await site.publish(pod, network, PortBinding(container_port=7000, host_port=8000))
    with pytest.raises(ConnectionRefusedError):
        wide.ask(wide.host, "::1", 8000)
    assert asks(wide, wide.host, FRONT.gateway, 8000)
    with pytest.raises(UnsupportedOption, match=r"\[::1\].*bridge-nf-call-ip6tables=0"):
        site.backend.choose_ports((PortBinding(container_port=7000, host_ip="::1"),), pod_id="p", address=pod.address,
                                  address6=pod.binding.address6, taken=())


def udp6(sender: PodPeer, target_mac: str, target: str, port: int) -> bytes:
    """Ethernet, IPv6, UDP."""
    ends = IPv6Address(six(sender)).packed + IPv6Address(target).packed
    head, body = struct.pack("!HHH", 4444, port, 12), b"host"
    total = checksum(ends + struct.pack("!II", 12, 17) + head + bytes(2) + body)
    return (mac(target_mac) + mac(sender.binding.mac) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, 12, 17, 64) + ends
            + head + struct.pack("!H", total) + body)


@pytest.mark.parametrize("filtered", [False, True])
async def test_a_pod_reaches_nothing_on_the_hosts_loopback_address(site: Site, wide: Lab, filtered: bool) -> None:
    bridged_packets_are_filtered(filtered)
    network = await site.network(subnets6=(FRONT,))
    pod, peer = await site.pod(network), await site.pod(network)
    heard = []
    for namespace, target_mac, target in ((peer.namespace, peer.binding.mac, six(peer)),
                                          (wide.host, bridge_mac(network), "::1")):
        with within(namespace, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as listener:
            listener.bind(("::", 9000))
            pod.inject(udp6(pod, target_mac, target, 9000))
            assert wide.pings(pod.namespace, peer.address), "what came before has been dealt with"
            assert wide.pings(pod.namespace, network.subnets[0].gateway)
            heard.append(not nothing_there(listener))
    assert heard == [True, False]
