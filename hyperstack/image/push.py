"""Puts an image that is in memory into a registry on this host, over plain HTTP and without credentials."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp
from yarl import URL

from hyperstack.image.names import Reference
from hyperstack.pod.errors import RegistryError

_TIMEOUT = aiohttp.ClientTimeout(total=300, sock_connect=15, sock_read=60)


async def push_image(reference: Reference, manifest: bytes, media_type: str, blobs: Mapping[str, bytes]) -> None:
    """Blobs that the registry has are not sent again.

    :raise RegistryError: it is not reached, or refuses.
    """
    base = URL(f"http://{reference.host}/v2/{reference.path}/")
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            for digest, data in blobs.items():
                await _push_blob(session, base, digest, data)
            url = base / "manifests" / (reference.digest or reference.tag)
            async with session.put(url, data=manifest, headers={"Content-Type": media_type}) as answer:
                _expect(answer, 201)
    except aiohttp.ClientError as error:
        raise RegistryError(f"cannot push to {reference.host}: {error}", field="registry",
                            value=reference.host) from error


async def _push_blob(session: aiohttp.ClientSession, base: URL, digest: str, data: bytes) -> None:
    async with session.head(base / "blobs" / digest) as answer:
        if answer.status == 200:
            return
    async with session.post(base / "blobs" / "uploads" / "") as answer:
        _expect(answer, 202)
        # Relative in some registries, with a query of its own in all.
        place = base.join(URL(answer.headers["Location"]))
    async with session.put(place.update_query(digest=digest), data=data) as answer:
        _expect(answer, 201)


def _expect(answer: aiohttp.ClientResponse, status: int) -> None:
    if answer.status != status:
        raise RegistryError(f"{answer.url.host} answered {answer.status} to {answer.method} {answer.url.path}",
                            field="registry", value=answer.url.host)
