"""The first connection to a machine's agent: it answers, or the machine dies, or time is up; and who says why.

Pods' machines, kernels on trial and templates' clones are all met this way.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from hyperstack.guest.channel import AgentChannel
from hyperstack.guest.connection import EventHandler
from hyperstack.hypervisor.api import Machine
from hyperstack.pod.errors import GuestError, HyperStackError

LAST_WORDS_S = 2.0
"""For a machine whose sockets closed to be seen dead, with its reason; and for its console to be read."""
_LINES = 10
_LINE = 200
"""Of the console that an error repeats, and characters of each."""


class NoAnswer(GuestError):
    """The agent did not come up."""

    def __init__(self, why: str, console: str) -> None:
        """:param console: what is known of it."""
        super().__init__(f"it did not bring up the agent: {why}")
        self.why = why
        self.console = console


async def greet(machine: Machine, key: bytes, *, deadline_s: float, on_event: EventHandler | None = None
                ) -> AgentChannel:
    """The channel to the agent, once it answers.

    :param key, on_event: see `AgentChannel.connect`.
    :param deadline_s: for a machine that lives; one that dies is told at once.
    :raise NoAnswer: with the machine's own reason where it died.
    """
    died = asyncio.create_task(machine.wait())
    answer = asyncio.create_task(AgentChannel.connect(machine.connect_agent, key, deadline_s=deadline_s,
                                                      on_event=on_event))
    channel: AgentChannel | None = None
    try:
        await asyncio.wait((died, answer), return_when=asyncio.FIRST_COMPLETED)
        if not died.done() and answer.exception() is not None:
            # A dying machine closes its sockets first; its own word is the better reason.
            await asyncio.wait((died,), timeout=LAST_WORDS_S)
        if answer.done() and answer.exception() is None:
            channel = answer.result()
            return channel
        if died.done():
            raise NoAnswer(died.result().reason, died.result().console)
        raise NoAnswer(str(answer.exception()), await console_of(machine))
    finally:
        await end(died)
        await end(answer)
        if channel is None and not answer.cancelled() and answer.exception() is None:
            await answer.result().close()  # we were cancelled just then


async def console_of(machine: Machine) -> str:
    """What can be had of it now."""
    with contextlib.suppress(HyperStackError, TimeoutError):
        async with asyncio.timeout(LAST_WORDS_S):
            return await machine.console_tail()
    return ""


def last_lines(console: str) -> str:
    """To be part of a sentence; of a panic, what led to it and not the trace that follows."""
    lines = [line for line in console.splitlines() if line.strip()]
    panics = [index for index, line in enumerate(lines) if "Kernel panic" in line]
    lines = lines[:panics[0] + 1] if panics else lines
    return "".join(f"\n  | {line[:_LINE]}" for line in lines[-_LINES:])


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel it, and wait until it has ended."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not complain of it
