"""Kubernetes' quantities: "500m", "128Mi", "1e3", 0.5."""

from __future__ import annotations

import re
from fractions import Fraction

from hyperstack.pod.errors import InvalidArgument

Quantity = str | int | float

_NUMBER = r"\+?(?:[0-9]{1,18}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})"
_QUANTITY = re.compile(rf"({_NUMBER})([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{{1,2}})?\Z")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_MAX = 2**63 - 1


def _parse(value: Quantity, path: str) -> Fraction:
    found = _QUANTITY.match(str(value))
    if not found:
        raise InvalidArgument(f"{path}: {str(value)[:64]!r} is not a quantity", field=path, value=str(value)[:64],
                              hint="for instance 500m, 1.5, 128Mi or 1G")
    number, suffix = Fraction(found[1]), found[2] or ""
    if suffix in _BINARY:
        number *= 2 ** _BINARY[suffix]
    elif suffix:
        number *= Fraction(10) ** (_DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:]))
    if number > _MAX:
        raise InvalidArgument(f"{path}: {str(value)[:64]} is out of range", field=path, value=str(value)[:64])
    return number


def amount(value: Quantity, path: str, *, scale: int = 1) -> int:
    """A quantity times `scale` (1 for bytes, 10**9 for nano-CPUs), rounded up as Kubernetes does.

    :raise InvalidArgument: it is none, negative, or beyond 63 bits.
    """
    result = -(-(_parse(value, path) * scale) // 1)
    if result > _MAX:
        raise InvalidArgument(f"{path}: {str(value)[:64]} is out of range", field=path, value=str(value)[:64])
    return int(result)
