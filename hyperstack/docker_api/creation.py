"""From the body of a create (or update) request to a `ContainerSpec` and the `PodSpec` around it."""

from __future__ import annotations

import ipaddress
import os
import re

import msgspec

from hyperstack.docker_api.bodies import (
    CreateBody,
    HealthcheckBody,
    HostConfigBody,
    ResourcesBody,
    RestartPolicyBody,
    UlimitBody,
    UpdateBody,
)
from hyperstack.docker_api.endpoints import parse_links, parse_places
from hyperstack.docker_api.mounts import parse_mounts, parse_volumes_from
from hyperstack.docker_api.ports import parse_bindings, parse_port
from hyperstack.docker_api.refusals import refuse_config, refuse_host_config, refuse_resources
from hyperstack.docker_api.security import parse_security
from hyperstack.docker_api.sharing import parse_sharing
from hyperstack.engine.logs.drivers import DRIVERS
from hyperstack.engine.machines import cpusets
from hyperstack.pod.errors import InvalidArgument, UnsupportedOption
from hyperstack.pod.ids import check_name
from hyperstack.pod.spec import (
    DEFAULT_PROJECT,
    HOST_GATEWAY,
    KERNEL_ANNOTATION,
    ContainerSpec,
    Healthcheck,
    LogConfig,
    PodSpec,
    Resources,
    RestartKind,
    RestartPolicy,
    Ulimit,
)

MIN_MEMORY = 6 * 1024 * 1024
"""Docker's own lower bound; what a VM needs beyond it is the engine's business."""

