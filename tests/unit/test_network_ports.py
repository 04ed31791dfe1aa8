"""Host ports, against real sockets on this host's loopback."""

from __future__ import annotations

import socket

import pytest

from hyperstack.network.api import Published
from hyperstack.network.bridge.ports import EPHEMERAL, PortChooser
from hyperstack.pod.errors import Conflict, InvalidArgument
from hyperstack.pod.spec import PortBinding

LOOPBACK = "127.0.0.1"


def choose(*wanted: PortBinding, taken: tuple[Published, ...] = (), pod_id: str = "me") -> tuple[Published, ...]:
    return PortChooser().choose(wanted, pod_id=pod_id, address="10.1.2.3", taken=taken)


def published(port: int, host_ip: str = "", protocol: str = "tcp") -> Published:
    return Published(pod_id="other-pod-of-mine", container_port=80, protocol=protocol, host_ip=host_ip,
                     host_port=port, address="10.1.2.9")


def test_ports_nobody_named_come_from_the_ephemeral_range_and_differ() -> None:
    ports = choose(*(PortBinding(container_port=80, host_ip=LOOPBACK) for _ in range(5)))
    assert len({port.host_port for port in ports}) == 5
    assert all(port.host_port in EPHEMERAL for port in ports)


def test_a_listener_is_seen_and_named() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Conflict, match=rf"{LOOPBACK}:{port}:\S+ address already in use .by .*\(pid \d+\)"):
            choose(PortBinding(container_port=80, host_port=port, host_ip=LOOPBACK))
        with pytest.raises(Conflict):
            choose(PortBinding(container_port=80, host_port=port))


def test_the_remains_of_a_former_listeners_connections_do_not_hold_a_port() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # the side that closes first keeps the port in TIME_WAIT
            assert client.recv(1) == b""
    assert choose(PortBinding(container_port=80, host_port=port, host_ip=LOOPBACK))[0].host_port == port


@pytest.mark.parametrize(("mine", "theirs", "clash"), [
    ("", "", True), (LOOPBACK, "", True), ("", LOOPBACK, True), (LOOPBACK, LOOPBACK, True),
    (LOOPBACK, "127.0.0.2", False)])
def test_two_pods_conflict_where_their_addresses_overlap(mine: str, theirs: str, clash: bool) -> None:
    wanted = PortBinding(container_port=80, host_port=1, host_ip=mine)
    if clash:
        with pytest.raises(Conflict, match=r"1 failed: port is already allocated .by pod other-pod-of"):
            choose(wanted, taken=(published(1, theirs),))
    else:
        assert choose(wanted, taken=(published(1, theirs),))


def test_other_protocols_and_ones_own_former_ports_do_not_conflict() -> None:
    wanted = PortBinding(container_port=80, host_port=1, host_ip=LOOPBACK)
    assert choose(wanted, taken=(published(1, protocol="udp"),))
    assert choose(wanted, taken=(published(1),), pod_id="other-pod-of-mine")


def test_one_pod_cannot_have_a_port_twice() -> None:
    with pytest.raises(Conflict):
        choose(PortBinding(container_port=80, host_port=1), PortBinding(container_port=81, host_port=1))


def test_a_made_up_port_never_takes_one_that_is_named() -> None:
    named = EPHEMERAL.start
    ports = choose(PortBinding(container_port=80, host_ip=LOOPBACK),
                   PortBinding(container_port=81, host_port=named, host_ip=LOOPBACK))
    assert {port.container_port: port.host_port for port in ports}[81] == named
    assert len({port.host_port for port in ports}) == 2


@pytest.mark.parametrize(("binding", "error"), [
    (PortBinding(container_port=0), InvalidArgument), (PortBinding(container_port=65536), InvalidArgument),
    (PortBinding(container_port=80, host_port=-1), InvalidArgument),
    (PortBinding(container_port=80, host_ip="nonsense"), InvalidArgument),
    (PortBinding(container_port=80, host_ip="::1"), InvalidArgument),
    (PortBinding(container_port=80, host_port=9, host_port_end=8), InvalidArgument)])
def test_senseless_bindings_are_refused(binding: PortBinding, error: type[Exception]) -> None:
    with pytest.raises(error):
        choose(binding)
