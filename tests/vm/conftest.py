"""Of tests whose module has a `guest`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.vm.agent_vm import Guest


@pytest_asyncio.fixture(loop_scope="module")
async def stopped(guest: Guest) -> AsyncIterator[str]:
    """A container in which nothing runs."""
    name = f"s{guest.handle()}"
    await guest.create(name)
    yield name
    await guest.channel.remove(name)
