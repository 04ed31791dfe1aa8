"""What a hostile guest may try on the wire."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from tests.netns.conftest import Site
from tests.netns.lab import Lab, PodPeer, arp_frame, mac, nothing_there, udp_frame, within

STRANGE_MAC = "02:99:99:99:99:99"


def honest(sender: PodPeer, target: PodPeer, payload: bytes) -> bytes:
    return udp_frame(source_mac=sender.binding.mac, target_mac=target.binding.mac, source=sender.address,
                     target=target.address, port=5000, payload=payload)


def with_another_mac(sender: PodPeer, target: PodPeer) -> bytes:
    return udp_frame(source_mac=STRANGE_MAC, target_mac=target.binding.mac, source=sender.address,
                     target=target.address, port=5000, payload=b"forged")


def with_another_address(sender: PodPeer, target: PodPeer) -> bytes:
    return udp_frame(source_mac=sender.binding.mac, target_mac=target.binding.mac, source=sender.binding.gateway,
                     target=target.address, port=5000, payload=b"forged")


def with_a_vlan_tag(sender: PodPeer, target: PodPeer) -> bytes:
    return udp_frame(source_mac=sender.binding.mac, target_mac=target.binding.mac, source=sender.address,
                     target=target.address, port=5000, payload=b"forged", vlan=7)


def of_ipv6(sender: PodPeer, target: PodPeer) -> bytes:
    return mac(target.binding.mac) + mac(sender.binding.mac) + b"\x86\xdd" + b"\x60" + bytes(3) + b"\x00\x00\x3b\x40" \
        + bytes(32)


def of_an_unknown_kind(sender: PodPeer, target: PodPeer) -> bytes:
    return mac(target.binding.mac) + mac(sender.binding.mac) + b"\x88\xb5" + b"forged" * 10


def with_forged_arp(sender: PodPeer, target: PodPeer) -> bytes:
    return arp_frame(source_mac=sender.binding.mac, sender_mac=sender.binding.mac, sender=sender.binding.gateway,
                     target=target.address)


def with_arp_of_another_mac(sender: PodPeer, target: PodPeer) -> bytes:
    return arp_frame(source_mac=sender.binding.mac, sender_mac=STRANGE_MAC, sender=sender.address,
                     target=target.address)


@pytest.mark.parametrize("forge", [with_another_mac, with_another_address, with_a_vlan_tag, of_ipv6,
                                   of_an_unknown_kind, with_forged_arp, with_arp_of_another_mac])
async def test_a_forged_frame_is_dropped(site: Site, lab: Lab, forge: Callable[[PodPeer, PodPeer], bytes]) -> None:
    network = await site.network()
    sender, target = await site.pod(network), await site.pod(network)
    wire = within(target.namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    with wire:
        wire.bind(("eth0", 0))
        wire.settimeout(5)
        forged = forge(sender, target)
        sender.inject(forged)
        sender.inject(honest(sender, target, b"honest"))
        seen: list[bytes] = []
        while not seen or b"honest" not in seen[-1]:
            seen.append(wire.recv(2000))
    # The kernel may have taken a VLAN tag off, so compare what follows it.
    assert not any(forged[-20:] in frame for frame in seen)


async def test_control_frames_reach_neither_the_host_nor_the_forwarding_table(site: Site, lab: Lab) -> None:
    """Link-local multicast skips the bridge's prerouting hook, hence the fence."""
    network = await site.network()
    sender, target = await site.pod(network), await site.pod(network)
    receiver = within(lab.host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with receiver:
        receiver.bind(("", 5000))
        for low in (0x00, 0x01, 0x03, 0x0E):
            group = f"01:80:c2:00:00:{low:02x}"
            for host_address in (network.subnets[0].gateway, lab.HOST):
                sender.inject(udp_frame(source_mac=target.binding.mac, target_mac=group, source=target.address,
                                        target=host_address, port=5000, payload=b"forged"))
            for number in range(1, 9):
                sender.inject(arp_frame(source_mac=sender.binding.mac, target_mac=group, sender_mac=STRANGE_MAC,
                                        sender=f"192.0.2.{100 + number}", target=lab.HOST))
        assert lab.pings(sender.namespace, network.subnets[0].gateway)
        assert nothing_there(receiver)
    assert STRANGE_MAC not in lab.ip(lab.host, "neighbour")
    table = lab.run(lab.host, "bridge", "fdb", "show", "br", sender.binding.bridge)
    assert f"{target.binding.mac} dev {target.binding.tap} " in table
    assert f"{target.binding.mac} dev {sender.binding.tap} " not in table


async def test_a_tap_without_a_binding_is_mute(site: Site, lab: Lab) -> None:
    """The fence stands before the tap does: what is not told to nftables yet passes nothing."""
    network = await site.network()
    sender, target = await site.pod(network), await site.pod(network)
    lab.run(lab.host, "nft", "flush set bridge hyperstack-test bindings")
    receiver = target.bind(5000)
    with receiver:
        sender.inject(honest(sender, target, b"unbound"))
        await site.sweep()
        sender.inject(honest(sender, target, b"bound"))
        assert receiver.recv(100) == b"bound"


async def test_nothing_disturbs_a_quiet_pod(site: Site, lab: Lab) -> None:
    """No router solicitations, multicast listener reports or spanning tree on its wire."""
    pod = await site.pod(await site.network())
    for device in (pod.binding.tap, pod.binding.bridge):
        assert "inet6" not in lab.ip(lab.host, f"address show dev {device}")
