"""A client of one QEMU's monitor that trusts QEMU as little as the guest in it.

`qemu.qmp` speaks the protocol. This adds what a hostile or hung peer calls for: replies are bounded in size and time,
events are handed on and not kept, one command runs at a time, and a connection that misbehaves is given up for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError
from qemu.qmp.protocol import Runstate

from hyperstack.pod.errors import Unavailable

_MAX_LINE = 1 << 20
"""Bytes of one reply; the largest is a full console in base64, 88 KiB."""
_CONNECT_TIMEOUT_S = 20.0
"""From exec to the greeting: QEMU's own start, ~100 ms on an idle host."""
_COMMAND_TIMEOUT_S = 20.0

# The library reports a peer that hung up as errors, and an answer that came when nobody waited for it any more (who was
# asked about the end of a machine that is taken down meanwhile) as a warning; who asked hears about it by exception.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

EventSink = Callable[[str, Mapping[str, Any]], None]


class CommandFailed(Exception):
    """QEMU understood the command and refused it."""

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"QEMU refused {command}: {description[:500]}")
        self.error_class = error_class


class Monitor:
    """One connection, from `connect` until `close`."""

    def __init__(self, on_event: EventSink) -> None:
        self._client = QMPClient(readbuflen=_MAX_LINE)
        # The library's own listener keeps all events for ever: it is made to accept none.
        self._client.events.event_filter = self._hear
        self._on_event = on_event
        self._one_at_a_time = asyncio.Lock()
        self._socket: socket.socket | None = None

    def _hear(self, event: Message) -> bool:
        name, data = event.get("event"), event.get("data", {})
        if isinstance(name, str) and isinstance(data, dict):
            self._on_event(name, data)
        return False

    async def connect(self, directory: int, name: str) -> None:
        """Connect to the socket `name` in the open directory. :raise Unavailable: no greeting in time."""
        connected = await connect_unix(directory, name)
        self._socket = connected.dup()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await self._client.connect(connected)
        except (QMPError, TimeoutError) as error:
            connected.close()
            await self.close()
            raise Unavailable(f"QEMU's monitor does not answer: {error or 'timeout'}") from error

    @property
    def connected(self) -> bool:
        return self._client.runstate is Runstate.RUNNING

    async def lost(self) -> None:
        """Ends when the connection is over."""
        while self.connected:
            await self._client.runstate_changed()

    async def order(self, name: str, arguments: Mapping[str, object] | None = None, *, fd: int | None = None) -> Any:
        """As `execute`. :raise Unavailable: QEMU is gone, or refuses."""
        try:
            return await self.execute(name, arguments, fd=fd)
        except CommandFailed as error:
            raise Unavailable(str(error)) from error

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None, *,
                      fd: int | None = None) -> Any:
        """Run a command; its result. `fd` goes along with it.

        :raise CommandFailed: QEMU refused.
        :raise Unavailable: QEMU is gone, or did not answer in time.
        """
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(_COMMAND_TIMEOUT_S):
                    if fd is not None:
                        self._send_descriptor(fd)
                    return await self._client.execute(command, arguments)
            except ExecuteError as error:
                raise CommandFailed(command, error.error_class, str(error)) from error
            except TimeoutError as error:
                await self.close()
                raise Unavailable(f"QEMU did not answer {command} in {_COMMAND_TIMEOUT_S:.0f} s") from error
            except (QMPError, OSError, EOFError) as error:
                raise Unavailable(f"QEMU is gone during {command}: {error}") from error

    def _send_descriptor(self, fd: int) -> None:
        """With a blank, which JSON ignores. No command is under way, so it cannot land within another message."""
        if self._socket is None or not self.connected:
            raise Unavailable("QEMU's monitor is not connected")
        socket.send_fds(self._socket, [b" "], [fd])

    async def close(self) -> None:
        """Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._client.runstate is not Runstate.IDLE:
            try:
                await self._client.disconnect()
            except (QMPError, OSError, EOFError, ValueError, RecursionError):
                # What ended the connection was told to whoever waited for a reply.
                return


async def connect_unix(directory: int, name: str) -> socket.socket:
    """A non-blocking connection to a socket below an open directory, however long that directory's path is.

    :raise Unavailable: nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, _short_path(directory, name))
    except OSError as error:
        connection.close()
        raise Unavailable(f"the machine's {name} does not answer: {error.strerror}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def listen_unix(directory: int, name: str) -> socket.socket:
    """A listening socket in an open directory; a forgotten one of that name is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        listener.bind(_short_path(directory, name))
        listener.listen(4)
    except BaseException:
        listener.close()
        raise
    return listener


def _short_path(directory: int, name: str) -> str:
    """Socket addresses hold 107 bytes, less than a path with a pod's id may take."""
    return f"/proc/self/fd/{directory}/{name}"
