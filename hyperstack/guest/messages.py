"""Calls, replies and events of the agent protocol (docs/protocol.md), as types.

What the guest sends is validated while it is decoded: unknown keys, wrong types, numbers out of range and lists too
long are refused, and since no type here contains itself, nesting is bounded by the types. A frame bounds the size.

Keys that the protocol marks optional have a default, which is never sent; the others have none.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hyperstack.guest.frames import MAX_HANDLE, MAX_OFFSET

MAX_FILE = 256 << 10
"""Bytes of one `File`."""
MAX_PROCESSES = 4096
"""Entries in the replies of `processes` and `list`."""

_Count = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]
_Handle = Annotated[int, Meta(ge=1, le=MAX_HANDLE)]
_Signal = Annotated[int, Meta(ge=0, le=64)]
_Code = Annotated[int, Meta(ge=0, le=255)]
_Small = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Signed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Name = Annotated[str, Meta(max_length=128)]
_Path = Annotated[bytes, Meta(max_length=4096)]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all that travels."""


# --- records within calls ---

class Net(Message, frozen=True, kw_only=True):
    mac: str
    address: str
    """With prefix length: 10.0.0.2/24."""
    gateway: str
    """Empty: none."""
    mtu: int
    resolver: str = ""
    """Who asks 127.0.0.11, where Docker's resolver is, asks this address. Of `configure` only."""
    device: str = "eth0"
    address6: str = ""
    """With prefix length: fd00::2/64; empty: no IPv6 of its own."""
    gateway6: str = ""


class Limits(Message, frozen=True, kw_only=True):
    """Of a cgroup. None leaves it, 0 lifts it."""

    memory: int | None = None
    memory_low: int | None = None
    swap: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int | None = None
    cpu_weight: int | None = None
    pids: int | None = None
    io_weight: int | None = None


class Mount(Message, frozen=True, kw_only=True):
    kind: Literal["tmpfs", "volume"]
    target: bytes
    source: str = ""
    """Name of a pod-wide volume."""
    share: bytes = b""
    """Directory of the volume out of which `subpath` does not lead; empty: all of it."""
    subpath: bytes = b""
    """What is mounted of it, which must be there; empty: all of it."""
    read_only: bool = False
    size: int = 0
    files: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    """Of a tmpfs, as of one that is a volume."""
    flags: int = 0
    """MS_NOEXEC, MS_NOSUID, MS_NODEV..."""
    copy_up: bool = False
    """An empty volume takes what the image has at the target."""


class File(Message, frozen=True, kw_only=True):
    """A private file, bind-mounted over `path`."""

    path: bytes
    data: Annotated[bytes, Meta(max_length=MAX_FILE)]
    mode: int


class Process(Message, frozen=True, kw_only=True):
    argv: tuple[bytes, ...]
    env: tuple[bytes, ...]
    cwd: bytes
    user: bytes
    """name|uid[:group|gid]; empty for root."""
    tty: bool
    stdin: bool
    """False: /dev/null (without a terminal)."""
    capabilities: tuple[int, ...]
    no_new_privileges: bool
    rlimits: tuple[tuple[int, int, int], ...]
    """(resource, soft, hard); unlimited is 2**64 - 1."""
    groups: tuple[int, ...] = ()
    rows: int = 0
    columns: int = 0
    seccomp: bytes = b""
    """struct sock_filter[]"""
    oom_score_adj: int = 0
    init: bool = False
    """A reaping PID 1 before the command."""
    group_names: tuple[bytes, ...] = ()
    """More groups by name, looked up in the container's own /etc/group."""
    pid_of: str = ""
    """`start`: the running container whose PID namespace it is in; empty: one of its own, or the pod's."""
    ipc_of: str = ""
    """`start`: the running container whose IPC namespace and /dev/shm it has; empty: see the next."""
    own_ipc: bool = False
    """`start`: an IPC namespace of its own, not the sandbox's."""
    no_shm: bool = False
    """`start`: without a /dev/shm."""


# --- calls ---

class Call(Message, frozen=True, kw_only=True, tag_field="op"):
    """Base of the calls; the tag is the operation's name."""


class Ping(Call, frozen=True, kw_only=True, tag="ping"):
    pass


class Configure(Call, frozen=True, kw_only=True, tag="configure"):
    time_ns: int
    entropy: Annotated[bytes, Meta(min_length=32, max_length=512)]
    hostname: str
    domainname: str = ""
    net: Net | None = None
    sysctls: dict[str, str] = {}
    disks: dict[str, str] = {}
    """Serials of disks that go by another name from now on -> that name."""
    share_pid: bool = False
    memory_reserve: int = 0


