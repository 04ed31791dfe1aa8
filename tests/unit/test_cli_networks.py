"""hyperctl network and the options of run that speak of networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperstack.cli.commands.networks import pools
from hyperstack.cli.errors import CliError
from hyperstack.cli.options import endpoint
from tests.unit.cli_daemon import Daemon
from tests.unit.cli_process import hyperctl


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.close()


def test_what_is_said_of_a_subnet_goes_to_the_subnet_that_holds_it() -> None:
    assert pools([], [], [], {}) == []
    assert pools(["10.1.0.0/16", "10.2.0.0/16"], ["10.2.0.9"], ["10.1.5.0/24", "10.2.6.0/24"],
                 {"a": "10.1.5.1", "b": "10.1.5.2"}) == [
        {"Subnet": "10.1.0.0/16", "IPRange": "10.1.5.0/24", "AuxiliaryAddresses": {"a": "10.1.5.1", "b": "10.1.5.2"}},
        {"Subnet": "10.2.0.0/16", "Gateway": "10.2.0.9", "IPRange": "10.2.6.0/24"}]


@pytest.mark.parametrize(("subnets", "gateways", "ranges", "reserved", "words"), [
    ([], ["10.1.0.1"], [], {}, "--gateway 10.1.0.1: no subnet holds it"),
    (["10.1.0.0/16"], [], ["10.2.0.0/24"], {}, "--ip-range 10.2.0.0/24: no subnet holds it"),
    (["10.1.0.0/16"], ["10.1.0.1", "10.1.0.2"], [], {}, "--gateway 10.1.0.2: the subnet 10.1.0.0/16 has one already"),
    (["10.1.0.0/16"], ["here"], [], {}, "--gateway here: 'here' does not appear to be"),
    (["10.1.0.0/16", "10.1.0.0/16"], [], [], {}, "10.1.0.0/16 is given twice"),
    (["10.1.0.0/16"], [], [], {"a": "fd00::1"}, "--aux-address fd00::1: no subnet holds it"),
])
def test_what_belongs_to_no_subnet_is_refused(subnets: list[str], gateways: list[str], ranges: list[str],
                                              reserved: dict[str, str], words: str) -> None:
    with pytest.raises(CliError) as caught:
        pools(subnets, gateways, ranges, reserved)
    assert words in caught.value.message


def test_a_place_says_what_was_asked_for_alone() -> None:
    assert endpoint() == {}
    assert endpoint(aliases=("a", "b"), ip="10.1.0.5", links=("db:x",), mac="02:00:00:00:00:01") == {
        "IPAMConfig": {"IPv4Address": "10.1.0.5"}, "Links": ["db:x"], "Aliases": ["a", "b"],
        "MacAddress": "02:00:00:00:00:01"}


def test_several_networks_are_sent_and_what_is_said_of_one_is_the_firsts(daemon: Daemon) -> None:
    hyperctl(daemon, "create", "--network", "a", "--network", "b", "--ip", "10.1.2.3", "busybox")
    sent = daemon.asked("POST", "/containers/create").json()
    assert sent["HostConfig"]["NetworkMode"] == "a"
    assert sent["NetworkingConfig"] == {"EndpointsConfig": {"a": {"IPAMConfig": {"IPv4Address": "10.1.2.3"}}, "b": {}}}


def test_what_is_said_of_a_network_is_sent(daemon: Daemon) -> None:
    hyperctl(daemon, "run", "--network", "a", "--network-alias", "x", "--link", "db:store", "busybox", "true")
    sent = daemon.asked("POST", "/containers/create").json()
    assert (sent["HostConfig"]["NetworkMode"], sent["HostConfig"]["Links"]) == ("a", ["db:store"])
    assert sent["NetworkingConfig"] == {"EndpointsConfig": {"a": {"Aliases": ["x"]}}}
