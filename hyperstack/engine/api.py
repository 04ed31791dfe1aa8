"""The engine's door. API modules call this, and nothing behind it.

Every call takes the `Principal` first; objects of other projects do not exist for it. `ref` is a name, an id, or an
unambiguous id prefix.

:raise: only errors of `hyperstack.pod.errors`.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from typing import Any, Protocol

import msgspec

from hyperstack.engine.builds.request import BuildEvent as BuildEvent
from hyperstack.engine.builds.request import BuildRequest as BuildRequest
from hyperstack.engine.builds.request import BuildSink as BuildSink
from hyperstack.engine.builds.request import StepFailed as StepFailed
from hyperstack.engine.records import (
    ContainerRecord,
    Event,
    ExecRecord,
    ExecRequest,
    HealthRecord,
    LogRecord,
    NetworkRecord,
    PodRecord,
    VolumeRecord,
)
from hyperstack.identity.api import Principal

# Exported again: API modules know the engine's door alone.
from hyperstack.image.api import CachedStep as CachedStep
from hyperstack.image.api import Credentials as Credentials
from hyperstack.image.api import Image as Image
from hyperstack.image.api import Progress as Progress
from hyperstack.image.api import ProgressSink as ProgressSink
from hyperstack.image.api import Pushed as Pushed
from hyperstack.image.api import RemoteImage as RemoteImage
from hyperstack.image.names import Reference as Reference
from hyperstack.image.names import with_tag as with_tag
from hyperstack.image.names import with_tag_or_digest as with_tag_or_digest
from hyperstack.network.api import Binding as Binding
from hyperstack.network.api import Published as Published
from hyperstack.network.api import Subnet as Subnet
from hyperstack.pod.finding import Finding
from hyperstack.pod.spec import ContainerSpec, Endpoint, PodSpec, Resources, RestartPolicy


class WaitCondition(enum.StrEnum):
    NOT_RUNNING = "not-running"
    NEXT_EXIT = "next-exit"
    REMOVED = "removed"


class PathStat(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    size: int
    mode: int
    """st_mode"""
    mtime_ns: int
    link_target: str


class ContainerStats(msgspec.Struct, frozen=True, kw_only=True):
    """From the guest's cgroup; bytes and nanoseconds since the container's start."""

    time_ns: int
    memory: int = 0
    memory_peak: int = 0
    memory_limit: int = 0
    cache: int = 0
    cpu_ns: int = 0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    throttled_ns: int = 0
    online_cpus: int = 1
    system_cpu_ns: int = 0
    """CPU time that passed in the VM, all its CPUs together: the base of a percentage."""
    pids: int = 0
    pids_limit: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    read_ops: int = 0
    write_ops: int = 0
    network: dict[str, dict[str, int]] = {}
    """Interface -> rx_bytes, rx_packets, rx_errors, rx_dropped, tx_... ; pod-wide."""
    host_memory: int = 0
    """What the pod's machine costs the host."""


class HostCost(msgspec.Struct, frozen=True, kw_only=True):
    """What a pod's machine costs the host; bytes, and nanoseconds since its start."""

    pss_bytes: int
    """Resident memory of the machine's process; of what it shares with other machines its part, so that pods'
    figures can be added up. 0 where the host does not tell."""
    memory_bytes: int
    """What its cgroup is charged with: also the page cache of its disks, and whatever it was the first to touch."""
    cpu_ns: int
    pids: int
    """Threads and processes."""


class Attachment(Protocol):
    """Live streams of a process. Not more than one reader and one writer at a time."""

    tty: bool

    async def read(self) -> LogRecord | None:
        """The next chunk, None after the end (the process ended and all was read)."""

    async def write(self, data: bytes) -> None:
        """To stdin; waits while the process does not read. :raise Conflict: stdin is not open or was closed."""

    async def close_stdin(self) -> None: ...

    def detached(self) -> None:
        """The user asked to detach, which is told as an event; `close` follows."""

    async def close(self) -> None:
        """Detach; the process goes on."""


