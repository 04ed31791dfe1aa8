"""What a client asks of a build, and what it is told while it goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from hyperstack.image.api import Credentials
from hyperstack.pod.errors import HyperStackError
from hyperstack.pod.spec import Resources, Ulimit


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    dockerfile: str = "Dockerfile"
    """Its path in the context."""
    remote: str = ""
    """Where the context is, in place of the request's body: a git repository, a tar, or a mere Dockerfile."""
    references: tuple[str, ...] = ()
    target: str = ""
    arguments: Mapping[str, str | None] = {}
    labels: Mapping[str, str] = {}
    use_cache: bool = True
    cache_from: tuple[str, ...] = ()
    """Images whose steps may be taken over, beside the project's own cache."""
    pull: bool = False
    """Look for newer base images."""
    platform: str = ""
    remove: bool = True
    """Containers of steps that went well."""
    force_remove: bool = False
    """Those of steps that failed, too."""
    network: str = "bridge"
    extra_hosts: tuple[str, ...] = ()
    resources: Resources = msgspec.field(default_factory=Resources)
    ulimits: tuple[Ulimit, ...] = ()
    shm_size: int = 0
    credentials: Mapping[str, Credentials] = {}
    """By registry."""


class BuildEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Text, or the id of an image that was built."""

    stream: str = ""
    image: str = ""


BuildSink = Callable[[BuildEvent], Awaitable[None]]


class StepFailed(HyperStackError):
    """A command of a RUN ended with another code than 0."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"The command '{command}' returned a non-zero code: {code}", field="RUN", value=command)
        self.code = code
