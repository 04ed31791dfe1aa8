"""Image names as users type them."""

from __future__ import annotations

DEFAULT_REGISTRY = "docker.io"


def split(reference: str) -> tuple[str, str]:
    """(name, tag or digest), the second empty where there is none: a port's colon begins no tag."""
    name, at, digest = reference.partition("@")
    if at:
        return _untagged(name)[0], digest
    return _untagged(reference)


def tagged(reference: str) -> str:
    """With :latest where nothing else is said."""
    name, version = split(reference)
    return reference if version else f"{name}:latest"


def canonical(reference: str) -> str:
    """With the registry and the tag that are meant: `busybox` is `docker.io/library/busybox:latest`."""
    first, slash, _ = reference.partition("/")
    has_registry = bool(slash) and ("." in first or ":" in first or first == "localhost")
    if has_registry:
        return tagged(reference)
    return f"{DEFAULT_REGISTRY}/{tagged(reference if slash else 'library/' + reference)}"


def _untagged(name: str) -> tuple[str, str]:
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "")