class Containers(Protocol):
    async def create(self, who: Principal, spec: ContainerSpec, pod: PodSpec, *, pull_missing: bool = False
                     ) -> ContainerRecord:
        """A container in a pod of its own. `pod.containers` is empty. :raise NotFound: the image is not here."""

    def get(self, who: Principal, ref: str) -> ContainerRecord: ...
    def pod_of(self, container: ContainerRecord) -> PodRecord: ...
    def health_of(self, container: ContainerRecord) -> HealthRecord | None:
        """None where it has no health check, or did not start since it has."""

    def links_of(self, container: ContainerRecord) -> list[str]:
        """Those on the default network to which it links, as "/OTHER:/CONTAINER/ALIAS"."""

    def link_names(self, who: Principal) -> dict[str, list[str]]:
        """What others call containers of the project, by id: "/CONTAINER/ALIAS" for each that links to them."""

    async def unlink(self, who: Principal, ref: str, alias: str) -> None:
        """Take a link away. :raise NotFound: there is no such container, or link."""

    def list_all(self, who: Principal) -> list[ContainerRecord]:
        """All of the project, in every state, newest first."""

    async def start(self, who: Principal, ref: str) -> None:
        """:raise NotModified: it runs already. :raise StartFailed: with the exit code a shell would give."""

    async def stop(self, who: Principal, ref: str, *, timeout: int | None = None, signal: str | None = None) -> None:
        """:raise NotModified: it does not run. `timeout` None: as the container says; -1: wait for ever."""

    async def restart(self, who: Principal, ref: str, *, timeout: int | None = None,
                      signal: str | None = None) -> None: ...
    async def kill(self, who: Principal, ref: str, *, signal: str = "KILL") -> None: ...
    async def pause(self, who: Principal, ref: str) -> None: ...
    async def unpause(self, who: Principal, ref: str) -> None: ...
    async def wait(self, who: Principal, ref: str, condition: WaitCondition) -> tuple[int, str]:
        """(exit code, error). Registers before the first suspension, so that a start right after is not missed."""

    async def remove(self, who: Principal, ref: str, *, force: bool = False, volumes: bool = False) -> None: ...
    async def rename(self, who: Principal, ref: str, name: str) -> None: ...
    async def update(self, who: Principal, ref: str, *, resources: Resources | None = None,
                     restart: RestartPolicy | None = None) -> list[str]:
        """Returns warnings."""

    async def top(self, who: Principal, ref: str, ps_args: str = "-ef") -> tuple[list[str], list[list[str]]]: ...
    async def stats(self, who: Principal, ref: str) -> ContainerStats: ...
    async def attach(self, who: Principal, ref: str, *, stdin: bool, stdout: bool, stderr: bool, logs: bool = False,
                     stream: bool = True) -> Attachment:
        """May be called before start: it then begins with the first byte."""

    def logs(self, who: Principal, ref: str, *, follow: bool = False, stdout: bool = True, stderr: bool = True,
             since_ns: int = 0, until_ns: int = 0, tail: int | None = None) -> AsyncIterator[list[LogRecord]]:
        """One record per line where the output has lines (the last may lack its end), some at a time; `tail` counts
        lines."""

    async def resize(self, who: Principal, ref: str, *, rows: int, columns: int) -> None: ...
    async def archive_stat(self, who: Principal, ref: str, path: str) -> PathStat: ...
    async def archive_get(self, who: Principal, ref: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]: ...
    async def archive_put(self, who: Principal, ref: str, path: str, tar: AsyncIterator[bytes], *,
                          no_overwrite_dir_non_dir: bool = False, copy_uid_gid: bool = False) -> None: ...
    async def prune(self, who: Principal, *, until_ns: int = 0, labels: Collection[str] = (),
                    without: Collection[str] = ()) -> tuple[list[str], int]:
        """Remove what is stopped, has all of `labels` and none of `without`. Returns ids and bytes freed."""


