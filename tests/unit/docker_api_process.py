"""Processes of this host as what runs in the containers and execs of the engine in memory."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import shutil
import signal
import struct
import termios
import time
from pathlib import Path

from hyperstack.engine.records import LogRecord
from hyperstack.pod.errors import Conflict, StartFailed


class Attached:
    """One client's view of a process."""

    def __init__(self, process: Process, *, stdin: bool) -> None:
        self.tty = process.tty
        self.process = process
        self.stdin = stdin
        self.closed = False
        self.left = False
        self.queue: asyncio.Queue[LogRecord | None] = asyncio.Queue(maxsize=8)

    async def read(self) -> LogRecord | None:
        return await self.queue.get()

    async def write(self, data: bytes) -> None:
        if not self.stdin:
            raise Conflict("stdin is not open")
        await self.process.write(data)

    async def close_stdin(self) -> None:
        await self.process.close_stdin()

    def detached(self) -> None:
        self.left = True

    async def close(self) -> None:
        self.closed = True
        if self in self.process.attached:
            self.process.attached.remove(self)


class Process:
    """A process that may not have started yet."""

    def __init__(self, *, tty: bool, open_stdin: bool) -> None:
        self.tty = tty
        self.open_stdin = open_stdin
        self.attached: list[Attached] = []
        self.log: list[LogRecord] = []
        self.grown = asyncio.Condition()
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.child: asyncio.subprocess.Process | None = None
        self.started = asyncio.Event()
        self.master = -1

    async def start(self, argv: tuple[str, ...], cwd: Path, env: tuple[str, ...] = ()) -> int:
        if shutil.which(argv[0]) is None:
            raise StartFailed(f'exec: "{argv[0]}"', exit_code=127)
        slave = -1
        if self.tty:
            self.master, slave = pty.openpty()
        stdin = slave if self.tty else asyncio.subprocess.PIPE if self.open_stdin else asyncio.subprocess.DEVNULL
        out = slave if self.tty else asyncio.subprocess.PIPE
        self.child = await asyncio.create_subprocess_exec(
            *argv, stdin=stdin, stdout=out, stderr=out, cwd=cwd, start_new_session=True,
            env={"PATH": os.environ["PATH"], **dict(item.split("=", 1) for item in env)})
        if slave >= 0:
            os.close(slave)
        self.started.set()
        self.task = asyncio.create_task(self._run(self.child))
        return self.child.pid

    async def _run(self, child: asyncio.subprocess.Process) -> None:
        if self.tty:
            reader = asyncio.StreamReader()
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader),
                                                        os.fdopen(os.dup(self.master), "rb", 0))
            await self._copy(reader, 1)
            transport.close()
        else:
            assert child.stdout
            assert child.stderr
            await asyncio.gather(self._copy(child.stdout, 1), self._copy(child.stderr, 2))
        code = await child.wait()
        for attached in list(self.attached):
            await attached.queue.put(None)
        self.code.set_result(code if code >= 0 else 128 - code)
        async with self.grown:
            self.grown.notify_all()

    async def _copy(self, reader: asyncio.StreamReader, stream: int) -> None:
        with contextlib.suppress(OSError):  # A terminal ends with EIO.
            while data := await reader.read(65536):
                record = LogRecord(time_ns=time.time_ns(), stream=stream, data=data)
                async with self.grown:
                    self.log.append(record)
                    self.grown.notify_all()
                for attached in list(self.attached):
                    while attached in self.attached:
                        with contextlib.suppress(asyncio.TimeoutError):
                            await asyncio.wait_for(attached.queue.put(record), 0.2)
                            break

    async def write(self, data: bytes) -> None:
        await self.started.wait()
        if self.tty:
            await asyncio.to_thread(os.write, self.master, data)
        else:
            assert self.child
            assert self.child.stdin
            self.child.stdin.write(data)
            try:
                await self.child.stdin.drain()
            except ConnectionError as error:
                raise Conflict("stdin was closed") from error

    async def close_stdin(self) -> None:
        await self.started.wait()
        if not self.tty and self.child and self.child.stdin:
            self.child.stdin.close()

    def attach(self, *, stdin: bool) -> Attached:
        attached = Attached(self, stdin=stdin)
        self.attached.append(attached)
        return attached

    def kill(self, number: int) -> None:
        if self.child and self.child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, number)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def end(self) -> None:
        self.kill(signal.SIGKILL)
        if self.child:
            self.attached.clear()
            await self.task
        if self.master >= 0:
            os.close(self.master)
            self.master = -1
