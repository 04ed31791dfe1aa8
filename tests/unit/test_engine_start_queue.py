"""Whose machine may start now: bounds, fairness, memory, and that no turn is ever lost."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperstack.engine.machines import start_queue
from hyperstack.engine.machines.start_queue import StartQueue
from hyperstack.pod.errors import Conflict, Exhausted

TOTAL, RESERVE, PLENTY = 8192, 256, 7000
"""MiB."""


class Host:
    """A host whose memory is what a file in /proc's format says, and the starts that it is asked for."""

    def __init__(self, directory: Path, *, slots: int = 3, patience_s: float = 60.0, available: int = PLENTY) -> None:
        self._meminfo = directory / "meminfo"
        self.has(available)
        self.queue = StartQueue(slots=slots, reserve_mib=RESERVE, patience_s=patience_s, meminfo=self._meminfo)
        self.begun: list[str] = []
        self.under_way: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.ends: dict[str, asyncio.Event] = {}

    def has(self, available: int) -> None:
        self._meminfo.write_text(f"MemTotal:       {TOTAL << 10} kB\nMemFree:          1024 kB\n"
                                 f"MemAvailable:   {available << 10} kB\nHugePages_Total:       0\n")

    async def ask(self, ident: str, project: str = "p", memory: int = 512) -> None:
        """Ask for a start, and let everything happen that happens at once."""
        self.ends[ident] = asyncio.Event()
        self.tasks[ident] = asyncio.create_task(self._start(ident, project, memory))
        await quiet()

    async def _start(self, ident: str, project: str, memory: int) -> None:
        async with self.queue.turn(ident, project, memory_mib=memory):
            self.begun.append(ident)
            self.under_way.append(ident)
            try:
                await self.ends[ident].wait()
            finally:
                self.under_way.remove(ident)

    async def end(self, ident: str) -> None:
        self.ends[ident].set()
        await quiet()

    async def cancel(self, ident: str) -> None:
        self.tasks[ident].cancel()
        await quiet()

    async def failure(self, ident: str) -> BaseException:
        done, _ = await asyncio.wait([self.tasks[ident]], timeout=5)
        assert done, f"{ident} neither started nor failed"
        error = self.tasks[ident].exception()
        assert error is not None
        return error

    async def drain(self) -> None:
        """Let every start end, as it comes."""
        for event in self.ends.values():
            event.set()
        ends = await asyncio.wait_for(asyncio.gather(*self.tasks.values(), return_exceptions=True), 5)
        assert all(end is None or isinstance(end, asyncio.CancelledError | Conflict | Exhausted) for end in ends), ends


async def quiet() -> None:
    """Until every task waits for something that is still to come."""
    for _ in range(6):
        await asyncio.sleep(0)


@pytest.fixture
def make_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Host]:
    monkeypatch.setattr(start_queue, "_POLL_S", 0.01)

    def make(**options: Any) -> Host:
        return Host(tmp_path, **options)

    return make


async def test_no_more_starts_are_under_way_than_there_are_slots(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=3)
    for number in range(9):
        await host.ask(f"{number}", project=f"p{number % 3}")
        assert len(host.under_way) <= 3
    assert host.under_way == ["0", "1", "2"]
    await host.end("1")
    assert host.under_way == ["0", "2", "3"]


