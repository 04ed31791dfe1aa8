"""The operations of the reference, and the OpenAPI document that they make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.reference import answers, requests
from tests.reference.schema import BOOL, DIGEST, INT, TEXT, Schema, array, record, string

JSON = "application/json"
TAR = "application/x-tar"
FRAMES = "application/vnd.docker.multiplexed-stream"
RAW = "application/vnd.docker.raw-stream"
PLAIN = "text/plain"
BYTES = "application/octet-stream"

_FILTERS = string(contentMediaType=JSON)
_KINDS = {"?": BOOL, "#": INT, "*": array(TEXT), "%": _FILTERS}
_NO_SWARM: dict[int, Schema | str | None] = {503: answers.ERROR}
_ABSENT: dict[int, Schema | str | None] = {501: answers.ERROR}


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    query: str = ""
    """Names of parameters; behind each how it reads: `?` a flag, `#` a number, `*` several, `%` filters."""
    answers: Mapping[int, Schema | str | None] = field(default_factory=dict)
    """By status, without errors: a schema of JSON, a media type of something else, or nothing."""
    body: Schema | str | None = None
    lines: bool = False
    """The JSON comes as a stream of objects."""
    headers: tuple[str, ...] = ()
    """Of a good answer, beside those that all have."""

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    def parameters(self) -> dict[str, Schema]:
        found = {}
        for word in self.query.split():
            kind = _KINDS.get(word[-1])
            found[word if kind is None else word[:-1]] = TEXT if kind is None else kind
        return found

    def pattern(self) -> re.Pattern[str]:
        """Of a path without its version."""
        return re.compile(re.sub(r"\\\{name\\\}", ".+", re.sub(r"\\\{id\\\}", "[^/]+", re.escape(self.path))) + r"\Z")


def _op(method: str, path: str, answer: Schema | str | None = None, *, status: int = 200, query: str = "",
        body: Schema | str | None = None, also: Mapping[int, Schema | str | None] | None = None, lines: bool = False,
        headers: tuple[str, ...] = ()) -> Operation:
    return Operation(method, path, query, {status: answer, **(also or {})}, body, lines, headers)


_STREAMS = "detachKeys logs? stream? stdin? stdout? stderr?"
_LOGS = "follow? stdout? stderr? since# until# timestamps? tail"
_PING = ("Builder-Version", "Swarm", "Cache-Control", "Pragma")
_STAT = ("X-Docker-Container-Path-Stat",)
_BUILD = ("dockerfile t* extrahosts remote q? nocache? cachefrom pull rm? forcerm? memory# memswap# cpushares# "
          "cpusetcpus cpuperiod# cpuquota# buildargs% shmsize# labels% networkmode platform target outputs squash? "
          "version")

_CONTAINERS = [
    _op("GET", "/containers/json", array(answers.CONTAINER_SUMMARY), query="all? limit# size? filters%"),
    _op("POST", "/containers/create", answers.CONTAINER_CREATED, status=201, query="name platform",
        body=requests.CREATE),
    _op("GET", "/containers/{id}/json", answers.CONTAINER, query="size?"),
    _op("GET", "/containers/{id}/top", answers.CONTAINER_TOP, query="ps_args"),
    _op("GET", "/containers/{id}/logs", FRAMES, query=_LOGS),
    _op("GET", "/containers/{id}/changes", answers.CHANGES),
    _op("GET", "/containers/{id}/export", TAR),
    _op("GET", "/containers/{id}/stats", answers.CONTAINER_STATS, query="stream? one-shot?", lines=True),
    _op("POST", "/containers/{id}/resize", query="h# w#"),
    _op("POST", "/containers/{id}/start", status=204, query="detachKeys", also={304: None}),
    _op("POST", "/containers/{id}/stop", status=204, query="signal t#", also={304: None}),
    _op("POST", "/containers/{id}/restart", status=204, query="signal t#"),
    _op("POST", "/containers/{id}/kill", status=204, query="signal"),
    _op("POST", "/containers/{id}/update", answers.CONTAINER_UPDATED, body=requests.UPDATE),
    _op("POST", "/containers/{id}/rename", status=204, query="name"),
    _op("POST", "/containers/{id}/pause", status=204),
    _op("POST", "/containers/{id}/unpause", status=204),
    _op("POST", "/containers/{id}/attach", FRAMES, query=_STREAMS, also={101: FRAMES}),
    _op("GET", "/containers/{id}/attach/ws", status=101, query=_STREAMS),
    _op("POST", "/containers/{id}/wait", answers.CONTAINER_WAIT, query="condition"),
    _op("DELETE", "/containers/{id}", status=204, query="v? force? link?"),
    _op("HEAD", "/containers/{id}/archive", query="path", headers=_STAT),
    _op("GET", "/containers/{id}/archive", TAR, query="path", headers=_STAT),
    _op("PUT", "/containers/{id}/archive", query="path noOverwriteDirNonDir copyUIDGID", body=TAR),
    _op("POST", "/containers/prune", answers.CONTAINERS_PRUNED, query="filters%"),
    _op("POST", "/containers/{id}/exec", answers.IDENT, status=201, body=requests.EXEC_CREATE),
    _op("POST", "/exec/{id}/start", FRAMES, body=requests.EXEC_START, also={101: FRAMES}),
    _op("POST", "/exec/{id}/resize", query="h# w#"),
    _op("GET", "/exec/{id}/json", answers.EXEC),
]
_IMAGES = [
    _op("GET", "/images/json", array(answers.IMAGE_SUMMARY),
        query="all? filters% shared-size? digests? manifests? identity?"),
    _op("POST", "/build", answers.PROGRESS, query=_BUILD, body=TAR, lines=True),
    _op("POST", "/build/prune", answers.BUILD_PRUNED,
        query="reserved-space# max-used-space# min-free-space# all? filters%"),
    _op("POST", "/images/create", answers.PROGRESS, query="fromImage fromSrc repo tag message changes* platform",
        lines=True),
    _op("GET", "/images/{name}/json", answers.IMAGE, query="manifests? platform"),
    _op("GET", "/images/{name}/attestations", answers.ATTESTATIONS, query="platform* type* statement?"),
    _op("GET", "/images/{name}/history", array(answers.IMAGE_STEP), query="platform"),
    _op("POST", "/images/{name}/push", answers.PROGRESS, query="tag platform", lines=True),
    _op("POST", "/images/{name}/tag", status=201, query="repo tag"),
    _op("DELETE", "/images/{name}", answers.REMOVALS, query="force? noprune? platforms*"),
    _op("GET", "/images/search", answers.SEARCH, query="term limit# filters%"),
    _op("POST", "/images/prune", answers.IMAGES_PRUNED, query="filters%"),
    _op("GET", "/images/{name}/get", TAR, query="platform*"),
    _op("GET", "/images/get", TAR, query="names* platform*"),
    _op("POST", "/images/load", answers.PROGRESS, query="quiet? platform*", body=TAR, lines=True),
    _op("POST", "/commit", record(Id=DIGEST), status=201,
        query="container repo tag comment author pause? changes", body=requests.COMMIT),
    _op("GET", "/distribution/{name}/json", answers.DISTRIBUTION),
    _op("POST", "/session", status=101, also=_ABSENT),
]
_SYSTEM = [
    _op("POST", "/auth", answers.AUTH, body=requests.AUTH),
    _op("GET", "/info", answers.INFO),
    _op("GET", "/version", answers.VERSION),
    _op("GET", "/_ping", PLAIN, headers=_PING),
    _op("HEAD", "/_ping", PLAIN, headers=_PING),
    _op("GET", "/events", answers.EVENT, query="since until filters%", lines=True),
    _op("GET", "/system/df", answers.DISK_USAGE, query="type* verbose?"),
]
_VOLUMES = [
    _op("GET", "/volumes", answers.VOLUMES, query="filters%"),
    _op("POST", "/volumes/create", answers.VOLUME, status=201, body=requests.VOLUME_CREATE),
    _op("GET", "/volumes/{id}", answers.VOLUME),
    _op("PUT", "/volumes/{id}", query="version#", body=requests.SPEC, also=_NO_SWARM),
    _op("DELETE", "/volumes/{id}", status=204, query="force?"),
    _op("POST", "/volumes/prune", answers.VOLUMES_PRUNED, query="filters%"),
]
_NETWORKS = [
    _op("GET", "/networks", array(answers.NETWORK_SUMMARY), query="filters%"),
    _op("GET", "/networks/{id}", answers.NETWORK, query="verbose? scope"),
    _op("DELETE", "/networks/{id}", status=204),
    _op("POST", "/networks/create", answers.NETWORK_CREATED, status=201, body=requests.NETWORK_CREATE),
    _op("POST", "/networks/{id}/connect", body=requests.CONNECT),
    _op("POST", "/networks/{id}/disconnect", body=requests.DISCONNECT),
    _op("POST", "/networks/prune", answers.NETWORKS_PRUNED, query="filters%"),
]
_PLUGINS = [
    _op("GET", "/plugins", array({}, maxItems=0), query="filters%"),
    *(_op(method, path, also=_ABSENT) for method, path in (
        ("GET", "/plugins/privileges"), ("POST", "/plugins/pull"), ("POST", "/plugins/create"))),
    *(_op(method, path, also={404: answers.ERROR}) for method, path in (
        ("GET", "/plugins/{name}/json"), ("DELETE", "/plugins/{name}"), ("POST", "/plugins/{name}/enable"),
        ("POST", "/plugins/{name}/disable"), ("POST", "/plugins/{name}/upgrade"), ("POST", "/plugins/{name}/push"),
        ("POST", "/plugins/{name}/set"))),
]
OF_MANAGERS = (
    "GET /nodes", "GET /nodes/{id}", "DELETE /nodes/{id}", "POST /nodes/{id}/update", "GET /swarm",
    "POST /swarm/update", "GET /swarm/unlockkey", "POST /swarm/unlock", "GET /services", "POST /services/create",
    "GET /services/{id}", "DELETE /services/{id}", "POST /services/{id}/update", "GET /services/{id}/logs",
    "GET /tasks", "GET /tasks/{id}", "GET /tasks/{id}/logs", "GET /secrets", "POST /secrets/create",
    "GET /secrets/{id}", "DELETE /secrets/{id}", "POST /secrets/{id}/update", "GET /configs", "POST /configs/create",
    "GET /configs/{id}", "DELETE /configs/{id}", "POST /configs/{id}/update")
"""What only the manager of a swarm can answer."""
_SWARM = [
    *(Operation(method, path, answers=_NO_SWARM, body=requests.SPEC if method == "POST" else None)
      for method, _, path in (name.partition(" ") for name in OF_MANAGERS)),
    _op("POST", "/swarm/init", also=_ABSENT, body=requests.SPEC),
    _op("POST", "/swarm/join", also=_ABSENT, body=requests.SPEC), _op("POST", "/swarm/leave", also=_NO_SWARM),
]
OPERATIONS = (*_CONTAINERS, *_IMAGES, *_SYSTEM, *_VOLUMES, *_NETWORKS, *_PLUGINS, *_SWARM)


def operation_of(method: str, path: str) -> Operation:
    """:raise LookupError: the reference has none."""
    for one in sorted(OPERATIONS, key=lambda operation: operation.path.count("{")):
        if one.method == method and one.pattern().match(path):
            return one
    raise LookupError(f"{method} {path}")


def document() -> dict[str, Any]:
    """OpenAPI 3."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {"openapi": "3.1.0", "info": {"title": "Docker Engine API", "version": "1.55"}, "paths": paths}


def _described(operation: Operation) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"\{(\w+)\}", operation.path)]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in operation.parameters().items()]
    described: dict[str, Any] = {"parameters": parameters, "responses": {
        str(status): {"description": ""} for status in operation.answers}}
    if isinstance(operation.body, dict):
        described["requestBody"] = {"content": {JSON: {"schema": operation.body}}}
    elif operation.body:
        described["requestBody"] = {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}
    return described
