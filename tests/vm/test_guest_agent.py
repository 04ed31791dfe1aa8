"""The guest agent on a real kernel: one VM for all tests of this module, each with containers of its own."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import struct
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from hyperstack.guest.channel import GuestCallError
from hyperstack.guest.messages import File, Limits, Mount, Volume
from hyperstack.guest.seccomp import default_profile
from hyperstack.pod.errors import Conflict
from tests.vm.agent_vm import Collector, Guest, busybox_root, lasting, make_blank, make_layer, process

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guest]:
    directory = tmp_path_factory.mktemp("agent")
    base = make_layer(busybox_root(directory / "base"), directory / "base.erofs")
    upper = directory / "upper"
    (upper / "data").mkdir(parents=True)
    (upper / "data/seed").write_text("from the upper layer")
    (upper / "etc").mkdir()
    os.mknod(upper / "etc/hidden", 0o020000 | 0o600, os.makedev(0, 0))
    disks = [("layer0", base, True), ("layer1", make_layer(upper, directory / "upper.erofs"), True),
             ("disk-writable", make_blank(directory / "w.img"), False),
             ("disk-volume", make_blank(directory / "v.img"), False)]
    async with lasting(directory, disks) as booted:
        yield booted


@pytest_asyncio.fixture(loop_scope="module")
async def container(guest: Guest, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A running container that does nothing."""
    name = f"c{guest.handle()}"
    await guest.create(name, **getattr(request, "param", {}))
    handle, _ = await guest.begin(name, "sleep", "100000")
    yield name
    await guest.channel.remove(name)
    await guest.channel.release(handle)


# --- processes ---