class Execs(Protocol):
    async def create(self, who: Principal, container: str, request: ExecRequest) -> ExecRecord: ...
    def get(self, who: Principal, ident: str) -> ExecRecord: ...
    def running(self, container: ContainerRecord) -> list[ExecRecord]: ...
    async def start(self, who: Principal, ident: str, *, detach: bool = False, rows: int = 0, columns: int = 0
                    ) -> Attachment | None:
        """None where detached. :raise StartFailed: 126/127 as a shell; the record's exit code is set too."""

    async def resize(self, who: Principal, ident: str, *, rows: int, columns: int) -> None: ...


class Pods(Protocol):
    async def create(self, who: Principal, spec: PodSpec, *, start: bool = True) -> PodRecord:
        """From a manifest: all its containers, init containers first. All or nothing until it is stored."""

    def get(self, who: Principal, ref: str) -> PodRecord: ...
    def list_all(self, who: Principal) -> list[PodRecord]: ...
    def containers_of(self, pod: PodRecord) -> list[ContainerRecord]: ...
    async def cost(self, who: Principal, ref: str) -> HostCost:
        """:raise Conflict: it has no running machine."""

    async def costs(self, who: Principal) -> list[tuple[PodRecord, HostCost]]:
        """Of all running pods of the project, whatever their guests do."""

    async def start(self, who: Principal, ref: str) -> None: ...
    async def stop(self, who: Principal, ref: str, *, timeout: int | None = None) -> None: ...
    async def remove(self, who: Principal, ref: str, *, force: bool = False) -> None: ...


class Images(Protocol):
    """The image store as a project sees it, with removal guarded by the containers that use an image."""

    def get(self, who: Principal, name: str) -> Image: ...
    def list_all(self, who: Principal, *, intermediate: bool = False) -> list[Image]:
        """:param intermediate: also what steps of builds made, and nobody named."""

    def display_name(self, image_id: str) -> str:
        """A familiar name of it, else its id."""

    def display(self, reference: str) -> str: ...
    async def pull(self, who: Principal, reference: str, *, platform: str = "", credentials: Credentials | None = None,
                   progress: ProgressSink | None = None) -> Image: ...
    async def push(self, who: Principal, reference: str, *, credentials: Credentials | None = None,
                   progress: ProgressSink | None = None) -> list[Pushed]: ...
    async def check_login(self, who: Principal, host: str, credentials: Credentials | None) -> None: ...
    async def describe_remote(self, who: Principal, reference: str, *, credentials: Credentials | None = None
                              ) -> RemoteImage: ...
    async def remote_tags(self, who: Principal, reference: str, *, credentials: Credentials | None = None
                          ) -> list[str]: ...
    async def search(self, who: Principal, term: str, *, limit: int) -> list[str]: ...
    async def remove(self, who: Principal, name: str, *, force: bool = False) -> list[tuple[str, str]]: ...
    async def tag(self, who: Principal, name: str, reference: str) -> None: ...
    async def load(self, who: Principal, stream: AsyncIterator[bytes], progress: ProgressSink | None = None
                   ) -> list[Image]: ...
    def save(self, who: Principal, names: Collection[str]) -> AsyncIterator[bytes]: ...
    async def import_tar(self, who: Principal, stream: AsyncIterator[bytes], *, reference: str = "", message: str = "",
                         changes: Collection[str] = ()) -> Image: ...
    async def prune(self, who: Principal, *, dangling_only: bool = True,
                    wanted: Callable[[Image], bool] | None = None) -> tuple[list[tuple[str, str]], int]: ...


