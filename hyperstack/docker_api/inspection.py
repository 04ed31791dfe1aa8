"""A container as `docker inspect` shows it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hyperstack.docker_api.networks import endpoint_settings, endpoints, port_map
from hyperstack.docker_api.ports import host_ports
from hyperstack.engine.machines.launch import command_words
from hyperstack.engine.records import ContainerRecord, HealthRecord, PodRecord
from hyperstack.http.times import rfc3339
from hyperstack.pod.spec import ContainerSpec, Endpoint, Healthcheck, Mount, MountKind, PodSpec, RestartKind
from hyperstack.pod.states import ContainerState

_BOUND = frozenset({MountKind.VOLUME, MountKind.BIND})
_LIVE = frozenset({ContainerState.RUNNING, ContainerState.PAUSED})


def is_live(record: ContainerRecord) -> bool:
    """Whether it has a process."""
    return record.state in _LIVE


def status(record: ContainerRecord) -> str:
    """Docker's word for the state. A container that starts is still what it was."""
    if record.state is ContainerState.STARTING:
        if record.restart_count:  # which a start by hand begins anew
            return "restarting"
        return "exited" if record.finished_at else "created"
    return record.state.value


def exit_code(record: ContainerRecord) -> int:
    """As a shell tells it: 128 + the signal for a killed process."""
    return 128 + record.exit_signal if record.exit_signal else record.exit_code


def environment(record: ContainerRecord) -> list[str]:
    """The user's, then what the image says of others; a bare name takes a variable away."""
    asked = {item.partition("=")[0]: item for item in record.spec.env}
    image = {name: item for item in record.image_config.env if (name := item.partition("=")[0]) not in asked}
    return [item for item in (*asked.values(), *image.values()) if "=" in item]


def inspect(record: ContainerRecord, pod: PodRecord, health: HealthRecord | None = None, *, links: Collection[str] = (),
            execs: Collection[str] = ()) -> dict[str, Any]:
    """The body of GET /containers/{id}/json.

    :param links: see `hyperstack.engine.api.Containers.links_of`. :param execs: ids of those that run in it.
    """
    entrypoint, command = command_words(record)
    argv = (*entrypoint, *command)
    return {
        "Id": record.id, "Created": rfc3339(record.created_at), "Path": argv[0] if argv else "",
        "Args": list(argv[1:]), "State": _state(record, health), "Image": record.image_id, "ResolvConfPath": "",
        "HostnamePath": "", "HostsPath": "", "LogPath": "", "Name": f"/{record.name}",
        "RestartCount": record.restart_count, "Driver": "erofs", "Platform": "linux", "MountLabel": "",
        "ProcessLabel": "", "AppArmorProfile": "", "ExecIDs": list(execs) or None,
        "HostConfig": _host_config(record.spec, pod.spec, links),
        "GraphDriver": {"Name": "erofs", "Data": None},
        "Mounts": [mount_point(mount) for mount in record.spec.mounts if is_listed(mount)],
        "Config": _config(record, pod), "NetworkSettings": _network_settings(record, pod),
        "HyperStack": {"Pod": pod.id, "PodName": pod.name, "PodState": pod.state.value, "PodReason": pod.reason,
                       "Kernel": pod.kernel, "KernelRelease": pod.kernel_release, "MemoryMiB": pod.memory_mib,
                       "VCpus": pod.vcpus},
    }


def _state(record: ContainerRecord, health: HealthRecord | None) -> dict[str, Any]:
    return {
        "Status": status(record), "Running": is_live(record) or status(record) == "restarting",
        "Paused": record.state is ContainerState.PAUSED, "Restarting": status(record) == "restarting",
        "OOMKilled": record.oom_killed, "Dead": record.state is ContainerState.DEAD,
        "Pid": record.pid if is_live(record) else 0, "ExitCode": exit_code(record), "Error": record.error,
        "StartedAt": rfc3339(record.started_at), "FinishedAt": rfc3339(record.finished_at),
        **({} if health is None else {"Health": _health(health)}),
    }


def _health(health: HealthRecord) -> dict[str, Any]:
    return {"Status": health.status.value, "FailingStreak": health.failing_streak, "Log": [
        {"Start": rfc3339(probe.started_at), "End": rfc3339(probe.ended_at), "ExitCode": probe.exit_code,
         "Output": probe.output} for probe in health.log]}


def _healthcheck(record: ContainerRecord) -> dict[str, Any]:
    """What was asked for over what the image says; absent where neither says anything."""
    asked, image = record.spec.healthcheck or Healthcheck(), record.image_config.healthcheck or Healthcheck()
    names = {"Interval": "interval", "Timeout": "timeout", "StartPeriod": "start_period",
             "StartInterval": "start_interval", "Retries": "retries"}
    test = list(asked.test or image.test)
    numbers = {name: value for name, attribute in names.items()
               if (value := getattr(asked, attribute) or getattr(image, attribute))}
    return {"Healthcheck": {**({"Test": test} if test else {}), **numbers}} if test or numbers else {}


