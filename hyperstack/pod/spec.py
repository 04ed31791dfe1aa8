"""What a user asks for: containers and pods, after parsing, before anything exists.

Every record is an immutable, JSON-serialisable msgspec Struct: the same bytes are stored, compared and sent.
Sizes are bytes, times are nanoseconds since the epoch, unless a name says otherwise.
"""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

DEFAULT_PROJECT = "default"
"""The project of a caller whom the identity backend puts nowhere else."""

DEFAULT_STOP_TIMEOUT_S = 10
"""Seconds between the stop signal and SIGKILL, as Docker has it."""

KERNEL_ANNOTATION = "org.hyperstack.kernel"
"""Annotation that names the pod's kernel where an API has no field for it (Docker: HostConfig.Annotations)."""

HOST_GATEWAY = "host-gateway"
"""Address of an extra host that stands for the gateway of the pod's network."""

NO_NETWORK = "none"
"""In place of a network's name: the loopback alone."""

NETWORK_ANNOTATION = "org.hyperstack.network"
"""Annotation that names the pod's network in a manifest, which has no field for it."""

DEFAULT_CAPABILITIES: tuple[str, ...] = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
    "CAP_AUDIT_WRITE")
"""Docker's default capability set."""


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the records that are stored; unknown fields are a mistake, never dropped."""


class RestartKind(enum.StrEnum):
    NO = "no"
    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    UNLESS_STOPPED = "unless-stopped"


class RestartPolicy(Struct, frozen=True, kw_only=True):
    kind: RestartKind = RestartKind.NO
    max_retries: int = 0
    """With on-failure: 0 means without end."""


class PortBinding(Struct, frozen=True, kw_only=True):
    container_port: int
    protocol: Literal["tcp", "udp", "sctp"] = "tcp"
    host_ip: str = ""
    """Empty: every address of the host."""
    host_port: int = 0
    """0: the engine chooses one and tells it in the binding's record."""
    host_port_end: int = 0
    """Last of a range from `host_port` on, of which the engine chooses one; 0: no range."""


class Ulimit(Struct, frozen=True, kw_only=True):
    name: str
    """As setrlimit's, lower case without RLIMIT_: nofile, nproc, core..."""
    soft: int
    hard: int
    """-1 is unlimited, in both."""


class MountKind(enum.StrEnum):
    VOLUME = "volume"        # a named volume of the project (source = its name, made where absent)
    BIND = "bind"            # a host path
    TMPFS = "tmpfs"
    EMPTY_DIR = "emptyDir"   # pod-wide scratch (source = its name in the pod)


class Mount(Struct, frozen=True, kw_only=True):
    kind: MountKind
    target: str
    source: str = ""
    subpath: str = ""
    """volume: the directory or file in it that is mounted; empty: all of it."""
    read_only: bool = False
    size: int = 0
    """tmpfs and emptyDir: size limit, 0 for the backend's default."""
    files: int = 0
    """tmpfs: how many it has room for, 0 for the kernel's default."""
    mode: int = 0
    """tmpfs: permission bits, 0 for 01777."""
    owner: tuple[int, int] = (0, 0)
    """tmpfs: the user and the group whose its root is, as the guest knows them."""
    options: tuple[str, ...] = ()
    """Mount options (noexec, nosuid, nocopy, nonrecursive...); of a tmpfs each word that was said, size and all."""
    anonymous: bool = False
    """A volume nobody named: removed with its container where asked."""
    create_source: bool = False
    """bind: where the host path is missing, a directory is made."""
    device: str = ""
    """volume: the host path that it is, where it is one of the host's; served as a bind. The engine sets it."""
    inherited: tuple[str, ...] = ()
    """volume: options that all its mounts have (ro, noexec, nocopy, nonrecursive...). The engine sets it."""
    uid: int = 0
    """Of a host path: the host's user whose rights hold. 0: root's, and each file is its maker's. The engine sets
    it."""
    labels: dict[str, str] = {}
    driver_options: dict[str, str] = {}
    """volume: what it is made with where it is absent."""
    structured: bool = False
    """It was asked for as a structure (Docker: HostConfig.Mounts), not as a string (HostConfig.Binds)."""

    @property
    def host_path(self) -> str:
        """Empty: it is none of the host's."""
        return self.source if self.kind is MountKind.BIND else self.device

    @property
    def has(self) -> frozenset[str]:
        """Its options, and its volume's."""
        return frozenset((*self.options, *self.inherited))


