"""The options of `run` and `create`, made into the body of Docker's `POST /containers/create`.

What is checked here is the form, so that a typing mistake is told before anything is pulled; what a HyperVM can honour
is the daemon's to say.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperstack.cli.errors import CliError
from hyperstack.cli.units import parse_duration, parse_size

MAX_PORT = 65535
_RESTART = re.compile(r"(no|always|unless-stopped|on-failure(?::(\d{1,9}))?)\Z")
_PORT = re.compile(r"(?:(?:\[(?P<ip6>[^\]]+)\]|(?P<ip>[^:]*)):)?(?:(?P<host>\d*(?:-\d+)?):)?"
                   r"(?P<container>\d+(?:-\d+)?)(?:/(?P<protocol>\w+))?\Z")
_PORT_WITHOUT_ADDRESS = re.compile(r"(?:(?P<host>\d*(?:-\d+)?):)?(?P<container>\d+(?:-\d+)?)(?:/(?P<protocol>\w+))?\Z")


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
        **{name.title().replace("-", ""): _nanoseconds(value, f"health-{name}") for name, value in durations.items()}}}


def _nanoseconds(text: str, option: str) -> int:
    seconds = parse_duration(text) if text else 0
    if seconds is None or seconds < 0:
        raise CliError(f'invalid argument "{text}" for --{option}: write a duration such as 1m30s')
    return round(seconds * 1e9)


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


def endpoint(*, aliases: Sequence[str] = (), ip: str = "", ip6: str = "", links: Sequence[str] = (), mac: str = "",
             priority: int = 0) -> dict[str, Any]:
    """A container's place on a network, as far as the user has something to say of it."""
    addresses = {name: value for name, value in (("IPv4Address", ip), ("IPv6Address", ip6)) if value}
    return {**({"IPAMConfig": addresses} if addresses else {}), **({"GwPriority": priority} if priority else {}),
            **({"Links": list(links)} if links else {}),
            **({"Aliases": list(aliases)} if aliases else {}), **({"MacAddress": mac} if mac else {})}


def resources(*, memory: str = "", memory_swap: str = "", memory_reservation: str = "", cpus: float = 0,
              cpu_shares: int = 0, cpu_period: int = 0, cpu_quota: int = 0, pids_limit: int = 0,
              cpuset_cpus: str = "") -> dict[str, Any]:
    """The limits that `run` and `update` share; those not asked for are left out."""
    limits = {
        "Memory": parse_size(memory) if memory else 0,
        "MemorySwap": -1 if memory_swap == "-1" else parse_size(memory_swap) if memory_swap else 0,
        "MemoryReservation": parse_size(memory_reservation) if memory_reservation else 0,
        "NanoCpus": round(cpus * 1e9), "CpuShares": cpu_shares, "CpuPeriod": cpu_period, "CpuQuota": cpu_quota,
        "PidsLimit": pids_limit, "CpusetCpus": cpuset_cpus,
    }
    return {name: value for name, value in limits.items() if value}


def environment(value: str) -> str:
    """NAME=VALUE; a NAME alone takes our own environment's value, and without one means: unset.

    :raise CliError: no name.
    """
    name, equals, _ = value.partition("=")
    if not name:
        raise CliError(f'invalid environment variable: "{value}" has no name')
    return value if equals or name not in os.environ else f"{name}={os.environ[name]}"


def environment_file(path: str) -> list[str]:
    """The variables of an --env-file: one NAME=VALUE or NAME per line, # begins a comment line.

    :raise CliError: the file cannot be read, or a name holds white space.
    """
    found: list[str] = []
    for line in lines_of(path, "env"):
        name = line.partition("=")[0]
        if re.search(r"\s", name):
            raise CliError(f'{path}: invalid environment variable: "{name}" contains white space')
        entry = environment(line)
        found += [entry] if "=" in entry else []
    return found


