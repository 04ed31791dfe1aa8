"""Containers, and what runs in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.clients.alike import Row
from tests.images import BUSYBOX


def refused(*, since: int = 0, **config: Any) -> Row:
    """A container that cannot be made so."""
    return Row("POST /containers/create?name=hs-refused", {"Image": BUSYBOX, **config}, since=since)


def host(config: dict[str, Any] | None = None, *, since: int = 0, **options: Any) -> Row:
    return refused(since=since, HostConfig={**(config or {}), **options})


def mount(**fields: Any) -> Row:
    return host(since=28, Mounts=[fields])


MALFORMED = (
    *(Row("POST /containers/create", raw) for raw in (b"", b"null", b"{}")),
    Row("POST /containers/create", b"{}", {"Content-Type": "text/plain"}),
    *(Row("POST /containers/create", raw, since=28) for raw in (
        b"[]", b"{", b'{"Cmd":1}', b'{"Cmd":[1]}', b'{"HostConfig":{"Memory":"1g"}}',
        b'{"HostConfig":{"CpuShares":1.5}}', b'{"Volumes":{"/x":1}}', b'{"ExposedPorts":[]}',
        b'{"HostConfig":{"NetworkMode":1}}', b'{"HostConfig":{"Mounts":[1]}}', b'{"HostConfig":{"BlkioWeight":-1}}',
        b'{"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":80}]}}}',
        b'{"Healthcheck":{"Interval":"1s"}}', b'{"StopTimeout":1.5}', b'{"NetworkingConfig":{"EndpointsConfig":[]}}')),
)
REFUSED = (
    refused(Env=["=x"]), refused(Entrypoint=[""], Cmd=[]), refused(StopSignal="FOO"), refused(WorkingDir="relative"),
    *(refused(Healthcheck={"Test": ["CMD", "a"], name: value}) for name, value in (
        ("Interval", 1), ("Timeout", -1), ("StartPeriod", 10), ("StartInterval", 10), ("Retries", -1))),
    host(Binds=["./a:/b"]), host(Binds=["a b:/c"]), host(since=28, NetworkMode="container:"), host(ShmSize=-1),
    *(host(PortBindings={"80/tcp": [{"HostPort": port}]}) for port in ("x", "70000", "90-80", "-1")),
    host(PortBindings={"x": [{"HostPort": "80"}]}), host(VolumesFrom=[""]), host(VolumesFrom=["x:foo"]),
    *(host({name: [word]}) for name in ("CapAdd", "CapDrop") for word in ("FOO", "")),
    host(CgroupnsMode="foo"), host(IpcMode="foo"), host(PidMode="foo"), host(PidMode="private"), host(UTSMode="foo"),
    *(host(ExtraHosts=[text]) for text in ("x", "x:y", ":1.1.1.1", "x:", "x:[::1]")), host(Runtime="foo"),
    host(since=28, Isolation="hyperv"),
    host(since=28, NanoCpus=-1), host(since=28, IOMaximumIOps=1), host(since=28, IOMaximumBandwidth=1),
    host(MemorySwappiness=101), host(Memory=1024), host(Memory=10**7, MemorySwap=10**6), host(MemorySwap=10**8),
    host(Memory=10**7, MemoryReservation=10**8), host(Annotations={"": "x"}), host(OomScoreAdj=2000),
    host(NanoCpus=10**9, CpuQuota=1000), host(NanoCpus=10**9, CpuPeriod=1000), host(CpuPeriod=100), host(CpuQuota=100),
    *(host(since=28, CpusetCpus=text) for text in ("x", "1-0", "0-", "100")),
    host(AutoRemove=True, RestartPolicy={"Name": "always"}), host(Tmpfs={"x": ""}), host(Tmpfs={"/": ""}),
    *(host(wrong, NetworkMode="container:x") for wrong in (
        {"Dns": ["1.1.1.1"]}, {"ExtraHosts": ["a:1.1.1.1"]}, {"PublishAllPorts": True}, {"Links": ["a:b"]})),
    mount(), mount(Type="foo", Target="/x"), mount(Type="bind", Target="/x"), mount(Type="volume", Target="x"),
    mount(Type="volume", Source="vv", Target="/"), mount(Type="bind", Source="/tmp", Target="/x", VolumeOptions={}),
    mount(Type="bind", Source="/tmp", Target="/x", BindOptions={"Propagation": "foo"}),
    mount(Type="volume", Source="vv", Target="/x", VolumeOptions={"Subpath": "../a"}),
    mount(Type="volume", Target="/x", ReadOnly=True), mount(Type="tmpfs", Source="x", Target="/x"),
    mount(Type="tmpfs", Target="/x", TmpfsOptions={"Options": [["foo"]]}),
    *(Row(f"POST /containers/create?name={name}", {"Image": BUSYBOX}) for name in ("-ab", "a%20b", "ab%2Fc", "_ab")),
)


def absent(name: str = "hs-none") -> Iterator[Row]:
    """What nobody can do with a container that is not there."""
    for request, body in (
            ("GET {}/json", None), ("GET {}/top", None), ("GET {}/logs", None), ("GET {}/logs?stdout=1", None),
            ("GET {}/changes", None), ("GET {}/export", None), ("GET {}/stats?stream=0", None),
            ("POST {}/resize?h=1&w=1", None), ("POST {}/start", None), ("POST {}/stop", None),
            ("POST {}/restart", None), ("POST {}/kill", None), ("POST {}/kill?signal=FOO", None),
            ("POST {}/update", {}), ("POST {}/rename", None), ("POST {}/rename?name=hs-other", None),
            ("POST {}/pause", None), ("POST {}/unpause", None), ("POST {}/wait", None), ("DELETE {}", None),
            ("POST {}/wait?condition=never", None), ("HEAD {}/archive?path=/x", None), ("GET {}/archive", None),
            ("GET {}/archive?path=/x", None), ("PUT {}/archive", b""), ("POST {}/exec", {}),
            ("POST {}/exec", {"Cmd": ["ls"]}), ("POST {}/nothing", None)):
        yield Row(request.format(f"/containers/{name}"), body)
    yield Row(f"POST /containers/{name}/resize", since=28)
    for request in ("POST /exec/{}/start", "POST /exec/{}/resize?h=1&w=1", "GET /exec/{}/json"):
        yield Row(request.format(name), {} if "start" in request else None)


def either(name: str) -> Iterator[Row]:
    """What is the same of a container that runs and of one that does not."""
    for request, body in (
            ("POST {}/kill?signal=FOO", None), ("POST {}/kill?signal=999", None), ("POST {}/kill?signal=0", None),
            ("POST {}/update", {}), ("POST {}/update", {"Memory": 1}),
            ("POST {}/update", {"RestartPolicy": {"Name": "foo"}}), ("POST {}/rename?name=", None),
            ("POST {}/rename?name=a%20b", None), ("POST {}/rename?name={name}", None),
            ("POST {}/wait?condition=never", None), ("HEAD {}/archive?path=/none", None), ("GET {}/archive", None),
            ("HEAD {}/archive?path=/etc/passwd", None), ("GET {}/archive?path=/none", None),
            ("PUT {}/archive?path=/none", b""), ("POST {}/exec", {}),
            ("GET {}/logs", None), ("GET {}/logs?stdout=1&since=1.1234567891", None), ("POST {}/attach", None)):
        yield Row(request.format(f"/containers/{name}", name=name), body)
    for request, body in (
            ("POST {}/resize?h=x&w=1", None), ("POST {}/resize?h=1&w=-1", None),
            ("POST {}/resize?h=99999999999&w=1", None), ("POST {}/update", {"NanoCpus": 10**15}),
            ("PUT {}/archive?path=/etc/passwd", b"")):
        yield Row(request.format(f"/containers/{name}"), body, since=28)


OF_LIFE = (
    Row("POST /containers/create?name=hs-life", {"Image": BUSYBOX, "Cmd": ["sleep", "600"]}),
    Row("POST /containers/create?name=hs-life", {"Image": BUSYBOX}),
    *either("hs-life"), Row("GET /containers/hs-life/json", lacked=frozenset({"ImageManifestDescriptor"})),
    Row("GET /containers/hs-life/top"), Row("POST /containers/hs-life/pause"), Row("POST /containers/hs-life/kill"),
    Row("POST /containers/hs-life/stop"), Row("POST /containers/hs-life/exec", {"Cmd": ["ls"]}),
    Row("POST /containers/hs-life/start?checkpoint=x"),
    Row("POST /containers/hs-life/start", {"Binds": []}),
    Row("POST /containers/hs-life/start"), Row("POST /containers/hs-life/start"),
    *either("hs-life"), Row("POST /containers/hs-life/resize?h=10&w=10"),
    Row("GET /containers/json?filters=%7B%22name%22:%5B%22hs-life%22%5D%7D"),
    *(Row(f"GET /containers/json?filters=%7B%22{name}%22:%5B%22foo%22%5D%7D", since=28) for name in (
        "status", "health", "exited", "isolation", "foo", "before", "is-task")),
    Row("GET /containers/hs-life/json", lacked=frozenset({"ImageManifestDescriptor"})),
    Row("DELETE /containers/hs-life", since=28),
    Row("POST /containers/hs-life/pause"), Row("POST /containers/hs-life/pause"),
    Row("DELETE /containers/hs-life", since=28), Row("POST /containers/hs-life/exec", {"Cmd": ["ls"]}),
    Row("POST /containers/hs-life/unpause"),
    Row("POST /containers/hs-life/stop?t=0"), Row("POST /containers/hs-life/stop"),
    Row("POST /containers/hs-life/kill"), Row("POST /containers/hs-life/wait", same=True),
    Row("GET /containers/hs-life/changes"), Row("DELETE /containers/hs-life"),
)
ROWS = (
    Row("POST /containers/create?name=hs-alike", {"Image": BUSYBOX, "Cmd": ["sleep", "600"]}),
    Row("GET /containers/hs-alike/logs"),
    Row("POST /containers/hs-none/start"),
    Row("DELETE /containers/hs-alike"),
    Row("POST /containers/create?name=hs-mac", {"Image": BUSYBOX, "MacAddress": "02:42:ac:11:00:99"}, same=True),
    Row("DELETE /containers/hs-mac"),
    Row("POST /v1.43/containers/create?name=hs-mac", {"Image": BUSYBOX, "MacAddress": "02:42:ac:11:00:99"}, same=True),
    Row("DELETE /containers/hs-mac"),
    *(Row("POST /containers/create?name=hs-policy", {"Image": BUSYBOX, "HostConfig": {"RestartPolicy": policy}})
      for policy in ({"Name": "never"}, {"Name": "always", "MaximumRetryCount": 2},
                     {"Name": "on-failure", "MaximumRetryCount": -2}, {"Name": "no", "MaximumRetryCount": -2})),
    *MALFORMED, *REFUSED, *absent(), *OF_LIFE,
)
