"""What the value of an option means, in the words of Docker's API. Commands that have an option read it here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hyperstack.cli.errors import CliError
from hyperstack.cli.units import parse_duration, parse_size

MAX_PORT = 65535
_RESTART = re.compile(r"(no|always|unless-stopped|on-failure(?::(\d{1,9}))?)\Z")
_PORT = re.compile(r"(?:(?:\[(?P<ip6>[^\]]+)\]|(?P<ip>[^:]*)):)?(?:(?P<host>\d*(?:-\d+)?):)?"
                   r"(?P<container>\d+(?:-\d+)?)(?:/(?P<protocol>\w+))?\Z")
_PORT_WITHOUT_ADDRESS = re.compile(r"(?:(?P<host>\d*(?:-\d+)?):)?(?P<container>\d+(?:-\d+)?)(?:/(?P<protocol>\w+))?\Z")


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


def nanoseconds(text: str, option: str) -> int:
    """Of a duration; empty: 0. :raise CliError: it is none."""
    seconds = parse_duration(text) if text else 0
    if seconds is None or seconds < 0:
        raise CliError(f'invalid argument "{text}" for --{option}: write a duration such as 1m30s')
    return round(seconds * 1e9)


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
