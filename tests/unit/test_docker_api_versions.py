"""What an answer looks like in which version: the differences that clients see."""

from __future__ import annotations

import pytest

from hyperstack.docker_api import shapes
from hyperstack.engine.api import Subnet


def container() -> shapes.Body:
    settings = dict.fromkeys(("Bridge", "IPAddress", "Gateway", "MacAddress", "HairpinMode"), "x")
    return {"Id": "0123456789abcdef", "Config": {"OnBuild": None, "MacAddress": "m", "Image": "a"}, "NetworkSettings": {
        **settings, "Ports": {}, "Networks": {"n": {"Aliases": ["web"]}}}}


@pytest.mark.parametrize(("version", "legacy", "aliases"), [
    ((1, 24), True, ["web", "0123456789ab"]), ((1, 44), True, ["web", "0123456789ab"]), ((1, 45), True, ["web"]),
    ((1, 51), True, ["web"]), ((1, 52), False, ["web"]), ((1, 55), False, ["web"])])
def test_a_container_s_network(version: shapes.Version, legacy: bool, aliases: list[str]) -> None:
    found = shapes.container(container(), version)
    assert ("IPAddress" in found["NetworkSettings"]) is legacy
    assert set(found["Config"]) == {"Image", *(("OnBuild", "MacAddress") if legacy else ())}
    assert found["NetworkSettings"]["Networks"]["n"]["Aliases"] == aliases


@pytest.mark.parametrize(("version", "fields"), [
    ((1, 43), {"VirtualSize", "Parent", "Config.Hostname", "Config.Cmd"}), ((1, 49), {"Parent", "Config.Hostname",
                                                                                      "Config.Cmd"}),
    ((1, 51), {"Parent", "Config.Cmd"}), ((1, 52), set())])
def test_an_image(version: shapes.Version, fields: set[str]) -> None:
    config = dict.fromkeys(("Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir"))
    found = shapes.image({"Size": 7, "Created": "", "Variant": "", "Parent": "", "Comment": "", "DockerVersion": "",
                          "Author": "", "Config": config}, version)
    shown = {*found, *(f"Config.{name}" for name in found["Config"])}
    assert {name for name in ("VirtualSize", "Parent", "Config.Hostname", "Config.Cmd") if name in shown} == fields


def test_addresses_of_a_network_are_counted() -> None:
    subnets = [Subnet(cidr="10.1.0.0/24", gateway="10.1.0.1", ip_range="10.1.0.128/25", reserved={"x": "10.1.0.200"}),
               Subnet(cidr="fd00::/64", gateway="fd00::1", ip_range="", reserved={})]
    taken = ["10.1.0.129/24", "10.1.0.7", "", "192.0.2.1"]
    status = shapes.network_status(subnets, taken, (1, 52))["Status"]["IPAM"]["Subnets"]
    # Net, broadcast, gateway, the reserved one and two containers; of these three are in the range.
    assert status["10.1.0.0/24"] == {"IPsInUse": 6, "DynamicIPsAvailable": 128 - 3}
    assert status["fd00::/64"] == {"IPsInUse": 3, "DynamicIPsAvailable": 2**64 - 3}
    assert shapes.network_status(subnets, taken, (1, 51)) == {}
