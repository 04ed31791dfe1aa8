"""Ping, version, info and events."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

import hyperstack
from hyperstack.docker_api import shapes, streams
from hyperstack.docker_api.containers import host_architecture
from hyperstack.docker_api.filters import Filters
from hyperstack.docker_api.versions import LATEST, OLDEST
from hyperstack.engine.api import Engine
from hyperstack.engine.logs.drivers import DRIVERS
from hyperstack.engine.records import Event
from hyperstack.http.call import Call
from hyperstack.http.responses import JSON_SEQUENCE, JsonLines, json_response
from hyperstack.http.routing import Route
from hyperstack.http.times import rfc3339
from hyperstack.pod.errors import InvalidArgument

_NAMED = ("config", "container", "daemon", "network", "node", "plugin", "pod", "secret", "service", "volume")
"""Kinds of objects that a filter may name; of some of them nothing ever happens here."""
_EVENT_FILTERS = (*_NAMED, "event", "image", "label", "scope", "type")
_WITH_DETAIL = frozenset({"health_status", "exec_create", "exec_start"})
"""Actions that go on after a colon, which a filter may leave out."""
_NS = 1_000_000_000


class SystemRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def table(self) -> list[Route]:
        return [
            Route("HEAD", "/_ping", self.ping),
            Route("GET", "/_ping", self.ping),
            Route("GET", "/version", self.version),
            Route("GET", "/info", self.info),
            Route("GET", "/events", self.events, cancellable=True),
        ]

    async def ping(self, call: Call) -> web.StreamResponse:
        return web.Response(text="OK", headers={"Cache-Control": "no-cache, no-store, must-revalidate",
                                                "Pragma": "no-cache", "Builder-Version": "1", "Swarm": "inactive"})

    async def version(self, call: Call) -> web.StreamResponse:
        info = self._engine.system.info(call.who)
        details = {"ApiVersion": _dotted(LATEST), "MinAPIVersion": _dotted(OLDEST), "Os": "linux",
                   "Arch": host_architecture(), "KernelVersion": str(info.get("kernel", platform.release()))}
        return json_response({
            "Platform": {"Name": "HyperStack"}, "Version": hyperstack.__version__, **details,
            "GitCommit": "", "GoVersion": "", "BuildTime": "",
            "Components": [{"Name": "Engine", "Version": hyperstack.__version__, "Details": {
                "BuildTime": "", "Experimental": "false", "GitCommit": "", "GoVersion": "", **details}},
                           {"Name": "Hypervisor", "Version": str(info.get("hypervisor", "")),
                            "Details": {"Accelerator": str(info.get("accelerator", "")),
                                        "GuestKernel": str(info.get("guest_kernel", ""))}}]})

    async def info(self, call: Call) -> web.StreamResponse:
        return json_response(shapes.info(_info(self._engine.system.info(call.who)), call.version))

    async def events(self, call: Call) -> web.StreamResponse:
        since, until = call.time_ns("since"), call.time_ns("until")
        if until and until < since:
            raise InvalidArgument(f"`since` time ({call.text('since')[:64]}) cannot be after `until` time "
                                  f"({call.text('until')[:64]})", field="since", value=call.text("since")[:64])
        wanted = Filters.parse(call, known=_EVENT_FILTERS)
        events = self._engine.events(call.who, since_ns=since, until_ns=until)
        lines = JsonLines(call.request, media_type=_media_type(call))
        async with streams.closing(events):
            await lines.open()
            async for event in events:
                if _wanted(event, wanted) and shapes.has_event(event.kind, event.action, call.version):
                    await lines.write(shapes.event(_event(event), call.version))
        return await lines.close()


def _media_type(call: Call) -> str:
    """Of events: what the client accepts of what its version knows, in the order of the server's liking."""
    known = [(1, 53, "application/jsonl"), (1, 52, "application/x-ndjson"), (1, 52, JSON_SEQUENCE)]
    accepted = call.request.headers.get("Accept", "").lower()
    offered = (kind for major, minor, kind in known if call.version >= (major, minor))
    return next((kind for kind in offered if kind in accepted), "application/json")


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _info(info: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ID": str(info.get("id", "")), "Containers": info.get("containers", 0),
        "ContainersRunning": info.get("running", 0), "ContainersPaused": info.get("paused", 0),
        "ContainersStopped": info.get("stopped", 0), "Images": info.get("images", 0),
        "Driver": str(info.get("storage", "erofs")),
        "DriverStatus": [["Hypervisor", str(info.get("hypervisor", ""))],
                         ["Accelerator", str(info.get("accelerator", ""))],
                         ["Guest Kernel", str(info.get("guest_kernel", ""))], ["Pods", str(info.get("pods", 0))],
                         *_starts(info.get("starts")), *_pool(info.get("pool"))],
        "Plugins": {"Volume": ["local"], "Network": ["bridge", "null"], "Authorization": None,
                    "Log": sorted({*DRIVERS} - {"none"})},
        "MemoryLimit": True, "SwapLimit": False, "CpuCfsPeriod": True,
        "CpuCfsQuota": True, "CPUShares": True,
        "CPUSet": True, "PidsLimit": True, "IPv4Forwarding": True, "Debug": False, "NFd": 0, "OomKillDisable": False,
        "NGoroutines": 0, "LoggingDriver": "json-file", "CgroupDriver": "none",
        "CgroupVersion": str(info.get("cgroup_version", "2")), "NEventsListener": 0,
        "KernelVersion": str(info.get("kernel", platform.release())), "OperatingSystem": str(info.get("os", "")),
        "OSVersion": str(info.get("os_version", "")), "OSType": "linux",
        "Architecture": platform.machine(), "NCPU": info.get("cpus", 0),
        "MemTotal": info.get("memory", 0), "IndexServerAddress": "https://index.docker.io/v1/",
        "DockerRootDir": str(info.get("data_root", "")), "HttpProxy": "", "HttpsProxy": "", "NoProxy": "",
        "Name": str(info.get("hostname", "")), "Labels": [], "GenericResources": None,
        "ExperimentalBuild": False,
        "ServerVersion": hyperstack.__version__, "Runtimes": {"hyperstack": {"path": ""}},
        "DefaultRuntime": "hyperstack", "Swarm": {
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": "",
            "RemoteManagers": None},
        "LiveRestoreEnabled": True, "Isolation": "", "InitBinary": "hyperstack-agent",
        "ContainerdCommit": {"ID": ""}, "RuncCommit": {"ID": ""}, "InitCommit": {"ID": hyperstack.__version__},
        "FirewallBackend": {"Driver": "nftables"}, "CDISpecDirs": [],
        "SecurityOptions": ["name=hypervisor", "name=seccomp,profile=builtin"],
        "Warnings": list(info.get("warnings", ())) or None,
        "RegistryConfig": {"InsecureRegistryCIDRs": [], "Mirrors": None, "IndexConfigs": {"docker.io": {
            "Name": "docker.io", "Mirrors": [], "Secure": True, "Official": True}}},
        "SystemTime": rfc3339(time.time_ns()), "HyperStack": dict(info)}


