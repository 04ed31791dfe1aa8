"""The process: take the locks, wire the rooms, serve until told to stop, leave the pods running."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from hyperstack.daemon import logs, sockets, tls
from hyperstack.daemon.config import Config
from hyperstack.daemon.lock import DirectoryLock
from hyperstack.daemon.notify import Notifier
from hyperstack.daemon.wiring import Rooms, prepare
from hyperstack.http.routing import make_runner
from hyperstack.http.tls import TlsSite
from hyperstack.pod.errors import HyperStackError

_log = logging.getLogger(__name__)

T = TypeVar("T")

_GRACE_S = 3.0
"""How long requests in flight may finish after SIGTERM; followed logs and attachments would last for ever."""


async def serve(config: Config, reload: Callable[[], Config]) -> None:
    """Run until SIGTERM or SIGINT. Pods go on afterwards; the next daemon adopts them.

    `reload` gives the configuration as the files have it now; called at SIGHUP.

    :raise HyperStackError: the host, or another daemon, does not let us start.
    """
    notifier = Notifier()
    stop = asyncio.Event()
    _raise_descriptor_limit()
    async with AsyncExitStack() as stack:
        for directory, mode in ((Path(config.data_root), 0o711), (Path(config.run_dir), 0o755)):
            directory.mkdir(mode=mode, parents=True, exist_ok=True)
            stack.enter_context(DirectoryLock(directory, note=f"socket {config.sockets[0]}"))
        # From here on a signal means an orderly end, also in the middle of the recovery.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop_or_die, stop, number)
        loop.add_signal_handler(signal.SIGHUP, _log.info, "not serving yet; the configuration was read a moment ago")
        kernels = await _unless(stop, prepare(config, _tell(notifier)))
        if kernels is None:
            return
        rooms = Rooms(config, kernels)
        stack.push_async_callback(rooms.engine.close)
        await _unless(stop, rooms.engine.start())
        if stop.is_set():
            return
        context = _tls_context(config) if config.tls.verify else None
        await _listen(rooms.app, config, context, stack)
        loop.add_signal_handler(signal.SIGHUP, _reload, rooms, context, reload, notifier)
        if notifier.watchdog_s:
            stack.enter_context(_background(_tick(notifier)))
        _settle()
        notifier.ready("serving")
        _log.info("hyperd %d serves %s", os.getpid(), ", ".join(map(str, [*config.sockets, *config.addresses])))
        await stop.wait()
        notifier.stopping()
        _log.info("stopping; pods go on running")


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, T]) -> T | None:
    """What the work returns; None where a stop signal interrupted it, and the next start takes it up again."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        return working.result()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    return None


def _tell(notifier: Notifier) -> Callable[[str], None]:
    def tell(text: str) -> None:
        _log.info("%s", text)
        notifier.status(text)

    return tell


def _tls_context(config: Config) -> ssl.SSLContext:
    return tls.context(ca=Path(config.tls.ca), certificate=Path(config.tls.certificate), key=Path(config.tls.key))


async def _listen(app: web.Application, config: Config, context: ssl.SSLContext | None,
                  stack: AsyncExitStack) -> None:
    runner = make_runner(app, shutdown_timeout=_GRACE_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    gid = sockets.group_id(config.group)
    for path in config.sockets:
        sock = sockets.listen(path, gid=gid)
        stack.callback(path.unlink, missing_ok=True)
        await web.SockSite(runner, sock, backlog=sockets.BACKLOG).start()
    for address in config.addresses:
        sock = tls.listen(address)
        if context is not None:
            await TlsSite(runner, sock, context, backlog=sockets.BACKLOG).start()
        else:
            _log.warning("%s: every process of this host may use it", address)
            await web.SockSite(runner, sock, backlog=sockets.BACKLOG).start()


def _stop_or_die(stop: asyncio.Event, number: signal.Signals) -> None:
    if stop.is_set():  # Asked twice: somebody is in a hurry, and a killed daemon loses nothing.
        os._exit(128 + number)
    stop.set()


def _reload(rooms: Rooms, context: ssl.SSLContext | None, reload: Callable[[], Config], notifier: Notifier) -> None:
    notifier.reloading()
    try:
        config = reload()
        if context is not None and config.tls.verify:
            _tls_context(config)  # Usable, or the old one stays.
            context.load_cert_chain(config.tls.certificate, config.tls.key)
    except HyperStackError as error:
        _log.error("the configuration was not reloaded, the old one stays: %s", error)
    else:
        logs.configure(config.log_level, config.log_format)
        rooms.reload(config)
        _log.info("configuration reloaded: log level, registries, server certificate; the rest needs a restart")
    notifier.ready("serving")


async def _tick(notifier: Notifier) -> None:
    while True:
        notifier.alive()
        await asyncio.sleep(notifier.watchdog_s / 3)


@contextlib.contextmanager
def _background(work: Coroutine[None, None, None]) -> Iterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


def _raise_descriptor_limit() -> None:
    """Each pod holds a handful of descriptors; the soft limit of 1024 is for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _settle() -> None:
    """What was imported stays for ever: keep the collector from walking (and so touching) it again and again."""
    gc.collect()
    gc.freeze()