def lines_of(path: str, what: str) -> list[str]:
    """The lines of a file, without comments and empty ones.

    :raise CliError: the file cannot be read or is no text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"cannot read the {what} file {path}: {error}") from error
    return [line.lstrip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def mapping(values: Iterable[str], option: str, *, required: bool = False) -> dict[str, str]:
    """KEY=VALUE options as a map.

    :param required: a value must be there; else a KEY alone is empty.
    :raise CliError: no key, or no value where one is required.
    """
    found: dict[str, str] = {}
    for value in values:
        key, equals, content = value.partition("=")
        if not key or (required and not equals):
            raise CliError(f'invalid argument "{value}" for --{option}: it has the form KEY=VALUE')
        found[key] = content
    return found


def extra_host(value: str) -> str:
    """`name:address` or `name=address` as the API's `name:address`.

    :raise CliError: one of the two is missing.
    """
    match = re.match(r"([^:=]+)[:=](.+)\Z", value)
    if match is None:
        raise CliError(f'invalid argument "{value}" for --add-host: it has the form HOST:IP')
    return f"{match[1]}:{match[2].removeprefix('[').removesuffix(']')}"


def restart_policy(value: str) -> dict[str, Any]:
    """:raise CliError: it is none of Docker's policies."""
    match = _RESTART.match(value)
    if match is None:
        raise CliError(f'invalid restart policy: "{value}"',
                       hint="Policies: no, always, unless-stopped, on-failure, on-failure:<tries>")
    return {"Name": match[1].partition(":")[0], "MaximumRetryCount": int(match[2] or 0)}


def ulimit(value: str) -> dict[str, Any]:
    """`nofile=1024:2048` as the API's; one number is both limits.

    :raise CliError: it has another form.
    """
    match = re.match(r"([a-z]+)=(-?\d+)(?::(-?\d+))?\Z", value)
    if match is None:
        raise CliError(f'invalid argument "{value}" for --ulimit: it has the form NAME=SOFT[:HARD]')
    soft, hard = int(match[2]), int(match[3] or match[2])
    if hard != -1 and (soft > hard or soft == -1):
        raise CliError(f"invalid argument \"{value}\" for --ulimit: the soft limit is above the hard one")
    return {"Name": match[1], "Soft": soft, "Hard": hard}


def split_volumes(values: Iterable[str]) -> tuple[list[str], list[str]]:
    """-v options: (binds, paths of anonymous volumes). A relative host path is taken from the working directory.

    :raise CliError: an empty part, or more than three.
    """
    binds: list[str] = []
    anonymous: list[str] = []
    for value in values:
        parts = value.split(":")
        if len(parts) > 3 or not all(parts):
            raise CliError(f'invalid volume specification: "{value}"',
                           hint="Write it as HOST_PATH:PATH[:ro], NAME:PATH[:ro] or PATH.")
        if len(parts) == 1:
            anonymous.append(value)
            continue
        if parts[0].startswith((".", "~")):
            parts[0] = os.path.abspath(os.path.expanduser(parts[0]))
        binds.append(":".join(parts))
    return binds, anonymous


def mount(value: str) -> dict[str, Any]:
    """--mount type=...,source=...,target=... as the API's.

    :raise CliError: a key that is unknown or lacks its value, or no target.
    """
    found: dict[str, Any] = {"Type": "volume"}
    try:
        fields = next(csv.reader([value]))
    except (csv.Error, StopIteration) as error:
        raise CliError(f'invalid argument "{value}" for --mount: {error}') from error
    for part in fields:
        key, equals, content = part.partition("=")
        _mount_field(found, key.strip().lower(), content if equals else None, value)
    if not found.get("Target"):
        raise CliError(f'invalid argument "{value}" for --mount: target is required')
    if found["Type"] == "bind" and found.get("Source", "").startswith((".", "~")):
        found["Source"] = os.path.abspath(os.path.expanduser(found["Source"]))
    return found


