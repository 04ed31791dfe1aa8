"""Links of the default network (`--link`): one container is told of others, in /etc/hosts and in its environment.

A link names the other by its id, so it lasts through renames, and goes with the other's removal. Both are of one
project, which is what lets one read the other's environment.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from hyperstack.engine.lookup import find
from hyperstack.engine.machines import launch
from hyperstack.engine.networks.placement import DEFAULT_NETWORK, exposed_ports
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.network.api import Binding
from hyperstack.pod.errors import Conflict, InvalidArgument, NotFound
from hyperstack.pod.spec import ContainerSpec
from hyperstack.pod.states import ContainerState

_LIVE = frozenset({ContainerState.RUNNING, ContainerState.PAUSED})
_OF_THE_IMAGE = frozenset({"HOME", "PATH"})
"""Variables that mean nothing to others."""


def resolve(store: Store, project: str, spec: ContainerSpec) -> ContainerSpec:
    """The spec with ids for names; of links with the same alias the first.

    :raise InvalidArgument: no such container. Not as what it is: Docker's client takes that for a missing image.
    """
    found: dict[str, str] = {}
    for link in spec.links:
        ref, _, alias = link.partition(":")
        try:
            other = find(store.containers, "container", project, ref)
        except NotFound as error:
            raise InvalidArgument(f"could not get container for {ref[:128]}: {error.message}", field="links",
                                  value=ref[:128]) from None
        # Whoever is in another's network is found where that one is.
        found.setdefault(alias or ref, other.spec.sharing.network or other.id)
    return replace(spec, links=tuple(f"{ident}:{alias}" for alias, ident in found.items()))


def others(store: Store, container: ContainerRecord) -> Iterator[tuple[str, ContainerRecord]]:
    """(alias, container) of those that are still there."""
    for link in container.spec.links:
        ident, _, alias = link.partition(":")
        other = store.containers.get(ident)
        if other is not None:
            yield alias, other


def linkers(store: Store, container: ContainerRecord) -> set[str]:
    """Pods that have a link to the container."""
    return {one.pod_id for one in store.containers.all()
            if any(link.startswith(f"{container.id}:") for link in one.spec.links)}


def unlink(store: Store, container: ContainerRecord, alias: str) -> None:
    """:raise NotFound: it has no such link."""
    left = tuple(link for link in container.spec.links if link.partition(":")[2] != alias)
    if left == container.spec.links:
        raise NotFound("link", f"/{container.name}/{alias}")
    store.containers.put(replace(container, spec=replace(container.spec, links=left)))


def hosts(store: Store, pod: PodRecord) -> tuple[tuple[str, str], ...]:
    """(address, names) of those that run, for the pod's /etc/hosts; none where it is not on the default network."""
    if _place(pod) is None:
        return ()
    lines = []
    for container in store.containers.all():
        if container.pod_id != pod.id:
            continue
        for alias, other in others(store, container):
            its = store.pods.get(other.pod_id)
            place = _place(its) if its is not None and other.state in _LIVE else None
            if its is None or place is None:
                continue
            names = " ".join(dict.fromkeys((alias, launch.hostname(its), other.name)))
            lines += [(address.partition("/")[0], names) for address in (place.address, place.address6) if address]
    return tuple(lines)


def check(store: Store, container: ContainerRecord) -> None:
    """Before a start. :raise Conflict: one that it links to does not run."""
    pod = store.pods.get(container.pod_id)
    if pod is not None and any(endpoint.network == DEFAULT_NETWORK for endpoint in pod.spec.endpoints):
        for alias, other in others(store, container):
            _require_live(container, alias, other)


def _require_live(container: ContainerRecord, alias: str, other: ContainerRecord) -> None:
    if other.state not in _LIVE:
        raise Conflict(f"Cannot link to a non running container: /{other.name} AS /{container.name}/{alias}",
                       field="links", value=other.name, hint="start that one first")


def environment(store: Store, container: ContainerRecord) -> tuple[str, ...]:
    """What the container is told of those that it links to.

    :raise Conflict: one does not run, or is not on the default network.
    """
    pod = store.pods.get(container.pod_id)
    if not container.spec.links or pod is None or _place(pod) is None:
        return ()
    told: list[str] = []
    for alias, other in others(store, container):
        _require_live(container, alias, other)
        its = store.pods.get(other.pod_id)
        place = _place(its) if its is not None else None
        if place is None:
            raise Conflict(f"container {other.id} not attached to default bridge network", field="links",
                           value=other.name, hint=f"hyperctl network connect {DEFAULT_NETWORK} {other.name}")
        told += variables(f"/{container.name}/{alias}", place.address.partition("/")[0], _ports(other),
                          launch.merge_environment(other.image_config.env, other.spec.env))
    return tuple(told)


def _ports(container: ContainerRecord) -> list[tuple[int, str]]:
    """(number, protocol) of what it exposes; what an image says there that is no port means nothing."""
    parts = (text.partition("/") for text in exposed_ports([container]))
    return [(int(number), protocol or "tcp") for number, _, protocol in parts if number.isdecimal()]


def variables(name: str, address: str, ports: list[tuple[int, str]], env: tuple[str, ...]) -> list[str]:
    """Those of one link.

    :param name: /CONTAINER/ALIAS. :param ports: (number, protocol). :param env: of the other container.
    """
    alias = name.rpartition("/")[2].upper().replace("-", "_")
    told = []
    ordered = sorted(ports, key=lambda port: (port[1] != "tcp", port[1], port[0]))
    if ordered:
        number, protocol = ordered[0]
        told.append(f"{alias}_PORT={protocol}://{address}:{number}")
    for number, protocol in ordered:
        prefix = f"{alias}_PORT_{number}_{protocol.upper()}"
        told += [f"{prefix}={protocol}://{address}:{number}", f"{prefix}_ADDR={address}", f"{prefix}_PORT={number}",
                 f"{prefix}_PROTO={protocol}"]
    for first, last, protocol in _ranges(ordered):
        prefix = f"{alias}_PORT_{first}_{protocol.upper()}"
        told += [f"{prefix}_START={protocol}://{address}:{first}", f"{prefix}_PORT_START={first}",
                 f"{prefix}_END={protocol}://{address}:{last}", f"{prefix}_PORT_END={last}"]
    told.append(f"{alias}_NAME={name}")
    return told + [f"{alias}_ENV_{entry}" for entry in env if entry.partition("=")[0] not in _OF_THE_IMAGE]


def _ranges(ports: list[tuple[int, str]]) -> list[tuple[int, int, str]]:
    """Of ports in order, those that follow one another: (first, last, protocol)."""
    ranges: list[tuple[int, int, str]] = []
    for number, protocol in ports:
        if ranges and (ranges[-1][1] + 1, ranges[-1][2]) == (number, protocol):
            ranges[-1] = (ranges[-1][0], number, protocol)
        else:
            ranges.append((number, number, protocol))
    return [(first, last, protocol) for first, last, protocol in ranges if first != last]


def _place(pod: PodRecord) -> Binding | None:
    """The pod's place on the default network, where it has one now."""
    return next((binding for binding in pod.bindings if binding.network in ("", DEFAULT_NETWORK)), None)