class ChangeKind(enum.IntEnum):
    """Docker's numbers."""

    CHANGED = 0
    ADDED = 1
    DELETED = 2


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A path that a container has and its image has not, or the other way round."""

    kind: ChangeKind
    path: str


class Layers(Protocol):
    """What containers, running or not, have changed of their images. Volumes are no part of it."""

    async def changes(self, who: Principal, ref: str) -> list[Change]:
        """By path. :raise Exhausted: more than one answer can hold."""

    def export(self, who: Principal, ref: str) -> AsyncIterator[bytes]:
        """A tar of the whole root file system. To be read to its end or closed."""

    async def commit(self, who: Principal, ref: str, *, reference: str = "", author: str = "", message: str = "",
                     pause: bool = True, changes: Collection[str] = (), config: Mapping[str, Any] | None = None
                     ) -> Image:
        """The container's image with its changes as one more layer.

        :param pause: nothing runs in the container while it is read.
        :param changes: Dockerfile instructions for the run configuration. :param config: parts of it, over what the
            container has; in the words of an image's config document.
        """


class Builds(Protocol):
    """Images out of Dockerfiles. Every RUN has a machine of its own; what steps made is cached for the project."""

    async def build(self, who: Principal, request: BuildRequest, context: AsyncIterator[bytes], tell: BuildSink,
                    progress: ProgressSink) -> str:
        """The id of the new image.

        :param context: a tar, plain or packed; not read where the request names a remote one.
        :raise StepFailed: with the code of a command that failed. :raise InvalidArgument: a malformed Dockerfile, a
            file that is not there. Cancelled, it leaves nothing but what is cached.
        """

    def cache(self, who: Principal) -> list[CachedStep]:
        """Of the project, the longest unused first."""

    async def prune(self, who: Principal, *, everything: bool, wanted: Callable[[CachedStep], bool],
                    keep_bytes: int = 0) -> tuple[list[str], int]:
        """Forget cached steps, the longest unused first, until `keep_bytes` are left. Returns keys and bytes freed.

        :param everything: also those whose layers images have.
        """


class Volumes(Protocol):
    """Named disks of the project. Containers name them in their mounts; a missing one is made at the first start."""

    async def create(self, who: Principal, name: str = "", *, driver: str = "", labels: dict[str, str] | None = None,
                     options: dict[str, str] | None = None) -> VolumeRecord:
        """The volume of that name, made where absent; without a name, an anonymous one.

        :raise InvalidArgument: a bad name, driver or option. :raise Conflict: it exists with another driver.
        """

    def get(self, who: Principal, name: str) -> VolumeRecord: ...
    def list_all(self, who: Principal) -> list[VolumeRecord]: ...
    async def remove(self, who: Principal, name: str, *, force: bool = False) -> None:
        """:raise Conflict: a container uses it. `force`: not there is no error."""

    async def prune(self, who: Principal, *, all_unused: bool = False, labels: Collection[str] = (),
                    without: Collection[str] = ()) -> tuple[list[str], int]:
        """Remove unused anonymous volumes, or all unused ones, that have all of `labels` and none of `without`. Returns
        names and bytes freed."""


class Networks(Protocol):
    """Networks of the project. Two are built in: `bridge`, where pods are that name none, and `none`."""

    async def create(self, who: Principal, name: str, *, driver: str = "", internal: bool = False,
                     attachable: bool = False, labels: dict[str, str] | None = None,
                     options: dict[str, str] | None = None, subnets: Collection[Subnet] = (), ipv6: bool = False
                     ) -> NetworkRecord:
        """:param subnets: a gateway may be left empty; none at all: a free one is chosen, and one of each with `ipv6`.
        :param options: see `hyperstack.engine.networks.options`.

        :raise Conflict: the name or a subnet is taken. :raise InvalidArgument, UnsupportedOption: names the option.
        :raise Forbidden: the name of a built-in one. :raise Exhausted: no subnet is left.
        """

    def get(self, who: Principal, ref: str) -> NetworkRecord: ...
    def list_all(self, who: Principal) -> list[NetworkRecord]: ...
    def members(self, who: Principal, record: NetworkRecord) -> list[tuple[ContainerRecord, PodRecord]]:
        """The containers that hold an address of it now, each with its pod."""

    async def remove(self, who: Principal, ref: str) -> None:
        """:raise Forbidden: it is built in, or has members."""

    async def prune(self, who: Principal, *, until_ns: int = 0, labels: Collection[str] = (),
                    without_labels: Collection[str] = ()) -> list[str]:
        """Remove those that no container names, running or not. Returns names."""

    async def connect(self, who: Principal, ref: str, container: str, *, place: Endpoint) -> None:
        """Put a container on one more network, running or not. The network is `ref`, whatever `place` says.

        :raise Forbidden: it is on it. :raise InvalidArgument, Conflict, Exhausted: what is asked for is not to be had.
        :raise UnsupportedOption: it runs, and its VM was started without a network.
        """

    async def disconnect(self, who: Principal, ref: str, container: str) -> None:
        """Take it off a network, running or not. :raise Conflict: it is not on that one."""


class System(Protocol):
    def info(self, who: Principal) -> dict[str, Any]:
        """Counts and host facts under plain keys: containers, running, paused, stopped, images, pods, cpus, memory,
        id, hostname, os, kernel, hypervisor, accelerator, data_root, guest_kernel, storage, cgroup_version, warnings;
        and starts, with slots, running, waiting and short_of_memory, of all projects for an administrator."""

    async def doctor(self) -> list[Finding]: ...

    async def disk_usage(self, who: Principal) -> dict[str, Any]:
        """Bytes on the host: `layers` (all layer disks), `containers` (id -> writable disk), `volumes` (name ->)."""


class BuildStep(msgspec.Struct, frozen=True, kw_only=True):
    """How the build of a kernel goes."""

    status: str
    current: int = 0
    total: int = 0
    """How much of it is done, of how much; 0: unknown."""
    name: str = ""
    """Of the kernel, in the last step."""


class AddedKernel(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    release: str
    boot_ms: int
    """Of the trial: from the start of the machine to the agent's answer."""
    warnings: tuple[str, ...]
    """What containers will miss."""


