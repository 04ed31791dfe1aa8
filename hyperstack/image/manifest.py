"""Manifests, indexes and image configs, OCI's and Docker's, parsed with bounds."""

from __future__ import annotations

import re
from calendar import timegm
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from hyperstack.image.digest import is_digest
from hyperstack.image.errors import MALFORMED, printable
from hyperstack.pod.errors import InvalidArgument
from hyperstack.pod.spec import Healthcheck, ImageConfig

MAX_DOCUMENT = 4 << 20
"""Bytes of a manifest, index or config, as registries bound them."""
MAX_INDEX_ENTRIES = 1024

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_LIST)
_KNOWN_TYPES = (*MANIFEST_TYPES, *INDEX_TYPES)
_VAGUE_TYPES = ("application/json", "application/octet-stream", "text/plain")
"""What a plain file server says."""
_CONFIG_TYPES = (OCI_CONFIG, DOCKER_CONFIG)
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\d*(Z|[+-]\d\d:\d\d)\Z")
_LONGEST_NS = 7 * 24 * 3600 * 10**9
"""Of what an image says of its health check; no clock overflows from it."""
_T = TypeVar("_T")
_VARIANTS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}
"""What an architecture without a variant means."""


class DocumentError(ValueError):
    """A manifest, index or config that is malformed or of a kind that is not run here. One sentence."""


class NotAnImage(DocumentError):
    """A well-formed manifest of something else: an attestation, a chart."""


class Platform(msgspec.Struct, frozen=True):
    os: str = ""
    architecture: str = ""
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def matches(self, wanted: Platform) -> bool:
        usual = _VARIANTS.get(self.architecture, "")
        return ((self.os, self.architecture) == (wanted.os, wanted.architecture)
                and (not wanted.variant or (self.variant or usual) == wanted.variant))


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None

    def __post_init__(self) -> None:
        if not is_digest(self.digest):
            raise ValueError("a digest is not sha256: and 64 hexadecimal digits")
        if not 0 <= self.size < 1 << 53:
            raise ValueError(f"a size of {self.size} bytes")


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int
    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = ""


class Index(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int
    manifests: tuple[Descriptor, ...]
    media_type: str = ""


class _Probe(msgspec.Struct, frozen=True, rename="camel"):
    """Just enough to tell the kinds of documents apart."""

    schema_version: int = 0
    media_type: str = ""
    config: msgspec.Raw = msgspec.Raw()
    manifests: msgspec.Raw = msgspec.Raw()


class _Healthcheck(msgspec.Struct, frozen=True, rename="pascal"):
    test: tuple[str, ...] | None = None
    interval: int | None = None
    timeout: int | None = None
    start_period: int | None = None
    start_interval: int | None = None
    retries: int | None = None


class _RunConfig(msgspec.Struct, frozen=True, rename="pascal"):
    env: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    working_dir: str | None = None
    user: str | None = None
    labels: dict[str, str] | None = None
    exposed_ports: dict[str, Any] | None = None
    volumes: dict[str, Any] | None = None
    stop_signal: str | None = None
    healthcheck: _Healthcheck | None = None
    shell: tuple[str, ...] | None = None


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...] | None = None
    type: str = "layers"


class _ConfigDocument(msgspec.Struct, frozen=True):
    rootfs: _RootFs
    architecture: str = ""
    os: str = ""
    variant: str | None = None
    created: str | None = None
    config: _RunConfig | None = None


class ParsedConfig(msgspec.Struct, frozen=True, kw_only=True):
    config: ImageConfig
    raw: dict[str, Any]
    diff_ids: tuple[str, ...]
    platform: Platform
    created_at: int
    """Nanoseconds since the epoch; 0 where the config does not say."""


def _decode(data: bytes, kind: type[_T], what: str) -> _T:
    if len(data) > MAX_DOCUMENT:
        raise DocumentError(f"the {what} is {len(data)} bytes long (at most {MAX_DOCUMENT})")
    try:
        return msgspec.json.decode(data, type=kind)
    except MALFORMED as error:
        raise DocumentError(f"the {what} is malformed: {printable(str(error))}") from None


