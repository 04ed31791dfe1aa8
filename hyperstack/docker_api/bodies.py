"""The bodies of Docker's requests, as far as anybody sends them. What they mean is decided in `creation`.

Names and types are those of Docker's swagger; null, absent and zero are the same, as in Go.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

from hyperstack.http.body import Int, Int64


def _go(name: str) -> msgspec.Meta:
    """Of a field whose type Docker's engine calls so."""
    return msgspec.Meta(extra={"go": name})


Duration = Annotated[Int64, _go("time.Duration")]
Uint = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1, extra={"go": "uint"})]
Uint64 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1, extra={"go": "uint64"})]
Words = str | list[str] | None
"""A list, or a word for a list of it."""
ConsoleSize = Annotated[list[Uint], _go("[2]uint")]
Throttles = Annotated[list[Any], _go("[]*blkiodev.ThrottleDevice")] | None


class Body(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base: PascalCase names on the wire. `GO` is what Docker's engine calls the type where a client sent another;
    where `GO_EMBEDS`, the fields are another type's there, and an error's path begins without a name."""


class Empty(Body, frozen=True):
    """Go's `struct{}`, the value type of a set."""

    GO: ClassVar = "struct {}"


class UlimitBody(Body, frozen=True):
    GO: ClassVar = "units.Ulimit"

    name: str = ""
    soft: Int64 = 0
    hard: Int64 = 0


class RestartPolicyBody(Body, frozen=True):
    GO: ClassVar = "container.RestartPolicy"

    name: Annotated[str, _go("container.RestartPolicyMode")] = ""
    maximum_retry_count: Int = 0


class LogConfigBody(Body, frozen=True):
    GO: ClassVar = "container.LogConfig"

    type: str = ""
    config: dict[str, str] = {}


class PortBindingBody(Body, frozen=True):
    GO: ClassVar = "nat.PortBinding"

    host_ip: str = ""
    host_port: str = ""


class TmpfsOptionsBody(Body, frozen=True):
    GO: ClassVar = "mount.TmpfsOptions"

    size_bytes: Int64 = 0
    mode: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1, extra={"go": "fs.FileMode"})] = 0
    options: list[list[str]] = []


class VolumeDriverBody(Body, frozen=True):
    GO: ClassVar = "mount.Driver"

    name: str = ""
    options: dict[str, str] = {}


class VolumeOptionsBody(Body, frozen=True):
    GO: ClassVar = "mount.VolumeOptions"

    no_copy: bool = False
    labels: dict[str, str] = {}
    driver_config: VolumeDriverBody = msgspec.field(default_factory=VolumeDriverBody)
    subpath: str = ""


class BindOptionsBody(Body, frozen=True):
    GO: ClassVar = "mount.BindOptions"

    propagation: Annotated[str, _go("mount.Propagation")] = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False
    """What holds anyway."""


class MountBody(Body, frozen=True):
    GO: ClassVar = "mount.Mount"

    type: Annotated[str, _go("mount.Type")] = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: Annotated[str, _go("mount.Consistency")] = ""
    bind_options: BindOptionsBody | None = None
    volume_options: VolumeOptionsBody | None = None
    tmpfs_options: TmpfsOptionsBody | None = None
    image_options: dict[str, Any] | None = None
    cluster_options: dict[str, Any] | None = None