class Kernels(Protocol):
    """What pods can boot. Kernels belong to the host: only its administrator adds, builds and removes them."""

    def list_all(self, who: Principal) -> list[dict[str, Any]]:
        """name, release, path, format, origin, default, project_default, min_memory_mib, bytes, added_at, pods (those
        that `who` may know of, by name)"""

    def inspect(self, who: Principal, name: str) -> dict[str, Any]:
        """As `list_all`, with command_line, initrd, modules, features, config, default_of_projects. `features` and
        `config` are None where its configuration is not known."""

    async def add(self, who: Principal, name: str, archive: AsyncIterator[bytes], *, command_line: str = ""
                  ) -> AddedKernel:
        """Check a kernel, try it, and store it. `archive`: see `hyperstack.engine.kernels.upload`.

        :raise InvalidArgument: it lacks something, or does not boot; says all that is missing.
        """

    async def remove(self, who: Principal, name: str) -> None:
        """:raise Conflict: a pod uses it, or it is a default."""

    def set_default(self, who: Principal, name: str) -> None:
        """What pods boot that name no kernel, in projects that have chosen none."""

    def set_project_default(self, who: Principal, project: str, name: str) -> None:
        """What pods boot that the project makes from now on; empty: the host's default.

        :raise Forbidden: the project is another's.
        """

    def build(self, who: Principal) -> AsyncGenerator[BuildStep, None]:
        """Build this project's own kernel, try it, and make it the host's default; joins a build that runs. It goes on
        when nobody looks on any more."""


class Engine(Protocol):
    @property
    def containers(self) -> Containers: ...
    @property
    def execs(self) -> Execs: ...
    @property
    def pods(self) -> Pods: ...
    @property
    def images(self) -> Images: ...
    @property
    def layers(self) -> Layers: ...
    @property
    def builds(self) -> Builds: ...
    @property
    def volumes(self) -> Volumes: ...
    @property
    def networks(self) -> Networks: ...
    @property
    def kernels(self) -> Kernels: ...
    @property
    def system(self) -> System: ...

    def events(self, who: Principal, *, since_ns: int = 0, until_ns: int = 0) -> AsyncIterator[Event]:
        """Past events from `since_ns` (a bounded memory of them), then live ones until `until_ns` (0: for ever).
        Registers at once, before the first item is asked for. A subscriber that does not read is dropped with an
        error."""
