"""What an answer looks like in one version of the API: what newer ones dropped or added, where clients look at it.

The rooms make the newest shape and all fields that an older one has; here those go that a version does not have.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from hyperstack.engine.api import Subnet
from hyperstack.http.times import ZERO_TIME

Version = tuple[int, int]
Body = dict[str, Any]

_LEGACY_NETWORK = ("Bridge", "HairpinMode", "LinkLocalIPv6Address", "LinkLocalIPv6PrefixLen", "SecondaryIPAddresses",
                   "SecondaryIPv6Addresses", "EndpointID", "Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen",
                   "IPAddress", "IPPrefixLen", "IPv6Gateway", "MacAddress")
"""Of the first network, beside `Networks`; until 1.51."""
_OF_CONTAINERS: Mapping[str, Any] = {
    "Hostname": "", "Domainname": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False, "Tty": False,
    "OpenStdin": False, "StdinOnce": False, "Image": ""}
"""What an image's configuration showed until 1.49, always empty."""
_EMPTY_CONFIG: Mapping[str, Any] = {
    "User": "", "Env": None, "Cmd": None, "Volumes": None, "WorkingDir": "", "Entrypoint": None, "OnBuild": None,
    "Labels": None}
"""Of the container that an image was made of, which has not been told for long."""
_OMITTED_CONFIG = ("Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir")
_OMITTED_IMAGE = ("Parent", "Comment", "DockerVersion", "Author")
_LEGACY_EVENT = ("status", "id", "from")


def container(body: Body, version: Version) -> Body:
    """Of GET /containers/{id}/json."""
    if version < (1, 45):
        _with_short_id(body["NetworkSettings"]["Networks"], body["Id"])
    if version >= (1, 52):
        body["NetworkSettings"] = _without(body["NetworkSettings"], _LEGACY_NETWORK)
        config = body["Config"]
        body["Config"] = _without(config, ("MacAddress", *(["OnBuild"] if not config.get("OnBuild") else [])))
    return body


def summary(body: Body, version: Version) -> Body:
    """A row of GET /containers/json."""
    if version < (1, 45):
        _with_short_id(body["NetworkSettings"]["Networks"], body["Id"])
    return body if version >= (1, 52) else _without(body, ("Health",))


def _with_short_id(networks: Mapping[str, Body], ident: str) -> None:
    for place in networks.values():
        if place["Aliases"]:
            place["Aliases"] = [*place["Aliases"], ident[:12]]


def image(body: Body, version: Version) -> Body:
    """Of GET /images/{name}/json."""
    if version < (1, 44):
        body["VirtualSize"] = body["Size"]
    if version < (1, 50):
        body["Config"] = {**_OF_CONTAINERS, **body["Config"]}
    if version < (1, 45):
        body |= {"Container": "", "ContainerConfig": {**_OF_CONTAINERS, **_EMPTY_CONFIG}}
    if not body["Created"]:
        body = {**body, "Created": ZERO_TIME} if version < (1, 44) else _without(body, ("Created",))
    body = _without(body, (name for name in ("Variant",) if not body[name]))
    if version >= (1, 52):
        body = _without(body, (name for name in _OMITTED_IMAGE if not body[name]))
        config = body["Config"]
        body["Config"] = _without(config, (name for name in _OMITTED_CONFIG if not config[name]))
    return body


def info(body: Body, version: Version) -> Body:
    """Of GET /info."""
    if version < (1, 25):
        body["SecurityOptions"] = [option.partition(",")[0].removeprefix("name=") for option in body["SecurityOptions"]]
    if version < (1, 42):
        body["KernelMemory"] = False
    if version < (1, 47):
        body["RegistryConfig"] |= {"AllowNondistributableArtifactsCIDRs": None,
                                   "AllowNondistributableArtifactsHostnames": None}
    if version < (1, 49):
        body = _without(body, ("FirewallBackend",))
        for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            body[name]["Expected"] = body[name]["ID"]
    if version < (1, 50):
        body |= {"BridgeNfIptables": False, "BridgeNfIp6tables": False}
    return body


def image_row(body: Body, version: Version) -> Body:
    """A row of GET /images/json."""
    if version < (1, 43) and not body["RepoTags"] and not body["RepoDigests"]:
        body = {**body, "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}
    if version < (1, 51):
        body = {**body, "Containers": -1}
    return {**body, "VirtualSize": body["Size"]} if version < (1, 44) else body


def has_event(kind: str, action: str, version: Version) -> bool:
    """Whether the version tells of it; that an image came to be, only since 1.46."""
    return version >= (1, 46) or (kind, action) != ("image", "create")


def event(body: Body, version: Version) -> Body:
    return body if version < (1, 52) else _without(body, _LEGACY_EVENT)


def stats(body: Body, version: Version) -> Body:
    return body if version < (1, 52) else {**body, "os_type": "linux"}


def network_status(subnets: Iterable[Subnet], taken: Iterable[str], version: Version) -> Body:
    """How many addresses of each subnet are in use; since 1.52.

    :param taken: addresses of containers, each with its prefix length or without.
    """
    if version < (1, 52):
        return {}
    used = [ipaddress.ip_address(address.partition("/")[0]) for address in taken if address]
    return {"Status": {"IPAM": {"Subnets": {subnet.cidr: _subnet_status(subnet, used) for subnet in subnets}}}}


def _subnet_status(subnet: Subnet, used: Iterable[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> dict[str, int]:
    net = ipaddress.ip_network(subnet.cidr)
    pool = ipaddress.ip_network(subnet.ip_range) if subnet.ip_range else net
    kept = {ipaddress.ip_address(text) for text in (subnet.gateway, *subnet.reserved.values()) if text}
    kept |= {net.network_address, net.broadcast_address, *(address for address in used if address in net)}
    limit = 2**64 - 1
    return {"IPsInUse": min(len(kept), limit),
            "DynamicIPsAvailable": min(pool.num_addresses - sum(address in pool for address in kept), limit)}


def _without(body: Body, names: Iterable[str]) -> Body:
    gone = set(names)
    return {name: value for name, value in body.items() if name not in gone}