class ResourcesBody(Body, frozen=True):
    """The limits, shared by create and update."""

    memory: Int64 = 0
    memory_swap: Int64 = 0
    memory_reservation: Int64 = 0
    memory_swappiness: Int64 = -1
    kernel_memory: Int64 = 0
    kernel_memory_tcp: Int64 = msgspec.field(default=0, name="KernelMemoryTCP")
    nano_cpus: Int64 = 0
    cpu_shares: Int64 = 0
    cpu_quota: Int64 = 0
    cpu_period: Int64 = 0
    cpu_realtime_period: Int64 = 0
    cpu_realtime_runtime: Int64 = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cpu_count: Int64 = 0
    cpu_percent: Int64 = 0
    pids_limit: Int64 = 0
    oom_kill_disable: bool = False
    blkio_weight: Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1, extra={"go": "uint16"})] = 0
    blkio_weight_device: Annotated[list[Any], _go("[]*blkiodev.WeightDevice")] | None = None
    blkio_device_read_bps: Throttles = None
    blkio_device_write_bps: Throttles = None
    blkio_device_read_iops: Throttles = msgspec.field(default=None, name="BlkioDeviceReadIOps")
    blkio_device_write_iops: Throttles = msgspec.field(default=None, name="BlkioDeviceWriteIOps")
    io_maximum_iops: Uint64 = msgspec.field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: Uint64 = msgspec.field(default=0, name="IOMaximumBandwidth")
    cgroup_parent: str = ""
    devices: Annotated[list[Any], _go("[]container.DeviceMapping")] | None = None
    device_cgroup_rules: list[str] = []
    device_requests: Annotated[list[Any], _go("[]container.DeviceRequest")] = []
    ulimits: Annotated[list[UlimitBody], _go("[]*units.Ulimit")] | None = None


class HostConfigBody(ResourcesBody, frozen=True):
    GO: ClassVar = "container.HostConfig"

    binds: list[str] = []
    container_id_file: str = msgspec.field(default="", name="ContainerIDFile")
    """Of the client, which writes it."""
    log_config: LogConfigBody = msgspec.field(default_factory=LogConfigBody)
    network_mode: Annotated[str, _go("container.NetworkMode")] = ""
    port_bindings: Annotated[dict[str, list[PortBindingBody]], _go("nat.PortMap")] | None = None
    restart_policy: RestartPolicyBody = msgspec.field(default_factory=RestartPolicyBody)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] = []
    mounts: list[MountBody] = []
    console_size: ConsoleSize = []
    annotations: dict[str, str] = {}
    cap_add: Words = None
    cap_drop: Words = None
    capabilities: list[str] = []
    cgroupns_mode: Annotated[str, _go("container.CgroupnsMode")] = ""
    cgroup: Annotated[str, _go("container.CgroupSpec")] = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] = []
    group_add: list[str] = []
    ipc_mode: Annotated[str, _go("container.IpcMode")] = ""
    links: list[str] = []
    oom_score_adj: Int = 0
    pid_mode: Annotated[str, _go("container.PidMode")] = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] = []
    storage_opt: dict[str, str] = {}
    tmpfs: dict[str, str] = {}
    uts_mode: Annotated[str, _go("container.UTSMode")] = msgspec.field(default="", name="UTSMode")
    userns_mode: Annotated[str, _go("container.UsernsMode")] = ""
    shm_size: Int64 = 0
    sysctls: dict[str, str] = {}
    runtime: str = ""
    isolation: Annotated[str, _go("container.Isolation")] = ""
    init: bool = False
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None


class HealthcheckBody(Body, frozen=True):
    GO: ClassVar = "v1.HealthcheckConfig"

    test: list[str] = []
    interval: Duration = 0
    timeout: Duration = 0
    start_period: Duration = 0
    start_interval: Duration = 0
    retries: Int = 0


class IpamBody(Body, frozen=True):
    GO: ClassVar = "network.EndpointIPAMConfig"

    ipv4_address: str = msgspec.field(default="", name="IPv4Address")
    ipv6_address: str = msgspec.field(default="", name="IPv6Address")
    link_local_ips: list[str] = msgspec.field(default_factory=list, name="LinkLocalIPs")


class EndpointBody(Body, frozen=True):
    GO: ClassVar = "network.EndpointSettings"

    ipam_config: IpamBody = msgspec.field(default_factory=IpamBody, name="IPAMConfig")
    links: list[str] = []
    aliases: list[str] = []
    mac_address: str = ""
    driver_opts: dict[str, str] = {}
    gw_priority: Int = 0


class NetworkingBody(Body, frozen=True):
    GO: ClassVar = "network.NetworkingConfig"

    endpoints_config: Annotated[dict[str, EndpointBody | None], _go("map[string]*network.EndpointSettings")] = {}