class LogConfig(Struct, frozen=True, kw_only=True):
    driver: str = "json-file"
    options: dict[str, str] = {}


class Resources(Struct, frozen=True, kw_only=True):
    """Limits of one container; 0 means none."""

    memory: int = 0
    memory_swap: int = 0
    nano_cpus: int = 0
    cpu_shares: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    pids_limit: int = 0
    memory_reservation: int = 0
    """What the kernel leaves it when memory gets short, as far as it can."""
    cpuset_cpus: str = ""
    """Of the host's CPUs, as "0-2,5"."""


_MASKED_PATHS = ("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                 "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                 "/sys/devices/virtual/powercap")
_READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""Docker's defaults, both."""


class Security(Struct, frozen=True, kw_only=True):
    privileged: bool = False
    """All capabilities and devices *inside the VM*; nothing on the host."""
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    """Names with or without CAP_, or ALL."""
    no_new_privileges: bool = False
    seccomp: Literal["default", "unconfined"] = "default"
    read_only_rootfs: bool = False
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    """None: Docker's."""
    run_as_non_root: bool = False
    supplemental_groups: tuple[int, ...] = ()
    group_names: tuple[str, ...] = ()
    """More of them, looked up in the image's /etc/group."""

    @property
    def masked(self) -> tuple[str, ...]:
        """Paths that a process finds empty."""
        return _unless(self.privileged, self.masked_paths, _MASKED_PATHS)

    @property
    def readonly(self) -> tuple[str, ...]:
        """Paths that it cannot change."""
        return _unless(self.privileged, self.readonly_paths, _READONLY_PATHS)


def _unless(privileged: bool, asked: tuple[str, ...] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    if privileged:
        return ()
    return default if asked is None else asked


class Healthcheck(Struct, frozen=True, kw_only=True):
    """How to find out whether a container is well. Durations are nanoseconds; 0 and empty mean: as the image says, and
    where it says nothing, Docker's default."""

    test: tuple[str, ...] = ()
    """("CMD", word...), ("CMD-SHELL", line) or ("NONE",)."""
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    """From the start; failures in it do not count."""
    start_interval: int = 0
    """In place of `interval` within the start period."""
    retries: int = 0
    """So many failures one after the other make it unhealthy."""


class Sharing(Struct, frozen=True, kw_only=True):
    """What a container has in common with others of its pod: their ids, or names until it is admitted."""

    network: str = ""
    """The container whose pod it joins. Once it is admitted, whoever shares anything names one here: a VM has one
    network."""
    pid: str = ""
    """The container whose processes it sees."""
    ipc: str = ""
    """The container whose IPC objects and /dev/shm it has."""
    ipc_mode: Literal["private", "shareable", "none"] = "private"
    """Of IPC of its own: whether others may have it; "none" is without /dev/shm."""

    @property
    def donors(self) -> tuple[str, ...]:
        """Those it names, each once."""
        return tuple(dict.fromkeys(ref for ref in (self.network, self.pid, self.ipc) if ref))


class ContainerSpec(Struct, frozen=True, kw_only=True):
    """One container, as asked for; `None` means: as the image says."""

    image: str
    """The reference as the user typed it."""
    name: str = ""
    """Empty: the engine makes one up."""
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    """NAME=VALUE, over the image's."""
    working_dir: str = ""
    user: str = ""
    """name|uid[:group|gid], looked up in the image's own files."""
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    mounts: tuple[Mount, ...] = ()
    volumes_from: tuple[str, ...] = ()
    """container[:ro|rw]: volumes and binds of those as well, where nothing else is mounted. The engine adds them to
    `mounts`."""
    resources: Resources = msgspec.field(default_factory=Resources)
    security: Security = msgspec.field(default_factory=Security)
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int = 0
    sysctls: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout: int | None = None
    restart: RestartPolicy = msgspec.field(default_factory=RestartPolicy)
    auto_remove: bool = False
    init: bool = False
    """A reaper as PID 1 of the container in front of the command."""
    log: LogConfig = msgspec.field(default_factory=LogConfig)
    disk_size: int = 0
    """Limit of the writable layer; 0 for the host's default."""
    shm_size: int = 0
    exposed_ports: tuple[str, ...] = ()
    """"80/tcp"..., beyond the image's."""
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] = ()
    """Of health checks in shell form; empty: the image's."""
    console_size: tuple[int, int] = (0, 0)
    """Rows and columns of its terminal when it starts."""
    unsaid: tuple[str, ...] = ()
    """Lists of Docker's HostConfig that were not sent at all: they are shown so."""
    links: tuple[str, ...] = ()
    """container:alias, on the default network: others that it is told of. Ids once it is admitted. On networks
    with names links are an `Endpoint`'s."""
    sharing: Sharing = msgspec.field(default_factory=Sharing)


