"""Networks with names, several subnets, isolated pods: what users make, on a real kernel."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import pytest

from hyperstack.network.api import Network, Published, Subnet
from hyperstack.pod.errors import Conflict, Forbidden, InvalidArgument
from hyperstack.pod.spec import PortBinding
from tests.netns.conftest import Site
from tests.netns.lab import Lab, PodPeer, entered, within

GATEWAY = "10.212.0.1"
SHUT = r"refused|unreachable|No route|timed out"


def question(name: str, kind: str = "A") -> bytes:
    return dns.message.make_query(name, kind).to_wire()


def query(namespace: int, data: bytes, server: str = GATEWAY, *, stream: bool = False, timeout: float = 10.0
          ) -> dns.message.Message:
    """:raise OSError: no answer, or a refusal."""
    kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
    with within(namespace, lambda: socket.socket(socket.AF_INET, kind)) as client:
        client.settimeout(timeout)
        client.connect((server, 53))
        if not stream:
            client.send(data)
            return dns.message.from_wire(client.recv(65535))
        client.sendall(struct.pack("!H", len(data)) + data)
        with client.makefile("rb") as file:
            (length,) = struct.unpack("!H", file.read(2))
            return dns.message.from_wire(file.read(length))


async def resolve(pod: PodPeer, name: str, kind: str = "A", *, stream: bool = False) -> list[str]:
    """From within the pod, while this loop runs the resolver."""
    found = await asyncio.to_thread(query, pod.namespace, question(name, kind), stream=stream)
    return sorted(str(item) for rrset in found.answer for item in rrset)


async def code(pod: PodPeer, name: str) -> int:
    return (await asyncio.to_thread(query, pod.namespace, question(name))).rcode()


@contextlib.contextmanager
def world(lab: Lab, address: str = Lab.OUTSIDE, text: str = "198.51.100.77") -> Iterator[list[str]]:
    """A name server outside that has one answer for everything; and who asked it."""
    askers: list[str] = []
    with entered(lab.outside):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    for one in (udp, tcp):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, 53))
    tcp.listen()

    def reply(data: bytes) -> bytes:
        asked = dns.message.from_wire(data)
        response = dns.message.make_response(asked)
        response.answer.append(dns.rrset.from_text(asked.question[0].name, 60, "IN", "A", text))
        return response.to_wire()

    def datagrams() -> None:
        with contextlib.suppress(OSError):
            while True:
                data, peer = udp.recvfrom(4096)
                if peer is None:
                    return
                askers.append(peer[0])
                udp.sendto(b"forged" + reply(data)[6:], peer)
                udp.sendto(reply(data), peer)

    def connections() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, peer = tcp.accept()
                askers.append(peer[0])
                with client:
                    found = reply(client.recv(4096)[2:])
                    client.sendall(struct.pack("!H", len(found)) + found)

    threads = [threading.Thread(target=work, daemon=True) for work in (datagrams, connections)]
    for thread in threads:
        thread.start()
    try:
        yield askers
    finally:
        for one in (udp, tcp):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


async def test_pods_of_a_network_find_each_other_by_name(site: Site) -> None:
    network = await site.network(names=True, name="front")
    web = await site.pod(network, names=("web", "0123456789ab"), links={"data": "db"})
    database = await site.pod(network, names=("db", "store"))
    assert web.binding.dns == (network.subnets[0].gateway,)
    for stream in (False, True):
        for name in ("db", "STORE", "db.front", "data"):
            assert await resolve(web, name, stream=stream) == [database.address]
    assert await resolve(database, "0123456789ab") == [web.address]
    assert await resolve(database, "2.0.212.10.in-addr.arpa", "PTR") == ["web.front."]
    assert await resolve(web, "db", "AAAA") == []
    await site.backend.unplug(database.binding)
    with world(site.lab):
        assert await resolve(web, "db") == ["198.51.100.77"]


async def test_a_renamed_pod_is_found_by_its_new_name(site: Site) -> None:
    from dataclasses import replace

    network = await site.network(names=True)
    web, other = await site.pod(network, names=("web",)), await site.pod(network, names=("other",))
    site.backend.rename(replace(web.binding, names=("front",)))
    assert await resolve(other, "front") == [web.address]


async def test_other_names_are_asked_of_the_hosts_servers(site: Site, lab: Lab) -> None:
    network = await site.network(names=True)
    pod = await site.pod(network, names=("web",))
    with world(lab) as askers:
        assert await resolve(pod, "example.org") == ["198.51.100.77"]
        assert await resolve(pod, "example.org", stream=True) == ["198.51.100.77"]
    assert askers == [lab.HOST, lab.HOST]


async def test_without_an_answer_from_outside_the_pod_is_told_so(site: Site, lab: Lab) -> None:
    pod = await site.pod(await site.network(names=True), names=("web",))
    assert await code(pod, "example.org") == dns.rcode.SERVFAIL


async def test_an_internal_network_knows_its_own_names_only(site: Site, lab: Lab) -> None:
    network = await site.network(names=True, internal=True)
    one, two = await site.pod(network, names=("one",)), await site.pod(network, names=("two",), servers=(lab.OUTSIDE,))
    with world(lab) as askers:
        assert await resolve(one, "two") == [two.address]
        assert await code(one, "example.org") == dns.rcode.NXDOMAIN
        assert await code(two, "example.org") == dns.rcode.NXDOMAIN
    assert askers == []


async def test_a_pods_own_servers_are_asked_where_the_pod_itself_could(site: Site, lab: Lab) -> None:
    """The daemon asks from the host, which reaches more than a pod may."""
    lab.ip(lab.outside, "address add 203.0.113.5/32 dev lo")
    lab.ip(lab.outside, "address add 169.254.169.254/32 dev lo")
    network, beside = await site.network(names=True), await site.network("beta", names=True)
    near, far = await site.pod(network, names=("near",)), await site.pod(beside, names=("far",))
    for host_address in ("127.0.0.1", lab.SECOND):
        lab.serve(lab.host, 53, udp=True, address=host_address)
    lab.serve(near.namespace, 53, udp=True)
    lab.serve(far.namespace, 53, udp=True)
    with world(lab, "203.0.113.5", "192.0.2.55"), world(lab, "169.254.169.254"):
        good = await site.pod(network, names=("good",), servers=("fd00::1", "203.0.113.5"))
        assert await resolve(good, "example.org") == ["192.0.2.55"]
        for forbidden in ("127.0.0.1", lab.SECOND, lab.HOST, "169.254.169.254", far.address, GATEWAY, "0.0.0.0",
                          "224.0.0.251"):
            bad = await site.pod(network, names=("bad",), servers=(forbidden,))
            assert await code(bad, "example.org") == dns.rcode.NXDOMAIN, forbidden


async def test_a_resolver_answers_its_own_network_alone(site: Site, lab: Lab) -> None:
    one = await site.network(names=True)
    two = await site.network(names=True, name="two")
    plain = await site.network("beta")
    inside, stranger, other = [await site.pod(network, names=("same",)) for network in (one, two, plain)]
    assert await resolve(inside, "same") == [inside.address]
    for pod in (stranger, other):
        with pytest.raises(OSError, match=SHUT):
            await asyncio.to_thread(query, pod.namespace, question("same"), one.subnets[0].gateway, timeout=0.5)
    with pytest.raises(OSError, match=SHUT):
        await asyncio.to_thread(query, lab.host, question("same"), one.subnets[0].gateway, timeout=0.5)
    assert other.binding.names == ()
    assert other.binding.dns == (lab.OUTSIDE,)


async def test_names_are_there_again_after_a_kill_and_gone_with_their_network(site: Site, lab: Lab) -> None:
    network = await site.network(names=True)
    web, other = await site.pod(network, names=("web",)), await site.pod(network, names=("other",))
    former = site.backend
    assert await site.restart() == []
    assert await resolve(other, "web") == [web.address]
    former._naming.close()  # as the kernel does for a killed process
    assert await resolve(other, "web") == [web.address]
    for pod in (web, other):
        pod.close()
        await site.backend.unplug(pod.binding)
    await site.backend.remove(network.id)
    assert "hyperstack" not in lab.run(lab.host, "nft", "list", "tables")
    assert "53" not in lab.run(lab.host, "ss", "-lnptuH")


async def test_one_that_asks_from_the_same_port_for_ever_is_answered_after_a_restart(site: Site, lab: Lab) -> None:
    """Connection tracking would keep its flow on the port where the dead daemon listened."""
    pod = await site.pod(await site.network(names=True), names=("web",))
    with within(pod.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.connect((GATEWAY, 53))
        client.settimeout(10)

        def again() -> bytes:
            client.send(question("web"))
            return client.recv(512)

        assert await asyncio.to_thread(again)
        former = site.backend
        former._naming.close()
        with pytest.raises(OSError, match=SHUT):
            await asyncio.to_thread(again)
        await site.restart()
        assert await asyncio.to_thread(again)


async def test_nobody_is_kept_from_names_by_one_who_never_stops_asking(site: Site, lab: Lab) -> None:
    network = await site.network(names=True)
    greedy, polite = await site.pod(network, names=("greedy",)), await site.pod(network, names=("polite",))

    def flood() -> int:
        """How many of 5,000 questions are answered; from one port, as a flow that the kernel knows."""
        with within(greedy.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
            client.connect((GATEWAY, 53))
            client.setblocking(False)
            data, answered = question("polite"), 0
            for _ in range(5000):
                with contextlib.suppress(BlockingIOError):
                    client.send(data)
                with contextlib.suppress(BlockingIOError):
                    client.recv(512)
                    answered += 1
            return answered

    flooding = asyncio.create_task(asyncio.to_thread(flood))
    assert await resolve(polite, "greedy") == [greedy.address]
    assert await flooding < 5000
    rules = lab.run(lab.host, "nft", "list", "set", "ip", "hyperstack-test", "askers")
    assert greedy.address in rules


async def test_a_network_of_several_subnets_is_one_network(site: Site, lab: Lab) -> None:
    subnets = (Subnet(cidr="10.1.2.0/30", gateway="10.1.2.1"),
               Subnet(cidr="10.1.8.0/24", gateway="10.1.8.254", ip_range="10.1.8.64/26", reserved={"r": "10.1.8.64"}))
    network = await site.network(names=True, subnets=subnets)
    one, two = await site.pod(network, names=("one",)), await site.pod(network, names=("two",))
    assert (one.binding.address, one.binding.gateway) == ("10.1.2.2/30", "10.1.2.1")
    assert (two.binding.address, two.binding.gateway, two.binding.dns) == ("10.1.8.65/24", "10.1.8.254",
                                                                           ("10.1.8.254",))
    lab.serve(one.namespace, 80)
    assert lab.ask(two.namespace, one.address, 80) == two.address
    assert lab.pings(two.namespace, "10.1.8.254")
    found = await asyncio.to_thread(query, two.namespace, question("one"), "10.1.8.254")
    assert str(found.answer[0][0]) == one.address
    lab.serve(lab.outside, 80)
    assert lab.ask(two.namespace, lab.OUTSIDE, 80) == lab.HOST


async def test_pods_of_an_isolated_network_reach_the_world_but_not_each_other(site: Site, lab: Lab) -> None:
    network = await site.network(isolated=True)
    one, two = await site.pod(network), await site.pod(network)
    lab.serve(two.namespace, 80)
    lab.serve(lab.outside, 80)
    assert lab.ask(one.namespace, lab.OUTSIDE, 80) == lab.HOST
    with pytest.raises(OSError, match=SHUT):
        lab.ask(one.namespace, two.address, 80, timeout=0.5)
    # Nor around the bridge's back: by way of the host.
    lab.ip(one.namespace, f"route add {two.address} via {network.subnets[0].gateway}")
    with pytest.raises(OSError, match=SHUT):
        lab.ask(one.namespace, two.address, 80, timeout=0.5)
    await site.sweep()
    with pytest.raises(OSError, match=SHUT):
        lab.ask(one.namespace, two.address, 80, timeout=0.5)


async def test_without_masquerade_pods_leave_with_their_own_address(site: Site, lab: Lab) -> None:
    network = await site.network(masquerade=False)
    pod = await site.pod(network)
    lab.ip(lab.outside, f"route add {network.subnets[0].cidr} via {lab.HOST}")
    lab.serve(lab.outside, 80)
    assert lab.ask(pod.namespace, lab.OUTSIDE, 80) == pod.address


async def test_ports_are_published_on_networks_of_users(site: Site, lab: Lab) -> None:
    network = await site.network(names=True)
    pod, other = await site.pod(network, names=("a",)), await site.pod(await site.network("beta", names=True))
    lab.serve(pod.namespace, 80)
    await site.publish(pod, network, PortBinding(container_port=80, host_port=8080))
    assert lab.ask(lab.outside, lab.HOST, 8080) == lab.OUTSIDE
    with pytest.raises(OSError, match=SHUT):
        lab.ask(other.namespace, lab.HOST, 8080, timeout=0.5)
    assert isinstance(site.ports[0], Published)


async def test_a_tenant_takes_no_address_of_the_hosts_or_the_worlds(site: Site) -> None:
    mine = Network(id="a", name="mine", project="alpha", subnets=(Subnet(cidr="10.9.0.0/24", gateway="10.9.0.1"),))

    def check(cidr: str, gateway: str, **more: object) -> None:
        subnet = Subnet(cidr=cidr, gateway=gateway, **more)  # type: ignore[arg-type]
        site.backend.check(Network(id="b", name="new", project="beta", subnets=(subnet,)), [mine])

    check("10.8.0.0/24", "10.8.0.7", ip_range="10.8.0.128/25", reserved={"router": "10.8.0.9"})
    with pytest.raises(InvalidArgument, match="not a private range"):
        check("8.8.8.0/24", "8.8.8.1")
    with pytest.raises(Forbidden, match="and a network of another project"):
        check("10.0.0.0/8", "10.0.0.1")
    site.lab.ip(site.lab.host, "route add 10.66.0.0/16 via 192.0.2.9")
    with pytest.raises(Conflict, match="which this host has a route to"):
        check("10.66.5.0/24", "10.66.5.1")
    for wrong in ({"ip_range": "10.9.0.0/24"}, {"ip_range": "x"}, {"reserved": {"a": "10.9.9.9"}},
                  {"reserved": {"a": "10.8.0.7"}}, {"reserved": {str(n): "10.8.0.9" for n in range(300)}}):
        with pytest.raises(InvalidArgument):
            check("10.8.0.0/24", "10.8.0.7", **wrong)