class CreateBody(Body, frozen=True):
    """POST /containers/create."""
    GO: ClassVar = "container.CreateRequest"
    GO_EMBEDS: ClassVar = True

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: Annotated[dict[str, Empty], _go("nat.PortSet")] = {}
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] = []
    cmd: Words = None
    healthcheck: HealthcheckBody | None = None
    image: str = ""
    volumes: dict[str, Empty] = {}
    working_dir: str = ""
    entrypoint: Words = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] = []
    labels: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout: Int | None = None
    shell: Words = None
    args_escaped: bool = False
    host_config: HostConfigBody = msgspec.field(default_factory=HostConfigBody)
    networking_config: NetworkingBody = msgspec.field(default_factory=NetworkingBody)


class CommitBody(Body, frozen=True):
    """POST /commit: the part of a create body that an image keeps."""
    GO: ClassVar = "container.CreateRequest"
    GO_EMBEDS: ClassVar = True

    user: str = ""
    exposed_ports: Annotated[dict[str, Empty], _go("nat.PortSet")] = {}
    env: list[str] = []
    cmd: Words = None
    healthcheck: HealthcheckBody | None = None
    volumes: dict[str, Empty] = {}
    working_dir: str = ""
    entrypoint: Words = None
    on_build: list[str] = []
    labels: dict[str, str] = {}
    stop_signal: str = ""
    shell: Words = None


class UpdateBody(ResourcesBody, frozen=True):
    """POST /containers/{id}/update. A limit of 0 stays as it is."""
    GO: ClassVar = "container.UpdateConfig"

    restart_policy: RestartPolicyBody | None = None


class ExecCreateBody(Body, frozen=True):
    GO: ClassVar = "container.ExecOptions"

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    console_size: ConsoleSize = []
    detach_keys: str = ""
    tty: bool = False
    env: list[str] = []
    cmd: list[str] = []
    privileged: bool = False
    user: str = ""
    working_dir: str = ""


class ExecStartBody(Body, frozen=True):
    GO: ClassVar = "container.ExecStartOptions"

    detach: bool = False
    tty: bool = False
    console_size: ConsoleSize = []


class AuthBody(msgspec.Struct, frozen=True, kw_only=True, rename="lower"):
    """POST /auth, and the X-Registry-Auth header."""
    GO: ClassVar = "registry.AuthConfig"
    GO_EMBEDS: ClassVar = True

    username: str = ""
    password: str = ""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class IpamPoolBody(Body, frozen=True):
    GO: ClassVar = "network.IPAMConfig"

    subnet: str = ""
    ip_range: str = msgspec.field(default="", name="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = {}


class IpamConfigBody(Body, frozen=True):
    GO: ClassVar = "network.IPAM"

    driver: str = ""
    config: list[IpamPoolBody] = []
    options: dict[str, str] = {}


class ConfigReferenceBody(Body, frozen=True):
    GO: ClassVar = "network.ConfigReference"

    network: str = ""


class NetworkCreateBody(Body, frozen=True):
    """POST /networks/create. `CheckDuplicate` is not read: names are unique here."""
    GO: ClassVar = "network.CreateRequest"

    name: str = ""
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReferenceBody = msgspec.field(default_factory=ConfigReferenceBody)
    ipam: IpamConfigBody = msgspec.field(default_factory=IpamConfigBody, name="IPAM")
    enable_ipv4: bool | None = msgspec.field(default=None, name="EnableIPv4")
    enable_ipv6: bool = msgspec.field(default=False, name="EnableIPv6")
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class ConnectBody(Body, frozen=True):
    GO: ClassVar = "network.ConnectOptions"

    container: str = ""
    endpoint_config: EndpointBody = msgspec.field(default_factory=EndpointBody)


class DisconnectBody(Body, frozen=True):
    GO: ClassVar = "network.DisconnectOptions"

    container: str = ""
    force: bool = False


class VolumeCreateBody(Body, frozen=True):
    GO: ClassVar = "volume.CreateOptions"

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] = {}
    labels: dict[str, str] = {}
    cluster_volume_spec: Any = None
