"""What exists: the rows that the engine stores, and gives to the APIs as they are.

A record is never changed in place: `msgspec.structs.replace` makes the next one and the store writes it before
anybody acts on it.
"""

from __future__ import annotations

import enum
import hashlib

import msgspec

from hyperstack.network.api import Binding, Published, Subnet
from hyperstack.pod.spec import ContainerSpec, ImageConfig, PodSpec, Struct
from hyperstack.pod.states import ContainerState, SandboxState


class PodRecord(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    project: str
    spec: PodSpec
    implicit: bool
    """Made by the engine for one `docker run` container; goes with it."""
    created_at: int
    state: SandboxState = SandboxState.ABSENT
    reason: str = ""
    """Why it failed, in a sentence, with the console's last lines where they help."""
    vm_uid: int = 0
    """The uid that its VM runs under, nobody else's as long as the pod exists."""
    machine_id: str = ""
    """Of its VM, where that stood ready before it was this pod's; empty: the pod's own id."""
    agent_key: bytes = b""
    """Secret of the agent channel, see docs/protocol.md."""
    memory_mib: int = 0
    """RAM of its VM."""
    memory_asked_mib: int = 0
    """What of it the pod may use; the rest is there because VMs come in classes. 0: all."""
    vcpus: int = 0
    grown: bool = False
    """Memory or processors of its VM are more than it was started with, or are to be."""
    origin: str = ""
    """How its VM began: "cold", "template" or "fork"; "pool": it stood ready."""
    kernel: str = ""
    kernel_release: str = ""
    binding: Binding | None = None
    """The place on the network that has its way out; by its address the pod is known."""
    further: tuple[Binding, ...] = ()
    """Its places on other networks."""
    nic: bool = False
    """Its VM was given a network interface; it may be on no network by now."""
    ports: tuple[Published, ...] = ()
    started_at: int = 0
    seated: dict[str, bool] = {}
    """Serials of the disks that its VM was started with, and whether each is read-only."""
    plugged: dict[str, bool] = {}
    """The same, of those that containers which joined it brought along."""
    owned: tuple[str, ...] = ()
    """Ids of the volumes whose disks its VM has."""
    shared: dict[str, str] = {}
    """Ports at which it is served volumes that other pods' VMs have -> those pods."""
    wanted: bool = False
    """A manifest's pod that was started and not stopped by its user: brought up again after a daemon's death."""

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """All its places on networks."""
        return () if self.binding is None else (self.binding, *self.further)

    @property
    def rewired(self) -> bool:
        """Its VM is on other networks than one VM's first and only, or may have been."""
        return self.nic and (self.binding is None or any(binding.branch for binding in self.bindings))

    def endpoint_id(self, binding: Binding) -> str:
        """What the pod's place on a network goes by."""
        return hashlib.sha256(f"{self.id}/{binding.address.partition('/')[0]}".encode()).hexdigest()

    @property
    def machine(self) -> str:
        """The id that the hypervisor knows its VM by."""
        return self.machine_id or self.id


class HealthStatus(enum.StrEnum):
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class ContainerRecord(Struct, frozen=True, kw_only=True):
    id: str
    pod_id: str
    project: str
    name: str
    spec: ContainerSpec
    image_id: str
    """sha256:... of the image's config."""
    image_config: ImageConfig
    created_at: int
    init: bool = False
    """An init container of a manifest."""
    order: int = 0
    state: ContainerState = ContainerState.CREATED
    handle: int = 0
    """Number of its main process on the agent channel in this life of the sandbox; 0: none."""
    pid: int = 0
    """In the guest."""
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    exit_signal: int = 0
    oom_killed: bool = False
    error: str = ""
    restart_count: int = 0
    manually_stopped: bool = False
    """A user stopped it, so `unless-stopped` and `always` leave it."""
    next_restart_at: int = 0
    backoff_ns: int = 0
    """The last wait before a restart."""
    transient: bool = False
    """A step of a build, which ends with the daemon that builds."""

    @property
    def joined(self) -> bool:
        """It is in the pod of another container, whose network it shares, and none of the pod's own."""
        return bool(self.spec.sharing.network)


class ExecRequest(Struct, frozen=True, kw_only=True):
    """One more process in a running container, as asked for."""

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    tty: bool = False
    privileged: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    console_size: tuple[int, int] = (0, 0)
    """Rows and columns at its start, where that says nothing else."""

    @property
    def told(self) -> str:
        """As events have it: the program, a blank, and what it is given."""
        return f"{self.argv[0]} {' '.join(self.argv[1:])}"


class ExecRecord(Struct, frozen=True, kw_only=True):
    id: str
    container_id: str
    project: str
    request: ExecRequest
    created_at: int
    handle: int = 0
    pid: int = 0
    running: bool = False
    exit_code: int | None = None

    @property
    def name(self) -> str:
        """An exec has none of its own."""
        return self.id


class HealthProbe(Struct, frozen=True, kw_only=True):
    """One run of a health check."""

    started_at: int
    ended_at: int
    exit_code: int
    """0 is healthy; -1 where it did not end in time, or could not be started."""
    output: str


class HealthRecord(Struct, frozen=True, kw_only=True):
    """What the health checks of a container found in its present or last run."""

    id: str
    """The container's."""
    project: str
    status: HealthStatus
    failing_streak: int = 0
    log: tuple[HealthProbe, ...] = ()
    """The last ones, the newest at the end."""

    @property
    def name(self) -> str:
        """It has none of its own."""
        return self.id


class NetworkRecord(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    project: str
    created_at: int
    subnets: tuple[Subnet, ...] = ()
    subnets6: tuple[Subnet, ...] = ()
    """Of IPv6; none: it has no IPv6."""
    driver: str = "bridge"
    builtin: bool = False
    """Every project has it, and nobody removes it."""
    internal: bool = False
    attachable: bool = False
    """Kept and shown; means something to clusters alone."""
    options: dict[str, str] = {}
    """As the user gave them; `hyperstack.engine.networks.options` reads them."""
    labels: dict[str, str] = {}
    removing: bool = False
    """Somebody asked for its removal, which has not come to its end yet."""

    @property
    def all_subnets(self) -> tuple[Subnet, ...]:
        return (*self.subnets, *self.subnets6)


class VolumeRecord(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    project: str
    driver: str
    created_at: int
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False
    size: int = 0
    pending: bool = False
    """Made for a container that is not stored yet; undone where the daemon dies before."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `events`, in Docker's words."""

    kind: str
    """container, image, network, volume, pod, daemon"""
    action: str
    """create, start, die, oom, exec_start: ..., pull..."""
    ident: str
    attributes: dict[str, str]
    time_ns: int
    project: str


class LogRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk of output as the process wrote it; binary-safe, so a chunk may end anywhere within a line."""

    time_ns: int
    stream: int
    """1 stdout, 2 stderr."""
    data: bytes
