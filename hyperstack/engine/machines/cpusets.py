"""The host's CPUs that a pod's machine may use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from hyperstack.engine.records import ContainerRecord
from hyperstack.pod.errors import InvalidArgument

_HIGHEST = 8191
"""The kernel's own limit, CONFIG_NR_CPUS."""


def parse(text: str) -> frozenset[int]:
    """The numbers of a list like "0-2,5"; empty for none. :raise InvalidArgument: it is no such list."""
    numbers: set[int] = set()
    for part in text.split(",") if text else ():
        low, dash, high = part.partition("-")
        ends = [low, high if dash else low]
        if not all(end.isascii() and end.isdecimal() and len(end) <= 4 for end in ends) \
                or not int(ends[0]) <= int(ends[1]) <= _HIGHEST:
            why = f"invalid format: {text[:64]}"
            if re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", text) and int(ends[0]) <= int(ends[1]):
                why = f"value of out range, maximum is {_HIGHEST + 1}"
            raise InvalidArgument(f"Invalid value {text[:64]} for cpuset cpus: {why}", field="CpusetCpus",
                                  value=text[:64], hint="numbers and ranges, such as 0-2,5")
        numbers.update(range(int(ends[0]), int(ends[1]) + 1))
    return frozenset(numbers)


def check(text: str) -> None:
    """:raise InvalidArgument: this host lacks one of them, in Docker's words."""
    there = os.sched_getaffinity(0)
    if not parse(text) <= there:
        raise InvalidArgument(f"Requested CPUs are not available - requested {text}, available: {_ranges(there)}",
                              field="CpusetCpus", value=text)


def _ranges(numbers: Iterable[int]) -> str:
    """"0-2,5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def of_pod(containers: Iterable[ContainerRecord]) -> frozenset[int]:
    """Those that the pod's machine is held to: only a pod's own container says that. Empty: all."""
    return frozenset().union(*(parse(c.spec.resources.cpuset_cpus) for c in containers))