class Networks(Call, frozen=True, kw_only=True, tag="networks"):
    """All that the guest is on from now on. What is as it was keeps its connections."""

    nets: tuple[Net, ...]
    resolver: str = ""


class Files(Call, frozen=True, kw_only=True, tag="files"):
    """New contents of files that a container was created with."""

    container: str
    files: tuple[File, ...]


class Grow(Call, frozen=True, kw_only=True, tag="grow"):
    """RAM and processors that the host has given the machine since."""

    memory_reserve: int
    vcpus: int


class Rewind(Call, frozen=True, kw_only=True, tag="rewind"):
    pass


class Volume(Call, frozen=True, kw_only=True, tag="volume"):
    name: str
    serial: str = ""
    """Of an ext4 disk."""
    port: str = ""
    """Name of the virtio-serial port at which its files are served. Neither: a tmpfs."""
    tray: str = ""
    """Of the disk by which the data of large reads comes; with a port."""
    tmpfs: int = 0
    """Bytes it may have; 0: half of the guest's memory."""
    files: int = 0
    """How many a tmpfs may have; 0: what the kernel finds right."""
    read_only: bool = False
    mode: int = 0
    uid: int = 0
    gid: int = 0
    """Whose the root of a tmpfs is."""


class Unvolume(Call, frozen=True, kw_only=True, tag="unvolume"):
    name: str


class Serve(Call, frozen=True, kw_only=True, tag="serve"):
    """Give a volume to the machine that is at the other end of a port."""

    name: str
    port: str
    read_only: bool = False
    tray: str = ""
    """Serial of the disk by which the data of large reads and writes goes."""


class Create(Call, frozen=True, kw_only=True, tag="create"):
    container: str
    layers: tuple[str, ...]
    """Serials, lowest first."""
    writable: str
    """Serial; empty: a tmpfs."""
    read_only: bool
    mounts: tuple[Mount, ...]
    files: tuple[File, ...]
    limits: Limits
    masked: tuple[bytes, ...]
    readonly: tuple[bytes, ...]
    privileged: bool
    shm_size: int
    sysctls: dict[str, str]


class Start(Call, frozen=True, kw_only=True, tag="start"):
    container: str
    handle: int
    process: Process


class Exec(Call, frozen=True, kw_only=True, tag="exec"):
    container: str
    handle: int
    process: Process


class Attach(Call, frozen=True, kw_only=True, tag="attach"):
    handle: int
    stdout: int | None = None
    stderr: int | None = None


class Signal(Call, frozen=True, kw_only=True, tag="signal"):
    handle: int
    signal: int
    all: bool = False


class Resize(Call, frozen=True, kw_only=True, tag="resize"):
    handle: int
    rows: int
    columns: int


class Pause(Call, frozen=True, kw_only=True, tag="pause"):
    container: str


class Resume(Call, frozen=True, kw_only=True, tag="resume"):
    container: str


class Update(Call, frozen=True, kw_only=True, tag="update"):
    container: str
    limits: Limits


class Stats(Call, frozen=True, kw_only=True, tag="stats"):
    container: str = ""


class Processes(Call, frozen=True, kw_only=True, tag="processes"):
    container: str


class ArchiveStat(Call, frozen=True, kw_only=True, tag="archive_stat"):
    container: str
    path: bytes


class ArchiveRead(Call, frozen=True, kw_only=True, tag="archive_read"):
    container: str
    handle: int
    path: bytes
    bulk: bool = False
    """It may be offered a tray."""


class ArchiveWrite(Call, frozen=True, kw_only=True, tag="archive_write"):
    container: str
    handle: int
    path: bytes
    no_overwrite_dir_non_dir: bool = False
    copy_uid_gid: bool = False
    user: bytes = b""
    """Whose the files become with `copy_uid_gid`; empty: the container's, where it has run in this sandbox."""
    bulk: bool = False


class LayerForm(enum.StrEnum):
    """What is told of a container's own changes."""

    TAR = "tar"
    """The writable layer, as images have layers."""
    CHANGES = "changes"
    """Its names: A, C or D, an absolute path and a zero byte, each."""
    ROOT = "root"
    """The whole root as a tar, without volumes."""


class LayerRead(Call, frozen=True, kw_only=True, tag="layer_read"):
    container: str
    handle: int
    form: LayerForm
    bulk: bool = False


class Release(Call, frozen=True, kw_only=True, tag="release"):
    handle: int


class Remove(Call, frozen=True, kw_only=True, tag="remove"):
    container: str


class ListAll(Call, frozen=True, kw_only=True, tag="list"):
    pass


class Sync(Call, frozen=True, kw_only=True, tag="sync"):
    pass


