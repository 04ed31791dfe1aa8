"""What clients are told of a registry that does not give what it was asked for: in the words of Docker's engine, which
scripts and people know, with the remedy behind them."""

from __future__ import annotations

import errno
import http
import json
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from hyperstack.image.errors import MALFORMED, ImageUnavailable, printable
from hyperstack.image.names import Reference
from hyperstack.pod.errors import (
    Forbidden,
    HyperStackError,
    InvalidArgument,
    RegistryError,
    TooManyRequests,
    Unauthorized,
)

UNEXPECTED = "received unexpected HTTP status: "
_JSON = ("application/json", "application/vnd.api+json")
_BY_STATUS = {401: ("UNAUTHORIZED", "authentication required"),
              403: ("DENIED", "requested access to the resource is denied"),
              429: ("TOOMANYREQUESTS", "too many requests")}
"""What a status is where the registry says no more."""
_BY_OAUTH = {"invalid_token": _BY_STATUS[401], "insufficient_scope": _BY_STATUS[403]}
"""RFC 6750, section 3.1: what a challenge says before any body does."""
_KINDS: Mapping[str, type[HyperStackError]] = {
    "UNAUTHORIZED": Unauthorized, "DENIED": Forbidden, "TOOMANYREQUESTS": TooManyRequests,
    **dict.fromkeys(("NAME_INVALID", "TAG_INVALID", "MANIFEST_INVALID", "MANIFEST_UNVERIFIED", "MANIFEST_BLOB_UNKNOWN",
                     "DIGEST_INVALID", "SIZE_INVALID", "PAGINATION_NUMBER_INVALID"), InvalidArgument)}
_ABSENT = frozenset({"MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN", "BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"})
_CODES = frozenset({*_KINDS, *_ABSENT, "UNSUPPORTED", "UNAVAILABLE"})
"""Those of the distribution protocol; every other one is unknown."""
_PARAMETER = re.compile(r'(error|error_description)\s*=\s*"([^"]{0,500})"')
_ERRNO = re.compile(r"\[Errno (\d{1,4})\]")
_ADDRESS = re.compile(r"\('([0-9a-fA-F.:]{2,45})', (\d{1,5})")
_UNTRUSTED = frozenset({18, 19, 20, 21})
"""OpenSSL's numbers for a certificate that no authority of ours has signed."""
_OUTDATED = frozenset({9, 10})
_LOGIN = "docker login gives the daemon a user name and a password"


