"""Which machines stand ready, for whom, and when they are given up; `tests/e2e/test_pool.py` has the real ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.machines import pool as pools
from hyperstack.engine.machines.pool import Pool, PoolState, Ready
from hyperstack.engine.machines.start_queue import StartQueue
from hyperstack.engine.machines.uids import Uids
from hyperstack.engine.store import Store
from hyperstack.guest.connection import EventHandler
from hyperstack.guest.messages import OomEvent
from hyperstack.hypervisor.api import (
    POOL_PREFIX,
    ExitKind,
    HostUsage,
    MachineExit,
    MachineSpec,
    Template,
    TemplateSpec,
)
from hyperstack.pod.errors import Exhausted, GuestError, HyperStackError, Unavailable
from hyperstack.pod.kernel import Kernel

KERNEL = Kernel(name="k", image=Path("/k"), initrd=Path("/i"))
TOTAL, RESERVE, PLENTY, SHORT = 8192, 256, 7000, 200
"""MiB."""
EACH = 32 << 20
"""Bytes that each machine takes."""


class Machine:
    def __init__(self, spec: MachineSpec) -> None:
        self.id, self.spec = spec.id, spec
        self.end: asyncio.Future[MachineExit] = asyncio.get_running_loop().create_future()
        self.destroyed = False

    async def wait(self) -> MachineExit:
        return await asyncio.shield(self.end)

    async def usage(self, *, pss: bool = False) -> HostUsage:
        return HostUsage(memory_bytes=EACH, cpu_ns=0, pids=1)

    async def destroy(self) -> None:
        self.destroyed = True


class Channel:
    def __init__(self) -> None:
        self.closed: asyncio.Future[GuestError | None] = asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


class Host:
    """What a pool asks of the rooms, in memory, and a host whose memory is what a file says."""

    def __init__(self, directory: Path, *, size: int = 1, percent: int = 10) -> None:
        self.meminfo = directory / "meminfo"
        self.has(PLENTY)
        self.current: dict[TemplateSpec, Template] = {}
        self.machines: list[Machine] = []
        self.hearers: list[EventHandler] = []
        self.problems: list[HyperStackError] = []
        self.greetings: list[HyperStackError] = []
        self.starts = StartQueue(slots=3, reserve_mib=RESERVE, patience_s=1, meminfo=self.meminfo)
        config = EngineConfig(data_root=directory, pool_size=size, pool_memory_percent=percent, uid_base=1000,
                              uid_count=100)
        self.store = Store(directory / "engine.db")
        self.uids = Uids(self.store, config)
        self.pool = Pool(self, self, self, self.starts, self.uids, config)  # type: ignore[arg-type]  # their parts

    def has(self, available: int) -> None:
        self.meminfo.write_text(f"MemTotal: {TOTAL << 10} kB\nMemAvailable: {available << 10} kB\n")

    def template(self, project: str = "a", memory_mib: int = 512) -> Template:
        spec = TemplateSpec(kernel=KERNEL, memory_mib=memory_mib, vcpus=1, nic=True, scope=self.scope(project))
        return self.current.setdefault(spec, Template(id=f"{len(self.current):064x}", spec=spec,
                                                      created_ns=time.time_ns(), memory_bytes=1))

    def standing(self, spec: TemplateSpec) -> Template | None:
        return self.current.get(spec)

    def scope(self, project: str) -> str:
        return f"project {project}"

    async def make_spare(self, machine: str, *, uid: int) -> int:
        return os.open(os.devnull, os.O_RDONLY)

    async def start(self, spec: MachineSpec) -> Machine:
        if self.problems:
            raise self.problems.pop()
        assert spec.nic is not None
        os.fstat(spec.nic.fd)
        self.machines.append(Machine(spec))
        return self.machines[-1]

    async def greet(self, machine: Machine, key: bytes, *, deadline_s: float, on_event: EventHandler) -> Channel:
        if self.greetings:
            raise self.greetings.pop()
        self.hearers.append(on_event)
        return Channel()

    @property
    def alive(self) -> list[Machine]:
        return [machine for machine in self.machines if not machine.destroyed]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool looks whenever it may."""
    for name in ("_QUIET_S", "_LOOK_S"):
        monkeypatch.setattr(pools, name, 1e-6)


@contextlib.asynccontextmanager
async def serving(host: Host, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    monkeypatch.setattr(pools, "greet", host.greet)
    try:
        yield host
    finally:
        await host.pool.close()
        host.store.close()


@pytest_asyncio.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    async with serving(Host(tmp_path), monkeypatch) as host:
        yield host


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def taken(host: Host, template: Template) -> Ready:
    await settle()
    ready = host.pool.take(template)
    assert ready is not None
    return ready


async def test_nothing_stands_ready_before_somebody_asked(host: Host) -> None:
    template = host.template()
    await settle()
    assert host.machines == []
    assert host.pool.take(template) is None
    await settle()
    assert [machine.id.startswith(POOL_PREFIX) for machine in host.alive] == [True]


async def test_one_that_is_taken_is_replaced_and_given_to_nobody_else(host: Host) -> None:
    template = host.template()
    host.pool.take(template)
    first = await taken(host, template)
    assert host.pool.take(template) is None
    second = await taken(host, template)
    assert first.machine is not second.machine
    assert first.key != second.key
    assert first.uid != second.uid
    assert not first.machine.destroyed  # type: ignore[attr-defined]  # our own


async def test_as_many_stand_ready_as_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Host(tmp_path, size=3), monkeypatch) as host:
        host.pool.take(host.template())
        await settle()
        assert len(host.alive) == 3
        assert host.pool.state() == PoolState(size=3, ready=3, memory=3 * EACH)
        assert host.pool.state("a").ready == 3
        assert host.pool.state("b").ready == 0