class Shutdown(Call, frozen=True, kw_only=True, tag="shutdown"):
    grace_ns: int = 0


# --- replies ---

class Reply(Message, frozen=True, kw_only=True):
    """`{}`, and the base of the others."""


class ErrorReply(Reply, frozen=True, kw_only=True):
    error: str
    """At most 4096 characters of the guest's, for people."""
    errno: int


class RawErrorReply(Reply, frozen=True, kw_only=True):
    """The same before its text is known to be UTF-8."""

    error: msgspec.Raw
    errno: Annotated[int, Meta(ge=0, le=4095)]


class PingReply(Reply, frozen=True, kw_only=True):
    uptime_ns: _Count
    agent: _Name
    kernel: _Name


class ConfigureReply(Reply, frozen=True, kw_only=True):
    memory: _Count
    """Bytes in total."""
    cpus: _Small
    kernel: _Name
    agent: _Name


class StartReply(Reply, frozen=True, kw_only=True):
    pid: _Small


class AttachReply(Reply, frozen=True, kw_only=True):
    stdin: _Count
    """Offset up to which the guest has taken input."""
    stdin_closed: bool


class ContainerUsage(Reply, frozen=True, kw_only=True):
    memory: _Count
    memory_peak: _Count
    memory_limit: _Count
    cpu_ns: _Count
    cpu_user_ns: _Count
    cpu_system_ns: _Count
    throttled_ns: _Count
    pids: _Count
    pids_limit: _Count
    read_bytes: _Count
    write_bytes: _Count
    read_ops: _Count
    write_ops: _Count
    oom_kills: _Count
    cache: _Count


class NetUsage(Reply, frozen=True, kw_only=True):
    rx_bytes: _Count = 0
    rx_packets: _Count = 0
    rx_errors: _Count = 0
    rx_dropped: _Count = 0
    tx_bytes: _Count = 0
    tx_packets: _Count = 0
    tx_errors: _Count = 0
    tx_dropped: _Count = 0


class StatsReply(Reply, frozen=True, kw_only=True):
    containers: Annotated[dict[_Name, ContainerUsage], Meta(max_length=MAX_PROCESSES)]
    net: NetUsage
    nets: dict[str, NetUsage] = {}
    """By device, of a guest that is on several networks."""
    memory_total: _Count
    memory_free: _Count
    memory_available: _Count
    uptime_ns: _Count


class ProcessInfo(Reply, frozen=True, kw_only=True):
    """One line of `top`; ids as the container sees them."""

    pid: _Small
    ppid: _Small
    uid: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    state: _Name
    tty: _Name
    start_ns: _Count
    cpu_ns: _Count
    rss: _Count
    vsz: _Count
    nice: Annotated[int, Meta(ge=-20, le=20)]
    threads: _Small
    command: _Path
    arguments: tuple[bytes, ...]


class ProcessesReply(Reply, frozen=True, kw_only=True):
    processes: Annotated[tuple[ProcessInfo, ...], Meta(max_length=MAX_PROCESSES)]


class ArchiveStatReply(Reply, frozen=True, kw_only=True):
    name: _Path
    size: _Count
    mode: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    """st_mode"""
    mtime_ns: _Signed
    target: _Path
    """Of a link."""


class ContainerStatus(Reply, frozen=True, kw_only=True):
    id: _Name
    handle: Annotated[int, Meta(ge=0, le=MAX_HANDLE)]
    """Of the main process; 0: none was started."""
    paused: bool
    oom_kills: _Count


class StreamStatus(Reply, frozen=True, kw_only=True, array_like=True):
    acknowledged: _Count
    written: _Count
    eof: bool

    def __post_init__(self) -> None:
        if self.acknowledged > self.written:
            raise ValueError("more acknowledged than written")


class ProcessStatus(Reply, frozen=True, kw_only=True):
    handle: _Handle
    container: _Name
    pid: _Small
    running: bool
    code: _Code
    signal: _Signal
    oom: bool
    exit_ns: _Count
    stdin: _Count
    stdout: StreamStatus
    stderr: StreamStatus


class ListReply(Reply, frozen=True, kw_only=True):
    containers: Annotated[tuple[ContainerStatus, ...], Meta(max_length=MAX_PROCESSES)]
    processes: Annotated[tuple[ProcessStatus, ...], Meta(max_length=MAX_PROCESSES)]


# --- events ---

class ExitEvent(Message, frozen=True, kw_only=True, tag_field="event", tag="exit"):
    handle: _Handle
    code: _Code
    signal: _Signal
    oom: bool
    time_ns: _Count


class OomEvent(Message, frozen=True, kw_only=True, tag_field="event", tag="oom"):
    container: _Name


Event = ExitEvent | OomEvent
