"""Whether a machine that was greeted still lives: its process, its agent's connection, its answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from hyperstack.engine.machines import greeting
from hyperstack.guest.channel import AgentChannel
from hyperstack.hypervisor.api import Machine
from hyperstack.pod.errors import HyperStackError


async def lost(machine: Machine, channel: AgentChannel, *, keepalive_s: float, deadline_s: float) -> str:
    """Ends, with the reason, when the machine died, its agent was cut off, or the guest fell silent.

    :param keepalive_s: between pings.
    :param deadline_s: for the answer to one.
    """
    async with _tasks(machine.wait(), _ended(channel), _silence(channel, keepalive_s, deadline_s)) as tasks:
        death, end, silence = tasks
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if death not in done:
            # A dying machine closes its sockets first; its own word is the better reason.
            await asyncio.wait((death,), timeout=greeting.LAST_WORDS_S)
        if death.done():
            last = death.result()
            return f"The machine died: {last.reason}{greeting.last_lines(last.console)}"
        if end.done():
            return f"The guest's agent was cut off: {end.result()}"
        return f"The guest fell silent: {silence.result()}"


@contextlib.asynccontextmanager
async def _tasks(*coroutines: Coroutine[Any, Any, Any]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    tasks = [asyncio.create_task(c) for c in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            await greeting.end(task)


async def _ended(channel: AgentChannel) -> str:
    """Why the connection ended."""
    return str(await asyncio.shield(channel.closed) or "closed")


async def _silence(channel: AgentChannel, keepalive_s: float, deadline_s: float) -> str:
    """Ends, with the reason, when the guest no longer answers."""
    while True:
        await asyncio.sleep(keepalive_s)
        try:
            await channel.ping(deadline_s=deadline_s)
        except HyperStackError as error:
            return str(error)
