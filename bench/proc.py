"""What processes cost, as /proc tells. Sizes are KiB, as there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ([-r][-w][-x][ps]) [0-9a-f]+ \S+ \d+ *(.*)\Z")
_FIELD = re.compile(r"(\w+): +(\d+) kB\Z")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_UTIME = 11
"""Of the fields of /proc/PID/stat that follow the name's closing bracket; the next is stime."""

_BIG_KIB = 32 << 10
"""A writable mapping of at least this size is guest RAM: glibc's heaps end at 64 MiB of address space, of which
what is in use is a mapping of its own, and QEMU's were never seen above 20."""
_GUARD_KIB = 4
_STACK_KIB = 128

CATEGORIES = ("guest RAM", "kernel file", "translation buffer", "heap", "stacks", "program")
"""The kernel file is the guest's kernel as QEMU maps it to load it, shared by all who do. The program is QEMU's, its
libraries and their data."""


@dataclass(frozen=True)
class Mapping:
    """One paragraph of /proc/PID/smaps."""

    start: int
    end: int
    permissions: str
    name: str
    """A file's path, "[heap]" and the like, or nothing for anonymous memory."""
    pss: int
    rss: int

    @property
    def size(self) -> int:
        return (self.end - self.start) >> 10

    @property
    def anonymous(self) -> bool:
        return not self.name or self.name.startswith("[anon")

    @property
    def template(self) -> bool:
        """A template's RAM file, as the hypervisor room names it."""
        return self.name.removesuffix(" (deleted)").endswith("/ram")


def parse_smaps(text: str) -> list[Mapping]:
    """:raise ValueError: this is no smaps."""
    found: list[Mapping] = []
    header: re.Match[str] | None = None
    fields: dict[str, int] = {}
    for line in text.splitlines():
        if begins := _HEADER.match(line):
            if header:
                found.append(_mapping(header, fields))
            header, fields = begins, {}
        elif value := _FIELD.match(line):
            fields[value[1]] = int(value[2])
    if header is None:
        raise ValueError("no mapping in it")
    return [*found, _mapping(header, fields)]


def _mapping(header: re.Match[str], fields: dict[str, int]) -> Mapping:
    return Mapping(int(header[1], 16), int(header[2], 16), header[3], header[4], fields["Pss"], fields["Rss"])


def breakdown(mappings: list[Mapping]) -> dict[str, int]:
    """PSS by what a QEMU uses it for: every one of `CATEGORIES`, together the PSS of the whole process."""
    found = dict.fromkeys(CATEGORIES, 0)
    ram = _guest_ram(mappings)
    before: Mapping | None = None
    for mapping in mappings:
        found["guest RAM" if mapping in ram else _category(mapping, before)] += mapping.pss
        before = mapping
    return found


def _guest_ram(mappings: list[Mapping]) -> set[Mapping]:
    """A clone's RAM is many mappings side by side: of the template's file where it has data, anonymous where it has
    holes. So what adjoins a piece that can be nothing else is RAM, too."""
    found: set[Mapping] = set()
    run: list[Mapping] = []
    for mapping in mappings:
        if not _may_be_ram(mapping) or (run and run[-1].end != mapping.start):
            found |= _ram_of(run)
            run = []
        if _may_be_ram(mapping):
            run.append(mapping)
    return found | _ram_of(run)


def _may_be_ram(mapping: Mapping) -> bool:
    return mapping.permissions.startswith("rw-") and (mapping.anonymous or mapping.template or
                                                      mapping.name.startswith("/memfd:"))


def _ram_of(run: list[Mapping]) -> set[Mapping]:
    return set(run) if any(mapping.template or mapping.size >= _BIG_KIB for mapping in run) else set()


def _category(mapping: Mapping, before: Mapping | None) -> str:
    """Of what is not the guest's RAM."""
    if "w" in mapping.permissions and "x" in mapping.permissions:
        return "translation buffer"
    if mapping.name.startswith("/boot/") or mapping.name.endswith("/vmlinux"):
        return "kernel file"
    if mapping.name == "[stack]":
        return "stacks"
    if mapping.anonymous and "w" in mapping.permissions:
        guarded = (before is not None and before.end == mapping.start and before.size == _GUARD_KIB
                   and before.permissions.startswith("---"))
        return "stacks" if guarded and mapping.size >= _STACK_KIB else "heap"
    return "heap" if mapping.name == "[heap]" else "program"


def pss(pid: int) -> int:
    """:raise OSError: it is gone, or not ours to read."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if (value := _FIELD.match(line)) and value[1] == "Pss":
            return int(value[2])
    raise OSError(f"no Pss in /proc/{pid}/smaps_rollup")


def smaps(pid: int) -> list[Mapping]:
    return parse_smaps(Path(f"/proc/{pid}/smaps").read_text())


def status(pid: int, field: str) -> int:
    """A size of /proc/PID/status, such as VmRSS or VmPTE."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0])
    raise OSError(f"no {field} in /proc/{pid}/status")


def cpu_s(pid: int) -> float:
    """Processor time of the process and all its threads since it began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_UTIME + 1])) / _TICKS_PER_S


def available_mib() -> int:
    """What the host could still give to processes without swapping."""
    for name, size in _meminfo():
        if name == "MemAvailable":
            return size >> 10
    raise OSError("no MemAvailable in /proc/meminfo")


def _meminfo() -> Iterator[tuple[str, int]]:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        yield name, int(rest.split()[0])
