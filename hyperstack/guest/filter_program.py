"""Small programs of classic BPF that decide about a number, as seccomp filters do.

A kernel pays for each instruction of a filter when a process installs it (it converts and compiles them, in several
passes), and then walks the filter once per system call number to learn which are always allowed. Both happen at every
start of a container, so a program should be short, and shallow at the numbers that exist.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

LOAD, AND, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
"""BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND|BPF_K, BPF_JMP|BPF_JEQ|BPF_K, BPF_JMP|BPF_JGE|BPF_K, BPF_RET|BPF_K.

The kernel's walk per number understands no arithmetic but AND."""

_NUMBERS = 1 << 32
_INSTRUCTION = struct.Struct("<HBBI")
_LONGEST_JUMP = 255

_ASKED = 470
"""The kernel walks a filter for the numbers that it knows: about the first so many."""
_WALKS_PER_INSTRUCTION = 60
"""An instruction more costs the kernel as much as one step more at so many numbers: about 1400 instructions of its own
for the first, 23 per number for the second, as counted in an emulated guest."""
_REGION_COST = 2
"""Instructions that one more leaf of the search takes: one where it branches off and one where it ends."""
_MOST_EXCEPTIONS = 16

Run = tuple[int, str]
"""Where a stretch of numbers with one decision begins, and the label of the code for it. It lasts until the next run,
the last one to the end of the 32-bit numbers."""


class Program:
    """Instructions whose jumps go to labels. Classic BPF only jumps forward."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, str, str]] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        """Names the place of the next instruction."""
        self._labels[name] = len(self._code)

    def add(self, operation: int, k: int, true: str = "", false: str = "") -> None:
        """One instruction; `true` and `false` are where a jump goes, empty: to the next one."""
        self._code.append((operation, k, true, false))

    def fresh(self) -> str:
        """A label for a place further on; another one for each instruction."""
        return f"@{len(self._code)}"

    def assembled(self) -> bytes:
        """An array of `struct sock_filter`.

        :raise ValueError: a jump is backwards or too long.
        """
        return b"".join(_INSTRUCTION.pack(operation, self._distance(place, true), self._distance(place, false), k)
                        for place, (operation, k, true, false) in enumerate(self._code))

    def _distance(self, place: int, label: str) -> int:
        distance = self._labels[label] - place - 1 if label else 0
        if not 0 <= distance <= _LONGEST_JUMP:
            raise ValueError(f"instruction {place} jumps {distance} instructions ahead to {label}, "
                             f"but a jump of classic BPF takes 0 to {_LONGEST_JUMP}")
        return distance


@dataclass(frozen=True)
class _Region:
    """Neighbouring runs that become one leaf: most numbers are decided alike, the others are compared one by one."""

    first: int
    asked: int
    """How many of its numbers the kernel walks for."""
    decision: str
    exceptions: tuple[tuple[int, str], ...]

    @property
    def label(self) -> str:
        """Where all its numbers go; empty if they differ."""
        return "" if self.exceptions else self.decision


def add_search(program: Program, runs: Sequence[Run]) -> None:
    """Code that takes each number in the accumulator to the label of its run. There are at least two runs."""
    _add_tree(program, _regions(runs))


def _regions(runs: Sequence[Run]) -> list[_Region]:
    """The cheapest division: the best one for the first n runs is known when the one for n + 1 is looked for."""
    starts = [first for first, _ in runs] + [_NUMBERS]
    cheapest: list[tuple[float, int]] = [(0, 0)]
    for end in range(1, len(runs) + 1):
        choices: list[tuple[float, int]] = []
        numbers: Counter[str] = Counter()
        for start in reversed(range(end)):
            numbers[runs[start][1]] += starts[start + 1] - starts[start]
            exceptions = numbers.total() - max(numbers.values())
            if exceptions > _MOST_EXCEPTIONS:
                break
            step = 1 + _asked(starts[start], starts[end]) / _WALKS_PER_INSTRUCTION
            choices.append((cheapest[start][0] + _REGION_COST + exceptions * step, start))
        cheapest.append(min(choices))
    regions: list[_Region] = []
    end = len(runs)
    while end:
        start = cheapest[end][1]
        regions.append(_region(runs[start:end], starts[end]))
        end = start
    return regions[::-1]


def _region(runs: Sequence[Run], end: int) -> _Region:
    ends = [*(first for first, _ in runs[1:]), end]
    stretches = [(range(first, until), decision) for (first, decision), until in zip(runs, ends, strict=True)]
    numbers: Counter[str] = Counter()
    for stretch, decision in stretches:
        numbers[decision] += len(stretch)
    usual = numbers.most_common(1)[0][0]
    exceptions = tuple((number, decision) for stretch, decision in stretches if decision != usual
                       for number in stretch)
    return _Region(runs[0][0], _asked(runs[0][0], end), usual, exceptions)


def _asked(first: int, end: int) -> int:
    return min(end, _ASKED) - min(first, _ASKED)


def _add_tree(program: Program, regions: Sequence[_Region]) -> None:
    """A binary search. Where a side of a comparison follows it, the kernel makes one instruction of it, else two."""
    if len(regions) == 1:
        _add_comparisons(program, regions[0])
        return
    place = _middle(regions)
    low, high = regions[:place], regions[place:]
    below = low[0].label if len(low) == 1 else ""
    above = high[0].label if len(high) == 1 else ""
    branch = "" if above or below else program.fresh()
    program.add(JUMP_AT_LEAST, high[0].first, above or branch, below)
    if not below:
        _add_tree(program, low)
    if not above:
        if branch:
            program.label(branch)
        _add_tree(program, high)


def _middle(regions: Sequence[_Region]) -> int:
    """Where to divide, so that the kernel walks for about as many numbers on each side."""
    total = sum(region.asked for region in regions)
    below = 0
    choices = []
    for place, region in enumerate(regions[:-1], 1):
        below += region.asked
        choices.append((abs(total - 2 * below), place))
    return min(choices)[1]


def _add_comparisons(program: Program, region: _Region) -> None:
    for place, (number, decision) in enumerate(region.exceptions, 1):
        program.add(JUMP_EQUAL, number, decision, region.decision if place == len(region.exceptions) else "")
