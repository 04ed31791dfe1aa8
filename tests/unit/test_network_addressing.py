"""Names, subnets, addresses and MACs of the embedded network."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.network.api import Network, Subnet
from hyperstack.network.bridge import BridgeNetwork
from hyperstack.network.bridge import addressing as a
from hyperstack.network.bridge.names import Names
from hyperstack.pod.errors import Exhausted, Forbidden, InvalidArgument


def network(subnet: str = "10.1.2.0/29", gateway: str = "10.1.2.1", *, internal: bool = False) -> Network:
    return Network(id="n" * 64, name="web", project="alpha", subnets=(Subnet(cidr=subnet, gateway=gateway),),
                   internal=internal)


def backend(tmp_path: Path, resolv_conf: str = "nameserver 9.9.9.9\n") -> BridgeNetwork:
    path = tmp_path / "resolv.conf"
    path.write_text(resolv_conf)
    return BridgeNetwork(instance="unit", resolv_conf=path)


def test_device_names_fit_the_kernel_and_tell_instances_apart() -> None:
    one, two = Names("one"), Names("two")
    for name in (one.bridge("x" * 64), one.tap("x" * 64)):
        assert len(name) == 15
        assert one.is_ours(name)
        assert not two.is_ours(name)
    assert one.bridge("a") != one.bridge("b")
    assert not one.is_ours("eth0")


@pytest.mark.parametrize("tag", ["", "a b", "x" * 33, "a;flush ruleset", "ä"])
def test_an_instance_tag_that_could_be_something_else_is_refused(tag: str) -> None:
    with pytest.raises(InvalidArgument, match="instance tag"):
        BridgeNetwork(instance=tag)


def test_addresses_are_given_lowest_first_and_none_twice() -> None:
    taken: list[str] = []
    for _ in range(5):
        taken.append(str(a.choose_address(network(), taken)[0]))
    assert taken == [f"10.1.2.{host}" for host in range(2, 7)]
    with pytest.raises(Exhausted, match="web has no free address"):
        a.choose_address(network(), taken)


@pytest.mark.parametrize(("wanted", "error"), [
    ("10.1.2.0", Forbidden), ("10.1.2.7", Forbidden), ("10.1.3.4", InvalidArgument),
    ("fe80::1", InvalidArgument), ("x" * 1000, InvalidArgument), ("10.1.2.1", Forbidden), ("10.1.2.3", Forbidden)])
def test_an_unusable_address_is_refused(wanted: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        a.choose_address(network(), ["10.1.2.3"], wanted)


def test_an_address_may_be_named_with_its_prefix() -> None:
    assert str(a.choose_address(network(), [], "10.1.2.5/29")[0]) == "10.1.2.5"


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_macs_are_unicast_local_and_as_distinct_as_their_addresses(one: int, two: int) -> None:
    first, second = a.mac_of(IPv4Address(one)), a.mac_of(IPv4Address(two))
    assert int(first[:2], 16) & 3 == 2
    assert (first == second) == (one == two)


@given(st.text(max_size=40))
def test_a_mac_is_canonical_or_refused(text: str) -> None:
    try:
        mac = a.check_mac(text, network())
    except InvalidArgument:
        return
    assert a.check_mac(mac, network()) == mac
    assert not int(mac[:2], 16) & 1


@pytest.mark.parametrize("mac", ["01:00:5e:00:00:01", "00:00:00:00:00:00", "02:11:22:33:44", "02:48:0a:01:02:01",
                                 "02:11:22:33:44:55\n", "02:11:22:33:44:55 } ; flush ruleset"])
def test_a_mac_that_is_none_or_the_gateways_is_refused(mac: str) -> None:
    with pytest.raises(InvalidArgument):
        a.check_mac(mac, network())


def test_subnets_avoid_what_overlaps_and_go_on_to_the_next_pool() -> None:
    pools = [IPv4Network("10.212.0.0/23"), IPv4Network("172.29.0.0/16")]
    assert str(a.choose_subnet(pools, [])) == "10.212.0.0/24"
    assert str(a.choose_subnet([IPv4Network("10.212.0.0/14")], [], large=True)) == "10.212.0.0/22"
    assert str(a.choose_subnet([IPv4Network("10.1.0.0/22")], [IPv4Network("10.1.3.0/24")], large=True)) == "10.1.0.0/24"
    assert str(a.choose_subnet(pools, [IPv4Network("10.212.0.128/25")])) == "10.212.1.0/24"
    assert str(a.choose_subnet(pools, [IPv4Network("10.0.0.0/8")])) == "172.29.0.0/24"
    with pytest.raises(Exhausted):
        a.choose_subnet(pools, [IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12")])


def test_the_hosts_routes_are_read_without_the_default(tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
                     "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
                     "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n")
    assert a.host_routes(table) == [IPv4Network("192.0.2.0/24")]


def test_a_plan_changes_nothing_and_is_the_same_each_time(tmp_path: Path) -> None:
    bridge = backend(tmp_path)
    one, two = (bridge.plan(network(), pod_id="p", taken=["10.1.2.2"]) for _ in range(2))
    assert one == two
    assert (one.address, one.gateway, one.mac) == ("10.1.2.3/29", "10.1.2.1", "02:48:0a:01:02:03")


def test_a_plan_on_an_internal_network_has_no_way_out(tmp_path: Path) -> None:
    binding = backend(tmp_path).plan(network(internal=True), pod_id="p", taken=[])
    assert (binding.gateway, binding.dns) == ("", ())