def _mount_field(found: dict[str, Any], key: str, content: str | None, whole: str) -> None:
    if key in ("readonly", "ro", "volume-nocopy", "bind-create-src") and content in (None, "true", "1", "false", "0"):
        on = content in (None, "true", "1")
        if key == "bind-create-src":
            found.setdefault("BindOptions", {})["CreateMountpoint"] = on
        elif key == "volume-nocopy":
            found.setdefault("VolumeOptions", {})["NoCopy"] = on
        else:
            found["ReadOnly"] = on
        return
    if content is None:
        raise CliError(f'invalid argument "{whole}" for --mount: "{key}" needs a value')
    match key:
        case "type":
            found["Type"] = content.lower()
        case "source" | "src":
            found["Source"] = content
        case "target" | "dst" | "destination":
            found["Target"] = content
        case "tmpfs-size":
            found.setdefault("TmpfsOptions", {})["SizeBytes"] = parse_size(content)
        case "tmpfs-mode" if re.fullmatch(r"[0-7]{1,5}", content):
            found.setdefault("TmpfsOptions", {})["Mode"] = int(content, 8)
        case "bind-recursive" if content in ("enabled", "disabled", "writable", "readonly"):
            options = found.setdefault("BindOptions", {})
            options |= {"disabled": {"NonRecursive": True}, "writable": {"ReadOnlyNonRecursive": True},
                        "readonly": {"ReadOnlyForceRecursive": True}}.get(content, {})
        case "volume-subpath":
            found.setdefault("VolumeOptions", {})["Subpath"] = content
        case "bind-propagation":
            found.setdefault("BindOptions", {})["Propagation"] = content
        case "consistency":
            found["Consistency"] = content
        case "volume-driver":
            found.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})["Name"] = content
        case "volume-label" | "volume-opt":
            options = found.setdefault("VolumeOptions", {})
            place = options.setdefault("Labels", {}) if key == "volume-label" else \
                options.setdefault("DriverConfig", {}).setdefault("Options", {})
            place.update(mapping([content], f"mount {key}"))
        case _:
            raise CliError(f'invalid argument "{whole}" for --mount: unexpected "{key}={content}"')


def ports(publish: Sequence[str], expose: Sequence[str] = ()) -> tuple[list[str], dict[str, list[dict[str, str]]]]:
    """-p and --expose options: (exposed `80/tcp`s, bindings per port).

    :raise CliError: a form that is none of `[[IP:][HOST[-HOST]]:]PORT[-PORT][/PROTOCOL]`, or ranges of two lengths.
    """
    bindings: dict[str, list[dict[str, str]]] = {}
    for value in publish:
        match = _PORT_WITHOUT_ADDRESS.match(value) or _PORT.match(value)
        if match is None:
            raise CliError(f'invalid port: "{value}"', hint="Write it as [[IP:][HOST_PORT]:]CONTAINER_PORT[/PROTOCOL].")
        groups = match.groupdict()
        address = groups.get("ip6") or groups.get("ip") or ""
        inside = _port_range(groups["container"], value)
        outside = _port_range(groups["host"], value) if groups["host"] else []
        if outside and len(outside) != len(inside) and len(inside) != 1:
            raise CliError(f'invalid port: "{value}" has ranges of two lengths')
        for number, port in enumerate(inside):
            host = "" if not outside else groups["host"] if len(inside) == 1 else str(outside[number])
            bindings.setdefault(f"{port}/{_protocol(groups['protocol'], value)}", []).append(
                {"HostIp": address, "HostPort": host})
    exposed = list(bindings)
    for value in expose:
        match = _PORT_WITHOUT_ADDRESS.match(value)
        if match is None or match["host"] is not None:
            raise CliError(f'invalid port: "{value}"', hint="Write it as PORT[-PORT][/PROTOCOL].")
        exposed += [f"{port}/{_protocol(match['protocol'], value)}" for port in _port_range(match["container"], value)]
    return exposed, bindings


def _port_range(text: str, value: str) -> list[int]:
    first, dash, last = text.partition("-")
    low, high = int(first[:9] or 0), int((last if dash else first)[:9] or 0)
    if not 0 < low <= high <= MAX_PORT:
        raise CliError(f'invalid port: "{value}": ports are 1 to {MAX_PORT}')
    return list(range(low, high + 1))


def _protocol(text: str | None, value: str) -> str:
    protocol = (text or "tcp").lower()
    if protocol not in ("tcp", "udp", "sctp"):
        raise CliError(f'invalid port: "{value}": the protocol is tcp, udp or sctp')
    return protocol
