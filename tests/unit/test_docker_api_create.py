"""Create and update bodies: every field of Docker's is mapped, harmless, or refused by its name."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperstack.docker_api import bodies, refusals
from hyperstack.docker_api.bodies import CreateBody, HostConfigBody, UpdateBody
from hyperstack.docker_api.creation import parse_create, parse_update
from hyperstack.engine.machines.launch import changed_limits
from hyperstack.guest.messages import Limits
from hyperstack.http.body import decode
from hyperstack.pod.errors import InvalidArgument, UnsupportedOption
from hyperstack.pod.spec import ContainerSpec, Endpoint, Mount, MountKind, PodSpec, Resources, RestartKind, Sharing

DOCS = Path(__file__).parents[2] / "docs" / "docker.md"


def create(name: str = "", **fields: Any) -> tuple[ContainerSpec, PodSpec]:
    return parse_create(decode(json.dumps({"Image": "busybox", **fields}).encode(), CreateBody), name=name)


def host(**fields: Any) -> tuple[ContainerSpec, PodSpec]:
    return create(HostConfig=fields)


def test_what_docker_run_sends_by_default_means_no_wish() -> None:
    """Recorded from `docker run busybox true` of Docker 28.2.2."""
    spec, pod = parse_create(decode(b"""{"Hostname":"","Domainname":"","User":"","AttachStdin":false,
        "AttachStdout":true,"AttachStderr":true,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":["true"],"Image":"busybox",
        "Volumes":{},"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{},"HostConfig":{"Binds":null,
        "ContainerIDFile":"","LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{},
        "RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":false,"VolumeDriver":"","VolumesFrom":null,
        "ConsoleSize":[0,0],"CapAdd":null,"CapDrop":null,"CgroupnsMode":"","Dns":[],"DnsOptions":[],"DnsSearch":[],
        "ExtraHosts":null,"GroupAdd":null,"IpcMode":"","Cgroup":"","Links":null,"OomScoreAdj":0,"PidMode":"",
        "Privileged":false,"PublishAllPorts":false,"ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"",
        "UsernsMode":"","ShmSize":0,"Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"",
        "BlkioWeight":0,"BlkioWeightDevice":[],"BlkioDeviceReadBps":[],"BlkioDeviceWriteBps":[],
        "BlkioDeviceReadIOps":[],"BlkioDeviceWriteIOps":[],"CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,
        "CpuRealtimeRuntime":0,"CpusetCpus":"","CpusetMems":"","Devices":[],"DeviceCgroupRules":null,
        "DeviceRequests":null,"MemoryReservation":0,"MemorySwap":0,"MemorySwappiness":-1,"OomKillDisable":false,
        "PidsLimit":0,"Ulimits":[],"CpuCount":0,"CpuPercent":0,"IOMaximumIOps":0,"IOMaximumBandwidth":0,
        "MaskedPaths":null,"ReadonlyPaths":null},"NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":null,
        "Links":null,"Aliases":null,"MacAddress":"","DriverOpts":null,"GwPriority":0,"NetworkID":"","EndpointID":"",
        "Gateway":"","IPAddress":"","IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,
        "DNSNames":null}}}}""", CreateBody))
    assert spec == ContainerSpec(image="busybox", command=("true",), attach_stdout=True, attach_stderr=True)
    assert pod == PodSpec()


def test_everything_that_is_honoured_arrives() -> None:
    spec, pod = create(
        "web", Hostname="h", Domainname="d", User="1:2", Env=["A=1", "B="], Cmd=["x"], Entrypoint=["e"],
        WorkingDir="/w", Labels={"l": "v"}, StopSignal="SIGINT", StopTimeout=3, Tty=True, OpenStdin=True,
        ExposedPorts={"80/tcp": {}}, Volumes={"/anon": {}}, HostConfig={
            "Memory": 64 << 20, "MemorySwap": -1, "NanoCpus": 10**9, "PidsLimit": 5, "CpuShares": 9, "Init": True,
            "Binds": ["vol:/data:ro", "/anon2"], "Tmpfs": {"/tmp": "size=64k,noexec,mode=700"}, "AutoRemove": True,
            "Mounts": [{"Type": "volume", "Source": "v2", "Target": "/two"}, {"Type": "tmpfs", "Target": "/three"}],
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "53/udp": [{"HostPort": ""}],
                             "81/tcp": [{"HostPort": "90-91"}, {"HostPort": "99-99"}]},
            "CapAdd": ["net_admin"], "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"],
            "Privileged": True, "ReadonlyRootfs": True, "GroupAdd": ["27", "video"],
            "Sysctls": {"net.core.somaxconn": "9"},
            "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": -1}], "StorageOpt": {"size": "1G"}, "ShmSize": 1 << 20,
            "Dns": ["10.0.0.1"], "DnsSearch": ["a"], "DnsOptions": ["ndots:1"],
            "ExtraHosts": ["db:10.0.0.2", "up:host-gateway"],
            "OomScoreAdj": -5, "MemoryReservation": 32 << 20, "CpusetCpus": "0-1", "UsernsMode": "host",
            "Annotations": {"org.hyperstack.kernel": "mine"}, "PublishAllPorts": True,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}})
    assert (spec.name, pod.name, pod.hostname, pod.domainname, pod.kernel) == ("web", "web", "h", "d", "mine")
    assert (spec.entrypoint, spec.command, spec.env, spec.user) == (("e",), ("x",), ("A=1", "B="), "1:2")
    assert (spec.resources.memory, spec.resources.memory_swap, spec.resources.pids_limit) == (64 << 20, -1, 5)
    assert {mount.target: (mount.kind, mount.source, mount.read_only) for mount in spec.mounts} == {
        "/data": (MountKind.VOLUME, "vol", True), "/anon": (MountKind.VOLUME, "", False),
        "/anon2": (MountKind.VOLUME, "", False), "/two": (MountKind.VOLUME, "v2", False),
        "/three": (MountKind.TMPFS, "", False), "/tmp": (MountKind.TMPFS, "", False)}
    assert Mount(kind=MountKind.TMPFS, target="/tmp", size=65536, mode=0o700,
                 options=("size=64k", "noexec", "mode=700")) in spec.mounts
    assert [(p.container_port, p.protocol, p.host_ip, p.host_port) for p in pod.ports] == [
        (80, "tcp", "127.0.0.1", 8080), (53, "udp", "", 0), (81, "tcp", "", 90), (81, "tcp", "", 99)]
    assert [p.host_port_end for p in pod.ports] == [0, 0, 91, 0]
    security = spec.security
    assert (security.privileged, security.read_only_rootfs, security.no_new_privileges) == (True, True, True)
    assert (security.cap_add, security.cap_drop, security.seccomp) == (("NET_ADMIN",), ("ALL",), "unconfined")
    assert (security.supplemental_groups, security.group_names) == ((27,), ("video",))
    assert spec.sysctls == {"net.core.somaxconn": "9"}
    assert (spec.oom_score_adj, spec.resources.memory_reservation, spec.resources.cpuset_cpus) == (-5, 32 << 20, "0-1")
    assert (spec.ulimits[0].name, spec.ulimits[0].soft, spec.ulimits[0].hard) == ("nofile", 5, -1)
    assert (spec.disk_size, spec.shm_size, spec.stop_timeout, spec.stop_signal) == (1 << 30, 1 << 20, 3, "SIGINT")
    assert (pod.dns, pod.dns_search, pod.dns_options) == (("10.0.0.1",), ("a",), ("ndots:1",))
    assert (pod.extra_hosts, pod.publish_all, spec.init, spec.auto_remove) == (
        ("db:10.0.0.2", "up:host-gateway"), True, True, True)
    assert spec.log.options == {"max-size": "1m"}


def test_sharing_names_the_others() -> None:
    spec, pod = host(NetworkMode="container:x", PidMode="container:/y", IpcMode="shareable")
    assert spec.sharing == Sharing(network="x", pid="y", ipc_mode="shareable")
    assert (pod.network, pod.hostname) == ("bridge", "")
    assert host(IpcMode="container:z")[0].sharing == Sharing(ipc="z")


def test_a_container_may_be_on_several_networks() -> None:
    _, pod = create(MacAddress="02:11:22:33:44:55", HostConfig={"NetworkMode": "mine", "Links": ["db:store"]},
                    NetworkingConfig={"EndpointsConfig": {
                        "other": {"Aliases": ["o"], "GwPriority": 5, "IPAMConfig": {"IPv4Address": "10.1.2.3"}},
                        "bridge": None, "mine": {"IPAMConfig": {"IPv6Address": "fd00::0:9"}}}})
    assert pod.endpoints == (
        Endpoint(network="mine", mac_address="02:11:22:33:44:55", links=("db:store",), ip6_address="fd00::9"),
        Endpoint(network="other", aliases=("o",), priority=5, ip_address="10.1.2.3"), Endpoint(network="bridge"))
    assert [endpoint.network for endpoint in create(NetworkingConfig={"EndpointsConfig": {"mine": {}}})[1].endpoints
            ] == ["mine"], "as Docker has it, where no mode is named"
    assert create(HostConfig={"NetworkMode": "none"})[1].endpoints == ()


@pytest.mark.parametrize(("sent", "arrives"), [
    (None, None), ([], ()), ([""], ()), ("sh", ("sh",)), (["a", ""], ("a", "")),
])
def test_an_entrypoint_may_be_reset(sent: Any, arrives: Any) -> None:
    assert create(Entrypoint=sent)[0].entrypoint == arrives


_EXAMPLES: dict[type, Any] = {str: "other", bool: True, int: 5}


@pytest.mark.parametrize("refusal", [*refusals.RESOURCES, *refusals.HOST_CONFIG], ids=lambda item: item.attribute)
def test_each_refused_option_is_named_and_in_the_page(refusal: refusals.Refusal) -> None:
    field = next(item for item in msgspec.structs.fields(HostConfigBody) if item.name == refusal.attribute)
    name = refusals.wire_name(HostConfigBody, refusal.attribute)
    default = HostConfigBody()
    example = _EXAMPLES.get(type(getattr(default, refusal.attribute)), ["x"])
    with pytest.raises(InvalidArgument) as caught:
        host(**{field.encode_name: example})
    assert f"HostConfig.{name}" in str(caught.value)
    assert ((refusal.complaint and refusal.hint) or refusal.reason) in str(caught.value)
    assert f"`{name}`" in DOCS.read_text()
    for value in refusal.accepted:
        if type(value) is type(example):
            host(**{field.encode_name: value})


@pytest.mark.parametrize(("fields", "words"), [
    ({"HostConfig": {"NetworkMode": "host"}}, "HostConfig.NetworkMode=host is not supported: a VM has a network"),
    ({"HostConfig": {"PidMode": "container:x", "NetworkMode": "mine"}}, "NetworkMode=mine is not supported"),
    ({"HostConfig": {"IpcMode": "host"}}, "HostConfig.IpcMode=host is not supported"),
    ({"HostConfig": {"BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1}]}}, "BlkioDeviceReadBps is not supported"),
    ({"HostConfig": {"NetworkMode": "mine"}, "NetworkingConfig": {"EndpointsConfig": {"mine": {
        "IPAMConfig": {"LinkLocalIPs": ["fe80::1"]}}}}}, "EndpointsConfig.mine.IPAMConfig.LinkLocalIPs is not"),
    ({"HostConfig": {"NetworkMode": "mine"}, "NetworkingConfig": {"EndpointsConfig": {"mine": {
        "DriverOpts": {"a": "b"}}}}}, "EndpointsConfig.mine.DriverOpts is not supported"),
    ({"HostConfig": {"Binds": ["/etc:/x:rshared"]}}, "mode rshared is not supported"),
    ({"HostConfig": {"Binds": ["/etc:/x:ro,slave"]}}, "mode slave is not supported"),
    ({"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {
        "Propagation": "rshared"}}]}}, "BindOptions.Propagation=rshared is not supported"),
    ({"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {
        "ReadOnlyNonRecursive": True}}]}}, "BindOptions.ReadOnlyNonRecursive is not supported"),
    ({"HostConfig": {"Mounts": [{"Type": "volume", "Target": "/b", "VolumeOptions": {"DriverConfig": {
        "Name": "nfs"}}}]}}, "DriverConfig.Name=nfs is not supported"),
    ({"HostConfig": {"SecurityOpt": ["seccomp={}"]}}, "SecurityOpt seccomp= is not supported"),
    ({"HostConfig": {"SecurityOpt": ["apparmor=mine"]}}, "SecurityOpt apparmor=mine is not supported"),
    ({"HostConfig": {"LogConfig": {"Type": "syslog"}}}, "LogConfig.Type=syslog is not supported"),
    ({"HostConfig": {"StorageOpt": {"dm.x": "1"}}}, "StorageOpt.dm.x is not supported"),
    ({"HostConfig": {"LogConfig": {"Type": "none", "Config": {"max-size": "1m"}}}}, "LogConfig.Config.max-size is not"),
    ({"HostConfig": {"LogConfig": {"Config": {"mode": "x"}}}}, "LogConfig.Config.mode is not supported"),
    ({"NetworkingConfig": {"EndpointsConfig": {"bridge": {"Links": ["x"]}}}}, "EndpointsConfig.bridge.Links is not"),
    ({"hostconfig": {"pidmode": "host"}}, "HostConfig.PidMode=host is not supported"),
])
def test_what_a_vm_cannot_honour_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedOption) as caught:
        create(**fields)
    assert words in str(caught.value)


@pytest.mark.parametrize(("fields", "words"), [
    ({"Image": ""}, "config cannot be empty in order to create a container"),
    ({"Image": "", "Tty": True}, "no command specified"),
    ({"Image": "", "Cmd": ["ls"]}, "no image given"),
    ({"Healthcheck": {"Test": ["CMD"]}}, "invalid health check"),
    ({"Healthcheck": {"Test": ["RUN", "x"]}}, "invalid health check"),
    ({"Healthcheck": {"Test": ["CMD", "x"], "Interval": 1000}}, "Interval in Healthcheck"),
    ({"Healthcheck": {"Test": ["CMD", "x"], "Retries": -1}}, "Retries in Healthcheck"),
    ({"Env": ["=x"]}, "invalid environment variable: =x"),
    ({"Env": [""]}, "invalid environment variable: "),
    ({"Env": ["A=\0"]}, "NUL byte"),
    ({"Env": "A=1"}, "struct field .Env of type []string"),
    ({"Cmd": [1]}, "cannot unmarshal array into Go value of type string"),
    ({"WorkingDir": "here"}, "needs to be an absolute path"),
    ({"Hostname": "a b"}, "invalid Hostname"),
    ({"StopTimeout": -5}, "StopTimeout must be between"),
    ({"ExposedPorts": {"99999/tcp": {}}}, "invalid containerPort: 99999/tcp"),
    ({"MacAddress": "xx"}, "invalid MAC address"),
    ({"MacAddress": "02:00:00:00:00:01", "NetworkingConfig": {"EndpointsConfig": {"bridge": {
        "MacAddress": "02:00:00:00:00:02"}}}}, "must match the endpoint-specific MAC address"),
    ({"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", "VolumeOptions": {}}]}},
     'VolumeOptions must not be specified on mount type "bind"'),
    ({"HostConfig": {"Memory": 5}}, "Minimum memory limit allowed is 6MB"),
    ({"HostConfig": {"Memory": "64m"}}, "HostConfig.Memory of type int64"),
    ({"HostConfig": {"Memory": 2**63}}, "HostConfig.Memory"),
    ({"HostConfig": {"MemorySwap": 5}}, "always set the Memory limit"),
    ({"HostConfig": {"NanoCpus": 1, "CpuQuota": 5000}}, "Conflicting options"),
    ({"HostConfig": {"CpuPeriod": 1}}, "CPU cfs period"),
    ({"HostConfig": {"RestartPolicy": {"Name": "sometimes"}}}, "invalid restart policy: unknown policy 'sometimes'"),
    ({"HostConfig": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}}, "maximum retry count"),
    ({"HostConfig": {"RestartPolicy": {"Name": "always"}, "AutoRemove": True}}, "can't create 'AutoRemove'"),
    ({"HostConfig": {"Binds": ["a:b:c:d"]}}, "invalid volume specification"),
    ({"HostConfig": {"Binds": ["v:relative"]}}, "must be absolute"),
    ({"HostConfig": {"Binds": ["vol:/x", "other:/x/"]}}, "Duplicate mount point: /x"),
    ({"HostConfig": {"Tmpfs": {"/x": "size=many"}}}, "invalid tmpfs option 'size=many'"),
    ({"HostConfig": {"Tmpfs": {"/": ""}}}, "destination can't be '/'"),
    ({"HostConfig": {"PortBindings": {"http": []}}}, 'invalid port specification: "http"'),
    ({"HostConfig": {"PortBindings": {"80": [{"HostIp": "here"}]}}}, "invalid HostIp"),
    ({"HostConfig": {"CapAdd": ["net admin"]}}, 'invalid CapAdd: unknown capability: "CAP_NET ADMIN"'),
    ({"HostConfig": {"NanoCpus": 10**15}}, "range of CPUs is from 0.01 to "),
    ({"HostConfig": {"NanoCpus": -1}}, "range of CPUs is from 0.01 to "),
    ({"NetworkingConfig": {"EndpointsConfig": {"bridge": {"IPAMConfig": {"IPv4Address": "10.1.2.3"}}}}},
     "user specified IP address is supported on user defined networks only"),
    ({"HostConfig": {"Ulimits": [{"Name": "x", "Soft": 1, "Hard": 1}]}}, "invalid ulimit type: x"),
    ({"HostConfig": {"Ulimits": [{"Name": "nofile", "Soft": 9, "Hard": 1}]}}, "soft limit must be less"),
    ({"HostConfig": {"ShmSize": -1}}, "can not be less than 0"),
    ({"HostConfig": {"GroupAdd": ["a:b"]}}, "invalid group"),
    ({"HostConfig": {"GroupAdd": ["4294967295"]}}, "invalid group"),
    ({"HostConfig": {"OomScoreAdj": 1001}}, "range for oom score adj is [-1000, 1000]"),
    ({"HostConfig": {"MemoryReservation": 5}}, "Minimum memory reservation allowed is 6MB"),
    ({"HostConfig": {"Memory": 8 << 20, "MemoryReservation": 9 << 20}}, "can not be less than memory reservation"),
    ({"HostConfig": {"CpusetCpus": "0-x"}}, "Invalid value 0-x for cpuset"),
    ({"HostConfig": {"CpusetCpus": "3-1"}}, "Invalid value 3-1 for cpuset"),
    ({"HostConfig": {"CpusetCpus": "0,,1"}}, "Invalid value 0,,1 for cpuset"),
    ({"HostConfig": {"Dns": ["here"]}}, "not an IP address"),
    ({"HostConfig": {"Links": ["a b"]}}, "HostConfig.Links: 'a b' cannot be a name"),
    ({"HostConfig": {"Sysctls": {"a b": "1"}}}, "invalid sysctl"),
    ({"HostConfig": {"Binds": ["v:/x:rshared"]}}, "field BindOptions must not be specified"),
    ({"HostConfig": {"PidMode": "container:"}}, "invalid PID mode: container:"),
    ({"Hostname": "x", "HostConfig": {"NetworkMode": "container:y"}}, "hostname and the network mode"),
    ({"MacAddress": "02:00:00:00:00:01", "HostConfig": {"NetworkMode": "container:y"}}, "mac-address and the network"),
    ({"HostConfig": {"NetworkMode": "container:y", "Links": ["a:b"]}}, "can't be used with links"),
    ({"HostConfig": {"NetworkMode": "container:y", "Sysctls": {"net.core.somaxconn": "9"}}}, "sysctls and the"),
    ({"HostConfig": {"StorageOpt": {"size": "big"}}}, "invalid size"),
])
def test_what_is_malformed_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        create(**fields)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["a" * 200, "a b", "-x", "ä", "x" * 1_000_000])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid container name") as caught:
        create(name)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("raw", [b"[]", b"5", b"{", b"\xff", b'{"Image": "\\ud800"}', b"[" * 100_000,
                                 b'{"X": ' + b"[" * 100 + b"]" * 100 + b"}"])
def test_a_body_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidArgument):
        decode(raw, CreateBody)


def test_an_update_keeps_what_it_does_not_name() -> None:
    current = Resources(memory=64 << 20, pids_limit=9)
    body = decode(b'{"NanoCpus": 5000, "RestartPolicy": {"Name": "always"}}', UpdateBody)
    resources, restart = parse_update(body, current)
    assert resources == Resources(memory=64 << 20, pids_limit=9, nano_cpus=5000)
    assert restart is not None
    assert restart.kind is RestartKind.ALWAYS


def test_an_update_lifts_what_it_says_is_unlimited() -> None:
    current = Resources(pids_limit=9, cpu_quota=50_000, memory=64 << 20)
    resources, restart = parse_update(decode(b'{"PidsLimit": -1, "CpuQuota": -1}', UpdateBody), current)
    assert (resources, restart) == (Resources(memory=64 << 20), None)
    assert changed_limits(current, resources) == Limits(memory=64 << 20, swap=0, pids=0, cpu_quota_us=0,
                                                        cpu_period_us=0)


@pytest.mark.parametrize("body", [b'{"BlkioWeight": 10}', b'{"Ulimits": [{"Name": "nofile"}]}'])
def test_an_update_refuses_what_a_create_refuses(body: bytes) -> None:
    with pytest.raises(UnsupportedOption):
        parse_update(decode(body, UpdateBody), Resources())


_FIELDS = sorted({field.encode_name for kind in vars(bodies).values()
                  if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
                  for field in msgspec.structs.fields(kind)})
_SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(
    ["80/tcp", "vol:/data:ro", "/x", "tmpfs", "volume", "on-failure", "size=5k", "10.0.0.1", "A=1", "host", "NET_RAW"])
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(_FIELDS) | st.text(max_size=6) | st.just("80/tcp"), inner, max_size=5), max_leaves=25)


@given(st.dictionaries(st.sampled_from(_FIELDS), _VALUES, max_size=8), st.text(max_size=10))
@settings(max_examples=500, deadline=None)
def test_any_body_gives_specs_or_a_typed_error(fields: dict[str, Any], name: str) -> None:
    with contextlib.suppress(InvalidArgument):
        for body in ({"Image": "x", **fields}, {"Image": "x", "HostConfig": fields}):
            spec, pod = parse_create(decode(json.dumps(body).encode(), CreateBody), name=name)
            assert msgspec.json.decode(msgspec.json.encode(spec), type=ContainerSpec) == spec
            assert msgspec.json.decode(msgspec.json.encode(pod), type=PodSpec) == pod


@given(st.binary(max_size=60))
def test_any_bytes_are_a_body_or_a_typed_error(raw: bytes) -> None:
    with contextlib.suppress(InvalidArgument):
        decode(raw, CreateBody)