def _config(record: ContainerRecord, pod: PodRecord) -> dict[str, Any]:
    spec, image = record.spec, record.image_config
    entrypoint, command = command_words(record)
    exposed = {*spec.exposed_ports, *image.exposed_ports}
    volumes = {*image.volumes, *(mount.target for mount in spec.mounts if mount.anonymous and not mount.structured)}
    return {
        "Hostname": pod.spec.hostname or pod.id[:12], "Domainname": pod.spec.domainname,
        "User": spec.user or image.user, "AttachStdin": spec.attach_stdin, "AttachStdout": spec.attach_stdout,
        "AttachStderr": spec.attach_stderr, "Tty": spec.tty,
        **({"ExposedPorts": {port: {} for port in sorted(exposed)}} if exposed else {}),
        "OpenStdin": spec.open_stdin, "StdinOnce": spec.stdin_once, "Env": environment(record),
        "Cmd": list(command) or None, "Image": spec.image, "Volumes": {path: {} for path in sorted(volumes)} or None,
        "WorkingDir": spec.working_dir or image.working_dir, "Entrypoint": list(entrypoint) or None, "OnBuild": None,
        "Labels": {**image.labels, **spec.labels},
        **({"StopSignal": signal} if (signal := spec.stop_signal or image.stop_signal) else {}),
        **({} if spec.stop_timeout is None else {"StopTimeout": spec.stop_timeout}), **_healthcheck(record),
        **({"Shell": list(shell)} if (shell := spec.shell or image.shell) else {}),
        **({"MacAddress": pod.spec.mac_address} if pod.spec.mac_address else {}),
    }


def shown_network(spec: ContainerSpec, pod: PodSpec) -> str:
    """`HostConfig.NetworkMode`."""
    return f"container:{spec.sharing.network}" if spec.sharing.network else pod.home or pod.network


def _host_config(spec: ContainerSpec, pod: PodSpec, links: Collection[str]) -> dict[str, Any]:
    limits, security, sharing = spec.resources, spec.security, spec.sharing
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in () if sharing.network else pod.ports:
        bindings.setdefault(f"{port.container_port}/{port.protocol}", []).append(
            {"HostIp": port.host_ip, "HostPort": host_ports(port)})
    restart = spec.restart
    structured = [_structured(mount) for mount in spec.mounts if mount.structured]
    shown = {
        "Binds": [_bind(m) for m in spec.mounts if m.kind in _BOUND and not m.anonymous and not m.structured]
        or None,
        **({"Mounts": structured} if structured else {}),
        "ContainerIDFile": "", "LogConfig": {"Type": spec.log.driver, "Config": spec.log.options},
        "NetworkMode": shown_network(spec, pod), "PortBindings": bindings,
        "RestartPolicy": {"Name": restart.kind.value, "MaximumRetryCount": restart.max_retries
                          if restart.kind is RestartKind.ON_FAILURE else 0},
        "AutoRemove": spec.auto_remove, "VolumeDriver": "", "VolumesFrom": list(spec.volumes_from) or None,
        "ConsoleSize": list(spec.console_size),
        **({"Annotations": spec.annotations} if spec.annotations else {}), "CapAdd": list(security.cap_add) or None,
        "CapDrop": list(security.cap_drop) or None, "CgroupnsMode": "private", "Dns": list(pod.dns),
        "DnsOptions": list(pod.dns_options), "DnsSearch": list(pod.dns_search),
        "ExtraHosts": list(pod.extra_hosts) or None,
        "GroupAdd": [*map(str, security.supplemental_groups), *security.group_names] or None, "Cgroup": "",
        "IpcMode": f"container:{sharing.ipc}" if sharing.ipc else sharing.ipc_mode,
        "Links": list(links) or None, "OomScoreAdj": spec.oom_score_adj,
        "PidMode": f"container:{sharing.pid}" if sharing.pid else "", "Privileged": security.privileged,
        "PublishAllPorts": pod.publish_all, "ReadonlyRootfs": security.read_only_rootfs,
        "SecurityOpt": _security_options(spec) or None,
        **({"StorageOpt": {"size": str(spec.disk_size)}} if spec.disk_size else {}),
        **({"Tmpfs": tmpfs} if (tmpfs := _tmpfs(spec)) else {}), "UTSMode": "",
        "UsernsMode": "", "ShmSize": spec.shm_size or 64 << 20,
        **({"Sysctls": spec.sysctls} if spec.sysctls else {}), "Runtime": "hyperstack",
        "Isolation": "", "CpuShares": limits.cpu_shares, "Memory": limits.memory, "NanoCpus": limits.nano_cpus,
        "CgroupParent": "", "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [],
        "BlkioDeviceWriteBps": [], "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [],
        "CpuPeriod": limits.cpu_period, "CpuQuota": limits.cpu_quota, "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0,
        "CpusetCpus": limits.cpuset_cpus,
        "CpusetMems": "", "Devices": [], "DeviceCgroupRules": None, "DeviceRequests": None,
        "MemoryReservation": limits.memory_reservation,
        "MemorySwap": limits.memory_swap, "MemorySwappiness": None, "OomKillDisable": False,
        "PidsLimit": limits.pids_limit or None, **({"Init": True} if spec.init else {}),
        "Ulimits": [{"Name": u.name, "Soft": u.soft, "Hard": u.hard} for u in spec.ulimits],
        "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
        "MaskedPaths": None if security.privileged else list(security.masked),
        "ReadonlyPaths": None if security.privileged else list(security.readonly),
    }
    return shown | {name: shown[name] or None for name in spec.unsaid}


