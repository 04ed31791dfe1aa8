"""The engine itself: version, events, what is not there; and how requests are read at all."""

from __future__ import annotations

from tests.clients.alike import Row

_CREATE = "POST /volumes/create"
_TEXT, _NONE = {"Content-Type": "text/plain"}, {"Content-Type": ""}

_PATHS = (
    Row("GET /_ping", same=True), Row("HEAD /_ping"), Row("GET /%5fping"), Row("POST /_ping"), Row("PUT /_ping"),
    Row("OPTIONS /_ping"), Row("OPTIONS /hs-none"), Row("GET /hs-none"), Row("GET /"), Row("GET /v1.45"),
    Row("GET /v1.45/"), Row("HEAD /info"), Row("PATCH /info"), Row("DELETE /containers/json"), Row("POST /networks"),
    Row("GET /containers/json/"), Row("GET /containers/"), Row("GET /vx/version"), Row("GET /v/version"),
    Row("GET /v1.45x/_ping"), Row("GET /v1.99/info", status_only=True), Row("GET /v12345.1/_ping", status_only=True),
    *(Row(f"GET /v{old}/version", status_only=True) for old in ("1.23", "1", "1.5.1", "0.0")),
    Row("GET //_ping"), Row("GET /v1.45//containers//json?all=1"), Row("GET /./_ping"), Row("GET /x/../_ping"),
    Row("GET /containers/%2e%2e/json"), Row("GET /containers/hs%2fnone/json"), Row("GET /containers/%zz/json"),
    Row("GET /containers/json?all=%zz"), Row("GET /containers/json?all=%"), Row("GET /containers/json?a;b"),
)

_BODIES = (
    *(Row(_CREATE, raw) for raw in (
        b"{", b"[", b"nul", b'{"Name":"x', b"{}x", b"{} {}", b" ", b'{"a":}', b'{"a"}', b"{'a':1}", b'{"a":1,}',
        b'{"a":1 "b"}', b"[1 2]", b"[1,]", b'{"a":tru}', b'{"a":falsy}', b'{"a":01}', b"-x", b"{,}", b'{"a":1]', b"x")),
    *(Row(_CREATE, raw, since=28) for raw in (
        b'{"a":1e}', b'{"a":1.}',
        b"\xff", b"\xef\xbb\xbf{}", b'{"a":"\\x"}', b'{"a":"\\u12x4"}', b"1x", b"[]", b"1", b'"a"', b'{"Name":1}',
        b'{"name":1}', b'{"Labels":[]}', b'{"Labels":{"a":1}}', b'{"DriverOpts":{"a":[]}}', b'{"Driver":{}}')),
    Row("POST /networks/create", b'{"IPAM":{"Config":["x"]}}', since=28),
    Row("POST /networks/create", b'{"IPAM":{"Config":{}}}', since=28),
    Row("POST /v1.51/networks/bridge/connect", b'{"EndpointConfig":{"GwPriority":1.5}}', since=28),
    Row("POST /networks/bridge/connect", b'{"EndpointConfig":{"Aliases":"x"}}', since=28),
    *(Row("POST /networks/create", raw, since=28) for raw in (b"null", b"{} ]", b"")),
    *(Row(_CREATE, b"{}", headers) for headers in (
        _TEXT, _NONE, {"Content-Type": "application/"}, {"Content-Type": "application"}, {"Content-Type": "/json"},
        {"Content-Type": "a b/c"}, {"Content-Type": "application/json x"},
        {"Content-Type": "application/json; charset"}, {"Content-Type": "application/jsonx"})),
    Row(_CREATE, b"", _TEXT),
)

_ABSENT = (
    Row("GET /swarm"), Row("GET /swarm/unlockkey"), Row("POST /swarm/unlock", {}), Row("POST /swarm/leave"),
    Row("POST /swarm/update", {}), Row("POST /swarm/update?version=1", {}), Row("POST /swarm/update?version=-1", {}),
    Row("GET /swarm/hs-none"), Row("POST /swarm"), Row("POST /tasks"), Row("GET /services/x/hs-none"),
    *(Row(f"{method} /{path}") for path in ("services", "nodes", "secrets", "configs")
      for method in ("GET", "POST", "DELETE")),
    *(Row(f"{method} /{kind}/hs-none") for kind in ("services", "nodes", "secrets", "configs")
      for method in ("GET", "DELETE")),
    *(Row(f"POST /{kind}/create", raw) for kind in ("services", "secrets", "configs") for raw in (b"{}", b"{")),
    *(Row(f"POST /{kind}/x/update?version={number}", {}) for kind in ("services", "nodes", "secrets", "configs")
      for number in ("", "1", "x")),
    Row("GET /tasks"), Row("GET /tasks/x"), Row("GET /tasks/x/logs?stdout=1"), Row("GET /services/x/logs?stdout=1"),
    Row("GET /plugins", same=True), Row("GET /plugins/hs-none/json"), Row("DELETE /plugins/hs-none"),
    Row("POST /plugins/hs-none/enable?timeout=0"), Row("POST /plugins/hs-none/disable"),
    Row("POST /plugins/hs-none/set", ["a=b"]), Row("GET /plugins/hs-none"),
    Row('GET /plugins?filters={"hs":["x"]}'), Row('GET /plugins?filters={"enabled":["hs"]}'),
    Row('GET /plugins?filters={"enabled":["true"]}'),
)

_EVENTS = (
    Row("GET /events?since=0&until=1"), Row("GET /events?since=-5&until=1", status_only=True),
    Row("GET /events?since=1.123456789123&until=2"), Row("GET /events?since=9&until=5"),
    Row("GET /events?until=1&filters=x"), Row('GET /events?until=1&filters={"type":["hs-none"]}'),
    Row("GET /events?until=1&filters=%zz"),
)

_HOST_ONLY = frozenset({"Runtimes.io.containerd.runc.v2", "Runtimes.runc", "RegistryConfig.IndexConfigs.127.0.0.1:5000",
                        "Containerd", "KernelMemoryTCP",
                        'Warnings (["No usable hardware virtualization: machines run under soft, not null)'})
"""What a host of VMs has not, where a daemon of Docker's keeps its own, and what a host without KVM is warned of."""

_SYSTEM = (
    Row("GET /version"),
    *(Row(f"GET /v{version}/info", lacked=_HOST_ONLY) for version in ("1.25", "1.41", "1.44", "1.45")),
    Row("GET /v1.24/info", lacked=_HOST_ONLY, since=28), Row("GET /v1.49/info", lacked=_HOST_ONLY, since=28),
    Row("GET /v1.51/info", lacked=_HOST_ONLY, since=28),
    Row("GET /v1.41/system/df"), Row("GET /v1.44/system/df"), Row("GET /system/df?type=image"),
    Row("GET /system/df?type=hs"), Row("GET /system/df?type="), Row("GET /system/df?type=container&type=volume"),
    Row("GET /system/df?type=build-cache", same=True), Row("GET /v1.41/system/df?type=hs", status_only=True),
)

ROWS = (*_PATHS, *_BODIES, *_ABSENT, *_EVENTS, *_SYSTEM)