class Endpoint(Struct, frozen=True, kw_only=True):
    """A place on a network, as asked for. Empty: whatever is free, or none."""

    network: str
    """Its name."""
    mac_address: str = ""
    ip_address: str = ""
    ip6_address: str = ""
    aliases: tuple[str, ...] = ()
    """What else the pod is called there, for all who are there."""
    links: tuple[str, ...] = ()
    """container:alias: what this pod alone calls others of the network."""
    priority: int = 0
    """Of all its networks the one with the highest has the pod's way out; among equals the first by name."""


class PodSpec(Struct, frozen=True, kw_only=True):
    """A pod: what its containers share, and the containers."""

    name: str = ""
    project: str = DEFAULT_PROJECT
    namespace: str = ""
    """Kubernetes' namespace, kept for display; not an isolation boundary."""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    hostname: str = ""
    domainname: str = ""
    kernel: str = ""
    """Name of a registered kernel; empty for the host's default."""
    network: str = "bridge"
    """Network name, or NO_NETWORK; empty: it has left all. It and the next six are the first of `endpoints`."""
    mac_address: str = ""
    ip_address: str = ""
    ip6_address: str = ""
    aliases: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    gateway_priority: int = 0
    further: tuple[Endpoint, ...] = ()
    """The other networks that it is on."""
    home: str = ""
    """The `network` that it was made for, where it starts when it has left all. The engine sets it."""
    ports: tuple[PortBinding, ...] = ()
    publish_all: bool = False
    """Publish every exposed port on a host port the engine chooses."""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    """name:address, or name:HOST_GATEWAY"""
    share_process_namespace: bool = False
    restart: RestartKind = RestartKind.NO
    """Pods from a manifest: the policy of all their containers."""
    memory: int = 0
    """RAM of the VM in bytes; 0: from the containers' limits, else the host's default."""
    vcpus: int = 0
    init_containers: tuple[ContainerSpec, ...] = ()
    containers: tuple[ContainerSpec, ...] = ()
    sysctls: dict[str, str] = {}
    termination_grace_s: int = 30

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All networks that it is on."""
        if self.network in ("", NO_NETWORK):
            return ()
        first = Endpoint(network=self.network, mac_address=self.mac_address, ip_address=self.ip_address,
                         ip6_address=self.ip6_address, aliases=self.aliases, links=self.links,
                         priority=self.gateway_priority)
        return (first, *self.further)

    def on(self, endpoints: tuple[Endpoint, ...]) -> PodSpec:
        """The same pod on these networks."""
        first = endpoints[0] if endpoints else Endpoint(network="")
        return msgspec.structs.replace(
            self, network=first.network, mac_address=first.mac_address, ip_address=first.ip_address,
            ip6_address=first.ip6_address, aliases=first.aliases, links=first.links, gateway_priority=first.priority,
            further=endpoints[1:])


class ImageConfig(Struct, frozen=True, kw_only=True):
    """What an image says about how to run it (the part of OCI's image config that a start needs)."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: dict[str, str] = {}
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] = ()
    """Of commands in shell form; empty: /bin/sh -c."""
