"""What can be asked of a registry without fetching an image: who one is there, what a name means, what there is."""

from __future__ import annotations

import asyncio
import http
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import msgspec

from hyperstack.image import manifest as manifests
from hyperstack.image.api import Credentials, RemoteImage
from hyperstack.image.errors import MALFORMED
from hyperstack.image.names import DEFAULT_HOST, Reference
from hyperstack.image.refusals import UNEXPECTED, Refusal
from hyperstack.image.registry import RegistryClient, Source, TransferFailed
from hyperstack.pod.errors import RegistryError, Unsupported

_PAGE = 1000
_MAX_PAGES = 20
_MAX_LIST = 1 << 20
"""Bytes of one page."""


class _Listed(msgspec.Struct, frozen=True):
    """A page of a registry's catalogue, or of a repository's tags."""

    repositories: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None


async def check_login(client: RegistryClient, host: str, credentials: Credentials | None, *, limit_s: float) -> None:
    """:raise Unauthorized: the registry does not know them. :raise RegistryError: it does not answer."""
    source = _registry(client, host, credentials)
    try:
        async with asyncio.timeout(limit_s), client.ask(source, "GET", source.url, {}):
            return
    except Refusal as error:
        if error.on_the_way:
            raise error.of(Reference(host, "")) from error
        phrase = next((known.phrase for known in http.HTTPStatus if known == error.status), "")
        raise RegistryError(f"login attempt to {source.url} failed with status: {error.status} {phrase}",
                            field="serveraddress", value=host, hint="it does not take this user name and password"
                            if error.denied else "it is no registry") from error
    except TransferFailed as error:
        status = error.message.removeprefix(UNEXPECTED)
        if status == error.message:
            raise
        raise RegistryError(f"login attempt to {source.url} failed with status: {status}", field="serveraddress",
                            value=host, hint=error.hint) from error
    except TimeoutError as error:
        raise RegistryError(f"{source.host} does not answer", field="registry", value=source.host) from error


async def describe(client: RegistryClient, reference: Reference, credentials: Credentials | None) -> RemoteImage:
    """What a registry has by that name, be it for one platform or several.

    :raise NotFound: it has none. :raise Forbidden, Unauthorized: it does not show it.
    :raise RegistryError: see `RegistryClient.manifest`.
    """
    *mirrors, origin = client.sources(reference, credentials)
    for mirror in mirrors:
        try:
            return await _describe(client, mirror, reference)
        except RegistryError:
            continue
    try:
        return await _describe(client, origin, reference)
    except Refusal as error:
        raise error.of(reference) from error


async def _describe(client: RegistryClient, source: Source, reference: Reference) -> RemoteImage:
    document, kind, digest = await client.manifest(source, reference.digest or reference.tag)
    try:
        parsed = manifests.parse(document, kind)
        if isinstance(parsed, manifests.Index):
            platforms = [entry.platform for entry in parsed.manifests if entry.platform is not None]
        else:
            config = await client.document(source, parsed.config.digest, parsed.config.size)
            platforms = [manifests.parse_config(config).platform]
    except manifests.DocumentError as error:
        raise RegistryError(f"{reference.familiar()}: {error}", field="image", value=reference.familiar()) from error
    usual = manifests.OCI_INDEX if isinstance(parsed, manifests.Index) else manifests.OCI_MANIFEST
    return RemoteImage(digest=digest, size=len(document), media_type=parsed.media_type or usual,
                       platforms=tuple((p.os, p.architecture, p.variant or "") for p in platforms))


async def search(client: RegistryClient, term: str, *, limit: int, limit_s: float) -> list[str]:
    """Names of repositories that hold what follows the registry's name in `term`: localhost:5000/part.

    :raise Unsupported: no registry is named. Docker Hub is searched by an interface of its own, which is not spoken.
    :raise RegistryError: the registry has no catalogue, or does not answer.
    """
    host, slash, wanted = term.partition("/")
    named = any(mark in host for mark in ".:") or host == "localhost"
    if not slash or not named or host == DEFAULT_HOST:
        raise Unsupported("searching Docker Hub; name a registry that has a catalogue, as in localhost:5000/name",
                          "HyperStack")
    source = _registry(client, host, None)
    found: list[str] = []
    try:
        async for name in _listed(client, source, f"{source.url}_catalog", limit_s):
            if wanted in name:
                found.append(f"{host}/{name}")
            if len(found) == limit:
                break
    except Refusal as error:
        raise RegistryError(f"{source.host} does not tell what it has", field="registry", value=source.host,
                            hint="not every registry has a catalogue, or shows it to everybody") from error
    return found


async def tags(client: RegistryClient, reference: Reference, credentials: Credentials | None, *, limit_s: float
               ) -> list[str]:
    """All tags of the reference's repository, as its own registry tells them; a mirror may have but some.

    :raise NotFound: there is no such repository. :raise RegistryError: the registry does not answer.
    """
    origin = client.sources(reference, credentials)[-1]
    try:
        return [tag async for tag in _listed(client, origin, f"{origin.url}/tags/list", limit_s)]
    except Refusal as error:
        raise error.of_pull(reference) from error


async def _listed(client: RegistryClient, source: Source, url: str, limit_s: float) -> AsyncIterator[str]:
    """The names of a list that comes in pages."""
    last = ""
    for _ in range(_MAX_PAGES):
        query = urlencode({"n": _PAGE, **({"last": last} if last else {})})
        names = await _page(client, source, f"{url}?{query}", limit_s)
        for name in names:
            yield name
        if len(names) < _PAGE or names[-1] == last:
            return
        last = names[-1]


async def _page(client: RegistryClient, source: Source, url: str, limit_s: float) -> tuple[str, ...]:
    try:
        async with asyncio.timeout(limit_s), client.ask(source, "GET", url, {}) as answer:
            data = await client.body(answer, _MAX_LIST, source)
        page = msgspec.json.decode(data, type=_Listed)
        return page.repositories or page.tags or ()
    except MALFORMED as error:
        raise RegistryError(f"{source.host} sent what is no list of names", field="registry", value=source.host
                            ) from error
    except TimeoutError as error:
        raise RegistryError(f"{source.host} does not answer", field="registry", value=source.host) from error


def _registry(client: RegistryClient, host: str, credentials: Credentials | None) -> Source:
    """The registry itself: no repository, no mirror."""
    return client.sources(Reference(host, ""), credentials)[-1]
