"""A container's place on a network, out of the bodies of create and connect."""

from __future__ import annotations

import ipaddress
import re

from hyperstack.docker_api.bodies import CreateBody, EndpointBody, HostConfigBody
from hyperstack.pod.errors import InvalidArgument, UnsupportedOption
from hyperstack.pod.spec import Endpoint

MAX_NAMES = 64
"""Aliases, or links, of one container."""

_BUILTIN = ("", "default", "bridge", "none")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z", re.IGNORECASE)
_NO_ENDPOINT = "invalid config for network {}: invalid endpoint settings:\n"
_NAME = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,251}[a-zA-Z0-9_])?\Z")


def network_mode(host: HostConfigBody) -> str:
    """The network's name or id. :raise UnsupportedOption: a network that is not the pod's own."""
    mode = host.network_mode
    if mode in ("", "default", "bridge"):
        return "bridge"
    reason, hint = {
        "host": ("a VM has a network of its own", "publish ports with -p"),
    }.get(mode.partition(":")[0], ("", ""))
    if reason:
        raise UnsupportedOption(f"HostConfig.NetworkMode={mode[:64]}", reason, hint=hint)
    return mode


def is_users(host: HostConfigBody) -> bool:
    """Whether the network is one that users make."""
    return host.network_mode not in _BUILTIN


def parse_places(body: CreateBody) -> tuple[Endpoint, ...]:
    """The networks of a new container, HostConfig.NetworkMode's first.

    :raise InvalidArgument, UnsupportedOption: names the field.
    """
    mode = "none" if body.network_disabled else network_mode(body.host_config)
    asked: dict[str, EndpointBody] = {}
    for name, endpoint in body.networking_config.endpoints_config.items():
        asked["bridge" if name == "default" else name] = endpoint or EndpointBody()
    if not asked or is_users(body.host_config):
        asked.setdefault(mode, EndpointBody())
    places: list[Endpoint] = []
    for name, given in sorted(asked.items(), key=lambda item: item[0] != mode):
        field = f"NetworkingConfig.EndpointsConfig.{name[:64]}"
        # What is said of the container itself is of its first network.
        own = not places
        if own and body.mac_address and given.mac_address.lower() not in ("", body.mac_address.lower()):
            raise InvalidArgument("conflicting options: the container-wide MAC address must match the endpoint-specific"
                                  " MAC address for the main network, or be left empty", field="MacAddress",
                                  value=body.mac_address[:64])
        place = parse_endpoint(given, field, network=name, mac=body.mac_address if own else "",
                               links=body.host_config.links if own and is_users(body.host_config) else None)
        if name in _BUILTIN and place.aliases:
            raise InvalidArgument(f"{_NO_ENDPOINT.format(name)}network-scoped alias is supported only for containers "
                                  "in user defined networks", field=f"{field}.Aliases",
                                  hint=f"{field}.Aliases: docker network create one, and use it with --network")
        if name in _BUILTIN and place.links:
            raise UnsupportedOption(f"{field}.Links", "pods have names on networks of the user's only",
                                    hint="docker network create one, and use it with --network")
        if name in _BUILTIN and (place.ip_address or place.ip6_address):
            raise InvalidArgument(
                f"{_NO_ENDPOINT.format(name)}* user specified IP address is supported on user defined networks only\n"
                "* user specified IP address is supported only when connecting to networks with user configured "
                "subnets", field=field, value=place.ip_address or place.ip6_address)
        places.append(place)
    return tuple(places)


def parse_links(body: CreateBody) -> tuple[str, ...]:
    """HostConfig.Links where they are of the container, as container:alias; on a network of the user's they are of its
    place there. :raise InvalidArgument: one is no link."""
    if is_users(body.host_config):
        return ()
    field = "HostConfig.Links"
    return tuple(_container_link(link, field) for link in _bounded(body.host_config.links, field))


def parse_endpoint(endpoint: EndpointBody, field: str, *, network: str = "", mac: str = "",
                   links: list[str] | None = None) -> Endpoint:
    """:param mac, links: what the body says elsewhere, in force where the endpoint says nothing."""
    for wrong, value in (("DriverOpts", endpoint.driver_opts),
                         ("IPAMConfig.LinkLocalIPs", endpoint.ipam_config.link_local_ips)):
        if value:
            raise UnsupportedOption(f"{field}.{wrong}", "the built-in bridge has no such thing")
    mac = endpoint.mac_address or mac
    if mac and not _MAC.match(mac):
        where = f"invalid config for network {network[:64]}: " if network else ""
        raise InvalidArgument(f"{where}invalid MAC address {mac[:64]}", field="MacAddress", value=mac[:64])
    four, six = endpoint.ipam_config.ipv4_address, endpoint.ipam_config.ipv6_address
    return Endpoint(
        network=network, mac_address=mac.lower(), priority=endpoint.gw_priority,
        aliases=tuple(_name(alias, f"{field}.Aliases") for alias in _bounded(endpoint.aliases, f"{field}.Aliases")),
        links=tuple(_link(link, f"{field}.Links") for link in _bounded(endpoint.links or links or [],
                                                                       f"{field}.Links")),
        ip_address=_address(four, f"{field}.IPAMConfig.IPv4Address", ipaddress.IPv4Address) if four else "",
        ip6_address=_address(six, f"{field}.IPAMConfig.IPv6Address", ipaddress.IPv6Address) if six else "")


def _bounded(names: list[str], field: str) -> list[str]:
    if len(names) > MAX_NAMES:
        raise InvalidArgument(f"{field}: more than {MAX_NAMES}", field=field, value=len(names))
    return names


def _name(text: str, field: str) -> str:
    if not _NAME.match(text):
        raise InvalidArgument(f"{field}: {text[:64]!r} cannot be a name on a network", field=field, value=text[:64],
                              hint="letters, digits, '_', '-' and '.', at most 253")
    return text


def _container_link(text: str, field: str) -> str:
    complaint = "" if text else "empty string specified for links"
    if text.count(":") > 1:
        complaint = f"bad format for links: {text[:64]}"
    elif text.startswith(":"):
        complaint = 'could not get container for : invalid name or ID supplied: ""'
    if complaint:
        raise InvalidArgument(complaint, field=field, value=text[:64], hint="container[:alias]")
    return _link(text, field)


def _link(text: str, field: str) -> str:
    target, colon, alias = text.rpartition(":")
    if not colon:
        target = alias
    return f"{_name(target.removeprefix('/'), field)}:{_name(alias.rpartition('/')[2], field)}"


def _address(text: str, field: str, kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]) -> str:
    try:
        return str(kind(text))
    except ValueError as error:
        version = "IPv4" if kind is ipaddress.IPv4Address else "IPv6"
        raise InvalidArgument(f"{field}: not an {version} address: {text[:64]!r}", field=field, value=text[:64]
                              ) from error
