"""Networks over the native API, and what both APIs say of wrong ones."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.docker_api.bodies import EndpointBody
from hyperstack.docker_api.endpoints import parse_endpoint
from hyperstack.engine.networks.options import KNOWN, parse_options
from hyperstack.http.body import decode
from hyperstack.pod.errors import InvalidArgument, UnsupportedOption
from tests.unit.docker_api_server import Served, serve

PATH = "/hyperstack/v1/networks"


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


async def test_a_network_is_made_shown_by_both_apis_and_removed(served: Served) -> None:
    wanted = {"name": "front", "labels": {"a": "b"}, "subnets": [
        {"cidr": "10.77.0.0/16", "ip_range": "10.77.5.0/24", "reserved": {"r": "10.77.5.1"}},
        {"cidr": "10.78.0.0/16", "gateway": "10.78.9.9"}]}
    status, made = await served.call("POST", PATH, data=json.dumps(wanted))
    assert isinstance(made, dict)
    assert (status, made["subnets"][0]["gateway"], made["builtin"]) == (201, "10.77.0.1", False)
    assert (await served.call("GET", f"{PATH}/front"))[1] == {**made, "pods": []}
    _, shown = await served.call("GET", f"/networks/{made['id'][:12]}")
    assert isinstance(shown, dict)
    assert (shown["Name"], shown["IPAM"]["Config"][1]) == ("front", {"Subnet": "10.78.0.0/16", "Gateway": "10.78.9.9"})
    _, found = await served.call("GET", PATH)
    assert isinstance(found, list)
    assert [network["name"] for network in found] == ["bridge", "none", "front"]
    assert (await served.call("POST", f"{PATH}/prune"))[1] == {"removed": ["front"]}
    assert (await served.call("DELETE", f"{PATH}/front"))[0] == 404


@pytest.mark.parametrize(("wanted", "status", "words"), [
    ("[]", 400, "this is no network"), ("{", 400, "this is no network"), ("{}", 400, "missing required field `name`"),
    ({"name": "x", "color": 1}, 400, "unknown field `color`"), ({"name": "none"}, 403, "predefined none network"),
    ({"name": "a\nb"}, 400, "invalid name"), ({"name": ""}, 400, "name is empty"),
    ({"name": "x", "options": {"mtu": "1"}}, 400, "option mtu"),
    ({"name": "x", "options": {"com.docker.network.driver.mtu": "99"}}, 400, "MTU 99 is out of range"),
    ({"name": "x", "subnets": [{"cidr": "8.8.8.0/24"}]}, 400, "not a private range"),
    ({"name": "x", "subnets": [{"cidr": "fd00::/64"}]}, 400, "fd00::/64 is a subnet of IPv6 (say --ipv6"),
    ({"name": "x", "subnets": [{"cidr": "10.1.2.5/24"}]}, 400, "host bits set"),
    ({"name": "x", "subnets": [{"cidr": "10.1.0.0/24"}, {"cidr": "10.1.0.128/25"}]}, 403, "Pool overlaps"),
    ({"name": "x", "subnets": [{"cidr": "10.1.2.0/31"}]}, 400, "too small"),
    ({"name": "x", "subnets": [{"cidr": f"10.1.{n}.0/24"} for n in range(20)]}, 400, "20 subnets"),
    ({"name": "x", "subnets": [{"cidr": "10.1.0.0/24", "gateway": "10.1.0.0"}]}, 400, "failed to allocate gateway"),
])
async def test_what_is_no_network_is_refused_by_name(served: Served, wanted: Any, status: int, words: str) -> None:
    text = wanted if isinstance(wanted, str) else json.dumps(wanted)
    found, answer = await served.call("POST", PATH, data=text)
    assert isinstance(answer, dict)
    assert (found, words in answer["message"]) == (status, True), answer
    _, left = await served.call("GET", PATH)
    assert isinstance(left, list)
    assert len(left) == 2


@given(st.dictionaries(st.one_of(st.sampled_from(KNOWN), st.text(max_size=20)), st.text(max_size=20), max_size=4))
def test_options_are_understood_or_refused(options: dict[str, str]) -> None:
    try:
        parse_options(options)
    except InvalidArgument:
        return
    assert set(options) <= set(KNOWN)


@given(st.lists(st.text(max_size=300), max_size=80), st.lists(st.text(max_size=300), max_size=80), st.text(max_size=40))
def test_a_place_on_a_network_is_understood_or_refused(aliases: list[str], links: list[str], address: str) -> None:
    wanted = {"Aliases": aliases, "Links": links, "IPAMConfig": {"IPv4Address": address}}
    try:
        place = parse_endpoint(decode(json.dumps(wanted).encode(), EndpointBody), "Endpoint")
    except InvalidArgument:
        return
    assert list(place.aliases) == aliases
    assert all(name.isascii() and " " not in name for name in (*place.aliases, *place.links))


def test_a_link_without_an_alias_is_one_by_its_own_name() -> None:
    body = decode(b'{"Links": ["db", "/web:w", "x:/y/z"]}', EndpointBody)
    assert parse_endpoint(body, "Endpoint").links == ("db:db", "web:w", "x:z")
    with pytest.raises(UnsupportedOption, match=r"Endpoint.DriverOpts is not supported"):
        parse_endpoint(decode(b'{"DriverOpts": {"a": "b"}}', EndpointBody), "Endpoint")
