"""How a connection to the agent begins: hello, and the search for its welcome in whatever was in flight before."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable

from hyperstack.guest.frames import (
    MAX_RESYNC,
    NONCE_SIZE,
    WELCOME_MAGIC,
    WELCOME_SIZE,
    Welcome,
    decode_welcome,
    encode_hello,
)
from hyperstack.pod.errors import GuestError

logger = logging.getLogger(__name__)

Opener = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Makes a new connection to the agent's port; an earlier one is dropped by it."""

_READ_SIZE = 1 << 18
_RETRY_PAUSE_S = 0.05
_FIRST_PATIENCE_S = 5.0
"""How long one hello waits for its answer before another connection is made; doubled each time, as a guest that is
slow to boot answers every hello it finds, and only the last one counts."""


async def shake_hands(opener: Opener, key: bytes, *, window: int, deadline_s: float
                      ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Welcome, bytes]:
    """A connection in step with the guest: its two streams, the guest's welcome, and frames that came with it.

    :raise GuestError: no welcome within `deadline_s`, or only garbage.
    :raise Unavailable: from `opener`, which says that there is nobody to wait for.
    """
    patience = _FIRST_PATIENCE_S
    obstacle: Exception | None = None
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                try:
                    return await _attempt(opener, key, window, patience)
                except (OSError, EOFError) as error:
                    obstacle = error
                    logger.debug("agent port: %r", error)
                    await asyncio.sleep(_RETRY_PAUSE_S)
                except _NoAnswer:
                    patience *= 2
    except TimeoutError:
        detail = f" (last obstacle: {obstacle})" if obstacle and str(obstacle) else ""
        raise GuestError(f"the guest's agent did not answer within {deadline_s:g} s{detail}", field="deadline",
                         value=deadline_s, hint="The guest's console says whether its kernel booted.") from obstacle


class _NoAnswer(Exception):
    """One hello was not answered in time."""


async def _attempt(opener: Opener, key: bytes, window: int, patience: float
                   ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Welcome, bytes]:
    nonce = os.urandom(NONCE_SIZE)
    reader, writer = await opener()
    with contextlib.ExitStack() as undo:
        undo.callback(writer.transport.abort)
        try:
            async with asyncio.timeout(patience):
                writer.write(encode_hello(key, nonce, window))
                await writer.drain()
                welcome, rest = await _find_welcome(reader, nonce)
        except TimeoutError:
            raise _NoAnswer from None
        undo.pop_all()
    return reader, writer, welcome, rest


async def _find_welcome(reader: asyncio.StreamReader, nonce: bytes) -> tuple[Welcome, bytes]:
    """Drop what precedes the welcome with our nonce; return it and what follows.

    :raise GuestError: too much precedes it.
    """
    wanted = WELCOME_MAGIC + nonce
    buffer = bytearray()
    dropped = 0
    found = False
    while not (found and len(buffer) >= WELCOME_SIZE):
        data = await reader.read(_READ_SIZE)
        if not data:
            raise EOFError("the port was closed before the agent's welcome")
        buffer += data
        if found:
            continue
        at = buffer.find(wanted)
        found = at >= 0
        surplus = at if found else max(0, len(buffer) - len(wanted) + 1)
        del buffer[:surplus]
        dropped += surplus
        if dropped > MAX_RESYNC:
            raise GuestError(f"no welcome in the first {MAX_RESYNC} bytes from the guest's agent", field="welcome")
    return decode_welcome(bytes(buffer[:WELCOME_SIZE])), bytes(buffer[WELCOME_SIZE:])