async def test_a_pool_of_none_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Host(tmp_path, size=0), monkeypatch) as host:
        assert host.pool.take(host.template()) is None
        await settle()
        assert host.machines == []


async def test_projects_and_sizes_do_not_share(host: Host) -> None:
    host.pool.take(host.template("a"))
    await settle()
    assert host.pool.take(host.template("b")) is None
    assert host.pool.take(host.template("a", memory_mib=128)) is None
    assert (await taken(host, host.template("a"))).template.spec.scope == "project a"


async def test_none_is_made_while_a_start_is_under_way(host: Host) -> None:
    async with host.starts.turn("pod", "a", memory_mib=1):
        host.pool.take(host.template())
        await settle()
        assert host.machines == []
    await settle()
    assert len(host.alive) == 1


async def test_those_of_a_template_that_was_renewed_go(host: Host) -> None:
    template = host.template()
    host.pool.take(template)
    await settle()
    old = host.alive
    host.current[template.spec] = renewed = replace(template, created_ns=template.created_ns + 1)
    assert host.pool.take(renewed) is None
    await settle()
    assert all(machine.destroyed for machine in old)
    assert (await taken(host, renewed)).template == renewed


async def test_without_its_template_none_stands(host: Host) -> None:
    template = host.template()
    host.pool.take(template)
    await settle()
    host.current.clear()
    await settle()
    assert host.alive == []


async def test_all_are_given_up_where_the_host_is_short_of_memory(host: Host) -> None:
    host.pool.take(host.template())
    await settle()
    host.has(SHORT)
    await settle()
    assert host.alive == []
    assert host.pool.take(host.template()) is None
    host.has(PLENTY)
    await settle()
    assert len(host.alive) == 1


async def test_all_are_given_up_where_a_start_is_short_of_memory(host: Host) -> None:
    host.pool.take(host.template())
    await settle()
    host.has(500)
    waiting = asyncio.create_task(start(host, memory_mib=512))
    await settle()
    assert host.alive == []
    host.has(PLENTY)
    waiting.cancel()


async def start(host: Host, *, memory_mib: int) -> None:
    async with host.starts.turn("pod", "a", memory_mib=memory_mib):
        return


async def test_together_they_take_no_more_than_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Host(tmp_path, size=50, percent=2), monkeypatch) as host:
        host.pool.take(host.template())
        await settle()
        share = (PLENTY - RESERVE << 20) * 2 // 100
        # What they take is no more available to others; the file does not know of that, the pool adds it.
        assert EACH <= len(host.alive) * EACH <= share * 100 // 98


async def test_who_asked_lately_takes_the_place_of_who_did_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Host(tmp_path, percent=1), monkeypatch) as host:
        for project in ("a", "b", "c"):
            host.pool.take(host.template(project))
            await settle()
        kept = [machine.spec.template.spec.scope for machine in host.alive if machine.spec.template is not None]
        assert kept[-1] == "project c"
        assert "project a" not in kept


async def test_a_class_that_nobody_asks_for_any_more_is_forgotten(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.pool.take(host.template())
    await settle()
    monkeypatch.setattr(pools, "_FORGOTTEN_S", -1.0)
    await settle()
    assert host.alive == []


async def test_one_that_dies_is_replaced_and_its_uid_is_free_again(host: Host) -> None:
    host.pool.take(host.template())
    await settle()
    [machine] = host.alive
    machine.end.set_result(MachineExit(kind=ExitKind.KILLED, reason="somebody killed it"))
    await settle()
    assert machine.destroyed
    assert [other.spec.uid for other in host.alive] == [machine.spec.uid]


async def test_what_does_not_come_up_is_not_tried_all_the_time(host: Host) -> None:
    host.problems.extend([Unavailable("no"), Unavailable("never")])
    host.pool.take(host.template())
    await settle()
    assert len(host.problems) == 1
    assert host.machines == []


async def test_one_that_does_not_answer_is_destroyed(host: Host) -> None:
    host.greetings.append(GuestError("silence"))
    host.pool.take(host.template())
    await settle()
    assert [machine.destroyed for machine in host.machines] == [True]
    assert host.uids.free() == host.machines[0].spec.uid


async def test_who_takes_one_hears_what_its_guest_tells(host: Host) -> None:
    heard = []

    async def hear(event: object) -> None:
        heard.append(event)

    template = host.template()
    host.pool.take(template)
    await settle()
    [tell] = host.hearers
    await tell(OomEvent(container="nobody's"))
    ready = await taken(host, template)
    ready.on_event = hear
    await tell(OomEvent(container="c"))
    assert heard == [OomEvent(container="c")]


async def test_the_end_of_the_daemon_ends_those_that_nobody_took(host: Host) -> None:
    template = host.template()
    host.pool.take(template)
    ready = await taken(host, template)
    await settle()
    assert len(host.alive) == 2
    await host.pool.close()
    assert [machine.id for machine in host.alive] == [ready.machine.id]


async def test_a_uid_has_one_machine(host: Host) -> None:
    lent = {host.uids.lend() for _ in range(100)}
    assert len(lent) == 100
    with pytest.raises(Exhausted, match="uid"):
        host.uids.free()
    host.uids.give_back(1007)
    assert host.uids.free() == 1007
