"""What an operator can set: one TOML file, over it the command line, below both the defaults.

Sizes are bytes in the records; in the file they may also be written as "256MiB". An unknown key, a wrong type or an
impossible value stops the daemon before it has touched anything, and the message names the key.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from hyperstack.daemon.tls import Address, parse_address
from hyperstack.pod.errors import InvalidArgument

DEFAULT_FILE = Path("/etc/hyperstack/hyperd.toml")
MAX_FILE_BYTES = 1 << 20
MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path, as sockaddr_un has room for."""

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d{1,12})\s*([kmgt]?)(?:i?b)?\Z", re.IGNORECASE)
_REGISTRY_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(?::\d{1,5})?\Z|\[[0-9A-Fa-f:]+\](?::\d{1,5})?\Z")


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the tables of the file."""


class PodDefaults(_Section, frozen=True, kw_only=True):
    """What a pod gets that does not say."""

    memory: int | str = "512MiB"
    """RAM of the VM of a pod that names no limit; untouched RAM costs the host nothing."""
    disk: int | str = "10GiB"
    """Limit of a container's writable layer; the disk is sparse."""
    volume: int | str = "10GiB"
    """Limit of a volume that names none; the disk is sparse."""
    boot_timeout_s: int = 90
    """How long a guest's agent may take to answer before the pod is failed."""


class Registries(_Section, frozen=True, kw_only=True):
    insecure: list[str] = []
    """Hosts (host[:port]) that are spoken to in plain http."""
    mirrors: dict[str, list[str]] = {}
    """Registry host -> endpoints (https://mirror.example:5000) that are asked first; image names stay as they are."""
    ca_file: str = ""
    """Certificates (PEM) to trust beside the system's."""


class NetworkDefaults(_Section, frozen=True, kw_only=True):
    pools: list[str] = []
    """CIDRs; a network that names no subnet gets a /24, a project's default one a /22, from the first that has one
    free. Empty: the backend's own."""
    ipv6: bool = False
    """Projects' default networks have IPv6 too, a /64 of fd00::/8 each. Networks of users have it where they say so."""


class Binds(_Section, frozen=True, kw_only=True):
    allow: dict[str, list[str]] = {}
    """Project -> host paths that its callers other than root may bind, with all below them; they have there the rights
    that they have on the host. Root may bind any path."""


class Builds(_Section, frozen=True, kw_only=True):
    private_sources: list[str] = []
    """CIDRs that builds may fetch contexts and files from although they are no public addresses."""


class HypervisorDefaults(_Section, frozen=True, kw_only=True):
    templates: Literal["project", "host", "off"] = "project"
    """Whose pods are clones of one booted machine: a project's, everybody's on this host, or nobody's (each boots)."""
    forks: bool = True
    """Whether clones are forked, where the hypervisor can, from a machine that has done once what every pod does."""
    pool: int = 0
    """How many VMs stand ready for each class of pods that is in use; 0: each is started when it is asked for."""
    pool_memory_percent: int = 10
    """Of the memory that the host has available, what all that stand ready may take together."""
    first_uid: int = 0x70000000
    """VMs run under uids of their own, counted from here; a range that no account of the host uses."""
    max_machines: int = 65536
    """How many uids there are, so how many pods can exist at once."""
    concurrent_starts: int = 0
    """Machines that start at the same time, others wait their turn; 0: one more than the host has processors."""
    memory_reserve: int | str = "256MiB"
    """Of the host's memory, what no machine is started into."""


class TlsSettings(_Section, frozen=True, kw_only=True):
    """Over TCP, who may come is who has a certificate. `hyperctl tls init` makes these files."""

    verify: bool = False
    """Serve TLS on tcp:// hosts, to clients whose certificate is of the authority in `ca`."""
    ca: str = "/etc/hyperstack/tls/ca.pem"
    certificate: str = "/etc/hyperstack/tls/server-cert.pem"
    key: str = "/etc/hyperstack/tls/server-key.pem"


