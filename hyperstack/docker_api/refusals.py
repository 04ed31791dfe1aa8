"""Options that a pod in a virtual machine of its own cannot honour. Each is refused by its name, never ignored.

`docs/docker.md` has the same table for people; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from hyperstack.docker_api.bodies import Body, CreateBody, HostConfigBody, ResourcesBody
from hyperstack.pod.errors import InvalidArgument, UnsupportedOption


class Refusal(NamedTuple):
    attribute: str
    accepted: tuple[Any, ...]
    """Values that mean the default."""
    reason: str
    hint: str = ""
    known: tuple[Any, ...] | None = None
    """Values that Docker knows; None: any."""
    complaint: str = ""
    """What it says of others, with the value at {}."""


_NONE: tuple[Any, ...] = (0, -1, "", False, None, [], {})
_BLOCK = "block I/O is not throttled per container"
_WINDOWS = "it is an option of Windows containers"
_USE_CPUS = "use --cpus"

RESOURCES: tuple[Refusal, ...] = (
    Refusal("memory_swappiness", (-1, 60), "the VM has no swap of the host", "", tuple(range(-1, 101)),
            "Invalid value: {}, valid memory swappiness range is 0-100"),
    Refusal("kernel_memory", _NONE, "cgroup v2 accounts kernel memory with the rest", "use --memory"),
    Refusal("kernel_memory_tcp", _NONE, "cgroup v2 accounts kernel memory with the rest", "use --memory"),
    Refusal("cpu_realtime_period", _NONE, "the VM's CPUs cannot promise real-time scheduling", _USE_CPUS),
    Refusal("cpu_realtime_runtime", _NONE, "the VM's CPUs cannot promise real-time scheduling", _USE_CPUS),
    Refusal("cpuset_mems", ("", "0"), "the VM's memory is where the host places it"),
    Refusal("cpu_count", _NONE, _WINDOWS, _USE_CPUS),
    Refusal("cpu_percent", _NONE, _WINDOWS, _USE_CPUS),
    Refusal("oom_kill_disable", _NONE, "a container that waits for memory for ever would block its VM"),
    Refusal("blkio_weight", (0,), _BLOCK),
    Refusal("blkio_weight_device", _NONE, _BLOCK),
    Refusal("blkio_device_read_bps", _NONE, _BLOCK),
    Refusal("blkio_device_write_bps", _NONE, _BLOCK),
    Refusal("blkio_device_read_iops", _NONE, _BLOCK),
    Refusal("blkio_device_write_iops", _NONE, _BLOCK),
    Refusal("io_maximum_iops", (0,), _WINDOWS, "", (0,),
            "invalid option: QoS maximum IOPs configuration is not supported on linux"),
    Refusal("io_maximum_bandwidth", (0,), _WINDOWS, "", (0,),
            "invalid option: QoS maximum bandwidth configuration is not supported on linux"),
    Refusal("cgroup_parent", _NONE, "the container's cgroup lives inside its VM"),
    Refusal("devices", _NONE, "the host's devices do not exist in the VM"),
    Refusal("device_cgroup_rules", _NONE, "the host's devices do not exist in the VM"),
    Refusal("device_requests", _NONE, "no device of the host is passed through to VMs"),
)

HOST_CONFIG: tuple[Refusal, ...] = (
    Refusal("volume_driver", ("", "local"), "only the local driver is built in"),
    Refusal("capabilities", _NONE, "it was withdrawn from Docker's API", "use CapAdd and CapDrop"),
    Refusal("cgroupns_mode", ("", "private"), "the host's cgroups cannot be seen from inside a VM", "",
            ("", "private", "host"), "invalid cgroup namespace mode: {}"),
    Refusal("cgroup", _NONE, "the container's cgroup lives inside its VM"),
    Refusal("uts_mode", ("",), "a VM has a host name of its own", "", ("", "host"), "invalid UTS mode: {}"),
    Refusal("userns_mode", ("", "host"), "root in the VM is nobody on the host already"),
    Refusal("isolation", ("", "default"), _WINDOWS, "", ("", "default"),
            "invalid isolation ({}): linux only supports 'default'"),
    Refusal("runtime", ("", "hyperstack"), "every container runs in a VM here; there is no other runtime",
            "choose a kernel with the annotation org.hyperstack.kernel", ("", "hyperstack", "runc"),
            "unknown or invalid runtime name: {}"),
)


def refuse_resources(body: ResourcesBody, *, prefix: str = "") -> None:
    """:raise UnsupportedOption: names the first limit that cannot be honoured."""
    _refuse(body, RESOURCES, prefix)


def refuse_host_config(body: HostConfigBody) -> None:
    """:raise UnsupportedOption: names the first option that cannot be honoured."""
    _refuse(body, (*RESOURCES, *HOST_CONFIG), "HostConfig.")


def refuse_config(body: CreateBody) -> None:
    """:raise UnsupportedOption: names the option."""
    if body.on_build:
        raise UnsupportedOption("OnBuild", "it belongs to an image, not to a container")


def wire_name(kind: type[Body], attribute: str) -> str:
    """The name of an attribute in JSON."""
    return next(field.encode_name for field in msgspec.structs.fields(kind) if field.name == attribute)


def _refuse(body: Body, refusals: Iterable[Refusal], prefix: str) -> None:
    for refusal in refusals:
        value = getattr(body, refusal.attribute)
        if refusal.attribute == "isolation":
            value = value.lower()
        if refusal.known is not None and value not in refusal.known:
            field = f"{prefix}{wire_name(type(body), refusal.attribute)}"
            raise InvalidArgument(refusal.complaint.format(str(value)[:64]), value=str(value)[:64], field=field,
                                  hint=f"{field}={str(value)[:64]}: {refusal.hint or refusal.reason}")
        if value not in refusal.accepted:
            shown = f"={value}"[:128] if isinstance(value, (str, int)) else ""
            raise UnsupportedOption(f"{prefix}{wire_name(type(body), refusal.attribute)}{shown}", refusal.reason,
                                    hint=refusal.hint or None)
