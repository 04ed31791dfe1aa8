"""Networks and volumes."""

from __future__ import annotations

import json
from typing import Any

from tests.clients.alike import Row

_CREATE, _VOLUME = "POST /networks/create", "POST /volumes/create"
_BRIDGE = "com.docker.network.bridge"


def _pools(*pools: dict[str, Any], since: int = 0, **fields: Any) -> Row:
    return Row(_CREATE, {"Name": "hs-bad", "IPAM": {"Config": list(pools)}, **fields}, since=since)


def _option(name: str, value: str, since: int = 0) -> Row:
    return Row(_CREATE, {"Name": "hs-bad", "Options": {name: value}}, since=since)


def _filtered(request: str, filters: Any, **fields: Any) -> Row:
    return Row(f"{request}?filters={filters if isinstance(filters, str) else _quoted(json.dumps(filters))}", **fields)


def _quoted(text: str) -> str:
    return "".join(char if char.isalnum() else f"%{ord(char):02X}" for char in text)


def _connect(container: str, network: str, **endpoint: Any) -> Row:
    return Row(f"POST /networks/{network}/connect", {"Container": container, "EndpointConfig": endpoint})


def _disconnect(container: str, network: str, **fields: Any) -> Row:
    return Row(f"POST /networks/{network}/disconnect", {"Container": container, **fields})


_FOUR, _SIX = {"Subnet": "10.241.8.0/24"}, {"Subnet": "fd41::/64"}

_CREATION = (
    Row(_CREATE, {}, since=28), *(Row(_CREATE, {"Name": name}) for name in ("bridge", "none", "host")),
    Row(_CREATE, {"Name": "hs-alike", "Labels": {"a": "b"}, "IPAM": {"Config": [_FOUR]}}),
    Row(_CREATE, {"Name": "hs-alike"}),
    Row(_CREATE, {"Name": "hs a/b"}), Row("GET /networks/hs%20a/b"), Row("DELETE /networks/hs%20a%2fb"),
    Row(_CREATE, {"Name": "hs-bad", "Driver": "host"}),
    Row(_CREATE, {"Name": "hs-bad", "Driver": "null"}), Row(_CREATE, {"Name": "hs-bad", "Driver": "overlay"}),
    Row(_CREATE, {"Name": "hs-bad", "Scope": "swarm"}), Row(_CREATE, {"Name": "hs-bad", "Ingress": True}),
    Row(_CREATE, {"Name": "hs-bad", "ConfigFrom": {"Network": "hs-none"}}),
    *(_pools({"Subnet": text}) for text in ("bad", "", "10.1.2.3", "10.1.2.3/24", "10.1.2.0/33", "10.300.0.0/16",
                                            "010.1.2.0/24")),
    *(_pools({"Subnet": text}, since=28) for text in ("10.241.8.0/24", "10.241.0.0/16", "10.241.8.128/25")),
    *(_pools({**_FOUR, "Gateway": text}) for text in ("bad", "10.9.0.1", "10.241.8.1/24", "fd00::1")),
    *(_pools({**_FOUR, "IPRange": text}) for text in ("bad", "10.9.0.0/28", "10.241.0.0/16", "10.241.8.5/28",
                                                      "fd00::/64")),
    *(_pools({**_FOUR, "AuxiliaryAddresses": {"a": text}}) for text in ("bad", "10.9.0.1", "fd00::1")),
    _pools({"Gateway": "10.9.0.1"}), _pools({"Subnet": "bad"}, {"Subnet": "worse"}),
    _pools({**_FOUR, "Gateway": "bad", "IPRange": "bad"}), _pools(_FOUR, _FOUR, since=28),
    *(_pools({**_SIX, **wrong}, EnableIPv6=True) for wrong in (
        {"Subnet": "fd41::5/64"}, {"Subnet": "fd41::/129"}, {"Gateway": "fd42::1"}, {"Gateway": "10.0.0.1"},
        {"IPRange": "fd42::/80"}, {"AuxiliaryAddresses": {"a": "fd42::1"}})),
    _option("com.docker.network.driver.mtu", "many"), _option("com.docker.network.driver.mtu", ""),
    _option("com.docker.network.driver.mtu", "-1"), _option(f"{_BRIDGE}.enable_icc", "maybe"),
    _option(f"{_BRIDGE}.enable_ip_masquerade", ""), _option(f"{_BRIDGE}.host_binding_ipv4", "here"),
    _option(f"{_BRIDGE}.gateway_mode_ipv4", "hs", since=28), Row("DELETE /networks/hs-bad", since=28),
)

