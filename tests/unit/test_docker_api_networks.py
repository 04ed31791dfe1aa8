"""Networks, volumes, filters and events over Docker's API: what is malformed, what is listed, what is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.docker_api.moments import moment_ns
from hyperstack.pod.errors import InvalidArgument
from tests.unit.docker_api_server import Served, serve

FOUR, SIX = {"Subnet": "10.1.2.0/24"}, {"Subnet": "fd00:1::/64"}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


async def ask(served: Served, method: str, path: str, **options: Any) -> tuple[int, Any]:
    return await served.call(method, path, **options)


@pytest.mark.parametrize(("body", "status", "words"), [
    ({}, 400, "invalid name: name is empty"), ({"Name": "host"}, 403, "predefined host network"),
    ({"Driver": "hs"}, 404, 'plugin "hs" not found'), ({"Driver": "macvlan"}, 400, "driver macvlan is not supported"),
    ({"Driver": "host"}, 403, 'only one instance of "host" network is allowed'),
    ({"Scope": "swarm"}, 403, "swarm is not active"), ({"Ingress": True}, 403, "Ingress network can only be"),
    ({"ConfigFrom": {"Network": "x"}}, 404, 'configuration network "x" does not exist'),
    ({"ConfigOnly": True}, 400, "ConfigOnly is not supported"),
    ({"IPAM": {"Driver": "x"}}, 404, 'plugin "x" not found'),
    ({"EnableIPv4": False}, 400, "IPv4 or IPv6 must be enabled"),
    ({"EnableIPv4": False, "EnableIPv6": True}, 400, "EnableIPv4=false is not supported"),
    ({"IPAM": {"Config": [{"Subnet": "10.1.2.3/24"}]}}, 400, "invalid subnet 10.1.2.3/24: it should be 10.1.2.0/24"),
    ({"IPAM": {"Config": [{}, {"Subnet": "x"}]}}, 400, "\n* invalid subnet : invalid CIDR block notation\n* inval"),
    ({"IPAM": {"Config": [FOUR | {"Gateway": "10.9.0.1"}]}}, 400, "subnet 10.1.2.0/24 doesn't contain this address"),
    ({"IPAM": {"Config": [FOUR | {"IPRange": "10.1.0.0/16"}]}}, 400, "CIDR block is bigger than its parent subnet"),
    ({"IPAM": {"Config": [FOUR | {"AuxiliaryAddresses": {"a": "::1"}}]}}, 400, "a: parent subnet is an IPv4 block"),
    ({"IPAM": {"Config": [SIX]}}, 400, "say --ipv6 as well"),
    ({"Options": {"com.docker.network.driver.mtu": "x"}}, 400, 'strconv.Atoi: parsing "x": invalid syntax'),
    ({"Options": {"com.docker.network.bridge.enable_icc": ""}}, 400, 'strconv.ParseBool: parsing "": invalid syntax'),
])
async def test_what_no_network_can_be_is_refused(served: Served, body: dict[str, Any], status: int, words: str) -> None:
    found, answer = await ask(served, "POST", "/networks/create", json={"Name": "x", **body} if body else body)
    assert (found, words in answer["message"]) == (status, True), answer


async def test_what_docker_answers_with_500_is_the_callers_mistake(served: Served) -> None:
    for pool in (FOUR | {"Gateway": "10.1.2.255"}, FOUR | {"AuxiliaryAddresses": {"a": "10.1.2.1"}}):
        status, answer = await ask(served, "POST", "/networks/create", json={"Name": "x", "IPAM": {"Config": [pool]}})
        assert (status, "Address already in use" in answer["message"]) == (400, True)
    assert (await ask(served, "GET", "/networks?filters=" + quote('{"type":["x"]}')))[0] == 400
    assert (await ask(served, "GET", "/events?since=x"))[0] == 400


@pytest.mark.parametrize(("config", "words"), [
    ({"IPv4Address": "bad"}, "\n* invalid IPv4 address: bad\n* no configured subnet or ip-range contain"),
    ({"IPv4Address": "10.9.0.1"}, "\nno configured subnet or ip-range contain the IP address 10.9.0.1"),
    ({"IPv6Address": "fd00::1"}, "supported only when connecting to networks with user configured subnets"),
    ({"LinkLocalIPs": ["bad"]}, "\ninvalid link-local IP address: bad"),
])
async def test_a_place_on_a_network_is_checked_as_a_whole(served: Served, config: Any, words: str) -> None:
    await ask(served, "POST", "/networks/create", json={"Name": "front", "IPAM": {"Config": [FOUR]}})
    await ask(served, "POST", "/containers/create?name=box", json={"Image": "busybox"})
    status, answer = await ask(served, "POST", "/networks/front/connect",
                               json={"Container": "box", "EndpointConfig": {"IPAMConfig": config}})
    assert (status, answer["message"].startswith("invalid endpoint settings:\n"), words in answer["message"]) == (
        400, True, True)


@pytest.mark.parametrize(("filters", "names"), [
    ({"name": ["fro"]}, {"front"}), ({"name": ["^back$"]}, {"back"}), ({"name": {"back": False}}, {"back"}),
    ({"name": ["fr["]}, set()), ({"dangling": ["true"]}, {"back"}), ({"dangling": ["0"]}, {"bridge", "none", "front"}),
    ({"type": ["custom"]}, {"front", "back"}), ({"label": ["a=b"]}, {"back"}), ({"scope": ["swarm"]}, set()),
    (None, {"bridge", "none", "front", "back"}), ({"name": None, "label": []}, {"bridge", "none", "front", "back"}),
])
async def test_lists_are_filtered(served: Served, filters: Any, names: set[str]) -> None:
    await ask(served, "POST", "/networks/create", json={"Name": "front"})
    await ask(served, "POST", "/networks/create", json={"Name": "back", "Labels": {"a": "b"}})
    await ask(served, "POST", "/containers/create?name=box",
              json={"Image": "busybox", "HostConfig": {"NetworkMode": "front"}})
    status, answer = await ask(served, "GET", f"/networks?filters={quote(json.dumps(filters))}")
    assert (status, {network["Name"] for network in answer}) == (200, names)


@pytest.mark.parametrize(("path", "filters", "words"), [
    ("/networks", "x", "invalid filter"), ("/networks", '{"name":["a"],"label":{"b":true}}', "invalid filter"),
    ("/networks", '{"":["x"]}', "invalid filter"), ("/networks", '{"x":[]}', "invalid filter 'x'"),
    ("/networks", '{"dangling":["x"]}', "invalid value for filter 'dangling', must be"),
    ("/networks", '{"dangling":["1","0"]}', "got more than one value for filter key"),
    ("/volumes", "x", "error reading volume filters: invalid filter"),
    ("/volumes", '{"dangling":["T"]}', "invalid filter 'dangling=[T]'"),
    ("/volumes/prune", '{"all":["x"]}', "invalid filter 'all': strconv.ParseBool: parsing \"x\": invalid syntax"),
    ("/volumes/prune", '{"all":["1","0"]}', "invalid filter 'all=[1 0]': only one value is expected"),
    ("/networks/prune", '{"until":["1","2"]}', "more than one until filter specified"),
])
async def test_filters_that_are_none(served: Served, path: str, filters: str, words: str) -> None:
    status, answer = await ask(served, "POST" if path.endswith("prune") else "GET", f"{path}?filters={quote(filters)}")
    assert (status, answer["message"].startswith(words)) == (400, True), answer


@pytest.mark.parametrize(("text", "ns"), [
    ("1", 10**9), ("1.5", 1_500_000_000), ("1577836800.000000001", 1577836800_000000001), ("0", 1), ("+5", 5 * 10**9),
    ("2020-01-01", 1577836800 * 10**9), ("2020-01-01T00:00:00Z", 1577836800 * 10**9),
    ("2020-01-01T01:00:00+01:00", 1577836800 * 10**9), ("2020-01-01T00:00", 1577836800 * 10**9),
    ("2020-01-01T00", 1577836800 * 10**9), ("2020-01-01T00:00:00.5", 1577836800_500000000),
    ("2019-12-31T19:00:00-05:00", 1577836800 * 10**9), ("9" * 18, 2**63 - 1),
])
def test_moments(text: str, ns: int) -> None:
    assert moment_ns(text, field="until") == ns


@pytest.mark.parametrize(("text", "words"), [
    ("x", 'failed to parse value as time or duration: "x"'), ("1.x", 'time or duration: "1.x"'),
    ("", 'time or duration: ""'), ("2020-13-01", 'parsing time "2020-13-01": month out of range'),
    ("2020-02-30", 'parsing time "2020-02-30": day out of range'),
    ("2020-01-01T25:00:00", "hour out of range"), ("2020-1", 'as "2006-01-02": cannot parse "1" as "01"'),
    ("2020-01-01x", 'extra text: "x"'),
])
def test_what_is_no_moment(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        moment_ns(text, field="until")
    assert words in caught.value.message


def test_durations_are_before_now() -> None:
    hour, day = moment_ns("1h", field="until"), moment_ns("24h", field="until")
    assert hour - day == pytest.approx(23 * 3600 * 10**9, abs=60 * 10**9)
    assert moment_ns("-1h", field="until") > moment_ns("1ms", field="until")


@given(st.text("0123456789-+.:TZzhmsx nuµ", max_size=40))
def test_any_text_is_a_moment_or_refused(text: str) -> None:
    try:
        found = moment_ns(text, field="until")
    except InvalidArgument:
        return
    assert 0 < found < 2**63


@pytest.mark.parametrize(("method", "path", "status", "words"), [
    ("POST", "/services/x/update", 400, "invalid service version '': strconv.ParseUint: parsing \"\": invalid syntax"),
    ("POST", f"/swarm/update?version={2**64}", 400, "value out of range"),
    ("POST", "/configs/x/update?version=x", 400, "invalid config version"),
    ("POST", "/nodes/x/update?version=1", 503, "not a swarm manager"), ("GET", "/swarm/x", 404, "page not found"),
    ("POST", "/tasks", 404, "page not found"), ("GET", "/networks/front/x", 404, "network front/x not found"),
    ("DELETE", "/networks/host", 403, "host is a pre-defined network"),
    ("GET", "/networks/bridge?verbose=x", 400, "invalid value for verbose: x: strconv.ParseBool"),
    ("GET", "/events?since=9&until=5", 400, "`since` time (9) cannot be after `until` time (5)"),
])
async def test_other_refusals(served: Served, method: str, path: str, status: int, words: str) -> None:
    found, answer = await ask(served, method, path, **({"json": {}} if method == "POST" else {}))
    assert (found, words in answer["message"]) == (status, True), answer
