"""Work shared by several callers."""

from __future__ import annotations

import asyncio

import pytest

from hyperstack.image.shared import SharedJobs, Watcher


class Work:
    """Counts its runs; goes on when it is let."""

    def __init__(self) -> None:
        self.runs = 0
        self.ended = 0
        self.go = asyncio.Event()

    async def __call__(self, tell: Watcher) -> int:
        self.runs += 1
        try:
            tell("begun", 0, 0)
            await self.go.wait()
            tell("done", 1, 1)
            return self.runs
        finally:
            await asyncio.sleep(0)
            self.ended += 1


def unheard(status: str, current: int, total: int) -> None:
    """For callers that do not ask."""


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_two_callers_one_run_and_both_hear() -> None:
    jobs, work, heard = SharedJobs[int](), Work(), []
    callers = [asyncio.create_task(jobs.run("key", work, lambda *step, who=who: heard.append((who, step[0]))))
               for who in "ab"]
    await settle()
    work.go.set()
    assert await asyncio.gather(*callers) == [1, 1]
    assert sorted(heard) == [("a", "begun"), ("a", "done"), ("b", "begun"), ("b", "done")]
    assert await jobs.run("key", work, unheard) == 2


async def test_everybody_gets_the_error_and_the_next_try_is_new() -> None:
    jobs = SharedJobs[int]()

    async def failing(tell: Watcher) -> int:
        await asyncio.sleep(0)
        raise OSError("no")

    for outcome in await asyncio.gather(*(jobs.run("key", failing, unheard) for _ in range(3)), return_exceptions=True):
        assert isinstance(outcome, OSError)
    work = Work()
    work.go.set()
    assert await jobs.run("key", work, unheard) == 1


async def test_the_work_goes_on_for_those_who_stay_and_ends_with_the_last() -> None:
    jobs, work = SharedJobs[int](), Work()
    first, second = (asyncio.create_task(jobs.run("key", work, unheard)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert work.ended == 0
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert work.ended == 1


async def test_who_comes_while_abandoned_work_ends_waits_for_its_end() -> None:
    jobs, work = SharedJobs[int](), Work()
    first = asyncio.create_task(jobs.run("key", work, unheard))
    await settle()
    first.cancel()
    work.go.set()
    second = asyncio.create_task(jobs.run("key", work, unheard))
    assert await second == 2
    assert work.ended == 2
