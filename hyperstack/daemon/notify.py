"""The service manager's notification protocol (sd_notify(3)): datagrams of NAME=VALUE lines, nothing more."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Speaks to the service manager that started us; silent where there is none."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched_pid = environment.get("WATCHDOG_PID", "")
        microseconds = environment.get("WATCHDOG_USEC", "")
        ours = not watched_pid or watched_pid == str(os.getpid())
        self.watchdog_s = int(microseconds) / 1e6 if ours and microseconds.isdecimal() else 0.0
        """Seconds within which the manager wants a sign of life; 0 where it does not watch."""

    def ready(self, status: str) -> None:
        self._send(READY="1", STATUS=status)

    def reloading(self) -> None:
        self._send(RELOADING="1", MONOTONIC_USEC=str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))

    def stopping(self) -> None:
        self._send(STOPPING="1")

    def status(self, text: str) -> None:
        self._send(STATUS=text)

    def alive(self) -> None:
        self._send(WATCHDOG="1")

    def _send(self, **lines: str) -> None:
        if not self._address:
            return
        message = "\n".join(f"{name}={value}" for name, value in lines.items()).encode()
        # A manager that is gone or slow must not hold up the daemon.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as s:
            s.sendto(message, self._address)
