"""What a user may set about a network's driver, in Docker's words (`docker network create -o`)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hyperstack.pod.errors import InvalidArgument, UnsupportedOption

_BRIDGE = "com.docker.network.bridge."
_MTU = "com.docker.network.driver.mtu"
_ICC = f"{_BRIDGE}enable_icc"
_MASQUERADE = f"{_BRIDGE}enable_ip_masquerade"
_HOST_IP = f"{_BRIDGE}host_binding_ipv4"
_GATEWAY_MODES = (f"{_BRIDGE}gateway_mode_ipv4", f"{_BRIDGE}gateway_mode_ipv6")
KNOWN = (_MTU, _ICC, _MASQUERADE, _HOST_IP, *_GATEWAY_MODES)

_INTEGER = re.compile(r"[+-]?[0-9]{1,9}\Z")
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_MODES = ("nat", "nat-unprotected", "routed", "isolated")
_ANYWHERE = "0.0.0.0"  # noqa: S104 - read, not bound

_REASONS = {
    f"{_BRIDGE}name": "the host's devices are named by the daemon, so that two projects never meet in one",
    "com.docker.network.container_iface_prefix": "a pod's interface is eth0",
    f"{_BRIDGE}default_bridge": "each project has a default network of its own",
}


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    mtu: int = 1500
    isolated: bool = False
    masquerade: bool = True
    host_ip: str = ""


def parse_options(options: Mapping[str, str]) -> NetworkOptions:
    """:raise UnsupportedOption: one that is none of `KNOWN`. :raise InvalidArgument: a value that it cannot have."""
    for name in options:
        if name not in KNOWN:
            raise UnsupportedOption(f"the network option {name[:128]}", _REASONS.get(name, "the built-in bridge has no "
                                    "such option"), hint=f"one of {', '.join(KNOWN)}")
    for mode in _GATEWAY_MODES:
        if options.get(mode, "nat") not in _MODES:
            raise _unparsed(mode, options[mode], f"unknown gateway mode {options[mode][:32]}", hint="nat")
        if options.get(mode, "nat") != "nat":
            raise UnsupportedOption(f"{mode}={options[mode][:32]}", "the host translates addresses, or routes them",
                                    hint=f"nat, or {_MASQUERADE}=false")
    return NetworkOptions(mtu=_number(options, _MTU, 1500), isolated=not _truth(options, _ICC),
                          masquerade=_truth(options, _MASQUERADE), host_ip=_address(options, _HOST_IP))


def _number(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name, str(default))
    if not _INTEGER.match(text):
        raise _unparsed(name, text, f'strconv.Atoi: parsing "{text[:32]}": invalid syntax', hint="a number of bytes")
    if int(text) < 0:
        raise InvalidArgument(f"invalid MTU number: {text}", field=name, value=text)
    return int(text)


def _truth(options: Mapping[str, str], name: str) -> bool:
    text = options.get(name, "true")
    if text not in _TRUE | _FALSE:
        raise _unparsed(name, text, f'strconv.ParseBool: parsing "{text[:32]}": invalid syntax', hint="true or false")
    return text in _TRUE


def _address(options: Mapping[str, str], name: str) -> str:
    text = options.get(name, _ANYWHERE)
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise _unparsed(name, text, "nil ip", hint="an IPv4 address of this host") from None
    return "" if address.is_unspecified else str(address)


def _unparsed(name: str, value: str, why: str, *, hint: str) -> InvalidArgument:
    return InvalidArgument(f"failed to parse {name} value: {value[:32]} ({why})", field=name, value=value[:32],
                           hint=hint)