class Config(_Section, frozen=True, kw_only=True):
    """The daemon's whole configuration, checked."""

    data_root: str = "/var/lib/hyperstack"
    run_dir: str = "/run/hyperstack"
    cache_dir: str = ""
    """What can be made again: kernels, the compiled agent and jail. Daemons may share it. Empty: in the data root."""
    hosts: list[str] = []
    """unix:///path or tcp://address[:port]; no unix socket among them: docker.sock in the run directory as well."""
    group: str = "hyperstack"
    """Members may use the socket; that is as good as root on what the daemon owns. Empty: root alone."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    pods: PodDefaults = PodDefaults()
    registries: Registries = Registries()
    network: NetworkDefaults = NetworkDefaults()
    build: Builds = Builds()
    hypervisor: HypervisorDefaults = HypervisorDefaults()
    tls: TlsSettings = TlsSettings()
    binds: Binds = Binds()

    @property
    def sockets(self) -> list[Path]:
        named = [Path(host.removeprefix("unix://")) for host in self.hosts if host.startswith("unix://")]
        return named or [Path(self.run_dir) / "docker.sock"]

    @property
    def addresses(self) -> list[Address]:
        return [parse_address(host, tls=self.tls.verify) for host in self.hosts if host.startswith("tcp://")]

    @property
    def cache(self) -> Path:
        return Path(self.cache_dir) if self.cache_dir else Path(self.data_root) / "cache"

    @property
    def instance(self) -> str:
        """Six hex digits that tell this daemon's cgroups and links from those of another one on the same host."""
        return hashlib.blake2b(str(Path(self.run_dir).resolve()).encode(), digest_size=3).hexdigest()


def parse_size(value: int | str, *, field: str) -> int:
    """Bytes of 1048576, "1048576", "512k", "256MiB", "10 GiB".

    :raise InvalidArgument: it is none of these, or not positive.
    """
    match = _SIZE.match(str(value).strip())
    size = int(match[1]) * _UNITS[match[2].lower()] if match else 0
    if size <= 0:
        raise InvalidArgument(f"{field}: {value!r} is not a size", field=field, value=value,
                              hint='write a number of bytes, or a string such as "256MiB" or "10GiB"')
    return size


def load(path: Path | None, overrides: Mapping[str, Any]) -> Config:
    """The configuration of `path` (None: the default file if it exists) under `overrides`, which win.

    `overrides` has the file's shape; tables are merged key by key.

    :raise InvalidArgument: names the file, the key and what would be right.
    """
    document: dict[str, Any] = {}
    if path is not None or DEFAULT_FILE.exists():
        document = _read(path or DEFAULT_FILE)
    origin = str(path or DEFAULT_FILE) if document else "the command line"
    _refuse_unknown(document, Config, origin, prefix="")
    try:
        config = msgspec.convert(_merge(document, overrides), Config)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{origin}: {error}", field="config", hint="see docs/operations.md, Configuration"
                              ) from error
    _check(config)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}", field="config", value=str(path)) from error
    if len(text) > MAX_FILE_BYTES:
        raise InvalidArgument(f"{path} is larger than {MAX_FILE_BYTES} bytes", field="config", value=str(path))
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} is not TOML: {error}", field="config", value=str(path)) from error


def _refuse_unknown(document: Mapping[str, Any], shape: type[msgspec.Struct], origin: str, *, prefix: str) -> None:
    fields = {field.name: field for field in msgspec.structs.fields(shape)}
    for key, value in document.items():
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else "known here: " + ", ".join(sorted(fields))
            raise InvalidArgument(f"{origin}: unknown key {prefix}{key}", field=prefix + key, hint=hint)
        inner = fields[key].type
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            _refuse_unknown(value, inner, origin, prefix=f"{prefix}{key}.")


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        mine = merged.get(key)
        merged[key] = _merge(mine, value) if isinstance(mine, dict) and isinstance(value, Mapping) else value
    return merged


