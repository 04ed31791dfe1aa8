"""What the agent does for the machine as a whole: network, a PID namespace for the pod, late disks, the end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from qemu.qmp import QMPClient

from hyperstack.guest.channel import GuestCallError
from hyperstack.guest.messages import Configure, Net, Volume
from tests.vm.agent_vm import Guest, boot, busybox_root, make_blank, make_layer

pytestmark = pytest.mark.asyncio(loop_scope="module")

NET = Net(mac="02:00:00:00:00:42", address="10.0.2.99/24", gateway="10.0.2.2", mtu=1400)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guest]:
    directory = tmp_path_factory.mktemp("machine")
    base = make_layer(busybox_root(directory / "base"), directory / "base.erofs")
    make_blank(directory / "late.img")
    options = ["-netdev", "user,id=n0,restrict=on",
               "-device", "virtio-net-pci,netdev=n0,mac=02:00:00:00:00:01,romfile=",
               "-qmp", f"unix:{directory}/qmp.sock,server=on,wait=off"]
    async with boot(directory, [("layer0", base, True)], options=options, share_pid=True, net=NET, domainname="example",
                    sysctls={"net.ipv4.ip_unprivileged_port_start": "0"}) as booted:
        for name in ("one", "two"):
            await booted.create(name)
            await booted.begin(name, "sleep", "100000")
        yield booted


async def test_the_network_is_as_configured(guest: Guest) -> None:
    out = await guest.shell("one", "ip -o addr show eth0; ip route; ip -o addr show lo; "
                            "cat /sys/class/net/eth0/address")
    assert "10.0.2.99/24" in out
    assert "default via 10.0.2.2 dev eth0" in out
    assert "02:00:00:00:00:42" in out
    assert "127.0.0.1/8" in out
    assert await guest.shell("one", "cat /sys/class/net/eth0/mtu") == "1400\n"
    assert await guest.shell("one", "ping -c1 -W5 10.0.2.2 > /dev/null && echo reached") == "reached\n"
    assert (await guest.channel.stats()).net.tx_packets > 0


async def test_names_and_sysctls_are_as_configured(guest: Guest) -> None:
    out = await guest.shell("one", "hostname; cat /proc/sys/kernel/domainname; "
                            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
    assert out == "guest\nexample\n0\n"


async def test_a_sandbox_is_configured_once(guest: Guest) -> None:
    with pytest.raises(GuestCallError) as caught:
        await guest.channel.configure(Configure(time_ns=0, entropy=bytes(32), hostname="again"))
    assert caught.value.errno == 114
    assert await guest.shell("one", "hostname") == "guest\n"


async def test_containers_of_a_pod_share_processes_but_not_files(guest: Guest) -> None:
    out = await guest.shell("one", "ps -o pid,comm")
    assert out.count("sleep") == 2
    assert out.split("\n")[1].split() == ["1", "pause"]
    await guest.shell("two", "touch /tmp/of-two")
    assert await guest.shell("one", "ls /tmp; ls /proc/1/root 2>&1 | grep -v denied; true") == ""


async def test_the_end_of_one_container_ends_its_processes_alone(guest: Guest) -> None:
    await guest.create("short")
    main, sink = await guest.begin("short", "sleep", "1000")
    other, other_sink = await guest.begin("short", "sleep", "2000", further=True)
    await guest.channel.signal(main, signal.SIGKILL)
    await guest.finish(main, sink)
    assert (await guest.finish(other, other_sink)).signal == signal.SIGKILL
    assert "sleep 100000" in await guest.shell("one", "ps -o args")
    await guest.channel.remove("short")


async def test_pid_numbers_are_those_of_the_pod(guest: Guest) -> None:
    listed = {one.command: one.pid for one in await guest.channel.processes("two")}
    assert str(listed[b"sleep"]) in await guest.shell("two", "pidof sleep")


async def test_a_call_waits_for_a_disk_that_is_plugged_in_later(guest: Guest) -> None:
    monitor = QMPClient("test")
    await monitor.connect(str(guest.directory / "qmp.sock"))
    waiting = asyncio.create_task(guest.channel.volume(Volume(name="late", serial="late-disk", mode=0o770)))
    assert await guest.shell("one", "echo others go on") == "others go on\n"
    assert not waiting.done()
    await monitor.execute("blockdev-add", {"driver": "raw", "node-name": "late", "file": {
        "driver": "file", "filename": str(guest.directory / "late.img")}})
    await monitor.execute("device_add", {"driver": "scsi-hd", "bus": "scsi0.0", "drive": "late", "serial": "late-disk",
                                         "id": "late"})
    await asyncio.wait_for(waiting, 10)
    await guest.channel.unvolume("late")
    await monitor.disconnect()


async def test_a_connection_that_vanishes_forgets_calls_that_wait(guest: Guest) -> None:
    waiting = asyncio.create_task(guest.channel.volume(Volume(name="never", serial="never")))
    await guest.channel.ping()
    await guest.channel.close()
    await asyncio.gather(waiting, return_exceptions=True)
    await guest.connect()
    assert (await guest.channel.ping()).agent


async def test_the_agent_does_not_spin_without_a_host(guest: Guest) -> None:
    async def idle_ticks() -> int:
        return int((await guest.shell("one", "head -1 /proc/stat")).split()[4])

    before = await idle_ticks()
    await guest.channel.close()
    await asyncio.sleep(3)
    await guest.connect()
    assert await idle_ticks() - before > 100, "of about 300 hundredths of a second"


async def test_a_shutdown_gives_time_to_end_and_powers_off(guest: Guest) -> None:
    await guest.create("polite")
    script = "trap 'exit 4' TERM; echo ready; while :; do sleep 0.1; done"
    handle, sink = await guest.begin("polite", "sh", "-c", script)
    while not sink.data[1]:
        await asyncio.sleep(0.05)
    await guest.channel.shutdown(grace_ns=20_000_000_000)
    assert (await asyncio.wait_for(asyncio.shield(guest.exited(handle)), 30)).code == 4
    assert await asyncio.wait_for(guest.machine.wait(), 60) == 0
    assert "Power down" in Path(guest.directory / "console").read_text()
