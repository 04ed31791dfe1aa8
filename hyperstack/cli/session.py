"""One attached container or exec: output on one thread, input on another, signals on the main one.

Each direction waits for its own reader only, so a slow terminal or a full pipe stalls nothing else.
"""

from __future__ import annotations

import enum
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from hyperstack.cli import terminal
from hyperstack.cli.client import CHUNK, Upgraded
from hyperstack.cli.errors import ApiError, CliError
from hyperstack.cli.streams import OutputClosed, chunks_of, copy_output

STDIN = 0

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""What a user or a service manager sends; job control (SIGTSTP, SIGCONT) stays with the shell."""


class Ended(enum.Enum):
    OUTPUT = "the other end closed its output"
    DETACHED = "the user typed the detach keys"


@dataclass(frozen=True, kw_only=True)
class Attached:
    """How a stream is to be wired to this process."""

    stream: Upgraded
    tty: bool
    stdin: bool
    stdout: bool = True
    stderr: bool = True
    detach_keys: bytes = b""
    """Only looked for where a terminal is on both ends."""
    resize: Callable[[int, int], None] | None = None
    """Called with rows and columns."""
    kill: Callable[[str], None] | None = None
    """Called with the name of a signal that this process got; None leaves signals as they are."""
    mailbox: queue.SimpleQueue[int | Ended | BaseException] = field(default_factory=queue.SimpleQueue)


def require_terminal(*, tty: bool, stdin: bool) -> None:
    """:raise CliError: a terminal was asked for, with input, where stdin is none."""
    if tty and stdin and not os.isatty(STDIN):
        raise CliError("the input device is not a TTY", hint="Leave out -t where input comes from a pipe or a file.")


def run(attached: Attached, *, started: Callable[[], None] = lambda: None) -> Ended:
    """Carry bytes until the output ends or the user detaches.

    :param started: called when signals are already forwarded and nothing is yet read: starts the container, so that
        no signal falls in between.
    :raise OutputClosed: our own stdout or stderr has no reader any more.
    :raise CliError: the daemon reported an error in the stream.
    """
    with ExitStack() as stack:
        stack.callback(attached.stream.close)
        if attached.kill is not None:
            stack.enter_context(_signals_to(attached.mailbox, FORWARDED))
        started()
        if attached.tty and attached.stdin and os.isatty(STDIN):
            stack.enter_context(terminal.raw_mode(STDIN))
        if attached.tty and attached.resize is not None:
            stack.enter_context(_signals_to(attached.mailbox, (signal.SIGWINCH,)))
            attached.mailbox.put(signal.SIGWINCH)
        threading.Thread(target=_output, args=(attached,), daemon=True).start()
        if attached.stdin:
            threading.Thread(target=_input, args=(attached,), daemon=True).start()
        return _serve(attached)


def _serve(attached: Attached) -> Ended:
    while True:
        message = attached.mailbox.get()
        if isinstance(message, Ended):
            return message
        if isinstance(message, BaseException):
            raise message
        try:
            if message == signal.SIGWINCH:
                _resize(attached)
            elif attached.kill is not None:
                attached.kill(signal.Signals(message).name)
        except ApiError:
            continue  # the process is not there yet, or not any more; its output says how it ended


def _resize(attached: Attached) -> None:
    now = terminal.size(1) or terminal.size(STDIN)
    if now and attached.resize:
        attached.resize(*now)


def _output(attached: Attached) -> None:
    """Thread: the stream to our descriptors."""
    try:
        copy_output(chunks_of(attached.stream.read), multiplexed=attached.stream.multiplexed and not attached.tty,
                    stdout=attached.stdout, stderr=attached.stderr)
    except (OutputClosed, CliError, OSError) as error:
        attached.mailbox.put(error)
    finally:
        attached.mailbox.put(Ended.OUTPUT)  # whatever came before it is read first


def _input(attached: Attached) -> None:
    """Thread: our stdin to the stream, half-closed at its end."""
    watch = terminal.DetachFilter(attached.detach_keys) if attached.tty and attached.detach_keys else None
    try:
        while data := os.read(STDIN, CHUNK):
            detached = False
            if watch is not None:
                data, detached = watch.feed(data)
            if data:
                attached.stream.send(data)
            if detached:
                attached.mailbox.put(Ended.DETACHED)
                return
    except OSError:
        return  # the container closed its input, or our terminal went away: the output thread ends the session
    attached.stream.close_write()


@contextmanager
def _signals_to(mailbox: queue.SimpleQueue[int | Ended | BaseException], numbers: tuple[signal.Signals, ...]
                ) -> Iterator[None]:
    """Signals become messages: the handler does nothing that could block or fail (SimpleQueue.put is reentrant)."""
    saved = {number: signal.signal(number, lambda got, _frame: mailbox.put(got)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)