def _starts(state: Mapping[str, int] | None) -> list[list[str]]:
    """How it stands with the machines that are to start."""
    if state is None:
        return []
    short = f", {state['short_of_memory']} of them for memory" if state["short_of_memory"] else ""
    return [["Starts", f"{state['running']} under way (at most {state['slots']}), {state['waiting']} waiting{short}"]]


def _pool(state: Mapping[str, int] | None) -> list[list[str]]:
    """Machines that stand ready, where there may be any."""
    if state is None or not state["size"]:
        return []
    return [["Ready", f"{state['ready']}, {state['memory'] >> 20} MiB (at most {state['size']} of a class)"]]


def _event(event: Event) -> dict[str, Any]:
    legacy = {}
    if event.kind in ("container", "image"):
        legacy = {"status": event.action, "id": event.ident}
        if event.kind == "container":
            legacy["from"] = event.attributes.get("image", "")
    return {**{name: value for name, value in legacy.items() if value}, "Type": event.kind, "Action": event.action,
            "Actor": {"ID": event.ident, "Attributes": event.attributes}, "scope": "local",
            "time": event.time_ns // _NS, "timeNano": event.time_ns}


def _wanted(event: Event, wanted: Filters) -> bool:
    """A name in a filter is the beginning of an object's id or name; an object of another kind that begins so counts
    as well, as in Docker."""
    name = event.attributes.get("name", "")
    image = name if event.kind == "image" else event.attributes.get("image", "")
    images = {event.ident, image, _repository(event.ident), _repository(image)}
    actions = wanted.get("event")
    prefixes = actions if _WITH_DETAIL & {*actions} else ()
    return (all(wanted.any_prefix(kind, event.ident) or wanted.any_prefix(kind, name) for kind in _NAMED)
            and wanted.any_is("type", event.kind)
            and (wanted.any_is("event", event.action) or event.action.startswith(prefixes or "\0"))
            and wanted.any_is("scope", "local") and wanted.labels(event.attributes)
            and wanted.any_is("image", *images))


def _repository(image: str) -> str:
    """A name without its tag."""
    return image[:image.rfind(":")] if image.rfind(":") > image.rfind("/") else image
