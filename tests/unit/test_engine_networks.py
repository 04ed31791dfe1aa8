"""Who gets which address on a network, as the engine decides it from its records."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from hyperstack.engine.events import EventBus
from hyperstack.engine.networks.placement import default_record
from hyperstack.engine.networks.service import NetworkService
from hyperstack.engine.records import ContainerRecord, NetworkRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.network.api import Subnet
from hyperstack.network.bridge import BridgeNetwork
from hyperstack.pod.errors import Conflict, Exhausted, HyperStackError, InvalidArgument, NotFound
from hyperstack.pod.spec import ContainerSpec, ImageConfig, PodSpec, PortBinding

FRONT = NetworkRecord(id="f" * 64, name="front", project="alpha", created_at=1, subnets=(
    Subnet(cidr="10.1.0.0/29", gateway="10.1.0.1", reserved={"spare": "10.1.0.3"}),
    Subnet(cidr="10.2.0.0/24", gateway="10.2.0.9", ip_range="10.2.0.8/30")))
ROOM = {"10.1.0.2", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.2.0.8", "10.2.0.10", "10.2.0.11"}


class Site:
    def __init__(self, directory: Path) -> None:
        self.store = Store(directory / "engine.db")
        self.events = EventBus(self.store)
        self.service = NetworkService(BridgeNetwork(instance="unit"), self.store, self.events)
        self.store.networks.put(FRONT)

    def pod(self, number: int, network: str = "front", **spec: object) -> PodRecord:
        ident = f"{number:064x}"
        pod = PodRecord(id=ident, name=f"pod{number}", project="alpha", created_at=1, implicit=True,
                        spec=PodSpec(network=network, **spec))  # type: ignore[arg-type]
        self.store.containers.put(ContainerRecord(
            id=f"{number:012x}" + "a" * 52, pod_id=ident, project="alpha", name=f"Web{number}", image_id="i",
            spec=ContainerSpec(image="busybox"), image_config=ImageConfig(), created_at=1))
        return self.store.pods.put(pod)

    def start(self, pod: PodRecord) -> PodRecord:
        return self.store.pods.put(self.service.placement.plan(pod, ()))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.store.close()


def address(pod: PodRecord) -> str:
    assert pod.binding is not None
    return pod.binding.address.partition("/")[0]


def test_addresses_come_from_every_subnet_in_turn_until_all_are_given(site: Site) -> None:
    given = [address(site.start(site.pod(number))) for number in range(len(ROOM))]
    assert set(given) == ROOM
    assert given[:4] == ["10.1.0.2", "10.1.0.4", "10.1.0.5", "10.1.0.6"]
    with pytest.raises(Exhausted, match=r"front has no free address left in 10.1.0.0/29, 10.2.0.8/30"):
        site.start(site.pod(99))


WANTED = st.sampled_from(["", *sorted(ROOM), "10.2.0.77", "10.1.0.1"])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), WANTED), max_size=40))
def test_no_address_is_given_twice_whatever_is_started_and_stopped(steps: list[tuple[int, bool, str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory))
        for number, up, wanted in steps:
            pod = site.pod(number, ip_address=wanted)
            if up:
                try:
                    site.start(pod)
                except HyperStackError:
                    continue
            held = [address(p) for p in site.store.pods.all() if p.binding is not None]
            assert len(held) == len(set(held))
            assert not {"10.1.0.1", "10.1.0.3", "10.2.0.9"} & set(held)
            assert all(any(IPv4Address(one) in IPv4Network(s.cidr) for s in FRONT.subnets) for one in held)
        site.store.close()


def test_what_a_stopped_pod_asked_for_is_kept_from_those_who_ask_for_none(site: Site) -> None:
    site.pod(1, ip_address="10.1.0.2")
    assert address(site.start(site.pod(2))) == "10.1.0.4"
    assert address(site.start(site.pod(3, ip_address="10.1.0.2"))) == "10.1.0.2"


def test_a_mac_is_anothers_at_most_once(site: Site) -> None:
    site.start(site.pod(1, mac_address="02:11:22:33:44:55"))
    with pytest.raises(Conflict, match="MAC address 02:11:22:33:44:55 is in use in network front"):
        site.start(site.pod(2, mac_address="02:11:22:33:44:55"))
    site.start(site.pod(3, mac_address="02:48:0a:01:00:05"))  # what 10.1.0.5 would have
    assert address(site.start(site.pod(4))) == "10.1.0.6"
    assert address(site.start(site.pod(5, network="bridge", mac_address="02:11:22:33:44:55")))


def test_a_pod_goes_by_its_aliases_names_and_short_ids(site: Site) -> None:
    pod = site.start(site.pod(7, aliases=("Store", "db"), links=("web1:other", f"{'b' * 64}:far"), hostname="h"))
    assert pod.binding is not None
    assert pod.binding.names == ("store", "db", "web7", "000000000007", "h")
    assert pod.binding.links == {"other": "web1", "far": "b" * 12}
    plain = site.start(site.pod(8, network="bridge"))
    assert plain.binding is not None
    assert (plain.binding.names, plain.binding.network_id) == ((), default_record("alpha").id)


def test_a_renamed_container_goes_by_its_new_name(site: Site) -> None:
    pod = site.start(site.pod(7))
    container = site.store.containers.all()[0]
    site.store.containers.put(replace(container, name="fresh"))
    site.events.emit("container", "rename", container.id, "alpha")
    renamed = site.store.pods.get(pod.id)
    assert renamed is not None
    assert renamed.binding is not None
    assert renamed.binding.names == ("fresh", "000000000007")


def test_what_is_not_to_be_had_is_said_when_the_pod_is_made(site: Site) -> None:
    admit = site.service.placement.admit
    assert admit("alpha", PodSpec(network="ffff")).network == "front"
    for spec, words in ((PodSpec(network="absent"), "network absent not found"),
                        (PodSpec(network="front", ip_address="10.9.9.9"), "contain the IP address 10.9.9.9"),
                        (PodSpec(network="front", mac_address="ff:ff:ff:ff:ff:ff"), "invalid MAC address"),
                        (PodSpec(aliases=("x",)), "network-scoped alias is supported only"),
                        (PodSpec(network="none", links=("x:y",)), "network-scoped alias is supported only")):
        with pytest.raises(InvalidArgument, match=words):
            admit("alpha", spec)
    with pytest.raises(InvalidArgument, match="network front not found"):
        admit("beta", PodSpec(network="front"))


def test_nobody_joins_a_network_that_is_being_removed_or_publishes_on_an_internal_one(site: Site) -> None:
    site.store.networks.put(replace(FRONT, internal=True))
    with pytest.raises(InvalidArgument, match="front is internal"):
        site.start(site.pod(1, ports=(PortBinding(container_port=80),)))
    site.store.networks.put(replace(FRONT, removing=True))
    with pytest.raises(NotFound, match="network front not found"):
        site.start(site.pod(2))
