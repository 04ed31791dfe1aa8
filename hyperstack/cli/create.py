"""The options of `run` and `create`, made into the body of Docker's `POST /containers/create`.

What is checked here is the form, so that a typing mistake is told before anything is pulled; what a HyperVM can honour
is the daemon's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hyperstack.cli.errors import CliError
from hyperstack.cli.mounts import mount, split_volumes
from hyperstack.cli.options import (
    endpoint,
    environment,
    environment_file,
    extra_host,
    lines_of,
    mapping,
    nanoseconds,
    ports,
    resources,
    restart_policy,
    ulimit,
)
from hyperstack.cli.units import parse_size


@dataclass(frozen=True, kw_only=True)
class CreateOptions:
    """As click parsed them; names and defaults are those of the command line."""

    image: str
    command: tuple[str, ...]
    add_host: tuple[str, ...]
    annotation: tuple[str, ...]
    attach: tuple[str, ...]
    cap_add: tuple[str, ...]
    cap_drop: tuple[str, ...]
    cidfile: str
    cpu_period: int
    cpu_quota: int
    cpu_shares: int
    cpus: float
    cpuset_cpus: str
    detach: bool
    dns: tuple[str, ...]
    dns_option: tuple[str, ...]
    dns_search: tuple[str, ...]
    domainname: str
    entrypoint: str | None
    env: tuple[str, ...]
    env_file: tuple[str, ...]
    expose: tuple[str, ...]
    group_add: tuple[str, ...]
    health_cmd: str
    health_interval: str
    health_retries: int
    health_start_interval: str
    health_start_period: str
    health_timeout: str
    hostname: str
    init: bool
    interactive: bool
    ip: str
    ip6: str
    ipc: str
    kernel: str
    label: tuple[str, ...]
    label_file: tuple[str, ...]
    link: tuple[str, ...]
    log_driver: str
    log_opt: tuple[str, ...]
    mac_address: str
    memory: str
    memory_reservation: str
    memory_swap: str
    mount: tuple[str, ...]
    name: str
    network: tuple[str, ...]
    network_alias: tuple[str, ...]
    no_healthcheck: bool
    oom_score_adj: int
    pid: str
    pids_limit: int
    platform: str
    privileged: bool
    publish: tuple[str, ...]
    publish_all: bool
    pull: str
    quiet: bool
    read_only: bool
    restart: str
    rm: bool
    security_opt: tuple[str, ...]
    shm_size: str
    stop_signal: str
    stop_timeout: int | None
    storage_opt: tuple[str, ...]
    sysctl: tuple[str, ...]
    tmpfs: tuple[str, ...]
    tty: bool
    ulimit: tuple[str, ...]
    user: str
    volume: tuple[str, ...]
    volumes_from: tuple[str, ...]
    workdir: str

    @property
    def attached(self) -> frozenset[str]:
        """Which of stdin, stdout and stderr are to be attached.

        :raise CliError: -a names something else.
        """
        asked = frozenset(name.lower() for name in self.attach)
        if unknown := asked - {"stdin", "stdout", "stderr"}:
            raise CliError(f'invalid argument "{min(unknown)}" for -a: attach stdin, stdout or stderr')
        if self.detach:
            return frozenset()
        return asked or frozenset({"stdout", "stderr", *(["stdin"] if self.interactive else [])})


def body(options: CreateOptions, *, console: tuple[int, int] | None = None) -> dict[str, Any]:
    """Docker's create body.

    :param console: rows and columns of the terminal.
    :raise CliError: an option's value is malformed; the message shows it.
    """
    if options.rm and options.restart not in ("", "no"):
        raise CliError("conflicting options: --restart and --rm cannot be used together")
    if options.detach and options.attach:
        raise CliError("conflicting options: -a and -d cannot be used together")
    attached = options.attached
    exposed, bindings = ports(options.publish, options.expose)
    binds, volumes = split_volumes(options.volume)
    stdin = "stdin" in attached
    return {
        "Image": options.image,
        "Cmd": list(options.command) or None,
        "Entrypoint": None if options.entrypoint is None else [options.entrypoint],
        "Env": [*(line for file in options.env_file for line in environment_file(file)),
                *(environment(value) for value in options.env)],
        "Hostname": options.hostname,
        "Domainname": options.domainname,
        "User": options.user,
        "WorkingDir": options.workdir,
        "Labels": {**mapping([line for file in options.label_file for line in lines_of(file, "label")], "label"),
                   **mapping(options.label, "label")},
        "Tty": options.tty,
        "OpenStdin": options.interactive,
        "StdinOnce": options.interactive and stdin,
        "AttachStdin": stdin,
        "AttachStdout": "stdout" in attached,
        "AttachStderr": "stderr" in attached,
        "ExposedPorts": {port: {} for port in exposed},
        "Volumes": {path: {} for path in volumes},
        **_healthcheck(options),
        **({"StopSignal": options.stop_signal} if options.stop_signal else {}),
        **({} if options.stop_timeout is None else {"StopTimeout": options.stop_timeout}),
        "HostConfig": _host_config(options, binds, bindings, console),
        "NetworkingConfig": _networking(options),
    }


def _healthcheck(options: CreateOptions) -> dict[str, Any]:
    durations = {"interval": options.health_interval, "timeout": options.health_timeout,
                 "start-period": options.health_start_period, "start-interval": options.health_start_interval}
    asked = any(durations.values()) or bool(options.health_cmd or options.health_retries)
    if options.no_healthcheck:
        if asked:
            raise CliError("--no-healthcheck conflicts with --health-* options")
        return {"Healthcheck": {"Test": ["NONE"]}}
    if not asked:
        return {}
    return {"Healthcheck": {
        "Test": ["CMD-SHELL", options.health_cmd] if options.health_cmd else [], "Retries": options.health_retries,
        **{name.title().replace("-", ""): nanoseconds(value, f"health-{name}") for name, value in durations.items()}}}


def _host_config(options: CreateOptions, binds: list[str], bindings: dict[str, list[dict[str, str]]],
                 console: tuple[int, int] | None) -> dict[str, Any]:
    annotations = mapping(options.annotation, "annotation", required=True)
    if options.kernel:
        from hyperstack.pod.spec import KERNEL_ANNOTATION

        annotations[KERNEL_ANNOTATION] = options.kernel
    return {
        **resources(memory=options.memory, memory_swap=options.memory_swap,
                    memory_reservation=options.memory_reservation, cpus=options.cpus, cpu_shares=options.cpu_shares,
                    cpu_period=options.cpu_period, cpu_quota=options.cpu_quota, pids_limit=options.pids_limit,
                    cpuset_cpus=options.cpuset_cpus),
        "Annotations": annotations,
        "AutoRemove": options.rm,
        "Binds": binds,
        "CapAdd": list(options.cap_add),
        "CapDrop": list(options.cap_drop),
        "ConsoleSize": list(console or (0, 0)),
        "ContainerIDFile": options.cidfile,
        "Dns": list(options.dns),
        "DnsOptions": list(options.dns_option),
        "DnsSearch": list(options.dns_search),
        "ExtraHosts": [extra_host(value) for value in options.add_host],
        "GroupAdd": list(options.group_add),
        **({"Init": True} if options.init else {}),
        "IpcMode": options.ipc,
        "Links": list(options.link),
        "LogConfig": {"Type": options.log_driver, "Config": mapping(options.log_opt, "log-opt", required=True)},
        "Mounts": [mount(value) for value in options.mount],
        "NetworkMode": options.network[0] if options.network else "default",
        "OomScoreAdj": options.oom_score_adj,
        "PidMode": options.pid,
        "PortBindings": bindings,
        "Privileged": options.privileged,
        "PublishAllPorts": options.publish_all,
        "ReadonlyRootfs": options.read_only,
        "RestartPolicy": restart_policy(options.restart),
        "SecurityOpt": list(options.security_opt),
        "ShmSize": parse_size(options.shm_size) if options.shm_size else 0,
        "StorageOpt": mapping(options.storage_opt, "storage-opt", required=True),
        "VolumesFrom": list(options.volumes_from),
        "Sysctls": mapping(options.sysctl, "sysctl", required=True),
        "Tmpfs": {path: words for path, _, words in (value.partition(":") for value in options.tmpfs)},
        "Ulimits": [ulimit(value) for value in options.ulimit],
    }


def _networking(options: CreateOptions) -> dict[str, Any]:
    place = endpoint(aliases=options.network_alias, ip=options.ip, ip6=options.ip6, mac=options.mac_address)
    first, *others = options.network or ("default",)
    return {"EndpointsConfig": {**({first: place} if place or others else {}), **{name: {} for name in others}}}
