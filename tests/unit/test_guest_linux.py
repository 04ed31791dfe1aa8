"""Signals, capabilities and limits as users spell them."""

from __future__ import annotations

import re
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.guest.linux import (
    CAPABILITIES,
    RLIM_INFINITY,
    RLIMITS,
    capability_numbers,
    container_capabilities,
    rlimit,
    signal_name,
    signal_number,
)
from hyperstack.pod.errors import InvalidArgument
from hyperstack.pod.spec import DEFAULT_CAPABILITIES, Ulimit


@pytest.mark.parametrize(("text", "number"), [
    ("SIGTERM", 15), ("term", 15), ("9", 9), (" kill ", 9), ("SIGRTMIN", 34), ("SIGRTMIN+3", 37), ("rtmax-1", 63),
    ("RTMAX", 64), ("64", 64), ("CLD", 17), ("SIGIOT", 6), ("SIGPOLL", 29)])
def test_signals_are_read_as_docker_reads_them(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-1", "SIG", "NOPE", "RTMIN+31", "RTMIN+", "RTMAX+1", "9" * 5000,
                                  "RTMIN+" + "9" * 5000, "SIGRTMIN-1", "²", "_DFL"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        signal_number(text)


@given(st.integers(1, 64))
def test_each_signal_has_a_name_that_is_read_back(number: int) -> None:
    name = signal_name(number)
    assert (signal_number(name) == number) if name.startswith("SIG") else number in (32, 33)


def test_signal_names_are_those_of_linux() -> None:
    assert [signal_name(number) for number in (1, 17, 31, 34, 35, 64)] == [
        "SIGHUP", "SIGCHLD", "SIGSYS", "SIGRTMIN", "SIGRTMIN+1", "SIGRTMAX"]
    assert int(signal.SIGRTMIN) == 34


def test_capability_numbers_are_the_kernels() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip("kernel headers are not installed")
    found = re.findall(r"^#define (CAP_[A-Z_]+)\s+(\d+)\s*$", header.read_text(), re.MULTILINE)
    assert {name: int(number) for name, number in found}.items() <= {
        name: number for number, name in enumerate(CAPABILITIES)}.items()
    assert len(found) == len(CAPABILITIES)


def test_limit_numbers_are_the_kernels() -> None:
    for name in ("cpu", "core", "nofile", "nproc", "memlock", "as", "msgqueue", "rtprio", "stack"):
        assert RLIMITS.index(name) == getattr(resource, f"RLIMIT_{name.upper()}")


def test_capabilities_are_reckoned_as_docker_does() -> None:
    default = frozenset(DEFAULT_CAPABILITIES)
    assert container_capabilities() == default
    assert container_capabilities(add=["net_admin"], drop=["CAP_CHOWN"]) == default - {"CAP_CHOWN"} | {"CAP_NET_ADMIN"}
    assert container_capabilities(drop=["ALL"]) == frozenset()
    assert container_capabilities(add=["chown"], drop=["all"]) == {"CAP_CHOWN"}
    assert container_capabilities(add=["ALL"], drop=["sys_admin"]) == frozenset(CAPABILITIES) - {"CAP_SYS_ADMIN"}
    assert container_capabilities(privileged=True, drop=["ALL"]) == frozenset(CAPABILITIES)
    with pytest.raises(InvalidArgument, match="CAP_FLY"):
        container_capabilities(add=["CAP_FLY"])
    assert capability_numbers(["CAP_SYS_ADMIN", "chown"]) == (0, 21)


def test_limits_become_numbers() -> None:
    assert rlimit(Ulimit(name="nofile", soft=1024, hard=-1)) == (7, 1024, RLIM_INFINITY)
    for bad in (Ulimit(name="nofile", soft=2, hard=1), Ulimit(name="nofile", soft=-2, hard=1),
                Ulimit(name="files", soft=1, hard=1), Ulimit(name="core", soft=-1, hard=5)):
        with pytest.raises(InvalidArgument):
            rlimit(bad)