_HOST_NAME = re.compile(r"[!-~]{1,64}\Z")
"""What the kernel takes, and what does not break the lines of /etc/hosts."""
_SYSCTL = re.compile(r"[a-z0-9_]+([./][a-zA-Z0-9_-]+)+\Z")
_SIZE = re.compile(r"([0-9]{1,12})([bkmgt]?)b?\Z", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_ULIMITS = frozenset({"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
                      "rtprio", "rttime", "sigpending", "stack"})
_SHOWN_AS_SAID = frozenset({
    "port_bindings", "dns", "dns_options", "dns_search", "ulimits", "devices", "blkio_weight_device",
    "blkio_device_read_bps", "blkio_device_write_bps", "blkio_device_read_iops", "blkio_device_write_iops"})
"""Lists and maps that are shown as null, or as empty, as they were sent."""
_MAX_STOP_TIMEOUT_S = 7 * 24 * 3600
_MIN_HEALTH_NS, _MAX_HEALTH_NS, _MAX_RETRIES = 1_000_000, 7 * 24 * 3600 * 10**9, 1_000_000


def parse_create(body: CreateBody, *, name: str = "", project: str = DEFAULT_PROJECT) -> tuple[ContainerSpec, PodSpec]:
    """What the caller wants. Every field of Docker's is mapped, harmless, or refused by name.

    :raise InvalidArgument: malformed or out of range. :raise UnsupportedOption: a VM cannot honour it.
    """
    refuse_config(body)
    refuse_host_config(body.host_config)
    if not body.image:
        raise InvalidArgument(_missing(body), field="Image", hint="Image names what it is made from")
    name = check_name(name) if name else ""
    return _container(body, name), _pod(body, name, project)


def _missing(body: CreateBody) -> str:
    """What Docker misses first of a body without an image."""
    if body == CreateBody(host_config=body.host_config, networking_config=body.networking_config):
        return "config cannot be empty in order to create a container"
    return "no image given" if body.cmd or body.entrypoint else "no command specified"


def parse_update(body: UpdateBody, current: Resources) -> tuple[Resources, RestartPolicy | None]:
    """New limits (absent ones as they are) and the new restart policy.

    :raise InvalidArgument: out of range. :raise UnsupportedOption: a limit that a VM cannot honour.
    """
    refuse_resources(body)
    if body.ulimits:
        raise UnsupportedOption("Ulimits", "they cannot be changed while the container exists")
    changes = {name: value for name in Resources.__struct_fields__ if (value := getattr(body, name))}
    # -1 lifts a limit where 0 means: as it is.
    changes |= {name: 0 for name in ("pids_limit", "cpu_quota") if getattr(body, name) < 0}
    merged = msgspec.structs.replace(current, **changes)
    checked = _check_resources(merged)
    # Docker's client sends a policy without a name along with every update.
    restart = body.restart_policy
    return checked, parse_restart(restart) if restart is not None and restart.name else None


def parse_restart(body: RestartPolicyBody) -> RestartPolicy:
    """:raise InvalidArgument: no such policy, or a count where none belongs."""
    try:
        kind = RestartKind(body.name or "no")
    except ValueError as error:
        raise InvalidArgument(f"invalid restart policy: unknown policy '{body.name[:64]}'; use one of 'no', 'always', "
                              "'on-failure', or 'unless-stopped'", field="RestartPolicy.Name",
                              value=body.name[:64]) from error
    count = body.maximum_retry_count
    faults = ["can only be used with 'on-failure'"] if count and kind is not RestartKind.ON_FAILURE else []
    faults += ["cannot be negative"] if count < 0 else []
    if faults:
        raise InvalidArgument(f"invalid restart policy: maximum retry count {' and '.join(faults)}",
                              field="RestartPolicy.MaximumRetryCount", value=count)
    return RestartPolicy(kind=kind, max_retries=count)


def parse_healthcheck(body: HealthcheckBody | None) -> Healthcheck | None:
    """:raise InvalidArgument: an unknown kind of test, or a number out of range."""
    if body is None:
        return None
    kind, words = (body.test or [""])[0], body.test[1:]
    if kind not in ("", "NONE", "CMD", "CMD-SHELL") or (kind in ("CMD", "CMD-SHELL") and not words) \
            or (kind == "CMD-SHELL" and len(words) != 1):
        raise InvalidArgument(f"invalid health check: {' '.join(body.test)[:64]!r}", field="Healthcheck.Test",
                              value=body.test[:2], hint='["NONE"], ["CMD", argument...] or ["CMD-SHELL", command]')
    durations = {"Interval": body.interval, "Timeout": body.timeout, "StartPeriod": body.start_period,
                 "StartInterval": body.start_interval}
    for name, value in durations.items():
        if value and not _MIN_HEALTH_NS <= value <= _MAX_HEALTH_NS:
            raise InvalidArgument(f"{name} in Healthcheck cannot be less than 1ms", field=f"Healthcheck.{name}",
                                  value=value, hint="nor more than a week")
    if not 0 <= body.retries <= _MAX_RETRIES:
        raise InvalidArgument("Retries in Healthcheck cannot be negative", field="Healthcheck.Retries",
                              value=body.retries, hint="nor more than a million")
    return Healthcheck(test=tuple(body.test), interval=body.interval, timeout=body.timeout, retries=body.retries,
                       start_period=body.start_period, start_interval=body.start_interval)


def _container(body: CreateBody, name: str) -> ContainerSpec:
    host = body.host_config
    restart = parse_restart(host.restart_policy)
    entrypoint, command = _words(body.entrypoint), _words(body.cmd) or None
    if entrypoint == ("",):  # `--entrypoint ""`: none, not even the image's, whose command goes with it.
        entrypoint, command = (), command or ()
    if host.auto_remove and restart.kind is not RestartKind.NO:
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy", field="HostConfig.AutoRemove")
    if body.working_dir and not body.working_dir.startswith("/"):
        raise InvalidArgument(f"the working directory '{body.working_dir[:128]}' is invalid, it needs to be an "
                              "absolute path", field="WorkingDir", value=body.working_dir[:128])
    return ContainerSpec(
        image=body.image, name=name,
        entrypoint=entrypoint, command=command,
        env=parse_environment(body.env), working_dir=body.working_dir, user=body.user, tty=body.tty,
        open_stdin=body.open_stdin, stdin_once=body.stdin_once, attach_stdin=body.attach_stdin,
        attach_stdout=body.attach_stdout, attach_stderr=body.attach_stderr, labels=body.labels,
        annotations=_annotations(host.annotations), mounts=parse_mounts(body),
        volumes_from=parse_volumes_from(host.volumes_from), resources=parse_resources(host),
        security=parse_security(host), ulimits=tuple(parse_ulimit(item) for item in host.ulimits or ()),
        sysctls=_sysctls(host.sysctls), stop_signal=body.stop_signal, stop_timeout=_stop_timeout(body.stop_timeout),
        oom_score_adj=_oom_score(host.oom_score_adj),
        restart=restart, auto_remove=host.auto_remove, init=host.init, log=_log_config(host),
        disk_size=_disk_size(host.storage_opt), shm_size=parse_size_field("SHM size", host.shm_size),
        exposed_ports=tuple(f"{port}/{protocol}" for port, protocol in
                            (parse_port(text, field="ExposedPorts") for text in body.exposed_ports)),
        healthcheck=parse_healthcheck(body.healthcheck), shell=_words(body.shell) or (), links=parse_links(body),
        console_size=parse_console_size(host.console_size), sharing=parse_sharing(body), unsaid=_unsaid(host))


def _pod(body: CreateBody, name: str, project: str) -> PodSpec:
    host = body.host_config
    if parse_sharing(body).donors:
        return PodSpec(name=name, project=project)
    for field, value in (("Hostname", body.hostname), ("Domainname", body.domainname)):
        if value and not _HOST_NAME.match(value):
            raise InvalidArgument(f"invalid {field}: {value[:64]!r}", field=field, value=value[:64],
                                  hint="letters, digits and punctuation, at most 64 characters")
    return PodSpec(
        name=name, project=project, hostname=body.hostname, domainname=body.domainname,
        kernel=host.annotations.get(KERNEL_ANNOTATION, ""),
        ports=parse_bindings(host.port_bindings or {}), publish_all=host.publish_all_ports,
        dns=tuple(_address(server, "HostConfig.Dns") for server in host.dns or ()),
        dns_search=tuple(host.dns_search or ()), dns_options=tuple(host.dns_options or ()),
        extra_hosts=tuple(parse_extra_host(item) for item in host.extra_hosts)
    ).on(parse_places(body))


def _unsaid(host: HostConfigBody) -> tuple[str, ...]:
    return tuple(field.encode_name for field in msgspec.structs.fields(host)
                 if field.name in _SHOWN_AS_SAID and getattr(host, field.name) is None)


def _annotations(annotations: dict[str, str]) -> dict[str, str]:
    if "" in annotations:
        raise InvalidArgument("invalid Annotations: the empty string is not permitted as an annotation key",
                              field="HostConfig.Annotations")
    return annotations


def _words(value: str | list[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return (value,) if isinstance(value, str) else tuple(value)


def parse_environment(env: list[str]) -> tuple[str, ...]:
    """NAME=VALUE; a NAME alone takes the image's variable away. :raise InvalidArgument: one has no name."""
    for item in env:
        if not item.partition("=")[0]:
            raise InvalidArgument(f"invalid environment variable: {item[:64]}", field="Env", value=item[:64],
                                  hint="NAME=VALUE")
    return tuple(env)


def parse_resources(body: ResourcesBody) -> Resources:
    """Limits of a new container. :raise InvalidArgument: out of range; says what the range is."""
    return _check_resources(Resources(
        memory=body.memory, memory_swap=body.memory_swap, nano_cpus=body.nano_cpus, cpu_shares=body.cpu_shares,
        cpu_quota=max(body.cpu_quota, 0), cpu_period=body.cpu_period, pids_limit=max(body.pids_limit, 0),
        memory_reservation=body.memory_reservation, cpuset_cpus=body.cpuset_cpus))


def _check_resources(limits: Resources) -> Resources:
    def wrong(field: str, value: int, message: str) -> InvalidArgument:
        return InvalidArgument(message, field=field, value=value)

    if limits.memory and limits.memory < MIN_MEMORY:
        raise wrong("Memory", limits.memory, "Minimum memory limit allowed is 6MB")
    cpusets.parse(limits.cpuset_cpus)
    reserved = limits.memory_reservation
    if 0 < reserved < MIN_MEMORY:
        raise wrong("MemoryReservation", reserved, "Minimum memory reservation allowed is 6MB")
    if limits.memory and reserved > limits.memory:
        raise wrong("MemoryReservation", reserved, "Minimum memory limit can not be less than memory reservation "
                                                   "limit, see usage")
    if limits.memory_swap > 0:
        if not limits.memory:
            raise wrong("MemorySwap", limits.memory_swap, "You should always set the Memory limit when using "
                                                          "Memoryswap limit, see usage")
        if limits.memory_swap < limits.memory:
            raise wrong("MemorySwap", limits.memory_swap, "Minimum memoryswap limit should be larger than memory "
                                                          "limit, see usage")
    count = os.cpu_count() or 1
    if not 0 <= limits.nano_cpus <= count * 10**9:
        raise wrong("NanoCpus", limits.nano_cpus, f"range of CPUs is from 0.01 to {count}.00, as there are only "
                                                  f"{count} CPUs available")
    if limits.cpu_shares < 0:
        raise wrong("CpuShares", limits.cpu_shares, f"invalid CPU shares ({limits.cpu_shares}): value must be a "
                                                    "positive integer")
    if limits.nano_cpus and (limits.cpu_quota or limits.cpu_period):
        raise wrong("NanoCpus", limits.nano_cpus, "Conflicting options: Nano CPUs and CPU "
                                                  f"{'Period' if limits.cpu_period else 'Quota'} cannot both be set")
    if limits.cpu_period and not 1000 <= limits.cpu_period <= 1_000_000:
        raise wrong("CpuPeriod", limits.cpu_period, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger "
                                                    "than 1s (i.e. 1000000)")
    if limits.cpu_quota and limits.cpu_quota < 1000:
        raise wrong("CpuQuota", limits.cpu_quota, "CPU cfs quota can not be less than 1ms (i.e. 1000)")
    return limits


def parse_ulimit(body: UlimitBody) -> Ulimit:
    if body.name not in _ULIMITS:
        raise InvalidArgument(f"invalid ulimit type: {body.name[:64]}", field="HostConfig.Ulimits",
                              value=body.name[:64], hint=", ".join(sorted(_ULIMITS)))
    if body.soft < -1 or body.hard < -1 or (body.hard != -1 and (body.soft == -1 or body.soft > body.hard)):
        raise InvalidArgument(f"ulimit {body.name}: the soft limit must be less than or equal to the hard limit: "
                              f"{body.soft} > {body.hard}", field="HostConfig.Ulimits", value=body.name)
    return Ulimit(name=body.name, soft=body.soft, hard=body.hard)


def _sysctls(sysctls: dict[str, str]) -> dict[str, str]:
    for name in sysctls:
        if not _SYSCTL.match(name) or len(name) > 256:
            raise InvalidArgument(f"invalid sysctl: {name[:64]!r}", field="HostConfig.Sysctls", value=name[:64])
    return sysctls


def _oom_score(value: int) -> int:
    if not -1000 <= value <= 1000:
        raise InvalidArgument(f"Invalid value {value}, range for oom score adj is [-1000, 1000]",
                              field="HostConfig.OomScoreAdj", value=value)
    return value


def _stop_timeout(value: int | None) -> int | None:
    if value is not None and not -1 <= value <= _MAX_STOP_TIMEOUT_S:
        raise InvalidArgument(f"StopTimeout must be between -1 (for ever) and {_MAX_STOP_TIMEOUT_S} seconds",
                              field="StopTimeout", value=value)
    return value


def _log_config(host: HostConfigBody) -> LogConfig:
    log = host.log_config
    driver = log.type or "json-file"
    if driver not in DRIVERS:
        raise UnsupportedOption(f"HostConfig.LogConfig.Type={driver[:64]}", "logs are kept by the daemon itself",
                                hint=", ".join(DRIVERS))
    unknown = sorted(set(log.config) - DRIVERS[driver])
    if unknown:
        raise UnsupportedOption(f"HostConfig.LogConfig.Config.{unknown[0][:64]}", "the daemon's logs have no such "
                                "option", hint=", ".join(sorted(DRIVERS[driver])) or "the driver none has no options")
    return LogConfig(driver=driver, options=log.config)


def _disk_size(options: dict[str, str]) -> int:
    unknown = sorted(set(options) - {"size"})
    if unknown:
        raise UnsupportedOption(f"HostConfig.StorageOpt.{unknown[0][:64]}", "only size is known", hint="size=10G")
    if "size" not in options:
        return 0
    found = _SIZE.match(options["size"])
    if not found:
        raise InvalidArgument(f"invalid size: {options['size'][:64]!r}", field="HostConfig.StorageOpt.size",
                              value=options["size"][:64], hint="for instance 10G")
    return int(found[1]) * _UNITS[found[2].lower()]


def parse_size_field(field: str, value: int) -> int:
    if value < 0:
        raise InvalidArgument(f"{field} can not be less than 0", field=field, value=value)
    return value


def parse_console_size(size: list[int]) -> tuple[int, int]:
    """(rows, columns); absent is (0, 0). :raise InvalidArgument: it is something else."""
    if not size:
        return 0, 0
    rows, columns, *_ = (*size, 0)
    if rows > 0xFFFF or columns > 0xFFFF:
        raise InvalidArgument("ConsoleSize is [height, width], of at most 65535", field="ConsoleSize")
    return rows, columns


def _address(text: str, field: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise InvalidArgument(f"{field}: not an IP address: {text[:64]!r}", field=field, value=text[:64]) from error


def parse_extra_host(text: str) -> str:
    name, colon, address = text.partition(":")
    if not name or not colon or len(name) > 253 or any(char.isspace() for char in name):
        raise InvalidArgument(f'bad format for add-host: "{text[:128]}"', field="HostConfig.ExtraHosts",
                              value=text[:128], hint="name:address")
    if address == HOST_GATEWAY:
        return f"{name}:{HOST_GATEWAY}"
    try:
        return f"{name}:{ipaddress.ip_address(address)}"
    except ValueError as error:
        raise InvalidArgument(f'invalid IP address in add-host: "{address[:64]}"', field="HostConfig.ExtraHosts",
                              value=address[:64]) from error