async def test_it_tells_for_how_long_no_start_was_under_way(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    assert host.queue.idle_s == math.inf
    for name in ("first", "second"):
        await host.ask(name)
    await host.end("first")
    assert host.queue.idle_s == 0, "the second is under way"
    await host.drain()
    assert 0 <= host.queue.idle_s < math.inf


async def test_it_tells_of_a_host_that_is_short_of_memory(make_host: Callable[..., Host]) -> None:
    host = make_host(available=RESERVE + 100)
    assert (host.queue.is_short, host.queue.room_mib()) == (False, 100)
    await host.ask("waits", memory=101)
    assert host.queue.is_short
    await host.cancel("waits")
    assert not host.queue.is_short
    host.has(RESERVE - 1)
    assert (host.queue.is_short, host.queue.room_mib()) == (True, -1)


async def test_within_a_project_who_came_first_goes_first(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    for number in range(5):
        await host.ask(f"{number}")
    await host.drain()
    assert host.begun == ["0", "1", "2", "3", "4"]


async def test_projects_take_turns_whatever_they_have_asked_for(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    for number in range(4):
        await host.ask(f"a{number}", "storm")
    await host.ask("b0", "calm")
    await host.ask("c0", "third")
    await host.ask("b1", "calm")
    await host.drain()
    assert host.begun == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]


async def test_one_projects_storm_does_not_delay_anothers_first_start(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=3)
    for number in range(20):
        await host.ask(f"storm{number}", "storm")
    assert len(host.under_way) == 2
    await host.ask("first", "calm")
    assert "first" in host.under_way


async def test_who_stops_waiting_is_not_waited_for(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    for name in ("running", "impatient", "patient"):
        await host.ask(name)
    await host.cancel("impatient")
    await host.end("running")
    assert host.begun == ["running", "patient"]


async def test_a_cancelled_start_gives_its_slot_to_the_next(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    await host.ask("first")
    await host.ask("second")
    await host.cancel("first")
    assert host.under_way == ["second"]


async def test_who_is_cancelled_in_the_moment_of_its_turn_passes_it_on(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    for name in ("first", "second", "third"):
        await host.ask(name)
    host.ends["first"].set()
    while host.queue.state().waiting != 1:  # "second" has its turn, and does not know it yet
        await asyncio.sleep(0)
    assert host.begun == ["first"]
    await host.cancel("second")
    assert host.begun == ["first", "third"]


async def test_who_is_cancelled_just_before_its_turn_does_not_get_it(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    for name in ("first", "second", "third"):
        await host.ask(name)
    host.tasks["first"].cancel()
    host.tasks["second"].cancel()  # it still stands in the queue when the first leaves
    await quiet()
    assert host.begun == ["first", "third"]
    await host.drain()


async def test_a_start_waits_until_the_host_has_memory_for_it(make_host: Callable[..., Host]) -> None:
    host = make_host(available=512 + RESERVE - 1)
    await host.ask("pod")
    assert host.begun == []
    assert host.queue.state().short_of_memory == 1
    host.has(512 + RESERVE)
    await asyncio.sleep(0.1)
    assert host.begun == ["pod"]
    assert host.queue.state().short_of_memory == 0


async def test_the_memory_of_starts_under_way_is_not_given_away_twice(make_host: Callable[..., Host]) -> None:
    host = make_host(available=2 * 512 + RESERVE + 100)
    for name in ("a", "b", "c"):
        await host.ask(name, project=name)
    assert host.under_way == ["a", "b"]
    assert host.queue.state().short_of_memory == 0, "it waits for the others, not for the host"
    await host.end("a")
    assert host.under_way == ["b", "c"]


async def test_a_start_that_is_short_of_memory_holds_up_its_own_project_only(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=4, available=2000)
    await host.ask("whale", "a", memory=4000)
    await host.ask("behind it", "a")
    await host.ask("minnow", "b")
    assert host.under_way == ["minnow"]
    host.has(PLENTY)
    await asyncio.sleep(0.1)
    assert host.under_way == ["minnow", "whale", "behind it"]


async def test_small_starts_do_not_slip_by_one_that_waits_for_starts_under_way(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=4, available=2000)
    await host.ask("first", "a", memory=1000)
    await host.ask("large", "b", memory=1500)
    await host.ask("small", "c", memory=100)
    assert host.under_way == ["first"]
    await host.end("first")
    assert host.begun == ["first", "large", "small"]


async def test_who_is_short_of_memory_for_too_long_is_refused_with_the_remedy(make_host: Callable[..., Host]) -> None:
    host = make_host(available=300, patience_s=0.5)
    began = asyncio.get_running_loop().time()
    for number in range(400):
        await host.ask(f"{number}")
    errors = [await host.failure(f"{number}") for number in range(400)]
    assert 0.5 <= asyncio.get_running_loop().time() - began < 3, "all of them after one patience"
    assert all(isinstance(error, Exhausted) for error in errors)
    assert isinstance(errors[0], Exhausted)
    assert (errors[0].field, errors[0].value) == ("memory", 512)
    assert "512 MiB" in str(errors[0])
    assert "now 300 MiB" in str(errors[0])
    assert "ask for less with -m" in str(errors[0])
    host.has(PLENTY)
    await host.ask("later")
    assert host.begun == ["later"]


async def test_the_wait_for_a_slot_is_nobodys_shortage_of_memory(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1, patience_s=0.05)
    await host.ask("slow")
    await host.ask("patient")
    await asyncio.sleep(0.3)
    await host.end("slow")
    assert host.under_way == ["patient"]


async def test_a_shortage_that_passes_is_forgotten(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1, available=300, patience_s=1.0)
    await host.ask("short", "a", memory=1000)
    await host.ask("running", "b", memory=10)
    await asyncio.sleep(0.7)
    host.has(PLENTY)
    await asyncio.sleep(0.1)
    host.has(300)
    await host.end("running")
    await asyncio.sleep(0.4)
    assert not host.tasks["short"].done(), "it was short for more than a second, but not on end"
    host.has(PLENTY)
    await asyncio.sleep(0.1)
    assert host.under_way == ["short"]


async def test_what_can_never_fit_is_refused_at_once(make_host: Callable[..., Host]) -> None:
    host = make_host()
    await host.ask("fits", memory=TOTAL - RESERVE - 1000)
    await host.ask("never", memory=TOTAL - RESERVE + 1)
    error = await host.failure("never")
    assert isinstance(error, Exhausted)
    assert (error.field, error.value) == ("memory", TOTAL - RESERVE + 1)
    assert f"{TOTAL - RESERVE} MiB" in str(error)
    assert "hypervisor.memory_reserve" in str(error)


async def test_a_waiting_start_can_be_withdrawn_and_one_under_way_cannot(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    for name in ("running", "waiting", "next"):
        await host.ask(name)
    assert not host.queue.withdraw("running", Conflict("stopped"))
    assert not host.queue.withdraw("unknown", Conflict("stopped"))
    assert host.queue.withdraw("waiting", Conflict("stopped"))
    assert not host.queue.withdraw("waiting", Conflict("stopped"))
    assert str(await host.failure("waiting")) == "stopped"
    await host.drain()
    assert host.begun == ["running", "next"]


async def test_the_state_tells_of_all_projects_or_of_one(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=2, available=2000)
    await host.ask("a0", "a")
    await host.ask("b0", "b")
    await host.ask("b1", "b", memory=4000)
    await host.ask("c0", "c")
    whole, b = host.queue.state(), host.queue.state("b")
    assert (whole.slots, whole.running, whole.waiting) == (2, 2, 2)
    assert (b.slots, b.running, b.waiting) == (2, 1, 1)
    await host.end("b0")
    await host.end("c0")
    assert host.queue.state("b").short_of_memory == 1
    assert host.queue.state("a").short_of_memory == 0


async def test_the_hosts_own_memory_is_read(tmp_path: Path) -> None:
    queue = StartQueue(slots=1, reserve_mib=0, patience_s=1)
    async with queue.turn("pod", "p", memory_mib=1):
        assert queue.state().running == 1


STEPS = st.lists(st.one_of(
    st.tuples(st.just("ask"), st.sampled_from("abc"), st.sampled_from([100, 512, 3000])),
    st.tuples(st.just("end"), st.integers(0, 9), st.none()),
    st.tuples(st.just("cancel running"), st.integers(0, 9), st.none()),
    st.tuples(st.just("cancel waiting"), st.integers(0, 9), st.none()),
    st.tuples(st.just("withdraw"), st.integers(0, 9), st.none()),
    st.tuples(st.just("cancel all at once"), st.none(), st.none()),
    st.tuples(st.just("memory"), st.sampled_from([0, 900, 4000, PLENTY]), st.none()),
), max_size=60)


class Model:
    """What must hold after each step, from what was asked for and what has happened alone."""

    def __init__(self, host: Host, slots: int) -> None:
        self.host = host
        self.slots = slots
        self.asked: dict[str, tuple[str, int]] = {}
        self.available = PLENTY

    def waiting(self) -> list[str]:
        return [name for name in self.asked if name not in self.host.begun and not self.host.tasks[name].done()]

    def check(self) -> None:
        under_way, waiting = self.host.under_way, self.waiting()
        by_project = Counter(self.asked[name][0] for name in under_way)
        assert len(under_way) <= self.slots
        assert all(count <= max(1, self.slots - 1) for count in by_project.values())
        state = self.host.queue.state()
        assert (state.running, state.waiting) == (len(under_way), len(waiting))
        for project in "abc":
            begun = [name for name in self.host.begun if self.asked[name][0] == project]
            assert begun == sorted(begun, key=int), "first come, first served"
        # Nobody waits for nothing: each project's first is held up by slots, or by memory.
        promised = sum(self.asked[name][1] for name in under_way)
        firsts = {self.asked[name][0]: name for name in reversed(waiting)}
        if len(under_way) < self.slots:
            free = [name for project, name in firsts.items() if by_project[project] < max(1, self.slots - 1)]
            needs = {name: self.asked[name][1] + RESERVE for name in free}
            some_waits_for_others = any(self.available - promised < need <= self.available for need in needs.values())
            for name, need in needs.items():
                assert self.available < need or some_waits_for_others, name


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 4), STEPS)
def test_no_turn_is_lost_and_every_bound_holds_in_any_order_of_events(slots: int, steps: list[Any]) -> None:
    async def run(directory: Path) -> None:
        host = Host(directory, slots=slots)
        model = Model(host, slots)
        for number, (action, first, second) in enumerate(steps):
            if action == "ask":
                model.asked[f"{number}"] = (first, second)
                await host.ask(f"{number}", first, second)
            elif action == "memory":
                host.has(first)
                model.available = first
                host.queue._look_again()
                await quiet()
            elif action == "cancel all at once":
                for task in host.tasks.values():
                    task.cancel()
                await quiet()
            else:
                names = model.waiting() if action in ("cancel waiting", "withdraw") else host.under_way
                if names:
                    name = names[first % len(names)]
                    if action == "withdraw":
                        assert host.queue.withdraw(name, Conflict("stopped"))
                        await quiet()
                    else:
                        await (host.end if action == "end" else host.cancel)(name)
            model.check()
        host.has(PLENTY)
        host.queue._look_again()
        await host.drain()
        state = host.queue.state()
        assert (state.running, state.waiting, host.under_way) == (0, 0, [])
        with contextlib.suppress(KeyError):
            await host.ask("last")
            assert host.begun[-1] == "last"
            await host.drain()

    with TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40))
def test_each_project_that_waits_gets_a_turn_before_any_gets_two(projects: list[str]) -> None:
    async def run(directory: Path) -> None:
        host = Host(directory, slots=1)
        asked = {f"{number}": project for number, project in enumerate(projects)}
        for name, project in asked.items():
            await host.ask(name, project, memory=1)
        while waiting := {asked[name] for name in asked if name not in host.begun}:
            before = len(host.begun)
            for _ in waiting:
                await host.end(host.under_way[0])
            assert {asked[name] for name in host.begun[before:]} == waiting
        await host.drain()

    with TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))


async def test_a_template_waits_for_memory_takes_no_slot_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                    ) -> None:
    monkeypatch.setattr(start_queue, "_POLL_S", 0.001)
    host = Host(tmp_path, slots=1, available=RESERVE + 900)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def make() -> None:
        async with host.queue.aside(memory_mib=512):
            entered.set()
            await leave.wait()

    await host.ask("first", memory=512)
    making = asyncio.create_task(make())
    await asyncio.sleep(0.01)
    assert not entered.is_set(), "there is not enough for both"
    host.has(RESERVE + 1100)
    await asyncio.wait_for(entered.wait(), 5)
    await host.end("first")
    await host.ask("second", memory=500)
    assert host.under_way == ["second"], "the only slot is free"
    await host.end("second")
    await host.ask("large", memory=700)
    assert host.under_way == [], "its memory is promised to the template"
    leave.set()
    await making
    await quiet()
    assert host.under_way == ["large"]
    await host.drain()
    with pytest.raises(Exhausted):
        async with host.queue.aside(memory_mib=TOTAL):
            pass
