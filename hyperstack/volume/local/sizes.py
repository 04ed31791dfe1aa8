"""Sizes as people write them."""

from __future__ import annotations

import re

from hyperstack.pod.errors import InvalidArgument

_SIZE = re.compile(r"(\d{1,16})\s*([kmgt]?)i?b?\Z", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes of "512m", "10g", "10GiB" or a plain number; units are powers of 1024.

    :raise InvalidArgument: it is nothing like that, or zero.
    """
    match = _SIZE.match(text.strip())
    size = int(match[1]) * _UNITS[match[2].lower()] if match else 0
    if size <= 0:
        raise InvalidArgument(f"invalid size: {text[:32]!r}", field="size", value=text[:32],
                              hint="give a number with a unit, such as 512m or 10g")
    return size
