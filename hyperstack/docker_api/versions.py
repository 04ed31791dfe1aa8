"""Which versions of Docker's API are spoken, and the headers that tell it."""

from __future__ import annotations

import hyperstack
from hyperstack.http.errors import PlainTextError
from hyperstack.pod.errors import InvalidArgument

LATEST = (1, 55)
OLDEST = (1, 24)

HEADERS = {
    "Api-Version": f"{LATEST[0]}.{LATEST[1]}",
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"HyperStack/{hyperstack.__version__} (linux)",
}
"""On every answer; `Api-Version` is what clients negotiate with."""

PREFIX = r"/v{version:[0-9.]+}"
"""The optional first part of a path."""

_MAX_LENGTH = 32


def check_version(text: str | None) -> tuple[int, int]:
    """The version that a path asks for; the latest without one.

    :raise InvalidArgument: older or newer than what is spoken, in the words that Docker's clients know.
    """
    if text is None:
        return LATEST
    version = tuple(int(number or 0) for number in text[:_MAX_LENGTH].split("."))
    if version > LATEST:
        raise InvalidArgument(f"client version {text[:_MAX_LENGTH]} is too new. Maximum supported API version is "
                              f"{HEADERS['Api-Version']}", field="version", value=text[:_MAX_LENGTH])
    if version < OLDEST:
        raise PlainTextError(f"client version {text[:_MAX_LENGTH]} is too old. Minimum supported API version is "
                             f"{OLDEST[0]}.{OLDEST[1]}, please upgrade your client to a newer version",
                             field="version", value=text[:_MAX_LENGTH])
    return version[0], version[1]
