"""Which disks of a pod take the places of its machine's parent's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperstack.hypervisor.api import Disk
from hyperstack.hypervisor.qemu.forks import Seats, Slot

_MIB = 1 << 20
Make = Callable[..., Disk]


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Make:
    def make(serial: str, size: int, *, read_only: bool = True, path: Path | None = None) -> Disk:
        if path is None:
            path = tmp_path / serial
            path.touch()
            os.truncate(path, size)
        fd = os.open(path, os.O_RDONLY if read_only else os.O_RDWR)
        request.addfinalizer(lambda: os.close(fd))
        return Disk(serial=serial, fd=fd, read_only=read_only)

    return make


@pytest.fixture
def slots(made: Make) -> list[Slot]:
    return [Slot.of(made("slot-l0", 64 * _MIB)), Slot.of(made("slot-l1", 64 * _MIB)),
            Slot.of(made("slot-w", 10 * _MIB, read_only=False))]


def test_each_disk_has_a_slot_of_its_own(made: Make, slots: list[Slot]) -> None:
    disks = [made("a", _MIB), made("b", 64 * _MIB), made("w", 10 * _MIB, read_only=False)]
    seats = Seats.plan(slots, disks)
    assert seats.names == {"slot-l0": "a", "slot-l1": "b", "slot-w": "w"}
    assert not seats.standing


def test_what_finds_no_slot_stands(made: Make, slots: list[Slot]) -> None:
    too_many = made("c", _MIB)
    too_large = made("large", 65 * _MIB)
    another_size = made("w", 9 * _MIB, read_only=False)
    seats = Seats.plan(slots, [too_large, another_size, made("a", _MIB), made("b", _MIB), too_many])
    assert [disk.serial for disk in seats.standing] == ["large", "w", "c"]
    assert seats.names == {"slot-l0": "a", "slot-l1": "b"}


def test_only_files_take_slots(made: Make, slots: list[Slot]) -> None:
    """Block devices, like this one, say that they have a size of 0."""
    device = made("device", 0, path=Path("/dev/zero"))
    assert Seats.plan(slots, [device]).standing == [device]
