"""A client of the OCI distribution protocol that believes nothing: every size is bounded, every digest computed.

    endpoint    where a registry is reached: scheme and host. A host's mirrors come first, its own address last.
    source      an endpoint with a repository and the caller's credentials: what a manifest came from, and its blobs do.

Plain HTTP is spoken to hosts configured as insecure and to mirrors written `http://`, and to nobody else; a redirect
never leads from TLS to plain HTTP, and never carries credentials to another host.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec

from hyperstack.image import digest as digests
from hyperstack.image.api import Credentials
from hyperstack.image.auth import Challenge, TokenAnswer, TokenCache, basic, parse_challenge, realm_is_safe
from hyperstack.image.config import ImageConfigOptions
from hyperstack.image.errors import MALFORMED, printable
from hyperstack.image.manifest import INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT
from hyperstack.image.names import DEFAULT_HOST, Reference
from hyperstack.image.refusals import broken_off, refusal, unreached
from hyperstack.pod.errors import RegistryError

_HUB = "https://registry-1.docker.io"
_MAX_REDIRECTS = 5
_MAX_ANSWER = 1 << 16
"""Bytes of a token or an error."""
_AGENT = "hyperstack/0.1"
_PULL_HEADERS = {"Accept": ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GOOD = frozenset({200, 201, 202, 206})
_RETRIED = frozenset({408, 500, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class Source:
    endpoint: str
    """https://registry-1.docker.io"""
    path: str
    """library/busybox"""
    reference: Reference
    """As the user named it, for messages."""
    credentials: Credentials | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"{self.endpoint}/v2/{self.path}"

    @property
    def host(self) -> str:
        return urlsplit(self.endpoint).netloc


Body = Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True)
class _Question:
    method: str
    url: str
    headers: Mapping[str, str]
    body: Body | None


class TransferFailed(RegistryError):
    """A failure that another try may cure."""


class Unreachable(TransferFailed):
    """No connection came about."""


class Hung(TransferFailed):
    """A connection on which nothing comes."""


