"""Which name servers pods are given."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.network.bridge.resolvers import Resolvers, host_resolvers, nameservers

NOTHING = Path("/nonexistent/resolv.conf")


@pytest.mark.parametrize(("text", "expected"), [
    ("nameserver 192.0.2.53\nsearch example\nnameserver 9.9.9.9\n", Resolvers(("192.0.2.53", "9.9.9.9"))),
    ("# nameserver 1.1.1.1\nnameserver 127.0.0.53\noptions edns0", Resolvers((), "127.0.0.53")),
    ("nameserver 127.0.0.1\nnameserver 192.0.2.53", Resolvers(("192.0.2.53",))),
    ("nameserver fe80::1%eth0\nnameserver 2001:db8::1\n", Resolvers()),
    ("nameserver 0.0.0.0\nnameserver nonsense\nnameserver\n", Resolvers()),
    ("".join(f"nameserver 192.0.2.{n}\n" for n in range(9)), Resolvers(("192.0.2.0", "192.0.2.1", "192.0.2.2")))])
def test_servers_that_a_pod_can_ask(tmp_path: Path, text: str, expected: Resolvers) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    assert host_resolvers(path, NOTHING) == expected


def test_the_servers_behind_a_stub_are_preferred_to_the_stub(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\n")
    real.write_text("nameserver 192.0.2.53\n")
    assert host_resolvers(stub, real) == Resolvers(("192.0.2.53",))


def test_a_host_without_any_names_nobody() -> None:
    assert host_resolvers(NOTHING, NOTHING).upstream == ""


@given(st.text(max_size=300))
def test_no_content_breaks_it(text: str) -> None:
    servers = nameservers("nameserver " + text)
    assert len(set(servers)) == len(servers)
    assert not any(server.is_unspecified or server.is_multicast for server in servers)
