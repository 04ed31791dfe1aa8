"""What doctor says of this host, and of hosts that this one is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperstack.engine.doctor import host_findings
from hyperstack.pod.finding import Finding

ALL_CAPABILITIES = "CapEff:\t000001ffffffffff\n"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The root of a host that has everything."""
    own = tmp_path / "proc/self"
    (own / "ns").mkdir(parents=True)
    for name in ("mnt", "net", "ipc", "pid", "uts"):
        (own / "ns" / name).symlink_to(f"{name}:[4026531840]")
    (own / "status").write_text(ALL_CAPABILITIES)
    (own / "mounts").write_text("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kvm").touch()
    return tmp_path


async def found(host: Path, name: str) -> Finding:
    return next(finding for finding in await host_findings(host, root=host) if finding.name == name)


async def test_every_finding_here_is_ok_or_has_a_remedy(tmp_path: Path) -> None:
    findings = await host_findings(tmp_path / "not/made/yet")
    assert len(findings) >= 10
    for finding in findings:
        assert finding.status in ("ok", "warn", "fail")
        assert (finding.status == "ok") == (not finding.remedy), finding


@pytest.mark.parametrize("name", ["privileges", "namespaces", "cgroups", "/dev/kvm", "memory"])
async def test_a_host_that_has_everything_is_ok(host: Path, name: str) -> None:
    assert (await found(host, name)).status == "ok"


async def test_memory_that_is_short(host: Path) -> None:
    for available, status in ((900_000, "warn"), (100_000, "fail")):
        (host / "proc/meminfo").write_text(f"MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n")
        assert (await found(host, "memory")).status == status


@pytest.mark.parametrize(("capabilities", "status", "detail"), [
    ("000001fffeffffff", "warn", "CAP_SYS_RESOURCE"), ("000001ffffffefff", "fail", "CAP_NET_ADMIN"),
    ("0000000000000000", "fail", "CAP_SYS_ADMIN")])
async def test_privileges_that_are_missing(host: Path, capabilities: str, status: str, detail: str) -> None:
    (host / "proc/self/status").write_text(f"Name:\thyperd\nCapEff:\t{capabilities}\n")
    finding = await found(host, "privileges")
    assert finding.status == status
    assert detail in finding.detail


async def test_a_namespace_that_is_missing(host: Path) -> None:
    (host / "proc/self/ns/ipc").unlink()
    finding = await found(host, "namespaces")
    assert (finding.status, finding.detail) == ("fail", "the kernel lacks ipc")


@pytest.mark.parametrize(("mounts", "controllers", "status", "detail"), [
    ("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n"
     "cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n", "", "ok", "v1, with"),
    ("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "cpu pids", "ok",
     "v1 and v2 side by side"),
    ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "cpu memory", "warn", "without the controllers pids"),
    ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "cpu pids", "fail", "without the controllers memory"),
    ("proc /proc proc rw 0 0\n", "", "fail", "no cgroup hierarchy")])
async def test_cgroups_of_each_kind(host: Path, mounts: str, controllers: str, status: str, detail: str) -> None:
    (host / "proc/self/mounts").write_text(mounts)
    (host / "sys/fs/cgroup/cgroup.controllers").write_text(controllers)
    finding = await found(host, "cgroups")
    assert finding.status == status
    assert detail in finding.detail


async def test_a_host_without_kvm_is_told_what_it_costs(host: Path) -> None:
    (host / "dev/kvm").unlink()
    finding = await found(host, "/dev/kvm")
    assert finding.status == "warn"
    assert "emulated" in finding.detail


async def test_tools_that_are_missing_are_named_with_their_package(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(host))
    missing = [finding for finding in await host_findings(host, root=host) if finding.name == "tools"]
    assert {finding.remedy for finding in missing} == {f"apt install {package}" for package in
                                                       ("qemu-system-x86", "nftables", "e2fsprogs")}