class RegistryClient:
    def __init__(self, options: ImageConfigOptions) -> None:
        self._options = options
        self._patience = options.patience
        self._tokens = TokenCache()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def sources(self, reference: Reference, credentials: Credentials | None) -> list[Source]:
        """Where to ask for the reference, in order. Credentials are for the registry itself, never for a mirror."""
        mirrors = [Source(endpoint=endpoint.rstrip("/"), path=reference.path, reference=reference)
                   for endpoint in self._options.mirrors.get(reference.host, ())]
        if reference.host == DEFAULT_HOST:
            endpoint = _HUB
        else:
            scheme = "http" if reference.host in self._options.insecure else "https"
            endpoint = f"{scheme}://{reference.host}"
        return [*mirrors, Source(endpoint=endpoint, path=reference.path, reference=reference, credentials=credentials)]

    async def manifest(self, source: Source, what: str) -> tuple[bytes, str, str]:
        """The manifest with this tag or digest: (document, content type, digest).

        :raise Refusal: there is none, or it is not shown to this caller.
        :raise RegistryError: unreachable, timed out, or it does not have the digest.
        """
        last: RegistryError | None = None
        for attempt in range(self._patience.tries):
            await self.back_off(attempt)
            try:
                async with asyncio.timeout(self._patience.request), \
                        self.get(source, f"/manifests/{what}", _PULL_HEADERS) as response:
                    data = await self.body(response, MAX_DOCUMENT, source)
                    kind = response.headers.get("Content-Type", "")
                    said = response.headers.get("Docker-Content-Digest", "")
            except (Unreachable, Hung):
                # Whoever waits for the first answer has waited long enough.
                raise
            except TransferFailed as error:
                last = error
                continue
            except TimeoutError as error:
                raise self._hung(source) from error
            actual = digests.of(data)
            for claim in (what, said):
                if digests.is_digest(claim) and claim != actual:
                    raise RegistryError(f"{source.host} sent a manifest of {source.reference.familiar()} with the "
                                        f"digest {actual} in place of {claim}", field="digest", value=actual)
            return data, kind, actual
        raise last or self._hung(source)

    async def back_off(self, attempt: int) -> None:
        """Wait as long as is due before that try (0 is the first)."""
        if attempt:
            await asyncio.sleep(self._patience.backoff * 2 ** (attempt - 1))

    def get(self, source: Source, path: str, headers: Mapping[str, str]
            ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """As `ask`, below the source."""
        return self.ask(source, "GET", source.url + path, headers)

    async def document(self, source: Source, digest: str, size: int) -> bytes:
        """A small blob, such as a config, verified.

        :raise RegistryError: it is too long, or not what was asked for.
        """
        if size > MAX_DOCUMENT:
            raise RegistryError(f"{source.reference.familiar()} has a config of {size} bytes (at most {MAX_DOCUMENT})",
                                field="size", value=size)
        try:
            async with asyncio.timeout(self._patience.request), self.get(source, f"/blobs/{digest}", {}) as response:
                data = await self.body(response, size, source)
        except TimeoutError as error:
            raise self._hung(source) from error
        if digests.of(data) != digest:
            raise RegistryError(f"{source.host} sent {digests.of(data)} in place of the blob {digest}", field="digest",
                                value=digest, hint="the registry is broken, or lies")
        return data

    def may_follow(self, source: Source, url: str) -> bool:
        """Whether something may be sent where the registry says: never in the clear for one spoken to by TLS."""
        scheme = urlsplit(url).scheme
        return scheme == "https" or scheme == urlsplit(source.endpoint).scheme == "http"

    @asynccontextmanager
    async def ask(self, source: Source, method: str, url: str, headers: Mapping[str, str], *, body: Body | None = None
                  ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer (200, 201, 202, 206), authenticated; redirects of GET and HEAD are followed.

        :param body: called once for each time that it is sent.
        :raise Refusal: 400 to 499. :raise TransferFailed: another try may help.
        :raise RegistryError: anything else.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                response = await self._authenticated(stack, source, _Question(method, url, headers, body))
                if response.status not in _GOOD:
                    await self._refuse(response, source)
                yield response
            except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
                raise self._unreachable(source, error) from error
            except TimeoutError as error:
                raise self._hung(source) from error
            except (aiohttp.ClientError, ValueError) as error:
                raise TransferFailed(f"{_asked(method, url)}{broken_off(error)}", field="registry", value=source.host,
                                     hint="the registry broke off: try again later") from error

    async def _authenticated(self, stack: contextlib.AsyncExitStack, source: Source, question: _Question
                             ) -> aiohttp.ClientResponse:
        key = (source.endpoint, source.path, source.credentials)
        authorization = self._tokens.get(key)
        for fresh in (False, True):
            response = await self._follow(stack, source, question, authorization)
            if response.status != 401 or fresh:
                break
            challenge = parse_challenge(response.headers.get("WWW-Authenticate", ""))
            if challenge is None:
                break
            response.release()
            authorization, life = await self._authorize(challenge, source, _asked(question.method, question.url))
            self._tokens.put(key, authorization, life)
        if response.status == 401:
            self._tokens.drop(key)
        return response

    async def _follow(self, stack: contextlib.AsyncExitStack, source: Source, question: _Question,
                      authorization: str | None) -> aiohttp.ClientResponse:
        """One request and its redirects; credentials stay with the host that they are for."""
        url, headers, home = question.url, question.headers, urlsplit(source.endpoint)
        for _ in range(_MAX_REDIRECTS + 1):
            parts = urlsplit(url)
            own = (parts.scheme, parts.netloc) == (home.scheme, home.netloc)
            sent = {**headers, "Authorization": authorization} if own and authorization else dict(headers)
            response = await stack.enter_async_context(self._open_session().request(
                question.method, url, headers=sent, allow_redirects=False,
                data=question.body() if question.body is not None else None,
                proxy=_proxy(parts.scheme, parts.hostname or "")))
            if response.status not in _REDIRECTS or question.method not in ("GET", "HEAD"):
                return response
            url = urljoin(url, response.headers.get("Location", ""))
            response.release()
            scheme = urlsplit(url).scheme
            if scheme not in ("https", "http") or (home.scheme == "https" and scheme != "https"):
                raise RegistryError(f"{home.netloc} redirects from TLS to {printable(scheme, 20)}", field="registry",
                                    value=home.netloc)
        raise RegistryError(f"{home.netloc} redirects more than {_MAX_REDIRECTS} times", field="registry",
                            value=home.netloc)

    async def _authorize(self, challenge: Challenge, source: Source, asked: str) -> tuple[str, int | None]:
        """The Authorization header that a challenge asks for, and its life in seconds.

        :param asked: what is to be authorized, as errors name it.
        """
        credentials = source.credentials
        known = credentials is not None and bool(credentials.username)
        if challenge.scheme == "basic":
            if credentials is None or not known:
                raise RegistryError(f"{asked}no basic auth credentials", field="registry", value=source.host,
                                    hint="docker login gives the daemon a user name and a password")
            return basic(credentials), None
        if not realm_is_safe(challenge.realm, registry=source.endpoint):
            raise RegistryError(f"{source.host} asks for credentials at {printable(challenge.realm, 100)!r}, which is "
                                "not https", field="registry", value=source.host)
        scope = challenge.scope or (f"repository:{source.path}:pull" if source.path else "")
        query = {"scope": scope} if scope else {}
        if challenge.service:
            query["service"] = challenge.service
        headers = {"Authorization": basic(credentials)} if credentials is not None and known else {}
        proxy = _proxy(urlsplit(challenge.realm).scheme, urlsplit(challenge.realm).hostname or "")
        session = self._open_session()
        if credentials is not None and credentials.identity_token:
            form = {**query, "grant_type": "refresh_token", "refresh_token": credentials.identity_token,
                    "client_id": "hyperstack"}
            request = session.post(challenge.realm, data=form, allow_redirects=False, proxy=proxy)
        else:
            joint = "&" if "?" in challenge.realm else "?"
            request = session.get(challenge.realm + joint + urlencode(query), headers=headers, allow_redirects=False,
                                  proxy=proxy)
        async with asyncio.timeout(self._patience.request), request as response:
            if response.status != 200:
                await self._refuse(response, source, before=asked)
            data = await self.body(response, _MAX_ANSWER, source)
        try:
            answer = msgspec.json.decode(data, type=TokenAnswer)
        except MALFORMED as error:
            raise RegistryError(f"{asked}unable to decode token response", field="registry", value=source.host,
                                hint="the registry's token server sent what is no token") from error
        if not answer.value or not answer.value.isascii() or not answer.value.isprintable():
            raise RegistryError(f"{asked}authorization server did not include a token in the response",
                                field="registry", value=source.host)
        return f"Bearer {answer.value}", answer.expires_in

    async def body(self, response: aiohttp.ClientResponse, limit: int, source: Source) -> bytes:
        """All of a small answer. :raise RegistryError: it is longer than `limit` bytes."""
        data = bytearray()
        async for piece in response.content.iter_any():
            data += piece
            if len(data) > limit:
                raise RegistryError(f"{source.host} sent more than {limit} bytes where a small document was asked for",
                                    field="registry", value=source.host)
        return bytes(data)

    async def _refuse(self, response: aiohttp.ClientResponse, source: Source, before: str = "") -> None:
        """:raise RegistryError: what the status and the body say."""
        error = refusal(response.status, response.headers, await response.content.read(_MAX_ANSWER), host=source.host,
                        before=before)
        if response.status in _RETRIED:
            raise TransferFailed(error.message, field="registry", value=source.host, hint="try again later")
        raise error

    def _hung(self, source: Source) -> Hung:
        return Hung(f'Get "{source.endpoint}/v2/": net/http: request canceled (Client.Timeout exceeded while awaiting '
                    "headers)", field="registry", value=source.host,
                    hint=f"no data for {self._patience.stall:g} s: check the network and the registry, then try again")

    def _unreachable(self, source: Source, error: Exception) -> Unreachable:
        words, hint = unreached(source.endpoint, error)
        return Unreachable(words, field="registry", value=source.host, hint=hint)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = ssl.create_default_context()
            if self._options.ca_file is not None:
                context.load_verify_locations(self._options.ca_file)
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._patience.connect,
                                              sock_read=self._patience.stall),
                connector=aiohttp.TCPConnector(ssl=context, limit=32), cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"}, auto_decompress=False)
        return self._session


def _asked(method: str, url: str) -> str:
    """What an error about one question begins with."""
    return f'{method.capitalize()} "{printable(url)}": '


def _proxy(scheme: str, host: str) -> str | None:
    """The proxy of the daemon's environment. (aiohttp's own trust_env would read the owner's ~/.netrc as well.)"""
    return None if proxy_bypass(host) else getproxies().get(scheme)