_LISTS = (
    Row("GET /networks/", status_only=True), Row("GET /networks/hs-alike", same=True, since=28),
    Row("GET /networks/none"), Row("GET /v1.51/networks/hs-alike", since=28), Row("GET /networks/hs-alike?verbose=1"),
    Row("GET /networks/hs-alike?verbose=hs"), Row("GET /networks/hs-alike?scope=local"),
    Row("GET /networks/hs-alike?scope=swarm"), Row("GET /networks/hs-none"), Row("GET /networks/hs/none"),
    Row("GET /networks?filters=%zz"), Row("GET /networks?a;b"),
    *(_filtered("GET /networks", wrong) for wrong in (
        "x", "[]", "1", "%22a%22", "{}x", '{"name":"x"}', '{"name":[1]}', '{"":["x"]}', '{"hs":["x"]}',
        '{"name":["a"],"label":{"b":true}}', {"dangling": ["hs"]}, {"dangling": ["true", "false"]})),
    *(_filtered("GET /networks", right, same=True, since=28) for right in (
        {"name": ["hs-al"]}, {"name": ["^hs-alike$"]}, {"name": {"hs-alike": False}}, {"name": ["hs["]},
        {"label": ["a"]}, {"label": ["a=b"]}, {"label": ["a=c"]}, {"type": ["custom"], "name": ["hs-"]},
        {"scope": ["swarm"]}, {"driver": ["hs-none"]}, {"id": ["hs-none"]})),
    _filtered("GET /networks", "null", status_only=True), _filtered("GET /networks", '{"name":null}', status_only=True),
)

_MEMBERS = (
    Row("POST /containers/create?name=hs-member", {"Image": "127.0.0.1:5000/busybox", "Cmd": ["true"]}),
    Row("POST /networks/hs-alike/connect", {}), Row("POST /networks/hs-none/connect", {"Container": "hs-none"}),
    _connect("hs-none", "hs-alike"),
    Row("POST /networks/host/connect", {"Container": "hs-member"}, since=28), _connect("hs-member", "none"),
    _connect("hs-member", "hs-alike"), _connect("hs-member", "hs-alike", Aliases=["hs-other"]),
    _connect("hs-member", "bridge"), _connect("hs-member", "bridge", Aliases=["a"]),
    _connect("hs-member", "bridge", IPAMConfig={"IPv4Address": "172.17.0.9"}),
    _connect("hs-member", "hs-alike", MacAddress="hs"),
    *(_connect("hs-member", "hs-alike", IPAMConfig=config) for config in (
        {"IPv4Address": "bad"}, {"IPv4Address": "10.9.0.1"}, {"IPv4Address": "fd00::1"}, {"IPv6Address": "fd00::1"},
        {"IPv6Address": "bad"}, {"LinkLocalIPs": ["bad"]}, {"IPv4Address": "10.241.8.9"})),
    Row("POST /networks/hs-alike/disconnect", {}), _disconnect("hs-none", "hs-alike"),
    _disconnect("hs-none", "hs-alike", Force=True), _disconnect("hs-none", "hs-none", Force=True),
    _disconnect("hs-member", "hs-alike"), Row("DELETE /containers/hs-member"),
)

_REMOVAL = (
    Row("DELETE /networks/bridge"), Row("DELETE /networks/none"), Row("DELETE /networks/host"),
    Row("DELETE /networks/hs-none"), Row("DELETE /networks/hs-alike"), Row("DELETE /networks/hs-alike"),
    *(_filtered("POST /networks/prune", filters) for filters in (
        "x", {"hs": ["x"]}, {"label": ["hs-none"]}, {"label!": ["hs-none"], "label": ["hs-none"]}, {"until": ["x"]},
        {"until": ["1", "2"]}, {"until": [""]}, {"until": ["2020-13-01"]}, {"until": ["2020-01-0"]},
        {"until": ["2020-01-01"]}, {"until": ["2020-01-01T00:00:00Z"]}, {"until": ["1.5"]}, {"until": ["1.x"]},
        {"until": ["1h30m"], "label": ["hs-none"]})),
)

_VOLUMES = (
    Row(_VOLUME, {"Name": "hs-alike", "Labels": {"a": "b"}}), Row(_VOLUME, {"Name": "hs-alike"}),
    *(Row(_VOLUME, {"Name": name}) for name in ("hs bad", "/hs-bad", "-hs", "hs/bad", "hs:bad")),
    *(Row(_VOLUME, {"Name": "hs-bad", "DriverOpts": options}) for options in (
        {"hs": "x"}, {"type": "tmpfs"}, {"o": "size=1m"}, {"device": "tmpfs"})),
    Row("GET /volumes"), Row("GET /volumes/hs-alike"), Row("GET /volumes/hs-none"),
    Row("GET /volumes/hs/none"), Row("PUT /volumes/hs-alike?version=1", {}, status_only=True),
    *(_filtered("GET /volumes", filters) for filters in (
        "x", "[]", "null", '{"hs":["x"]}', '{"":["x"]}', {"dangling": ["hs"]}, {"dangling": ["TRUE"]},
        {"dangling": [""]}, {"name": ["^hs-alike$"]}, {"name": ["hs["]}, {"label": ["a=b"]}, {"label": ["hs-none"]},
        {"driver": ["hs-none"]}, {"dangling": ["1"], "name": ["hs-alike"]})),
    *(_filtered("POST /volumes/prune", filters) for filters in (
        "x", {"hs": ["x"]}, {"until": ["1"]}, {"all": ["hs"]}, {"all": ["T"], "label": ["hs-none"]},
        {"label": ["hs-none"]}, {"label!": ["hs-none"], "label": ["hs-none"]})),
    Row("DELETE /volumes/hs-alike"), Row("DELETE /volumes/hs-alike"), Row("DELETE /volumes/hs-alike?force=1"),
    Row("DELETE /volumes/hs-none?force=%zz"),
)

ROWS = (*_CREATION, *_LISTS, *_MEMBERS, *_REMOVAL, *_VOLUMES)
