"""What an operator may set of the image store."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x",
                  "riscv64": "riscv64"}


def host_platform() -> str:
    """This host's platform in the registries' words: linux/amd64."""
    machine = platform.machine()
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"


def _one_per_core() -> int:
    return max(1, len(os.sched_getaffinity(0)))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what comes from outside. Whoever passes one gets an error that names it."""

    layer_bytes: int = 64 << 30
    """Of one layer on this host, unpacked."""
    layer_entries: int = 4_000_000
    """Files and directories of one layer."""
    blob_bytes: int = 64 << 30
    """Of one compressed layer."""
    archive_bytes: int = 256 << 30
    """Of one `load`."""
    layers: int = 127
    """Of one image, as Docker has it."""
    unpack_memory: int = 2 << 30
    """Address space of the process that unpacks a layer: 1,000,000 files need 152 MiB resident, see docs/images.md."""
    unpack_cpu_seconds: int = 3600


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds and tries with a registry."""

    connect: float = 15.0
    stall: float = 30.0
    """Without `stall_bytes` in that time, a transfer counts as hung."""
    stall_bytes: int = 4096
    request: float = 60.0
    """For a whole small answer: a token, a manifest, a config."""
    tries: int = 5
    """Of one transfer; what had arrived is kept between them."""
    backoff: float = 0.5
    """Before the second try, doubled before each further one."""


@dataclass(frozen=True, kw_only=True)
class ImageConfigOptions:
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Registry host to endpoints (`http[s]://host[:port]`) that are asked first, in this order; names stay."""
    insecure: Collection[str] = ()
    """Hosts (with port, as in the reference) that are spoken to in plain HTTP. Nothing else is, loopback included."""
    ca_file: Path | None = None
    """Certificates to trust beside the system's."""
    limits: Limits = field(default_factory=Limits)
    patience: Patience = field(default_factory=Patience)
    parallel_downloads: int = 3
    """At once, over all pulls; Docker's number."""
    parallel_conversions: int = field(default_factory=_one_per_core)
    worker_uid: int | None = None
    """Whom unpacking processes run as. None: as the daemon itself, which suits only one that is not root."""
    platform: str = field(default_factory=host_platform)
