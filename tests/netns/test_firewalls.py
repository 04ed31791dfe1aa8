"""Hosts that have a firewall already: what it does to pods is found, the remedy helps, and nothing of it is touched."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hyperstack.network.bridge.firewalls import other_firewalls
from hyperstack.network.bridge.names import Names
from hyperstack.pod.finding import Finding
from hyperstack.pod.spec import PortBinding
from tests.netns.conftest import Site
from tests.netns.lab import Lab, PodPeer
from tests.netns.test_lifecycle import devices, tables

DOCKER = ("-P FORWARD DROP", "-N DOCKER-USER", "-N DOCKER", "-A FORWARD -j DOCKER-USER",
          "-A FORWARD -o docker0 -j DOCKER", "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT", "-A DOCKER-USER -j RETURN")
CAREFUL = ("-P INPUT DROP", "-P FORWARD DROP", "-A INPUT -i lo -j ACCEPT",
           "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-A INPUT -p tcp --dport 22 -j ACCEPT")
REJECTING = ("-A INPUT -p icmp -j ACCEPT", "-A INPUT -j REJECT", "-A FORWARD -j REJECT")
NATIVE = ("add table inet filter; add chain inet filter input { type filter hook input priority 0; policy drop; }; "
          "add rule inet filter input iifname lo accept; "
          "add chain inet filter forward { type filter hook forward priority 0; policy accept; }; "
          "add rule inet filter forward iifname nothing accept; add rule inet filter forward counter drop")


def firewall(lab: Lab, kind: str, rules: tuple[str, ...]) -> None:
    if shutil.which(kind) is None:
        pytest.skip(f"this host has no {kind}")
    for rule in rules:
        lab.run(lab.host, kind, *rule.split())


def rules(lab: Lab, kind: str) -> str:
    """Without counters."""
    if kind == "nft":
        return lab.run(lab.host, "nft", "-s", "list", "table", "inet", "filter")
    return lab.run(lab.host, kind, "-S")


def finding(lab: Lab) -> Finding:
    return other_firewalls(Names("test"))


async def reached(site: Site, lab: Lab, pod: PodPeer, peer: PodPeer) -> dict[str, bool]:
    """Each of them with little patience, since drops are silent."""
    def answers(namespace: int, address: str, port: int) -> bool:
        try:
            return bool(lab.ask(namespace, address, port, timeout=0.5))
        except OSError:
            return False

    gateway = site.networks[0].subnets[0].gateway
    return {"peer": lab.pings(pod.namespace, peer.address, wait_s=1),
            "outside": answers(pod.namespace, lab.OUTSIDE, 80),
            "published": answers(lab.outside, lab.HOST, 8080),
            "gateway": lab.pings(pod.namespace, gateway, wait_s=1)}


@pytest.mark.parametrize(("kind", "others", "lost", "words"), [
    ("iptables-nft", DOCKER, {"outside", "published"}, "iptables -I DOCKER-USER -i hs"),
    ("iptables-nft", CAREFUL, {"outside", "published", "gateway"}, "iptables -I INPUT -i hs"),
    ("iptables-nft", REJECTING, {"outside", "published"}, "iptables -I FORWARD -o hs"),
    ("iptables-legacy", DOCKER, {"outside", "published"}, "iptables-legacy -I DOCKER-USER -i hs"),
    ("iptables-legacy", CAREFUL, {"outside", "published", "gateway"}, "iptables-legacy -I INPUT -i hs"),
    ("nft", (NATIVE,), {"outside", "published", "gateway"}, "nft 'insert rule inet filter forward iifname"),
], ids=["docker", "careful", "rejecting", "docker-legacy", "careful-legacy", "native"])
async def test_a_firewall_that_drops_is_told_the_remedy_helps_and_nothing_is_left(
        site: Site, lab: Lab, caplog: pytest.LogCaptureFixture, kind: str, others: tuple[str, ...], lost: set[str],
        words: str) -> None:
    # Where bridged packets are seen by iptables as well, what is said of FORWARD holds for pods of one network, too.
    for family in ("iptables", "ip6tables"):
        switch = Path(f"/proc/sys/net/bridge/bridge-nf-call-{family}")
        if switch.exists():
            switch.write_text("0")
    assert finding(lab).status == "ok"
    firewall(lab, kind, others)
    before = rules(lab, kind)
    network = await site.network()
    pod, peer = await site.pod(network), await site.pod(network)
    lab.serve(lab.outside, 80)
    lab.serve(pod.namespace, 80)
    await site.publish(pod, network, PortBinding(container_port=80, host_port=8080))
    assert {name for name, good in (await reached(site, lab, pod, peer)).items() if not good} == lost
    found = finding(lab)
    assert found.status == "warn"
    assert words in found.remedy
    await site.restart()
    assert found.remedy in caplog.text, "the daemon says it at its start"
    remedy = found.remedy.partition(" (what")[0]
    lab.run(lab.host, "sh", "-c", remedy)
    assert all((await reached(site, lab, pod, peer)).values())
    assert finding(lab).status == "ok", "whoever did what was said is not told again"
    lab.run(lab.host, "sh", "-c", undone(lab, remedy))
    for gone in (pod, peer):
        gone.close()
        await site.backend.unplug(gone.binding)
    await site.backend.unpublish(pod.binding.pod_id)
    await site.backend.close()
    assert rules(lab, kind) == before
    assert (devices(lab), "hyperstack" in tables(lab)) == (set(), False)


def undone(lab: Lab, remedy: str) -> str:
    """The commands that take away what these put there."""
    if remedy.startswith("nft"):
        listed = lab.run(lab.host, "nft", "-a", "list", "table", "inet", "filter")
        chain, commands = "", []
        for line in listed.splitlines():
            words = line.split()
            chain = words[1] if words[:1] == ["chain"] else chain
            if any(word.startswith('"hs') for word in words):
                commands.append(f"nft delete rule inet filter {chain} handle {words[-1]}")
        return " && ".join(commands)
    return remedy.replace(" -I ", " -D ")


async def test_where_bridged_packets_are_filtered_pods_of_one_network_are_let_through_as_well(site: Site, lab: Lab
                                                                                              ) -> None:
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not switch.exists():
        pytest.skip("this kernel has no br_netfilter")
    switch.write_text("1")
    firewall(lab, "iptables-nft", DOCKER)
    network = await site.network()
    pod, peer = await site.pod(network), await site.pod(network)
    assert not (await reached(site, lab, pod, peer))["peer"]
    lab.run(lab.host, "sh", "-c", finding(lab).remedy.partition(" (what")[0])
    assert (await reached(site, lab, pod, peer))["peer"]


def test_asking_does_not_bring_the_old_tables_into_being(lab: Lab) -> None:
    names = Path("/proc/thread-self/net/ip_tables_names")
    before = names.read_text() if names.exists() else ""
    assert finding(lab).status == "ok"
    assert (names.read_text() if names.exists() else "") == before
    if shutil.which("iptables-legacy") and names.exists():
        subprocess.run(["iptables-legacy", "-S"], check=False, capture_output=True)
        assert finding(lab).status == "ok"
