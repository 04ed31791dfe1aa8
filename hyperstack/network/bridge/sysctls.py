"""Settings of the host's kernel for its network: what is found, and what pods need."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hyperstack.pod.errors import Unavailable

SYSCTL = Path("/proc/sys/net")


def set_sysctl(name: str, value: str) -> None:
    """A host without IPv6 lacks those files, and needs them not."""
    with contextlib.suppress(FileNotFoundError):
        (SYSCTL / name).write_text(value)


def ensure_forwarding() -> bool:
    """Make the host forward IPv4. Whether it had to be switched on.

    :raise Unavailable: it is off and cannot be switched on.
    """
    path = SYSCTL / "ipv4/ip_forward"
    if path.read_text().strip() != "0":
        return False
    try:
        path.write_text("1")
    except OSError as error:
        raise Unavailable(f"net.ipv4.ip_forward is 0 and cannot be set: {error.strerror}", field="ip_forward",
                          hint="sysctl -w net.ipv4.ip_forward=1") from error
    return True


def has_ipv6() -> bool:
    """Whether the host's kernel has it, and it is not switched off."""
    try:
        return (SYSCTL / "ipv6/conf/all/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False


def serves_loopback6() -> bool:
    """Whether a port can be published on ::1: not where bridged packets are filtered as if they were routed."""
    try:
        return (SYSCTL / "bridge/bridge-nf-call-ip6tables").read_text().strip() == "0"
    except OSError:
        return True


def ensure_forwarding6() -> bool:
    """Make the host forward IPv6. Whether it had to be switched on.

    A host that forwards takes no router advertisements unless told twice; one that has its default route from them
    keeps it.

    :raise Unavailable: it is off and cannot be switched on.
    """
    path = SYSCTL / "ipv6/conf/all/forwarding"
    if path.read_text().strip() != "0":
        return False
    try:
        for option in (SYSCTL / "ipv6/conf").glob("*/accept_ra"):
            if option.parent.name != "all" and option.read_text().strip() == "1":
                option.write_text("2")
        path.write_text("1")
    except OSError as error:
        raise Unavailable(f"net.ipv6.conf.all.forwarding is 0 and cannot be set: {error.strerror}", field="forwarding",
                          hint="sysctl -w net.ipv6.conf.all.forwarding=1") from error
    return True
