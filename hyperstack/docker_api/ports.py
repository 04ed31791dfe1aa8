"""Ports in Docker's notation: "80/tcp"."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from hyperstack.docker_api.bodies import PortBindingBody
from hyperstack.pod.errors import InvalidArgument, UnsupportedOption
from hyperstack.pod.spec import PortBinding

MAX_PORTS = 1024
_PORT = re.compile(r"([0-9]{1,5})(?:/(tcp|udp|sctp))?\Z", re.IGNORECASE)
_PROTOCOLS: dict[str, Literal["tcp", "udp", "sctp"]] = {"tcp": "tcp", "udp": "udp", "sctp": "sctp"}


def parse_port(text: str, *, field: str) -> tuple[int, Literal["tcp", "udp", "sctp"]]:
    """(80, "tcp") of "80/tcp" or "80". :raise InvalidArgument: not a port."""
    found = _PORT.match(text)
    number = int(found[1]) if found else 0
    if not found or not 1 <= number <= 65535:
        raise InvalidArgument(f"invalid containerPort: {text[:64]}", field=field, value=text[:64],
                              hint="1-65535, with /tcp or /udp")
    return number, _PROTOCOLS[(found[2] or "tcp").lower()]


def parse_bindings(bindings: Mapping[str, Sequence[PortBindingBody]]) -> tuple[PortBinding, ...]:
    """Published ports. :raise InvalidArgument: a port or an address is none. :raise UnsupportedOption: sctp."""
    found = []
    for text, places in bindings.items():
        port, protocol = _published(text)
        if protocol == "sctp" and places:
            raise UnsupportedOption(f"HostConfig.PortBindings {text}", "sctp ports are not published")
        for place in places:
            first, last = _host_ports(place.host_port)
            found.append(PortBinding(container_port=port, protocol=protocol, host_ip=_address(place.host_ip),
                                     host_port=first, host_port_end=last))
    if len(found) > MAX_PORTS:
        raise InvalidArgument(f"more than {MAX_PORTS} published ports", field="HostConfig.PortBindings")
    return tuple(found)


def _published(text: str) -> tuple[int, Literal["tcp", "udp", "sctp"]]:
    try:
        return parse_port(text, field="HostConfig.PortBindings")
    except InvalidArgument as error:
        raise _no_port(text.partition("/")[0], error) from error


def _no_port(text: str, error: InvalidArgument) -> InvalidArgument:
    return InvalidArgument(f'invalid port specification: "{text[:64]}"', field=error.field, value=error.value,
                           hint=error.hint)


def _address(text: str) -> str:
    if text in ("", "0.0.0.0", "::"):  # noqa: S104 - that is what the user may ask for: every address of the host
        return ""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise InvalidArgument(f"invalid HostIp: {text[:64]!r}", field="HostConfig.PortBindings.HostIp",
                              value=text[:64]) from error


def _host_ports(text: str) -> tuple[int, int]:
    """(8000, 0) of "8000", (8000, 8010) of "8000-8010", (0, 0) of nothing."""
    if text in ("", "0"):
        return 0, 0
    field = "HostConfig.PortBindings.HostPort"
    first, dash, last = text.partition("-")
    try:
        low = parse_port(first, field=field)[0]
        high = parse_port(last, field=field)[0] if dash else low
        if high < low:
            raise InvalidArgument("", field=field, value=text[:32], hint="the lower one comes first")
    except InvalidArgument as error:
        raise _no_port(text, error) from error
    return low, high if high > low else 0


def host_ports(binding: PortBinding) -> str:
    """As it was given."""
    if binding.host_port_end:
        return f"{binding.host_port}-{binding.host_port_end}"
    return str(binding.host_port) if binding.host_port else ""
