"""GET /containers/json: which containers, and one line of each."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from hyperstack.docker_api import shapes
from hyperstack.docker_api.filters import Filters
from hyperstack.docker_api.inspection import exit_code, is_listed, is_live, mount_point, shown_network, status
from hyperstack.docker_api.networks import endpoints, exposed_ports, shown_addresses
from hyperstack.docker_api.ports import parse_port
from hyperstack.docker_api.wording import duration
from hyperstack.engine.api import Engine
from hyperstack.engine.machines.launch import command_words
from hyperstack.engine.records import ContainerRecord, HealthRecord, HealthStatus, PodRecord
from hyperstack.http.call import Call
from hyperstack.http.responses import json_response
from hyperstack.identity.api import Principal
from hyperstack.pod.errors import HyperStackError, InvalidArgument, NotFound
from hyperstack.pod.states import ContainerState

_KNOWN = ("ancestor", "before", "expose", "exited", "health", "id", "is-task", "isolation", "label", "name", "network",
          "pod", "publish", "since", "status", "volume")
_STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
_NS = 1_000_000_000


async def list_containers(engine: Engine, call: Call) -> web.StreamResponse:
    """The handler."""
    wanted = Filters.parse(call, known=_KNOWN)
    _check_words(wanted)
    limit = call.integer("limit", 0) or 0
    selection = _Selection(engine, call, wanted, everything=call.flag("all") or limit > 0)
    records = [record for record in engine.containers.list_all(call.who) if selection.has(record)]
    if limit > 0:
        records = records[:limit]
    links = engine.containers.link_names(call.who)
    rows = [_row(engine, record, links) for record in records]
    if call.flag("size"):
        written: Mapping[str, int] = (await engine.system.disk_usage(call.who)).get("containers", {})
        for row in rows:
            row["SizeRw"] = written.get(row["Id"], 0)
            row["SizeRootFs"] = row["SizeRw"] + image_size(engine, call, row["ImageID"])
    return json_response([shapes.summary(row, call.version) for row in rows])


def all_rows(engine: Engine, who: Principal, written: Mapping[str, int]) -> list[dict[str, Any]]:
    """Every container of a project, with the bytes that it wrote."""
    links = engine.containers.link_names(who)
    return [_row(engine, record, links) | dict.fromkeys(("SizeRw", "SizeRootFs"), written.get(record.id, 0))
            for record in engine.containers.list_all(who)]


def _check_words(wanted: Filters) -> None:
    wanted.truth("is-task")
    for name, what, words in (("status", "state", _STATES), ("health", "health", ("none", *HealthStatus))):
        for value in wanted.get(name):
            if value not in words:
                raise _no_filter(name, value, f"invalid value for {what} ({value[:64]}): must be one of "
                                              f"{', '.join(words)}")
    for value in wanted.get("exited"):
        if not value.lstrip("-").isdecimal() or len(value) > 10:
            raise _no_filter("exited", value, f'strconv.Atoi: parsing "{value[:64]}": invalid syntax')


def _no_filter(name: str, value: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"invalid filter '{name}={value[:64]}': {why}", field="filters", value=value[:64])


class _Selection:
    """The filters, with what they refer to looked up once."""

    def __init__(self, engine: Engine, call: Call, wanted: Filters, *, everything: bool) -> None:
        self._engine = engine
        self._wanted = wanted
        self._everything = everything or any(wanted.get(name) for name in ("status", "exited"))
        containers = engine.containers
        self._before = [containers.get(call.who, ref).created_at for ref in wanted.get("before")]
        self._since = [containers.get(call.who, ref).created_at for ref in wanted.get("since")]
        self._ancestors = {*wanted.get("ancestor"), *(image for ref in wanted.get("ancestor")
                                                      if (image := _image_id(engine, call, ref)))}
        self._names = wanted.patterns("name")
        self._networks = {_network_name(engine, call, ref) for ref in wanted.get("network")}

    def has(self, record: ContainerRecord) -> bool:
        if not self._everything and not is_live(record) and status(record) != "restarting":
            return False
        wanted = self._wanted
        return (wanted.any_prefix("id", record.id) and self._has_name(record.name)
                and wanted.any_is("status", status(record)) and wanted.any_is("health", self._health(record))
                and wanted.truth("is-task") is not True
                and wanted.labels({**record.image_config.labels, **record.spec.labels})
                and self._has_exit_code(record) and self._has_time(record)
                and (not self._ancestors or bool({record.spec.image, record.image_id} & self._ancestors))
                and self._has_volume(record) and self._has_place(record, self._engine.containers.pod_of(record)))

    def _health(self, record: ContainerRecord) -> str:
        found = self._engine.containers.health_of(record)
        return "none" if found is None else found.status.value

    def _has_name(self, name: str) -> bool:
        return not self._names or any(pattern.search(shown) for pattern in self._names for shown in (name, f"/{name}"))

    def _has_exit_code(self, record: ContainerRecord) -> bool:
        codes = self._wanted.get("exited")
        return not codes or (record.state is ContainerState.EXITED and str(exit_code(record)) in codes)

    def _has_time(self, record: ContainerRecord) -> bool:
        return (all(record.created_at < moment for moment in self._before)
                and all(record.created_at > moment for moment in self._since))

    def _has_volume(self, record: ContainerRecord) -> bool:
        names = {name for mount in record.spec.mounts for name in (mount.source, mount.target)}
        return self._wanted.any_is("volume", *names)

    def _has_place(self, record: ContainerRecord, pod: PodRecord) -> bool:
        published = {f"{port.host_port}/{port.protocol}" for port in pod.ports}
        return ((not self._networks or not self._networks.isdisjoint(endpoints(pod, live=False)))
                and self._wanted.any_is("pod", pod.id, pod.name, pod.id[:12])
                and _any_port(self._wanted.get("publish"), published)
                and _any_port(self._wanted.get("expose"), set(exposed_ports(record))))


def _network_name(engine: Engine, call: Call, ref: str) -> str:
    try:
        return engine.networks.get(call.who, ref).name
    except NotFound:
        return ref


def _any_port(wanted: tuple[str, ...], ports: set[str]) -> bool:
    numbers = (parse_port(text, field="filters") for text in wanted)
    return not wanted or any(f"{number}/{protocol}" in ports for number, protocol in numbers)


def _image_id(engine: Engine, call: Call, ref: str) -> str:
    try:
        return engine.images.get(call.who, ref).id
    except HyperStackError:  # An image that is gone still names its containers.
        return ""


def image_size(engine: Engine, call: Call, image_id: str) -> int:
    """Bytes of its layers; 0 for one that is gone."""
    try:
        return engine.images.get(call.who, image_id).size
    except HyperStackError:
        return 0


def _row(engine: Engine, record: ContainerRecord, links: Mapping[str, list[str]]) -> dict[str, Any]:
    pod = engine.containers.pod_of(record)
    live = is_live(record)
    entrypoint, command = command_words(record)
    # The endpoint and the ports of a container that shares another's network are that one's.
    own = not record.spec.sharing.network
    health = engine.containers.health_of(record)
    return {
        "Id": record.id, "Names": [f"/{record.name}", *links.get(record.id, ())], "Image": record.spec.image,
        "ImageID": record.image_id, "Command": shlex.join([*entrypoint, *command]), "Created": record.created_at // _NS,
        "Ports": _ports(record, pod) if live and own else [],
        "Labels": {**record.image_config.labels, **record.spec.labels},
        "State": status(record), "Status": status_text(record, health),
        "Health": {"Status": health.status.value if health else "none",
                   "FailingStreak": health.failing_streak if health else 0},
        "HostConfig": {"NetworkMode": shown_network(record.spec, pod.spec),
                       **({"Annotations": record.spec.annotations} if record.spec.annotations else {})},
        "NetworkSettings": {"Networks": {name: {**place, "Aliases": None, "DNSNames": None}
                                         for name, place in endpoints(pod, live=live).items()} if own else {}},
        "Mounts": [mount_point(mount) for mount in record.spec.mounts if is_listed(mount)],
        "HyperStack": {"Pod": pod.id, "PodName": pod.name},
    }


def status_text(record: ContainerRecord, health: HealthRecord | None = None) -> str:
    """"Up 5 minutes (healthy)", "Exited (0) 3 seconds ago"."""
    now = time.time_ns()
    match status(record):
        case "running":
            return f"Up {duration(now - record.started_at)}{_health_text(health)}"
        case "paused":
            return f"Up {duration(now - record.started_at)} (Paused)"
        case "restarting":
            return f"Restarting ({exit_code(record)}) {duration(now - record.finished_at)} ago"
        case "removing":
            return "Removal In Progress"
        case "dead":
            return "Dead"
        case "exited":
            return f"Exited ({exit_code(record)}) {duration(now - record.finished_at)} ago"
    return "Created"


def _health_text(health: HealthRecord | None) -> str:
    if health is None:
        return ""
    return " (health: starting)" if health.status is HealthStatus.STARTING else f" ({health.status})"


def _ports(record: ContainerRecord, pod: PodRecord) -> list[dict[str, Any]]:
    rows = [{"IP": address, "PrivatePort": port.container_port, "PublicPort": port.host_port, "Type": port.protocol}
            for port in pod.ports for address in shown_addresses(port)]
    published = {(row["PrivatePort"], row["Type"]) for row in rows}
    for text in exposed_ports(record):
        number, protocol = parse_port(text, field="ExposedPorts")
        if (number, protocol) not in published:
            rows.append({"PrivatePort": number, "Type": protocol})
    return rows
