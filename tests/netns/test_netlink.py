"""What a pod's start says over netlink, to a real kernel."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from hyperstack.network.bridge.elements import Change, Element, ElementsRefused, ElementTable
from hyperstack.network.bridge.netlink import Message, Netlink, Refused, u32
from tests.netns.lab import Lab

_ROUTE, _NEW_LINK, _MTU = 0, 16, 4
_SETS = """table ip hyperstack-x {
    map ports_any { type inet_proto . inet_service : ipv4_addr . inet_service; }
    map ports_at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
}
table bridge hyperstack-x {
    set bindings { type ifname . ether_addr . ipv4_addr; }
}
"""
_ELEMENTS = (Element("bridge", "bindings", ("ht0123456789012", "02:48:0a:d4:00:02", "10.212.0.2")),
             Element("ip", "ports_any", ("sctp", "53"), ("10.212.0.2", "80")),
             Element("ip", "ports_at", ("192.0.2.1", "udp", "65535"), ("10.212.0.2", "8080")))


def mtu_of(index: int, mtu: int) -> Message:
    return Message(_NEW_LINK, struct.pack("=BxHiII", 0, 0, index, 0, 0) + u32(_MTU, mtu))


def test_the_first_refusal_counts_and_the_next_messages_are_answered(lab: Lab) -> None:
    netlink = Netlink(_ROUTE)
    loopback = socket.if_nametoindex("lo")
    with pytest.raises(Refused) as caught:
        netlink.tell(mtu_of(loopback, 9000), mtu_of(9999, 1500), mtu_of(9998, 1500))
    assert caught.value.errno == errno.ENODEV
    assert "mtu 9000" in lab.ip(lab.host, "link show lo")
    netlink.tell(mtu_of(loopback, 9001))
    with pytest.raises(Refused, match="mtu"):  # the kernel's own words
        netlink.tell(mtu_of(loopback, 1 << 31))
    netlink.close()


def test_elements_mean_to_netlink_what_they_mean_to_nft(lab: Lab) -> None:
    table = ElementTable("hyperstack-x")
    table.open()
    lab.run(lab.host, "nft", _SETS)
    empty = lab.run(lab.host, "nft", "list", "ruleset")
    for element in _ELEMENTS:
        lab.run(lab.host, "nft", f"add element {element.family} hyperstack-x {element.set} {{ {element} }}")
    said = lab.run(lab.host, "nft", "list", "ruleset")
    table.apply([Change("delete", _ELEMENTS)])
    assert lab.run(lab.host, "nft", "list", "ruleset") == empty
    for _ in range(2):
        table.apply([Change("add", _ELEMENTS)])
        assert lab.run(lab.host, "nft", "list", "ruleset") == said
    table.close()


def test_a_change_is_made_whole_or_not_at_all(lab: Lab) -> None:
    table = ElementTable("hyperstack-x")
    table.open()
    lab.run(lab.host, "nft", _SETS)
    empty = lab.run(lab.host, "nft", "list", "ruleset")
    with pytest.raises(ElementsRefused, match="No such file"):
        table.apply([Change("add", _ELEMENTS[:1]), Change("delete", _ELEMENTS[1:])])
    assert lab.run(lab.host, "nft", "list", "ruleset") == empty
    table.apply([Change("delete", ()), Change("add", _ELEMENTS)])
    table.close()