def _bind(mount: Mount) -> str:
    modes = ["ro"] if mount.read_only else []
    return ":".join([mount.source, mount.target, ",".join([*modes, *mount.options])]).rstrip(":")


def _structured(mount: Mount) -> dict[str, Any]:
    """As it was asked for in HostConfig.Mounts."""
    volume = {"NoCopy": "nocopy" in mount.options, "Subpath": mount.subpath, "Labels": mount.labels,
              "DriverConfig": {"Options": mount.driver_options} if mount.driver_options else None}
    bind = {"NonRecursive": "nonrecursive" in mount.options, "CreateMountpoint": mount.create_source}
    tmpfs = {"SizeBytes": mount.size, "Mode": mount.mode, "Options": [option.split("=", 1) for option in mount.options]}
    name = {MountKind.BIND: "BindOptions", MountKind.TMPFS: "TmpfsOptions"}.get(mount.kind, "VolumeOptions")
    said: dict[str, Any] = bind if name == "BindOptions" else tmpfs if name == "TmpfsOptions" else volume
    options = {key: value for key, value in said.items() if value}
    return {"Type": mount.kind.value, **({"Source": mount.source} if mount.source and not mount.anonymous else {}),
            "Target": mount.target,
            **({"ReadOnly": True} if mount.read_only else {}), **({name: options} if options else {})}


def _tmpfs(spec: ContainerSpec) -> dict[str, str]:
    return {mount.target: ",".join(mount.options) for mount in spec.mounts
            if mount.kind is MountKind.TMPFS and not mount.structured}


def _security_options(spec: ContainerSpec) -> list[str]:
    return [*(["label=disable"] if spec.security.privileged else []),
            *(["no-new-privileges"] if spec.security.no_new_privileges else []),
            *(["seccomp=unconfined"] if spec.security.seccomp == "unconfined" else [])]


def is_listed(mount: Mount) -> bool:
    """Whether `Mounts` has it: what is only in `HostConfig.Tmpfs` is told there."""
    return mount.kind is not MountKind.TMPFS or mount.structured


def mount_point(mount: Mount) -> dict[str, Any]:
    """One item of `Mounts`."""
    if mount.kind is MountKind.BIND:
        return {"Type": "bind", "Source": mount.source, "Destination": mount.target,
                "Mode": "ro" if mount.read_only and not mount.structured else "", "RW": not mount.read_only,
                "Propagation": "rprivate"}
    named = {"Name": mount.source, "Driver": "local"} if mount.kind is MountKind.VOLUME else {}
    kind = "volume" if mount.kind is MountKind.EMPTY_DIR else mount.kind.value
    return {"Type": kind, **named, "Source": mount.source, "Destination": mount.target,
            "Mode": _volume_mode(mount) if named else "", "RW": not mount.read_only, "Propagation": ""}


def _volume_mode(mount: Mount) -> str:
    """Of a volume that `Volumes` asked for, Docker tells nothing; of others, `z` where nothing else was said."""
    if mount.anonymous and not mount.structured:
        return ""
    said = [] if mount.structured else [*(["ro"] if mount.read_only else []), *mount.options]
    return ",".join(said) or "z"


def _network_settings(record: ContainerRecord, pod: PodRecord) -> dict[str, Any]:
    shared = bool(record.spec.sharing.network)  # the endpoint is that container's
    # Docker's of the default network alone, for clients that know no others.
    bridge = None if shared else next((place for place in pod.spec.endpoints if place.network == "bridge"), None)
    settings = endpoint_settings(pod, bridge or Endpoint(network=""), live=bridge is not None and is_live(record))
    default = {name: settings[name] for name in ("EndpointID", "Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen",
                                                 "IPAddress", "IPPrefixLen", "IPv6Gateway", "MacAddress")}
    live = is_live(record) and not shared
    return {"Bridge": "", "SandboxID": pod.id if live else "", "SandboxKey": "",
            "Ports": port_map(record, pod) if live else {}, "HairpinMode": False,
            "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0, "SecondaryIPAddresses": None,
            "SecondaryIPv6Addresses": None, **default, "Networks": {} if shared else endpoints(pod, live=live)}
