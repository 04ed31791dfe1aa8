"""The user's terminal: raw mode, its size, and the keys that detach from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from hyperstack.cli.errors import CliError

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"

_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


@contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Every key goes to the container, Ctrl-C among them; the old mode comes back however this ends."""
    import termios
    import tty

    saved = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSANOW)  # what is typed ahead is not thrown away
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


def size(fd: int) -> tuple[int, int] | None:
    """(rows, columns), None where it has none."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return None
    return (rows, columns) if rows and columns else None


def parse_detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as the bytes that a terminal sends; each item is one character or `ctrl-` and one.

    :raise CliError: names the item that is neither.
    """
    keys = bytearray()
    for item in text.split(","):
        lowered = item.lower()
        if len(item) == 1 and item.isascii():
            keys += item.encode()
        elif lowered.startswith("ctrl-") and len(item) == 6 and "a" <= lowered[5] <= "z":
            keys.append(ord(lowered[5]) - ord("a") + 1)
        elif lowered.startswith("ctrl-") and item[5:] in _CONTROL:
            keys.append(_CONTROL[item[5:]])
        else:
            raise CliError(f'invalid detach keys "{text}": "{item}" is neither one character nor ctrl-<character>',
                           hint="For example: --detach-keys ctrl-p,ctrl-q")
    return bytes(keys)


class DetachFilter:
    """Passes typed bytes on, but for the detach keys; holds back what may become them."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what the container is to get, whether the keys were completed); what follows the keys is dropped."""
        passed = bytearray()
        for number in data:
            self._held += bytes((number,))
            while not self._keys.startswith(self._held):
                passed.append(self._held[0])
                self._held = self._held[1:]
            if self._held == self._keys:
                self._held = b""
                return bytes(passed), True
        return bytes(passed), False