def parse(data: bytes, content_type: str = "") -> Manifest | Index:
    """A manifest or an index; `content_type` is what the sender called it, where it did.

    :raise DocumentError: it is neither, or of a kind that is not supported.
    """
    sent = content_type.partition(";")[0].strip().lower()
    if sent and not sent.startswith(_SCHEMA_1) and sent not in (*_KNOWN_TYPES, *_VAGUE_TYPES):
        raise DocumentError(f"{printable(sent)} was sent in place of a manifest")
    probe = _decode(data, _Probe, "manifest")
    if sent.startswith(_SCHEMA_1) or probe.schema_version == 1:
        raise DocumentError("the manifest is of schema version 1, which is no longer supported")
    if probe.media_type and sent in _KNOWN_TYPES and probe.media_type != sent:
        raise DocumentError(f"the manifest calls itself {printable(probe.media_type)} and was sent as {sent}")
    if probe.schema_version != 2 or bool(probe.config) == bool(probe.manifests):
        raise DocumentError("the document is neither an image manifest nor an index")
    kind = sent if sent in _KNOWN_TYPES else probe.media_type
    if kind and bool(probe.manifests) != (kind in INDEX_TYPES):
        raise DocumentError(f"the document is not the {printable(kind)} that it is said to be")
    if probe.manifests:
        index = _decode(data, Index, "index")
        if len(index.manifests) > MAX_INDEX_ENTRIES:
            raise DocumentError(f"the index has more than {MAX_INDEX_ENTRIES} entries")
        return index
    manifest = _decode(data, Manifest, "manifest")
    if manifest.config.media_type not in (*_CONFIG_TYPES, ""):
        raise NotAnImage(f"it is not a container image but {printable(manifest.config.media_type)}")
    return manifest


def parse_platform(text: str) -> Platform:
    """os/architecture[/variant], or an architecture of Linux alone.

    :raise InvalidArgument: it is neither.
    """
    parts = text.split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    if len(parts) > 3 or not all(re.fullmatch(r"[a-z0-9_.-]{1,32}", part) for part in parts):
        raise InvalidArgument(f'"{text[:80]}" is not a platform', field="platform", value=text[:80],
                              hint="write os/architecture[/variant], e.g. linux/arm64")
    return Platform(*parts)


def choose(index: Index, wanted: Platform) -> Descriptor | None:
    """The first entry for the platform; one with just the usual variant wins where several fit."""
    fitting = [entry for entry in index.manifests if entry.platform is not None and entry.platform.matches(wanted)]
    usual = _VARIANTS.get(wanted.architecture, "")
    plain = [entry for entry in fitting if entry.platform is not None and entry.platform.variant in (None, "", usual)]
    return next(iter(plain or fitting), None)


def parse_config(data: bytes) -> ParsedConfig:
    """:raise DocumentError: it is malformed."""
    document = _decode(data, _ConfigDocument, "image config")
    diff_ids = document.rootfs.diff_ids or ()
    if document.rootfs.type != "layers" or not all(map(is_digest, diff_ids)):
        raise DocumentError("the image config's rootfs is not a list of layer digests")
    run = document.config or _RunConfig()
    config = ImageConfig(
        entrypoint=run.entrypoint or (), command=run.cmd or (), env=run.env or (), working_dir=run.working_dir or "",
        user=run.user or "", labels=run.labels or {}, exposed_ports=tuple(sorted(run.exposed_ports or ())),
        volumes=tuple(sorted(run.volumes or ())), stop_signal=run.stop_signal or "",
        healthcheck=_healthcheck(run.healthcheck), shell=run.shell or ())
    return ParsedConfig(config=config, raw=_decode(data, dict[str, Any], "image config"), diff_ids=diff_ids,
                        platform=Platform(document.os, document.architecture, document.variant),
                        created_at=parse_time(document.created or ""))


def _healthcheck(found: _Healthcheck | None) -> Healthcheck | None:
    """None where the image has none, or one that no engine could follow."""
    if found is None or not found.test or found.test[0] not in ("CMD", "CMD-SHELL"):
        return None

    def bounded(value: int | None) -> int:
        return min(max(value or 0, 0), _LONGEST_NS)

    return Healthcheck(test=found.test, interval=bounded(found.interval), timeout=bounded(found.timeout),
                       start_period=bounded(found.start_period), start_interval=bounded(found.start_interval),
                       retries=min(max(found.retries or 0, 0), 1_000_000))


def parse_time(text: str) -> int:
    """RFC 3339 to nanoseconds since the epoch; 0 where it is not that (it only sorts a table)."""
    match = _TIME.match(text[:64])
    if match is None:
        return 0
    seconds, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(seconds + ("+00:00" if zone == "Z" else zone))
        return timegm(moment.utctimetuple()) * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))
    except (ValueError, OverflowError):
        return 0
