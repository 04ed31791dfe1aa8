"""What the bridge network says of a host."""

from __future__ import annotations

from hyperstack.pod.finding import Finding
from tests.netns.conftest import Site
from tests.netns.lab import Lab


async def findings(site: Site) -> dict[str, Finding]:
    return {finding.name: finding for finding in await site.backend.probe()}


async def test_a_good_host_is_found_good_and_left_as_it_was(site: Site, lab: Lab) -> None:
    lab.run(lab.host, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    before = lab.ip(lab.host, "-o link"), lab.run(lab.host, "nft", "list", "ruleset")
    assert {name: finding.status for name, finding in (await findings(site)).items()} == {
        "bridge and tap devices": "ok", "nftables": "ok", "IPv4 forwarding": "ok", "other firewalls": "ok",
        "name servers": "ok"}
    assert (lab.ip(lab.host, "-o link"), lab.run(lab.host, "nft", "list", "ruleset")) == before


async def test_a_docker_host_is_told_the_remedy_and_it_helps(site: Site, lab: Lab) -> None:
    lab.run(lab.host, "nft", "add table ip filter; add chain ip filter DOCKER-USER; add chain ip filter FORWARD "
                             "{ type filter hook forward priority 0; policy drop; }; "
                             "add rule ip filter FORWARD jump DOCKER-USER")
    pod = await site.pod(await site.network())
    assert not lab.pings(pod.namespace, lab.OUTSIDE, wait_s=1)
    finding = (await findings(site))["other firewalls"]
    assert finding.status == "warn"
    assert "Docker" in finding.detail
    lab.run(lab.host, "sh", "-c", finding.remedy.partition(" (")[0])
    assert lab.pings(pod.namespace, lab.OUTSIDE)


async def test_a_host_that_does_not_forward_is_told_what_will_happen(site: Site, lab: Lab) -> None:
    lab.run(lab.host, "sysctl", "-qw", "net.ipv4.ip_forward=0")
    assert (await findings(site))["IPv4 forwarding"].status == "warn"
    pod = await site.pod(await site.network())
    assert (await findings(site))["IPv4 forwarding"].status == "ok"
    assert lab.pings(pod.namespace, lab.OUTSIDE)
