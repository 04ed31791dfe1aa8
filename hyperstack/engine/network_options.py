"""What a user may set about a network's driver, in Docker's words (`docker network create -o`)."""

from __future__ import annotations

import ipaddress
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
        if options.get(mode, "nat") != "nat":
            raise UnsupportedOption(f"{mode}={options[mode][:32]}", "the host translates addresses, or routes them",
                                    hint=f"nat, or {_MASQUERADE}=false")
    return NetworkOptions(mtu=_number(options, _MTU, 1500), isolated=not _truth(options, _ICC),
                          masquerade=_truth(options, _MASQUERADE), host_ip=_address(options, _HOST_IP))


def _number(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 6:
        raise InvalidArgument(f"{name}: {text[:32]!r} is no number of bytes", field=name, value=text[:32])
    return int(text)


def _truth(options: Mapping[str, str], name: str) -> bool:
    text = options.get(name, "true").lower()
    if text not in ("true", "1", "t", "false", "0", "f"):
        raise InvalidArgument(f"{name}: {text[:32]!r} is neither true nor false", field=name, value=text[:32])
    return text in ("true", "1", "t")


def _address(options: Mapping[str, str], name: str) -> str:
    text = options.get(name, "")
    try:
        address = ipaddress.IPv4Address(text or 0)
    except ValueError:
        raise InvalidArgument(f"{name}: {text[:64]!r} is no IPv4 address", field=name, value=text[:64],
                              hint="name an address of this host") from None
    return "" if address.is_unspecified else str(address)