class _Said(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Document(msgspec.Struct, frozen=True):
    errors: tuple[_Said, ...] | None = ()
    details: Any = None


class Refusal(RegistryError):
    """An answer of 400 to 499.

    :param complaints: codes of the protocol with what the registry says to each; empty where it says nothing of that
        form, which `words` then tells.
    :param before: what was asked of whom, where it was no more than a question on the way to the one that matters.
    """

    def __init__(self, complaints: tuple[tuple[str, str], ...], *, status: int, host: str, words: str = "",
                 before: str = "") -> None:
        told = [f"{code.lower().replace('_', ' ')}: {text}" for code, text in complaints]
        several = "errors:\n" + "".join(f"{one}\n" for one in told)
        super().__init__(before + (several if len(told) > 1 else "".join(told) or words), field="registry", value=host)
        self._first = complaints[0][0] if complaints else ""
        self._told = told[0] if told else words
        self.on_the_way = bool(before)
        """It is of the token server, before what is wanted was asked for."""
        self.status = status

    @property
    def denied(self) -> bool:
        """It may be there; this caller is not let to it."""
        return self._first in ("DENIED", "UNAUTHORIZED")

    @property
    def absent(self) -> bool:
        return self.status == 404 and not self.denied

    def of(self, reference: Reference) -> HyperStackError:
        """As an error of what was asked about this reference."""
        if self._first in _ABSENT:
            return ImageUnavailable(self.message, reference=reference.familiar())
        kind = _KINDS.get(self._first, RegistryError)
        return kind(self.message, field="image", value=reference.familiar(), hint=_LOGIN if self.denied else None)

    def of_pull(self, reference: Reference) -> HyperStackError:
        """As `of`, in the words that a pull has for what is not there, or not for everybody."""
        sentence = {"DENIED": f"pull access denied for {reference.familiar_name}, repository does not exist or may "
                              "require 'docker login'",
                    "MANIFEST_UNKNOWN": f"manifest for {reference.familiar()} not found",
                    "NAME_UNKNOWN": f"repository {reference.familiar_name} not found"}.get(self._first)
        if sentence is None or self.on_the_way:
            return self.of(reference)
        return ImageUnavailable(f"{sentence}: {self._told}", reference=reference.familiar(), denied=self.denied)


def refusal(status: int, headers: Mapping[str, str], body: bytes, *, host: str, before: str = "") -> RegistryError:
    """Of an answer that is not good. `body` may be cut off at any place."""
    if not 400 <= status < 500:
        phrase = next((known.phrase for known in http.HTTPStatus if known == status), "")
        return RegistryError(f"{before}{UNEXPECTED}{status} {phrase}".rstrip(), field="registry",
                             value=host)
    complaints, words = _complaints(status, headers.get("Content-Type", ""), body)
    challenged = _challenged(headers.get("WWW-Authenticate", ""))
    if status == 401 and not complaints and not challenged:
        challenged = (_BY_STATUS[401],)
    return Refusal((*challenged, *complaints), status=status, host=host, words=words, before=before)


def _challenged(header: str) -> tuple[tuple[str, str], ...]:
    found = dict(_PARAMETER.findall(header[:4096])) if header[:6].lower() == "bearer" else {}
    known = _BY_OAUTH.get(found.get("error", ""))
    return ((known[0], printable(found.get("error_description", "")) or known[1]),) if known else ()


def _complaints(status: int, kind: str, body: bytes) -> tuple[tuple[tuple[str, str], ...], str]:
    """What the body says, by code, or in words of ours where it says nothing."""
    code, usual = _BY_STATUS.get(status, ("UNKNOWN", f"status {status}"))
    plain = ((code, printable(body.decode("utf-8", "replace")) or usual),)
    if kind.partition(";")[0].strip().lower() not in _JSON:
        return plain, ""
    try:
        document = msgspec.json.decode(body, type=_Document)
    except MALFORMED:
        first = chr(body[0]) if body else ""
        wrong = "unexpected end of JSON input" if first in ("", "{", "[") else \
            f"invalid character '{printable(first)}' looking for beginning of value"
        return (), f"error parsing HTTP {status} response body: {wrong}: {_quoted(body)}"
    if isinstance(document.details, str) and document.details:
        return ((code, printable(document.details)),), ""
    said = tuple((one.code if one.code in _CODES else "UNKNOWN", printable(one.message))
                 for one in (document.errors or ())[:8])
    return said, "" if said else f"error parsing HTTP {status} response body: no error details found in HTTP " \
                                 f"response body: {_quoted(body)}"


def _quoted(body: bytes) -> str:
    return json.dumps(printable(body.decode("utf-8", "replace"), 100))


def unreached(url: str, error: Exception) -> tuple[str, str]:
    """Of a connection to the host of `url` that did not come about: the sentence, and what to do."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    reason, hint = _reason(host, parts.port or (443 if parts.scheme == "https" else 80), error)
    return f'Get "{parts.scheme}://{parts.netloc}/v2/": {reason}', hint


def _reason(host: str, port: int, error: Exception) -> tuple[str, str]:
    hint = "check the host's name, the network and the registry"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _untrusted(host, error.certificate_error), "registries.ca_file of hyperd.toml has authorities to trust"
    if isinstance(cause, ssl.SSLError):
        if cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
            return ("http: server gave HTTP response to HTTPS client", "it speaks plain HTTP: add it to the insecure "
                    "registries if you trust the network between")
        return f"tls: {printable(cause.reason or str(cause), 80).lower().replace('_', ' ')}", hint
    if isinstance(cause, socket.gaierror):
        absent = cause.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
        return f"dial tcp: lookup {host}: {'no such host' if absent else 'server misbehaving'}", hint
    if isinstance(error, TimeoutError):
        return ("net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting "
                "headers)", hint)
    text = str(cause)
    found, address = _ERRNO.search(text), _ADDRESS.search(text)
    number = getattr(cause, "errno", None) or (int(found[1]) if found else 0)
    words = {errno.ECONNREFUSED: "connection refused", errno.EHOSTUNREACH: "no route to host",
             errno.ENETUNREACH: "network is unreachable", errno.ETIMEDOUT: "connection timed out",
             errno.ECONNRESET: "connection reset by peer"}.get(number) or printable(text, 200)
    where = address[1] if address else host
    return f"dial tcp {f'[{where}]' if ':' in where else where}:{port}: connect: {words}", hint


def _untrusted(host: str, error: Exception) -> str:
    code = getattr(error, "verify_code", 0)
    what = "signed by unknown authority" if code in _UNTRUSTED else \
        "has expired or is not yet valid" if code in _OUTDATED else \
        f"is not valid for {host}" if code in (62, 64) else printable(str(error), 200)
    return f"tls: failed to verify certificate: x509: certificate {what}"


def broken_off(error: Exception) -> str:
    """Of a connection that ended before its answer did."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "EOF"
    if isinstance(error, OSError) and error.errno == errno.ECONNRESET:
        return "read: connection reset by peer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "unexpected EOF"
    return printable(str(error) or type(error).__name__)
