"""Containers of one guest that share PID and IPC namespaces, or have their own."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from hyperstack.guest.channel import GuestCallError
from tests.vm.agent_vm import Guest, busybox_root, lasting, make_layer, process

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guest]:
    directory = tmp_path_factory.mktemp("sharing")
    base = make_layer(busybox_root(directory / "base"), directory / "base.erofs")
    async with lasting(directory, [("layer0", base, True)]) as booted:
        yield booted


@pytest_asyncio.fixture(loop_scope="module")
async def donor(guest: Guest) -> AsyncIterator[str]:
    """A running container with a file in its /dev/shm."""
    name = f"d{guest.handle()}"
    await guest.create(name)
    handle, _ = await guest.begin(name, "sh", "-c", "echo theirs >/dev/shm/file; exec sleep 100000")
    yield name
    await guest.channel.remove(name)
    await guest.channel.release(handle)


async def namespaces(guest: Guest, container: str) -> dict[str, str]:
    lines = await guest.shell(container, "for n in pid ipc mnt; do echo $n $(readlink /proc/self/ns/$n); done")
    return dict(line.split() for line in lines.splitlines())


async def test_in_another_s_pid_namespace_its_processes_are_seen_and_die_with_it(guest: Guest, stopped: str) -> None:
    first = await guest.create(f"f{guest.handle()}")
    main, _ = await guest.begin(first, "sh", "-c", "while :; do sleep 0.05; done")
    joined, _ = await guest.begin(stopped, "sleep", "100000", pid_of=first)
    ours, theirs = await namespaces(guest, stopped), await namespaces(guest, first)
    assert (ours["pid"] == theirs["pid"], ours["mnt"] == theirs["mnt"]) == (True, False)
    assert "while" in await guest.shell(stopped, "tr '\\0' ' ' </proc/1/cmdline")
    assert "100000" in await guest.shell(first, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    await guest.channel.signal(main, 9)
    event = await asyncio.wait_for(guest.exited(joined), 60)
    assert event.signal == 9
    await guest.channel.remove(first)
    for handle in (main, joined):
        await guest.channel.release(handle)


async def test_the_end_of_who_joined_leaves_the_other(guest: Guest, donor: str, stopped: str) -> None:
    event, _ = await guest.run(stopped, "sh", "-c", "sleep 100000 & exit 3", pid_of=donor, ipc_of=donor)
    assert event.code == 3
    assert "100000" not in await guest.shell(donor, "cat /proc/[2-9]*/cmdline | tr '\\0' ' '")


async def test_shared_ipc_is_one_namespace_and_one_shm(guest: Guest, donor: str, stopped: str) -> None:
    handle, _ = await guest.begin(stopped, "sleep", "100000", ipc_of=donor)
    ours, theirs = await namespaces(guest, stopped), await namespaces(guest, donor)
    assert (ours["ipc"] == theirs["ipc"], ours["pid"] == theirs["pid"]) == (True, False)
    assert await guest.shell(stopped, "cat /dev/shm/file; echo ours >/dev/shm/back") == "theirs\n"
    assert await guest.shell(donor, "cat /dev/shm/back") == "ours\n"
    await guest.channel.signal(handle, 9)


@pytest.mark.parametrize("no_shm", [False, True])
async def test_ipc_of_its_own_is_nobody_else_s(guest: Guest, donor: str, stopped: str, no_shm: bool) -> None:
    handle, _ = await guest.begin(stopped, "sleep", "100000", own_ipc=True, no_shm=no_shm)
    assert (await namespaces(guest, stopped))["ipc"] != (await namespaces(guest, donor))["ipc"]
    mounted = await guest.shell(stopped, "grep -c ' /dev/shm ' /proc/mounts || true")
    assert mounted.strip() == ("0" if no_shm else "1")
    assert "file" not in await guest.shell(stopped, "ls /dev/shm || true", stdin=None)
    await guest.channel.signal(handle, 9)


async def test_what_does_not_run_cannot_be_joined(guest: Guest, donor: str, stopped: str) -> None:
    idle = await guest.create(f"i{guest.handle()}")
    for key in ("pid_of", "ipc_of"):
        with pytest.raises(GuestCallError, match="does not run") as told:
            await guest.channel.start(stopped, guest.handle(), process("true", **{key: idle}))
        assert told.value.errno == errno.ESRCH
        with pytest.raises(GuestCallError, match="there is no container nobody"):
            await guest.channel.start(stopped, guest.handle(), process("true", **{key: "nobody"}))
    with pytest.raises(GuestCallError, match="another container's or its own"):
        await guest.channel.start(stopped, guest.handle(), process("true", ipc_of=donor, own_ipc=True))
    await guest.channel.remove(idle)


async def test_groups_are_found_by_name_in_the_container_s_own_file(guest: Guest, donor: str) -> None:
    assert await guest.shell(donor, "id -G", group_names=(b"extra", b"77")) == "0 77 2000\n"
    with pytest.raises(GuestCallError, match="unable to find group nosuch"):
        await guest.channel.exec(donor, guest.handle(), process("true", group_names=(b"nosuch",)))
