"""From what a user asked for, and what the image says, to what the guest's agent is told. Pure functions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from typing import TypedDict

from msgspec.structs import replace

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.machines import cpusets
from hyperstack.engine.records import ContainerRecord, ExecRequest, PodRecord
from hyperstack.engine.storage.binds import files_volume, share_path
from hyperstack.engine.storage.disks import ContainerDisks
from hyperstack.guest import messages
from hyperstack.guest.linux import capability_numbers, container_capabilities, rlimit
from hyperstack.guest.seccomp import default_profile
from hyperstack.network.api import Binding
from hyperstack.pod.errors import InvalidArgument
from hyperstack.pod.kernel import Kernel
from hyperstack.pod.spec import HOST_GATEWAY, Mount, MountKind, Resources, Security, Sharing

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEFAULT_SHM = 64 << 20
_DEFAULT_SCRATCH = 64 << 20
_POD_SHM = "__shm"
"""Of a manifest's pod, whose containers share IPC. No name of a user's begins with an underscore."""
_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
"""Docker's defaults: a pod's network is its own, so any user in it may bind any port and ping."""
DOCKERS_RESOLVER = "127.0.0.11"
"""Where Docker has its own; the agent leads who asks there to the network's."""
NIC = "eth0"
"""The device that is the VM's NIC; any other is on top of it."""
Hosts = tuple[tuple[str, str], ...]
"""Lines of /etc/hosts: an address, and names with a space between."""
_MIB = 1 << 20
_MIN_CONTAINER_MEMORY = 6 * _MIB
"""Docker's own lower bound."""
_MIN_RESERVE = 24 * _MIB
"""What the guest's kernel and agent use beside the containers, at least; the larger of it and a sixteenth is kept."""
_SHARE_KEPT = 16


