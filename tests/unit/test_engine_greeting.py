"""Who speaks first where a machine comes up: its agent, its death, or the clock. The agent is a small peer in this
process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from hyperstack.engine.machines import greeting
from hyperstack.guest.channel import AgentChannel
from hyperstack.hypervisor.api import ExitKind, MachineExit
from hyperstack.pod.errors import Unavailable
from tests.unit.guest_peer import KEY, Peer

PANIC = "booting\n\nKernel panic - not syncing: no init\nCall Trace:\n do_exit\n"


class Machine:
    """What a greeting asks of a machine; it has an agent as long as it lives."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.death: asyncio.Future[MachineExit] = asyncio.get_running_loop().create_future()
        self.connected = asyncio.Event()

    async def connect_agent(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.death.done():
            raise Unavailable("the machine is gone")
        streams = await self.peer.open()
        self.connected.set()
        return streams

    async def wait(self) -> MachineExit:
        return await asyncio.shield(self.death)

    async def console_tail(self) -> str:
        return "waiting for a disk"

    def die(self) -> None:
        self.death.set_result(MachineExit(kind=ExitKind.PANIC, reason="the guest's kernel panicked", console=PANIC))


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    made = Machine(Peer())
    yield made
    await made.peer.close()


def greet(machine: Machine, deadline_s: float = 10.0) -> asyncio.Task[AgentChannel]:
    return asyncio.create_task(greeting.greet(machine, KEY, deadline_s=deadline_s))  # type: ignore[arg-type]  # the parts of a machine that it uses


async def failure(task: asyncio.Task[AgentChannel]) -> greeting.NoAnswer:
    async with asyncio.timeout(10):
        with pytest.raises(greeting.NoAnswer) as caught:
            await task
    return caught.value


async def test_an_agent_that_answers_is_there_to_be_called(machine: Machine) -> None:
    machine.peer.handlers["ping"] = lambda _: {"uptime_ns": 1, "kernel": "6.1", "agent": "1"}
    async with await greet(machine) as channel:
        assert (await channel.ping()).kernel == "6.1"


async def test_a_machine_that_dies_is_not_waited_for(machine: Machine) -> None:
    machine.peer.silent_hellos = 100
    task = greet(machine, deadline_s=3600)
    await machine.connected.wait()
    machine.die()
    error = await failure(task)
    assert (error.why, error.console) == ("the guest's kernel panicked", PANIC)
    assert error.message == "it did not bring up the agent: the guest's kernel panicked"


async def test_a_machine_whose_port_goes_first_still_tells_why_it_died(machine: Machine) -> None:
    async def refused() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        asyncio.get_running_loop().call_later(0.05, machine.die)
        raise Unavailable("the machine is gone")

    machine.connect_agent = refused  # type: ignore[method-assign]
    assert (await failure(greet(machine))).why == "the guest's kernel panicked"


async def test_an_agent_that_is_silent_too_long_is_told_with_the_console(machine: Machine) -> None:
    machine.peer.silent_hellos = 100
    error = await failure(greet(machine, deadline_s=0.05))
    assert "did not answer within 0.05 s" in error.why
    assert error.console == "waiting for a disk"


@pytest.mark.parametrize("rounds", range(12))
async def test_who_gives_up_waiting_leaves_no_connection(machine: Machine, rounds: int) -> None:
    task = greet(machine)
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        await task.result().close()
    await asyncio.sleep(0.05)
    assert [one for one in asyncio.all_tasks() if one.get_name().startswith("agent ")] == []


@pytest.mark.parametrize(("console", "shown"), [
    ("", []), ("\n \n", []), (PANIC, ["booting", "Kernel panic - not syncing: no init"]),
    ("\n".join(map(str, range(30))), [str(number) for number in range(20, 30)]), ("x" * 500, ["x" * 200])])
def test_of_a_console_the_last_lines_that_matter_are_told(console: str, shown: list[str]) -> None:
    assert greeting.last_lines(console) == "".join(f"\n  | {line}" for line in shown)
