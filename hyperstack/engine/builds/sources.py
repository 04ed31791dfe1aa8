"""What a build fetches from elsewhere, and from whom.

A stranger's Dockerfile names the address, and the daemon, which is on the host's network, asks for it. So only public
addresses are asked, each hop of a redirection anew; addresses within private networks only where the operator lists
them, and the host's own never otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from hyperstack.dockerfile.source import MAX_BYTES
from hyperstack.engine.builds import git
from hyperstack.image.api import ImageBackend
from hyperstack.pod.errors import InvalidArgument, Unavailable

_REMOTE = re.compile(r"https?://", re.IGNORECASE)
_MAX_HOPS = 5
_MAX_DOWNLOAD = 8 << 30
_CONNECT_S, _STALL_S, _WHOLE_S = 15.0, 60.0, 1800.0
_PIECE = 1 << 18

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_remote(source: str) -> bool:
    return bool(_REMOTE.match(source))


@dataclass(frozen=True, kw_only=True)
class Download:
    path: Path
    name: str
    """The last component of the address; empty where it has none."""
    mtime: int


class Fetcher:
    def __init__(self, images: ImageBackend, private: Sequence[Network], *, git_uid: int) -> None:
        """:param private: networks that may be asked although they are no public ones. :param git_uid: nobody's."""
        self._images = images
        self._git_uid = git_uid
        self._private = tuple(private)

    async def fetch(self, address: str) -> Download:
        """:raise InvalidArgument: it must not be asked, or refuses. :raise Unavailable: it does not answer."""
        timeout = aiohttp.ClientTimeout(total=_WHOLE_S, sock_connect=_CONNECT_S, sock_read=_STALL_S)
        connector = aiohttp.TCPConnector(resolver=_Resolver(self), use_dns_cache=False)
        try:
            async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session:
                return await self._follow(session, address)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            refused = _refusal(error)
            if refused is not None:
                raise refused from error
            raise Unavailable(f"{_shown(address)} could not be fetched: {str(error) or type(error).__name__}",
                              field="url", value=_shown(address)) from error

    async def _follow(self, session: aiohttp.ClientSession, address: str) -> Download:
        for _ in range(_MAX_HOPS):
            host = urlsplit(address).hostname
            if not is_remote(address) or not host:
                raise InvalidArgument(f"{_shown(address)} is no http or https address", field="url",
                                      value=_shown(address))
            self._check_literal(host)
            async with session.get(address, allow_redirects=False,
                                   headers={"Accept-Encoding": "identity"}) as answer:
                if answer.status in (301, 302, 303, 307, 308) and "Location" in answer.headers:
                    address = urljoin(address, answer.headers["Location"])
                    continue
                if answer.status != 200:
                    raise InvalidArgument(f"failed to GET {_shown(address)} with status {answer.status} "
                                          f"{answer.reason or ''}".rstrip(), field="url", value=_shown(address))
                path = await self._images.workshop.keep(answer.content.iter_chunked(_PIECE), max_bytes=_MAX_DOWNLOAD)
                return Download(path=path, name=unquote(urlsplit(address).path).rpartition("/")[2], mtime=_time(answer))
        raise InvalidArgument(f"{_shown(address)}: more than {_MAX_HOPS} redirections", field="url",
                              value=_shown(address))

    def _check_literal(self, host: str) -> None:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return
        self.check(address, host)

    def check(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address, host: str) -> None:
        """:raise InvalidArgument: builds may not ask it."""
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if any(address in network for network in self._private):
            return
        if not address.is_global or address.is_multicast:
            raise InvalidArgument(f"{host[:100]} ({address}) is not a public address, and builds may fetch from those "
                                  "only", field="url", value=host[:100],
                                  hint="COPY the file from the context, or have the operator list its network in "
                                       "build.private_sources")

    # -- contexts

    async def context(self, remote: str) -> tuple[Path, bytes | None]:
        """A packed context; or a Dockerfile, and a file that is of no use. :raise InvalidArgument: see `fetch`."""
        if git.is_repository(remote):
            return await self._repository(git.parse_repository(remote)), None
        download = await self.fetch(remote)
        head = await asyncio.to_thread(_head, download.path)
        # What a server calls it says little; a tar is known by its looks.
        if head[257:262] == b"ustar" or _packed(head):
            return download.path, None
        try:
            return download.path, await asyncio.to_thread(_whole, download.path)
        except BaseException:
            self._images.workshop.discard(download.path)
            raise

    async def _repository(self, repository: git.Repository) -> Path:
        try:
            found = await _Resolver(self).resolve(repository.host, repository.port)
        except OSError as error:
            raise _refusal(error) or Unavailable(f"{repository.host[:100]} is not known: {error}", field="remote",
                                                 value=repository.host[:100]) from error
        archive = git.archive(repository, ipaddress.ip_address(found[0]["host"]), uid=self._git_uid)
        async with contextlib.aclosing(archive) as pieces:
            return await self._images.workshop.keep(pieces)


class _Resolver(AbstractResolver):
    """Names become addresses here, once, and are connected to as they were checked."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
                      ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results = []
        for kind, _, protocol, _, where in found:
            try:
                self._fetcher.check(ipaddress.ip_address(where[0]), host)
            except InvalidArgument as error:
                raise _NotAllowed(error) from error
            results.append(ResolveResult(hostname=host, host=str(where[0]), port=port, family=kind, proto=protocol,
                                         flags=socket.AI_NUMERICHOST))
        return results

    async def close(self) -> None: ...


class _NotAllowed(OSError):
    def __init__(self, refusal: InvalidArgument) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def _refusal(error: BaseException | None) -> InvalidArgument | None:
    while error is not None:
        if isinstance(error, _NotAllowed):
            return error.refusal
        error = error.__cause__ or error.__context__
    return None


def _time(answer: aiohttp.ClientResponse) -> int:
    """Of its last change; 0 where the server does not say."""
    parsed: Any = email.utils.parsedate_tz(answer.headers.get("Last-Modified", ""))
    try:
        return max(0, int(email.utils.mktime_tz(parsed))) if parsed else 0
    except (ValueError, OverflowError):
        return 0


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _whole(path: Path) -> bytes:
    """A Dockerfile; the parser refuses one that is too long."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _packed(head: bytes) -> bool:
    return head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))


def _shown(address: str) -> str:
    """Without a password."""
    address = re.sub(r"(?<=://)[^/@]*@", "", address)
    return address if len(address) <= 200 else address[:197] + "..."
