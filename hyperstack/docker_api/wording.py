"""How Docker writes durations, file modes, and what an error was about."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator

from hyperstack.pod.errors import HyperStackError

_NS = 1_000_000_000


@contextlib.contextmanager
def told_after(words: str) -> Iterator[None]:
    """Errors within say first what was being done."""
    try:
        yield
    except HyperStackError as error:
        error.message = f"{words}{error.message}"
        raise


def duration(time_ns: int) -> str:
    """As `docker ps` says it: "5 minutes", "About an hour"."""
    seconds = max(time_ns, 0) // _NS
    minutes, hours = seconds // 60, round(seconds / 3600)
    steps = ((seconds < 1, "Less than a second"), (seconds == 1, "1 second"), (seconds < 60, f"{seconds} seconds"),
             (minutes == 1, "About a minute"), (minutes < 60, f"{minutes} minutes"), (hours == 1, "About an hour"),
             (hours < 48, f"{hours} hours"), (hours < 24 * 14, f"{hours // 24} days"),
             (hours < 24 * 60, f"{hours // 24 // 7} weeks"), (hours < 24 * 365 * 2, f"{hours // 24 // 30} months"))
    return next((text for fits, text in steps if fits), f"{hours // 24 // 365} years")


# Go's os.FileMode has the permissions in the low 9 bits and its own bits at the top.
_TYPES = {stat.S_IFDIR: 1 << 31, stat.S_IFLNK: 1 << 27, stat.S_IFBLK: 1 << 26, stat.S_IFIFO: 1 << 25,
          stat.S_IFSOCK: 1 << 24, stat.S_IFCHR: 1 << 26 | 1 << 21}
_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


def go_mode(mode: int) -> int:
    """Go's os.FileMode of an st_mode."""
    result = mode & 0o777 | _TYPES.get(stat.S_IFMT(mode), 0)
    for bit, go_bit in _BITS.items():
        if mode & bit:
            result |= go_bit
    return result
