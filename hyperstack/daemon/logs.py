"""The daemon's own log: one line per record on stderr, for people (text) or collectors (json).

Under systemd the journal has the time already and reads the priority from a prefix (sd-daemon(3)).
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime

import msgspec

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_NOISY = ("aiohttp", "asyncio", "pyroute2")
"""Libraries that tell, below WARNING, what only their own developers want to read. That of QEMU's monitor is told to be
quiet where it is used."""


class _TextFormatter(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = f"{record.levelname.lower()} {record.name}: {_one_line(_message(self, record))}"
        if self._journal:
            return f"<{_PRIORITIES.get(record.levelno, 6)}>{text}"
        return f"{_time(record)} {text}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name,
                "message": _message(self, record)}
        return msgspec.json.encode(line).decode()


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    trace = formatter.formatException(record.exc_info) if record.exc_info else ""
    return f"{record.getMessage()}\n{trace}" if trace else record.getMessage()


def _one_line(text: str) -> str:
    """What a guest, a registry or a client made us log cannot forge a line of its own, nor drive a terminal."""
    return "".join(c if c.isprintable() else "\n    " if c == "\n" else repr(c)[1:-1] for c in text)


def configure(level: str, form: str) -> None:
    """Send all logging to stderr. May be called again with another level."""
    handler = logging.StreamHandler(sys.stderr)
    journal = "JOURNAL_STREAM" in os.environ
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter(journal=journal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
