"""`top`: the guest's processes in the columns that ps would give."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from hyperstack.guest.messages import ProcessInfo
from hyperstack.pod.errors import UnsupportedOption

_KIB = 1024


def table(processes: Collection[ProcessInfo], ps_args: str, *, now_ns: int) -> tuple[list[str], list[list[str]]]:
    """(titles, rows) for ps options -ef, aux, -o LIST and their like.

    :raise UnsupportedOption: an option or a column that is not known here; names it.
    """
    columns = _columns(ps_args)
    rows = [[_COLUMNS[column](process, now_ns) for column in columns] for process in processes]
    return [_HEADINGS.get(column, column) for column in columns], rows


def _columns(ps_args: str) -> list[str]:
    words = ps_args.split()
    if not words or words[0] in ("-ef", "-f", "ef", "-eF"):
        return ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    if words[0] in ("aux", "-aux", "u", "axu"):
        return ["USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"]
    if words[0] in ("-e", "-A", "ax", "a", "x"):
        words = words[1:]
        if not words:
            return ["PID", "TTY", "TIME", "UCMD"]
    if words[0] in ("-o", "o", "-eo", "axo", "-Ao", "--format") and len(words) > 1:
        names = [name for word in words[1:] for name in word.split(",") if name]
        return [_column(name) for name in names]
    raise UnsupportedOption(f"ps {ps_args}", "the guest has no ps of the host's",
                            hint="use -ef, aux, or -o with a list of columns")


def _column(name: str) -> str:
    title = _ALIASES.get(name.lower(), name.upper())
    if title not in _COLUMNS:
        raise UnsupportedOption(f"ps -o {name}", "no such column", hint=f"choose from {', '.join(sorted(_COLUMNS))}")
    return title


def _clock(start_ns: int, now_ns: int) -> str:
    form = "%H:%M" if now_ns - start_ns < 86_400_000_000_000 else "%b%d"
    return time.strftime(form, time.gmtime(start_ns / 1e9))


def _duration(ns: int) -> str:
    seconds = ns // 10**9
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _share(process: ProcessInfo, now_ns: int) -> float:
    return 100 * process.cpu_ns / max(1, now_ns - process.start_ns)


def _printable(raw: bytes) -> str:
    return "".join(c if c.isprintable() else "?" for c in raw.decode("utf-8", "replace"))


def _command(process: ProcessInfo, now_ns: int) -> str:
    if not process.arguments:
        return f"[{_printable(process.command)}]"
    return " ".join(_printable(word) for word in process.arguments)


def _user(process: ProcessInfo, now_ns: int) -> str:
    return "root" if process.uid == 0 else str(process.uid)


_COLUMNS: dict[str, Callable[[ProcessInfo, int], str]] = {
    "UID": _user,
    "USER": _user,
    "PID": lambda p, now: str(p.pid),
    "PPID": lambda p, now: str(p.ppid),
    "C": lambda p, now: str(min(99, int(_share(p, now)))),
    "%CPU": lambda p, now: f"{_share(p, now):.1f}",
    "%MEM": lambda p, now: "-",
    "STIME": lambda p, now: _clock(p.start_ns, now),
    "START": lambda p, now: _clock(p.start_ns, now),
    "TTY": lambda p, now: p.tty or "?",
    "TIME": lambda p, now: _duration(p.cpu_ns),
    "CMD": _command,
    "COMMAND": _command,
    "ARGS": _command,
    "COMM": lambda p, now: _printable(p.command),
    "UCMD": lambda p, now: _printable(p.command),
    "VSZ": lambda p, now: str(p.vsz // _KIB),
    "RSS": lambda p, now: str(p.rss // _KIB),
    "STAT": lambda p, now: p.state,
    "S": lambda p, now: p.state,
    "NI": lambda p, now: str(p.nice),
    "NLWP": lambda p, now: str(p.threads),
    "ETIME": lambda p, now: _duration(max(0, now - p.start_ns)),
}

_SHOWN = {"COMM": "COMMAND", "ARGS": "COMMAND"}
"""Titles that ps writes otherwise than the columns are called."""

_ALIASES = {"euser": "USER", "uname": "USER", "pcpu": "%CPU", "pmem": "%MEM", "stime": "STIME", "tt": "TTY",
            "tname": "TTY", "cputime": "TIME", "state": "S", "nice": "NI", "thcount": "NLWP", "rssize": "RSS",
            "vsize": "VSZ", "start_time": "STIME"}

_HEADINGS = {"ARGS": "COMMAND", "COMM": "COMMAND", "UCMD": "CMD"}
"""Of columns that ps heads otherwise than it calls them."""
