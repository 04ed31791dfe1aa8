"""Each promise of docs/hypervisor.md about a machine's process, read back from /proc of a running one."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.vm.qemu_guest import UID, Guest, boot, hypervisor, image, make_kernel, raise_parent

pytestmark = pytest.mark.asyncio(loop_scope="module")

_MEMORY_MIB = 128
_SECRET = "a secret of the daemon's environment"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["started", "forked"])
async def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guest]:
    directory = tmp_path_factory.mktemp("qemu")
    os.environ["HYPERSTACK_TEST_SECRET"] = _SECRET
    try:
        with image(directory / "writable", "writable0") as writable, \
                image(directory / "layer", "layer0", read_only=True) as layer:
            async with hypervisor(directory) as made:
                kernel = await make_kernel(directory)
                if request.param == "forked":
                    template = await raise_parent(made, kernel, memory_mib=_MEMORY_MIB)
                    begun = boot(made, kernel, memory_mib=_MEMORY_MIB, disks=(writable, layer), template=template)
                else:
                    begun = boot(made, kernel, memory_mib=_MEMORY_MIB, disks=(writable, layer))
                async with begun as booted:
                    yield booted
    finally:
        del os.environ["HYPERSTACK_TEST_SECRET"]


def status(guest: Guest) -> dict[str, str]:
    lines = Path(f"/proc/{guest.machine.pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def is_forked(guest: Guest) -> bool:
    return b"\0-incoming\0" in Path(f"/proc/{guest.machine.pid}/cmdline").read_bytes()


def uses_kvm(guest: Guest) -> bool:
    return b"-accel\0kvm\0" in Path(f"/proc/{guest.machine.pid}/cmdline").read_bytes()


async def test_it_is_nobody_but_its_own_user(guest: Guest) -> None:
    found = status(guest)
    assert set(found["Uid"].split()) == set(found["Gid"].split()) == {str(UID)}
    assert found["Groups"] == ""


@pytest.mark.parametrize("which", ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
async def test_it_has_no_capability_and_can_get_none(guest: Guest, which: str) -> None:
    assert int(status(guest)[which], 16) == 0


async def test_exec_can_give_it_no_more_rights(guest: Guest) -> None:
    assert status(guest)["NoNewPrivs"] == "1"


async def test_every_thread_is_under_the_seccomp_filter(guest: Guest) -> None:
    threads = list(Path(f"/proc/{guest.machine.pid}/task").iterdir())
    assert len(threads) > 1
    for thread in threads:
        assert "\nSeccomp:\t2\n" in (thread / "status").read_text()


@pytest.mark.parametrize("namespace", ["mnt", "net", "ipc", "uts"])
async def test_its_namespaces_are_not_the_hosts(guest: Guest, namespace: str) -> None:
    assert os.readlink(f"/proc/{guest.machine.pid}/ns/{namespace}") != os.readlink(f"/proc/self/ns/{namespace}")


async def test_its_network_is_an_idle_loopback(guest: Guest) -> None:
    lines = Path(f"/proc/{guest.machine.pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]
    assert Path(f"/proc/{guest.machine.pid}/net/route").read_text().splitlines()[1:] == []


async def test_its_root_holds_program_files_and_its_kernel_only(guest: Guest) -> None:
    root = Path(f"/proc/{guest.machine.pid}/root")
    devices = [root / "dev/kvm"] if uses_kvm(guest) else []
    found = set()
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path in devices:
                continue
            assert stat.S_ISREG(path.lstat().st_mode), path
            found.add("/" + str(path.relative_to(root)))
    libraries = {path for path in found if path.startswith(("/lib/", "/lib64/", "/usr/lib/")) and ".so" in path}
    assert "/usr/bin/qemu-system-x86_64" in found
    assert {"/boot/kernel", "/boot/initrd"} < found, "where a kernel is bound over them"
    assert {path for path in found - libraries if not path.startswith("/usr/share/qemu/")} == {
        "/usr/bin/qemu-system-x86_64", "/boot/kernel", "/boot/initrd", "/etc/ld.so.preload"}
    assert (root / "etc/ld.so.preload").read_text() == "/lib/preload.so\n"


async def test_nothing_in_its_root_can_be_written_or_be_a_device_or_setuid(guest: Guest) -> None:
    lines = Path(f"/proc/{guest.machine.pid}/mountinfo").read_text().splitlines()
    options = {line.split()[4]: set(line.split()[5].split(",")) for line in lines}
    kernel = set() if is_forked(guest) else {"/boot/kernel", "/boot/initrd"}
    assert set(options) == {"/"} | kernel | ({"/dev"} if uses_kvm(guest) else set())
    for place, found in options.items():
        assert {"ro", "nosuid", "noexec" if place == "/dev" else "nodev"} <= found, place
    root = Path(f"/proc/{guest.machine.pid}/root")
    for folder, folders, names in os.walk(root):
        for name in (*folders, *(name for name in names if name != "kvm"), "."):
            status = Path(folder, name).stat()
            assert status.st_uid == 0, (folder, name)
            assert not status.st_mode & (0o022 | stat.S_ISUID | stat.S_ISGID), (folder, name)


async def test_it_holds_only_the_descriptors_it_was_given(guest: Guest) -> None:
    directory = Path(f"/proc/{guest.machine.pid}/fd")
    targets = {number.name: os.readlink(number) for number in directory.iterdir()}
    images = {target for target in targets.values() if target.endswith(("/writable", "/layer"))}
    assert len(images) == 2
    own = {target for target in targets.values()
           if target == "/dev/null" or target.startswith(("anon_inode:[event", "anon_inode:[signalfd", "socket:",
                                                          "/memfd:stderr", "anon_inode:kvm", "/dev/kvm"))}
    template = {target for target in targets.values() if is_forked(guest) and target.endswith("/ram")}
    assert set(targets.values()) == images | own | template


async def test_a_read_only_disk_is_read_only_on_the_host_as_well(guest: Guest) -> None:
    process = Path(f"/proc/{guest.machine.pid}")
    for number in (process / "fd").iterdir():
        if os.readlink(number).endswith("/layer"):
            flags = (process / "fdinfo" / number.name).read_text().split("flags:")[1].split()[0]
            assert int(flags, 8) & os.O_ACCMODE == os.O_RDONLY


async def test_it_is_in_its_control_group_with_its_limits(guest: Guest) -> None:
    lines = Path(f"/proc/{guest.machine.pid}/cgroup").read_text().splitlines()
    places = {line.split(":")[1]: line.split(":", 2)[2] for line in lines if guest.machine.id in line}
    memory = next((place for controllers, place in places.items() if "memory" in controllers.split(",")), None)
    if memory:
        limit = Path(f"/sys/fs/cgroup/memory{memory}/memory.limit_in_bytes")
        processes = Path(f"/sys/fs/cgroup/pids{places['pids']}/pids.max")
    else:
        limit = Path(f"/sys/fs/cgroup{places['']}/memory.max")
        processes = limit.with_name("pids.max")
    assert _MEMORY_MIB + 100 < int(limit.read_text()) >> 20 < _MEMORY_MIB + 200
    assert int(processes.read_text()) < 200


async def test_no_secret_is_on_its_command_line_or_in_its_environment(guest: Guest) -> None:
    assert Path(f"/proc/{guest.machine.pid}/environ").read_bytes().strip(b"\0") == b""
    assert _SECRET.encode() not in Path(f"/proc/{guest.machine.pid}/cmdline").read_bytes()


async def test_nobody_but_root_can_trace_it(guest: Guest) -> None:
    """What is not dumpable has files in /proc that belong to root, not to its user."""
    assert Path(f"/proc/{guest.machine.pid}/status").stat().st_uid == 0
    assert "Max core file size        0                    0" in Path(f"/proc/{guest.machine.pid}/limits").read_text()


async def test_it_has_no_helper_process(guest: Guest) -> None:
    assert status(guest)["PPid"] == str(os.getpid())
    relatives = [path for path in Path("/proc").glob("[0-9]*/stat")
                 if (text := _read(path)) and text.rsplit(")", 1)[1].split()[1] == str(guest.machine.pid)]
    assert relatives == []
    assert guest.machine.id in _read(Path(f"/proc/{guest.machine.pid}/cgroup"))
    assert [path for path in Path("/proc").glob("[0-9]*/cgroup") if guest.machine.id in _read(path)] == [
        Path(f"/proc/{guest.machine.pid}/cgroup")]


async def test_it_is_the_leader_of_a_session_without_a_terminal(guest: Guest) -> None:
    session, terminal = _read(Path(f"/proc/{guest.machine.pid}/stat")).rsplit(")", 1)[1].split()[3:5]
    assert (session, terminal) == (str(guest.machine.pid), "0")


async def test_it_takes_no_huge_pages(guest: Guest) -> None:
    assert status(guest)["THP_enabled"] == "0"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