def machine_memory_mib(pod: PodRecord, containers: list[ContainerRecord], kernel: Kernel, config: EngineConfig) -> int:
    """Guest RAM: what the pod asks for, else its containers' limits together and room for the kernel.

    :raise InvalidArgument: less than the kernel lives in.
    """
    if pod.spec.memory:
        asked = pod.spec.memory // _MIB
        if asked < kernel.min_memory_mib:
            raise InvalidArgument(f"{asked} MiB is less than the kernel {kernel.name} can live in", field="memory",
                                  value=asked, hint=f"ask for at least {kernel.min_memory_mib} MiB")
        return asked
    for container in containers:
        limit = container.spec.resources.memory
        if limit and limit < _MIN_CONTAINER_MEMORY:
            raise InvalidArgument("Minimum memory limit allowed is 6MB", field="memory", value=limit)
    limits = [c.spec.resources.memory for c in containers if not c.init]
    first = max((c.spec.resources.memory for c in containers if c.init), default=0)
    if not limits or not all(limits):
        return max(config.default_memory_mib, kernel.min_memory_mib, -(-max(sum(limits), first) // _MIB)
                   + kernel.min_memory_mib)
    return -(-max(sum(limits), first) // _MIB) + kernel.min_memory_mib


def machine_vcpus(pod: PodRecord, containers: Iterable[ContainerRecord]) -> int:
    """As many as the containers may use together, rounded up; one where nothing is said."""
    if pod.spec.vcpus:
        return pod.spec.vcpus
    nano = sum(c.spec.resources.nano_cpus or _quota_as_nano(c.spec.resources)
               or len(cpusets.parse(c.spec.resources.cpuset_cpus)) * 10**9 for c in containers if not c.init)
    return max(1, -(-nano // 10**9))


def configuration(pod: PodRecord, disk_names: dict[str, str]) -> messages.Configure:
    """The first call to a fresh guest: time, entropy, names, network.

    :param disk_names: see `hypervisor.api.Machine.disk_names`.
    """
    # Where there are several, `networks` follows, and says all.
    first = next((binding for binding in pod.bindings if binding.device == NIC), None)
    net = None if first is None else _net(pod, first, resolver="" if pod.further else _resolver(pod))
    return messages.Configure(
        time_ns=time.time_ns(), entropy=secrets.token_bytes(64), hostname=hostname(pod),
        domainname=pod.spec.domainname, net=net, sysctls=_SYSCTLS | pod.spec.sysctls,
        share_pid=pod.spec.share_process_namespace,
        disks=disk_names, memory_reserve=reserve(pod))


def room_of(pod: PodRecord) -> int:
    """Bytes of the running VM's RAM that its containers together can have."""
    return room_within(_asked_mib(pod))


def room_within(asked_mib: int) -> int:
    """The same of any VM that may use so much RAM."""
    return asked_mib * _MIB - _kept(asked_mib)


def memory_around_mib(limits: int) -> int:
    """RAM of a VM with room for containers of these limits together, in bytes."""
    return -(-max(limits + _MIN_RESERVE, limits * _SHARE_KEPT // (_SHARE_KEPT - 1)) // _MIB) + 1


def networks(pod: PodRecord) -> messages.Networks:
    """All that the guest is on."""
    return messages.Networks(nets=tuple(_net(pod, binding) for binding in pod.bindings), resolver=_resolver(pod))


def _net(pod: PodRecord, binding: Binding, *, resolver: str = "") -> messages.Net:
    way_out = binding is pod.binding
    return messages.Net(device=binding.device, mac=binding.mac, address=binding.address, mtu=binding.mtu,
                        gateway=binding.gateway if way_out else "", resolver=resolver, address6=binding.address6,
                        gateway6=binding.gateway6 if binding is _way_out6(pod) else "")


def _way_out6(pod: PodRecord) -> Binding | None:
    return next((binding for binding in pod.bindings if binding.gateway6), None)


def _resolver(pod: PodRecord) -> str:
    """The name server that stands behind 127.0.0.11; empty: none does. It knows the names of all the pod's networks."""
    named = sorted((b for b in pod.bindings if b.names), key=lambda binding: not binding.gateway)
    return named[0].dns[0] if named else ""


def reserve(pod: PodRecord) -> int:
    """Bytes of the VM's RAM that its containers together cannot have."""
    asked = _asked_mib(pod)
    return (pod.memory_mib - asked) * _MIB + _kept(asked)


def _asked_mib(pod: PodRecord) -> int:
    return pod.memory_asked_mib or pod.memory_mib


def _kept(asked_mib: int) -> int:
    return max(_MIN_RESERVE, asked_mib * _MIB // _SHARE_KEPT)


def hostname(pod: PodRecord) -> str:
    """As Docker: the short id where none was asked for; a manifest's pod goes by its name."""
    return pod.spec.hostname or (pod.id[:12] if pod.implicit else pod.name)[:63]


def scratch_volumes(pod: PodRecord, containers: Iterable[ContainerRecord]) -> list[messages.Volume]:
    """What the containers share in memory, gone with the sandbox: emptyDirs, and a manifest's pod its /dev/shm."""
    sizes: dict[str, int] = {}
    for container in containers:
        for mount in container.spec.mounts:
            if mount.kind is MountKind.EMPTY_DIR:
                sizes[mount.source] = max(sizes.get(mount.source, 0), mount.size or _DEFAULT_SCRATCH)
    volumes = [messages.Volume(name=_scratch_name(name), tmpfs=size) for name, size in sizes.items()]
    if not pod.implicit:
        volumes.append(messages.Volume(name=_POD_SHM, tmpfs=_DEFAULT_SHM, mode=0o1777))
    return volumes


def creation(pod: PodRecord, container: ContainerRecord, disks: ContainerDisks, linked: Hosts = ()) -> messages.Create:
    """How the agent makes the container's file system and cgroup. :param linked: see `name_files`."""
    spec, security = container.spec, container.spec.security
    return messages.Create(
        container=container.id, layers=disks.layers, writable=disks.writable, read_only=security.read_only_rootfs,
        mounts=_mounts(pod, container, disks.served),
        files=name_files(pod, linked), limits=limits(spec.resources), masked=tuple(p.encode() for p in security.masked),
        readonly=tuple(p.encode() for p in security.readonly), privileged=security.privileged,
        shm_size=spec.shm_size or _DEFAULT_SHM, sysctls=dict(spec.sysctls))


def main_process(pod: PodRecord, container: ContainerRecord, linked: tuple[str, ...] = ()) -> messages.Process:
    """:param linked: variables that tell of those whom it links to.

    :raise InvalidArgument: neither the user nor the image says what to run.
    """
    spec, image = container.spec, container.image_config
    argv = command_line(container)
    if not argv:
        raise InvalidArgument("no command specified", field="command", hint="name one after the image")
    return messages.Process(
        argv=_encode(argv), env=_encode(environment(container, hostname(pod), tty=spec.tty, linked=linked)),
        cwd=(spec.working_dir or image.working_dir or "/").encode(), user=(spec.user or image.user).encode(),
        tty=spec.tty, rows=spec.console_size[0], columns=spec.console_size[1], stdin=spec.open_stdin, init=spec.init,
        oom_score_adj=spec.oom_score_adj,
        rlimits=tuple(rlimit(ulimit) for ulimit in spec.ulimits),
        **_groups(spec.security), **_sharing(spec.sharing), **_privileges(spec.security))


def exec_process(pod: PodRecord, container: ContainerRecord, request: ExecRequest, linked: tuple[str, ...] = ()
                 ) -> messages.Process:
    """:param linked: see `main_process`."""
    spec, image = container.spec, container.image_config
    env = merge_environment(environment(container, hostname(pod), tty=request.tty, linked=linked), request.env)
    security = spec.security
    if request.privileged:
        security = Security(privileged=True)
    return messages.Process(
        argv=_encode(request.argv), env=_encode(env),
        cwd=(request.working_dir or spec.working_dir or image.working_dir or "/").encode(),
        user=(request.user or spec.user or image.user).encode(), tty=request.tty, stdin=request.attach_stdin,
        oom_score_adj=spec.oom_score_adj,
        rlimits=tuple(rlimit(ulimit) for ulimit in spec.ulimits),
        **_groups(spec.security), **_privileges(security))


def command_line(container: ContainerRecord) -> tuple[str, ...]:
    """What is executed."""
    return sum(command_words(container), start=())


def command_words(container: ContainerRecord) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(entrypoint, command) in force. Docker's rule: an entrypoint of the user's drops the image's command too, unless
    it is an empty one."""
    spec, image = container.spec, container.image_config
    command = spec.command
    if command is None:
        command = () if spec.entrypoint else image.command
    return image.entrypoint if spec.entrypoint is None else spec.entrypoint, command


def environment(container: ContainerRecord, host: str, *, tty: bool, linked: tuple[str, ...] = ()) -> tuple[str, ...]:
    base = (DEFAULT_PATH, f"HOSTNAME={host}", *(["TERM=xterm"] if tty else []), *linked)
    return merge_environment(merge_environment(base, container.image_config.env), container.spec.env)


def limits(resources: Resources) -> messages.Limits:
    """A container's cgroup; what is 0 in `resources` is left as it is."""
    quota, period = resources.cpu_quota, resources.cpu_period or 100_000
    if resources.nano_cpus:
        quota, period = resources.nano_cpus * period // 10**9, period
    swap = None
    if resources.memory:
        # Docker's memory_swap counts both; guests have no swap device, so none is promised.
        swap = 0
    return messages.Limits(
        memory=resources.memory or None, memory_low=resources.memory_reservation or None, swap=swap,
        cpu_quota_us=quota if quota > 0 else None,
        cpu_period_us=period if quota > 0 else None,
        cpu_weight=_weight(resources.cpu_shares) if resources.cpu_shares else None,
        pids=resources.pids_limit if resources.pids_limit > 0 else None)


def changed_limits(before: Resources, after: Resources) -> messages.Limits:
    """For a container that runs: what is not limited any more is lifted."""
    old, new = limits(before), limits(after)
    lifted = {name: 0 for name in new.__struct_fields__
              if getattr(new, name) is None and getattr(old, name) is not None}
    return replace(new, **lifted)


class _Namespaces(TypedDict):
    pid_of: str
    ipc_of: str
    own_ipc: bool
    no_shm: bool


def _sharing(sharing: Sharing) -> _Namespaces:
    """Whoever joined a pod has IPC of its own there, unless it asked for another's; a pod's own containers have the
    VM's."""
    none = sharing.ipc_mode == "none"
    return {"pid_of": sharing.pid, "ipc_of": sharing.ipc, "no_shm": none,
            "own_ipc": none or bool(sharing.network and not sharing.ipc)}


class _Groups(TypedDict):
    groups: tuple[int, ...]
    group_names: tuple[bytes, ...]


def _groups(security: Security) -> _Groups:
    return {"groups": security.supplemental_groups, "group_names": _encode(security.group_names)}


class _Privileges(TypedDict):
    capabilities: tuple[int, ...]
    no_new_privileges: bool
    seccomp: bytes


def _privileges(security: Security) -> _Privileges:
    names = container_capabilities(add=security.cap_add, drop=security.cap_drop, privileged=security.privileged)
    unconfined = security.privileged or security.seccomp == "unconfined"
    return {"capabilities": capability_numbers(names), "no_new_privileges": security.no_new_privileges,
            "seccomp": b"" if unconfined else default_profile(names)}


def _mounts(pod: PodRecord, container: ContainerRecord, served: Mapping[str, str]) -> tuple[messages.Mount, ...]:
    """Outer ones first."""
    mounts = [_mount(m, container, served) for m in sorted(container.spec.mounts, key=lambda m: m.target.count("/"))]
    if not (pod.implicit or container.joined) and not any(m.target == b"/dev/shm" for m in mounts):
        mounts.append(messages.Mount(kind="volume", source=_POD_SHM, target=b"/dev/shm",
                                     flags=_NOSUID | _NODEV | _NOEXEC))
    return tuple(mounts)


def _mount(mount: Mount, container: ContainerRecord, served: Mapping[str, str]) -> messages.Mount:
    flags = sum(_MOUNT_FLAGS[o] for o in mount.has if o in _MOUNT_FLAGS)
    if mount.kind is MountKind.TMPFS:
        return messages.Mount(kind="tmpfs", target=mount.target.encode(), read_only=mount.read_only, size=mount.size,
                              files=mount.files, mode=mount.mode, uid=mount.owner[0], gid=mount.owner[1], flags=flags)
    source, share, subpath = mount.source, "", mount.subpath
    if mount.host_path:
        source, share = files_volume(container), share_path(container, mount)
    elif mount.kind is MountKind.EMPTY_DIR:
        source = _scratch_name(mount.source)
    elif source in served:
        # What another VM serves has the volume as the first and only share in it.
        source, share = served[source], "0"
    if share and not subpath:
        share, subpath = "", share
    return messages.Mount(kind="volume", source=source, share=share.encode(), subpath=subpath.encode(),
                          target=mount.target.encode(), read_only=mount.read_only, flags=flags,
                          copy_up=mount.kind is MountKind.VOLUME and "nocopy" not in mount.has)


_RDONLY, _NOSUID, _NODEV, _NOEXEC, _NOATIME = 1, 2, 4, 8, 1024
"""<sys/mount.h>"""
_MOUNT_FLAGS = {"ro": _RDONLY, "nosuid": _NOSUID, "nodev": _NODEV, "noexec": _NOEXEC, "noatime": _NOATIME}


def _scratch_name(name: str) -> str:
    """Apart from volumes of the same name: no volume's name begins with an underscore."""
    return f"_{name}"


def name_files(pod: PodRecord, linked: Hosts = ()) -> tuple[messages.File, ...]:
    """Who the container is, and how it finds others; said anew where the pod's networks change.

    :param linked: those whom it links to.
    """
    host = hostname(pod)
    return (messages.File(path=b"/etc/hostname", data=f"{host}\n".encode(), mode=0o644),
            messages.File(path=b"/etc/hosts", data=_hosts(pod, host, linked).encode(), mode=0o644),
            messages.File(path=b"/etc/resolv.conf", data=_resolv_conf(pod).encode(), mode=0o644))


def _hosts(pod: PodRecord, host: str, linked: Hosts) -> str:
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", "fe00::\tip6-localnet",
             "ff00::\tip6-mcastprefix", "ff02::1\tip6-allnodes", "ff02::2\tip6-allrouters"]
    for entry in pod.spec.extra_hosts:
        name, _, address = entry.partition(":")
        if address == HOST_GATEWAY:
            if pod.binding is None or not pod.binding.gateway:
                raise InvalidArgument("unable to derive the IP value for host-gateway", field="ExtraHosts", value=entry,
                                      hint="the pod's network has no gateway; give an address")
            address = pod.binding.gateway
        lines.append(f"{address}\t{name}")
    lines += [f"{address}\t{names}" for address, names in linked]
    full = f"{host}.{pod.spec.domainname} {host}" if pod.spec.domainname else host
    for binding in pod.bindings:
        lines += [f"{address.partition('/')[0]}\t{full}" for address in (binding.address, binding.address6) if address]
    return "\n".join(lines) + "\n"


def _resolv_conf(pod: PodRecord) -> str:
    named = bool(_resolver(pod))
    # On a network with names its resolver is asked for all of them, and asks the pod's own servers where it must.
    servers = (DOCKERS_RESOLVER,) if named else pod.spec.dns or (pod.binding.dns if pod.binding is not None else ())
    lines = [f"nameserver {server}" for server in servers]
    if pod.spec.dns_search:
        lines.append("search " + " ".join(pod.spec.dns_search))
    options = pod.spec.dns_options
    if named and not any(option.startswith("ndots:") for option in options):
        options = (*options, "ndots:0")  # Docker's: a name without a dot is a container's first of all
    if options:
        lines.append("options " + " ".join(options))
    return "".join(line + "\n" for line in lines)


def merge_environment(base: tuple[str, ...], over: tuple[str, ...]) -> tuple[str, ...]:
    """Environment lists; a bare NAME takes the variable away, as Docker has it."""
    merged: dict[str, str | None] = {}
    for entry in base + over:
        name, equals, _ = entry.partition("=")
        merged[name] = entry if equals else None
    return tuple(entry for entry in merged.values() if entry is not None)


def _encode(words: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(word.encode("utf-8", "surrogateescape") for word in words)


def _quota_as_nano(resources: Resources) -> int:
    return resources.cpu_quota * 10**9 // (resources.cpu_period or 100_000) if resources.cpu_quota > 0 else 0


def _weight(shares: int) -> int:
    """cgroup v1 shares 2..262144 as a v2 weight 1..10000, by the formula that runc uses."""
    return 1 + (max(2, min(shares, 262144)) - 2) * 9999 // 262142