def _check(config: Config) -> None:
    if not config.data_root or not config.run_dir:
        raise InvalidArgument("data_root and run_dir must not be empty", field="data_root")
    for field in ("data_root", "run_dir", "cache_dir"):
        value = getattr(config, field)
        if value and not Path(value).is_absolute():
            raise InvalidArgument(f"{field}: {value!r} is not an absolute path", field=field, value=value)
    _check_hosts(config)
    for field in ("memory", "disk", "volume"):
        parse_size(getattr(config.pods, field), field=f"pods.{field}")
    _check_range("pods.boot_timeout_s", config.pods.boot_timeout_s, 1, 3600)
    _check_range("hypervisor.first_uid", config.hypervisor.first_uid, 1000, (1 << 31) - (1 << 20))
    _check_range("hypervisor.max_machines", config.hypervisor.max_machines, 1, 1 << 20)
    _check_range("hypervisor.concurrent_starts", config.hypervisor.concurrent_starts, 0, 1024)
    _check_range("hypervisor.pool", config.hypervisor.pool, 0, 64)
    _check_range("hypervisor.pool_memory_percent", config.hypervisor.pool_memory_percent, 1, 50)
    parse_size(config.hypervisor.memory_reserve, field="hypervisor.memory_reserve")
    _check_network(config.network)
    for project, paths in config.binds.allow.items():
        for path in paths:
            if not Path(path).is_absolute():
                raise InvalidArgument(f"binds.allow.{project}: {path!r} is not an absolute path",
                                      field=f"binds.allow.{project}", value=path)
    for text in config.build.private_sources:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise InvalidArgument(f"build.private_sources: {error}", field="build.private_sources", value=text,
                                  hint="write networks such as 10.0.0.0/8 or fd00::/8") from error
    for host in config.registries.insecure:
        _check_registry("registries.insecure", host)
    for host, endpoints in config.registries.mirrors.items():
        _check_registry("registries.mirrors", host)
        for endpoint in endpoints:
            if not endpoint.startswith(("http://", "https://")):
                raise InvalidArgument(f"registries.mirrors: {endpoint!r} is no endpoint", field="registries.mirrors",
                                      value=endpoint, hint="write https://host[:port]")


def _check_hosts(config: Config) -> None:
    for host in config.hosts:
        if host.startswith("tcp://"):
            parse_address(host, tls=config.tls.verify)
        elif not host.startswith("unix:///"):
            raise InvalidArgument(f"hosts: {host!r} is neither a unix socket nor a TCP address", field="hosts",
                                  value=host, hint="write unix:///path or tcp://address[:port]")
    for field in ("ca", "certificate", "key"):
        value = getattr(config.tls, field)
        if not Path(value).is_absolute():
            raise InvalidArgument(f"tls.{field}: {value!r} is not an absolute path", field=f"tls.{field}", value=value)
    for path in config.sockets:
        if len(str(path).encode()) > MAX_SOCKET_PATH:
            raise InvalidArgument(f"hosts: {path} is longer than a socket's path may be ({MAX_SOCKET_PATH} bytes)",
                                  field="hosts", value=str(path), hint="choose a shorter run_dir")


def _check_network(network: NetworkDefaults) -> None:
    for text in network.pools:
        try:
            pool = ipaddress.IPv4Network(text)
        except ValueError as error:
            raise InvalidArgument(f"network.pools: {error}", field="network.pools", value=text,
                                  hint="write IPv4 networks such as 10.212.0.0/14") from error
        _check_range("network.pools: prefix length", pool.prefixlen, 8, 24)


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidArgument(f"{field}: {value} is not between {low} and {high}", field=field, value=value)


def _check_registry(field: str, host: str) -> None:
    if not _REGISTRY_HOST.match(host):
        raise InvalidArgument(f"{field}: {host!r} is no registry host", field=field, value=host,
                              hint="write host or host:port, without a scheme")
