"""Where control groups are found, on hosts of each kind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.hypervisor.qemu import growth
from hyperstack.hypervisor.qemu.cgroups import (
    Cgroup,
    CgroupParent,
    Hierarchy,
    Limits,
    discover,
    group_of,
    parse_mounts,
)

_V1 = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/pids rw,nosuid - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,name=systemd
"""


def _v2(mount: Path, controllers: str) -> str:
    mount.mkdir(exist_ok=True)
    (mount / "cgroup.controllers").write_text(controllers)
    (mount / "cgroup.subtree_control").touch()
    return f"40 22 0:40 / {mount} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def test_v1_has_a_hierarchy_per_mount_that_carries_what_we_need() -> None:
    assert discover(_V1) == [
        Hierarchy(Path("/sys/fs/cgroup/memory"), 1, frozenset({"memory"})),
        Hierarchy(Path("/sys/fs/cgroup/cpu,cpuacct"), 1, frozenset({"cpu", "cpuacct"})),
        Hierarchy(Path("/sys/fs/cgroup/pids"), 1, frozenset({"pids"})),
    ]


def test_v2_has_one(tmp_path: Path) -> None:
    text = _v2(tmp_path / "unified", "cpuset cpu io memory pids\n")
    assert discover(text) == [Hierarchy(tmp_path / "unified", 2, frozenset({"cpu", "memory", "pids"}))]
    assert CgroupParent("x", discover(text)).flavour == "v2"
    assert CgroupParent("x", discover(text)).missing == frozenset()


def test_a_v2_mount_without_controllers_is_left_alone(tmp_path: Path) -> None:
    found = discover(_V1 + _v2(tmp_path / "unified", "\n"))
    assert {hierarchy.version for hierarchy in found} == {1}


def test_controllers_may_be_spread_over_both(tmp_path: Path) -> None:
    text = _V1.replace("rw,pids", "rw,name=other") + _v2(tmp_path / "unified", "pids\n")
    parent = CgroupParent("x", discover(text))
    assert parent.flavour == "hybrid"
    assert parent.missing == frozenset()


def test_what_is_missing_is_named() -> None:
    assert CgroupParent("x", discover(_V1.replace("rw,memory", "rw"))).missing == {"memory"}
    assert CgroupParent("x", []).missing == {"memory", "pids"}
    assert CgroupParent("x", []).flavour == "none"


def test_a_mount_point_may_have_blanks() -> None:
    assert parse_mounts(_V1.replace("/sys/fs/cgroup/memory", "/odd\\040place"))[0][0] == Path("/odd place")


@given(st.text(alphabet="01 /-,:rwcgoup2memory\\\n"))
def test_no_mount_table_is_too_odd(text: str) -> None:
    for mount, version, controllers in parse_mounts(text):
        assert isinstance(mount, Path)
        assert version in (1, 2)
        assert controllers <= {"memory", "pids", "cpu", "cpuacct"}


def test_limits_are_written_in_the_words_of_each_version(tmp_path: Path) -> None:
    v1, v2 = tmp_path / "v1", tmp_path / "v2"
    v1.mkdir()
    v2.mkdir()
    controllers = frozenset({"memory", "pids", "cpu"})
    limits = Limits(memory_bytes=1 << 28, pids=50, cpus=1.5)
    group = Cgroup("a", [Hierarchy(v1, 1, controllers), Hierarchy(v2, 2, controllers)])
    group.create(limits)
    assert {path.name: path.read_text() for path in (v1 / "a").iterdir()} == {
        "memory.limit_in_bytes": "268435456", "pids.max": "50", "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "150000"}
    assert {path.name: path.read_text() for path in (v2 / "a").iterdir()} == {
        "memory.max": "268435456", "pids.max": "50", "cpu.max": "150000 100000"}
    group.limit(Limits(memory_bytes=1 << 29, pids=60))
    assert (v1 / "a" / "memory.limit_in_bytes").read_text() == (v2 / "a" / "memory.max").read_text() == "536870912"
    assert (v1 / "a" / "cpu.cfs_quota_us").read_text() == "-1"
    assert (v2 / "a" / "cpu.max").read_text() == "max 100000"


def test_processors_to_spare_do_not_count_on_the_host_until_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert growth.limits(memory_mib=128, vcpus=1, processors=4).cpus == 2
    assert growth.limits(memory_mib=128, vcpus=4, processors=4).cpus == 0
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert growth.limits(memory_mib=128, vcpus=1, processors=2).cpus == 0


def test_usage_is_read_in_the_words_of_each_version(tmp_path: Path) -> None:
    group = tmp_path / "a"
    group.mkdir()
    (group / "memory.current").write_text("4096\n")
    (group / "pids.current").write_text("3\n")
    (group / "cpu.stat").write_text("usage_usec 7\nuser_usec 5\n")
    (group / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    found = Cgroup("a", [Hierarchy(tmp_path, 2, frozenset({"memory", "pids", "cpu"}))])
    assert (found.usage().memory_bytes, found.usage().cpu_ns, found.usage().pids) == (4096, 7000, 3)
    assert found.oom_kills() == 1
    assert Cgroup("gone", [Hierarchy(tmp_path, 2, frozenset({"memory"}))]).usage().memory_bytes == 0


def test_a_process_has_a_group_in_each_hierarchy() -> None:
    memberships = "4:cpu,cpuacct:/user\n3:pids:/a:b\n0::/init.scope\n"
    def hierarchy(version: int, *controllers: str) -> Hierarchy:
        return Hierarchy(Path("/sys/fs/cgroup"), version, frozenset(controllers))
    assert group_of(memberships, hierarchy(1, "cpuacct")) == "/user"
    assert group_of(memberships, hierarchy(1, "pids")) == "/a:b"
    assert group_of(memberships, hierarchy(2, "memory")) == "/init.scope"
    assert group_of("", hierarchy(2, "memory")) == "/"


def test_to_wake_the_kernel_moves_nobody() -> None:
    before = Path("/proc/self/cgroup").read_text()
    CgroupParent("hyperstack-test").wake()
    assert Path("/proc/self/cgroup").read_text() == before