async def test_a_command_runs_and_its_exit_code_and_output_are_told(guest: Guest, stopped: str) -> None:
    event, sink = await guest.run(stopped, "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (event.code, event.signal, event.oom) == (42, 0, False)
    assert (sink.out, sink.err) == ("out\n", "err\n")


async def test_a_container_can_be_started_again_and_keeps_its_files_but_no_tmpfs(guest: Guest, stopped: str) -> None:
    await guest.run(stopped, "sh", "-c", "echo kept > /kept; echo gone > /dev/shm/gone")
    _, sink = await guest.run(stopped, "sh", "-c", "cat /kept; ls /dev/shm")
    assert sink.out == "kept\n"


async def test_a_signal_ends_a_process_and_is_told(guest: Guest, stopped: str) -> None:
    handle, sink = await guest.begin(stopped, "sleep", "1000")
    await guest.channel.signal(handle, signal.SIGKILL)
    event = await guest.finish(handle, sink)
    assert (event.signal, event.oom) == (signal.SIGKILL, False)


async def test_pid_1_of_a_container_is_immune_to_signals_that_it_does_not_handle(guest: Guest, stopped: str) -> None:
    handle, sink = await guest.begin(stopped, "sleep", "1000")
    await guest.channel.signal(handle, signal.SIGTERM)
    assert await guest.shell(stopped, "echo alive") == "alive\n"
    await guest.channel.signal(handle, signal.SIGKILL)
    await guest.finish(handle, sink)


async def test_with_init_the_command_is_ended_by_a_signal_and_orphans_are_reaped(guest: Guest, stopped: str) -> None:
    handle, sink = await guest.begin(stopped, "sh", "-c", "(sleep 0.1 & ) ; sleep 1; ps -o stat,comm; exec sleep 1000",
                                     init=True)
    while "sleep" not in sink.out and "ps" not in sink.out:
        await asyncio.sleep(0.05)
    assert "Z" not in sink.out.replace("TZ", "")
    await guest.channel.signal(handle, signal.SIGTERM)
    assert (await guest.finish(handle, sink)).code == 128 + signal.SIGTERM


@pytest.mark.parametrize(("argv", "errno"), [(("nosuch",), 2), (("/nosuch",), 2), (("/etc/passwd",), 13),
                                             (("/etc",), 13)])
async def test_a_command_that_cannot_be_run_is_an_error_with_its_errno(guest: Guest, stopped: str,
                                                                       argv: tuple[str, ...], errno: int) -> None:
    with pytest.raises(GuestCallError) as caught:
        await guest.begin(stopped, *argv)
    assert caught.value.errno == errno
    assert not (await guest.channel.list_all()).processes
    assert (await guest.run(stopped, "true"))[0].code == 0


async def test_an_unknown_user_is_an_error_that_names_it(guest: Guest, stopped: str) -> None:
    with pytest.raises(GuestCallError, match="unable to find user nobody-knows"):
        await guest.begin(stopped, "true", user=b"nobody-knows")
    for none in (b"2147483648", b"-1", b"1:2147483648", b"99999999999999999999"):
        with pytest.raises(GuestCallError, match="uids and gids must be in range 0-2147483647"):
            await guest.begin(stopped, "true", user=none)


@pytest.mark.parametrize(("user", "expected"), [
    (b"", "uid=0(root) gid=0(root) groups=0(root)\n/root"),
    (b"user", "uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)\n/home/user"),
    (b"1000", "uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)\n/home/user"),
    (b"7:8", "uid=7 gid=8 groups=8\n/"),
    (b"user:extra", "uid=1000(user) gid=2000(extra) groups=2000(extra)\n/home/user")])
async def test_users_and_groups_are_those_of_the_image(guest: Guest, container: str, user: bytes, expected: str
                                                       ) -> None:
    out = await guest.shell(container, "id; echo $HOME", user=user)
    assert out.strip() == expected, "the first group is among the others, too"


async def test_more_groups_can_be_given(guest: Guest, container: str) -> None:
    assert "2500" in await guest.shell(container, "id -G", groups=(2500,))


async def status_fields(guest: Guest, container: str, **changes: Any) -> dict[str, str]:
    lines = (await guest.shell(container, "cat /proc/self/status", **changes)).splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


async def test_root_has_the_capabilities_that_were_given_and_no_more(guest: Guest, container: str) -> None:
    fields = await status_fields(guest, container)
    assert [fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [
        "0000000000000000", "00000000a80425fb", "00000000a80425fb", "00000000a80425fb", "0000000000000000"]


async def test_a_user_has_no_capabilities_and_the_bounding_set(guest: Guest, container: str) -> None:
    fields = await status_fields(guest, container, user=b"user")
    assert (fields["CapEff"], fields["CapPrm"], fields["CapBnd"]) == (
        "0000000000000000", "0000000000000000", "00000000a80425fb")


async def test_no_new_privileges_and_rlimits_and_oom_score_are_set(guest: Guest, container: str) -> None:
    fields = await status_fields(guest, container, no_new_privileges=True)
    assert fields["NoNewPrivs"] == "1"
    out = await guest.shell(container, "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj",
                            rlimits=((7, 100, 200),), oom_score_adj=300)
    assert out.split() == ["100", "200", "300"]


@pytest.mark.parametrize("changes", [{}, {"no_new_privileges": True}, {"user": b"user"}])
async def test_the_default_seccomp_filter_holds(guest: Guest, container: str, changes: dict[str, Any]) -> None:
    program = default_profile(frozenset())
    fields = await status_fields(guest, container, seccomp=program, **changes)
    assert fields["Seccomp"] == "2"
    out = await guest.shell(container, "mount -t tmpfs x /tmp 2>&1; unshare -m true 2>&1; true", seccomp=program)
    assert "mount: permission denied" in out
    assert "unshare(0x20000): Operation not permitted" in out


async def test_a_seccomp_filter_that_is_garbage_is_an_error(guest: Guest, container: str) -> None:
    with pytest.raises(GuestCallError, match="seccomp"):
        await guest.shell(container, "true", seccomp=struct.pack("<HBBI", 0xffff, 0, 0, 0))


async def test_environment_and_arguments_may_be_any_bytes(guest: Guest, container: str) -> None:
    _, sink = await guest.run(container, "sh", "-c", 'printf "%s|%s" "$X" "$0"', b"\xff\xfe arg", further=True,
                              env=(b"PATH=/bin", b"X=\x80\x81"))
    assert bytes(sink.data[1]) == b"\x80\x81|\xff\xfe arg"


async def test_a_user_can_open_its_standard_output_again(guest: Guest, container: str) -> None:
    assert await guest.shell(container, "echo again > /dev/stdout", user=b"user") == "again\n"


async def test_a_working_directory_is_made_at_start_and_must_exist_for_exec(guest: Guest, stopped: str) -> None:
    _, sink = await guest.run(stopped, "pwd", cwd=b"/made/for/me")
    assert sink.out == "/made/for/me\n"
    handle, main = await guest.begin(stopped, "sleep", "1000")
    with pytest.raises(GuestCallError, match="chdir"):
        await guest.shell(stopped, "true", cwd=b"/not/there")
    await guest.channel.signal(handle, signal.SIGKILL)
    await guest.finish(handle, main)


async def test_the_end_of_the_main_process_ends_the_others(guest: Guest, stopped: str) -> None:
    main, main_sink = await guest.begin(stopped, "sleep", "1000")
    other, other_sink = await guest.begin(stopped, "sleep", "1000", further=True)
    await guest.channel.signal(main, signal.SIGKILL)
    assert (await guest.finish(main, main_sink)).signal == signal.SIGKILL
    assert (await guest.finish(other, other_sink)).signal == signal.SIGKILL


async def test_output_ends_although_a_grandchild_keeps_the_pipe(guest: Guest, container: str) -> None:
    event, sink = await guest.run(container, "sh", "-c", "sleep 1000 & echo started", further=True)
    assert (event.code, sink.out) == (0, "started\n")


async def test_signalling_all_reaches_every_process(guest: Guest, stopped: str) -> None:
    handle, sink = await guest.begin(stopped, "sh", "-c", "trap 'echo trapped; exit 3' TERM; sleep 1000 & wait")
    while "sleep" not in await guest.shell(stopped, "ps"):
        await asyncio.sleep(0.05)
    await guest.channel.signal(handle, signal.SIGTERM, all_processes=True)
    event = await guest.finish(handle, sink)
    assert (event.code, sink.out) == (3, "trapped\n")


# --- streams ---

async def test_input_is_passed_on_and_half_closed(guest: Guest, container: str) -> None:
    data = random.Random(1).randbytes(3 * MIB)
    _, sink = await guest.run(container, "cat", further=True, stdin=data)
    assert bytes(sink.data[1]) == data


async def test_input_that_nobody_reads_is_refused_when_the_process_ends(guest: Guest, container: str) -> None:
    handle, sink = await guest.begin(container, "sleep", "0.5", further=True)
    await guest.finish(handle, sink)
    with pytest.raises(GuestCallError):
        await guest.channel.signal(handle, 1)


async def test_a_slow_reader_stalls_its_own_process_alone(guest: Guest, container: str) -> None:
    class Slow(Collector):
        gate = asyncio.Event()

        async def write(self, stream: int, offset: int, data: bytes) -> None:
            await self.gate.wait()
            await super().write(stream, offset, data)

    slow, handle = Slow(), guest.handle()
    await guest.channel.exec(container, handle, process("sh", "-c", "head -c 3000000 /dev/zero; echo done >&2"))
    await guest.channel.attach(handle, slow, stdout=0, stderr=0)
    assert await guest.shell(container, "head -c 1000000 /dev/zero | wc -c") == "1000000\n"
    assert not slow.data[2]
    slow.gate.set()
    await guest.finish(handle, slow)
    assert (len(slow.data[1]), slow.err) == (3000000, "done\n")


async def test_a_lost_connection_loses_and_doubles_no_byte(guest: Guest, container: str) -> None:
    """The connection is cut at random instants while 24 MB of numbered lines come through."""
    dice = random.Random(7)
    sink = Collector()
    handle = guest.handle()
    await guest.channel.exec(container, handle, process("seq", "1000000", "4000000"))
    for _ in range(12):
        await guest.channel.attach(handle, sink, stdout=len(sink.data[1]), stderr=len(sink.data[2]))
        if not sink.ends[1].is_set():
            await asyncio.sleep(dice.uniform(0.02, 0.4))
        await guest.channel.close()
        await guest.connect()
    await guest.channel.attach(handle, sink, stdout=len(sink.data[1]), stderr=len(sink.data[2]))
    await asyncio.wait_for(sink.ends[1].wait(), 240)
    expected = b"".join(b"%d\n" % number for number in range(1000000, 4000001))
    assert bytes(sink.data[1]) == expected
    status = next(one for one in (await guest.channel.list_all()).processes if one.handle == handle)
    assert (status.running, status.code) == (False, 0)
    await guest.channel.release(handle)


async def test_an_exit_without_a_connection_is_known_afterwards(guest: Guest, container: str) -> None:
    handle, _ = await guest.begin(container, "sh", "-c", "echo before; sleep 0.5; echo after; exit 9", further=True)
    await guest.channel.close()
    await asyncio.sleep(1.5)
    await guest.connect()
    status = next(one for one in (await guest.channel.list_all()).processes if one.handle == handle)
    assert (status.running, status.code, status.stdout.eof) == (False, 9, True)
    sink = Collector()
    sink.data[1] += b"before\n"[:status.stdout.acknowledged]
    await guest.channel.attach(handle, sink, stdout=status.stdout.acknowledged, stderr=0)
    await asyncio.wait_for(sink.ends[1].wait(), 30)
    assert sink.out == "before\nafter\n"
    with pytest.raises(GuestCallError):
        await guest.channel.resize(handle, rows=1, columns=1)
    await guest.channel.release(handle)


async def test_many_processes_at_once(guest: Guest, container: str) -> None:
    async def one(number: int) -> str:
        return await guest.shell(container, f"echo {number}; sleep 0.2")

    assert await asyncio.gather(*map(one, range(40))) == [f"{number}\n" for number in range(40)]


async def test_a_handle_is_used_once_and_a_running_process_is_not_released(guest: Guest, stopped: str) -> None:
    handle, sink = await guest.begin(stopped, "sleep", "1000")
    with pytest.raises(GuestCallError) as caught:
        await guest.channel.exec(stopped, handle, process("true"))
    assert caught.value.errno == 17
    with pytest.raises(GuestCallError) as caught:
        await guest.channel.release(handle)
    assert caught.value.errno == 16
    await guest.channel.signal(handle, signal.SIGKILL)
    await guest.finish(handle, sink)


# --- terminals ---

async def test_a_terminal_has_a_size_a_console_and_interrupts(guest: Guest, stopped: str) -> None:
    handle, sink = guest.handle(), Collector()
    script = ("trap 'echo interrupted' INT; stty size; tty; echo to-console > /dev/console; read line; stty size; "
              "cat; echo code $?; exit 5")
    await guest.channel.start(stopped, handle, process("sh", "-c", script, tty=True, stdin=True, rows=33, columns=99))
    await guest.channel.attach(handle, sink, stdout=0, stderr=None)

    async def wait_for(wanted: str) -> None:
        async with asyncio.timeout(30):
            while wanted not in sink.out:
                await asyncio.sleep(0.02)

    await wait_for("33 99\r\n/dev/pts/0\r\nto-console\r\n")
    await guest.channel.resize(handle, rows=10, columns=20)
    await guest.channel.write_stdin(handle, b"go on\n")
    await wait_for("10 20\r\n")
    await guest.channel.write_stdin(handle, b"to the cat\n")
    await wait_for("to the cat\r\nto the cat\r\n")
    await guest.channel.write_stdin(handle, b"\x03")
    await wait_for("interrupted\r\n")
    event = await asyncio.wait_for(guest.exited(handle), 30)
    await asyncio.wait_for(sink.ends[1].wait(), 30)
    assert event.code == 5
    assert "code 130\r\n" in sink.out
    await guest.channel.release(handle)


async def test_a_user_owns_its_terminal(guest: Guest, container: str) -> None:
    handle, sink = await guest.begin(container, "sh", "-c", "stat -c %u $(tty); echo x > /dev/tty", further=True,
                                     tty=True, user=b"user")
    await asyncio.wait_for(guest.exited(handle), 30)
    await asyncio.wait_for(sink.ends[1].wait(), 30)
    assert sink.out == "1000\r\nx\r\n"
    await guest.channel.release(handle)


# --- file systems ---

async def test_layers_lie_over_each_other_and_the_image_stays_as_it_is(guest: Guest) -> None:
    await guest.create("layers", layers=("layer0", "layer1"), writable="disk-writable")
    _, sink = await guest.run("layers", "sh", "-c",
                              "cat /data/seed; echo; echo changed > /data/seed; cat /data/seed; rm -r /home; ls /")
    assert sink.out.startswith("from the upper layer\nchanged\n")
    assert "home" not in sink.out
    await guest.channel.remove("layers")
    await guest.create("layers", layers=("layer0", "layer1"), writable="disk-writable")
    _, sink = await guest.run("layers", "sh", "-c", "cat /data/seed; test -e /home || echo still gone")
    assert sink.out == "changed\nstill gone\n"
    await guest.channel.remove("layers")


async def test_a_full_writable_disk_is_enospc_inside(guest: Guest) -> None:
    await guest.create("full", writable="disk-writable")
    event, sink = await guest.run("full", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=200; rm /big; echo lives")
    assert "No space left on device" in sink.err
    assert (event.code, sink.out) == (0, "lives\n")
    await guest.channel.remove("full")


@pytest.mark.parametrize("container", [{"read_only": True}], indirect=True)
async def test_a_read_only_root_is_read_only_and_dev_works(guest: Guest, container: str) -> None:
    out = await guest.shell(container, "touch /x 2>&1; echo y > /dev/null; echo z > /dev/shm/z; cat /dev/shm/z")
    assert out == "touch: /x: Read-only file system\nz\n"


async def test_proc_and_sys_are_masked_and_read_only(guest: Guest, container: str) -> None:
    out = await guest.shell(container, "wc -c < /proc/kcore; ls /sys/firmware | wc -l; "
                            "echo 1 2>&1 > /proc/sys/kernel/sysrq; echo 1 2>&1 > /sys/kernel/profiling; "
                            "mkdir /sys/fs/cgroup/x 2>&1; cat /proc/self/cgroup")
    lines = out.splitlines()
    assert lines[:2] == ["0", "0"]
    assert sum("Read-only" in line for line in lines) >= 1
    assert lines[-1] == "0::/"


async def test_devices_are_docker_s_and_the_machine_s_disks_are_out_of_reach(guest: Guest, container: str) -> None:
    out = await guest.shell(container, "mknod /tmp/sda b 8 0; head -c1 /tmp/sda 2>&1; mknod /tmp/kmsg c 1 11; "
                            "head -c1 /tmp/kmsg 2>&1; head -c3 /dev/zero | wc -c; test -c /dev/tty && echo tty")
    assert out.count("not permitted") == 2
    assert out.endswith("3\ntty\n")


@pytest.mark.parametrize("container", [{"privileged": True, "masked": (), "readonly": ()}], indirect=True)
async def test_a_privileged_container_sees_the_machine(guest: Guest, container: str) -> None:
    out = await guest.shell(container, "head -c 1 /dev/sda | wc -c; mkdir /sys/fs/cgroup/sub && echo made; "
                            "mount -t tmpfs none /tmp && echo mounted", capabilities=tuple(range(41)))
    assert out == "1\nmade\nmounted\n"


async def test_files_are_private_and_links_in_the_image_do_not_lead_them_out(guest: Guest) -> None:
    name = "links"
    await guest.create(name, writable="disk-writable")
    await guest.run(name, "sh", "-c", "mkdir /evil; ln -s /../../../run /evil/up; ln -s ../../../../.. /evil/root")
    await guest.channel.remove(name)
    files = (File(path=b"/etc/hosts", data=b"127.0.0.1 localhost\n", mode=0o644),
             File(path=b"/evil/root/etc/made", data=b"made", mode=0o600))
    await guest.create(name, writable="disk-writable", files=files)
    _, sink = await guest.run(name, "sh", "-c", "cat /etc/hosts; cat /evil/root/etc/made; stat -c %a /etc/made")
    assert sink.out == "127.0.0.1 localhost\nmade600\n"
    await guest.channel.remove(name)


async def test_volumes_are_shared_and_take_what_the_image_has(guest: Guest) -> None:
    await guest.channel.volume(Volume(name="shared", serial="disk-volume"))
    await guest.channel.volume(Volume(name="memory", tmpfs=MIB, files=9, mode=0o710, uid=5, gid=6))
    shared = Mount(kind="volume", source="shared", target=b"/data", copy_up=True)
    part = Mount(kind="volume", source="memory", target=b"/mnt/deep/memory", share=b"a", subpath=b"b", read_only=True)
    scratch = Mount(kind="tmpfs", target=b"/scratch", size=64 << 10, mode=0o700, flags=8)
    await guest.create("one", mounts=(shared, Mount(kind="volume", source="memory", target=b"/m")))
    await guest.create("two", mounts=(shared, part, scratch))
    main, sink = await guest.begin("one", "sleep", "1000")
    assert await guest.shell("one", "cat /data/seed; ls -d /data/sub") == "from the image/data/sub\n"
    said = "stat -c %u:%g:%a /m; stat -f -c %c /m; mkdir -p /m/a/b"
    assert await guest.shell("one", said) == "5:6:710\n9\n"
    await guest.shell("one", "echo hello > /data/hello")
    _, second = await guest.run("two", "sh", "-c", "cat /data/hello; touch /mnt/deep/memory/x 2>&1; "
                                "stat -c %a /scratch; cp /bin/busybox /scratch/ 2>&1")
    assert second.out.startswith("hello\ntouch: /mnt/deep/memory/x: Read-only file system\n700\n")
    assert "No space left" in second.out
    await guest.channel.signal(main, signal.SIGKILL)
    await guest.finish(main, sink)
    for name in ("one", "two"):
        await guest.channel.remove(name)
    await guest.channel.unvolume("shared")
    await guest.channel.unvolume("memory")


async def test_a_disk_that_is_not_there_is_told_after_a_while(guest: Guest) -> None:
    with pytest.raises(GuestCallError, match="no disk with the serial nosuch"):
        await guest.create("nodisk", layers=("nosuch",))
    assert "nodisk" not in [one.id for one in (await guest.channel.list_all()).containers]


# --- limits ---

async def test_beyond_its_memory_limit_a_container_is_killed_and_the_machine_lives(guest: Guest, stopped: str) -> None:
    await guest.channel.update(stopped, Limits(memory=16 * MIB, swap=0))
    event, _ = await guest.run(stopped, "sh", "-c", "head -c 100000000 /dev/zero | tail; exit 137")
    assert event.oom
    assert guest.ooms > 0
    event, _ = await guest.run(stopped, "true")
    assert (event.code, event.oom) == (0, False)


async def test_a_container_without_a_limit_cannot_take_the_machine_s_memory(guest: Guest, stopped: str) -> None:
    event, _ = await guest.run(stopped, "tail", "/dev/zero")
    assert (event.signal, event.oom) == (signal.SIGKILL, True)
    assert (await guest.channel.ping()).agent


async def test_the_number_of_processes_is_limited(guest: Guest, stopped: str) -> None:
    await guest.channel.update(stopped, Limits(pids=5))
    _, sink = await guest.run(stopped, "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait")
    assert "fork" in sink.err


async def test_limits_are_told_by_stats_and_lifted_by_zero(guest: Guest, container: str) -> None:
    await guest.channel.update(container, Limits(memory=32 * MIB, pids=50, cpu_quota_us=50000, cpu_period_us=100000,
                                                 cpu_weight=50))
    usage = (await guest.channel.stats(container)).containers[container]
    assert (usage.memory_limit, usage.pids_limit) == (32 * MIB, 50)
    assert usage.memory > 0
    assert usage.pids == 1
    await guest.channel.update(container, Limits(memory=0, pids=0, cpu_quota_us=0))
    usage = (await guest.channel.stats(container)).containers[container]
    assert (usage.memory_limit, usage.pids_limit) == (0, 0)


async def test_a_paused_container_stands_still_until_it_is_resumed(guest: Guest, stopped: str) -> None:
    handle, sink = await guest.begin(stopped, "sh", "-c", "while sleep 0.05; do echo tick; done")
    while not sink.data[1]:
        await asyncio.sleep(0.05)
    await guest.channel.pause(stopped)
    assert [one.paused for one in (await guest.channel.list_all()).containers if one.id == stopped] == [True]
    before = (await guest.channel.stats(stopped)).containers[stopped].cpu_ns
    await asyncio.sleep(0.5)
    assert (await guest.channel.stats(stopped)).containers[stopped].cpu_ns == before
    with pytest.raises(GuestCallError, match="paused"):
        await guest.begin(stopped, "true", further=True)
    await guest.channel.resume(stopped)
    ticks = len(sink.data[1])
    while len(sink.data[1]) == ticks:
        await asyncio.sleep(0.05)
    await guest.channel.pause(stopped)
    await guest.channel.signal(handle, signal.SIGKILL)
    assert (await guest.finish(handle, sink)).signal == signal.SIGKILL


async def test_processes_are_listed_as_the_container_sees_them(guest: Guest, container: str) -> None:
    handle, sink = await guest.begin(container, "sh", "-c", "sleep 77 & wait", further=True, user=b"user")
    listed: dict[bytes, Any] = {}
    while b"sleep 77" not in listed:
        listed = {b" ".join(one.arguments): one for one in await guest.channel.processes(container)}
    assert listed[b"sleep 100000"].pid == 1
    shell, sleep = listed[b"sh -c sleep 77 & wait"], listed[b"sleep 77"]
    assert (sleep.ppid, sleep.uid, shell.ppid) == (shell.pid, 1000, 0)
    await guest.channel.signal(handle, signal.SIGKILL)
    await guest.finish(handle, sink)


# --- archives ---

async def read_archive(guest: Guest, container: str, path: str) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    handle, sink = guest.handle(), Collector()
    await guest.channel.archive_read(container, handle, path.encode())
    await guest.channel.attach(handle, sink, stdout=0, stderr=0)
    event = await guest.finish(handle, sink)
    assert (event.code, sink.err) == (0, "")
    with tarfile.open(fileobj=io.BytesIO(bytes(sink.data[1]))) as archive:
        contents = ((info, archive.extractfile(info) if info.isreg() else None) for info in archive)
        return {info.name: (info, content.read() if content else b"") for info, content in contents}


async def write_archive(guest: Guest, container: str, path: str, data: bytes, **options: Any) -> tuple[int, str]:
    handle, sink = guest.handle(), Collector()
    await guest.channel.archive_write(container, handle, path.encode(), **options)
    await guest.channel.attach(handle, sink, stdout=0, stderr=0)
    try:
        await guest.channel.write_stdin(handle, data)
        await guest.channel.close_stdin(handle)
    except Conflict:
        pass  # it ended before it had read all; its exit code tells
    event = await guest.finish(handle, sink)
    return event.code, sink.err


def make_tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize("running", [True, False])
async def test_archives_keep_what_files_are(guest: Guest, stopped: str, running: bool) -> None:
    if running:
        main, main_sink = await guest.begin(stopped, "sleep", "1000")
    long = "d" * 90 + "/" + "n" * 200
    body = random.Random(3).randbytes(300000)
    data = make_tar((entry("d" * 90, tarfile.DIRTYPE, mode=0o750, uid=5, gid=6, mtime=1000), b""),
                    (entry(long, mode=0o4711, uid=3000000, gid=7, mtime=1234567890), body),
                    (entry("link", tarfile.LNKTYPE, linkname=long), b""),
                    (entry("symbolic", tarfile.SYMTYPE, linkname="../../" + "x" * 150, uid=9), b""),
                    (entry("fifo", tarfile.FIFOTYPE, mode=0o600), b""),
                    (entry("node", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666), b""))
    assert await write_archive(guest, stopped, "/tmp", data) == (0, "")
    found = await read_archive(guest, stopped, "/tmp")
    assert set(found) == {"tmp", "tmp/" + "d" * 90, f"tmp/{long}", "tmp/link", "tmp/symbolic", "tmp/fifo", "tmp/node"}
    (file, content), (link, other) = found[f"tmp/{long}"], found["tmp/link"]
    if file.islnk():
        (file, content), (link, other) = (link, other), (file, content)
    assert content == body
    assert (file.mode, file.uid, file.gid, file.mtime) == (0o4711, 3000000, 7, 1234567890)
    assert link.linkname == file.name
    directory = found["tmp/" + "d" * 90][0]
    assert (directory.mode, directory.uid, directory.gid, directory.mtime) == (0o750, 5, 6, 1000)
    assert found["tmp/symbolic"][0].linkname == "../../" + "x" * 150
    assert (found["tmp/node"][0].devmajor, found["tmp/node"][0].devminor) == (1, 3)
    if running:
        await guest.channel.signal(main, signal.SIGKILL)
        await guest.finish(main, main_sink)


@pytest.mark.parametrize(("name", "kind", "link"), [
    ("../escaped", tarfile.REGTYPE, ""), ("a/../../b", tarfile.DIRTYPE, ""),
    ("hard", tarfile.LNKTYPE, "../etc/passwd")])
async def test_an_archive_cannot_climb_out_of_its_directory(guest: Guest, container: str, name: str, kind: bytes,
                                                            link: str) -> None:
    code, err = await write_archive(guest, container, "/tmp", make_tar((entry(name, kind, linkname=link), b"")))
    assert code == 1
    assert "leads out" in err


async def test_links_in_an_archive_lead_nowhere_outside_the_container(guest: Guest, container: str) -> None:
    data = make_tar((entry("out", tarfile.SYMTYPE, linkname="/../../../../../data"), b""),
                    (entry("out/stolen", mode=0o644), b"x"))
    assert await write_archive(guest, container, "/tmp", data) == (0, "")
    assert await guest.shell(container, "cat /data/stolen") == "x"


async def test_directories_and_files_do_not_replace_each_other_where_that_is_refused(guest: Guest, container: str
                                                                                     ) -> None:
    await guest.shell(container, "mkdir /tmp/dir; echo x > /tmp/file")
    for name, kind in (("dir", tarfile.REGTYPE), ("file", tarfile.DIRTYPE)):
        code, err = await write_archive(guest, container, "/tmp", make_tar((entry(name, kind), b"")),
                                        no_overwrite_dir_non_dir=True)
        assert code == 1
        assert "cannot overwrite" in err
    assert (await write_archive(guest, container, "/tmp", make_tar((entry("dir"), b"now a file"))))[0] == 0
    assert await guest.shell(container, "cat /tmp/dir") == "now a file"


@pytest.mark.parametrize("data", [b"garbage" * 100, make_tar((entry("cut"), b"x" * 5000))[:2000]])
async def test_a_damaged_archive_is_refused(guest: Guest, container: str, data: bytes) -> None:
    code, err = await write_archive(guest, container, "/tmp", data)
    assert code == 1
    assert "archive" in err


async def test_the_root_is_archived_without_what_is_no_file_of_the_container(guest: Guest, container: str) -> None:
    names = set(await read_archive(guest, container, "/"))
    assert {"./etc/passwd", "./proc", "./dev"} <= names
    assert not [name for name in names if name.startswith(("./proc/", "./dev/"))]


async def test_paths_are_told_about_without_following_the_last_link(guest: Guest, container: str) -> None:
    await guest.shell(container, "ln -s /etc/passwd /tmp/link; ln -s /etc /tmp/dir")
    link = await guest.channel.archive_stat(container, b"/tmp/link")
    assert (link.name, link.target, link.mode & 0o170000) == (b"link", b"/etc/passwd", 0o120000)
    through = await guest.channel.archive_stat(container, b"/tmp/dir/group")
    assert (through.name, through.mode & 0o177777) == (b"group", 0o100644)
    with pytest.raises(GuestCallError) as caught:
        await guest.channel.archive_stat(container, b"/nosuch")
    assert caught.value.errno == 2


# --- the machine ---

async def test_what_is_asked_wrongly_is_an_error_and_the_connection_stands(guest: Guest, container: str) -> None:
    with pytest.raises(GuestCallError) as caught:
        await guest.create(container)
    assert caught.value.errno == 17
    for call in (guest.channel.remove("nosuch"), guest.create("../x"), guest.channel.release(2**31 - 1),
                 guest.create("bad", mounts=(Mount(kind="volume", source="nosuch/..", target=b"/x"),))):
        with pytest.raises(GuestCallError):
            await call
    assert (await guest.channel.ping()).agent


async def test_the_clock_and_host_name_are_the_host_s(guest: Guest, container: str, tmp_path: Path) -> None:
    out = await guest.shell(container, "hostname; date +%s")
    name, seconds = out.split()
    assert name == "guest"
    (tmp_path / "now").touch()
    assert abs(int(seconds) - (tmp_path / "now").stat().st_mtime) < 30


async def test_a_container_that_is_being_started_or_archived_can_be_removed(guest: Guest) -> None:
    for _ in range(5):
        name = await guest.create(f"r{guest.handle()}", writable="disk-writable")
        start = asyncio.create_task(guest.channel.start(name, guest.handle(), process("sleep", "1000")))
        archive = guest.handle()
        await guest.channel.archive_write(name, archive, b"/tmp")
        await asyncio.gather(guest.channel.remove(name), start, return_exceptions=True)
        assert name not in [one.id for one in (await guest.channel.list_all()).containers]
        assert (await guest.exited(archive)).signal == signal.SIGKILL
    assert (await guest.channel.ping()).agent
